"""Answers about single hyperparameters as text: stable values, edges, the curve of one knob."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optsweep_tui.cli import output, present

if TYPE_CHECKING:
    import pandas as pd

NOTHING_SWEPT = "no hyperparameter was tried at two values or more in the selected cells"
SHOWN = 3
"""Covers that a line of text lists; --json has all."""


def value(item: Any) -> str:
    """0.008, 256, true, "linear"."""
    if item is None:
        return "·"
    if isinstance(item, float) and not isinstance(item, bool):
        return f"{item:.6g}"
    return json.dumps(item)


def values(items: Iterable[Any]) -> str:
    """A list of values."""
    return " ".join(value(item) for item in items)


def scopes(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Rows that were judged together, by study, engine, data and length."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("study", "engine", "dataset", "dataset_hash", "validation_set", "seq_len"))
        found.setdefault(key, []).append(row)
    return list(found.values())


def head(row: Mapping[str, Any]) -> str:
    parts = [row["study"], row["engine"], row["dataset"], None if row["seq_len"] is None else f"seq {row['seq_len']:g}"]
    return "  ".join(str(part) for part in parts if part is not None)


def _own_flags(group: Sequence[dict[str, Any]]) -> Callable[[Mapping[str, Any]], list[str]]:
    """The flags of a row that not every row carries: those are said once, below."""
    everywhere = present.everywhere_flags(list(group))
    return lambda row: [flag for flag in row["flags"] or [] if flag not in everywhere]


def near_text(row: Mapping[str, Any]) -> str:
    return f"near-best: below a cell's smallest loss + {row['threshold']:g} nats"


# ---------------------------------------------------------------- stable


def print_stable(frame: pd.DataFrame) -> None:
    """One line per optimizer and knob: the values that do everywhere, or the smallest sets that do."""
    rows = output.records(frame)
    for group in scopes(rows):
        print(f"stable hyperparameters   {head(group[0])}   {near_text(group[0])}")
        output.print_table(
            ["optimizer", "knob", "verdict", "cells", "edges", "values, or smallest covering sets", "remarks"],
            [
                (
                    row["optimizer"],
                    row["knob"],
                    row["verdict"],
                    f"{row['n_judged']}/{row['n_cells']}",
                    sum(cell["edge"] for cell in row["cells"]) or "",
                    _covers(row),
                    row["reason"],
                )
                for row in group
            ],
            left=(0, 1, 2, 5, 6),
        )
        for line in _not_judged(group):
            print(f" {line}")
        present.print_flags(group)
        print(
            " cells: judged of those in which the knob was swept (two values or more); edges: its best value is an end there"
        )
        print()


def _covers(row: Mapping[str, Any]) -> str:
    if not row["covers"]:
        return "·"
    if row["stable"]:
        return " or ".join(value(item) for item in row["values"])
    sets = [f"{{{values(cover)}}}" for cover in row["covers"][:SHOWN]]
    more = len(row["covers"]) - SHOWN
    left = f" or {more} more" if more > 0 else ""
    return " or ".join(sets) + left + ("" if row["covers_complete"] else " ...")


def _not_judged(group: Sequence[Mapping[str, Any]]) -> list[str]:
    """Cells that were left out, once each with the knobs concerned."""
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for row in group:
        for cell in row["not_judged"]:
            key = (row["optimizer"], cell["model"], output.budget(cell), cell["reason"])
            found.setdefault(key, []).append(row["knob"])
    return [
        f"not judged: {optimizer} {model} {budget} ({', '.join(knobs)}): {reason}"
        for (optimizer, model, budget, reason), knobs in found.items()
    ]


# ---------------------------------------------------------------- edges


def print_edges(frame: pd.DataFrame) -> None:
    """One line per cell and knob whose best value is an unresolved end of its list."""
    rows = output.records(frame)
    if not rows:
        print("no edge: no swept knob has its best value at an end of its list that could be crossed")
        return
    for group in scopes(rows):
        own = _own_flags(group)
        cells = {(row["optimizer"], row["model"], row["chinchilla"]) for row in group}
        print(f"{len(group)} edges in {len(cells)} cells   {head(group[0])}")
        output.print_table(
            ["optimizer", "model", "ratio", "knob", "best", "end", "next", "gain nats", "list and remarks"],
            [
                (
                    row["optimizer"],
                    row["model"],
                    output.budget(row),
                    row["knob"],
                    value(row["value"]),
                    row["side"],
                    values(row["proposed"]) or "none",
                    _gain(row),
                    ", ".join(
                        [
                            f"{values(row['tried'])}: {row['spacing']} {row['step']:.4g}",
                            *_limits(row),
                            *_listed(row),
                            *own(row),
                        ]
                    ),
                )
                for row in group
            ],
            left=(0, 1, 3, 5, 8),
        )
        print(" gain: loss of the neighbour in the list minus the best one, what the last step to the end gained")
        if any(row["flat"] for row in group):
            print(f" ~ flat: gained less than the threshold of {group[0]['threshold']:g} nats")
        present.print_flags(group)
        print()


def _limits(row: Mapping[str, Any]) -> list[str]:
    """What the range did to the next value; the whole of it is in the column `note`."""
    if row["proposed"] and not row["clipped"]:
        return []
    return [row["note"].partition("; ")[2].partition("; ")[2]]


def _listed(row: Mapping[str, Any]) -> list[str]:
    """Where the cell's own best configuration is unpublished, its edges are those of the best that was listed."""
    if "UNLISTED" not in row["flags"]:
        return []
    return [f"of listed runs, {row['excess']:.4f} nats above the cell's loss"]


