"""What DuckDB and the system say about the store, as one line for the user with a next step."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import duckdb

from optsweep_tui.errors import OptsweepError

REBUILD = "optsweep collect --rebuild makes a new one from the run folders and keeps this file beside it"


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn what DuckDB and the system say about the file into one line for the user, led by the file's name."""
    try:
        yield
    except (duckdb.Error, RuntimeError) as error:
        # What DuckDB makes of Ctrl-C, by the place where it notices it.
        if "KeyboardInterrupt" in str(error) or str(error) == "Query interrupted":
            raise KeyboardInterrupt from None
        if not isinstance(error, duckdb.Error):
            raise
        raise _explained(path, str(error)) from error
    except OSError as error:
        raise _explained(path, os.strerror(error.errno) if error.errno else str(error)) from error


def about_the_file(error: duckdb.Error) -> bool:
    """It is the file that is wrong, not what was asked."""
    kinds = (duckdb.IOException, duckdb.SerializationException, duckdb.FatalException)
    return isinstance(error, kinds) or "Corrupt database file" in str(error)


def _explained(path: Path, message: str) -> OptsweepError:
    line = " ".join(message.split())
    if "No space left" in line or os.strerror(errno.EDQUOT) in line:
        return OptsweepError(f"{path}: the disk is full", "free some space and run: optsweep collect; nothing is lost")
    if "Permission denied" in line or "Read-only file system" in line:
        return OptsweepError(f"{path} cannot be written or read: {line}", "check permissions, or use --workspace DIR")
    if "Is a directory" in line:
        return OptsweepError(f"{path} is a folder, not a store", "move it away and run: optsweep collect")
    if ".parquet" in line and ("No files found" in line or "No such file" in line or "Cannot open file" in line):
        return OptsweepError(f"{path}: a file of its archive ({path.name}.archive) is missing: {line[:200]}", REBUILD)
    if "No such file" in line and path.parent.is_dir():
        return OptsweepError(f"no file can be made in {path.parent}", "take another folder")
    if "No such file" in line:
        return OptsweepError(f"{path.parent} is not there", "check --workspace DIR")
    if "Out of Memory" in line:
        return OptsweepError(f"{path}: the question needs more memory than it may use", "ask for fewer rows")
    if "version number" in line and "newer version" in line:
        return OptsweepError(
            f"{path} was written by a newer DuckDB than the {duckdb.__version__} installed here",
            f"pip install --upgrade duckdb; or {REBUILD}",
        )
    damaged = (
        "not a valid",
        "attempted to read",
        "FATAL",
        "Corrupt",
        "not read enough",
        "extension",
        "Serialization",
        "corrupt",
        "version number",
    )
    if any(word in line for word in damaged):
        return OptsweepError(f"{path} is not a DuckDB file or is damaged: {line[:200]}", REBUILD)
    return OptsweepError(f"{path}: {line[:300]}", "optsweep doctor looks closer")
