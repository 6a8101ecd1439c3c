"""Screen 2, Runs: all runs in a virtual table, a filter line, marks, and a preview of the run under the cursor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets import Input

from optsweep_tui.app.model import RunRow, Snapshot, matches
from optsweep_tui.app.screens.base import BaseScreen
from optsweep_tui.app.views import runs
from optsweep_tui.app.widgets.spans import SpanView
from optsweep_tui.app.widgets.table import VirtualTable
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Span


class FilterLine(Input):
    """Words that narrow the table; enter and down go to the rows, esc clears and goes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "screen.filter_clear", "clear the filter", id="filter.clear"),
        Binding("down", "screen.filter_done", "to the rows", show=False, id="filter.rows"),
    ]


class RunsScreen(BaseScreen):
    """The table of runs."""

    TAB = "Runs"
    AUTO_FOCUS = "#runs"
    DEFAULT_CSS = """
    RunsScreen #filter { height: 1; border: none; padding: 0 1; background: $panel; display: none; }
    RunsScreen #filter.open { display: block; }
    RunsScreen #preview { height: 4; dock: bottom; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "filter", id="runs.filter", key_display="/"),
        Binding("space", "mark", "mark", id="runs.mark"),
        Binding("asterisk", "mark_all", "mark all shown", show=False, id="runs.mark_all", key_display="*"),
        Binding("u", "unmark_all", "unmark all", show=False, id="runs.unmark_all"),
        Binding("enter", "open", "open", id="runs.open"),
        Binding("K", "cancel", "cancel", id="runs.cancel"),
        Binding("R", "retry", "retry", id="runs.retry"),
        Binding("o", "order", "order", id="runs.order"),
        Binding("A", "scope", "all studies", show=False, id="runs.scope"),
    ]
    ORDERS: ClassVar[dict[str, str]] = {
        "cell": "by cell and lr",
        "state": "running first",
        "loss": "by loss",
    }

    def __init__(self) -> None:
        super().__init__()
        self.filter_text = ""
        self.order = "cell"
        self.all_studies = False
        self.shown: list[RunRow] = []
        self._under: str | None = None
        self._asked: tuple[object, ...] | None = None
        self._kept: Snapshot | None = None
        """The snapshot of `_asked`, kept so that its id stays its own."""

    def body(self) -> Iterable[Widget]:
        """Filter line, table, preview."""
        yield FilterLine(
            placeholder="muon running   opt:adamw c:1/4 lr:0.003 state:done", id="filter", select_on_focus=False
        )
        yield VirtualTable(id="runs")
        yield SpanView(id="preview")

    @property
    def table(self) -> VirtualTable:
        """The table."""
        return self.query_one("#runs", VirtualTable)

    @property
    def under(self) -> RunRow | None:
        """The run under the cursor."""
        return self.shown[self.table.cursor] if self.shown and self.table.cursor < len(self.shown) else None

    def show_filter(self, text: str) -> None:
        """Set the filter, from another screen."""
        self.filter_text = text
        if self.is_mounted:
            self.query_one("#filter", FilterLine).value = text

    def wanted_curves(self) -> list[str]:
        """The run under the cursor, for its sparkline."""
        row = self.under
        return [row.run_id] if row else []

    def draw(self) -> None:
        """Filter the snapshot and show it, the cursor on the same run as before."""
        bench = self.bench
        self._choose()
        line = self.query_one("#filter", FilterLine)
        line.set_class(bool(self.filter_text) or line.has_focus, "open")
        table = self.table
        models = len({row.line.model for row in self.shown}) > 1
        seeds = len({row.line.seed for row in self.shown}) > 1
        columns = runs.columns(table.size.width - 1, models, seeds)
        marks = bench.marks

        def cells(index: int) -> list[Span]:
            row = self.shown[index]
            return runs.cells(row, columns, row.run_id in marks)

        if self.filter_text:
            table.show_empty(f'no run fits "{self.filter_text}": esc clears the filter')
        else:
            table.show_empty(
                "" if bench.snapshot.loading or bench.snapshot.rows else "no runs yet: optsweep quickstart"
            )
        cursor = next((place for place, row in enumerate(self.shown) if row.run_id == self._under), None)
        table.show(columns, len(self.shown), cells, cursor=cursor)
        self._preview()

    def _choose(self) -> None:
        """Filter and sort again, if anything that decides it has changed."""
        bench = self.bench
        asked = (id(bench.snapshot), bench.study, self.filter_text, self.order, self.all_studies)
        if asked != self._asked:
            self._asked, self._kept = asked, bench.snapshot
            pool = bench.snapshot.rows if self.all_studies else bench.study_rows()
            rows = [row for row in pool if matches(row, self.filter_text)] if self.filter_text else list(pool)
            self.shown = self._ordered(rows)

    def _ordered(self, rows: list[RunRow]) -> list[RunRow]:
        ranks = {"running": 0, "orphan": 1, "lost": 1, "queued": 2, "planned": 3}

        def cell(row: RunRow) -> tuple[object, ...]:
            line = row.line
            return (line.model, line.chinchilla, line.optimizer, line.lr or 0.0, line.seed or 0, line.run_id)

        if self.order == "state":
            return sorted(rows, key=lambda row: (ranks.get(row.line.state, 4), *cell(row)))
        if self.order == "loss":
            return sorted(rows, key=lambda row: (row.line.loss is None, row.line.loss or 0.0, *cell(row)))
        return sorted(rows, key=cell)

    def _preview(self) -> None:
        view = self.query_one("#preview", SpanView)
        row = self.under
        self._under = row.run_id if row else None
        series = self.bench.store.series(row.run_id, "train_loss") if row else None
        scope = "all studies" if self.all_studies else f"study {self.bench.study or '-'}"
        text = f" {len(self.shown):,} runs, {scope}, {self.ORDERS[self.order]}"
        rule = (Span(" " + "─" * max(0, view.size.width - len(text) - 3), style.FAINT), Span(text + " ", style.GREY))
        view.show([rule, *runs.preview(row, series, view.size.width)])

    def changed_curves(self, run_ids: frozenset[str]) -> None:
        """The sparkline has grown."""
        if self._under in run_ids:
            self._preview()

    def on_virtual_table_moved(self, message: VirtualTable.Moved) -> None:
        """Preview the run under the cursor."""
        self._preview()
        self.bench.watch_curves(self)

    def on_input_changed(self, message: Input.Changed) -> None:
        """Filter while typing."""
        self.filter_text = message.value
        self.draw()

    def on_input_submitted(self, message: Input.Submitted) -> None:
        """Enter: go to the rows."""
        self.action_filter_done()

    def action_filter(self) -> None:
        """Type a filter."""
        line = self.query_one("#filter", FilterLine)
        line.add_class("open")
        line.focus()

    def action_filter_done(self) -> None:
        """Back to the rows, the filter stays."""
        self.table.focus()

    def action_filter_clear(self) -> None:
        """Back to all rows."""
        self.query_one("#filter", FilterLine).value = ""
        self.filter_text = ""
        self.table.focus()
        self.refresh_all()

    def action_out(self) -> None:
        """Esc outside the filter line clears it."""
        if self.filter_text:
            self.action_filter_clear()

    def action_mark(self) -> None:
        """Mark or unmark the run, and go one down."""
        row = self.under
        if row is not None:
            if row.run_id in self.bench.marks:
                self.bench.unmark([row.run_id])
            else:
                self.bench.mark([row.run_id])
            self.table.action_move(1)
            self._under = self.under.run_id if self.under else None
            self.refresh_all()

    def action_mark_all(self) -> None:
        """Mark every run that the filter leaves."""
        self.bench.mark([row.run_id for row in self.shown])
        self.refresh_all()

    def action_unmark_all(self) -> None:
        """Take all marks away."""
        self.bench.unmark(list(self.bench.marks))
        self.refresh_all()

    def action_order(self) -> None:
        """The next order."""
        names = list(self.ORDERS)
        self.order = names[(names.index(self.order) + 1) % len(names)]
        self.draw()

    def action_scope(self) -> None:
        """This study, or all."""
        self.all_studies = not self.all_studies
        self.draw()

    def action_open(self) -> None:
        """Show the run on screen 4."""
        if self.under is not None:
            self.bench.show_run(self.under.run_id)

    def action_cancel(self) -> None:
        """Cancel the marked runs, else this one."""
        self.bench.ask_cancel(self.bench.chosen(self.under.run_id if self.under else None))

    def action_retry(self) -> None:
        """Retry the marked runs, else this one."""
        self.bench.ask_retry(self.bench.chosen(self.under.run_id if self.under else None))
