"""Final loss against budget, a panel per model: every optimizer's cells, and the baseline's curve with what is known of it."""

from __future__ import annotations

from typing import Any

import pandas as pd

from optsweep_tui.charts import style
from optsweep_tui.charts.figure import Axis, Band, Figure, Line, Panel, Reference, Series, Shade
from optsweep_tui.charts.kinds.common import (
    LOSS,
    RATIO,
    Row,
    Source,
    by_optimizer,
    grouped,
    ratio_text,
    records,
    sigma_sentence,
)
from optsweep_tui.charts.place import points, shift_of, smallest_gap

SLACK = 1e-4
"""Ratios are kept to five digits."""


def build(cells: pd.DataFrame, fits: pd.DataFrame, bands: pd.DataFrame, source: Source) -> Figure:
    """Cells as points, the fitted curve solid inside the baseline's budgets and dashed where it is extrapolated.

    Args:
        cells: columns of `analysis.columns.TABLE`.
        fits: columns of FIT.
        bands: columns of BAND.
        source: of the data.
    """
    rows = records(cells)
    looks = style.looks([*(row["optimizer"] for row in rows), source.baseline])
    curves = dict(grouped(records(bands)))
    fitted = {title: members[0] for title, members in grouped(records(fits))}
    panels, refused = [], []
    for title, members in grouped(rows):
        fit = fitted.get(title)
        if fit is not None and fit["state"] == "REFUSE":
            refused.append(f"{title}: no curve, {fit['reason']}")
        curve = curves.get(title, [])
        panels.append(_panel(title, members, curve, fit, looks, source.baseline))
        if curve and fit is not None:
            panels.append(_differences(title, members, curve, fit, looks, source.baseline))
    drawn = [fitted[title] for title, _ in grouped(rows) if title in fitted and fitted[title]["state"] == "FIT"]
    caption = ["Points: final validation loss of each cell, every one measured."]
    if drawn:
        caption.append(
            f"Line: L(c) = alpha c^-B + beta fitted to {source.baseline}; dashed and shaded: extrapolated, up to 1.5x "
            f"outside its budgets."
        )
        known = any(row["sigma"] is not None for row in drawn)
        caption += ["Band: 95 % profile limits of the curve."] if known else []
        caption.append(
            "Minus the curve: the same with the curve taken off; points of one budget stand side by side, hollow where the "
            "curve is extrapolated."
        )
        caption += _marks(drawn)
    caption.append(sigma_sentence(drawn or rows, intervals=False))
    return Figure(
        kind="ratio",
        title="final loss against budget",
        panels=panels,
        columns=2,
        keys=(("shade", "extrapolated"),) if drawn else (),
        caption=caption,
        provenance=source.line,
        refused=refused,
    )


def _panel(
    title: str, members: list[Row], curve: list[Row], fit: Row | None, looks: dict[str, style.Look], baseline: str
) -> Panel:
    series = [
        Series(
            x=points([row["chinchilla"] for row in own]),
            y=points([row["loss"] for row in own]),
            look=looks[name],
            name=name,
            data={"n": [row["n"] for row in own], "flags": [list(row["flags"] or ()) for row in own]},
        )
        for name, own in by_optimizer([row for row in members if row["loss"] is not None], last=baseline).items()
    ]
    bands: list[Band] = []
    for part, measured in _parts(curve):
        x, y = points([row["chinchilla"] for row in part]), points([row["loss"] for row in part])
        data: dict[str, Any] = {"state": "INTERP" if measured else "EXTRAP"}
        label = f"{baseline} fitted" if measured else ""
        kind: Line = "curve" if measured else "dashed"
        series.append(Series(x=x, y=y, look=looks[baseline], name=label, line=kind, marks="none", data=data))
        bands.append(_band(part, measured, looks[baseline], 0.0))
    ticks = sorted({row["chinchilla"] for row in members})
    return Panel(
        title=title,
        x=Axis(label=RATIO, log=True, ticks=[(value, ratio_text(value)) for value in ticks]),
        y=Axis(label=LOSS),
        series=series,
        bands=bands,
        shades=_shades(curve),
    )


