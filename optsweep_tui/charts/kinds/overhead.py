"""What an optimizer costs against what it gains: time per step, FLOPs and state memory beside the speedup in tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from optsweep_tui.charts import style
from optsweep_tui.charts.figure import Axis, Figure, Panel, Reference, Series
from optsweep_tui.charts.kinds.common import (
    Row,
    Source,
    by_optimizer,
    flag_sentences,
    grouped,
    ratio_text,
    records,
    sigma_sentence,
)
from optsweep_tui.charts.kinds.states import bound_of, used_states
from optsweep_tui.charts.place import points


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One kind of cost."""

    column: str
    """Of the speedups."""
    label: str
    scale: float
    even: bool
    """A token speedup of 1 + cost pays for it exactly."""
    missing: str


COSTS = (
    Cost(
        column="step_overhead",
        label="extra time per token, %",
        scale=100.0,
        even=True,
        missing="time per token was not measured beside the baseline's (optsweep speedup --unit time says why)",
    ),
    Cost(
        column="flops_overhead",
        label="extra FLOPs per token, %",
        scale=100.0,
        even=True,
        missing="FLOPs of the update rule are not known (optsweep speedup --unit flops says why)",
    ),
    Cost(
        column="state_bytes_per_param",
        label="optimizer state, bytes per parameter",
        scale=1.0,
        even=False,
        missing="state memory was not recorded",
    ),
)

TIMINGS = {
    "LOADED": "come from a busy machine: equal runs differ by more than 10 % (LOADED)",
    "TIMED-ONCE": "were made once (TIMED-ONCE)",
}
"""Flags of speedups in seconds."""


def build(speedups: pd.DataFrame, times: pd.DataFrame, cells: pd.DataFrame, source: Source) -> Figure:
    """A panel per model and known cost. Where no speedup is known at all, the gain is the gap to the baseline in nats.

    Args:
        speedups: columns of `analysis.columns.SPEEDUP`, unit tokens.
        times: the same with unit time: how good the timings are.
        cells: columns of TABLE, for the gaps.
        source: of the data.
    """
    rows = records(speedups)
    gaps = {_key(row): row for row in records(cells)}
    by_gap = not any(row["state"] != "REFUSE" or row["bound"] for row in rows)
    for row in rows:
        own = gaps.get(_key(row), {})
        row["gap"], row["gap_low"], row["gap_high"] = (own.get(name) for name in ("gap", "gap_low", "gap_high"))
    looks = style.looks([row["optimizer"] for row in rows])
    panels: list[Panel] = []
    missing: dict[str, list[str]] = {}
    for title, members in grouped(rows):
        for cost in COSTS:
            if all(row[cost.column] is None for row in members):
                missing.setdefault(cost.missing, []).append(title)
                continue
            panels.append(_panel(title, members, cost, looks, source.baseline, by_gap))
    shown = [row for row in rows if by_gap or row["state"] != "REFUSE" or row["bound"]]
    caption = ["One point per cell of each optimizer."]
    if by_gap:
        caption.append(
            f"No speedup is known here ({_why(rows)}), so the gain is the gap to {source.baseline}; below 0 is better."
        )
    else:
        caption.append("Dashed: where the gain in tokens pays for the cost exactly; above it the optimizer gains.")
    caption += [sigma_sentence(shown), *flag_sentences(shown)]
    timed = [row for row in records(times) if row["step_overhead"] is not None]
    for flag, text in TIMINGS.items():
        found = sum(flag in (row["flags"] or ()) for row in timed)
        caption += [f"{found} of {len(timed)} timings {text}."] if found else []
    return Figure(
        kind="overhead",
        title="cost against gain",
        panels=panels,
        columns=3 if len(panels) == 3 else 2 if len(panels) > 1 else 1,
        keys=() if by_gap else used_states(rows),
        caption=caption,
        provenance=source.line,
        refused=[f"{', '.join(titles)}: {text}" for text, titles in missing.items()],
    )


def _key(row: Row) -> tuple[object, ...]:
    names = ("study", "engine", "model", "dataset_hash", "validation_set", "seq_len", "optimizer", "chinchilla")
    return tuple(row[name] for name in names)


def _why(rows: Sequence[Row]) -> str:
    return "; ".join(sorted({row["reason"] for row in rows})[:2]) or "no other optimizer"


def _panel(
    title: str, members: list[Row], cost: Cost, looks: dict[str, style.Look], baseline: str, by_gap: bool
) -> Panel:
    known = [row for row in members if row[cost.column] is not None]
    series: list[Series] = []
    for name, own in by_optimizer(known).items():
        series += _gaps(own, name, looks[name], cost) if by_gap else _gains(own, name, looks[name], cost)
    costs = [cost.scale * row[cost.column] for row in known]
    ends = np.array([min([0.0, *costs]), max([0.0, *costs])])
    ends = ends if ends[1] > ends[0] else np.array([0.0, 1.0])
    references = []
    if by_gap:
        references.append(Reference(x=ends, y=np.zeros(2), text=""))
    elif cost.even:
        references.append(Reference(x=ends, y=1.0 + ends / cost.scale, text="pays for itself"))
    else:
        references.append(Reference(x=ends, y=np.ones(2), text=""))
    ratios = sorted({row["chinchilla"] for row in known})
    shared = f", ratio {ratio_text(ratios[0])}" if len(ratios) == 1 else ""
    label = f"gap to {baseline}, nats/token" if by_gap else f"speedup over {baseline}, tokens"
    return Panel(
        title=f"{title}{shared}",
        x=Axis(label=cost.label, limits=(ends[0], ends[1])),
        y=Axis(label=label),
        series=series,
        references=references,
    )


def _gaps(own: list[Row], name: str, look: style.Look, cost: Cost) -> list[Series]:
    rows = [row for row in own if row["gap"] is not None]
    if not rows:
        return []
    return [
        Series(
            x=points([cost.scale * row[cost.column] for row in rows]),
            y=points([row["gap"] for row in rows]),
            low=points([row["gap_low"] for row in rows]),
            high=points([row["gap_high"] for row in rows]),
            look=look,
            name=name,
            data={"chinchilla": [row["chinchilla"] for row in rows]},
        )
    ]


def _gains(own: list[Row], name: str, look: style.Look, cost: Cost) -> list[Series]:
    found = []
    for state in ("INTERP", "EXTRAP", "REFUSE"):
        for direction in ("up", "down") if state == "REFUSE" else ("",):
            rows = [row for row in own if row["state"] == state and (not direction or bound_of(row)[1] == direction)]
            if not rows:
                continue
            bounds = [bound_of(row)[0] for row in rows]
            none = [math.nan] * len(rows)
            found.append(
                Series(
                    x=points([cost.scale * row[cost.column] for row in rows]),
                    y=points(bounds if direction else [row["speedup"] for row in rows]),
                    low=points(none if direction else [row["low"] for row in rows]),
                    high=points(none if direction else [row["high"] for row in rows]),
                    look=look,
                    name=name,
                    marks="solid" if state == "INTERP" else "hollow",
                    arrow="up" if direction == "up" else "down" if direction == "down" else "",
                    data={"state": state, "chinchilla": [row["chinchilla"] for row in rows]},
                )
            )
    return found
