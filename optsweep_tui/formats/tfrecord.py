"""TFRecord framing: length, its checksum, data, its checksum; `records(handle)` reads one by one and says what is damaged.

https://www.tensorflow.org/tutorials/load_data/tfrecord: uint64 length, uint32 masked CRC-32C of the length, the data,
uint32 masked CRC-32C of the data; the mask is a rotation by 15 bits and an added constant.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

MAX_RECORD = 64 << 20
"""Bytes; a larger record (a video, a graph) is passed over without being read."""
_DELTA = 0xA282EAD8
_POLYNOMIAL = 0x82F63B78  # Castagnoli, bits reversed


@dataclass(frozen=True, kw_only=True)
class Record:
    """One record, or a place where none could be read."""

    offset: int
    """Byte where it begins."""
    data: bytes = b""
    checksum: int = 0
    """Masked CRC-32C of the data as the file has it."""
    problem: str | None = None
    """Why there is no data."""

    @property
    def sound(self) -> bool:
        """The checksum is that of the data: costs 60 ns a byte, so only records that are used are asked."""
        return masked(self.data) == self.checksum


@functools.cache
def _table() -> tuple[int, ...]:
    rows = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        rows.append(value)
    return tuple(rows)


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli, RFC 3720)."""
    table, value = _table(), 0xFFFFFFFF
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    """The checksum as it is stored."""
    value = crc32c(data)
    return ((value >> 15 | value << 17) + _DELTA) & 0xFFFFFFFF


def frame(data: bytes) -> bytes:
    """One record as bytes of a file."""
    head = struct.pack("<Q", len(data))
    return head + struct.pack("<I", masked(head)) + data + struct.pack("<I", masked(data))


def records(handle: BinaryIO) -> Iterator[Record]:
    """Every record of a file; the last one yielded may say that the rest is cut off or cannot be found."""
    size = os.fstat(handle.fileno()).st_size
    offset = handle.tell()
    while offset < size:
        head = handle.read(12)
        if len(head) < 12:
            yield Record(offset=offset, problem=f"the last record is cut off: {size - offset} bytes")
            return
        (length,) = struct.unpack("<Q", head[:8])
        if masked(head[:8]) != struct.unpack("<I", head[8:])[0]:
            why = f"the length at byte {offset} is damaged: {size - offset} bytes from there on cannot be read"
            yield Record(offset=offset, problem=why)
            return
        end = offset + 16 + length
        if end > size:
            yield Record(offset=offset, problem=f"the last record is cut off: {size - offset} bytes")
            return
        if length > MAX_RECORD:
            yield Record(offset=offset, problem=f"the record at byte {offset} has {length} bytes and is passed over")
            handle.seek(end)
        else:
            data, tail = handle.read(length), handle.read(4)
            yield Record(offset=offset, data=data, checksum=struct.unpack("<I", tail)[0])
        offset = end
