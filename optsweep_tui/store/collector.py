"""One pass of the collector: look at every run folder, read what is new, write it in short transactions."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optsweep_tui import rundir
from optsweep_tui.errors import OptsweepError
from optsweep_tui.rundir import RunState
from optsweep_tui.store import rows, streams
from optsweep_tui.store.batch import MAX_ROWS, Batch
from optsweep_tui.store.connect import WAIT_SECONDS, create, open_store
from optsweep_tui.store.lines import MetricParser, Points, read_object, whole_lines
from optsweep_tui.store.rows import Row
from optsweep_tui.store.scan import RunFiles, Source, age_seconds, scan

MAX_LISTED_SKIPS = 1000
"""More are counted but not listed."""
YOUNG_SECONDS = 60.0
"""A run folder without a spec this young is still being written."""
MAX_KEYS = 20_000
"""Different metric names in one store; those beyond are left out and listed."""

UNITS = {
    "tokens": "tokens",
    "train_seconds": "s",
    "train_loss": "nats/token",
    "val_loss": "nats/token",
    "lr": "1",
    "grad_norm": "1",
    "tokens_per_second": "tokens/s",
}
"""Units of the metrics that every engine writes."""

_WATCHED = frozenset({"running", "orphan"})
"""States that can change without a file of the run changing: a process dies."""


@dataclass(frozen=True, kw_only=True)
class Skip:
    """Something that could not be read, and where it is."""

    where: str
    """file or file:line."""
    why: str

    def __str__(self) -> str:
        return f"{self.where}: {self.why}"


@dataclass(kw_only=True)
class CollectReport:
    """What one collect did."""

    runs: int = 0
    """Runs in the store now."""
    new_runs: int = 0
    points: int = 0
    """Metric values written by this collect."""
    events: int = 0
    """Events written by this collect."""
    finished: int = 0
    """Runs in the store that are over."""
    new_finished: int = 0
    skipped_lines: int = 0
    """Garbage lines met by this collect."""
    skipped: list[Skip] = field(default_factory=list)
    """Garbage lines and unreadable files; the first MAX_LISTED_SKIPS."""
    vanished: int = 0
    """Runs in the store whose folder has gone; their rows stay until a rebuild."""
    seconds: float = 0.0
    kept: str | None = None
    """Where a rebuild left the store that it replaced, when that was damaged or held more than the new one."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return dataclasses.asdict(self)


@dataclass(kw_only=True)
class _Offset:
    """How far a stream has been read."""

    generation: int
    inode: int
    size: int
    mtime_ns: int
    position: int
    lines: int
    skipped: int
    tail: int


@dataclass(kw_only=True)
class _Steps:
    """Which steps an attempt's metrics cover."""

    first: int | None = None
    last: int | None = None
    repeats: bool = False
    """A step came twice or went backwards."""


