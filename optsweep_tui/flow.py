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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optsweep_engines.engine import engine_names
from optsweep_tui import rundir
from optsweep_tui import studies as study_files
from optsweep_tui.core import Filter, RunSpec, Study
from optsweep_tui.dispatch import lines as run_looks
from optsweep_tui.dispatch.lines import Progress, RunLine, cell_of, run_line, run_lines, spec_of
from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.settings import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from optsweep_tui.bundle.rerun import Rerun
    from optsweep_tui.charts.figure import Figure
    from optsweep_tui.dispatch.protocol import Dispatcher
    from optsweep_tui.dispatch.tidy import Removed
    from optsweep_tui.exporters.protocol import LeftOut
    from optsweep_tui.importers.protocol import Skip
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
    sets: tuple[str, ...] = ()
    sweeps: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    engine: str | None = None
    dataset: str | None = None
    around: str | None = None
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
    from optsweep_tui import grid, gridfile
    from optsweep_tui import plan as planning
    from optsweep_tui.datasets import DatasetLookup

    if request.grid is not None:
        study = gridfile.load(request.grid, workspace.grids)
        study = grid.select(study, request.optimizers, request.models, request.chinchillas)
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
    study = grid.with_settings(dataclasses.replace(study, **changes), request.sets, request.sweeps)
    if request.limit is not None and request.limit < 1:
        raise OptsweepError(f"--limit {request.limit} leaves no run", "give a positive number")
    # One more than asked for shows whether the limit cut anything.
    specs = grid.expand(study, DatasetLookup(workspace, prepare), None if request.limit is None else request.limit + 1)
    fresh = planning.fresh_seed_count(study, specs)
    with grid.own_errors():
        user_plan.attempt(specs)
    if request.limit is not None and request.limit < len(specs):
        specs, fresh = specs[: request.limit], 0
        study = dataclasses.replace(study, fresh_seeds=None)
    return Plan(study=study, specs=specs, fresh_seed_runs=fresh)


def cautions(specs: Iterable[RunSpec]) -> list[str]:
    """What a careful reader of a plan would remark, a line each: legal, but seldom meant."""
    from optsweep_engines import schedules
    from optsweep_engines.optimizers import catalogue

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
    return notes


def require_engines(specs: Iterable[RunSpec]) -> None:
    """Raise one clear line when the library of an engine is not installed, before anything is written."""
    for name in sorted({spec.engine for spec in specs}):
        library = ENGINE_LIBRARY.get(name)
        if library and importlib.util.find_spec(library) is None:
            raise OptsweepError(f"engine {name} needs the library {library}, which is not installed here",
                                f"pip install 'optsweep[{name}]'")  # fmt: skip


def rates(workspace: Workspace) -> dict[Any, float]:
    """Median measured tokens/s of the finished runs here, by what decides it (`cost.rate_key`)."""
    import statistics

    from optsweep_tui.cost import rate_key

    found: dict[Any, list[float]] = {}
    for run_id in rundir.native_ids(workspace.runs)[-2000:]:
        state = rundir.state_of(workspace.runs / run_id)
        if state.record is not None and state.record.tokens_per_second:
            try:
                key = rate_key(spec_of(workspace, run_id))
            except OptsweepError:
                continue
            found.setdefault(key, []).append(state.record.tokens_per_second)
    return {key: statistics.median(values) for key, values in found.items()}


# ---------------------------------------------------------------- launch


def launch(workspace: Workspace, chosen: Plan, *, force: bool = False) -> list[str]:
    """Plant the run folders, remember the study, open and queue the attempts that are needed; returns the ids queued."""
    from optsweep_engines.optimizers import user_plan
    from optsweep_tui import plan as planning

    require_engines(chosen.specs)
    workspace.ensure()
    _require_store(workspace)
    rundir.keep_optimizers(workspace.runs, user_plan.sources(chosen.specs))
    planning.plant(workspace, chosen.study, chosen.specs)
    dispatcher = _dispatcher(workspace)
    states = dispatcher.poll(chosen.run_ids)
    again = [run_id for run_id, state in states.items() if force and state.finished]
    return [*dispatcher.submit(again, asked=True), *dispatcher.submit(chosen.run_ids)]


