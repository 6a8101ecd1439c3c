"""A sweep before it is launched: its cells and changes as a draft, the resolved runs with their cost, launched or kept as a grid.

`optsweep run --dry-run` prints `of(workspace, plan)`; screen 1 of the app edits a `Draft` and shows the same. Each function
loads its own libraries, so that the app starts without them.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optsweep_tui import flow, rundir
from optsweep_tui.core import RunSpec, dataset_key, validation_key
from optsweep_tui.errors import OptsweepError
from optsweep_tui.resources import shipped
from optsweep_tui.settings import Workspace

if TYPE_CHECKING:
    from optsweep_tui.cost import RateKey


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What the next launch would be: which cells of which study, and what is changed in them."""

    study: str = "default"
    """Study that the runs go to; of a grid its own name."""
    baseline: str = "adamw"
    grid: str | None = None
    """Name or file of the grid that says how its cells are swept; None: each cell gets its incumbent."""
    cells: tuple[tuple[str, str, float], ...] = ()
    """(optimizer, model, ratio)."""
    engine: str | None = None
    """None: the grid's."""
    seeds: tuple[int, ...] = ()
    """Empty: the grid's."""
    changes: tuple[str, ...] = ()
    """As typed: "lr=0.003" fixes a knob, "lr=0.002,0.004" sweeps it, "lr=..*weight_decay=.." is a product."""
    host: str = "local"

    @property
    def changed(self) -> bool:
        """Something differs from what the grid says."""
        return bool(self.engine or self.seeds or self.changes)


def split_changes(text: str) -> tuple[str, ...]:
    """The entries of a line of changes, separated by blanks.

    Raises:
        OptsweepError: a quote is open.
    """
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise OptsweepError(f"{text}: {error}", "write lr=0.003 weight_decay=0,0.1") from None


def split_seeds(text: str) -> tuple[int, ...]:
    """0,1,2 as seeds; nothing means those of the grid.

    Raises:
        OptsweepError: not a list of whole numbers, each once.
    """
    parts = [part for part in text.replace(",", " ").split() if part]
    try:
        seeds = tuple(int(part) for part in parts)
    except ValueError:
        raise OptsweepError(f'seeds "{text}" are not a list of whole numbers', "write 0,1,2") from None
    if any(not 0 <= seed < 2**32 for seed in seeds) or len(set(seeds)) != len(seeds):
        raise OptsweepError(f'seeds "{text}": each once, from 0 to 4294967295', "write 0,1,2")
    return seeds


def typed(text: str, study: str, baseline: str) -> Draft:
    """Cells as typed: "adamw,muon bench-micro 1/8,1/4 lr=0.003,0.006 seeds=0,1 study=mine".

    Args:
        study: where the runs go when the text names none.
        baseline: of that study.

    Raises:
        OptsweepError: the three lists are not there, or one of their names is not known.
    """
    from optsweep_tui import grid, gridfile

    words = split_changes(text)
    lists = [word for word in words if "=" not in word]
    if len(lists) != 3:
        raise OptsweepError(
            "three lists are needed: optimizers, models, ratios", "write adamw,muon bench-micro 1/8,1/4"
        )
    optimizers, models, ratios = ([part for part in entry.split(",") if part] for entry in lists)
    selected = grid.from_names(optimizers, models, ratios)
    values = dict(word.split("=", 1) for word in words if word.startswith(("study=", "seeds=", "engine=")))
    name = values.get("study", study)
    gridfile.check_name(name, "study:")
    return Draft(
        study=name,
        baseline=baseline,
        cells=tuple(grid.cells_of(selected)),
        seeds=split_seeds(values.get("seeds", "")),
        engine=values.get("engine"),
        changes=tuple(word for word in words if "=" in word and word.partition("=")[0] not in values),
    )


def _is_sweep(change: str) -> bool:
    return "," in change.partition("=")[2] or "*" in change


