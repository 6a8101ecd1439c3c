"""How far a baseline's curve can be trusted: other solvers, each point predicted by the others, the line between points."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from optsweep_tui.analysis.baselines import MIN_BUDGETS, Baseline, Baselines
from optsweep_tui.analysis.families import Families
from optsweep_tui.analysis.law import Curves, Points, fitted
from optsweep_tui.analysis.noise import Floats
from optsweep_tui.analysis.solvers import Observed, Solved, huber_log, multistart


def solver_reports(found: Baselines) -> dict[int, dict[str, Any]]:
    """Row -> each solver's parameters in ratio units, and the largest difference of their curves at its points, nats."""
    reports = {}
    for family in range(len(found.families)):
        rows = found.families.members(np.array([family]))[0].tolist()
        if all(found.fitted_items[row].refusal for row in rows):
            continue
        observed = [_observed(found.points, row, len(found.fitted_items[row].points)) for row in rows]
        answers = _answers(tuple((curve.u.tobytes(), curve.y.tobytes(), curve.w.tobytes()) for curve in observed))
        for place, row in enumerate(rows):
            varpro = Solved(
                amplitude=float(found.curves.amplitude[row]),
                b=float(found.curves.b[row]),
                beta=float(found.curves.beta[row]),
                starts=1,
                agreeing=1,
            )
            solved = {name: answer[place] if answer else None for name, answer in answers.items()}
            reports[row] = _report(varpro, solved, observed[place].u, c_min(found.fitted_items[row]))
    return reports


@functools.lru_cache(maxsize=256)
def _answers(curves: tuple[tuple[bytes, bytes, bytes], ...]) -> dict[str, list[Solved] | None]:
    """The other solvers' answers for curves given by their float64 (u, y, w): a chart and a table ask for the same ones."""
    observed = [Observed(u=np.frombuffer(u), y=np.frombuffer(y), w=np.frombuffer(w)) for u, y, w in curves]
    return {"huber_log": huber_log(observed), "multistart": multistart(observed)}


def _observed(points: Points, row: int, k: int) -> Observed:
    return Observed(u=points.u[row, :k], y=points.y[row, :k], w=points.w[row, :k])


def _report(varpro: Solved, others: dict[str, Solved | None], u: Floats, smallest: float) -> dict[str, Any]:
    report: dict[str, Any] = {"varpro": _parameters(varpro, smallest)}
    difference = 0.0
    for name, solved in others.items():
        if solved is None:
            report[name] = None
            continue
        difference = max(difference, float(np.abs(solved.loss(u) - varpro.loss(u)).max()))
        report[name] = _parameters(solved, smallest) | {"starts": solved.starts, "agreeing": solved.agreeing}
    return report | {"max_difference": difference}


def _parameters(solved: Solved, smallest: float) -> dict[str, Any]:
    return {"alpha": null(alpha(solved.amplitude, solved.b, smallest)), "b": solved.b, "beta": solved.beta}


def c_min(item: Baseline) -> float:
    """Smallest ratio of the fit, from tokens and parameters where both are known (the ratio is kept to five digits)."""
    first = item.points[0]
    return first.tokens / (20.0 * first.params) if first.params > 0 else first.chinchilla


def alpha(amplitude: float, b: float, smallest: float) -> float:
    """The amplitude at ratio 1, nats; NaN where the ratio is not known."""
    return float(amplitude * math.exp(b * math.log(smallest))) if smallest > 0 else math.nan


def leave_one_out(found: Baselines, item: Baseline) -> list[dict[str, float | None]]:
    """Each point predicted by the curve through the others, and by the line between its neighbours.

    Where models share an exponent, the others' points hold it up.
    """
    k = len(item.points)
    rows = found.families.members(found.families.of[found.row(item)])[0]
    if k <= MIN_BUDGETS and len(rows) == 1:
        return []
    place = int(np.flatnonzero(rows == item.row)[0])
    part, own = found.points.take(rows), np.arange(k) * len(rows) + place
    # One copy of the family per point left out.
    copies = part.take(np.tile(np.arange(len(rows)), k))
    w = copies.w.copy()
    w[own, np.arange(k)] = 0.0
    without = fitted(Points(u=copies.u, y=copies.y, w=w), Families.numbered(np.repeat(np.arange(k), len(rows))))
    predicted = without.take(own).loss(part.u[place, :k])
    return [
        {
            "chinchilla": cell.chinchilla,
            "predicted": float(value),
            "loss": cell.loss,
            "error": float(value - cell.loss),
            "interpolated": null(_interpolated(np.delete(part.u[place, :k], at), np.delete(item.losses, at), u)),
        }
        for at, (cell, value, u) in enumerate(zip(item.points, predicted, part.u[place, :k], strict=True))
    ]


def _interpolated(u: Floats, losses: Floats, at: float) -> float:
    """Straight lines in (log c, loss); NaN outside the points."""
    return float(np.interp(at, u, losses, left=math.nan, right=math.nan))


def between(item: Baseline, curve: Curves) -> list[dict[str, float]]:
    """Curve and straight line at the geometric middle of every two neighbouring budgets.

    Args:
        item: the baseline.
        curve: its one curve.
    """
    u = np.log(item.tokens / item.tokens[0])
    middles, smallest = (u[1:] + u[:-1]) / 2, c_min(item)
    lines, curves = (item.losses[1:] + item.losses[:-1]) / 2, curve.loss(middles[None, :])[0]
    return [
        {"chinchilla": smallest * math.exp(middle), "curve": float(value), "interpolated": float(line)}
        for middle, value, line in zip(middles, curves, lines, strict=True)
    ]


def null(value: float) -> float | None:
    """None in place of NaN and infinities, for values inside dicts."""
    return float(value) if math.isfinite(value) else None
