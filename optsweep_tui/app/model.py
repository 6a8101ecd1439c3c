"""What the screens show, as plain data: rows of runs, the matrix of a study, filters; no files, no Textual."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from optsweep_tui.app import format as fmt
from optsweep_tui.core import Cell, RunSpec, Scalar
from optsweep_tui.flow import RunLine

WAITING = frozenset({"planned", "submitting", "queued"})
NEW = "new"
"""State of a run that is only planned on the screen: there is no folder of it."""
BROKEN = frozenset({"failed", "oom", "lost", "orphan", "unreachable"})
UNFINISHED = WAITING | {"running", "lost", "orphan", "unreachable"}


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRow:
    """One run: its line, its cell, its studies."""

    line: RunLine
    cell: Cell
    studies: tuple[str, ...]
    knobs: Mapping[str, Scalar] = field(default_factory=dict)
    """Hyperparameters, as far as they were published."""

    @property
    def run_id(self) -> str:
        return self.line.run_id

    label: str = ""
    """What never changes of `words`, made once; empty until `labelled`."""

    @property
    def words(self) -> str:
        """What a filter's plain words are looked for in."""
        return f"{self.label or self._label()} {self.line.state}"

    def labelled(self) -> RunRow:
        """The same run with its words ready: a filter asks 100,000 runs at every letter that is typed."""
        return replace(self, label=self._label())

    def _label(self) -> str:
        line = self.line
        lr = fmt.knob(line.lr)
        return (
            f"{line.run_id} {line.optimizer} {line.model} {fmt.ratio(line.chinchilla)} lr {lr} "
            f"seed {fmt.knob(line.seed)} {line.engine or ''} {self.cell.dataset} {' '.join(self.studies)}"
        ).lower()


def new_row(spec: RunSpec, study: str) -> RunRow:
    """A run that was not launched yet."""
    lr = spec.hyperparameters.get("lr")
    line = RunLine(
        run_id=spec.run_id,
        state=NEW,
        optimizer=spec.optimizer,
        model=spec.model,
        chinchilla=spec.chinchilla,
        seed=spec.seed,
        engine=spec.engine,
        host="",
        attempt=0,
        step=0,
        steps=spec.steps,
        loss=None,
        tokens_per_second=None,
        eta_seconds=None,
        lr=float(lr) if isinstance(lr, int | float) else None,
        configuration=spec.replace(seed=0).run_id,
    )
    return RunRow(line=line, cell=Cell.of(spec), studies=(study,), knobs=spec.hyperparameters)


_SIZES = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)([kmbt])(?![a-z0-9])", re.IGNORECASE)
_POWERS = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


@lru_cache(maxsize=1024)
def model_order(model: str) -> tuple[float, str]:
    """Models by the size that their names tell ("130m" before "1.2b"), those without one first, by name."""
    found = _SIZES.search(model)
    return (float(found[1]) * _POWERS[found[2].lower()] if found else 0.0, model)


def cell_order(row: RunRow) -> tuple[object, ...]:
    """What the usual order of runs goes by: cell by cell, then lr and seed."""
    line = row.line
    return (model_order(line.model), line.chinchilla, line.optimizer, line.lr or 0.0, line.seed or 0, line.run_id)


