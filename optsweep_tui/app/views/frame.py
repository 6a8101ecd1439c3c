"""The frame of every screen: title line, tabs, key line, and what to say where there is no room or no data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from optsweep_tui.app import format as fmt
from optsweep_tui.app.model import Snapshot, counts
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Row, Span

SMALLEST = (60, 15)
"""Columns and rows below which only a message is shown."""


def title(
    snapshot: Snapshot, study: str | None, width: int, note: str = "", found: Mapping[str, int] | None = None
) -> Row:
    """Program, study, and how its runs are doing.

    Args:
        found: runs of the study by group, as `model.counts` gives them; None counts them here.
    """
    if found is None:
        found = counts(snapshot.study(study) if study else snapshot.rows)
    left = [Span(" optsweep ", style.GREY), Span(f" {study or 'all runs'} ", bold=True)]
    if len(snapshot.studies) > 1:
        place = next((place for place, info in enumerate(snapshot.studies, 1) if info.name == study), 0)
        left.append(Span(f"{place}/{len(snapshot.studies)} ", style.GREY))
    if note:
        left.append(Span(f" {note}", style.GREY))
    if snapshot.loading:
        left.append(Span(f" reading {snapshot.read:,} of {snapshot.total:,} runs", style.GREY))
    return fmt.both_ends(tuple(left), count_spans(found), width)


def count_spans(found: Mapping[str, int]) -> Row:
    """2 run  12 wait  24 done  1 ✗."""
    found = Counter(found)
    spans = [
        Span(f"{found['run']} run", style.ALIVE if found["run"] else style.GREY, bold=bool(found["run"])),
        Span(f"  {found['wait']} wait", style.GREY),
        Span(f"  {found['done']} done", None if found["done"] else style.GREY),
    ]
    if found["other"]:
        spans.append(Span(f"  {found['other']} other", style.GREY))
    spans.append(Span(f"  {found['bad']} ✗ ", style.BAD if found["bad"] else style.GREY, bold=bool(found["bad"])))
    return tuple(spans)


def tabs(names: Sequence[tuple[str, str]], current: str, marked: int, width: int) -> Row:
    """1 Sweep  2 Runs ...; the current one reversed; marks are counted on the right."""
    spans: list[Span] = [Span(" ")]
    for key, name in names:
        here = name == current
        spans.append(Span(f" {key} {name} ", None if here else style.GREY, bold=here, reverse=here))
    right = (Span(f"{marked} marked ", style.ALIVE),) if marked else ()
    return fmt.both_ends(tuple(spans), right, width)


def tab_at(names: Sequence[tuple[str, str]], x: int) -> int | None:
    """Which tab of the row that `tabs` gives stands at a column."""
    start = 1
    for place, (key, name) in enumerate(names):
        end = start + len(key) + len(name) + 3
        if start <= x < end:
            return place
        start = end
    return None


def key_line(hints: Iterable[tuple[str, str]], width: int) -> Row:
    """Keys and what they do, as many as fit; the last two (help and quit) always do."""
    known = list(hints)
    last = known[-2:]
    room = width - 1 - sum(len(key) + len(text) + 3 for key, text in last)
    spans: list[Span] = [Span(" ")]
    for key, text in known[:-2]:
        room -= len(key) + len(text) + 3
        if room < 0:
            break
        spans += [Span(key, bold=True), Span(f" {text}  ", style.GREY)]
    for key, text in last:
        spans += [Span(key, bold=True), Span(f" {text}  ", style.GREY)]
    return fmt.cut(tuple(spans), width)


def too_small(width: int, height: int) -> list[Row]:
    """The message of a window without room."""
    said = f"optsweep needs a window of at least {SMALLEST[0]} x {SMALLEST[1]}, this one is {width} x {height}; q quits"
    lines = fmt.wrapped(said, min(width, 48))
    top = max(0, (height - len(lines)) // 2)
    return [*([()] * top), *((Span(line.center(width)),) for line in lines)]


LONG_COMMAND = 30
"""Characters; what is longer stands on a line of its own."""


def empty(root: str, width: int) -> list[Row]:
    """What to do in a workspace without runs."""
    here = [
        ("g", "open a grid: quickstart compares three optimizers in two to three minutes"),
        ("n", "cells of your own: optimizers x models x Chinchilla ratios"),
        ("ctrl+p", "everything that can be done"),
    ]
    elsewhere = [
        ("optsweep import reference", "published results to look at, in seconds"),
        ("optsweep quickstart", "the same comparison, on the command line"),
        ("optsweep run -o adamw,muon -m bench-micro -c 1/4", "cells of your own, on the command line"),
    ]
    rows: list[Row] = [(), (Span("  No runs yet in "), Span(root, bold=True)), ()]
    for title, steps in (("Here:", here), ("In another terminal, with the same workspace:", elsewhere)):
        rows += [(Span(f"  {title}", style.GREY),)]
        wide = max(len(command) for command, _ in steps if len(command) <= LONG_COMMAND) + 4
        for command, meaning in steps:
            if width >= wide + 36 and len(command) <= LONG_COMMAND:
                first, *more = fmt.wrapped(meaning, width - wide - 5)
                rows.append((Span(f"    {command.ljust(wide)}", bold=True), Span(first, style.GREY)))
                rows += [(Span(" " * (wide + 4) + line, style.GREY),) for line in more]
            else:
                rows += [(Span(f"    {command}", bold=True),), (Span(f"      {meaning}", style.GREY),)]
        rows.append(())
    rows.append((Span("  Runs appear here by themselves as soon as they are planned.", style.GREY),))
    return [fmt.cut(row, width) for row in rows]
