"""Corpora to shards: every form gives the same tokens, a cut call goes on, bad input publishes nothing."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optsweep_engines import data, shards
from optsweep_engines.shards import PreparedDataset
from optsweep_tui import datasets, settings
from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.preparing import hub, job, journal, readers, worker
from optsweep_tui.preparing.job import Request
from optsweep_tui.settings import Workspace

TEXTS = [f"document {number}: " + "all work and no play " * (number % 7) for number in range(300)]


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return settings.workspace(tmp_path / "work").ensure()


def jsonl(path: Path, texts: list[str] = TEXTS) -> Path:
    """The texts as JSON lines, packed as the name says."""
    import zstandard

    content = b"".join(json.dumps({"id": n, "text": text}).encode() + b"\n" for n, text in enumerate(texts))
    packed: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}
    path.write_bytes(packed.get(path.suffix, lambda plain: plain)(content))
    return path


def prepared(place: Workspace, **request: Any) -> PreparedDataset:
    return job.prepare(place, Request(**{"name": "mine"} | request)).prepared


def texts_of(found: PreparedDataset) -> tuple[list[str], list[str]]:
    """Documents of both splits, from bytes that end with zero."""
    both = (found.train.astype(np.uint8).tobytes(), found.validation.astype(np.uint8).tobytes())
    train, validation = ([text.decode() for text in part.split(b"\0")[:-1]] for part in both)
    return train, validation


def nothing_published(place: Workspace) -> bool:
    return [path for path in place.data.iterdir() if not path.name.startswith(".")] == []


def test_every_form_of_the_same_documents_gives_the_same_hash(place: Workspace, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    forms = [jsonl(tmp_path / f"c{end}") for end in (".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson")]
    table = tmp_path / "c.parquet"
    parquet.write_table(pyarrow.table({"text": TEXTS, "id": range(300)}), table, row_group_size=70)
    folder = tmp_path / "texts"
    (folder / "below").mkdir(parents=True)
    for number, text in enumerate(TEXTS):
        (folder / ("below" if number < 150 else "") / f"{number:03d}.txt").write_text(text)
    for number in range(150):  # sorted by path: digits come before "below"
        (folder / "below" / f"{number:03d}.txt").rename(folder / f"{number:03d}.txt")
    split = tmp_path / "split"
    split.mkdir()
    jsonl(split / "a.jsonl", TEXTS[:100])
    jsonl(split / "b.jsonl.gz", TEXTS[100:])
    found = [prepared(place, source=form) for form in (*forms, table, folder, split)]
    assert len({each.sha256 for each in found}) == 1
    train, validation = texts_of(found[0])
    assert sorted(train + validation) == sorted(TEXTS)
    assert train == [text for text in TEXTS if text in set(train)], "in their order"
    expected = {t for t in TEXTS if int.from_bytes(hashlib.sha256(t.encode()).digest()[:8], "big") < 0.05 * 2**64}
    assert set(validation) == expected
    assert [path.name for path in place.data.iterdir()] == [f"mine-{found[0].sha256[:12]}"]
    found[0].verify()


def test_a_new_name_is_found_by_runs_and_by_planning(place: Workspace, tmp_path: Path) -> None:
    found = prepared(place, source=jsonl(tmp_path / "c.jsonl"))
    facts = datasets.DatasetLookup(place, prepare=True)("MINE")
    assert (facts.name, facts.sha256, facts.vocab_size) == ("mine", found.sha256, 256)
    assert [entry.name for entry in data.own(place.data)] == ["mine"]
    manifest = json.loads((found.folder / "manifest.json").read_text())
    assert (manifest["tokenizer"], manifest["documents"], manifest["held_out_share"]) == ("bytes", 300, 0.05)
    with pytest.raises(UnknownName, match='did you mean "mine"'):
        datasets.DatasetLookup(place, prepare=True)("mime")


def test_the_newest_of_a_name_is_used_and_preparing_an_older_one_again_brings_it_back(
    place: Workspace, tmp_path: Path
) -> None:
    first = prepared(place, source=jsonl(tmp_path / "a.jsonl"))
    second = prepared(place, source=jsonl(tmp_path / "b.jsonl", TEXTS[:200]))
    assert datasets.used(place, "mine") == second.folder != first.folder
    again = job.prepare(place, Request(name="mine", source=tmp_path / "a.jsonl"))
    assert again.already and again.prepared == first
    assert datasets.used(place, "mine") == first.folder


@pytest.mark.parametrize("count", [2, 3, 5, 12])
def test_few_documents_are_split_by_document_and_both_splits_have_some(
    count: int, place: Workspace, tmp_path: Path
) -> None:
    for salt in range(6):
        texts = [f"text {salt} {number}" for number in range(count)]
        train, validation = texts_of(prepared(place, name=f"few{salt}", source=jsonl(tmp_path / "few.jsonl", texts)))
        assert train and validation
        assert sorted(train + validation) == sorted(texts)


def test_where_no_hash_is_small_enough_the_smallest_is_held_out_with_its_duplicates(
    place: Workspace, tmp_path: Path
) -> None:
    texts = [*"abcdefgh", *"hgfedcba"]
    train, validation = texts_of(prepared(place, source=jsonl(tmp_path / "c.jsonl", texts), held_out=1e-9))
    smallest = min("abcdefgh", key=lambda text: hashlib.sha256(text.encode()).digest()[:8])
    assert validation == [smallest, smallest]
    assert train == [text for text in texts if text != smallest]
    train, validation = texts_of(prepared(place, source=tmp_path / "c.jsonl", held_out=1 - 1e-9))
    largest = max("abcdefgh", key=lambda text: hashlib.sha256(text.encode()).digest()[:8])
    assert train == [largest, largest]
    assert validation == [text for text in texts if text != largest]


def test_one_long_text_is_cut_at_a_place(place: Workspace, tmp_path: Path) -> None:
    text = "to be or not to be\n" * 500
    (tmp_path / "one.txt").write_text(text)
    found = prepared(place, source=tmp_path / "one.txt", held_out=0.1)
    both = np.concatenate((found.train, found.validation)).astype(np.uint8).tobytes()
    assert both == text.encode() + b"\0"
    assert found.validation_tokens == round(0.1 * len(both))
    same = prepared(place, source=jsonl(tmp_path / "one.jsonl", [text]), held_out=0.1)
    assert same.sha256 == found.sha256


def test_shakespeare_is_made_of_its_characters(place: Workspace, tmp_path: Path) -> None:
    text = "First Citizen:\nBefore we proceed any further, hear me speak.\n" * 20
    (tmp_path / "input.txt").write_text(text)
    found = prepared(place, name="Shakespeare", source=tmp_path / "input.txt")
    characters = sorted(set(text))
    assert (found.name, found.vocab_size) == ("shakespeare", len(characters))
    both = np.concatenate((found.train, found.validation))
    assert "".join(characters[token] for token in both) == text
    facts = datasets.DatasetLookup(place, prepare=True)("shakespeare")
    assert facts.vocab_size == len(characters), (
        "the model gets as many rows as there are tokens, not the catalogue's 65"
    )


def test_long_documents_and_small_batches_change_nothing(
    place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number:02d}.txt").write_text(f"{number} é some words\n\n  and more. " * (number * 3 + 1))
    whole = prepared(place, source=folder)
    monkeypatch.setattr(readers, "BATCH_BYTES", 500)
    assert prepared(place, name="small", source=folder).train_tokens == whole.train_tokens
    again = prepared(place, name="small", source=folder)
    assert np.array_equal(again.train, whole.train) and np.array_equal(again.validation, whole.validation)


class _Cut(Exception):
    """In the place of a kill."""


@pytest.mark.parametrize("form", ["c.jsonl", "c.jsonl.gz", "c.jsonl.zst", "c.parquet", "texts", "one.txt", "c.npy"])
def test_a_call_that_is_cut_anywhere_goes_on_and_ends_at_the_same_hash(
    form: str, place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optsweep_tui.preparing import arrays

    monkeypatch.setattr(readers, "BATCH_BYTES", 2000)
    monkeypatch.setattr(readers, "_ROWS", 40)
    monkeypatch.setattr(arrays, "CHUNK", 3000)
    monkeypatch.setattr(journal, "SAFE_SECONDS", -1.0)
    source = tmp_path / form
    if form == "c.parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"text": TEXTS}), source, row_group_size=100)
    elif form == "texts":
        source.mkdir()
        for number, text in enumerate(TEXTS):
            (source / f"{number:03d}.txt").write_text(text * (40 if number == 50 else 1))
    elif form == "one.txt":
        source.write_text("\n".join(TEXTS))
    elif form == "c.npy":
        np.save(source, np.arange(40_000) % 1000)
    else:
        jsonl(source)
    whole = prepared(settings.workspace(tmp_path / "other"), source=source)
    calls: list[list[int]] = []

    def cut(look: job.Look) -> None:
        calls[-1].append(look.tokens)
        if len(calls[-1]) == 3:
            raise _Cut

    for _ in range(60):
        calls.append([])
        try:
            found = job.prepare(place, Request(name="mine", source=source), show=cut).prepared
            break
        except _Cut:
            assert nothing_published(place)
    assert found.sha256 == whole.sha256
    assert len(calls) >= 3
    firsts = [each[0] for each in calls if each]
    assert firsts == sorted(firsts) and firsts[-1] > firsts[0], "each call goes on behind the one before"
    assert [path.name for path in place.data.iterdir()] == [found.folder.name], "nothing of the making is left"


@pytest.mark.parametrize("case", ["one text", "none held out", "all held out", "one document, held out"])
@pytest.mark.parametrize("moment", ["copying", "publishing"])
def test_a_cut_while_the_splits_are_made_even_costs_nothing(
    case: str, moment: str, place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = TEXTS[:1] if case.startswith("one document") else TEXTS[:20]
    source = tmp_path / "c.txt" if case == "one text" else jsonl(tmp_path / "c.jsonl", texts)
    if case == "one text":
        source.write_text("\n".join(TEXTS))
    share = {"none held out": 1e-9, "one text": 0.05}.get(case, 1 - 1e-9)
    whole = prepared(settings.workspace(tmp_path / "other"), source=source, held_out=share)
    place_of, name = (shards, "publish") if moment == "publishing" else (journal, "_copy")
    kept = getattr(place_of, name)

    def cut(*given: Any) -> None:
        if moment == "copying":
            kept(*given[:3], given[3] // 2)
        raise _Cut

    monkeypatch.setattr(place_of, name, cut)
    with pytest.raises(_Cut):
        prepared(place, source=source, held_out=share)
    assert nothing_published(place)
    monkeypatch.setattr(place_of, name, kept)
    assert prepared(place, source=source, held_out=share).sha256 == whole.sha256
    assert whole.train_tokens and whole.validation_tokens


def test_a_file_that_has_changed_since_is_read_again_and_those_before_it_are_not(
    place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "BATCH_BYTES", 2000)
    monkeypatch.setattr(journal, "SAFE_SECONDS", -1.0)
    folder = tmp_path / "corpus"
    folder.mkdir()
    jsonl(folder / "a.jsonl", TEXTS[:150])
    good = jsonl(folder / "b.jsonl", TEXTS[150:]).read_bytes()
    (folder / "b.jsonl").write_bytes(good[:-100] + b"garbage\n")
    with pytest.raises(OptsweepError, match=r"b\.jsonl line \d+ is not JSON"):
        prepared(place, source=folder)
    assert nothing_published(place)
    (folder / "b.jsonl").write_bytes(good)
    looks: list[job.Look] = []
    found = job.prepare(place, Request(name="mine", source=folder), show=looks.append).prepared
    size = (folder / "a.jsonl").stat().st_size
    assert looks[0].begun_at == size, "the whole first file, and nothing of the second"
    assert found.sha256 == prepared(place, name="mine", source=jsonl(tmp_path / "all.jsonl")).sha256


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("c.jsonl", b"", "empty corpus"),
        ("c.jsonl", b'{"text": ""}\n\n', "the corpus is empty"),
        ("c.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 5000, mtime=0)[:-20], "is cut"),
        ("c.jsonl.gz", b"no gzip", "no gzip file"),
        ("c.jsonl.zst", b"no zstandard", "no zstandard file"),
        ("c.parquet", b"PAR1 no parquet PAR1", "no Parquet file"),
        ("c.npy", b"no numpy", "holds no tokens"),
        ("c.bin", b"\1\2\3", "holds no tokens"),
        ("c.npy.gz", gzip.compress(b"a", mtime=0), "unpacked only"),
        ("c.parquet.zst", b"a", "unpacked only"),
        ("c.txt", b"text\0binary", "it has a zero byte"),
        ("c.txt", "é".encode("latin-1") * 9, "not UTF-8"),
        ("c.txt", b"", "empty corpus"),
        ("c.json", b'[{"text": "a"}]', 'no field "text"'),
    ],
)
def test_bad_input_is_one_line_and_publishes_nothing(
    name: str, content: bytes, says: str, place: Workspace, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OptsweepError, match=says) as caught:
        prepared(place, source=tmp_path / name)
    assert "\n" not in str(caught.value)
    assert list(place.data.iterdir()) == [], "nothing is left behind either"


def test_a_cut_zstandard_file_is_told_wherever_it_is_cut(place: Workspace, tmp_path: Path) -> None:
    packed = jsonl(tmp_path / "c.jsonl.zst", [f"{n * 7919} {n}" for n in range(3000)]).read_bytes()
    for keep in (3, len(packed) // 2, len(packed) - 1):
        (tmp_path / "c.jsonl.zst").write_bytes(packed[:keep])
        with pytest.raises(OptsweepError, match="is cut"):
            prepared(place, source=tmp_path / "c.jsonl.zst")
    (tmp_path / "c.jsonl.zst").write_bytes(packed + packed)
    assert prepared(place, source=tmp_path / "c.jsonl.zst").train_tokens > 0, "several frames are one file"


def test_folders_of_one_kind_pass_others_over_and_of_two_are_refused(place: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    jsonl(folder / "a.jsonl")
    (folder / "README.md").write_text("about")
    said: list[str] = []
    found = job.prepare(place, Request(name="mine", source=folder), say=said.append)
    assert found.state.documents == 300 and "1 files" in said[0]
    np.save(folder / "b.npy", np.arange(10))
    with pytest.raises(OptsweepError, match="several kinds"):
        prepared(place, source=folder)
    code = tmp_path / "code"
    code.mkdir()
    (code / "a.c").write_text("int main;")
    (code / "b.py").write_text("pass")
    (code / "a.out").write_bytes(b"\x7fELF\0\0")
    outcome = job.prepare(place, Request(name="code", source=code))
    assert (outcome.state.documents, outcome.skipped_files) == (2, 1)


def test_token_arrays_keep_their_splits_or_are_cut_at_a_place(place: Workspace, tmp_path: Path) -> None:
    tokens = np.arange(5000) % 700
    np.save(tmp_path / "c.npy", tokens)
    tokens.astype("<u2").tofile(tmp_path / "c.bin")
    found = prepared(place, source=tmp_path / "c.npy")
    assert (found.vocab_size, found.validation_tokens) == (700, 250)
    assert np.array_equal(np.concatenate((found.train, found.validation)), tokens)
    assert prepared(place, source=tmp_path / "c.bin").sha256 == found.sha256
    nano = tmp_path / "nano"
    nano.mkdir()
    tokens[:4000].astype("<u2").tofile(nano / "train.bin")
    tokens[4000:].astype("<u2").tofile(nano / "val.bin")
    found = prepared(place, source=nano, vocab_size=50257)
    assert (found.vocab_size, found.train_tokens, found.validation_tokens) == (50257, 4000, 1000)
    assert np.array_equal(found.validation, tokens[4000:])


def test_token_arrays_of_large_vocabularies_keep_every_bit(place: Workspace, tmp_path: Path) -> None:
    tokens = np.arange(3000) * 42 % 128256
    tokens.astype("<u4").tofile(tmp_path / "c.bin")
    found = prepared(place, source=tmp_path / "c.bin", vocab_size=128256)
    assert found.train.dtype == np.dtype("<u4")
    assert np.array_equal(np.concatenate((found.train, found.validation)), tokens)
    (np.arange(3000) % 100).astype("<u4").tofile(tmp_path / "small.bin")
    small = prepared(place, name="small", source=tmp_path / "small.bin")
    assert small.vocab_size == 100 and small.train_tokens + small.validation_tokens == 3000
    header = np.zeros(256, dtype="<i4")
    header[:3] = 20240520, 1, 3000
    (tmp_path / "speedrun.bin").write_bytes(header.tobytes() + (tokens % 50257).astype("<u2").tobytes())
    speedrun = prepared(place, name="speedrun", source=tmp_path / "speedrun.bin", vocab_size=50257)
    assert np.array_equal(np.concatenate((speedrun.train, speedrun.validation)), tokens % 50257)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.array([1, 2, 70000]), "token 70000 is outside the vocabulary of 50257"),
        (np.array([1, -1, 2]), "negative token -1"),
        (np.zeros((4, 4), dtype=int), "2 dimensions"),
        (np.zeros(9), "of float64"),
        (np.zeros(0, dtype=int), "empty"),
        (np.zeros(1, dtype=int), "one token"),
    ],
)
def test_arrays_that_are_no_tokens_are_refused(array: Any, says: str, place: Workspace, tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", array)
    with pytest.raises(OptsweepError, match=says):
        prepared(place, source=tmp_path / "c.npy", vocab_size=50257)
    assert nothing_published(place)


def test_a_mix_reads_its_parts_by_their_weights_until_one_ends(
    place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "BATCH_BYTES", 300)
    folder = tmp_path / "mix"
    for stream in hub.PUBLISHED["dclm-mix"].streams:
        part = folder / hub.folder_name(stream)
        part.mkdir(parents=True)
        rows = [json.dumps({stream.field: f"{part.name} {number:05d} " + "x" * 80}) for number in range(1500)]
        (part / "a.jsonl").write_text("\n".join(rows) + "\n")
    said: list[str] = []
    found = job.prepare(place, Request(name="dclm-mix", source=folder, tokenizer="bytes"), say=said.append).prepared
    train, validation = texts_of(found)
    counts = [
        sum(text.startswith(hub.folder_name(stream)) for text in train + validation)
        for stream in hub.PUBLISHED["dclm-mix"].streams
    ]
    assert counts[0] == 1500, "the first part ends"
    # By bytes, to within the batch that each part may be ahead; a line of the parts is 117 to 128 bytes long.
    assert counts[1] == pytest.approx(1500 * 0.25 / 3.8, rel=0.15)
    assert counts[2] == pytest.approx(1500 * 0.055 / 3.8, rel=0.25)
    assert "128,256" in said[-1], "another vocabulary than the published one is said"
    with pytest.raises(OptsweepError, match="has no folder"):
        prepared(place, name="dclm-mix", source=tmp_path, tokenizer="bytes")


def test_a_stream_of_the_hub_goes_on_by_document(
    place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Rows:
        """What the library gives: rows that can be skipped."""

        def __init__(self, texts: list[str]) -> None:
            self.texts = texts

        def skip(self, count: int) -> Rows:
            return Rows(self.texts[count:])

        def __iter__(self) -> Iterator[dict[str, str]]:
            return iter({"text": text} for text in self.texts)

    monkeypatch.setattr(hub, "BATCH_BYTES", 1500)
    monkeypatch.setattr(journal, "SAFE_SECONDS", -1.0)
    monkeypatch.setattr(hub, "_require_hub", lambda *given, **named: None)
    splits = {"train": TEXTS[:250], "validation": TEXTS[250:]}
    monkeypatch.setattr(hub.HubSource, "_opened", lambda self: Rows(splits[self._stream.split]))
    request = Request(name="tinystories", tokenizer="bytes")

    def cut(look: job.Look) -> None:
        raise _Cut

    for _ in range(4):
        with pytest.raises(_Cut):
            job.prepare(place, request, show=cut)
    train, validation = texts_of(job.prepare(place, request).prepared)
    assert (train, validation) == (TEXTS[:250], TEXTS[250:]), "the publisher's own split is kept"


def test_the_library_streams_a_repository_as_this_asks_it_to(
    place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "repository"  # the library takes a folder in the place of a repository
    folder.mkdir()
    jsonl(folder / "train.jsonl", TEXTS[:250])
    jsonl(folder / "validation.jsonl", TEXTS[250:])
    streams = tuple(
        hub.Stream(repository=str(folder), split=split, value=value)
        for split, value in (("validation", worker.HELD_OUT), ("train", worker.TRAIN))
    )
    monkeypatch.setitem(hub.PUBLISHED, "tinystories", hub.Published(streams=streams, tokenizer=hub.GPT2))
    monkeypatch.setattr(hub, "BATCH_BYTES", 4000)
    monkeypatch.setattr(journal, "SAFE_SECONDS", -1.0)
    monkeypatch.setattr(hub, "_require_hub", lambda *given, **named: None)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    request = Request(name="tinystories", tokenizer="bytes")

    def cut(look: job.Look) -> None:
        raise _Cut

    for _ in range(3):
        with pytest.raises(_Cut):
            job.prepare(place, request, show=cut)
    assert texts_of(job.prepare(place, request).prepared) == (TEXTS[:250], TEXTS[250:])


def test_without_a_network_a_tokenizer_of_ones_own_changes_nothing_in_the_line(tmp_path: Path) -> None:
    """In a process of its own: other parts of the hub's library are loaded where its tokenizers were asked for."""
    code = (
        "import urllib.request\n"
        "from optsweep_tui.errors import OptsweepError\n"
        "from optsweep_tui.preparing import hub\n"
        "def nothing(*given, **named): raise OSError('no network')\n"
        "urllib.request.urlopen = nothing\n"
        "try: hub.source_of('c4')\n"
        "except OptsweepError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "cannot be reached (no network)" in done.stdout


def test_a_disk_that_is_full_for_the_corpus_that_comes_with_it_is_one_line(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object) -> PreparedDataset:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(data, "prepare", full)
    with pytest.raises(OptsweepError, match=r"embedded cannot be written to .*No space left") as told:
        job.prepare(place, Request(name="embedded"))
    assert "resume" not in str(told.value), "there is nothing to resume"


def test_so_many_tokens_are_enough(place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "BATCH_BYTES", 1000)
    found = prepared(place, source=jsonl(tmp_path / "c.jsonl"), most_tokens=5000)
    assert 5000 <= found.train_tokens < 7000
    (tmp_path / "other").mkdir()
    other = settings.workspace(tmp_path / "other")
    assert prepared(other, source=tmp_path / "c.jsonl", most_tokens=5000, workers=3).sha256 == found.sha256


def test_a_process_that_is_killed_is_one_line_and_the_next_call_goes_on(
    place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "BATCH_BYTES", 1000)
    monkeypatch.setattr(journal, "SAFE_SECONDS", -1.0)
    source = jsonl(tmp_path / "c.jsonl")
    looks: list[job.Look] = []

    def kill(look: job.Look) -> None:
        looks.append(look)
        if len(looks) == 3:
            children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
            os.kill(int(children[-1]), signal.SIGKILL)

    with pytest.raises(OptsweepError, match=r"killed by signal 9 \(out of memory"):
        job.prepare(place, Request(name="mine", source=source, workers=2), show=kill)
    assert nothing_published(place)
    rest: list[job.Look] = []
    found = job.prepare(place, Request(name="mine", source=source, workers=2), show=rest.append).prepared
    assert rest[0].begun_at >= looks[2].done
    assert found.sha256 == prepared(place, name="mine", source=source, held_out=0.05, workers=1).sha256


def test_a_full_disk_is_one_line_and_the_next_call_goes_on(
    place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "BATCH_BYTES", 2000)
    monkeypatch.setattr(journal, "SAFE_SECONDS", -1.0)
    source = jsonl(tmp_path / "c.jsonl")
    whole, calls = journal.Journal.add, []

    def full(self: journal.Journal, *given: Any) -> None:
        calls.append(given)
        if len(calls) == 5:
            raise OSError(errno.ENOSPC, "No space left on device", "train.bin")
        whole(self, *given)

    monkeypatch.setattr(journal.Journal, "add", full)
    with pytest.raises(OptsweepError, match="the disk is full"):
        prepared(place, source=source)
    assert nothing_published(place)
    looks: list[job.Look] = []
    job.prepare(place, Request(name="mine", source=source), show=looks.append)
    assert looks[0].begun_at > 0


def test_two_calls_at_once_are_refused_and_another_that_is_finished_drops_what_was_begun(
    place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "SAFE_SECONDS", -1.0)
    source = jsonl(tmp_path / "a.jsonl")

    def again(look: job.Look) -> None:
        with pytest.raises(OptsweepError, match="by another process"):
            prepared(place, source=source)
        raise _Cut

    with pytest.raises(_Cut):
        job.prepare(place, Request(name="mine", source=source), show=again)
    (begun,) = place.data.iterdir()
    said: list[str] = []
    with pytest.raises(OptsweepError):
        prepared(place, source=tmp_path / "b.jsonl")
    assert begun.exists(), "a mistake costs nothing"
    other = jsonl(tmp_path / "b.jsonl", TEXTS[:50])
    job.prepare(place, Request(name="mine", source=other), say=said.append)
    assert not begun.exists() and "is dropped" in said[0]


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"name": "a/b"}, "no name for a dataset"),
        ({"name": "nowhere"}, "in no catalogue"),
        ({"source": Path("/nowhere/at/all")}, "cannot be read"),
        ({"name": "embedded", "source": Path("/")}, "a name of its own"),
        ({"held_out": 1.5}, "no share"),
        ({"workers": 0}, "no positive number"),
        ({"tokenizer": "/nowhere.json"}, "cannot be read"),
        ({"field": "body"}, 'no field "body"'),
        ({"vocab_size": 9}, "is for token arrays"),
    ],
)
def test_what_cannot_be_done_is_said(request_: dict[str, Any], says: str, place: Workspace, tmp_path: Path) -> None:
    source = {} if request_.get("name") == "nowhere" else {"source": jsonl(tmp_path / "c.jsonl")}
    with pytest.raises(OptsweepError, match=says):
        prepared(place, **source | request_)
    assert nothing_published(place)


def test_damaged_shards_are_mended_by_preparing_them_again(place: Workspace, tmp_path: Path) -> None:
    found = prepared(place, source=jsonl(tmp_path / "c.jsonl"))
    content = bytearray((found.folder / "train.bin").read_bytes())
    content[77] ^= 1
    (found.folder / "train.bin").write_bytes(content)
    with pytest.raises(OptsweepError, match="is damaged"):
        datasets.DatasetLookup(place, prepare=True)("mine")
    assert prepared(place, source=tmp_path / "c.jsonl").sha256 == found.sha256
    datasets.DatasetLookup(place, prepare=True)("mine")
    shards.read(found.folder).verify()


def test_memory_does_not_grow_with_the_corpus(place: Workspace, tmp_path: Path) -> None:
    import tracemalloc

    peaks = []
    for count in (2500, 6000):
        texts = io.BytesIO(b"".join(b'{"text": "%d %s"}\n' % (n, b"x" * 1000) for n in range(count)))
        (tmp_path / "c.jsonl").write_bytes(texts.getbuffer())
        del texts
        tracemalloc.start()
        prepared(place, source=tmp_path / "c.jsonl")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0], "2.5 MB and 6 MB of text"
