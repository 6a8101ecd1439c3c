"""Datasets: what is prepared, how it is found again, and that batches are a pure function of hash, seed and step."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from optsweep_engines import data, datafiles, shards
from optsweep_engines.data import (
    DatasetEntry,
    PreparedDataset,
    Tokens,
    batch,
    find,
    open_dataset,
    validation_windows,
    write,
)


def counting(
    documents: int = 100, length: int = 500, fingerprint: str = "1", vocab_size: int = 1 << 16
) -> DatasetEntry:
    """No token occurs twice: the value of a token tells where it stood."""

    def texts() -> Iterator[tuple[str, Tokens]]:
        for index in range(documents):
            yield f"text-{index}", (np.arange(length) + index * length).astype("<u2")

    return DatasetEntry(
        name="counting", vocab_size=vocab_size, source="", doc="", documents=texts, fingerprint=lambda: fingerprint
    )


@pytest.fixture
def prepared(tmp_path: Path) -> PreparedDataset:
    return write(counting(), tmp_path)


def registered(monkeypatch: pytest.MonkeyPatch, entry: DatasetEntry) -> None:
    monkeypatch.setattr(data, "datasets", lambda: {**data.DATASETS, entry.name: entry})


def test_every_token_is_in_exactly_one_split_and_splits_go_by_document(prepared: PreparedDataset) -> None:
    assert prepared.train_tokens + prepared.validation_tokens == 100 * 500
    assert 1 <= prepared.validation_tokens // 500 <= 15
    assert prepared.validation_tokens % 500 == prepared.train_tokens % 500 == 0
    together = np.concatenate((prepared.train, prepared.validation))
    expected = np.concatenate([tokens for _, tokens in counting().documents()])  # type: ignore[misc]
    assert np.array_equal(np.sort(together), np.sort(expected))
    prepared.verify()


def test_preparing_twice_gives_one_folder(tmp_path: Path) -> None:
    first, second = write(counting(), tmp_path), write(counting(), tmp_path)
    assert first == second
    assert [path.name for path in tmp_path.iterdir()] == [f"counting-{first.sha256[:12]}"]
    assert write(counting(length=501), tmp_path).sha256 != first.sha256


def test_prepared_shards_are_found_only_for_the_same_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registered(monkeypatch, counting())
    assert find("counting", tmp_path) is None
    assert find("counting", tmp_path / "missing") is None
    first = write(counting(), tmp_path)
    assert find("COUNTING", tmp_path) == first
    registered(monkeypatch, counting(length=600, fingerprint="2"))
    assert find("counting", tmp_path) is None
    second = data.prepare("counting", tmp_path)
    assert find("counting", tmp_path) == second != first
    assert open_dataset(tmp_path, "counting", first.sha256) == first


def test_another_build_with_the_same_text_takes_the_folder_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write(counting(), tmp_path)
    registered(monkeypatch, counting(fingerprint="2"))
    assert find("counting", tmp_path) is None
    assert write(counting(fingerprint="2"), tmp_path) == first
    assert find("counting", tmp_path) == first


def test_damaged_or_wrong_shards_are_refused_with_the_file_named(prepared: PreparedDataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not prepared there"):
        open_dataset(tmp_path, "counting", "0" * 64)
    with pytest.raises(ValueError, match="the spec asks for"):
        open_dataset(tmp_path, "counting", prepared.sha256[:12] + "0" * 52)
    blob = (prepared.folder / "train.bin").read_bytes()
    (prepared.folder / "train.bin").write_bytes(blob[:-2])
    with pytest.raises(ValueError, match=r"train\.bin"):
        open_dataset(tmp_path, "counting", prepared.sha256)
    (prepared.folder / "train.bin").write_bytes(blob)
    manifest = prepared.folder / "manifest.json"
    manifest.write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json"):
        open_dataset(tmp_path, "counting", prepared.sha256)


def test_a_damaged_manifest_does_not_hide_other_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registered(monkeypatch, counting())
    first = write(counting(), tmp_path)
    for name, text in (
        ("counting-aaa", "{"),
        ("counting-bbb", "[]"),
        ("counting-ccc", json.dumps({"name": "counting"})),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(text)
    assert find("counting", tmp_path) == first


def test_a_batch_depends_on_hash_seed_and_step_only(prepared: PreparedDataset, tmp_path: Path) -> None:
    x, y = batch(prepared, 3, 17, 8, 32)
    again = open_dataset(tmp_path, "counting", prepared.sha256)
    batch(again, 3, 18, 8, 32)
    assert np.array_equal(batch(again, 3, 17, 8, 32)[0], x)
    for seed, step in ((4, 17), (3, 18)):
        assert not np.array_equal(batch(prepared, seed, step, 8, 32)[0], x)
    other = write(counting(length=501), tmp_path)
    assert not np.array_equal(batch(other, 3, 17, 8, 32)[0], x)
    assert x.shape == y.shape == (8, 32)
    assert x.dtype == np.int64
    assert np.array_equal(x[:, 1:], y[:, :-1])


def test_a_batch_is_the_windows_at_the_words_of_the_counter_based_generator(prepared: PreparedDataset) -> None:
    x, y = batch(prepared, 3, 17, 8, 32)
    key = hashlib.sha256(f"optsweep batch {prepared.sha256} 3".encode()).digest()[:16]
    words = np.random.Philox(key=np.frombuffer(key, dtype="<u8"), counter=[0, 0, 0, 17]).random_raw(8)
    for row, word in enumerate(words.tolist()):
        start = word % (prepared.train_tokens - 32)
        assert x[row].tolist() == prepared.train[start : start + 32].tolist()
        assert y[row].tolist() == prepared.train[start + 1 : start + 33].tolist()


def test_windows_of_a_larger_batch_begin_with_those_of_a_smaller_one(prepared: PreparedDataset) -> None:
    assert np.array_equal(batch(prepared, 0, 5, 16, 32)[0][:8], batch(prepared, 0, 5, 8, 32)[0])


def test_windows_cover_the_split_evenly(prepared: PreparedDataset) -> None:
    place = np.zeros(1 << 16, dtype=np.int64)
    place[prepared.train] = np.arange(prepared.train_tokens)
    starts = place[np.concatenate([batch(prepared, 1, step, 64, 4)[0][:, 0] for step in range(200)])]
    shares, _ = np.histogram(starts, bins=20, range=(0, prepared.train_tokens - 4))
    # 12,800 draws into 20 bins: 640 each, standard deviation 25
    assert np.abs(shares - 640).max() < 5 * 25


def test_every_place_of_a_short_split_can_be_drawn(tmp_path: Path) -> None:
    tiny = write(counting(documents=40, length=1), tmp_path)
    length = tiny.train_tokens - 2
    firsts = {int(batch(tiny, 0, step, 4, length)[0][0, 0]) for step in range(40)}
    assert len(firsts) == 2
    with pytest.raises(ValueError, match="a window needs"):
        batch(tiny, 0, 0, 1, tiny.train_tokens)


def test_validation_windows_are_fixed_spread_and_do_not_overlap(prepared: PreparedDataset) -> None:
    x, y = validation_windows(prepared, 1000, 50)
    assert x.shape == y.shape == (20, 50)
    assert np.array_equal(x[:, 1:], y[:, :-1])
    assert len(np.unique(x)) == x.size
    place = np.zeros(1 << 16, dtype=np.int64)
    place[prepared.validation] = np.arange(prepared.validation_tokens)
    gaps = np.diff(place[x[:, 0]])
    assert place[x[0, 0]] == 0
    assert gaps.max() - gaps.min() <= 1
    assert place[x[-1, 0]] + gaps[0] + 1 >= prepared.validation_tokens - 1
    most, _ = validation_windows(prepared, prepared.validation_tokens - 1, 50)
    assert len(most) == (prepared.validation_tokens - 1) // 50
    with pytest.raises(ValueError, match="too few"):
        validation_windows(prepared, prepared.validation_tokens, 50)
    with pytest.raises(ValueError, match="less than one window"):
        validation_windows(prepared, 49, 50)


def wide(documents: int = 100) -> DatasetEntry:
    """Tokens of a vocabulary as large as Llama 3's: the largest that it has, and one that two bytes would cut to 1."""

    def texts() -> Iterator[tuple[str, Tokens]]:
        for index in range(documents):
            yield f"text-{index}", np.array([128255, 65537, index, 70000] * 8, dtype="<u4")

    return DatasetEntry(name="wide", vocab_size=128256, source="", doc="", documents=texts, fingerprint=lambda: "1")


