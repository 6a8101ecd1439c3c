"""The schema tree: tables and views, and the columns of those that are open, in the virtual table."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message

from optsweep_tui.app.views.complete import Schema
from optsweep_tui.app.views.sql import Branch, branch_text, branches
from optsweep_tui.app.widgets.column import Column
from optsweep_tui.app.widgets.table import VirtualTable
from optsweep_tui.charts.chart import Span


class SchemaTree(VirtualTable):
    """Space opens a table, a puts a name into the editor."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "branch", "open or close", id="tree.toggle"),
        Binding("a", "take", "name into the editor", id="tree.take"),
    ]

    class Taken(Message):
        """A name for the editor."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, empty="reading ...")
        self.schema = Schema()
        self.open_tables: set[str] = set()
        self._branches: list[Branch] = []

    def fill(self, schema: Schema) -> None:
        """Show another schema."""
        self.schema = schema
        self._lay()

    def _lay(self) -> None:
        self._branches = branches(self.schema, self.open_tables)
        column = Column(title="views and tables", width=max(8, self.size.width - 2))
        self.show([column], len(self._branches), self._line)

    def _line(self, place: int) -> list[Span]:
        return [branch_text(self._branches[place], self.schema, self.open_tables)]

    def on_resize(self) -> None:
        """The one column is as wide as the tree."""
        self._lay()

    @property
    def branch(self) -> Branch | None:
        """Under the cursor."""
        return self._branches[self.cursor] if self.cursor < len(self._branches) else None

    def about(self) -> str:
        """What the line under the cursor means."""
        branch = self.branch
        if branch is None:
            return ""
        if branch.column:
            return f"{branch.column}: {self.schema.tables[branch.table][branch.column]}"
        return f"{branch.table}: {self.schema.about.get(branch.table, '')}"

    def action_branch(self) -> None:
        """Open or close the table under the cursor."""
        branch = self.branch
        if branch is not None:
            self.open_tables ^= {branch.table}
            if branch.column:
                self.cursor = self._branches.index(Branch(branch.table))
            self._lay()

    def action_take(self) -> None:
        """Give the name to the screen."""
        branch = self.branch
        if branch is not None:
            self.post_message(self.Taken(branch.column or branch.table))
