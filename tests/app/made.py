"""Workspaces for the app's tests: real specs, real folders, metrics through the engine's own log; only the losses are made up."""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from optsweep_engines import folder, models
from optsweep_engines.run import AttemptLog
from optsweep_engines.spec import RunRecord, RunSpec
from optsweep_tui import rundir, settings
from optsweep_tui.app.model import RunRow, Snapshot, StudyInfo
from optsweep_tui.core import Cell
from optsweep_tui.flow import RunLine
from optsweep_tui.settings import Workspace

SCALE = {"adamw": 1.0, "muon": 0.93, "sgd": 1.16}
LRS = {"adamw": (0.003, 0.006, 0.012), "muon": (0.01, 0.02, 0.04), "sgd": (0.08, 0.2, 0.5)}


def workspace(root: Path) -> Workspace:
    """An empty workspace."""
    return settings.workspace(root).ensure()


def spec(
    optimizer: str = "adamw", ratio: float = 0.25, lr: float = 0.006, seed: int = 0, model: str = "bench-micro"
) -> RunSpec:
    """A spec as the grid resolves it."""
    shape = models.model(model).shape
    return RunSpec(
        engine="torch",
        optimizer=optimizer,
        hyperparameters={"lr": lr, "warmup": 0.1, "decay": 0.5, "min_lr_ratio": 0.0, "max_grad_norm": 1.0},
        model=model,
        shape=shape,
        dataset="embedded",
        dataset_hash="ab" * 32,
        tokens=round(ratio * 20 * shape.non_embedding_params),
        batch_size=8,
        seq_len=64,
        schedule="linear",
        dtype="fp32",
        seed=seed,
    )


def curve_loss(of: RunSpec, step: int, noise: random.Random) -> float:
    """A loss that falls like a real one: power law, schedule, noise."""
    lr = float(of.hyperparameters["lr"])  # type: ignore[arg-type]
    best = LRS[of.optimizer][1]
    penalty = 0.06 * math.log2(lr / best) ** 2
    part = step / of.steps
    level: float = 1.4 + SCALE[of.optimizer] * (2.6 * (1 + step) ** -0.28 + 0.25 * (1 - max(0.0, 2 * part - 1)))
    return level + penalty + noise.gauss(0.0, 0.05)


def write_metrics(log: AttemptLog, of: RunSpec, first: int, last: int, poison: int | None = None) -> float:
    """Metric lines of the steps first..last at the spec's interval; returns the last loss."""
    noise = random.Random(f"{of.run_id}")
    loss = math.nan
    for step in range(first, last + 1):
        if step % of.log_interval and step != last:
            continue
        loss = curve_loss(of, step, noise)
        row: dict[str, Any] = {
            "step": step,
            "tokens": step * of.tokens_per_step,
            "train_seconds": round(step * 0.0105, 6),
            "train_loss": math.nan if poison is not None and step >= poison else loss,
            "lr": of.hyperparameters["lr"],
            "grad_norm": 0.5 + noise.random(),
        }
        if step == of.steps:
            row["val_loss"] = loss + 0.02
        log.metric(row)
    return loss


