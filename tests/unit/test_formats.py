"""Other tools' file formats: known checksums, what is written is read back, damage is said and never passed on as data."""

from __future__ import annotations

import io
import itertools
import math
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optsweep_tui.formats import tfevents, tfrecord, wandblog, wire

FIXTURES = Path(__file__).resolve().parents[1] / "store" / "fixtures"


def test_the_checksum_is_the_published_one() -> None:
    assert tfrecord.crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C
    assert tfrecord.crc32c(b"\0" * 32) == 0x8A9136AA  # RFC 3720, B.4
    assert tfrecord.crc32c(b"\xff" * 32) == 0x62A8AB43
    assert tfrecord.crc32c(bytes(range(32))) == 0x46DD794E


@settings(deadline=None)
@given(st.integers(min_value=-(2**63), max_value=2**63 - 1))
def test_a_whole_number_comes_back(number: int) -> None:
    ((field, kind, value),) = wire.fields(wire.put_varint(3, number))
    assert (field, kind) == (3, wire.VARINT) and isinstance(value, int) and wire.signed(value) == number


@settings(deadline=None)
@given(st.floats(width=32, allow_nan=False), st.binary(max_size=40))
def test_floats_and_bytes_come_back(number: float, blob: bytes) -> None:
    data = wire.put_single(2, number) + wire.put_double(1, number) + wire.put_bytes(5, blob)
    single, double, raw = (value for _, _, value in wire.fields(data))
    assert struct.pack("<f", wire.single(single)) == struct.pack("<f", number)
    assert wire.double(double) == number and raw == blob


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_garbage_is_a_value_error_or_fields(data: bytes) -> None:
    for read in (lambda: list(wire.fields(data)), lambda: tfevents.parse(data), lambda: wandblog.parts_of(data)):
        try:
            read()
        except ValueError:
            pass


def test_a_float_is_written_as_short_as_it_was() -> None:
    for text in ("0.1", "3.2752", "1e-30", "16777216"):
        packed = struct.pack("<f", float(text))
        assert wire.single(packed) == float(text)


# ---------------------------------------------------------------- event files


def event_file(folder: Path, *records: bytes) -> Path:
    path = folder / "events.out.tfevents.1"
    path.write_bytes(b"".join(map(tfrecord.frame, records)))
    return path


def test_an_event_comes_back_with_all_its_scalars(tmp_path: Path) -> None:
    scalars = [("train_loss", 3.25), ("val_loss", math.nan), ("rate", 1e14), ("big", math.inf)]
    path = event_file(
        tmp_path,
        tfevents.put_version(1.5),
        tfevents.put_scalars(2.5, 7, scalars),
        tfevents.put_hparams(0.0, {"lr": 0.5, "steps": 7, "optimizer": "muon", "flag": True, "none": None}, "g"),
        tfevents.put_end(9.0, tfevents.SUCCESS),
    )
    with open(path, "rb") as handle:
        records = list(tfrecord.records(handle))
    assert all(record.sound and record.problem is None for record in records)
    _, values, hparams, end = (tfevents.parse(record.data) for record in records)
    assert (values.wall_time, values.step) == (2.5, 7)
    assert [tag for tag, _ in values.scalars] == [tag for tag, _ in scalars]
    found = dict(values.scalars)
    assert found["train_loss"] == 3.25 and math.isnan(found["val_loss"]) and found["rate"] == pytest.approx(1e14)
    assert hparams.hparams == {"lr": 0.5, "steps": 7, "optimizer": "muon", "flag": True}
    assert end.ended is True


