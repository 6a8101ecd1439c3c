"""Where certificates lie: one JSON file each in the workspace's folder `certificates`, named by kind, time and content."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from optsweep_engines import folder
from optsweep_tui.settings import Workspace


def where(workspace: Workspace) -> Path:
    """The folder, made if need be."""
    found = workspace.ensure().root / "certificates"
    found.mkdir(mode=0o700, exist_ok=True)
    return found


def keep(workspace: Workspace, kind: str, name: str, certificate: dict[str, Any]) -> Path:
    """Write a certificate; returns its file."""
    now = datetime.datetime.now(datetime.UTC)
    path = where(workspace) / f"{kind}-{now:%Y%m%dT%H%M%S%f}Z-{name}.json"
    folder.write_json(path, {"kind": kind, "made_at": now.isoformat(timespec="seconds"), **certificate})
    return path


def listed(workspace: Workspace) -> list[dict[str, Any]]:
    """Every certificate of the workspace, oldest first, with its file."""
    found = sorted((workspace.root / "certificates").glob("*.json"), key=lambda path: path.name.split("-", 2)[1:])
    return [{**json.loads(path.read_text(encoding="utf-8")), "file": str(path)} for path in found]
