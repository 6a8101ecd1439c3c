"""Batches of documents from files: about 1 MiB each, cut the same way always, each with the place to go on from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from optsweep_tui.errors import OptsweepError
from optsweep_tui.preparing.inputs import InputFile, Inputs, Opened, Prefix
from optsweep_tui.preparing.worker import TRAIN, whole

BATCH_BYTES = 1 << 20
MOST_ITEMS = 4096
"""Documents in a batch."""
LONGEST_LINE = 64 << 20
"""Bytes of a JSON line: beyond it a file is hardly one of lines, and memory would not be bounded."""
_ROWS = 128


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some documents, and where reading goes on after them."""

    header: dict[str, Any]
    body: bytes
    after: dict[str, Any]
    """A place in the corpus that `batches` takes."""
    done: int
    """Bytes of the corpus that were read up to there."""
    identity: str
    """Of everything that was read up to there."""


class Source(Protocol):
    """A corpus that can be read from any place of it on."""

    size: int
    """Bytes, or 0 where nobody knows."""
    by_position: bool
    """One long text: the split is a place in it, not a matter of documents."""
    identity: str
    """Of all of it; empty where only its owner knows."""

    def batches(self, after: dict[str, Any] | None) -> Iterator[Batch]:
        """From a place on, or from the beginning."""

    def unchanged(self, after: dict[str, Any], identity: str) -> bool:
        """Whether everything up to a place is what it was."""


