"""The scaling rule of one knob: z = a + b ln N + d ln c from the cells' intervals, held against a constant."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from optsweep_tui.analysis import tails
from optsweep_tui.analysis.hyperparameters.censored import Floats, fit, identified
from optsweep_tui.analysis.hyperparameters.observations import Evidence, Observation
from optsweep_tui.analysis.hyperparameters.scale import LOG_REST

# A rule of two exponents and a spread needs cells to be wrong on; below this many even a constant is hearsay.
MIN_CELLS = 3
# analysis.md: an exponent within so many standard errors of 0 is no trend.
NO_TREND_SE = 2.0
LEVEL = 0.95

Columns = tuple[int, ...]
"""Exponents in a rule: 1 = of N, 2 = of c; the intercept always."""
FULL: Columns = (1, 2)
CONSTANT: Columns = ()


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One fitted rule."""

    columns: Columns
    theta: Floats
    """(a, b, d), shape (3,); 0 for exponents that are not in it."""
    covariance: Floats
    """Of (a, b, d), shape (3, 3); zeros for those."""
    sigma: float
    """Spread of the optima around it."""
    at_floor: bool
    """The likelihood asks for less spread than the grid can show."""
    n: int
    """Cells behind it."""

    @property
    def se(self) -> Floats:
        return np.asarray(np.sqrt(np.diag(self.covariance)))

    def resolved(self, column: int) -> bool:
        """The exponent is more than NO_TREND_SE standard errors from 0."""
        return bool(abs(self.theta[column]) > NO_TREND_SE * self.se[column])

    def predicted(self, log_params: float, log_ratio: float) -> tuple[float, float]:
        """(z, half of its 95 % interval for one more optimum: uncertainty of the rule and spread).

        Likelihood takes no degrees of freedom off for the exponents, so a few cells are fitted too closely: where the
        spread was measured the variance gets the usual n / (n - p), and the quantile is Student's with n - p.
        """
        x = np.array([1.0, log_params, log_ratio])
        variance = float(x @ self.covariance @ x) + self.sigma**2
        dof = max(1, self.n - 1 - len(self.columns))
        factor = 1.0 if self.at_floor else self.n / dof
        return float(x @ self.theta), float(tails.student_quantile(0.5 + LEVEL / 2, dof)) * math.sqrt(variance * factor)


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Mean errors over the cells, each predicted from the others, on the scale of z; NaN where none could be."""

    interval: float
    """Distance of the prediction from the left-out cell's interval, 0 inside."""
    grid: float
    """Distance from its best grid value."""
    n: int
    """Cells that could be predicted from the others."""


@dataclass(frozen=True, kw_only=True)
class KnobFit:
    """What is known of one knob's scaling."""

    evidence: Evidence
    full: Rule | None
    """With every exponent that the cells identify; None: not fitted."""
    constant: Rule | None
    chosen: Rule | None
    """The rule that predicts: the full one without exponents within 2 s.e., or the constant."""
    rule_errors: LeftOut | None
    """Of the rule without exponents within 2 s.e. (of the full one where none is left)."""
    constant_errors: LeftOut | None
    verdict: str
    """"trend", "no trend" or "not fitted"."""
    reason: str


def knob_fit(found: Evidence, stable: str) -> KnobFit:
    """Fit the full rule and the constant, take out exponents within 2 s.e., and let left-out cells decide.

    One model size tells no exponent of N, one ratio none of c; nor do cells whose best values all lie at ends of their
    lists in one direction, since then the likelihood rises for ever. Exponents within 2 standard errors of 0 are taken
    out, the least resolved first, and the rule fitted anew: where N and c moved together neither may be resolved beside
    the other. What is left has to predict the interval of a cell left out better than the constant does; equal counts
    for the constant. And where one value is near-best in every cell, that constant cannot be beaten:
    what moves there is noise.

    Args:
        found: the intervals.
        stable: values in the near-best set of every judged cell, in words; empty when there is none.
    """
    refusal = _refusal(found)
    if refusal:
        return _unfitted(found, refusal)
    columns = _identified(found.observations, FULL)
    if columns is None:
        return _unfitted(found, _one_sided(found))
    constant = rule(found, CONSTANT)
    full = rule(found, columns)
    if constant is None or full is None:
        return _unfitted(found, "the cells' intervals contradict each other: no spread explains them")
    kept: Rule = full
    while weak := [column for column in kept.columns if not kept.resolved(column)]:
        least = min(weak, key=lambda column: abs(kept.theta[column]) / kept.se[column])
        smaller = rule(found, tuple(column for column in kept.columns if column != least))
        kept = constant if smaller is None else smaller
    tested = kept if kept.columns else full
    errors, constant_errors = left_out(found, tested.columns), left_out(found, CONSTANT)
    trend, reason = _verdict(full, kept, errors, constant_errors, stable, _no_exponent(found.observations))
    return KnobFit(
        evidence=found,
        full=full,
        constant=constant,
        chosen=kept if trend else constant,
        rule_errors=errors,
        constant_errors=constant_errors,
        verdict="trend" if trend else "no trend",
        reason=reason,
    )


