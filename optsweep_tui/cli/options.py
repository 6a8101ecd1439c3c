"""Options that several verbs share, the workspace they open, and the filter of the analysis verbs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from optsweep_tui.core import Filter
    from optsweep_tui.settings import Workspace

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
WorkspaceDir = Annotated[
    Path | None, typer.Option("--workspace", "-w", help="Folder of the work [default: $OPTSWEEP_WORKSPACE or .].")
]

UnreadWorkspace = Annotated[
    Path | None, typer.Option("--workspace", "-w", help="Taken as everywhere; nothing is read from it here.")
]
JsonLines = Annotated[bool, typer.Option("--json", help="Print one JSON object per run and change, a line each.")]


def complete_optimizer(incomplete: str) -> list[str]:
    """Names for shell completion."""
    from optsweep_engines.optimizers import catalogue

    return [name for name in catalogue.optimizers() if name.startswith(incomplete.lower())]


def complete_model(incomplete: str) -> list[str]:
    """Names for shell completion."""
    from optsweep_engines import models

    return [name for name in models.MODELS if name.startswith(incomplete.lower())]


def complete_grid(incomplete: str) -> list[str]:
    """Names for shell completion."""
    from optsweep_tui import gridfile

    return [name for name in gridfile.names() if name.startswith(incomplete.lower())]


def complete_kind(incomplete: str) -> list[str]:
    """Kinds of figures for shell completion."""
    from optsweep_tui.charts import kinds

    return [name for name in kinds.KINDS if name.startswith(incomplete.lower())]


def complete_run(incomplete: str) -> list[str]:
    """Run ids of the workspace for shell completion."""
    from optsweep_tui import rundir, settings

    return [run_id for run_id in rundir.run_ids(settings.workspace().runs) if run_id.startswith(incomplete)][:200]


Study = Annotated[str | None, typer.Option("--study", help="Study [default: that of the newest run].")]
Models = Annotated[
    str | None, typer.Option("--model", "-m", help="Models, comma separated.", autocompletion=complete_model)
]
Optimizers = Annotated[
    str | None,
    typer.Option("--optimizer", "-o", help="Optimizers, comma separated.", autocompletion=complete_optimizer),
]
Ratios = Annotated[
    str | None, typer.Option("--chinchilla", "-c", help="Chinchilla ratios, comma separated: 1/8,0.5,8.")
]
Datasets = Annotated[str | None, typer.Option("--dataset", help="Datasets, comma separated.")]
Engines = Annotated[str | None, typer.Option("--engine", help="Engines, comma separated.")]
Where = Annotated[str | None, typer.Option("--where", help='SQL predicate over v_run, e.g. "seed = 0".')]
Baseline = Annotated[str | None, typer.Option("--baseline", help="Baseline optimizer [default: the study's, adamw].")]
Sigma = Annotated[
    float | None, typer.Option("--sigma", help="Run-to-run standard deviation, nats; used exactly as given.")
]
MaxChinchilla = Annotated[
    float | None, typer.Option("--max-chinchilla", help="Fit the baseline on budgets up to this ratio only.")
]
SharedExponent = Annotated[
    bool, typer.Option("--shared-exponent", help="One exponent for the baseline's curves of all models.")
]
Threshold = Annotated[
    float | None,
    typer.Option("--threshold", help="Near-best: below a cell's smallest loss plus this, nats [default: 0.003]."),
]
Sinks = Annotated[
    list[str] | None,
    typer.Option("--sink", help="Copy the runs live to tensorboard:DIR or wandb:DIR [also: sinks in optsweep.toml]."),
]
Runs = Annotated[list[str] | None, typer.Argument(help="Run ids, or their first digits.", autocompletion=complete_run)]


def open_workspace(context: typer.Context, workspace: Path | None) -> Workspace:
    """The workspace of this call: the verb's option, else the one before the verb, else the environment's."""
    from optsweep_tui import settings

    return settings.workspace(workspace or context.obj)


def with_sinks(workspace: Workspace, given: list[str] | None) -> Workspace:
    """The workspace with the sinks of this call beside its own; each is checked here.

    A folder that was typed is relative to the current folder, one of optsweep.toml to the workspace.
    """
    if not workspace.sinks and not given:
        return workspace
    import dataclasses
    from pathlib import Path

    from optsweep_tui.exporters import sinks

    found = [sinks.parsed(text, workspace.root) for text in workspace.sinks]
    for text in given or []:
        found.append(sinks.parsed(text, Path.cwd() if ":" in text else workspace.root))
    return dataclasses.replace(workspace, sinks=tuple(dict.fromkeys(f"{kind}:{folder}" for kind, folder in found)))


def split(text: str | None) -> tuple[str, ...]:
    """The entries of a comma separated list."""
    return tuple(part.strip() for part in text.split(",") if part.strip()) if text else ()


def make_filter(
    study: str | None,
    models: str | None,
    optimizers: str | None,
    ratios: str | None,
    datasets: str | None,
    engines: str | None,
    where: str | None,
) -> Filter:
    """The filter of an analysis verb; optimizer aliases become catalogue names, unknown names are errors.

    `mine:MyOptimizer` picks every content of a user's file, `mine:MyOptimizer@1a2b3c` one.
    """
    from optsweep_tui import grid, published
    from optsweep_tui.core import Filter

    return Filter(
        study=study,
        models=split(models),
        optimizers=tuple(grid.result_name(published.study_name(study, name)) for name in split(optimizers)),
        chinchillas=tuple(grid.ratio(value) for value in split(ratios)),
        datasets=split(datasets),
        engines=split(engines),
        where=where,
    )


def checked_sigma(sigma: float | None) -> float | None:
    """A sigma that can be one."""
    from optsweep_tui.errors import OptsweepError

    if sigma is not None and not 0 < sigma < float("inf"):
        raise OptsweepError(
            f"--sigma {sigma:g} is not a positive number of nats", "leave it out to use the measured one"
        )
    return sigma


def near_best(threshold: float | None) -> float:
    """The threshold of near-best sets, nats."""
    from optsweep_tui.analysis.lines import NEAR_BEST

    return NEAR_BEST if threshold is None else threshold


def chosen_runs(workspace: Workspace, prefixes: list[str] | None) -> list[str]:
    """Full ids from what was typed; all runs when nothing was."""
    from optsweep_tui import rundir

    if not prefixes:
        return rundir.run_ids(workspace.runs)
    return list(dict.fromkeys(rundir.find_run(workspace.runs, prefix) for prefix in prefixes))
