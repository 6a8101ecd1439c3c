"""`target_test`: is the mean final loss of a cell's best configuration below a target? A t-test over its replicates.

One-sided, one sample, as the public NanoGPT speedrun records are judged (mean below the target at p < .01):
https://github.com/KellerJordan/modded-nanogpt. Student 1908.
"""

from __future__ import annotations

import math
from statistics import fmean, stdev
from typing import Any

import pandas as pd

from optsweep_tui.analysis import tails
from optsweep_tui.analysis.cells import CellLoss, groups
from optsweep_tui.analysis.columns import TTEST
from optsweep_tui.analysis.number_ids import addressed
from optsweep_tui.errors import OptsweepError

LEVEL = 0.01


def target_test(results: pd.DataFrame, target_loss: float, *, level: float = LEVEL) -> pd.DataFrame:
    """Test of every cell against one target.

    The replicates are the seeds of the best configuration that ended with a loss. The base-seed run that chose the
    configuration was chosen for its small loss: where there are fresh seeds it is left out of the mean.

    Args:
        results: one row per run, columns of `columns.RESULTS`.
        target_loss: nats per token.
        level: p below which the mean counts as below the target.

    Returns:
        Columns of `columns.TTEST`, by group, rising budget and optimizer.

    Raises:
        OptsweepError: for a target or a level that cannot be one.
    """
    if not (math.isfinite(target_loss) and target_loss > 0):
        raise OptsweepError(f"--target-loss {target_loss:g}: a loss in nats is positive and finite", "Try 3.28.")
    if not 0 < level < 1:
        raise OptsweepError(f"--level {level:g}: a probability lies between 0 and 1", "Try 0.01.")
    rows = [{**group.columns, **_row(cell, target_loss, level)} for group in groups(results) for cell in group.cells]
    frame = pd.DataFrame(rows, columns=list(TTEST))
    return addressed(frame, "ttest", target_loss=target_loss, level=level)


def _row(cell: CellLoss, target: float, level: float) -> dict[str, Any]:
    losses = list(cell.replicates[1:] if cell.n_fresh else cell.replicates)
    row: dict[str, Any] = {
        "optimizer": cell.optimizer,
        "chinchilla": cell.chinchilla,
        "tokens": cell.tokens if cell.tokens > 0 else math.nan,
        "params": cell.params,
        "target_loss": target,
        "n": len(losses),
        "mean": fmean(losses) if losses else math.nan,
        "sd": stdev(losses) if len(losses) > 1 else math.nan,
        "level": level,
        "excluded": cell.replicates[0] if cell.n_fresh else math.nan,
        "losses": losses,
        "flags": list(cell.flags),
        "run_ids": list(cell.run_ids),
    }
    reason = _refusal(cell, losses)
    if reason:
        return row | {"state": "REFUSE", "reason": reason}
    dof = len(losses) - 1
    t = (row["mean"] - target) / (row["sd"] / math.sqrt(len(losses)))
    p = tails.student_probability(t, dof)
    verdict = "BELOW" if p < level else "NOT-SHOWN"
    return row | {"state": "TEST", "reason": "", "t": t, "dof": float(dof), "p": p, "verdict": verdict}


def _refusal(cell: CellLoss, losses: list[float]) -> str:
    if not losses:
        return f"no final loss: {cell.account}"
    if len(losses) < 2:
        kind = "fresh seed" if cell.n_fresh else "run, the one that chose the configuration"
        return f"one {kind}: a spread needs two fresh seeds"
    if max(losses) == min(losses):
        return "the replicates are equal to the last digit, which no noise explains"
    return ""
