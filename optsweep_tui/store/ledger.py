"""What the store holds already, in memory for one pass of the collector: numbers, states, offsets, steps."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb

from optsweep_tui.store import knobs
from optsweep_tui.store.scan import RunFiles, Source

if TYPE_CHECKING:
    from optsweep_tui.store.lines import Points
    from optsweep_tui.store.rows import Row

_WATCHED = frozenset({"running", "orphan"})
"""States that can change without a file of the run changing: a process dies."""


@dataclass(kw_only=True)
class Offset:
    """How far a stream has been read; the columns of src_offset."""

    generation: int
    inode: int
    size: int = 0
    mtime_ns: int = 0
    position: int = 0
    lines: int = 0
    skipped: int = 0
    tail: int = 0

    def row(self, path: str, run: int, attempt: int) -> Row:
        """The row of `src_offset` of a stream."""
        return {"path": path, "run": run, "attempt": attempt, **vars(self)}


def signature_row(run_id: str, run: int, signature: str) -> Row:
    """The row of `src_offset` of a run's small files."""
    return {"path": run_id, "run": run, "signature": signature, **vars(Offset(generation=1, inode=0))}


@dataclass(kw_only=True)
class Steps:
    """Which steps an attempt's metrics cover."""

    first: int | None = None
    last: int | None = None
    repeats: bool = False
    """A step came twice or went backwards."""

    def widen(self, points: Points) -> None:
        """Take in the next block of the attempt's lines."""
        if points.first_step is None or points.last_step is None or points.begin_step is None:
            return
        if not points.ascending or (self.last is not None and points.begin_step <= self.last):
            self.repeats = True
        self.first = points.first_step if self.first is None else min(self.first, points.first_step)
        self.last = points.last_step if self.last is None else max(self.last, points.last_step)

    def columns(self) -> Row:
        """Its columns in the table `attempt`."""
        return {"first_step": self.first, "last_step": self.last, "repeats": self.repeats}


class Ledger:
    """The small tables of the store as dictionaries."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        def fetch(query: str) -> list[tuple[Any, ...]]:
            return connection.execute(query).fetchall()

        self.runs: dict[str, int] = {}
        self.states: dict[int, str] = {}
        self.repeats: dict[int, bool] = {}
        for run, run_id, state, repeats in fetch("SELECT run, run_id, state, repeats FROM run"):
            self.runs[run_id], self.states[run], self.repeats[run] = run, state, repeats
        self.next_run = max(self.runs.values(), default=0) + 1
        self.keys: dict[str, int] = {name: key for key, name in fetch("SELECT key, name FROM metric_key")}
        self.finals: set[int] = {run for (run,) in fetch("SELECT run FROM run_final")}
        self.steps: dict[int, dict[int, Steps]] = {}
        for run, attempt, first, last, repeats in fetch(
            "SELECT run, attempt, first_step, last_step, repeats FROM attempt"
        ):
            self.steps.setdefault(run, {})[attempt] = Steps(first=first, last=last, repeats=repeats)
        self.offsets: dict[str, Offset] = {}
        self.signatures: dict[str, str] = {}
        names = [item.name for item in dataclasses.fields(Offset)]
        for path, signature, *numbers in fetch(f"SELECT path, signature, {', '.join(names)} FROM src_offset"):
            if signature is not None:
                self.signatures[path] = signature
            else:
                self.offsets[path] = Offset(**dict(zip(names, numbers, strict=True)))
        self.columns: knobs.Columns = knobs.known_columns(connection)
        ((self.points,),) = fetch("SELECT count(*) FROM metric")

    def is_news(self, files: RunFiles) -> bool:
        """False when the store holds everything that the files of a run say."""
        run = self.runs.get(files.run_id)
        if run is None or self.signatures.get(files.run_id) != files.signature or self.states[run] in _WATCHED:
            return True
        return any(self.is_longer(source) for source in files.sources)

    def is_longer(self, source: Source) -> bool:
        """A stream has changed since it was read to its end."""
        known = self.offsets.get(source.path)
        return known is None or (known.inode, known.size, known.mtime_ns) != source.stamp

    def is_watched(self, run: int) -> bool:
        """The run may be in another state than before though none of its files has changed."""
        return self.states[run] in _WATCHED

    def steps_of(self, run: int, attempt: int) -> Steps:
        """The steps of one attempt, empty for a new one."""
        return self.steps.setdefault(run, {}).setdefault(attempt, Steps())

    def overlapping(self, run: int) -> bool:
        """True where a step occurs in two attempts of a run, or twice in one."""
        attempts = self.steps.get(run, {}).values()
        if any(steps.repeats for steps in attempts):
            return True
        spans = sorted(
            (steps.first, steps.last) for steps in attempts if steps.first is not None and steps.last is not None
        )
        return any(later[0] <= earlier[1] for earlier, later in itertools.pairwise(spans))