def plant(
    where: Workspace,
    of: RunSpec,
    state: str = "done",
    study: str = "quickstart",
    part: float = 1.0,
    attempt: int = 1,
    first: int = 1,
) -> int | None:
    """Write a run folder in a state; returns the claim's descriptor of a running one, which the caller closes."""
    rundir.write(where.runs, [of], study)
    if state == "planned":
        return None
    attempt_folder = where.runs / of.run_id / f"a{attempt}"
    attempt_folder.mkdir()
    folder.write_json(attempt_folder / rundir.INTENT, {"host": "local", "device": "cpu", "submitted_at": time.time()})
    if state == "queued":
        return None
    claim = folder.take_claim(attempt_folder)
    log = AttemptLog(attempt_folder)
    log.event("started", device="cpu")
    (attempt_folder / rundir.LOG).write_text(f"attempt {attempt} of {of.run_id}\ntraining on cpu\n")
    last = max(1, round(of.steps * part))
    poison = last * 3 // 4 if state == "diverged" else None
    loss = write_metrics(log, of, first, last, poison)
    if state == "running":
        log.close()
        return claim
    log.event(state)
    log.close()
    record = RunRecord(
        run_id=of.run_id,
        attempt=attempt,
        status=state,  # type: ignore[arg-type]
        train_loss=None if state == "failed" else loss,
        val_loss=loss + 0.02 if state == "done" else None,
        steps=last,
        tokens=last * of.tokens_per_step,
        train_seconds=last * 0.0105,
        tokens_per_second=48761.0,
        peak_bytes=310_000_000,
        optimizer_state_bytes=2_000_000,
        device="cpu",
        versions={"python": "3.11"},
        error="torch: something went wrong" if state == "failed" else None,
    )
    folder.write_json(attempt_folder / rundir.RECORD, record.to_dict())
    ending = {"returncode": 0, "signal": None, "reason": "record", "ended_at": time.time()}
    folder.write_json(attempt_folder / rundir.EXIT, ending)
    if claim is not None:
        os.close(claim)
    return None


def sweep(
    where: Workspace, study: str = "quickstart", ratios: Iterable[float] = (0.05, 0.08, 0.13, 0.22, 0.36)
) -> list[int]:
    """A study in full swing: the smaller budgets done, one being trained, the largest waiting; returns open claims."""
    ratios = list(ratios)
    chosen = {"adamw": ratios, "muon": ratios[:3], "sgd": ratios[2:]}
    claims: list[int | None] = []
    records = []
    for optimizer, budgets in chosen.items():
        for ratio in budgets:
            for place, lr in enumerate(LRS[optimizer]):
                of = spec(optimizer, ratio, lr)
                state = "done"
                if ratio == ratios[-2]:
                    state = ("done", "running", "queued")[place]
                elif ratio == ratios[-1]:
                    state = "planned"
                elif optimizer == "sgd" and lr == 0.5:
                    state = "diverged"
                claims.append(plant(where, of, state, study, part=0.6 if state in ("running", "diverged") else 1.0))
                records.append(of.run_id)
    for seed in (1, 2, 3):
        plant(where, spec("adamw", ratios[0], 0.006, seed), "done", study)
    folder.write_json(
        where.studies / f"{study}.json", {"name": study, "baseline": "adamw", "fresh_seeds": None, "runs": records}
    )
    return [claim for claim in claims if claim is not None]


def row(
    of: RunSpec,
    state: str = "done",
    loss: float | None = 2.0,
    step: int | None = None,
    studies: tuple[str, ...] = ("s",),
) -> RunRow:
    """One run as the screens see it, without any folder."""
    lr = of.hyperparameters["lr"]
    line = RunLine(
        run_id=of.run_id,
        state=state,
        optimizer=of.optimizer,
        model=of.model,
        chinchilla=of.chinchilla,
        seed=of.seed,
        engine=of.engine,
        host="local",
        attempt=0 if state == "planned" else 1,
        step=of.steps if step is None else step,
        steps=of.steps,
        loss=loss,
        tokens_per_second=48761.0 if loss is not None else None,
        eta_seconds=75.0 if state == "running" else None,
        lr=float(lr) if isinstance(lr, int | float) else None,
        configuration=of.replace(seed=0).run_id,
    )
    return RunRow(line=line, cell=Cell.of(of), studies=studies)


def snapshot(rows: Iterable[RunRow], *studies: str) -> Snapshot:
    """A look at such runs."""
    known = tuple(rows)
    infos = tuple(StudyInfo(name=name) for name in studies or ("s",))
    return Snapshot(
        rows=known, studies=infos, read=len(known), total=len(known), by_id={entry.run_id: entry for entry in known}
    )
