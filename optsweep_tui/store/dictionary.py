"""The data dictionary as a dataframe, read from schema/README.md: the one place where columns are explained."""

from __future__ import annotations

import re

import pandas as pd

from optsweep_tui.resources import shipped

COLUMNS = ("table", "column", "type", "unit", "meaning")

_HEADING = re.compile(r"### (\w+)")
_ROW = re.compile(r"\| (\w+) \| ([A-Z_0-9]+) \| (.*?) ?\| (.*) \|")


def schema() -> pd.DataFrame:
    """Every column of every table and view: table, column, type, unit, meaning. Needs no store."""
    table = ""
    rows = []
    for line in (shipped("schema") / "README.md").read_text(encoding="utf-8").splitlines():
        if heading := _HEADING.fullmatch(line):
            table = heading[1]
        elif table and (row := _ROW.fullmatch(line)):
            rows.append((table, *row.groups()))
    return pd.DataFrame(rows, columns=list(COLUMNS))
