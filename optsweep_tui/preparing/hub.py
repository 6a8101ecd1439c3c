"""Published corpora by name, streamed from the Hugging Face hub: which they are, and what to fetch where there is no network."""

from __future__ import annotations

import contextlib
import logging
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optsweep_tui.errors import OptsweepError
from optsweep_tui.preparing import vocabulary
from optsweep_tui.preparing.joined import Chain, Mixed
from optsweep_tui.preparing.readers import BATCH_BYTES, MOST_ITEMS, Batch, Source
from optsweep_tui.preparing.worker import HELD_OUT, TRAIN, whole
from optsweep_tui.settings import Workspace


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One split of a repository on the hub."""

    repository: str
    configuration: str | None = None
    split: str = "train"
    field: str = "text"
    value: int | None = None
    """TRAIN or HELD_OUT where the publisher has split it; None: the hash of each document decides."""
    weight: float = 1.0
    """Bytes in the mix, relative to the others."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A corpus of the catalogue."""

    streams: tuple[Stream, ...]
    tokenizer: str
    """"characters", or the repository of its tokenizer.json."""
    held_out: float = 0.0005
    mixed: bool = False
    """The streams are read in turn by their weights; otherwise one after the other."""


# Repositories as their authors name them: https://arxiv.org/abs/2305.07759 (TinyStories), https://arxiv.org/abs/2406.17557
# (FineWeb), https://huggingface.co/datasets/allenai/c4; weights of the mix as in the reference study,
# https://arxiv.org/abs/2509.02046. nanoGPT holds 0.05 % of OpenWebText out (data/openwebtext/prepare.py).
GPT2, T5, LLAMA3 = "openai-community/gpt2", "google-t5/t5-small", "meta-llama/Meta-Llama-3-8B"
SHAKESPEARE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
PUBLISHED = {
    "tinystories": Published(
        streams=(
            Stream(repository="roneneldan/TinyStories", split="validation", value=HELD_OUT),
            Stream(repository="roneneldan/TinyStories", value=TRAIN),
        ),
        tokenizer=GPT2,
    ),
    "openwebtext": Published(streams=(Stream(repository="Skylion007/openwebtext"),), tokenizer=GPT2),
    "fineweb": Published(
        streams=(Stream(repository="HuggingFaceFW/fineweb", configuration="sample-10BT"),), tokenizer=GPT2
    ),
    "c4": Published(
        streams=(
            Stream(repository="allenai/c4", configuration="en", split="validation", value=HELD_OUT),
            Stream(repository="allenai/c4", configuration="en", value=TRAIN),
        ),
        tokenizer=T5,
    ),
    "dclm-mix": Published(
        streams=(
            Stream(repository="mlfoundations/dclm-baseline-1.0", weight=3.8),
            Stream(repository="bigcode/starcoderdata", field="content", weight=0.25),
            Stream(repository="EleutherAI/proof-pile-2", configuration="default", weight=0.055),
        ),
        tokenizer=LLAMA3,
        mixed=True,
    ),
}


def tokenizer_of(name: str, *, corpus_is_here: bool) -> Path:
    """The tokenizer.json of a corpus, fetched once into the hub's own cache.

    Raises:
        OptsweepError: it cannot be fetched.
    """
    repository = PUBLISHED[name].tokenizer
    vocabulary.require("huggingface_hub", f"the tokenizer of {name}")
    import huggingface_hub

    try:
        with _quiet():
            return Path(huggingface_hub.hf_hub_download(repository, "tokenizer.json", local_files_only=True))
    except Exception:  # not in the cache: the library has several words for it
        _require_hub(name, corpus_is_here)
    try:
        with _quiet():
            return Path(huggingface_hub.hf_hub_download(repository, "tokenizer.json"))
    except Exception as error:  # the library's errors, and those of whatever carries them
        what = f"tokenizer.json of {repository} cannot be fetched"
        raise _unreachable(name, what, error, corpus_is_here) from None


def _require_hub(name: str, corpus_is_here: bool) -> None:
    """One quick look: the libraries themselves try for half a minute."""
    from huggingface_hub import constants

    try:
        with urllib.request.urlopen(constants.ENDPOINT, timeout=10):
            pass
    except urllib.error.HTTPError:
        pass  # it answers
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        what = f"{constants.ENDPOINT} cannot be reached"
        raise _unreachable(name, what, reason, corpus_is_here) from None


