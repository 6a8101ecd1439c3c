"""Weights & Biases' run logs (run-ID.wandb): `records(handle)` reads them, `LogWriter` writes one that their tool syncs.

The file is a header of 7 bytes, then LevelDB's log format (blocks of 32 KiB, each record with checksum, length and type;
https://github.com/google/leveldb/blob/main/doc/log_format.md) with plain CRC-32 as checksum. Each record is a message of
wandb_internal.proto (MIT, https://github.com/wandb/wandb); the field numbers below are from there.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from optsweep_tui.formats import wire

HEADER = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
BLOCK = 32768
_HEAD = struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
MAX_RECORD = 64 << 20
"""Bytes; a larger record is passed over without being kept."""
HISTORY, SUMMARY, CONFIG, RUN, EXIT, VERSION = 2, 3, 5, 17, 18, 21
"""Which field of a record holds it."""
MIN_CONSUMER = "0.13.0"
"""Oldest release that can read what is written here: it brought the records used."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One record, or a place where none could be read."""

    offset: int
    """Byte where it begins."""
    end: int
    """Byte after it."""
    data: bytes = b""
    problem: str | None = None
    """Why there is no data."""


def records(handle: BinaryIO) -> Iterator[Record]:
    """Every record of a file that has its header behind it; what is damaged is said once a block and passed over."""
    begun, parts, kept = -1, list[bytes](), 0
    end = handle.tell()
    for offset, end, kind, data in _fragments(handle):
        if kind == _DAMAGED:
            yield Record(
                offset=offset, end=end, problem=f"damaged or cut off from byte {offset} on: {end - offset} bytes"
            )
            begun = -1
            continue
        if kind in (FULL, FIRST):
            begun, parts, kept = offset, [], 0
        if begun < 0:
            continue  # the rest of a record whose beginning is damaged
        kept += len(data)
        if kept <= MAX_RECORD:
            parts.append(data)
        if kind in (FULL, LAST):
            why = f"the record at byte {begun} has {kept} bytes and is passed over" if kept > MAX_RECORD else None
            yield Record(offset=begun, end=end, data=b"" if why else b"".join(parts), problem=why)
            begun = -1
    if begun >= 0:
        yield Record(offset=begun, end=end, problem=f"the last record is cut off: {end - begun} bytes")


_DAMAGED = 0


def _fragments(handle: BinaryIO) -> Iterator[tuple[int, int, int, bytes]]:
    """(byte where it begins, byte after it, type, data) of each piece of a record; type _DAMAGED where a block goes wrong."""
    size = os.fstat(handle.fileno()).st_size
    place = handle.tell()
    while place < size:
        handle.seek(place)
        block = handle.read(min(BLOCK - place % BLOCK, size - place))
        offset = 0
        while len(block) - offset >= _HEAD.size:
            checksum, length, kind = _HEAD.unpack_from(block, offset)
            stop = offset + _HEAD.size + length
            data = block[offset + _HEAD.size : stop]
            if stop > len(block) or not FULL <= kind <= LAST or _checksum(kind, data) != checksum:
                break
            yield place + offset, place + stop, kind, data
            offset = stop
        if block[offset:].strip(b"\0"):  # zeros fill a block up
            yield place + offset, place + len(block), _DAMAGED, b""
        if not block:
            return  # the file has shrunk
        place += len(block)


def _checksum(kind: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(bytes([kind])))


def parts_of(data: bytes) -> tuple[int, bytes]:
    """(which of the kinds above, its message); (0, b"") for a record of another kind.

    Raises:
        ValueError: it is no record.
    """
    found = (0, b"")
    for number, _, value in wire.fields(data):
        if number in (HISTORY, SUMMARY, CONFIG, RUN, EXIT):
            found = (number, wire.message(value))
    return found


def items(data: bytes, number: int = 1) -> Iterator[tuple[tuple[str, ...], str]]:
    """(path of the key, value as JSON text) of each item of a history, summary or config message."""
    for found, _, value in wire.fields(data):
        if found == number:
            key, nested, text = "", [], "null"
            for inner, _, entry in wire.fields(wire.message(value)):
                if inner == 1:
                    key = wire.text(entry)
                elif inner == 2:
                    nested.append(wire.text(entry))
                elif inner == 16:
                    text = wire.text(entry)
            yield tuple(nested) or (key,), text


# ---------------------------------------------------------------- building


def put_items(values: Mapping[str, Any], number: int = 1) -> bytes:
    """The items of a message; NaN and infinities as JSON cannot spell them, but their tool does."""
    return b"".join(
        wire.put_bytes(number, wire.put_bytes(1, key) + wire.put_bytes(16, json.dumps(value)))
        for key, value in values.items()
    )


def put_run(run_id: str, project: str, name: str, group: str, config: Mapping[str, Any], started: float) -> bytes:
    """The message that names a run and its configuration.

    Args:
        started: Unix time, seconds.
    """
    whole, part = int(started), round((started % 1) * 1e9)
    time = wire.put_varint(1, whole) + (wire.put_varint(2, part) if part else b"")
    return b"".join(
        (
            wire.put_bytes(1, run_id),
            wire.put_bytes(3, project),
            wire.put_bytes(4, put_items(config)),
            wire.put_bytes(6, group),
            wire.put_bytes(8, name),
            wire.put_bytes(17, time),
        )
    )


def put_history(step: int, values: Mapping[str, Any]) -> bytes:
    """One step of a history."""
    return put_items({"_step": step, **values}) + wire.put_bytes(2, wire.put_varint(1, step))


def put_exit(code: int, runtime_seconds: float) -> bytes:
    """The end of a run."""
    return wire.put_varint(1, code) + wire.put_varint(2, round(runtime_seconds))


class LogWriter:
    """Appends records to a run log, from a byte offset on."""

    def __init__(self, handle: BinaryIO, number: int = 0) -> None:
        """
        Args:
            handle: open for writing, where the next record goes; an empty file gets its header.
            number: of the last record that is there already.
        """
        self._handle, self._number = handle, number
        self._place = handle.tell()
        if self._place == 0:
            self._write(HEADER)
            version = wire.put_bytes(1, "optsweep") + wire.put_bytes(2, MIN_CONSUMER)
            self.append(VERSION, wire.put_bytes(1, version))

    def append(self, kind: int, message: bytes) -> None:
        """One record."""
        self._number += 1
        self._record(wire.put_varint(1, self._number) + wire.put_bytes(kind, message))

    def extend(self, entries: Iterable[tuple[int, bytes]]) -> None:
        """Several records."""
        for kind, message in entries:
            self.append(kind, message)

    def _record(self, data: bytes) -> None:
        begin = True
        while begin or data:
            room = BLOCK - self._place % BLOCK
            if room < _HEAD.size:
                self._write(b"\0" * room)
                continue
            part, data = data[: room - _HEAD.size], data[room - _HEAD.size :]
            kind = (FULL if begin else LAST) if not data else (FIRST if begin else MIDDLE)
            self._write(_HEAD.pack(_checksum(kind, part), len(part), kind) + part)
            begin = False

    def _write(self, data: bytes) -> None:
        self._handle.write(data)
        self._place += len(data)
