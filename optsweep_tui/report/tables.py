"""Frames of answers as tables of text: what is shown, rounded to what is known, with the marks explained."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import pandas as pd

from optsweep_tui.report.words import budget, grouped, has, ordered_names, records

Row: TypeAlias = dict[str, Any]
NOTHING = "·"


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table."""

    title: str
    align: Literal["left", "right"] = "right"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Text ready to be set."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    marks: tuple[str, ...] = ()
    """One per row: "", "extrap" or "refuse", which the page shows paler."""
    notes: tuple[str, ...] = ()
    """What signs in the table mean."""


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]], **other: Any) -> Table:
    """A table whose columns are right-aligned but those whose title begins with "<"."""
    heads = tuple(
        Column(title=title.lstrip("<"), align="left" if title.startswith("<") else "right") for title in columns
    )
    return Table(caption=caption, columns=heads, rows=tuple(tuple(row) for row in rows), **other)


def losses(cells: pd.DataFrame) -> list[Table]:
    """Final losses, optimizer x ratio, a table per comparable group."""
    return [
        matrix(group, f"Final validation loss, nats per token (seeds) · {headline(group[0])}", _loss, _loss_notes)
        for group in grouped(cells)
    ]


def speedups(rows: pd.DataFrame, unit: str) -> list[Table]:
    """Speedups with their intervals, optimizer x ratio, a table per comparable group."""
    word = {"tokens": "tokens", "flops": "FLOPs", "time": "seconds"}[unit]
    return [
        matrix(
            group,
            f"Speedup in {word} over {group[0]['baseline']} [95 %] · {headline(group[0])}",
            _speedup,
            _speedup_notes,
        )
        for group in grouped(rows)
        if any(has(row["speedup"]) or row["bound"] for row in group)
    ]


def every_speedup(rows: pd.DataFrame) -> Table:
    """All rows with state, reason and flags."""
    found = records(rows)
    return table(
        "Every cell",
        ["<optimizer", "<model", "ratio", "loss nats", "speedup", "95 %", "<state", "seeds", "<remarks"],
        (
            (
                row["optimizer"],
                row["model"],
                number(row["chinchilla"]),
                number(row["loss"], 5),
                _value(row),
                _interval(row),
                row["state"],
                number(row["n_seeds"]),
                ", ".join([*([row["reason"]] if row["reason"] else []), *(row["flags"] or [])]),
            )
            for row in found
        ),
        marks=tuple("" if row["state"] == "INTERP" else str(row["state"]).lower() for row in found),
    )


def curves(fits: pd.DataFrame) -> Table:
    """The baseline's curves."""
    return table(
        "Baseline curves L(c) = alpha c^-B + beta, c = D / (20 N); 95 % profile limits in brackets",
        [
            "<model",
            "budgets",
            "ratios",
            "alpha",
            "B",
            "beta nats",
            "largest residual",
            "chi2 p",
            "shared B (p)",
            "sigma nats",
            "<state",
        ],
        (
            (
                row["model"],
                number(row["n_points"]),
                f"{number(row['chinchilla_low'])} to {number(row['chinchilla_high'])}",
                number(row["alpha"]),
                f"{number(row['b'], 3)} {limits(row['b_low'], row['b_high'])}",
                f"{number(row['beta'], 5)} {limits(row['beta_low'], row['beta_high'], 4)}",
                number(row["max_residual"], 2),
                number(row["chi2_p"], 2),
                f"{number(row['shared_b'], 3)} ({number(row['shared_b_p'], 2)})",
                number(row["sigma"], 3),
                row["reason"] or ", ".join(row["flags"] or []) or "fitted",
            )
            for row in records(fits)
        ),
    )


def ledger(noise: pd.DataFrame) -> Table:
    """Where sigma comes from."""
    return table(
        "Run-to-run noise of the final loss",
        ["<model", "<optimizer", "ratio", "sigma nats", "95 %", "seeds", "dof", "<source", "<used"],
        (
            (
                row["model"],
                row["optimizer"] if isinstance(row["optimizer"], str) else NOTHING,
                number(row["chinchilla"]),
                number(row["sigma"], 3),
                limits(row["sigma_low"], row["sigma_high"], 2),
                number(row["n_seeds"]),
                "known" if row["dof"] == math.inf else number(row["dof"]),
                row["source"],
                f"{'yes' if row['used'] else 'no'}: {row['reason']}",
            )
            for row in records(noise)
        ),
    )


