"""States that runs are asked to keep for others, `--keep`: noted in the run folders, and what of it is still to come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from optsweep_engines import kept
from optsweep_tui import rundir, starting
from optsweep_tui.dispatch import placing
from optsweep_tui.settings import Workspace


def require_here(workspace: Workspace, run_ids: Iterable[str]) -> None:
    """Refuse `--keep` for runs of other machines.

    Raises:
        OptsweepError: one is placed, or was trained, elsewhere.
    """
    choices = placing.Choices(workspace)
    for run_id in run_ids:
        where = rundir.host_of(rundir.state_of(workspace.runs / run_id).attempt_folder) or "local"
        starting.require_local([where, *choices.of(run_id)], (), keep=True)


def remember(workspace: Workspace, asked: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """Note in the run folders which states are to be kept, beside those asked for earlier; of a run under way those ahead.

    Returns:
        Run under way -> steps that it has passed without keeping their states: nothing is noted of them, for a lost run's
        next attempt would go back to make them.

    Raises:
        OptsweepError: a folder cannot be written.
    """
    passed: dict[str, list[int]] = {}
    for run_id, steps in asked.items():
        where = workspace.runs / run_id
        state = rundir.state_of(where)
        row = rundir.last_metric(state.attempt_folder) if state.state == "running" and state.attempt_folder else None
        behind = {step for step in steps if row is not None and step <= row["step"]} - set(kept.steps(where))
        if behind:
            passed[run_id] = sorted(behind)
        try:
            kept.ask(where, add=set(steps) - behind)
        except OSError as error:
            raise rundir.unwritable(where, error) from None
    return passed


def passed_line(run_id: str, steps: Sequence[int]) -> str:
    """What to say of steps that `remember` gave back."""
    those = ", ".join(map(str, steps))
    return (
        f"run {run_id[:8]} is under way and has passed step{'s'[: len(steps) != 1]} {those}: ask again when it is over"
    )


def keeps_all(workspace: Workspace, run_id: str) -> bool:
    """A run that is done and keeps every state that it was asked for."""
    return rundir.state_of(workspace.runs / run_id).state == "done" and not unmet(workspace, run_id)


def unmet(workspace: Workspace, run_id: str) -> list[int]:
    """Steps that a run was asked to keep and does not."""
    return sorted(kept.unmet(workspace.runs / run_id))
