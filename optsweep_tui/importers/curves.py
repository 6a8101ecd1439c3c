"""The curves of one run as a log tells them: 16 bytes a value while they are read, metric lines at the end."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping
from typing import Any

from optsweep_tui.importers import fields

MAX_VALUES = 4_000_000
"""Of one run's curves: 16 bytes each while they are read. Beyond it only the metrics that this program knows are kept."""
MAX_KEYS = 256
"""Metrics of one run; the screens keep as many."""
METRICS: Mapping[str, tuple[str, ...]] = {
    "val_loss": (
        "val_loss", "val/loss", "eval/loss", "validation/loss", "validation_loss", "valid_loss", "valid/loss", "eval_loss",
        "loss/val", "loss/validation", "loss/eval",
    ),
    "train_loss": ("train_loss", "train/loss", "training_loss", "training/loss", "loss/train", "loss"),
    "tokens": ("tokens", "train/tokens", "total_tokens"),
    "train_seconds": ("train_seconds",),
    "lr": ("lr", "learning_rate", "train/lr", "train/learning_rate"),
    "grad_norm": ("grad_norm", "train/grad_norm"),
}  # fmt: skip
"""Our name of a metric -> what it is called elsewhere; [metrics] of a mapping says it otherwise."""


class Curves:
    """The curves of one run, step by step; a step that comes twice has its last value."""

    def __init__(self, kept: Iterable[str] = ()) -> None:
        """
        Args:
            kept: metrics that stay when there are too many values.
        """
        self._kept = {name for names in METRICS.values() for name in names} | set(kept)
        self._columns: dict[str, tuple[array[int], array[float]]] = {}
        self._count = 0
        self.left_out: set[str] = set()
        """Metrics that there were too many values or names for."""

    def add(self, step: int, key: str, value: float) -> None:
        """One value; NaN and infinities are values too."""
        if not 0 <= step < 2**53 or key in self.left_out:
            return
        if self._count >= MAX_VALUES and key not in self._kept:
            self.left_out |= self._columns.keys() - self._kept | {key}
            self._columns = {name: column for name, column in self._columns.items() if name in self._kept}
            self._count = sum(len(steps) for steps, _ in self._columns.values())
            return
        column = self._columns.get(key)
        if column is None:
            if len(self._columns) >= MAX_KEYS or len(key) > fields.MAX_TEXT or not key.isprintable():
                self.left_out.add(key)
                return
            column = self._columns[key] = array("q"), array("d")
        column[0].append(step)
        column[1].append(value)
        self._count += 1

    def restart(self, step: int) -> None:
        """Forget what was written for this step and later ones."""
        for key, (steps, values) in self._columns.items():
            kept = [place for place, each in enumerate(steps) if each < step]
            self._columns[key] = (
                array("q", (steps[place] for place in kept)),
                array("d", (values[place] for place in kept)),
            )

    @property
    def keys(self) -> list[str]:
        return list(self._columns)

    def last(self, key: str) -> tuple[int, float] | None:
        """(step, value) at the highest step of a metric."""
        steps, values = self._columns.get(key, ((), ()))
        if not steps:
            return None
        place = max(range(len(steps)), key=lambda index: (steps[index], index))
        return steps[place], values[place]

    @property
    def last_step(self) -> int | None:
        return max((max(steps) for steps, _ in self._columns.values() if steps), default=None)

    def rows(self, names: Mapping[str, str], tokens_per_step: int | None) -> tuple[dict[str, Any], ...]:
        """Metric lines by rising step; what is not finite is None.

        Args:
            names: the log's name of a metric -> ours.
            tokens_per_step: for the tokens of each step, where the log does not say them.
        """
        found: dict[int, dict[str, Any]] = {}
        taken = {"step", "attempt", *names.values()}
        for key, (steps, values) in self._columns.items():
            name = names.get(key) or (f"logged.{key}" if key in taken else key)
            for step, value in zip(steps, values, strict=True):
                row = found.setdefault(step, {"step": step})
                row[name] = value if math.isfinite(value) else None
        for step, row in found.items():
            if tokens_per_step is not None:
                row.setdefault("tokens", step * tokens_per_step)
            if isinstance(row.get("tokens"), float) and row["tokens"].is_integer():
                row["tokens"] = int(row["tokens"])
        return tuple(found[step] for step in sorted(found))
