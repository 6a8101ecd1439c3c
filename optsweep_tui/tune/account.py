"""What a tuning found: the incumbent with its interval, every step with its reason, totals, in plain numbers."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from optsweep_engines.spec import RunSpec, Scalar
from optsweep_tui import grid
from optsweep_tui.analysis.lines import NEAR_BEST
from optsweep_tui.analysis.noise import FRESH_SEEDS_NEEDED, quantile_squared
from optsweep_tui.tune.axes import Config, Key, same
from optsweep_tui.tune.problem import TIE_WIDTH, Candidate, Step, Tried
from optsweep_tui.tune.procedure import Position
from optsweep_tui.tune.session import Session
from optsweep_tui.tune.tuning import TunedCell
from optsweep_tui.tune.whole import Placed


@dataclass(frozen=True, kw_only=True)
class Improvement:
    """The start's mean loss minus the winner's, with its 95 % interval."""

    nats: float | None
    """Positive is better; None where one of them has no loss, or they are the same configuration."""
    low: float | None
    high: float | None
    resolved: bool | None
    """The interval does not contain 0; None without noise."""
    sigma: float | None
    """Run-to-run standard deviation that the interval rests on, nats."""
    sigma_source: str
    sigma_dof: float | None
    """None: it counts as known."""
    n_start: int
    n_winner: int


def improvement(position: Position) -> Improvement:
    """How much better the winner is than the start.

    The winner's mean is over its fresh seeds, for its base-seed loss was picked as the smallest; the start's is over all
    its seeds, for nothing was picked. Sigma is the one given, else pooled over the replicates of both, else the one
    that was known before.
    """
    start, winner = position.start_losses, position.winner_losses[1:] or position.winner_losses[:1]
    sigma, source, dof = _sigma(position)
    moved = position.winner is not None and any(
        not same(value, position.start.get(knob)) for knob, value in position.winner.items()
    )
    gain = fmean(start) - fmean(winner) if start and winner and moved else None
    low = high = resolved = None
    if gain is not None and sigma is not None:
        half = math.sqrt(float(quantile_squared(dof))) * sigma * math.sqrt(1.0 / len(start) + 1.0 / len(winner))
        low, high = gain - half, gain + half
        resolved = low > 0 or high < 0
    return Improvement(
        nats=gain,
        low=low,
        high=high,
        resolved=resolved,
        sigma=sigma,
        sigma_source=source,
        sigma_dof=None if math.isinf(dof) else dof,
        n_start=len(start),
        n_winner=len(winner),
    )


def _sigma(position: Position) -> tuple[float | None, str, float]:
    """(sigma, where it is from, degrees of freedom)."""
    if position.sigma_source == "given":
        return position.sigma, "given", math.inf
    groups = [losses for losses in (position.winner_losses, position.start_losses) if len(losses) > 1]
    if position.winner_losses == position.start_losses:
        groups = groups[:1]
    dof = float(sum(len(losses) - 1 for losses in groups))
    if dof >= FRESH_SEEDS_NEEDED or (dof and position.sigma is None):
        pooled = math.sqrt(sum((len(losses) - 1) * stdev(losses) ** 2 for losses in groups) / dof)
        if pooled > 0:
            return pooled, "measured", dof
    return position.sigma, position.sigma_source, position.sigma_dof


def incumbent(session: Session, placed: Placed) -> dict[str, Any]:
    """Everything about the configuration that a cell's tuning led to, ended or not."""
    cell, position = placed.cell, placed.position
    config = position.winner or position.incumbent or cell.start
    gain = improvement(position)
    losses = position.winner_losses[1:] or position.winner_losses[:1]
    states = Counter(outcome.state for _, _, outcome in position.runs if outcome is not None)
    return {
        "optimizer": cell.optimizer,
        "model": cell.model,
        "chinchilla": cell.chinchilla,
        "phase": cell.phase if session.tuning.phased else None,
        "decided": placed.why,
        "state": position.state,
        "reason": position.reason or _why_open(position),
        "hyperparameters": knobs(config),
        **{setting: config.get(setting) for setting in grid.SETTINGS},
        "changed": {
            knob: [position.start.get(knob), value]
            for knob, value in config.items()
            if not same(value, position.start.get(knob))
        },
        "loss": fmean(losses) if losses else None,
        "n": len(losses),
        "selected_loss": position.winner_losses[0] if position.winner_losses else None,
        "start_loss": fmean(position.start_losses) if position.start_losses else None,
        "start_n": len(position.start_losses),
        "start": knobs(position.start),
        "improvement": gain.nats,
        "improvement_low": gain.low,
        "improvement_high": gain.high,
        "resolved": gain.resolved,
        "sigma": gain.sigma,
        "sigma_source": gain.sigma_source,
        "sigma_dof": gain.sigma_dof,
        "threshold": position.threshold,
        "noise_threshold": noise_threshold(position),
        "edges": dict(position.edges),
        "near_best": near_best(position),
        "tuning_runs": position.used,
        "max_runs_reached": position.spent,
        "diverged": states["diverged"],
        "states": dict(states),
        "refused": sorted(set(position.refusals.values())),
        "run_ids": [
            session.spec(cell, Candidate(config=config, seed=seed)).run_id for seed in _seeds(session, position)
        ],
    }


