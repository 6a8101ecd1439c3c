"""The data dictionary, read from schema/README.md: the one place where tables, views and columns are explained."""

from __future__ import annotations

import re
from collections.abc import Iterator

from optsweep_tui.errors import UnknownName
from optsweep_tui.resources import shipped

_HEADING = re.compile(r"### (\w+)")
_ROW = re.compile(r"\| (\w+) \| ([A-Z_0-9]+) \| (.*?) ?\| (.*) \|")


def dictionary(name: str | None = None) -> list[dict[str, str]]:
    """Every column of every table and view, or of the one named, in order: table, column, type, unit, meaning.

    Raises:
        UnknownName: there is no such table or view.
    """
    rows = []
    for table, line in _lines():
        if row := _ROW.fullmatch(line):
            rows.append(dict(zip(("table", "column", "type", "unit", "meaning"), (table, *row.groups()), strict=True)))
    if name is None:
        return rows
    chosen = [row for row in rows if row["table"] == name.lower()]
    if not chosen:
        raise UnknownName(
            "table or view",
            name,
            list(dict.fromkeys(row["table"] for row in rows)),
            hint="optsweep sql --schema lists all",
        )
    return chosen


def descriptions() -> dict[str, str]:
    """What each table and view holds, in a sentence or two, tables first."""
    found: dict[str, str] = {}
    for table, line in _lines():
        if line.strip() and not line.startswith(("|", "#")):
            found[table] = f"{found[table]} {line}" if table in found else line
    return found


def _lines() -> Iterator[tuple[str, str]]:
    """(table or view, line below its heading)"""
    table = ""
    for line in (shipped("schema") / "README.md").read_text(encoding="utf-8").splitlines():
        if heading := _HEADING.fullmatch(line):
            table = heading[1]
        elif table:
            yield table, line
