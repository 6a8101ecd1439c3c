"""studies/<name>.json: the rules and runs of each study launched here; <name>.<random>.plan while its runs are being planted."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from optsweep_engines import folder
from optsweep_tui.core import RunSpec, Study


def rules_of(study: Study) -> dict[str, Any]:
    """What is remembered of a study beside its runs."""
    rule = dataclasses.asdict(study.fresh_seeds) if study.fresh_seeds else None
    return {"name": study.name, "baseline": study.baseline, "fresh_seeds": rule}


def remember(folder_of_studies: Path, rules: Mapping[str, Any], run_ids: Iterable[str]) -> None:
    """studies/<name>.json: the rules of a study and every run planned for it, for `resume` and the app."""
    path = folder_of_studies / f"{rules['name']}.json"
    before = _read(path)
    before = before if _sound(before) else {}
    runs = list(dict.fromkeys([*before.get("runs", []), *run_ids]))
    data = {**rules, "fresh_seeds": rules["fresh_seeds"] or before.get("fresh_seeds"), "runs": runs}
    if data != before:
        folder.write_json(path, data)


def intend(folder_of_studies: Path, rules: Mapping[str, Any], specs: Iterable[RunSpec]) -> Path:
    """One file with all that is about to be planted, so that whoever dies in between leaves the whole sweep behind."""
    path = folder_of_studies / f"{rules['name']}.{os.urandom(4).hex()}.plan"  # of two at once, each has its own
    folder.write_json(path, {**rules, "specs": [spec.to_dict() for spec in specs]})
    return path


def intended(folder_of_studies: Path) -> Iterator[tuple[Path, dict[str, Any], list[RunSpec]]]:
    """(file, rules, specs) of each planting that has begun and not ended; a damaged file is passed over."""
    for path in sorted(folder_of_studies.glob("*.plan")):
        data = _read(path)
        try:
            specs = [RunSpec.from_dict(spec) for spec in data.pop("specs")]
        except (KeyError, TypeError, ValueError):
            continue
        if _sound({**data, "runs": []}) and "baseline" in data:
            yield path, data, specs


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
