"""What a call of `data prepare` means: the corpus, the tokenizer and the split, each checked before anything is written."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from optsweep_engines import data
from optsweep_engines.shards import PreparedDataset
from optsweep_tui import settings
from optsweep_tui.errors import OptsweepError
from optsweep_tui.preparing import hub, inputs, vocabulary, worker
from optsweep_tui.preparing.arrays import ArraySource
from optsweep_tui.preparing.hub import PUBLISHED
from optsweep_tui.preparing.joined import Mixed
from optsweep_tui.preparing.readers import FileSource, Source
from optsweep_tui.preparing.vocabulary import Vocabulary
from optsweep_tui.settings import Workspace

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,60}")
HELD_OUT = data.VALIDATION_PERCENT / 100
"""Share of the documents that are held out, where nobody says otherwise."""
DEFAULT_FIELD = "text"


@dataclass(frozen=True, kw_only=True)
class Request:
    """A call, as it was typed."""

    name: str
    source: Path | None = None
    tokenizer: str | None = None
    """A file, or bytes, or characters."""
    field: str | None = None
    workers: int | None = None
    held_out: float | None = None
    most_tokens: int | None = None
    """Stop behind the batch that reaches so many training tokens."""
    vocab_size: int | None = None
    """Of token arrays."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A call, resolved."""

    name: str
    source: Source
    origin: str
    """Path or repositories of the corpus."""
    vocabulary: Vocabulary
    field: str
    held_out: float
    workers: int
    most_tokens: int | None
    least_bytes: int
    """Of the shards, where it can be told before they are made; else 0."""


def choose(workspace: Workspace, request: Request, say: Callable[[str], None]) -> Chosen | PreparedDataset:
    """Resolve a call; the corpus that comes with the program is prepared at once.

    Raises:
        OptsweepError: it cannot be done, with the reason.
    """
    name = _name(request.name)
    _check_numbers(request)
    known = {key.lower(): entry for key, entry in data.datasets().items()}.get(name.lower())
    name = known.name if known else name
    if known is not None and known.documents is not None:
        return _built_in(workspace, request, known)
    if request.source is None and known is None:
        raise OptsweepError(
            f'dataset "{name}" is in no catalogue, and no corpus is named',
            f"optsweep data prepare {name} --from PATH; optsweep datasets lists the catalogue",
        )
    kind, field = "text", request.field or DEFAULT_FIELD
    if name == "shakespeare" and request.source is None:
        files = inputs.found(hub.shakespeare(workspace))
        source: Source = FileSource(files, field)
        origin = hub.SHAKESPEARE
    elif request.source is None:
        words = _vocabulary(name, request, None, say)  # before the corpus: the hub is asked for it first
        source = hub.source_of(name)
        origin = ", ".join(stream.repository for stream in PUBLISHED[name].streams)
        return _done(name, request, source, origin, words, field, PUBLISHED[name].held_out, 0)
    else:
        folder = request.source.expanduser().resolve()
        origin = str(folder)
        if name in PUBLISHED and PUBLISHED[name].mixed:
            source = _mix(name, folder, request)
        else:
            files = inputs.found(folder)
            kind = files.kind
            if files.passed_over:
                say(f"note: {files.passed_over} files of the folder are of another kind and are passed over")
            if kind == "arrays":
                source = ArraySource(files, _size_of_arrays(request, known))
            else:
                source = FileSource(files, field)
    words = _vocabulary(name, request, source, say)
    if known is not None and words.vocab_size != known.vocab_size:
        say(
            f"note: {name} as published has {known.vocab_size:,} tokens, this one has {words.vocab_size:,} "
            f"({words.name}): its hash is another, and so are its cells"
        )
    plain = kind == "text" and words.kind == "bytes" and not _packed(request.source)
    least = source.size * (2 if plain else 1 if kind == "arrays" else 0)
    return _done(name, request, source, origin, words, field, HELD_OUT, least)


def _done(
    name: str,
    request: Request,
    source: Source,
    origin: str,
    words: Vocabulary,
    field: str,
    held_out: float,
    least: int,
) -> Chosen:
    slow = words.kind in ("tokenizer.json", "tiktoken") and not isinstance(source, ArraySource)
    return Chosen(
        name=name,
        source=source,
        origin=origin,
        vocabulary=words,
        field=field,
        held_out=held_out if request.held_out is None else request.held_out,
        workers=request.workers or (settings.usable_cores() if slow else 1),
        most_tokens=request.most_tokens,
        least_bytes=0 if request.most_tokens else least,
    )


def _name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise OptsweepError(f'"{name}" is no name for a dataset', "use letters, digits, _, - and .; at most 61")
    return name


def _check_numbers(request: Request) -> None:
    share = request.held_out
    if share is not None and not 0 < share < 1:
        raise OptsweepError(f"--held-out {share:g} is no share between 0 and 1", "write --held-out 0.01")
    for value, option in (
        (request.workers, "--workers"),
        (request.most_tokens, "--tokens"),
        (request.vocab_size, "--vocab-size"),
    ):
        if value is not None and not 0 < value < 2**40:
            raise OptsweepError(f"{option} {value} is no positive number", f"leave {option} out, or mend it")
    if request.vocab_size is not None and request.vocab_size > 2**32:
        raise OptsweepError(f"--vocab-size {request.vocab_size} does not fit into four bytes", "mend it")


