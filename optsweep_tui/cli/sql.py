"""`optsweep sql QUERY`: one read-only statement on the store; --schema and --examples teach it."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Annotated

import typer

from optsweep_tui.cli import options, output


def command(
    context: typer.Context,
    query: Annotated[str | None, typer.Argument(help="A SELECT; - reads it from standard input.")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    parquet: Annotated[Path | None, typer.Option("--parquet", help="Write the rows to this Parquet file.")] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the data dictionary, or the part of one table or view.")
    ] = False,
    examples: Annotated[bool, typer.Option("--examples", help="Print queries that run.")] = False,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Ask the results in SQL. The store is opened read-only, for one statement.

    Examples: optsweep sql "select optimizer, min(loss) from v_run group by 1 order by 2"
    | optsweep sql --schema v_metric
    """
    from optsweep_tui import flow
    from optsweep_tui.errors import OptsweepError

    if schema:
        rows = flow.sql_dictionary(query)
        output.emit_json(rows) if json_ else _print_schema(rows, flow.sql_descriptions(), whole=query is None)
        return
    if examples:
        rows = flow.sql_examples()
        output.emit_json(rows) if json_ else _print_examples(rows)
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


def _print_schema(rows: list[dict[str, str]], about: dict[str, str], *, whole: bool) -> None:
    """One table after the other: what it holds, then a line per column with type, unit and meaning."""
    width = max(output.console().width, 60)
    names = list(dict.fromkeys(row["table"] for row in rows))
    if whole:
        print("Views (v_...) are for people, tables for joins. optsweep sql --schema NAME prints one of them.")
        names.sort(key=lambda name: not name.startswith("v_"))
    for name in names:
        own = [row for row in rows if row["table"] == name]
        print(f"\n{textwrap.fill(f'{name}: {about[name]}', width, subsequent_indent='  ')}" if whole else about[name])
        heads = [f"{row['type'].lower()}{', ' + row['unit'] if row['unit'] else ''}" for row in own]
        first, second = max(len(row["column"]) for row in own), max(map(len, heads))
        for row, head in zip(own, heads, strict=True):
            start = f"  {row['column']:{first}}  {head:{second}}  "
            room = max(width - len(start), 24)
            lines = textwrap.wrap(row["meaning"], room) or [""]
            print(start + f"\n{' ' * len(start)}".join(lines))


def _print_examples(rows: list[dict[str, str]]) -> None:
    for row in rows:
        print(f"-- {row['title']}\n{row['query']}\n")
