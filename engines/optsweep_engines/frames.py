"""Framed messages between a controller and the helper on a host: a JSON header and raw bytes, sizes bounded; stdlib only.

A frame is two big-endian 32-bit lengths, then the header, then the body. Nothing else is ever read from the channel.
"""

from __future__ import annotations

import json
import os
import struct
from typing import Any

HEADER_BYTES = 16 << 20
"""Largest header: specs and intents of a batch of runs."""
BODY_BYTES = 8 << 20
"""Largest body: pieces of metric files one way, pieces of datasets the other."""

_LENGTHS = struct.Struct(">II")


class Broken(Exception):
    """The channel ended, or what came over it is no frame."""


def packed(header: dict[str, Any], body: bytes = b"") -> bytes:
    """A frame as bytes.

    Raises:
        ValueError: it would be larger than a reader accepts.
    """
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    if len(text) > HEADER_BYTES or len(body) > BODY_BYTES:
        raise ValueError(f"a frame of {len(text)} + {len(body)} bytes is too large")
    return _LENGTHS.pack(len(text), len(body)) + text + body


def lengths(prefix: bytes) -> tuple[int, int]:
    """Lengths of header and body from the first eight bytes.

    Raises:
        Broken: they are larger than any frame.
    """
    header, body = _LENGTHS.unpack(prefix)
    if header > HEADER_BYTES or body > BODY_BYTES:
        raise Broken(f"a frame says that it has {header} + {body} bytes")
    return header, body


def header_of(text: bytes) -> dict[str, Any]:
    """The header of a frame.

    Raises:
        Broken: it is no JSON object.
    """
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise Broken("a header is no JSON") from None
    if not isinstance(header, dict):
        raise Broken("a header is no table")
    return header


def read(handle: int) -> tuple[dict[str, Any], bytes] | None:
    """The next frame from a descriptor that blocks; None where the channel ended between two frames.

    Raises:
        Broken: it ended inside a frame, or sent something else.
    """
    prefix = _exactly(handle, _LENGTHS.size, may_end=True)
    if not prefix:
        return None
    header, body = lengths(prefix)
    return header_of(_exactly(handle, header)), _exactly(handle, body)


def write(handle: int, header: dict[str, Any], body: bytes = b"") -> None:
    """Send one frame."""
    rest = memoryview(packed(header, body))
    while rest:
        rest = rest[os.write(handle, rest) :]


def _exactly(handle: int, count: int, may_end: bool = False) -> bytes:
    parts, missing = [], count
    while missing:
        part = os.read(handle, min(missing, 1 << 20))
        if not part:
            if may_end and missing == count:
                return b""
            raise Broken("the channel ended inside a frame")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
