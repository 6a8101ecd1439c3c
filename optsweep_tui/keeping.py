"""States that runs are asked to keep for others, `--keep`: noted in the run folders, and what of it is still to come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from optsweep_engines import kept
from optsweep_engines.spec import RunSpec
from optsweep_tui import rundir, states
from optsweep_tui.dispatch import hostsfile, placing
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace

UNDER_WAY = ("submitting", "queued", "running")


def require_places(workspace: Workspace, hosts: Iterable[str], specs: Iterable[RunSpec], *, keep: bool = False) -> None:
    """Refuse machines that do not have what a run begins with: states are not sent. And those that cannot be asked to keep any.

    Raises:
        OptsweepError: a run would go to one.
    """
    chosen = list(hosts)
    known = hostsfile.read(workspace) if any(name != states.LOCAL for name in chosen) else {}
    for spec in specs:
        if spec.start is None:
            continue
        places = states.places_of(workspace, spec) or {states.LOCAL}  # gone: its engine says so
        wrong = [name for name in chosen if states.place_of(known, name) not in places]
        if wrong:
            where = "this machine" if wrong[0] == states.LOCAL else wrong[0]
            raise OptsweepError(
                f"run {spec.run_id[:8]} begins with the state of run {spec.start.run_id[:8]} at step {spec.start.step}, "
                f"which lies on {' and '.join(sorted(places))} and is not sent to {where}",
                "leave --host out" if states.LOCAL in places else f"add --host {min(places)}",
            )
    if keep:
        for name in chosen:
            base = name.partition(":")[0]
            if base != states.LOCAL and (base not in known or known[base].backend not in states.KEEPING):
                raise OptsweepError(
                    f"--keep works on this machine, on hosts behind ssh and on Slurm, not on {name}",
                    "leave --keep or --host out",
                )


def require_asked(workspace: Workspace, run_ids: Iterable[str]) -> None:
    """Refuse `retry --keep` for runs that cannot be asked now: those under way on a host whose files are not here.

    Raises:
        OptsweepError: naming the first.
    """
    choices, known = placing.Choices(workspace), hostsfile.read(workspace)
    for run_id in run_ids:
        state = rundir.state_of(workspace.runs / run_id)
        host = rundir.host_of(state.attempt_folder) or states.LOCAL
        require_places(workspace, [host, *choices.of(run_id)], (), keep=True)
        if states.place_of(known, host) != states.LOCAL and state.state in UNDER_WAY:
            raise OptsweepError(
                f"run {run_id[:8]} is under way on host {host}: what it is to keep goes there with an attempt",
                "ask again when it is over",
            )


def remember(workspace: Workspace, asked: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """Note in the run folders which states are to be kept, beside those asked for earlier; of a run under way those ahead.

    Returns:
        Run under way -> steps that come too late for it, passed, or asked for while it is on a host: nothing is noted of
        them, for a lost run's next attempt would go back to make them.

    Raises:
        OptsweepError: a folder cannot be written.
    """
    passed: dict[str, list[int]] = {}
    known = hostsfile.read(workspace)
    for run_id, steps in asked.items():
        where = workspace.runs / run_id
        state = rundir.state_of(where)
        row = rundir.last_metric(state.attempt_folder) if state.state == "running" and state.attempt_folder else None
        host = rundir.host_of(state.attempt_folder)
        away = state.state in UNDER_WAY and states.place_of(known, host) != states.LOCAL
        late = {step for step in steps if away or (row is not None and step <= row["step"])}
        behind = late - kept.wanted(where) if away else late - set(kept.steps(where))
        if behind:
            passed[run_id] = sorted(behind)
        try:
            kept.ask(where, add=set(steps) - behind)
        except OSError as error:
            raise rundir.unwritable(where, error) from None
    return passed


def passed_line(run_id: str, steps: Sequence[int]) -> str:
    """What to say of steps that `remember` gave back."""
    those = f"step {steps[0]} comes" if len(steps) == 1 else f"steps {', '.join(map(str, steps))} come"
    return f"run {run_id[:8]} is under way, {those} too late for it: ask again when it is over"


def unkept_lines(workspace: Workspace, run_ids: Iterable[str]) -> Iterator[str]:
    """What to say of runs that are over without what they were asked to keep."""
    for run_id in run_ids:
        steps = unmet(workspace, run_id)
        if steps and rundir.state_of(workspace.runs / run_id).finished:
            yield (
                f"note: run {run_id[:8]} is over and does not keep the state of step {','.join(map(str, steps))}: "
                f"optsweep retry {run_id[:8]} trains the missing part again"
            )


def keeps_all(workspace: Workspace, run_id: str) -> bool:
    """A run that is done and keeps every state that it was asked for."""
    return rundir.state_of(workspace.runs / run_id).state == "done" and not unmet(workspace, run_id)


def unmet(workspace: Workspace, run_id: str) -> list[int]:
    """Steps that a run was asked to keep and does not."""
    return sorted(kept.wanted(workspace.runs / run_id) - set(states.steps(workspace, run_id)))
