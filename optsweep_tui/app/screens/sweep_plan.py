"""What screen 1 would launch: the draft of the selected cells, its price, its preview, grids and cells of one's own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from textual.message import Message
from textual.timer import Timer

from optsweep_tui import flow, preview
from optsweep_tui.app.actions import outcome
from optsweep_tui.app.answers import Answers
from optsweep_tui.app.screens.pick import Entry, Pick
from optsweep_tui.app.screens.preview import PreviewScreen
from optsweep_tui.app.screens.prompt import Prompt
from optsweep_tui.app.screens.sweep_matrix import Opened, SweepMatrix
from optsweep_tui.app.views.sweep import Cursor
from optsweep_tui.preview import Draft

PLAN_SECONDS = 0.15
"""After the last move of the selection its plan is resolved."""
RATES_SECONDS = 30.0
"""How long measured rates are good for a line of totals."""


class SweepPlan(SweepMatrix):
    """The next launch."""

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
        self._launching = False
        """The grid that is open was launched: it gives way to its study as soon as that is seen."""
        self._answers = Answers(self)
        self._priced: Draft | None = None
        self._priced_at: tuple[tuple[str, int], ...] = ()
        self._totals: dict[str, Any] | None = None
        self._trouble = ""
        self._due: Timer | None = None
        self._rates: tuple[float, Mapping[Any, float]] | None = None

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
                found["slots"] = workspace.run_slots
                return ""

            text, _ = outcome(work)
            return self.Totals(draft, found, text)

        self.bench.in_thread(self, totals, lambda text: self.Totals(draft, {}, text), group="totals")

    def on_sweep_plan_totals(self, message: Totals) -> None:
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

    def on_sweep_plan_ready(self, message: Ready) -> None:
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
