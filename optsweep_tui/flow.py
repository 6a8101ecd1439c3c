"""The program in order: plan, prepare, launch, drive, collect, ask. The command line and the app call this and nothing below.

grids/*.toml -> specs -> run folders -> dispatch -> metrics -> results.duckdb -> dataframes -> answers
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optsweep_engines import folder
from optsweep_engines.engine import ENTRY_POINT_GROUP, engine_names
from optsweep_tui import rundir, settings
from optsweep_tui.core import Filter, FreshSeeds, RunSpec, Study
from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.settings import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from optsweep_tui.charts.chart import Curve
    from optsweep_tui.dispatch.protocol import Dispatcher
    from optsweep_tui.grid import DatasetFacts
    from optsweep_tui.rundir import RunState
    from optsweep_tui.store.ingest import CollectReport

ENGINE_LIBRARY = {"torch": "torch", "jax": "jax"}
"""What to import to see whether an in-tree engine can run here."""


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
    from optsweep_tui import grid
    from optsweep_tui import plan as planning

    if request.grid is not None:
        study = grid.load(request.grid)
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
    specs = grid.expand(study, _Datasets(workspace, prepare))
    fresh = planning.fresh_seed_count(study, specs)
    if request.limit is not None:
        if request.limit < 1:
            raise OptsweepError(f"--limit {request.limit} leaves no run", "give a positive number")
        if request.limit < len(specs):
            specs, fresh = specs[: request.limit], 0
            study = dataclasses.replace(study, fresh_seeds=None)
    return Plan(study=study, specs=specs, fresh_seed_runs=fresh)


class _Datasets:
    """Looks datasets up once each; prepares them where it may."""

    def __init__(self, workspace: Workspace, prepare: bool) -> None:
        self._workspace, self._prepare = workspace, prepare
        self._found: dict[str, DatasetFacts] = {}

    def __call__(self, name: str) -> DatasetFacts:
        from optsweep_engines import data
        from optsweep_tui.grid import DatasetFacts

        if name not in self._found:
            try:
                entry = data.dataset(name)
            except LookupError:
                raise UnknownName("dataset", name, data.datasets(), hint="(optsweep datasets lists all)") from None
            prepared = data.find(entry.name, self._workspace.data)
            if prepared is None and self._prepare:
                if entry.documents is None:
                    raise OptsweepError(f"dataset {entry.name} cannot be prepared here", "--dataset embedded is always there")
                try:
                    prepared = data.prepare(entry.name, self._workspace.ensure().data)
                except (ValueError, LookupError) as error:
                    raise OptsweepError(
                        f"dataset {entry.name}: {error}", "--dataset embedded is always there"
                    ) from None
                except OSError as error:
                    raise OptsweepError(
                        f"dataset {entry.name} cannot be written to {self._workspace.data}: {error.strerror}",
                        "free some space or name another folder with --workspace DIR",
                    ) from None
            self._found[name] = DatasetFacts(
                name=entry.name, sha256=prepared.sha256 if prepared else None, vocab_size=entry.vocab_size
            )
        return self._found[name]


def require_engines(specs: Iterable[RunSpec]) -> None:
    """Raise one clear line when the library of an engine is not installed, before anything is written."""
    for name in sorted({spec.engine for spec in specs}):
        library = ENGINE_LIBRARY.get(name)
        if library and importlib.util.find_spec(library) is None:
            raise OptsweepError(f"engine {name} needs the library {library}, which is not installed here",
                                f"pip install 'optsweep[{name}]' -c constraints.txt")  # fmt: skip


def rates(workspace: Workspace) -> dict[Any, float]:
    """Median measured tokens/s of the finished runs here, by what decides it (`cost.rate_key`)."""
    import statistics

    from optsweep_tui.cost import rate_key

    found: dict[Any, list[float]] = {}
    for run_id in rundir.run_ids(workspace.runs)[-2000:]:
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
    require_engines(chosen.specs)
    workspace.ensure()
    rundir.write(workspace.runs, chosen.specs, chosen.study.name)
    _remember(workspace, chosen.study, chosen.run_ids)
    dispatcher = _dispatcher(workspace)
    states = dispatcher.poll(chosen.run_ids)
    again = [run_id for run_id, state in states.items() if force and state.finished]
    return [*dispatcher.submit(again, asked=True), *dispatcher.submit(chosen.run_ids)]


def _dispatcher(workspace: Workspace) -> Dispatcher:
    from optsweep_tui.dispatch.protocol import load_dispatcher

    return load_dispatcher("local", workspace)


def _remember(workspace: Workspace, study: Study, run_ids: Iterable[str]) -> None:
    """studies/<name>.json: the rules of a study and every run planned for it, for `resume` and the app."""
    path = workspace.studies / f"{study.name}.json"
    before = _study_file(path)
    runs = list(dict.fromkeys([*before.get("runs", []), *run_ids]))
    rule = dataclasses.asdict(study.fresh_seeds) if study.fresh_seeds else before.get("fresh_seeds")
    data = {"name": study.name, "baseline": study.baseline, "fresh_seeds": rule, "runs": runs}
    if data != before:
        folder.write_json(path, data)


def _study_file(path: Path) -> dict[str, Any]:
    try:
        data = folder.read_json(path)
    except (ValueError, OSError):
        return {}
    return data if isinstance(data, dict) else {}


def studies(workspace: Workspace) -> list[dict[str, Any]]:
    """The studies launched here: name, baseline, fresh_seeds, runs (ids in plan order)."""
    if not workspace.studies.is_dir():
        return []
    found = [_study_file(path) for path in sorted(workspace.studies.glob("*.json"))]
    return [data for data in found if "runs" in data]


# ---------------------------------------------------------------- drive


@dataclass(frozen=True, kw_only=True)
class RunLine:
    """One run as `ls`, `watch` and the app show it."""

    run_id: str
    state: str
    optimizer: str
    model: str
    chinchilla: float
    seed: int
    engine: str
    host: str
    attempt: int
    step: int
    steps: int
    loss: float | None
    """Final validation loss when finished, else the newest training loss, nats per token."""
    tokens_per_second: float | None
    eta_seconds: float | None
    lr: float | None
    """Peak learning rate."""
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A look at a set of runs."""

    lines: list[RunLine]
    seconds: float
    """Since this controller began to drive."""
    eta_seconds: float | None
    """Until the last run ends; None before anything was measured."""
    complete: bool
    """Every run is over and no fresh seed is still to come."""
    counts: Mapping[str, int] = field(default_factory=dict)


