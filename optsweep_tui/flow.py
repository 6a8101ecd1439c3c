"""The program in order: plan, launch, drive, collect. With `ask`, all that the command line and the app call.

    grids/*.toml -> specs -> run folders -> dispatch -> metrics -> results.duckdb -> (ask) dataframes -> answers

Each step loads its own libraries when it is called, so that a verb which needs none starts at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optsweep_engines.engine import engine_names
from optsweep_tui import rundir
from optsweep_tui import studies as study_files
from optsweep_tui.core import RunSpec, Study
from optsweep_tui.dispatch import lines as run_looks
from optsweep_tui.dispatch.lines import Progress, RunLine, cell_of, run_line, run_lines, spec_of
from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.settings import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from optsweep_tui.dispatch.protocol import Dispatcher
    from optsweep_tui.dispatch.tidy import Removed
    from optsweep_tui.store.answers import Answer
    from optsweep_tui.store.ingest import CollectReport

__all__ = ["Progress", "RunLine", "cell_of", "run_line", "run_lines", "spec_of"]

ENGINE_LIBRARY = {"torch": "torch", "jax": "jax"}
"""What must be installed for an in-tree engine to run here."""


# ---------------------------------------------------------------- plan


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asked to run; empty fields mean "as the grid says"."""

    grid: str | None = None
    optimizers: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    chinchillas: tuple[str, ...] = ()
    cells: tuple[tuple[str, str, float], ...] = ()
    """Single cells (optimizer, model, ratio): those of the grid, or, without a grid, in the place of names above."""
    sets: tuple[str, ...] = ()
    sweeps: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    engine: str | None = None
    dataset: str | None = None
    around: str | None = None
    simulate_epochs: int | None = None
    """So many times through a part of the dataset; None: as the grid says, else random windows of all of it."""
    from_run: str | None = None
    """ID[@STEP]: with -o and -m or a grid its weights are what the runs begin with; without, its branches are planned."""
    validate: tuple[str, ...] = ()
    """Further validation sets, NAME=DATASET[:SPLIT] each, beside those of the grid."""
    metric_set: str | None = None
    """Name of the validation set whose loss is compared; None: as the grid says, else the dataset's own."""
    scale: str | None = None
    """"tiny": the same plan on 2 layers x 64, see `scaling`."""
    limit: int | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study and its fully resolved runs."""

    study: Study
    specs: list[RunSpec]
    fresh_seed_runs: int
    """Runs that the results will add: fresh seeds of best configurations."""

    @property
    def run_ids(self) -> list[str]:
        return [spec.run_id for spec in self.specs]


def plan(workspace: Workspace, request: Request, *, prepare: bool = False) -> Plan:
    """Resolve a request to specs.

    Args:
        prepare: prepare the datasets first (writes into the workspace); without, an unprepared one has no hash.
    """
    from optsweep_engines.optimizers import user_plan
    from optsweep_tui import grid, gridfile, heldout, scaling, starting
    from optsweep_tui import plan as planning
    from optsweep_tui.datasets import DatasetLookup

    if request.from_run and not (request.grid or request.cells or request.optimizers or request.models):
        return _branches(workspace, request)
    if request.grid is not None:
        study = gridfile.load(request.grid, workspace.grids)
        study = grid.select(study, request.optimizers, request.models, request.chinchillas)
        study = grid.only(study, request.cells) if request.cells else study
    elif request.cells:
        study = grid.of_cells(request.cells)
    else:
        for values, option in (
            (request.optimizers, "-o OPTIMIZER"),
            (request.models, "-m MODEL"),
            (request.chinchillas, "-c RATIO"),
        ):
            if not values:
                raise OptsweepError(f"nothing is selected: {option} is missing", "give -o, -m and -c, or --grid NAME")
        study = grid.from_names(request.optimizers, request.models, request.chinchillas)
    engine = request.engine or study.engine
    if engine not in engine_names():
        raise UnknownName("engine", engine, engine_names(), hint="(optsweep doctor lists the engines)")
    if request.around not in (None, "incumbent", "start"):
        raise UnknownName("--around", str(request.around), ("incumbent", "start"))
    changes: dict[str, Any] = {"engine": engine}
    if request.seeds:
        changes["seeds"] = request.seeds
    if request.dataset:
        changes["dataset"] = request.dataset
    if request.around:
        changes["around"] = request.around
    if request.validate:
        changes["validation_sets"] = {**study.validation_sets, **heldout.named(request.validate)}
    if request.metric_set is not None:
        changes["validation_set"] = request.metric_set
    sets = request.sets
    if request.simulate_epochs is not None:
        sets = (*sets, f"simulate_epochs={request.simulate_epochs}")
    study = grid.with_settings(dataclasses.replace(study, **changes), sets, request.sweeps)
    if request.limit is not None and request.limit < 1:
        raise OptsweepError(f"--limit {request.limit} leaves no run", "give a positive number")
    # One more than asked for shows whether the limit cut anything.
    most = None if request.limit is None else request.limit + 1
    if request.scale is None:
        specs = grid.expand(study, DatasetLookup(workspace, prepare), most)
    else:
        small = scaling.named(study, request.scale)
        specs = grid.expand(study, DatasetLookup(workspace, prepare=False))
        specs = scaling.shrunk(specs, DatasetLookup(workspace, prepare)(scaling.DATASET))[:most]
        study = small
    if request.from_run is not None:
        specs = starting.with_weights(workspace, specs, request.from_run, DatasetLookup(workspace, prepare=False))
    fresh = planning.fresh_seed_count(study, specs)
    with grid.own_errors():
        user_plan.attempt(specs)
    if request.limit is not None and request.limit < len(specs):
        specs, fresh = specs[: request.limit], 0
        study = dataclasses.replace(study, fresh_seeds=None)
    return Plan(study=study, specs=specs, fresh_seed_runs=fresh)


def _branches(workspace: Workspace, request: Request) -> Plan:
    """The branches of a trunk: all but their length is the trunk's."""
    from optsweep_tui import starting

    assert request.from_run is not None
    given = {
        "--sweep": request.sweeps, "--seeds": request.seeds, "--engine": request.engine, "--dataset": request.dataset,
        "--around": request.around, "--scale": request.scale, "--simulate-epochs": request.simulate_epochs,
        "--validate": request.validate, "--metric-set": request.metric_set,
    }  # fmt: skip
    starting.require_only(request.from_run, given)
    specs = starting.branches(workspace, request.from_run, request.chinchillas, request.sets)
    if request.limit is not None:
        if request.limit < 1:
            raise OptsweepError(f"--limit {request.limit} leaves no run", "give a positive number")
        specs = specs[: request.limit]
    return Plan(study=Study(name="default"), specs=specs, fresh_seed_runs=0)