def _require_store(workspace: Workspace) -> None:
    """A store that could not take the results (garbage, a newer schema) is named before hours of training, not after."""
    from optsweep_tui.errors import StoreLocked
    from optsweep_tui.store import queries

    if workspace.store.exists():
        with contextlib.suppress(StoreLocked):  # held by somebody for now: collecting waits for that
            queries.finished(workspace.store, wait_seconds=0.0)


def _dispatcher(workspace: Workspace) -> Dispatcher:
    from optsweep_tui.dispatch.protocol import load_dispatcher

    return load_dispatcher("local", workspace)


def cancel(workspace: Workspace, run_ids: Iterable[str]) -> list[str]:
    """Cancel every run named that is not over; returns those that were marked."""
    marked = [run_id for run_id in run_ids if not rundir.state_of(workspace.runs / run_id).finished]
    _dispatcher(workspace).cancel(marked)
    return marked


def retry(workspace: Workspace, run_ids: Iterable[str]) -> list[str]:
    """Open a new attempt of each run named that is over, taking a cancel marker away; returns those queued."""
    dispatcher = _dispatcher(workspace)
    chosen = []
    wanted = [run_id for run_id in run_ids if not rundir.is_imported(workspace.runs / run_id)]
    for run_id, state in dispatcher.poll(wanted).items():
        if state.finished or state.state == "lost":
            require_engines([spec_of(workspace, run_id)])
            chosen.append(run_id)
    _require_data(workspace, chosen)
    for run_id in chosen:
        rundir.uncancel(workspace.runs / run_id)
    return dispatcher.submit(chosen, asked=True)


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


def drive(
    workspace: Workspace, run_ids: Iterable[str], say: Callable[[str], None] | None = None
) -> Iterator[Progress]:
    """Keep runs going until all are over; yields a look a few times a second. Stopping the iteration loses nothing.

    Args:
        say: called with a line about a sink that had to stop.
    """
    from optsweep_tui.dispatch import drive as driving

    wanted = list(run_ids)
    _require_data(workspace, [run_id for run_id in wanted if not rundir.state_of(workspace.runs / run_id).finished])
    return _copied(workspace, driving.drive(workspace, _dispatcher(workspace), wanted), say)


def look(
    workspace: Workspace, run_ids: Iterable[str], *, once: bool = False, say: Callable[[str], None] | None = None
) -> Iterator[Progress]:
    """The same looks as `drive`, without touching the runs; into the sinks of the workspace go their copies all the same."""
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

    return detail.log_lines(workspace, run_id, last=last, follow=follow)


# ---------------------------------------------------------------- import


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What one import did."""

    importer: str
    runs: int
    """Runs that were read."""
    studies: dict[str, int]
    """Study -> runs that were read for it."""
    states: dict[str, int]
    new: int
    changed: int
    """Runs that were here already, with another outcome."""
    unchanged: int
    points: int
    """Metric values collected."""
    skipped: list[Skip]
    """What could not be read, and why."""
    seconds: float
    grids: dict[str, str] = field(default_factory=dict)
    """Study -> the grid file that its plan was written to."""
    planned: int = 0
    """Runs that those grids plan."""


def import_formats() -> list[dict[str, str]]:
    """Every importer: its name and what it reads."""
    from optsweep_tui.importers import protocol

    return [{"name": name, "doc": protocol.load_importer(name).doc} for name in protocol.importer_names()]


def import_results(
    workspace: Workspace,
    name: str,
    *,
    path: Path | None = None,
    study: str | None = None,
    mapping: Path | None = None,
    out: Path | None = None,
) -> ImportReport:
    """Results of others into run folders of their own, then into the store; plans of others into grid files. Twice is once.

    Args:
        out: the grid file to write; None for <study>.toml in the workspace's grids.

    Raises:
        OptsweepError: no such importer, nothing that it could read, or the workspace cannot be written.
    """
    import time

    from optsweep_tui import gridfile
    from optsweep_tui.importers import plant, protocol

    started = time.monotonic()
    importer = protocol.load_importer(name)
    if study is not None:
        gridfile.check_name(study, "--study")
    found = importer.read(protocol.Request(path=path, study=study, mapping=mapping))
    for study_name in {run.study for run in found.runs} | found.grids.keys():
        gridfile.check_name(study_name, "--study is not given, and")
    if out is not None and len(found.grids) != 1:
        raise OptsweepError(f"import {importer.name} brings results, no grid", "leave --out out")
    drafts = {study_name: draft for study_name, draft in found.grids.items() if draft.runs}
    if found.runs or not found.grids or out is None:
        workspace.ensure()
    grids = {
        study_name: gridfile.keep(out or workspace.grids / f"{study_name}.toml", draft.text)
        for study_name, draft in drafts.items()
    }
    planted = plant.plant(workspace.runs, found.runs)
    for study_name, baseline in found.baselines.items():
        study_files.remember(workspace.studies, study_files.rules_of(Study(name=study_name, baseline=baseline)), [])
    points = collect(workspace).points if found.runs else 0
    return ImportReport(
        importer=importer.name,
        runs=len(found.runs),
        studies=dict(Counter(run.study for run in found.runs)),
        states=dict(Counter(run.outcome.state for run in found.runs).most_common()),
        new=planted.new,
        changed=planted.changed,
        unchanged=planted.unchanged,
        points=points,
        skipped=found.skipped,
        seconds=time.monotonic() - started,
        grids={study_name: str(path) for study_name, path in grids.items()},
        planned=sum(draft.runs for draft in drafts.values()),
    )


# ---------------------------------------------------------------- export


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What one export did."""

    format: str
    file: str
    """File or folder that was written."""
    rows: int
    """Runs that are in it."""
    files: int
    skipped: list[LeftOut]
    """What the format has no place for, and why."""


