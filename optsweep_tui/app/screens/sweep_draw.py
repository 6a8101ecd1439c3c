"""What screen 1 draws: the matrix, the curves of the cell under the cursor, the lines on cell and selection, the legend."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

from textual.widget import Widget

from optsweep_tui.app import format as fmt
from optsweep_tui.app import verdicts
from optsweep_tui.app.answers import Arrived
from optsweep_tui.app.model import RunRow
from optsweep_tui.app.screens.base import READING_SECONDS
from optsweep_tui.app.screens.sweep_plan import SweepPlan
from optsweep_tui.app.views import frame, sweep, sweep_lines
from optsweep_tui.app.views.chart import ChartModel, Line, unit_of
from optsweep_tui.app.widgets.filterline import FilterLine
from optsweep_tui.app.widgets.spans import SpanView
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Row, Span

CURVES = 10
"""Rows that must be left below the matrix for the curves of the selected cell."""


class SweepDrawing(SweepPlan):
    """The drawing; the keys are those of `SweepScreen`."""

    def __init__(self) -> None:
        super().__init__()
        self.model = ChartModel(name_axis=True)
        self.gaps = False
        self._cell: tuple[RunRow, ...] = ()
        self._curves_at = 0.0
        self._curves_of: tuple[object, ...] = ()

    def body(self) -> Iterable[Widget]:
        """The filter, the matrix over the lines of the cell, the selection and the legend."""
        yield FilterLine(placeholder="muon   opt:muon,soap c<=1/4 state:failed", id="filter", select_on_focus=False)
        yield SpanView(id="wrong")
        yield SpanView(id="matrix")
        yield SpanView(id="curves")
        yield SpanView(id="cell")

    def verdicts(self) -> verdicts.Verdicts:
        """What the analysis says of the study, worked out in a thread when the store has changed."""
        workspace, study = self.bench.workspace, self.bench.study
        if self.bench.snapshot.loading:  # the thread that reads the runs needs the interpreter more
            return verdicts.Verdicts(baseline=self.bench.baseline(), why="the runs are still being read")
        slot = self._answers.ask("table", study, verdicts.stamp(workspace), lambda: verdicts.load(workspace, study))
        if isinstance(slot.value, verdicts.Verdicts):
            return slot.value
        return verdicts.Verdicts(baseline=self.bench.baseline(), why=slot.wrong or "being worked out")

    def on_arrived(self, message: Arrived) -> None:
        """An answer of the analysis."""
        self._answers.take(message)
        if self.is_current:
            self.refresh_all()

    def settled(self) -> bool:
        """Curves and verdicts are there."""
        return not self._answers.busy and self.bench.poller.caught_up()

    def draw(self) -> None:
        """Matrix, selected cell, selection, legend."""
        bench = self.bench
        view, below = self.query_one("#matrix", SpanView), self.query_one("#cell", SpanView)
        if self.opened is not None and self._launching:
            self._launched(self.opened)
        blocks = self.blocks()
        self._draw_filter()
        if not blocks:
            loading = bench.snapshot.loading or bench.snapshot.total > 0
            if self.filter_text:
                view.show(
                    [
                        (),
                        (
                            Span(
                                f'  no cell has a run that fits "{self.filter_text}": esc clears the filter', style.GREY
                            ),
                        ),
                    ]
                )
            else:
                view.show([] if loading else frame.empty(str(bench.workspace.root), view.size.width))
            below.show([])
            return
        self.cursor = sweep.clamped(blocks, self.cursor)
        self._divide(view, sum(len(block.optimizers) + 2 for block in blocks))
        width, height = view.size
        found = self.verdicts()
        look = sweep.Look(selected=frozenset(self.selected), verdicts=found, gaps=self.gaps)
        view.show(sweep.matrix_rows(blocks, self.cursor, frozenset(bench.marks), width, height, look))
        rule: Row = (Span(" " + "─" * (width - 2), style.FAINT),)
        lines = sweep_lines.cell_lines(blocks, self.cursor, found.baseline, width, found)
        self._price()
        imported = self.opened is None and not any(row.line.host for row in bench.study_rows())
        said = f"not to be trained here: {self._trouble}" if self._trouble and imported else self._trouble
        chosen = sweep_lines.selection_line(
            len(self._picked()), self._totals, said, bool(said) and not imported, width, self._edited()
        )
        below.show([rule, *lines, chosen, *sweep_lines.legend(width, self.gaps, found.baseline)])

        spot = sweep.cell_at(blocks, self.cursor)
        cell = spot[3].rows if spot is not None and spot[3] is not None else ()
        if [row.run_id for row in cell] != [row.run_id for row in self._cell]:
            self.model.reset()
        self._cell = cell[: len(style.RUN_LETTERS)]
        self._draw_curves()

    def note(self) -> str:
        """What is open."""
        if self.opened is None:
            return ""
        return f"grid {self.opened.name}, not launched: enter launches, esc closes"

    def _edited(self) -> str:
        """What the next launch changes."""
        edits = self.edits
        seeds = f"seeds {','.join(map(str, edits.seeds))}" if edits.seeds else ""
        host = f"on {edits.host}" if edits.host != "local" else ""
        return "  ".join(part for part in (edits.engine or "", seeds, " ".join(edits.changes), host) if part)

    def _draw_filter(self) -> None:
        line, view = self.query_one("#filter", FilterLine), self.query_one("#wrong", SpanView)
        line.show(bool(self.filter_text) or line.has_focus)
        view.set_class(self.wrong is not None, "open")
        if self.wrong is not None:
            view.show(
                [(Span(" " * (self.wrong.column + 1)), Span("^ ", style.BAD), Span(self.wrong.message, style.BAD))]
            )

    def _divide(self, view: SpanView, lines: int) -> None:
        """The matrix takes the rows it needs; what is left, if it is enough, shows the curves of the cell."""
        room = self.query_one("#body").size.height - 6
        tall = room - lines >= CURVES
        self.set_class(tall, "tall")
        view.set_height(lines if tall else None)

    def _draw_curves(self) -> None:
        """The curves of the selected cell, named by their lr."""
        view = self.query_one("#curves", SpanView)
        if not self.has_class("tall") or view.size.height < 4:
            return
        shown = (self._cell, view.size)
        if shown == self._curves_of and not self._curves_due():
            return
        lines = []
        self._curves_at, self._curves_of = time.monotonic(), shown
        self._choose_metric()
        longest = max((row.line.steps for row in self._cell), default=100)
        self.model.suggest_smoothing(0 if self.model.metric == "val_loss" else longest)
        colours = style.shades([row.line.optimizer for row in self._cell])
        rates = Counter(row.line.lr for row in self._cell)
        names: list[Span] = [Span(f" {unit_of(self.model.metric)} of the cell's runs  ", style.GREY)]
        for row, colour, letter in zip(self._cell, colours, style.RUN_LETTERS, strict=False):
            series = self.bench.store.series(row.run_id, self.model.metric, self.model.axis)
            if series is not None:
                end = float(row.cell.tokens)
                lines.append(Line(run_id=row.run_id, series=series, colour=colour, letter=letter, end=end))
                seed = f" seed {fmt.knob(row.line.seed)}" if rates[row.line.lr] > 1 else ""
                names += [Span(f" {letter}", colour, bold=True), Span(f" {fmt.knob(row.line.lr)}{seed}", style.GREY)]
        width, height = view.size
        rows = self.model.frame(lines, width, height - 1)
        if not rows and self._cell and self.bench.poller.caught_up():
            started = any(row.line.step for row in self._cell)
            names = [Span(" no curve was published of this cell" if started else " nothing measured yet", style.GREY)]
        view.show([fmt.cut(tuple(names), width), *rows] if rows or self.bench.poller.caught_up() else [])

    def _choose_metric(self) -> None:
        """Training losses; validation losses of a cell whose runs have no others."""
        known = {name for row in self._cell for name in self.bench.store.metrics(row.run_id)}
        wanted = "val_loss" if "val_loss" in known and "train_loss" not in known else "train_loss"
        if wanted != self.model.metric:
            self.model.metric = wanted
            self.model.forget_scale()

    def wanted_curves(self) -> list[str]:
        """The runs of the selected cell, where their curves are shown."""
        known = self.bench.snapshot.by_id
        return [row.run_id for row in self._cell if row.run_id in known] if self.has_class("tall") else []

    def changed_curves(self, run_ids: frozenset[str]) -> None:
        """Curves of the cell have grown; while they are read for the first time, half a picture now and then is enough."""
        if any(row.run_id in run_ids for row in self._cell):
            self._draw_curves()

    def _curves_due(self) -> bool:
        return self.bench.poller.caught_up() or time.monotonic() - self._curves_at >= READING_SECONDS
