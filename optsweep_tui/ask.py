"""The questions to finished runs: `results` reads the store into a frame, every other function turns frames into an answer.

Each is the whole of one verb of the command line, of one panel of the app and of one part of the report.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from optsweep_tui import studies as study_files
from optsweep_tui.core import Filter
from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.settings import Workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from optsweep_tui.analysis.reproduction import RunNoise
    from optsweep_tui.charts.figure import Figure
    from optsweep_tui.drawings import Choice


def results(workspace: Workspace, chosen: Filter, *, wait_seconds: float | None = None) -> pd.DataFrame:
    """One row per run of the filter, with the columns of `analysis.columns.RESULTS`.

    Args:
        wait_seconds: for another program that holds the store; None = as long as a command waits.
    """
    from optsweep_tui.store import queries
    from optsweep_tui.store.connect import WAIT_SECONDS

    wait = WAIT_SECONDS if wait_seconds is None else wait_seconds
    study = chosen.study or queries.default_study(workspace.store, wait_seconds=wait)
    return queries.results(workspace.store, dataclasses.replace(chosen, study=study), wait_seconds=wait)


def baseline_of(workspace: Workspace, study: str | None) -> str:
    """The baseline optimizer that a study declares; adamw without one."""
    for entry in study_files.listed(workspace.studies):
        if entry["name"] == study:
            return str(entry.get("baseline", "adamw"))
    return "adamw"


def run_noise(workspace: Workspace, run_id: str, study: str | None) -> RunNoise:
    """The run-to-run sigma at a run's budget, as its study measured it."""
    from optsweep_tui.analysis import reproduction

    return reproduction.run_noise(results(workspace, Filter(study=study)), run_id, baseline_of(workspace, study))


def knob_info() -> dict[str, Any]:
    """Optimizer -> knob -> its declaration: type, range and scale, which audits of sweeps need."""
    from optsweep_engines.optimizers import catalogue

    return {
        entry.name: {knob.name: knob for knob in catalogue.all_knobs(entry)} for entry in catalogue.known().values()
    }


def table(frame: pd.DataFrame, *, baseline: str = "adamw", sigma: float | None = None) -> pd.DataFrame:
    """Final losses per cell with n, gap, rank and tie group."""
    from optsweep_tui import analysis

    return analysis.table(frame, baseline=baseline, sigma=sigma, knob_info=knob_info())


