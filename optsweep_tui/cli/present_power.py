"""Power as text: three plans per cell with their cost, and why a plan does not reach its target."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from optsweep_tui.cli import output
from optsweep_tui.cli.present import comparable, headline
from optsweep_tui.errors import OptsweepError

if TYPE_CHECKING:
    import pandas as pd


def share(text: str) -> float:
    """5%, 5 % or 0.05 as 0.05.

    Raises:
        OptsweepError: no share between 0 and 1.
    """
    plain = text.strip()
    try:
        value = float(plain.removesuffix("%")) / (100.0 if plain.endswith("%") else 1.0)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        hint = f"did you mean {plain}%?" if 1 <= value < 100 else "write 5% or 0.05"
        raise OptsweepError(f"--target-ci {text} is no share between 0 and 1", hint)
    return value


def print_power(rows: pd.DataFrame, baseline: str, target: float) -> None:
    """One line per cell, its costs, then what is out of reach and why."""
    print(
        f"half width of the 95 % interval of the speedup over {baseline}, target +-{100 * target:.3g} % of it   "
        "(first order, each plan alone)"
    )
    for group in comparable(rows):
        print(headline(group[0]))
        output.print_table(
            [
                "optimizer",
                "ratio",
                "speedup",
                "now",
                "seeds everywhere",
                "seeds here only",
                f"more {baseline} budgets",
                "why not",
            ],
            [
                (
                    row["optimizer"],
                    output.budget(row),
                    "·"
                    if row["speedup"] is None
                    else f"{'~' if row['state'] == 'EXTRAP' else ''}{row['speedup']:.2f}x",
                    _width(row["half_width"]),
                    _equal(row),
                    _alone(row),
                    _budgets(row),
                    _why_not(row),
                )
                for row in group
            ],
            left=(0, 4, 5, 6, 7),
        )
        _print_shared(group, baseline)
        for sentence in sorted({row["equal_reason"] for row in group if _flag(row["equal_reason"])}):
            print(f" {sentence}")
    print(
        " seeds everywhere: n of the cell and of every baseline point; in brackets the runs to add (cell + baseline),"
    )
    print(
        " their tokens and FLOPs. The run that chose a configuration is no fresh seed. ~ EXTRAP: the curve is believed there;"
    )
    print(" seeds narrow the interval, not the doubt about the curve")


def _width(value: float | None) -> str:
    return "·" if value is None else f"+-{100 * value:.3g} %"


def _cost(runs: str, tokens: float | None, flops: float | None) -> str:
    total = f", {output.count_text(flops)}FLOP" if flops is not None else ""
    return f"({runs}, {output.count_text(tokens)} tok{total})"


def _equal(row: dict[str, Any]) -> str:
    if row["reached"]:
        return "enough"
    if row["equal_seeds"] is None:
        return "no" if row["equal_reason"] else "·"
    runs = f"{row['equal_cell_runs']}+{row['equal_baseline_runs']}"
    return f"{row['equal_seeds']} {_cost(runs, row['equal_tokens'], row['equal_flops'])}"


def _alone(row: dict[str, Any]) -> str:
    if row["reached"]:
        return "enough"
    if row["cell_seeds"] is None:
        return "no" if row["cell_reason"] else "·"
    return f"{row['cell_seeds']} {_cost(str(row['cell_runs']), row['cell_tokens'], row['cell_flops'])}"


def _budgets(row: dict[str, Any]) -> str:
    if row["reached"]:
        return "enough"
    if row["budgets"] is None:
        return "no" if row["budgets_reason"] else "·"
    where = " ".join(f"{ratio:g}" for ratio in row["budgets"])
    return f"{where} {_cost(str(row['budgets_runs']), row['budgets_tokens'], row['budgets_flops'])}"


def _why_not(row: dict[str, Any]) -> str:
    if row["reason"]:
        return str(row["reason"])
    names = {"equal": "everywhere", "cell": "here only", "budgets": "budgets"}
    reasons = {text: row[f"{name}_reason"] for name, text in names.items() if row[f"{name}_reason"]}
    return "; ".join(f"{text}: {_flag(reason) or reason}" for text, reason in reasons.items())


def _flag(reason: str | None) -> str:
    """The flag that a reason opens with, "MISFIT: ...": its sentence is said once below the table."""
    word, colon, _ = (reason or "").partition(":")
    return word if colon and word.isupper() else ""


def _print_shared(group: list[dict[str, Any]], baseline: str) -> None:
    """Baseline seeds serve every cell of a model: counted once."""
    planned = [row for row in group if not row["reached"] and row["equal_seeds"] is not None]
    if len(planned) > 1:
        most = max(planned, key=lambda row: row["equal_seeds"])
        own = sum(row["equal_cell_runs"] for row in planned)
        print(
            f" the {len(planned)} cells in reach, at once: {own} runs of theirs + {most['equal_baseline_runs']} of {baseline}, "
            f"whose {most['equal_seeds']} seeds per budget serve them all"
        )
