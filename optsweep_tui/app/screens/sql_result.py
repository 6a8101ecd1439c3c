"""The lower half of screen 5: a result as a virtual table, as curves, as a file; and the line that says how it went."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual.message import Message

from optsweep_tui.app import exports
from optsweep_tui.app import format as fmt
from optsweep_tui.app.screens.base import BaseScreen
from optsweep_tui.app.screens.pick import Entry, Pick
from optsweep_tui.app.views import sql
from optsweep_tui.app.widgets.spans import SpanView
from optsweep_tui.app.widgets.table import VirtualTable
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Curve, Row, Span

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = {"csv": "CSV", "parquet": "Parquet"}
"""What a result can be written as."""


class ResultScreen(BaseScreen):
    """Holds the result; the statement is the business of `SqlScreen`."""

    def __init__(self) -> None:
        super().__init__()
        self.table: pa.Table | None = None
        self.plotting: sql.Plotting | None = None
        self._curves: Sequence[Curve] = ()
        self._note: Row = (Span(" enter edits, r runs, o opens a query", style.GREY),)

    class Written(Message):
        """A thread has written a file, or could not."""

        def __init__(self, text: str, wrong: bool = False) -> None:
            super().__init__()
            self.text, self.wrong = text, wrong

    def show_note(self) -> None:
        """One line; an error takes as many as it needs, for its end says what to do."""
        view = self.query_one("#status", SpanView)
        width = max(20, view.size.width)
        rows: list[Row] = [fmt.cut(self._note, width)]
        if self._note and self._note[0].colour == style.BAD:
            lines = fmt.wrapped(self._note[0].text, width - 2)[:8]
            rows = [(Span(f" {line}", style.BAD),) for line in lines]
        view.set_height(max(1, len(rows)))
        view.show(rows)

    def take(self, table: pa.Table) -> None:
        """Show another result."""
        self.table, self.plotting, self._curves = table, None, ()
        self.remove_class("plotted")
        view = self.query_one("#result", VirtualTable)
        view.show_empty("no rows")
        view.show(sql.columns_of(table), table.num_rows, lambda place: sql.row_of(table, place), cursor=0)

    def show_result(self) -> None:
        """Draw the chart anew, if that is what is shown."""
        if self.has_class("plotted") and self.plotting is not None:
            view = self.query_one("#plot", SpanView)
            view.show(sql.chart_rows(self._curves, self.plotting, *view.size))

    # ------------------------------------------------------------ chart

    def action_plot(self) -> None:
        """The result as curves, or as a table again."""
        if self.has_class("plotted"):
            self.remove_class("plotted")
            self.query_one("#result").focus()
            return
        if self.table is None:
            self.notify("there is no result yet: r runs the statement")
            return
        if self.plotting is None:
            self.plotting = sql.plotting_of(self.table)
        if self.plotting is None:
            self.notify("a chart needs two columns of numbers and two rows")
            return
        self._replot()

    def _replot(self) -> None:
        assert self.table is not None
        assert self.plotting is not None
        self._curves = sql.curves_of(self.table, self.plotting)
        plot = self.query_one("#plot", SpanView)
        plot.can_focus = True  # else hiding the table would hand the keys to the editor
        self.add_class("plotted")
        plot.focus()
        self.call_after_refresh(self.show_result)

    def _step(self, names: Sequence[str], now: str) -> str:
        return names[(names.index(now) + 1) % len(names)] if now in names else names[0]

    def action_plot_x(self) -> None:
        """Another column along x."""
        if self.has_class("plotted") and self.plotting is not None:
            self.plotting.x = self._step(self.plotting.numbers, self.plotting.x)
            self._replot()

    def action_plot_y(self) -> None:
        """Another column along y."""
        if self.has_class("plotted") and self.plotting is not None:
            self.plotting.y = self._step(self.plotting.numbers, self.plotting.y)
            self._replot()

    def action_plot_by(self) -> None:
        """Another column whose values are the curves, or none."""
        if self.has_class("plotted") and self.plotting is not None:
            self.plotting.by = self._step(self.plotting.groups, self.plotting.by)
            self._replot()

    def action_plot_log(self, axis: str) -> None:
        """Logarithmic or linear."""
        if self.has_class("plotted") and self.plotting is not None:
            if axis == "x":
                self.plotting.x_log = not self.plotting.x_log
            else:
                self.plotting.y_log = not self.plotting.y_log
            self._replot()

    # ------------------------------------------------------------ out of the screen

    def action_copy(self) -> None:
        """The row under the cursor as tab separated text, into the clipboard of the terminal."""
        if self.table is not None and self.table.num_rows:
            place = self.query_one("#result", VirtualTable).cursor
            values = [
                "" if column[place].as_py() is None else str(column[place].as_py()) for column in self.table.columns
            ]
            self.app.copy_to_clipboard("\t".join(values) + "\n")
            self.notify("row copied")

    def action_export(self) -> None:
        """Ask for the kind of file."""
        if self.table is None:
            self.notify("there is no result yet: r runs the statement")
            return
        count = f"{self.table.num_rows:,} rows"
        entries = [Entry(value=suffix, label=label, note=count) for suffix, label in FORMATS.items()]
        where = exports.folder_of(self.bench.workspace).name
        self.app.push_screen(Pick(f"export the result into {where}/", entries), self._export)

    def _export(self, suffix: str | None) -> None:
        table, workspace = self.table, self.bench.workspace
        if suffix is None or table is None:
            return

        def work() -> Message:
            path = exports.write(workspace, "query", suffix, content_of(table, suffix))
            return self.Written(f"{table.num_rows:,} rows written: {exports.short(path)}")

        self.bench.in_thread(self, work, lambda wrong: self.Written(wrong, wrong=True), group="export", kept=True)

    def on_result_screen_written(self, message: Written) -> None:
        """Say where the file is."""
        self.notify(message.text, severity="error" if message.wrong else "information", timeout=10)


def content_of(table: pa.Table, suffix: str) -> bytes:
    """A result as the bytes of a file; nested values are text in CSV."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    target = io.BytesIO()
    if suffix == "parquet":
        pyarrow.parquet.write_table(table, target)
        return target.getvalue()
    for place, field in enumerate(table.schema):
        if pa.types.is_nested(field.type) or pa.types.is_interval(field.type):
            texts = pa.array(
                [None if value is None else str(value) for value in table.column(place).to_pylist()], pa.string()
            )
            table = table.set_column(place, field.name, texts)
    pyarrow.csv.write_csv(table, target)
    return target.getvalue()