def cautions(specs: Iterable[RunSpec]) -> list[str]:
    """What a careful reader of a plan would remark, a line each: legal, but seldom meant."""
    from optsweep_engines import schedules
    from optsweep_engines.optimizers import catalogue
    from optsweep_tui import published

    found = list(specs)
    notes = []
    idle = Counter(
        f"{spec.optimizer}: {knob} does nothing without {' or '.join(others)}"
        for spec in found
        for knob, others in catalogue.idle_knobs(spec.optimizer, spec.hyperparameters).items()
    )
    notes += [f"{what} ({count} of {len(found)} runs)" for what, count in idle.items()]
    warming = sum(schedules.never_at_peak(spec.schedule, spec.steps, spec.hyperparameters) for spec in found)
    if warming:
        notes.append(f"{warming} of {len(found)} runs spend every step in warmup and never reach their learning rate")
    contexts = sorted({spec.seq_len for spec in found})
    if len(contexts) > 1:
        lengths = ", ".join(map(str, contexts))
        notes.append(f"losses at different context lengths ({lengths}) are not comparable and stay in separate tables")
    return notes + published.origins((spec.optimizer, spec.model, spec.chinchilla) for spec in found)


def require_engines(specs: Iterable[RunSpec]) -> None:
    """Raise one clear line when the library of an engine is not installed, before anything is written."""
    for name in sorted({spec.engine for spec in specs}):
        require_engine(name)


