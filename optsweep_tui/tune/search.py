"""What a search knows of its cell: the runs asked for so far, their losses, the incumbent, and the steps that led to it.

The search is replayed from its first run whenever results have come: everything here is a function of the cell and of
the results, so a search that was killed goes on where it was, and the same results give the same steps.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from optsweep_engines.spec import Scalar
from optsweep_tui.tune.axes import Axis, Config, Key, Side, key_of, same
from optsweep_tui.tune.problem import THRESHOLD, TIE_WIDTH, Batch, Candidate, Outcome, Problem, Results, Step, Tried


class Search:
    """The state of one replay."""

    def __init__(self, problem: Problem, results: Results) -> None:
        self.problem, self.rules = problem, problem.rules
        self.results = results
        self.axes = dict(problem.axes)
        self.incumbent: Config = dict(problem.start)
        self.asked: dict[tuple[Key, int], Candidate] = {}
        """Every run asked for, in order."""
        self.roles: dict[tuple[Key, int], str] = {}
        """What each was first asked for: the kind of a step."""
        self.budget = self.rules.max_runs
        """Most configurations."""
        self.spent = False
        """A configuration was wanted that the budget did not allow."""
        self.extensions: Counter[tuple[str, Side]] = Counter()
        self.refusals: dict[Key, str] = {}
        """Configuration -> why it cannot be run."""
        self.steps: list[Step] = []
        self._told: set[str] = set()
        self.sigma, self.sigma_source = self.rules.sigma, self.rules.sigma_source
        self.sigma_dof = math.inf

    # ------------------------------------------------------------ runs

    @property
    def tuning(self) -> list[Candidate]:
        """The runs of the search itself: one per configuration."""
        return [candidate for candidate in self.asked.values() if candidate.seed == self.rules.seed]

    def ask(self, kind: str, configs: Iterable[Config]) -> Batch:
        """The configurations to be run that were not yet: as many as the budget allows, none that cannot be run."""
        batch: Batch = []
        for config in configs:
            candidate = Candidate(config=dict(config), seed=self.rules.seed)
            if candidate.key in self.asked or candidate.key[0] in self.refusals:
                continue
            reason = self.problem.refused(config)
            if reason is not None:
                self.refusals[candidate.key[0]] = reason
                continue
            if self.budget is not None and len(self.tuning) >= self.budget:
                self.spent = True
                continue
            batch.append(self._noted(candidate, kind))
        return batch

    def ask_seeds(self, config: Config) -> Batch:
        """The runs of a configuration under the fresh seeds that were not yet asked for."""
        wanted = [Candidate(config=dict(config), seed=seed) for seed in self.seeds]
        return [self._noted(candidate, "seeds") for candidate in wanted if candidate.key not in self.asked]

    def _noted(self, candidate: Candidate, kind: str) -> Candidate:
        self.asked[candidate.key] = candidate
        self.roles[candidate.key] = kind
        return candidate

    @property
    def seeds(self) -> range:
        """The fresh seeds."""
        return range(self.rules.seed + 1, self.rules.seed + 1 + self.rules.fresh_seeds)

    def outcome(self, config: Config, seed: int | None = None) -> Outcome | None:
        """How a run of this search ended; None for one that it did not ask for."""
        candidate = Candidate(config=config, seed=self.rules.seed if seed is None else seed)
        return self.results(candidate) if candidate.key in self.asked else None

    def loss(self, config: Config) -> float:
        """The loss of a configuration under the base seed, nats; infinite without one."""
        outcome = self.outcome(config)
        return math.inf if outcome is None or outcome.loss is None else outcome.loss

    def seed_losses(self, config: Config) -> list[float]:
        """The losses of a configuration under its fresh seeds."""
        found = (self.outcome(config, seed) for seed in self.seeds)
        return [outcome.loss for outcome in found if outcome is not None and outcome.loss is not None]

    # ------------------------------------------------------------ lines

    def line(self, base: Config, knob: str) -> dict[Scalar, float]:
        """Value -> loss (infinite without one) of every run that differs from a configuration in this knob at most."""
        axis = self.axes[knob]
        return {
            value: self.loss({**base, knob: value})
            for value in axis.values
            if Candidate(config={**base, knob: value}, seed=self.rules.seed).key in self.asked
        }

    def best_of(self, line: Mapping[Scalar, float], axis: Axis, here: Scalar) -> Scalar:
        """The value of the smallest loss; of equal ones the one we are at, then an inner one, then the first."""
        ends = (axis.values[0], axis.values[-1])
        return min(
            line,
            key=lambda value: (
                line[value],
                not same(value, here),
                axis.ordered and any(same(value, end) for end in ends),
                axis.place(value),
            ),
        )

    # ------------------------------------------------------------ moves

    @property
    def threshold(self) -> float:
        """What a move must gain, nats."""
        if self.rules.threshold is not None:
            return self.rules.threshold
        return max(THRESHOLD, self.noise_width)

    @property
    def noise_width(self) -> float:
        """By how much two runs of one configuration differ by noise, once in twenty; 0 where the noise is not known."""
        return 0.0 if self.sigma is None else TIE_WIDTH * self.sigma * math.sqrt(2.0)

    def consider(self, config: Config) -> tuple[float | None, bool, str]:
        """(gain in nats, moved, why): make a configuration the incumbent when it is better by more than the threshold."""
        ours, theirs = self.loss(self.incumbent), self.loss(config)
        if key_of(config) == key_of(self.incumbent):
            return None, False, "the incumbent is best"
        if math.isinf(theirs):
            return None, False, "no value has a loss"
        if math.isinf(ours):
            self.incumbent = dict(config)
            return None, True, "the incumbent has no loss"
        gain = ours - theirs
        if gain > self.threshold:
            self.incumbent = dict(config)
            return gain, True, f"gains more than {self.threshold:.3g}"
        return gain, False, f"gains not more than {self.threshold:.3g}" if gain > 0 else "no better"

    # ------------------------------------------------------------ the account

    def tell(self, kind: str, **fields: Any) -> None:
        """Write a step down."""
        step = Step(kind=kind, **fields)
        runs = {tried.outcome.run_id for tried in step.tried}
        self.steps.append(replace(step, new=len(runs - self._told)))
        self._told |= runs

    def tried(self, configs: Sequence[Config], base: Config, seed: int | None = None) -> tuple[Tried, ...]:
        """The runs of a step, as changes of a configuration; those that were never asked for are left out."""
        own = self.rules.seed if seed is None else seed
        found = []
        for config in configs:
            outcome = self.outcome(config, own)
            if outcome is not None:
                change = {knob: value for knob, value in config.items() if not same(value, base.get(knob))}
                found.append(Tried(config=config, change=change, seed=own, outcome=outcome))
        return tuple(found)
