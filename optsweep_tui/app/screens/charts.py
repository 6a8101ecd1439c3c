"""What screens with live charts share: one, two or four of them on one x axis, one crosshair, their keys and their mouse."""

from __future__ import annotations

import time
from typing import ClassVar

from textual.events import MouseDown, MouseEvent, MouseScrollDown, MouseScrollUp, MouseUp
from textual.timer import Timer

from optsweep_tui.app.model import RunRow
from optsweep_tui.app.screens.base import BaseScreen
from optsweep_tui.app.views import compare, grid
from optsweep_tui.app.views.chart import ZOOM, ChartModel, Line, along, shared_x
from optsweep_tui.charts import raster, style
from optsweep_tui.charts.chart import Floats, Row, Span
from optsweep_tui.live.runstore import Series

METRICS = ("train_loss", "val_loss", "grad_norm", "lr")
"""What four charts show at first."""
DRAG_COLUMNS = 2
"""A mouse that was moved by less between button down and up was clicked."""
LOOK_AGAIN_SECONDS = 0.2
READING_SECONDS = 1.0
"""Between two frames while long curves are read for the first time: each would be another picture, of half the data."""


class ChartScreen(BaseScreen):
    """Charts of the runs that `chart_runs` names."""

    LETTERS: ClassVar[bool] = True
    """Letters name the curves at their ends."""
    KEPT: ClassVar[tuple[str, ...]] = (
        "count", "metrics", "metric_chosen", "lead.axis", "lead.x_log", "lead.tau", "lead.smoothing_chosen",
    )  # fmt: skip

    def __init__(self, axis: str = "tokens") -> None:
        super().__init__()
        self.models = [ChartModel(metric=metric, axis=axis) for metric in METRICS]
        self.count = 1
        """Charts that are wanted."""
        self.focus_on = 0
        """The chart that m, L and a are about."""
        self.metric_chosen = False
        self.lines: list[Line | None] = []
        """Of the chart with the focus, one per run."""
        self.seen: list[tuple[ChartModel, list[Line]]] = []
        """The charts as they were drawn last."""
        self.places: list[grid.Place] = []
        self._scaled: dict[tuple[str, str], tuple[Series, Series]] = {}
        self._watched: list[str] | None = None
        """Runs that the poller has been told to follow."""
        self._again: Timer | None = None
        self._drawn_at = 0.0
        self._grabbed: tuple[int, int] | None = None

    # ------------------------------------------------------------ of the screen at hand

    def chart_runs(self) -> list[RunRow]:
        """The runs whose curves are drawn."""
        raise NotImplementedError

    def flops_per_token(self, run_id: str) -> float | None:
        """Model FLOPs per token; None while or where they are not known."""
        raise NotImplementedError

    def spikes(self, run_id: str) -> Floats | None:
        """Steps at which a run reported spikes."""
        return None

    def charts_shown(self) -> bool:
        """Charts are what the keys and the mouse are about."""
        return True

    def wheel_elsewhere(self, direction: int) -> None:
        """The wheel was turned outside the charts."""

    # ------------------------------------------------------------ state

    @property
    def lead(self) -> ChartModel:
        """The chart whose x axis, smoothing and crosshair all share."""
        return self.models[0]

    @property
    def model(self) -> ChartModel:
        """The chart that the keys are about."""
        return self.models[self.focus_on]

    @property
    def metrics(self) -> list[str]:
        """What the charts show."""
        return [model.metric for model in self.models]

    @metrics.setter
    def metrics(self, names: list[str]) -> None:
        for model, name in zip(self.models, names, strict=False):
            model.metric = name

    def wanted_curves(self) -> list[str]:
        """The runs of the charts."""
        return [row.run_id for row in self.chart_runs()]

    def longest(self) -> int:
        """Steps of the longest run."""
        return max((row.line.steps for row in self.chart_runs()), default=100)

    def known_metrics(self) -> list[str]:
        """What any of the runs has measured, losses first."""
        names: dict[str, None] = {}
        for row in self.chart_runs():
            names.update(dict.fromkeys(self.bench.store.metrics(row.run_id)))
        return list(names)

    def tailed(self) -> bool:
        """Whatever the runs have written is here."""
        bench = self.bench
        return not bench.snapshot.loading and self._watched == self.wanted_curves() and bench.poller.caught_up()

    def refresh_all(self) -> None:
        """Also look again while the curves are read: runs without any send no message."""
        super().refresh_all()
        if not self.is_mounted:
            return
        self._watched = self.wanted_curves() if self.bench.base_screen() is self else None
        self._drawn_at = time.monotonic()
        if self.is_current and not self.tailed() and self._again is None:
            self._again = self.set_timer(LOOK_AGAIN_SECONDS, self._look_again)

    def _look_again(self) -> None:
        self._again = None
        if not self.is_current:
            return
        if self.tailed() or time.monotonic() - self._drawn_at >= READING_SECONDS:
            self.refresh_all()
        else:
            self._again = self.set_timer(LOOK_AGAIN_SECONDS, self._look_again)

    def changed_curves(self, run_ids: frozenset[str]) -> None:
        """Some of the curves have grown; while they are read for the first time, the look that is due will draw them."""
        if not run_ids.isdisjoint(self.wanted_curves()) and (self._again is None or self.tailed()):
            self.refresh_all()

    # ------------------------------------------------------------ drawing

    def chart_rows(self, width: int, height: int) -> list[Row]:
        """The charts; remembers what was drawn for legend, mouse and export."""
        self._suggest_metric()
        self.places = grid.places(self.count, width, height)
        self.focus_on = min(self.focus_on, len(self.places) - 1)
        # A mean over many batches is smooth, and far apart: smoothing would only shift it.
        self.lead.suggest_smoothing(0 if self.lead.metric == "val_loss" else self.longest())
        shown = self.models[: len(self.places)]
        for model in shown[1:]:
            model.follow(self.lead)
        lines = [self._lines(model) for model in shown]
        self.lines = lines[self.focus_on]
        self.seen = [(model, [one for one in own if one is not None]) for model, own in zip(shown, lines, strict=True)]
        if not any(own for _, own in self.seen):
            return self.nothing()
        full = shared_x(self.seen)
        parts = []
        several = len(self.places) > 1
        for place, (model, own) in zip(self.places, self.seen, strict=True):
            rows = model.frame(own, place.width, place.height - several, full)
            if several:
                name = compare.unit_of(model.metric)
                value = "{:.3f}" if model.metric.endswith("loss") else "{:.4g}"
                head = grid.title(model, name, own, place.width, focused=model is self.model, value=value)
                rows = [head, *(rows or self.nothing(model.metric)[1:])]
            parts.append((place, rows))
        return grid.joined(parts)

    def _lines(self, model: ChartModel) -> list[Line | None]:
        """The series of the runs in one chart."""
        runs = self.chart_runs()
        colours = style.shades([row.line.optimizer for row in runs])
        lines: list[Line | None] = []
        for place, (row, colour) in enumerate(zip(runs, colours, strict=True)):
            factor = self.flops_per_token(row.run_id) if model.axis == "flops" else 1.0
            series = self._series(row.run_id, model, factor)
            ends = {"step": float(row.line.steps), "tokens": float(row.cell.tokens)}
            ends["flops"] = ends["tokens"] * (factor or 0.0)
            line = None
            if series is not None:
                line = Line(
                    run_id=row.run_id,
                    series=series,
                    colour=colour,
                    letter=style.RUN_LETTERS[place] if self.LETTERS else "",
                    end=ends.get(model.axis),
                    spikes=self.spikes(row.run_id),
                )
            lines.append(line)
        return lines

    def _series(self, run_id: str, model: ChartModel, factor: float | None) -> Series | None:
        if factor is None:
            return None
        axis = "tokens" if model.axis == "flops" else model.axis
        series = self.bench.store.series(run_id, model.metric, axis)
        if series is None or model.axis != "flops":
            return series
        known = self._scaled.get((run_id, model.metric))
        if known is None or known[0] is not series:
            self._scaled[run_id, model.metric] = known = (series, along(series, factor))
        return known[1]

    def nothing(self, metric: str = "") -> list[Row]:
        """Why there is no curve."""
        runs = self.chart_runs()
        if not runs:
            text = "no run has started yet: mark some with space on screen 2, or wait for the first"
        elif not self.tailed():
            text = "reading ..."
        elif self.lead.axis == "flops" and all(self.flops_per_token(row.run_id) is None for row in runs):
            text = "FLOPs of these models are not known: x shows another axis"
        elif not self.known_metrics():
            text = self.no_curve()
        else:
            text = f"no {metric or self.model.metric} here yet: m shows another metric"
        return [(), (Span(f"  {text}", style.GREY),)]

    def no_curve(self) -> str:
        """What to say of runs without any metric."""
        return "these runs have no curve"

    def _suggest_metric(self) -> None:
        """Until the user chooses: validation losses where nothing else was published."""
        if not self.metric_chosen and self.tailed():
            known = self.known_metrics()
            if known:
                self.lead.metric = "train_loss" if "train_loss" in known else known[0]

    # ------------------------------------------------------------ x axis, for all charts

    def action_axis(self) -> None:
        """tokens, seconds, steps, FLOPs."""
        self.lead.next_axis()
        self.refresh_all()

    def action_log(self, axis: str) -> None:
        """Logarithmic or linear: x of all charts, y of this one."""
        (self.lead if axis == "x" else self.model).toggle_log(axis)
        self.refresh_all()

    def action_smooth(self, direction: int) -> None:
        """Smoother or rougher."""
        self.lead.smoother(self.longest(), direction)
        self.refresh_all()

    def action_zoom(self, direction: int) -> None:
        """In or out, around the crosshair or the newest data."""
        self.lead.zoom(ZOOM if direction < 0 else 1 / ZOOM)
        self.refresh_all()

    def action_reset(self) -> None:
        """Show everything."""
        for model in self.models:
            model.reset()
        self.refresh_all()

    def action_crosshair(self) -> None:
        """On or off."""
        self.lead.crosshair = 0.5 if self.lead.crosshair is None else None
        self.refresh_all()

    def action_pan(self, columns: int) -> None:
        """Move the crosshair, or the window."""
        self.lead.pan(columns)
        self.refresh_all()

    def action_out(self) -> None:
        """Esc puts the crosshair away, then the zoom."""
        lead = self.lead
        if lead.crosshair is not None:
            lead.crosshair = None
        elif lead.window != (0.0, 1.0):
            lead.reset()
        self.refresh_all()

    # ------------------------------------------------------------ one chart

    def action_metric(self, step: int) -> None:
        """The next metric that any of the runs has."""
        known = self.known_metrics()
        if known:
            place = known.index(self.model.metric) if self.model.metric in known else (-1 if step > 0 else 0)
            self.model.metric = known[(place + step) % len(known)]
            self.metric_chosen = True
            self.model.forget_scale()
            self.refresh_all()

    def action_whole_y(self) -> None:
        """Let the first steps count for y, or not."""
        self.model.whole_y = not self.model.whole_y
        self.model.forget_scale()
        self.refresh_all()

    def action_charts(self) -> None:
        """One, two or four."""
        self.count = grid.COUNTS[(grid.COUNTS.index(self.count) + 1) % len(grid.COUNTS)]
        if self.count > 1:
            self._spread_metrics()
        for model in self.models:
            model.forget_scale()
        self.refresh_all()
        if self.charts_shown() and len(self.places) < self.count:
            self.notify(f"there is room for {len(self.places)} of {self.count} charts: make the window larger")

    def _spread_metrics(self) -> None:
        """No two charts with the same metric, where the runs have as many."""
        known = self.known_metrics()
        taken = [self.lead.metric]
        for model in self.models[1:]:
            if model.metric in taken or (known and model.metric not in known):
                model.metric = next((name for name in known if name not in taken), model.metric)
            taken.append(model.metric)

    def action_next_chart(self, step: int) -> None:
        """Which chart m, L and a are about."""
        if self.charts_shown() and self.places:
            self.focus_on = (self.focus_on + step) % len(self.places)
            self.refresh_all()

    # ------------------------------------------------------------ mouse

    def _part(self, x: int, y: int) -> float | None:
        """Place 0..1 in the visible part of x of the chart that is there; the chart gets the keys."""
        for number, (place, (model, _)) in enumerate(zip(self.places, self.seen, strict=False)):
            if place.holds(x, y) and model.view is not None:
                self.focus_on = number
                return (x - place.x - raster.GUTTER + 0.5) / raster.plot_size(model.view)[0]
        return None

    def on_mouse_down(self, event: MouseDown) -> None:
        """Where a drag begins."""
        self._grabbed = self._inside(event, "#chart") if self.charts_shown() else None
        if self._grabbed:
            self.query_one("#chart").capture_mouse()

    def _inside(self, event: MouseEvent, name: str) -> tuple[int, int] | None:
        """Column and row of the mouse in one of the views; None where it is elsewhere."""
        region = self.query_one(name).region
        x, y = int(event.screen_x), int(event.screen_y)
        return (x - region.x, y - region.y) if region.contains(x, y) else None

    def on_mouse_up(self, event: MouseUp) -> None:
        """A click puts the crosshair there; a drag shows what it was drawn over."""
        grabbed, self._grabbed = self._grabbed, None
        if grabbed is None:
            return
        chart = self.query_one("#chart")
        chart.release_mouse()
        first = self._part(*grabbed)
        if first is None:
            return
        moved = int(event.screen_x) - chart.region.x - grabbed[0]
        view = self.lead.view
        last = first + moved / (raster.plot_size(view)[0] if view else 1)
        if abs(moved) < DRAG_COLUMNS:
            self.lead.crosshair = min(1.0, max(0.0, first))
        else:
            self.lead.select(first, last)
        self.refresh_all()

    def on_mouse_scroll_up(self, event: MouseScrollUp) -> None:
        """The wheel zooms where the mouse is, with shift it moves; over the panel it scrolls."""
        self._wheel(event, -1)

    def on_mouse_scroll_down(self, event: MouseScrollDown) -> None:
        """The other way."""
        self._wheel(event, 1)

    def _wheel(self, event: MouseScrollUp | MouseScrollDown, direction: int) -> None:
        where = self._inside(event, "#chart")
        if where is None or not self.charts_shown():
            self.wheel_elsewhere(direction)
            return
        part = self._part(*where)
        if part is None:
            return
        if event.shift or event.ctrl:
            self.lead.move(0.1 * direction)
        else:
            self.lead.zoom(ZOOM if direction < 0 else 1 / ZOOM, min(1.0, max(0.0, part)))
        self.refresh_all()
