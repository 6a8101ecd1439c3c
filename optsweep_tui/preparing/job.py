"""`prepare(workspace, request)`: a corpus to shards, from where an earlier call stopped; what `optsweep data prepare` calls."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optsweep_engines import shards
from optsweep_engines.shards import PreparedDataset
from optsweep_tui.errors import OptsweepError
from optsweep_tui.preparing import chosen, journal, pool
from optsweep_tui.preparing.chosen import Chosen, Request
from optsweep_tui.preparing.journal import Journal, State
from optsweep_tui.preparing.worker import Rules
from optsweep_tui.settings import Workspace

FORM = 1
"""Of what is read and cut and how: another number begins everything anew."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """How far it is."""

    done: int
    size: int
    """Bytes of the corpus; 0 where nobody knows."""
    tokens: int
    seconds: float
    """Since this call began to read."""
    begun_at: int
    """Bytes that an earlier call had done."""

    @property
    def eta_seconds(self) -> float | None:
        """Until everything is read, at the rate so far."""
        read = self.done - self.begun_at
        return (self.size - self.done) * self.seconds / read if self.size and read > 0 else None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of it."""

    prepared: PreparedDataset
    already: bool
    """It was there, made from the same."""
    state: State
    """Documents and splits; empty where it was there."""
    skipped_files: int = 0


def prepare(
    workspace: Workspace,
    request: Request,
    *,
    say: Callable[[str], None] = lambda _: None,
    show: Callable[[Look], None] = lambda _: None,
) -> Outcome:
    """Make the shards of a corpus; they appear whole or not at all.

    Args:
        say: called with a line about what a user should know.
        show: called with each batch that is done.

    Raises:
        OptsweepError: bad input, a full disk, no network; nothing is published. What was done is kept for the next call.
    """
    found = chosen.choose(workspace, request, say)
    if isinstance(found, PreparedDataset):
        return Outcome(prepared=found, already=False, state=State())
    root = workspace.ensure().data
    fingerprint = _key(found, found.source.identity)
    there = _already(found, fingerprint, root)
    if there is not None:
        return Outcome(prepared=there, already=True, state=State())
    folder = root / f".preparing-{found.name}-{_key(found)[:12]}"
    try:
        with journal.held(folder, found.name):
            outcome = _made(found, fingerprint, Journal(folder, found.vocabulary.dtype.itemsize), root, say, show)
        if journal.drop_others(root, f".preparing-{found.name}-", folder):
            say(f"what was begun under the name {found.name} from something else, and not finished, is dropped")
        return outcome
    except OSError as error:
        where = error.filename or root
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = f"the disk is full: {where}, while dataset {found.name} was prepared"
            raise OptsweepError(text, "free some space and call again: it goes on where it was") from None
        raise OptsweepError(f"{where}: {error.strerror or error}", "mend that and call again") from None


def _made(
    found: Chosen,
    fingerprint: str,
    shelf: Journal,
    root: Path,
    say: Callable[[str], None],
    show: Callable[[Look], None],
) -> Outcome:
    try:
        state = shelf.resume(found.source)
        if state.after is not None:
            done = f"{state.done / found.source.size:.0%}" if found.source.size else f"{state.done:,} bytes"
            say(f"going on where an earlier call stopped: {done} is done")
        chosen.require_space(found, root, state.train + state.validation)
        _read(found, shelf, state, show)
    except OptsweepError:
        shelf.keep_or_drop()
        raise
    finally:
        shelf.close()
    try:
        train, validation = shelf.split(found.held_out, found.source.by_position)
    except OptsweepError:
        shutil.rmtree(shelf.folder, ignore_errors=True)
        raise
    manifest = _manifest(found, shelf.state, train, validation) | {"fingerprint": fingerprint}
    if found.vocabulary.path:
        target = shelf.folder / f"tokenizer{Path(found.vocabulary.path).suffix}"
        shutil.copyfile(found.vocabulary.path, target)  # so that the tokens can still be read when the original is gone
    prepared = shards.publish(shelf.folder, root, manifest)
    _tidy(prepared.folder)
    return Outcome(
        prepared=prepared,
        already=False,
        state=shelf.state,
        skipped_files=getattr(found.source, "skipped", 0),
    )


def _read(found: Chosen, shelf: Journal, begun: State, show: Callable[[Look], None]) -> None:
    """Every batch that is left through the tokenizer to the shelf, up to so many tokens."""
    width = found.vocabulary.dtype.itemsize
    started = time.monotonic()
    if found.most_tokens is not None and begun.train // width >= found.most_tokens:
        return
    rules = Rules(vocabulary=found.vocabulary, held_out=found.held_out)
    with contextlib.closing(pool.tokenised(found.source.batches(begun.after), rules, found.workers)) as batches:
        for batch, tokens in batches:
            shelf.add(batch, tokens)
            show(
                Look(
                    done=batch.done,
                    size=found.source.size,
                    tokens=(shelf.state.train + shelf.state.validation) // width,
                    seconds=time.monotonic() - started,
                    begun_at=begun.done,
                )
            )
            if found.most_tokens is not None and shelf.state.train // width >= found.most_tokens:
                break
    shelf.make_safe()


def _key(found: Chosen, identity: str = "") -> str:
    """A hash over all that decides the tokens; with the identity of the corpus, over its content as far as its files tell."""
    names = {
        "form": FORM,
        "name": found.name,
        "origin": found.origin,
        "field": found.field,
        "tokenizer": [found.vocabulary.kind, found.vocabulary.sha256, found.vocabulary.vocab_size],
        "held_out": found.held_out,
        "most_tokens": found.most_tokens,
        "identity": identity,
    }
    return hashlib.sha256(json.dumps(names, sort_keys=True).encode()).hexdigest()


def _already(found: Chosen, fingerprint: str, root: Path) -> PreparedDataset | None:
    """Shards that were made from the same and are undamaged; they become the newest of their name, so runs use them."""
    for _, folder, manifest in shards.manifests(root, found.name):
        if manifest["name"] == found.name and manifest.get("fingerprint") == fingerprint and found.source.identity:
            with contextlib.suppress(ValueError):
                prepared = shards.read(folder)
                prepared.verify_once()
                os.utime(folder / shards.MANIFEST)
                _tidy(folder)
                return prepared
    return None


def _tidy(folder: Path) -> None:
    """What only the making needs, which a kill right behind the publishing leaves there."""
    for name in ("journal.jsonl", "lock"):
        (folder / name).unlink(missing_ok=True)


def _manifest(found: Chosen, state: State, train: int, validation: int) -> dict[str, Any]:
    words = found.vocabulary
    manifest: dict[str, Any] = {
        "name": found.name,
        "vocab_size": words.vocab_size,
        "train_tokens": train,
        "validation_tokens": validation,
        "source": found.origin,
        "tokenizer": words.name,
        "tokenizer_kind": words.kind,
        "tokenizer_sha256": words.sha256,
        "end_of_text": words.end_of_text,
        "documents": state.documents,
        "held_out_documents": state.held_out,
        "held_out_share": found.held_out,
        "field": found.field,
    }
    if found.most_tokens is not None:
        manifest["most_tokens"] = found.most_tokens
    if words.characters:
        manifest["characters"] = words.characters
    return manifest


__all__ = ["Look", "Outcome", "Request", "prepare"]