def test_tokens_of_large_vocabularies_take_four_bytes_and_come_back_whole(tmp_path: Path) -> None:
    prepared = write(wide(), tmp_path)
    assert prepared.train.dtype == prepared.validation.dtype == np.dtype("<u4")
    sizes = [(prepared.folder / f"{split}.bin").stat().st_size for split in ("train", "validation")]
    assert sizes == [4 * prepared.train_tokens, 4 * prepared.validation_tokens]
    expected = {128255, 65537, 70000, *range(100)}
    x, _ = validation_windows(prepared, 32, 16)
    assert set(np.unique(x)) <= expected and x.max() == 128255
    seen = np.concatenate([batch(prepared, 0, step, 64, 16)[0].ravel() for step in range(20)])
    assert set(np.unique(seen)) <= expected and seen.max() == 128255 and 65537 in seen
    prepared.verify()
    assert open_dataset(tmp_path, "wide", prepared.sha256) == prepared
    (prepared.folder / "train.bin").write_bytes((prepared.folder / "train.bin").read_bytes()[:-2])
    with pytest.raises(ValueError, match=r"train\.bin"):
        open_dataset(tmp_path, "wide", prepared.sha256)


def test_tokens_of_large_vocabularies_arrive_whole_on_a_host(tmp_path: Path) -> None:
    prepared = write(wide(), tmp_path / "here")
    place = datafiles.Incoming(tmp_path / "there", "wide", prepared.sha256)
    for name in datafiles.FILES:
        place.write(name, 0, (prepared.folder / name).read_bytes())
    place.publish()
    arrived = open_dataset(tmp_path / "there", "wide", prepared.sha256)
    arrived.verify()
    assert np.array_equal(arrived.train, prepared.train)


