"""Screen 5, SQL: an editor over the results store, and what a statement answers."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widget import Widget
from textual.widgets import TextArea

from optsweep_tui import flow
from optsweep_tui.app import format as fmt
from optsweep_tui.app.screens.base import BaseScreen
from optsweep_tui.app.widgets.column import Column
from optsweep_tui.app.widgets.spans import SpanView
from optsweep_tui.app.widgets.table import VirtualTable
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Row, Span

WIDEST = 40
"""Columns of the terminal that one column of a result may take."""


class Editor(TextArea):
    """The statement; F5 runs it, esc leaves."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "screen.leave", "leave the editor", id="editor.leave"),
        Binding("f5,ctrl+enter", "screen.execute", "run", id="editor.execute", key_display="F5"),
    ]


class SqlScreen(BaseScreen):
    """Editor above, result below; the focus starts on the result, so that the number keys work."""

    TAB = "SQL"
    AUTO_FOCUS = "#result"
    DEFAULT_CSS = """
    SqlScreen #editor { height: 30%; min-height: 5; max-height: 12; border: round $foreground 20%; padding: 0; }
    SqlScreen #editor:focus { border: round $primary; }
    SqlScreen #status { height: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,i", "edit", "edit", id="sql.edit", key_display="⏎"),
        Binding("f5,r", "execute", "run", id="sql.execute", key_display="r"),
        Binding("e", "example(1)", "example", id="sql.example"),
        Binding("E", "example(-1)", "example before", show=False, id="sql.example_before"),
        Binding("d", "dictionary", "tables and columns", id="sql.dictionary"),
    ]

    class Result(Message):
        """A statement has ended: names and rows, or what went wrong."""

        def __init__(self, names: list[str], rows: list[tuple[Any, ...]], note: str, wrong: bool = False) -> None:
            super().__init__()
            self.names, self.rows, self.note, self.wrong = names, rows, note, wrong

    class Learned(Message):
        """The examples and the data dictionary, which a worker has loaded."""

        def __init__(self, examples: list[dict[str, str]], dictionary: list[dict[str, str]]) -> None:
            super().__init__()
            self.examples, self.dictionary = examples, dictionary

    def __init__(self) -> None:
        super().__init__()
        self._examples: list[dict[str, str]] | None = None
        self._dictionary: list[dict[str, str]] = []
        self._note: tuple[Span, ...] = (Span(" enter edits, r runs, e shows an example", style.GREY),)
        self._example = -1
        self._busy = False
        self._names: list[str] = []
        self._rows: list[tuple[Any, ...]] = []

    def body(self) -> Iterable[Widget]:
        """Editor, one line on the last statement, result."""
        yield Editor("", id="editor", soft_wrap=True, show_line_numbers=False, tab_behavior="focus", theme="css")
        yield SpanView(id="status")
        yield VirtualTable(id="result")

    def draw(self) -> None:
        """The status line; editor and table keep what they have."""
        if self._examples is None:
            self._examples = []
            self.bench.in_thread(
                self,
                lambda: self.Learned(
                    flow.sql_examples(), flow.sql_dictionary()
                ),  # loads the store's library: too slow here
                lambda text: self.Result([], [], text, wrong=True),
                group="sql",
            )
        self._show_note()

    def on_sql_screen_learned(self, message: Learned) -> None:
        """Start with the first example."""
        self._examples, self._dictionary = message.examples, message.dictionary
        if not self.query_one("#editor", Editor).text:
            self.action_example(1)

    def settled(self) -> bool:
        """What the workers load is there."""
        return bool(self._examples) and not self._busy

    def _say(self, *spans: Span) -> None:
        self._note = spans
        self._show_note()

    def _show_note(self) -> None:
        """One line; an error takes as many as it needs, for its end says what to do."""
        view = self.query_one("#status", SpanView)
        rows: list[Row] = [self._note]
        if self._note and self._note[0].colour == style.BAD:
            lines = fmt.wrapped(self._note[0].text, self.size.width - 2)[:8]
            rows = [(Span(f" {line}", style.BAD),) for line in lines]
        view.set_height(max(1, len(rows)))
        view.show(rows)

    def action_edit(self) -> None:
        """Into the editor."""
        self.query_one("#editor", Editor).focus()

    def action_leave(self) -> None:
        """Out of the editor."""
        self.query_one("#result", VirtualTable).focus()

    def action_example(self, step: int) -> None:
        """Put the next example query into the editor."""
        examples = self._examples
        if examples:
            self._example = (self._example + step) % len(examples)
            chosen = examples[self._example]
            self.query_one("#editor", Editor).text = chosen["query"].strip()
            place = f" example {self._example + 1} of {len(examples)}: "
            self._say(Span(place, style.GREY), Span(chosen["title"]), Span("   r runs it", style.GREY))

    def action_dictionary(self) -> None:
        """Show tables and columns with their meaning."""
        entries = self._dictionary
        names = list(entries[0]) if entries else []
        self._show(names, [tuple(entry[name] for name in names) for entry in entries])
        self._say(Span(f" {len(entries)} columns of tables and views", style.GREY))

    def action_execute(self) -> None:
        """Run the statement in a worker."""
        query = self.query_one("#editor", Editor).text.strip()
        if not query:
            self._say(Span(" the editor is empty: enter edits, e shows an example", style.GREY))
        if not query or self._busy:
            return
        self._busy = True
        self._say(Span(" running ...", style.ALIVE))
        workspace = self.bench.workspace

        def run() -> Message:
            started = time.monotonic()
            frame = flow.sql(workspace, query)
            names = [str(name) for name in frame.columns]
            rows = list(frame.itertuples(index=False, name=None))
            return self.Result(names, rows, f"{len(rows):,} rows in {time.monotonic() - started:.2f} s")

        self.bench.in_thread(self, run, lambda text: self.Result([], [], text, wrong=True), group="sql")

    def on_sql_screen_result(self, message: Result) -> None:
        """Show the answer."""
        self._busy = False
        if message.wrong:
            self._say(Span(message.note, style.BAD))
            return
        self._show(message.names, message.rows)
        self._say(Span(f" {message.note}", style.GREY))

    def _show(self, names: list[str], rows: list[tuple[Any, ...]]) -> None:
        self._names, self._rows = names, rows
        columns = []
        sample = rows[:200]
        for place, name in enumerate(names):
            values = [row[place] for row in sample]
            width = min(WIDEST, max([len(name), *(len(text_of(value)) for value in values)]))
            number = any(isinstance(value, int | float) for value in values) and not any(
                isinstance(value, str) for value in values
            )
            columns.append(Column(title=name, width=width, right=number))
        table = self.query_one("#result", VirtualTable)
        table.show_empty("no rows")
        table.show(columns, len(rows), lambda index: [Span(text_of(value)) for value in self._rows[index]], cursor=0)


def text_of(value: Any) -> str:
    """A value of a result on one line."""
    if value is None or (isinstance(value, float) and value != value):
        return fmt.NOTHING
    if isinstance(value, float):
        return f"{value:.6g}"
    text = " ".join(str(value).split())
    return text if text.isprintable() else "".join(sign if sign.isprintable() else "?" for sign in text)
