"""Where things stand in a panel: arrays of positions, series moved apart, and the range that an axis must show."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from optsweep_tui.charts.chart import Floats
from optsweep_tui.charts.figure import Panel, Series

LEVEL = 0.045
"""Height of one row of points at the top, as part of the panel."""


def points(values: Sequence[float]) -> Floats:
    """An array of floats; None is NaN."""
    return np.array([math.nan if value is None else float(value) for value in values], dtype=float)


def shift_of(place: int, count: int, gap: float, *, log: bool) -> float:
    """`Series.shift` of the `place`-th of `count` series that share their positions.

    Args:
        place: 0 .. count - 1.
        count: how many.
        gap: distance of two neighbouring positions, or their ratio on a log axis; at most 60 % of it is used.
        log: on a log axis.
    """
    share = (place - (count - 1) / 2) * min(0.1, 0.6 / max(1, count - 1))
    return share * (math.log10(gap) if log else gap)


def drawn_x(one: Series, log: bool) -> Floats:
    """Where the points of a series stand: x, moved by `shift`."""
    return one.x * 10.0**one.shift if log else one.x + one.shift


def smallest_gap(values: Sequence[float], *, log: bool, default: float) -> float:
    """The smallest distance, or ratio, of two different values."""
    known = sorted({value for value in values if math.isfinite(value) and (value > 0 or not log)})
    gaps = [high / low if log else high - low for low, high in itertools.pairwise(known)]
    return min((gap for gap in gaps if gap > (1.0 if log else 0.0)), default=default)


def covered(panel: Panel, axis: str, margin: float = 0.05) -> tuple[float, float]:
    """What an axis must show: points, bands, curves, finite ends of intervals, limits asked for; and a margin around.

    Args:
        panel: with something to draw.
        axis: "x" or "y".
        margin: part of the range at either side; positions in rows have none.
    """
    own = panel.x if axis == "x" else panel.y
    log = own.log
    parts: list[Floats] = [np.array(own.limits if own.limits is not None else (), dtype=float)]
    for one in panel.series:
        if axis == "x":
            parts.append(drawn_x(one, log))
        else:
            parts += [
                one.y if one.place == "data" else one.y[:0],
                *(end for end in (one.low, one.high) if end is not None),
            ]
    for band in panel.bands:
        parts += [band.x] if axis == "x" else [band.low, band.high]
    values = np.concatenate(parts)
    values = values[np.isfinite(values) & ((values > 0) | (not log))]
    if own.top is not None:
        values = values[values <= own.top]
    if not len(values):
        return (1.0, 10.0) if log else (0.0, 1.0)
    low, high = float(values.min()), float(values.max())
    if own.rows:
        return low, high
    if log:
        wide = (high / low) ** margin if high > low else 1.5
        return low / wide, high * wide
    wide = margin * (high - low) or abs(high) * 0.1 or 1.0
    rows = (
        0
        if axis == "x"
        else max((1 + max(one.levels, default=0) for one in panel.series if one.place == "top"), default=0)
    )
    room = min(0.5, LEVEL * rows)
    return low - wide, high + wide + (high - low + 2 * wide) * room / (1 - room)
