"""Weights & Biases: `optsweep import wandb PATH` reads run folders (their run-ID.wandb logs) and exported tables and histories.

A run is done when its log says that it exited well; one that crashed, was killed or still runs is `failed`, whatever its
last loss. A folder without a log has its configuration and summary only. Nothing is asked of any server.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from optsweep_tui.errors import OptsweepError
from optsweep_tui.formats import wandblog, wire
from optsweep_tui.importers import mapping as mappings
from optsweep_tui.importers import wandb_exports
from optsweep_tui.importers.curves import MAX_KEYS, Curves
from optsweep_tui.importers.documents import read_document, read_yaml
from optsweep_tui.importers.logged import STEPS, LoggedRun, add_all, flat
from optsweep_tui.importers.protocol import Complaints, Found, Request, opened, required_path

LOG = re.compile(r"run-(.+)\.wandb")
SUMMARY, CONFIG = "wandb-summary.json", "config.yaml"
UNENDED = "its log has no end: it crashed, was killed, or still runs"
_MAX_NUMBER = 64
"""Characters of a value that can be a number; what is longer is a table, a histogram or a text."""


class WandbImporter:
    """Reads what their client leaves on disk, and what their server exports."""

    name = "wandb"
    doc = "Weights & Biases: folders of (offline) runs, or an exported table or history (.csv, .parquet, .jsonl)"

    def read(self, request: Request) -> Found:
        """One run per run id.

        Raises:
            OptsweepError: nothing of it lies there, or the mapping cannot be used.
        """
        path = required_path(request, self.name)
        said = mappings.load(request.mapping)
        found = Found()
        if path.suffix.lower() in wandb_exports.SUFFIXES:
            study = request.study or said.study or path.stem
            add_all(found, wandb_exports.read(path, said, found), said, self.name, study)
            return found
        study = request.study or said.study or self.name
        runs = _runs(path, found)
        if not runs:
            raise OptsweepError(
                f"{path}: no run of Weights & Biases lies in it",
                f"name the folder that holds offline-run-... folders, or a {', '.join(wandb_exports.SUFFIXES)} file",
            )
        logs = (_logged(run_id, places, path, said, found) for run_id, places in runs.items())
        add_all(found, (log for log in logs if log is not None), said, self.name, study)
        return found


def _runs(path: Path, found: Found) -> dict[str, list[Path]]:
    """Run id -> its logs in the order of their folders' names, which begin with the time; or its one `files` folder."""
    if path.is_file():
        match = LOG.fullmatch(path.name)
        return {match.group(1) if match else path.stem: [path]} if path.suffix == ".wandb" else {}
    logs: dict[str, list[Path]] = {}
    bare: dict[str, list[Path]] = {}

    def complain(error: OSError) -> None:
        found.skip(str(error.filename), f"cannot be read: {error.strerror}")

    for folder, names, files in os.walk(path, onerror=complain):
        names.sort()
        for name in sorted(files):
            match = LOG.fullmatch(name)
            if match and not os.path.islink(os.path.join(folder, name)):
                logs.setdefault(match.group(1), []).append(Path(folder, name))
        if os.path.basename(folder) == "files" and (SUMMARY in files or CONFIG in files):
            bare.setdefault(Path(folder).parent.name.rpartition("-")[2], []).append(Path(folder))
    return logs | {run_id: places[-1:] for run_id, places in bare.items() if run_id not in logs}


def _logged(
    run_id: str, places: list[Path], root: Path, said: mappings.ColumnMapping, found: Found
) -> LoggedRun | None:
    """One run, from every log of its id (a run that was resumed has several)."""
    inside = [place.relative_to(root).as_posix() if place != root else place.name for place in places]
    log = LoggedRun(entry=run_id, names=(*inside, run_id), where=str(places[-1]))
    log.curves = Curves(said.metrics.values())
    log.source = {"run": run_id, "file": inside[-1]}
    for place in places:
        try:
            if place.is_dir():
                _read_files(place, log, found)
            else:
                _read_log(place, log, said, found)
        except OSError as error:
            found.skip(str(place), f"cannot be read: {error.strerror}")
        except ValueError as error:
            found.skip(str(place), str(error))
            if place == places[-1]:
                return None
    return log


