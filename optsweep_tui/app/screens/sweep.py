"""Screen 1, Sweep: the matrix of a study with live states, and the runs of the selected cell."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.events import Click
from textual.widget import Widget

from optsweep_tui.app import format as fmt
from optsweep_tui.app.model import RunRow
from optsweep_tui.app.screens.base import BaseScreen
from optsweep_tui.app.views import compare, frame, sweep
from optsweep_tui.app.views.chart import ChartModel, Line
from optsweep_tui.app.widgets.spans import SpanView
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Row, Span

CURVES = 10
"""Rows that must be left below the matrix for the curves of the selected cell."""


class SweepScreen(BaseScreen):
    """Optimizer rows x ratio columns, one block per model."""

    TAB = "Sweep"
    DEFAULT_CSS = """
    SweepScreen #cell { height: 5; dock: bottom; }
    SweepScreen #curves { display: none; }
    SweepScreen.tall #curves { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "move(0,-1)", "left", show=False, id="sweep.left"),
        Binding("right,l", "move(0,1)", "right", show=False, id="sweep.right"),
        Binding("up,k", "move(-1,0)", "up", show=False, id="sweep.up"),
        Binding("down,j", "move(1,0)", "down", show=False, id="sweep.down"),
        Binding("enter", "open", "its runs", id="sweep.open"),
        Binding("space", "mark", "mark its best", id="sweep.mark"),
        Binding("right_square_bracket", "study(1)", "next study", id="sweep.next_study", key_display="]"),
        Binding(
            "left_square_bracket", "study(-1)", "study before", show=False, id="sweep.previous_study", key_display="["
        ),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.cursor = sweep.Cursor()
        self.model = ChartModel(name_axis=True)
        self._cell: tuple[RunRow, ...] = ()

    def body(self) -> Iterable[Widget]:
        """The matrix over the two lines of the cell and the legend."""
        yield SpanView(id="matrix")
        yield SpanView(id="curves")
        yield SpanView(id="cell")

    def draw(self) -> None:
        """Matrix, selected cell, legend."""
        bench = self.bench
        view, below = self.query_one("#matrix", SpanView), self.query_one("#cell", SpanView)
        blocks = bench.blocks()
        if not blocks:
            loading = bench.snapshot.loading or bench.snapshot.total > 0
            view.show([] if loading else frame.empty(str(bench.workspace.root), view.size.width))
            below.show([])
            return
        self.cursor = sweep.clamped(blocks, self.cursor)
        self._divide(view, sum(len(block.optimizers) + 2 for block in blocks))
        width, height = view.size
        view.show(sweep.matrix_rows(blocks, self.cursor, frozenset(bench.marks), width, height))
        rule: Row = (Span(" " + "─" * (width - 2), style.FAINT),)
        below.show([rule, *sweep.cell_lines(blocks, self.cursor, bench.baseline(), width), *sweep.legend(width)])

        spot = sweep.cell_at(blocks, self.cursor)
        cell = spot[3].rows if spot is not None and spot[3] is not None else ()
        if [row.run_id for row in cell] != [row.run_id for row in self._cell]:
            self.model.reset()
        self._cell = cell[: len(style.RUN_LETTERS)]
        self._draw_curves()

    def _divide(self, view: SpanView, lines: int) -> None:
        """The matrix takes the rows it needs; what is left, if it is enough, shows the curves of the cell."""
        room = self.query_one("#body").size.height - 5
        tall = room - lines >= CURVES
        self.set_class(tall, "tall")
        view.set_height(lines if tall else None)

    def _draw_curves(self) -> None:
        """The curves of the selected cell, named by their lr."""
        view = self.query_one("#curves", SpanView)
        if not self.has_class("tall") or view.size.height < 4:
            return
        lines = []
        self.model.suggest_smoothing(max((row.line.steps for row in self._cell), default=100))
        colours = style.shades([row.line.optimizer for row in self._cell])
        names: list[Span] = [Span(f" {compare.unit_of(self.model.metric)} of the cell's runs  ", style.GREY)]
        for row, colour, letter in zip(self._cell, colours, style.RUN_LETTERS, strict=False):
            series = self.bench.store.series(row.run_id, self.model.metric, self.model.axis)
            if series is not None:
                end = float(row.cell.tokens)
                lines.append(Line(run_id=row.run_id, series=series, colour=colour, letter=letter, end=end))
                names += [Span(f" {letter}", colour, bold=True), Span(f" {fmt.knob(row.line.lr)}", style.GREY)]
        width, height = view.size
        rows = self.model.frame(lines, width, height - 1)
        view.show([fmt.cut(tuple(names), width), *rows] if rows else [])

    def wanted_curves(self) -> list[str]:
        """The runs of the selected cell, where their curves are shown."""
        return [row.run_id for row in self._cell] if self.has_class("tall") else []

    def changed_curves(self, run_ids: frozenset[str]) -> None:
        """Curves of the cell have grown."""
        if any(row.run_id in run_ids for row in self._cell):
            self._draw_curves()

    def action_move(self, lines: int, columns: int) -> None:
        """Select a neighbouring cell."""
        blocks = self.bench.blocks()
        self.cursor = sweep.moved(blocks, self.cursor, lines, columns)
        self.refresh_all()

    def action_open(self) -> None:
        """Show the runs of the cell on screen 2."""
        spot = sweep.cell_at(self.bench.blocks(), self.cursor)
        if spot is not None:
            _, optimizer, ratio, cell = spot
            if cell is not None:
                model = cell.rows[0].line.model
                self.bench.show_runs(f"opt:{optimizer} model:{model} c:{fmt.ratio(ratio)}".lower())

    def action_mark(self) -> None:
        """Mark the best run of the cell (or unmark its runs) for screen 3."""
        spot = sweep.cell_at(self.bench.blocks(), self.cursor)
        if spot is None or spot[3] is None:
            return
        cell = spot[3]
        marked = [row.run_id for row in cell.rows if row.run_id in self.bench.marks]
        if marked:
            self.bench.unmark(marked)
        else:
            self.bench.mark([(cell.best or cell.rows[0]).run_id])
        self.refresh_all()

    def action_study(self, step: int) -> None:
        """Show another study."""
        self.bench.step_study(step)
        self.cursor = sweep.Cursor()
        self.refresh_all()

    def on_click(self, event: Click) -> None:
        """Select the cell under the mouse."""
        view = self.query_one("#matrix", SpanView)
        if event.widget is not view:
            return
        blocks = self.bench.blocks()
        found = sweep.cell_under(blocks, self.cursor, view.size.width, view.size.height, event.x, event.y)
        if found is not None:
            self.cursor = found
            self.refresh_all()
