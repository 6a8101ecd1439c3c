"""Datasets: a catalogue, prepared once into memory-mapped shards; every batch is a pure function of (hash, seed, step)."""

from __future__ import annotations

import functools
import hashlib
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from optsweep_engines import epochs, shards
from optsweep_engines.shards import PreparedDataset, Tokens
from optsweep_engines.spec import RunSpec

__all__ = ["DatasetEntry", "PreparedDataset", "Tokens", "batch", "batch_of", "dataset", "dataset_of", "datasets", "find",
           "open_dataset", "prepare", "validation_windows", "write"]  # fmt: skip

ENTRY_POINT_GROUP = "optsweep.datasets"

VALIDATION_PERCENT = 5
"""Share of the documents that go to the validation split, chosen by a hash of their names."""


@dataclass(frozen=True, kw_only=True)
class DatasetEntry:
    """One line of the catalogue: where documents come from and what their tokens are."""

    name: str
    vocab_size: int
    """Token ids are below it."""
    source: str
    doc: str
    documents: Callable[[], Iterator[tuple[str, Tokens]]] | None = None
    """Yields (document name, its tokens) in a fixed order; None: `optsweep data prepare` makes the shards."""
    fingerprint: Callable[[], str] | None = None
    """A cheap text that changes when the documents here may differ; compared before prepared shards are reused."""


def _standard_library() -> Iterator[tuple[str, Tokens]]:
    """Source files of the running Python, sorted by path; tests, IDLE, build settings, installed packages left out."""
    root = Path(sysconfig.get_path("stdlib"))
    left_out = {"test", "tests", "idle_test", "idlelib", "site-packages", "dist-packages", "__pycache__"}
    files = [
        (path.relative_to(root).as_posix(), path)
        for path in root.rglob("*.py")
        if not left_out & set(path.relative_to(root).parts[:-1]) and not path.name.startswith("_sysconfigdata")
    ]
    for name, path in sorted(files):
        yield name, np.frombuffer(path.read_bytes() + b"\0", dtype=np.uint8).astype("<u2")


DATASETS: dict[str, DatasetEntry] = {
    entry.name: entry
    for entry in (
        DatasetEntry(
            name="embedded",
            vocab_size=256,
            source="source text of the Python standard library on this machine",
            doc="bytes; about 12 MB, on every machine; differs by Python version, so its hash is part of each run",
            documents=_standard_library,
            fingerprint=lambda: f"python {sys.version}",
        ),
        DatasetEntry(
            name="dclm-mix",
            vocab_size=128256,
            source="dclm_baseline 3.8, starcoderdata 0.25, proofpile_2 0.055 (weights); https://arxiv.org/abs/2509.02046",
            doc="training mix of the reference study in tokens of Llama 3; made by optsweep data prepare",
        ),
        *(
            DatasetEntry(
                name=name,
                vocab_size=vocab_size,
                source=source,
                doc=f"{text}; made by optsweep data prepare",
            )
            for name, vocab_size, source, text in (
                ("c4", 32100, "https://huggingface.co/datasets/allenai/c4", "C4 in tokens of T5"),
                ("shakespeare", 65, "https://github.com/karpathy/char-rnn", "the tiny Shakespeare text in characters"),
                ("tinystories", 50257, "https://arxiv.org/abs/2305.07759", "TinyStories in tokens of GPT-2"),
                (
                    "openwebtext",
                    50257,
                    "https://skylion007.github.io/OpenWebTextCorpus",
                    "OpenWebText in tokens of GPT-2",
                ),
                ("fineweb", 50257, "https://arxiv.org/abs/2406.17557", "FineWeb in tokens of GPT-2"),
            )
        ),
    )
}


@functools.cache
def datasets() -> dict[str, DatasetEntry]:
    """Every registered dataset by name: the in-tree ones and those of installed packages (looked up once)."""
    found: dict[str, DatasetEntry] = dict(DATASETS)
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name != "builtin":
            found.update(point.load())
    return found


