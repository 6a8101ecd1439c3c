"""`performance_profile`: over all cells, how often an optimizer comes within a factor tau of the cheapest.

A workload is a model x ratio cell. An optimizer's cost ratio there is the tokens it needs over the tokens the best one
needs for the same loss: S_best / S with S its token speedup, 1 for the baseline. rho(tau) is the share of its workloads
with a ratio of at most tau; the score is the area under rho from 1 to tau_max over tau_max - 1.
Sources: Dolan & More 2002 (10.1007/s101070100263); Dahl et al. 2023, arXiv 2306.07179, section 4.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from optsweep_tui.analysis.audits.rows import budget, group_key, records
from optsweep_tui.analysis.baselines import Baseline, baselines
from optsweep_tui.analysis.cells import CellLoss, groups
from optsweep_tui.analysis.columns import GROUP, PROFILE
from optsweep_tui.analysis.edges import KnobInfo
from optsweep_tui.analysis.number_ids import addressed
from optsweep_tui.analysis.runs import LOST, sort_key
from optsweep_tui.analysis.speedups import REACH, speedup
from optsweep_tui.errors import OptsweepError

# Dahl et al. integrate to 4.
TAU_MAX = 4.0
TAUS = (1.0, 1.05, 1.1, 1.2, 1.3, 1.5, 2.0, 3.0, 4.0)
SAME = 1e-12
# Ratios are kept to five digits.
SAME_RATIO = 1e-4


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What one optimizer needs at one workload."""

    speedup: float
    """Over the baseline, tokens; its lower bound where the mark is ABOVE; 0 where the cost is infinite."""
    mark: str
    """"", EXTRAP, ABOVE (beyond the baseline's reach) or INFINITE."""
    loss: float
    chinchilla: float


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Cost ratio of one optimizer at one workload."""

    value: float
    mark: str
    """"", EXTRAP, BOUND (a lower bound) or INFINITE."""
    chinchilla: float


Workload = tuple[Any, ...]
"""(group key, tokens)."""


def performance_profile(
    results: pd.DataFrame,
    *,
    baseline: str = "adamw",
    max_chinchilla: float | None = None,
    tau_max: float = TAU_MAX,
    among: Sequence[str] = (),
    ratios: Sequence[float] = (),
    knob_info: KnobInfo | None = None,
) -> pd.DataFrame:
    """Profile and score of every optimizer over the cells of each family of comparable groups.

    What cannot be a plain ratio: a loss above the baseline's reach is an infinite cost, and so is a cell whose runs all
    diverged. A loss below the reach (refused, "> 1.5x") is the best there, with ratio 1; how far the others lie behind
    is only bounded, their ratio is the bound / S, a lower bound and so in their favour, and counted. A cell without a
    baseline curve, or without a result yet, is left out and counted. An optimizer that was never run in a cell is not
    judged there: compare scores over `score_common`, or where the workloads are the same.

    Args:
        results: one row per run, columns of `columns.RESULTS`.
        baseline: optimizer that speedups are measured against.
        max_chinchilla: largest ratio of the baseline's fit points.
        tau_max: where the area ends, above 1.
        among: the optimizers that compete, by name; empty = all. The best one is the best of these.
        ratios: the workloads' Chinchilla ratios; empty = all. The baseline's curves keep all their points.
        knob_info: declared knobs (`edges.KnobInfo`).

    Returns:
        Columns of `columns.PROFILE`, by family and falling score.

    Raises:
        OptsweepError: for a tau_max that does not exceed 1.
    """
    if not (math.isfinite(tau_max) and tau_max > 1):
        raise OptsweepError(f"--tau-max {tau_max:g} leaves no area: it has to exceed 1", "Use 4.")
    placed, out = standings(results, baseline, max_chinchilla, knob_info)
    placed = {key: competing(entry, among, ratios) for key, entry in placed.items()}
    if among:
        out = {key: [name for name in names if name in among] for key, names in out.items()}
    rows: list[dict[str, Any]] = []
    families = sorted({family_of_workload(key) for key in [*placed, *out]}, key=sort_key)
    for family in families:
        mine = {
            key: ratios_of(entry)
            for key, entry in placed.items()
            if family_of_workload(key) == family and len(entry) > 1
        }
        names = sorted({name for entry in mine.values() for name in entry})
        common = [key for key, entry in mine.items() if all(name in entry for name in names)]
        excluded = Counter(name for key, entry in out.items() if family_of_workload(key) == family for name in entry)
        head = dict(zip((name for name in GROUP if name != "model"), family, strict=True))
        found = [
            {**head, "baseline": baseline, "tau_max": tau_max, **_row(name, mine, common, tau_max)} for name in names
        ]
        for row in found:
            row["n_excluded"] = excluded[row["optimizer"]]
        rows += sorted(found, key=lambda row: (-row["score"], row["optimizer"]))
    options = {"baseline": baseline, "max_chinchilla": max_chinchilla, "tau_max": tau_max}
    frame = pd.DataFrame(rows, columns=list(PROFILE))
    return addressed(frame, "profile", among=tuple(among), ratios=tuple(ratios), **options)


def family_of_workload(key: Workload) -> tuple[Any, ...]:
    return tuple(value for name, value in zip(GROUP, key[0], strict=True) if name != "model")


def standings(
    results: pd.DataFrame, baseline: str, max_chinchilla: float | None, knob_info: KnobInfo | None
) -> tuple[dict[Workload, dict[str, Standing]], dict[Workload, list[str]]]:
    """(workload -> optimizer -> standing, workload -> optimizers that were run there and cannot be placed)."""
    items = baselines(groups(results, knob_info), baseline, None, max_chinchilla).items
    by_key = {item.group.key: item for item in items}
    cells = {(item.group.key, cell.optimizer, cell.tokens): cell for item in items for cell in item.group.cells}
    placed: dict[Workload, dict[str, Standing]] = {}
    out: dict[Workload, list[str]] = {}
    frame = speedup(results, baseline=baseline, max_chinchilla=max_chinchilla, knob_info=knob_info)
    for row in records(frame):
        key, tokens = group_key(row), budget(row)
        standing = _standing(row, by_key[key], cells[key, row["optimizer"], tokens])
        if standing is None:
            out.setdefault((key, tokens), []).append(row["optimizer"])
        else:
            placed.setdefault((key, tokens), {})[row["optimizer"]] = standing
    for (group, tokens), entry in placed.items():
        ratio = min(standing.chinchilla for standing in entry.values())
        own = _baseline_standing(by_key[group], tokens, ratio, cells.get((group, baseline, tokens)))
        if own is not None:
            entry[baseline] = own
    return placed, out


def competing(entry: Mapping[str, Standing], among: Sequence[str], ratios: Sequence[float]) -> dict[str, Standing]:
    """The standings that are asked for."""
    return {
        name: standing
        for name, standing in entry.items()
        if (not among or name in among)
        and (not ratios or any(abs(standing.chinchilla - ratio) <= SAME_RATIO * ratio for ratio in ratios))
    }


def _standing(row: Mapping[str, Any], item: Baseline, cell: CellLoss) -> Standing | None:
    def standing(value: float, mark: str) -> Standing:
        return Standing(speedup=value, mark=mark, loss=cell.loss, chinchilla=cell.chinchilla)

    if row["state"] != "REFUSE":
        return standing(row["speedup"], "EXTRAP" if row["state"] == "EXTRAP" else "")
    if row["bound"].startswith(">"):
        return standing(REACH * float(item.tokens[-1]) / cell.tokens, "ABOVE")
    diverged = bool(cell.states) and set(cell.states) <= LOST and not item.refusal
    return standing(0.0, "INFINITE") if row["bound"].startswith("<") or diverged else None


def _baseline_standing(item: Baseline, tokens: float, ratio: float, cell: CellLoss | None) -> Standing | None:
    """Speedup 1 where the baseline has a loss, or its curve covers the budget."""
    if item.refusal or not tokens > 0:
        return None
    inside = item.tokens[0] <= tokens <= item.tokens[-1]
    if not inside and (cell is None or not cell.has_loss):
        return None
    loss = cell.loss if cell else math.nan
    return Standing(speedup=1.0, mark="" if inside else "EXTRAP", loss=loss, chinchilla=ratio)


def ratios_of(entry: Mapping[str, Standing]) -> dict[str, Ratio]:
    """Cost ratios at one workload."""
    above = [standing for standing in entry.values() if standing.mark == "ABOVE"]
    best = max(entry.values(), key=lambda standing: standing.speedup)
    lowest = min((standing.loss for standing in above), default=math.nan)
    found = {}
    for name, standing in entry.items():
        if standing.mark == "INFINITE":
            value, mark = math.inf, "INFINITE"
        elif standing.mark == "ABOVE":
            value, mark = 1.0, "" if standing.loss == lowest else "BOUND"
        elif above:
            value, mark = max(1.0, above[0].speedup / standing.speedup), "BOUND"
        else:
            value = best.speedup / standing.speedup
            mark = "EXTRAP" if "EXTRAP" in (standing.mark, best.mark) else ""
        found[name] = Ratio(value=value, mark=mark, chinchilla=standing.chinchilla)
    return found


def score_of(ratios: Sequence[float], tau_max: float) -> float:
    """Area under rho from 1 to tau_max over tau_max - 1: the mean of (tau_max - ratio)+ / (tau_max - 1)."""
    if not ratios:
        return math.nan
    return sum(max(0.0, tau_max - ratio) for ratio in ratios) / (len(ratios) * (tau_max - 1.0))


def _row(
    name: str, workloads: Mapping[Workload, Mapping[str, Ratio]], common: Sequence[Workload], tau_max: float
) -> dict[str, Any]:
    mine = {key: entry[name] for key, entry in workloads.items() if name in entry}
    values = [ratio.value for ratio in mine.values()]
    marks = Counter(ratio.mark for ratio in mine.values())
    taus = sorted({*(tau for tau in TAUS if tau < tau_max), tau_max})
    return {
        "optimizer": name,
        "n_workloads": len(values),
        "score": score_of(values, tau_max),
        "rho": {f"{tau:g}": sum(value <= tau * (1 + SAME) for value in values) / len(values) for tau in taus},
        "n_common": len(common),
        "score_common": score_of([mine[key].value for key in common], tau_max),
        "n_best": sum(ratio.value <= 1 + SAME and ratio.mark != "BOUND" for ratio in mine.values()),
        "n_infinite": marks["INFINITE"],
        "n_extrap": marks["EXTRAP"],
        "n_bounded": marks["BOUND"],
        "ratios": [
            {
                "model": group[GROUP.index("model")],
                "chinchilla": ratio.chinchilla,
                "ratio": ratio.value,
                "mark": ratio.mark,
            }
            for (group, _), ratio in mine.items()
        ],
    }
