"""Answers as text: final losses with their marks explained, and what the texts of curves and speedups have in common."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from optsweep_tui.cli import output
from optsweep_tui.errors import OptsweepError

if TYPE_CHECKING:
    import pandas as pd

    from optsweep_tui.core import Filter
    from optsweep_tui.settings import Workspace


def answers(workspace: Workspace, chosen: Filter) -> pd.DataFrame:
    """The results of a filter.

    Raises:
        OptsweepError: the selection is empty.
    """
    from optsweep_tui import ask, flow

    frame = ask.results(workspace, chosen)
    if len(frame) == 0:
        raise OptsweepError("no collected run matches: the selection is empty", "optsweep collect, or widen the filter")
    waiting = flow.uncollected(workspace)
    if waiting:
        output.say(
            f"note: {output.runs_text(waiting)} ended since the last collect, not in this answer: optsweep collect"
        )
    return frame


def baseline_name(workspace: Workspace, frame: pd.DataFrame, asked: str | None) -> str:
    """The baseline of a question: the one asked for, else the one the study declares."""
    from optsweep_tui import ask, grid

    if asked is not None:
        name = grid.result_name(asked)
        found = sorted({each for each in frame["optimizer"] if grid.same_optimizer(each, name)})
        if not found:
            raise OptsweepError(f"baseline {name} has no runs here", "optsweep table lists what has")
        if len(found) > 1:
            raise OptsweepError(f"baseline {name} is {len(found)} optimizers here: {', '.join(found)}", "name one")
        return str(found[0])
    return ask.baseline_of(workspace, str(frame["study"].iloc[0]))


def final_losses(workspace: Workspace, study: str) -> None:
    """The matrix of a study's final losses, after a run."""
    from optsweep_tui import ask
    from optsweep_tui.core import Filter

    frame = ask.results(workspace, Filter(study=study))
    if len(frame):
        reference = ask.baseline_of(workspace, study)
        print_matrix(ask.table(frame, baseline=reference))


def kept(rows: pd.DataFrame, chosen: Filter) -> pd.DataFrame:
    """The rows of an answer that the filter asks for (the baseline's runs were read all the same)."""
    import numpy as np

    from optsweep_tui import grid

    models = {name.lower() for name in chosen.models}
    keep = [
        (not chosen.optimizers or any(grid.same_optimizer(optimizer, name) for name in chosen.optimizers))
        and (not chosen.chinchillas or any(grid.same_ratio(value, want) for want in chosen.chinchillas))
        and (not models or model.lower() in models)
        for optimizer, model, value in zip(rows["optimizer"], rows["model"], rows["chinchilla"], strict=True)
    ]
    return rows[np.array(keep, dtype=bool)].reset_index(drop=True)  # an empty list would pick no columns


def any_fitted(curves: pd.DataFrame) -> bool:
    """True when at least one curve was fitted."""
    return bool((curves["state"] == "FIT").any()) if len(curves) else False


def headline(row: dict[str, Any], model_too: bool = True) -> str:
    """What rows of one group have in common, in one line."""
    parts = [
        row["study"],
        row["model"] if model_too else None,
        row["engine"],
        None if row["seq_len"] is None else f"seq {row['seq_len']:g}",
        row["dataset"],
        f"metric {row['validation_set']}" if "=" in str(row.get("validation_set")) else None,
    ]
    return "  ".join(str(part) for part in parts if part is not None)


def comparable(frame: pd.DataFrame) -> list[list[dict[str, Any]]]:
    """Rows that may be compared with each other, as plain objects."""
    keys = ["study", "engine", "model", "dataset", "dataset_hash", "validation_set", "seq_len"]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in output.records(frame):
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return list(groups.values())


def print_matrix(cells: pd.DataFrame) -> None:
    """Optimizer x ratio, one block per comparable group: loss, seeds, edge and tie marks."""
    groups = comparable(cells)
    hashes: dict[str, set[Any]] = {}
    for group in groups:
        hashes.setdefault(str(group[0]["dataset"]), set()).add(group[0]["dataset_hash"])
    for group in groups:
        other = group[0]["dataset_hash"] if len(hashes[str(group[0]["dataset"])]) > 1 else None
        data = f" {str(other)[:12]}" if other else ""
        budgets = list(
            dict.fromkeys(output.budget(row) for row in sorted(group, key=lambda row: row["tokens"] or math.inf))
        )
        others = Counter(output.budget(row) for row in group if row["loss"] is not None)
        print(f"final validation loss, nats per token (seeds)   {headline(group[0])}{data}   {sigma_text(group)}")
        best: dict[str, float] = {}
        for row in group:
            if row["loss"] is not None:
                best[row["optimizer"]] = min(best.get(row["optimizer"], math.inf), row["loss"])
        rows = []
        for name in sorted({row["optimizer"] for row in group}, key=lambda name: (best.get(name, math.inf), name)):
            at = {output.budget(row): row for row in group if row["optimizer"] == name}
            rows.append([f" {name}", *(_loss_cell(at.get(budget), others[budget] > 1) for budget in budgets)])
        output.print_table(["", *budgets], rows)
        notes = _notes(group, others)
        if notes:
            print(" " + "   ".join(notes))
        print()


