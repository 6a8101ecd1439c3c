"""A disk of a few megabytes that a test may fill: a tmpfs over a folder, where this user may mount one."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


class SmallDisk:
    """A mounted folder that can be filled to the last block, and freed again."""

    def __init__(self, folder: Path) -> None:
        self._filler = folder / ".filler"

    def fill(self) -> None:
        """Leave no block free."""
        with (
            contextlib.suppress(OSError),
            open(self._filler, "ab", buffering=0) as file,
        ):  # a buffer would fail once more
            while True:
                file.write(bytes(1 << 16))

    def free(self) -> None:
        """Give the blocks back."""
        self._filler.unlink(missing_ok=True)


@contextlib.contextmanager
def mounted(folder: Path, size: str) -> Iterator[SmallDisk | None]:
    """Mount one of a size ("8m", "256k") over an empty folder; None where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "none", str(folder)]
    try:
        allowed = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        allowed = False
    try:
        yield SmallDisk(folder) if allowed else None
    finally:
        if allowed:
            subprocess.run(["umount", "-l", str(folder)], check=False)


@contextlib.contextmanager
def required(folder: Path, size: str) -> Iterator[Path]:
    """The same for a test that is nothing without one: it is skipped where none can be mounted."""
    with mounted(folder, size) as disk:
        if disk is None:
            pytest.skip("a tmpfs cannot be mounted here")
        yield folder
