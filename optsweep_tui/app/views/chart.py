"""A live chart as a model: which axis, which part of it, how smooth; from series to the rows of one frame."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from optsweep_tui.charts.chart import Curve, Extent, Floats, Row, View, extent
from optsweep_tui.charts.raster import BitCache, plot_size, rasterise
from optsweep_tui.charts.reduce import NOTHING_BEFORE, Carry, smoothed_on
from optsweep_tui.charts.ticks import SteadyScale
from optsweep_tui.live.runstore import Series

AXIS_NAMES = {"tokens": "tokens", "train_seconds": "seconds", "step": "steps", "flops": "model FLOPs"}
"""What a curve can be drawn against, in the order in which a key steps through."""
AXES = tuple(AXIS_NAMES)
LATE = 0.1
"""The first part of the x range does not decide the y range: a loss falls from ln(vocabulary) and hides the rest."""
ZOOM = 0.5
SPIKE = "▲"
KEPT_SMOOTH = 16
"""Smoothed curves that may stay beside those of the chart: marks come and go."""
MOST_RAW = 4
"""With more curves than this the raw data behind the smoothed ones would hide them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Line:
    """One curve before it is drawn."""

    run_id: str
    series: Series
    colour: str
    letter: str = ""
    end: float | None = None
    """Where the run will end on the current axis; None when that is not planned."""
    spikes: Floats | None = None
    """Steps at which the run reported a spike."""


def spiked(line: Line) -> npt.NDArray[np.intp]:
    """Places of the points at which, or just after which, the run reported spikes."""
    if line.spikes is None:
        return np.empty(0, np.intp)
    places = np.searchsorted(line.series.steps, line.spikes, side="right") - 1
    return np.unique(places[places >= 0])


def along(series: Series, factor: float) -> Series:
    """The same points with x times a factor: tokens as FLOPs."""
    return replace(series, x=series.x * factor)