def dataset(name: str, root: Path | None = None) -> DatasetEntry:
    """The entry of a name, matched without case.

    Args:
        root: datasets that were prepared there from a corpus of the user's own are known too.

    Raises:
        LookupError: no such dataset; the argument is the name that was asked for.
    """
    by_name = {key.lower(): entry for key, entry in datasets().items()}
    if name.lower() in by_name:
        return by_name[name.lower()]
    for entry in own(root) if root is not None else ():
        if entry.name.lower() == name.lower():
            return entry
    raise LookupError(name)


def own(root: Path) -> list[DatasetEntry]:
    """What was prepared under `root` and is in no catalogue, by name; the newest of each name."""
    known = {key.lower() for key in datasets()}
    newest = {manifest["name"]: manifest for _, _, manifest in sorted(shards.manifests(root), key=lambda item: item[0])}
    return [
        DatasetEntry(
            name=name,
            vocab_size=int(manifest["vocab_size"]),
            source=str(manifest.get("source", "")),
            doc=f"your own, tokens of {manifest.get('tokenizer', 'unknown origin')}",
        )
        for name, manifest in sorted(newest.items())
        if name.lower() not in known and isinstance(manifest.get("vocab_size"), int)
    ]


def prepare(name: str, root: Path) -> PreparedDataset:
    """Write the shards of a dataset by name; see `write`.

    Raises:
        LookupError: no such dataset.
    """
    return write(dataset(name), root)


def write(entry: DatasetEntry, root: Path) -> PreparedDataset:
    """Write the shards to `root/<name>-<first 12 of hash>` and return them; the folder appears whole or not at all.

    Raises:
        ValueError: it cannot be prepared here, a token is not below vocab_size, or its documents are too few for a
            held-out split.
        OSError: the folder cannot be written.
    """
    if entry.documents is None or entry.fingerprint is None:
        raise ValueError(f"dataset {entry.name} cannot be prepared here: it comes from {entry.source}")
    train: list[Tokens] = []
    validation: list[Tokens] = []
    for document, tokens in entry.documents():
        held_out = int.from_bytes(hashlib.sha256(document.encode()).digest()[:4], "big") % 100 < VALIDATION_PERCENT
        (validation if held_out else train).append(tokens)
    if not train or not validation:
        raise ValueError(f"dataset {entry.name}: {len(train) + len(validation)} documents are too few to hold some out")
    splits: dict[str, npt.NDArray[Any]] = {"train": np.concatenate(train), "validation": np.concatenate(validation)}
    largest = max(int(tokens.max()) for tokens in splits.values())
    if largest >= entry.vocab_size:
        raise ValueError(f"dataset {entry.name}: token {largest} is outside its vocabulary of {entry.vocab_size}")
    root.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{entry.name}-", dir=root))
    try:
        for split, tokens in splits.items():
            (temporary / f"{split}.bin").write_bytes(tokens.astype(shards.token_type(entry.vocab_size)).tobytes())
        manifest = {
            "name": entry.name,
            "vocab_size": entry.vocab_size,
            "train_tokens": len(splits["train"]),
            "validation_tokens": len(splits["validation"]),
            "source": entry.source,
            "fingerprint": entry.fingerprint(),
        }
        return shards.publish(temporary, root, manifest)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def find(name: str, root: Path) -> PreparedDataset | None:
    """The newest prepared shards of a dataset that match what `prepare` would write here; None if there are none.

    Reads manifests only.

    Raises:
        LookupError: no such dataset.
        ValueError: the newest is damaged.
    """
    entry = dataset(name, root)
    expected = entry.fingerprint() if entry.fingerprint else None
    matches = [
        (time_ns, folder)
        for time_ns, folder, manifest in shards.manifests(root, entry.name)
        if manifest["name"] == entry.name and (expected is None or manifest.get("fingerprint") == expected)
    ]
    return shards.read(max(matches)[1]) if matches else None


def is_there(root: Path, name: str, sha256: str) -> bool:
    """Whether the shards that a spec names lie under `root`, whatever state they are in."""
    return (shards.folder_of(root, name, sha256) / shards.MANIFEST).is_file()


