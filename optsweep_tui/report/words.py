"""The verdict in words: which optimizers are faster, by how much, how sure that is, and what it does not say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from optsweep_tui.report.parts import Parts

# The share of 95 % intervals that miss the truth by chance alone.
MISS = 0.05


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a reader should take away."""

    lead: tuple[str, ...]
    """Sentences about all cells."""
    places: tuple[str, ...]
    """One sentence per model: who leads at its largest budget, and whether that is more than noise."""
    cautions: tuple[str, ...]
    """What weakens the numbers, with counts."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How an optimizer's cells came out against the baseline."""

    optimizer: str
    faster: int
    """INTERP cells whose whole interval lies above 1."""
    slower: int
    open: int
    """INTERP cells whose interval holds 1."""
    unknown: int
    """INTERP cells without an interval: no sigma."""
    extrap: int
    refused: int
    low: float
    """Smallest speedup of the INTERP cells; NaN without any."""
    high: float

    @property
    def measured(self) -> int:
        return self.faster + self.slower + self.open + self.unknown


def verdict(parts: Parts) -> Verdict:
    """The sentences of a report."""
    rows = records(parts.speedups["tokens"])
    tallies = [tally(name, [row for row in rows if row["optimizer"] == name]) for name in ordered_names(rows)]
    return Verdict(
        lead=tuple(_lead(tallies, parts, rows)),
        places=tuple(_places(parts)),
        cautions=tuple(_cautions(parts, rows)),
    )


def tally(optimizer: str, rows: Sequence[dict[str, Any]]) -> Tally:
    """Counts over the rows of one optimizer."""
    inside = [row for row in rows if row["state"] == "INTERP"]
    known = [row for row in inside if has(row["low"]) and has(row["high"])]
    faster, slower = sum(row["low"] > 1 for row in known), sum(row["high"] < 1 for row in known)
    values = [row["speedup"] for row in inside]
    return Tally(
        optimizer=optimizer,
        faster=faster,
        slower=slower,
        open=len(known) - faster - slower,
        unknown=len(inside) - len(known),
        extrap=sum(row["state"] == "EXTRAP" for row in rows),
        refused=sum(row["state"] == "REFUSE" for row in rows),
        low=min(values, default=math.nan),
        high=max(values, default=math.nan),
    )


def _lead(tallies: Sequence[Tally], parts: Parts, rows: Sequence[dict[str, Any]]) -> list[str]:
    base = parts.baseline
    if not tallies:
        return [f"No optimizer besides {base} has a cell here, so there is nothing to compare."]
    measured = [entry for entry in tallies if entry.measured]
    said = []
    always = [entry for entry in measured if entry.faster == entry.measured]
    never = [entry for entry in measured if entry.slower == entry.measured]
    nothing = [entry for entry in measured if entry.unknown == entry.measured]
    mixed = [entry for entry in measured if entry not in always + never + nothing]
    if always:
        said.append(f"Needs fewer tokens than {base} in every cell where that could be measured: {_spans(always)}.")
    if mixed:
        counts = "; ".join(_mixed(entry) for entry in mixed)
        said.append(f"Not the same everywhere, or not told apart from {base} by the noise: {counts}.")
    if never:
        said.append(f"Needs more tokens than {base} in every cell where that could be measured: {_spans(never)}.")
    if nothing:
        said.append(f"Without a sigma there is no interval and no verdict: {_spans(nothing)}.")
    unmeasured = [entry.optimizer for entry in tallies if not entry.measured]
    if unmeasured:
        said.append(f"No cell inside the budgets of {base}, so no measured speedup: {listed(unmeasured)}.")
    intervals = sum(entry.faster + entry.slower + entry.open for entry in tallies)
    if intervals:
        said.append(
            f"Each of the {intervals} intervals is a 95 % interval by itself: "
            f"about {max(1, round(MISS * intervals))} of them will miss the truth by chance."
        )
    extrap, refused = (sum(row["state"] == state for row in rows) for state in ("EXTRAP", "REFUSE"))
    if extrap or refused:
        said.append(
            f"{extrap} of {len(rows)} cells are extrapolated (EXTRAP) and {refused} refused (REFUSE); "
            "they carry no weight in these sentences."
        )
    return said


def _spans(tallies: Sequence[Tally]) -> str:
    def one(entry: Tally) -> str:
        cells = f"{entry.measured} cell{'s' if entry.measured != 1 else ''}"
        span = f"{entry.low:.2f}x" if entry.measured == 1 else f"{entry.low:.2f}x to {entry.high:.2f}x"
        return f"{entry.optimizer} ({span}, {cells})"

    return listed(one(entry) for entry in sorted(tallies, key=lambda entry: (-entry.high, entry.optimizer)))


def _mixed(entry: Tally) -> str:
    counts = [(entry.faster, "faster"), (entry.slower, "slower"), (entry.open, "not resolved")]
    counts.append((entry.unknown, "without an interval"))
    said = ", ".join(f"{count} {word}" for count, word in counts if count)
    return f"{entry.optimizer} {entry.low:.2f}x to {entry.high:.2f}x ({said} of {entry.measured})"


