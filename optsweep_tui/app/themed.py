"""How the app looks and speaks: the theme that is set, was chosen or suits the terminal, and toasts, one per cause."""

from __future__ import annotations

from textual.notifications import Notify, SeverityLevel

from optsweep_tui.app import themes
from optsweep_tui.app.bench import Bench
from optsweep_tui.app.memory import Memory
from optsweep_tui.app.preferences import Preferences
from optsweep_tui.app.widgets.spans import use_colours
from optsweep_tui.errors import UnknownName
from optsweep_tui.settings import Workspace


class ThemedApp(Bench):
    """Themes and toasts."""

    def __init__(self, workspace: Workspace, preferences: Preferences, memory: Memory, in_terminal: bool) -> None:
        """
        Args:
            workspace: whose runs.
            preferences: what the user has set.
            memory: how the app was left.
            in_terminal: as `TerminalApp` has it.
        """
        self.preferences = preferences
        super().__init__(workspace, memory, in_terminal)

    def _first_theme(self, in_terminal: bool) -> str:
        """What is set, else what was chosen last, else what suits the terminal."""
        wanted = self.preferences.theme
        if wanted is not None and wanted not in self.available_themes:
            raise UnknownName("theme", wanted, self.available_themes, where="[tui] theme")
        kept = self.memory.get("theme", "", "user")
        usual = themes.default_of(self.console.color_system if in_terminal else None)
        if usual == themes.SIXTEEN.name:
            return wanted or usual  # what was chosen on a terminal of more colours is no choice for this one
        return wanted or (kept if kept in self.available_themes else usual)

    def watch_theme(self, theme: str) -> None:
        """The fixed colours of the views follow the theme."""
        use_colours(themes.translation(theme))
        if self.is_running:
            for screen in self.screen_stack:
                screen.refresh(layout=True)
                for widget in screen.walk_children():
                    widget.notify_style_update()
                    widget.refresh()

    def choose_theme(self, theme: str) -> None:
        """Take a theme and keep it."""
        self.theme = theme
        self.memory.put("theme", theme, "user")
        self.memory.save()

    def notify(
        self,
        message: str,
        *,
        title: str = "",
        severity: SeverityLevel = "information",
        timeout: float | None = None,
        markup: bool = False,
    ) -> None:
        """A toast; unlike Textual's, signs of its text mean nothing but themselves."""
        super().notify(message, title=title, severity=severity, timeout=timeout, markup=markup)

    def _on_notify(self, event: Notify) -> None:
        """Of the same words there is only ever one toast."""
        self.take_back(event.notification.message)
        super()._on_notify(event)

    def take_back(self, message: str) -> None:
        """The toast with these words, if it is still there, gives way to another."""
        for shown in [toast for toast in self._notifications if toast.message == message]:
            self._unnotify(shown, refresh=False)