def _verdict(
    full: Rule, kept: Rule, errors: LeftOut, constant: LeftOut, stable: str, unidentified: str
) -> tuple[bool, str]:
    if not full.columns:
        return False, unidentified
    if not kept.columns:
        return False, f"no exponent is more than {NO_TREND_SE:g} s.e. from 0"
    if not errors.interval < constant.interval:
        return False, (
            "the constant predicts left-out cells as well as the rule"
            if errors.n
            else "no cell can be predicted from the others"
        )
    if stable:
        return False, f"{stable} is near-best in every judged cell: a constant does, whatever the best values do"
    return True, ""


def _refusal(found: Evidence) -> str:
    if found.refusal:
        return found.refusal
    n = len(found.observations)
    if found.n_zero > n:
        return f"0 (off) is best in {found.n_zero} of {found.n_zero + n} cells: no logarithm, no rule"
    if n < MIN_CELLS:
        return f"{n} {'cell has' if n == 1 else 'cells have'} an interval; a rule or a constant needs {MIN_CELLS}"
    return ""


def _no_exponent(observations: Sequence[Observation]) -> str:
    """Why a rule without exponents is all that the cells tell."""
    sizes, ratios = ({getattr(item, name) for item in observations} for name in ("log_params", "log_ratio"))
    if len(sizes) == 1 and len(ratios) == 1:
        return "one model size and one ratio: no exponent can be told"
    if len(observations) < 3:
        return "too few cells to tell an exponent"
    return "best values at the ends of their lists bound no exponent from both sides"


def _one_sided(found: Evidence) -> str:
    """Why not even a constant is identified."""
    observations = found.observations
    below = all(math.isinf(item.low) for item in observations)
    if not below and not all(math.isinf(item.high) for item in observations):
        return "every best value is an end of its list, and no two cells bound the optimum from both sides"
    values = sorted({item.best for item in observations})
    best = f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"
    end, bound = ("lowest", "at most") if below != (found.transform == LOG_REST) else ("highest", "at least")
    return f"one-sided: the {end} value tried is best in every cell, so the optimum is {bound} {best}"


def _unfitted(found: Evidence, reason: str) -> KnobFit:
    return KnobFit(
        evidence=found,
        full=None,
        constant=None,
        chosen=None,
        rule_errors=None,
        constant_errors=None,
        verdict="not fitted",
        reason=reason,
    )


# ---------------------------------------------------------------- fits


def _arrays(observations: Sequence[Observation]) -> tuple[Floats, Floats, Floats]:
    """(design [1, ln N, ln c], low, high)."""
    design = np.array([[1.0, item.log_params, item.log_ratio] for item in observations])
    return design, np.array([item.low for item in observations]), np.array([item.high for item in observations])


def _centered(design: Floats, columns: Columns) -> tuple[Floats, Floats]:
    """(the columns around their means, the map from their coefficients to (a, b, d))."""
    means = design[:, list(columns)].mean(axis=0)
    back_map = np.zeros((3, 1 + len(columns)))
    back_map[0, 0] = 1.0
    back_map[0, 1:] = -means
    for place, column in enumerate(columns, start=1):
        back_map[column, place] = 1.0
    return np.concatenate([design[:, :1], design[:, list(columns)] - means], axis=1), back_map


def _subsets(columns: Columns) -> Iterator[Columns]:
    """The columns, then without one, then none."""
    yield columns
    if len(columns) == 2:
        yield columns[:1]
        yield columns[1:]
    if columns:
        yield CONSTANT


def _identified(observations: Sequence[Observation], columns: Columns) -> Columns | None:
    """The most of these exponents that the cells identify, with one cell to spare; None where not even a constant is."""
    design, low, high = _arrays(observations)
    for subset in _subsets(columns):
        x, _ = _centered(design, subset)
        enough = len(observations) >= 2 + len(subset) or (not subset and len(observations) > 0)
        if enough and identified(x, low, high):
            return subset
    return None


def rule(found: Evidence, columns: Columns) -> Rule | None:
    """The rule with these exponents; None where the intervals contradict each other."""
    design, low, high = _arrays(found.observations)
    x, back_map = _centered(design, columns)
    fitted = fit(x, low, high, np.ones((1, len(x))), found.step)
    if fitted.unbounded[0]:
        return None
    return Rule(
        columns=columns,
        theta=back_map @ fitted.theta[0],
        covariance=back_map @ fitted.covariance[0] @ back_map.T,
        sigma=float(fitted.sigma[0]),
        at_floor=bool(fitted.at_floor[0]),
        n=len(x),
    )


def left_out(found: Evidence, columns: Columns) -> LeftOut:
    """Each cell predicted by the rule fitted to the others; exponents that those do not identify are taken out for it."""
    observations = found.observations
    design, low, high = _arrays(observations)
    folds: dict[Columns, list[int]] = {}
    for place in range(len(observations)):
        others = [*observations[:place], *observations[place + 1 :]]
        subset = _identified(others, columns)
        if subset is not None:
            folds.setdefault(subset, []).append(place)
    outside, away = [], []
    for subset, places in folds.items():
        x, _ = _centered(design, subset)
        weights = np.ones((len(places), len(observations)))
        weights[np.arange(len(places)), places] = 0.0
        fitted = fit(x, low, high, weights, found.step)
        for row, place in enumerate(places):
            if not fitted.unbounded[row]:
                z = float(x[place] @ fitted.theta[row])
                outside.append(max(low[place] - z, z - high[place], 0.0))
                away.append(abs(z - observations[place].z))
    n = len(outside)
    return LeftOut(interval=math.fsum(outside) / n if n else math.nan, grid=math.fsum(away) / n if n else math.nan, n=n)
