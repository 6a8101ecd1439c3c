"""What turns text into tokens: bytes, the characters of a text, a tokenizer.json, or the ranks of a tiktoken file."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from optsweep_engines import shards
from optsweep_tui.errors import OptsweepError

Ids: TypeAlias = npt.NDArray[Any]
Encoder: TypeAlias = Callable[[Sequence[str]], Iterable[Ids]]

EXTRA = "pip install 'optsweep[data]'"
ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "<|eos|>")
"""Names of an end-of-text token, in the order in which they are looked for."""

# How texts are cut into words before ranks are applied; a file of ranks does not hold it. Patterns and special tokens of the
# published encodings by their number of ranks: https://github.com/openai/tiktoken (tiktoken_ext/openai_public.py), and
# https://github.com/meta-llama/llama3 (llama/tokenizer.py: 256 special tokens, end_of_text the second).
_GPT2_WORDS = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
_LATER_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PUBLISHED = {
    50256: (_GPT2_WORDS, 50256, 50257),
    100256: (_LATER_WORDS, 100257, 100277),
    128000: (_LATER_WORDS, 128001, 128256),
}
"""Number of ranks -> (pattern, end of text, size of the vocabulary)."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """A tokenizer as a manifest names it, and what a worker needs to make it again."""

    kind: str
    """bytes, characters, tokenizer.json or tiktoken."""
    name: str
    sha256: str
    """Of the tokenizer's file, or of what defines it."""
    vocab_size: int
    end_of_text: int | None
    """Written behind every document; None: nothing is."""
    path: str = ""
    characters: str = ""
    """In the order of their tokens; for `characters` only."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of a token on disk."""
        return shards.token_type(self.vocab_size)


def of_bytes() -> Vocabulary:
    """256 tokens, the bytes of UTF-8; a zero byte, which text does not have, ends a document."""
    return Vocabulary(kind="bytes", name="bytes", sha256=_hash(b"bytes"), vocab_size=256, end_of_text=0)


def of_characters(texts: Iterable[str]) -> Vocabulary:
    """The characters that occur in some texts, by code point; nothing separates documents.

    Raises:
        OptsweepError: there is no text.
    """
    found: set[str] = set()
    for text in texts:
        found.update(text)
    characters = "".join(sorted(found))
    if not characters:
        raise OptsweepError("the corpus is empty: it has no character", "name another with --from PATH")
    return Vocabulary(
        kind="characters",
        name=f"{len(characters)} characters",
        sha256=_hash(characters.encode()),
        vocab_size=len(characters),
        end_of_text=None,
        characters=characters,
    )


def of_file(path: Path, name: str | None = None) -> Vocabulary:
    """The tokenizer in a file: tokenizer.json of the tokenizers library, ranks of tiktoken, or GPT-2's vocab.bpe.

    Args:
        name: how it is called; else by its file, and the folder where every model's file has the same name.

    Raises:
        OptsweepError: it is none of them, or its library is not installed.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OptsweepError(f"tokenizer {path} cannot be read: {error.strerror}", "name another file") from None
    name = name or (f"{path.absolute().parent.name}/{path.name}" if path.name == "tokenizer.json" else path.name)
    if content.lstrip()[:1] == b"{":
        return _of_json(path, content, name)
    ranks = _ranks(path, content)
    _, end, size = _PUBLISHED.get(len(ranks), (_GPT2_WORDS, len(ranks), len(ranks) + 1))
    require("tiktoken", "a tiktoken file")
    return Vocabulary(
        kind="tiktoken", name=name, sha256=_hash(content), vocab_size=size, end_of_text=end, path=str(path)
    )


def _of_json(path: Path, content: bytes, name: str) -> Vocabulary:
    tokenizer = _loaded(path)
    ids: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    if not ids:
        raise OptsweepError(f"tokenizer {path} has no token", "name another file")
    end = next((ids[token] for token in ENDS if token in ids), None)
    return Vocabulary(
        kind="tokenizer.json",
        name=name,
        sha256=_hash(content),
        vocab_size=max(ids.values()) + 1,
        end_of_text=end,
        path=str(path),
    )


def require(library: str, what: str) -> None:
    """Raise one clear line where a library of the extra is not installed."""
    import importlib.util

    if importlib.util.find_spec(library) is None:
        raise OptsweepError(f"{what} needs the library {library}, which is not installed here", EXTRA)


def _loaded(path: Path) -> Any:
    require("tokenizers", "a tokenizer.json")
    # Several processes share the cores already, a document each: threads inside of each would only be in their way.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more special
        raise OptsweepError(
            f"tokenizer {path} is no tokenizer.json: {str(error)[:120]}", "give the tokenizer.json of the model"
        ) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _ranks(path: Path, content: bytes) -> dict[bytes, int]:
    """Tokens by rank, of either format of tiktoken.

    Raises:
        OptsweepError: it is neither.
    """
    lines = content.split(b"\n")
    try:
        if lines[0].startswith(b"#version"):
            return _merges(lines[1:])
        ranks = {}
        for line in filter(None, lines):
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        if sorted(ranks.values()) == list(range(len(ranks))) and {bytes([byte]) for byte in range(256)} <= set(ranks):
            return ranks
    except (ValueError, KeyError, IndexError, binascii.Error):
        pass
    raise OptsweepError(
        f"tokenizer {path} is neither a tokenizer.json nor a tiktoken file with ranks",
        "give the tokenizer.json of the model, or bytes",
    )


def _merges(lines: Sequence[bytes]) -> dict[bytes, int]:
    """GPT-2's vocab.bpe: a byte is written as a letter, printable ones as themselves; merge by merge the next rank."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
    tokens = [bytes([byte]) for byte in (*printable, *others)]
    for line in filter(None, lines):
        first, second = line.decode().split(" ")
        tokens.append(bytes(byte_of[letter] for letter in first + second))
    return {token: rank for rank, token in enumerate(tokens)}


def encoder(vocabulary: Vocabulary) -> Encoder:
    """A function from texts to their tokens; nothing is added to them."""
    if vocabulary.kind == "bytes":
        return lambda texts: [np.frombuffer(text.encode(), dtype=np.uint8) for text in texts]
    if vocabulary.kind == "characters":
        return _by_characters(vocabulary.characters)
    if vocabulary.kind == "tiktoken":
        return _by_ranks(Path(vocabulary.path))
    tokenizer = _loaded(Path(vocabulary.path))

    def encode(texts: Sequence[str]) -> list[Ids]:
        found = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.uint32) for encoding in found]

    return encode


def _by_characters(characters: str) -> Encoder:
    codes = np.frombuffer(characters.encode("utf-32-le"), dtype="<u4")
    token_of = np.zeros(int(codes.max()) + 1, dtype=np.uint32)
    token_of[codes] = np.arange(len(codes))
    return lambda texts: [token_of[np.frombuffer(text.encode("utf-32-le"), dtype="<u4")] for text in texts]


def _by_ranks(path: Path) -> Encoder:
    import tiktoken

    ranks = _ranks(path, path.read_bytes())
    words, _, _ = _PUBLISHED.get(len(ranks), (_GPT2_WORDS, 0, 0))
    encoding = tiktoken.Encoding(path.name, pat_str=words, mergeable_ranks=ranks, special_tokens={})
    return lambda texts: [encoding.encode_to_numpy(text, disallowed_special=()) for text in texts]


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
