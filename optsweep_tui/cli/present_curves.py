"""Baseline curves as text: the law, its limits, what checks it, and the straight line between points where it misfits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optsweep_tui.cli import output, present

if TYPE_CHECKING:
    import pandas as pd


def print_curves(curves: pd.DataFrame, baseline: str, *, brief: bool = False) -> None:
    """The fitted curve of each group, with what is and is not known about it.

    Args:
        curves: the answer of `fit`.
        baseline: its optimizer.
        brief: leave out the points left out, the shared exponent, the interpolation and the meanings of flags.
    """
    rows = output.records(curves)
    for row in rows:
        print(f"{baseline}   {present.headline(row)}")
        if row["state"] != "FIT":
            print(f"  REFUSE  {row['reason']}")
            continue
        _print_law(row)
        if row["identified"] is False:
            print("  exponent and floor not identified: nothing is claimed beyond the measured budgets")
        if row["chi2_p"] is not None:
            print(f"  chi2 {row['chi2']:.3g} on {row['chi2_dof']:.3g} dof, p = {row['chi2_p']:.3g}{_widened(row)}")
        for name, answer in (row["solvers"] or {}).items():
            if isinstance(answer, dict):
                print(f"  {name:12}" + "  ".join(f"{key} {output.number(value, 4)}" for key, value in answer.items()))
        if not brief:
            _print_checks(row)
        if row["flags"]:
            print(f"  flags {', '.join(row['flags'])}")
    if not brief:
        _print_shared(rows)
        present.print_flags(rows)


def _print_law(row: dict[str, Any]) -> None:
    low, high = (output.number(row[name], 6) for name in ("chinchilla_low", "chinchilla_high"))
    print(
        f"  L(c) = {output.number(row['alpha'])} c^-{row['b']:.3g} + {row['beta']:.4g}   {row['n_points']} budgets "
        f"{low} to {high}   largest residual {row['max_residual']:.4f}"
    )
    sigma = present.sigma_text([row])
    if row["b_low"] is not None or row["b_high"] is not None:
        print(
            f"  95 %: B {_limits(row['b_low'], row['b_high'])}   floor {_limits(row['beta_low'], row['beta_high'])}   {sigma}"
        )
    else:
        print(f"  {sigma}")
    if row["sigma"] is not None and row["sigma_small"] != row["sigma_large"]:
        print(
            f"  points weighted by sigma {row['sigma_small']:.2g} at {low} to {row['sigma_large']:.2g} "
            f"at {high}, linear in log budget between"
        )


def _limits(low: float | None, high: float | None) -> str:
    return f"{output.number(low, 3)} .. {'open' if high is None else output.number(high, 3)}"


def _widened(row: dict[str, Any]) -> str:
    scale = row["sigma_scale"]
    return f"; sigma taken {scale:.3g} times as large" if scale is not None and scale > 1 else ""


def _print_checks(row: dict[str, Any]) -> None:
    left_out = row["leave_one_out"] or []
    if left_out:
        errors = "  ".join(f"{output.number(entry['chinchilla'], 6)} {entry['error']:+.4f}" for entry in left_out)
        print(f"  left out, predicted - measured, nats: {errors}")
    if "MISFIT" in row["flags"]:
        print("  MISFIT: the curve beside the straight line in log c between the measured budgets, nats")
        for entry in row["between"] or []:
            curve, straight, ratio = entry["curve"], entry["interpolated"], output.number(entry["chinchilla"], 3)
            print(f"    at {ratio:<6} {curve:.4f}   {straight:.4f}   {curve - straight:+.4f}")


def _print_shared(rows: list[dict[str, Any]]) -> None:
    """One line per family of models: the exponent that they could share."""
    seen = set()
    for row in rows:
        if row["shared_b"] is None or (row["study"], row["shared_b"]) in seen:
            continue
        seen.add((row["study"], row["shared_b"]))
        p = row["shared_b_p"]
        said = "used above" if row["exponent"] == "shared" else "--shared-exponent fits with it"
        print(f"one exponent for all models of {row['study']}: B {row['shared_b']:.4g} ({said})")
        if p is not None:
            print(f"  p = {p:.3g} that separate exponents fit as much better by noise alone")