_specs: dict[tuple[str, str], RunSpec] = {}


def spec_of(workspace: Workspace, run_id: str) -> RunSpec:
    """The spec of a run, read once: specs never change."""
    key = (str(workspace.runs), run_id)
    if key not in _specs:
        _specs[key] = rundir.read_spec(workspace.runs / run_id)
    return _specs[key]


def run_line(workspace: Workspace, run_id: str, state: RunState | None = None) -> RunLine:
    """What one run is doing."""
    spec = spec_of(workspace, run_id)
    state = state or rundir.state_of(workspace.runs / run_id)
    row = None if state.record or state.attempt_folder is None else rundir.last_metric(state.attempt_folder)
    step, loss, speed, eta = 0, None, None, None
    if state.record is not None:
        step, loss, speed = state.record.steps, state.record.val_loss, state.record.tokens_per_second
    elif row is not None:
        step, loss = row["step"], row.get("train_loss")
        seconds = row.get("train_seconds") or 0.0
        speed = row.get("tokens", 0) / seconds if seconds > 0 else None
        if state.state == "running" and speed:
            eta = (spec.steps - step) * spec.tokens_per_step / speed
    lr = spec.hyperparameters.get("lr")
    return RunLine(
        run_id=run_id,
        state=state.state,
        optimizer=spec.optimizer,
        model=spec.model,
        chinchilla=spec.chinchilla,
        seed=spec.seed,
        engine=spec.engine,
        host="local",
        attempt=state.attempt,
        step=step,
        steps=spec.steps,
        loss=loss,
        tokens_per_second=speed,
        eta_seconds=eta,
        lr=float(lr) if isinstance(lr, int | float) else None,
        error=state.error,
    )


def run_lines(workspace: Workspace, run_ids: Iterable[str] | None = None) -> list[RunLine]:
    """All runs of the workspace, or those named, a broken folder left out."""
    lines = []
    for run_id in rundir.run_ids(workspace.runs) if run_ids is None else run_ids:
        try:
            lines.append(run_line(workspace, run_id))
        except OptsweepError:
            continue
    return lines


