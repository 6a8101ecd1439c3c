"""D_eff against D: how many tokens the baseline needs for the loss that a cell reached with its own."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from optsweep_tui.charts import style
from optsweep_tui.charts.figure import Axis, Figure, Panel, Reference, Series, Shade
from optsweep_tui.charts.kinds.common import Row, Source, by_optimizer, flag_sentences, grouped, records, sigma_sentence
from optsweep_tui.charts.kinds.states import in_states, refusals, used_states

LINES = (1.0, 1.2, 1.3, 1.4)
"""Speedups that lines are drawn for."""
REACH = 1.5
"""How far outside the baseline's budgets D_eff is extrapolated (analysis.md)."""


def build(speedups: pd.DataFrame, fits: pd.DataFrame, source: Source) -> Figure:
    """One panel per model.

    Args:
        speedups: columns of `analysis.columns.SPEEDUP`, unit tokens.
        fits: columns of FIT.
        source: of the data.
    """
    rows = records(speedups)
    looks = style.looks([row["optimizer"] for row in rows])
    fitted = {title: members[0] for title, members in grouped(records(fits))}
    panels = [_panel(title, members, fitted.get(title), looks, source.baseline) for title, members in grouped(rows)]
    shown = [row for row in rows if row["state"] != "REFUSE" or row["bound"]]
    caption = [
        f"D_eff: tokens after which {source.baseline}'s fitted curve has the cell's loss. Lines: D_eff = 1.0, 1.2, 1.3 and "
        f"1.4 D. Shaded: outside {source.baseline}'s budgets, up to 1.5x.",
        sigma_sentence(shown),
        *flag_sentences(shown),
    ]
    return Figure(
        kind="deff",
        title=f"D_eff over {source.baseline} against D",
        panels=panels,
        columns=2,
        keys=used_states(rows),
        caption=caption,
        provenance=source.line,
        refused=refusals(rows),
    )


def _panel(title: str, members: list[Row], fit: Row | None, looks: dict[str, style.Look], baseline: str) -> Panel:
    series: list[Series] = []
    for name, own in by_optimizer(members).items():
        series += in_states(own, name, looks[name], x="tokens", factor="tokens", shift=0.0, line=False)
    known = [float(value) for one in series for value in one.x if math.isfinite(value)]
    references, shades = [], []
    if known:
        ends = np.array([min(known) / 1.25, max(known) * 1.25])
        references = [
            Reference(x=ends, y=ends * factor, text=f"{factor:g}x", start="above")
            if factor == LINES[-1]
            else Reference(x=ends, y=ends * factor, text=f"{factor:g}x" if factor == LINES[0] else "", start="below")
            for factor in LINES
        ]
    budgets = [row["tokens"] for row in members if row["tokens"]]
    if fit is not None and fit["state"] == "FIT" and budgets:
        # Tokens per unit of the ratio, from any cell: D = 20 N c.
        row = next(row for row in members if row["tokens"] and row["chinchilla"])
        per_ratio = row["tokens"] / row["chinchilla"]
        low, high = fit["chinchilla_low"] * per_ratio, fit["chinchilla_high"] * per_ratio
        shades = [Shade(low=low / REACH, high=low, axis="y"), Shade(low=high, high=high * REACH, axis="y")]
    return Panel(
        title=title,
        x=Axis(label="D, tokens trained", log=True),
        y=Axis(label=f"D_eff, tokens {baseline} needs", log=True),
        series=series,
        references=references,
        shades=shades,
        notes=_note(members),
    )


def _note(members: list[Row]) -> list[str]:
    refused = sum(row["state"] == "REFUSE" and not row["bound"] for row in members)
    return [f"{refused} cells refused"] if refused else []
