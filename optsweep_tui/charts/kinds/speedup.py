"""Speedup over the baseline: against model size, a panel per budget; or against budget, a panel per model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from optsweep_tui.charts import style
from optsweep_tui.charts.figure import Axis, Figure, Panel, Reference, Series
from optsweep_tui.charts.kinds.common import (
    GROUP,
    RATIO,
    Row,
    Source,
    by_optimizer,
    flag_sentences,
    grouped,
    ratio_text,
    records,
    sigma_sentence,
)
from optsweep_tui.charts.kinds.states import in_states, refusals, used_states
from optsweep_tui.charts.place import shift_of, smallest_gap

UNITS = {"tokens": "tokens", "flops": "FLOPs", "time": "seconds"}
SIZE = "non-embedding parameters N"


def build(speedups: pd.DataFrame, source: Source, *, x: str | None = None, unit: str = "tokens") -> Figure:
    """Points with intervals, hollow where extrapolated.

    Args:
        speedups: columns of `analysis.columns.SPEEDUP`.
        source: of the data.
        x: "size" or "ratio"; None = size where two models or more have one budget in common, else ratio.
        unit: "tokens", "flops" or "time".
    """
    rows = records(speedups)
    shown = [row for row in rows if row["state"] != "REFUSE" or row["bound"]]
    sizes = _by_ratio(rows)
    if x is None:
        x = "size" if any(len({row["model"] for row in members}) > 1 for _, members in sizes) else "ratio"
    looks = style.looks([row["optimizer"] for row in rows])
    slots = sorted({row["optimizer"] for row in shown})
    label = f"speedup over {source.baseline}, {UNITS[unit]}"
    if x == "size":
        panels = [_panel(title, members, "params", label, looks, slots) for title, members in sizes]
    else:
        panels = [_panel(title, members, "chinchilla", label, looks, slots) for title, members in grouped(rows)]
    panels = [panel for panel in panels if not panel.empty] or panels
    against = "model size" if x == "size" else "budget"
    caption = [
        f"How many times fewer {UNITS[unit]} than {source.baseline} for the same final loss. Points of one {against} stand "
        f"side by side."
    ]
    caption += [sigma_sentence(shown), *flag_sentences(shown)]
    return Figure(
        kind="speedup",
        title=f"{label}, against {against}",
        panels=panels,
        columns=2,
        keys=used_states(rows),
        caption=caption,
        on_paper=[f"Faint lines only join the points inside {source.baseline}'s budgets."],
        provenance=source.line,
        refused=refusals(rows),
    )


def _by_ratio(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Rows by budget; models of one budget belong together where they agree in everything else."""
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        key = tuple(row[name] for name in GROUP if name != "model")
        found.setdefault((*key, float(f"{row['chinchilla']:.4g}")), []).append(row)
    several = len({key[:-1] for key in found}) > 1
    named = []
    for key, members in sorted(found.items(), key=lambda item: (str(item[0][:-1]), item[0][-1])):
        extra = f", {members[0]['study']} {members[0]['engine'] or ''} {members[0]['dataset'] or ''}" if several else ""
        named.append((f"Chinchilla ratio {key[-1]:g}{extra}".rstrip(), members))
    return named


def _panel(title: str, members: list[Row], x: str, label: str, looks: dict[str, style.Look], slots: list[str]) -> Panel:
    """One panel; every optimizer has the same slot beside a tick in all of them."""
    kept = [row for row in members if row[x]]
    places = sorted({float(row[x]) for row in kept})
    gap = smallest_gap(places, log=True, default=2.0)
    own = by_optimizer([row for row in kept if row["state"] != "REFUSE" or row["bound"]])
    series: list[Series] = []
    for name, rows in own.items():
        shift = shift_of(slots.index(name), len(slots), gap, log=True)
        series += in_states(sorted(rows, key=lambda row: row[x]), name, looks[name], x, None, shift)
    ticks = [(value, _tick(value, kept, x)) for value in places]
    ends = np.array([places[0] / gap**0.5, places[-1] * gap**0.5]) if places else np.empty(0)
    one = Reference(x=ends, y=np.ones(len(ends)), text="")
    refused = sum(row["state"] == "REFUSE" and not row["bound"] for row in members)
    return Panel(
        title=title,
        x=Axis(label=SIZE if x == "params" else RATIO, log=True, ticks=ticks, limits=tuple(ends) if places else None),
        y=Axis(label=label),
        series=series,
        references=[one],
        notes=[f"{refused} cells refused"] if refused else [],
    )


def _tick(value: float, rows: Sequence[Row], x: str) -> str:
    if x == "chinchilla":
        return ratio_text(value)
    names = sorted({str(row["model"]) for row in rows if row["params"] == value})
    return "/".join(names)