def _seeds(session: Session, position: Position) -> list[int]:
    """The seeds that the incumbent's loss is made of."""
    rules = session.tuning.rules
    fresh = list(range(rules.seed + 1, rules.seed + 1 + rules.fresh_seeds))
    return fresh if position.winner is not None and len(position.winner_losses) > 1 else [rules.seed]


def noise_threshold(position: Position) -> float | None:
    """What noise alone makes of the difference of two runs, once in twenty, nats; None without sigma."""
    return None if position.sigma is None else TIE_WIDTH * position.sigma * math.sqrt(2.0)


def near_best(position: Position) -> int:
    """Configurations within the near-best threshold of the smallest loss, under the base seed."""
    found: dict[Key, float] = {}
    for candidate, _, outcome in position.runs:
        if outcome is not None and outcome.loss is not None and candidate.seed == position.runs[0][0].seed:
            found[candidate.key[0]] = outcome.loss
    return sum(loss < min(found.values()) + NEAR_BEST for loss in found.values())


def _why_open(position: Position) -> str:
    if position.state == "ended" and position.spent:
        tried = any(step.kind == "block" for step in position.steps)
        return "its budget of runs ended the search before it found its own end" + (
            "" if tried else "; no block of two knobs was tried"
        )
    return ""


def knobs(config: Config) -> dict[str, Scalar]:
    """The knobs of a configuration, without the settings of the run."""
    return {knob: value for knob, value in config.items() if knob not in grid.SETTINGS}


def history(placed: Sequence[Placed]) -> list[dict[str, Any]]:
    """Every step of every cell, cell by cell."""
    return [step_row(entry.cell, step, number) for entry in placed for number, step in enumerate(entry.position.steps)]


def step_row(cell: TunedCell, step: Step, number: int) -> dict[str, Any]:
    """One step as plain data."""
    return {
        "optimizer": cell.optimizer,
        "model": cell.model,
        "chinchilla": cell.chinchilla,
        "step": number,
        "kind": step.kind,
        "knobs": list(step.knobs),
        "pass": step.round or None,
        "tried": [_tried_row(tried, step) for tried in step.tried],
        "new_runs": step.new,
        "best": dict(step.best),
        "loss": step.loss,
        "gain": step.gain,
        "moved": step.moved,
        "why": step.why,
    }


def _tried_row(tried: Tried, step: Step) -> dict[str, Any]:
    outcome = tried.outcome
    return {
        "values": {knob: tried.config[knob] for knob in step.knobs},
        "change": dict(tried.change) if step.kind != "start" else {},
        "seed": tried.seed,
        "loss": outcome.loss,
        "state": outcome.state,
        "run_id": outcome.run_id,
    }


def runs(session: Session, placed: Sequence[Placed]) -> list[tuple[RunSpec, str, str, float | None]]:
    """(spec, kind of step that asked first, state, loss) of every run of the tuning, in order."""
    found: dict[str, tuple[RunSpec, str, str, float | None]] = {}
    for entry in placed:
        for candidate, role, outcome in entry.position.runs:
            spec = session.spec(entry.cell, candidate)
            state = "pending" if outcome is None else outcome.state
            found.setdefault(spec.run_id, (spec, role, state, None if outcome is None else outcome.loss))
    return list(found.values())


def text_of(values: Mapping[str, Scalar]) -> str:
    """lr 0.012, weight_decay 0.1."""
    return ", ".join(f"{knob} {value_text(value)}" for knob, value in values.items())


def value_text(value: Scalar) -> str:
    """A value as a user would write it."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return f"{value:.12g}" if isinstance(value, int | float) else str(value)
