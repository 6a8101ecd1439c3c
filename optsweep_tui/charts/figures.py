"""What the static charts show: loss curves of runs, and final losses against budget with the baseline's fitted curve."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Curve
from optsweep_tui.core import RunSpec


def loss_curves(specs: Sequence[RunSpec], metric_rows: Sequence[Sequence[dict[str, Any]]]) -> list[Curve]:
    """Training loss in nats per token against tokens, one curve per run, lettered A, B, C, ..."""
    colours = style.shades([spec.optimizer for spec in specs])
    curves = []
    for place, (spec, rows) in enumerate(zip(specs, metric_rows, strict=True)):
        points = [(row["tokens"], row["train_loss"]) for row in rows if "tokens" in row and "train_loss" in row]
        label = (
            f"{spec.optimizer} {spec.model} {spec.chinchilla:g} lr {spec.hyperparameters.get('lr'):g} {spec.run_id[:8]}"
        )
        curves.append(
            Curve(
                x=np.array([tokens for tokens, _ in points], dtype=float),
                y=np.array([np.nan if loss is None else loss for _, loss in points], dtype=float),
                colour=colours[place],
                letter=string.ascii_uppercase[place % 26],
                label=label,
            )
        )
    return curves


def ratio_curves(cells: pd.DataFrame, fits: pd.DataFrame, baseline: str) -> list[Curve]:
    """Final losses of each optimizer as its letter, and each fitted curve as a line between its smallest and largest budget.

    Args:
        cells: `analysis.table`.
        fits: `analysis.fit`.
    """
    known = cells.dropna(subset=["loss"])
    groups = sorted({(str(model), str(name)) for model, name in zip(known["model"], known["optimizer"], strict=True)})
    colours = style.shades([name for _, name in groups])
    curves = []
    for (model, optimizer), colour in zip(groups, colours, strict=True):
        points = known[(known["model"] == model) & (known["optimizer"] == optimizer)].sort_values("chinchilla")
        curves.append(
            Curve(
                x=points["chinchilla"].to_numpy(float),
                y=points["loss"].to_numpy(float),
                colour=colour,
                letter=style.letter_of(optimizer),
                label=f"{optimizer} {model}",
                points=True,
            )
        )
    columns = ["model", "state", "alpha", "b", "beta", "chinchilla_low", "chinchilla_high"]
    for row in fits[columns].to_dict("records"):
        if row["state"] == "FIT":
            x = np.geomspace(float(row["chinchilla_low"]), float(row["chinchilla_high"]), 200)
            y = float(row["alpha"]) * x ** -float(row["b"]) + float(row["beta"])
            label = f"{baseline} {row['model']} fitted"
            curves.append(Curve(x=x, y=y, colour=style.colour_of(baseline), label=label, dim=True))
    return curves
