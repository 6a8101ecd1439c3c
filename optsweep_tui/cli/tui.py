"""`optsweep tui`: the terminal app; --screenshot writes one screen as SVG, --serve shows it in a browser of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optsweep_tui.cli import options, output

if TYPE_CHECKING:
    from optsweep_tui.settings import Workspace


def command(
    context: typer.Context,
    screenshot: Annotated[str | None, typer.Option("--screenshot", help="Write this screen as SVG and leave.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="File of the screenshot [default: SCREEN.svg].")] = None,
    size: Annotated[
        str, typer.Option("--size", metavar="COLUMNSxROWS", help="Of the screenshot, at least 60x15.")
    ] = "120x40",
    study: Annotated[str | None, typer.Option("--study", help="Study of the screenshot [default: the newest].")] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Show it in a browser of this machine (extra: serve).")
    ] = False,
    host: Annotated[str, typer.Option("--host", help="Loopback address that --serve listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port that --serve listens on.")] = 8000,
    slow_link: Annotated[bool, typer.Option("--slow-link", help="Fewer frames, no animation.")] = False,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
    served: Annotated[bool, typer.Option("--served", hidden=True)] = False,
) -> None:
    """Open the terminal app: sweep matrix, runs, live curves, SQL. `?` lists the keys, `q` leaves.

    Examples: optsweep tui | optsweep tui --screenshot compare --size 120x40 --out compare.svg | optsweep tui --serve
    """
    import sys

    from optsweep_tui import app
    from optsweep_tui.errors import OptsweepError

    place = options.open_workspace(context, workspace)
    if serve:
        _serve(place, host, port, slow_link)
        return
    if screenshot is not None:
        width, height = _size(size)
        path = out or Path(f"{screenshot}.svg")
        try:
            path.write_text(app.screenshot(place, screenshot, width=width, height=height, study=study))
        except OSError as error:
            raise OptsweepError(f"{path} cannot be written: {error.strerror}", "name another with --out FILE") from None
        if json_:
            output.emit_json([str(path)])
        else:
            print(path)
        return
    if not served and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise OptsweepError("the app needs a terminal", "optsweep watch and optsweep ls work without one")
    status = app.run_app(place, slow_link=slow_link)
    if status:
        raise typer.Exit(status)


def _size(text: str) -> tuple[int, int]:
    """120x40 -> (120, 40)."""
    import re

    from optsweep_tui.errors import OptsweepError

    match = re.fullmatch(r"(\d{1,4})[xX](\d{1,4})", text)
    if match is None or int(match[1]) < 60 or int(match[2]) < 15 or int(match[1]) > 500 or int(match[2]) > 200:
        raise OptsweepError(f"--size {text} is no size", "columns x rows, from 60x15 to 500x200, as in 120x40")
    return int(match[1]), int(match[2])


def _serve(place: Workspace, host: str, port: int, slow_link: bool) -> None:
    """Until Ctrl-C."""
    import importlib.util

    from optsweep_tui.errors import OptsweepError

    if importlib.util.find_spec("textual_serve") is None:
        raise OptsweepError("--serve needs textual-serve, which is not installed here", "pip install 'optsweep[serve]'")
    from optsweep_tui.app import serve as serving

    serving.serve(place, host, port, print_now, slow_link)


def print_now(text: str) -> None:
    """The address is data: on stdout, at once."""
    print(text, flush=True)