@dataclass(frozen=True, kw_only=True)
class StudyInfo:
    """What a study's file says."""

    name: str
    baseline: str = "adamw"


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All runs of the workspace at one moment."""

    rows: tuple[RunRow, ...] = ()
    studies: tuple[StudyInfo, ...] = ()
    """Newest first."""
    read: int = 0
    total: int = 0
    """While runs are still being read for the first time, read < total."""
    by_id: Mapping[str, RunRow] = field(default_factory=dict)

    @property
    def loading(self) -> bool:
        return self.read < self.total

    def study(self, name: str | None) -> list[RunRow]:
        """Runs of one study."""
        return [row for row in self.rows if name in row.studies]


def counts(rows: Iterable[RunRow]) -> Counter[str]:
    """Runs per group of states: run, wait, done, bad, other."""
    found: Counter[str] = Counter()
    for state, count in Counter([row.line.state for row in rows]).items():
        if state == "running":
            found["run"] += count
        elif state in WAITING:
            found["wait"] += count
        elif state in BROKEN:
            found["bad"] += count
        else:
            found["done" if state == "done" else "other"] += count
    return found


# ---------------------------------------------------------------- matrix


@dataclass(frozen=True, kw_only=True)
class CellView:
    """One cell of the matrix."""

    rows: tuple[RunRow, ...]
    """Runs by lr, then seed."""
    state: str
    """The one state that its glyph shows: running, bad, waiting, new, done, none."""
    loss: float | None
    """As `analysis.table` has it: mean over the fresh seeds of the best configuration, with one seed the smallest final
    loss; without any final loss the best training loss so far."""
    seeds: int
    """Runs in that mean."""
    tried: int
    """Finished runs that the selection was made among."""
    fresh: bool
    """The mean is over fresh seeds, which did not take part in the selection."""
    best: RunRow | None
    """The run that stands for it: the best configuration under the base seed."""
    final: bool
    """The loss is a final one."""
    unfinished: bool
    """Runs are still to come or going on."""
    lr_edge: bool
    """The best lr is the smallest or the largest of those that were tried."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """The cells of one model (and dataset and engine, where a study has several)."""

    title: str
    ratios: tuple[float, ...]
    optimizers: tuple[str, ...]
    cells: Mapping[tuple[str, float], CellView]
    best: Mapping[float, str]
    """Per ratio: the optimizer with the smallest final loss, where at least two have one."""


def base_seed(rows: Iterable[RunRow]) -> int | None:
    """The seed under which most configurations were run: the others are fresh seeds. 0 without runs.

    None, the seed of runs whose seed was not published, is a seed like any other.
    """
    found: dict[int | None, set[str]] = {}
    for row in rows:
        found.setdefault(row.line.seed, set()).add(row.line.configuration)
    return min(found, key=lambda seed: (-len(found[seed]), seed is None, seed or 0), default=0)


def entering(members: Sequence[RunRow]) -> Sequence[RunRow]:
    """The runs of a cell that are compared, as in `analysis.table`: whole ones, or the branches of a trunk, never both."""
    branches = [row for row in members if row.cell.branches]
    whole = [row for row in members if not row.cell.branches]
    final = [any(row.line.state == "done" and _number(row.line.loss) for row in rows) for rows in (whole, branches)]
    return whole if not branches or final[0] or (whole and not final[1]) else branches


def cell_view(rows: Sequence[RunRow], base: int | None = 0) -> CellView:
    """Reduce the runs of a cell to what the matrix shows; `base` is the base seed of its study."""
    ordered = sorted(rows, key=lambda row: (row.line.lr is None, row.line.lr or 0.0, row.line.seed or 0, row.run_id))
    states = {row.line.state for row in ordered}
    finals = [row for row in ordered if row.line.state == "done" and _number(row.line.loss)]
    finals = [
        row for row in finals if not row.cell.branches
    ] or finals  # as `analysis.table`: a whole run stands for the cell
    live = [row for row in ordered if row.line.state == "running" and _number(row.line.loss)]
    selectable = [row for row in finals if row.line.seed == base] or finals
    best = min(selectable or live, key=lambda row: row.line.loss or 0.0, default=None)
    counted = [row for row in finals if best and row.line.configuration == best.line.configuration]
    fresh = [row for row in counted if row.line.seed != base]
    counted = fresh or counted[:1]
    mean = math.fsum(row.line.loss or 0.0 for row in counted) / len(counted) if counted else None
    if "running" in states:
        state = "running"
    elif states & BROKEN:
        state = "bad"
    elif states & WAITING:
        state = "waiting"
    elif NEW in states and not finals:
        state = "new"
    else:
        state = "done" if finals else "none"
    tried = {row.line.lr for row in ordered if row.line.lr is not None and row.line.state in ("done", "diverged")}
    edge = bool(finals and best and len(tried) > 1 and best.line.lr in (min(tried), max(tried)))
    return CellView(
        rows=tuple(ordered),
        state=state,
        loss=mean if mean is not None else best.line.loss if best else None,
        seeds=len(counted),
        tried=len(selectable),
        fresh=bool(fresh),
        best=best,
        final=bool(finals),
        unfinished=bool(states & UNFINISHED) or NEW in states,
        lr_edge=edge,
    )


def _number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def matrix(rows: Iterable[RunRow]) -> list[Block]:
    """The cells of a study, by rising model size as far as the ratios tell, optimizers and ratios in order."""
    grouped: dict[tuple[str, str, str, int, str], dict[tuple[str, float], list[RunRow]]] = {}
    for row in rows:
        cell = row.cell
        key = (cell.model, cell.dataset, cell.engine, cell.seq_len, cell.validation_set)
        spot = (cell.optimizer, fmt.ratio_key(row.line.chinchilla))
        grouped.setdefault(key, {}).setdefault(spot, []).append(row)
    several = [len({key[place] for key in grouped}) > 1 for place in range(5)]

    def size(key: tuple[str, str, str, int, str]) -> tuple[float, tuple[str, str, str, int, str]]:
        first = next(iter(grouped[key].values()))[0]
        return (first.cell.tokens / first.line.chinchilla if first.line.chinchilla else 0.0, key)

    blocks = []
    for key in sorted(grouped, key=size):
        base = base_seed(row for members in grouped[key].values() for row in entering(members))
        cells = {spot: cell_view(members, base) for spot, members in grouped[key].items()}
        ratios = sorted({ratio for _, ratio in cells})
        names = [str(part) for part, many in zip(key[1:], several[1:], strict=True) if many]
        blocks.append(
            Block(
                title=" ".join([key[0], *names]),
                ratios=tuple(ratios),
                optimizers=tuple(sorted({optimizer for optimizer, _ in cells})),
                cells=cells,
                best=_best_per_ratio(cells, ratios),
            )
        )
    return blocks


def _best_per_ratio(cells: Mapping[tuple[str, float], CellView], ratios: Iterable[float]) -> dict[float, str]:
    found = {}
    for ratio in ratios:
        finals = {
            optimizer: cell.loss
            for (optimizer, at), cell in cells.items()
            if at == ratio and cell.final and cell.loss is not None
        }
        if len(finals) > 1:
            found[ratio] = min(finals, key=lambda optimizer: finals[optimizer])
    return found


def best_runs(blocks: Iterable[Block]) -> list[RunRow]:
    """The best finished run of each cell, by model, ratio and optimizer."""
    found = []
    for block in blocks:
        for spot in sorted(block.cells, key=lambda spot: (spot[1], spot[0])):
            cell = block.cells[spot]
            if cell.final and cell.best is not None:
                found.append(cell.best)
    return found
