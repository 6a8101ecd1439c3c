"""The run folders as the controller sees them: planting specs, reading states, cancelling; truth of the whole program."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optsweep_engines import folder
from optsweep_engines.folder import (
    CANCEL,
    CHECKPOINTS,
    CLAIM,
    EVENTS,
    EXIT,
    INTENT,
    LEASE,
    LOG,
    METRICS,
    OPTIMIZER,
    RECORD,
    SPEC,
    STUDIES,
    attempts,
    is_run_id,
)
from optsweep_engines.metriclines import is_metric, last_metric
from optsweep_engines.spec import RunRecord, RunSpec
from optsweep_tui.errors import OptsweepError
from optsweep_tui.imported import ImportedRun

__all__ = [
    "CANCEL", "CHECKPOINTS", "CLAIM", "EVENTS", "EXIT", "FINISHED", "INTENT", "LEASE", "LOG", "METRICS", "ORIGIN", "RECORD",
    "REMOTE", "SPEC",
    "STATES", "STUDIES", "RunState", "attempts", "cancel", "cancel_all", "events", "find_run", "host_of", "is_imported",
    "is_run_id",
    "keep_optimizers", "last_metric", "metric_rows", "native_ids", "read_import", "read_spec", "remember_import", "remote",
    "run_ids",
    "state_of", "still_queued", "studies_of", "uncancel", "unwritable", "whole_lines", "write",
]  # fmt: skip

STATES = (
    "planned", "submitting", "queued", "running", "unreachable", "orphan", "lost", "done", "diverged", "failed", "oom",
    "cancelled", "nan", "missing",
)  # fmt: skip
"""Every state that a run can be shown in; "unreachable" is display only: no decision rests on it."""

REMOTE = "remote.json"
"""In an attempt that is elsewhere: what its machine last said of it ({"host", "state": submitting, queued or running,
"claim", "lease_age_seconds"}), for this machine cannot look at its lock."""

OPTIMIZERS = "optimizers"
"""Folder beside the runs: files of users' own optimizers, named by their hash."""

FINISHED = ("done", "diverged", "failed", "oom", "cancelled", "nan", "missing")
"""States that a run does not leave by itself; "nan" and "missing" are of imported runs only."""

FEW = 20
"""Files up to this many are synced one by one."""

ORIGIN = "origin.json"
"""All of an imported run but its curve, in the place of spec, markers and record: who published it, and how it ended."""


@dataclass(frozen=True, kw_only=True)
class RunState:
    """What the files of a run say about it now."""

    run_id: str
    state: str
    """planned, submitting, queued, running, orphan, lost, or one of FINISHED."""
    attempt: int
    """Number of the newest attempt; 0 before the first."""
    attempt_folder: Path | None
    record: RunRecord | None
    exit: dict[str, Any] | None
    """Body of exit.json of the newest attempt."""
    error: str | None
    """One line for a run that went wrong."""
    imported: ImportedRun | None = None
    """The run itself where it was imported; such a run has no record and never another attempt."""

    @property
    def finished(self) -> bool:
        return self.state in FINISHED


def run_ids(runs_root: Path) -> list[str]:
    """Ids of all run folders, sorted; empty where there is no such folder."""
    try:
        with os.scandir(runs_root) as entries:
            return sorted(entry.name for entry in entries if is_run_id(entry.name))
    except FileNotFoundError:
        return []


def is_imported(run_folder: Path) -> bool:
    """True for a run that was trained elsewhere: it is over, and nothing here may touch it."""
    return os.path.exists(f"{run_folder}/{ORIGIN}")


def native_ids(runs_root: Path) -> list[str]:
    """Ids of the runs that are trained here, sorted."""
    return [run_id for run_id in run_ids(runs_root) if not is_imported(runs_root / run_id)]


_imports: dict[str, tuple[tuple[int, int, int], ImportedRun]] = {}
"""Path of an origin.json -> (inode, size, time) when it was read, and what it held: a listing asks for it three times."""


