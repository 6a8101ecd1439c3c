"""A small dataset, small models and specs that train in a second, shared by the numerics tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from optsweep_engines.data import DatasetEntry, PreparedDataset, Tokens, write
from optsweep_engines.models import model
from optsweep_engines.optimizers.catalogue import optimizer as optimizer_entry
from optsweep_engines.optimizers.catalogue import resolve_knobs
from optsweep_engines.spec import ModelShape, RunSpec, Scalar

VOCAB = 32


def documents() -> Iterator[tuple[str, Tokens]]:
    """Sixty texts in which each token mostly decides the next one: a model learns them within tens of steps."""
    stream = np.random.Generator(np.random.PCG64(0))
    successor = stream.permutation(VOCAB)
    for index in range(60):
        tokens = [int(stream.integers(VOCAB))]
        for _ in range(800):
            tokens.append(int(successor[tokens[-1]]) if stream.random() < 0.9 else int(stream.integers(VOCAB)))
        yield f"text-{index}", np.array(tokens, dtype="<u2")


TOY = DatasetEntry(
    name="toy",
    vocab_size=VOCAB,
    source="made by a seeded generator",
    doc="tokens with one likely successor each",
    documents=documents,
    fingerprint=lambda: "toy 1",
)


def toy_dataset(root: Path) -> PreparedDataset:
    """The dataset, written under `root`."""
    return write(TOY, root)


def shape(**changes: Any) -> ModelShape:
    """A two-layer model of width 16."""
    small = dataclasses.replace(
        model("bench-micro").shape, width=16, heads=2, mlp_width=24, vocab_size=VOCAB, init_std=0.25
    )
    return dataclasses.replace(small, **changes)


def spec(
    dataset: PreparedDataset, optimizer: str = "adamw", *, knobs: Mapping[str, Scalar] | None = None, **changes: Any
) -> RunSpec:
    """Forty steps of 4 x 16 tokens."""
    own = optimizer_entry(optimizer).schedule
    schedule = changes.get("schedule", "linear" if own == "cosine" else own)
    fields: dict[str, Any] = {
        "engine": "torch",
        "optimizer": optimizer,
        "hyperparameters": resolve_knobs(optimizer, {"lr": 0.02, **(knobs or {})}, schedule),
        "model": "toy",
        "shape": shape(),
        "dataset": dataset.name,
        "dataset_hash": dataset.sha256,
        "tokens": 40 * 64,
        "batch_size": 4,
        "seq_len": 16,
        "schedule": schedule,
        "dtype": "fp32",
        "seed": 0,
        "validation_tokens": 512,
        **changes,
    }
    return RunSpec(**fields)
