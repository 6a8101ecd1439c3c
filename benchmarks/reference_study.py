"""The tables of docs/reference-study.md, computed: python benchmarks/reference_study.py writes them into the document.

It imports the shipped figures into a workspace of its own and asks what `optsweep fit` and `optsweep speedup` ask. A test
holds the document to it.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import pandas as pd

from optsweep_tui import ask, imports
from optsweep_tui.cli import output
from optsweep_tui.core import Filter
from optsweep_tui.settings import Workspace, workspace

DOCUMENT = Path(__file__).parents[1] / "docs" / "reference-study.md"
MODELS = ("130m", "300m", "520m", "1.2b")
RATIOS = (1, 2, 4, 8, 16)
MATRIX = ("kron", "muon", "scion_fantastic", "soap")
Row: TypeAlias = dict[str, Any]


def computed(place: Workspace) -> dict[str, str]:
    """Every table by name, as Markdown."""
    imports.import_results(place, "reference")
    frame = ask.results(place, Filter(study="reference"))
    speedups = {
        "own": rows(ask.speedup(frame)),
        "cut": rows(ask.speedup(frame, max_chinchilla=8.0)),
        "shared": rows(ask.speedup(frame, shared_exponent=True)),
        "flops": rows(ask.speedup(frame, unit="flops")),
    }
    speedrun = ask.results(place, Filter(study="speedrun-2024-10"))
    return {
        "fits": fits(rows(ask.fit(frame)), rows(ask.fit(frame, shared_exponent=True))),
        "speedups": matrix(speedups["own"]),
        "moves": moves(speedups),
        "ties": ties(rows(ask.table(frame))),
        "counts": counts(
            {"prior": speedups["own"]}
            | {f"{sigma:.4f}": rows(ask.speedup(frame, sigma=sigma)) for sigma in (0.0008, 0.0020)}
        ),
        "speedrun": crossings(place, speedrun),
    }


def rows(frame: pd.DataFrame) -> list[Row]:
    """A frame as the command line's --json has it."""
    return output.records(frame)


def table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    names = list(head)
    return "\n".join("| " + " | ".join(line) + " |" for line in [names, ["---"] * len(names), *map(list, lines)])


def fits(own: list[Row], shared: list[Row]) -> str:
    """The curves of AdamW, each with its own exponent, and with one for all."""
    by_model = {row["model"]: row for row in shared}
    lines = [
        [
            row["model"],
            f"{row['chinchilla_low']:g} to {row['chinchilla_high']:g}",
            f"{row['alpha']:.4f}",
            f"{row['b']:.3f} ({row['b_low']:.3f} - {row['b_high']:.3f})",
            f"{row['beta']:.3f} ({row['beta_low']:.3f} - {row['beta_high']:.3f})",
            f"{row['max_residual']:.4f}",
            f"{row['chi2_p']:.3g}{' MISFIT' if 'MISFIT' in row['flags'] else ''}",
            f"{by_model[row['model']]['beta']:.3f}",
        ]
        for row in own
    ]
    head = ["model", "ratios", "alpha", "B (95 %)", "floor (95 %)", "largest residual", "p", "floor, B shared"]
    one = shared[0]
    return (
        table(head, lines)
        + f"\n\nOne exponent for all four: B = {one['b']:.3f} ({one['b_low']:.3f} - {one['b_high']:.3f}); "
        + f"p = {one['shared_b_p']:.2g} that separate ones fit as much better by noise alone."
    )


def text(row: Row | None) -> str:
    """A speedup with its interval and marks."""
    if row is None:
        return ""
    if row["state"] == "REFUSE":
        return row["bound"] or "refused"
    mark = "~" if row["state"] == "EXTRAP" else ""
    unsure = " ?" if "not resolved" in row["flags"] else ""
    return f"{mark}{row['speedup']:.2f} ({row['low']:.2f} - {row['high']:.2f}){unsure}"


def cells(speedups: list[Row]) -> dict[tuple[str, str, float], Row]:
    """By optimizer, model and ratio."""
    return {(row["optimizer"], row["model"], row["chinchilla"]): row for row in speedups}


