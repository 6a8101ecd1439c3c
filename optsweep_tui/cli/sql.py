"""`optsweep sql QUERY`: one read-only statement on the store; --schema and --examples teach it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from optsweep_tui.cli import options, output


def command(
    context: typer.Context,
    query: Annotated[str | None, typer.Argument(help="A SELECT; - reads it from standard input.")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    parquet: Annotated[Path | None, typer.Option("--parquet", help="Write the rows to this Parquet file.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the data dictionary.")] = False,
    examples: Annotated[bool, typer.Option("--examples", help="Print queries that run.")] = False,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Ask the results in SQL. The store is opened read-only, for one statement.

    Example: optsweep sql "select optimizer, min(loss) from v_run group by 1 order by 2"
    """
    from optsweep_tui import flow
    from optsweep_tui.errors import OptsweepError

    if examples or schema:
        rows = flow.sql_examples() if examples else flow.sql_dictionary()
        if json_:
            output.emit_json(rows)
        elif examples:
            for row in rows:
                print(f"-- {row['title']}\n{row['query']}\n")
        else:
            table = ""
            for row in rows:
                if row["table"] != table:
                    table = row["table"]
                    print(f"\n{table}")
                print(f"  {row['column']:28}{row['type']:12}{row['meaning']}")
        return
    if query == "-":
        query = sys.stdin.read()
    if not query or not query.strip():
        raise OptsweepError("there is no query", "optsweep sql --examples prints some")
    frame = flow.sql(options.open_workspace(context, workspace), query)
    if parquet is not None:
        try:
            with open(parquet, "xb") as target:  # never over a file that is there
                frame.to_parquet(target, index=False)
        except FileExistsError:
            raise OptsweepError(f"{parquet} exists already", "name another file") from None
        except OSError as error:
            raise OptsweepError(f"{parquet} cannot be written: {error.strerror}", "name another file") from None
        output.say(f"{len(frame)} rows written to {parquet}")
    if json_:
        output.emit_json(output.records(frame))
    elif csv:
        frame.to_csv(sys.stdout, index=False)
    elif parquet is None:
        output.print_table(
            [str(column) for column in frame.columns],
            [[output.number(value, 6) for value in row.values()] for row in output.records(frame)],
            left=[index for index, kind in enumerate(frame.dtypes) if kind.kind not in "fiub"],
        )
