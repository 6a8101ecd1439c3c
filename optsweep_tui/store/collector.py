"""The second half of a pass of the collector: read what is new in run folders, write it in short transactions."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from optsweep_tui import rundir
from optsweep_tui.errors import OptsweepError
from optsweep_tui.rundir import RunState
from optsweep_tui.store import knobs, moving, rows, streams
from optsweep_tui.store.batch import MAX_ROWS, Batch
from optsweep_tui.store.connect import open_store
from optsweep_tui.store.events import event_rows
from optsweep_tui.store.ledger import Offset, Steps, signature_row
from optsweep_tui.store.lines import MetricParser, Series
from optsweep_tui.store.look import Look
from optsweep_tui.store.scan import MAX_DOCUMENT_BYTES, RunFiles, Source, age_seconds

YOUNG_SECONDS = 60.0
"""A run folder without a spec and without an attempt this young is still being planned."""
NO_SPEC = "it is not there: the folder is half copied, or still being written; the next collect looks again"
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

ARCHIVE_ABOVE = 150_000_000
"""Points in the table `metric`, about 1.4 GB: more, and those of finished runs move to Parquet files, which take a third of
the space and three to five times as long to be asked for one curve."""


class Collector:
    """Takes in what a look has found. Make a new one for each pass, under the collector's lock."""

    def __init__(
        self,
        seen: Look,
        *,
        progress: Callable[[int, int], None] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._look, self._check = seen, check
        self._root, self._ledger, self._report = seen.root, seen.ledger, seen.report
        self._progress = progress or (lambda done, total: None)
        self._parser = MetricParser()
        self._batch = Batch()
        self._current_run: int | None = None
        self._archive_at = ARCHIVE_ABOVE

    def collect(self) -> None:
        """Read and write everything; the look's report tells what was done.

        Raises:
            StoreLocked: another program held the store for too long; what was written before stays.
            OptsweepError: the store cannot be written.
        """
        total = len(self._look.run_ids)
        already = total - len(self._look.news)
        for done, files in enumerate(self._look.news, start=already):
            if done % 64 == 0:
                self._progress(done, total)
            self._check()
            self._visit(files)
        self._current_run = None
        self._flush()
        self._progress(total, total)

    def _visit(self, files: RunFiles) -> None:
        unchanged = self._ledger.signatures.get(files.run_id) == files.signature
        run = self._ledger.runs.get(files.run_id)
        described = True
        if run is None or not unchanged or self._ledger.is_watched(run):
            described = self._describe(files, unchanged)
            run = self._ledger.runs.get(files.run_id)
        if run is None:
            return
        self._current_run = run
        for source in files.sources:
            if self._ledger.is_longer(source):
                self._read(run, source, self._ledger.offsets.get(source.path))
        if described and not unchanged:
            self._batch.sources[files.run_id] = signature_row(files.run_id, run, files.signature)

    # ------------------------------------------------------------ small files

    def _describe(self, files: RunFiles, unchanged: bool) -> bool:
        """Take in spec, markers, attempts and ending; False when the run cannot be described."""
        where, ledger = self._root / files.run_id, self._ledger
        if not files.has_spec:
            if files.attempts or age_seconds(where, time.time()) > YOUNG_SECONDS:
                self._report.skip(str(where / rundir.SPEC), NO_SPEC)
            return False
        if files.oversized is not None:
            self._report.skip(str(where / files.oversized), f"larger than {MAX_DOCUMENT_BYTES >> 20} MiB")
            return False
        run = ledger.runs.get(files.run_id, ledger.next_run)
        document = rundir.ORIGIN if rundir.is_imported(where) else rundir.SPEC
        try:
            state = self._state(where)
            if unchanged and state.state == ledger.states.get(run):
                return True
            attempts, repeats = len(files.attempts), ledger.overlapping(run)
            if document == rundir.ORIGIN:
                row = rows.imported_run_row(run, state.imported or rundir.read_import(where), attempts, repeats)
            else:
                row = rows.run_row(run, rundir.read_spec(where), state, attempts, repeats)
        except OptsweepError as error:
            self._report.skip(str(where / document), error.message.removeprefix(f"{where / document} "))
            return False
        except (ValueError, TypeError, ArithmeticError, AttributeError, OSError, RecursionError) as error:
            self._report.skip(str(where / document), f"cannot be used: {error}")
            return False
        if run == ledger.next_run:
            ledger.runs[files.run_id] = run
            ledger.next_run += 1
        ledger.states[run] = state.state
        self._batch.runs[run] = row
        self._batch.studies[run], problems = rows.study_rows(run, where, state)
        for path, why in problems:
            self._report.skip(path, why)
        columns = knobs.merged(ledger.columns, knobs.types_of(row["hyperparameters"]))
        if columns is not ledger.columns:
            ledger.columns = self._batch.columns = columns
        for attempt in files.attempts:
            self._describe_attempt(run, attempt, where / f"a{attempt}")
        self._describe_ending(run, state)
        return True

    @staticmethod
    def _state(where: Path) -> RunState:
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
            self._report.skip(path, why)
        self._batch.attempts[run, attempt] = row | self._ledger.steps_of(run, attempt).columns()

    def _describe_ending(self, run: int, state: RunState) -> None:
        finals = self._ledger.finals
        if state.finished:
            self._batch.finals[run] = rows.final_row(run, state)
            self._report.new_finished += run not in finals
            finals.add(run)
        elif run in finals:
            self._batch.finals[run] = None
            finals.discard(run)

    # ------------------------------------------------------------ streams

    def _read(self, run: int, source: Source, known: Offset | None) -> None:
        """Take in what is new in one stream."""
        try:
            with open(self._root / source.path, "rb") as handle:
                stat = os.fstat(handle.fileno())
                offset = self._begun(run, source, known, handle, stat)
                for block in streams.blocks(handle, offset.position, stat.st_size):
                    if block.too_long:
                        self._bad_lines(source, offset, [(0, f"longer than {streams.MAX_LINE_BYTES >> 20} MiB")])
                        offset.lines += 1
                    elif source.name == rundir.EVENTS:
                        self._take_events(run, source, offset, block.data)
                    else:
                        self._take_metrics(run, source, offset, block.data)
                    offset.position = block.position
                    offset.tail = streams.tail_checksum(handle, block.position)
                    self._note_offset(run, source, offset)
                offset.size, offset.mtime_ns = stat.st_size, stat.st_mtime_ns
                self._note_offset(run, source, offset)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            self._report.skip(str(self._root / source.path), f"cannot be read: {error.strerror}")

    def _begun(self, run: int, source: Source, known: Offset | None, handle: BinaryIO, stat: os.stat_result) -> Offset:
        """Where to go on in the file; from its start, without its old rows, when it is not the one that was read before."""
        offset = known
        if known is None:
            offset = Offset(generation=1, inode=stat.st_ino)
        elif (
            known.inode != stat.st_ino
            or known.position > stat.st_size
            or streams.tail_checksum(handle, known.position) != known.tail
        ):
            offset = Offset(generation=known.generation + 1, inode=stat.st_ino)
            if source.name == rundir.EVENTS:
                self._batch.replaced.append(("event", run, source.attempt))
            else:
                self._batch.replaced.append(("metric", run, source.attempt))
                self._ledger.steps.setdefault(run, {})[source.attempt] = Steps()
                self._note_steps(run, source.attempt)
        assert offset is not None
        # Until its end is reached no stat of the file is remembered, so that an interrupted pass reads on.
        offset.size, offset.mtime_ns = -1, -1
        self._note_offset(run, source, offset)
        return offset

    def _note_offset(self, run: int, source: Source, offset: Offset) -> None:
        """Into the batch, with the rows that were read up to it and before any other."""
        self._batch.sources[source.path] = offset.row(source.path, run, source.attempt)

    def _take_metrics(self, run: int, source: Source, offset: Offset, data: bytes) -> None:
        points = self._parser.parse(data)
        self._make_room(points.count)
        self._add_series(run, source.attempt, points.series)
        self._bad_lines(source, offset, points.bad)
        offset.lines += points.lines
        self._ledger.steps_of(run, source.attempt).widen(points)
        self._note_steps(run, source.attempt)

    def _add_series(self, run: int, attempt: int, found: Iterable[Series]) -> None:
        keys = self._ledger.keys
        for series in found:
            if series.name not in keys:
                if len(keys) >= MAX_KEYS:
                    self._report.skip(series.name, f"the store holds {MAX_KEYS} metric names already")
                    continue
                keys[series.name] = len(keys) + 1
                unit = UNITS.get(series.name.partition("/")[0])  # val_loss/books is a val_loss
                self._batch.keys.append({"key": keys[series.name], "name": series.name, "unit": unit})
            self._batch.add_series(run, attempt, keys[series.name], series)
            self._report.points += len(series.steps)

    def _take_events(self, run: int, source: Source, offset: Offset, data: bytes) -> None:
        found, bad = event_rows(run, source.attempt, data)
        self._make_room(len(found))
        self._batch.events += found
        self._report.events += len(found)
        self._bad_lines(source, offset, bad)
        offset.lines += data.count(b"\n")

    def _note_steps(self, run: int, attempt: int) -> None:
        ledger = self._ledger
        self._batch.steps[run, attempt] = {"run": run, "attempt": attempt} | ledger.steps[run][attempt].columns()
        repeats = ledger.overlapping(run)
        if repeats != ledger.repeats.get(run, False):
            ledger.repeats[run] = self._batch.repeats[run] = repeats

    def _bad_lines(self, source: Source, offset: Offset, bad: list[tuple[int, str]]) -> None:
        for number, why in bad:
            self._report.skip(f"{self._root / source.path}:{offset.lines + number + 1}", why)
        offset.skipped += len(bad)
        self._report.skipped_lines += len(bad)

    # ------------------------------------------------------------ writing

    def _make_room(self, points: int) -> None:
        """Write what was gathered when so many more rows would make too large a transaction.

        Called before the rows of a block are added: rows and the offset behind them go into one transaction.
        """
        if self._batch.size + points > MAX_ROWS:
            self._flush()

    def _flush(self) -> None:
        """Write what was gathered; the store is open for this long only."""
        if self._batch.size == 0 and not self._batch.replaced:
            return
        look = self._look
        with open_store(
            look.store, read_only=False, wait_seconds=look.wait_seconds, archive_folder=look.archive_folder
        ) as connection:
            self._batch.write(connection, look.archive_folder)
        self._ledger.points += self._batch.points
        self._batch = Batch()
        self._check()
        if self._ledger.points > self._archive_at:
            self._archive()

    def _archive(self) -> None:
        """Move the points of finished runs, but not of the one that is being read."""
        current = () if self._current_run is None else (self._current_run,)
        moved = moving.archive_finished(
            self._look.store, self._look.archive_folder, self._look.wait_seconds, without=current
        )
        self._report.archived += moved
        self._ledger.points -= moved
        # Unfinished runs may be what is so large: not asked about again before there is much more.
        self._archive_at = max(ARCHIVE_ABOVE, self._ledger.points + ARCHIVE_ABOVE // 4)
