"""Where the statements of screen 5 come from: examples, saved ones, those that were run; and the line that tells of them."""

from __future__ import annotations

from collections.abc import Callable

from optsweep_tui.app import queries
from optsweep_tui.app.screens.pick import Entry, Pick
from optsweep_tui.app.screens.prompt import Prompt
from optsweep_tui.app.screens.sql_result import ResultScreen
from optsweep_tui.app.widgets.editor import Editor
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Row, Span
from optsweep_tui.errors import OptsweepError


class QueriesScreen(ResultScreen):
    """The editor's content: put there, and kept."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[str] = []
        """Statements that were run, the newest last."""
        self._examples: list[dict[str, str]] | None = None
        self._example = -1

    @property
    def editor(self) -> Editor:
        """Where the statement is typed."""
        return self.query_one("#editor", Editor)

    def action_example(self, step: int) -> None:
        """Put the next example query into the editor."""
        if self._examples:
            self._example = (self._example + step) % len(self._examples)
            self._put_example(self._example)

    def _put_example(self, place: int) -> None:
        assert self._examples
        chosen, self._example = self._examples[place], place
        self.editor.text = chosen["query"].strip()
        where = f" example {place + 1} of {len(self._examples)}: "
        self.say(Span(where, style.GREY), Span(chosen["title"]), Span("   r runs it", style.GREY))

    def action_open(self) -> None:
        """Choose among saved queries, those that were run, and examples."""
        saved = queries.saved(self.bench.workspace)
        entries = [Entry(value=f"s{name}", label=name, note=_one_line(text)) for name, text in saved.items()]
        past = list(enumerate(self.history))[::-1]
        entries += [Entry(value=f"h{place}", label=_one_line(text), note="run before") for place, text in past]
        known = enumerate(self._examples or ())
        entries += [Entry(value=f"e{place}", label=one["title"], note=_one_line(one["query"])) for place, one in known]

        def opened(value: str | None) -> None:
            if value is None:
                return
            if value[0] == "e":
                self._put_example(int(value[1:]))
            else:
                self.editor.text = saved[value[1:]] if value[0] == "s" else self.history[int(value[1:])]
                self.say(Span(" r runs it", style.GREY))

        self.app.push_screen(Pick("saved, run before, examples", entries), opened)

    def action_save(self) -> None:
        """Keep the statement under a name."""
        workspace, query = self.bench.workspace, self.editor.text
        if not query.strip():
            self.notify("the editor is empty")
            return

        def named(name: str | None) -> None:
            if name:
                try:
                    path = queries.save(workspace, name, query)
                except OptsweepError as error:
                    self.notify(str(error), severity="error")
                    return
                self.notify(f"saved: {path.parent.name}/{path.name}")

        check: Callable[[str], str] = lambda name: queries.checked(workspace, name, query)  # noqa: E731
        self.app.push_screen(Prompt("save the query as", "", check, [_one_line(query)]), named)

    def say(self, *spans: Span) -> None:
        """The line between editor and result."""
        self._note: Row = spans
        self.show_note()


def _one_line(text: str) -> str:
    return " ".join(text.split())