def source_of(name: str) -> Source:
    """A corpus of the catalogue as a stream.

    Raises:
        OptsweepError: the library is not installed, or the hub cannot be reached.
    """
    published = PUBLISHED[name]
    vocabulary.require("datasets", f"streaming {name}")
    _require_hub(name, corpus_is_here=False)
    parts: list[Source] = [HubSource(name, stream) for stream in published.streams]
    for part in parts:
        assert isinstance(part, HubSource)
        part.probe()
    if published.mixed:
        return Mixed(parts, [stream.weight for stream in published.streams])
    return Chain(parts)


def shakespeare(workspace: Workspace) -> Path:
    """The text, fetched once."""
    target = workspace.ensure().data / ".shakespeare.txt"
    if not target.exists():
        try:
            with urllib.request.urlopen(SHAKESPEARE, timeout=20) as answer:
                content = answer.read(1 << 24)
        except OSError as error:
            reason = getattr(error, "reason", None) or error
            raise OptsweepError(
                f"the text cannot be fetched ({reason})",
                f"where there is a network, download {SHAKESPEARE}; then optsweep data prepare shakespeare --from input.txt",
            ) from None
        part = target.with_suffix(".part")
        part.write_bytes(content)
        part.replace(target)
    return target


def _unreachable(name: str, what: str, reason: object, corpus_is_here: bool = False) -> OptsweepError:
    """What to download where there is a network, and the call that takes it."""
    published = PUBLISHED[name]
    files = [] if corpus_is_here else [f"the files of {stream.repository}" for stream in published.streams]
    wanted = " and ".join([*dict.fromkeys(files), f"tokenizer.json of {published.tokenizer}"])
    form = f"optsweep data prepare {name} --from FOLDER --tokenizer tokenizer.json"
    if published.mixed:
        form += f" (in FOLDER one folder for each: {', '.join(folder_name(stream) for stream in published.streams)})"
    text = " ".join(str(reason).split())[:100]
    return OptsweepError(f"{what} ({text})", f"where there is a network, download {wanted}; then {form}")


def folder_name(stream: Stream) -> str:
    """The folder of a part of a mix on disk."""
    return stream.repository.rpartition("/")[2]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' own warnings and bars on the terminal."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


class HubSource:
    """Documents of one split, as they come; a place is their number."""

    size = 0
    by_position = False
    identity = ""

    def __init__(self, name: str, stream: Stream) -> None:
        self._name, self._stream = name, stream

    def unchanged(self, after: dict[str, Any], identity: str) -> bool:
        return identity == self._stream.repository

    def probe(self) -> None:
        """See that it can be reached."""
        self._opened()

    def _opened(self) -> Any:
        import datasets

        stream = self._stream
        try:
            with _quiet():
                return datasets.load_dataset(
                    stream.repository, stream.configuration, split=stream.split, streaming=True
                )
        except Exception as error:
            raise _unreachable(self._name, f"{stream.repository} cannot be read", error) from None

    def batches(self, after: dict[str, Any] | None) -> Iterator[Batch]:
        count, done = (after["documents"], after["done"]) if after else (0, 0)
        rows = self._opened()
        items: list[list[Any]] = []
        bodies: list[bytes] = []
        size = 0
        try:
            for row in rows.skip(count) if count else rows:
                content = whole(str(row[self._stream.field])).encode()
                items.append([len(content), self._stream.value, True, self._stream.repository])
                bodies.append(content)
                size += len(content)
                if size >= BATCH_BYTES or len(items) == MOST_ITEMS:
                    count, done = count + len(items), done + size
                    yield self._batch(items, bodies, count, done)
                    items, bodies, size = [], [], 0
        except (OSError, KeyError) as error:
            raise _unreachable(self._name, f"{self._stream.repository} cannot be read", error) from None
        if items:
            yield self._batch(items, bodies, count + len(items), done + size)

    def _batch(self, items: list[list[Any]], bodies: list[bytes], count: int, done: int) -> Batch:
        return Batch(
            header={"kind": "texts", "items": items},
            body=b"".join(bodies),
            after={"documents": count, "done": done},
            done=done,
            identity=self._stream.repository,
        )
