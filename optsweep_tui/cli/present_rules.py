"""Scaling rules and a predicted configuration as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from optsweep_tui.cli import output, present
from optsweep_tui.cli.present_hyperparameters import head, near_text, scopes, value

if TYPE_CHECKING:
    import pandas as pd


def print_rules(frame: pd.DataFrame) -> None:
    """One line per optimizer and knob: the rule, its exponents with standard errors, left-out errors, the reason."""
    rows = output.records(frame)
    for group in scopes(rows):
        print(f"scaling rules   {head(group[0])}   N = non-embedding parameters, c = D / (20 N)")
        output.print_table(
            ["optimizer", "knob", "verdict", "N^b", "c^d", "left-out", "constant", "cells", "rule and remarks"],
            [
                (
                    row["optimizer"],
                    row["knob"],
                    row["verdict"],
                    _exponent(row, "b"),
                    _exponent(row, "d"),
                    output.number(row["loo_rule"], 2),
                    output.number(row["loo_constant"], 2),
                    f"{row['n_fit']}/{row['n_cells']}",
                    ", ".join(_remarks(row)),
                )
                for row in group
            ],
            left=(0, 1, 2, 8),
        )
        print(
            " b, d: exponents of the full rule +- one standard error; while one lies within 2 of 0, the weakest is taken out\n"
            "   and the rest fitted anew: the rule's own exponents stand in its formula"
        )
        print(" left-out, constant: mean distance of a left-out cell's interval from the rule and from the constant,")
        print(
            "   in natural logarithms (0.69 = a factor of 2); cells: in the fit, of those in which the knob was swept"
        )
        print(f" not fitted: the value that was best in most cells; {near_text(group[0])}")
        present.print_flags(group)
        print()


def _exponent(row: Mapping[str, Any], name: str) -> str:
    if row[name] is None:
        return "·"
    return f"{row[name]:+.2f} +- {row[f'{name}_se']:.2f}"


def _remarks(row: Mapping[str, Any]) -> list[str]:
    parts = [row["rule"]] if row["rule"] else []
    if row["verdict"] == "not fitted" and row["counts"]:
        first = row["counts"][0]
        parts.append(
            f"{value(first['value'])} best in {first['n']} of {sum(item['n'] for item in row['counts'])} cells"
        )
    if row["n_edge"]:
        parts.append(f"{row['n_edge']} at an end of their list")
    if row["n_zero"]:
        parts.append(f"{row['n_zero']} best at 0, left out")
    if row["se_from"] == "floor":
        parts.append("errors rest on the grid's step")
    parts += [row["reason"]] if row["reason"] else []
    return parts


def print_prediction(found: Mapping[str, Any]) -> None:
    """The configuration, a line per knob, then what it rests on."""
    data = output.clean(found)
    print(
        f"{data['optimizer']} {data['model']} {data['chinchilla']:g}   N {output.count_text(data['params'])}   "
        f"D {output.count_text(data['tokens'])}   from {data['n_cells']} swept cells of study {data['study']}"
    )
    if data["state"] == "REFUSE":
        print(f"  REFUSE  {data['reason']}")
        return
    mark = f"~ EXTRAP: {data['reason']}; the rules are believed there, not measured" if data["reason"] else "INTERP"
    print(f"{mark}")
    output.print_table(
        ["knob", "value", "95 % interval", "basis", "grid", "cells", "rule and remarks"],
        [
            (
                entry["knob"],
                value(entry["value"]),
                _interval(entry),
                entry["basis"],
                _grid(entry),
                entry["n_cells"] or "·",
                ", ".join(_entry_remarks(entry, data)),
            )
            for entry in data["knobs"]
        ],
        left=(0, 2, 3, 4, 6),
    )
    batch, steps = data["batch_size"], data["steps"]
    print(
        f" batch_size {value(batch)} x seq {value(data['seq_len'])}   {value(steps)} steps   schedule {data['schedule']}"
    )
    near = data["nearest_cell"]
    print(
        f" nearest measured cell: {near['model']} {near['chinchilla']:g}, loss {near['loss']:.4f}, run {near['run_id'][:8]}"
    )
    for note in data["notes"]:
        print(f" note: {note}")
    print(" 95 % interval: of the optimum itself, rule and spread; grid: the values tried next below and above")
    present.print_flags([dict(data)])


def _interval(entry: Mapping[str, Any]) -> str:
    if entry["low"] is None or entry["high"] is None:
        return ""
    return f"{entry['low']:.3g} - {entry['high']:.3g}"


def _grid(entry: Mapping[str, Any]) -> str:
    if entry["grid_below"] is None and entry["grid_above"] is None:
        return ""
    return f"{value(entry['grid_below'])} | {value(entry['grid_above'])}"


def _entry_remarks(entry: Mapping[str, Any], data: Mapping[str, Any]) -> list[str]:
    parts = [entry["rule"]] if entry["rule"] else []
    for key, name in (("params_factor", "N"), ("chinchilla_factor", "ratio")):
        factor = entry.get(key)
        if factor is not None and factor > 1.0 and not math.isclose(factor, data[key]):
            parts.append(f"swept up to {factor:.3g}x from this {name} only")
    if entry["clipped"]:
        parts.append("clipped")
    if entry["off_grid"]:
        parts.append("outside every value tried")
    if not entry["rule"] and entry["reason"]:
        parts.append(entry["reason"])
    return parts