def _loss_cell(row: dict[str, Any] | None, compared: bool) -> str:
    if row is None:
        return "·"
    if row["loss"] is None:
        return "/".join(f"{count} {state}" for state, count in (row["states"] or {}).items()) or "·"
    mark = "*" if row["winner"] else "=" if compared and row["rank"] == 1 and row["sigma"] is not None else ""
    edge = "e" if row["edges"] else ""
    return f"{row['loss']:.3f}{edge}{mark} ({row['n']})"


def _notes(group: list[dict[str, Any]], others: Counter[str]) -> list[str]:
    notes = []
    if any(row["winner"] for row in group):
        notes.append("* best of its budget beyond noise")
    first = [row for row in group if row["rank"] == 1 and others[output.budget(row)] > 1]
    if any(not row["winner"] and row["sigma"] is not None for row in first):
        notes.append("= best, but within noise of the next: no winner")
    if any(row["edges"] for row in group):
        notes.append("e best value at the end of its swept list")
    return notes


def sigma_text(rows: list[dict[str, Any]]) -> str:
    """The run-to-run noise behind some rows, in one phrase."""
    known = [row["sigma"] for row in rows if row.get("sigma") is not None]
    if not known:
        return "NO-SIGMA: noise unknown, no winner"
    dof = next((row.get("sigma_dof") for row in rows if row.get("sigma_dof") is not None), None)
    low, high = min(known), max(known)
    span = f"{low:.4f}" if high - low < 5e-5 else f"{low:.4f} to {high:.4f}"
    counted = f", {dof:.3g} dof" if dof is not None else ""
    return f"sigma {span} ({rows[0]['sigma_source']}{counted})"


def print_cells(cells: pd.DataFrame) -> None:
    """One line per cell: loss, seeds, gap with its interval, rank, tie group, flags."""
    print_matrix(cells)
    everywhere = everywhere_flags(output.records(cells))
    apart = [name for name in ("dataset", "validation_set") if cells[name].nunique(dropna=False) > 1]
    output.print_table(
        [
            *("optimizer", "model", "ratio", "engine", *(name.replace("_", " ") for name in apart)),
            *("loss nats", "n", "gap to baseline", "rank", "tie", "runs", "flags"),
        ],
        [
            (
                row["optimizer"],
                row["model"],
                output.budget(row),
                row["engine"] or "·",
                *(row[name] or "·" for name in apart),
                "·" if row["loss"] is None else f"{row['loss']:.4f}",
                row["n"],
                _gap_text(row),
                output.number(row["rank"]),
                output.number(row["tie_group"]),
                row["tuning_runs"],
                remarks(row, everywhere),
            )
            for row in output.records(cells)
        ],
        left=(0, 1, 3, *range(4, 4 + len(apart)), 10 + len(apart)),
    )
    print_flags(output.records(cells))


def print_flags(rows: list[dict[str, Any]]) -> None:
    """What the flags of some rows mean, once each."""
    from optsweep_tui.analysis import flags

    everywhere = everywhere_flags(rows)
    for flag in flags.ordered(flag for row in rows for flag in row["flags"] or []):
        print(f" {flag}{' (every row)' if flag in everywhere else ''}: {flags.MEANINGS.get(flag, flag)}")


def everywhere_flags(rows: list[dict[str, Any]]) -> set[str]:
    """Flags that all rows carry: said once below the table instead of in each of its lines."""
    return set.intersection(*(set(row["flags"] or []) for row in rows)) if len(rows) > 1 else set()


def _gap_text(row: dict[str, Any]) -> str:
    if row["gap"] is None:
        return "·"
    if row["gap_low"] is None:
        return f"{row['gap']:+.4f}"
    return f"{row['gap']:+.4f} ({row['gap_low']:+.3f} .. {row['gap_high']:+.3f})"


def remarks(row: dict[str, Any], everywhere: set[str]) -> str:
    """A row's reason and its flags, those that all rows carry left out."""
    reasons = [row["reason"]] if row.get("reason") else []
    return ", ".join([*reasons, *(flag for flag in row["flags"] or [] if flag not in everywhere)])


def print_noise(ledger: pd.DataFrame) -> None:
    """Where sigma comes from: each replicate group with its seeds and limits."""
    for row in output.records(ledger):
        if row["source"] == "measured":
            limits = f"{output.number(row['sigma_low'], 2)} - {output.number(row['sigma_high'], 2)}"
            cell = f"{row['optimizer']} {row['model']} {output.budget(row)}"
            print(
                f" sigma {row['sigma']:.4f} ({limits}) nats   {cell}, {row['n_seeds']} seeds, {row['dof']:g} dof"
                + ("" if row["used"] else f"   not used: {row['reason']}")
            )
        else:
            print(f" sigma {output.number(row['sigma'])} {row['source']}: {row['reason']}")