TABLES = ("csv", "parquet")
"""Formats of one file with a row per run."""


def export_formats() -> list[dict[str, str]]:
    """Every format that `export` writes: its name and what it is."""
    from optsweep_tui.exporters import protocol

    found = {name: f"a {name} file with a row per run; `import {name}` reads it back" for name in TABLES}
    found |= {name: protocol.load_exporter(name).doc for name in protocol.IN_TREE}
    found["baselines"] = "predicted configurations in the marin tree's baseline_config shape; -o, -m and -c name the cells"
    found["bundle"] = "one run in one file, for `reproduce`: optsweep export bundle RUN"
    return [{"name": name, "doc": found[name]} for name in sorted(found)]


def export_results(workspace: Workspace, name: str, target: Path, chosen: Filter) -> ExportReport:
    """Every run of the filter in another program's format, in a file or folder that does not exist yet.

    A table's columns are those of `analysis.columns.RESULTS` and `entry`, the run's id.

    Raises:
        OptsweepError: no such format, no such study, or the target exists or cannot be written.
    """
    from optsweep_tui.exporters import protocol, runs
    from optsweep_tui.store import queries

    known = {*TABLES, *protocol.IN_TREE}
    if name.lower() not in known:
        raise UnknownName("format", name, sorted({*known, "baselines", "bundle"}))
    if name.lower() in TABLES:
        return _export_table(queries.results(workspace.store, chosen), name.lower(), target)
    exporter = protocol.load_exporter(name)
    if exporter.one_study and chosen.study is None:
        chosen = dataclasses.replace(chosen, study=queries.default_study(workspace.store))
    frame = queries.results(workspace.store, chosen)
    found, broken = runs.exported(workspace.runs, zip(frame["run_id"], frame["study"], strict=True))
    protocol.new_folder(target)
    try:
        written = exporter.write(found, target)
    except OSError as error:
        raise OptsweepError(
            f"{target} cannot be written: {error.strerror}", "free some space or name another folder"
        ) from None
    for run_id, why in broken:
        written.skip(run_id, why)
    return ExportReport(
        format=exporter.name, file=str(target), rows=written.runs, files=written.files, skipped=written.skipped
    )


def export_baselines(workspace: Workspace, target: Path, chosen: Filter) -> ExportReport:
    """Predicted configurations as files of the published study's baseline_config tree.

    Args:
        chosen: study and optimizers whose sweeps are learnt from; its models and ratios are the cells that are predicted,
            measured or not (none named: those of the study).

    Raises:
        OptsweepError: no such study or model, or the target exists or cannot be written.
    """
    from optsweep_tui import ask, grid
    from optsweep_tui.exporters import baselines, protocol

    learnt = dataclasses.replace(chosen, models=(), chinchillas=())
    frame = ask.results(workspace, learnt)
    models = [grid.model_name(name) for name in chosen.models] or list(dict.fromkeys(frame["model"].dropna()))
    ratios = list(chosen.chinchillas) or sorted(frame["chinchilla"].dropna().unique())
    optimizers = sorted(frame["optimizer"].dropna().unique())
    predictions = (
        ask.predict(frame[frame["optimizer"] == optimizer], optimizer=optimizer, model=model, chinchilla=float(ratio))
        for optimizer in optimizers
        for model in models
        for ratio in ratios
    )
    protocol.new_folder(target)
    try:
        written = baselines.write(predictions, target)
    except OSError as error:
        raise OptsweepError(f"{target} cannot be written: {error.strerror}", "name another folder") from None
    return ExportReport(
        format="baselines", file=str(target), rows=written.runs, files=written.files, skipped=written.skipped
    )


