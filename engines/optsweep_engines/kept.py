"""States that a run keeps at steps it was asked to, runs/<id>/kept/: other runs begin with them; read without a framework."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optsweep_engines import folder
from optsweep_engines.spec import BRANCH, RunSpec, Start

PARAMETER, EVALUATED = "param/", "kept/"
"""What names of tensors begin with: parameters as they are trained, and those to evaluate where a rule swaps them."""
LARGEST_HEADER = 64 << 20

_NAME = re.compile(r"step-(\d{10})-([0-9a-f]{16})\.safetensors")


@dataclass(frozen=True, kw_only=True)
class Kept:
    """One state of a run, as its file says."""

    path: Path
    run_id: str
    step: int
    """Optimizer steps done."""
    engine: str
    parameters_sha256: str
    """Hash over the parameters to evaluate, as in a record."""


def name_of(step: int, sha256: str) -> str:
    """File of a state."""
    return f"step-{step:010d}-{sha256[:16]}.safetensors"


def listed(where: Path) -> list[tuple[int, Path, str]]:
    """(step, file, digest) of the states in a folder, newest first."""
    found = []
    if where.is_dir():
        for path in where.iterdir():
            match = _NAME.fullmatch(path.name)
            if match:
                found.append((int(match.group(1)), path, match.group(2)))
    return sorted(found, reverse=True)


def is_state_name(name: str) -> bool:
    """Whether a file is called as a state is."""
    return _NAME.fullmatch(name) is not None


def step_of(name: str) -> int | None:
    """The step in the name of a state; None where it is none."""
    match = _NAME.fullmatch(name)
    return int(match.group(1)) if match else None


def name_has(path: Path, sha256: str) -> bool:
    """Whether the name of a state tells of this content."""
    match = _NAME.fullmatch(path.name)
    return match is not None and match.group(2) == sha256[:16]


def valid_states(
    run_folder: Path, unmet: Iterable[int] = (), refused: Callable[[Path], None] = lambda _: None
) -> Iterator[tuple[int, Path, str]]:
    """(step, file, digest) of what a run can go on from, newest first: checkpoints of all attempts and states kept.

    Args:
        unmet: steps whose state is asked for and not kept: those after the first of them are of no use.
        refused: is told of files whose content has another checksum than their name says.
    """
    places = [attempt_folder / folder.CHECKPOINTS for _, attempt_folder in folder.attempts(run_folder)]
    found = [entry for place in (*places, run_folder / folder.KEPT) for entry in listed(place)]
    first = min(unmet, default=None)
    for step, path, digest in sorted(found, key=lambda entry: entry[0], reverse=True):
        if first is not None and step >= first:
            continue
        try:
            valid = sha256_of(path)[:16] == digest
        except OSError:
            valid = False
        if valid:
            yield step, path, digest
        else:
            refused(path)


def steps(run_folder: Path) -> list[int]:
    """Steps of which a run keeps its state, in order."""
    return sorted({step for step, _, _ in listed(run_folder / folder.KEPT)})


def wanted(run_folder: Path) -> set[int]:
    """Steps whose state the run was asked to keep."""
    try:
        return asked_in(folder.read_json(run_folder / folder.KEEP))
    except ValueError:
        return set()


def asked_in(asked: Any) -> set[int]:
    """Steps of a document as keep.json is one; none of anything else."""
    found = asked.get("steps") if isinstance(asked, dict) else None
    return {step for step in found if type(step) is int and step > 0} if isinstance(found, list) else set()


def ask(run_folder: Path, *, add: Iterable[int] = (), drop: Iterable[int] = ()) -> None:
    """Ask a run to keep further states, and no longer for some; of programs that ask at once each one's stays.

    Raises:
        OSError: the folder cannot be written.
    """
    handle = os.open(run_folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks on folders
            fcntl.flock(handle, fcntl.LOCK_EX)
        before = wanted(run_folder)
        after = (before | set(add)) - set(drop)
        if after and after != before:
            folder.write_json(run_folder / folder.KEEP, {"steps": sorted(after)})
        elif not after:
            (run_folder / folder.KEEP).unlink(missing_ok=True)
    finally:
        os.close(handle)


def unmet(run_folder: Path) -> set[int]:
    """Steps whose state the run was asked to keep and does not."""
    return wanted(run_folder) - set(steps(run_folder))


def sha256_of(path: Path) -> str:
    """Hash over a file."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def find(runs_root: Path, run_id: str, step: int) -> Kept:
    """The state of a run after so many steps, every byte hashed.

    Raises:
        FileNotFoundError: it keeps none of that step.
        ValueError: the file is damaged, or is the state of something else.
    """
    damaged = None
    for found, path, digest in listed(runs_root / run_id / folder.KEPT):
        if found == step:
            if sha256_of(path)[:16] == digest:
                return read(path, run_id, step)
            damaged = path
    if damaged is not None:
        raise ValueError(f"{damaged} is damaged: its content does not have the hash that its name says")
    raise FileNotFoundError(f"run {run_id[:8]} keeps no state of step {step}")


def read(path: Path, run_id: str, step: int) -> Kept:
    """What a file says of itself, its content not hashed.

    Raises:
        ValueError: it is the state of something else, or of nothing.
    """
    with open(path, "rb") as handle:
        size = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(size)) if size <= LARGEST_HEADER else {}
    told = (header.get("__metadata__") if isinstance(header, dict) else None) or {}
    if (told.get("run_id"), told.get("step")) != (run_id, str(step)) or not told.get("parameters_sha256"):
        raise ValueError(f"{path} holds the state of run {told.get('run_id')} at step {told.get('step')}")
    return Kept(
        path=path, run_id=run_id, step=step, engine=told.get("engine", ""),
        parameters_sha256=told["parameters_sha256"],
    )  # fmt: skip


def start_of(spec: RunSpec, runs_root: Path) -> Kept:
    """The state that a run begins with.

    Raises:
        ValueError: it is not there, damaged, or other than the spec says.
    """
    start = spec.start
    assert start is not None
    try:
        found = find(runs_root, start.run_id, start.step)
    except FileNotFoundError as error:
        raise ValueError(f"{error}, with which this run begins: {call_for(start.run_id, [start.step])}") from None
    if start.mode == BRANCH and found.engine != spec.engine:
        raise ValueError(
            f"a branch goes on with the engine of its trunk: {found.engine}, this run is for {spec.engine}"
        )
    if found.parameters_sha256 != start.parameters_sha256:
        raise ValueError(
            f"{found.path} holds parameters {found.parameters_sha256[:12]}, the spec asks for {start.parameters_sha256[:12]}"
        )
    return found


def call_for(run_id: str, missing: list[int]) -> str:
    """The command that makes a run keep further states."""
    return f"optsweep retry {run_id[:8]} --keep {','.join(map(str, missing))}"


def require(spec: RunSpec, parameters_sha256: str) -> None:
    """Refuse to train on where what was loaded is not what the spec says.

    Raises:
        ValueError: with both hashes.
    """
    start: Start | None = spec.start
    if start is not None and parameters_sha256 != start.parameters_sha256:
        raise ValueError(
            f"the parameters loaded hash to {parameters_sha256[:12]}, the spec asks for {start.parameters_sha256[:12]}"
        )