def matrix(speedups: list[Row]) -> str:
    """All speedups: a line per model and optimizer, a column per ratio."""
    by_cell = cells(speedups)
    names = sorted({name for name, _, _ in by_cell})
    lines = []
    for model in MODELS:
        for name in names:
            found = [by_cell.get((name, model, ratio)) for ratio in RATIOS]
            if any(found):
                lines.append([model, name, *(text(row) for row in found)])
    return table(["model", "optimizer", *(f"{ratio}x" for ratio in RATIOS)], lines)


def moves(speedups: dict[str, list[Row]]) -> str:
    """The matrix optimizers at ratio 8 under other choices of the fit."""
    by_way = {way: cells(found) for way, found in speedups.items()}
    lines = []
    for model in MODELS:
        for name in MATRIX:
            key = (name, model, 8.0)
            if key in by_way["own"]:
                line = by_way["own"][key]["interpolated"]
                own, cut, shared, flops = (text(by_way[way][key]) for way in ("own", "cut", "shared", "flops"))
                lines.append([model, name, own, cut, shared, "" if line is None else f"{line:.2f}", flops])
    head = ["model", "optimizer", "as above", "ratios up to 8", "B shared", "straight line", "in FLOPs"]
    return table(head, lines)


def ties(found: list[Row]) -> str:
    """Who shares the first place of each cell, best first."""
    lines = []
    for model in MODELS:
        line = [model]
        for ratio in RATIOS:
            here = [
                row for row in found if (row["model"], row["chinchilla"]) == (model, ratio) and row["tie_group"] == 1
            ]
            here.sort(key=lambda row: row["rank"])
            line.append(", ".join(row["optimizer"] + (" *" if row["winner"] else "") for row in here))
        lines.append(line)
    return table(["model", *(f"{ratio}x" for ratio in RATIOS)], lines)


def counts(speedups: dict[str, list[Row]]) -> str:
    """What the 132 cells come to under each sigma."""
    tests: list[tuple[str, Callable[[Row], bool]]] = [
        ("cells of other optimizers than AdamW", lambda row: True),
        ("state INTERP", lambda row: row["state"] == "INTERP"),
        ("state EXTRAP", lambda row: row["state"] == "EXTRAP"),
        ("state REFUSE", lambda row: row["state"] == "REFUSE"),
        ("interval above 1", lambda row: row["low"] is not None and row["low"] > 1),
        ("interval contains 1: not resolved", lambda row: "not resolved" in row["flags"]),
        ("interval below 1", lambda row: row["high"] is not None and row["high"] < 1),
    ]
    for name in ("selected-min, n=1", "UNTUNED", "EDGE", "UNLISTED", "MISFIT", "SCHEDULE", "BATCH"):
        tests.append((f"flag {name}", lambda row, name=name: name in row["flags"]))  # type: ignore[misc]
    lines = [[name, *(str(sum(map(test, found))) for found in speedups.values())] for name, test in tests]
    return table(["", *(f"sigma {name}" for name in speedups)], lines)


def crossings(place: Workspace, speedrun: pd.DataFrame) -> str:
    """The four speedrun curves to two losses, in steps and in seconds."""
    lines = []
    for x in ("steps", "time"):
        for row in rows(ask.crossings(place, speedrun, targets=[3.35, 3.30], x=x, baseline="adam")):
            unit = "steps" if x == "steps" else "s"
            crossing = "" if row["crossing"] is None else f"{row['crossing']:,.0f} {unit}"
            ratio = text(row | {"low": row["low"] or 1.0, "high": row["high"] or 1.0})
            ratio = "1" if row["optimizer"] == "adam" and row["speedup"] else ratio.removesuffix(" ?")
            standing = "first" if row["winner"] else "" if row["tie_group"] is None else f"group {row['tie_group']}"
            lines.append([x, f"{row['target_loss']:g}", row["optimizer"], crossing, ratio, standing, row["reason"]])
    return table(["x", "loss", "optimizer", "first crossing", "over Adam's (range)", "standing", "why not"], lines)


def filled(document: str, tables: dict[str, str]) -> str:
    """The document with its tables in place."""

    def one(match: re.Match[str]) -> str:
        return f"{match[1]}\n\n{tables[match[2]]}\n\n{match[3]}"

    return re.sub(r"(<!-- table (\w+) -->).*?(<!-- end -->)", one, document, flags=re.DOTALL)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        tables = computed(workspace(Path(folder)))
    DOCUMENT.write_text(filled(DOCUMENT.read_text(), tables))


if __name__ == "__main__":
    main()