class Collector:
    """Brings one store up to date with one folder of runs. Make a new one for each pass, under the collector's lock."""

    def __init__(
        self,
        store: Path,
        runs_root: Path,
        *,
        progress: Callable[[int, int], None] | None = None,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self._store, self._root, self._wait = store, runs_root, wait_seconds
        self._progress = progress or (lambda done, total: None)
        self._parser = MetricParser()
        self._batch = Batch()
        self._runs: dict[str, int] = {}
        self._keys: dict[str, int] = {}
        self._repeats: dict[int, bool] = {}
        self._states: dict[int, str] = {}
        self._finals: set[int] = set()
        self._offsets: dict[str, _Offset] = {}
        self._signatures: dict[str, str] = {}
        self._steps: dict[int, dict[int, _Steps]] = {}
        self._next_run = 1
        self.report = CollectReport()

    def collect(self) -> CollectReport:
        """One pass.

        Raises:
            StoreLocked: another program held the store for too long; what was written before stays.
            OptsweepError: the store cannot be read or written.
        """
        started = time.monotonic()
        self._load()
        before = len(self._runs)
        run_ids = rundir.run_ids(self._root)
        for done, run_id in enumerate(run_ids):
            if done % 64 == 0:
                self._progress(done, len(run_ids))
            try:
                files = scan(str(self._root), run_id)
            except OSError as error:
                self._skip(str(self._root / run_id), f"cannot be read: {error.strerror}")
                continue
            if files is not None:
                self._visit(files)
        self._flush()
        self._progress(len(run_ids), len(run_ids))
        self.report.runs = len(self._runs)
        self.report.new_runs = len(self._runs) - before
        self.report.finished = len(self._finals)
        self.report.vanished = len(self._runs.keys() - set(run_ids))
        self.report.seconds = time.monotonic() - started
        return self.report

    def _load(self) -> None:
        """Read what the store knows, in one short look."""
        if not self._store.exists():
            create(self._store)
        with open_store(self._store, wait_seconds=self._wait) as connection:

            def fetch(query: str) -> list[tuple[Any, ...]]:
                return connection.execute(query).fetchall()

            for run, run_id, state, repeats in fetch("SELECT run, run_id, state, repeats FROM run"):
                self._runs[run_id], self._states[run], self._repeats[run] = run, state, repeats
            self._next_run = max(self._runs.values(), default=0) + 1
            self._keys = {name: key for key, name in fetch("SELECT key, name FROM metric_key")}
            self._finals = {run for (run,) in fetch("SELECT run FROM run_final")}
            for run, attempt, first, last, repeats in fetch(
                "SELECT run, attempt, first_step, last_step, repeats FROM attempt"
            ):
                self._steps.setdefault(run, {})[attempt] = _Steps(first=first, last=last, repeats=repeats)
            names = [item.name for item in dataclasses.fields(_Offset)]
            for path, signature, *numbers in fetch(f"SELECT path, signature, {', '.join(names)} FROM src_offset"):
                if signature is not None:
                    self._signatures[path] = signature
                else:
                    self._offsets[path] = _Offset(**dict(zip(names, numbers, strict=True)))

    def _visit(self, files: RunFiles) -> None:
        run = self._runs.get(files.run_id)
        unchanged = self._signatures.get(files.run_id) == files.signature
        if run is None or not unchanged or self._states.get(run) in _WATCHED:
            run = self._describe(files, run)
        if run is None:
            return
        for source in files.sources:
            known = self._offsets.get(source.path)
            if known is None or (known.inode, known.size, known.mtime_ns) != (
                source.inode,
                source.size,
                source.mtime_ns,
            ):
                self._read(run, source, known)
        if not unchanged:
            self._batch.sources[files.run_id] = _source_row(files.run_id, run, None, None, files.signature)

    # ------------------------------------------------------------ small files

    def _describe(self, files: RunFiles, run: int | None) -> int | None:
        """Take in spec, markers, attempts and ending; returns the run's number, None when its spec is of no use."""
        where = self._root / files.run_id
        if not files.has_spec:
            if age_seconds(where, time.time()) > YOUNG_SECONDS:
                self._skip(str(where), f"it has no {rundir.SPEC}")
            return run
        fresh = run is None
        number = self._next_run if run is None else run
        try:
            state = self._state(where)
            if (
                not fresh
                and state.state == self._states.get(number)
                and self._signatures.get(files.run_id) == files.signature
            ):
                return run
            spec = rundir.read_spec(where)
            row = rows.run_row(number, spec, state, len(files.attempts), self._repeats.get(number, False))
        except OptsweepError as error:
            self._skip(str(where / rundir.SPEC), error.message.removeprefix(f"{where / rundir.SPEC} "))
            return run
        except (ValueError, TypeError, ArithmeticError, AttributeError, OSError, RecursionError) as error:
            self._skip(str(where / rundir.SPEC), f"cannot be used: {error}")
            return run
        if fresh:
            self._runs[files.run_id] = number
            self._next_run += 1
        self._states[number] = state.state
        self._batch.runs[number] = row
        self._batch.studies[number] = rows.study_rows(number, where)
        for attempt in files.attempts:
            self._describe_attempt(number, attempt, where / f"a{attempt}")
        if state.finished:
            self._batch.finals[number] = rows.final_row(number, state)
            self.report.new_finished += number not in self._finals
            self._finals.add(number)
        elif number in self._finals:
            self._batch.finals[number] = None
            self._finals.discard(number)
        return number

    def _state(self, where: Path) -> RunState:
        state = rundir.state_of(where)
        if state.record is not None:
            try:
                rows.checked_record(state.record)
            except ValueError as error:
                return dataclasses.replace(state, state="failed", record=None, error=f"{rundir.RECORD}: {error}")
        return state

    def _describe_attempt(self, run: int, attempt: int, folder: Path) -> None:
        row, problems = rows.attempt_row(run, attempt, folder)
        for path, why in problems:
            self._skip(path, why)
        steps = self._steps.setdefault(run, {}).setdefault(attempt, _Steps())
        self._batch.attempts[run, attempt] = row | _step_columns(steps)

    # ------------------------------------------------------------ streams

    def _read(self, run: int, source: Source, known: _Offset | None) -> None:
        """Take in what is new in one stream."""
        try:
            with open(self._root / source.path, "rb") as handle:
                stat = os.fstat(handle.fileno())
                offset = known
                if offset is not None and (
                    offset.inode != stat.st_ino
                    or offset.position > stat.st_size
                    or streams.tail_checksum(handle, offset.position) != offset.tail
                ):
                    self._begin_anew(run, source)
                    offset = _fresh_offset(stat.st_ino, offset.generation + 1)
                if offset is None:
                    offset = _fresh_offset(stat.st_ino, 1)
                for block in streams.blocks(handle, offset.position, stat.st_size):
                    self._take(run, source, offset, block)
                    offset.position = block.position
                    offset.tail = streams.tail_checksum(handle, block.position)
                    # Until the end is reached no stat is remembered, so that an interrupted pass reads on.
                    offset.size, offset.mtime_ns = -1, -1
                    self._batch.sources[source.path] = _source_row(source.path, run, source.attempt, offset, None)
                offset.size, offset.mtime_ns = stat.st_size, stat.st_mtime_ns
                self._batch.sources[source.path] = _source_row(source.path, run, source.attempt, offset, None)
                self._offsets[source.path] = offset
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            self._skip(str(self._root / source.path), f"cannot be read: {error.strerror}")

    def _begin_anew(self, run: int, source: Source) -> None:
        """The file is not the one that was read before: what came from that one goes."""
        if source.name == rundir.EVENTS:
            self._batch.replaced.append(("event", run, source.attempt))
            return
        self._batch.replaced.append(("metric", run, source.attempt))
        self._steps.setdefault(run, {})[source.attempt] = _Steps()
        self._note_steps(run, source.attempt)

    def _take(self, run: int, source: Source, offset: _Offset, block: streams.Block) -> None:
        if block.too_long:
            self._bad_line(source, offset, 0, f"longer than {streams.MAX_LINE_BYTES >> 20} MiB")
            offset.lines += 1
            return
        if source.name == rundir.EVENTS:
            self._take_events(run, source, offset, block.data)
            return
        points = self._parser.parse(block.data)
        if self._batch.size + points.count > MAX_ROWS:
            self._flush()
        for series in points.series:
            key = self._key(series.name)
            if key is not None:
                self._batch.add_series(run, source.attempt, key, series)
                self.report.points += len(series.steps)
        for number, why in points.bad:
            self._bad_line(source, offset, number, why)
        offset.lines += points.lines
        self._widen(run, source.attempt, points)

    def _take_events(self, run: int, source: Source, offset: _Offset, data: bytes) -> None:
        for number, line in whole_lines(data):
            try:
                row = read_object(line)
            except ValueError as error:
                self._bad_line(source, offset, number, str(error))
                continue
            self._batch.events.append(_event_row(run, source.attempt, row))
            self.report.events += 1
        offset.lines += data.count(b"\n")
        if self._batch.size > MAX_ROWS:
            self._flush()

    def _widen(self, run: int, attempt: int, points: Points) -> None:
        """Note which steps an attempt covers now, and whether some step of the run occurs twice."""
        if points.first_step is None or points.last_step is None or points.begin_step is None:
            return
        steps = self._steps.setdefault(run, {}).setdefault(attempt, _Steps())
        if not points.ascending or (steps.last is not None and points.begin_step <= steps.last):
            steps.repeats = True
        steps.first = points.first_step if steps.first is None else min(steps.first, points.first_step)
        steps.last = points.last_step if steps.last is None else max(steps.last, points.last_step)
        self._note_steps(run, attempt)

    def _note_steps(self, run: int, attempt: int) -> None:
        steps = self._steps[run][attempt]
        self._batch.steps[run, attempt] = {"run": run, "attempt": attempt} | _step_columns(steps)
        repeats = _overlapping(list(self._steps[run].values()))
        if repeats != self._repeats.get(run, False):
            self._repeats[run] = repeats
            self._batch.repeats[run] = repeats

    def _key(self, name: str) -> int | None:
        """Number of a metric name; None when the store holds too many already."""
        key = self._keys.get(name)
        if key is None and len(self._keys) < MAX_KEYS:
            key = self._keys[name] = len(self._keys) + 1
            self._batch.keys.append({"key": key, "name": name, "unit": UNITS.get(name)})
        elif key is None:
            self._skip(name, f"the store holds {MAX_KEYS} metric names already")
        return key

    # ------------------------------------------------------------ ends

    def _bad_line(self, source: Source, offset: _Offset, number: int, why: str) -> None:
        offset.skipped += 1
        self.report.skipped_lines += 1
        self._skip(f"{self._root / source.path}:{offset.lines + number + 1}", why)

    def _skip(self, where: str, why: str) -> None:
        if len(self.report.skipped) < MAX_LISTED_SKIPS:
            self.report.skipped.append(Skip(where=where, why=" ".join(why.split())[:300]))

    def _flush(self) -> None:
        """Write what was gathered; the store is open for this long only."""
        if self._batch.size == 0 and not self._batch.replaced:
            return
        with open_store(self._store, read_only=False, wait_seconds=self._wait) as connection:
            self._batch.write(connection)
        self._batch = Batch()


def _fresh_offset(inode: int, generation: int) -> _Offset:
    return _Offset(generation=generation, inode=inode, size=0, mtime_ns=0, position=0, lines=0, skipped=0, tail=0)


def _source_row(path: str, run: int, attempt: int | None, offset: _Offset | None, signature: str | None) -> Row:
    values = dataclasses.asdict(offset or _fresh_offset(0, 1))
    return {"path": path, "run": run, "attempt": attempt, "signature": signature, **values}


def _step_columns(steps: _Steps) -> Row:
    return {"first_step": steps.first, "last_step": steps.last, "repeats": steps.repeats}


def _overlapping(attempts: list[_Steps]) -> bool:
    """True where a step occurs in two attempts, or twice in one."""
    if any(steps.repeats for steps in attempts):
        return True
    spans = sorted(
        (steps.first, steps.last) for steps in attempts if steps.first is not None and steps.last is not None
    )
    return any(later[0] <= earlier[1] for earlier, later in itertools.pairwise(spans))


def _event_row(run: int, attempt: int, row: dict[str, Any]) -> Row:
    """The row of `event`; what is not seq, time and kind stays JSON."""
    seq = row.pop("seq", None)
    moment, kind = row.pop("time", None), row.pop("kind", None)
    whole = isinstance(seq, int) and not isinstance(seq, bool) and abs(seq) < 2**63
    return {
        "run": run,
        "attempt": attempt,
        "seq": seq if whole else None,
        "time": rows.unix_time(moment),
        "kind": kind if isinstance(kind, str) else None,
        "data": json.dumps(_plain(row)),
    }


def _plain(value: Any) -> Any:
    """The same with null for infinities and with floats for integers that JSON readers do not take."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int) and abs(value) >= 2**63:
        return float(value) if abs(value) < 10**308 else None
    return value
