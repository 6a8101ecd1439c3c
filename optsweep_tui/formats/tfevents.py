"""TensorBoard's event files: `parse(data)` is one event's scalars and hyperparameters, the `put_*` functions write such.

Field numbers are those of tensorflow's event.proto, summary.proto, tensor.proto and of the hparams plugin's
plugin_data.proto (Apache-2.0, https://github.com/tensorflow/tensorboard).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from optsweep_tui.formats import wire

NAME = "events.out.tfevents"
"""What the name of an event file holds."""
FILE_VERSION = "brain.Event:2"
HPARAMS = "hparams"
SUCCESS, FAILURE = 1, 2
"""How a session of the hparams plugin ended."""
_START_SESSION = 1
_FORMS = {1: "f", 2: "d", 3: "i", 4: "B", 5: "h", 6: "b", 9: "q", 10: "?", 14: "H", 17: "H", 19: "e", 22: "I", 23: "Q"}
"""TensorFlow's number of a type -> how `struct` calls it."""
_BFLOAT16, _HALF = 14, 19
_LISTS = {1: 5, 2: 6, 3: 7, 4: 7, 5: 7, 6: 7, 9: 10, 10: 11, _BFLOAT16: 13, 17: 7, _HALF: 13, 22: 16, 23: 17}
"""Type -> the field of TensorProto that lists its values one by one."""


@dataclass(kw_only=True)
class Event:
    """What one event says, as far as it is used."""

    wall_time: float = 0.0
    """Unix time, seconds."""
    step: int = 0
    scalars: list[tuple[str, float]] = field(default_factory=list)
    """(tag, value)."""
    restart: bool = False
    """The writer began anew at this step: what was written for it and later steps before counts no more."""
    hparams: dict[str, Any] | None = None
    """Hyperparameters of the run, of the hparams plugin."""
    ended: bool | None = None
    """The hparams plugin says that the run ended well, or that it failed."""
    others: list[str] = field(default_factory=list)
    """What else it holds, by kind: images, histograms, texts."""


def parse(data: bytes) -> Event:
    """One event.

    Raises:
        ValueError: it is no event.
    """
    event = Event()
    for number, _, value in wire.fields(data):
        if number == 1:
            event.wall_time = wire.double(value)
        elif number == 2:
            event.step = wire.signed(wire.whole(value))
        elif number == 5:
            for inner, _, entry in wire.fields(wire.message(value)):
                if inner == 1:
                    _value(wire.message(entry), event)
        elif number == 7:
            status = next((entry for inner, _, entry in wire.fields(wire.message(value)) if inner == 1), 0)
            event.restart |= status == _START_SESSION
    return event


def _value(data: bytes, event: Event) -> None:
    """One tagged value of a summary."""
    tag, plugin, content, number, tensor, kind = "", "", b"", None, None, "an unknown value"
    for field_number, _, value in wire.fields(data):
        if field_number == 1:
            tag = wire.text(value)
        elif field_number == 2:
            number = wire.single(value)
        elif field_number == 8:
            tensor = wire.message(value)
        elif field_number == 9:
            plugin, content = _plugin(wire.message(value))
        elif field_number in (3, 4, 5, 6):
            kind = {4: "an image", 6: "audio"}.get(field_number, "a histogram")
    if plugin == HPARAMS:
        _hparams(content, event)
        return
    if number is None and tensor is not None:
        number = _scalar(tensor)
        kind = f"a tensor of {plugin}" if plugin else "a tensor that is no scalar"
    if number is None:
        event.others.append(kind)
    else:
        event.scalars.append((tag, number))


def _plugin(data: bytes) -> tuple[str, bytes]:
    name, content = "", b""
    for number, _, value in wire.fields(data):
        if number == 1:
            for inner, _, entry in wire.fields(wire.message(value)):
                if inner == 1:
                    name = wire.text(entry)
                elif inner == 2:
                    content = wire.message(entry)
    return name, content


def _scalar(data: bytes) -> float | None:
    """The one number of a tensor; None where it holds texts or several numbers."""
    kind, raw, size = 0, b"", 1
    listed: list[tuple[int, wire.Value]] = []
    for number, wire_type, value in wire.fields(data):
        if number == 1:
            kind = wire.whole(value)
        elif number == 2:
            size = _size(wire.message(value))
        elif number == 4:
            raw = wire.message(value)
        elif number == _LISTS.get(kind):
            listed.append((wire_type, value))
    if kind not in _FORMS or size != 1:
        return None
    return _one_of_list(kind, *listed[0]) if listed else _unpacked(kind, raw)