def _read_files(folder: Path, log: LoggedRun, found: Found) -> None:
    """config.yaml and wandb-summary.json of a run folder whose log is gone."""
    if (folder / CONFIG).is_file():
        config = read_yaml(folder / CONFIG, found.skip)
        for key, entry in config.items() if isinstance(config, Mapping) else ():
            value = entry.get("value") if isinstance(entry, Mapping) else None
            log.config |= flat({str(key): value}) if not str(key).startswith("_") else {}
    if (folder / SUMMARY).is_file():
        summary = read_document(folder / SUMMARY, found.skip)
        log.summary |= flat(summary) if isinstance(summary, Mapping) else {}


def _read_log(file: Path, log: LoggedRun, said: mappings.ColumnMapping, found: Found) -> None:
    """The records of one log.

    Raises:
        ValueError: it is no log.
    """
    log.ended, log.ending = False, UNENDED
    config: dict[str, str] = {}
    summary: dict[str, str] = {}
    complaints = Complaints(found, str(file))
    with opened(file) as handle:
        if handle.read(len(wandblog.HEADER)) != wandblog.HEADER:
            raise ValueError("it does not begin like a log of Weights & Biases")
        for record in wandblog.records(handle):
            try:
                if record.problem is not None:
                    raise ValueError(record.problem)
                kind, message = wandblog.parts_of(record.data)
                _take(kind, message, log, config, summary, said)
            except ValueError as error:
                complaints.add(f"byte {record.offset}: {error}" if record.problem is None else str(error))
    complaints.close()
    log.config |= flat({key: _json(text) for key, text in config.items()})
    log.summary |= flat({key: _json(text) for key, text in summary.items()})


def _take(
    kind: int,
    message: bytes,
    log: LoggedRun,
    config: dict[str, str],
    summary: dict[str, str],
    said: mappings.ColumnMapping,
) -> None:
    """One record into the run; texts stay JSON until the last one is known.

    Raises:
        ValueError: it is not what its kind says.
    """
    if kind == wandblog.HISTORY:
        _history(message, log, said)
    elif kind in (wandblog.SUMMARY, wandblog.CONFIG):
        target = summary if kind == wandblog.SUMMARY else config
        target.update({".".join(path): text for path, text in wandblog.items(message)})
        for path, _ in wandblog.items(message, 2):
            target.pop(".".join(path), None)
    elif kind == wandblog.RUN:
        for number, _, value in wire.fields(message):
            if number == 4:
                config.update({".".join(path): text for path, text in wandblog.items(wire.message(value))})
            elif number == 8:
                log.names = (*log.names, wire.text(value))
                log.source["name"] = wire.text(value)[:200]
    elif kind == wandblog.EXIT:
        code = next((wire.signed(wire.whole(value)) for number, _, value in wire.fields(message) if number == 1), 0)
        log.ended = code == 0
        log.ending = f"it exited with status {code}"


def _history(message: bytes, log: LoggedRun, said: mappings.ColumnMapping) -> None:
    """One line of a history: its step is that which the trainer counts, where it does."""
    values = {}
    for path, text in wandblog.items(message):
        number = _number(text)
        if number is not None:
            values[".".join(path)] = number
        elif len(log.others) < MAX_KEYS and text != "null":
            log.others[path[0]] = None
    step = step_of(values, said)
    if step is None and said.metrics.get("step") is None:
        inner = next((wire.message(value) for number, _, value in wire.fields(message) if number == 2), b"")
        step = next((wire.signed(wire.whole(value)) for number, _, value in wire.fields(inner) if number == 1), 0)
    for key, number in values.items():
        if step is not None and key not in ("_step", "_timestamp"):
            log.curves.add(step, "wall_seconds" if key == "_runtime" else key, number)


def step_of(values: Mapping[str, float], said: mappings.ColumnMapping) -> int | None:
    """The step of a line: what [metrics] calls `step`, else a trainer's own count, else `_step`; None without."""
    wanted = said.metrics.get("step")
    for name in (wanted,) if wanted is not None else (*STEPS, "_step"):
        value = values.get(name)
        if value is not None and math.isfinite(value) and value.is_integer():
            return int(value)
    return None


def _number(text: str) -> float | None:
    """A number, NaN and infinities too; None for anything else."""
    if len(text) > _MAX_NUMBER:
        return None
    if text[-1:].isdigit() and text[:1] in "-0123456789":  # the usual case, without a parser
        try:
            return float(text)
        except ValueError:
            pass
    value = _json(text)
    if isinstance(value, str) and value in ("NaN", "Infinity", "-Infinity"):  # how their client spells it in JSON
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _json(text: str) -> Any:
    """The value; None for what is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def logs_in(path: Path) -> Iterator[Path]:
    """Every log below a folder, for whoever checks what was written there."""
    for places in _runs(path, Found()).values():
        yield from places
