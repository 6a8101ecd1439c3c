"""A study in three phases: what its small cells decide for the middle ones, and both of them for the large.

Phase 1 tunes every knob. Phase 2 tunes the knobs that phase 1 found sensitive, from the predicted configuration. Phase 3
tunes nothing: it runs the predicted configuration under fresh seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from optsweep_engines.spec import RunSpec, Scalar, canonical_json
from optsweep_tui import analysis, ask
from optsweep_tui.analysis.columns import RESULTS
from optsweep_tui.core import dataset_key, validation_key
from optsweep_tui.tune.lists import axis_of, declared_knob
from optsweep_tui.tune.problem import THRESHOLD, Outcome
from optsweep_tui.tune.sizes import flops_of
from optsweep_tui.tune.tuning import TunedCell
from optsweep_tui.tune.whole import Advice, Placed

if TYPE_CHECKING:
    from optsweep_tui.tune.session import Session

COSTLY_NATS = 0.02
"""A knob of which only one cell was tuned is sensitive when a factor of two from its best value costs more."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A configuration for a cell from the tuned cells of earlier phases."""

    values: Mapping[str, Scalar]
    """Knob -> value, of the knobs that the cell has."""
    why: str


def adviser(session: Session) -> Advice | None:
    """The decisions of a three-phase study; None for a tuning of one phase."""
    if not session.tuning.phased:
        return None
    known = session.decided

    def advice(cell: TunedCell, earlier: Sequence[Placed]) -> tuple[TunedCell, str]:
        ends = {outcome for placed in earlier for _, _, outcome in placed.position.runs if outcome is not None}
        key = (cell.name, frozenset((outcome.run_id, outcome.loss) for outcome in ends))
        if key not in known:
            known[key] = decide(cell, earlier)
        return known[key]

    def decide(cell: TunedCell, earlier: Sequence[Placed]) -> tuple[TunedCell, str]:
        frame = frame_of(session, earlier)
        threshold = max((placed.position.threshold for placed in earlier if placed.cell.phase == 1), default=THRESHOLD)
        found = predicted(cell, frame, earlier, threshold)
        start = {**cell.start, **found.values}
        if cell.phase == 3:
            return replace(cell, start=start, axes={}), found.why
        chosen, why = sensitive(cell, frame, threshold)
        axes = {
            knob: axis_of(cell.optimizer, knob, (*cell.axes[knob], start[knob]), cell.name).values for knob in chosen
        }
        return replace(cell, start=start, axes=axes), f"{why}; {found.why}"

    return advice


def sensitive(cell: TunedCell, frame: pd.DataFrame, threshold: float) -> tuple[list[str], str]:
    """(knobs of the cell that are tuned again, in words why): those without one value that is near-best in every cell.

    Where a knob was tuned in one cell only, which says nothing of others, those that cost more than COSTLY_NATS at half
    or twice their best value.
    """
    rows = analysis.stable(frame, threshold=threshold, knob_info=ask.knob_info())
    found = {row["knob"]: row for row in rows.to_dict("records") if row["optimizer"] == cell.optimizer}
    chosen = []
    for knob in cell.axes:
        row = found.get(knob)
        if row is None or row["verdict"] != "stable" or (row["n_judged"] == 1 and _costly(frame, cell.optimizer, knob)):
            chosen.append(knob)
    cells = max((row["n_judged"] for row in found.values()), default=0)
    judged = f"{cells} small cell{'' if cells == 1 else 's'} within {threshold:.3g} nats"
    return chosen, f"sensitive over {judged}: {', '.join(chosen) or 'none'}"


def _costly(frame: pd.DataFrame, optimizer: str, knob: str) -> bool:
    rows = analysis.sensitivity(frame, knob, within=COSTLY_NATS, knob_info=ask.knob_info()).to_dict("records")
    costs = [row[name] for row in rows if row["optimizer"] == optimizer for name in ("cost_half", "cost_double")]
    return any(isinstance(cost, float) and cost > COSTLY_NATS for cost in costs) or not any(
        isinstance(cost, float) and math.isfinite(cost) for cost in costs
    )


