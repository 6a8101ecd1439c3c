"""studies/<name>.json: the rules of each study that was launched here and every run planned for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from optsweep_engines import folder
from optsweep_tui.core import Study


def remember(folder_of_studies: Path, study: Study, run_ids: Iterable[str]) -> None:
    """studies/<name>.json: the rules of a study and every run planned for it, for `resume` and the app."""
    path = folder_of_studies / f"{study.name}.json"
    before = _read(path)
    before = before if _sound(before) else {}
    runs = list(dict.fromkeys([*before.get("runs", []), *run_ids]))
    rule = dataclasses.asdict(study.fresh_seeds) if study.fresh_seeds else before.get("fresh_seeds")
    data = {"name": study.name, "baseline": study.baseline, "fresh_seeds": rule, "runs": runs}
    if data != before:
        folder.write_json(path, data)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = folder.read_json(path)
    except (ValueError, OSError):
        return {}
    return data if isinstance(data, dict) else {}


def listed(folder_of_studies: Path) -> list[dict[str, Any]]:
    """The studies launched here: name, baseline, fresh_seeds, runs (ids in plan order)."""
    if not folder_of_studies.is_dir():
        return []
    found = [_read(path) for path in sorted(folder_of_studies.glob("*.json"))]
    return [data for data in found if _sound(data)]


def _sound(data: dict[str, Any]) -> bool:
    """A study file that can be used: damaged ones are passed over, their runs are still in the run folders."""
    runs, rule = data.get("runs"), data.get("fresh_seeds")
    return (
        isinstance(data.get("name"), str)
        and isinstance(runs, list)
        and all(isinstance(run, str) and folder.is_run_id(run) for run in runs)
        and (rule is None or (isinstance(rule, dict) and {"optimizer", "count"} <= set(rule)))
    )
