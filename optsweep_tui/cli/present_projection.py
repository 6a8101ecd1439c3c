"""A projected loss as text: the law, its interval, how far outside it is asked, and how it did on sizes left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optsweep_tui.cli import output
from optsweep_tui.cli.present import headline

if TYPE_CHECKING:
    import pandas as pd


def print_projection(rows: pd.DataFrame) -> None:
    """One block per family of comparable groups."""
    for row in output.records(rows):
        print(f"{row['optimizer']} at {row['model']}, ratio {output.budget(row)}   {headline(row, model_too=False)}")
        print(f" {row['use'].upper()}")
        if row["state"] == "REFUSE":
            print(f" REFUSE  {row['reason']}")
            continue
        low, high = (output.loss_text(row[name]) if row[name] is not None else "open" for name in ("low", "high"))
        interval = "no interval with the Huber loss" if row["loss"] == "huber" else f"95 % of the law {low} to {high}"
        print(
            f" loss {row['predicted']:.4f} nats   ({interval})   N {output.count_text(row['params'])}   "
            f"D {output.count_text(row['tokens'])} tokens"
        )
        if row["reason"]:
            print(f" ~ {row['reason']}: the form of the law is believed there, and no interval covers that")
        if row["measured"] is not None:
            print(
                f" measured there: {row['measured']:.4f}, the law is off by {row['predicted'] - row['measured']:+.4f}"
            )
        print(
            f" L(N, D) = {row['e']:.4g} + {row['a']:.4g} / N^{row['alpha']:.3g} + {row['b']:.4g} / D^{row['beta']:.3g}   "
            f"{row['n_cells']} cells, {row['n_sizes']} sizes, {row['n_budgets']} ratios, {row['loss']}"
        )
        print(f" residuals: sd {row['residual_sd']:.4f}, largest {row['max_residual']:.4f} nats{_misfit(row)}")
        print(f" solver: {row['agreeing']} of {row['starts']} starts agree")
        _print_held_out(row)


def _misfit(row: dict[str, Any]) -> str:
    if row["sigma"] is None:
        return "; run-to-run sigma is not known, the interval rests on the residuals"
    scale = row["misfit_scale"]
    if scale is not None and scale > 1:
        return f"; {scale:.2g}x what sigma {row['sigma']:.4f} ({row['sigma_source']}) explains: the law does not describe them"
    return f"; sigma {row['sigma']:.4f} ({row['sigma_source']}) explains them"


def _print_held_out(row: dict[str, Any]) -> None:
    errors: dict[str, list[float]] = {}
    for entry in row["held_out"] or []:
        errors.setdefault(entry["model"], []).append(entry["error"])
    for model, found in errors.items():
        worst = max(found, key=abs)
        print(
            f" without {model}: off by {sum(found) / len(found):+.4f} on average, {worst:+.4f} at worst ({len(found)} cells)"
        )
