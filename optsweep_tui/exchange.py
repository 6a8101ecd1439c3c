"""Runs out to other programs, one run as a bundle, and a bundle's run trained again: what `export` and `reproduce` call.

    runs/<id> -> exporters -> files of others        runs/<id> -> bundle -> one file -> (plan, launch, drive) -> verdict

Like `flow`, each step loads its own libraries when it is called.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optsweep_tui import flow, rundir
from optsweep_tui.core import Filter, Study
from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.settings import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from optsweep_tui.bundle.rerun import Rerun
    from optsweep_tui.exporters.protocol import LeftOut


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What one export did."""

    format: str
    file: str
    """File or folder that was written."""
    rows: int
    """Runs that are in it."""
    files: int
    skipped: list[LeftOut]
    """What the format has no place for, and why."""


TABLES = ("csv", "parquet")
"""Formats of one file with a row per run."""


def export_formats() -> list[dict[str, str]]:
    """Every format that `export` writes: its name and what it is."""
    from optsweep_tui.exporters import protocol

    found = {name: f"a {name} file with a row per run; `import {name}` reads it back" for name in TABLES}
    found |= {name: protocol.load_exporter(name).doc for name in protocol.IN_TREE}
    found["baselines"] = (
        "predicted configurations in the marin tree's baseline_config shape; -o, -m and -c name the cells"
    )
    found["bundle"] = "one run in one file, for `reproduce`: optsweep export bundle RUN"
    return [{"name": name, "doc": found[name]} for name in sorted(found)]


def export_results(workspace: Workspace, name: str, target: Path, chosen: Filter) -> ExportReport:
    """Every run of the filter in another program's format, in a file or folder that does not exist yet.

    A table's columns are those of `analysis.columns.RESULTS` and `entry`, the run's id.

    Raises:
        OptsweepError: no such format, no such study, or the target exists or cannot be written.
    """
    from optsweep_tui.exporters import protocol, runs
    from optsweep_tui.store import queries

    known = {*TABLES, *protocol.IN_TREE}
    if name.lower() not in known:
        raise UnknownName("format", name, sorted({*known, "baselines", "bundle"}))
    if name.lower() in TABLES:
        return _export_table(queries.results(workspace.store, chosen), name.lower(), target)
    exporter = protocol.load_exporter(name)
    if exporter.one_study and chosen.study is None:
        chosen = dataclasses.replace(chosen, study=queries.default_study(workspace.store))
    frame = queries.results(workspace.store, chosen)
    found, broken = runs.exported(workspace.runs, zip(frame["run_id"], frame["study"], strict=True))
    protocol.new_folder(target)
    try:
        written = exporter.write(found, target)
    except OSError as error:
        raise OptsweepError(
            f"{target} cannot be written: {error.strerror}", "free some space or name another folder"
        ) from None
    for run_id, why in broken:
        written.skip(run_id, why)
    return ExportReport(
        format=exporter.name, file=str(target), rows=written.runs, files=written.files, skipped=written.skipped
    )


def export_baselines(workspace: Workspace, target: Path, chosen: Filter) -> ExportReport:
    """Predicted configurations as files of the published study's baseline_config tree.

    Args:
        chosen: study and optimizers whose sweeps are learnt from; its models and ratios are the cells that are predicted,
            measured or not (none named: those of the study).

    Raises:
        OptsweepError: no such study or model, or the target exists or cannot be written.
    """
    from optsweep_tui import ask, grid
    from optsweep_tui.exporters import baselines, protocol

    learnt = dataclasses.replace(chosen, models=(), chinchillas=())
    frame = ask.results(workspace, learnt)
    models = [grid.model_name(name) for name in chosen.models] or list(dict.fromkeys(frame["model"].dropna()))
    ratios = list(chosen.chinchillas) or sorted(frame["chinchilla"].dropna().unique())
    optimizers = sorted(frame["optimizer"].dropna().unique())
    predictions = (
        ask.predict(frame[frame["optimizer"] == optimizer], optimizer=optimizer, model=model, chinchilla=float(ratio))
        for optimizer in optimizers
        for model in models
        for ratio in ratios
    )
    protocol.new_folder(target)
    try:
        written = baselines.write(predictions, target)
    except OSError as error:
        raise OptsweepError(f"{target} cannot be written: {error.strerror}", "name another folder") from None
    return ExportReport(
        format="baselines", file=str(target), rows=written.runs, files=written.files, skipped=written.skipped
    )


