"""The terminal app: screens as modes, one snapshot of all runs, one store of live curves, marks shared by all screens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.dom import DOMNode
from textual.message import Message
from textual.screen import Screen

from optsweep_tui.app import keymap, modes, notices, themes
from optsweep_tui.app.feed import INTERVAL_SECONDS, Feed
from optsweep_tui.app.memory import Memory
from optsweep_tui.app.model import RunRow, Snapshot
from optsweep_tui.app.palette import Actions as PaletteActions
from optsweep_tui.app.palette import Entry, Palette
from optsweep_tui.app.preferences import Preferences
from optsweep_tui.app.screens.base import BaseScreen
from optsweep_tui.app.themed import ThemedApp
from optsweep_tui.live.poller import INTERVAL_SECONDS as POLL_SECONDS
from optsweep_tui.live.poller import Poller
from optsweep_tui.settings import Workspace

SLOW = 3.0
"""With a slow link the threads report this many times more rarely."""


class OptsweepApp(ThemedApp, inherit_bindings=False):
    """`optsweep tui`: what is running, how the curves go, what the results say."""

    TITLE = "optsweep"
    ENABLE_COMMAND_PALETTE = True
    COMMANDS: ClassVar[set[Any]] = {PaletteActions}
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {**modes.MODES}
    DEFAULT_MODE = "sweep"
    # Textual wraps text to the width of these, and fails where a window of a few columns leaves none.
    CSS = """
    CommandPalette CommandList { min-width: 24; }
    Toast { min-width: 16; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "mode('sweep')", "screen 1, Sweep", show=False, id="app.sweep"),
        Binding("2", "mode('runs')", "screen 2, Runs", show=False, id="app.runs"),
        Binding("3", "mode('compare')", "screen 3, Compare", show=False, id="app.compare"),
        Binding("4", "mode('run')", "screen 4, Run", show=False, id="app.run"),
        Binding("5", "mode('sql')", "screen 5, SQL", show=False, id="app.sql"),
        Binding("6", "mode('hosts')", "screen 6, Hosts", show=False, id="app.hosts"),
        Binding("ctrl+l", "redraw", "draw the screen anew", show=False, id="app.redraw"),
        Binding("U", "undo", "take the last action back", show=False, id="app.undo"),
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

    def __init__(
        self,
        workspace: Workspace,
        mode: str = "",
        preferences: Preferences | None = None,
        memory: Memory | None = None,
        in_terminal: bool = False,
    ) -> None:
        """
        Args:
            workspace: whose runs.
            mode: the first screen; empty = the one that was left last.
            preferences: what the user has set; None = nothing.
            memory: how the app was left; None remembers nothing.
            in_terminal: the theme has to suit a terminal, which may have 16 colours only.

        Raises:
            OptsweepError: the keymap or the theme cannot be used.
        """
        super().__init__(workspace, preferences or Preferences(), memory or Memory(None), in_terminal)
        self._guessed: str | None = None
        """Study that is shown until all runs have been read; None where the user has a say in it, or it is known."""
        self.looked = False
        """The feed has looked at least once."""
        self._told: notices.Notice | None = None
        """What was said last of runs that ended."""
        self.first_mode = mode or self.memory.get("mode", "sweep")
        slow = SLOW if self.preferences.slow_link else 1.0
        self.feed = Feed(
            workspace,
            lambda snapshot: self._post(self.SnapshotTaken(snapshot)),
            lambda text: self._post(self.Answered(text, wrong=True)),
            interval=INTERVAL_SECONDS * slow,
        )
        self.poller = Poller(
            self.store, lambda run_ids: self._post(self.CurvesGrown(run_ids)), interval=POLL_SECONDS * slow
        )
        for theme in themes.THEMES.values():
            self.register_theme(theme)
        self.theme = self._first_theme(in_terminal)
        if self.preferences.keymap:
            self.set_keymap(keymap.checked(self.preferences.keymap, self.key_layers(), self.preferences.sources))
        if self.preferences.slow_link:
            self.animation_level = "none"

    @classmethod
    def key_layers(cls) -> Iterator[tuple[str, list[type[DOMNode]]]]:
        """The screens, each with the classes whose keys are valid there at the same time."""
        from optsweep_tui.app.screens.modal import HelpScreen
        from optsweep_tui.app.widgets.editor import Editor
        from optsweep_tui.app.widgets.filterline import FilterLine
        from optsweep_tui.app.widgets.table import VirtualTable
        from optsweep_tui.app.widgets.tree import SchemaTree

        tables: dict[str, list[type[DOMNode]]] = {
            "runs": [VirtualTable],
            "sql": [SchemaTree, VirtualTable],
            "hosts": [VirtualTable],
        }
        for name in modes.TABS:
            yield name, [modes.screen_class(name), BaseScreen, cls, *tables.get(name, [])]
        yield "filter line", [FilterLine]
        yield "editor", [Editor]
        yield "help", [HelpScreen]

    def after_work(self) -> None:
        """What was done to runs is seen at once."""
        self.feed.poke()

    # ------------------------------------------------------------ life

    def on_mount(self) -> None:
        """Start looking."""
        self.open_first()
        self.feed.start()
        self.poller.start()
        if self.first_mode in self.MODES and self.first_mode != "sweep":
            self.switch_mode(self.first_mode)

    def on_unmount(self) -> None:
        """Stop the threads."""
        self.feed.stop()
        self.poller.stop()

    def exit(self, result: None = None, return_code: int = 0, message: Any = None) -> None:
        """Keep the view while there is one, then leave."""
        self.keep_view()
        super().exit(result, return_code, message)

    def keep_view(self) -> None:
        """Remember how the app looks, for the next start."""
        if self.memory.forgetful:
            return
        self.memory.put("mode", self.current_mode)
        self.memory.put("study", self.study or "")
        self.memory.put("marks", list(self.marks)[:1000])
        for stack in self._screen_stacks.values():
            for screen in stack:
                if isinstance(screen, BaseScreen):
                    screen.remember(self.memory)
        self.memory.save()

    def on_optsweep_app_snapshot_taken(self, message: SnapshotTaken) -> None:
        """Runs have changed."""
        before = self.snapshot
        self.snapshot, self.looked = message.snapshot, True
        names = [study.name for study in self.snapshot.studies]
        unknown = self.study not in names and not (self.snapshot.loading and self.study)
        if unknown or self.study == self._guessed:
            self.study = self._first_study()
            self._guessed = self.study if self.snapshot.loading else None  # whose runs are whose is known at the end
        for gone in [
            run_id for run_id in self.marks if run_id not in self.snapshot.by_id and not self.snapshot.loading
        ]:
            del self.marks[gone]
        self._announce(notices.ended(before, self.snapshot, self._still_told()))
        shown = self.base_screen()
        if shown is not None:
            shown.refresh_all()
            if self._held:
                shown.call_after_refresh(self._show)

    def _first_study(self) -> str | None:
        """The newest one with runs of our own; where all were imported, the reference study."""
        names = [study.name for study in self.snapshot.studies]
        own = {name for row in self.snapshot.rows if row.line.host for name in row.studies}
        mine = next((name for name in names if name in own), None)
        known = "reference" in names and not self.snapshot.loading
        return mine or ("reference" if known else next(iter(names), None))

    def _still_told(self) -> tuple[RunRow, ...]:
        """The runs of the notice that is on the screen: what ends within its seconds joins it, or toasts would pile up."""
        told = self._told
        return (
            told.rows if told is not None and any(toast.message == told.text for toast in self._notifications) else ()
        )

    def _announce(self, notice: notices.Notice | None) -> None:
        """Say that runs have ended; with the bell and on the desktop where the user wants that."""
        if notice is None:
            return
        if self._told is not None:
            self.take_back(self._told.text)
        self._told = notice
        self.notify(notice.text, severity="warning" if notice.wrong else "information", timeout=8)
        if self.preferences.bell:
            self.bell()
        if self.preferences.desktop and self._driver is not None and not self.is_headless:
            text = "".join(
                sign if sign.isprintable() else " " for sign in f"optsweep {self.study or ''}: {notice.text}"
            )
            self._driver.write(f"\x1b]9;{text}\x07")

    def on_optsweep_app_curves_grown(self, message: CurvesGrown) -> None:
        """Metrics have grown."""
        shown = self.base_screen()
        if shown is not None:
            shown.changed_curves(message.run_ids)
            if self._waiting is not None and not self.snapshot.loading and self.poller.caught_up():
                self.call_after_refresh(self.picture_is_there)

    def on_working_app_answered(self, message: ThemedApp.Answered) -> None:
        """Say how some work ended, and show what it has changed beside the runs: the store, a host."""
        self.notify(
            message.text, severity="error" if message.wrong else "information", timeout=8 if message.wrong else 4
        )
        shown = self.base_screen()
        if shown is not None:
            shown.refresh_all()

    def watch_curves(self, screen: BaseScreen) -> None:
        """Tail what the screen shows."""
        self.poller.watch({run_id: self.workspace.runs / run_id for run_id in screen.wanted_curves()})

    def settled(self) -> bool:
        """Everything that is on disk now is on the screen."""
        shown = self.base_screen()
        return self.looked and not self.snapshot.loading and shown is not None and shown.settled()

    def extra_commands(self) -> Iterator[Entry]:
        """What the palette offers beside the keys: themes, studies, and what the screen adds."""
        shown = self.base_screen()
        if shown is not None:
            yield from shown.extra_commands()
        yield Entry("Suspend the app: fg in the shell brings it back", "", self.action_suspend_process)
        for study in self.snapshot.studies:
            if study.name != self.study:
                yield Entry(f"Study {study.name}", "", partial(self.show_study, study.name))
        for name in sorted(self.available_themes, key=lambda name: (name not in themes.THEMES, name)):
            if name != self.theme:
                meaning = themes.MEANINGS.get(name)
                yield Entry(f"Theme {name}" + (f", {meaning}" if meaning else ""), "", partial(self.choose_theme, name))

    # ------------------------------------------------------------ what the screens share

    def tabs(self) -> list[tuple[str, str]]:
        """Number keys and names of the screens."""
        return [(str(place), tab) for place, tab in enumerate(modes.TABS.values(), 1)]

    def action_mode(self, mode: str) -> None:
        """Switch to another screen."""
        self.switch_mode(mode)
        self.keep_view()

    def action_command_palette(self) -> None:
        """Open the palette."""
        if not isinstance(self.screen, Palette):
            self.push_screen(Palette(id="--command-palette"))

    def action_help(self) -> None:
        """Show the keys of this screen."""
        from optsweep_tui.app.screens.modal import HelpScreen

        self.push_screen(HelpScreen(self.screen.active_bindings.values()))

    def action_undo(self) -> None:
        """Take back the last action that can be."""
        self.actions.undo()
