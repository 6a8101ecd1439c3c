"""All verbs under one Typer app, and the one place where an error becomes a line on stderr and an exit code."""

from __future__ import annotations

import errno
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from optsweep_tui.errors import Interrupted, OptsweepError

LAUNCHING = ("quickstart", "run", "tune", "watch", "retry", "resume", "reproduce", "parity", "certify", "bench", "tui")
"""Verbs that may have launched something, or watched it, when Ctrl-C comes."""

UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # click's own, or the copy of it that newer Typer carries
ClickError: type[Exception] = UsageError.__bases__[0]

VERBS = (
    "quickstart", "optimizers", "models", "datasets", "data", "grids",
    "run", "tune", "watch", "ls", "show", "logs", "cancel", "retry", "resume",
    "hosts", "collect", "import", "export", "reproduce", "sql", "snapshot", "gc",
    "table", "fit", "speedup",
    "stable", "edges", "sensitivity", "hp", "predict",
    "fairness", "flips", "noise", "power", "stop-audit", "profile", "ttest", "project", "why",
    "plot", "report",
    "parity", "certify", "bench", "doctor", "tui",
)  # fmt: skip
"""In the order of `--help`; each is the function `command` of the module of its name."""


def function_of(verb: str) -> Callable[..., None]:
    """What a verb calls; its module is imported here, so that the other verbs cost nothing."""
    module = f"{verb}_" if verb == "import" else verb.replace("-", "_")
    function: Callable[..., None] = importlib.import_module(f"optsweep_tui.cli.{module}").command
    return function


class Verbs(TyperGroup):
    """The verbs, each turned into a command only when it is called: building all of them takes longer than a `--help` may."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes | {"commands": dict.fromkeys(VERBS)})

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            return None
        single = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        single.command(cmd_name)(function_of(cmd_name))
        return typer.main.get_command(single)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        limit = formatter.width - 6 - max(map(len, VERBS))
        rows = []
        for verb in VERBS:
            text = inspect.cleandoc(function_of(verb).__doc__ or "")
            rows.append((verb, TyperCommand(name=verb, help=text).get_short_help_str(limit)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


app = typer.Typer(
    name="optsweep",
    cls=Verbs,
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


def interrupted(arguments: list[str]) -> str:
    """What Ctrl-C leaves behind and the next step, by the verb."""
    verb = next((argument for argument in arguments if argument in VERBS), None)
    if verb == "collect":
        return "interrupted. Nothing is lost; run optsweep collect again"
    if verb is None or verb in LAUNCHING:
        return "interrupted. optsweep resume takes up whatever was launched"
    return "interrupted. Run the command again"


def run_command(arguments: list[str]) -> int:
    """Run one verb."""
    try:
        code = app(args=arguments, prog_name="optsweep", standalone_mode=False)
        sys.stdout.flush()
        if code == 130:  # Typer swallows a Ctrl-C that came before a verb could say anything
            return _complain(interrupted(arguments), 130)
        return code if isinstance(code, int) else 0
    except Interrupted:
        return 130
    except OptsweepError as error:
        return _complain(str(error), error.exit_code)
    except ClickError as error:
        return _usage(error)
    except (KeyboardInterrupt, typer.Abort):
        return _complain(interrupted(arguments), 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader has gone: no complaint at interpreter exit
        return 0
    except MemoryError:
        return _complain(
            "this process gets no more memory (free, ulimit -v). Nothing is lost: optsweep resume, with more", 2
        )
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
