"""Layers over a screen: help made from the bindings, and a question that `y` confirms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import ActiveBinding, Binding, BindingType
from textual.containers import VerticalScroll

from optsweep_tui.app import format as fmt
from optsweep_tui.app.screens.dialog import Dialog
from optsweep_tui.app.widgets.spans import SpanView
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Row, Span

WIDE = 128
"""Columns from which the help has two columns of its own."""
GROUPS = {"app": "everywhere", "table": "in the table", "screen": "on this screen"}


def help_rows(bindings: Iterable[tuple[str, str, str]], width: int) -> list[Row]:
    """Lines of the help from (id, keys, description): this screen's keys first, those for everywhere last."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for name, keys, description in bindings:
        group = name.partition(".")[0] if name else "screen"
        groups.setdefault(GROUPS.get(group, "on this screen"), []).append((keys, description))
    rows: list[Row] = []
    for title in sorted(groups, key=lambda title: ("on this screen", "in the table", "everywhere").index(title)):
        rows += [(Span(f" {title}", style.GREY),)]
        wide = max(len(keys) for keys, _ in groups[title])
        rows += [
            fmt.cut((Span(f"  {keys.rjust(wide)}", bold=True), Span(f"  {description}")), width)
            for keys, description in groups[title]
        ]
        rows.append(())
    states = ("planned", "running", "done", "diverged", "failed", "cancelled", "lost")
    rows.append((Span(" states", style.GREY),))
    named = [f"{style.GLYPHS[state]} {state}" for state in states]
    half = (len(named) + 1) // 2  # two lines: one would be cut
    rows += [
        fmt.cut((Span("  " + "   ".join(text.ljust(11) for text in line)),), width)
        for line in (named[:half], named[half:])
    ]
    return rows


def two_columns(rows: Sequence[Row], width: int) -> list[Row]:
    """The same rows in two columns, the second half on the right."""
    half = (len(rows) + 1) // 2
    left = [(*row, Span(" " * max(0, width - fmt.width_of(row)))) for row in rows[:half]]
    right = [*rows[half:], *([()] * (2 * half - len(rows)))]
    return [(*first, *second) for first, second in zip(left, right, strict=True)]


class HelpScreen(Dialog[None]):
    """All keys that work on the screen below."""

    DEFAULT_CSS = """
    HelpScreen { align: center middle; }
    HelpScreen #box { width: 66; max-width: 100%; height: auto; max-height: 94%; border: round $foreground 30%; padding: 0 1; }
    HelpScreen.wide #box { width: 124; }
    HelpScreen #lines { height: auto; width: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,q,enter", "dismiss", "close", id="help.close"),
    ]

    def __init__(self, bindings: Iterable[ActiveBinding]) -> None:
        super().__init__()
        self._bindings_below = list(bindings)

    def compose(self) -> ComposeResult:
        """A box that scrolls."""
        with VerticalScroll(id="box") as box:
            box.border_title = "keys"
            box.border_subtitle = "esc closes"
            yield SpanView(id="lines")

    def on_mount(self) -> None:
        """Fill the box."""
        merged: dict[tuple[str, str], list[str]] = {}
        for active in self._bindings_below:
            binding = active.binding
            if binding.id and binding.description and not binding.system:
                shown = self.app.get_key_display(binding)
                keys = merged.setdefault((binding.id or "", binding.description), [])
                if shown not in keys:
                    keys.append(shown)
        entries = [(name, " ".join(keys), description) for (name, description), keys in merged.items()]
        lines = self.query_one("#lines", SpanView)
        wide = self.app.size.width >= WIDE
        self.set_class(wide, "wide")
        rows = help_rows(entries, 58 if wide else 62)
        if wide:
            rows = two_columns(rows, 60)
        lines.set_height(len(rows))
        lines.show(rows)


class Told(Dialog[None]):
    """Lines to be read."""

    DEFAULT_CSS = """
    Told { align: center middle; }
    Told #box { width: 80; max-width: 100%; height: auto; max-height: 90%; border: round $foreground 40%; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,enter", "dismiss", "close", id="told.close")]

    def __init__(self, title: str, rows: list[Row]) -> None:
        super().__init__()
        self._title, self._rows = title, rows

    def compose(self) -> ComposeResult:
        """A box that scrolls."""
        with VerticalScroll(id="box") as box:
            box.border_title = self._title
            box.border_subtitle = "esc closes"
            yield SpanView(id="lines")

    def on_mount(self) -> None:
        """Fill the box."""
        view = self.query_one("#lines", SpanView)
        view.set_height(max(1, len(self._rows)))
        view.show(self._rows)


class Confirm(Dialog[bool]):
    """A question about something that costs: y does it, everything else does not."""

    DEFAULT_CSS = """
    Confirm { align: center middle; }
    Confirm SpanView { width: 66; max-width: 100%; height: auto; border: round $foreground 50%; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "yes", id="confirm.yes"),
        Binding("n,escape,q,enter", "answer(False)", "no", id="confirm.no"),
    ]

    def __init__(self, question: str, details: Iterable[str] = ()) -> None:
        super().__init__()
        self._question, self._details = question, list(details)

    def compose(self) -> ComposeResult:
        """One small box."""
        yield SpanView(id="question")

    def on_mount(self) -> None:
        """Write the question."""
        rows: list[Row] = [(), (Span(self._question, bold=True),)]
        rows += [(Span(fmt.fit(text, 60), style.GREY),) for text in self._details]
        rows += [(), (Span("y", bold=True), Span(" yes   ", style.GREY), Span("n", bold=True), Span(" no", style.GREY))]
        view = self.query_one("#question", SpanView)
        view.set_height(len(rows) + 2)
        view.show(rows)

    def action_answer(self, yes: bool) -> None:
        """Close with the answer."""
        self.dismiss(yes)
