"""Screen 1, Sweep: the matrix of a study or of a grid that is not launched yet; pick cells, change, preview, launch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.events import Click
from textual.message import Message
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Input

from optsweep_tui import flow, preview
from optsweep_tui.app import format as fmt
from optsweep_tui.app import runfilter, verdicts
from optsweep_tui.app.actions import outcome
from optsweep_tui.app.answers import Answers, Arrived
from optsweep_tui.app.editing import Editing, EditingActions
from optsweep_tui.app.model import Block, RunRow, matrix, new_row
from optsweep_tui.app.palette import Entry as Command
from optsweep_tui.app.runfilter import FilterError
from optsweep_tui.app.screens.base import BaseScreen
from optsweep_tui.app.screens.charts import READING_SECONDS
from optsweep_tui.app.screens.pick import Entry, Pick
from optsweep_tui.app.screens.preview import PreviewScreen
from optsweep_tui.app.screens.prompt import Prompt
from optsweep_tui.app.views import compare, frame, sweep
from optsweep_tui.app.views.chart import ChartModel, Line
from optsweep_tui.app.views.sweep import Cursor, Spot
from optsweep_tui.app.widgets.filterline import FilterLine
from optsweep_tui.app.widgets.spans import SpanView
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Row, Span
from optsweep_tui.core import RunSpec
from optsweep_tui.preview import Draft

CURVES = 10
"""Rows that must be left below the matrix for the curves of the selected cell."""
PLAN_SECONDS = 0.15
"""After the last move of the selection its plan is resolved."""
RATES_SECONDS = 30.0
"""How long measured rates are good for a line of totals."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A grid, or cells of one's own, that the matrix shows in the place of a study."""

    name: str
    """The study that its runs will go to."""
    draft: Draft
    """All of its cells."""
    specs: tuple[RunSpec, ...] = ()
    """Every run that it plans, in plan order."""