@dataclass(frozen=True, eq=False)
class _Smooth:
    """A smoothed curve, and what is needed to go on with it when points are added."""

    kind: tuple[int, str, str, float]
    """Epoch of the data, axis (where it matters), metric, tau."""
    buffer: Floats
    """The curve, and room for more behind it: nothing that was handed out is ever changed."""
    used: int
    carry: Carry

    @property
    def values(self) -> Floats:
        return self.buffer[: self.used]

    def longer(self, new: Floats, carry: Carry) -> _Smooth:
        """With more points at the end."""
        used, buffer = self.used + len(new), self.buffer
        if used > len(buffer):
            buffer = np.empty(used + used // 4)
            buffer[: self.used] = self.values
        buffer[self.used : used] = new
        return _Smooth(kind=self.kind, buffer=buffer, used=used, carry=carry)


@dataclass
class ChartModel:
    """The state of one chart: what keys change, and what keeps the axes steady from frame to frame."""

    metric: str = "train_loss"
    axis: str = "tokens"
    x_log: bool = False
    y_log: bool = False
    whole_y: bool = False
    """False: y fits what lies behind the first tenth of x."""
    tau: float = 0.0
    """Time constant of the smoothing, steps; 0 = none."""
    window: tuple[float, float] = (0.0, 1.0)
    """Visible part of the x axis."""
    crosshair: float | None = None
    """Place of the crosshair in the visible part, 0..1."""
    name_axis: bool = False
    """Write the unit of x at the axis; where a status line says it, the room is for tick labels."""
    view: View | None = None
    """What was drawn last."""
    smoothing_chosen: bool = False
    """The user has chosen a smoothing; until then it follows the length of the runs."""
    _x: SteadyScale = field(default_factory=lambda: SteadyScale(shrink_below=0.4))
    _y: SteadyScale = field(default_factory=SteadyScale)
    _cache: BitCache = field(default_factory=BitCache)
    _smooth: dict[str, _Smooth] = field(default_factory=dict)
    _drawn: tuple[Hashable, list[Row]] | None = None
    """What the last frame was made of, and the frame."""

    # ------------------------------------------------------------ keys

    def next_axis(self) -> None:
        """tokens, seconds, steps, FLOPs in turn."""
        self.axis = AXES[(AXES.index(self.axis) + 1) % len(AXES)]
        self.reset()

    def follow(self, lead: ChartModel) -> None:
        """The same x axis, smoothing and crosshair as another chart: they are looked at together."""
        for name in ("axis", "x_log", "tau", "window", "crosshair", "smoothing_chosen"):
            if getattr(self, name) != getattr(lead, name):
                setattr(self, name, getattr(lead, name))
                if name != "crosshair":
                    self._y.forget()

    def toggle_log(self, axis: str) -> None:
        """Linear or logarithmic."""
        if axis == "x":
            self.x_log = not self.x_log
            self.window = (0.0, 1.0)
            self._x.forget()
        else:
            self.y_log = not self.y_log
        self._y.forget()

    def reset(self) -> None:
        """Back to everything."""
        self.window = (0.0, 1.0)
        self._x.forget()
        self._y.forget()

    def forget_scale(self) -> None:
        """Other data: find the y range anew."""
        self._y.forget()

    def zoom(self, factor: float, at: float | None = None) -> None:
        """Show less (factor < 1) or more of x, around a place 0..1, else the crosshair, else the newest data."""
        low, high = self.window
        if at is None:
            at = self.crosshair if self.crosshair is not None else 1.0
        centre = low + (high - low) * at
        width = min(1.0, max(1e-4, (high - low) * factor))
        start = min(max(0.0, centre - width * ((centre - low) / (high - low))), 1.0 - width)
        self.window = (start, start + width)
        self._y.forget()

    def select(self, first: float, last: float) -> None:
        """Show what lies between two places 0..1 of the visible part."""
        low, high = self.window
        first, last = sorted((min(1.0, max(0.0, first)), min(1.0, max(0.0, last))))
        if (last - first) * (high - low) >= 1e-4:
            self.window = (low + (high - low) * first, low + (high - low) * last)
            self._y.forget()

    def move(self, part: float) -> None:
        """Move the window by a part of itself."""
        low, high = self.window
        start = min(max(0.0, low + part * (high - low)), 1.0 - (high - low))
        self.window = (start, start + high - low)
        self._y.forget()

    def pan(self, columns: int) -> None:
        """Move the crosshair by columns; without one, the window by a tenth."""
        if self.crosshair is not None:
            cells = plot_size(self.view)[0] if self.view else 100
            self.crosshair = min(1.0, max(0.0, self.crosshair + columns / cells))
        else:
            self.move(0.1 * columns)

    def smoother(self, longest: int, direction: int) -> None:
        """The next time constant of the ladder: off, then 1-2-5 from 1 % to 25 % of the longest run's steps."""
        self.smoothing_chosen = True
        ladder = smoothing_ladder(longest)
        place = min(range(len(ladder)), key=lambda place: abs(ladder[place] - self.tau))
        self.tau = ladder[min(max(0, place + direction), len(ladder) - 1)]

    def suggest_smoothing(self, longest: int) -> None:
        """About 5 % of the longest run, until the user chooses: enough to tell noisy curves apart."""
        if not self.smoothing_chosen:
            self.tau = min(smoothing_ladder(longest), key=lambda tau: abs(tau - longest / 20))

    # ------------------------------------------------------------ frame

    def crosshair_x(self) -> float | None:
        """Value of x under the crosshair."""
        if self.crosshair is None or self.view is None:
            return None
        return _between(self.view.x_range, self.crosshair, self.view.x_log)

    def frame(
        self, lines: Sequence[Line], width: int, height: int, full: tuple[float, float] | None = None
    ) -> list[Row]:
        """One frame of `height` rows; empty while there is nothing to draw.

        Args:
            full: the whole x axis, where it is shared with other charts; None = what these lines need.
        """
        curves = self._curves(lines)
        full = full or self.full_x(lines)
        if full is None:
            self.view = None
            return []
        x_range = _between(full, self.window[0], self.x_log), _between(full, self.window[1], self.x_log)
        y_range = self._y_range(curves, x_range)
        view = View(
            width=width,
            height=height,
            x_range=x_range,
            y_range=y_range,
            x_log=self.x_log,
            y_log=self.y_log,
            unit=AXIS_NAMES[self.axis] if self.name_axis else "",
        )
        self.view = view
        if len(self._smooth) > 2 * len(lines) + KEPT_SMOOTH:  # of curves that have left the chart
            drawn = {line.run_id for line in lines}
            self._smooth = {run_id: kept for run_id, kept in self._smooth.items() if run_id in drawn}
        view = replace(view, crosshair=self.crosshair_x())
        made_of = (view, tuple((curve.key, curve.colour, curve.letter) for curve in curves))
        if self._drawn is None or self._drawn[0] != made_of:
            self._drawn = (made_of, rasterise(curves, view, self._cache))
        return list(self._drawn[1])

    def shown_y(self, line: Line) -> Floats:
        """The line as it is drawn: smoothed, or not."""
        series = line.series
        if self.tau <= 0:
            return np.asarray(series.y, np.float64)
        known = self._smooth.get(line.run_id)
        kind = (series.epoch, "" if series.x_complete else self.axis, self.metric, self.tau)
        if known is None or known.kind != kind or known.used > len(series.y):
            known = _Smooth(kind=kind, buffer=np.empty(0), used=0, carry=NOTHING_BEFORE)
        done = known.used
        if done < len(series.y):
            new, carry = smoothed_on(
                series.steps[done:], np.asarray(series.y[done:], np.float64), self.tau, known.carry
            )
            known = self._smooth[line.run_id] = known.longer(new, carry)
        return known.values

    def value_at(self, line: Line, x: float) -> float | None:
        """The drawn value at or just before x; None before the first and after the last point."""
        series = line.series
        place = int(np.searchsorted(series.x, x * (1 + 1e-12), side="right")) - 1
        if place < 0 or x > series.x[-1] * (1 + 1e-9):
            return None
        value = float(self.shown_y(line)[place])
        return value if math.isfinite(value) else None

    def last_value(self, line: Line) -> float | None:
        """The newest drawn value that is a number."""
        values = self.shown_y(line)
        finite = np.flatnonzero(np.isfinite(values[-64:]))
        return float(values[-64:][finite[-1]]) if finite.size else None

    def _curves(self, lines: Sequence[Line]) -> list[Curve]:
        curves = []
        for line in lines:
            series, values = line.series, self.shown_y(line)
            key = (line.run_id, series.version, self.metric, self.axis, self.tau)
            curves.append(
                Curve(x=series.x, y=values, colour=line.colour, letter=line.letter, dashed_to=_before(series), key=key)
            )
        if self.tau > 0 and len(lines) <= MOST_RAW:
            for line in lines:
                series = line.series
                raw_key = (line.run_id, series.version, self.metric, self.axis, "raw")
                y = np.asarray(series.y, np.float64)
                curves.append(
                    Curve(x=series.x, y=y, colour=line.colour, dim=True, dashed_to=_before(series), key=raw_key)
                )
        return curves + [mark for line in lines if line.spikes is not None for mark in self._spike_marks(line)]

    def _spike_marks(self, line: Line) -> list[Curve]:
        """A mark where the run reported a spike, at the height of the curve there."""
        series, places = line.series, spiked(line)
        y = self.shown_y(line)[places]
        key = (line.run_id, series.version, series.epoch, self.metric, self.axis, self.tau, "spikes", tuple(places))
        mark = Curve(x=series.x[places], y=y, colour=line.colour, letter=SPIKE, points=True, key=key)
        return [mark] if len(places) else []

    def full_x(self, lines: Sequence[Line]) -> tuple[float, float] | None:
        """The whole x axis: to where the longest run will end, so that it stands still while they run."""
        if not lines:
            return None
        high = max(max(float(line.series.x[-1]), line.end or 0.0) for line in lines)
        if not self.x_log:
            if all(line.end is not None for line in lines):
                return (0.0, high) if high > 0 else None
            return self._x.fit(0.0, high) if high > 0 else None
        firsts = [line.series.x[np.searchsorted(line.series.x, 0.0, "right") :][:1] for line in lines]
        low = min((float(first[0]) for first in firsts if first.size), default=math.inf)
        return (low, high) if low < high else None

    def _y_range(self, curves: Sequence[Curve], x_range: tuple[float, float]) -> tuple[float, float]:
        main = [curve for curve in curves if not curve.dim and not curve.points]
        late = (_between(x_range, LATE, self.x_log), x_range[1])
        found = extent(main, x_range if self.whole_y or self.x_log else late)
        if _useless(found, self.y_log):
            found = extent(main, x_range)
        if _useless(found, self.y_log):
            return (0.1, 10.0) if self.y_log else (0.0, 1.0)
        return self._y.fit(found.positive_y if self.y_log else found.y[0], found.y[1], self.y_log)


def shared_x(charts: Iterable[tuple[ChartModel, Sequence[Line]]]) -> tuple[float, float] | None:
    """One x axis for several charts: from the smallest to the largest that any of them needs."""
    found = [full for model, lines in charts if (full := model.full_x(lines)) is not None]
    return (min(low for low, _ in found), max(high for _, high in found)) if found else None


def smoothing_ladder(longest: int) -> list[float]:
    """Time constants in steps: 0, then 1-2-5 values from about 1 % to 25 % of the longest run."""
    values = [0.0]
    for power in range(7):
        for multiple in (1, 2, 5):
            tau = float(multiple * 10**power)
            if longest / 150 <= tau <= longest / 4:
                values.append(tau)
    return values


def _before(series: Series) -> float:
    """x of the last point of an earlier attempt."""
    return float(series.x[series.newest_from - 1]) if series.newest_from else -math.inf


def _useless(found: Extent, log: bool) -> bool:
    return found.empty or (log and not math.isfinite(found.positive_y))


def _between(ends: tuple[float, float], part: float, log: bool) -> float:
    low, high = ends
    if log:
        return float(low * (high / low) ** part)
    return low + (high - low) * part


def unit_of(metric: str) -> str:
    """The metric with its unit, where it has one."""
    return f"{metric}, nats/token" if metric.endswith("_loss") else metric
