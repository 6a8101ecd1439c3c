"""Shards in the making: tokens are appended, a line says when they are safe on disk; after a kill the last true line counts."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from optsweep_engines import shards
from optsweep_tui.errors import OptsweepError
from optsweep_tui.preparing import worker
from optsweep_tui.preparing.readers import Batch, Source
from optsweep_tui.preparing.worker import Encoded, Outermost

SAFE_SECONDS, SAFE_BYTES = 1.0, 256 << 20
"""What a kill costs at most: so much time, or so many bytes of tokens."""
_COPY_BYTES = 1 << 22


@dataclass(frozen=True, kw_only=True)
class State:
    """How far a corpus is, and what came of it."""

    after: dict[str, Any] | None = None
    """Where reading goes on; None: at the beginning."""
    identity: str = ""
    done: int = 0
    """Bytes of the corpus."""
    train: int = 0
    """Bytes of train.bin."""
    validation: int = 0
    documents: int = 0
    held_out: int = 0
    empty: int = 0
    lowest: Outermost = None
    """While nothing is held out: the documents of the smallest hash, which are if it stays so."""
    highest: Outermost = None
    """While everything is held out: the documents of the largest."""


class Journal:
    """A folder with both splits, and how far they are."""

    def __init__(self, folder: Path, width: int) -> None:
        """Take the folder; `held` makes sure that it is nobody else's.

        Args:
            width: bytes of a token.
        """
        self.folder, self._width = folder, width
        self.state = State()
        self._lines = folder / "journal.jsonl"
        self._files: dict[str, BinaryIO] = {}
        self._safe = time.monotonic(), 0

    def resume(self, source: Source) -> State:
        """Go back to the last line whose tokens are here and whose input is what it was; the beginning where there is none."""
        found = State()
        sizes = [
            path.stat().st_size if (path := self.folder / f"{split}.bin").exists() else 0 for split in shards.SPLITS
        ]
        kept = []
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            for line in self._lines.read_text().splitlines():
                state = State(**json.loads(line))
                if not state.after or state.train > sizes[0] or state.validation > sizes[1]:
                    break
                if not source.unchanged(state.after, state.identity):
                    break
                kept.append(line)
                found = state
        self._lines.write_text("".join(f"{line}\n" for line in kept))
        for split, size in zip(shards.SPLITS, (found.train, found.validation), strict=True):
            path = self.folder / f"{split}.bin"
            path.touch()
            os.truncate(path, size)
            self._files[split] = open(path, "ab")  # noqa: SIM115 (closed by `close`)
        self.state = found
        return found

    def add(self, batch: Batch, tokens: Encoded) -> None:
        """Append a batch; from time to time all of it is made safe."""
        state = self.state
        self._files["train"].write(tokens.train)
        self._files["validation"].write(tokens.validation)
        train, validation = state.train + len(tokens.train), state.validation + len(tokens.validation)
        lowest = worker.outermost(state.lowest, self._moved(tokens.lowest, state.train), min)
        highest = worker.outermost(state.highest, self._moved(tokens.highest, state.validation), max)
        self.state = State(
            after=batch.after,
            identity=batch.identity,
            done=batch.done,
            train=train,
            validation=validation,
            documents=state.documents + tokens.documents,
            held_out=state.held_out + tokens.held_out,
            empty=state.empty + tokens.empty,
            lowest=None if validation else _joined(lowest),
            highest=None if train else _joined(highest),
        )
        then, size = self._safe
        if time.monotonic() - then > SAFE_SECONDS or train + validation - size > SAFE_BYTES:
            self.make_safe()

    def _moved(self, one: Outermost, before: int) -> Outermost:
        return one and (one[0], [[start + before // self._width, count] for start, count in one[1]])

    def make_safe(self) -> None:
        """Everything so far to the disk, then the line that says so."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        with open(self._lines, "a", encoding="utf-8") as lines:
            lines.write(json.dumps(dataclasses.asdict(self.state)) + "\n")
            lines.flush()
            os.fsync(lines.fileno())
        self._safe = time.monotonic(), self.state.train + self.state.validation

    def keep_or_drop(self) -> None:
        """After a failure: what was done is made safe for the next call; where nothing was, the folder goes."""
        with contextlib.suppress(OSError):
            if self.state.after is None:
                shutil.rmtree(self.folder, ignore_errors=True)
            elif self._files:
                self.make_safe()

    def close(self) -> None:
        """Let go of the files; what a full disk does not take is not safe, and is made again."""
        for file in self._files.values():
            with contextlib.suppress(OSError):
                file.close()
        self._files = {}

    # ------------------------------------------------------------ the end

    def split(self, share: float, by_position: bool) -> tuple[int, int]:
        """Have something in both splits; returns their tokens.

        One text is cut at a place; where no document is held out by its hash, the one of the smallest hash is.

        Raises:
            OptsweepError: there are fewer than two tokens.
        """
        self.close()
        state, width = self.state, self._width
        total = (state.train + state.validation) // width
        if total == 0:
            raise OptsweepError("the corpus is empty: no document has a character", "name another with --from PATH")
        if total < 2:
            raise OptsweepError("the corpus has one token, too few to hold one out", "name another with --from PATH")
        if not (state.train and state.validation):
            outermost = state.lowest or state.highest
            alone = outermost is None or sum(count for _, count in outermost[1]) == total
            if by_position or state.documents == 1 or outermost is None or alone:
                self._cut(min(max(1, round(share * total)), total - 1), swapped=not state.train)
            else:
                self._take(*(("train", "validation") if state.train else ("validation", "train")), outermost[1])
        sizes = [(self.folder / f"{split}.bin").stat().st_size // width for split in shards.SPLITS]
        return sizes[0], sizes[1]

    def _cut(self, tokens: int, *, swapped: bool) -> None:
        """The last tokens of the one split to the other; a kill in between leaves what an earlier line says."""
        train, validation = (self.folder / f"{split}.bin" for split in shards.SPLITS)
        if swapped:
            os.replace(validation, train)
        keep = train.stat().st_size - tokens * self._width
        with open(train, "rb") as source, open(validation, "wb") as target:
            _copy(source, target, keep, tokens * self._width)
            target.flush()
            os.fsync(target.fileno())
        os.truncate(train, keep)

    def _take(self, origin: str, target: str, places: list[list[int]]) -> None:
        """Some places of one split to the other, by new files: the lines no longer hold, so they go first."""
        self._lines.unlink(missing_ok=True)
        width = self._width
        old, new = self.folder / f"{origin}.bin", self.folder / f"{origin}.new"
        with open(old, "rb") as source, open(new, "wb") as rest, open(self.folder / f"{target}.bin", "ab") as taken:
            at = 0
            for start, count in places:
                _copy(source, rest, at, start * width - at)
                _copy(source, taken, start * width, count * width)
                at = (start + count) * width
            _copy(source, rest, at, old.stat().st_size - at)
        os.replace(new, old)


def _joined(one: Outermost) -> Outermost:
    """Neighbouring places as one."""
    if one is None:
        return None
    places = [list(one[1][0])]
    for start, count in one[1][1:]:
        if start == sum(places[-1]):
            places[-1][1] += count
        else:
            places.append([start, count])
    return one[0], places


def _copy(source: BinaryIO, target: BinaryIO, at: int, count: int) -> None:
    source.seek(at)
    while count > 0 and (piece := source.read(min(count, _COPY_BYTES))):
        target.write(piece)
        count -= len(piece)


# ---------------------------------------------------------------- whose folder it is


@contextlib.contextmanager
def held(folder: Path, name: str) -> Iterator[None]:
    """Keep a folder in the making for oneself.

    Raises:
        OptsweepError: another process has it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _locked(handle):
            raise OptsweepError(f"dataset {name} is being prepared by another process", "wait for it, or stop it")
        yield
    finally:
        os.close(handle)


def drop_others(root: Path, prefix: str, keep: Path) -> int:
    """Remove what was begun under the same name from something else and is nobody's; returns how many."""
    dropped = 0
    for folder in root.glob(f"{prefix}*"):
        if folder == keep or len(folder.name) != len(keep.name):
            continue
        with contextlib.suppress(OSError):
            handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if _locked(handle):
                    shutil.rmtree(folder, ignore_errors=True)
                    dropped += 1
            finally:
                os.close(handle)
    return dropped


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True