def _export_table(frame: pd.DataFrame, name: str, target: Path) -> ExportReport:
    frame.insert(0, "entry", frame["run_id"])
    try:
        with open(target, "xb") as handle:
            if name == "csv":
                handle.write(frame.to_csv(index=False).encode())
            else:
                frame.to_parquet(handle, index=False)
    except FileExistsError:
        raise OptsweepError(f"{target} exists already", "name another file") from None
    except OSError as error:
        raise OptsweepError(f"{target} cannot be written: {error.strerror}", "name another file") from None
    return ExportReport(format=name, file=str(target), rows=len(frame), files=1, skipped=[])


@dataclass(frozen=True, kw_only=True)
class BundleReport:
    """One run that was written as a bundle."""

    format: str
    file: str
    run_id: str
    bytes: int
    sha256: str
    """Of the file: the same run gives the same bytes."""
    code_is_what_ran: bool | None
    """The code in it trained the run; None where the run's record does not say what did."""
    data_is_described: bool
    """It says how its dataset was made; else only name and hash."""
    sigma: float | None
    """Run-to-run sigma at the run's budget, nats, for whoever reruns it; None where none was measured."""
    sigma_source: str


def export_bundle(workspace: Workspace, run_id: str, out: Path | None = None) -> BundleReport:
    """Write a finished run to one file, with what its study knows of the noise. Twice is once.

    Args:
        out: the file; None for the run's id in the current folder.

    Raises:
        OptsweepError: the run cannot be bundled, or the file cannot be written.
    """
    import hashlib

    from optsweep_tui import ask
    from optsweep_tui.bundle import layout, write

    bundled = write.bundled(workspace, run_id, {})  # refuses what cannot be bundled before anything is collected
    flow.collect(workspace)
    study = next(iter(rundir.studies_of(workspace.runs / run_id)), None)
    noise = ask.run_noise(workspace, run_id, study)
    bundled = write.bundled(workspace, run_id, noise.to_dict())
    target = out or Path(f"{run_id[:12]}{layout.SUFFIX}")
    write.keep(target, bundled.content)
    return BundleReport(
        format="bundle",
        file=str(target),
        run_id=run_id,
        bytes=len(bundled.content),
        sha256=hashlib.sha256(bundled.content).hexdigest(),
        code_is_what_ran=bundled.code_is_what_ran,
        data_is_described=bundled.data_is_here,
        sigma=noise.sigma,
        sigma_source=noise.source,
    )


# ---------------------------------------------------------------- reproduce


def rerun(workspace: Workspace, path: Path, **options: Any) -> Rerun:
    """A bundle's run, checked and ready to be launched; the options are those of `bundle.rerun.prepared`."""
    from optsweep_tui.bundle import read
    from optsweep_tui.bundle import rerun as bundle_rerun

    return bundle_rerun.prepared(workspace, read.read(path), **options)


def plan_of(again: Rerun) -> flow.Plan:
    """The rerun as a study of its own, for `launch`."""
    study = Study(name=again.study, baseline=again.spec.optimizer)
    return flow.Plan(study=study, specs=[again.spec], fresh_seed_runs=0)


def judge(again: Rerun, sigma: float | None = None) -> dict[str, Any]:
    """What the rerun says of its original: both records, what was different, and the verdict by the run-to-run noise.

    Args:
        sigma: given by the user, nats; None for what the bundle says.
    """
    from optsweep_engines import sources
    from optsweep_tui.analysis import reproduction
    from optsweep_tui.bundle.rerun import version_differences

    original = again.bundle.record
    state = rundir.state_of(again.place.runs / again.spec.run_id)
    if state.record is None:
        raise OptsweepError(
            f"the rerun {again.spec.run_id[:12]} is {state.state}", "run the same command again: it goes on"
        )
    noise = reproduction.RunNoise.from_dict(again.bundle.noise)
    if sigma is not None:
        noise = reproduction.RunNoise(sigma=sigma, dof=None, source="given")
    verdict = reproduction.judge(original, state.record, noise, same_data=again.same_data)
    kept = (
        "status",
        "val_loss",
        "train_loss",
        "steps",
        "tokens",
        "train_seconds",
        "parameters_sha256",
        "device",
        "versions",
    )
    return {
        "bundle": str(again.bundle.path),
        "run_id": again.bundle.run_id,
        **vars(verdict),
        "original": {name: getattr(original, name) for name in kept},
        "rerun": {"run_id": again.spec.run_id} | {name: getattr(state.record, name) for name in kept},
        "code": {"ran": again.bundle.ran, "in_bundle": again.bundle.code, "here": sources.digest()},
        "data": {
            "name": again.spec.dataset,
            "original": again.bundle.spec.dataset_hash,
            "here": again.spec.dataset_hash,
        },
        "differences": [*again.differences, *version_differences(original, state.record)],
        "workspace": str(again.place.root),
        "study": again.study,
    }
