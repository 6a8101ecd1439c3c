"""The flags that rows of table, fit and speedup carry: one spelling and one meaning each."""

from __future__ import annotations

from collections.abc import Iterable

SELECTED_MIN = "selected-min, n=1"
NOT_RESOLVED = "not resolved"
NOT_IDENTIFIED = "exponent and floor not identified"
NO_SIGMA = "NO-SIGMA"
MISFIT = "MISFIT"
UNTUNED = "UNTUNED"
UNSWEPT = "UNSWEPT"
EDGE = "EDGE"
FAR = "FAR"
DIVERGED = "DIVERGED"
SEED_LOST = "SEED-LOST"
UNFINISHED = "UNFINISHED"
NO_LOSS = "NO-LOSS"
BAD_LOSS = "BAD-LOSS"
DUPLICATE = "DUPLICATE"
OTHER_SEED = "OTHER-SEED"
UNLISTED = "UNLISTED"
SCHEDULE = "SCHEDULE"
BATCH = "BATCH"
DTYPE = "DTYPE"
NO_BASELINE = "NO-BASELINE"
OPEN = "OPEN"
SUPPORT = "SUPPORT"
SOLVERS = "SOLVERS"
AT_BOUND = "AT-BOUND"
EXPONENTS = "EXPONENTS"
IN_RUN = "in-run, biased low"
RECROSSED = "RECROSSED"
TIMED_ONCE = "TIMED-ONCE"
LOADED = "LOADED"
BRANCH = "BRANCH"
BRANCHES_OUT = "BRANCHES-OUT"

MEANINGS = {
    SELECTED_MIN: "one seed: where several configurations ran, the loss is the smallest of noisy ones, so biased low",
    NOT_RESOLVED: "the 95 % interval of the speedup contains 1",
    NOT_IDENTIFIED: "beta's interval reaches 0 or B's spans more than 3x: nothing asymptotic is claimed",
    NO_SIGMA: "no measured, prior or given run-to-run sigma: no interval, no tie group, no winner",
    MISFIT: "the baseline's curve misses its points at p < .01; the automatic sigma was multiplied by sqrt(chi2/dof)",
    UNTUNED: "an edge is unresolved, here or in the baseline, or their numbers of runs differ by more than 1.25x",
    UNSWEPT: "a single configuration ran here or in the baseline's cell: nothing was tuned there, so UNTUNED has nothing to find",
    EDGE: "the best value of a knob lies at the end of its swept list (knobs in column `edges`)",
    FAR: "some finished runs lie more than 0.5 nats above the best of their cell; excluded",
    DIVERGED: "some runs of the cell diverged or ended as NaN",
    SEED_LOST: "a fresh seed of the best configuration diverged or came out FAR, so the mean leaves it out",
    UNFINISHED: "some planned runs of the cell have no result yet; they do not enter",
    NO_LOSS: "no finished run: the cell has a status, no loss",
    BAD_LOSS: "a run that says done holds a loss that is not a positive finite number; ignored",
    DUPLICATE: "the same configuration and seed occurs in several runs; averaged and counted once",
    OTHER_SEED: "the cell was never run under the base seed of its group; selected under another",
    UNLISTED: "the best configuration is unpublished, so its own edges and replicates are unknown",
    SCHEDULE: "the schedule differs from the baseline's",
    BATCH: "the batch size differs from the baseline's",
    DTYPE: "the compute type differs from the baseline's",
    NO_BASELINE: "the baseline has no loss at this budget",
    OPEN: "an end of the interval is 0 or infinite",
    SUPPORT: "baseline curves of other sizes here rest on other budgets; compare sizes with --max-chinchilla",
    SOLVERS: "the independent solvers disagree by more than half a sigma on a point of the curve",
    TIMED_ONCE: "no repeated timing here or of the baseline: the interval holds no timing noise",
    LOADED: "equal runs differ by more than 10 % in seconds per token: they were timed on a busy machine",
    BRANCH: "rests on decay branches, here or in the baseline: what they share of a trunk's noise the interval does not hold",
    BRANCHES_OUT: "whole runs and decay branches of a trunk ended at this budget: the branches do not enter",
    AT_BOUND: "the exponent stopped at the end of its search range",
    IN_RUN: "read inside runs whose schedules had not ended: the one that crosses first is read at a higher learning rate, "
    "so its lead comes out too small; not comparable with speedups by final losses",
    RECROSSED: "the loss rose over the target again after its first crossing (column `last_crossing`)",
    EXPONENTS: "one exponent for all models was asked for, and separate ones fit better at p < .01",
}

_ORDER = {flag: place for place, flag in enumerate(MEANINGS)}


def ordered(flags: Iterable[str]) -> list[str]:
    """The flags once each, in the order of `MEANINGS`."""
    return sorted(set(flags), key=lambda flag: (_ORDER.get(flag, len(_ORDER)), flag))
