"""Loss surfaces with a known optimum, and a player that gives a tuning the results it asks for."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from optsweep_engines.spec import Scalar, canonical_json
from optsweep_tui.tune.axes import Axis, Config, Key, proposed
from optsweep_tui.tune.problem import Candidate, Outcome, Problem, Rules
from optsweep_tui.tune.procedure import Position, position

LR = Axis(knob="lr", values=(0.001, 0.002, 0.004), low=1e-7, high=10.0, log=True)
DECAY = Axis(knob="weight_decay", values=(0, 0.1, 0.2), low=0.0, high=10.0, log=True)
BETA = Axis(knob="beta2", values=(0.9, 0.95, 0.98), low=0.0, high=0.999999)
STEPS = Axis(knob="ns_steps", values=(3, 5, 7), kind="int", low=1, high=20)
NESTEROV = Axis(knob="nesterov", values=(False, True), kind="bool")

Surface = Callable[[Config], float | None]
"""Configuration -> loss in nats; None: it diverges."""


def problem(axes: list[Axis], start: Mapping[str, Scalar], **rules: Any) -> Problem:
    """A cell with these knobs."""
    plain: dict[str, Any] = {"block": None, "sigma_source": "none", **rules}
    return Problem(
        start=dict(start),
        axes={axis.knob: axis.with_value(start[axis.knob]) for axis in axes},
        rules=Rules(**plain),
        proposed=proposed,
    )


@dataclass
class Player:
    """Answers what is asked, and keeps count."""

    surface: Surface
    noise: float = 0.0
    states: dict[str, str] = field(default_factory=dict)
    """Configuration as text -> another end than done."""
    done: dict[tuple[Key, int], Outcome] = field(default_factory=dict)

    def __call__(self, candidate: Candidate) -> Outcome | None:
        return self.done.get(candidate.key)

    def run(self, candidate: Candidate) -> None:
        """Let one run end; twice is a mistake of the caller."""
        assert candidate.key not in self.done, f"{candidate.key} was run twice"
        loss = self.surface(candidate.config)
        if loss is not None:
            loss += self.noise * random.Random(repr(candidate.key)).gauss(0.0, 1.0)
        state = self.states.get(canonical_json(candidate.config), "diverged" if loss is None else "done")
        name = f"{len(self.done):032x}"
        self.done[candidate.key] = Outcome(run_id=name, state=state, loss=loss if state == "done" else None)

    def play(self, cell: Problem, equal_to: int | None = None, most: int = 500) -> Position:
        """Run whatever is asked until nothing is."""
        for _ in range(most):
            found = position(cell, self, equal_to)
            if found.state != "running":
                return found
            assert found.pending, "running, and nothing to run"
            for candidate in found.pending:
                self.run(candidate)
        raise AssertionError(f"still running after {most} batches")


def bowl(**optimum: float) -> Surface:
    """2 nats at the optimum, 0.05 more per squared factor of two away from it; switches cost 0.02 when off."""

    def loss(config: Config) -> float:
        total = 2.0
        for knob, value in optimum.items():
            here = config[knob]
            if isinstance(value, bool):
                total += 0.0 if here is value else 0.02
            elif knob == "beta2":
                total += 0.05 * math.log2((1.0 - float(str(here))) / (1.0 - value)) ** 2
            else:
                total += 0.05 * math.log2(max(float(str(here)), 1e-4) / value) ** 2
        return total

    return loss


def with_rules(cell: Problem, **rules: Any) -> Problem:
    """The same cell under other rules."""
    return replace(cell, rules=replace(cell.rules, **rules))