def drive(workspace: Workspace, run_ids: Iterable[str]) -> Iterator[Progress]:
    """Keep runs going until all are over: settle the dead, retry, add fresh seeds, keep the slots busy.

    Yields a look a few times a second. Stopping the iteration (or dying) loses nothing: workers go on by themselves and
    any later controller takes up where this one stopped.
    """
    from optsweep_tui.dispatch import retry

    dispatcher = _dispatcher(workspace)
    wanted = list(dict.fromkeys(run_ids))
    started = time.monotonic()
    meter = _Meter()
    settled: dict[str, RunState] = {}
    while True:
        fresh = dispatcher.poll(run_id for run_id in wanted if run_id not in settled)
        over = {run_id: state for run_id, state in fresh.items() if retry.given_up(workspace.runs / run_id, state)}
        first_look = not settled
        settled |= over
        dispatcher.submit(run_id for run_id in wanted if run_id not in settled)
        added = _add_fresh_seeds(workspace, wanted, settled, dispatcher) if over or first_look else []
        wanted += added
        dispatcher.advance()
        lines = [run_line(workspace, run_id, settled.get(run_id) or fresh.get(run_id)) for run_id in wanted]
        complete = not added and all(run_id in settled for run_id in wanted)
        specs = [spec_of(workspace, run_id) for run_id in wanted]
        yield _progress(specs, lines, set(settled), started, meter, complete)
        if complete:
            dispatcher.gc()
            return
        time.sleep(workspace.poll_seconds)


def look(workspace: Workspace, run_ids: Iterable[str], *, once: bool = False) -> Iterator[Progress]:
    """The same looks as `drive`, without touching anything: for watching beside a controller, or without one."""
    wanted = list(run_ids)
    started, meter = time.monotonic(), _Meter()
    over: dict[str, RunLine] = {}
    while True:
        lines = [over.get(run_id) or run_line(workspace, run_id) for run_id in wanted]
        over = {line.run_id: line for line in lines if line.state in rundir.FINISHED}
        yield _progress(
            [spec_of(workspace, run_id) for run_id in wanted],
            lines,
            set(over),
            started,
            meter,
            len(over) == len(wanted),
        )
        if once or len(over) == len(wanted):
            return
        time.sleep(workspace.poll_seconds)


def _progress(
    specs: list[RunSpec], lines: list[RunLine], over: set[str], started: float, meter: _Meter, complete: bool
) -> Progress:
    counts: dict[str, int] = {}
    for line in lines:
        counts[line.state] = counts.get(line.state, 0) + 1
    return Progress(
        lines=lines,
        seconds=time.monotonic() - started,
        eta_seconds=meter.eta(specs, lines, over),
        complete=complete,
        counts=counts,
    )


