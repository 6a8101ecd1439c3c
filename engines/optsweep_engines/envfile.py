"""The user's env file on a training machine: NAME=VALUE lines for the engine that nobody else may read; stdlib only."""

from __future__ import annotations

import re
import stat
from pathlib import Path

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,200}")


def read(path: str) -> dict[str, str]:
    """The variables of a file; a blank line or one with # in front says nothing.

    Raises:
        ValueError: others may read it, or a line is not NAME=VALUE.
        OSError: it cannot be read.
    """
    where = Path(path).expanduser()
    mode = where.stat().st_mode
    if not stat.S_ISREG(mode) or mode & 0o077:
        raise ValueError(f"env_file {where} can be read by others: chmod 600 {where}")
    found = {}
    for number, line in enumerate(where.read_text().splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, mark, value = text.removeprefix("export ").partition("=")
        if not mark or not _NAME.fullmatch(name):
            raise ValueError(f"env_file {where} line {number} is not NAME=VALUE")
        found[name] = value.strip().strip("\"'")
    return found
