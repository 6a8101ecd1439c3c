"""What every figure says the same way: groups and their titles, sigma with its source, states, where the data come from."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pandas as pd

Row: TypeAlias = dict[str, Any]

RATIO = "Chinchilla ratio, D / (20 N)"
LOSS = "final validation loss, nats/token"
GROUP = ("study", "engine", "model", "dataset", "dataset_hash", "validation_set", "seq_len")
"""Cells that agree in these may stand in one panel."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the data of a figure come from."""

    study: str
    baseline: str
    runs: int
    """Runs of the selection."""
    digest: str
    """Of their ids, states and losses."""
    version: str
    """Of the program."""
    asked_ratios: bool = False
    """The selection names its budgets."""

    @property
    def line(self) -> str:
        """The last line of every figure."""
        return f"study {self.study}, {self.runs:,} runs, data {self.digest}, optsweep {self.version}"


def source(results: pd.DataFrame, baseline: str, version: str, asked_ratios: bool = False) -> Source:
    """The source of a figure.

    Args:
        results: one row per run.
        baseline: optimizer compared with.
        version: of the program.
        asked_ratios: the selection names its budgets.
    """
    # Missing columns count as unknown, as in the analysis.
    ids, studies, *others = (
        results[name].tolist() if name in results.columns else [None] * len(results)
        for name in ("run_id", "study", "state", "loss")
    )
    text = "\n".join(sorted(" ".join(map(str, row)) for row in zip(ids, *others, strict=True)))
    return Source(
        study=", ".join(sorted({str(name) for name in studies})),
        baseline=baseline,
        runs=len(set(ids)) if "run_id" in results.columns else len(results),
        digest=hashlib.sha256(text.encode()).hexdigest()[:12],
        version=version,
        asked_ratios=asked_ratios,
    )


def records(frame: pd.DataFrame) -> list[Row]:
    """Rows as plain objects; missing values are None."""
    found: list[Row] = []
    for row in frame.to_dict("records"):
        found.append({str(name): None if _missing(value) else value for name, value in row.items()})
    return found


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def grouped(rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    """Rows by comparable group, with a title that names what the groups differ in; models by rising size."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name) for name in GROUP), []).append(row)

    def size(item: tuple[tuple[Any, ...], list[Row]]) -> tuple[float, str]:
        return min((row["params"] for row in item[1] if row.get("params")), default=math.inf), str(item[0])

    ordered = sorted(groups.items(), key=size)
    differing = [
        place for place, name in enumerate(GROUP) if name != "dataset_hash" and len({key[place] for key in groups}) > 1
    ]
    model = GROUP.index("model")
    found = []
    for key, members in ordered:
        extra = [_part(GROUP[place], key[place]) for place in differing if place != model]
        found.append((", ".join([str(key[model]), *extra]), members))
    return found


def _part(name: str, value: Any) -> str:
    text = "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return f"seq {text}" if name == "seq_len" else text


def ratio_text(value: float) -> str:
    """A Chinchilla ratio as it is typed."""
    return f"{value:g}"


def by_optimizer(rows: Iterable[Row], last: str = "") -> dict[str, list[Row]]:
    """Rows by optimizer in alphabetical order, one of them last: drawn first, it lies below the others."""
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row["optimizer"] == last, row["optimizer"], row.get("tokens") or 0.0)):
        found.setdefault(row["optimizer"], []).append(row)
    return found


def one_ratio(rows: Sequence[Row], asked: bool) -> tuple[list[Row], list[str]]:
    """The rows of one budget per group, unless budgets were asked for: the one of most optimizers, of equal ones the largest.

    Returns:
        The rows, and a sentence for the caption where some were left out.
    """
    if asked:
        return list(rows), []
    kept: list[Row] = []
    named = []
    left = 0
    for title, members in grouped(rows):
        counts: dict[float, set[str]] = {}
        for row in members:
            counts.setdefault(row["chinchilla"], set()).add(row["optimizer"])
        ratio = max(counts, key=lambda value: (len(counts[value]), value))
        kept += [row for row in members if row["chinchilla"] == ratio]
        left += len(counts) - 1
        named.append(f"{title} at {ratio_text(ratio)}")
    sentence = f"One budget per model, the one of most optimizers: {', '.join(named)}; others: optsweep plot, -c RATIO."
    return kept, [sentence] if left else []


def sigma_sentence(rows: Iterable[Mapping[str, Any]], *, intervals: bool = True) -> str:
    """Sigma, its source and its degrees of freedom, or that there is none and what that means."""
    known = [row for row in rows if row.get("sigma") is not None]
    if not known:
        return "NO-SIGMA: the run-to-run noise is not known, so there are no intervals and no winner."
    values = [float(row["sigma"]) for row in known]
    low, high = min(values), max(values)
    span = f"{low:.4f}" if high - low < 5e-5 else f"{low:.4f} to {high:.4f}"
    sources = ", ".join(sorted({str(row["sigma_source"]) for row in known}))
    finite = [row["sigma_dof"] for row in known if row.get("sigma_dof") and math.isfinite(row["sigma_dof"])]
    dof = f", {min(finite):.3g} dof" if finite and min(finite) == max(finite) else ""
    if finite and min(finite) != max(finite):
        dof = f", {min(finite):.2g} to {max(finite):.2g} dof"
    head = "Bars: 95 % intervals; s" if intervals else "S"
    return f"{head}igma {span} nats ({sources}{dof})."


TOLD = {
    "selected-min, n=1": "rest on one seed (a smallest of several losses is biased low, and a speedup from it high)",
    "MISFIT": "rest on a baseline curve that misses its points (MISFIT: sigma was widened)",
    "UNTUNED": "are UNTUNED (an edge is unresolved, or budgets differ by more than 1.25x)",
    "UNSWEPT": "compare a single configuration (UNSWEPT: nothing was tuned)",
    "SCHEDULE": "have another schedule than the baseline",
    "BATCH": "have another batch size than the baseline",
    "BRANCH": "rest on decay branches of one trunk (BRANCH: they share its noise)",
    "SUPPORT": "rest on baseline budgets that other sizes lack",
    "NO-SIGMA": "have no interval (NO-SIGMA)",
    "not resolved": "have intervals that contain 1 (not resolved)",
    "OPEN": "have an open interval, whose bar runs to the border (OPEN)",
    "LOADED": "were timed on a busy machine (LOADED)",
    "TIMED-ONCE": "were timed once, so that the interval holds no timing noise (TIMED-ONCE)",
}
"""Flags of `analysis.flags` that change how a point is to be read, after 'so many points'."""


def flag_sentences(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The flags that change how a point is to be read, with how many points carry them."""
    counts: dict[str, int] = {}
    total = 0
    for row in rows:
        total += 1
        for flag in row.get("flags") or ():
            counts[flag] = counts.get(flag, 0) + 1
    parts = [f"{counts[flag]} of {total} {text}" for flag, text in TOLD.items() if counts.get(flag)]
    return [f"Points: {'; '.join(parts)}."] if parts else []