def read_import(run_folder: Path) -> ImportedRun:
    """An imported run, without its curve; read again only when its file has changed.

    Raises:
        OptsweepError: its file is missing, not JSON, or not what was imported.
    """
    path = f"{run_folder}/{ORIGIN}"
    try:
        stat = os.stat(path)
        stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        known = _imports.get(path)
        if known is not None and known[0] == stamp:
            return known[1]
        run = ImportedRun.from_dict(folder.read_json(run_folder / ORIGIN))
        if run.run_id != run_folder.name:
            raise ValueError(f"it hashes to {run.run_id}, not to the name of its folder")
        _imports[path] = (stamp, run)
        return run
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise OptsweepError(
            f"{run_folder / ORIGIN} cannot be used: {error}", "import it again, or move that run folder away"
        ) from None


def remember_import(run_folder: str, run: ImportedRun) -> None:
    """What was just written needs no reading."""
    stat = os.stat(f"{run_folder}/{ORIGIN}")
    _imports[f"{run_folder}/{ORIGIN}"] = ((stat.st_ino, stat.st_size, stat.st_mtime_ns), run)


def write(runs_root: Path, specs: Iterable[RunSpec], study: str, *, durable: bool = True) -> list[Path]:
    """Plant spec.json and the study's marker for each spec; what is there already stays, unless it is an empty file.

    Args:
        durable: False: the caller syncs the disk after the last of them, and plants again what a crash cut short.

    Raises:
        OptsweepError: the folder cannot be written, or the disk is full.
    """
    planted = []
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    try:
        os.makedirs(runs_root, 0o700, exist_ok=True)
        for spec in specs:
            for name, sha256 in spec.datasets:
                if sha256 is None:
                    raise OptsweepError(f"dataset {name} is not prepared", "optsweep datasets lists what is")
            where = runs_root / spec.run_id
            place = str(where)  # strings below: ten thousand runs are planted at a time
            spec_file, marker = f"{place}/{SPEC}", f"{place}/{STUDIES}/{study}.json"
            if _written(spec_file) and _written(marker):
                planted.append(where)
                continue
            for made in (place, f"{place}/{STUDIES}"):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(made, 0o700)
            if spec.optimizer_file_hash is not None and not (where / OPTIMIZER).exists():
                folder.write_atomic(where / OPTIMIZER, _own_file(runs_root, spec.optimizer_file_hash))
            for path, data in ((spec_file, spec.to_dict()), (marker, {"study": study, "planned_at": now})):
                if not _written(path):
                    folder.write_json(path, data, durable=durable)
            planted.append(where)
    except OSError as error:
        raise unwritable(runs_root, error) from None
    return planted


def _written(path: str) -> bool:
    """Whether a file is there with something in it: after a power cut, a file that was never synced may be empty."""
    try:
        return os.stat(path).st_size > 0
    except OSError:
        return False


def keep_optimizers(runs_root: Path, contents: Mapping[str, bytes]) -> None:
    """Keep files of users' own optimizers by hash beside the run folders, for runs that are planted now or later.

    Raises:
        OptsweepError: the folder cannot be written, or the disk is full.
    """
    where = runs_root.parent / OPTIMIZERS
    try:
        for digest, content in contents.items():
            if not (where / f"{digest}.py").exists():
                where.mkdir(mode=0o700, parents=True, exist_ok=True)
                folder.write_atomic(where / f"{digest}.py", content)
    except OSError as error:
        raise unwritable(where, error) from None


def _own_file(runs_root: Path, digest: str) -> bytes:
    path = runs_root.parent / OPTIMIZERS / f"{digest}.py"
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise OptsweepError(
            f"{path} was changed: its content is no longer what its name says", "delete it and plan again"
        )
    return content