def _gain(row: Mapping[str, Any]) -> str:
    if row["gain"] is None:
        return f"{value(row['neighbour'])} {row['neighbour_state']}"
    return f"{row['gain']:+.4f}{'~' if row['flat'] else ''}"


# ---------------------------------------------------------------- sensitivity


def print_sensitivity(frame: pd.DataFrame, knob: str) -> None:
    """The curve of each cell, then the summary of each optimizer."""
    rows = output.records(frame)
    for group in scopes(rows):
        cells = [row for row in group if row["level"] == "cell"]
        own = _own_flags(cells)
        print(f"{knob}   {head(group[0])}   width: log2, within {group[0]['within']:g} nats of the best")
        output.print_table(
            ["optimizer", "model", "ratio", "best", "loss", "width", "2x", "0.5x", "noise", "nats above the best"],
            [
                (
                    row["optimizer"],
                    row["model"],
                    output.budget(row),
                    value(row["best"]),
                    "·" if row["best_loss"] is None else f"{row['best_loss']:.4f}",
                    row["width_text"] or "·",
                    _cost(row["cost_double"]),
                    _cost(row["cost_half"]),
                    "·" if row["noise_band"] is None else f"{row['noise_band']:.4f}",
                    ", ".join([_curve(row), *([] if row["width_text"] is not None else [row["reason"]]), *own(row)]),
                )
                for row in cells
            ],
            left=(0, 1, 9),
        )
        scales = {row["transform"] for row in cells}
        if "log(1-x)" in scales:
            print(f" {knob} lies near 1: width and factors are those of 1 - {knob}")
        print(" noise: single runs (n = 1) nearer than this are not told apart (1.645 sigma sqrt 2)")
        loud = sum((row["noise_band"] or 0.0) > row["within"] for row in cells)
        if loud:
            print(
                f" in {loud} of {len(cells)} cells the noise exceeds {group[0]['within']:g} nats: their widths are not resolved"
            )
        print(" >= the interval is open at an end of what was measured; · not measured there")
        print()
        print_summaries([row for row in group if row["level"] == "optimizer"])
        present.print_flags(group)


def print_summaries(rows: Sequence[Mapping[str, Any]]) -> None:
    """One line per optimizer."""
    if not rows:
        return
    output.print_table(
        ["optimizer", "cells", "median width", "range", "open", "median 2x", "median 0.5x", "remarks"],
        [
            (
                row["optimizer"],
                row["n_cells"],
                row["width_text"] or "·",
                _range(row, "width", 2),
                row["n_open"],
                f"{_cost(row['cost_double'])} ({row['n_double'] or 0})",
                f"{_cost(row['cost_half'])} ({row['n_half'] or 0})",
                row["reason"],
            )
            for row in rows
        ],
        left=(0, 7),
    )
    print(" in brackets: cells in which that value lies inside what was measured")


def _range(row: Mapping[str, Any], name: str, digits: int) -> str:
    low, high = row[f"{name}_min"], row[f"{name}_max"]
    return "·" if low is None else f"{low:.{digits}f} - {high:.{digits}f}"


def _cost(item: float | None) -> str:
    return "·" if item is None else f"{item:+.4f}"


def _curve(row: Mapping[str, Any]) -> str:
    parts = []
    for point in row["curve"]:
        if point["loss"] is None:
            parts.append(f"{value(point['value'])} {point['state']}")
        else:
            excess = point["excess"]
            parts.append(f"{value(point['value'])} {'best' if point['value'] == row['best'] else f'{excess:+.4f}'}")
    return "  ".join(parts)
