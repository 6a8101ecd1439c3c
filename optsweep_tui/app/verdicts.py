"""What the analysis says of the cells of a study: `ask.table` on the collected results, found again by the cells of screen 1."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optsweep_tui import ask
from optsweep_tui.app import answers
from optsweep_tui.app import format as fmt
from optsweep_tui.core import Cell, Filter
from optsweep_tui.settings import Workspace

Key = tuple[str, str, float, str, str, int, str]
"""(optimizer, model, ratio, dataset, engine, seq_len, validation set); what an import does not say is "" or 0."""


@dataclass(frozen=True, kw_only=True)
class CellVerdict:
    """One row of `optsweep table`."""

    loss: float
    """Nats per token; NaN without a final loss."""
    seeds: int
    gap: float
    """To the baseline at the same budget, nats; negative is better; NaN where there is none."""
    low: float
    """Lower end of its 95 % interval; NaN without sigma."""
    high: float
    rank: int
    """1 = smallest loss of its budget; 0 without a loss."""
    tied: bool
    """In one tie group with the smallest loss of its budget, which is then no winner."""
    tied_with: tuple[str, ...]
    """The other optimizers of its tie group."""
    known_noise: bool
    """There is a sigma, so ties mean something."""
    selected: bool
    """The loss is the smallest of several runs of one seed, so biased low."""
    done: int
    """Runs with a final loss when this was collected."""


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """The cells of a study."""

    baseline: str = "adamw"
    cells: Mapping[Key, CellVerdict] = field(default_factory=dict)
    why: str = ""
    """Why there are none."""


def stamp(workspace: Workspace) -> int | None:
    """Changes whenever the store was collected; None while there is no store."""
    try:
        return workspace.store.stat().st_mtime_ns
    except OSError:
        return None


def key_of(cell: Cell, ratio: float) -> Key:
    """Where a cell of the matrix is found."""
    return (
        cell.optimizer,
        cell.model,
        fmt.ratio_key(ratio),
        cell.dataset,
        cell.engine,
        cell.seq_len,
        cell.validation_set,
    )


def load(workspace: Workspace, study: str | None) -> Verdicts:
    """Read the store once, briefly, then compute; for a thread.

    Raises:
        OptsweepError: the store is locked, newer than this program, or garbage.
    """
    from optsweep_tui.analysis.flags import SELECTED_MIN  # with it come pandas and scipy: not before the first frame

    baseline = ask.baseline_of(workspace, study)
    if stamp(workspace) is None:
        return Verdicts(baseline=baseline, why="not collected yet: x collects")
    frame = ask.results(workspace, Filter(study=study), wait_seconds=answers.STORE_SECONDS)
    if frame.empty:
        return Verdicts(baseline=baseline, why="not collected yet: x collects")
    records = ask.table(frame, baseline=baseline).to_dict("records")
    groups: dict[tuple[Any, ...], list[str]] = {}
    for record in records:
        if (group := _tie(record)) is not None:
            groups.setdefault(group, []).append(str(record["optimizer"]))
    cells = {}
    for record in records:
        group = _tie(record)
        members = groups.get(group, []) if group is not None else []
        cells[_key(record)] = CellVerdict(
            loss=_number(record["loss"]),
            seeds=int(record["n"]),
            gap=_number(record["gap"]),
            low=_number(record["gap_low"]),
            high=_number(record["gap_high"]),
            rank=0 if math.isnan(_number(record["rank"])) else int(record["rank"]),
            tied=_number(record["tie_group"]) == 1 and len(members) > 1,
            tied_with=tuple(sorted(name for name in members if name != record["optimizer"])),
            known_noise=group is not None,
            selected=SELECTED_MIN in record["flags"],
            done=int((record["states"] or {}).get("done", 0)),
        )
    return Verdicts(baseline=baseline, cells=cells)


def _key(record: Mapping[Any, Any]) -> Key:
    seq_len = _number(record["seq_len"])
    return (
        str(record["optimizer"]), str(record["model"]), fmt.ratio_key(_number(record["chinchilla"])),
        _text(record["dataset"]), _text(record["engine"]), 0 if math.isnan(seq_len) else int(seq_len),
        _text(record["validation_set"]),
    )  # fmt: skip


def _tie(record: Mapping[Any, Any]) -> tuple[Any, ...] | None:
    """The tie group of a row, told from those of other budgets; None without sigma."""
    group = _number(record["tie_group"])
    return None if math.isnan(group) else (*_key(record)[1:], record["tokens"], int(group))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