def unwritable(where: Path, error: OSError) -> OptsweepError:
    """What to say of a folder that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OptsweepError(
            f"{where}: the disk is full", "free some space and run the same command again; nothing is lost"
        )
    return OptsweepError(f"{where} cannot be written: {error.strerror}", "check its permissions or use --workspace DIR")


def read_spec(run_folder: Path) -> RunSpec:
    """The spec of a run that is trained here.

    Raises:
        OptsweepError: it is missing, not JSON, or not a spec; or the run was imported.
    """
    if is_imported(run_folder):
        raise OptsweepError(f"{run_folder.name} was imported, it is not trained here", "optsweep show RUN shows it")
    try:
        data = folder.read_json(run_folder / SPEC)
        if data is None and not (run_folder / SPEC).exists():
            hint = "run the same optsweep run again: it plants what is missing"
            raise OptsweepError(f"{run_folder / SPEC} is missing: planting was cut short, or is going on", hint)
        spec = RunSpec.from_dict(data or {})
        if run_folder.name != spec.run_id:
            raise ValueError(f"it hashes to {spec.run_id}, not to the name of its folder")
        return spec
    except (ValueError, TypeError, OSError) as error:
        raise OptsweepError(f"{run_folder / SPEC} cannot be used: {error}", "move that run folder away") from None


def studies_of(run_folder: Path) -> list[str]:
    """Names of the studies that a run belongs to, sorted."""
    if is_imported(run_folder):
        try:
            return [read_import(run_folder).study]
        except OptsweepError:
            return []
    try:
        return sorted(path.stem for path in (run_folder / STUDIES).iterdir() if path.suffix == ".json")
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read_record(attempt_folder: Path) -> tuple[RunRecord | None, str | None]:
    try:
        data = folder.read_json(attempt_folder / RECORD)
        return (None if data is None else RunRecord.from_dict(data)), None
    except (ValueError, TypeError, OSError) as error:
        return None, f"{attempt_folder.name}/{RECORD} cannot be read: {error}"


_TELLING = frozenset((CLAIM, EXIT, RECORD, REMOTE))
"""Files of an attempt without any of which it waits."""


def state_of(run_folder: Path) -> RunState:
    """Read the state of a run from its newest attempt.

    An attempt has ended when exit.json is there, or when its lock is free (the proof that shim and engine are dead);
    without exit.json it is an orphan, to be settled by the controller. Ended without a record is lost (another attempt
    follows) or failed (the process itself said so).
    """
    names, number = _look(run_folder)
    if ORIGIN in names:
        return _imported_state(run_folder)
    run_id, cancelled = run_folder.name, CANCEL in names
    if not number:
        state = "cancelled" if cancelled else "planned"
        return _state(run_id, state, 0, None, None, None, None)
    newest = run_folder / f"a{number}"
    if _waits(newest):
        return _state(run_id, "cancelled" if cancelled else "queued", number, newest, None, None, None)
    try:
        ending = folder.read_json(newest / EXIT)
        if ending is not None and not isinstance(ending, dict):
            raise ValueError("not a table")
    except (ValueError, OSError):
        ending = {"reason": "unreadable"}
    record, error = _read_record(newest)
    if ending is None:
        away = _away(newest)
        if away:
            state = away
        elif folder.lock_held(newest):
            state = "running"
        elif (newest / CLAIM).exists():
            state = "orphan" if not (newest / EXIT).exists() else "running"  # it ended between two looks: next poll
        else:
            state = "cancelled" if cancelled else "queued"
        return _state(run_id, state, number, newest, record, None, error)
    if record is not None:
        return _state(run_id, record.status, number, newest, record, ending, record.error)
    if cancelled:
        state = "cancelled"
    elif ending.get("reason") == "failed" or error:
        state = "failed"
    else:
        state = "lost"
    return _state(run_id, state, number, newest, None, ending, error or ending.get("error") or _ending_text(ending))


def _look(run_folder: Path) -> tuple[set[str], int]:
    """Names of what is in a run folder, and the number of its newest attempt (0 before the first), by one look."""
    names, newest = set(), 0
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(run_folder) as entries:
        for entry in entries:
            names.add(entry.name)
            number = folder.attempt_number(entry.name)
            if number > newest and entry.is_dir():
                newest = number
    return names, newest


def _waits(attempt_folder: Path) -> bool:
    """Whether nobody has begun an attempt: most of a large plan."""
    try:
        return not _TELLING.intersection(os.listdir(attempt_folder))
    except OSError:
        return False


def _away(attempt_folder: Path) -> str | None:
    """What the machine of an attempt said of it last; None where it is an attempt of this machine."""
    try:
        with open(f"{attempt_folder}/{REMOTE}", "rb") as file:
            state = json.loads(file.read()).get("state")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, RecursionError):
        return "submitting"
    return state if state in ("submitting", "queued", "running") else "submitting"


def remote(attempt_folder: Path) -> dict[str, Any] | None:
    """The whole of what its machine said of an attempt; None where it is one of this machine."""
    try:
        data = folder.read_json(attempt_folder / REMOTE)
    except (ValueError, OSError):
        return {}
    return data if data is None or isinstance(data, dict) else {}


def host_of(attempt_folder: Path | None) -> str | None:
    """Name of the host that an attempt was meant for; None where no intent says so."""
    if attempt_folder is None:
        return None
    try:
        intent = folder.read_json(attempt_folder / INTENT)
    except (ValueError, OSError):
        return None
    return str(intent.get("host", "local")) if isinstance(intent, dict) else None


def _imported_state(run_folder: Path) -> RunState:
    number, newest = next(iter(attempts(run_folder)), (0, None))
    try:
        run = read_import(run_folder)
    except OptsweepError as error:
        return _state(run_folder.name, "failed", number, newest, None, None, error.message)
    state = _state(run_folder.name, run.outcome.state, number, newest, None, None, run.outcome.error)
    return dataclasses.replace(state, imported=run)


def still_queued(state: RunState) -> bool:
    """True when a run that was queued is so still: nobody has claimed its attempt, ended it or cancelled the run."""
    where = str(state.attempt_folder)
    changed = (f"{where}/{CLAIM}", f"{where}/{EXIT}", f"{os.path.dirname(where)}/{CANCEL}")
    return state.state == "queued" and os.path.isdir(where) and not any(map(os.path.exists, changed))


def _state(
    run_id: str,
    state: str,
    attempt: int,
    attempt_folder: Path | None,
    record: RunRecord | None,
    ending: dict[str, Any] | None,
    error: str | None,
) -> RunState:
    return RunState(
        run_id=run_id,
        state=state,
        attempt=attempt,
        attempt_folder=attempt_folder,
        record=record,
        exit=ending,
        error=error,
    )


def _ending_text(ending: dict[str, Any]) -> str:
    if ending.get("signal"):
        return f"the engine was killed by signal {ending['signal']}"
    return f"the engine ended with status {ending.get('returncode')} and no record ({ending.get('reason')})"


def events(attempt_folder: Path) -> list[dict[str, Any]]:
    """The events of an attempt; a torn or garbage line is passed over."""
    found = []
    for line in whole_lines(attempt_folder / EVENTS, 0)[0]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            found.append(row)
    return found


def whole_lines(path: Path, offset: int) -> tuple[list[str], int]:
    """Lines that are complete from a byte offset on, and the offset after them; a file that shrank is read anew."""
    try:
        with open(path, "rb") as handle:
            if handle.seek(0, os.SEEK_END) < offset:
                offset = 0
            handle.seek(offset)
            data = handle.read()
    except OSError:
        return [], offset
    end = data.rfind(b"\n") + 1
    return data[:end].decode(errors="replace").splitlines(), offset + end


def metric_rows(run_folder: Path) -> list[dict[str, Any]]:
    """The metric lines of a run in step order, each step once: the highest attempt wins; garbage is passed over."""
    rows: dict[int, dict[str, Any]] = {}
    for _, attempt_folder in attempts(run_folder):
        for line in whole_lines(attempt_folder / METRICS, 0)[0]:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if is_metric(row):
                rows[row["step"]] = row
    return [rows[step] for step in sorted(rows)]


def find_run(runs_root: Path, prefix: str) -> str:
    """The one run whose id starts with `prefix`.

    Raises:
        OptsweepError: none or several do.
    """
    matches = [run_id for run_id in run_ids(runs_root) if run_id.startswith(prefix.lower())]
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise OptsweepError(f'no run starts with "{prefix}" in {runs_root}', "optsweep ls lists them")
    raise OptsweepError(f'"{prefix}" is the start of {len(matches)} runs', "give more digits of the id")


def cancel(run_folder: Path) -> None:
    """Leave the durable marker: no attempt starts after it, a running one stops."""
    try:
        folder.write_atomic(run_folder / CANCEL, b"")
    except OSError as error:
        raise unwritable(run_folder, error) from None


def cancel_all(runs_root: Path, run_ids: Iterable[str]) -> None:
    """`cancel` of many: the markers are made durable together, for a sync each is a minute for thousands."""
    wanted = list(run_ids)
    if len(wanted) <= FEW:
        for run_id in wanted:
            cancel(runs_root / run_id)
        return
    try:
        for run_id in wanted:
            folder.write_atomic(runs_root / run_id / CANCEL, b"", durable=False)
        os.sync()
    except OSError as error:
        raise unwritable(runs_root, error) from None


def uncancel(run_folder: Path) -> None:
    """Take the marker away, for an explicit retry."""
    (run_folder / CANCEL).unlink(missing_ok=True)
