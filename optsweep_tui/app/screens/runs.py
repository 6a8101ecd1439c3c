"""Screen 2, Runs: all runs in a virtual table, a filter line, marks, and a preview of the run under the cursor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets import Input

from optsweep_tui.app import runfilter
from optsweep_tui.app.actions import Undo, runs_text
from optsweep_tui.app.model import RunRow, Snapshot
from optsweep_tui.app.runfilter import FilterError
from optsweep_tui.app.screens.base import BaseScreen
from optsweep_tui.app.screens.columns import ColumnsScreen
from optsweep_tui.app.views import runs
from optsweep_tui.app.widgets.filterline import FilterLine
from optsweep_tui.app.widgets.spans import SpanView
from optsweep_tui.app.widgets.table import VirtualTable
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Span


class RunsScreen(BaseScreen):
    """The table of runs."""

    TAB = "Runs"
    AUTO_FOCUS = "#runs"
    KEPT = ("filter_text", "sort", "descending", "all_studies", "chosen")
    DEFAULT_CSS = """
    RunsScreen #wrong { height: 1; display: none; }
    RunsScreen #wrong.open { display: block; }
    RunsScreen #preview { height: 4; dock: bottom; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "filter", id="runs.filter", key_display="/"),
        Binding("space", "mark", "mark", id="runs.mark"),
        Binding("asterisk", "mark_all", "mark all shown", show=False, id="runs.mark_all", key_display="*"),
        Binding("u", "unmark_all", "unmark all", show=False, id="runs.unmark_all"),
        Binding("enter", "open", "open", id="runs.open"),
        Binding("o", "order", "sort by column", id="runs.order"),
        Binding("O", "usual_order", "cell by cell", show=False, id="runs.usual_order"),
        Binding("C", "columns", "columns", id="runs.columns"),
        Binding("K", "cancel", "cancel", id="runs.cancel"),
        Binding("R", "retry", "retry", id="runs.retry"),
        Binding("A", "scope", "all studies", show=False, id="runs.scope"),
        Binding("right_square_bracket", "study(1)", "next study", show=False, id="runs.next_study", key_display="]"),
        Binding(
            "left_square_bracket", "study(-1)", "study before", show=False, id="runs.previous_study", key_display="["
        ),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.filter_text = ""
        self.sort = ""
        """Key of the column that decides the order; empty = cell by cell."""
        self.descending = False
        self.all_studies = False
        self.chosen: list[str] = []
        """Keys of the columns that are shown; empty = the usual ones."""
        self.shown: list[RunRow] = []
        self.wrong: FilterError | None = None
        self._several = (False, False)
        """More than one model, more than one seed."""
        self._under: str | None = None
        self._asked: tuple[object, ...] | None = None
        self._kept: Snapshot | None = None
        """The snapshot of `_asked`, kept so that its id stays its own."""

    def body(self) -> Iterable[Widget]:
        """Filter line, what is wrong with it, table, preview."""
        yield FilterLine(
            placeholder="muon   opt:muon,soap lr>0.01 state:running loss<3.3 -seed:0",
            id="filter",
            select_on_focus=False,
        )
        yield SpanView(id="wrong")
        yield VirtualTable(id="runs", choose_columns=True)
        yield SpanView(id="preview")

    def recalled(self) -> None:
        """The filter of last time, in its line."""
        self.chosen = [key for key in self.chosen if runs.column_of(key) is not None]
        self.query_one("#filter", FilterLine).value = self.filter_text

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
        self.told("filter_text", text)
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
        line.show(bool(self.filter_text) or line.has_focus)
        self._say_wrong()
        table = self.table
        columns = runs.columns(table.size.width - 1, *self._several, self.chosen)
        marks, shown = bench.marks, self.shown

        def cells(index: int) -> list[Span]:
            row = shown[index]
            return runs.cells(row, columns, row.run_id in marks)

        if self.wrong is not None:
            table.show_empty("")
        elif self.filter_text:
            table.show_empty(f'no run fits "{self.filter_text}": esc clears the filter')
        else:
            table.show_empty(
                "" if bench.snapshot.loading or bench.snapshot.rows else "no runs yet: n or g on screen 1 plans some"
            )
        table.show_order(self.sort, self.descending)
        table.show(columns, len(self.shown), cells, cursor=self._place())
        self._preview()

    def _place(self) -> int | None:
        """Where the run under the cursor stands now; mostly where it was."""
        under, cursor = self._under, self.table.cursor
        if under is None or (cursor < len(self.shown) and self.shown[cursor].line.run_id == under):
            return None
        return next((place for place, row in enumerate(self.shown) if row.line.run_id == under), None)

    def _say_wrong(self) -> None:
        """What is wrong with the filter, below the place; the rows of the last right one stay."""
        view = self.query_one("#wrong", SpanView)
        view.set_class(self.wrong is not None, "open")
        if self.wrong is not None:
            at = min(self.wrong.column + 1, max(1, self.size.width - len(self.wrong.message) - 3))
            view.show([(Span(" " * at), Span("^ ", style.BAD, bold=True), Span(self.wrong.message, style.BAD))])

    def _choose(self) -> None:
        """Filter and sort again, if anything that decides it has changed."""
        bench = self.bench
        asked = (id(bench.snapshot), bench.study, self.filter_text, self.sort, self.descending, self.all_studies)
        if asked == self._asked:
            return
        pool = bench.snapshot.rows if self.all_studies else bench.study_rows()
        try:
            test = runfilter.compiled(self.filter_text, self._knobs(pool)) if self.filter_text.strip() else None
            self.wrong = None
        except FilterError as error:
            self.wrong = error
            return
        self._asked, self._kept = asked, bench.snapshot
        rows = [row for row in pool if test(row)] if test else list(pool)
        self.shown = runs.ordered(rows, self.sort, self.descending) if self.sort else rows
        first = self.shown[0].line if self.shown else None
        self._several = (
            first is not None and any(row.line.model != first.model for row in self.shown),
            first is not None and any(row.line.seed != first.seed for row in self.shown),
        )

    @staticmethod
    def _knobs(pool: Iterable[RunRow]) -> dict[str, None]:
        """Every hyperparameter of some runs; of each optimizer one is asked."""
        found: dict[str, None] = {}
        seen: set[object] = set()
        for row in pool:
            if (kind := (row.line.optimizer, len(row.knobs))) not in seen:
                seen.add(kind)
                found |= dict.fromkeys(row.knobs)
        return found

    def _preview(self) -> None:
        view = self.query_one("#preview", SpanView)
        row = self.under
        self._under = row.run_id if row else None
        series = self.bench.store.series(row.run_id, "train_loss") if row else None
        scope = "all studies" if self.all_studies else f"study {self.bench.study or '-'}"
        text = f" {runs_text(len(self.shown))}, {scope}, {self._order_text()}"
        rule = (Span(" " + "─" * max(0, view.size.width - len(text) - 3), style.FAINT), Span(text + " ", style.GREY))
        view.show([rule, *runs.preview(row, series, view.size.width)])

    def _order_text(self) -> str:
        shown = runs.column_of(self.sort) if self.sort else None
        if shown is None:
            return "by cell and lr"
        return f"by {shown.column.title}{', largest first' if self.descending else ''}"

    def changed_curves(self, run_ids: frozenset[str]) -> None:
        """The sparkline has grown."""
        if self._under in run_ids:
            self._preview()

    def on_virtual_table_moved(self, message: VirtualTable.Moved) -> None:
        """Preview the run under the cursor."""
        self._preview()
        self.bench.watch_curves(self)

    def on_virtual_table_titled(self, message: VirtualTable.Titled) -> None:
        """A click on a title sorts, as the key does."""
        if message.key != runs.MARK.key:
            self._sort_by(message.key)

    def on_input_changed(self, message: Input.Changed) -> None:
        """Filter while typing."""
        self.filter_text = message.value
        self.draw()

    def action_filter(self) -> None:
        """Type a filter."""
        self.query_one("#filter", FilterLine).take_keys()

    def action_filter_done(self) -> None:
        """Back to the rows, the filter stays."""
        self.filter_text = self.query_one("#filter", FilterLine).value
        self.set_focus(self.table)
        self.draw()

    def action_filter_clear(self) -> None:
        """Back to all rows."""
        self.query_one("#filter", FilterLine).value = ""
        self.filter_text = ""
        self.set_focus(self.table)
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
        """Mark every run that the filter leaves; this can be taken back."""
        new = [row.run_id for row in self.shown if row.run_id not in self.bench.marks]
        self.bench.mark(new)
        if new:
            self.bench.actions.offer(Undo(of=f"{len(new):,} marks", act=lambda: self._unmark(new)))
        self.refresh_all()

    def _unmark(self, run_ids: list[str]) -> None:
        self.bench.unmark(run_ids)
        self.refresh_all()

    def action_unmark_all(self) -> None:
        """Take all marks away."""
        self.bench.unmark_all()
        self.refresh_all()

    def _sort_by(self, key: str) -> None:
        """By this column; the same again turns the order around."""
        self.descending = not self.descending if key == self.sort else False
        self.sort = key
        self.draw()

    def action_order(self) -> None:
        """Sort by the column that left and right have chosen."""
        if self.table.column:
            self._sort_by(self.table.column)

    def action_usual_order(self) -> None:
        """Cell by cell again."""
        self.sort, self.descending = "", False
        self.draw()

    def action_columns(self) -> None:
        """Choose the columns."""

        def chosen(keys: list[str] | None) -> None:
            if keys is not None:
                self.chosen = keys
                self.refresh_all()

        self.app.push_screen(ColumnsScreen(self.chosen, sorted(self._knobs(self.bench.study_rows()))), chosen)

    def action_scope(self) -> None:
        """This study, or all."""
        self.all_studies = not self.all_studies
        self.draw()

    def action_study(self, step: int) -> None:
        """Show another study."""
        self.bench.step_study(step)
        self.refresh_all()

    def action_open(self) -> None:
        """Show the run on screen 4."""
        if self.under is not None:
            self.bench.show_run(self.under.run_id)

    def note(self) -> str:
        """How many of the marked runs the filter hides: what is done to marked runs is done to these as well."""
        marks = self.bench.marks
        if not marks or not (self.filter_text or not self.all_studies):
            return ""
        hidden = len(marks) - sum(row.run_id in marks for row in self.shown)
        return f"{runs_text(hidden)} marked outside this list" if hidden > 0 else ""

    def action_cancel(self) -> None:
        """Cancel the marked runs, else this one."""
        self.bench.ask_cancel(self.bench.chosen(self.under.run_id if self.under else None))

    def action_retry(self) -> None:
        """Retry the marked runs, else this one."""
        self.bench.ask_retry(self.bench.chosen(self.under.run_id if self.under else None))
