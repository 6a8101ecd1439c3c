"""One panel on paper: points with intervals, curves, bands, shades and arrows on matplotlib's axes."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.path import Path as Outline
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator
from matplotlib.transforms import Affine2D, blended_transform_factory

from optsweep_tui.charts import style
from optsweep_tui.charts.figure import Axis, Panel, Reference, Series
from optsweep_tui.charts.place import LEVEL, covered, drawn_x
from optsweep_tui.charts.ticks import axis_ticks

SMALL_POINTS, TINY_POINTS = 6.0, 4.5
ROW_INCHES = 0.17
"""Height of one row of a list."""
AROUND_INCHES = 0.45
"""What title and labels of a panel take."""
ROWS_INCHES = 0.55
"""What a list needs for its title and labels."""


def draw(axes: Axes, panel: Panel, inches: float) -> None:
    """Draw one panel.

    Args:
        axes: empty.
        panel: what to draw.
        inches: height of the panel with title and labels.
    """
    axes.set_title(panel.title, loc="left", pad=3)
    axes.set_xlabel(panel.x.label, labelpad=2)
    # A letter of 7 points is about 0.055 inches wide.
    axes.set_ylabel("\n".join(textwrap.wrap(panel.y.label, int((inches - AROUND_INCHES) / 0.055))), labelpad=2)
    if panel.x.log:
        axes.set_xscale("log")
    if panel.y.log:
        axes.set_yscale("log")
    across, along = covered(panel, "x"), covered(panel, "y")
    if panel.y.rows:  # rows are equally high beside a panel with more of them
        along = (along[0], along[0] + max(along[1] - along[0], (inches - ROWS_INCHES) / ROW_INCHES))
    axes.set_xlim(*across)
    axes.set_ylim(*(reversed(along) if panel.y.inverted else along))
    for shade in panel.shades:
        span = axes.axvspan if shade.axis == "x" else axes.axhspan
        span(shade.low, shade.high, facecolor=style.PALE_INK, alpha=0.15, linewidth=0, zorder=0)
    for band in panel.bands:
        axes.fill_between(
            band.x, band.low, band.high, color=band.look.paper, alpha=0.12 if band.pale else 0.25, linewidth=0, zorder=1
        )
    for line in panel.references:
        _reference(axes, line)
    for place, one in enumerate(reversed(panel.series)):
        _series(axes, one, panel, 3.0 + place / 100.0)
    _letters(axes, panel, across, along, inches)
    _ticks(axes, panel.x, across, "x")
    _ticks(axes, panel.y, along, "y")
    if panel.notes:
        axes.set_title("; ".join(panel.notes), loc="right", pad=3, fontsize=SMALL_POINTS - 0.5, color=style.PALE_INK)


def _reference(axes: Axes, line: Reference) -> None:
    if line.bar:
        axes.plot(line.x, line.y, color=style.PALE_INK, linewidth=4.0, alpha=0.35, solid_capstyle="round", zorder=1)
        return
    axes.plot(line.x, line.y, color=style.PALE_INK, linewidth=0.6, linestyle=(0, (4, 2)), zorder=1)
    if line.text and len(line.x):
        at, on_top = _leaving(axes, line.x, line.y)
        where: dict[str, Any] = {"ha": "left" if on_top else "right", "va": "top", "xytext": (1.5, -1.0)}
        if line.start:
            at = (max(float(line.x[0]), axes.get_xlim()[0]), float(np.interp(axes.get_xlim()[0], line.x, line.y)))
            above = line.start == "above"
            where = {"ha": "left", "va": "bottom" if above else "top", "xytext": (1.5, 4.5 if above else -1.0)}
        axes.annotate(
            line.text, at, textcoords="offset points", fontsize=SMALL_POINTS - 1, color=style.PALE_INK, **where
        )


def _leaving(axes: Axes, x: Any, y: Any) -> tuple[tuple[float, float], bool]:
    """Where a rising line of two points leaves the panel or ends, and whether it is at the top."""
    (x0, y0), (x1, y1) = axes.transData.transform(np.column_stack([x[[0, -1]], y[[0, -1]]]))
    right, top = axes.transAxes.transform((1.0, 1.0))
    shares = [
        (end - start) / (stop - start) if stop > start else 1.0 for start, stop, end in ((x0, x1, right), (y0, y1, top))
    ]
    share = min(1.0, *shares)
    found = axes.transData.inverted().transform((x0 + share * (x1 - x0), y0 + share * (y1 - y0)))
    return (float(found[0]), float(found[1])), shares[1] <= share and share < 1.0


LINES: dict[str, dict[str, Any]] = {
    "curve": {"linewidth": 1.1, "linestyle": "-"},
    "dashed": {"linewidth": 1.0, "linestyle": (0, (3, 1.5))},
    "guide": {"linewidth": 0.7, "linestyle": "-", "alpha": 0.45},
    "steps": {"linewidth": 1.0, "linestyle": "-", "drawstyle": "steps-post"},
    "pale": {"linewidth": 0.5, "linestyle": "-", "alpha": 0.3},
}


def _series(axes: Axes, one: Series, panel: Panel, order: float) -> None:
    x, y, colour = drawn_x(one, panel.x.log), one.y, one.look.paper
    if one.line != "none":
        kind = "pale" if one.pale and one.line == "curve" else one.line
        axes.plot(x, y, color=colour, zorder=order - (1 if one.pale else 0), **LINES[kind])
    if one.low is not None and one.high is not None:
        _bars(axes, x, one, order)
    if one.place == "top":
        _on_top(axes, x, one, order)
        return
    if one.marks != "none":
        look = _cross() if one.marks == "cross" else _shape(one)
        axes.plot(x, y, linestyle="none", zorder=order + 2, clip_on=False, **look, color=colour)
    if one.ends and len(x):
        axes.plot(x[-1:], y[-1:], zorder=order + 2, clip_on=False, **_shape(one), color=colour)
    if one.arrow:
        look = {"marker": arrow(one.arrow), "markersize": 17, "markeredgewidth": 0.9, "fillstyle": "none"}
        axes.plot(x, y, linestyle="none", zorder=order + 1, clip_on=False, color=colour, **look)
    for at, height, word in zip(x, y, one.text, strict=False):
        _word(axes, word, (at, height), (0, 2.8), TINY_POINTS, ha="center", va="bottom")


def _letters(axes: Axes, panel: Panel, across: tuple[float, float], along: tuple[float, float], inches: float) -> None:
    """The letters at the ends of curves, moved apart where they would cover each other."""
    ends = []
    for one in panel.series:
        good = np.flatnonzero(np.isfinite(one.y))
        if one.letters and len(good):
            at = (float(drawn_x(one, panel.x.log)[good[-1]]), float(one.y[good[-1]]))
            part = (at[0] - across[0]) / (across[1] - across[0])
            ends.append((round(20 * part), at[1], at, one.look))
    points_per_unit = 72.0 * (inches - AROUND_INCHES) / (along[1] - along[0])
    lowest: dict[int, float] = {}
    for column, y, at, look in sorted(ends, key=lambda end: end[:2]):
        place = max(y * points_per_unit, lowest.get(column, -np.inf))
        lowest[column] = place + SMALL_POINTS
        off = (2.0, place - y * points_per_unit)
        _word(axes, look.letter, at, off, SMALL_POINTS, ha="left", va="center", color=look.paper)


def _word(axes: Axes, word: str, at: tuple[float, float], off: tuple[float, float], points: float, **look: Any) -> None:
    """A word beside a point, `off` points of type away from it; it may stand beyond the panel's border."""
    if word:
        full: dict[str, Any] = {"color": style.INK, "annotation_clip": False} | look
        axes.annotate(word, at, xytext=off, textcoords="offset points", fontsize=points, **full)


