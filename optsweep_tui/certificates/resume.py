"""Exact resume: a run killed with SIGKILL at random moments and resumed each time, against one that was left alone."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optsweep_engines import folder
from optsweep_tui.certificates import kept
from optsweep_tui.core import RunSpec
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace

CHECKPOINT_SECONDS = 0.2
"""Between two checkpoints: so often that a kill falls into the writing of one now and then."""
DELAY_SECONDS = 0.1
"""A kill comes at most so long after its step was seen, anywhere in a step or in the writing of a checkpoint."""
START_SECONDS = 600.0
"""An attempt that shows no checkpoint in this time is not waited for any longer."""
COMPARED = ("parameters_sha256", "val_loss", "train_loss", "steps", "status")
"""Fields of the two records that must be the same."""


def certified(
    workspace: Workspace,
    spec: RunSpec,
    *,
    kills: int,
    device: str = "cpu",
    optimizer_file: Path | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Train a spec straight, and again with kills; compare, and keep the answer.

    Raises:
        OptsweepError: the straight run could not be trained.
    """
    place = kept.where(workspace) / f".resume-{os.getpid()}-{time.monotonic_ns()}"
    try:
        say(f"training {spec.steps} steps without a break")
        straight = _planted(place / "straight", workspace, spec, device, optimizer_file)
        _started(straight, 1).wait()
        expected = folder.read_json(straight / "a1" / folder.RECORD)
        if not isinstance(expected, dict) or expected["status"] not in ("done", "diverged"):
            line = expected.get("error") if isinstance(expected, dict) else _last_line(straight / "a1" / folder.LOG)
            raise OptsweepError(f"{spec.engine} could not train this spec: {line}", "optsweep doctor says what is here")
        killed = _planted(place / "killed", workspace, spec, device, optimizer_file)
        moments, found = _killed(killed, kills, spec.steps, random.Random(seed), say)
        if found is None:
            raise OptsweepError(f"the resumed attempt left no record: {_last_line(killed)}", "certify it once more")
        differing = _differing_losses(straight, killed)
        same = {name: found[name] == expected[name] for name in COMPARED}
        verdict = "unproven" if not moments else "equal" if all(same.values()) and not differing else "different"
        certificate = {
            "verdict": verdict,
            "engine": spec.engine,
            "optimizer": spec.optimizer,
            "model": spec.model,
            "steps": spec.steps,
            "kills": len(moments),
            "killed_after_step": moments,
            "resumed_from_step": found["resumed_from_step"],
            "same": same,
            "differing_steps": differing,
            "straight_sha256": expected["parameters_sha256"],
            "resumed_sha256": found["parameters_sha256"],
            "versions": expected["versions"],
            "device": expected["device"],
            "spec": spec.to_dict(),
        }
    finally:
        shutil.rmtree(place, ignore_errors=True)
    name = f"{spec.engine}-{''.join(c if c.isalnum() else '_' for c in spec.optimizer)}-{spec.model}"
    return {**certificate, "file": str(kept.keep(workspace, "resume", name, certificate))}


def _planted(root: Path, workspace: Workspace, spec: RunSpec, device: str, optimizer_file: Path | None) -> Path:
    """A run folder outside the workspace's own runs, so that no controller takes it up."""
    run_folder = root / spec.run_id
    run_folder.mkdir(parents=True)
    folder.write_json(run_folder / folder.SPEC, spec.to_dict())
    intent = {"data_root": str(workspace.data), "device": device, "checkpoint_seconds": CHECKPOINT_SECONDS}
    folder.write_json(root / folder.INTENT, intent)
    if optimizer_file is not None:
        shutil.copyfile(optimizer_file, run_folder / folder.OPTIMIZER)
    return run_folder


def _started(run_folder: Path, attempt: int) -> subprocess.Popen[bytes]:
    """The next attempt in a process of its own, pinned to the core of this one where it is pinned."""
    where = run_folder / f"a{attempt}"
    where.mkdir()
    shutil.copyfile(run_folder.parent / folder.INTENT, where / folder.INTENT)
    with open(where / folder.LOG, "wb") as log:
        command = [sys.executable, "-m", "optsweep_engines.run", str(where)]
        return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})


def _killed(
    run_folder: Path, kills: int, steps: int, moments: random.Random, say: Callable[[str], None]
) -> tuple[list[int], dict[str, Any] | None]:
    """Attempts until the run is over; the first ones are killed at steps drawn over the whole run, in their order.

    An attempt is killed only after it went beyond the checkpoint that it found.

    Returns:
        The last logged step at each kill, and the record.
    """
    done: list[int] = []
    targets = sorted(moments.uniform(0.0, steps) for _ in range(kills))
    for attempt in range(1, kills + 3):
        before = _newest_step(run_folder)
        process = _started(run_folder, attempt)
        deadline = time.monotonic() + START_SECONDS
        if len(done) < kills:
            while process.poll() is None and time.monotonic() < deadline:
                if _newest_step(run_folder) > before and _logged_step(run_folder, attempt) >= targets[len(done)]:
                    break
                time.sleep(0.005)
            time.sleep(moments.random() * DELAY_SECONDS)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
                done.append(_logged_step(run_folder, attempt))
                say(f"kill {len(done)} of {kills}: at step {done[-1]}, checkpoint of step {_newest_step(run_folder)}")
                continue
        process.wait()
        record = folder.read_json(run_folder / f"a{attempt}" / folder.RECORD)
        if record is not None:
            return done, record
    return done, None


def _newest_step(run_folder: Path) -> int:
    names = [path.name for path in run_folder.glob(f"a*/{folder.CHECKPOINTS}/step-*")]
    return max((int(name.split("-")[1]) for name in names), default=0)


def _logged_step(run_folder: Path, attempt: int) -> int:
    """The last step that an attempt logged whole; 0 before any."""
    try:
        with open(run_folder / f"a{attempt}" / folder.METRICS, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().split(b"\n")[:-1]
        return int(json.loads(lines[-1])["step"]) if lines else 0
    except (OSError, ValueError, KeyError):
        return 0


def _losses(run_folder: Path) -> dict[int, list[tuple[Any, Any]]]:
    """Step -> what each attempt logged for it."""
    found: dict[int, list[tuple[Any, Any]]] = {}
    for _, attempt in folder.attempts(run_folder):
        text = (attempt / folder.METRICS).read_text(encoding="utf-8") if (attempt / folder.METRICS).exists() else ""
        for line in text.splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # a kill may cut the last line
            found.setdefault(row["step"], []).append((row["train_loss"], row.get("val_loss")))
    return found


def _differing_losses(straight: Path, killed: Path) -> list[int]:
    """Steps at which some attempt logged another loss than the straight run."""
    expected, found = _losses(straight), _losses(killed)
    return [step for step, values in expected.items() if any(pair != values[0] for pair in found.get(step, [()]))]


def _last_line(path: Path) -> str:
    target = (
        max(path.glob(f"a*/{folder.LOG}"), key=lambda log: log.stat().st_mtime, default=path) if path.is_dir() else path
    )
    lines = target.read_text(encoding="utf-8", errors="replace").strip().splitlines() if target.is_file() else []
    return lines[-1] if lines else "it left no word"
