"""A finished run as a bundle: gathers what its run folder and the installed engines hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optsweep_tui
from optsweep_engines import data, folder, sources
from optsweep_tui import rundir
from optsweep_tui.bundle import layout
from optsweep_tui.core import RunSpec
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace


@dataclass(frozen=True, kw_only=True)
class Bundled:
    """A bundle that can be written."""

    content: bytes
    code_is_what_ran: bool | None
    """The installed code is what trained the run; None where the record does not say what did."""
    data_is_here: bool
    """The dataset's own description was found; else only name and hash are known."""


def bundled(workspace: Workspace, run_id: str, noise: Mapping[str, Any]) -> Bundled:
    """The bundle of a finished run.

    Args:
        noise: the run-to-run sigma at its budget, its degrees of freedom and its source.

    Raises:
        OptsweepError: the run was imported, is not over, or left no record.
    """
    run_folder = workspace.runs / run_id
    if rundir.is_imported(run_folder):
        raise OptsweepError(
            f"{run_id[:12]} was imported: there is no code or data to run it with", "bundle a run of your own"
        )
    spec = rundir.read_spec(run_folder)
    if spec.start is not None:
        raise OptsweepError(
            f"{run_id[:12]} begins with the state of run {spec.start.run_id[:8]}, which no bundle holds",
            "bundle that run",
        )
    state = rundir.state_of(run_folder)
    if not state.finished:
        raise OptsweepError(
            f"{run_id[:12]} is {state.state}: a bundle holds a run that is over", "optsweep watch shows it"
        )
    if state.record is None or state.attempt_folder is None:
        raise OptsweepError(f"{run_id[:12]} is {state.state} and left no record", "optsweep retry RUN trains it again")
    code = sources.files()
    ran = state.record.versions.get(sources.VERSION)
    described = _data(workspace, spec)
    contents = {
        layout.SPEC: layout.document(spec.to_dict()),
        layout.RECORD: layout.document(state.record.to_dict()),
        layout.METRICS: layout.lines(rundir.metric_rows(run_folder)),
        layout.EVENTS: layout.lines(_events(run_folder)),
        layout.ENVIRONMENT: layout.document(
            _environment(state.attempt_folder, state.record.versions, state.record.device)
        ),
        layout.DATA: layout.document(described),
        layout.NOISE: layout.document(dict(noise)),
        layout.GUIDE: layout.GUIDE_TEXT.encode(),
        **{layout.CODE + name: content for name, content in code.items()},
    }
    if spec.optimizer_file_hash is not None:
        contents[layout.OPTIMIZER] = (run_folder / folder.OPTIMIZER).read_bytes()
    about = {
        "run_id": run_id,
        "optsweep": optsweep_tui.__version__,
        "studies": rundir.studies_of(run_folder),
        "code": {"digest": sources.digest_of(code), "ran": ran},
    }
    return Bundled(
        content=layout.packed(contents, about),
        code_is_what_ran=None if ran is None else ran == sources.digest_of(code),
        data_is_here="source" in described,
    )


def _data(workspace: Workspace, spec: RunSpec) -> dict[str, Any]:
    """What is known of the dataset, and how it is prepared."""
    found: dict[str, Any] = {"name": spec.dataset, "sha256": spec.dataset_hash, "vocab_size": spec.shape.vocab_size}
    found["prepare"] = "optsweep prepares it when the run is planned, where its documents are the same"
    for path in sorted(workspace.data.glob(f"{spec.dataset}-*/manifest.json")):
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(manifest, dict) and manifest.get("sha256") == spec.dataset_hash:
            return found | {key: value for key, value in manifest.items() if isinstance(value, str | int)}
    try:
        return found | {"documents": data.dataset(spec.dataset).source}
    except LookupError:
        return found


def _environment(attempt_folder: Path, versions: Mapping[str, str], device: str) -> dict[str, Any]:
    """Versions, device and how the attempt was started; no name of a machine, no path."""
    try:
        intent = folder.read_json(attempt_folder / folder.INTENT) or {}
    except (ValueError, OSError):
        intent = {}
    kept = {key: intent.get(key) for key in ("device", "threads", "checkpoint_seconds")}
    return {"versions": dict(versions), "device": device, "attempt": attempt_folder.name, "started_with": kept}


def _events(run_folder: Path) -> list[dict[str, Any]]:
    """The events of all attempts, each with its attempt."""
    return [
        {"attempt": attempt, **event}
        for attempt, attempt_folder in rundir.attempts(run_folder)
        for event in rundir.events(attempt_folder)
    ]


def keep(target: Path, content: bytes) -> None:
    """Write the file whole; one that holds the same stays.

    Raises:
        OptsweepError: another file is there, or it cannot be written.
    """
    try:
        if target.exists():
            if target.is_file() and target.read_bytes() == content:
                return
            raise OptsweepError(f"{target} exists already and holds something else", "name another with --out FILE")
        folder.write_atomic(target, content)
    except OSError as error:
        raise OptsweepError(f"{target} cannot be written: {error.strerror}", "name another with --out FILE") from None