def test_the_hash_of_shards_is_that_of_header_and_bytes_as_it_always_was(tmp_path: Path) -> None:
    prepared = write(counting(), tmp_path)
    digest = hashlib.sha256(f"optsweep dataset 1 65536 {prepared.train_tokens} {prepared.validation_tokens}\n".encode())
    for split in ("train", "validation"):
        digest.update((prepared.folder / f"{split}.bin").read_bytes())
    assert prepared.sha256 == digest.hexdigest()
    assert prepared.train.dtype == np.dtype("<u2")


def test_shards_are_hashed_again_only_after_they_were_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = write(counting(), tmp_path)
    calls: list[str] = []
    whole = shards.content_hash
    monkeypatch.setattr(shards, "content_hash", lambda *given: calls.append("hash") or whole(*given))
    prepared.verify_once()
    assert calls == [], "publishing them has hashed them"
    (prepared.folder / shards.STAMP).unlink()
    prepared.verify_once()
    prepared.verify_once()
    assert calls == ["hash"]
    shard = prepared.folder / "validation.bin"
    times = shard.stat()
    with shard.open("r+b") as file:
        file.seek(11)
        byte = file.read(1)[0]
        file.seek(11)
        file.write(bytes([byte ^ 1]))
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    for _ in range(2):
        with pytest.raises(ValueError, match="hash to"):
            prepared.verify_once()
    assert write(counting(), tmp_path) == prepared
    prepared.verify_once()


def test_too_few_documents_and_tokens_outside_the_vocabulary_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too few to hold some out"):
        write(counting(documents=1), tmp_path)
    with pytest.raises(ValueError, match="outside its vocabulary"):
        write(counting(vocab_size=1000), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_declared_dataset_without_documents_says_so(tmp_path: Path) -> None:
    assert data.dataset("DCLM-mix").vocab_size == 128256
    with pytest.raises(ValueError, match="cannot be prepared here"):
        data.prepare("dclm-mix", tmp_path)
    with pytest.raises(LookupError) as caught:
        data.prepare("shakespear", tmp_path)
    assert caught.value.args == ("shakespear",)


def test_the_embedded_corpus_is_the_standard_library(tmp_path: Path) -> None:
    entry = data.dataset("embedded")
    assert entry.documents is not None
    names, sizes = zip(*((name, len(tokens)) for name, tokens in entry.documents()), strict=True)
    assert list(names) == sorted(names)
    assert {"argparse.py", "json/decoder.py"} <= set(names)
    assert not [name for name in names if name.startswith(("test/", "idlelib/", "site-packages/"))]
    prepared = data.prepare("embedded", tmp_path)
    assert prepared.train_tokens + prepared.validation_tokens == sum(sizes)
    assert prepared.train_tokens > 5_000_000
    assert prepared.validation_tokens > 200_000
    assert find("embedded", tmp_path) == prepared
    assert b"def " in prepared.validation.astype(np.uint8).tobytes()