def predicted(cell: TunedCell, frame: pd.DataFrame, earlier: Sequence[Placed], threshold: float) -> Prediction:
    """The configuration by `optsweep predict`; where that is refused, the winner of the nearest tuned cell."""
    answer = ask.predict(
        frame, optimizer=cell.optimizer, model=cell.model, chinchilla=cell.chinchilla, threshold=threshold
    )
    if answer["state"] == "REFUSE":
        return _nearest(cell, earlier, answer["reason"])
    tuned = {knob for placed in earlier for knob in placed.cell.axes}
    values = {**answer["hyperparameters"], "batch_size": answer["batch_size"]}
    chosen = _checked(cell, {knob: values[knob] for knob in values if knob in tuned})
    bases = {entry["knob"]: entry["basis"] for entry in answer["knobs"]}
    texts = [f"{knob} {_text(value)} ({bases.get(knob, 'fixed')})" for knob, value in chosen.items()]
    state = "" if answer["state"] == "INTERP" else f", {answer['state']}: {answer['reason']}"
    return Prediction(values=chosen, why=f"predicted {', '.join(texts) or 'nothing that was tuned'}{state}")


def _nearest(cell: TunedCell, earlier: Sequence[Placed], reason: str) -> Prediction:
    ended = [placed for placed in earlier if placed.position.winner is not None]
    if not ended:
        return Prediction(values={}, why="no earlier cell has a winner: the grid's start")

    def distance(placed: Placed) -> tuple[bool, float]:
        own = flops_of((placed.cell.model, placed.cell.chinchilla)) / flops_of((cell.model, cell.chinchilla))
        return placed.cell.model != cell.model, abs(math.log(own))

    near = min(ended, key=distance)
    assert near.position.winner is not None
    chosen = _checked(cell, {knob: near.position.winner[knob] for placed in earlier for knob in placed.cell.axes})
    return Prediction(values=chosen, why=f"from the winner of {near.cell.name}: {reason}")


def _checked(cell: TunedCell, values: Mapping[str, Any]) -> dict[str, Scalar]:
    """Values of the cell's own knobs, in their types and inside their ranges."""
    found = {}
    for knob, value in values.items():
        declared = declared_knob(cell.optimizer, knob)
        if knob in cell.start and declared is not None and value is not None:
            found[knob] = declared.checked(value, cell.name)
    return found


def _text(value: Scalar) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def frame_of(session: Session, placed: Iterable[Placed]) -> pd.DataFrame:
    """The runs of some cells as the analysis takes them, straight from their ends: columns of `columns.RESULTS`."""
    rows = []
    for entry in placed:
        for candidate, _, outcome in entry.position.runs:
            if outcome is not None:
                rows.append(_row(session.tuning.name, session.spec(entry.cell, candidate), outcome))
    return pd.DataFrame(rows, columns=list(RESULTS))


def _row(study: str, spec: RunSpec, outcome: Outcome) -> dict[str, Any]:
    return {
        "run_id": spec.run_id,
        "study": study,
        "origin": "native",
        "engine": spec.engine,
        "optimizer": spec.optimizer,
        "model": spec.model,
        "params": spec.shape.non_embedding_params,
        "total_params": spec.shape.total_params,
        "chinchilla": spec.chinchilla,
        "tokens": spec.tokens,
        "dataset": dataset_key(spec),
        "dataset_hash": spec.dataset_hash,
        "validation_set": validation_key(spec),
        "seq_len": spec.seq_len,
        "batch_size": spec.batch_size,
        "schedule": spec.schedule,
        "dtype": spec.dtype,
        "seed": spec.seed,
        "hyperparameters": canonical_json(spec.hyperparameters),
        "state": outcome.state,
        "loss": outcome.loss,
        "steps": spec.steps,
        "tokens_per_step": spec.tokens_per_step,
        "flops_per_token": spec.shape.flops_per_token(spec.seq_len),
    }
