"""What runs are doing, a line each: for `ls`, `watch`, progress bars and the app; reads run folders, changes nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from optsweep_engines.spec import canonical_json
from optsweep_tui import rundir
from optsweep_tui.core import Cell, RunSpec
from optsweep_tui.dispatch import links
from optsweep_tui.errors import OptsweepError
from optsweep_tui.imported import ImportedRun
from optsweep_tui.rundir import RunState
from optsweep_tui.settings import Workspace


@dataclass(frozen=True, kw_only=True)
class RunLine:
    """One run as `ls`, `watch` and the app show it."""

    run_id: str
    state: str
    optimizer: str
    model: str
    chinchilla: float
    seed: int | None
    """None where it was not published."""
    engine: str | None
    """None where it was not published."""
    host: str
    """Empty for an imported run."""
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
    configuration: str = ""
    """The same for runs that differ in nothing but their seed."""


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
    elsewhere: int = 0
    """Runs among those that wait that another controller has given to a host that is not known here."""
    awaited: tuple[str, ...] = ()
    """What is waited for where an answer was lost, a line each."""


_specs: dict[tuple[str, str], RunSpec] = {}


def spec_of(workspace: Workspace, run_id: str) -> RunSpec:
    """The spec of a run, read once: specs never change."""
    key = (str(workspace.runs), run_id)
    if key not in _specs:
        _specs[key] = rundir.read_spec(workspace.runs / run_id)
    return _specs[key]


def remember(workspace: Workspace, specs: Iterable[RunSpec]) -> None:
    """Specs that were just planted need no reading."""
    _specs.update(((str(workspace.runs), spec.run_id), spec) for spec in specs)


_configurations: dict[str, str] = {}


def _configuration_of(spec: RunSpec) -> str:
    if spec.run_id not in _configurations:
        _configurations[spec.run_id] = spec.replace(seed=0).run_id
    return _configurations[spec.run_id]


def run_line(workspace: Workspace, run_id: str, state: RunState | None = None) -> RunLine:
    """What one run is doing, or how an imported one ended."""
    if state is None or state.imported is None:
        if rundir.is_imported(workspace.runs / run_id):
            return _imported_line(run_id, rundir.read_import(workspace.runs / run_id))
    else:
        return _imported_line(run_id, state.imported)
    spec = spec_of(workspace, run_id)
    state = state or rundir.state_of(workspace.runs / run_id)
    row = None
    if state.attempt_folder is not None and state.record is None and state.state != "queued":
        row = rundir.last_metric(state.attempt_folder)
    step, loss, speed, eta = 0, None, None, None
    if state.record is not None:
        step, loss, speed = state.record.steps, state.record.val_loss, state.record.tokens_per_second
    elif row is not None:
        step, loss = row["step"], _number(row.get("train_loss"))
        seconds, tokens = _number(row.get("train_seconds")) or 0.0, _number(row.get("tokens")) or 0.0
        tokens -= spec.first_step * spec.tokens_per_step  # a branch's seconds begin where it does
        speed = tokens / seconds if seconds > 0 else None
        if state.state == "running" and speed:
            eta = (spec.steps - step) * spec.tokens_per_step / speed
    lr = spec.hyperparameters.get("lr")
    host = rundir.host_of(state.attempt_folder) or "local"
    return RunLine(
        run_id=run_id,
        state=shown_state(workspace, state.state, host),
        optimizer=spec.optimizer,
        model=spec.model,
        chinchilla=spec.chinchilla,
        seed=spec.seed,
        engine=spec.engine,
        host=host,
        attempt=state.attempt,
        step=step,
        steps=spec.steps,
        loss=loss,
        tokens_per_second=speed,
        eta_seconds=eta,
        lr=float(lr) if isinstance(lr, int | float) else None,
        error=state.error,
        configuration=_configuration_of(spec),
    )


def _number(value: object) -> float | None:
    """A number of a metric line; None where the line holds something else."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


_links: dict[tuple[str, str], tuple[float, bool]] = {}


