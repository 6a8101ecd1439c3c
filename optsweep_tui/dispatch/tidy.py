"""What `optsweep gc` may remove: leftovers of killed programs, and on demand checkpoints and stores that were put aside."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from optsweep_engines import folder
from optsweep_engines import kept as kept_states
from optsweep_tui import rundir
from optsweep_tui.dispatch import retry
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace

LEFT_SECONDS = 3600.0
"""A temporary file this old is nobody's any more: writing one takes milliseconds."""


@dataclass(frozen=True, kw_only=True)
class Removed:
    """One kind of thing."""

    what: str
    count: int
    bytes: int | None
    """None: nobody was asked."""
    removed: bool
    """False: it is still there, because of a dry run or because its option was not given."""
    option: str
    """What must be given to have it removed; empty for what always goes."""


def tidy(workspace: Workspace, *, checkpoints: bool, kept: bool, dry_run: bool, states: bool = False) -> list[Removed]:
    """Remove, or only count, what is not needed any more. Runs that are under way are left alone."""
    done = (
        run_id
        for run_id in rundir.native_ids(workspace.runs)
        if rundir.state_of(workspace.runs / run_id).state == "done"
    )
    found = list(_states(workspace))
    kinds: tuple[tuple[str, Iterable[Path], bool, str], ...] = (
        ("temporary files", _temporary(workspace), True, ""),
        (
            "checkpoints of done runs",
            (path for run_id in done for path in _checkpoints(workspace.runs / run_id)),
            checkpoints,
            "--checkpoints removes them",
        ),
        (
            "kept states of runs, which others begin with",
            [path for _, path in found],
            states,
            "--states removes them",
        ),
        ("stores put aside", _kept(workspace), kept, "--kept removes them"),
    )
    removed = [_removed(what, list(paths), wanted and not dry_run, option) for what, paths, wanted, option in kinds]
    if states and not dry_run:
        _forget(found)
    return removed


def _removed(what: str, paths: list[Path], remove: bool, option: str) -> Removed:
    size = 0
    for path in paths:
        size += _size(path)
        if remove and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif remove:
            path.unlink(missing_ok=True)
    return Removed(what=what, count=len(paths), bytes=size, removed=remove, option=option)


def _size(path: Path) -> int:
    total = 0
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            return sum(_size(entry) for entry in path.iterdir())
        total = path.lstat().st_size
    return total


def _temporary(workspace: Workspace) -> Iterator[Path]:
    """What an atomic write or an import left when it was killed."""
    limit = time.time() - LEFT_SECONDS
    for place, names, files in os.walk(workspace.runs):
        if Path(place).name == rundir.CHECKPOINTS:
            names.clear()
        for name in files:
            path = Path(place) / name
            state = name.startswith(".writing-")
            if state or (name.startswith(".") and name.endswith(".tmp")) or name.endswith(".import"):
                with contextlib.suppress(OSError):
                    if path.stat().st_mtime < limit or (state and _over(_run_of(workspace, path))):
                        yield path


def _run_of(workspace: Workspace, path: Path) -> Path:
    """Folder of the run that a file belongs to."""
    return workspace.runs / path.relative_to(workspace.runs).parts[0]


def _over(run_folder: Path) -> bool:
    """Nothing of a run is being written, nor will be without somebody's asking."""
    state = rundir.state_of(run_folder)
    return state.finished and retry.given_up(run_folder, state)


def _checkpoints(run_folder: Path) -> Iterator[Path]:
    for _, attempt_folder in rundir.attempts(run_folder):
        with contextlib.suppress(OSError):
            yield from sorted((attempt_folder / rundir.CHECKPOINTS).iterdir())


def _states(workspace: Workspace) -> Iterator[tuple[int, Path]]:
    """(step, file) of states that nothing needs, kept here."""
    over, needed = states_needed(workspace)
    for run_id in over:
        for step, path, _ in kept_states.listed(workspace.runs / run_id / folder.KEPT):
            if (run_id, step) not in needed:
                yield step, path


def states_needed(workspace: Workspace) -> tuple[list[str], set[tuple[str, int]]]:
    """Runs that are over, whose states may go; and (run id, step) of those that a run which is not over begins with.

    A run that failed once and will be tried again is not over.
    """
    over: list[str] = []
    needed: set[tuple[str, int]] = set()
    for run_id in rundir.native_ids(workspace.runs):
        with contextlib.suppress(OptsweepError, OSError):
            if _over(workspace.runs / run_id):
                over.append(run_id)
            elif (start := rundir.read_spec(workspace.runs / run_id).start) is not None:
                needed.add((start.run_id, start.step))
    return over, needed


def _forget(removed: Iterable[tuple[int, Path]]) -> None:
    """What has been removed is not asked for any more: a later attempt would go back to make it again."""
    gone: dict[Path, set[int]] = {}
    for step, path in removed:
        gone.setdefault(path.parents[1], set()).add(step)
    for run_folder, steps in gone.items():
        with contextlib.suppress(OSError):
            kept_states.ask(run_folder, drop=steps)


def _kept(workspace: Workspace) -> Iterator[Path]:
    yield from sorted(workspace.root.glob(f"{workspace.store.name}.kept-*"))
