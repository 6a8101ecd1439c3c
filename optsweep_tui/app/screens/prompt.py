"""A layer with one line to type, checked while it is typed: what is wrong with it stands below it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Input

from optsweep_tui.app import format as fmt
from optsweep_tui.app.screens.dialog import Dialog
from optsweep_tui.app.widgets.spans import SpanView
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Row, Span
from optsweep_tui.errors import OptsweepError

CHECK_SECONDS = 0.15
"""After the last letter: a plan of thousands of runs takes longer to resolve than a letter to type."""


class Prompt(Dialog[str | None]):
    """One line; gives the text once the check has nothing against it, None when it was left."""

    DEFAULT_CSS = """
    Prompt { align: center middle; }
    Prompt #box { width: 90%; max-width: 96; height: auto; border: round $foreground 40%; padding: 0 1; }
    Prompt #line { height: 1; border: none; padding: 0; background: $panel; }
    Prompt #said { height: 3; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "leave it as it was", id="prompt.leave")]

    class Checked(Message):
        """What a check found."""

        def __init__(self, text: str, said: str, wrong: bool) -> None:
            super().__init__()
            self.text, self.said, self.wrong = text, said, wrong

    def __init__(self, title: str, text: str, check: Callable[[str], str], notes: Iterable[str] = ()) -> None:
        """
        Args:
            title: what is asked for.
            text: what stands in the line at first.
            check: called in a thread; gives a line about a text that is right, raises OptsweepError with what is wrong.
            notes: lines that explain.
        """
        super().__init__()
        self._title, self._text, self._check, self._notes = title, text, check, list(notes)
        self._due: Timer | None = None
        self._taken = False
        """Enter was pressed: close as soon as the check has nothing against it."""

    def compose(self) -> ComposeResult:
        """One box."""
        with Vertical(id="box") as box:
            box.border_title = self._title
            box.border_subtitle = "enter takes it, esc leaves it as it was"
            yield Input(self._text, id="line", select_on_focus=False)
            yield SpanView(id="said")
            yield SpanView(id="notes")

    def on_mount(self) -> None:
        """Explain, and check what is there."""
        notes = self.query_one("#notes", SpanView)
        width = self._width()
        rows: list[Row] = [(Span(line, style.GREY),) for note in self._notes for line in fmt.wrapped(note, width)]
        notes.set_height(max(1, len(rows)))
        notes.show(rows)
        self.query_one("#line", Input).focus()
        self._look()

    def _width(self) -> int:
        return max(20, min(96, self.app.size.width * 9 // 10) - 4)

    def on_input_changed(self, message: Input.Changed) -> None:
        """Check when the typing pauses."""
        if self._due is not None:
            self._due.stop()
        self._due = self.set_timer(CHECK_SECONDS, self._look)

    def on_input_submitted(self, message: Input.Submitted) -> None:
        """Take it, if it is right."""
        self._taken = True
        self._look()

    def _look(self) -> None:
        """Check the text in a thread: resolving a plan may take a while."""
        text = self.query_one("#line", Input).value.strip()

        def look() -> None:
            try:
                said, wrong = self._check(text), False
            except OptsweepError as error:
                said, wrong = str(error), True
            except Exception as error:  # the text is any text: a bug in a check must not close the app
                said, wrong = f"{type(error).__name__}: {error} (a bug of optsweep, please report it)", True
            if self.is_running:
                self.post_message(self.Checked(text, said, wrong))

        self.run_worker(look, thread=True, group="check")

    def on_prompt_checked(self, message: Checked) -> None:
        """Say it, if the text is still the same."""
        if message.text != self.query_one("#line", Input).value.strip():
            return
        if self._taken and not message.wrong:
            self.dismiss(message.text)
            return
        self._taken = False
        colour = style.BAD if message.wrong else style.GREY
        rows: list[Row] = [(Span(line, colour),) for line in fmt.wrapped(message.said, self._width())[:3]]
        self.query_one("#said", SpanView).show(rows)

    def action_leave(self) -> None:
        """Close with nothing."""
        self.dismiss(None)