def plan(workspace: Workspace, draft: Draft, *, prepare: bool = False) -> flow.Plan:
    """Resolve a draft; the planner's own errors say what is wrong with it.

    Args:
        prepare: prepare datasets that are not here yet; without, the ids of their runs are provisional.

    Raises:
        OptsweepError: no such cell, knob, engine or host, or a value that cannot be.
    """
    flow.chosen_hosts(workspace, draft.host, None)
    request = flow.Request(
        grid=draft.grid,
        cells=draft.cells,
        sets=tuple(change for change in draft.changes if not _is_sweep(change)),
        sweeps=tuple(change for change in draft.changes if _is_sweep(change)),
        seeds=draft.seeds,
        engine=draft.engine,
    )
    chosen = flow.plan(workspace, request, prepare=prepare)
    if draft.grid is None:
        study = dataclasses.replace(chosen.study, name=draft.study, baseline=draft.baseline)
        chosen = dataclasses.replace(chosen, study=study)
    return chosen


def launch(workspace: Workspace, draft: Draft) -> tuple[list[str], int]:
    """Plant and queue the runs of a draft, and leave a controller behind that drives them; returns ids queued, its pid.

    Raises:
        OptsweepError: as `plan`, an engine whose library is missing, or a workspace that cannot be written.
    """
    flow.require_engines(plan(workspace, draft).specs)
    queued = flow.launch(
        workspace, plan(workspace, draft, prepare=True), hosts=flow.chosen_hosts(workspace, draft.host, None)
    )
    return queued, flow.detach(workspace)


def save(workspace: Workspace, chosen: flow.Plan, name: str) -> Path:
    """Keep the runs of a plan as a grid that lists them one by one; returns its file.

    Args:
        name: a word puts it into the workspace's grids, where `run --grid NAME` finds it; else a path ending in .toml.

    Raises:
        OptsweepError: the name cannot be used, or a file of that name exists or cannot be written.
    """
    from optsweep_tui import drafts

    path = grid_path(workspace, name)
    wanted = [
        drafts.Wanted(
            optimizer=spec.optimizer,
            model=spec.model,
            chinchilla=spec.chinchilla,
            tokens=float(spec.tokens),
            settings={
                **spec.hyperparameters,
                "batch_size": spec.batch_size,
                "schedule": spec.schedule,
                "dtype": spec.dtype,
                "seq_len": spec.seq_len,
            },
            validation_set=validation_key(spec),
            engine=spec.engine,
            dataset=dataset_key(spec),
            seed=spec.seed,
        )
        for spec in chosen.specs
    ]
    made = drafts.draft(workspace, path.stem, chosen.study.baseline, wanted)
    left = f"; {len(made.left_out)} could not be written: {made.left_out[0][1]}" if made.left_out else ""
    comment = f"{len(made.specs)} runs chosen on the sweep screen, from study {chosen.study.name}{left}"
    if path.parent == workspace.grids:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    drafts.write(path, made.text(comment))
    return path


def grid_path(workspace: Workspace, name: str) -> Path:
    """Where a grid of this name is written.

    Raises:
        OptsweepError: the name cannot be used, or a file of that name exists.
    """
    from optsweep_tui import drafts, gridfile

    path = Path(name).expanduser() if "/" in name or name.endswith(".toml") else workspace.grids / f"{name}.toml"
    if path.parent == workspace.grids and path.stem.lower() in (known.lower() for known in gridfile.names()):
        raise OptsweepError(f"{path.stem} is the name of a shipped grid", "choose another name")
    return drafts.checked_path(path)


def grids(workspace: Workspace) -> list[dict[str, str]]:
    """Grids that can be opened by name, those of the workspace first: name, where, description or what is wrong."""
    from optsweep_tui import gridfile

    found = []
    for where, folder in (("workspace", workspace.grids), ("shipped", shipped("grids"))):
        for path in sorted(folder.glob("*.toml")):
            try:
                text = gridfile.load(str(path)).description
            except OptsweepError as error:
                text = str(error)
            found.append({"name": path.stem, "where": where, "path": str(path), "description": text})
    return found


