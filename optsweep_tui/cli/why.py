"""`optsweep why RUN|NUMBER_ID`: where a run comes from, or which runs, data and code a printed number rests on."""

from __future__ import annotations

from typing import Annotated

import typer

from optsweep_tui.cli import options, output


def command(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            metavar="RUN|NUMBER_ID",
            help="Run id or its first digits, or a number id.",
            autocompletion=options.complete_run,
        ),
    ],
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Resolve a printed number to its runs, data hashes and code digests; or a run to the numbers that it enters.

    Number ids are the column number_id of every analysis verb's --json, and can be typed: VERB/STUDY/OPTIMIZER/MODEL/RATIO,
    for rules VERB/STUDY/OPTIMIZER/KNOB; options behind a question mark (quote it for the shell).

    Examples: optsweep why speedup/reference/muon/130m/8 | optsweep why 'fit/reference/adamw/130m?sigma=0.002' |
    optsweep why hp/reference/muon/lr | optsweep why 3fa2
    """
    from optsweep_tui import why
    from optsweep_tui.cli import present_why

    place = options.open_workspace(context, workspace)
    if "/" in what:
        data = why.number(place, what)
        if json_:
            output.emit_json(data)
        else:
            present_why.print_number(data)
        return
    data = why.run(place, options.chosen_runs(place, [what])[0])
    if json_:
        output.emit_json(data)
    else:
        present_why.print_run(data)
