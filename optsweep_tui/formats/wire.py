"""Protocol-buffer wire format: `fields(data)` splits a message into its fields, the others build one; no schema, no library.

https://protobuf.dev/programming-guides/encoding/: a field is a varint (number << 3 | type), then a varint (type 0), 8
bytes (1), a length with so many bytes (2) or 4 bytes (5).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TypeAlias

VARINT, EIGHT, BYTES, FOUR = 0, 1, 2, 5
Value: TypeAlias = int | bytes
"""A plain number for a varint, else the bytes as they are."""

_MASK = (1 << 64) - 1


def fields(data: bytes) -> Iterator[tuple[int, int, Value]]:
    """(number, wire type, value) of each field, in order.

    Raises:
        ValueError: it is no message.
    """
    place, end = 0, len(data)
    while place < end:
        key = data[place]
        if key < 0x80:  # most keys and lengths are one byte: this loop reads millions
            place += 1
        else:
            key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise ValueError("field number 0")
        if kind == VARINT:
            value, place = _varint(data, place)
            yield number, kind, value
            continue
        if kind == BYTES:
            if place < end and data[place] < 0x80:
                size = data[place]
                place += 1
            else:
                size, place = _varint(data, place)
        elif kind in (EIGHT, FOUR):
            size = 8 if kind == EIGHT else 4
        else:
            raise ValueError(f"wire type {kind}")
        if place + size > end:
            raise ValueError("a field is longer than its message")
        yield number, kind, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= len(data) or shift > 63:
            raise ValueError("a number is cut off")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _MASK, place
        shift += 7


def signed(value: int) -> int:
    """An int64 or int32 that was sent as a varint."""
    return value - (1 << 64) if value >> 63 else value


def double(value: Value) -> float:
    """A double field.

    Raises:
        ValueError: it is not 8 bytes.
    """
    return float(_unpacked("<d", value))


def single(value: Value) -> float:
    """A float field, in the shortest number that means the same float: 0.1, not 0.10000000149011612.

    Raises:
        ValueError: it is not 4 bytes.
    """
    return shortest(float(_unpacked("<f", value)))


def shortest(value: float) -> float:
    """The number of fewest digits that rounds to the same 32-bit float."""
    return float(f"{value:.7g}") if struct.pack("<f", float(f"{value:.7g}")) == struct.pack("<f", value) else value


def _unpacked(form: str, value: Value) -> float:
    if not isinstance(value, bytes) or len(value) != struct.calcsize(form):
        raise ValueError("a number has the wrong size")
    number: float = struct.unpack(form, value)[0]
    return number


def text(value: Value) -> str:
    """A string field; what is no UTF-8 is replaced."""
    if not isinstance(value, bytes):
        raise ValueError("a text is a number")
    return value.decode("utf-8", errors="replace")


def message(value: Value) -> bytes:
    """A field that is itself a message.

    Raises:
        ValueError: it is a number.
    """
    if not isinstance(value, bytes):
        raise ValueError("a message is a number")
    return value


def whole(value: Value) -> int:
    """A varint field.

    Raises:
        ValueError: it is not a varint.
    """
    if not isinstance(value, int):
        raise ValueError("a whole number has the wrong type")
    return value


# ---------------------------------------------------------------- building


def varint(value: int) -> bytes:
    """A whole number, negative ones as their 64-bit complement."""
    value &= _MASK
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def put_varint(number: int, value: int) -> bytes:
    """A varint field."""
    return varint(number << 3 | VARINT) + varint(value)


def put_bytes(number: int, value: bytes | str) -> bytes:
    """A field of bytes, text or a message."""
    raw = value.encode("utf-8", errors="replace") if isinstance(value, str) else value
    return varint(number << 3 | BYTES) + varint(len(raw)) + raw


def put_double(number: int, value: float) -> bytes:
    """A double field."""
    return varint(number << 3 | EIGHT) + struct.pack("<d", value)


def put_single(number: int, value: float) -> bytes:
    """A float field; what a 32-bit float cannot hold becomes infinity."""
    try:
        return varint(number << 3 | FOUR) + struct.pack("<f", value)
    except OverflowError:
        return varint(number << 3 | FOUR) + struct.pack("<f", float("inf") if value > 0 else float("-inf"))
