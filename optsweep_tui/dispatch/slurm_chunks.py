"""Which runs were handed to Slurm together, and under which name: one small file per array, written before sbatch is called.

The name is what a submission is asked for by before it is ever repeated: `os-<plan>-<chunk>`, from the attempts in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from optsweep_engines import folder
from optsweep_tui.dispatch import links
from optsweep_tui.dispatch.mirror import Attempt
from optsweep_tui.settings import Workspace


@dataclass(kw_only=True)
class Chunk:
    """One array."""

    name: str
    """Of its job: os-<plan>-<chunk>."""
    partition: str | None
    """None: the cluster's default."""
    entries: list[str]
    """RUN.aN of each index."""
    job: str | None = None
    """The scheduler's id; None while it is not known whether the submission was taken."""
    tried_at: float = 0.0
    """Unix seconds of the last call of sbatch; 0 before the first."""
    tries: int = 0
    error: str = ""
    """What sbatch said when it did not give an id."""

    def __post_init__(self) -> None:
        if not isinstance(self.entries, list) or not all(_attempt(entry) for entry in self.entries):
            raise ValueError("entries that are no attempts")
        self._places = {attempt_of(entry): index for index, entry in enumerate(self.entries)}

    def index(self, attempt: Attempt) -> int:
        """Where an attempt is in it."""
        return self._places[attempt]

    @property
    def attempts(self) -> list[Attempt]:
        """Its entries."""
        return list(self._places)


def attempt_of(entry: str) -> Attempt:
    """RUN.aN as (run id, number)."""
    run_id, _, number = entry.partition(".a")
    return run_id, int(number)


def _attempt(entry: object) -> bool:
    run_id, _, number = str(entry).partition(".a")
    return folder.is_run_id(run_id) and number.isdigit()


def named(attempts: Sequence[Attempt], partition: str | None, size: int, owner: str = "") -> list[Chunk]:
    """Attempts in arrays of at most `size`; the same attempts of the same owner get the same names, whoever asks.

    `owner`: the workspace. The same runs of another one are another submission: only their claims are shared.
    """
    entries = [f"{run_id}.a{number}" for run_id, number in attempts]
    plan = hashlib.sha256("\n".join([owner, *entries]).encode()).hexdigest()[:10]
    return [
        Chunk(name=f"os-{plan}-{place}", partition=partition, entries=entries[start : start + size])
        for place, start in enumerate(range(0, len(entries), size))
    ]


class Chunks:
    """The chunk files of one host."""

    def __init__(self, workspace: Workspace, host: str) -> None:
        self._folder = links.folder_of(workspace, host) / "chunks"
        self._known: dict[str, Chunk] = {}
        self._stamp = 0
        self._of: dict[Attempt, Chunk] = {}

    def read(self) -> None:
        """Take up what another process has written; free while the folder has not changed."""
        try:
            stamp = self._folder.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if stamp == self._stamp:
            return
        self._stamp = stamp
        names = {
            name.removesuffix(".json") for name in os.listdir(self._folder) if name.endswith(".json") and name[0] != "."
        }
        for name in set(self._known) - names:
            self._drop(name)
        for name in names - set(self._known):
            with contextlib.suppress(OSError, ValueError, TypeError):  # torn by a full disk: its attempts go out anew
                self._take(Chunk(**json.loads((self._folder / f"{name}.json").read_bytes())))

    def _take(self, chunk: Chunk) -> None:
        self._known[chunk.name] = chunk
        self._of |= dict.fromkeys(chunk.attempts, chunk)

    def _drop(self, name: str) -> None:
        chunk = self._known.pop(name)
        for attempt in chunk.attempts:
            if self._of.get(attempt) is chunk:
                del self._of[attempt]

    def all(self) -> list[Chunk]:
        """Every chunk, by name."""
        return [self._known[name] for name in sorted(self._known)]

    def of(self, attempt: Attempt) -> Chunk | None:
        """The chunk that an attempt went out in."""
        return self._of.get(attempt)

    def adopt(self, attempt: Attempt, chunk: Chunk) -> None:
        """An attempt that a task of this chunk has opened itself, after a requeue."""
        self._of[attempt] = chunk

    def save(self, chunk: Chunk) -> None:
        """Write it, durably."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.write_json(self._path(chunk), asdict(chunk))
        self._take(chunk)

    def remove(self, chunk: Chunk) -> None:
        """It is over, or was never taken."""
        self._path(chunk).unlink(missing_ok=True)
        if chunk.name in self._known:
            self._drop(chunk.name)

    def _path(self, chunk: Chunk) -> Path:
        return self._folder / f"{chunk.name}.json"
