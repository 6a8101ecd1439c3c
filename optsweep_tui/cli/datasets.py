"""`optsweep datasets [NAME]`: the corpora that a run can name, and which are prepared in this workspace."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from optsweep_tui.cli import options, output


def command(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="One dataset.")] = None,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """List the datasets, or show one.

    Examples: optsweep datasets | optsweep datasets embedded --json
    """
    from optsweep_engines import data
    from optsweep_tui.errors import UnknownName

    root = options.open_workspace(context, workspace).data
    if name is not None:
        try:
            row = _described(data.dataset(name, root).name, root)
        except LookupError:
            raise UnknownName("dataset", name, _names(root), hint="(optsweep datasets lists all)") from None
        if json_:
            output.emit_json(row)
        else:
            for key, value in row.items():
                print(f"{key:20}{value}")
        return
    rows = [_described(entry, root) for entry in _names(root)]
    if json_:
        output.emit_json(rows)
        return
    output.print_table(
        ["dataset", "prepared here", "vocab", "train tokens", "validation", "hash", "what it is"],
        [
            (
                row["name"],
                "yes" if row["prepared"] else "no",
                f"{row['vocab_size']:,}",
                output.count_text(row["train_tokens"]),
                output.count_text(row["validation_tokens"]),
                (row["sha256"] or "·")[:12],
                row["doc"],
            )
            for row in rows
        ],
        left=(0, 1, 6),
    )


def _names(root: Path) -> list[str]:
    """Those of the catalogue, then those that were prepared here from corpora of one's own."""
    from optsweep_engines import data

    return [*data.datasets(), *(entry.name for entry in data.own(root))]


def _described(name: str, root: Path) -> dict[str, Any]:
    from optsweep_engines import data
    from optsweep_tui.errors import OptsweepError

    entry = data.dataset(name, root)
    try:
        prepared = data.find(name, root)
    except ValueError as error:
        raise OptsweepError(f"dataset {name} is damaged: {error}", "optsweep data ls shows its folder") from None
    return {
        "name": entry.name,
        "prepared": prepared is not None,
        "preparable": entry.documents is not None,
        "vocab_size": prepared.vocab_size if prepared else entry.vocab_size,
        "tokenizer": (prepared.tokenizer or None) if prepared else None,
        "train_tokens": prepared.train_tokens if prepared else None,
        "validation_tokens": prepared.validation_tokens if prepared else None,
        "sha256": prepared.sha256 if prepared else None,
        "folder": str(prepared.folder) if prepared else None,
        "source": entry.source,
        "doc": entry.doc,
    }