class _Meter:
    """Seconds to go, from the FLOPs done since the first look."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None

    def eta(self, specs: list[RunSpec], lines: list[RunLine], over: set[str]) -> float | None:
        total = sum(spec.flops for spec in specs)
        done = sum(
            spec.flops * (1.0 if spec.run_id in over else line.step / max(1, spec.steps))
            for spec, line in zip(specs, lines, strict=True)
        )
        now = time.monotonic()
        if self._first is None:
            self._first = (now, done)
        since, base = self._first
        if done <= base or now - since < 3.0:
            return None
        return (total - done) * (now - since) / (done - base)


def _owed_seeds(workspace: Workspace, study: Mapping[str, Any], settled: Mapping[str, RunState]) -> list[RunSpec]:
    """The fresh seeds that a study asks for now: of every cell whose sweep has ended."""
    from optsweep_tui import plan as planning

    rule = study.get("fresh_seeds")
    if not rule:
        return []
    specs, losses = [], {}
    for run_id in study["runs"]:
        run_folder = workspace.runs / run_id
        if (run_folder / rundir.SPEC).exists():
            specs.append(spec_of(workspace, run_id))
            state = settled.get(run_id) or rundir.state_of(run_folder)
            if state.finished or run_id in settled:
                losses[run_id] = state.record.val_loss if state.record and state.state == "done" else None
    ruled = Study(name=study["name"], fresh_seeds=FreshSeeds(**rule | {"optimizer": tuple(rule["optimizer"])}))
    return planning.fresh_seeds(ruled, specs, losses)


def _add_fresh_seeds(
    workspace: Workspace, wanted: list[str], settled: Mapping[str, RunState], dispatcher: Dispatcher
) -> list[str]:
    """Plant and queue the fresh seeds of the studies that are driven; returns the new ids."""
    added: list[str] = []
    for study in studies(workspace):
        if set(study["runs"]) & set(wanted):
            missing = [spec for spec in _owed_seeds(workspace, study, settled) if spec.run_id not in wanted]
            rundir.write(workspace.runs, missing, study["name"])
            added += [spec.run_id for spec in missing]
    dispatcher.submit(added)
    return added


def everything(workspace: Workspace, run_id: str) -> dict[str, Any]:
    """All that is known of one run: spec, state, studies, attempts with their events, record."""
    run_folder = workspace.runs / run_id
    state = rundir.state_of(run_folder)
    found = []
    for number, path in rundir.attempts(run_folder):
        row = rundir.last_metric(path)
        found.append(
            {
                "attempt": number,
                "folder": str(path),
                "claim": _tolerant_json(path / rundir.CLAIM),
                "intent": _tolerant_json(path / rundir.INTENT),
                "exit": _tolerant_json(path / rundir.EXIT),
                "last_step": row["step"] if row else 0,
                "events": rundir.events(path),
            }
        )
    return {
        "run_id": run_id,
        "line": dataclasses.asdict(run_line(workspace, run_id, state)),
        "studies": rundir.studies_of(run_folder),
        "spec": spec_of(workspace, run_id).to_dict(),
        "record": state.record.to_dict() if state.record else None,
        "attempts": found,
    }


def _tolerant_json(path: Path) -> Any:
    try:
        return folder.read_json(path)
    except (ValueError, OSError):
        return None


def log_lines(workspace: Workspace, run_id: str, *, last: int, follow: bool) -> Iterator[dict[str, Any]]:
    """The log, events and metric lines of a run's newest attempt as {"attempt", "source", "text"}, oldest first."""
    run_folder = workspace.runs / run_id
    offsets: dict[Path, int] = {}
    first = True
    while True:
        state = rundir.state_of(run_folder)
        fresh: list[dict[str, Any]] = []
        if state.attempt_folder is not None:
            for source, name in (("event", rundir.EVENTS), ("metric", rundir.METRICS), ("log", rundir.LOG)):
                path = state.attempt_folder / name
                lines, offsets[path] = rundir.whole_lines(path, offsets.get(path, 0))
                chosen = lines[-last:] if first else lines
                fresh += [{"attempt": state.attempt, "source": source, "text": line} for line in chosen]
        yield from fresh[-last:] if first and not follow else fresh
        if not follow or (state.finished and not fresh):
            return
        first = False
        time.sleep(workspace.poll_seconds)


def unfinished(workspace: Workspace) -> list[str]:
    """Runs that a controller should take up: neither over nor cancelled, fresh seeds still owed among them."""
    from optsweep_tui.dispatch import retry

    for study in studies(workspace):
        owed = [spec for spec in _owed_seeds(workspace, study, {}) if not (workspace.runs / spec.run_id).exists()]
        rundir.write(workspace.runs, owed, study["name"])
    states = _dispatcher(workspace).poll(rundir.run_ids(workspace.runs))
    return [run_id for run_id, state in states.items() if not retry.given_up(workspace.runs / run_id, state)]


def cancel(workspace: Workspace, run_ids: Iterable[str]) -> list[str]:
    """Cancel every run named that is not over; returns those that were marked."""
    marked = [run_id for run_id in run_ids if not rundir.state_of(workspace.runs / run_id).finished]
    _dispatcher(workspace).cancel(marked)
    return marked


def retry(workspace: Workspace, run_ids: Iterable[str]) -> list[str]:
    """Open a new attempt of each run named that is over, taking a cancel marker away; returns those queued."""
    dispatcher = _dispatcher(workspace)
    chosen = []
    for run_id, state in dispatcher.poll(run_ids).items():
        if state.finished or state.state == "lost":
            require_engines([spec_of(workspace, run_id)])
            rundir.uncancel(workspace.runs / run_id)
            chosen.append(run_id)
    return dispatcher.submit(chosen, asked=True)