def grid_of(workspace: Workspace, study: str) -> str | None:
    """The grid file that a study was made from, as far as one of its name can be found."""
    for entry in grids(workspace):
        if entry["name"].lower() == study.lower():
            return entry["path"]
    return None


def of(workspace: Workspace, chosen: flow.Plan, rates: Mapping[RateKey, float] | None = None) -> dict[str, Any]:
    """The document of `run --json`: resolved runs with their cost and state, and the totals.

    Args:
        rates: measured tokens/s by `cost.rate_key`; None measures the finished runs of the workspace.
    """
    from optsweep_tui import cost

    known = flow.rates(workspace) if rates is None else rates
    runs: list[dict[str, Any]] = []
    seconds: list[float | None] = []
    for spec in chosen.specs:
        price = cost.predicted(spec, known)
        seconds.append(price.seconds_estimate)
        runs.append(
            {
                "run_id": spec.run_id,
                "provisional": any(sha256 is None for _, sha256 in spec.datasets),
                "study": chosen.study.name,
                "optimizer": spec.optimizer,
                "model": spec.model,
                "params": spec.shape.non_embedding_params,
                "chinchilla": spec.chinchilla,
                "tokens": spec.tokens,
                "steps": spec.steps,
                "start": None if spec.start is None else dataclasses.asdict(spec.start),
                "trained_steps": spec.trained_steps,
                "trained_tokens": _trained(spec),
                "batch_size": spec.batch_size,
                "seq_len": spec.seq_len,
                "engine": spec.engine,
                "seed": spec.seed,
                "dataset": spec.dataset,
                "dataset_hash": spec.dataset_hash,
                "simulate_epochs": spec.simulate_epochs,
                "validation_set": validation_key(spec),
                "validation_sets": {name: dataclasses.asdict(item) for name, item in spec.validation_sets.items()},
                "schedule": spec.schedule,
                "dtype": spec.dtype,
                "hyperparameters": dict(spec.hyperparameters),
                "flops": price.flops,
                "optimizer_flops": price.optimizer_flops,
                "seconds_estimate": price.seconds_estimate,
                "seconds_basis": price.seconds_basis,
                "bytes_estimate": price.bytes_estimate,
                "state": rundir.state_of(workspace.runs / spec.run_id).state,
            }
        )
    totals = {
        "runs": len(runs),
        "fresh_seed_runs": chosen.fresh_seed_runs,
        "tokens": sum(_trained(spec) for spec in chosen.specs),
        "flops": sum(run["flops"] for run in runs),
        "seconds_estimate": cost.total_seconds(seconds, workspace.run_slots),
        "bytes_estimate": max(run["bytes_estimate"] for run in runs),
    }
    return {"study": chosen.study.name, "runs": runs, "totals": totals, "notes": flow.cautions(chosen.specs)}


def _trained(spec: RunSpec) -> int:
    """Tokens of a run that it is trained on itself; the target of one that has no trunk."""
    return spec.tokens - spec.first_step * spec.tokens_per_step


def to_do(workspace: Workspace, document: Mapping[str, Any]) -> dict[str, Any]:
    """The totals of those runs of `of(...)` that are not over: what a launch would still train."""
    from optsweep_tui import cost

    runs = [run for run in document["runs"] if run["state"] not in rundir.FINISHED]
    return {
        "runs": len(runs),
        "tokens": sum(run["trained_tokens"] for run in runs),
        "flops": sum(run["flops"] for run in runs),
        "seconds_estimate": cost.total_seconds([run["seconds_estimate"] for run in runs], workspace.run_slots),
        "bytes_estimate": max((run["bytes_estimate"] for run in runs), default=0),
    }