def plain(caption: str, frame: pd.DataFrame, columns: Sequence[str], titles: Sequence[str] = ()) -> Table:
    """Some columns of any frame as they are, lists joined; text to the left."""
    found = records(frame)
    names = list(titles) or [name.replace("_", " ") for name in columns]
    texts = {name for name in columns if any(isinstance(row[name], str | list | tuple | dict) for row in found)}
    heads = [f"<{title}" if name in texts else title for name, title in zip(columns, names, strict=True)]
    return table(caption, heads, ([cell(row[name]) for name in columns] for row in found))


def cell(value: Any) -> str:
    """Any value of a frame as text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {cell(entry)}" for key, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(cell(entry) for entry in value) or NOTHING
    return str(value) or NOTHING


def number(value: Any, digits: int = 4) -> str:
    """A number to so many significant digits, whole numbers in full."""
    if not has(value):
        return NOTHING
    if math.isinf(value):
        return "open"
    if float(value).is_integer() and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.{digits}g}"


def count(value: float) -> str:
    """134217728 as 134M."""
    for unit, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if has(value) and abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return number(value)


def limits(low: Any, high: Any, digits: int = 3) -> str:
    """ "[low, high]", empty where nothing is known."""
    return f"[{number(low, digits)}, {number(high, digits)}]" if has(low) or has(high) else ""


def headline(row: Row) -> str:
    """Model, engine, data and length of a comparable group."""
    parts = [
        row["model"],
        row["engine"],
        row["dataset"],
        f"seq {number(row['seq_len'])}" if has(row["seq_len"]) else None,
    ]
    return ", ".join(str(part) for part in parts if isinstance(part, str))


def matrix(
    group: list[Row], caption: str, text: Callable[[Row], str], notes: Callable[[list[Row]], list[str]]
) -> Table:
    """Optimizer x ratio, the optimizer of the smallest loss first."""
    budgets = list(dict.fromkeys(budget(row) for row in sorted(group, key=lambda row: row["tokens"] or math.inf)))
    lowest = {
        name: min((row["loss"] for row in group if row["optimizer"] == name and has(row.get("loss"))), default=math.inf)
        for name in ordered_names(group)
    }
    rows = []
    for name in sorted(lowest, key=lambda name: (lowest[name], name)):
        at = {budget(row): row for row in group if row["optimizer"] == name}
        rows.append([name, *(text(at[place]) if place in at else "" for place in budgets)])
    return table(caption, ["<optimizer", *budgets], rows, notes=tuple(notes(group)))


def _loss(row: Row) -> str:
    if not has(row["loss"]):
        return ", ".join(f"{count} {state}" for state, count in (row["states"] or {}).items()) or NOTHING
    mark = "*" if row["winner"] else "=" if row["rank"] == 1 and has(row["sigma"]) else ""
    return f"{row['loss']:.4f}{'e' if row['edges'] else ''}{mark} ({row['n']})"


def _loss_notes(group: list[Row]) -> list[str]:
    signs = {
        "* smallest of its ratio beyond the noise": any(row["winner"] for row in group),
        "= smallest, but within the noise of the next: no winner": any(
            row["rank"] == 1 and not row["winner"] and has(row["sigma"]) for row in group
        ),
        "e the best value of a knob lies at the end of its swept list": any(row["edges"] for row in group),
    }
    return [sign for sign, shown in signs.items() if shown]


def _speedup(row: Row) -> str:
    return f"{_value(row)} {_interval(row)}".strip()


def _value(row: Row) -> str:
    if row["state"] == "REFUSE" or not has(row["speedup"]):
        return row["bound"] or "refused"
    return f"{'~' if row['state'] == 'EXTRAP' else ''}{row['speedup']:.2f}x"


def _interval(row: Row) -> str:
    if row["state"] == "REFUSE" or not (has(row["low"]) or has(row["high"])):
        return ""
    high = "open" if not has(row["high"]) or math.isinf(row["high"]) else f"{row['high']:.2f}"
    return f"[{row['low']:.2f}, {high}]"


def _speedup_notes(group: list[Row]) -> list[str]:
    states = {row["state"] for row in group}
    signs = {
        "~ EXTRAP: the loss lies outside those that the baseline was measured at; its fitted curve is believed there": "EXTRAP"
        in states,
        "> or <, refused: beyond 1.5x the baseline's budgets, or no final loss (reasons in the appendix)": "REFUSE"
        in states,
    }
    return [sign for sign, shown in signs.items() if shown]