def _export_table(frame: pd.DataFrame, name: str, target: Path) -> ExportReport:
    frame.insert(0, "entry", frame["run_id"])
    try:
        with open(target, "xb") as handle:
            if name == "csv":
                handle.write(frame.to_csv(index=False).encode())
            else:
                frame.to_parquet(handle, index=False)
    except FileExistsError:
        raise OptsweepError(f"{target} exists already", "name another file") from None
    except OSError as error:
        raise OptsweepError(f"{target} cannot be written: {error.strerror}", "name another file") from None
    return ExportReport(format=name, file=str(target), rows=len(frame), files=1, skipped=[])


@dataclass(frozen=True, kw_only=True)
class BundleReport:
    """One run that was written as a bundle."""

    format: str
    file: str
    run_id: str
    bytes: int
    sha256: str
    """Of the file: the same run gives the same bytes."""
    code_is_what_ran: bool | None
    """The code in it trained the run; None where the run's record does not say what did."""
    data_is_described: bool
    """It says how its dataset was made; else only name and hash."""
    sigma: float | None
    """Run-to-run sigma at the run's budget, nats, for whoever reruns it; None where none was measured."""
    sigma_source: str


def export_bundle(workspace: Workspace, run_id: str, out: Path | None = None) -> BundleReport:
    """Write a finished run to one file, with what its study knows of the noise. Twice is once.

    Args:
        out: the file; None for the run's id in the current folder.

    Raises:
        OptsweepError: the run cannot be bundled, or the file cannot be written.
    """
    import hashlib

    from optsweep_tui import ask
    from optsweep_tui.bundle import layout, write

    bundled = write.bundled(workspace, run_id, {})  # refuses what cannot be bundled before anything is collected
    collect(workspace)
    study = next(iter(rundir.studies_of(workspace.runs / run_id)), None)
    noise = ask.run_noise(workspace, run_id, study)
    bundled = write.bundled(workspace, run_id, noise.to_dict())
    target = out or Path(f"{run_id[:12]}{layout.SUFFIX}")
    write.keep(target, bundled.content)
    return BundleReport(
        format="bundle",
        file=str(target),
        run_id=run_id,
        bytes=len(bundled.content),
        sha256=hashlib.sha256(bundled.content).hexdigest(),
        code_is_what_ran=bundled.code_is_what_ran,
        data_is_described=bundled.data_is_here,
        sigma=noise.sigma,
        sigma_source=noise.source,
    )


# ---------------------------------------------------------------- reproduce


def rerun(workspace: Workspace, path: Path, **options: Any) -> Rerun:
    """A bundle's run, checked and ready to be launched; the options are those of `bundle.rerun.prepared`."""
    from optsweep_tui.bundle import read
    from optsweep_tui.bundle import rerun as bundle_rerun

    return bundle_rerun.prepared(workspace, read.read(path), **options)


def plan_of(again: Rerun) -> Plan:
    """The rerun as a study of its own, for `launch`."""
    study = Study(name=again.study, baseline=again.spec.optimizer)
    return Plan(study=study, specs=[again.spec], fresh_seed_runs=0)


