"""The SQL editor: a text area that colours its words where tree-sitter is installed, and asks its screen to complete them."""

from __future__ import annotations

from typing import ClassVar, cast

from rich.style import Style
from textual.binding import Binding, BindingType
from textual.document._document import Document
from textual.widgets import TextArea
from textual.widgets.text_area import TextAreaTheme

THEME = TextAreaTheme(
    name="optsweep",
    syntax_styles={
        "keyword": Style(bold=True, color="#3fa9c9"),
        "keyword.operator": Style(bold=True, color="#3fa9c9"),
        "attribute": Style(bold=True, color="#3fa9c9"),
        "type": Style(color="#c98a3f"),
        "type.builtin": Style(color="#c98a3f"),
        "function.call": Style(color="#9a86d8"),
        "string": Style(color="#5fa86a"),
        "number": Style(color="#c96f9a"),
        "float": Style(color="#c96f9a"),
        "boolean": Style(color="#c96f9a"),
        "comment": Style(italic=True, color="#8a8f98"),
    },
)
"""Words by their kind: middle tones, readable on dark and on light."""
_NUMBERS = '\n((literal) @number (#match? @number "^[-+]?[0-9]"))\n'
"""tree-sitter-sql's own query tells numbers apart by a pattern that only one editor understands."""


class Editor(TextArea):
    """The statement; F5 runs it, tab completes, esc leaves."""

    DEFAULT_CSS = """
    Editor { border: round $foreground 20%; padding: 0; }
    Editor:focus { border: round $primary; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "screen.leave", "leave the editor", id="editor.leave"),
        Binding("f5,ctrl+enter", "screen.execute", "run", id="editor.execute", key_display="F5"),
        Binding("tab", "screen.complete(1)", "complete", id="editor.complete"),
        Binding("shift+tab", "screen.complete(-1)", "completion before", show=False, id="editor.complete_before"),
    ]

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("", id=id, soft_wrap=True, show_line_numbers=False, tab_behavior="focus", theme="css")
        self.coloured = self._colour()

    def _colour(self) -> bool:
        """Colour the words; False where the parser is not installed or too old for its grammar."""
        try:
            import tree_sitter_sql
            from tree_sitter import Language

            language = Language(tree_sitter_sql.language())
            self.register_language("optsweep-sql", language, (tree_sitter_sql.HIGHLIGHTS_QUERY or "") + _NUMBERS)
            self.register_theme(THEME)
            self.language = "optsweep-sql"
            self.theme = "optsweep"
        except Exception:  # colours are an ornament: whatever is wrong with them, the statement can be typed
            self.language = None
            return False
        return True

    @property
    def place(self) -> int:
        """Of the cursor, in characters from the start."""
        return cast(Document, self.document).get_index_from_location(self.cursor_location)

    def put_name(self, name: str) -> None:
        """A name where the cursor is, apart from the words beside it; behind the statement where nobody has typed yet."""
        if self.cursor_location == (0, 0):
            self.move_cursor(cast(Document, self.document).end)
        text, place = self.text, self.place
        before = " " if place and (text[place - 1].isalnum() or text[place - 1] in "_,)") else ""
        after = " " if place < len(text) and (text[place].isalnum() or text[place] == "_") else ""
        self.insert(before + name + after)

    def put(self, start: int, end: int, text: str) -> None:
        """Replace characters start..end, and stand behind the new ones."""
        before = cast(Document, self.document)
        self.replace(text, before.get_location_from_index(start), before.get_location_from_index(end))
        self.move_cursor(cast(Document, self.document).get_location_from_index(start + len(text)))
