"""Screen 3, Compare: live curves of the marked runs with crosshair, smoothing and zoom; speedups beside them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.events import Click
from textual.message import Message
from textual.widget import Widget

from optsweep_tui.app import speedups
from optsweep_tui.app.model import RunRow
from optsweep_tui.app.screens.base import BaseScreen
from optsweep_tui.app.views import compare
from optsweep_tui.app.views.chart import ZOOM, ChartModel, Line
from optsweep_tui.app.views.compare import Speedups
from optsweep_tui.app.widgets.spans import SpanView
from optsweep_tui.charts import raster, style
from optsweep_tui.charts.chart import Span

WIDE = 100
"""Columns from which legend and speedups stand beside the chart."""
RETRY_SECONDS = 5.0
"""After the store could not be read, another program may just have held it."""
WIDER = 116
"""Columns from which they have room for every mark."""


class CompareScreen(BaseScreen):
    """One chart, its legend, the speedups."""

    TAB = "Compare"
    DEFAULT_CSS = """
    CompareScreen #status { height: 1; }
    CompareScreen #main { height: 1fr; }
    CompareScreen #side { dock: bottom; }
    CompareScreen.wide #side { dock: right; height: 1fr; width: 48; }
    CompareScreen.wider #side { width: 52; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("x", "axis", "axis", id="compare.axis"),
        Binding("l", "log('x')", "log x", id="compare.log_x"),
        Binding("s", "smooth(1)", "smooth", id="compare.smoother"),
        Binding("c", "crosshair", "crosshair", id="compare.crosshair"),
        Binding("p", "panel", "speedups", id="compare.panel"),
        Binding("m", "metric", "metric", id="compare.metric"),
        Binding("plus,equals_sign", "zoom(-1)", "zoom in", id="compare.zoom_in", key_display="+"),
        Binding("L", "log('y')", "log y", id="compare.log_y"),
        Binding("S", "smooth(-1)", "smooth less", show=False, id="compare.rougher"),
        Binding("minus", "zoom(1)", "zoom out", show=False, id="compare.zoom_out", key_display="-"),
        Binding("0", "reset", "show all", show=False, id="compare.reset"),
        Binding("a", "whole_y", "whole y range", show=False, id="compare.whole_y"),
        Binding("left", "pan(-1)", "crosshair or window left", show=False, id="compare.left"),
        Binding("right", "pan(1)", "crosshair or window right", show=False, id="compare.right"),
        Binding("shift+left", "pan(-10)", "crosshair far left", show=False, id="compare.far_left"),
        Binding("shift+right", "pan(10)", "crosshair far right", show=False, id="compare.far_right"),
        Binding("u", "unmark_all", "unmark all", show=False, id="compare.unmark_all"),
    ]

    class SpeedupsLoaded(Message):
        """The worker has read the store."""

        def __init__(self, found: Speedups, stamp: int | None) -> None:
            super().__init__()
            self.found, self.stamp = found, stamp

    def __init__(self) -> None:
        super().__init__()
        self.model = ChartModel()
        self.choice = compare.Choice(rows=(), why="")
        self.speedups = Speedups()
        self.panel = False
        """Narrow windows: the speedups instead of the legend."""
        self._drawn: list[tuple[RunRow, Line | None, str, str]] = []
        self._stamp: int | None = -1
        self._wanted: tuple[str | None, int | None] | None = None
        self._retry_at: float | None = None

    def body(self) -> Iterable[Widget]:
        """Status line, chart, and what stands beside or below."""
        yield SpanView(id="status")
        with Container(id="main"):
            yield SpanView(id="side")
            yield SpanView(id="chart")

    @property
    def wide(self) -> bool:
        """There is room for the legend beside the chart."""
        return self.size.width >= WIDE

    def wanted_curves(self) -> list[str]:
        """The runs of the chart."""
        return [row.run_id for row in self.choice.rows]

    def _choose(self) -> None:
        bench = self.bench
        before = [row.run_id for row in self.choice.rows]
        self.choice = compare.choose(bench.study_rows(), bench.chosen(None), bench.blocks)
        if [row.run_id for row in self.choice.rows] != before:
            self.model.forget_scale()

    def changed_curves(self, run_ids: frozenset[str]) -> None:
        """Some of the curves have grown."""
        if any(row.run_id in run_ids for row in self.choice.rows):
            self.refresh_all()

    def refresh_all(self) -> None:
        """Also choose between beside and below."""
        if self.is_mounted:
            self.set_class(self.wide, "wide")
            self.set_class(self.size.width >= WIDER, "wider")
            side = self.query_one("#side", SpanView)
            side.set_height(None if self.wide else self._below())
        super().refresh_all()

    def _below(self) -> int:
        """Rows below the chart in a narrow window."""
        if self.panel:
            most = max(6, (self.size.height - 4) // 2)
            return len(compare.speedup_rows(self.speedups, self.size.width, most))
        return min(len(self.choice.rows) + 1, max(3, (self.size.height - 4) // 3))

    def draw(self) -> None:
        """Status, chart, legend, speedups."""
        self._choose()
        self._load_speedups()
        lines = self._lines()
        self.model.suggest_smoothing(max((row.line.steps for row in self.choice.rows), default=100))
        status, chart = self.query_one("#status", SpanView), self.query_one("#chart", SpanView)
        rows = self.model.frame([line for line in lines if line is not None], *chart.size)
        status.show([compare.status(self.model, len(lines), status.size.width)])
        chart.show(rows or self._nothing())
        self._draw_side()

    def _lines(self) -> list[Line | None]:
        """The series of the chosen runs; remembers what was drawn for the legend."""
        chosen = self.choice.rows
        colours = style.shades([row.line.optimizer for row in chosen])
        lines: list[Line | None] = []
        self._drawn = []
        for place, (row, colour) in enumerate(zip(chosen, colours, strict=True)):
            letter = style.RUN_LETTERS[place]
            series = self.bench.store.series(row.run_id, self.model.metric, self.model.axis)
            end = {"step": float(row.line.steps), "tokens": float(row.cell.tokens)}.get(self.model.axis)
            line = Line(run_id=row.run_id, series=series, colour=colour, letter=letter, end=end) if series else None
            lines.append(line)
            self._drawn.append((row, line, letter, colour))
        return lines

    def _nothing(self) -> list[tuple[Span, ...]]:
        if not self.choice.rows:
            text = "no run has started yet: mark some with space on screen 2, or wait for the first"
        elif not self.bench.poller.caught_up():
            text = "reading ..."
        else:
            text = f"no {self.model.metric} here yet: m shows another metric"
        return [(), (Span(f"  {text}", style.GREY),)]

    def _draw_side(self) -> None:
        side = self.query_one("#side", SpanView)
        width, height = side.size
        done = sum(row.line.state == "done" for row in self.bench.study_rows())
        shown = replace(self.speedups, stale=bool(self.speedups.rows) and done > self.speedups.collected)
        if not self.wide:
            if self.panel:
                side.show(compare.speedup_rows(shown, width, height))
            else:
                side.show(compare.legend(self.model, self.choice.why, self._drawn, width, height))
            return
        room = min(len(self._drawn) + 1, max(4, height // 2))
        legend = compare.legend(self.model, self.choice.why, self._drawn, width, room)
        side.show([*legend, (), *compare.speedup_rows(shown, width, height - len(legend) - 1)])

    # ------------------------------------------------------------ speedups

    def _load_speedups(self) -> None:
        """Read the store again when it has changed."""
        stamp = speedups.stamp(self.bench.workspace)
        wanted = (self.bench.study, stamp)
        again = self._retry_at is not None and time.monotonic() > self._retry_at
        if wanted == self._wanted and not again:
            return
        self._wanted, self._retry_at = wanted, None
        workspace, study = self.bench.workspace, self.bench.study

        if not again:  # a second try happens behind the message of the first
            self.speedups = Speedups(baseline=self.bench.baseline(), study=study, busy=True)
        failed = Speedups(baseline=self.bench.baseline(), study=study)
        self.bench.in_thread(
            self,
            lambda: self.SpeedupsLoaded(speedups.load(workspace, study), stamp),
            lambda text: self.SpeedupsLoaded(replace(failed, message=text), stamp),
            group="speedups",
        )

    def on_compare_screen_speedups_loaded(self, message: SpeedupsLoaded) -> None:
        """Show them, if they are still wanted."""
        if (message.found.study, message.stamp) == self._wanted:
            self.speedups = message.found
            self._retry_at = time.monotonic() + RETRY_SECONDS if message.found.message else None
            if self.is_current:
                self.refresh_all()

    def settled(self) -> bool:
        """Curves and speedups are there."""
        return not self.speedups.busy and self.bench.poller.caught_up()

    # ------------------------------------------------------------ keys

    def action_axis(self) -> None:
        """step, tokens, seconds."""
        self.model.next_axis()
        self.draw()

    def action_log(self, axis: str) -> None:
        """Logarithmic or linear."""
        self.model.toggle_log(axis)
        self.draw()

    def action_smooth(self, direction: int) -> None:
        """Smoother or rougher."""
        self.model.smoother(max((row.line.steps for row in self.choice.rows), default=100), direction)
        self.draw()

    def action_metric(self) -> None:
        """The next metric that any of the runs has."""
        names: dict[str, None] = {}
        for row in self.choice.rows:
            names.update(dict.fromkeys(self.bench.store.metrics(row.run_id)))
        known = list(names)
        if known:
            place = known.index(self.model.metric) if self.model.metric in known else -1
            self.model.metric = known[(place + 1) % len(known)]
            self.model.forget_scale()
            self.draw()

    def action_zoom(self, direction: int) -> None:
        """In or out, around the crosshair or the newest data."""
        self.model.zoom(ZOOM if direction < 0 else 1 / ZOOM)
        self.draw()

    def action_reset(self) -> None:
        """Show everything."""
        self.model.reset()
        self.draw()

    def action_whole_y(self) -> None:
        """Let the first steps count for y, or not."""
        self.model.whole_y = not self.model.whole_y
        self.model.forget_scale()
        self.draw()

    def action_crosshair(self) -> None:
        """On or off."""
        self.model.crosshair = 0.5 if self.model.crosshair is None else None
        self.draw()

    def action_out(self) -> None:
        """Esc puts the crosshair away."""
        if self.model.crosshair is not None:
            self.model.crosshair = None
            self.draw()

    def action_pan(self, columns: int) -> None:
        """Move the crosshair, or the window."""
        self.model.pan(columns)
        self.draw()

    def action_panel(self) -> None:
        """In a narrow window: speedups or legend."""
        self.panel = not self.panel
        self.refresh_all()
        self.call_after_refresh(self.refresh_all)

    def action_unmark_all(self) -> None:
        """Take all marks away."""
        self.bench.unmark(list(self.bench.marks))
        self.refresh_all()

    def on_click(self, event: Click) -> None:
        """Put the crosshair where the mouse is."""
        chart = self.query_one("#chart", SpanView)
        if event.widget is chart and self.model.view is not None:
            cells = raster.plot_size(self.model.view)[0]
            self.model.crosshair = min(1.0, max(0.0, (event.x - raster.GUTTER + 0.5) / cells))
            self.draw()
