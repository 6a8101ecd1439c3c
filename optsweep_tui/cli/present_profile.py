"""Performance profiles as text: scores, shares of cells within tau of the best, and what could not be placed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optsweep_tui.cli import output

if TYPE_CHECKING:
    import pandas as pd

SHOWN = ("1", "1.05", "1.1", "1.2", "1.5", "2")


def print_profile(rows: pd.DataFrame, baseline: str) -> None:
    """One block per family of comparable cells."""
    data = output.records(rows)
    if not data:
        print(f"no cell here can be placed: a profile needs two optimizers in a cell where {baseline} has a curve")
        return
    families: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in data:
        key = tuple(row[name] for name in ("study", "engine", "dataset", "dataset_hash", "validation_set", "seq_len"))
        families.setdefault(key, []).append(row)
    for family in families.values():
        _print_family(family, baseline)


def _print_family(family: list[dict[str, Any]], baseline: str) -> None:
    head = family[0]
    names = [str(head[name]) for name in ("study", "engine", "dataset") if head[name] is not None]
    print(
        f"cells within tau times the tokens of the best optimizer   {'  '.join(names)}   from speedups over {baseline}"
    )
    taus = [tau for tau in SHOWN if tau in head["rho"]]
    output.print_table(
        ["optimizer", "cells", "best", *(f"<= {tau}" for tau in taus), "score", "common", "remarks"],
        [
            (
                row["optimizer"],
                row["n_workloads"],
                row["n_best"],
                *(f"{100 * row['rho'][tau]:.0f} %" for tau in taus),
                f"{row['score']:.3f}",
                "·" if row["score_common"] is None else f"{row['score_common']:.3f}",
                _remarks(row),
            )
            for row in family
        ],
        left=(0, len(taus) + 5),
    )
    print(
        f" score: area under the profile from 1 to {head['tau_max']:g}; 1 = best in every cell. It counts only cells in which an"
    )
    print(f" optimizer was run; common: the score over the {head['n_common']} cells in which all of these were run")
    print(" ratios are point estimates: their noise is in optsweep speedup, and inside a tie group nothing is won")
    if any(row["n_bounded"] for row in family):
        print(
            " BOUND: the best lies beyond the baseline's reach, so the others' ratios are lower bounds, in their favour"
        )
    if any(row["n_infinite"] for row in family):
        print(" INFINITE: below the baseline's reach, or every run diverged: an infinite cost")
    if any(row["n_extrap"] for row in family):
        print(" EXTRAP: a speedup outside the baseline's budgets entered; the curve is believed there, not measured")
    print()


def _remarks(row: dict[str, Any]) -> str:
    counts = (("EXTRAP", "n_extrap"), ("BOUND", "n_bounded"), ("INFINITE", "n_infinite"), ("left out", "n_excluded"))
    return ", ".join(f"{row[name]} {text}" for text, name in counts if row[name])