def _shape(one: Series) -> dict[str, Any]:
    face = "white" if one.marks == "hollow" else one.look.paper
    size = 5.6 if one.large else 3.6
    return {"marker": one.look.marker, "markersize": size, "markeredgewidth": 0.75, "markerfacecolor": face}


def _cross() -> dict[str, Any]:
    return {"marker": "x", "markersize": 3.4, "markeredgewidth": 0.9}


def _on_top(axes: Axes, x: Any, one: Series, order: float) -> None:
    """Points whose y is not known, or lies above the panel: crosses, or arrows with the value beside them, in levels."""
    above = blended_transform_factory(axes.transData, axes.transAxes)
    part = 0.5 if one.marks == "cross" else 0.95  # an arrow begins at the foot of its level
    height = np.array([1.0 - LEVEL * (part + level) for level in one.levels or [0] * len(x)])
    look = _cross() if one.marks == "cross" else {"marker": arrow("up"), "markersize": 9.0, "fillstyle": "none"}
    axes.plot(x, height, linestyle="none", transform=above, zorder=order + 2, color=one.look.paper, **look)
    for at, there, word in zip(x, height, one.text, strict=False):
        _word(axes, word, (at, there), (1.5, 2.2), TINY_POINTS, xycoords=above, ha="left", va="center")


def _bars(axes: Axes, x: Any, one: Series, order: float) -> None:
    """Intervals; where an end is open the bar runs to the border of the panel."""
    assert one.low is not None and one.high is not None
    bottom, top = sorted(axes.get_ylim())
    known = np.isfinite(one.y) & ~np.isnan(one.low) & ~np.isnan(one.high)
    low, high = np.clip(one.low[known], bottom, top), np.clip(one.high[known], bottom, top)
    dashes: Any = "-" if one.marks == "solid" else (0, (1.5, 1.2))
    axes.vlines(x[known], low, high, color=one.look.paper, linewidth=0.8, linestyles=dashes, zorder=order, alpha=0.9)


def arrow(direction: str, *, centred: bool = False) -> Any:
    """An arrow that starts at the point, or lies around it; a marker's farthest part lies half its size away."""
    outline = Outline(
        [(0.0, 0.3), (0.0, 1.0), (-0.22, 0.72), (0.0, 1.0), (0.22, 0.72)],
        [Outline.MOVETO, Outline.LINETO, Outline.MOVETO, Outline.LINETO, Outline.LINETO],
    )
    degrees = {"up": 0.0, "left": 90.0, "down": 180.0, "right": -90.0}[direction]
    moved = Affine2D().translate(0.0, -0.65 if centred else 0.0)
    return outline.transformed(moved.rotate_deg(degrees))


def _ticks(axes: Axes, axis: Axis, limits: tuple[float, float], which: str) -> None:
    if axis.ticks is not None:
        pairs = [(value, text) for value, text in axis.ticks if limits[0] <= value <= limits[1]]
    else:
        pairs = axis_ticks(limits[0], limits[1], 5, axis.log)
    own = axes.xaxis if which == "x" else axes.yaxis
    own.set_major_locator(FixedLocator([value for value, _ in pairs]))
    own.set_ticklabels([text for _, text in pairs])
    own.set_minor_locator(NullLocator())
    own.set_minor_formatter(NullFormatter())
    if axis.rows:
        axes.tick_params(axis="y", length=0)
