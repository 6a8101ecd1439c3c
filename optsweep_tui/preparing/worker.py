"""Documents to tokens of both splits, a batch at a time: `python -m optsweep_tui.preparing.worker` is one process of several."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import struct
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

import numpy as np

from optsweep_tui.errors import OptsweepError
from optsweep_tui.preparing import vocabulary as words
from optsweep_tui.preparing.vocabulary import Encoder, Ids, Vocabulary

TRAIN, HELD_OUT = -1, -2
"""In the place of a document's hash: its split is given."""
HASHES = 1 << 64

Outermost: TypeAlias = "tuple[int, list[list[int]]] | None"
"""A hash, and [start, tokens] of every document that has it."""

_LENGTHS = struct.Struct(">QQ")


@dataclass(kw_only=True)
class Encoded:
    """The tokens of a batch, or an account of many of them."""

    train: bytes = b""
    validation: bytes = b""
    documents: int = 0
    held_out: int = 0
    """Documents of the validation split."""
    empty: int = 0
    """Documents without a character, which are left out."""
    lowest: Outermost = None
    """Smallest hash among the documents of the training split, and where in it they are."""
    highest: Outermost = None
    """Largest hash among those of the validation split."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How documents become tokens, the same in every process."""

    vocabulary: Vocabulary
    held_out: float
    """Share of the documents that go to the validation split."""
    _encoders: list[Encoder] = field(default_factory=list)

    def encode(self, texts: list[str]) -> list[Ids]:
        """Tokens of each text."""
        if not self._encoders:
            self._encoders.append(words.encoder(self.vocabulary))
        return [*self._encoders[0](texts)]


def hash_of(content: bytes) -> int:
    """A document's hash, which decides its split: the first eight bytes of sha256 over its text in UTF-8."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")


def encoded(rules: Rules, header: dict[str, Any], body: bytes) -> Encoded:
    """Tokenise a batch.

    Raises:
        OptsweepError: a line of it cannot be read, or a token is outside the vocabulary.
    """
    if header["kind"] == "tokens":
        return Encoded(train=body) if header["split"] == TRAIN else Encoded(validation=body)
    found = Encoded()
    dtype, end = rules.vocabulary.dtype, rules.vocabulary.end_of_text
    parts: dict[bool, list[Ids]] = {False: [], True: []}
    places = {False: 0, True: 0}
    documents = [*documents_of(header, body)]
    for (text, value, ends), tokens in zip(documents, rules.encode([text for text, _, _ in documents]), strict=True):
        found.documents += ends
        if not text:
            found.empty += ends
        if value is None:
            value = hash_of(text.encode())
        held = value == HELD_OUT or 0 <= value < rules.held_out * HASHES
        found.held_out += int(held and ends)
        if ends and text and end is not None:
            tokens = np.append(tokens, tokens.dtype.type(end))
        if not len(tokens):
            continue
        if int(tokens.max()) >= rules.vocabulary.vocab_size:
            raise OptsweepError(
                f"tokenizer {rules.vocabulary.name} gave token {int(tokens.max())}, outside its vocabulary of "
                f"{rules.vocabulary.vocab_size}",
                "check the tokenizer's file",
            )
        if value >= 0:
            _note(found, held, value, [places[held], len(tokens)])
        parts[held].append(tokens.astype(dtype, copy=False))
        places[held] += len(tokens)
    found.train, found.validation = (b"".join(part.tobytes() for part in parts[held]) for held in (False, True))
    return found


def _note(found: Encoded, held: bool, value: int, place: list[int]) -> None:
    if held:
        found.highest = outermost(found.highest, (value, [place]), max)
    else:
        found.lowest = outermost(found.lowest, (value, [place]), min)


def outermost(one: Outermost, other: Outermost, better: Any) -> Outermost:
    """The better hash of two, with the places of both where it is the same."""
    if one is None or other is None:
        return one or other
    if one[0] == other[0]:
        return one[0], [*one[1], *other[1]]
    return one if better(one[0], other[0]) == one[0] else other


def documents_of(header: dict[str, Any], body: bytes) -> Iterator[tuple[str, int | None, bool]]:
    """(text, hash or None, whether the document ends with it) of everything in a batch.

    Raises:
        OptsweepError: it is not UTF-8, not JSON, or has no such field; with file and line.
    """
    if header["kind"] == "lines":
        yield from _of_lines(header, body)
        return
    start = 0
    for length, value, ends, name in header["items"]:
        piece = body[start : start + length]
        start += length
        try:
            yield piece.decode(), value, ends
        except UnicodeDecodeError as error:
            raise OptsweepError(
                f"{name} is not UTF-8: byte {piece[error.start]:#04x} after {piece[: error.start][-20:]!r}",
                f"iconv -f latin1 -t utf8 {name} converts it, where that is what it is",
            ) from None


def _of_lines(header: dict[str, Any], body: bytes) -> Iterator[tuple[str, int | None, bool]]:
    where, key = header["file"], header["field"]
    for number, line in enumerate(body.split(b"\n"), header["line"]):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise OptsweepError(
                f"{where} line {number} is not JSON: {str(error)[:80]}", "mend that line and call again"
            ) from None
        if not isinstance(row, dict) or key not in row:
            has = ", ".join(list(row)[:8]) if isinstance(row, dict) else f"a {type(row).__name__}, no object"
            raise OptsweepError(
                f'{where} line {number} has no field "{key}" (it has: {has})', "--field NAME names another"
            )
        if not isinstance(row[key], str):
            raise OptsweepError(
                f'{where} line {number}: field "{key}" is a {type(row[key]).__name__}, no text',
                "--field NAME names another",
            )
        yield whole(row[key]), header.get("value"), True


def whole(text: str) -> str:
    """The text; halves of surrogate pairs, which no encoding has, become the replacement character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