def fit(frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
    """Baseline curves."""
    from optsweep_tui import analysis

    return analysis.fit(frame, **options)


def speedup(frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
    """Speedups over the baseline, with intervals and states."""
    from optsweep_tui import analysis

    return analysis.speedup(frame, knob_info=knob_info(), **options)


def crossings(workspace: Workspace, frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
    """Steps or seconds to target losses inside runs, over the baseline's."""
    from optsweep_tui import analysis
    from optsweep_tui.store import queries

    wanted = analysis.crossing_runs(frame)
    losses, seconds = (queries.curves(workspace.store, wanted, key) for key in ("val_loss", "train_seconds"))
    curves = losses.rename(columns={"value": "loss"}).merge(
        seconds[["run_id", "step", "value"]].rename(columns={"value": "seconds"}), on=["run_id", "step"], how="left"
    )
    return analysis.in_run_crossings(frame, curves, knob_info=knob_info(), **options)


def noise(frame: pd.DataFrame, baseline: str, **options: Any) -> pd.DataFrame:
    """Where the run-to-run sigma comes from."""
    from optsweep_tui import analysis

    return analysis.noise_ledger(frame, baseline, **options)


def stable(frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
    """Whether one value of each knob does everywhere, and else which smallest sets do."""
    from optsweep_tui import analysis

    return analysis.stable(frame, knob_info=knob_info(), **options)


def edges(frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
    """Best values at the ends of their swept lists, with the next value to try."""
    from optsweep_tui import analysis

    return analysis.grid_edges(frame, knob_info=knob_info(), **options)


def swept_knob(frame: pd.DataFrame, typed: str) -> str:
    """Our name of a knob that was swept in some cell, from any case or published name.

    Raises:
        UnknownName: no cell swept it.
    """
    from optsweep_engines.optimizers import catalogue
    from optsweep_tui import analysis

    known = analysis.swept_knobs(frame)
    for name in (typed, typed.lower(), catalogue.published_alias(typed), catalogue.published_alias(typed.lower())):
        if name in known:
            return name
    if not known:
        raise OptsweepError(
            "no knob was tried at two values in any cell here", "optsweep run --sweep lr=0.001,0.002 makes such runs"
        )
    raise UnknownName("swept hyperparameter", typed, known, hint=f"swept here: {', '.join(known)}")


def sensitivity(frame: pd.DataFrame, knob: str, **options: Any) -> pd.DataFrame:
    """The curve of best loss against one knob in every cell, its width and the cost of a factor of 2."""
    from optsweep_tui import analysis

    return analysis.sensitivity(frame, knob, knob_info=knob_info(), **options)


def scaling_rules(frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
    """How the best value of each knob moves with model size and ratio."""
    from optsweep_tui import analysis

    return analysis.scaling_rules(frame, knob_info=knob_info(), **options)


def predict(frame: pd.DataFrame, *, model: str, **options: Any) -> dict[str, Any]:
    """The configuration that the rules give for a model of the catalogue at a ratio."""
    from optsweep_engines import models
    from optsweep_tui import analysis

    entry = models.model(model)
    params = float(entry.shape.non_embedding_params)
    return analysis.predict(frame, model=entry.name, params=params, knob_info=knob_info(), **options)


def run_facts(workspace: Workspace, study: str) -> pd.DataFrame:
    """Tokens trained and place in plan order of every run of a study, columns of `analysis.columns.FACTS`.

    The order is that of the study's file; without one (runs that were collected from elsewhere) that of `planned_at`.
    Imported runs have none.
    """
    from optsweep_tui.store import queries

    found = queries.run_facts(workspace.store, study)
    files = study_files.listed(workspace.studies)
    known: list[str] = next((entry["runs"] for entry in files if entry["name"] == study), [])
    places = {run_id: float(place) for place, run_id in enumerate(known)}
    native = found["origin"] == "native"
    planned = found["planned_at"].where(native).rank(method="dense")
    found["place"] = found["run_id"].map(places).where(native) if places else planned
    return found[["run_id", "study", "tokens_done", "place"]]


def fairness(frame: pd.DataFrame, facts: pd.DataFrame | None = None, **options: Any) -> pd.DataFrame:
    """Tuning effort per cell, and whether it was equal enough."""
    from optsweep_tui import analysis

    return analysis.fairness_audit(frame, facts=facts, **options)


def flips(workspace: Workspace, frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
    """Pairs of optimizers whose order changes over D, over N, or inside training."""
    from optsweep_tui import analysis
    from optsweep_tui.analysis.audits.flips import best_run_ids
    from optsweep_tui.store import queries

    curves = queries.curves(workspace.store, best_run_ids(frame), "val_loss")
    return analysis.flips(frame, curves=curves, **options)


def power(frame: pd.DataFrame, target: float, **options: Any) -> pd.DataFrame:
    """Seeds or budgets that narrow each speedup's interval to a share of it."""
    from optsweep_tui import analysis

    return analysis.power(frame, target, knob_info=knob_info(), **options)


def stop_audit(workspace: Workspace, frame: pd.DataFrame, **options: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(what a stopping rule would have done to each run, how each cell's selection would have changed)."""
    import pandas as pd

    from optsweep_tui import analysis
    from optsweep_tui.analysis.audits.stops import selections
    from optsweep_tui.store import queries

    facts = [queries.run_facts(workspace.store, str(study)) for study in frame["study"].unique()]
    logged = {run_id for each in facts for run_id in each.loc[each["logged"], "run_id"]}

    def curves(run_ids: Sequence[str]) -> pd.DataFrame:
        known = [run_id for run_id in run_ids if run_id in logged]
        if not known:
            return pd.DataFrame(columns=["run_id", "key", "step", "value"])
        keys = ("train_loss", "val_loss")
        return pd.concat([queries.curves(workspace.store, known, key).assign(key=key) for key in keys])

    audit = analysis.stop_audit(frame, curves, **options)
    return audit, selections(frame, audit, **options)


def profile(frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
    """Performance profiles of the optimizers over all cells."""
    from optsweep_tui import analysis

    return analysis.performance_profile(frame, knob_info=knob_info(), **options)


def ttest(frame: pd.DataFrame, target_loss: float, **options: Any) -> pd.DataFrame:
    """Whether each cell's mean loss over replicates lies below a target."""
    from optsweep_tui import analysis

    return analysis.target_test(frame, target_loss, **options)


def model_size(frame: pd.DataFrame, model: str) -> tuple[str, float]:
    """(name, N) of a model of the results, else of the catalogue."""
    from optsweep_engines import models
    from optsweep_tui import grid

    mine = frame[frame["model"].str.lower() == model.strip().lower()]
    known = mine["params"].dropna()
    if len(known):
        return str(mine["model"].iloc[0]), float(known.iloc[0])
    name = grid.model_name(model.strip())
    return name, float(models.model(name).shape.non_embedding_params)


def project(frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
    """The loss to expect at another size and budget; for planning only."""
    from optsweep_tui import analysis

    return analysis.joint_law(frame, **options)


def figure(workspace: Workspace, frame: pd.DataFrame, choice: Choice) -> Figure:
    """One figure of the results; `charts.static.text`, `charts.files.write` and `charts.files.svg_text` draw it."""
    from optsweep_tui import drawings

    facts = run_facts(workspace, str(frame["study"].iloc[0])) if choice.kind == "best-after-k" else None
    return drawings.drawing(frame, choice, store=workspace.store, knob_info=knob_info(), facts=facts)
