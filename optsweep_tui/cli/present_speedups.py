"""Speedups as text: by final losses, with what they cost beside them, and by crossings inside runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from optsweep_tui.cli import output, present

if TYPE_CHECKING:
    import pandas as pd

Column: TypeAlias = tuple[str, Callable[[dict[str, Any]], str]]
"""Heading, and the text of a row under it."""

INTERVAL = "95 % interval"
SHOWN = 24
"""Characters of a dataset or study in a table."""
UNITS = {"tokens": "tokens", "flops": "FLOPs", "time": "seconds"}


def print_speedups(rows: pd.DataFrame, baseline: str, unit: str, *, brief: bool = False) -> None:
    """One line per cell: speedup, interval, state, what it rests on; the baseline's own noise below.

    Args:
        rows: the answer of `speedup`.
        baseline: optimizer compared with.
        unit: tokens, flops or time.
        brief: leave out the baseline's own noise.
    """
    data = output.records(rows)
    if not data:
        print(f"nothing to compare with {baseline}: no other optimizer has a cell here")
        return
    word = UNITS[unit]
    print(f"speedup over {baseline}, {unit}   (how many times fewer {word} than {baseline} for the same loss)")
    _print_table(data, [*_speedup_columns(data), *_cost_columns(data, unit)])
    if unit != "tokens":
        what = "s/token" if unit == "time" else "FLOPs"
        print(f" {what}: per token, over {baseline}'s   B/param: optimizer state, bytes per parameter")
    if any(row["state"] == "EXTRAP" for row in data):
        print(
            f" ~ EXTRAP: outside the budgets that {baseline} was trained at; the fitted curve is believed there, not measured"
        )
    if not brief:
        _print_own_noise(rows, baseline)
    for p in sorted({row["shared_b_p"] for row in data if row["shared_b_p"] is not None}):
        print(f" one exponent for all models: p = {p:.3g} that separate ones fit as much better by noise alone")
    present.print_flags(data)


def _print_table(data: list[dict[str, Any]], columns: list[Column]) -> None:
    """Name, model and ratio, then the columns, then seeds and remarks."""
    columns = [*_telling_apart(data), *columns, ("seeds", lambda row: str(row["n_seeds"]))]
    everywhere = present.everywhere_flags(data)
    states = [3 + place for place, (heading, _) in enumerate(columns) if heading in (INTERVAL, "state")]
    output.print_table(
        ["optimizer", "model", "ratio", *(heading for heading, _ in columns), "remarks"],
        [
            (
                row["optimizer"],
                row["model"],
                output.budget(row),
                *(text(row) for _, text in columns),
                present.remarks(row, everywhere),
            )
            for row in data
        ],
        left=(0, 1, *states, 3 + len(columns)),
    )


def _telling_apart(data: list[dict[str, Any]]) -> list[Column]:
    """What besides model and ratio differs between the groups here, a column each: rows of several datasets, engines, ..."""

    def column(name: str) -> Column:
        return name.replace("_", " "), lambda row: str(row[name] or "·")[:SHOWN]

    names = ("study", "engine", "dataset", "validation_set", "seq_len")
    found = [column(name) for name in names if len({row[name] for row in data}) > 1]
    hashes = {(row["dataset"], row["dataset_hash"]) for row in data}
    if len(hashes) > len({row["dataset"] for row in data}):
        found.append(column("dataset_hash"))
    return found


def _speedup_columns(data: list[dict[str, Any]]) -> list[Column]:
    columns: list[Column] = [
        ("speedup", _speedup_text),
        (INTERVAL, _interval_text),
        ("state", lambda row: row["state"]),
    ]
    if any("MISFIT" in row["flags"] for row in data):
        # analysis.md: where the curve misses its points, the value without a curve stands beside it.
        columns.insert(2, ("interp.", lambda row: _times(row["interpolated"] if "MISFIT" in row["flags"] else None)))
    return columns


def _cost_columns(data: list[dict[str, Any]], unit: str) -> list[Column]:
    """What a token costs beside what it gains: FLOPs or seconds over the baseline's, and optimizer memory."""
    if unit == "tokens":
        return []
    name = "step_overhead" if unit == "time" else "flops_overhead"
    columns: list[Column] = [("s/token" if unit == "time" else "FLOPs", lambda row: _share(row[name]))]
    if unit == "flops" and any(row["step_overhead"] is not None for row in data):
        columns.append(("s/token", lambda row: _share(row["step_overhead"])))
    return [*columns, ("B/param", lambda row: output.number(row["state_bytes_per_param"], 3))]