def _differences(
    title: str, members: list[Row], curve: list[Row], fit: Row, looks: dict[str, style.Look], baseline: str
) -> Panel:
    """Loss of each cell minus the curve at its budget, where the curve is known: up to 1.5x outside its budgets."""
    low, high = curve[0]["chinchilla"] * (1 - SLACK), curve[-1]["chinchilla"] * (1 + SLACK)
    kept = [row for row in members if row["loss"] is not None and low <= row["chinchilla"] <= high]
    ratios = sorted({row["chinchilla"] for row in kept})
    gap = smallest_gap(ratios, log=True, default=2.0)
    own = by_optimizer(kept)
    series: list[Series] = []
    for place, (name, rows) in enumerate(own.items()):
        for measured in (True, False):
            part = [row for row in rows if _inside(row["chinchilla"], fit) is measured]
            if part:
                curve_there = [fit["alpha"] * row["chinchilla"] ** -fit["b"] + fit["beta"] for row in part]
                series.append(
                    Series(
                        x=points([row["chinchilla"] for row in part]),
                        y=points([row["loss"] - there for row, there in zip(part, curve_there, strict=True)]),
                        look=looks[name],
                        name=name,
                        marks="solid" if measured else "hollow",
                        shift=shift_of(place, len(own), gap, log=True),
                        data={"state": "INTERP" if measured else "EXTRAP"},
                    )
                )
    ends = points([curve[0]["chinchilla"], curve[-1]["chinchilla"]])
    return Panel(
        title=f"{title}, minus the curve",
        x=Axis(label=RATIO, log=True, ticks=[(value, ratio_text(value)) for value in ratios]),
        y=Axis(label=f"loss minus {baseline}'s curve, nats/token"),
        series=series,
        bands=[_band(part, measured, looks[baseline], 1.0) for part, measured in _parts(curve)],
        references=[Reference(x=ends, y=0.0 * ends, text="")],
    )


def _inside(ratio: float, fit: Row) -> bool:
    return bool(fit["chinchilla_low"] * (1 - SLACK) <= ratio <= fit["chinchilla_high"] * (1 + SLACK))


def _parts(curve: list[Row]) -> list[tuple[list[Row], bool]]:
    """(points, inside the budgets) of the curve below, inside and above them; neighbours share their border."""
    if not curve:
        return []
    inside = [place for place, row in enumerate(curve) if row["inside"]]
    first, last = inside[0], inside[-1]
    return [(curve[: first + 1], False), (curve[first : last + 1], True), (curve[last:], False)]


def _band(part: list[Row], measured: bool, look: style.Look, off: float) -> Band:
    """The band of a part of the curve, the curve itself taken off `off` times."""
    curve = points([row["loss"] for row in part])
    return Band(
        x=points([row["chinchilla"] for row in part]),
        low=points([row["low"] for row in part]) - off * curve,
        high=points([row["high"] for row in part]) - off * curve,
        look=look,
        pale=not measured,
        data={"state": "INTERP" if measured else "EXTRAP"},
    )


def _shades(curve: list[Row]) -> list[Shade]:
    """Where the curve is extrapolated."""
    if not curve:
        return []
    inside = [row["chinchilla"] for row in curve if row["inside"]]
    return [
        Shade(low=curve[0]["chinchilla"], high=inside[0]),
        Shade(low=inside[-1], high=curve[-1]["chinchilla"]),
    ]


MARKS = {
    "MISFIT": "the curve misses its points at p < .01 and sigma was widened",
    "exponent and floor not identified": "exponent and floor are not identified: nothing is claimed beyond the budgets",
    "UNTUNED": "a best value of the baseline lies at the edge of its sweep",
}
"""Flags of a fit, in words."""


def _marks(fits: list[Row]) -> list[str]:
    """What is wrong with the curves, in words, with the models it concerns."""
    found = []
    for flag, text in MARKS.items():
        models = [row["model"] for row in fits if flag in (row["flags"] or ())]
        if models:
            found.append(f"{', '.join(models)}: {text}.")
    return found
