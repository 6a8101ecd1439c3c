"""Runs that somebody else trained and published: ImportedRun holds what is known of one; everything unpublished is None."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from optsweep_engines.spec import Scalar, canonical_json, canonical_scalar, checked, ratio_of

IMPORTED_STATES = ("done", "diverged", "nan", "missing", "failed", "oom", "cancelled")
"""How an imported run can have ended; it is always over."""

_INT64 = 2**63


@dataclass(frozen=True, kw_only=True)
class ImportedSpec:
    """What was trained, as far as it was published. Names are this program's; see RunSpec for the units."""

    optimizer: str
    """Catalogue name where the catalogue has the optimizer, else the published one."""
    model: str
    hyperparameters: Mapping[str, Scalar] | None
    """Published knobs only, without the batch; None for a configuration that was not published."""
    tokens: int | None
    """Target training tokens D."""
    params: int | None
    """N, non-embedding parameters."""
    total_params: int | None = None
    """Every stored parameter."""
    engine: str | None = None
    dataset: str | None = None
    dataset_hash: str | None = None
    validation_set: str | None = None
    batch_size: int | None = None
    seq_len: int | None = None
    schedule: str | None = None
    dtype: str | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.hyperparameters is not None:
            knobs = {str(key): canonical_scalar(self.hyperparameters[key]) for key in sorted(self.hyperparameters)}
            object.__setattr__(self, "hyperparameters", knobs)

    @property
    def tokens_per_step(self) -> int | None:
        return None if self.batch_size is None or self.seq_len is None else self.batch_size * self.seq_len

    @property
    def steps(self) -> int | None:
        """Optimizer steps: D // (batch_size * seq_len)."""
        per_step = self.tokens_per_step
        return None if self.tokens is None or not per_step else self.tokens // per_step

    @property
    def chinchilla(self) -> float | None:
        """Ratio D / (20 N), see `ratio_of`."""
        if self.tokens is None or not self.params:
            return None
        return ratio_of(self.tokens, self.params)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, all fields."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @cached_property
    def text(self) -> str:
        """Canonical JSON."""
        return canonical_json(self.to_dict())

    @classmethod
    def from_dict(cls, data: Any) -> ImportedSpec:
        """The inverse of `to_dict`.

        Raises:
            ValueError: an unknown or missing key, or a value of the wrong type.
        """
        if not isinstance(data, Mapping):
            raise ValueError("spec is not a table of fields")
        plain = dict(data)
        knobs = plain.get("hyperparameters")
        if knobs is not None and not isinstance(knobs, Mapping):
            raise ValueError("hyperparameters is not a table")
        for key, value in (knobs or {}).items():
            if value is not None and not isinstance(value, str | int | float):
                raise ValueError(f"hyperparameter {key} is neither number nor text")
        _check_types(plain, _TEXTS, _INTEGERS, (), required=("optimizer", "model"))
        spec: ImportedSpec = checked(cls, plain, "spec")
        return spec


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How it ended, as far as it was published."""

    state: str
    """One of IMPORTED_STATES."""
    loss: float | None = None
    """Final validation loss, nats per token; None unless done or diverged."""
    train_loss: float | None = None
    steps: int | None = None
    tokens: int | None = None
    train_seconds: float | None = None
    tokens_per_second: float | None = None
    device: str | None = None
    error: str | None = None
    """One line that says what is known of an entry without a loss."""

    @classmethod
    def from_dict(cls, data: Any) -> Outcome:
        """From JSON.

        Raises:
            ValueError: an unknown or missing key, or a value of the wrong type.
        """
        if isinstance(data, Mapping):
            numbers = ("loss", "train_loss", "train_seconds", "tokens_per_second")
            _check_types(data, ("state", "device", "error"), ("steps", "tokens"), numbers, required=("state",))
            if data["state"] not in IMPORTED_STATES:
                raise ValueError(f"state {str(data['state'])[:40]!r} is not known")
        outcome: Outcome = checked(cls, data, "outcome")
        return outcome


@dataclass(frozen=True, kw_only=True)
class ImportedRun:
    """One published run: where it comes from, what was trained, how it ended, and its curve where there is one."""

    importer: str
    """Name of the importer that brought it."""
    study: str
    """Study it was imported into."""
    entry: str
    """Its place in the source: unique within the study."""
    source: Mapping[str, Any]
    """Where it was published, as plain JSON."""
    spec: ImportedSpec
    outcome: Outcome
    metrics: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    """Its curve as metric lines, by rising step; kept beside it in the run folder."""

    @cached_property
    def run_id(self) -> str:
        """First 128 bits (32 hex digits) of sha256 over origin and spec: another study or entry is another run."""
        origin = {"importer": self.importer, "study": self.study, "entry": self.entry}
        text = f'{{"origin":{canonical_json(origin)},"spec":{self.spec.text}}}'
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def to_dict(self) -> dict[str, Any]:
        """What origin.json holds: everything but the curve."""
        return {
            "importer": self.importer,
            "study": self.study,
            "entry": self.entry,
            "source": dict(self.source),
            "spec": self.spec.to_dict(),
            "outcome": {key: value for key, value in vars(self.outcome).items() if value is not None},
        }

    def check(self) -> None:
        """Make sure that it can be written and read back.

        Raises:
            ValueError: a text that is no Unicode, or a number that fits nowhere.
        """
        data = self.to_dict()
        json.dumps(data, ensure_ascii=False, allow_nan=False).encode()  # UnicodeEncodeError is a ValueError
        ImportedRun.from_dict(data)

    @classmethod
    def from_dict(cls, data: Any) -> ImportedRun:
        """The inverse of `to_dict`.

        Raises:
            ValueError: an unknown or missing key, or a value of the wrong type.
        """
        if not isinstance(data, Mapping):
            raise ValueError("it is not a table of fields")
        _check_types(data, ("importer", "study", "entry"), (), (), required=("importer", "study", "entry"))
        plain = dict(data)
        if not isinstance(plain.get("source", {}), Mapping):
            raise ValueError("source is not a table")
        plain["outcome"] = Outcome.from_dict(plain.get("outcome"))
        plain["spec"] = ImportedSpec.from_dict(plain.get("spec"))
        run: ImportedRun = checked(cls, plain, "origin")
        return run


_TEXTS = ("optimizer", "model", "engine", "dataset", "dataset_hash", "validation_set", "schedule", "dtype")
_INTEGERS = ("tokens", "params", "total_params", "batch_size", "seq_len", "seed")


def _check_types(
    data: Mapping[str, Any],
    texts: tuple[str, ...],
    integers: tuple[str, ...],
    numbers: tuple[str, ...],
    required: tuple[str, ...],
) -> None:
    for name in texts:
        value = data.get(name)
        if (value is None and name in required) or not isinstance(value, str | None):
            raise ValueError(f"{name} is not a text")
        (value or "").encode()  # UnicodeEncodeError is a ValueError
    for name in (*integers, *numbers):
        value = data.get(name)
        if value is None:
            continue
        whole = isinstance(value, int) and not isinstance(value, bool) and -_INT64 <= value < _INT64
        if not whole and not (name in numbers and isinstance(value, float) and math.isfinite(value)):
            raise ValueError(f"{name} = {str(value)[:40]!r} is not a number that fits")