def _built_in(workspace: Workspace, request: Request, entry: data.DatasetEntry) -> PreparedDataset:
    if request.source is not None or request.tokenizer is not None:
        raise OptsweepError(
            f"{entry.name} is {entry.source}",
            "give your corpus a name of its own: optsweep data prepare NAME --from PATH",
        )
    root = workspace.ensure().data
    try:
        found = data.find(entry.name, root)
        if found is not None:
            found.verify_once()
            return found
    except ValueError:
        pass  # damaged: made again, which mends it
    try:
        return data.prepare(entry.name, root)
    except ValueError as error:
        raise OptsweepError(f"dataset {entry.name}: {error}", "give a corpus of your own with --from PATH") from None
    except OSError as error:
        raise OptsweepError(
            f"dataset {entry.name} cannot be written to {root}: {error.strerror or error}",
            "free some space or name another folder with --workspace DIR",
        ) from None


def _packed(path: Path | None) -> bool:
    return path is not None and path.suffix in inputs.PACKED


def _size_of_arrays(request: Request, known: data.DatasetEntry | None) -> int | None:
    """Vocabulary of token arrays: as given, else the tokenizer's, else the catalogue's."""
    if request.vocab_size is not None:
        return request.vocab_size
    if request.tokenizer not in (None, "bytes", "characters"):
        return vocabulary.of_file(Path(str(request.tokenizer)).expanduser()).vocab_size
    return known.vocab_size if known else None


def _vocabulary(name: str, request: Request, source: Source | None, say: Callable[[str], None]) -> Vocabulary:
    asked = request.tokenizer
    if isinstance(source, ArraySource):
        return _of_arrays(source, request)
    if request.vocab_size is not None:
        raise OptsweepError(
            "--vocab-size is for token arrays (.npy, .bin)", "a tokenizer knows its own size: leave it out"
        )
    if asked is None:
        asked = "characters" if name == "shakespeare" else "hub" if name in PUBLISHED else "bytes"
    if asked == "bytes":
        return vocabulary.of_bytes()
    if asked == "characters":
        if source is None:
            raise OptsweepError(
                "--tokenizer characters reads the corpus twice, and needs --from PATH", "fetch it first"
            )
        say("reading the corpus once for its characters")
        texts = (text for batch in source.batches(None) for text, _, _ in worker.documents_of(batch.header, batch.body))
        return vocabulary.of_characters(texts)
    if asked == "hub":
        here = hub.tokenizer_of(name, corpus_is_here=source is not None)
        found = vocabulary.of_file(here, PUBLISHED[name].tokenizer)
    else:
        found = vocabulary.of_file(Path(asked).expanduser().absolute())
    if found.end_of_text is None:
        say(f"note: {found.name} has no end-of-text token: nothing separates the documents")
    return found


def _of_arrays(source: ArraySource, request: Request) -> Vocabulary:
    if request.tokenizer in ("bytes", "characters"):
        raise OptsweepError("the corpus is tokens already", "leave --tokenizer out, or name the file that made them")
    if request.tokenizer is not None:
        import dataclasses

        found = vocabulary.of_file(Path(request.tokenizer).expanduser().absolute())
        return dataclasses.replace(found, vocab_size=source.vocab_size)
    return Vocabulary(kind="tokens", name="tokens as given", sha256="", vocab_size=source.vocab_size, end_of_text=None)


def _mix(name: str, folder: Path, request: Request) -> Source:
    """The parts of a mix, a folder each."""
    streams = PUBLISHED[name].streams
    missing = [hub.folder_name(stream) for stream in streams if not (folder / hub.folder_name(stream)).is_dir()]
    if missing:
        raise OptsweepError(
            f"{folder} has no folder {', '.join(missing)}: {name} is a mix of {len(streams)} corpora by weight",
            "give each part a folder of its name, or your corpus a name of its own",
        )
    parts: list[Source] = []
    for stream in streams:
        files = inputs.found(folder / hub.folder_name(stream))
        if files.kind == "arrays":
            raise OptsweepError(f"{folder}: a mix is made of texts", "give .jsonl, .parquet or text")
        parts.append(FileSource(files, request.field or stream.field))
    return Mixed(parts, [stream.weight for stream in streams])


def require_space(found: Chosen, root: Path, there: int) -> None:
    """Raise where the disk is smaller than the shards will be.

    Args:
        there: bytes that were written before.
    """
    free = shutil.disk_usage(root).free + there
    if free < found.least_bytes:
        raise OptsweepError(
            f"dataset {found.name} takes {found.least_bytes / 1e9:.1f} GB, {root} has {free / 1e9:.1f} GB free",
            "free some space, name another folder with --workspace DIR, or take fewer with --tokens N",
        )
