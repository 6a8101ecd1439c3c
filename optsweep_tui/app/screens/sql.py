"""Screen 5, SQL: schema tree, an editor that completes, results of any size, as a table, a chart or a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.message import Message
from textual.widget import Widget
from textual.widgets import TextArea

from optsweep_tui import flow
from optsweep_tui.app import format as fmt
from optsweep_tui.app.screens.sql_queries import QueriesScreen
from optsweep_tui.app.views import sql
from optsweep_tui.app.views.complete import Candidate, Schema, candidates, word_before
from optsweep_tui.app.widgets.editor import Editor
from optsweep_tui.app.widgets.spans import SpanView
from optsweep_tui.app.widgets.table import VirtualTable
from optsweep_tui.app.widgets.tree import SchemaTree
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Span
from optsweep_tui.errors import OptsweepError

if TYPE_CHECKING:
    from optsweep_tui.store.answers import Answer

__all__ = ["Editor", "SqlScreen"]

MOST_ROWS = 2_000_000
"""Of a result; more are not fetched."""
MOST_HISTORY = 200
COMMAND_LINE_HELP = "optsweep sql --schema lists tables and columns, --examples shows queries"


class SqlScreen(QueriesScreen):
    """Tree on the left; editor above, result below. The focus starts on the tree, so that the number keys work."""

    TAB = "SQL"
    AUTO_FOCUS = "#schema"
    KEPT = ("draft", "history")
    DEFAULT_CSS = """
    SqlScreen #schema { dock: left; width: 30; }
    SqlScreen.narrow #schema { width: 22; }
    SqlScreen #editor { height: 30%; min-height: 5; max-height: 12; }
    SqlScreen #complete { height: 1; }
    SqlScreen #status { height: 1; }
    SqlScreen #plot { display: none; }
    SqlScreen.plotted #plot { display: block; }
    SqlScreen.plotted #result { display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,i", "edit", "edit", id="sql.edit", key_display="⏎"),
        Binding("f5,r", "execute", "run", id="sql.execute", key_display="r"),
        Binding("o", "open", "open query", id="sql.open"),
        Binding("n", "example(1)", "example", id="sql.example"),
        Binding("v", "plot", "chart", id="sql.plot"),
        Binding("e", "export", "export", id="sql.export"),
        Binding("w", "save", "save query", id="sql.save"),
        Binding("d", "dictionary", "tables and columns", id="sql.dictionary"),
        Binding("N", "example(-1)", "example before", show=False, id="sql.example_before"),
        Binding("x", "plot_x", "chart: next x column", show=False, id="sql.plot_x"),
        Binding("m", "plot_y", "chart: next y column", show=False, id="sql.plot_y"),
        Binding("b", "plot_by", "chart: curves by another column", show=False, id="sql.plot_by"),
        Binding("l", "plot_log('x')", "chart: log x", show=False, id="sql.plot_log_x"),
        Binding("L", "plot_log('y')", "chart: log y", show=False, id="sql.plot_log_y"),
        Binding("y", "copy", "copy the row", show=False, id="sql.copy"),
    ]

    class Answered(Message):
        """A statement has ended: its answer, or what went wrong."""

        def __init__(self, answer: Answer | None, note: str = "") -> None:
            super().__init__()
            self.answer, self.note = answer, note

    class Learned(Message):
        """The examples and the schema, which a worker has loaded."""

        def __init__(self, examples: list[dict[str, str]], schema: Schema) -> None:
            super().__init__()
            self.examples, self.schema = examples, schema

    def __init__(self) -> None:
        super().__init__()
        self.draft = ""
        """The statement, as it was left."""
        self._began: float | None = None
        """When the statement that runs was started."""
        self._interrupt: Callable[[], None] | None = None
        self._stop = False
        self._offers: list[Candidate] = []
        self._taken: tuple[int, int, str] | None = None
        """While tab steps through offers: (which, where its word begins, the text that it made)."""

    def body(self) -> Iterable[Widget]:
        """Tree; editor, offers to complete, one line on the last statement, result."""
        yield SchemaTree(id="schema")
        with Container(id="right"):
            yield Editor(id="editor")
            yield SpanView(id="complete")
            yield SpanView(id="status")
            yield VirtualTable(id="result")
            yield SpanView(id="plot")

    def on_mount(self) -> None:
        """Look at the clock while a statement runs."""
        self.set_interval(0.5, self._tick)

    def on_unmount(self) -> None:
        """A statement that runs would keep the program from ending."""
        self._halt()

    def draw(self) -> None:
        """The lines; editor and table keep what they have."""
        self.set_class(self.size.width < 100, "narrow")
        if self._examples is None:
            self._examples = []

            def learn() -> Message:  # loads the store's library: too slow for a key
                try:
                    functions = flow.sql_functions()
                except (OptsweepError, OSError):
                    functions = []
                schema = sql.schema_of(flow.sql_dictionary(), flow.sql_descriptions(), functions)
                return self.Learned(flow.sql_examples(), schema)

            self.bench.in_thread(self, learn, lambda text: self.Answered(None, text), group="sql-schema")
        self.show_note()
        self.show_result()

    def on_sql_screen_learned(self, message: Learned) -> None:
        """Go on where one left; the first time with an example."""
        self._examples = message.examples
        self.query_one("#schema", SchemaTree).fill(message.schema)
        if self.draft and not self.editor.text:
            self.editor.text = self.draft
        elif not self.editor.text:
            self.action_example(1)

    def settled(self) -> bool:
        """What the workers load is there."""
        return bool(self._examples) and self._began is None

    # ------------------------------------------------------------ moving about

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """In the editor enter begins a line."""
        return action != "edit" or not self.is_mounted or not self.editor.has_focus

    def action_edit(self) -> None:
        """Into the editor."""
        self.set_focus(self.editor)

    def action_leave(self) -> None:
        """Out of the editor; a statement that runs is stopped first."""
        if self._began is not None:
            self._halt()
        else:
            self.query_one("#result" if self.table is not None else "#schema").focus()

    def action_out(self) -> None:
        """Esc stops the statement, then puts the chart away."""
        if self._began is not None:
            self._halt()
        elif self.has_class("plotted"):
            self.action_plot()
        else:
            self.query_one("#schema").focus()

    def on_virtual_table_moved(self, message: VirtualTable.Moved) -> None:
        """Say what the line of the tree means."""
        tree = self.query_one("#schema", SchemaTree)
        if message.table is tree and tree.has_focus:
            self.say(Span(f" {tree.about()}", style.GREY))

    def on_schema_tree_taken(self, message: SchemaTree.Taken) -> None:
        """A name into the editor, where its cursor is."""
        self.editor.put_name(message.name)
        self.say(Span(f" {message.name} is in the editor", style.GREY))

    # ------------------------------------------------------------ completion

    def on_text_area_changed(self, message: TextArea.Changed) -> None:
        """Offer what fits at the cursor."""
        self.draft = self.editor.text
        if self._taken is None or self.editor.text != self._taken[2]:
            self._taken = None
            schema = self.query_one("#schema", SchemaTree).schema
            typing = self.editor.has_focus
            self._offers = candidates(self.editor.text, self.editor.place, schema) if typing else []
        self._show_offers()

    def _show_offers(self) -> None:
        view = self.query_one("#complete", SpanView)
        first = self._taken[0] if self._taken else 0
        spans = [Span(" ⇥ ", style.GREY)] if self._offers else []
        for place, offer in enumerate(self._offers[first : first + 12]):
            here = place == 0
            spans += [Span(offer.text, None if here else style.GREY, bold=here), Span("  ")]
            if here and offer.note:
                spans.append(Span(f"{offer.note[:48]}   ", style.FAINT))
        view.show([fmt.cut(tuple(spans), view.size.width)])

    def action_complete(self, step: int) -> None:
        """The next offer in the place of the word before the cursor; without any, to the next part of the screen."""
        editor = self.editor
        if not self._offers:
            self.focus_next() if step > 0 else self.focus_previous()
            return
        if self._taken is None:
            which, start = 0, editor.place - len(word_before(editor.text, editor.place))
        else:
            which, start = (self._taken[0] + step) % len(self._offers), self._taken[1]
        text, place = editor.text, editor.place
        word = self._offers[which].text
        self._taken = (which, start, text[:start] + word + text[place:])
        editor.put(start, place, word)
        self._show_offers()

    # ------------------------------------------------------------ run

    def action_execute(self) -> None:
        """Run the statement in a worker."""
        query = self.editor.text.strip()
        if not query:
            self.say(Span(" the editor is empty: enter edits, n shows an example, o opens one", style.GREY))
        if not query or self._began is not None:
            return
        self._began, self._stop, self._interrupt = time.monotonic(), False, None
        self.history = [*(text for text in self.history if text != query), query][-MOST_HISTORY:]
        self._tick()
        self.draft = self.editor.text
        workspace, memory = self.bench.workspace, self.bench.memory
        self.remember(memory)

        def started(interrupt: Callable[[], None]) -> None:
            self._interrupt = interrupt
            if self._stop:
                raise OptsweepError("sql: stopped", "r runs it again")

        def run() -> Message:
            memory.save()  # now: the program may be killed while a statement runs
            return self.Answered(flow.sql_answer(workspace, query, most_rows=MOST_ROWS, started=started))

        self.bench.in_thread(self, run, lambda text: self.Answered(None, text), group="sql")

    def _tick(self) -> None:
        if self._began is not None and self.is_current:
            text = " stopping ..." if self._stop else " running ..."
            gone = f" {time.monotonic() - self._began:.0f} s   esc stops it"
            self.say(Span(text, style.ALIVE), Span(gone, style.GREY))

    def _halt(self) -> None:
        """Stop the statement."""
        self._stop = True
        if self._interrupt is not None and self._began is not None:
            self._interrupt()
        if self.is_mounted:
            self._tick()

    def on_sql_screen_answered(self, message: Answered) -> None:
        """Show the answer."""
        self._began = self._interrupt = None
        answer = message.answer
        if answer is None:
            self.say(Span(self._mend(message.note), style.BAD))
            return
        self.take(answer.table)
        count = answer.table.num_rows
        more = "" if answer.complete else f", the first {count:,} only: add a LIMIT or a GROUP BY"
        rows = "row" if count == 1 else "rows"
        self.say(Span(f" {count:,} {rows} in {answer.seconds:.2f} s{more}", style.GREY))

    def _mend(self, note: str) -> str:
        """What is wrong with a statement, with what helps on this screen in the place of what helps on the command line."""
        note = note.replace(
            COMMAND_LINE_HELP, "The tree lists tables and columns (d: with their meaning), o opens queries"
        )
        return note.replace("r runs it again", "F5 runs it again") if self.editor.has_focus else note

    def action_dictionary(self) -> None:
        """Show tables and columns with their meaning."""
        import pyarrow as pa

        entries = flow.sql_dictionary()
        self.take(pa.Table.from_pylist(entries))
        self.say(Span(f" {len(entries)} columns of tables and views", style.GREY))
