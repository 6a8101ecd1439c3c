"""The config diff: one line per field in which runs differ, a column per run under the letter of its curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optsweep_tui.app import format as fmt
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Row, Span

NARROWEST, WIDEST = 6, 16
"""Columns of the terminal for one run's values."""


def differing(specs: Sequence[Mapping[str, Any]]) -> tuple[list[str], int]:
    """(names of the fields in which not all agree, how many fields agree), in the order of the first that has them."""
    names = list(dict.fromkeys(name for spec in specs for name in spec))
    different = [name for name in names if len({repr(spec.get(name, _ABSENT)) for spec in specs}) > 1]
    return different, len(names) - len(different)


_ABSENT = object()


def diff_rows(
    runs: Sequence[tuple[str, str, Mapping[str, Any] | None]], width: int, height: int, skip: int = 0
) -> list[Row]:
    """The table.

    Args:
        runs: (letter, colour, flat spec; None while it is not read) in the order of the chart.
        width: columns.
        height: rows.
        skip: fields that are scrolled away.
    """
    letters = " | ".join(letter for letter, *_ in runs[:2]) + (" | ..." if len(runs) > 2 else "")
    title = fmt.both_ends((Span(" config diff", bold=True),), (Span(f"{letters} ", style.GREY),), width)
    known = [(letter, colour, spec) for letter, colour, spec in runs if spec is not None]
    if len(runs) < 2:
        return [title, (Span(" mark two runs or more (space, on screens 1, 2 and 4)", style.GREY),)][:height]
    if not known:
        return [title, (Span(" reading ...", style.GREY),)][:height]
    names, same = differing([spec for _, _, spec in known])
    left = min(max((len(name) for name in names), default=4), 22, max(8, width // 3))
    values = [[_text(spec, name) for name in names] for _, _, spec in known]
    fit: list[int] = []
    for column in values:
        wide = min(WIDEST, max([NARROWEST, *map(len, column)]))
        if left + 2 + sum(fit) + 2 * len(fit) + wide > width - 1:
            break
        fit.append(wide)
    head: list[Span] = [Span(" " * (left + 2))]
    for (letter, colour, _), wide in zip(known, fit, strict=False):
        head.append(Span(fmt.fit(letter, wide) + "  ", colour, bold=True))
    rows: list[Row] = [title, tuple(head)]
    foot = f" {same} fields agree"
    if len(fit) < len(known):
        foot += f", {len(known) - len(fit)} runs have no room"
    room = max(0, height - 3)
    shown = names[skip : skip + room]
    for name in shown:
        place = names.index(name)
        spans = [Span(f" {fmt.fit(name, left)} ", style.GREY)]
        spans += [Span(fmt.fit(values[run][place], wide) + "  ") for run, wide in enumerate(fit)]
        rows.append(tuple(spans))
    if skip + len(shown) < len(names):
        foot = f" {len(names) - skip - len(shown)} more: PgDn  {foot}"
    if not names:
        rows.append((Span(" no field differs: the same configuration", style.GREY),))
    rows.append((Span(foot, style.GREY),))
    return [fmt.shortened(row, width) for row in rows[:height]]


def _text(spec: Mapping[str, Any], name: str) -> str:
    if name not in spec:
        return "-"
    value = spec[name]
    counted = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) >= 10_000
    return f"{int(value):,}" if counted and value == int(value) else fmt.knob(value)
