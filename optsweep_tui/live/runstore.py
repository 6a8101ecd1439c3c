"""The metrics of many runs in memory: growing numpy columns, each step once, the highest attempt wins."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from optsweep_tui.live.tailer import Batch

AXES = ("step", "tokens", "train_seconds")
"""What a curve can be drawn against."""
MAX_KEYS = 256
"""Metrics kept per run; a file with more distinct names than this is not one of ours."""

Column: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class Series:
    """One metric of one run along one axis."""

    x: npt.NDArray[np.float64]
    """Not decreasing, shape [points]."""
    y: npt.NDArray[np.floating[Any]]
    """Shape [points]; infinity where the engine wrote null, a value that was not finite."""
    steps: npt.NDArray[np.float64]
    """Optimizer steps done, rising, shape [points]."""
    version: int
    """Changes with the data."""
    epoch: int = 0
    """While it stays, points were only added at the end."""
    x_complete: bool = True
    """Every point of the metric has its x: along each complete axis the metric has the same points."""
    newest_from: int = 0
    """Place of the first point of the newest attempt; those before it are of attempts that ended without a result."""


class _Run:
    """Columns of one run. A reader keeps a slice; writers only ever append behind it or replace the whole array."""

    def __init__(self) -> None:
        self.version = 0
        self.epoch = 0
        self.used = 0
        self.columns: dict[str, Column] = {
            "step": np.empty(0, np.float64),
            "attempt": np.empty(0, np.int32),
            "tokens": np.empty(0, np.float64),
            "train_seconds": np.empty(0, np.float64),
        }
        self.series: dict[tuple[str, str], Series] = {}

    def __getitem__(self, key: str) -> Column:
        return self.columns[key][: self.used]

    def extend(self, attempt: int, rows: list[dict[str, Any]]) -> None:
        """Add rows of one attempt."""
        new = _columns(attempt, rows, self.columns)
        steps = new["step"]
        for key in new.keys() - self.columns.keys():
            self.columns[key] = np.full(len(self.columns["step"]), np.nan, np.float32)
        rising = bool((steps[1:] > steps[:-1]).all())
        if rising and (self.used == 0 or steps[0] > self.columns["step"][self.used - 1]):
            self._append(new, len(rows))
        else:
            self._merge(new)
            self.epoch += 1
        self.version += 1
        self.series.clear()  # they hold arrays that have been left behind

    def _append(self, new: dict[str, Column], count: int) -> None:
        needed = self.used + count
        for key, column in self.columns.items():
            if len(column) < needed:
                grown = np.full(
                    max(64, needed, needed + needed // 4), np.nan if column.dtype.kind == "f" else 0, column.dtype
                )
                grown[: self.used] = column[: self.used]
                self.columns[key] = column = grown
            column[self.used : needed] = new.get(key, np.nan)
        self.used = needed

    def _merge(self, new: dict[str, Column]) -> None:
        """Steps that were there already: a higher attempt replaces the row, the same attempt completes it."""
        count = len(new["step"])
        both = {
            key: np.concatenate(
                [self[key], new[key] if key in new else np.full(count, np.nan, self.columns[key].dtype)]
            )
            for key in self.columns
        }
        order = np.lexsort((both["attempt"], both["step"]))  # stable: of equals the later arrival comes later
        both = {key: column[order] for key, column in both.items()}
        same_step = both["step"][1:] == both["step"][:-1]
        for place in np.flatnonzero(same_step & (both["attempt"][1:] == both["attempt"][:-1])):
            for column in both.values():
                if column.dtype.kind == "f" and np.isnan(column[place + 1]):
                    column[place + 1] = column[place]
        keep = np.append(~same_step, True)
        self.columns = {key: column[keep] for key, column in both.items()}
        self.used = int(keep.sum())


def _columns(attempt: int, rows: list[dict[str, Any]], known: dict[str, Column]) -> dict[str, Column]:
    """Rows as columns: NaN where a row lacks the key, infinity where its value is null or not finite."""
    keys = dict.fromkeys(key for row in rows for key in row)
    wanted = [key for key in keys if key not in ("attempt", "step")]
    room = MAX_KEYS - len(known)
    found: dict[str, Column] = {"attempt": np.full(len(rows), attempt, np.int32)}
    found["step"] = np.array([row["step"] for row in rows], np.float64)
    for key in wanted:
        values = [_number(row[key]) if key in row else math.nan for row in rows]
        if all(math.isnan(value) for value in values):
            continue
        if key not in known:
            if room <= 0:
                continue
            room -= 1
        with np.errstate(over="ignore"):
            found[key] = np.array(values, np.float64 if key in AXES else np.float32)
    return found


def _number(value: Any) -> float:
    if isinstance(value, float):
        return value if math.isfinite(value) else math.inf
    if value is None:
        return math.inf
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < 2**1000 else math.inf
    return math.nan


class RunStore:
    """Written by the tailing thread, read by the screen; reads never wait for a file."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}
        self._lock = threading.Lock()

    def apply(self, run_id: str, batch: Batch) -> None:
        """Take in what a tailer found."""
        with self._lock:
            if batch.reset:
                before = self._runs.get(run_id)
                self._runs[run_id] = run = _Run()
                if before is not None:
                    run.version, run.epoch = before.version + 1, before.epoch + 1
            if batch.rows:
                self._runs.setdefault(run_id, _Run()).extend(batch.attempt, batch.rows)

    def forget(self, run_ids: Iterable[str]) -> None:
        """Free the memory of runs that nobody looks at."""
        with self._lock:
            for run_id in run_ids:
                self._runs.pop(run_id, None)

    def version(self, run_id: str) -> int:
        """Changes whenever the run's data do; -1 for a run without any."""
        with self._lock:
            run = self._runs.get(run_id)
            return run.version if run else -1

    def metrics(self, run_id: str) -> list[str]:
        """Names of what the run has measured, losses first."""
        with self._lock:
            run = self._runs.get(run_id)
            names = [key for key in run.columns if key not in (*AXES, "attempt")] if run else []
        first = ("train_loss", "val_loss", "grad_norm", "lr")
        return sorted(names, key=lambda name: (first.index(name) if name in first else len(first), name))

    def series(self, run_id: str, metric: str, axis: str = "step") -> Series | None:
        """One curve; None while there is no point of it. Slices of the store where nothing is missing, no copies.

        Args:
            run_id: the run.
            metric: a key of its metric lines.
            axis: one of AXES.
        """
        with self._lock:
            run = self._runs.get(run_id)
            if run is None or metric not in run.columns or axis not in AXES:
                return None
            known = run.series.get((metric, axis))
            if known is not None and known.version == run.version:
                return known
            steps, x, y, attempts = run["step"], run[axis], run[metric], run["attempt"]
            version, epoch = run.version, run.epoch
        absent = np.isnan(y)
        no_x = ~np.isfinite(x) & ~absent
        x_complete = not no_x.any()
        absent |= no_x
        if absent.any():
            steps, x, y, attempts = steps[~absent], x[~absent], y[~absent], attempts[~absent]
        if not len(y):
            return None
        if axis != "step" and (x[1:] < x[:-1]).any():
            x = np.maximum.accumulate(x)  # seconds of a resumed attempt may step back a little
        newest_from = int(np.argmax(attempts == attempts.max())) if attempts[0] != attempts[-1] else 0
        found = Series(
            x=x, y=y, steps=steps, version=version, epoch=epoch, x_complete=x_complete, newest_from=newest_from
        )
        with self._lock:
            run.series[metric, axis] = found
        return found
