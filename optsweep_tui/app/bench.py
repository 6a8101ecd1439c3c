"""What the screens share: the runs as they are now, the study that is shown, marks, the way to another screen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, cast

from optsweep_tui.app.actions import Actions, Undo
from optsweep_tui.app.memory import Memory
from optsweep_tui.app.model import Block, RunRow, Snapshot, counts, matrix
from optsweep_tui.app.screens.base import BaseScreen
from optsweep_tui.app.working import WorkingApp
from optsweep_tui.live.runstore import RunStore
from optsweep_tui.settings import Workspace

if TYPE_CHECKING:
    from optsweep_tui.app.app import OptsweepApp


class Bench(WorkingApp):
    """The workspace as the app sees it."""

    def __init__(self, workspace: Workspace, memory: Memory, in_terminal: bool) -> None:
        """
        Args:
            workspace: whose runs.
            memory: how the app was left.
            in_terminal: as `TerminalApp` has it.
        """
        super().__init__(in_terminal)
        self.memory = memory
        self.workspace = workspace
        self.snapshot = Snapshot()
        self.study: str | None = memory.get("study", "") or None
        self.marks: dict[str, None] = dict.fromkeys(memory.get("marks", list[str]()))
        """Marked runs in the order in which they were marked."""
        self.store = RunStore()
        self.actions = Actions(cast("OptsweepApp", self))
        self._looked_up: tuple[Snapshot, str | None] | None = None
        self._study_rows: list[RunRow] = []
        self._blocks: list[Block] | None = None
        self._counts: Mapping[str, int] = {}

    def base_screen(self) -> BaseScreen | None:
        """The screen of the current mode, whatever lies over it."""
        return next((screen for screen in reversed(self.screen_stack) if isinstance(screen, BaseScreen)), None)

    def _look_up(self) -> None:
        before = self._looked_up
        if before is None or before[0] is not self.snapshot or before[1] != self.study:
            self._looked_up = (self.snapshot, self.study)
            self._study_rows, self._blocks = self.snapshot.study(self.study), None
            self._counts = counts(self._study_rows if self.study else self.snapshot.rows)

    def study_rows(self) -> list[RunRow]:
        """Runs of the current study; found once per snapshot."""
        self._look_up()
        return self._study_rows

    def blocks(self) -> list[Block]:
        """The matrix of the current study; made once per snapshot."""
        self._look_up()
        if self._blocks is None:
            self._blocks = matrix(self._study_rows)
        return self._blocks

    def counts(self) -> Mapping[str, int]:
        """Runs of the current study by group of states; counted once per snapshot."""
        self._look_up()
        return self._counts

    def baseline(self) -> str:
        """Baseline optimizer of the current study."""
        return next((study.baseline for study in self.snapshot.studies if study.name == self.study), "adamw")

    def show_study(self, name: str) -> None:
        """Show another study on every screen."""
        self.study = name
        shown = self.base_screen()
        if shown is not None:
            shown.refresh_all()

    def step_study(self, step: int) -> None:
        """Go to the next study, or the one before."""
        names = [study.name for study in self.snapshot.studies]
        if names:
            place = names.index(self.study) if self.study in names else 0
            self.study = names[(place + step) % len(names)]

    def mark(self, run_ids: Iterable[str]) -> None:
        """Mark runs."""
        self.marks.update(dict.fromkeys(run_ids))

    def unmark(self, run_ids: Iterable[str]) -> None:
        """Take marks away."""
        for run_id in run_ids:
            self.marks.pop(run_id, None)

    def unmark_all(self) -> None:
        """Take all marks away; this can be taken back."""
        kept = dict(self.marks)
        if kept:
            self.marks.clear()

            def again() -> None:
                self.marks = kept | self.marks
                shown = self.base_screen()
                if shown is not None:
                    shown.refresh_all()

            self.actions.offer(Undo(of=f"the unmarking of {len(kept):,}", act=again))

    def chosen(self, run_id: str | None) -> list[RunRow]:
        """What an action is about: the marked runs, else the one under the cursor."""
        ids = list(self.marks) or ([run_id] if run_id else [])
        return [self.snapshot.by_id[one] for one in ids if one in self.snapshot.by_id]

    def mode_screen(self, mode: str) -> BaseScreen:
        """The screen of a mode, which is made when it is first asked for."""
        if mode != self.current_mode:
            self.switch_mode(mode)
        screen = self.base_screen()
        assert screen is not None
        return screen

    def show_runs(self, text: str) -> None:
        """Screen 2 with a filter."""
        from optsweep_tui.app.screens.runs import RunsScreen

        screen = self.mode_screen("runs")
        assert isinstance(screen, RunsScreen)
        screen.show_filter(text)

    def show_run(self, run_id: str) -> None:
        """Screen 4 with a run."""
        from optsweep_tui.app.screens.run import RunScreen

        screen = self.mode_screen("run")
        assert isinstance(screen, RunScreen)
        screen.show_run(run_id)
        screen.told("left_at", run_id)

    def listed_runs(self) -> list[RunRow]:
        """The runs in the order of screen 2, as far as it was ever opened."""
        stack = self._screen_stacks.get("runs") or []
        if not stack:
            return self.study_rows()
        from optsweep_tui.app.screens.runs import RunsScreen

        if isinstance(stack[0], RunsScreen) and stack[0].shown:
            return stack[0].shown
        return self.study_rows()

    def ask_cancel(self, rows: list[RunRow]) -> None:
        """Cancel what is not over, after a question with the count."""
        self.actions.ask_cancel(rows)

    def ask_retry(self, rows: list[RunRow]) -> None:
        """Queue a new attempt of what is over, after a question with the count."""
        self.actions.ask_retry(rows)
