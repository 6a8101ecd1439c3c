"""The frame of runs made safe: columns present, numbers numeric, each run once, configurations in one spelling."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from optsweep_engines.spec import BRANCH, canonical_json
from optsweep_tui.analysis.columns import GROUP, RESULTS

Config: TypeAlias = tuple[Hashable, ...]
"""(canonical hyperparameters, batch size, schedule, dtype): two runs that share it are replicates."""
GroupKey: TypeAlias = tuple[str | float | None, ...]
"""Values of the columns GROUP."""

TEXTS = frozenset(
    {"run_id", "study", "origin", "engine", "optimizer", "model", "dataset", "dataset_hash"}
    | {"validation_set", "schedule", "dtype", "state", "device", "start_mode"}
)
FINISHED = frozenset({"done", "diverged", "nan", "missing", "oom", "failed", "cancelled"})
LOST = frozenset({"diverged", "nan"})
WHOLE_TOKENS = 1e6
"""A budget from here on is a whole number of tokens; below it may be in another unit."""
TUNING = frozenset({"done", "diverged", "nan", "cancelled"})
"""States of runs that spent tuning budget: a diverged or stopped run taught something, a crashed one did not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run as the analysis sees it."""

    run_id: str
    state: str
    loss: float
    """Final validation loss, nats per token; NaN unless the state is done and the loss a positive finite number."""
    bad_loss: bool
    """The state says done but the loss is no positive finite number."""
    seed: int | None
    config: Config
    knobs: Mapping[str, Any] | None
    """Hyperparameters; None when unpublished."""
    batch_size: float
    schedule: str | None
    dtype: str | None
    params: float
    total_params: float
    chinchilla: float
    tokens_per_step: float
    flops_per_token: float
    optimizer_flops_per_step: float
    seconds_per_token: float
    device: str | None
    state_bytes: float
    branch: bool = False
    """It goes on from the state of a trunk."""

    @property
    def usable(self) -> bool:
        """Finished with a final loss."""
        return not math.isnan(self.loss)

    def timed_like(self, other: Run) -> bool:
        """Timed, and on the device, with the batch and the compute type of the other."""
        same = (self.device, self.batch_size, self.dtype) == (other.device, other.batch_size, other.dtype)
        return same and self.seconds_per_token > 0


def grouped(results: pd.DataFrame) -> dict[GroupKey, dict[tuple[str, float], list[Run]]]:
    """Runs by comparable group, then by (optimizer, tokens); the order of the rows does not matter.

    A run that occurs twice in one study with the same values is one run. Rows without an optimizer or a model name
    belong to no cell and are left out.

    Args:
        results: one row per run and study, columns of `columns.RESULTS`; missing columns count as null.
    """
    columns = _complete(results)
    parsed: dict[Any, tuple[str | None, Mapping[str, Any] | None]] = {}
    groups: dict[GroupKey, dict[tuple[str, float], list[Run]]] = {}
    seen: set[tuple[Any, ...]] = set()
    for row in zip(*(columns[name] for name in RESULTS), strict=True):
        if row in seen:
            continue
        seen.add(row)
        value = dict(zip(RESULTS, row, strict=True))
        if value["optimizer"] is None or value["model"] is None:
            continue
        text = value["hyperparameters"]
        if text not in parsed:
            parsed[text] = _parsed(text)
        key: GroupKey = tuple(value[name] for name in GROUP)
        cells = groups.setdefault(key, {})
        cells.setdefault((value["optimizer"], value["tokens"]), []).append(_run(value, *parsed[text]))
    for cells in groups.values():
        for runs in cells.values():
            runs.sort(key=lambda run: (run.run_id, repr(run.config), repr(run.seed), run.state, repr(run.loss)))
    return dict(sorted(groups.items(), key=lambda item: sort_key(item[0])))


def sort_key(values: tuple[Any, ...]) -> tuple[tuple[bool, str], ...]:
    """Orders tuples that may hold None and mixed types."""
    return tuple((value is None, str(value)) for value in values)


def _complete(results: pd.DataFrame) -> dict[str, list[Any]]:
    """All columns of RESULTS as hashable Python values: text, number or None; a loss may be infinite, nothing else."""
    data: dict[str, list[Any]] = {}
    for name in RESULTS:
        column = results[name] if name in results.columns else pd.Series([None] * len(results), dtype=object)
        if name in TEXTS:
            data[name] = [value if isinstance(value, str) else None for value in column.astype(object)]
        elif name == "hyperparameters":
            data[name] = [_text(value) for value in column.astype(object)]
        else:
            numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float, na_value=np.nan)
            data[name] = numbers.tolist()
    data["state"] = [None if state is None else state.strip().lower() for state in data["state"]]
    data["tokens"] = [
        _budget(*values) for values in zip(data["tokens"], data["chinchilla"], data["params"], strict=True)
    ]
    # NaN never equals itself, so it cannot be part of a key.
    for name in set(RESULTS) - set(TEXTS) - {"hyperparameters", "tokens"}:
        data[name] = [value if math.isfinite(value) or name == "loss" else None for value in data[name]]
    data["loss"] = [None if math.isnan(value) else value for value in data["loss"]]
    return data


def _budget(tokens: float, chinchilla: float, params: float) -> float:
    """Target tokens; from the ratio where the tokens are missing; 0 when neither says."""
    if not (math.isfinite(tokens) and tokens > 0):
        tokens = chinchilla * 20.0 * params
    if not (math.isfinite(tokens) and tokens > 0):
        return 0.0
    # Products of a ratio and N that stand for one budget differ in their last digits. Budgets in other units are kept.
    return float(round(tokens)) if tokens >= WHOLE_TOKENS else float(f"{tokens:.9g}")


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return json.dumps(dict(value), sort_keys=True, default=str)
    return None


def _parsed(text: str | None) -> tuple[str | None, Mapping[str, Any] | None]:
    """(canonical text, knobs): 1 and 1.0, 1e-25 and 9.999999999999999e-26 are one value."""
    if text is None:
        return None, None
    try:
        knobs = json.loads(text)
        canonical = canonical_json(knobs)
    except ValueError:
        return text, {}
    if knobs is None:
        return None, None
    return canonical, json.loads(canonical) if isinstance(knobs, dict) else {}


def _run(value: Mapping[str, Any], canonical: str | None, knobs: Mapping[str, Any] | None) -> Run:
    def number(name: str) -> float:
        return math.nan if value[name] is None else float(value[name])

    loss = number("loss")
    done = value["state"] == "done"
    sound = math.isfinite(loss) and loss > 0
    seed = number("seed")
    run_id = value["run_id"] or ""
    # An unpublished configuration equals no other, not even another unpublished one.
    config = ("unlisted", run_id, loss) if canonical is None else (canonical,)
    return Run(
        run_id=run_id,
        state=value["state"] or "planned",
        loss=loss if done and sound else math.nan,
        bad_loss=done and not sound,
        seed=int(seed) if math.isfinite(seed) else None,
        config=(*config, value["batch_size"], value["schedule"], value["dtype"]),
        knobs=knobs,
        batch_size=number("batch_size"),
        schedule=value["schedule"],
        dtype=value["dtype"],
        params=number("params"),
        total_params=number("total_params"),
        chinchilla=number("chinchilla"),
        tokens_per_step=number("tokens_per_step"),
        flops_per_token=number("flops_per_token"),
        optimizer_flops_per_step=number("optimizer_flops_per_step"),
        seconds_per_token=number("seconds_per_token"),
        device=value["device"],
        state_bytes=number("state_bytes"),
        branch=value["start_mode"] == BRANCH,
    )
