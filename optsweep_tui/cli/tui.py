"""`optsweep tui`: the terminal app; --screenshot writes one screen as SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optsweep_tui.cli import options, output


def command(
    context: typer.Context,
    screenshot: Annotated[str | None, typer.Option("--screenshot", help="Write this screen as SVG and leave.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="File of the screenshot [default: SCREEN.svg].")] = None,
    width: Annotated[int, typer.Option("--width", help="Columns of the screenshot.")] = 120,
    height: Annotated[int, typer.Option("--height", help="Rows of the screenshot.")] = 40,
    slow_link: Annotated[bool, typer.Option("--slow-link", help="Fewer frames, no animation.")] = False,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Open the terminal app: sweep matrix, runs, live curves, SQL. `?` lists the keys, `q` leaves.

    Examples: optsweep tui | optsweep tui --screenshot compare --out compare.svg
    """
    import sys

    from optsweep_tui import app
    from optsweep_tui.errors import OptsweepError

    place = options.open_workspace(context, workspace)
    if screenshot is not None:
        path = out or Path(f"{screenshot}.svg")
        try:
            path.write_text(app.screenshot(place, screenshot, width=width, height=height))
        except OSError as error:
            raise OptsweepError(f"{path} cannot be written: {error.strerror}", "name another with --out FILE") from None
        if json_:
            output.emit_json([str(path)])
        else:
            print(path)
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise OptsweepError("the app needs a terminal", "optsweep watch and optsweep ls work without one")
    status = app.run_app(place, slow_link=slow_link)
    if status:
        raise typer.Exit(status)