def require_engine(name: str) -> None:
    """Raise where the library of one engine is not installed."""
    library = ENGINE_LIBRARY.get(name)
    if library and importlib.util.find_spec(library) is None:
        raise OptsweepError(
            f"engine {name} needs the library {library}, which is not installed here", f"pip install 'optsweep[{name}]'"
        )


def rates(workspace: Workspace) -> dict[Any, float]:
    """Tokens/s by what decides it (`cost.rate_key`): medians of the finished runs here, else what `bench` found.

    Only of runs spread over as many devices, and in the same way, as a run here would be.
    """
    import statistics

    from optsweep_tui import benches, meshes
    from optsweep_tui.cost import rate_key

    found: dict[Any, list[float]] = {}
    for run_id in rundir.native_ids(workspace.runs)[-2000:]:
        state = rundir.state_of(workspace.runs / run_id)
        if state.record is not None and state.record.tokens_per_second:
            try:
                spec = spec_of(workspace, run_id)
            except OptsweepError:
                continue
            if meshes.as_here(workspace, spec, state.record.mesh):
                found.setdefault(rate_key(spec), []).append(state.record.tokens_per_second)
    return benches.rates(workspace) | {key: statistics.median(values) for key, values in found.items()}


# ---------------------------------------------------------------- launch