def _one_of_list(kind: int, wire_type: int, value: wire.Value) -> float:
    if kind == 1:
        return wire.single(value)
    if kind == 2:
        return wire.double(value)
    packed = wire_type != wire.VARINT  # whole numbers come as one field of many varints, or as a field each
    bits = next((each for _, _, each in wire.fields(b"\x08" + wire.message(value))), 0) if packed else value
    number = wire.signed(wire.whole(bits))
    if kind in (_BFLOAT16, _HALF):
        return _unpacked(kind, struct.pack("<H", number & 0xFFFF)) or 0.0
    return float(number)


def _unpacked(kind: int, raw: bytes) -> float | None:
    form = _FORMS[kind]
    if len(raw) != struct.calcsize(f"<{form}"):
        return None
    if kind == _BFLOAT16:
        form, raw = "f", b"\0\0" + raw
    found = float(struct.unpack(f"<{form}", raw)[0])
    return wire.shortest(found) if form == "f" else found


def _size(shape: bytes) -> int:
    """Numbers in a tensor of this shape."""
    count = 1
    for number, _, value in wire.fields(shape):
        if number == 2:
            count *= next((wire.whole(entry) for inner, _, entry in wire.fields(wire.message(value)) if inner == 1), 0)
    return count


def _hparams(content: bytes, event: Event) -> None:
    for number, _, value in wire.fields(content):
        if number == 3:
            event.hparams = {}
            for inner, _, entry in wire.fields(wire.message(value)):
                if inner == 1:
                    parts = {place: each for place, _, each in wire.fields(wire.message(entry))}
                    if 1 in parts:
                        event.hparams[wire.text(parts[1])] = _json_value(wire.message(parts.get(2, b"")))
        elif number == 4:
            status = next((entry for inner, _, entry in wire.fields(wire.message(value)) if inner == 1), 0)
            event.ended = {SUCCESS: True, FAILURE: False}.get(int(wire.whole(status)), event.ended)


def _json_value(data: bytes) -> Any:
    """A google.protobuf.Value that is a number, a text or a truth value; anything else is None."""
    for number, _, value in wire.fields(data):
        if number == 2:
            found = wire.double(value)
            return int(found) if found.is_integer() and abs(found) < 2**53 else found
        if number == 3:
            return wire.text(value)
        if number == 4:
            return bool(wire.whole(value))
    return None


# ---------------------------------------------------------------- building


def put_version(wall_time: float) -> bytes:
    """The event that begins every file."""
    return wire.put_double(1, wall_time) + wire.put_bytes(3, FILE_VERSION)


def put_scalars(wall_time: float, step: int, scalars: Iterable[tuple[str, float]]) -> bytes:
    """All scalars of a step in one event: it is written whole or not at all."""
    values = (wire.put_bytes(1, wire.put_bytes(1, tag) + wire.put_single(2, value)) for tag, value in scalars)
    return wire.put_double(1, wall_time) + wire.put_varint(2, step) + wire.put_bytes(5, b"".join(values))


def put_hparams(wall_time: float, hparams: Mapping[str, Any], group: str) -> bytes:
    """The hyperparameters of a run, for the hparams plugin."""
    listed = b"".join(
        wire.put_bytes(1, wire.put_bytes(1, key) + wire.put_bytes(2, _put_json(value)))
        for key, value in hparams.items()
        if value is not None
    )
    start = listed + wire.put_bytes(4, group) + wire.put_double(5, wall_time)
    return _put_plugin(wall_time, "_hparams_/session_start_info", wire.put_bytes(3, start))


def put_end(wall_time: float, status: int) -> bytes:
    """How the run ended, for the hparams plugin."""
    ending = wire.put_varint(1, status) + wire.put_double(2, wall_time)
    return _put_plugin(wall_time, "_hparams_/session_end_info", wire.put_bytes(4, ending))


def _put_plugin(wall_time: float, tag: str, content: bytes) -> bytes:
    # The plugin wants a tensor beside its data: one float, zero.
    zero = wire.put_varint(1, 1) + wire.put_bytes(2, b"") + wire.put_bytes(5, struct.pack("<f", 0.0))
    metadata = wire.put_bytes(1, wire.put_bytes(1, HPARAMS) + wire.put_bytes(2, content))
    value = wire.put_bytes(1, tag) + wire.put_bytes(9, metadata) + wire.put_bytes(8, zero)
    return wire.put_double(1, wall_time) + wire.put_bytes(5, wire.put_bytes(1, value))


def _put_json(value: Any) -> bytes:
    if isinstance(value, bool):
        return wire.put_varint(4, int(value))
    if isinstance(value, int | float):
        return wire.put_double(2, float(value))
    return wire.put_bytes(3, str(value))