def test_a_tensor_of_every_number_type_is_a_scalar() -> None:
    (path,) = (FIXTURES / "tensorboard" / "tensor").iterdir()
    with open(path, "rb") as handle:
        events = [tfevents.parse(record.data) for record in tfrecord.records(handle)]
    ones = [dict(event.scalars)["one"] for event in events if "one" in dict(event.scalars)]
    assert ones == [1.0] * 7


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_one_changed_byte_never_changes_a_value(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    whole = b"".join(tfrecord.frame(tfevents.put_scalars(1.0, step, [("loss", step / 2)])) for step in range(5))
    place = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("x") / "events.out.tfevents.1"
    path.write_bytes(changed)
    with open(path, "rb") as handle:
        records = list(tfrecord.records(handle))
    sound = [record for record in records if record.problem is None and record.sound]
    assert len(sound) < 5 and len(sound) < len(records)
    for record in sound:
        event = tfevents.parse(record.data)
        assert event.scalars == [("loss", event.step / 2)]


# ---------------------------------------------------------------- run logs


def log_of(*messages: tuple[int, bytes]) -> bytes:
    handle = io.BytesIO()
    wandblog.LogWriter(handle).extend(messages)
    return handle.getvalue()


def read_log(folder: Path, content: bytes) -> list[wandblog.Record]:
    path = folder / "run-x.wandb"
    path.write_bytes(content)
    with open(path, "rb") as handle:
        assert handle.read(7) == wandblog.HEADER
        return list(wandblog.records(handle))


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.sampled_from([0, 1, 7, 100, 32740, 32750, 32751, 32754, 32761, 40000, 100_000]), max_size=6))
def test_records_of_any_size_come_back_over_block_borders(
    sizes: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    messages = [(wandblog.CONFIG, bytes([index + 65]) * size) for index, size in enumerate(sizes)]
    records = read_log(tmp_path_factory.mktemp("x"), log_of(*messages))
    assert [record.problem for record in records] == [None] * (len(sizes) + 1)
    # Not fields of a config, but the bytes are what they were.
    assert [len(record.data) for record in records[1:]] == [
        len(wire.put_varint(1, index + 2) + wire.put_bytes(5, body)) for index, (_, body) in enumerate(messages)
    ]
    for before, after in itertools.pairwise(records):
        assert before.end <= after.offset


def test_a_log_that_is_continued_equals_one_written_at_once(tmp_path: Path) -> None:
    messages = [(wandblog.HISTORY, wandblog.put_history(step, {"loss": step / 3})) for step in range(2000)]
    path = tmp_path / "run-x.wandb"
    with open(path, "wb") as handle:
        wandblog.LogWriter(handle).extend(messages[:777])
    with open(path, "r+b") as handle:
        handle.seek(7)
        *_, last = wandblog.records(handle)
        handle.seek(last.end)
        wandblog.LogWriter(handle, 778).extend(messages[777:])
    assert path.read_bytes() == log_of(*messages)


def test_a_torn_log_keeps_what_is_whole_and_says_so(tmp_path: Path) -> None:
    whole = log_of(*((wandblog.HISTORY, wandblog.put_history(step, {"loss": 1.0})) for step in range(50)))
    for cut in range(7, len(whole), 41):
        records = read_log(tmp_path, whole[:cut])
        good = [record for record in records if record.problem is None]
        assert all(whole[: record.end].endswith(record.data) for record in good)
        assert len(records) - len(good) == (0 if not records or (good and good[-1].end == cut) else 1)


def test_a_damaged_block_is_said_once_and_the_next_one_read(tmp_path: Path) -> None:
    content = bytearray(
        log_of(*((wandblog.HISTORY, wandblog.put_history(step, {"loss": 1.0})) for step in range(3000)))
    )
    assert len(content) > 4 * wandblog.BLOCK
    content[wandblog.BLOCK + 20000] ^= 1
    records = read_log(tmp_path, bytes(content))
    problems = [record for record in records if record.problem is not None]
    assert len(problems) == 1 and wandblog.BLOCK <= problems[0].offset < 2 * wandblog.BLOCK
    steps = []
    for record in records:
        if record.problem is None:
            kind, message = wandblog.parts_of(record.data)
            if kind == wandblog.HISTORY:
                steps.append(int(dict(wandblog.items(message))["_step",]))
    assert steps == sorted(set(steps)) and 2500 < len(steps) < 3000 and steps[-1] == 2999


def test_the_checksum_of_a_log_is_that_of_their_own_files() -> None:
    content = (FIXTURES / "wandb" / "run-fine.wandb").read_bytes()
    checksum, length, kind = struct.unpack_from("<IHB", content, 7)
    assert zlib.crc32(content[14 : 14 + length], zlib.crc32(bytes([kind]))) == checksum