def launch(
    workspace: Workspace,
    chosen: Plan,
    *,
    force: bool = False,
    pack: int | None = None,
    hosts: Sequence[str] = ("local",),
    diagnostics: dict[str, Any] | None = None,
    keep: Mapping[str, Sequence[int]] | None = None,
    say: Callable[[str], None] = lambda _: None,
    wait: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Plant the run folders, remember the study, open and queue the attempts that are needed; returns the ids queued.

    Args:
        pack: so many runs of one shape share an engine process and its program; None: where a benchmark found a gain.
        hosts: where the runs may go, by `chosen_hosts`.
        diagnostics: what their engines are to tell, by `diagnosing.parsed`.
        keep: run id -> steps whose state it is to keep, by `starting.keep_steps`.
        say: called with a line about each host that cannot be used while others can, and each run that is past what it
            is to keep.
        wait: called with a line about hosts that are silent for more than a moment.
    """
    from optsweep_engines import survey
    from optsweep_engines.optimizers import user_plan
    from optsweep_tui import cost, diagnosing, keeping, meshes, packs
    from optsweep_tui import plan as planning
    from optsweep_tui.dispatch import placing, waiting

    keeping.require_places(workspace, hosts, chosen.specs, keep=bool(keep))
    if "local" in hosts:
        require_engines(chosen.specs)
        meshes.require_fits(workspace, chosen.specs)
        if tuple(hosts) == ("local",) and not workspace.gpus and workspace.device != "tpu":
            cost.require_memory(chosen.specs, survey.memory()[1])
        new = [spec for spec in chosen.specs if not (workspace.runs / spec.run_id).exists()]
        to_keep = {run_id: len(steps) for run_id, steps in (keep or {}).items()}
        cost.require_disk(new, workspace.free_bytes, workspace.run_slots, to_keep)
    workspace.ensure()
    _require_store(workspace)
    with waiting.told(workspace, hosts, wait):
        _require_hosts(workspace, chosen, hosts, say)
    rundir.keep_optimizers(workspace.runs, user_plan.sources(chosen.specs))
    planning.plant(workspace, chosen.study, chosen.specs)
    run_looks.remember(workspace, chosen.specs)
    if diagnostics is not None:
        diagnosing.keep(workspace, chosen.run_ids, diagnostics)
    if keep:
        for run_id, steps in keeping.remember(workspace, keep).items():
            say(keeping.passed_line(run_id, steps))
    placing.remember(workspace, chosen.study.name, chosen.run_ids, hosts)
    dispatcher = _dispatcher(workspace)
    device = dispatcher.host.device
    together = packs.automatic(workspace, chosen.specs, device) if pack is None else packs.grouped(chosen.specs, pack)
    states = dispatcher.poll(chosen.run_ids)
    again = [run_id for run_id, state in states.items() if force and state.finished]
    # Hosts that no run goes to are asked too: another controller's runs may be there.
    with waiting.told(workspace, hosts, wait):
        return [*dispatcher.submit(again, asked=True), *dispatcher.submit(chosen.run_ids, packs=together)]


def _require_store(workspace: Workspace) -> None:
    """A store that could not take the results (garbage, a newer schema) is named before hours of training, not after."""
    from optsweep_tui.errors import StoreLocked

    if workspace.store.exists():
        from optsweep_tui.store import queries

        with contextlib.suppress(StoreLocked):  # held by somebody for now: collecting waits for that
            queries.finished(workspace.store, wait_seconds=0.0)


def chosen_hosts(workspace: Workspace, hosts: str | None, accelerator: str | None) -> tuple[str, ...]:
    """`--host a,b:partition` and `--accelerator X` as names of hosts; this machine without either."""
    from optsweep_tui.dispatch import placing

    return placing.chosen(workspace, hosts, accelerator)


def _require_hosts(workspace: Workspace, chosen: Plan, hosts: Sequence[str], say: Callable[[str], None]) -> None:
    """Raise where none of the hosts can take a run; say which cannot where others can. Before anything is written."""
    if tuple(hosts) == ("local",):
        return
    from optsweep_tui.dispatch import fleet

    found = fleet.of(workspace)
    problems = found.connect(hosts)
    for name, why in found.lacking(
        {spec.engine for spec in chosen.specs}, [h for h in hosts if h not in problems]
    ).items():
        problems.setdefault(name, why)
    usable = [name for name in hosts if name not in problems]
    if not usable:
        if len(problems) == 1:
            raise OptsweepError(next(iter(problems.values())))
        for why in problems.values():
            say(f"note: {why}")
        raise OptsweepError(
            f"none of the {len(problems)} hosts can be used", "mend one, or choose another: optsweep hosts ls"
        )
    for why in [*problems.values(), *found.cautions(usable)]:
        say(f"note: {why}")


def _dispatcher(workspace: Workspace) -> Dispatcher:
    from optsweep_tui.dispatch import fleet

    return fleet.dispatcher(workspace)


def attend(workspace: Workspace) -> None:
    """Have what runs on other machines stream into the workspace while this process lives."""
    if not workspace.sends_elsewhere:
        return
    from optsweep_tui.dispatch import fleet

    fleet.of(workspace)


def ask_hosts(workspace: Workspace, seconds: float = 20.0) -> dict[str, str]:
    """Bring what other machines have of the runs into the workspace; host -> why it could not be asked."""
    if not workspace.sends_elsewhere:  # and then the fleet, a tenth of a second, need not be loaded
        return {}
    from optsweep_tui.dispatch import fleet

    return fleet.of(workspace).flush(seconds)


def send_to(workspace: Workspace, run_ids: Sequence[str], hosts: Sequence[str]) -> None:
    """From now on these runs' attempts may go to other hosts than at their launch."""
    from optsweep_tui import keeping
    from optsweep_tui.dispatch import placing

    keeps = any(keeping.unmet(workspace, run_id) for run_id in run_ids)
    keeping.require_places(workspace, hosts, (spec_of(workspace, run_id) for run_id in run_ids), keep=keeps)
    placing.remember(workspace, "", run_ids, hosts)


def cancel(workspace: Workspace, run_ids: Iterable[str]) -> list[str]:
    """Cancel every run named that is not over; returns those that were marked."""
    marked = [run_id for run_id in run_ids if not rundir.state_of(workspace.runs / run_id).finished]
    _dispatcher(workspace).cancel(marked)
    ask_hosts(workspace)
    return marked


def retry(workspace: Workspace, run_ids: Iterable[str]) -> list[str]:
    """Open a new attempt of each run named that is over, taking a cancel marker away; returns those queued."""
    from optsweep_tui import meshes

    dispatcher = _dispatcher(workspace)
    chosen = []
    wanted = [run_id for run_id in run_ids if not rundir.is_imported(workspace.runs / run_id)]
    for run_id, state in dispatcher.poll(wanted).items():
        if state.finished or state.state == "lost":
            if _here_only(workspace, run_id):
                require_engines([spec_of(workspace, run_id)])
                meshes.require_fits(workspace, [spec_of(workspace, run_id)])
            chosen.append(run_id)
    _require_data(workspace, chosen)
    for run_id in chosen:
        rundir.uncancel(workspace.runs / run_id)
    return dispatcher.submit(chosen, asked=True)


def _here_only(workspace: Workspace, run_id: str) -> bool:
    """Whether a run may go to no other machine than this one."""
    from optsweep_tui.dispatch import placing

    return placing.Choices(workspace).of(run_id) == placing.LOCAL


def require_engines_here(workspace: Workspace, run_ids: Iterable[str]) -> None:
    """`require_engines` for the runs that can only be trained here."""
    from optsweep_tui.dispatch import placing

    choices = placing.Choices(workspace)
    require_engines(spec_of(workspace, run_id) for run_id in run_ids if choices.of(run_id) == placing.LOCAL)


def detach(workspace: Workspace, *verb: str) -> int:
    """Leave a controller in the background that drives everything unfinished, or another command; returns its pid."""
    log = os.open(workspace.ensure().root / "controller.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    command = [sys.executable, "-m", "optsweep_tui", *(verb or ("resume",)), "--workspace", str(workspace.root)]
    if not verb:
        command += [f"--sink={sink}" for sink in workspace.sinks]
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    finally:
        os.close(log)
    return process.pid


# ---------------------------------------------------------------- drive


def drive(workspace: Workspace, run_ids: Iterable[str], say: Callable[[str], None] | None = None) -> Iterator[Progress]:
    """Keep runs going until all are over; yields a look a few times a second. Stopping the iteration loses nothing.

    Args:
        say: called with a line about a sink that had to stop.
    """
    from optsweep_tui.dispatch import drive as driving

    wanted = list(run_ids)
    _require_homes(workspace, wanted)
    _require_data(workspace, [run_id for run_id in wanted if not rundir.state_of(workspace.runs / run_id).finished])
    return _copied(workspace, driving.drive(workspace, _dispatcher(workspace), wanted), say)


def _require_homes(workspace: Workspace, run_ids: Sequence[str]) -> None:
    """Raise where runs are left whose hosts have all been taken out of hosts.toml."""
    from optsweep_tui.dispatch import hosts, placing

    if not workspace.sends_elsewhere:
        return
    choices, known = placing.Choices(workspace), set(hosts.names(workspace))
    lost = [run_id for run_id in run_ids if not known & {name.partition(":")[0] for name in choices.of(run_id)}]
    lost = [run_id for run_id in lost if not rundir.state_of(workspace.runs / run_id).finished]
    if lost:
        names = ", ".join(sorted({name for run_id in lost for name in choices.of(run_id)}))
        raise OptsweepError(
            f"{len(lost)} runs may go to {names} only, which hosts.toml does not have any more",
            "optsweep resume --host NAME sends them to another",
        )


def look(
    workspace: Workspace, run_ids: Iterable[str], *, once: bool = False, say: Callable[[str], None] | None = None
) -> Iterator[Progress]:
    """The same looks as `drive`, without touching the runs; into the sinks of the workspace go their copies all the same."""
    if once:
        ask_hosts(workspace)
    attend(workspace)
    looks = run_looks.look(workspace, run_ids, once=once)
    return looks if once else _copied(workspace, looks, say)


def _copied(workspace: Workspace, looks: Iterator[Progress], say: Callable[[str], None] | None) -> Iterator[Progress]:
    """The looks as they are; beside them a thread copies their runs into the sinks of the workspace."""
    if not workspace.sinks:
        return looks
    from optsweep_tui.exporters import follow, sinks

    targets = [sinks.parsed(text, workspace.root) for text in workspace.sinks]

    def passing() -> Iterator[Progress]:
        follower = follow.Follower(workspace.runs, targets, say or (lambda _: None))
        follower.start()
        try:
            for seen in looks:
                follower.watch(line.run_id for line in seen.lines)
                yield seen
        finally:
            follower.stop()

    return passing()


def _require_data(workspace: Workspace, run_ids: Iterable[str]) -> None:
    from optsweep_tui import datasets

    datasets.require(workspace, [spec_of(workspace, run_id) for run_id in run_ids])


def unfinished(workspace: Workspace) -> list[str]:
    """Runs that a controller should take up, fresh seeds that are still owed among them."""
    from optsweep_tui.dispatch import drive as driving

    return driving.unfinished(workspace, _dispatcher(workspace))


def broken(workspace: Workspace) -> dict[str, str]:
    """run id -> why its spec cannot be used, for every such run folder of the workspace."""
    from optsweep_tui.dispatch import drive as driving

    return driving.broken(workspace, rundir.run_ids(workspace.runs))


def studies(workspace: Workspace) -> list[dict[str, Any]]:
    """The studies launched here: name, baseline, fresh_seeds, runs (ids in plan order)."""
    return study_files.listed(workspace.studies)


def listing(workspace: Workspace) -> tuple[list[RunLine], dict[str, str]]:
    """(a line for every run, run id -> why for those whose folder is broken); only what may have changed is read."""
    from optsweep_tui.dispatch import listing as listed

    return listed.listing(workspace)


def runs_of_study(workspace: Workspace, study: str) -> list[str]:
    """Ids of the runs that carry a study's marker."""
    return [run_id for run_id in rundir.run_ids(workspace.runs) if study in rundir.studies_of(workspace.runs / run_id)]


def everything(workspace: Workspace, run_id: str) -> dict[str, Any]:
    """All that is known of one run: spec, state, studies, attempts with their events, record."""
    from optsweep_tui.dispatch import detail

    return detail.everything(workspace, run_id)


def log_lines(workspace: Workspace, run_id: str, *, last: int, follow: bool) -> Iterator[dict[str, Any]]:
    """Log, events and metric lines of a run's newest attempt as {"attempt", "source", "text"}, oldest first."""
    from optsweep_tui.dispatch import detail

    if follow:
        attend(workspace)
    return detail.log_lines(workspace, run_id, last=last, follow=follow)


# ---------------------------------------------------------------- collect


def collect(
    workspace: Workspace,
    *,
    rebuild: bool = False,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> CollectReport:
    """Bring results.duckdb up to date with the run folders, and those with the hosts; twice = once.

    Args:
        say: called with a line about each host that does not answer.
    """
    from optsweep_tui.store import ingest

    workspace.ensure()
    for why in ask_hosts(workspace).values():
        say(f"note: {why}; what it has comes later")
    work = ingest.rebuild if rebuild else ingest.ingest
    return work(workspace.store, workspace.runs, progress=progress)


def snapshot(workspace: Workspace, target: Path, *, overwrite: bool = False) -> Path:
    """Copy the store to a file of its own; returns it."""
    from optsweep_tui.store import ingest

    return ingest.snapshot(workspace.store, target, overwrite=overwrite)


def archive(workspace: Workspace, *, dry_run: bool = False) -> int:
    """Move, or only count, the points of finished runs that are not in Parquet files beside the store yet."""
    from optsweep_tui.store import ingest

    return ingest.archive_finished(workspace.store, dry_run=dry_run)


def tidy_up(
    workspace: Workspace, *, checkpoints: bool, kept: bool, dry_run: bool, states: bool = False
) -> list[Removed]:
    """Remove, or only count, what is not needed any more; runs, results and logs stay."""
    from optsweep_tui.dispatch import tidy

    if not workspace.root.is_dir():
        raise OptsweepError(f"workspace {workspace.root} does not exist", "name another with --workspace DIR")
    found = tidy.tidy(workspace, checkpoints=checkpoints, kept=kept, dry_run=dry_run, states=states)
    if dry_run:
        found += _far_states(workspace)
    else:
        if checkpoints:
            found += _drop_far_checkpoints(workspace)
        if states:
            found += _drop_far_states(workspace)
        dropped = _dispatcher(workspace).gc()
        found.append(tidy.Removed(what="queue entries", count=dropped, bytes=0, removed=True, option=""))
    return found


def _drop_far_checkpoints(workspace: Workspace) -> list[Removed]:
    """Remove the checkpoints of done runs from the hosts that answer."""
    from optsweep_tui.dispatch import fleet, tidy

    if not workspace.sends_elsewhere:
        return []
    kinds = fleet.of(workspace).drop_checkpoints()
    return [
        tidy.Removed(what=f"checkpoints of done runs on host {name}", count=count, bytes=size, removed=True, option="")
        for name, (count, size) in kinds.items()
    ]


def _far_states(workspace: Workspace) -> list[Removed]:
    """The states on hosts that nothing needs, as the attempts there told of them; no host is asked."""
    from optsweep_tui import states
    from optsweep_tui.dispatch import tidy

    wanted = states.unneeded_elsewhere(workspace) if workspace.sends_elsewhere else {}
    return [
        tidy.Removed(
            what=f"kept states on host {host}",
            count=sum(len(steps) for steps in runs.values()),
            bytes=None,
            removed=False,
            option="--states removes them",
        )
        for host, runs in wanted.items()
    ]


def _drop_far_states(workspace: Workspace) -> list[Removed]:
    """Remove the states that nothing needs from the hosts that answer."""
    from optsweep_tui import states
    from optsweep_tui.dispatch import fleet, tidy, told

    wanted = states.unneeded_elsewhere(workspace) if workspace.sends_elsewhere else {}
    removed = []
    for host, answer in (fleet.of(workspace).drop_states(wanted) if wanted else {}).items():
        dropped = answer.get("dropped")
        for run_id, steps in wanted[host].items():
            if isinstance(dropped, list) and run_id in dropped:
                states.note_dropped(workspace.runs / run_id, host, steps)
        what, (count, size) = f"kept states on host {host}", told.removed(answer)
        removed.append(tidy.Removed(what=what, count=count, bytes=size, removed=True, option=""))
    return removed


def uncollected(workspace: Workspace) -> int:
    """How many runs are over in the run folders but not yet in the store."""
    from optsweep_tui.store import queries

    known = queries.finished(workspace.store)
    others = (run_id for run_id in rundir.run_ids(workspace.runs) if run_id not in known)
    return sum(rundir.state_of(workspace.runs / run_id).finished for run_id in others)


def sql(workspace: Workspace, query: str) -> pd.DataFrame:
    """One read-only statement on the store."""
    from optsweep_tui.store import queries

    return queries.sql(workspace.store, query)


def sql_answer(
    workspace: Workspace, query: str, *, most_rows: int, started: Callable[[Callable[[], None]], None]
) -> Answer:
    """The same for a screen: an Arrow table, and `started` is given what interrupts the statement."""
    from optsweep_tui.store import answers

    return answers.answer(workspace.store, query, most_rows=most_rows, started=started, wait_seconds=5.0)


def sql_functions() -> list[str]:
    """Names of the functions that a statement may use."""
    from optsweep_tui.store import answers

    return answers.functions()


def sql_examples() -> list[dict[str, str]]:
    """Queries that run, with what each answers."""
    from optsweep_tui.store.examples import EXAMPLES

    return [{"title": title, "query": query} for title, query in EXAMPLES]


def sql_dictionary(name: str | None = None) -> list[dict[str, str]]:
    """Columns of all tables and views, or of the one named, with type, unit and meaning."""
    from optsweep_tui.store import dictionary

    return dictionary.dictionary(name)


def sql_descriptions() -> dict[str, str]:
    """What each table and view holds."""
    from optsweep_tui.store import dictionary

    return dictionary.descriptions()


# ---------------------------------------------------------------- this machine


def probe_rate(seconds: float = 0.2) -> float:
    """A guess of the training FLOP/s of one core, before anything was measured here: for a progress line, never a result.

    Small matmuls on one thread, counted in CPU seconds so that a busy machine does not distort them; the share of their
    rate that a small model reaches with all cores busy, validation and starts included, is a measured constant.
    """
    import time

    import numpy as np

    share = 0.55
    left, right = np.ones((64, 64), np.float32), np.ones((64, 48), np.float32)
    started, rounds = time.thread_time(), 0
    while time.thread_time() - started < seconds:
        for _ in range(200):
            left @ right
        rounds += 200
    return share * rounds * 2.0 * left.size * right.shape[1] / (time.thread_time() - started)


def doctor(workspace: Workspace) -> dict[str, Any]:
    """Versions, devices, engines, store and runs, and what to do about what is wrong."""
    from optsweep_tui import doctor as examination

    return examination.examine(workspace, ENGINE_LIBRARY)
