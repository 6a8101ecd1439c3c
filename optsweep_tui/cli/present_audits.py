"""Audits as text: tuning budgets, the noise ledger, target tests; each verdict with its reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optsweep_tui.cli import output
from optsweep_tui.cli.present import comparable, headline

if TYPE_CHECKING:
    import pandas as pd

GROUP = ("study", "engine", "model", "dataset", "dataset_hash", "validation_set", "seq_len")
MOST_SHOWN = 6
"""Values of best-after-k that fit on a line."""


def times(ratio: float | None) -> str:
    """1.74x; infinite ratios are null in JSON and words here."""
    return "one has none" if ratio is None else f"{ratio:.3g}x"


def print_fairness(rows: pd.DataFrame, baseline: str) -> None:
    """Per group a line per cell, then the verdict over all optimizers of each budget, then what it all means."""
    data = output.records(rows)
    for group in comparable(rows):
        print(f"tuning effort   {headline(group[0])}")
        output.print_table(
            [
                "ratio",
                "optimizer",
                "runs",
                "tokens",
                "knobs",
                "seeds",
                f"vs {baseline}",
                "verdict",
                "tuning",
            ],
            [_effort(row, baseline) for row in group],
            left=(1, 7, 8),
        )
        for row in _first_of_budgets(group):
            if row["cell_verdict"] is not None:
                print(f" ratio {output.budget(row)} over all optimizers: {row['cell_verdict']}, {_spread(row)}")
        print()
    _print_summary(data, baseline)


def _effort(row: Mapping[str, Any], baseline: str) -> tuple[Any, ...]:
    own = row["optimizer"] == baseline
    known = row["verdict"] is not None
    return (
        output.budget(row),
        row["optimizer"],
        f"{row['runs']}{'+' if row['unlisted_runs'] or row['missing_runs'] else ''}",
        output.count_text(row["tuning_tokens"]),
        row["knobs_swept"],
        f"{row['seeds']}" if row["loss"] is not None else "·",
        "baseline" if own else times(_worse(row)) if known else "·",
        row["verdict"] or "",
        "one run: nothing was tuned"
        if row["runs"] == 1 and not row["unlisted_runs"] and not row["missing_runs"]
        else _best_after(row["best_after"]),
    )


def _worse(row: Mapping[str, Any]) -> float | None:
    """The larger of the two ratios; None where one side has no run at all."""
    ratios = [row["runs_ratio"], row["tokens_ratio"]]
    return None if None in ratios else max(ratios)


def _best_after(losses: Sequence[float | None] | None) -> str:
    """Smallest loss after 1, 2, 4, ... and all runs."""
    if not losses:
        return ""
    places = sorted({1, 2, 4, 8, 16, 32, len(losses)} & set(range(1, len(losses) + 1)))
    if len(losses) <= MOST_SHOWN:
        places = list(range(1, len(losses) + 1))
    return "best after " + ", ".join(f"{k}: {output.loss_text(losses[k - 1])}" for k in places)


def _spread(row: Mapping[str, Any]) -> str:
    """Who got fewest and most runs, from the reason: "19 (adamw) to 33 (muon) runs, 1.74x apart"."""
    ends = str(row["reason"]).rpartition("over all optimizers ")[2]
    if row["cell_runs_ratio"] == row["cell_tokens_ratio"] == 1:
        return f"{row['runs']} run{'s'[: row['runs'] != 1]} each"
    apart = times(row["cell_runs_ratio"])
    in_tokens = row["cell_tokens_ratio"] not in (None, row["cell_runs_ratio"])
    return f"{ends}, {apart}" + (f" apart, {times(row['cell_tokens_ratio'])} in tokens" if in_tokens else "")


def _first_of_budgets(group: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    found: dict[float | None, dict[str, Any]] = {}
    for row in group:
        found.setdefault(row["tokens"] or row["chinchilla"], row)
    return list(found.values())


def _print_summary(data: Sequence[Mapping[str, Any]], baseline: str) -> None:
    judged = [row for row in data if row["verdict"] is not None]
    failed = [row for row in judged if row["verdict"] == "FAIL"]
    budgets = {(*(row[name] for name in GROUP), row["tokens"]): row["cell_verdict"] for row in data}
    over_all = [verdict for verdict in budgets.values() if verdict is not None]
    print(
        f"{len(failed)} of {len(judged)} cells FAIL against {baseline} (more than 1.25x apart in runs or tokens); "
        f"{over_all.count('FAIL')} of {len(over_all)} budgets FAIL over all their optimizers"
    )
    if any(row["unlisted_runs"] or row["missing_runs"] for row in data):
        print(" + further runs were published without a configuration or without a result, and are not counted")
    if any(row["tokens_source"] == "planned" for row in data):
        print(" tokens: where the tokens trained are not on record, each run's target stands in for them")
    print(
        " smallest losses over unequal numbers of runs are not comparable: of k equal runs the smallest lies lower by"
    )
    drops = {row["runs"]: row["expected_drop"] for row in data if row["expected_drop"] is not None and row["runs"] > 1}
    if drops:
        shown = sorted({min(drops), sorted(drops)[len(drops) // 2], max(drops)})
        print(
            " noise alone: "
            + ", ".join(f"{drops[k]:.4f} nats of {k} runs" for k in shown)
            + " (at most: if all were as good)"
        )
    else:
        print(" noise alone; how much is not known without a run-to-run sigma")


def print_ledger(ledger: pd.DataFrame, baseline: str) -> None:
    """Every replicate group, and the sigma that intervals of its group use."""
    if not len(ledger):
        print("nothing here was run under several seeds; optsweep noise without a filter shows what intervals use")
    for group in comparable(ledger):
        print(f"run-to-run noise of the final loss, nats   {headline(group[0])}")
        replicated = [row for row in group if row["source"] == "measured"]
        if replicated:
            output.print_table(
                ["optimizer", "ratio", "sigma", "95 %", "seeds", "dof", "used", "why"],
                [
                    (
                        row["optimizer"],
                        output.budget(row),
                        f"{row['sigma']:.4f}",
                        f"{output.number(row['sigma_low'], 2)} - {output.number(row['sigma_high'], 2)}",
                        output.number(row["n_seeds"], 6),
                        output.number(row["dof"], 3),
                        "yes" if row["used"] else "no",
                        row["reason"],
                    )
                    for row in replicated
                ],
                left=(0, 3, 6, 7),
            )
        for row in group:
            if row["source"] != "measured":
                print(f" sigma {output.number(row['sigma'])}   {row['reason']}")
        _print_used(group[0], baseline)
        print()


def _print_used(row: Mapping[str, Any], baseline: str) -> None:
    small, large, scale = row["interval_sigma_small"], row["interval_sigma_large"], row["misfit_scale"]
    if small is None:
        print(" intervals: none are computed (NO-SIGMA)")
        return
    span = f"{small:.4f}" if abs(large - small) < 5e-5 else f"{small:.4f} to {large:.4f}, linear in log budget between"
    misfit = f", the MISFIT factor {scale:.3g} of {baseline}'s curve included" if scale and scale > 1 else ""
    print(f" intervals use sigma {span}{misfit}")


def print_ttest(rows: pd.DataFrame, target: float, level: float) -> None:
    """One line per cell with a test; refusals by reason."""
    data = output.records(rows)
    tested = [row for row in data if row["state"] == "TEST"]
    print(f"is the mean final loss below {target:g} nats?   one-sided t-test over replicates, p < {level:g}")
    if tested:
        output.print_table(
            ["optimizer", "model", "ratio", "n", "mean", "sd", "t", "p", "verdict"],
            [
                (
                    row["optimizer"],
                    row["model"],
                    output.budget(row),
                    row["n"],
                    f"{row['mean']:.4f}",
                    output.number(row["sd"], 2),
                    output.number(row["t"], 3),
                    output.number(row["p"], 2),
                    row["verdict"],
                )
                for row in tested
            ],
            left=(0, 1, 8),
        )
        if any(row["excluded"] is not None for row in tested):
            print(" the base-seed run that chose a configuration is not in its mean: it was chosen for its small loss")
    reasons: dict[str, int] = {}
    for row in data:
        if row["state"] != "TEST":
            reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
    for reason, count in sorted(reasons.items(), key=lambda entry: -entry[1]):
        print(f" {count} cell{'s'[: count != 1]} REFUSE: {reason}")
