"""What screens with live charts draw: one, two or four on one x axis, and what is kept of their look."""

from __future__ import annotations

import time
from typing import ClassVar

from textual.timer import Timer

from optsweep_tui.app import format as fmt
from optsweep_tui.app.model import UNFINISHED, RunRow
from optsweep_tui.app.screens.base import READING_SECONDS, BaseScreen
from optsweep_tui.app.views import grid
from optsweep_tui.app.views.chart import AXES, ChartModel, Line, along, shared_x, unit_of
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Floats, Row, Span
from optsweep_tui.live.runstore import Series

METRICS = ("train_loss", "val_loss", "grad_norm", "lr")
"""What four charts show at first."""
LOOK_AGAIN_SECONDS = 0.2
MOST_SCALED = 256
"""Curves against FLOPs that are kept; those of runs that were shown hours ago are made again."""


class ChartDrawing(BaseScreen):
    """Charts of the runs that `chart_runs` names; the keys are those of `ChartScreen`."""

    LETTERS: ClassVar[bool] = True
    """Letters name the curves at their ends."""
    KEPT: ClassVar[tuple[str, ...]] = (
        "count", "focus_on", "metrics", "metric_chosen", "looks", "zoomed", "lead.axis", "lead.x_log", "lead.tau",
        "lead.smoothing_chosen",
    )  # fmt: skip

    def __init__(self, axis: str = "tokens") -> None:
        super().__init__()
        self.models = [ChartModel(metric=metric, axis=axis) for metric in METRICS]
        self._usual_axis = axis
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

    def spikes_shown(self) -> int:
        """Spikes of all curves that are drawn."""
        found = [self.spikes(line.run_id) for line in self.lines if line is not None]
        return sum(len(steps) for steps in found if steps is not None)

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
        return self.models[self._focused()]

    def _focused(self) -> int:
        """Its place; in a window that has room for fewer charts the last of them."""
        return min(self.focus_on, max(0, len(self.places) - 1))

    @property
    def metrics(self) -> list[str]:
        """What the charts show."""
        return [model.metric for model in self.models]

    @metrics.setter
    def metrics(self, names: list[str]) -> None:
        for model, name in zip(self.models, names, strict=False):
            model.metric = name

    @property
    def looks(self) -> list[str]:
        """What else was chosen for each chart: "log", "whole", both or neither."""
        chosen = (("log", "y_log"), ("whole", "whole_y"))
        return [" ".join(word for word, name in chosen if getattr(model, name)) for model in self.models]

    @looks.setter
    def looks(self, words: list[str]) -> None:
        for model, text in zip(self.models, words, strict=False):
            model.y_log, model.whole_y = "log" in text, "whole" in text

    @property
    def zoomed(self) -> str:
        """The visible part of x, as two numbers between 0 and 1."""
        return " ".join(f"{end:.6g}" for end in self.lead.window)

    @zoomed.setter
    def zoomed(self, text: str) -> None:
        try:
            low, high = (float(end) for end in text.split())
        except ValueError:
            return
        if 0 <= low < high <= 1:
            self.lead.window = (low, high)

    def recalled(self) -> None:
        """What no chart can be is the usual."""
        lead = self.lead
        lead.axis = lead.axis if lead.axis in AXES else self._usual_axis
        lead.tau = lead.tau if 0 <= lead.tau < 1e9 else 0.0
        self.count = self.count if self.count in grid.COUNTS else 1
        self.focus_on = min(max(0, self.focus_on), self.count - 1)

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
        # A mean over many batches is smooth, and far apart: smoothing would only shift it.
        self.lead.suggest_smoothing(0 if self.lead.metric == "val_loss" else self.longest())
        shown = self.models[: len(self.places)]
        for model in shown[1:]:
            model.follow(self.lead)
        lines = [self._lines(model) for model in shown]
        self.lines = lines[self._focused()]
        self.seen = [(model, [one for one in own if one is not None]) for model, own in zip(shown, lines, strict=True)]
        if not any(own for _, own in self.seen):
            return self.nothing()
        full = shared_x(self.seen)
        parts = []
        several = len(self.places) > 1
        for place, (model, own) in zip(self.places, self.seen, strict=True):
            rows = model.frame(own, place.width, place.height - several, full)
            if several:
                name = unit_of(model.metric)
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
            if len(self._scaled) >= MOST_SCALED:
                self._scaled.clear()
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
        width = self.query_one("#chart").size.width - 4
        return [(), *((Span(f"  {line}", style.GREY),) for line in fmt.wrapped(text, width))]

    def no_curve(self) -> str:
        """What to say of runs without any metric."""
        return "these runs have no curve"

    def _suggest_metric(self) -> None:
        """Until the user chooses: validation losses where nothing else was published."""
        if not self.metric_chosen and self.tailed():
            known = self.known_metrics()
            if not known and self.chart_runs() and all(row.line.state not in UNFINISHED for row in self.chart_runs()):
                known = ["val_loss"]  # what runs without a curve still have
            if known:
                self.lead.metric = "train_loss" if "train_loss" in known else known[0]
