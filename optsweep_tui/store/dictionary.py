"""The data dictionary, read from schema/README.md: the one place where columns are explained."""

from __future__ import annotations

import re

from optsweep_tui.resources import shipped

_HEADING = re.compile(r"### (\w+)")
_ROW = re.compile(r"\| (\w+) \| ([A-Z_0-9]+) \| (.*?) ?\| (.*) \|")


def dictionary() -> list[dict[str, str]]:
    """Every column of every table and view, in order: table, column, type, unit, meaning. Needs no store."""
    table = ""
    found = []
    for line in (shipped("schema") / "README.md").read_text(encoding="utf-8").splitlines():
        if heading := _HEADING.fullmatch(line):
            table = heading[1]
        elif table and (row := _ROW.fullmatch(line)):
            found.append(dict(zip(("table", "column", "type", "unit", "meaning"), (table, *row.groups()), strict=True)))
    return found
