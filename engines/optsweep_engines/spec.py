"""The words that cross every border: RunSpec (what to train), RunRecord (how it ended), MetricRow; stdlib only."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, TypedDict

from optsweep_engines.shape import ModelShape as ModelShape
from optsweep_engines.shape import fields_of

Scalar: TypeAlias = float | int | bool | str | None

NUMERICS_VERSION = 1
"""Bumped whenever a trajectory changes, so that a mended bug does not keep its old results."""

NEUTRAL_KNOBS: Mapping[str, Scalar] = {"cautious_weight_decay": False, "z_loss": 0}
"""Knobs that optimizers got after their first release, with the value that changes nothing: a knob at that value stays
out of the hash, so the ids of runs from before it was there survive. A later knob adds its line here."""

FINAL_STATUSES = ("done", "diverged", "oom", "failed", "cancelled")
RecordStatus: TypeAlias = Literal["done", "diverged", "oom", "failed", "cancelled"]


@lru_cache(maxsize=4096)
def ratio_of(tokens: int, params: int) -> float:
    """Chinchilla ratio D / (20 N) of a whole number of tokens: the shortest that asks for as many, else five digits."""
    exact = tokens / (20 * params)
    for digits in range(1, 6):
        found = float(f"{exact:.{digits}g}")
        if round(found * 20 * params) == tokens:
            break
    return found


def canonical_scalar(value: Scalar) -> Scalar:
    """One spelling per number: 12 significant digits (1e-25 = 9.999999999999999e-26), integral floats as ints (1.0 = 1).

    Raises:
        ValueError: for NaN and infinities, which no knob may hold.
    """
    if type(value) is float:
        if not math.isfinite(value):
            raise ValueError(f"{value} is not a finite number")
        value = float(f"{value:.12g}")
        if value.is_integer() and abs(value) < 1e15:
            return int(value)
    return value


_PLAIN = frozenset((str, int, bool, type(None)))
"""Types of what is its own spelling."""


def canonical_json(data: Any) -> str:
    """Sorted keys, no blanks, canonical numbers: the text that is hashed."""

    def canonical(item: Any) -> Any:
        if type(item) in _PLAIN:
            return item
        if isinstance(item, (str, float, int)):  # no union, which would be made anew 400,000 times a plan
            return canonical_scalar(item)
        if isinstance(item, Mapping):
            return {str(key): canonical(entry) for key, entry in item.items()}
        return [canonical(entry) for entry in item]

    return json.dumps(canonical(data), sort_keys=True, separators=(",", ":"), allow_nan=False)


WEIGHTS, BRANCH = "weights", "branch"
"""How a run may begin with the state of another one."""
OWN_SET = "validation"
"""Name of the held-out split of the run's own dataset among its validation sets."""


