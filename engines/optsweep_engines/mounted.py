"""A bucket as a node sees it through a mount: whole files only, no locks, no appends, names that say what belongs together.

A mount of that kind shows what others write some seconds late and promises neither O_EXCL nor flock. So every file here is
written once, or (the lease) over and over by one writer; streams grow by numbered parts. Stdlib only.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from optsweep_engines import folder

STREAMS = (folder.METRICS, folder.EVENTS, folder.LOG)
PART_BYTES = 4 << 20
"""Largest part of a stream."""
PART = re.compile(r"(metrics\.jsonl|events\.jsonl|log\.txt)\.([0-9]{13})\.([1-9][0-9]{0,6})")
"""STREAM.OFFSET.SIZE: offset of the part's first byte in the stream, and its length; a part that is shorter is not whole yet."""
MARK = "optsweep.json"
"""In the storage's root, from the controller: what has it not is not our storage."""
CARRIED = "carried"
"""In an exit.json of a storage: stream -> its bytes, and whether there is a record. Some mounts send files in any order."""
BID = re.compile(r"bid\.([A-Za-z0-9_.-]{1,120})")
_NO_RENAME = (errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL, errno.EIO)


def put(path: Path, data: bytes) -> None:
    """Write a whole file: by a rename where the mount can do that, else by one open and close (objects appear at the close)."""
    _put(path, lambda target: _write(target, data))


def _put(path: Path, write: Callable[[Path], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if error.errno not in _NO_RENAME:
            raise
        write(path)


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        with contextlib.suppress(OSError):  # some mounts cannot; they send the file at its close
            os.fsync(file.fileno())


def put_json(path: Path, data: Any) -> None:
    """`put` of one JSON document."""
    put(path, (json.dumps(data, sort_keys=True, allow_nan=False) + "\n").encode())


def put_file(path: Path, source: Path) -> None:
    """`put` of a large file."""
    _put(path, lambda target: shutil.copyfile(source, target))


def read_table(path: Path) -> dict[str, Any] | None:
    """The table in a small file; None where there is none, or not yet a whole one."""
    try:
        data = folder.read_json(path)
    except (ValueError, OSError):
        return None
    return data if isinstance(data, dict) else None


def parts(names: Iterable[str], stream: str) -> list[tuple[int, int, str]]:
    """(offset, size, name) of the parts of a stream among file names, in order."""
    found = []
    for name in names:
        match = PART.fullmatch(name)
        if match and match.group(1) == stream and 0 < int(match.group(3)) <= PART_BYTES:
            found.append((int(match.group(2)), int(match.group(3)), name))
    return sorted(found)


def part_name(stream: str, offset: int, size: int) -> str:
    """Name of a part."""
    return f"{stream}.{offset:013d}.{size}"


def slug(job: str) -> str:
    """A scheduler's name of a job as part of a file name."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", job)[:120] or "_"