def judge(again: Rerun, sigma: float | None = None) -> dict[str, Any]:
    """What the rerun says of its original: both records, what was different, and the verdict by the run-to-run noise.

    Args:
        sigma: given by the user, nats; None for what the bundle says.
    """
    from optsweep_engines import sources
    from optsweep_tui.analysis import reproduction
    from optsweep_tui.bundle.rerun import version_differences

    original = again.bundle.record
    state = rundir.state_of(again.place.runs / again.spec.run_id)
    if state.record is None:
        raise OptsweepError(f"the rerun {again.spec.run_id[:12]} is {state.state}", "run the same command again: it goes on")
    noise = reproduction.RunNoise.from_dict(again.bundle.noise)
    if sigma is not None:
        noise = reproduction.RunNoise(sigma=sigma, dof=None, source="given")
    verdict = reproduction.judge(original, state.record, noise, same_data=again.same_data)
    kept = ("status", "val_loss", "train_loss", "steps", "tokens", "train_seconds", "parameters_sha256", "device", "versions")
    return {
        "bundle": str(again.bundle.path),
        "run_id": again.bundle.run_id,
        **vars(verdict),
        "original": {name: getattr(original, name) for name in kept},
        "rerun": {"run_id": again.spec.run_id} | {name: getattr(state.record, name) for name in kept},
        "code": {"ran": again.bundle.ran, "in_bundle": again.bundle.code, "here": sources.digest()},
        "data": {"name": again.spec.dataset, "original": again.bundle.spec.dataset_hash, "here": again.spec.dataset_hash},
        "differences": [*again.differences, *version_differences(original, state.record)],
        "workspace": str(again.place.root),
        "study": again.study,
    }


# ---------------------------------------------------------------- collect


def collect(
    workspace: Workspace, *, rebuild: bool = False, progress: Callable[[int, int], None] | None = None
) -> CollectReport:
    """Bring results.duckdb up to date with the run folders; twice = once."""
    from optsweep_tui.store import ingest

    workspace.ensure()
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


def tidy_up(workspace: Workspace, *, checkpoints: bool, kept: bool, dry_run: bool) -> list[Removed]:
    """Remove, or only count, what is not needed any more; runs, results and logs stay."""
    from optsweep_tui.dispatch import tidy

    if not workspace.root.is_dir():
        raise OptsweepError(f"workspace {workspace.root} does not exist", "name another with --workspace DIR")
    found = tidy.tidy(workspace, checkpoints=checkpoints, kept=kept, dry_run=dry_run)
    if not dry_run:
        dropped = _dispatcher(workspace).gc()
        found.append(tidy.Removed(what="queue entries", count=dropped, bytes=0, removed=True, option=""))
    return found


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


# ---------------------------------------------------------------- draw


def loss_figure(
    workspace: Workspace,
    run_ids: Iterable[str],
    *,
    x: str | None = None,
    log_x: bool = False,
    smooth: float | None = None,
) -> Figure:
    """Losses inside runs, straight from the run folders: works while the runs go on, and for imported ones with a curve.

    Args:
        run_ids: the first is drawn on top.
        x: "step", "tokens" or "minutes"; None = tokens.
        log_x: logarithmic x axis.
        smooth: time constant in steps; 0 = raw; None = 2 % of a run with a noisy training loss.
    """
    import pandas as pd

    from optsweep_tui import drawings

    lines = [run_line(workspace, run_id) for run_id in run_ids]
    runs = pd.DataFrame([dataclasses.asdict(line) for line in lines])
    runs["study"] = [", ".join(sorted(rundir.studies_of(workspace.runs / line.run_id))) or "none" for line in lines]
    points = [
        {
            "run_id": line.run_id,
            "metric": metric,
            "step": row["step"],
            "tokens": row.get("tokens"),
            "seconds": row.get("train_seconds"),
            "value": row.get(metric),
        }
        for line in lines
        for metric, rows in [_curve(rundir.metric_rows(workspace.runs / line.run_id))]
        for row in rows
    ]
    columns = ["run_id", "metric", "step", "tokens", "seconds", "value"]
    return drawings.loss_drawing(runs, pd.DataFrame(points, columns=columns), x=x, log_x=log_x, smooth=smooth)


def has_curve(workspace: Workspace, run_id: str) -> bool:
    """The run logged a loss at two points or more."""
    return len(_curve(rundir.metric_rows(workspace.runs / run_id))[1]) > 1


def _curve(rows: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """The loss that a run logged all along, and the lines that hold it: in training, else in validation."""
    for metric in ("train_loss", "val_loss"):
        found = [row for row in rows if metric in row]
        if len(found) > 1:
            return metric, found
    return "train_loss", [row for row in rows if "train_loss" in row]


# ---------------------------------------------------------------- this machine


def probe_rate(seconds: float = 0.2) -> float:
    """A guess of the training FLOP/s of one core, before anything was measured here: for a progress line, never a result.

    Small matmuls on one thread, counted in CPU seconds so that a busy machine does not distort them; the share of their
    rate that training a small model reaches is a measured constant.
    """
    import time

    import numpy as np

    share = 0.9
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
