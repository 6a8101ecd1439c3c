"""A run and its rerun: identical, within run-to-run noise, different, or not to be told; and the noise of one run's budget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from optsweep_engines.spec import RunRecord
from optsweep_tui.analysis import tails
from optsweep_tui.analysis.cells import groups
from optsweep_tui.analysis.noise import noise_of
from optsweep_tui.analysis.ties import TIE_WIDTH

Word: TypeAlias = Literal["identical", "within noise", "different", "cannot say"]
COMPARABLE = ("model", "engine", "dataset", "dataset_hash", "validation_set", "seq_len")


@dataclass(frozen=True, kw_only=True)
class RunNoise:
    """Sigma of one run's final loss at its budget."""

    sigma: float | None
    """Nats; None where there is none."""
    dof: float | None
    """Degrees of freedom; None for a sigma that counts as known."""
    source: str
    """"measured", "prior", "given" or "none"."""

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RunNoise:
        """From a bundle; anything that cannot be a sigma is none."""
        sigma, dof = data.get("sigma"), data.get("dof")
        if not _positive(sigma) or not (dof is None or _positive(dof)):
            return NO_NOISE
        return cls(
            sigma=float(str(sigma)), dof=None if dof is None else float(str(dof)), source=str(data.get("source"))[:40]
        )


NO_NOISE = RunNoise(sigma=None, dof=None, source="none")


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a rerun says."""

    verdict: Word
    reason: str
    difference: float | None
    """Final loss of the rerun minus that of the original, nats."""
    tie_width: float | None
    """Largest difference that counts as noise, nats."""
    sigma: float | None
    dof: float | None
    sigma_source: str

    @property
    def reproduced(self) -> bool:
        return self.verdict in ("identical", "within noise")


def run_noise(results: pd.DataFrame, run_id: str, baseline: str, sigma: float | None = None) -> RunNoise:
    """The run-to-run sigma at a run's budget, among the runs that are comparable with it.

    Args:
        results: one row per run of its study, columns of `columns.RESULTS`.
        baseline: optimizer whose fresh seeds count.
        sigma: given by the user, nats.
    """
    if sigma is not None:
        return RunNoise(sigma=sigma, dof=None, source="given")
    own = results[results["run_id"] == run_id]
    if not len(own):
        return NO_NOISE
    row = own.iloc[0]
    like = results
    for column in COMPARABLE:
        value = row[column]
        like = like[like[column].isna()] if pd.isna(value) else like[like[column] == value]
    found = groups(like)
    noise = noise_of(found[0], baseline) if found else None
    if noise is None or not noise.known:
        return NO_NOISE
    tokens = float(row["tokens"])
    dof = float(noise.effective_dof(np.array([tokens]), np.array([1.0])))
    return RunNoise(sigma=float(noise.at(tokens)), dof=dof if math.isfinite(dof) else None, source=noise.source)


def tie_width(noise: RunNoise) -> float | None:
    """Largest difference of two runs that counts as noise: quantile x sigma x sqrt(1/1 + 1/1).

    The quantile is 1.645 for a sigma that counts as known, and Student's at the same level for one that was measured from
    few seeds: 2.92 with 2 degrees of freedom.
    """
    if noise.sigma is None:
        return None
    level = NormalDist().cdf(TIE_WIDTH)
    quantile = TIE_WIDTH if noise.dof is None else float(tails.student_quantile(level, noise.dof))
    return quantile * noise.sigma * math.sqrt(2.0)


def judge(original: RunRecord, again: RunRecord, noise: RunNoise, *, same_data: bool = True) -> Verdict:
    """Compare a rerun with its original.

    Args:
        same_data: the rerun had the data of the original; without, only the difference can be told.
    """
    first, second = original.val_loss, again.val_loss
    known = first is not None and second is not None and math.isfinite(first) and math.isfinite(second)
    difference = second - first if known and first is not None and second is not None else None
    width = tie_width(noise)

    def said(verdict: Word, reason: str) -> Verdict:
        return Verdict(
            verdict=verdict,
            reason=reason,
            difference=difference,
            tie_width=width,
            sigma=noise.sigma,
            dof=noise.dof,
            sigma_source=noise.source,
        )

    same_hash = original.parameters_sha256 is not None and original.parameters_sha256 == again.parameters_sha256
    if not same_data:
        return said("cannot say", "it was trained on other data than the original")
    if same_hash and original.status == again.status:
        return said("identical", "the final parameters are equal, bit for bit")
    if again.status not in ("done", "diverged"):
        return said("cannot say", f"the rerun ended as {again.status}: {again.error or 'no reason was recorded'}")
    if original.status != again.status:
        return said("different", f"the original is {original.status}, the rerun {again.status}")
    if original.status != "done" or difference is None:
        return said("cannot say", f"both are {original.status}, without final losses that mean something")
    if width is None:
        return said("cannot say", "NO-SIGMA: the parameters differ, and no run-to-run noise was measured to judge by")
    if abs(difference) <= width:
        return said(
            "within noise", f"the losses differ by {abs(difference):.3g} nats, noise explains up to {width:.3g}"
        )
    return said("different", f"the losses differ by {abs(difference):.3g} nats, noise explains up to {width:.3g}")