def open_dataset(root: Path, name: str, sha256: str) -> PreparedDataset:
    """The shards that a spec names, wherever they were prepared; sizes are checked, `verify` checks every token.

    Raises:
        ValueError: they are not under `root`, or are not the ones that the spec names.
    """
    folder = shards.folder_of(root, name, sha256)
    if not is_there(root, name, sha256):
        raise ValueError(f"{folder}: dataset {name} with hash {sha256[:12]} is not prepared there")
    found = shards.read(folder)
    if found.sha256 != sha256:
        raise ValueError(f"{folder}: the manifest has hash {found.sha256}, the spec asks for {sha256}")
    return found


def dataset_of(spec: RunSpec, root: Path) -> PreparedDataset:
    """The data of a run, which its model can read; every token was hashed since the files were last touched.

    Raises:
        ValueError: as `open_dataset`, a token is not what the hash says, or the data have tokens that the model does not know.
    """
    assert spec.dataset_hash is not None
    found = open_dataset(root, spec.dataset, spec.dataset_hash)
    found.verify_once()
    epochs.require(spec, found.train_tokens)
    if found.vocab_size > spec.shape.vocab_size:
        raise ValueError(
            f"dataset {spec.dataset} has {found.vocab_size} tokens, model {spec.model} knows {spec.shape.vocab_size}"
        )
    return found


def batch_of(spec: RunSpec, dataset: PreparedDataset, step: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Inputs and targets [batch_size, seq_len] of one step of a run, counted from 0."""
    if spec.simulate_epochs == 1:
        return batch(dataset, spec.seed, step, spec.batch_size, spec.seq_len)
    windows = _windows(dataset.train, epochs.starts(spec, dataset.train_tokens, step), spec.seq_len + 1)
    return windows[:, :-1], windows[:, 1:]


def batch(
    dataset: PreparedDataset, seed: int, step: int, batch_size: int, seq_len: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Inputs and targets of one step: [batch_size, seq_len] each, random windows of the training split.

    Raises:
        ValueError: the split is shorter than one window.
    """
    places = dataset.train_tokens - seq_len
    if places < 1:
        raise ValueError(
            f"dataset {dataset.name}: {dataset.train_tokens} training tokens, a window needs {seq_len + 1}"
        )
    # Raw words of a counter-based generator: the same on every machine and in every numpy, for any step at once.
    key = hashlib.sha256(f"optsweep batch {dataset.sha256} {seed}".encode()).digest()[:16]
    stream = np.random.Philox(key=np.frombuffer(key, dtype="<u8"), counter=[0, 0, 0, step])
    starts = (stream.random_raw(batch_size) % np.uint64(places)).astype(np.int64)
    windows = _windows(dataset.train, starts, seq_len + 1)
    return windows[:, :-1], windows[:, 1:]


def validation_windows(
    dataset: PreparedDataset, tokens: int, seq_len: int, split: str = "validation"
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Inputs and targets of the fixed held-out windows: [tokens // seq_len, seq_len] each, spread evenly, no overlap.

    Raises:
        ValueError: the split is too short for so many tokens, or `tokens` is less than one window.
    """
    count = tokens // seq_len
    if count < 1:
        raise ValueError(f"{tokens} validation tokens are less than one window of {seq_len}")
    there = dataset.train_tokens if split == "train" else dataset.validation_tokens
    if count * seq_len >= there:
        held = "has" if split == "train" else "holds out"
        raise ValueError(f"dataset {dataset.name} {held} {there} tokens: too few for {count} windows of {seq_len}")
    starts = np.arange(count) * (there - 1) // count
    windows = _windows(dataset.train if split == "train" else dataset.validation, starts, seq_len + 1)
    return windows[:, :-1], windows[:, 1:]


def _windows(tokens: Tokens, starts: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
    """[len(starts), length] pieces of a split; row by row, which takes a third to all of the time of one indexed read."""
    windows = np.empty((len(starts), length), dtype=np.int64)
    for row, start in enumerate(starts.tolist()):
        windows[row] = tokens[start : start + length]
    return windows
