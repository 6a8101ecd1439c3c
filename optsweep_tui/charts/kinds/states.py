"""INTERP, EXTRAP and REFUSE in figures: solid, hollow, and hollow with an arrow where only a bound is known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optsweep_tui.charts.figure import Arrow, Key, Series
from optsweep_tui.charts.kinds.common import Row, ratio_text
from optsweep_tui.charts.place import points
from optsweep_tui.charts.style import Look

STATES: tuple[tuple[Key, str], ...] = (
    ("solid", "INTERP"),
    ("hollow", "EXTRAP: the fit is believed, not measured"),
    ("bound", "REFUSE: only a bound is known"),
)


def refusals(rows: Iterable[Mapping[str, Any]], limit: int = 6) -> list[str]:
    """The reasons of refused rows that have no bound to draw, once each with how many they are."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row["state"] == "REFUSE" and not row.get("bound"):
            found.setdefault(row["reason"], []).append(
                f"{row['optimizer']} {row['model']} {ratio_text(row['chinchilla'])}"
            )
    lines = []
    for reason, cells in found.items():
        more = f" and {len(cells) - 3} more" if len(cells) > 3 else ""
        lines.append(f"{', '.join(cells[:3])}{more}: {reason}")
    return lines[:limit] + ([f"and {len(lines) - limit} other reasons"] if len(lines) > limit else [])


def bound_of(row: Mapping[str, Any]) -> tuple[float, Arrow]:
    """The bound of a refused speedup as it is printed: its value and where the truth lies."""
    text = str(row.get("bound") or "")
    if not text:
        return math.nan, ""
    return float(text.strip("<> x")), "up" if text.startswith(">") else "down"


def in_states(
    rows: Sequence[Row], name: str, look: Look, x: str, factor: str | None, shift: float, line: bool = True
) -> list[Series]:
    """The speedups of one optimizer: INTERP solid with a faint line, EXTRAP hollow, bounds hollow with an arrow.

    Args:
        rows: speedups, by rising x.
        name: for the legend.
        look: of the optimizer.
        x: column of x.
        factor: column that speedups are multiplied by; None = speedups as they are.
        shift: of the whole series along x.
        line: join neighbouring INTERP points.
    """

    def scaled(row: Row, value: float | None) -> float:
        return math.nan if value is None else value * (1.0 if factor is None else float(row[factor]))

    found = []
    for state, marks in (("INTERP", "solid"), ("EXTRAP", "hollow")):
        chosen = [row for row in rows if row["state"] == state and row["speedup"] is not None]
        if chosen:
            found.append(
                Series(
                    x=points([row[x] for row in chosen]),
                    y=points([scaled(row, row["speedup"]) for row in chosen]),
                    low=points([scaled(row, row["low"]) for row in chosen]),
                    high=points([scaled(row, row["high"]) for row in chosen]),
                    look=look,
                    name=name,
                    line="none",
                    marks="solid" if marks == "solid" else "hollow",
                    shift=shift,
                    data={"state": state, "flags": [list(row["flags"] or ()) for row in chosen]},
                )
            )
    joined = [math.nan if row["state"] != "INTERP" else scaled(row, row["speedup"]) for row in rows]
    if line and sum(not math.isnan(value) for value in joined) > 1:
        xs = points([row[x] for row in rows])
        found.append(Series(x=xs, y=points(joined), look=look, line="guide", marks="none", shift=shift, pale=True))
    for direction in ("up", "down"):
        chosen = [row for row in rows if row["state"] == "REFUSE" and bound_of(row)[1] == direction]
        if chosen:
            found.append(
                Series(
                    x=points([row[x] for row in chosen]),
                    y=points([scaled(row, bound_of(row)[0]) for row in chosen]),
                    look=look,
                    name=name,
                    marks="hollow",
                    arrow="up" if direction == "up" else "down",
                    shift=shift,
                    data={"state": "REFUSE", "reason": [row["reason"] for row in chosen]},
                )
            )
    return found


def used_states(rows: Iterable[Mapping[str, Any]]) -> tuple[tuple[Key, str], ...]:
    """The keys of the states that occur."""
    states = {row["state"] if row["state"] != "REFUSE" or row.get("bound") else "" for row in rows}
    return tuple((key, text) for key, text in STATES if text.split(":")[0] in states)