class SweepScreen(EditingActions, BaseScreen):
    """Optimizer rows x ratio columns, one block per model."""

    TAB = "Sweep"
    AUTO_FOCUS = ""
    KEPT = ("gaps",)
    DEFAULT_CSS = """
    SweepScreen #wrong { height: 1; display: none; }
    SweepScreen #wrong.open { display: block; }
    SweepScreen #cell { height: 6; dock: bottom; }
    SweepScreen #curves { display: none; }
    SweepScreen.tall #curves { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "move(0,-1)", "left", show=False, id="sweep.left"),
        Binding("right,l", "move(0,1)", "right", show=False, id="sweep.right"),
        Binding("up,k", "move(-1,0)", "up", show=False, id="sweep.up"),
        Binding("down,j", "move(1,0)", "down", show=False, id="sweep.down"),
        Binding("space", "select", "select", id="sweep.select"),
        Binding("enter", "preview", "preview+launch", id="sweep.preview"),
        Binding("o", "engine", "engine", id="sweep.engine"),
        Binding("H", "host", "host", id="sweep.host"),
        Binding("s", "seeds", "seeds", id="sweep.seeds"),
        Binding("v", "knobs", "knobs", id="sweep.knobs"),
        Binding("slash", "filter", "filter", id="sweep.filter", key_display="/"),
        Binding("i", "open", "its runs", id="sweep.open"),
        Binding("g", "grid", "open a grid", id="sweep.grid"),
        Binding("n", "cells", "cells of your own", id="sweep.cells"),
        Binding("shift+left", "extend(0,-1)", "select to the left", show=False, id="sweep.extend_left"),
        Binding("shift+right", "extend(0,1)", "select to the right", show=False, id="sweep.extend_right"),
        Binding("shift+up", "extend(-1,0)", "select upwards", show=False, id="sweep.extend_up"),
        Binding("shift+down", "extend(1,0)", "select downwards", show=False, id="sweep.extend_down"),
        Binding("r", "select_row", "select the row", show=False, id="sweep.select_row"),
        Binding("c", "select_column", "select the column", show=False, id="sweep.select_column"),
        Binding("A", "select_all", "select all, or none", show=False, id="sweep.select_all"),
        Binding("m", "mark", "mark its best", show=False, id="sweep.mark"),
        Binding("u", "unmark_all", "unmark all", show=False, id="sweep.unmark_all"),
        Binding("d", "gaps", "gaps or losses", show=False, id="sweep.gaps"),
        Binding("w", "save", "save as a grid", show=False, id="sweep.save"),
        Binding("x", "collect", "collect results", show=False, id="sweep.collect"),
        Binding("K", "cancel", "cancel its runs", show=False, id="sweep.cancel"),
        Binding("R", "retry", "retry its failed runs", show=False, id="sweep.retry"),
        Binding("right_square_bracket", "study(1)", "next study", show=False, id="sweep.next_study", key_display="]"),
        Binding(
            "left_square_bracket", "study(-1)", "study before", show=False, id="sweep.previous_study", key_display="["
        ),
    ]

    class Ready(Message):
        """A thread has read or planned a grid."""

        def __init__(self, opened: Opened | None, wrong: str) -> None:
            super().__init__()
            self.opened, self.wrong = opened, wrong

    class Totals(Message):
        """A thread has priced the draft."""

        def __init__(self, draft: Draft, totals: dict[str, Any], wrong: str) -> None:
            super().__init__()
            self.draft, self.totals, self.wrong = draft, totals, wrong

    def __init__(self) -> None:
        super().__init__()
        self.cursor = Cursor()
        self.model = ChartModel(name_axis=True)
        self.selected: set[Spot] = set()
        self.opened: Opened | None = None
        self.edits = Draft()
        """Engine, seeds, changes and host of the next launch; its cells are the selection."""
        self.filter_text = ""
        self.gaps = False
        self.wrong: FilterError | None = None
        self._anchor: Cursor | None = None
        self._cell: tuple[RunRow, ...] = ()
        self._blocks: tuple[tuple[object, ...], tuple[object, ...], list[Block]] | None = None
        """What the matrix was made of (compared by identity), its study and filter, and the matrix."""
        self._launching = False
        """The grid that is open was launched: it gives way to its study as soon as that is seen."""
        self._curves_at = 0.0
        self._curves_of: tuple[object, ...] = ()
        self._answers = Answers(self)
        self._priced: Draft | None = None
        self._priced_at: tuple[tuple[str, int], ...] = ()
        self._totals: dict[str, Any] | None = None
        self._trouble = ""
        self._due: Timer | None = None
        self._rates: tuple[float, Mapping[Any, float]] | None = None

    def body(self) -> Iterable[Widget]:
        """The filter, the matrix over the lines of the cell, the selection and the legend."""
        yield FilterLine(placeholder="muon   opt:muon,soap c<=1/4 state:failed", id="filter", select_on_focus=False)
        yield SpanView(id="wrong")
        yield SpanView(id="matrix")
        yield SpanView(id="curves")
        yield SpanView(id="cell")

    def on_mount(self) -> None:
        """The editing needs the app."""
        self._editing = Editing(self.bench, self.draft, self._take)

    # ------------------------------------------------------------ what is shown

    def blocks(self) -> list[Block]:
        """The matrix of the grid that is open, else of the study, as far as the filter leaves it."""
        bench = self.bench
        seen = (bench.snapshot, self.opened)
        key = (bench.study, self.filter_text)
        kept = self._blocks
        if kept is None or kept[1] != key or any(old is not new for old, new in zip(kept[0], seen, strict=True)):
            blocks = bench.blocks() if self.opened is None else matrix(self._planned_rows(self.opened))
            kept = self._blocks = (seen, key, self._filtered(blocks))
        return kept[2]

    def _planned_rows(self, opened: Opened) -> list[RunRow]:
        """The runs of an open grid: as they are where they exist, new where they do not."""
        known = self.bench.snapshot.by_id
        return [known.get(spec.run_id) or new_row(spec, opened.name) for spec in opened.specs]

    def _filtered(self, blocks: list[Block]) -> list[Block]:
        self.wrong = None
        if not self.filter_text.strip():
            return blocks
        try:
            knobs = {name: None for block in blocks for cell in block.cells.values() for name in cell.rows[0].knobs}
            return sweep.filtered(blocks, runfilter.compiled(self.filter_text, knobs))
        except FilterError as error:
            self.wrong = error
            return blocks

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
        lines = sweep.cell_lines(blocks, self.cursor, found.baseline, width, found)
        self._price()
        imported = self.opened is None and not any(row.line.host for row in bench.study_rows())
        said = f"not to be trained here: {self._trouble}" if self._trouble and imported else self._trouble
        chosen = sweep.selection_line(
            len(self._picked()), self._totals, said, bool(said) and not imported, width, self._edited()
        )
        below.show([rule, *lines, chosen, *sweep.legend(width, self.gaps, found.baseline)])

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
        known = self.bench.snapshot.by_id
        return [row.run_id for row in self._cell if row.run_id in known] if self.has_class("tall") else []

    def changed_curves(self, run_ids: frozenset[str]) -> None:
        """Curves of the cell have grown; while they are read for the first time, half a picture now and then is enough."""
        if any(row.run_id in run_ids for row in self._cell):
            self._draw_curves()

    def _curves_due(self) -> bool:
        return self.bench.poller.caught_up() or time.monotonic() - self._curves_at >= READING_SECONDS

    # ------------------------------------------------------------ selection

    def _here(self) -> Spot | None:
        """The cell under the cursor; what the filter left may be smaller than where the cursor was."""
        self.cursor = sweep.clamped(self.blocks(), self.cursor)
        return sweep.spot_at(self.blocks(), self.cursor)

    def _picked(self) -> list[Spot]:
        """The selected cells that the matrix still has."""
        return [
            (block.title, optimizer, ratio)
            for block in self.blocks()
            for optimizer in block.optimizers
            for ratio in block.ratios
            if (block.title, optimizer, ratio) in self.selected
        ]

    def _rows_of(self, chosen: Iterable[Spot]) -> list[RunRow]:
        wanted = set(chosen)
        return [
            row
            for block in self.blocks()
            for (optimizer, ratio), cell in block.cells.items()
            if (block.title, optimizer, ratio) in wanted
            for row in cell.rows
        ]

    def _chosen(self) -> list[Spot]:
        """The selection, else the cell under the cursor."""
        here = self._here()
        return self._picked() or ([here] if here is not None else [])

    def action_move(self, lines: int, columns: int) -> None:
        """Go to a neighbouring cell."""
        self.cursor = sweep.moved(self.blocks(), self.cursor, lines, columns)
        self._anchor = None
        self.refresh_all()

    def action_extend(self, lines: int, columns: int) -> None:
        """Select the rectangle from where this began to the neighbouring cell."""
        blocks = self.blocks()
        here = sweep.clamped(blocks, self.cursor)
        self._anchor = self._anchor or here
        self.cursor = sweep.moved(blocks, here, lines, columns)
        self.selected |= sweep.between(blocks, self._anchor, self.cursor)
        self.refresh_all()

    def action_select(self) -> None:
        """Select the cell, or not any more."""
        here = self._here()
        if here is not None:
            self.selected ^= {here}
            self._anchor = None
            self.refresh_all()

    def _toggle(self, wanted: set[Spot]) -> None:
        """Select all of them, or none when all are selected."""
        if wanted <= self.selected:
            self.selected -= wanted
        else:
            self.selected |= wanted
        self.refresh_all()

    def action_select_row(self) -> None:
        """All ratios of the optimizer that have runs."""
        here = self._here()
        if here is not None:
            self._toggle({spot for spot in sweep.spots(self.blocks()) if spot[:2] == here[:2]})

    def action_select_column(self) -> None:
        """All optimizers of the ratio that have runs."""
        here = self._here()
        if here is not None:
            self._toggle({spot for spot in sweep.spots(self.blocks()) if (spot[0], spot[2]) == (here[0], here[2])})

    def action_select_all(self) -> None:
        """Every cell that is shown, or none."""
        self._toggle(set(sweep.spots(self.blocks())))

    def action_out(self) -> None:
        """One layer out: the selection, the filter, the open grid."""
        if self.selected:
            self.selected.clear()
        elif self.filter_text:
            self.action_filter_clear()
        elif self.edits.changed:
            self.edits = Draft()
        elif self.opened is not None:
            self.opened = None
        self._anchor = None
        self.refresh_all()

    # ------------------------------------------------------------ filter

    def on_input_changed(self, message: Input.Changed) -> None:
        """Filter while typing."""
        self.filter_text = message.value
        self.refresh_all()

    def on_input_submitted(self, message: Input.Submitted) -> None:
        """Enter: to the matrix."""
        self.action_filter_done()

    def action_filter(self) -> None:
        """Type a filter."""
        self.query_one("#filter", FilterLine).take_keys()

    def action_filter_done(self) -> None:
        """Back to the matrix, the filter stays."""
        self.set_focus(None)
        self.refresh_all()

    def action_filter_clear(self) -> None:
        """Back to all cells."""
        self.filter_text = ""
        self.query_one("#filter", FilterLine).value = ""
        self.action_filter_done()

    # ------------------------------------------------------------ the next launch

    def draft(self) -> Draft | None:
        """What enter would launch: the chosen cells, with the edits; None in an empty matrix."""
        blocks = {block.title: block for block in self.blocks()}
        cells = []
        for title, optimizer, ratio in self._chosen():
            cell = blocks[title].cells.get((optimizer, ratio))
            model = next(iter(blocks[title].cells.values())).rows[0].line.model
            exact = cell.rows[0].line.chinchilla if cell is not None else ratio
            cells.append((optimizer, model, exact))
        if not cells:
            return None
        bench, opened = self.bench, self.opened
        base = opened.draft if opened is not None else Draft(study=bench.study or "default", baseline=bench.baseline())
        grid = base.grid if opened is not None else self._grid()
        edits = self.edits
        return replace(
            base, grid=grid, cells=tuple(cells), host=edits.host,
            engine=edits.engine or base.engine, seeds=edits.seeds or base.seeds, changes=(*base.changes, *edits.changes),
        )  # fmt: skip

    def _grid(self) -> str | None:
        """The grid file of the study, looked for in a thread."""
        workspace, study = self.bench.workspace, self.bench.study
        slot = self._answers.ask("grid", study, study, lambda: preview.grid_of(workspace, study or "") or "")
        return slot.value or None if isinstance(slot.value, str) else None

    def _take(self, draft: Draft) -> None:
        """The edits of a changed draft."""
        base = self.opened.draft if self.opened is not None else Draft()
        changes = (
            draft.changes[len(base.changes) :] if draft.changes[: len(base.changes)] == base.changes else draft.changes
        )
        self.edits = Draft(engine=draft.engine, seeds=draft.seeds, changes=changes, host=draft.host)
        self.refresh_all()

    def _price(self) -> None:
        """Resolve and price the draft in a thread, a moment after it has changed."""
        draft = None if self.bench.snapshot.loading else self.draft()
        over = tuple(sorted(self.bench.counts().items()))  # a run that has ended is none to train any more
        if draft is None or (draft, over) == (self._priced, self._priced_at):
            return
        if draft != self._priced:
            self._totals, self._trouble = None, ""
        self._priced, self._priced_at = draft, over
        if self._due is not None:
            self._due.stop()
        self._due = self.set_timer(PLAN_SECONDS, partial(self._ask_totals, draft))

    def _ask_totals(self, draft: Draft) -> None:
        workspace = self.bench.workspace
        now = time.monotonic()
        kept = self._rates[1] if self._rates is not None and now - self._rates[0] < RATES_SECONDS else None

        def totals() -> Message:
            found: dict[str, Any] = {}

            def work() -> str:
                rates = flow.rates(workspace) if kept is None else kept
                self._rates = (now, rates) if kept is None else self._rates
                document = preview.of(workspace, preview.plan(workspace, draft), rates)
                left = preview.to_do(workspace, document)
                found.update(document["totals"] | left | {"left": left["runs"], "runs": document["totals"]["runs"]})
                found["slots"] = workspace.slots
                return ""

            text, _ = outcome(work)
            return self.Totals(draft, found, text)

        self.bench.in_thread(self, totals, lambda text: self.Totals(draft, {}, text), group="totals")

    def on_sweep_screen_totals(self, message: Totals) -> None:
        """Show them, if they are still wanted."""
        if message.draft == self._priced:
            self._totals, self._trouble = message.totals, message.wrong
            if self.is_current:
                self.refresh_all()

    def action_preview(self) -> None:
        """The resolved runs of the selection, to be launched or not."""
        draft = self.draft()
        if draft is None:
            self.bench.notify("no cell is selected: g opens a grid, n takes cells of your own")
            return

        def answered(chosen: Draft | None) -> None:
            if chosen is not None:
                self._take(chosen)
                self.selected.clear()
                self._launching = True
                self.bench.actions.launch(chosen)
            self.refresh_all()

        self.app.push_screen(PreviewScreen(draft), answered)

    def _launched(self, opened: Opened) -> None:
        """The study of the open grid is there: from now on the matrix shows that."""
        if opened.name in {study.name for study in self.bench.snapshot.studies}:
            self.opened, self.edits, self._launching = None, Draft(), False
            self.bench.study = opened.name

    # ------------------------------------------------------------ grids

    def action_grid(self) -> None:
        """Choose a grid to open."""
        grids = preview.grids(self.bench.workspace)
        entries = [
            Entry(value=grid["path"], label=grid["name"], note=f"{grid['where']}  {grid['description']}")
            for grid in grids
        ]

        def taken(path: str | None) -> None:
            if path:
                self.open(Draft(grid=path))

        self.app.push_screen(Pick("open a grid: nothing is launched by that", entries), taken)

    def action_cells(self) -> None:
        """Type cells of one's own."""
        workspace, bench = self.bench.workspace, self.bench
        trained_here = any(row.line.host for row in bench.study_rows())
        study = bench.study if bench.study and trained_here else "default"

        def check(text: str) -> str:
            draft = preview.typed(text, study, bench.baseline())
            plan = preview.plan(workspace, draft)
            return f"{len(draft.cells)} cells, {len(plan.specs)} runs, study {draft.study}"

        def taken(text: str | None) -> None:
            if text:
                self.open(preview.typed(text, study, bench.baseline()))

        notes = [
            "optimizers  models  ratios, then changes: adamw,muon bench-micro 1/8,1/4 lr=0.003,0.006",
            "study=NAME names the study; a knob with several values is swept; optsweep optimizers and models list the names",
        ]
        self.app.push_screen(Prompt("cells of your own", "", check, notes), taken)

    def open(self, draft: Draft) -> None:
        """Show a grid, or cells of one's own, in the matrix; planned in a thread."""
        workspace = self.bench.workspace

        def ready() -> Message:
            plan = preview.plan(workspace, draft)
            whole = replace(draft, study=plan.study.name, baseline=plan.study.baseline)
            return self.Ready(Opened(name=plan.study.name, draft=whole, specs=tuple(plan.specs)), "")

        self.bench.in_thread(self, ready, lambda text: self.Ready(None, text), group="grid")

    def on_sweep_screen_ready(self, message: Ready) -> None:
        """Show it."""
        if message.opened is None:
            self.bench.notify(message.wrong, severity="error", timeout=8)
            return
        self.opened, self.cursor, self.edits, self._launching = message.opened, Cursor(), Draft(), False
        self.selected.clear()
        known = self.bench.snapshot.by_id
        if all(spec.run_id in known for spec in message.opened.specs):
            self.bench.notify("every run of it is planned here already")
            if message.opened.name in {study.name for study in self.bench.snapshot.studies}:
                self.bench.study = message.opened.name
            self.opened = None
        self.refresh_all()

    # ------------------------------------------------------------ runs

    def action_open(self) -> None:
        """Show the runs of the cell on screen 2."""
        spot = sweep.cell_at(self.blocks(), sweep.clamped(self.blocks(), self.cursor))
        cell = spot[3] if spot is not None else None
        if spot is not None and cell is not None:
            _, optimizer, ratio, _ = spot
            model = cell.rows[0].line.model
            name = f'"{optimizer}"' if ":" in optimizer else optimizer
            at = f" c:{fmt.ratio(ratio)}" if ratio > 0 else ""
            self.bench.show_runs(f"opt:{name} model:{model}{at}".lower())

    def action_mark(self) -> None:
        """Mark the best run of each chosen cell (or unmark their runs) for screen 3."""
        blocks = {block.title: block for block in self.blocks()}
        found = [
            cell
            for title, optimizer, ratio in self._chosen()
            if (cell := blocks[title].cells.get((optimizer, ratio))) is not None
        ]
        marked = [row.run_id for cell in found for row in cell.rows if row.run_id in self.bench.marks]
        if marked:
            self.bench.unmark(marked)
        else:
            known = self.bench.snapshot.by_id
            best = [(cell.best or cell.rows[0]).run_id for cell in found]
            self.bench.mark([run_id for run_id in best if run_id in known])
        self.refresh_all()

    def action_unmark_all(self) -> None:
        """Take all marks away."""
        self.bench.unmark_all()
        self.refresh_all()

    def action_gaps(self) -> None:
        """Gaps to the baseline, or losses."""
        self.gaps = not self.gaps
        self.refresh_all()

    def action_collect(self) -> None:
        """Bring the store up to date, so that gaps and ties are those of now."""
        workspace = self.bench.workspace

        def work() -> str:
            report = flow.collect(workspace)
            return f"collected {report.runs:,} runs, {report.points:,} points"

        self.bench.notify("collecting ...", timeout=2)
        self.bench.work(work)

    def _existing(self) -> list[RunRow]:
        known = self.bench.snapshot.by_id
        return [row for row in self._rows_of(self._chosen()) if row.run_id in known]

    def action_cancel(self) -> None:
        """Cancel the runs of the chosen cells."""
        self.bench.ask_cancel(self._existing())

    def action_retry(self) -> None:
        """Retry the runs of the chosen cells that went wrong."""
        self.bench.ask_retry(
            [row for row in self._existing() if row.line.state in ("failed", "oom", "lost", "cancelled")]
        )

    def action_study(self, step: int) -> None:
        """Show another study."""
        if self.opened is not None:
            self.opened = None
        else:
            self.bench.step_study(step)
        self.cursor = Cursor()
        self.selected.clear()
        self.refresh_all()

    def extra_commands(self) -> Iterator[Command]:
        """Every grid can be opened from the palette."""
        for grid in preview.grids(self.bench.workspace):
            yield Command(f"Open grid {grid['name']} ({grid['where']})", "", self._opener(grid["path"]))

    def _opener(self, path: str) -> Callable[[], None]:
        return lambda: self.open(Draft(grid=path))

    def on_click(self, event: Click) -> None:
        """Select the cell under the mouse; with shift extend the selection to it."""
        view = self.query_one("#matrix", SpanView)
        if event.widget is not view:
            return
        blocks = self.blocks()
        found = sweep.cell_under(
            blocks, sweep.clamped(blocks, self.cursor), view.size.width, view.size.height, event.x, event.y
        )
        if found is not None:
            if event.shift:
                self._anchor = self._anchor or sweep.clamped(blocks, self.cursor)
                self.selected |= sweep.between(blocks, self._anchor, found)
            self.cursor = found
            self.refresh_all()
