"""Run-to-run noise: sigma of the final loss from fresh seeds, its degrees of freedom, and where it came from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist, stdev
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from optsweep_tui.analysis import tails
from optsweep_tui.analysis.cells import CellLoss, Group
from optsweep_tui.errors import OptsweepError

Floats: TypeAlias = npt.NDArray[np.float64]
Rows: TypeAlias = npt.NDArray[np.intp]
"""Places in an array of rows."""
Source: TypeAlias = Literal["measured", "prior", "given", "none"]

# Median over 722 public replicate logs of a 124M-parameter speedrun, nats; their 10-90 % range is 0.0008-0.0020.
PRIOR_SIGMA = 0.0013
# The prior was seen at 124M parameters with a 50k-token vocabulary. Small byte models are 10-50 times noisier.
PRIOR_MIN_PARAMS = 100e6
FRESH_SEEDS_NEEDED = 3
# Datasets of bytes or characters, by what their names contain: the vocabulary is not a column of the results.
NOT_SUBWORD = ("embedded", "byte", "char", "shakespeare", "enwik", "text8", "synthetic")
LEVEL = 0.95
# Outside, 1 / sigma^2 is no float any more.
SMALLEST_SIGMA, LARGEST_SIGMA = 1e-100, 1e100


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Sigma of one run's final loss as a function of its tokens.

    Measured sigmas are those of the baseline's smallest and largest budget, linear in log tokens between them and
    constant outside.
    """

    source: Source
    ends: tuple[float, ...] = ()
    """Tokens of the measured ends, rising; one entry where sigma does not depend on tokens."""
    sigmas: tuple[float, ...] = ()
    """Sigma at each end, nats."""
    dofs: tuple[float, ...] = ()
    """Degrees of freedom of each; infinite for a sigma that counts as known."""
    scale: float = 1.0
    """What a MISFIT multiplied sigma by."""

    @property
    def known(self) -> bool:
        """There is a sigma, from whatever source."""
        return self.source != "none"

    @property
    def dof(self) -> float:
        """Degrees of freedom, summed over the ends."""
        return sum(self.dofs)

    @property
    def pooled(self) -> float:
        """Root of the dof-weighted mean of the variances, nats; NaN without sigma."""
        if not self.known:
            return math.nan
        if math.isinf(self.dof):
            return self.sigmas[0] * self.scale
        total = sum(dof * sigma**2 for dof, sigma in zip(self.dofs, self.sigmas, strict=True))
        return math.sqrt(total / self.dof) * self.scale

    def at(self, tokens: npt.ArrayLike) -> Floats:
        """Sigma of one run of so many tokens, nats; NaN without sigma. Same shape as `tokens`."""
        tokens = np.asarray(tokens, dtype=float)
        if len(self.sigmas) < 2:
            return np.full(tokens.shape, self.scale * self.sigmas[0] if self.known else np.nan)
        return np.asarray(self.scale * np.tensordot(self.weights(tokens), np.asarray(self.sigmas), axes=(-1, 0)))

    def weights(self, tokens: npt.ArrayLike) -> Floats:
        """Share of each end in sigma at these tokens, shape (*tokens.shape, ends); rows sum to 1."""
        tokens = np.asarray(tokens, dtype=float)
        if len(self.ends) < 2:
            return np.ones((*tokens.shape, max(1, len(self.ends))))
        low, high = math.log(self.ends[0]), math.log(self.ends[1])
        with np.errstate(divide="ignore"):
            share = np.clip((np.log(tokens) - low) / (high - low), 0.0, 1.0)
        return np.stack([1.0 - share, share], axis=-1)

    def effective_dof(self, tokens: npt.ArrayLike, coefficients: npt.ArrayLike) -> Floats:
        """Welch-Satterthwaite degrees of freedom of V = sum_i q_i sigma(tokens_i)^2, along the last axis.

        dof = 2 V^2 / Var V with Var V = sum_e (dV/ds_e)^2 Var s_e and Var s_e = s_e^2 / (2 dof_e), e over the ends
        (Satterthwaite 1946). One end alone gives back its own dof.

        Args:
            tokens: shape (..., K).
            coefficients: q, shape (..., K), not negative.
        """
        q = np.asarray(coefficients, dtype=float)
        if not self.known or math.isinf(self.dof):
            return np.full(q.shape[:-1], math.inf)
        shares = self.weights(tokens)
        sigmas, dofs = np.asarray(self.sigmas), np.asarray(self.dofs)
        sigma = shares @ sigmas
        variance = np.sum(q * sigma**2, axis=-1)
        slopes = np.sum(2.0 * (q * sigma)[..., None] * shares, axis=-2)
        spread = np.sum(slopes**2 * sigmas**2 / (2.0 * dofs), axis=-1)
        with np.errstate(invalid="ignore", divide="ignore"):
            dof = 2.0 * variance**2 / spread
        return np.asarray(np.where(np.isfinite(dof), np.maximum(dof, dofs.min()), dofs.min()))

    def scaled(self, factor: float) -> Noise:
        """The same noise, sigma multiplied."""
        return replace(self, scale=self.scale * factor)


