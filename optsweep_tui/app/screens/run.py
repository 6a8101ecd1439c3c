"""Screen 4, Run: one run with its spec, its curve, and the end of its log or its events."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.message import Message
from textual.widget import Widget

from optsweep_tui import flow
from optsweep_tui.app.model import RunRow
from optsweep_tui.app.screens.base import BaseScreen
from optsweep_tui.app.views import compare, run
from optsweep_tui.app.views.chart import ChartModel, Line
from optsweep_tui.app.widgets.spans import SpanView
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Span
from optsweep_tui.errors import OptsweepError
from optsweep_tui.live import logs

REREAD_SECONDS = 1.0
"""Between two looks at the log of a run that is on the screen."""


class RunScreen(BaseScreen):
    """Everything about one run."""

    TAB = "Run"
    DEFAULT_CSS = """
    RunScreen #facts { width: 40; dock: left; }
    RunScreen #lower { height: 40%; max-height: 14; dock: bottom; }
    RunScreen #status { height: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "step(1)", "next run", id="run.next", key_display="j"),
        Binding("k,up", "step(-1)", "run before", id="run.previous", key_display="k"),
        Binding("t", "lower", "log or events", id="run.lower"),
        Binding("m", "metric", "metric", id="run.metric"),
        Binding("x", "axis", "x axis", show=False, id="run.axis"),
        Binding("l", "log('x')", "log x", show=False, id="run.log_x"),
        Binding("L", "log('y')", "log y", show=False, id="run.log_y"),
        Binding("s", "smooth(1)", "smooth", id="run.smoother"),
        Binding("S", "smooth(-1)", "smooth less", show=False, id="run.rougher"),
        Binding("a", "whole_y", "whole y range", show=False, id="run.whole_y"),
        Binding("space", "mark", "mark", id="run.mark"),
        Binding("K", "cancel", "cancel", id="run.cancel"),
        Binding("R", "retry", "retry", id="run.retry"),
    ]

    class FilesRead(Message):
        """A worker has read the folder of the run."""

        def __init__(self, files: run.RunFiles) -> None:
            super().__init__()
            self.files = files

    def __init__(self) -> None:
        super().__init__()
        self.model = ChartModel(axis="step")
        self.run_id: str | None = None
        self.files: run.RunFiles | None = None
        self.events = False
        """The lower part shows events, not the log."""
        self._read_at = 0.0
        self._reading = False

    def body(self) -> Iterable[Widget]:
        """Facts on the left, chart on the right, log below it."""
        yield SpanView(id="facts")
        with Container(id="right"):
            yield SpanView(id="status")
            yield SpanView(id="lower")
            yield SpanView(id="chart")

    def show_run(self, run_id: str) -> None:
        """Show another run."""
        if run_id != self.run_id:
            self.run_id, self.files, self._read_at = run_id, None, 0.0
            self.model.reset()

    @property
    def row(self) -> RunRow | None:
        """The run on the screen; without a choice the first running or the first one of the study."""
        bench = self.bench
        if self.run_id not in bench.snapshot.by_id:
            rows = bench.study_rows()
            first = next((row for row in rows if row.line.state == "running"), rows[0] if rows else None)
            if first is None:
                return None
            self.show_run(first.run_id)
        return bench.snapshot.by_id.get(self.run_id or "")

    def wanted_curves(self) -> list[str]:
        """The run."""
        row = self.row
        return [row.run_id] if row else []

    def changed_curves(self, run_ids: frozenset[str]) -> None:
        """The curve has grown."""
        if self.run_id in run_ids:
            self.draw()

    def draw(self) -> None:
        """Facts, chart, log."""
        row = self.row
        facts, chart = self.query_one("#facts", SpanView), self.query_one("#chart", SpanView)
        lower, status = self.query_one("#lower", SpanView), self.query_one("#status", SpanView)
        if row is None:
            facts.show([(), (Span("  no run yet", style.GREY),)])
            for view in (chart, lower, status):
                view.show([])
            return
        self._read_files(row)
        files = self.files if self.files is not None and self.files.run_id == row.run_id else None
        facts.show(run.facts(row, files, *facts.size, garbage=self.bench.poller.garbage(row.run_id)))
        mark = "+ marked " if row.run_id in self.bench.marks else ""
        status.show([compare.status(self.model, self.model, 1, status.size.width, mark)])
        chart.show(self._chart(row, *chart.size))
        width, height = lower.size
        title = " events" if self.events else " log"
        rule = (Span(title + " ", style.GREY), Span("─" * max(0, width - len(title) - 2), style.FAINT))
        if files is None:
            lower.show([rule])
        elif self.events:
            lower.show([rule, *run.event_rows(files.events, width, height - 1)])
        else:
            lower.show([rule, *run.log_rows(files.log, width, height - 1)])

    def _chart(self, row: RunRow, width: int, height: int) -> list[tuple[Span, ...]]:
        series = self.bench.store.series(row.run_id, self.model.metric, self.model.axis)
        if series is None:
            return [(), (Span(f"  no {self.model.metric} yet", style.GREY),)]
        self.model.suggest_smoothing(row.line.steps)
        end = {"step": float(row.line.steps), "tokens": float(row.cell.tokens)}.get(self.model.axis)
        line = Line(run_id=row.run_id, series=series, colour=style.colour_of(row.line.optimizer), end=end)
        return self.model.frame([line], width, height)

    def _read_files(self, row: RunRow) -> None:
        """Read the folder in a worker, at most once a second."""
        now = time.monotonic()
        if self._reading or now - self._read_at < REREAD_SECONDS:
            return
        self._reading, self._read_at = True, now
        workspace, run_id = self.bench.workspace, row.run_id

        def read() -> Message:
            where = workspace.runs / run_id
            try:
                everything = flow.everything(workspace, run_id)
            except (OptsweepError, OSError):
                everything = {}  # the folder is on its way in or out: log and events may still be there
            return self.FilesRead(
                run.RunFiles(
                    run_id=run_id, log=tuple(logs.log_tail(where)), events=tuple(logs.events(where)), facts=everything
                )
            )

        self.bench.in_thread(
            self, read, lambda text: self.FilesRead(run.RunFiles(run_id=run_id, log=(text,))), group="files"
        )

    def on_run_screen_files_read(self, message: FilesRead) -> None:
        """Show what was read."""
        self._reading = False
        changed = message.files != self.files
        self.files = message.files
        if self.is_current and (changed or message.files.run_id != self.run_id):
            self.draw()

    def settled(self) -> bool:
        """What the workers load is there."""
        return not self._reading and self.files is not None and self.bench.poller.caught_up()

    def action_step(self, step: int) -> None:
        """The next or previous run in the order of screen 2."""
        rows = self.bench.listed_runs()
        ids = [row.run_id for row in rows]
        if ids:
            place = ids.index(self.run_id) + step if self.run_id in ids else 0
            self.show_run(ids[min(max(0, place), len(ids) - 1)])
            self.refresh_all()

    def action_lower(self) -> None:
        """Log or events."""
        self.events = not self.events
        self.draw()

    def action_metric(self) -> None:
        """The next metric of the run."""
        names = self.bench.store.metrics(self.run_id or "")
        if names:
            place = names.index(self.model.metric) if self.model.metric in names else -1
            self.model.metric = names[(place + 1) % len(names)]
            self.model.forget_scale()
            self.draw()

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
        row = self.row
        if row is not None:
            self.model.smoother(row.line.steps, direction)
            self.draw()

    def action_whole_y(self) -> None:
        """Let the first steps count for y, or not."""
        self.model.whole_y = not self.model.whole_y
        self.model.forget_scale()
        self.draw()

    def action_mark(self) -> None:
        """Mark or unmark the run."""
        row = self.row
        if row is not None:
            if row.run_id in self.bench.marks:
                self.bench.unmark([row.run_id])
            else:
                self.bench.mark([row.run_id])
            self.refresh_all()

    def action_cancel(self) -> None:
        """Cancel this run."""
        row = self.row
        if row is not None:
            self.bench.ask_cancel([row])

    def action_retry(self) -> None:
        """Retry this run."""
        row = self.row
        if row is not None:
            self.bench.ask_retry([row])
