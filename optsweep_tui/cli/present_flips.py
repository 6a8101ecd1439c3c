"""Rank flips as text: how many pairs were compared, how many changed their order beyond noise, and which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optsweep_tui.cli import output

if TYPE_CHECKING:
    import pandas as pd

    from optsweep_tui.core import Filter

WHERE = {
    "D": "over D, two budgets of one model",
    "N": "over N, two models at one ratio",
    "training": "over training, best runs of a cell against their end",
}


def kept_pairs(pairs: pd.DataFrame, chosen: Filter) -> pd.DataFrame:
    """The pairs that a filter asks for: with one optimizer its pairs, with several those among them; both ratios asked for."""
    import numpy as np

    from optsweep_tui import grid

    def wanted(name: str) -> bool:
        return any(grid.same_optimizer(name, asked) for asked in chosen.optimizers)

    keep = []
    columns = ("first", "second", "chinchilla_a", "chinchilla_b")
    for first, second, *ratios in pairs[list(columns)].itertuples(index=False):
        named = [wanted(first), wanted(second)]
        right_pair = not chosen.optimizers or (any(named) if len(chosen.optimizers) == 1 else all(named))
        right_ratio = not chosen.chinchillas or all(
            any(grid.same_ratio(ratio, asked) for asked in chosen.chinchillas) for ratio in ratios
        )
        keep.append(right_pair and right_ratio)
    return pairs[np.array(keep, dtype=bool)].reset_index(drop=True)


def counts(pairs: pd.DataFrame) -> list[dict[str, Any]]:
    """Per kind of comparison: pairs compared, points, flips of each kind."""
    found = []
    for over in WHERE:
        mine = pairs[pairs["over"] == over]
        found.append(
            {
                "over": over,
                "pairs": len(mine),
                "points": int(mine["points"].sum()),
                "rank_flips": int(mine["rank_flips"].sum()),
                "noise_flips": int(mine["noise_flips"].sum()),
                "no_sigma": int(mine["unjudged"].sum()),
                "equal": int((mine["verdict"] == "equal").sum()),
            }
        )
    return found


def print_flips(pairs: pd.DataFrame, noise_too: bool) -> None:
    """Counts, then every rank flip, and noise flips on request."""
    for count in counts(pairs):
        changed = count["rank_flips"] + count["noise_flips"] + count["no_sigma"]
        what = "points" if count["over"] == "training" else "pairs"
        if not count["pairs"]:
            print(f"{WHERE[count['over']]}: {_nothing(count['over'])}")
            continue
        print(
            f"{WHERE[count['over']]}: {count['points']} {what} compared, order differs in {changed}: "
            f"{count['rank_flips']} rank flips, {count['noise_flips']} noise flips"
            + (f", {count['no_sigma']} that nothing can be said of (NO-SIGMA)" if count["no_sigma"] else "")
        )
        shown = ("rank flip", "NO-SIGMA", "noise flip") if noise_too else ("rank flip", "NO-SIGMA")
        mine = pairs[(pairs["over"] == count["over"]) & pairs["verdict"].isin(shown)]
        if len(mine):
            print_pairs(output.records(mine), count["over"])
    print(
        " a rank flip: both gaps exceed 1.645 sigma sqrt(1/n1 + 1/n2) at their own points; else noise may have done it"
    )
    labels = {label for label in pairs["label"] if label}
    for label in sorted(labels):
        print(f" {label}")


def _nothing(over: str) -> str:
    return {
        "D": "no two budgets of one model share two optimizers",
        "N": "no two models share a ratio and two optimizers",
        "training": "no validation losses inside two best runs of one cell",
    }[over]


def print_pairs(rows: list[dict[str, Any]], over: str) -> None:
    """One line per pair."""
    points = over == "training"
    output.print_table(
        [
            "ahead at b",
            "behind",
            "a",
            "b",
            "gap a",
            "tie a",
            "gap b",
            "tie b",
            "verdict",
            *(["flips"] if points else []),
        ],
        [
            (
                row["first"],
                row["second"],
                _place(row, "a", over),
                _place(row, "b", over),
                f"{row['gap_a']:+.4f}",
                output.number(row["width_a"], 2),
                f"{row['gap_b']:+.4f}",
                output.number(row["width_b"], 2),
                row["verdict"],
                *([f"{row['rank_flips'] + row['noise_flips'] + row['unjudged']}/{row['points']}"] if points else []),
            )
            for row in rows
        ],
        left=(0, 1, 2, 3, 8),
    )


def _place(row: dict[str, Any], side: str, over: str) -> str:
    if over != "training":
        return f"{row[f'model_{side}']} {row[f'chinchilla_{side}']:g}"
    if side == "b":
        return f"{row['model_b']} {row['chinchilla_b']:g} end"
    return f"{output.count_text(row['tokens_a'])} tokens"