def quantile_squared(dof: npt.ArrayLike, level: float = LEVEL) -> Floats:
    """What chi-square may rise by inside an interval of one parameter: F(1, dof) = squared Student quantile.

    With an infinite dof it is the chi-square quantile of 1 degree of freedom, 3.84 at 95 %.
    """
    dof = np.asarray(dof, dtype=float)
    quantile = np.full(dof.shape, NormalDist().inv_cdf(0.5 + level / 2))
    finite = np.isfinite(dof)
    if finite.any():
        quantile[finite] = tails.student_quantile(0.5 + level / 2, np.maximum(dof[finite], 1.0))
    return np.asarray(quantile**2, dtype=float)


def checked_sigma(sigma: float | None) -> float | None:
    """The given sigma.

    Raises:
        OptsweepError: when it is no positive finite number.
    """
    if sigma is None or SMALLEST_SIGMA <= sigma <= LARGEST_SIGMA:
        return sigma
    raise OptsweepError(
        f"--sigma {sigma:g}: a standard deviation in nats is positive and finite", "Try --sigma 0.0013."
    )


def noise_of(group: Group, baseline: str, sigma: float | None = None) -> Noise:
    """The sigma of one group, from the best source there is: given, measured, prior, none.

    Args:
        group: comparable cells.
        baseline: the optimizer whose seeds count.
        sigma: given by the user, nats; used exactly as given.
    """
    if sigma is not None:
        return Noise(source="given", ends=(1.0,), sigmas=(sigma,), dofs=(math.inf,))
    ends = end_cells(group, baseline)
    sigmas = [spread(cell.replicates) for cell in ends]
    enough = [cell.n_fresh >= FRESH_SEEDS_NEEDED and own > 0 for cell, own in zip(ends, sigmas, strict=True)]
    if ends and all(enough):
        return Noise(
            source="measured",
            ends=tuple(cell.tokens for cell in ends),
            sigmas=tuple(sigmas),
            dofs=tuple(float(len(cell.replicates) - 1) for cell in ends),
        )
    if prior_applies(group):
        return Noise(source="prior", ends=(1.0,), sigmas=(PRIOR_SIGMA,), dofs=(math.inf,))
    return Noise(source="none")


def end_cells(group: Group, baseline: str) -> list[CellLoss]:
    """The baseline's cells of smallest and largest budget, one where they are the same."""
    cells = [cell for cell in group.of(baseline) if cell.has_loss and cell.tokens > 0]
    return [cells[0], cells[-1]] if len(cells) > 1 else cells


def prior_applies(group: Group) -> bool:
    """The labelled prior speaks for subword models of at least 100M parameters; an unnamed dataset may be anything."""
    dataset = group.columns["dataset"]
    sizes = [
        max(cell.params, cell.best.total_params if cell.best and cell.best.total_params > 0 else 0.0)
        for cell in group.cells
        if cell.params > 0
    ]
    if not isinstance(dataset, str) or any(part in dataset.lower() for part in NOT_SUBWORD):
        return False
    return bool(sizes) and min(sizes) >= PRIOR_MIN_PARAMS


def spread(losses: Sequence[float]) -> float:
    """Standard deviation over replicates, one degree of freedom taken by their mean; NaN for one alone."""
    return stdev(losses) if len(losses) > 1 else math.nan
