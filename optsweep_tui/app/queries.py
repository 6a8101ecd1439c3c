"""Queries that a user has saved: files of SQL in the workspace's `queries` folder, one per name."""

from __future__ import annotations

import re
from pathlib import Path

from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace

LARGEST_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,60}")


def folder_of(workspace: Workspace) -> Path:
    """Where they are."""
    return workspace.root / "queries"


def saved(workspace: Workspace) -> dict[str, str]:
    """Name -> query, by name; what cannot be read is left out."""
    found = {}
    try:
        paths = sorted(folder_of(workspace).glob("*.sql"))
    except OSError:
        return {}
    for path in paths:
        try:
            if path.stat().st_size <= LARGEST_BYTES:
                found[path.stem] = path.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            continue
    return found


def checked(workspace: Workspace, name: str, query: str) -> str:
    """A line about a name that can be used.

    Raises:
        OptsweepError: it is no name of a file, or holds another query already.
    """
    name = name.strip()
    if not _NAME.fullmatch(name):
        raise OptsweepError(f'"{name}" is no name for a query', "letters, digits, blank, dot, dash, underscore")
    known = saved(workspace).get(name)
    if known is not None and known != query.strip():
        raise OptsweepError(f"{name} holds another query already", "choose another name")
    return f"{folder_of(workspace).name}/{name}.sql"


def save(workspace: Workspace, name: str, query: str) -> Path:
    """Write a query under a name; never over another one.

    Raises:
        OptsweepError: as `checked`, or the workspace cannot be written.
    """
    checked(workspace, name, query)
    path = folder_of(workspace) / f"{name.strip()}.sql"
    try:
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            with open(path, "x", encoding="utf-8") as target:
                target.write(query.strip() + "\n")
    except OSError as error:
        raise OptsweepError(
            f"{path} cannot be written: {error.strerror}", "free some room or mend its rights"
        ) from None
    return path
