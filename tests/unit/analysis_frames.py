"""Frames of runs for the analysis tests: synthetic laws with known alpha, B, beta and sigma."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from optsweep_tui.analysis.columns import RESULTS

# The adamw curve at 300m of the reference study, fitted on its five published cells.
ALPHA, B, BETA = 0.3707, 0.4378, 2.8916
PARAMS = 301_989_888

_counter = itertools.count()


def law(ratio: float, alpha: float = ALPHA, b: float = B, beta: float = BETA) -> float:
    """The true loss at a Chinchilla ratio, nats."""
    return float(alpha * ratio**-b + beta)


def run(
    optimizer: str = "adamw",
    chinchilla: float = 1.0,
    loss: float | None = 3.0,
    *,
    knobs: Mapping[str, Any] | None = None,
    seed: int | None = 0,
    state: str = "done",
    params: int = PARAMS,
    **other: Any,
) -> dict[str, Any]:
    """One row of RESULTS; a subword model of 302M parameters unless said otherwise."""
    row: dict[str, Any] = {
        "run_id": f"{next(_counter):032x}",
        "study": "s",
        "origin": "native",
        "engine": "torch",
        "optimizer": optimizer,
        "model": "300m",
        "params": params,
        "total_params": 2 * params,
        "chinchilla": chinchilla,
        "tokens": round(chinchilla * 20 * params),
        "dataset": "c4",
        "dataset_hash": "a" * 64,
        "validation_set": "validation:65536",
        "seq_len": 4096,
        "batch_size": 128,
        "schedule": "cosine",
        "dtype": "bf16",
        "seed": seed,
        "hyperparameters": json.dumps(dict(knobs if knobs is not None else {"lr": 0.01}), sort_keys=True),
        "state": state,
        "loss": loss,
        "steps": 1000,
        "tokens_per_step": 128 * 4096,
        "flops_per_token": 6.0 * params,
        "optimizer_flops_per_step": 0.0,
        "seconds_per_token": 1e-6,
        "device": "H100",
        "state_bytes": 8.0 * params,
        "train_seconds": 100.0,
        "start_mode": None,
    }
    assert set(other) <= set(RESULTS), other
    return row | other


def frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as the store hands them over."""
    return pd.DataFrame([dict(row) for row in rows], columns=list(RESULTS))


def curve(
    budgets: Iterable[float] = (1, 2, 4, 8),
    *,
    optimizer: str = "adamw",
    speedup: float = 1.0,
    sigma: float = 0.0,
    rng: np.random.Generator | None = None,
    **other: Any,
) -> list[dict[str, Any]]:
    """One run per budget of an optimizer that needs 1/speedup of the tokens."""
    noise = rng or np.random.default_rng(0)
    return [
        run(optimizer, budget, law(budget * speedup) + sigma * float(noise.standard_normal()), **other)
        for budget in budgets
    ]
