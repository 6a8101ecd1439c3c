"""Where the states that runs keep lie: here, or behind ssh on hosts that trained them, as the events of their attempts say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from optsweep_engines import folder, kept
from optsweep_engines.spec import RunSpec
from optsweep_tui import rundir
from optsweep_tui.dispatch import hostsfile, tidy
from optsweep_tui.dispatch.hostsfile import HostEntry
from optsweep_tui.settings import Workspace

LOCAL = "local"
KEEPING = ("ssh", "slurm")
"""Back-ends that keep states, behind ssh or, a Slurm that is used on its own login node, in the workspace itself."""
DROPPED = "dropped.json"
"""In a run folder: which states were removed from hosts since their attempts told of them."""
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class State:
    """One state of a run."""

    step: int
    engine: str
    """That wrote it, and goes on from it."""
    parameters_sha256: str
    """Hash over the parameters to evaluate."""
    hosts: tuple[str, ...]
    """Machines that have it, this one ("local") first."""


def place_of(known: Mapping[str, HostEntry], host: str | None) -> str:
    """The machine that has the files of a host's runs: the host, or this one, where a Slurm works in the workspace.

    Args:
        known: hosts.toml.
        host: NAME, NAME:PARTITION, or None for this machine.
    """
    name = (host or LOCAL).partition(":")[0]
    entry = known.get(name)
    return LOCAL if entry is not None and entry.backend == "slurm" and entry.ssh is None else name


def elsewhere(workspace: Workspace, run_id: str) -> dict[int, dict[str, str]]:
    """Step -> host -> hash of the parameters, of states on hosts; what a newer attempt says of a host counts."""
    found: dict[int, dict[str, str]] = {}
    known = None
    gone = _dropped(workspace.runs / run_id)
    for number, attempt_folder in rundir.attempts(workspace.runs / run_id):
        named = rundir.host_of(attempt_folder)
        if named in (None, LOCAL):
            continue
        known = hostsfile.read(workspace) if known is None else known
        host = place_of(known, named)
        if host == LOCAL or host not in known or known[host].backend not in KEEPING:
            continue
        for event in rundir.events(attempt_folder):
            step, sha256 = event.get("step"), event.get("parameters_sha256")
            if event.get("kind") != "kept" or type(step) is not int or number <= gone.get(host, {}).get(step, 0):
                continue
            if isinstance(sha256, str) and _HASH.fullmatch(sha256):
                places = found.setdefault(step, {})
                places.pop(host, None)
                places[host] = sha256  # the newest last
    return found


def steps(workspace: Workspace, run_id: str) -> list[int]:
    """Steps of which a run keeps its state somewhere, in order."""
    return sorted({*kept.steps(workspace.runs / run_id), *elsewhere(workspace, run_id)})


def find(workspace: Workspace, spec: RunSpec, step: int) -> State:
    """The state of a run after so many steps: the one here, every byte hashed, else what a host told last.

    Raises:
        FileNotFoundError: it keeps none of that step.
        ValueError, OSError: as `kept.find`.
    """
    far = elsewhere(workspace, spec.run_id).get(step, {})
    if step in kept.steps(workspace.runs / spec.run_id):
        here = kept.find(workspace.runs, spec.run_id, step)
        engine, sha256, places = here.engine, here.parameters_sha256, [LOCAL]
    elif far:
        engine, sha256, places = spec.engine, list(far.values())[-1], []
    else:
        raise FileNotFoundError(f"run {spec.run_id[:8]} keeps no state of step {step}")
    hosts = (*places, *(host for host, other in far.items() if other == sha256))
    return State(step=step, engine=engine, parameters_sha256=sha256, hosts=hosts)


def places_of(workspace: Workspace, spec: RunSpec) -> set[str]:
    """Machines that have what a run begins with; empty where none is known, or it begins with its seed."""
    if spec.start is None:
        return set()
    far = elsewhere(workspace, spec.start.run_id).get(spec.start.step, {})
    found = {host for host, sha256 in far.items() if sha256 == spec.start.parameters_sha256}
    here = spec.start.step in kept.steps(workspace.runs / spec.start.run_id)
    return found | {LOCAL} if here else found


# ---------------------------------------------------------------- removing


def unneeded_elsewhere(workspace: Workspace) -> dict[str, dict[str, list[int]]]:
    """Host -> run id -> steps of the states there that nothing needs."""
    over, needed = tidy.states_needed(workspace)
    found: dict[str, dict[str, list[int]]] = {}
    for run_id in over:
        for step, hosts in elsewhere(workspace, run_id).items():
            for host in hosts if (run_id, step) not in needed else ():
                found.setdefault(host, {}).setdefault(run_id, []).append(step)
    return found


def note_dropped(run_folder: Path, host: str, dropped: Iterable[int]) -> None:
    """What attempts so far say of these states of a host holds no more, and nobody asks for them.

    To be called when they are gone: after a crash in between they are removed once more.
    """
    newest = rundir.attempts(run_folder)[-1][0]
    before = {name: {str(step): number for step, number in each.items()} for name, each in _dropped(run_folder).items()}
    now = {**before, host: {**before.get(host, {}), **{str(step): newest for step in dropped}}}
    folder.write_json(run_folder / DROPPED, now)
    kept.ask(run_folder, drop=dropped)


def _dropped(run_folder: Path) -> dict[str, dict[int, int]]:
    """Host -> step -> newest attempt when its state was removed there."""
    try:
        data = folder.read_json(run_folder / DROPPED) or {}
        return {host: {int(step): int(number) for step, number in each.items()} for host, each in data.items()}
    except (ValueError, TypeError, AttributeError):
        return {}
