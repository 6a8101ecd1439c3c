"""The replay of a stopping rule as text and as one object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from optsweep_tui.cli import output
from optsweep_tui.errors import UnknownName

if TYPE_CHECKING:
    import pandas as pd

    from optsweep_tui.analysis.audits.stops import Rule


def rule(name: str) -> Rule:
    """A rule by its name.

    Raises:
        UnknownName: there is none.
    """
    from optsweep_tui.analysis.audits import stops

    for known in get_args(stops.Rule):
        if known == name.strip().lower():
            found: Rule = known
            return found
    raise UnknownName("--rule", name, stops.RULES)


def summary(frame: pd.DataFrame, audit: pd.DataFrame, cells: pd.DataFrame) -> dict[str, Any]:
    """The audit in numbers, its kills and misses, and the cells whose selection it touches.

    Args:
        frame: the runs that the question is about.
        audit: `analysis.stop_audit` of them.
        cells: `selections` of them.
    """
    killed = audit[audit["killed"].astype(bool)]
    missed = audit[audit["missed"].astype(bool)]
    tokens = float(audit["tokens"].sum())
    ended = frame["state"].isin(("done", "diverged", "nan"))
    return {
        "rule": audit["rule"].iloc[0] if len(audit) else None,
        "threshold": audit["threshold"].iloc[0] if len(audit) else None,
        "runs": len(frame),
        "judged": len(audit),
        "without_curve": int((ended & ~frame["run_id"].isin(audit["run_id"])).sum()),
        "stopped": int((frame["state"] == "cancelled").sum()),
        "killed": len(killed),
        "wrong": int(audit["wrong"].sum()),
        "missed": len(missed),
        "tokens": tokens,
        "tokens_saved": float(audit["tokens_saved"].sum()),
        "cells_without_their_best": int((cells["best_run_id"] != cells["kept_run_id"]).sum()) if len(cells) else 0,
        "kills": output.records(killed),
        "misses": output.records(missed),
        "cells": output.records(cells),
    }


def print_stops(found: dict[str, Any]) -> None:
    """The verdict, wrong kills first."""
    if not found["judged"]:
        print(f"no finished run here has a curve to replay ({output.runs_text(found['runs'])} in the selection)")
        return
    share = found["tokens_saved"] / found["tokens"] if found["tokens"] else 0.0
    print(f"rule {found['rule']}, replayed on {output.runs_text(found['judged'])} that ended and have a curve")
    print(
        f" would stop {found['killed']} of them, {found['wrong']} wrongly; saves {output.count_text(found['tokens_saved'])} of "
        f"{output.count_text(found['tokens'])} tokens ({100 * share:.1f} %); misses {found['missed']} that diverged"
    )
    print(
        f" wrong: ended less than {found['threshold']:g} nats above the best of its cell, or as a seed of the best configuration"
    )
    if found["without_curve"]:
        print(f" {output.runs_text(found['without_curve'])} ended without a curve here: not judged")
    if found["stopped"]:
        print(f" {output.runs_text(found['stopped'])} were stopped in fact: censored, their final loss is not known")
    _print_kills(sorted(found["kills"], key=lambda row: not row["wrong"]))
    for row in found["misses"]:
        print(
            f" missed: {row['optimizer']} {row['model']} {output.budget(row)} {row['run_id'][:10]} ended {row['state']}"
        )
    _print_selections(found["cells"])


def print_row(row: dict[str, Any]) -> None:
    """What the rule does to one run, or to the choice of one cell."""
    if not isinstance(row.get("run_id"), str):
        _print_selections([row])
    elif row["killed"]:
        _print_kills([row])
    else:
        missed = ", which the rule misses" if row["missed"] else ""
        print(f" rule {row['rule']}: would not stop {row['run_id'][:10]}, which ended {row['state']}{missed}")


def _print_kills(kills: list[dict[str, Any]]) -> None:
    if not kills:
        return
    output.print_table(
        ["optimizer", "model", "ratio", "run", "ended", "from best", "stopped at", "saved", "verdict", "what it saw"],
        [
            (
                row["optimizer"],
                row["model"],
                output.budget(row),
                row["run_id"][:10],
                row["state"],
                "·" if row["gap"] is None else f"{row['gap']:+.4f}",
                f"{row['step']:g}",
                output.count_text(row["tokens_saved"]),
                "WRONG" if row["wrong"] else "ok",
                row["why"],
            )
            for row in kills
        ],
        left=(0, 1, 3, 4, 8, 9),
    )


def _print_selections(cells: list[dict[str, Any]]) -> None:
    """How the choice of best runs would have changed."""
    lost = [row for row in cells if row["killed"] and row["kept_run_id"] is None and row["best_run_id"] is not None]
    worse = [row for row in cells if row["change"] is not None and row["change"] > 0]
    for row in worse:
        print(
            f" selection: {row['optimizer']} {row['model']} {output.budget(row)} would rest on {row['kept_run_id'][:10]}, "
            f"{row['change']:+.4f} nats"
        )
    for row in lost:
        print(f" selection: {row['optimizer']} {row['model']} {output.budget(row)} would have no run left")
    if any(row["killed"] for row in cells) and not worse and not lost:
        print(" selection: every cell keeps its best run")
    for row in cells:
        if row["stopped"]:
            print(
                f" selection: {row['optimizer']} {row['model']} {output.budget(row)} was made without "
                f"{output.runs_text(row['stopped'])} that were stopped"
            )
