"""`--diagnostics full,layers,./mine.py:name` read, and kept in the run folders for the engines; no part of a run's id."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from optsweep_engines import diagnostics, folder
from optsweep_engines.optimizers import user
from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.settings import Workspace

PARTS = (diagnostics.FULL, diagnostics.LAYERS)
USUAL = {"step", "tokens", "train_seconds", "train_loss", "val_loss", "lr", "grad_norm", "grad_norm_max"}
"""Keys of every run's metric lines."""
VAL_LOSS = "val_loss/"
"""What the validation losses by set begin with."""
TAIL_BYTES = 1 << 16
FORM = "write --diagnostics full, full,layers or full,./mine.py:name"


def parsed(text: str | None) -> dict[str, Any] | None:
    """What was asked for, as the run folders keep it; None for nothing beyond what every run tells.

    Raises:
        OptsweepError: an unknown part, or a file that cannot be read or holds no such function.
    """
    if text is None or text.strip() in ("", "basic"):
        return None
    parts, own = [], []
    for part in (each.strip() for each in text.split(",")):
        reference = user.split_reference(part)
        if reference is not None:
            own.append(_own(part, *reference))
        elif part in PARTS:
            parts.append(part)
        else:
            raise UnknownName("part", part, PARTS, "--diagnostics", f"({FORM})")
    return {"parts": sorted({*parts, diagnostics.FULL}), "own": own}


def _own(part: str, path: str, name: str | None) -> dict[str, str]:
    if name is None:
        raise OptsweepError(f'--diagnostics "{part}" names no function', f"write {part}:name")
    try:
        source = user.read(Path(path).expanduser(), path)
        item = {"label": Path(path).name, "name": name, "content": source.content.decode("utf-8")}
        diagnostics.loaded(item)
    except (user.OwnOptimizerError, UnicodeDecodeError) as error:
        raise OptsweepError(f"--diagnostics: {error}", getattr(error, "hint", "") or FORM) from None
    return item


def keep(workspace: Workspace, run_ids: Iterable[str], asked: dict[str, Any]) -> None:
    """Write it into the run folders: every attempt that begins from now on does as it says.

    Raises:
        OptsweepError: a folder cannot be written.
    """
    for run_id in run_ids:
        try:
            folder.write_json(workspace.runs / run_id / folder.DIAGNOSTICS, asked)
        except OSError as error:
            raise OptsweepError(f"{workspace.runs / run_id} cannot be written: {error.strerror}", FORM) from None


def last(attempt_folder: Path) -> tuple[int, dict[str, float | None]]:
    """(step, statistics by key) of the last whole metric line that has any; (0, {}) without one."""
    try:
        with open(attempt_folder / folder.METRICS, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return 0, {}
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        found = {key: value for key, value in row.items() if key not in USUAL and not key.startswith(VAL_LOSS)}
        if found:
            return int(row.get("step", 0)), found
    return 0, {}
