"""All verbs under one Typer app, and the one place where an error becomes a line on stderr and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from optsweep_tui.cli import (
    cancel,
    collect,
    datasets,
    doctor,
    export,
    fit,
    gc,
    grids,
    import_,
    logs,
    ls,
    models,
    optimizers,
    plot,
    quickstart,
    resume,
    retry,
    run,
    show,
    snapshot,
    speedup,
    sql,
    table,
    tui,
    watch,
)
from optsweep_tui.errors import Interrupted, OptsweepError

INTERRUPTED = "interrupted. optsweep resume takes up whatever was launched"

UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # click's own, or the copy of it that newer Typer carries
ClickError: type[Exception] = UsageError.__bases__[0]

app = typer.Typer(
    name="optsweep",
    help="The lab bench for pretraining optimizers, in a terminal.",
    epilog="Start with: optsweep quickstart. Every verb has --help with examples, and --json.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root(
    context: typer.Context,
    workspace: Annotated[
        Path | None, typer.Option("--workspace", "-w", help="Folder of the work [default: $OPTSWEEP_WORKSPACE or .].")
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    context.obj = workspace
    if version:
        from optsweep_tui import __version__

        typer.echo(f"optsweep {__version__}")
        raise typer.Exit


for _verb, _module in (
    ("quickstart", quickstart),
    ("optimizers", optimizers),
    ("models", models),
    ("datasets", datasets),
    ("grids", grids),
    ("run", run),
    ("watch", watch),
    ("ls", ls),
    ("show", show),
    ("logs", logs),
    ("cancel", cancel),
    ("retry", retry),
    ("resume", resume),
    ("collect", collect),
    ("import", import_),
    ("export", export),
    ("sql", sql),
    ("snapshot", snapshot),
    ("gc", gc),
    ("table", table),
    ("fit", fit),
    ("speedup", speedup),
    ("plot", plot),
    ("doctor", doctor),
    ("tui", tui),
):
    app.command(_verb)(_module.command)


def run_command(arguments: list[str]) -> int:
    """Run one verb."""
    try:
        code = app(args=arguments, prog_name="optsweep", standalone_mode=False)
        sys.stdout.flush()
        if code == 130:  # Typer swallows a Ctrl-C that came before a verb could say anything
            return _complain(INTERRUPTED, 130)
        return code if isinstance(code, int) else 0
    except Interrupted:
        return 130
    except OptsweepError as error:
        return _complain(str(error), error.exit_code)
    except ClickError as error:
        return _usage(error)
    except (KeyboardInterrupt, typer.Abort):
        return _complain(INTERRUPTED, 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader has gone: no complaint at interpreter exit
        return 0
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _complain(f"the disk is full{place}. Free some space, then optsweep resume; nothing is lost", 2)
        return _complain(f"{error.strerror or error}{place}. Mend that and run the command again", 2)


def _usage(error: Any) -> int:
    context = getattr(error, "ctx", None)
    if context is not None and type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(context.get_help())
        return 0
    verb = context.command_path if context else "optsweep"
    return _complain(f"{error.format_message().rstrip('.')}. {verb} --help shows the options", 2)


def _complain(text: str, code: int) -> int:
    try:
        print(f"error: {' '.join(text.split())}", file=sys.stderr, flush=True)
    except OSError:
        pass
    return code
