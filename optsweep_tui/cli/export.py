"""`optsweep export FORMAT TARGET`: runs for other programs, or one run as a bundle that anybody can rerun."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optsweep_tui.cli import options, output

if TYPE_CHECKING:
    from optsweep_tui.settings import Workspace


def command(
    context: typer.Context,
    format_: Annotated[
        str | None, typer.Argument(metavar="FORMAT", help="Format; without one they are listed.")
    ] = None,
    target: Annotated[
        str | None, typer.Argument(help="File or folder to write, which must not exist; for a bundle: the run.")
    ] = None,
    study: Annotated[str | None, typer.Option("--study", help="Only runs of this study [default: all].")] = None,
    models: options.Models = None,
    optimizers: options.Optimizers = None,
    ratios: options.Ratios = None,
    datasets: options.Datasets = None,
    engines: options.Engines = None,
    where: options.Where = None,
    out: Annotated[Path | None, typer.Option("--out", help="bundle: file to write [default: RUN.bundle.zip].")] = None,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Write runs in a format that `optsweep import` of the same name reads back; what it has no place for is listed.

    Examples: optsweep export csv runs.csv | optsweep export parquet muon.parquet --study reference -o muon
    | optsweep export wandb ./wandb | optsweep export marin ./tree --study reference | optsweep export bundle 3fa2
    """
    from optsweep_tui import exchange
    from optsweep_tui.errors import OptsweepError

    if format_ is None:
        formats = exchange.export_formats()
        if json_:
            output.emit_json(formats)
        else:
            output.print_table(["format", "is"], [list(entry.values()) for entry in formats], left=(0, 1))
        return
    if target is None:
        what = "the id of a run" if format_.lower() == "bundle" else "a file or folder to write"
        raise OptsweepError(f"export {format_} needs {what}", "optsweep export --help shows examples")
    place = options.open_workspace(context, workspace)
    chosen = options.make_filter(study, models, optimizers, ratios, datasets, engines, where)
    if format_.lower() == "bundle":
        if any((study, models, optimizers, ratios, datasets, engines, where)):
            raise OptsweepError("a bundle holds one run: there is nothing to filter", "optsweep export bundle RUN")
        _bundle(place, target, out, json_)
        return
    if out is not None:
        raise OptsweepError("--out is for bundles", f"optsweep export {format_} TARGET")
    if format_.lower() == "baselines":
        report = exchange.export_baselines(place, Path(target), chosen)
    else:
        report = exchange.export_results(place, format_, Path(target), chosen)
    if json_:
        output.emit_json(report)
    else:
        files = f"   {report.files} files" if report.files > 1 else ""
        print(f"{report.file}   {output.runs_text(report.rows)}{files}")
        for entry in report.skipped:
            output.say(
                f"{entry.where}: {entry.why}"
                if report.format == "baselines"
                else f"left out: {entry.where}: {entry.why}"
            )
    if not report.rows and report.skipped:
        raise typer.Exit(1)


def _bundle(workspace: Workspace, prefix: str, out: Path | None, json_: bool) -> None:
    from optsweep_tui import exchange

    report = exchange.export_bundle(workspace, options.chosen_runs(workspace, [prefix])[0], out)
    if json_:
        output.emit_json(report)
        return
    print(f"{report.file}   run {report.run_id[:12]}   {report.bytes / 2**20:.2f} MiB   sha256 {report.sha256[:12]}")
    if report.code_is_what_ran is False:
        output.say(
            "note: the engines were changed since the run was trained; the bundle holds the code that is here now"
        )
    if report.code_is_what_ran is None:
        output.say(
            "note: the run's record does not say which code trained it; the bundle holds the code that is here now"
        )
    if not report.data_is_described:
        output.say("note: its dataset is not prepared here any more; the bundle holds its name and hash")
    if report.sigma is None:
        output.say(
            "note: no run-to-run noise was measured in its study; a rerun that is not identical cannot be judged"
        )