def _share(value: float | None) -> str:
    return "·" if value is None else f"{100 * value:+.1f} %"


def _times(value: float | None) -> str:
    return "·" if value is None else f"{value:.2f}x"


def _speedup_text(row: dict[str, Any]) -> str:
    if row["state"] == "REFUSE":
        return row["bound"] or "·"
    return f"{'~' if row['state'] == 'EXTRAP' else ''}{_times(row['speedup'])}"


def _interval_text(row: dict[str, Any]) -> str:
    if row["state"] == "REFUSE" or (row["low"] is None and row["high"] is None):
        return ""
    high = "open" if row["high"] is None else f"{row['high']:.2f}"
    return f"{row['low'] or 0.0:.2f} - {high}"


def _print_own_noise(rows: pd.DataFrame, baseline: str) -> None:
    """What the baseline would show against itself by noise alone, a line per model."""
    for group in present.comparable(rows):
        bands: dict[tuple[float, float], str] = {}
        for row in sorted(group, key=lambda row: (row["tokens"] or 0.0, row["n_seeds"])):
            if row["own_noise_low"] is not None:
                high = "open" if row["own_noise_high"] is None else f"{row['own_noise_high']:.2f}"
                bands.setdefault((row["chinchilla"], row["own_noise_low"]), f"{row['own_noise_low']:.2f}-{high}")
        if bands:
            text = ", ".join(f"{output.number(ratio, 6)}: {band}" for (ratio, _), band in bands.items())
            print(f" {baseline} against itself by noise alone, {group[0]['model']}, at ratio {text}")


def print_crossings(rows: pd.DataFrame, baseline: str, x: str) -> None:
    """One table per target loss: where each run crosses it, between which logged points, over the baseline's crossing."""
    data = output.records(rows)
    if not data:
        print("no cell here has a run")
        return
    for target in dict.fromkeys(row["target_loss"] for row in data):
        part = [row for row in data if row["target_loss"] == target]
        unit = "steps" if x == "steps" else "seconds of training"
        print(
            f"first crossing of validation loss {target:g} inside runs, {unit}, over {baseline}   (in-run, biased low)"
        )
        columns: list[Column] = [
            ("crossing", lambda row: _place(row["crossing"], x) + _mark(row)),
            ("logged", lambda row: _bracket(row, x)),
            ("speedup", _speedup_text),
            ("range", _interval_text),
            ("tie", lambda row: output.number(row["tie_group"])),
        ]
        _print_table(part, columns)
        if any(row["winner"] for row in part):
            print(" * first beyond noise and logging interval")
        if any(row["rank"] == 1 and not row["winner"] for row in part):
            print(" = first, but within noise or one logging interval of the next, or noise is not known: no winner")
        print()
    print(
        " range: both crossings at their worst, within the logged points around them and, where known, 95 % of the noise"
    )
    present.print_flags(data)


def _place(at: float | None, x: str) -> str:
    return "·" if at is None else f"{at:,.0f}" if x == "steps" else f"{at:,.1f}"


def _bracket(row: dict[str, Any], x: str) -> str:
    return "" if row["crossing"] is None else f"{_place(row['bracket_low'], x)} - {_place(row['bracket_high'], x)}"


def _mark(row: dict[str, Any]) -> str:
    return "*" if row["winner"] else "=" if row["rank"] == 1 else ""
