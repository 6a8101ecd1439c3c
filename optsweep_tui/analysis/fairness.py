"""What makes a cell and the baseline's cell unequal: tuning effort, edges, schedule, batch, compute type."""

from __future__ import annotations

from optsweep_tui.analysis import flags as F
from optsweep_tui.analysis.cells import CellLoss

# analysis.md: selected minima over numbers of runs that differ by more are not comparable.
BUDGET_RATIO = 1.25


def comparison_flags(cell: CellLoss, reference: CellLoss | None) -> set[str]:
    """Flags of a cell in comparison with the baseline's cell of the same (or nearest) budget.

    Args:
        cell: any cell.
        reference: the baseline's; None when the baseline has no loss.
    """
    found = {F.UNTUNED} if cell.edges else set()
    if _unswept(cell) or (reference is not None and _unswept(reference)):
        found.add(F.UNSWEPT)
    if reference is None:
        return found | {F.NO_BASELINE}
    if F.BRANCH in reference.flags:
        found.add(F.BRANCH)
    if reference.tokens != cell.tokens:
        found.add(F.NO_BASELINE)
    if reference.edges:
        found.add(F.UNTUNED)
    few, many = sorted((cell.tuning_runs, reference.tuning_runs))
    if many > BUDGET_RATIO * few:
        found.add(F.UNTUNED)
    if cell.best is None or reference.best is None:
        return found
    mine, theirs = cell.best, reference.best
    # Unpublished is not different: UNLISTED says that nothing is known.
    if mine.schedule and theirs.schedule and mine.schedule != theirs.schedule:
        found.add(F.SCHEDULE)
    if mine.dtype and theirs.dtype and mine.dtype != theirs.dtype:
        found.add(F.DTYPE)
    if abs(mine.batch_size - theirs.batch_size) > 0:
        found.add(F.BATCH)
    return found


def _unswept(cell: CellLoss) -> bool:
    """One published configuration, and none that is not published: of those nothing is known."""
    return cell.tuning_runs == 1 and all(run.knobs is not None for run in cell.swept)