def detach(workspace: Workspace) -> int:
    """Leave a controller in the background that drives everything unfinished; returns its pid."""
    log = os.open(workspace.ensure().root / "controller.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    command = [sys.executable, "-m", "optsweep_tui", "resume", "--workspace", str(workspace.root)]
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    finally:
        os.close(log)
    return process.pid


# ---------------------------------------------------------------- collect and ask


def collect(
    workspace: Workspace, *, rebuild: bool = False, progress: Callable[[int, int], None] | None = None
) -> CollectReport:
    """Bring results.duckdb up to date with the run folders; twice = once."""
    from optsweep_tui.store import ingest

    workspace.ensure()
    work = ingest.rebuild if rebuild else ingest.ingest
    return work(workspace.store, workspace.runs, progress=progress)


def sql(workspace: Workspace, query: str) -> pd.DataFrame:
    """One read-only statement on the store."""
    from optsweep_tui.store import queries

    return queries.sql(workspace.store, query)


def sql_examples() -> list[dict[str, str]]:
    """Queries that run, with what each answers."""
    from optsweep_tui.store import queries

    return [{"title": title, "query": query} for title, query in queries.EXAMPLES]


def sql_dictionary() -> list[dict[str, str]]:
    """Tables, views and columns with their meaning."""
    from optsweep_tui.store import queries

    return queries.dictionary()


def results(workspace: Workspace, chosen: Filter) -> pd.DataFrame:
    """One row per run of the filter, with the columns of `analysis.columns.RESULTS`."""
    from optsweep_tui.store import queries

    study = chosen.study or queries.default_study(workspace.store)
    return queries.results(workspace.store, dataclasses.replace(chosen, study=study))


def baseline_of(workspace: Workspace, study: str | None) -> str:
    """The baseline optimizer that a study declares; adamw without one."""
    for entry in studies(workspace):
        if entry["name"] == study:
            return str(entry.get("baseline", "adamw"))
    return "adamw"


def knob_info() -> dict[str, Any]:
    """Declared range and scale of every knob, which the edge audit needs."""
    from optsweep_engines.optimizers import catalogue

    return {knob.name: knob for entry in catalogue.optimizers().values() for knob in catalogue.all_knobs(entry)}


def table(frame: pd.DataFrame, *, baseline: str = "adamw", sigma: float | None = None) -> pd.DataFrame:
    """Final losses per cell with n, gap, rank and tie group."""
    from optsweep_tui import analysis

    return analysis.table(frame, baseline=baseline, sigma=sigma, knob_info=knob_info())


def fit(frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
    """Baseline curves."""
    from optsweep_tui import analysis

    return analysis.fit(frame, **options)


def speedup(frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
    """Speedups over the baseline, with intervals and states."""
    from optsweep_tui import analysis

    return analysis.speedup(frame, knob_info=knob_info(), **options)


def noise(frame: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Where the run-to-run sigma comes from."""
    from optsweep_tui import analysis

    return analysis.noise_ledger(frame, baseline)


# ---------------------------------------------------------------- charts


def runs_of_study(workspace: Workspace, study: str) -> list[str]:
    """Ids of the runs that carry a study's marker."""
    return [run_id for run_id in rundir.run_ids(workspace.runs) if study in rundir.studies_of(workspace.runs / run_id)]


def loss_curves(workspace: Workspace, run_ids: Iterable[str]) -> list[Curve]:
    """Training loss against tokens, straight from the run folders: works while the runs go on."""
    import string

    import numpy as np

    from optsweep_tui.charts import style
    from optsweep_tui.charts.chart import Curve

    chosen = list(run_ids)
    names = [spec_of(workspace, run_id).optimizer for run_id in chosen]
    curves = []
    for place, (run_id, colour) in enumerate(zip(chosen, style.shades(names), strict=True)):
        spec = spec_of(workspace, run_id)
        rows = rundir.metric_rows(workspace.runs / run_id)
        points = [(row["tokens"], row["train_loss"]) for row in rows if "tokens" in row and "train_loss" in row]
        x = np.array([point[0] for point in points], dtype=float)
        y = np.array([np.nan if point[1] is None else point[1] for point in points], dtype=float)
        label = f"{spec.optimizer} {spec.model} {spec.chinchilla:g} lr {spec.hyperparameters.get('lr'):g} {run_id[:8]}"
        letter = string.ascii_uppercase[place % 26]
        curves.append(Curve(x=x, y=y, colour=colour, letter=letter, label=label))
    return curves


def ratio_curves(frame: pd.DataFrame, baseline: str) -> list[Curve]:
    """Final loss per cell against the ratio, and the baseline's fitted curve between its own budgets."""
    import numpy as np

    from optsweep_tui import analysis
    from optsweep_tui.charts import style
    from optsweep_tui.charts.chart import Curve

    cells = analysis.table(frame, baseline=baseline, knob_info=knob_info()).dropna(subset=["loss"])
    groups = sorted({(row.model, row.optimizer) for row in cells.itertuples()})
    curves = []
    for (model, optimizer), colour in zip(groups, style.shades([name for _, name in groups]), strict=True):
        points = cells[(cells["model"] == model) & (cells["optimizer"] == optimizer)].sort_values("chinchilla")
        x, y = points["chinchilla"].to_numpy(float), points["loss"].to_numpy(float)
        label = f"{optimizer} {model}"
        letter = style.letter_of(optimizer)
        curves.append(Curve(x=x, y=y, colour=colour, letter=letter, label=label, points=True))
    for row in analysis.fit(frame, baseline=baseline).itertuples():
        if row.state == "FIT":
            x = np.geomspace(row.chinchilla_low, row.chinchilla_high, 200)
            y = row.alpha * x**-row.b + row.beta
            curves.append(
                Curve(x=x, y=y, colour=style.colour_of(baseline), label=f"{baseline} {row.model} fitted", dim=True)
            )
    return curves


# ---------------------------------------------------------------- the state of this machine


def probe_rate(seconds: float = 0.3) -> float:
    """A guess of the training FLOP/s of one core, before anything was measured: a short matmul at small width.

    The share of that rate which training reaches was measured as about a third on one machine; this is an estimate for a
    progress line, never a result.
    """
    import numpy as np

    share = 1 / 3
    left, right = np.ones((512, 64), np.float32), np.ones((64, 192), np.float32)
    started, rounds = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        for _ in range(50):
            left @ right
        rounds += 50
    return share * rounds * 2.0 * left.size * right.shape[1] / (time.perf_counter() - started)


def doctor(workspace: Workspace) -> dict[str, Any]:
    """Versions, devices, engines, store and runs, and what to do about what is wrong."""
    import platform
    import shutil
    from importlib.metadata import PackageNotFoundError, entry_points, version

    import optsweep_tui

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    todo = []
    engines = []
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        library = ENGINE_LIBRARY.get(entry.name)
        present = installed(library) if library else None
        engines.append({"engine": entry.name, "library": library, "version": present, "usable": present is not None})
    if not any(entry["usable"] for entry in engines):
        todo.append("no engine can run: pip install 'optsweep[torch]' -c constraints.txt")
    writable = os.access(workspace.root if workspace.root.exists() else workspace.root.parent, os.W_OK)
    if not writable:
        todo.append(f"workspace {workspace.root} cannot be written: use --workspace DIR")
    usage = shutil.disk_usage(workspace.root if workspace.root.exists() else workspace.root.parent)
    if usage.free < 1 << 30:
        todo.append(f"only {usage.free / 2**20:.0f} MiB free on the disk of the workspace")
    store: dict[str, Any] = {"path": str(workspace.store), "exists": workspace.store.exists(), "problem": None}
    if workspace.store.exists():
        try:
            sql(workspace, "select count(*) from run")
        except OptsweepError as error:
            store["problem"] = str(error)
            todo.append(str(error))
    counts: dict[str, int] = {}
    for run_id in rundir.run_ids(workspace.runs):
        state = rundir.state_of(workspace.runs / run_id).state
        counts[state] = counts.get(state, 0) + 1
    if counts.get("orphan") or counts.get("lost"):
        todo.append("some runs were interrupted: optsweep resume")
    return {
        "optsweep": optsweep_tui.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {
            name: installed(name) for name in ("numpy", "pandas", "scipy", "duckdb", "textual", "torch", "jax")
        },
        "engines": engines,
        "cores": settings.usable_cores(),
        "gpus": settings.visible_gpus(),
        "hosts": [{"name": "local", "slots": workspace.slots}],
        "workspace": {"path": str(workspace.root), "writable": writable, "free_bytes": usage.free},
        "store": store,
        "runs": counts,
        "todo": todo,
    }
