"""Repeated small data: `--simulate-epochs N` trains on a fixed part of a dataset, N times, each time in another order."""

from __future__ import annotations

import functools
import hashlib
import math

import numpy as np
import numpy.typing as npt

from optsweep_engines.spec import RunSpec

ROUNDS = 6
"""Of the Feistel network; four are enough to look random (Luby and Rackoff, https://doi.org/10.1137/0217022)."""

TABLE = 1 << 20
"""Permutations up to this size are worked out once and kept (8 MiB); of larger ones each step works out its own part."""

_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
"""Of the finaliser of SplitMix64: https://doi.org/10.1145/2714064.2660195"""


def windows_of(train_tokens: int, seq_len: int) -> int:
    """How many windows without overlap a training split has; a window's last target is the first token behind it."""
    return max(0, (train_tokens - 1) // seq_len)


def require(spec: RunSpec, train_tokens: int) -> None:
    """Refuse an epoch that needs more windows than the dataset has.

    Raises:
        ValueError: with both numbers.
    """
    there = windows_of(train_tokens, spec.seq_len)
    if spec.simulate_epochs > 1 and spec.epoch_windows > there:
        raise ValueError(
            f"an epoch of simulate_epochs = {spec.simulate_epochs} is {spec.epoch_windows:,} windows of {spec.seq_len} tokens, "
            f"dataset {spec.dataset} has {there:,}"
        )


def starts(spec: RunSpec, train_tokens: int, step: int) -> npt.NDArray[np.int64]:
    """First tokens [batch_size] of the windows of one step, counted from 0: a pure function, in no need of memory.

    Window i of the run is window `i % M` of epoch `i // M`. Which M windows there are depends on the dataset, the sequence
    length and M alone, so runs of other seeds, batches and optimizers see the same ones; a smaller M is a part of a larger.
    The order depends on the seed and the epoch.
    """
    assert spec.dataset_hash is not None
    many = spec.epoch_windows
    places = np.arange(step * spec.batch_size, (step + 1) * spec.batch_size, dtype=np.int64)
    epochs, inside = np.divmod(places, many)
    ranks = np.empty_like(inside)
    for epoch in np.unique(epochs).tolist():
        chosen = epochs == epoch
        ranks[chosen] = _permuted(inside[chosen], many, many, f"optsweep order {spec.dataset_hash} {spec.seed} {epoch}")
    there = windows_of(train_tokens, spec.seq_len)
    return _permuted(ranks, many, there, f"optsweep part {spec.dataset_hash} {spec.seq_len}") * spec.seq_len


def _permuted(index: npt.NDArray[np.int64], many: int, size: int, key: str) -> npt.NDArray[np.int64]:
    """`permuted` of numbers below `many`."""
    if many > TABLE:
        return permuted(index, size, key)
    return _table(many, size, key)[index]


@functools.lru_cache(maxsize=4)
def _table(many: int, size: int, key: str) -> npt.NDArray[np.int64]:
    return permuted(np.arange(many, dtype=np.int64), size, key)


def permuted(index: npt.NDArray[np.int64], size: int, key: str) -> npt.NDArray[np.int64]:
    """Where a permutation of 0 .. size - 1 takes some numbers; each key is another one, the same on every machine.

    A Feistel network permutes the next power of four; what it takes outside is permuted on until it is inside.
    """
    half = max(1, math.ceil(math.log2(max(2, size)) / 2))
    digest = hashlib.sha512(key.encode()).digest()
    keys = np.frombuffer(digest, dtype="<u8")[:ROUNDS]
    low = np.uint64((1 << half) - 1)
    result = index.astype(np.uint64)
    todo = np.ones(len(result), dtype=bool)
    while todo.any():
        left, right = result[todo] >> np.uint64(half), result[todo] & low
        for round_key in keys:
            left, right = right, left ^ (_mixed(right ^ round_key) & low)
        result[todo] = (left << np.uint64(half)) | right
        todo = result >= size
    return result.astype(np.int64)


def _mixed(word: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    word = (word ^ (word >> np.uint64(30))) * _MULTIPLIERS[0]
    word = (word ^ (word >> np.uint64(27))) * _MULTIPLIERS[1]
    return word ^ (word >> np.uint64(31))