def shown_state(workspace: Workspace, state: str, host: str) -> str:
    """A state as it is displayed: "unreachable" while the host of what is under way does not answer."""
    if host in ("", "local") or state not in ("submitting", "queued", "running"):
        return state
    return "unreachable" if _unreachable(workspace, host.partition(":")[0]) else state


def _unreachable(workspace: Workspace, host: str) -> bool:
    """Whether a host is known not to answer; asked for every run of a listing, read once a second."""
    key = (str(workspace.root), host)
    known = _links.get(key)
    if known is None or time.monotonic() - known[0] > 1.0:
        known = _links[key] = (time.monotonic(), links.unreachable(workspace, host))
    return known[1]


def _imported_line(run_id: str, run: ImportedRun) -> RunLine:
    spec, outcome = run.spec, run.outcome
    knobs = spec.hyperparameters
    lr = (knobs or {}).get("lr")
    like = [None if knobs is None else dict(knobs), spec.batch_size, spec.schedule, spec.dtype]
    return RunLine(
        run_id=run_id,
        state=outcome.state,
        optimizer=spec.optimizer,
        model=spec.model,
        chinchilla=math.nan if spec.chinchilla is None else spec.chinchilla,
        seed=spec.seed,
        engine=spec.engine,
        host="",
        attempt=0,
        step=outcome.steps or 0,
        steps=spec.steps or 0,
        loss=outcome.loss,
        tokens_per_second=outcome.tokens_per_second,
        eta_seconds=None,
        lr=float(lr) if isinstance(lr, int | float) else None,
        error=outcome.error,
        # An unpublished configuration equals no other.
        configuration=run_id if knobs is None else canonical_json(like),
    )


def cell_of(workspace: Workspace, run_id: str) -> Cell:
    """The cell that a run falls in; what an import does not say is an empty word."""
    run_folder = workspace.runs / run_id
    if not rundir.is_imported(run_folder):
        return Cell.of(spec_of(workspace, run_id))
    spec = rundir.read_import(run_folder).spec
    return Cell(
        optimizer=spec.optimizer,
        model=spec.model,
        tokens=spec.tokens or 0,
        dataset=spec.dataset or "",
        dataset_hash=spec.dataset_hash,
        validation_set=spec.validation_set or "",
        seq_len=spec.seq_len or 0,
        engine=spec.engine or "",
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


def look(workspace: Workspace, run_ids: Iterable[str], *, once: bool = False) -> Iterator[Progress]:
    """The same looks as `drive`, without touching anything: for watching beside a controller, or without one.

    Imported runs are over since they came and are left out.
    """
    wanted = [run_id for run_id in run_ids if not rundir.is_imported(workspace.runs / run_id)]
    started, meter = time.monotonic(), Meter()
    over: dict[str, RunLine] = {}
    while True:
        lines = [over.get(run_id) or run_line(workspace, run_id) for run_id in wanted]
        over = {line.run_id: line for line in lines if line.state in rundir.FINISHED}
        yield progress_of(
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


def progress_of(
    specs: list[RunSpec], lines: list[RunLine], over: set[str], started: float, meter: Meter, complete: bool
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


class Meter:
    """Seconds to go, from the FLOPs done since the first look."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None
        self._flops: dict[str, float] = {}

    def eta(self, specs: list[RunSpec], lines: list[RunLine], over: set[str]) -> float | None:
        total, done = 0.0, 0.0
        for spec, line in zip(specs, lines, strict=True):
            flops = self._flops.get(line.run_id) or self._flops.setdefault(line.run_id, spec.trained_flops)
            total += flops
            taken = max(0, line.step - spec.first_step) / max(1, spec.trained_steps)
            done += flops * (1.0 if line.run_id in over else taken)
        now = time.monotonic()
        if self._first is None:
            self._first = (now, done)
        since, base = self._first
        if done <= base or now - since < 3.0:
            return None
        return (total - done) * (now - since) / (done - base)
