"""The engines' own program text: every file, and one hash over all, which each run's record carries as its `code`."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

VERSION = "code"
"""Key of the hash among the versions of a record."""


def files() -> dict[str, bytes]:
    """Path inside the package, with forward slashes -> content of every Python file, in the order of the paths."""
    root = Path(__file__).parent
    found = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py") if "__pycache__" not in path.parts}
    return {name: found[name].read_bytes() for name in sorted(found)}


def digest_of(contents: Mapping[str, bytes]) -> str:
    """sha256 over names and contents."""
    total = hashlib.sha256()
    for name in sorted(contents):
        total.update(f"{name} {len(contents[name])}\n".encode())
        total.update(contents[name])
    return total.hexdigest()


@functools.cache
def digest() -> str:
    """The hash of what is installed here, taken once in the life of a process: what it runs does not change later."""
    return digest_of(files())
