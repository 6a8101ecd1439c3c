"""What a figure is, apart from where it is drawn: panels of points with intervals, curves with bands, shades, and words.

A builder of `charts.kinds` makes one from data frames; `charts.static` and `charts.files` draw it. Rules of the
description: points are solid only where the state is INTERP or no extrapolation is involved, hollow for EXTRAP; a bound
is a hollow point with an arrow; nothing stands in a figure that the frames do not hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from optsweep_tui.charts.chart import Floats
from optsweep_tui.charts.style import NEUTRAL, Look

Line: TypeAlias = Literal["none", "curve", "dashed", "guide", "steps"]
"""`curve`: computed all along; `dashed`: computed, but extrapolated; `guide`: only joins points, faint, and not drawn on
a terminal; `steps`: holds its value until the next point."""
Marks: TypeAlias = Literal["none", "solid", "hollow", "cross"]
"""`solid`: measured, or inside the baseline's budgets; `hollow`: extrapolated, or a bound; `cross`: no loss."""
Arrow: TypeAlias = Literal["", "up", "down", "left", "right"]
Place: TypeAlias = Literal["data", "top"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Series:
    """Points or a line of one look; all arrays have the shape [points]."""

    x: Floats
    y: Floats
    """NaN is a gap."""
    look: Look = NEUTRAL
    name: str = ""
    """Entry in the legend, said once per figure; empty = none."""
    line: Line = "none"
    marks: Marks = "solid"
    arrow: Arrow = ""
    """Where the truth lies, seen from each point: bounds, and knobs whose best value is at an edge."""
    low: Floats | None = None
    """Lower end of each y's interval; -inf or 0 on a log axis = open; NaN = none."""
    high: Floats | None = None
    shift: float = 0.0
    """Drawn so far right of x, so that intervals do not cover each other: in units of x, on a log axis in decades."""
    pale: bool = False
    """Stands behind the others."""
    ends: bool = False
    """Marks at the last point only: the curve has too many."""
    letters: bool = False
    """The look's letter stands at the end of the line."""
    large: bool = False
    """Points that must be found at a glance."""
    text: Sequence[str] = ()
    """A word above each point."""
    place: Place = "data"
    """`top`: y is not known, or out of scale, and the points stand at the top of the panel."""
    levels: Sequence[int] = ()
    """Of points at the top: 0 = the highest row, so that those of one x do not cover each other."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """What else the points say, for `--json`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Band:
    """An interval around a curve."""

    x: Floats
    low: Floats
    high: Floats
    look: Look = NEUTRAL
    pale: bool = False
    """Extrapolated."""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Shade:
    """A part of an axis where the baseline was not measured."""

    low: float
    high: float
    axis: Literal["x", "y"] = "x"


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """A line to compare with, with its name beside it."""

    x: Floats
    y: Floats
    text: str
    start: Literal["", "above", "below"] = ""
    """The text stands at the left end of the line, above or below it; empty = where the line ends or leaves the panel."""
    bar: bool = False
    """Thick and pale: joins what is tied."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis of a panel."""

    label: str
    """Name and unit."""
    log: bool = False
    ticks: Sequence[tuple[float, str]] | None = None
    """Positions and their labels; None = round numbers."""
    inverted: bool = False
    """Small values at the top."""
    rows: bool = False
    """The values are rows of a list: 0, 1, 2, ... from the top, one label each."""
    limits: tuple[float, float] | None = None
    """Smallest and largest value that must be seen, beside the data."""
    top: float | None = None
    """Data above it are out of scale."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
    """One pair of axes."""

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series] = ()
    """The first lies on top."""
    bands: Sequence[Band] = ()
    shades: Sequence[Shade] = ()
    references: Sequence[Reference] = ()
    notes: Sequence[str] = ()
    """A few words beside the title: how much was refused here."""

    @property
    def empty(self) -> bool:
        """Nothing to draw: no finite point, no curve."""
        return not any(
            np.isfinite(one.x).any() and (one.place == "top" or np.isfinite(one.y).any()) for one in self.series
        )


Key: TypeAlias = Literal["solid", "hollow", "bound", "shade", "edge", "cross"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Figure:
    """A whole figure."""

    kind: str
    title: str
    panels: Sequence[Panel]
    columns: int = 2
    """Panels side by side on paper."""
    keys: Sequence[tuple[Key, str]] = ()
    """What the marks mean: INTERP, EXTRAP, REFUSE."""
    caption: Sequence[str] = ()
    """Sentences: what is drawn, sigma with its source, flags."""
    on_paper: Sequence[str] = ()
    """Sentences about what only a figure file shows."""
    provenance: str = ""
    """Study, runs and version."""
    refused: Sequence[str] = ()
    """What could not be drawn, and why."""

    @property
    def empty(self) -> bool:
        return all(panel.empty for panel in self.panels)

    @property
    def names(self) -> dict[str, Look]:
        """The legend: each name once, in the order of first appearance."""
        found: dict[str, Look] = {}
        for panel in self.panels:
            for one in panel.series:
                if one.name:
                    found.setdefault(one.name, one.look)
        return found


def as_data(figure: Figure) -> dict[str, Any]:
    """The figure as plain data: everything that is drawn, and nothing about how."""
    return {
        "kind": figure.kind,
        "title": figure.title,
        "panels": [_panel_data(panel) for panel in figure.panels],
        "caption": list(figure.caption),
        "refused": list(figure.refused),
        "provenance": figure.provenance,
    }


def _panel_data(panel: Panel) -> dict[str, Any]:
    return {
        "title": panel.title,
        "x": panel.x.label,
        "y": panel.y.label,
        "series": [
            {
                "label": one.name,
                "line": one.line,
                "marks": one.marks,
                "arrow": one.arrow,
                "x": one.x.tolist(),
                "y": one.y.tolist(),
                "low": None if one.low is None else one.low.tolist(),
                "high": None if one.high is None else one.high.tolist(),
                **one.data,
            }
            for one in panel.series
        ],
        "bands": [
            {"x": band.x.tolist(), "low": band.low.tolist(), "high": band.high.tolist(), **band.data}
            for band in panel.bands
        ],
        "shades": [{"axis": shade.axis, "low": shade.low, "high": shade.high} for shade in panel.shades],
        "references": [{"text": line.text, "x": line.x.tolist(), "y": line.y.tolist()} for line in panel.references],
        "notes": list(panel.notes),
    }