def _places(parts: Parts) -> list[str]:
    """Who has the smallest loss at each group's largest budget of more than one optimizer."""
    said = []
    for group in grouped(parts.cells):
        budgets = sorted({row["chinchilla"] for row in group if has(row["loss"])})
        shared = [c for c in budgets if len({row["optimizer"] for row in group if _at(row, c)}) > 1]
        if shared:
            said.append(_leader([row for row in group if _at(row, shared[-1])]))
    return said


def _at(row: dict[str, Any], ratio: float) -> bool:
    return bool(row["chinchilla"] == ratio and has(row["loss"]))


def _leader(rows: list[dict[str, Any]]) -> str:
    best = min(rows, key=lambda row: (row["loss"], row["optimizer"]))
    place = f"{best['model']} at ratio {budget(best)}"
    start = f"{place}: the smallest loss of {len(rows)} optimizers is {best['optimizer']}'s, {best['loss']:.4f} nats"
    if best["winner"]:
        return f"{start}, below the next by more than the noise."
    if not has(best["sigma"]):
        return f"{start}; the noise is not known here, so no winner is named."
    tied = [row["optimizer"] for row in rows if row["tie_group"] == 1 and row is not best]
    if tied:
        return f"{start}, tied with {listed(tied)} within the noise: no winner is named."
    return f"{start}, but its lead is not resolved at 95 %: no winner is named."


def _cautions(parts: Parts, rows: Sequence[dict[str, Any]]) -> list[str]:
    total = len(rows)
    said = []

    def count(flag: str) -> int:
        return sum(flag in (row["flags"] or []) for row in rows)

    remarks = {
        "selected-min, n=1": "rest on one seed: where several configurations ran, the smallest of noisy losses is biased low, "
        "and the speedup high unless the baseline was chosen among as many",
        "UNSWEPT": "compare a cell, or a baseline's cell, in which a single configuration ran: nothing was tuned there",
        "UNTUNED": "compare unequal tuning: an optimum at the end of its swept list, or numbers of runs more than 1.25x apart",
        "UNLISTED": "rest on a minimum whose configuration was not published",
        "SCHEDULE": "were trained with another learning-rate schedule than the baseline",
        "BRANCH": "rest on decay branches of one trunk, here or in the baseline's curve: their errors are not independent",
        "BATCH": "were trained with another batch size than the baseline",
        "DTYPE": "were trained in another compute type than the baseline",
        "MISFIT": "rest on a baseline curve that misses its own points; their intervals are widened for it",
        "NO-SIGMA": "have no run-to-run sigma: no interval, no tie group, no winner",
        "DIVERGED": "belong to cells in which some runs diverged",
    }
    for flag, words in remarks.items():
        if count(flag):
            said.append(f"{count(flag)} of {total} speedups {words} ({flag}).")
    sources = {row["sigma_source"] for row in rows}
    if "prior" in sources:
        said.append(
            "The run-to-run sigma is a prior from a public 124M model (0.0013 nats), not measured here; "
            "three fresh seeds of the baseline at its smallest and largest budget would measure it."
        )
    loose = [row["model"] for row in records(parts.curves) if row["identified"] is False]
    if loose:
        said.append(f"Exponent and floor of the baseline's curve are not identified at {listed(loose)}.")
    if any("SUPPORT" in (row["flags"] or []) for row in rows):
        said.append(
            "The baseline curves of different sizes rest on different budgets: compare sizes with --max-chinchilla."
        )
    return said


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain Python objects; pandas' missing values are None, NaN stays NaN."""
    return [{str(key): _plain(value) for key, value in row.items()} for row in frame.to_dict("records")]


def _plain(value: Any) -> Any:
    if value is pd.NA or value is pd.NaT:
        return None
    return value.item() if hasattr(value, "item") and not isinstance(value, pd.Series) else value


def grouped(frame: pd.DataFrame) -> list[list[dict[str, Any]]]:
    """Rows that may be compared with each other, in the order of the frame."""
    keys = ["study", "engine", "model", "dataset", "dataset_hash", "validation_set", "seq_len"]
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in records(frame):
        found.setdefault(tuple(str(row[key]) for key in keys), []).append(row)
    return list(found.values())


def ordered_names(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Optimizers, each once, by name."""
    return sorted({str(row["optimizer"]) for row in rows})


def budget(row: Mapping[str, Any]) -> str:
    """A cell's budget: its ratio, or its tokens where the model's size is not known."""
    if has(row["chinchilla"]):
        return f"{row['chinchilla']:.4g}"
    return f"{row['tokens']:.4g} tokens" if has(row.get("tokens")) else "unknown"


def has(value: Any) -> bool:
    """A number is there; it may be infinite."""
    return isinstance(value, int | float) and not math.isnan(value)


def listed(names: Iterable[str]) -> str:
    """ "a, b and c"."""
    found = list(names)
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} and {found[-1]}" if found else ""