@dataclass(frozen=True, kw_only=True)
class ValidationSet:
    """A further held-out set of a run."""

    dataset: str
    """Catalogue name of the dataset."""
    dataset_hash: str | None
    """sha256 of its shards; None while unprepared."""
    split: str = "validation"
    """"validation" or "train"."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """The state of another run that a run begins with."""

    run_id: str
    """Of the other run."""
    step: int
    """Optimizer steps that it had done."""
    mode: str
    """"weights": its parameters, and everything else new, from step 0; "branch": its whole state, going on at `step`."""
    parameters_sha256: str
    """Hash over those parameters, as in a record."""


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run, fully resolved and frozen. Where it runs is not part of it."""

    engine: str
    """Name of the engine: "torch" or "jax"."""
    optimizer: str
    """Catalogue name, or `file.py:Name` for a user's own."""
    hyperparameters: Mapping[str, Scalar]
    """Every tunable number of the run but the batch: the rule's knobs and warmup, decay, min_lr_ratio, max_grad_norm,
    z_loss."""
    model: str
    """Catalogue name of the shape."""
    shape: ModelShape
    dataset: str
    """Catalogue name of the dataset."""
    dataset_hash: str | None
    """sha256 of the prepared shards; None while unprepared, and the run_id is then provisional."""
    tokens: int
    """Target training tokens D; trained tokens = steps * batch_size * seq_len <= D."""
    batch_size: int
    """Sequences per optimizer step."""
    seq_len: int
    """Tokens per sequence."""
    schedule: str
    """"cosine", "linear", "wsd" or "constant"."""
    dtype: str
    """Compute type: "fp32" or "bf16" (parameters stay fp32)."""
    seed: int
    """Decides initialisation and data order."""
    validation_set: str = OWN_SET
    """Name of the set whose loss is the run's `val_loss`: "validation" is the dataset's own, others are `validation_sets`."""
    validation_tokens: int = 65536
    """Held-out tokens that the loss is measured on: the first ones of the split, in windows of seq_len."""
    validation_interval: int = 0
    """Steps between validations; 0 = only at the end (the end is always measured)."""
    accumulation: int = field(default=1, metadata={"neutral": 1})
    """Micro-batches per optimizer step; batch_size is the whole."""
    optimizer_file_hash: str | None = field(default=None, metadata={"neutral": None})
    """sha256 of the user's optimizer file."""
    simulate_epochs: int = field(default=1, metadata={"neutral": 1})
    """N > 1: the run goes N times through a fixed part of its dataset, of D / N tokens; 1: random windows of all of it."""
    numerics_version: int = NUMERICS_VERSION

    validation_sets: Mapping[str, ValidationSet] = field(default_factory=dict, metadata={"neutral": {}})
    """Further sets that the loss is measured on, by name; they change no trajectory."""

    start: Start | None = field(default=None, metadata={"neutral": None})
    """None: parameters from the seed."""

    def __post_init__(self) -> None:
        sets = {name: self.validation_sets[name] for name in sorted(self.validation_sets)}
        object.__setattr__(self, "validation_sets", MappingProxyType(sets))
        knobs = {key: canonical_scalar(self.hyperparameters[key]) for key in sorted(self.hyperparameters)}
        object.__setattr__(self, "hyperparameters", MappingProxyType(knobs))

    @property
    def steps(self) -> int:
        """Optimizer steps: D // (batch_size * seq_len); with simulated epochs the most of them that make N whole ones."""
        steps = self.tokens // (self.batch_size * self.seq_len)
        return steps - steps % (self.simulate_epochs // math.gcd(self.simulate_epochs, self.batch_size))

    @property
    def epoch_windows(self) -> int:
        """Windows of seq_len tokens that one of the simulated epochs holds."""
        return self.steps * self.batch_size // self.simulate_epochs

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.seq_len

    @property
    def first_step(self) -> int:
        """Steps that were done before the run's own first one: those of the trunk of a branch."""
        return self.start.step if self.start is not None and self.start.mode == BRANCH else 0

    @property
    def trained_steps(self) -> int:
        """Steps that the run itself takes."""
        return self.steps - self.first_step

    @property
    def trained_flops(self) -> float:
        """Model FLOPs of the steps that the run itself takes."""
        return self.flops * self.trained_steps / self.steps if self.steps else 0.0

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of the validation sets, the run's own first."""
        return (OWN_SET, *self.validation_sets)

    @property
    def datasets(self) -> list[tuple[str, str | None]]:
        """(name, hash) of everything that is read in training and validation, the training data first, each once."""
        found = [(self.dataset, self.dataset_hash)]
        found += [(item.dataset, item.dataset_hash) for item in self.validation_sets.values()]
        return list(dict.fromkeys(found))

    @property
    def chinchilla(self) -> float:
        """Ratio D / (20 N), see `ratio_of`."""
        return ratio_of(self.tokens, self.shape.non_embedding_params)

    @property
    def log_interval(self) -> int:
        """Steps between metric lines: about 200 lines per run, the same in every attempt."""
        return max(1, self.steps // 200)

    @property
    def flops(self) -> float:
        """Model FLOPs of the whole run."""
        return self.shape.flops_per_token(self.seq_len) * self.steps * self.tokens_per_step

    @cached_property
    def run_id(self) -> str:
        """First 128 bits (32 hex digits) of sha256 over the canonical JSON."""
        data = self.to_dict()
        for name, neutral in fields_of(RunSpec).neutral.items():
            if data[name] == neutral:
                del data[name]
        data["hyperparameters"] = {
            key: value
            for key, value in data["hyperparameters"].items()
            if key not in NEUTRAL_KNOBS or value != NEUTRAL_KNOBS[key]
        }
        return hashlib.sha256(canonical_json(data).encode()).hexdigest()[:32]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, all fields."""
        data = {name: getattr(self, name) for name in fields_of(RunSpec).names}
        data["hyperparameters"] = dict(self.hyperparameters)
        data["shape"] = self.shape.to_dict()
        data["start"] = None if self.start is None else dataclasses.asdict(self.start)
        data["validation_sets"] = {name: dataclasses.asdict(item) for name, item in self.validation_sets.items()}
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RunSpec:
        """The inverse of `to_dict`.

        Raises:
            ValueError: for an unknown or a missing key.
        """
        plain = dict(data)
        plain["shape"] = checked(ModelShape, plain.get("shape", {}), "shape")
        if plain.get("start") is not None:
            plain["start"] = checked(Start, plain["start"], "start")
        sets = plain.get("validation_sets", {})
        if not isinstance(sets, Mapping):
            raise ValueError("validation_sets is not a table")
        plain["validation_sets"] = {
            str(name): checked(ValidationSet, item, f"validation_sets.{name}") for name, item in sets.items()
        }
        spec: RunSpec = checked(cls, plain, "spec")
        return spec

    def replace(self, **changes: Any) -> RunSpec:
        """A copy with some fields changed (and so another run_id)."""
        return dataclasses.replace(self, **changes)

    def __hash__(self) -> int:
        return hash(self.run_id)


class MetricRow(TypedDict, total=False):
    """One line of metrics.jsonl. Losses in nats per token; null where not finite."""

    step: int
    tokens: int
    train_seconds: float
    train_loss: float | None
    val_loss: float | None
    lr: float
    grad_norm: float | None


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The engine's own account of how a run ended. Diverged is a result, not an exception."""

    run_id: str
    attempt: int
    status: RecordStatus
    train_loss: float | None
    """Last logged training loss, nats per token; None if never finite."""
    val_loss: float | None
    """Validation loss at the end (diverged: the last measured one), nats per token."""
    steps: int
    """Optimizer steps done."""
    tokens: int
    """Tokens trained on."""
    train_seconds: float
    """Seconds in training steps, over all attempts, validation and checkpoints apart."""
    tokens_per_second: float | None
    """Median steady rate of this attempt."""
    peak_bytes: int | None
    """Most memory held: device memory on a GPU, resident set on a CPU."""
    optimizer_state_bytes: int | None
    device: str
    versions: Mapping[str, str]
    mesh: str | None = None
    """Over how many devices the run was spread in this attempt, "data=4,fsdp=2"; None: one."""
    val_losses: Mapping[str, float] | None = None
    """Validation loss by set, where the run has several; `val_loss` is that of its metric."""
    parameters_sha256: str | None = None
    """Hash over the final parameters, bank by bank in name order."""
    resumed_from_step: int = 0
    started_from_step: int = 0
    """Steps of a trunk that a branch went on from: `steps` and `tokens` hold them, `train_seconds` does not."""
    error: str | None = None
    """One line that says what went wrong."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RunRecord:
        record: RunRecord = checked(cls, data, "record")
        return record


def checked(kind: type[Any], data: Any, where: str) -> Any:
    """Build a dataclass from outside data.

    Raises:
        ValueError: naming an unknown or a missing key.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{where} is not a table of fields")
    known = fields_of(kind)
    unknown = sorted(set(data).difference(known.names))
    if unknown:
        raise ValueError(f'{where} has the unknown key "{unknown[0]}"')
    missing = [name for name in known.required if name not in data]
    if missing:
        raise ValueError(f'{where} lacks the key "{missing[0]}"')
    return kind(**data)
