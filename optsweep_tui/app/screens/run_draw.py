"""What screen 4 draws of one run: its spec, its curves, and its log or its history below them, as its folder is read."""

from __future__ import annotations

import time
from collections.abc import Iterable

from textual.containers import Container
from textual.message import Message
from textual.widget import Widget

from optsweep_tui import flow
from optsweep_tui.app import format as fmt
from optsweep_tui.app import specs
from optsweep_tui.app.model import RunRow
from optsweep_tui.app.screens.charts import ChartScreen
from optsweep_tui.app.views import compare, history, run
from optsweep_tui.app.views.pane import Pane
from optsweep_tui.app.widgets.filterline import FilterLine
from optsweep_tui.app.widgets.spans import SpanView
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Floats, Row, Span
from optsweep_tui.errors import OptsweepError
from optsweep_tui.live import logs

REREAD_SECONDS = 1.0
"""Between two looks at the log of a run that is on the screen."""


class RunDrawing(ChartScreen):
    """The drawing; the keys are those of `RunScreen`."""

    class FilesRead(Message):
        """A worker has read the folder of the run."""

        def __init__(self, files: run.RunFiles) -> None:
            super().__init__()
            self.files = files

    def __init__(self) -> None:
        super().__init__(axis="step")
        self.run_id: str | None = None
        self.files: run.RunFiles | None = None
        self.lower = "log"
        """What the lower part shows: log or events."""
        self.lower_chosen = False
        """By the user; until then what there is."""
        self.panes = {"log": Pane(), "events": Pane()}
        self.facts_skip = 0
        self._lower_rows: dict[str, tuple[object, list[Row]]] = {}
        self._read_at = 0.0
        self._reading = False

    def recalled(self) -> None:
        """One of the two."""
        super().recalled()
        self.lower = self.lower if self.lower in self.panes else "log"

    def body(self) -> Iterable[Widget]:
        """Facts on the left, charts on the right, log below them."""
        yield SpanView(id="facts")
        with Container(id="right"):
            yield SpanView(id="status")
            with Container(id="below"):
                yield SpanView(id="lower")
                yield FilterLine(id="search")
            yield SpanView(id="chart")

    def show_run(self, run_id: str) -> None:
        """Show another run."""
        if run_id != self.run_id:
            self.run_id, self.files, self._read_at, self.facts_skip = run_id, None, 0.0, 0
            self._lower_rows.clear()
            for pane in self.panes.values():
                pane.top = None
            for model in self.models:
                model.reset()

    @property
    def left_at(self) -> str:
        """The run on the screen, for the next start."""
        return self.run_id or ""

    @left_at.setter
    def left_at(self, run_id: str) -> None:
        self.run_id = run_id or None

    @property
    def row(self) -> RunRow | None:
        """The run on the screen; without a choice the first running or the first one of the study."""
        bench = self.bench
        if self.run_id not in bench.snapshot.by_id:
            if self.run_id and (bench.snapshot.loading or not bench.looked):
                return None  # the one that was left is still to be read
            rows = bench.study_rows()
            first = next((row for row in rows if row.line.state == "running"), rows[0] if rows else None)
            if first is None:
                return None
            if self.run_id:  # else the numbers of another run would be taken for its own
                self.notify(f"run {self.run_id[:8]} is gone: this is another one", severity="warning", timeout=8)
            self.show_run(first.run_id)
        return bench.snapshot.by_id.get(self.run_id or "")

    def chart_runs(self) -> list[RunRow]:
        """The run."""
        row = self.row
        return [row] if row else []

    def _own_files(self) -> run.RunFiles | None:
        files = self.files
        return files if files is not None and files.run_id == self.run_id else None

    def flops_per_token(self, run_id: str) -> float | None:
        """From the spec, once it is read."""
        files = self._own_files()
        return files.flops_per_token if files else None

    def spikes(self, run_id: str) -> Floats | None:
        """Where its events say so."""
        files = self._own_files()
        return history.spikes(files.attempts) if files else None

    def no_curve(self) -> str:
        """An imported run often has none."""
        row = self.row
        if row is not None and not row.line.host:
            return "this run was published without a curve"
        return "nothing measured yet"

    def draw(self) -> None:
        """Facts, charts, log."""
        self.set_class(self.size.width < 100, "narrow")
        search = self.query_one("#search", FilterLine)
        search.show(search.has_class("open"))
        row = self.row
        facts, chart = self.query_one("#facts", SpanView), self.query_one("#chart", SpanView)
        lower, status = self.query_one("#lower", SpanView), self.query_one("#status", SpanView)
        if row is None:
            reading = self.bench.snapshot.loading or not self.bench.looked
            said = "reading ..." if reading else "no run yet: n or g on screen 1 plans some"
            facts.show([(), *((Span(f"  {line}", style.GREY),) for line in fmt.wrapped(said, facts.size.width - 3))])
            for view in (chart, lower, status):
                view.show([])
            return
        self._read_files(row)
        garbage = self.bench.poller.garbage(row.run_id)
        facts.show(run.facts(row, self._own_files(), *facts.size, garbage=garbage, skip=self.facts_skip))
        chart.show(self.chart_rows(*chart.size))
        status.show([self._status(row, status.size.width)])
        self._draw_lower(*lower.size)

    def _status(self, row: RunRow, width: int) -> Row:
        """Metric, axes, and the value under the crosshair."""
        right = "+ marked " if row.run_id in self.bench.marks else ""
        at, line = self.model.crosshair_x(), next(iter(self.lines), None)
        if at is not None and line is not None:
            value = self.model.value_at(line, at)
            right = f"{fmt.short(at)} ┆ {'·' if value is None else f'{value:.5g}'} {right}"
        return compare.status(self.lead, self.model, 1, width, right, self.spikes_shown())

    def _draw_lower(self, width: int, height: int) -> None:
        files = self._own_files()
        if files is not None and not self.lower_chosen:
            self.lower = "log" if files.log.lines else "events"
        rows, pane, title = self.lower_rows(), self.panes[self.lower], self.lower
        if files and self.lower == "log" and files.log.attempt:
            title = f"log of attempt {files.log.attempt}, {len(rows):,} lines"
            if files.log.left_out_bytes:
                title += f" (without the first {fmt.short(files.log.left_out_bytes)}B)"
        shown = pane.rows(rows, width, height - 1)
        view = self.query_one("#lower", SpanView)
        view.show([pane.rule(title, len(rows), width), *shown])

    def lower_rows(self) -> list[Row]:
        """Every row of the log, or of the history; made again only when they changed."""
        files = self._own_files()
        if files is None:
            return []
        source: object = files.log.stamp if self.lower == "log" else files.attempts
        known = self._lower_rows.get(self.lower)
        if known is None or known[0] != source:
            rows: list[Row]
            if self.lower == "log":
                rows = [(Span(f" {line}"),) for line in files.log.lines]
                rows = rows or [(Span(" the log is empty", style.GREY),)]
            else:
                rows = history.history_rows(history.happenings(files.attempts))
            self._lower_rows[self.lower] = known = (source, rows)
            self.panes[self.lower].refind(rows)
        return known[1]

    def _read_files(self, row: RunRow) -> None:
        """Read the folder in a worker, at most once a second."""
        now = time.monotonic()
        if self._reading or now - self._read_at < REREAD_SECONDS:
            return
        self._reading, self._read_at = True, now
        workspace, run_id, before = self.bench.workspace, row.run_id, self._own_files()

        def read() -> Message:
            where = workspace.runs / run_id
            try:
                everything = flow.everything(workspace, run_id)
            except (OptsweepError, OSError):
                everything = {}  # the folder is on its way in or out: the log may still be there
            flops = before.flops_per_token if before else None
            if flops is None:
                facts = specs.load(workspace, [run_id]).get(run_id)
                flops = facts.flops_per_token if facts else None
            log = logs.newest_log(where, before.log if before else None)
            return self.FilesRead(run.RunFiles(run_id=run_id, log=log, flops_per_token=flops, facts=everything))

        self.bench.in_thread(
            self,
            read,
            lambda text: self.FilesRead(run.RunFiles(run_id=run_id, log=logs.Log(attempt=0, lines=(text,)))),
            group="files",
        )

    def on_run_drawing_files_read(self, message: FilesRead) -> None:
        """Show what was read."""
        self._reading = False
        changed = message.files != self.files
        self.files = message.files
        if self.is_current and (changed or message.files.run_id != self.run_id):
            self.refresh_all()

    def settled(self) -> bool:
        """What the workers load is there."""
        return not self._reading and self.files is not None and self.bench.poller.caught_up()
