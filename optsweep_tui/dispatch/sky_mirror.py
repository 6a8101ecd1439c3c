"""The workspace's copy of an attempt that a cloud node writes into the storage: whole parts at their offsets, then the end."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from optsweep_engines import folder, mounted
from optsweep_tui.dispatch.mirror import LARGEST_BYTES, Attempt, Mirror
from optsweep_tui.dispatch.sky_storage import Item, Storage, attempt_file

ROUND_BYTES = 64 << 20
"""Of one attempt in one round, so that the others have their turn."""


class SkyMirror(Mirror):
    """What is here says by its length how far it has come: no offsets have to be remembered."""

    def __init__(self, runs: Path, journal: Path, storage: Storage, host: str) -> None:
        super().__init__(runs, journal, host)
        self._storage = storage

    def bring(self, attempt: Attempt, files: Mapping[str, Item]) -> bool:
        """Fetch parts that are not here yet; False while some are missing, torn, or left for the next round.

        Raises:
            Unreachable, OptsweepError: the storage. OSError: the disk here.
        """
        whole, left = True, ROUND_BYTES
        for stream in mounted.STREAMS:
            path = self.folder_of(attempt) / stream
            have = path.stat().st_size if path.exists() else 0
            for offset, size, name in mounted.parts(files, stream):
                end = offset + size
                if end <= have or have >= LARGEST_BYTES[stream]:
                    continue
                if offset > have or left <= 0:
                    whole = False
                    break
                data = self._storage.part(*attempt, name, size)
                if data is None:
                    whole = False
                    break
                _write_at(path, data[: max(0, LARGEST_BYTES[stream] - offset)], offset)
                have, left = end, left - size
        return whole

    def ended(self, attempt: Attempt, files: Mapping[str, Item], *, late: bool = False) -> bool:
        """Write record and exit.json of an attempt; False where exit.json is not whole, or what it names is not all here.

        Args:
            late: what is missing has been waited for long enough.
        """
        ending = self._text(attempt, folder.EXIT)
        if ending is None or not ending.endswith("\n") or (not late and self._lacking(attempt, files, ending)):
            return False
        record = self._text(attempt, folder.RECORD) or "" if folder.RECORD in files else None
        return self.end(attempt, {folder.EXIT: ending, folder.RECORD: record})

    def _lacking(self, attempt: Attempt, files: Mapping[str, Item], ending: str) -> bool:
        """Whether the node has written more than is here."""
        try:
            carried = json.loads(ending)[mounted.CARRIED]
            recorded, sizes = carried[folder.RECORD] is True, {name: int(carried[name]) for name in mounted.STREAMS}
        except (ValueError, KeyError, TypeError, RecursionError):
            return False  # ended by somebody else, or no such file
        for name, size in sizes.items():
            path = self.folder_of(attempt) / name
            if (path.stat().st_size if path.exists() else 0) < min(size, LARGEST_BYTES[name]):
                return True
        return recorded and folder.RECORD not in files

    def _text(self, attempt: Attempt, name: str) -> str | None:
        data = self._storage.read(attempt_file(*attempt, name))
        return None if data is None else data.decode(errors="replace")


def _write_at(path: Path, data: bytes, offset: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        rest, place = memoryview(data), offset
        while rest:
            written = os.pwrite(handle, rest, place)
            rest, place = rest[written:], place + written
        os.fsync(handle)  # its length is what says that it is here
    finally:
        os.close(handle)
