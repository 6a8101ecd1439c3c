"""`optsweep data prepare NAME [--from PATH]` and `optsweep data ls`: corpora to shards, and what is prepared here."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optsweep_tui.cli import options, output

if TYPE_CHECKING:
    from collections.abc import Callable

    from optsweep_engines.shards import PreparedDataset
    from optsweep_tui.preparing.job import Look, Outcome
    from optsweep_tui.settings import Workspace

ACTIONS = ("prepare", "ls")
QUIET_SECONDS = 10.0
"""Between two lines of progress where stderr is no terminal."""

WINDOW = 128
"""Tokens in a sequence of bench-micro, the model of the command that is proposed."""
VALIDATION_TOKENS = 65536
"""Of a run, where it is not told otherwise."""


def command(
    context: typer.Context,
    action: Annotated[str, typer.Argument(help="prepare or ls.")],
    name: Annotated[str | None, typer.Argument(help="prepare: a name of the catalogue, or a new one.")] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Text or .jsonl (also .gz, .zst), .parquet, .npy or .bin; a file or a folder."),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", help="tokenizer.json, a tiktoken file, bytes or characters [default: bytes]."),
    ] = None,
    field: Annotated[str | None, typer.Option("--field", help="Key or column of the text [default: text].")] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", help="Processes that tokenise [default: one per core for a tokenizer file]."),
    ] = None,
    held_out: Annotated[
        float | None, typer.Option("--held-out", help="Share of the documents for validation [default: 0.05].")
    ] = None,
    tokens: Annotated[
        str | None, typer.Option("--tokens", help="Stop after about so many training tokens: 2e9.")
    ] = None,
    vocab_size: Annotated[
        int | None, typer.Option("--vocab-size", help="Of token arrays [default: largest token + 1].")
    ] = None,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Make a corpus into shards that runs can name with --dataset, or list those that are here.

    A call that was cut, by Ctrl-C, kill -9 or a full disk, goes on when it is repeated. Documents are held out by the hash
    of their text; one long text and token arrays are cut at a place.

    Examples: optsweep data prepare mine --from corpus.jsonl.gz | optsweep data prepare mine --from texts/ --tokenizer
    tokenizer.json | optsweep data prepare shakespeare --from input.txt | optsweep data ls
    """
    from optsweep_tui.errors import OptsweepError, UnknownName

    if action not in ACTIONS:
        raise UnknownName("data", action, ACTIONS)
    place = options.open_workspace(context, workspace)
    if action == "ls":
        _list(place, name, json_)
        return
    if name is None:
        raise OptsweepError("data prepare needs the name of a dataset", "optsweep data prepare NAME --from PATH")
    from optsweep_tui.preparing import job

    request = job.Request(
        name=name,
        source=source,
        tokenizer=tokenizer,
        field=field,
        workers=workers,
        held_out=held_out,
        most_tokens=_count(tokens),
        vocab_size=vocab_size,
    )
    show, end = _meter()
    try:
        outcome = job.prepare(place, request, say=output.say, show=show)
    finally:
        end()
    if json_:
        output.emit_json([described(outcome.prepared) | {"already": outcome.already}])
    else:
        _show(outcome)


def _count(text: str | None) -> int | None:
    from optsweep_tui.errors import OptsweepError

    if text is None:
        return None
    try:
        value = float(text.replace("_", "").replace(",", ""))
        if 1 <= value < 2**40:
            return round(value)
    except (ValueError, OverflowError):
        pass
    raise OptsweepError(f'--tokens "{text}" is no number of tokens', "write --tokens 2e9")


def _meter() -> tuple[Callable[[Look], None], Callable[[], None]]:
    """How far it is, on stderr: one line that is rewritten on a terminal, else a line now and then."""
    terminal = sys.stderr.isatty()
    last, drawn = time.monotonic() if not terminal else 0.0, False

    def show(look: Look) -> None:
        nonlocal last, drawn
        now = time.monotonic()
        if now - last < (0.2 if terminal else QUIET_SECONDS):
            return
        last, drawn = now, True
        share = f"{look.done / look.size:5.1%} of {output.count_text(look.size)}B" if look.size else ""
        rate = (look.done - look.begun_at) / 1e6 / max(look.seconds, 1e-9)
        eta = f"   {output.duration_text(look.eta_seconds)} left" if look.eta_seconds is not None else ""
        text = f"{share}   {output.count_text(look.tokens)} tokens   {rate:.1f} MB/s{eta}"
        print(f"\r{text}\033[K" if terminal else text, end="" if terminal else "\n", file=sys.stderr, flush=True)

    def end() -> None:
        if terminal and drawn:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    return show, end


