"""Keeping runs going until all are over: settle the dead, retry, add fresh seeds, keep the slots busy."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from optsweep_tui import plan, rundir, studies
from optsweep_tui.core import FreshSeeds, RunSpec, Study
from optsweep_tui.dispatch import retry
from optsweep_tui.dispatch.lines import Meter, Progress, RunLine, progress_of, run_line, spec_of
from optsweep_tui.dispatch.protocol import Dispatcher
from optsweep_tui.errors import OptsweepError
from optsweep_tui.rundir import RunState
from optsweep_tui.settings import Workspace

LOOKS_SHARE = 25.0
"""A look is followed by a pause this many times as long, at least: the cores are for training."""


def drive(workspace: Workspace, dispatcher: Dispatcher, run_ids: Iterable[str]) -> Iterator[Progress]:
    """Keep runs going until all are over: settle the dead, retry, add fresh seeds, keep the slots busy.

    Yields a look a few times a second. Stopping the iteration (or dying) loses nothing: workers go on by themselves and
    any later controller takes up where this one stopped.
    """
    wanted = list(dict.fromkeys(run_ids))
    started = time.monotonic()
    meter = Meter()
    settled: dict[str, RunState] = {}
    ended: dict[str, RunLine] = {}
    while True:
        looked = time.monotonic()
        fresh = dispatcher.poll(run_id for run_id in wanted if run_id not in settled)
        over = {run_id: state for run_id, state in fresh.items() if retry.given_up(workspace.runs / run_id, state)}
        first_look = not settled
        settled |= over
        dispatcher.submit(run_id for run_id in wanted if run_id not in settled)
        added = _add_fresh_seeds(workspace, wanted, settled, dispatcher) if over or first_look else []
        wanted += added
        dispatcher.advance()
        ended |= {run_id: run_line(workspace, run_id, settled[run_id]) for run_id in settled if run_id not in ended}
        lines = [ended.get(run_id) or run_line(workspace, run_id, fresh.get(run_id)) for run_id in wanted]
        complete = not added and all(run_id in settled for run_id in wanted)
        specs = [spec_of(workspace, run_id) for run_id in wanted]
        look = progress_of(specs, lines, set(settled), started, meter, complete)
        elsewhere, awaited = getattr(dispatcher, "elsewhere", 0), tuple(getattr(dispatcher, "awaited", ()))
        yield dataclasses.replace(look, elsewhere=elsewhere, awaited=awaited)
        if complete:
            dispatcher.gc()
            return
        if not added:  # what has just been added may be over already
            time.sleep(max(workspace.poll_seconds, LOOKS_SHARE * (time.monotonic() - looked)))


def _owed_seeds(workspace: Workspace, study: Mapping[str, Any], settled: Mapping[str, RunState]) -> list[RunSpec]:
    """The fresh seeds that a study asks for now: of every cell whose sweep has ended."""
    rule = study.get("fresh_seeds")
    if not rule:
        return []
    specs, losses = [], {}
    for run_id in study["runs"]:
        run_folder = workspace.runs / run_id
        if (run_folder / rundir.SPEC).exists() and not broken(workspace, [run_id]):
            specs.append(spec_of(workspace, run_id))
            state = settled.get(run_id) or rundir.state_of(run_folder)
            if state.state == "cancelled":
                continue  # its cell is not ended and will not be: it owes nothing
            if state.finished or run_id in settled:
                losses[run_id] = state.record.val_loss if state.record and state.state == "done" else None
    ruled = Study(name=study["name"], fresh_seeds=FreshSeeds(**rule | {"optimizer": tuple(rule["optimizer"])}))
    return plan.fresh_seeds(ruled, specs, losses)


def _add_fresh_seeds(
    workspace: Workspace, wanted: list[str], settled: Mapping[str, RunState], dispatcher: Dispatcher
) -> list[str]:
    """Plant and queue the fresh seeds of the studies that are driven; returns the new ids."""
    added: list[str] = []
    for study in studies.listed(workspace.studies):
        if set(study["runs"]) & set(wanted):
            missing = [spec for spec in _owed_seeds(workspace, study, settled) if spec.run_id not in wanted]
            if not set(study["runs"]) <= set(
                wanted
            ):  # some runs of it are tried again: its other seeds are not their affair
                missing = [spec for spec in missing if not rundir.state_of(workspace.runs / spec.run_id).finished]
            rundir.write(workspace.runs, missing, study["name"])
            added += [spec.run_id for spec in missing]
    dispatcher.submit(added)
    return added


def broken(workspace: Workspace, run_ids: Iterable[str]) -> dict[str, str]:
    """run id -> why its spec cannot be used; such a run is left alone and the others go on."""
    found = {}
    for run_id in run_ids:
        try:
            if rundir.is_imported(workspace.runs / run_id):
                rundir.read_import(workspace.runs / run_id)
            else:
                spec_of(workspace, run_id)
        except OptsweepError as error:
            found[run_id] = str(error)
    return found


def unfinished(workspace: Workspace, dispatcher: Dispatcher) -> list[str]:
    """Runs that a controller should take up: neither over nor cancelled, fresh seeds still owed among them."""
    plan.finish_planting(workspace)
    for study in studies.listed(workspace.studies):
        owed = [spec for spec in _owed_seeds(workspace, study, {}) if not (workspace.runs / spec.run_id).exists()]
        rundir.write(workspace.runs, owed, study["name"])
    known = rundir.native_ids(workspace.runs)
    unusable = set(broken(workspace, known))
    states = dispatcher.poll(run_id for run_id in known if run_id not in unusable)
    return [run_id for run_id, state in states.items() if not retry.given_up(workspace.runs / run_id, state)]
