"""Reads an append-only file from where the last collect stopped: blocks of whole lines, and proof that it is the same file."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

BLOCK_BYTES = 1 << 20
"""A block is parsed at once; 1 MiB holds about 30,000 points."""
MAX_LINE_BYTES = 16 << 20
"""A longer line is no metric: it is skipped without being held in memory. Parsed, a line can be thirty times as large."""
TAIL_BYTES = 256
"""So many bytes before the offset are remembered by their checksum: an inode number is given away again at once."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Whole lines of one file."""

    data: bytes
    """Ends with a newline; empty for a line that was too long."""
    position: int
    """Offset in the file after it, bytes."""
    too_long: bool = False


def blocks(handle: BinaryIO, position: int, end: int) -> Iterator[Block]:
    """Whole lines from `position` on, never beyond `end`; a last line without its newline is left for the next time."""
    rest = b""
    while position + len(rest) < end:
        handle.seek(position + len(rest))
        chunk = handle.read(min(BLOCK_BYTES, end - position - len(rest)))
        if not chunk:
            return
        cut = chunk.rfind(b"\n") + 1
        if cut:
            data = rest + chunk[:cut]
            position += len(data)
            rest = b""
            yield Block(data=data, position=position)
        elif len(rest) > MAX_LINE_BYTES:
            after = _after_newline(handle, position + len(rest) + len(chunk), end)
            if after is None:
                return
            position, rest = after, b""
            yield Block(data=b"", position=position, too_long=True)
        else:
            rest += chunk


def _after_newline(handle: BinaryIO, position: int, end: int) -> int | None:
    """Offset after the next newline; None when there is none before the end."""
    handle.seek(position)
    while position < end:
        chunk = handle.read(min(BLOCK_BYTES, end - position))
        if not chunk:
            return None
        cut = chunk.find(b"\n")
        if cut >= 0:
            return position + cut + 1
        position += len(chunk)
    return None


def tail_checksum(handle: BinaryIO, position: int) -> int:
    """CRC-32 of the bytes just before an offset."""
    start = max(0, position - TAIL_BYTES)
    handle.seek(start, os.SEEK_SET)
    return zlib.crc32(handle.read(position - start))