# ---------------------------------------------------------------- between processes


def send(handle: int, header: dict[str, Any], *bodies: bytes) -> None:
    """One message: two lengths, JSON, bytes."""
    text = json.dumps(header).encode()
    for part in (_LENGTHS.pack(len(text), sum(map(len, bodies))), text, *bodies):
        view = memoryview(part)
        while view:
            view = view[os.write(handle, view) :]


def receive(handle: int) -> tuple[dict[str, Any], bytes] | None:
    """The next message; None where the other side is gone."""
    prefix = _exactly(handle, _LENGTHS.size)
    if prefix is None:
        return None
    text_length, body_length = _LENGTHS.unpack(prefix)
    text, body = _exactly(handle, text_length), _exactly(handle, body_length)
    return None if text is None or body is None else (json.loads(text), body)


def _exactly(handle: int, count: int) -> bytes | None:
    found = bytearray()
    while len(found) < count:
        piece = os.read(handle, min(count - len(found), 1 << 20))
        if not piece:
            return None
        found += piece
    return bytes(found)


def answered(header: dict[str, Any], body: bytes) -> Encoded:
    """What `main` sent.

    Raises:
        OptsweepError: the process had one.
    """
    if "error" in header:
        raise OptsweepError(header["error"], header["hint"])
    cut = header.pop("cut")
    for name in ("lowest", "highest"):
        header[name] = header[name] and (header[name][0], header[name][1])
    return Encoded(**header | {"train": body[:cut], "validation": body[cut:]})


def main() -> None:
    """Rules first, then batches, each answered; ends when its input does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, whose end this sees on its input
    first = receive(0)
    if first is None:
        return
    given = first[0]
    rules = Rules(vocabulary=Vocabulary(**given["vocabulary"]), held_out=given["held_out"])
    while (message := receive(0)) is not None:
        try:
            result = encoded(rules, *message)
        except OptsweepError as error:
            send(1, {"error": error.message, "hint": error.hint})
            continue
        head = {key: value for key, value in asdict(result).items() if key not in ("train", "validation")}
        send(1, {**head, "cut": len(result.train)}, result.train, result.validation)


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        sys.exit(0)