class FileSource:
    """Files of text, JSON lines or Parquet."""

    def __init__(self, inputs: Inputs, field: str) -> None:
        self._inputs, self._field, self._prefix = inputs, field, Prefix(inputs.files)
        self.size = inputs.size
        self.by_position = inputs.kind == "text" and len(inputs.files) == 1
        self.identity = Prefix(inputs.files).to(len(inputs.files))[1]
        self.skipped = 0
        """Files that are no text."""

    def unchanged(self, after: dict[str, Any], identity: str) -> bool:
        count = int(after["file"]) + 1
        return count <= len(self._inputs.files) and self._prefix.to(count)[1] == identity

    def batches(self, after: dict[str, Any] | None) -> Iterator[Batch]:
        if self._inputs.kind == "text":
            yield from _grouped(self._texts(after or {"file": 0, "at": 0}), self._batch)
            return
        read = self._lines if self._inputs.kind == "lines" else self._rows
        place = after or {"file": 0, "at": 0, "line": 1}
        for number in range(place["file"], len(self._inputs.files)):
            start = place if number == place["file"] else {"file": number, "at": 0, "line": 1}
            yield from read(self._inputs.files[number], start)

    def _batch(self, header: dict[str, Any], body: bytes, after: dict[str, Any], position: int) -> Batch:
        before, identity = self._prefix.to(after["file"] + 1)
        return Batch(header=header, body=body, after=after, done=before + position, identity=identity)

    def _lines(self, file: InputFile, place: dict[str, Any]) -> Iterator[Batch]:
        at, line = place["at"], place["line"]
        with Opened(file, at) as stream:
            while block := stream.read(BATCH_BYTES):
                if not block.endswith(b"\n"):
                    rest = stream.line(LONGEST_LINE)
                    if len(rest) == LONGEST_LINE and not rest.endswith(b"\n"):
                        number = line + block.count(b"\n")
                        raise OptsweepError(
                            f"{file.path} line {number} is longer than {LONGEST_LINE >> 20} MiB",
                            "one JSON object a line is what is read",
                        )
                    block += rest
                header = {"kind": "lines", "file": str(file.path), "line": line, "field": self._field}
                at, line = at + len(block), line + block.count(b"\n")
                yield self._batch(header, block, {"file": place["file"], "at": at, "line": line}, stream.position())

    def _rows(self, file: InputFile, place: dict[str, Any]) -> Iterator[Batch]:
        import pyarrow
        from pyarrow import parquet

        try:
            table = parquet.ParquetFile(file.path)
            names = table.schema_arrow.names
            if self._field not in names:
                has = ", ".join(names[:8])
                raise OptsweepError(
                    f'{file.path} has no column "{self._field}" (it has: {has})', "--field NAME names another"
                )
            kind = table.schema_arrow.field(self._field).type
            if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
                raise OptsweepError(
                    f'{file.path}: column "{self._field}" is {kind}, no text', "--field NAME names another"
                )
            rows, total = 0, table.metadata.num_rows
            for group in range(table.num_row_groups):
                size = table.metadata.row_group(group).num_rows
                if rows + size <= place["at"]:
                    rows += size
                    continue
                for piece in table.iter_batches(_ROWS, row_groups=[group], columns=[self._field]):
                    rows += len(piece)
                    if rows <= place["at"]:
                        continue
                    texts = [whole(text or "").encode() for text in piece.column(0).to_pylist()]
                    items: list[tuple[bytes, int | None, bool, str]] = [(text, None, True, "") for text in texts]
                    after = {"file": place["file"], "at": rows, "line": 1}
                    yield self._batch(*_packed(items), after, file.size * rows // max(total, 1))
        except (pyarrow.ArrowException, OSError) as error:
            text = str(error).splitlines()[0][:120]
            raise OptsweepError(f"{file.path} is no Parquet file, or damaged: {text}", "fetch it again") from None

    def _texts(self, place: dict[str, Any]) -> Iterator[Item]:
        for number in range(place["file"], len(self._inputs.files)):
            at = place["at"] if number == place["file"] else 0
            yield from self._text(self._inputs.files[number], number, at)

    def _text(self, file: InputFile, number: int, at: int) -> Iterator[Item]:
        value = TRAIN if self.by_position else None
        name = str(file.path)
        with Opened(file, at) as stream:
            block = stream.read(BATCH_BYTES)
            if at == 0 and b"\0" in block[:8192]:
                if file.path.suffix == ".txt" or len(self._inputs.files) == 1:
                    raise OptsweepError(
                        f"{name} is no text: it has a zero byte", "name text, .jsonl, .parquet, .npy or .bin"
                    )
                self.skipped += 1
                return
            following = stream.read(BATCH_BYTES)
            if (following or at) and value is None:
                value = _hash_of_all(file)
            while following:
                cut = _cut(block)
                at += cut
                yield Item(block[:cut], value, False, name, {"file": number, "at": at}, stream.position())
                block = block[cut:] + following
                following = stream.read(BATCH_BYTES)
            if block:
                yield Item(block, value, True, name, {"file": number, "at": at + len(block)}, stream.position())


@dataclass(frozen=True)
class Item:
    """A document, or a part of one that is longer than a batch."""

    content: bytes
    value: int | None
    """Its hash where a part cannot tell it, or the split that is given."""
    ends: bool
    name: str
    after: dict[str, Any]
    position: int
    """Bytes of its file that were read."""


def _grouped(items: Iterator[Item], batch: Callable[..., Batch]) -> Iterator[Batch]:
    """Items together until they are a batch."""
    waiting: list[Item] = []
    size = 0
    for item in items:
        waiting.append(item)
        size += len(item.content)
        if size >= BATCH_BYTES or len(waiting) == MOST_ITEMS:
            yield _of_items(waiting, batch)
            waiting, size = [], 0
    if waiting:
        yield _of_items(waiting, batch)


def _of_items(items: list[Item], batch: Callable[..., Batch]) -> Batch:
    packed = _packed([(item.content, item.value, item.ends, item.name) for item in items])
    return batch(*packed, items[-1].after, items[-1].position)


def _packed(items: list[tuple[bytes, int | None, bool, str]]) -> tuple[dict[str, Any], bytes]:
    header = {"kind": "texts", "items": [[len(content), *rest] for content, *rest in items]}
    return header, b"".join(content for content, *_ in items)


def _cut(block: bytes) -> int:
    """Where a long text is cut for the tokenizer: behind a line, else before a word, else between two characters.

    The white space at the cut is a single one: tokenizers that cut words at white space (GPT-2's, Llama's) then give the same
    tokens as for the whole.
    """
    for mark, kept in ((b"\n", 1), (b" ", 0)):
        end = len(block) - 1
        while (place := block.rfind(mark, 1, end)) > 0:
            if not block[place - 1 : place].isspace() and not block[place + 1 : place + 2].isspace():
                return place + kept
            end = place
    end = len(block) - 1
    while end > 1 and block[end] & 0xC0 == 0x80:
        end -= 1
    return end


def _hash_of_all(file: InputFile) -> int:
    """The hash of a document too long for memory."""
    digest = hashlib.sha256()
    with Opened(file, 0) as stream:
        while block := stream.read(BATCH_BYTES):
            digest.update(block)
    return int.from_bytes(digest.digest()[:8], "big")
