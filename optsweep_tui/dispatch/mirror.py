"""The workspace's copy of attempts that run elsewhere: bytes at their offsets, so that writing the same twice changes nothing.

What is on disk here is fsynced before its offset is remembered; a crash in between fetches the same bytes to the same
place again. A file that shrank or was replaced there is a new generation: it gets a new file here. Names are built here
from run ids that were asked for; nothing that a host says is ever part of a path.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from optsweep_engines import folder
from optsweep_tui import rundir
from optsweep_tui.dispatch import told
from optsweep_tui.errors import OptsweepError

STREAMS = (folder.METRICS, folder.EVENTS, folder.LOG)
LARGEST_BYTES: Mapping[str, int] = {folder.METRICS: 4 << 30, folder.EVENTS: 256 << 20, folder.LOG: 256 << 20}
"""Bytes of one stream of one attempt that are kept here: a host that sends without end fills no disk."""
SMALL_BYTES = 4 << 20
JOURNAL_SECONDS = 10.0
"""Between two times that offsets are remembered: what lies between is fetched again after a crash."""

Attempt = tuple[str, int]
Marks = dict[str, tuple[int, int]]
"""File name -> (inode there, offset up to which it is here)."""


class Misbehaving(OptsweepError):
    """A host whose answer does not fit the question."""


class Mirror:
    """The copies of one host's attempts in one workspace."""

    def __init__(self, runs: Path, journal: Path, host: str) -> None:
        self._runs, self._journal, self._host = runs, journal, host
        self._marks: dict[Attempt, Marks] = {}
        self._dirty: set[Path] = set()
        self._kept_at = time.monotonic()
        self._read_journal()

    def folder_of(self, attempt: Attempt) -> Path:
        """Where an attempt is here."""
        run_id, number = attempt
        assert folder.is_run_id(run_id) and number > 0
        return self._runs / run_id / f"a{number}"

    def marks(self, attempt: Attempt) -> Marks:
        """What is here, for the question to the host."""
        return self._marks.get(attempt, {})

    def take(self, asked: list[Attempt], rows: Any, body: bytes) -> dict[Attempt, dict[str, Any]]:
        """Write what a host sent; returns attempt -> its row, small files written too and exit.json last.

        Raises:
            Misbehaving: the answer is not one to this question.
            OSError: the disk here is full, for one; nothing is remembered of what was not written.
        """
        if not isinstance(rows, list) or len(rows) != len(asked):
            raise self._wrong("rows")
        start = 0
        pieces: list[tuple[Attempt, str, int, int, bytes]] = []
        for attempt, row in zip(asked, rows, strict=True):
            if not isinstance(row, dict) or not isinstance(row.get("files"), dict):
                raise self._wrong("a row")
            for name, news in row["files"].items():
                inode, offset, size = self._checked(attempt, name, news)
                if start + size > len(body):
                    raise self._wrong("more bytes than came")
                pieces.append((attempt, name, inode, offset, body[start : start + size]))
                start += size
        if start != len(body):
            raise self._wrong("bytes that belong to nothing")
        for piece in pieces:  # all of the answer fits the question: only now is anything written
            self._write(*piece)
        return dict(zip(asked, rows, strict=True))

    def _checked(self, attempt: Attempt, name: Any, news: Any) -> tuple[int, int, int]:
        if name not in STREAMS or not isinstance(news, list) or len(news) != 3:
            raise self._wrong("a file that was not asked for")
        if not all(isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 for value in news):
            raise self._wrong("numbers that are none")
        inode, offset, size = news
        known, have = self._marks.get(attempt, {}).get(name, (inode, 0))
        if offset not in (0, have if inode == known else 0):
            raise self._wrong("a piece that leaves a hole")
        return inode, offset, size

    def _wrong(self, what: str) -> Misbehaving:
        return Misbehaving(f"host {self._host} answered with {what}", "optsweep hosts check tells more")

    def _write(self, attempt: Attempt, name: str, inode: int, offset: int, data: bytes) -> None:
        _, have = self._marks.get(attempt, {}).get(name, (inode, 0))
        path = self.folder_of(attempt) / name
        if offset == 0 and have and path.exists():  # another generation: readers see it by its inode
            fresh = path.with_name(f".{name}.{os.getpid()}.tmp")
            fresh.write_bytes(b"")
            os.replace(fresh, path)
        room = max(0, LARGEST_BYTES[name] - offset)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            rest, place = memoryview(data)[:room], offset
            while rest:
                written = os.pwrite(handle, rest, place)
                rest, place = rest[written:], place + written
        finally:
            os.close(handle)
        self._marks.setdefault(attempt, {})[name] = (inode, offset + len(data))
        self._dirty.add(path)

    def end(self, attempt: Attempt, row: Mapping[str, Any]) -> bool:
        """Write record and exit.json of an attempt whose streams are all here; False where the row does not hold them."""
        if folder.EXIT not in row:
            return False
        where = self.folder_of(attempt)
        for name in STREAMS:
            self._sync(where / name)
        record, ending = row.get(folder.RECORD), row[folder.EXIT]
        for value in (record, ending):
            if value is not None and (not isinstance(value, str) or len(value) > SMALL_BYTES):
                raise self._wrong("a record that is none")
        if ending is None:
            return False
        body = told.ending(ending)
        wrong = None if record is None else told.wrong_record(record, *attempt)
        if wrong:
            body = told.failed(f"host {self._host} sent a record that is none: {wrong}")
        elif record is not None:
            folder.write_atomic(where / folder.RECORD, record.encode(errors="replace"))
        folder.write_json(where / folder.EXIT, body)
        self._marks.pop(attempt, None)
        return True

    def _sync(self, path: Path) -> None:
        self._dirty.discard(path)
        with contextlib.suppress(FileNotFoundError):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    # ------------------------------------------------------------ what is remembered

    def keep(self, *, now: bool = False) -> None:
        """Fsync what came, then remember the offsets; every JOURNAL_SECONDS, or now."""
        if not now and time.monotonic() - self._kept_at < JOURNAL_SECONDS:
            return
        self._kept_at = time.monotonic()
        if not self._dirty and not now:
            return
        for path in list(self._dirty):
            self._sync(path)
        data = {f"{run_id}.a{number}": marks for (run_id, number), marks in self._marks.items()}
        folder.write_json(self._journal, data)

    def _read_journal(self) -> None:
        try:
            data = json.loads(self._journal.read_bytes())
            for name, marks in data.items():
                run_id, _, number = name.partition(".a")
                if folder.is_run_id(run_id):
                    self._marks[run_id, int(number)] = {
                        key: (int(inode), int(offset)) for key, (inode, offset) in marks.items() if key in STREAMS
                    }
        except (OSError, ValueError, TypeError, AttributeError):
            self._marks = {}  # everything is fetched again, to the same places
        for attempt in list(self._marks):
            where = self.folder_of(attempt)
            for name, (_, offset) in list(self._marks[attempt].items()):
                try:
                    short = (where / name).stat().st_size < min(offset, LARGEST_BYTES[name])
                except OSError:
                    short = True
                if short:
                    del self._marks[attempt][name]

    def forget(self, attempts: Iterable[Attempt]) -> None:
        """Drop what is remembered of attempts that are over or gone."""
        for attempt in attempts:
            self._marks.pop(attempt, None)


def write_remote(attempt_folder: Path, state: Mapping[str, Any]) -> None:
    """What is known of an attempt elsewhere; `rundir.state_of` reads it."""
    folder.write_atomic(attempt_folder / rundir.REMOTE, (json.dumps(dict(state), sort_keys=True) + "\n").encode())
