"""A whole tuning: where each of its cells is, equal budgets across optimizers, and phases one after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from optsweep_tui.tune.problem import Problem, Results
from optsweep_tui.tune.procedure import Position, position
from optsweep_tui.tune.tuning import TunedCell, Tuning


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A cell and where its tuning is."""

    cell: TunedCell
    """As it is tuned: in later phases with the start and the knobs that earlier ones decided."""
    position: Position
    why: str = ""
    """What earlier phases decided for it, in words."""

    @property
    def ended(self) -> bool:
        return self.position.state == "ended"


Advice: TypeAlias = Callable[[TunedCell, Sequence[Placed]], tuple[TunedCell, str]]
"""(cell of a later phase, the ended cells of earlier phases) -> (the cell with its start and knobs, why)."""


def places(
    tuning: Tuning,
    problem_of: Callable[[TunedCell], Problem],
    results_of: Callable[[TunedCell], Results],
    advice: Advice | None = None,
) -> list[Placed]:
    """Where every cell is, in the order of the tuning. The same results give the same places.

    Args:
        advice: decides start and knobs of the cells of phases 2 and 3; asked once all cells of the same optimizer in
            earlier phases have ended.
    """
    found: dict[int, Placed] = {}
    for phase in sorted({cell.phase for cell in tuning.cells}):
        ready: dict[int, tuple[TunedCell, str]] = {}
        for index, cell in enumerate(tuning.cells):
            if cell.phase != phase:
                continue
            earlier = [
                found[place]
                for place, other in enumerate(tuning.cells)
                if other.phase < phase and other.optimizer == cell.optimizer
            ]
            if not all(placed.ended for placed in earlier):
                stuck = any(placed.position.state == "stuck" for placed in earlier)
                reason = "an earlier phase is stuck" if stuck else "earlier phases have not ended"
                found[index] = Placed(cell=cell, position=Position(state="waiting", start=cell.start, reason=reason))
            elif earlier and advice is not None:
                ready[index] = advice(cell, earlier)
            else:
                ready[index] = (cell, "")
        found |= _together(tuning, ready, problem_of, results_of)
    return [found[index] for index in range(len(tuning.cells))]


def _together(
    tuning: Tuning,
    ready: dict[int, tuple[TunedCell, str]],
    problem_of: Callable[[TunedCell], Problem],
    results_of: Callable[[TunedCell], Results],
) -> dict[int, Placed]:
    """Cells that may be tuned at the same time; those of one budget wait for each other where budgets are equal."""
    found = {}
    for index, (cell, why) in ready.items():
        problem = dataclasses.replace(problem_of(cell), equal=tuning.equal_budget)
        found[index] = Placed(cell=cell, position=position(problem, results_of(cell)), why=why)
    if not tuning.equal_budget:
        return found
    for budget in {cell.budget for cell, _ in ready.values()}:
        group = [index for index, (cell, _) in ready.items() if cell.budget == budget]
        if any(found[index].position.state != "waiting" for index in group):
            continue
        most = max(found[index].position.used for index in group)
        for index in group:
            cell, why = ready[index]
            problem = dataclasses.replace(problem_of(cell), equal=True)
            found[index] = Placed(cell=cell, position=position(problem, results_of(cell), most), why=why)
    return found
