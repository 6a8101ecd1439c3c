"""The terminal app: screens as modes, one snapshot of all runs, one store of live curves, marks shared by all screens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from textual.app import App
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.screen import Screen
from textual.theme import Theme

from optsweep_tui import flow
from optsweep_tui.app.feed import Feed
from optsweep_tui.app.model import UNFINISHED, Block, RunRow, Snapshot, matrix
from optsweep_tui.app.screens.base import BaseScreen
from optsweep_tui.app.screens.compare import CompareScreen
from optsweep_tui.app.screens.modal import Confirm, HelpScreen
from optsweep_tui.app.screens.run import RunScreen
from optsweep_tui.app.screens.runs import RunsScreen
from optsweep_tui.app.screens.sql import SqlScreen
from optsweep_tui.app.screens.sweep import SweepScreen
from optsweep_tui.errors import OptsweepError
from optsweep_tui.live.poller import Poller
from optsweep_tui.live.runstore import RunStore
from optsweep_tui.settings import Workspace

THEME = Theme(
    name="optsweep",
    primary="#4fd1c5",
    accent="#4fd1c5",
    foreground="#d7dae0",
    background="#101216",
    surface="#101216",
    panel="#1a1d23",
    dark=True,
    variables={"scrollbar": "#30343c", "scrollbar-background": "#15181d", "scrollbar-corner-color": "#15181d"},
)


class OptsweepApp(App[None], inherit_bindings=False):
    """`optsweep tui`: what is running, how the curves go, what the results say."""

    TITLE = "optsweep"
    ENABLE_COMMAND_PALETTE = True
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {
        "sweep": SweepScreen,
        "runs": RunsScreen,
        "compare": CompareScreen,
        "run": RunScreen,
        "sql": SqlScreen,
    }
    DEFAULT_MODE = "sweep"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "mode('sweep')", "Sweep", show=False, id="app.sweep"),
        Binding("2", "mode('runs')", "Runs", show=False, id="app.runs"),
        Binding("3", "mode('compare')", "Compare", show=False, id="app.compare"),
        Binding("4", "mode('run')", "Run", show=False, id="app.run"),
        Binding("5", "mode('sql')", "SQL", show=False, id="app.sql"),
        Binding("ctrl+p", "command_palette", "palette", show=False, id="app.palette"),
        Binding("question_mark", "help", "help", id="app.help", key_display="?"),
        Binding("q", "quit", "quit", id="app.quit"),
        Binding("ctrl+c", "quit", "quit", show=False, system=True, id="app.interrupt"),
    ]

    class SnapshotTaken(Message):
        """The feed has looked at the runs."""

        def __init__(self, snapshot: Snapshot) -> None:
            super().__init__()
            self.snapshot = snapshot

    class CurvesGrown(Message):
        """The poller has read new metrics."""

        def __init__(self, run_ids: frozenset[str]) -> None:
            super().__init__()
            self.run_ids = run_ids

    class Answered(Message):
        """Work in another thread has ended: text for the user."""

        def __init__(self, text: str, wrong: bool = False) -> None:
            super().__init__()
            self.text, self.wrong = text, wrong

    def __init__(self, workspace: Workspace, mode: str = "sweep") -> None:
        super().__init__()
        self.workspace = workspace
        self.snapshot = Snapshot()
        self.looked = False
        """The feed has looked at least once."""
        self.study: str | None = None
        self.marks: dict[str, None] = {}
        """Marked runs in the order in which they were marked."""
        self.store = RunStore()
        self.first_mode = mode
        self._looked_up: tuple[Snapshot, str | None] | None = None
        self._study_rows: list[RunRow] = []
        self._blocks: list[Block] | None = None
        self.feed = Feed(
            workspace,
            lambda snapshot: self._post(self.SnapshotTaken(snapshot)),
            lambda text: self._post(self.Answered(text, wrong=True)),
        )
        self.poller = Poller(self.store, lambda run_ids: self._post(self.CurvesGrown(run_ids)))

    def _post(self, message: Message) -> None:
        """Called from threads; nothing is posted once the app is closing."""
        if self.is_running:
            self.post_message(message)

    def in_thread(
        self, screen: BaseScreen, work: Callable[[], Message], failed: Callable[[str], Message], group: str
    ) -> None:
        """Do work that may block in a thread, and hand its message, or that of its failure, to a screen."""

        def run() -> None:
            try:
                message = work()
            except (OptsweepError, OSError) as error:
                message = failed(str(error))
            except Exception as error:  # a bug in one answer must not take down the curves of a night
                message = failed(f"{type(error).__name__}: {error} (a bug of optsweep, please report it)")
            if self.is_running and screen.is_mounted:
                screen.post_message(message)

        self.run_worker(run, thread=True, group=group)

    # ------------------------------------------------------------ life

    def on_mount(self) -> None:
        """Start looking."""
        self.register_theme(THEME)
        self.theme = "optsweep"
        self.feed.start()
        self.poller.start()
        if self.first_mode != "sweep":
            self.switch_mode(self.first_mode)

    def on_unmount(self) -> None:
        """Stop the threads."""
        self.feed.stop()
        self.poller.stop()

    def on_optsweep_app_snapshot_taken(self, message: SnapshotTaken) -> None:
        """Runs have changed."""
        self.snapshot, self.looked = message.snapshot, True
        names = [study.name for study in self.snapshot.studies]
        if self.study not in names:
            self.study = names[0] if names else None
        for gone in [
            run_id for run_id in self.marks if run_id not in self.snapshot.by_id and not self.snapshot.loading
        ]:
            del self.marks[gone]
        shown = self.base_screen()
        if shown is not None:
            shown.refresh_all()

    def on_optsweep_app_curves_grown(self, message: CurvesGrown) -> None:
        """Metrics have grown."""
        shown = self.base_screen()
        if shown is not None:
            shown.changed_curves(message.run_ids)

    def on_optsweep_app_answered(self, message: Answered) -> None:
        """Say how some work ended."""
        self.notify(
            message.text, severity="error" if message.wrong else "information", timeout=6 if message.wrong else 3
        )

    def base_screen(self) -> BaseScreen | None:
        """The screen of the current mode, whatever lies over it."""
        return next((screen for screen in reversed(self.screen_stack) if isinstance(screen, BaseScreen)), None)

    def watch_curves(self, screen: BaseScreen) -> None:
        """Tail what the screen shows."""
        self.poller.watch({run_id: self.workspace.runs / run_id for run_id in screen.wanted_curves()})

    def settled(self) -> bool:
        """Everything that is on disk now is on the screen."""
        shown = self.base_screen()
        return self.looked and not self.snapshot.loading and shown is not None and shown.settled()

    # ------------------------------------------------------------ what the screens share

    def tabs(self) -> list[tuple[str, str]]:
        """Number keys and names of the screens."""
        return [(str(place), screen.TAB) for place, screen in enumerate(self.MODES.values(), 1)]  # type: ignore[union-attr]

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

    def _look_up(self) -> None:
        before = self._looked_up
        if before is None or before[0] is not self.snapshot or before[1] != self.study:
            self._looked_up = (self.snapshot, self.study)
            self._study_rows, self._blocks = self.snapshot.study(self.study), None

    def baseline(self) -> str:
        """Baseline optimizer of the current study."""
        return next((study.baseline for study in self.snapshot.studies if study.name == self.study), "adamw")

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
        screen = self.mode_screen("runs")
        assert isinstance(screen, RunsScreen)
        screen.show_filter(text)

    def show_run(self, run_id: str) -> None:
        """Screen 4 with a run."""
        screen = self.mode_screen("run")
        assert isinstance(screen, RunScreen)
        screen.show_run(run_id)

    def listed_runs(self) -> list[RunRow]:
        """The runs in the order of screen 2, as far as it was ever opened."""
        stack = self._screen_stacks.get("runs") or []
        if stack and isinstance(stack[0], RunsScreen) and stack[0].shown:
            return stack[0].shown
        return self.study_rows()

    def action_mode(self, mode: str) -> None:
        """Switch to another screen."""
        self.switch_mode(mode)

    def action_help(self) -> None:
        """Show the keys of this screen."""
        self.push_screen(HelpScreen(self.screen.active_bindings.values()))

    # ------------------------------------------------------------ cancel and retry

    def ask_cancel(self, rows: list[RunRow]) -> None:
        """Cancel what is not over, after a question with the count."""
        alive = [row for row in rows if row.line.state in UNFINISHED]
        if not alive:
            self.notify("nothing to cancel: " + ("the run is over" if len(rows) == 1 else "no run is alive"))
            return
        running = sum(row.line.state == "running" for row in alive)
        note = [f"{running} running, {len(alive) - running} waiting; a running one stops at its next step"]
        self._ask(f"Cancel {_runs(len(alive))}?", note, lambda: self._work(flow.cancel, "cancelled", alive))

    def ask_retry(self, rows: list[RunRow]) -> None:
        """Queue a new attempt of what is over, after a question with the count."""
        rows = [row for row in rows if row.line.host]  # imported ones are not trained here
        over = [row for row in rows if row.line.state not in UNFINISHED or row.line.state == "lost"]
        if not over:
            self.notify("nothing to retry: " + ("the run is not over" if len(rows) == 1 else "no run is over"))
            return
        done = sum(row.line.state == "done" for row in over)
        notes = [f"{done} of them ended well and would be trained again"] if done else []
        notes.append("a controller in the background then drives everything unfinished here")
        self._ask(f"Retry {_runs(len(over))}?", notes, lambda: self._retry(over))

    def _ask(self, question: str, details: list[str], act: Callable[[], None]) -> None:
        def answered(yes: bool | None) -> None:
            if yes:
                act()

        self.push_screen(Confirm(question, details), answered)

    def _retry(self, rows: list[RunRow]) -> None:
        def again(workspace: Workspace, run_ids: list[str]) -> list[str]:
            queued = flow.retry(workspace, run_ids)
            if queued:
                flow.detach(workspace)
            return queued

        self._work(again, "queued", rows)

    def _work(self, act: Callable[[Workspace, list[str]], list[str]], verb: str, rows: list[RunRow]) -> None:
        """Run an action of the flow in a thread and report."""

        def work() -> None:
            try:
                done = act(self.workspace, [row.run_id for row in rows])
                self._post(self.Answered(f"{verb} {_runs(len(done))}"))
            except (OptsweepError, OSError) as error:
                self._post(self.Answered(str(error), wrong=True))
            except Exception as error:  # as in `in_thread`
                self._post(self.Answered(f"{type(error).__name__}: {error} (a bug of optsweep)", wrong=True))
            self.feed.poke()

        self.run_worker(work, thread=True, group="actions")


def _runs(count: int) -> str:
    return f"{count} run{'s' if count != 1 else ''}"
