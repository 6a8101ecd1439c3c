"""`optsweep report`: everything about one study on one self-contained page, HTML or Markdown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from optsweep_tui.cli import options, output


def command(
    context: typer.Context,
    study: options.Study = None,
    models: options.Models = None,
    optimizers: options.Optimizers = None,
    ratios: options.Ratios = None,
    datasets: options.Datasets = None,
    engines: options.Engines = None,
    where: options.Where = None,
    baseline: options.Baseline = None,
    sigma: options.Sigma = None,
    max_chinchilla: options.MaxChinchilla = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write, .html or .md [default: report-STUDY.html].")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Write the report of a study: verdict in words, tables, figures, audits, methods, provenance.

    The page needs no other file: mail it, print it, put it under version control.

    Examples: optsweep report | optsweep report --study reference --out reference.html | optsweep report --out report.md
    """
    from optsweep_tui import reporting
    from optsweep_tui.cli import present
    from optsweep_tui.errors import OptsweepError

    place = options.open_workspace(context, workspace)
    chosen = options.make_filter(study, models, optimizers, ratios, datasets, engines, where)
    frame = present.answers(place, chosen)
    name = str(frame["study"].iloc[0])
    target = out or Path(f"report-{name}.html")
    kind = target.suffix.lower().lstrip(".")
    if kind not in ("html", "md"):
        raise OptsweepError(f"--out {target}: a report is written as .html or .md", f"--out report-{name}.html")
    if target.exists() and not overwrite:
        raise OptsweepError(f"{target} exists already", "add --overwrite, or name another file with --out")
    if not target.parent.is_dir():
        raise OptsweepError(f"{target} cannot be written: {target.parent} is no folder", f"mkdir -p {target.parent}")
    reference = present.baseline_name(place, frame, baseline)
    choice = reporting.Choice(
        baseline=reference,
        sigma=options.checked_sigma(sigma),
        max_chinchilla=max_chinchilla,
        kind=kind,
        command=_command(context),
    )
    text = reporting.report(place, frame, choice, progress=_told() if not json_ else None)
    output.write_text(target, text)
    if json_:
        output.emit_json({"path": str(target), "study": name, "format": kind, "bytes": len(text.encode())})
    else:
        print(target)


def _told() -> Callable[[str], None]:
    """One line of progress that is written over itself; nothing where stderr is no terminal."""
    import sys

    def say(doing: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{doing} ...", end="" if doing else "\r\x1b[K", file=sys.stderr, flush=True)

    return say


def _command(context: typer.Context) -> str:
    """The command line without the workspace, which differs from machine to machine."""
    import shlex

    names = {
        "ratios": "chinchilla",
        "models": "model",
        "optimizers": "optimizer",
        "datasets": "dataset",
        "engines": "engine",
    }
    said = [
        f"--{names.get(name, name)} {shlex.quote(str(value))}"
        for name, value in context.params.items()
        if value is not None and name not in ("workspace", "json_", "overwrite", "out")
    ]
    return " ".join(["optsweep report", *said])