def _show(outcome: Outcome) -> None:
    found, state = outcome.prepared, outcome.state
    print(
        f"{found.name}   {found.sha256[:12]}   {'is there already, made from the same' if outcome.already else 'prepared'}"
    )
    print(f"  {found.train_tokens:,} training tokens, {found.validation_tokens:,} held out")
    print(f"  vocabulary {found.vocab_size:,}, {found.tokenizer or 'bytes'}")
    if state.documents:
        empty = f", {state.empty:,} of them empty" if state.empty else ""
        print(f"  {state.documents:,} documents{empty}")
    if outcome.skipped_files:
        print(f"  {outcome.skipped_files:,} files of the folder are no text and were left out")
    print(f"  {found.folder}")
    output.say(_next(found))


def _next(found: PreparedDataset) -> str:
    """A command that trains on it: a run validates on 65,536 tokens where it is not told otherwise, which must be there."""
    held = found.validation_tokens
    if held <= WINDOW:
        return f"note: {held:,} tokens held out are less than a window of {WINDOW}: hold out more with --held-out"
    fewer = f" --set validation_tokens={1 << (held - 1).bit_length() - 1}" if held <= VALIDATION_TOKENS else ""
    return f"optsweep run -o adamw -m bench-micro -c 0.01 --dataset {found.name}{fewer} trains on it"


def described(found: PreparedDataset) -> dict[str, Any]:
    """One prepared dataset as an object."""
    return {
        "name": found.name,
        "sha256": found.sha256,
        "vocab_size": found.vocab_size,
        "train_tokens": found.train_tokens,
        "validation_tokens": found.validation_tokens,
        "tokenizer": found.tokenizer or None,
        "tokenizer_sha256": found.tokenizer_sha256 or None,
        "bytes": sum((found.folder / f"{split}.bin").stat().st_size for split in ("train", "validation")),
        "source": found.source,
        "folder": str(found.folder),
    }


def _unfinished(place: Workspace) -> list[dict[str, Any]]:
    """What was begun and cut: the same call goes on with it, a finished one of the name removes it."""
    return [
        {
            "name": folder.name.removeprefix(".preparing-").rpartition("-")[0],
            "sha256": None,
            "bytes": sum(path.stat().st_size for path in folder.glob("*.bin")),
            "folder": str(folder),
            "state": "unfinished",
        }
        for folder in sorted(place.data.glob(".preparing-*"))
    ]


def _list(place: Workspace, name: str | None, json_: bool) -> None:
    from optsweep_engines import shards
    from optsweep_tui import datasets
    from optsweep_tui.errors import UnknownName

    rows: list[dict[str, Any]] = []
    for _, folder, manifest in sorted(shards.manifests(place.data), key=lambda item: (item[2]["name"], -item[0])):
        if name is not None and manifest["name"].lower() != name.lower():
            continue
        used = datasets.used(place, manifest["name"])
        try:
            row = described(shards.read(folder)) | {"state": "used" if folder == used else "older"}
        except ValueError as error:
            row = {"name": manifest["name"], "sha256": manifest["sha256"], "folder": str(folder), "state": "damaged"}
            row["problem"] = str(error)
        rows.append(row)
    rows += [row for row in _unfinished(place) if name is None or row["name"].lower() == name.lower()]
    if name is not None and not rows:
        known = sorted({manifest["name"] for _, _, manifest in shards.manifests(place.data)})
        raise UnknownName("prepared dataset", name, known, hint=f"optsweep data prepare {name} --from PATH")
    if json_:
        output.emit_json(rows)
        return
    if not rows:
        output.say(f"nothing is prepared in {place.data}. optsweep data prepare NAME --from PATH does it")
        return
    output.print_table(
        ["dataset", "hash", "vocab", "train", "held out", "size", "tokenizer", "state"],
        [
            (
                row["name"],
                (row["sha256"] or "·")[:12],
                f"{row['vocab_size']:,}" if "vocab_size" in row else "·",
                output.count_text(row.get("train_tokens")),
                output.count_text(row.get("validation_tokens")),
                f"{output.count_text(row['bytes'])}B" if "bytes" in row else "·",
                row.get("tokenizer") or "·",
                row["state"],
            )
            for row in rows
        ],
        left=(0, 1, 6, 7),
    )
    for row in rows:
        if row["state"] == "damaged":
            output.say(f"{row['problem']}")
    if any(row["state"] == "unfinished" for row in rows):
        print("unfinished: the same call goes on with it")
    if any(row["state"] == "older" for row in rows):
        print(
            "used: what --dataset NAME means now, the newest of its name; runs planned on an older one keep it by its hash"
        )
