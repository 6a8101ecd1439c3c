"""Loss inside runs: what training looked like, against steps, tokens or minutes. Never a verdict."""

from __future__ import annotations

import string

import numpy as np
import pandas as pd

from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Floats
from optsweep_tui.charts.figure import Axis, Figure, Panel, Series
from optsweep_tui.charts.kinds.common import Row, Source, ratio_text, records
from optsweep_tui.charts.place import points
from optsweep_tui.charts.reduce import column_extents, smoothed

X = {"step": "optimizer step", "tokens": "tokens trained", "minutes": "training time, minutes"}
METRICS = {"train_loss": "training loss", "val_loss": "validation loss"}
SMOOTHED_OVER = 0.02
"""Part of a run that the average of a noisy training loss reaches over, when nothing is asked for."""
NOISY_POINTS = 100
"""A training loss of fewer points is shown as it is."""
START = 0.05
"""Part of a run whose losses do not decide the scale."""
MOST_COLUMNS = 1500
"""Points of a raw curve in a figure: two per column, its smallest and largest value there."""


def build(
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    source: Source,
    *,
    x: str = "tokens",
    log_x: bool = False,
    smooth: float | None = None,
) -> Figure:
    """One curve per run, lettered A, B, C, ...

    Args:
        runs: run_id, optimizer, model, chinchilla, lr (null when unknown) in drawing order; the first lies on top.
        curves: run_id, metric (train_loss or val_loss), step, tokens, seconds, value.
        source: of the data.
        x: "step", "tokens" or "minutes".
        log_x: logarithmic x axis; step 0 has no place on it.
        smooth: time constant in steps; 0 = raw; None = 2 % of a run where its training loss has 100 points or more.
    """
    looks = style.looks(runs["optimizer"])
    # Two runs of one optimizer share its hue and marker: shades and letters tell them apart.
    terminal = style.shades(list(runs["optimizer"]))
    places = {"step": "step", "tokens": "tokens", "minutes": "seconds"}
    series: list[Series] = []
    raw: list[Series] = []
    metrics: set[str] = set()
    averaged, refused = [], []
    for place, row in enumerate(records(runs)):
        own = curves[curves["run_id"] == row["run_id"]].sort_values("step")
        name = _name(row)
        at = own[places[x]].to_numpy(dtype=float) / (60.0 if x == "minutes" else 1.0)
        y = own["value"].to_numpy(dtype=float)
        y = np.where(np.isfinite(y), y, np.nan)
        good = np.isfinite(at)
        if not (good & np.isfinite(y)).any():
            refused.append(f"{name}: no {'time' if x == 'minutes' else 'loss'} was recorded inside this run")
            continue
        steps = own["step"].to_numpy(dtype=float)[good]
        at, y = at[good], y[good]
        metric = str(own["metric"].iloc[0])
        metrics.add(metric)
        letter = string.ascii_uppercase[place % 26]
        paper = style.shade(looks[row["optimizer"]].paper, *_place_among(list(runs["optimizer"]), place))
        look = looks[row["optimizer"]]._replace(letter=letter, colour=terminal[place], paper=paper)
        tau = _tau(smooth, metric, steps)
        line = smoothed(steps, y, tau)
        data = {"run_id": row["run_id"], "metric": metric, "smoothed_over_steps": tau}
        series.append(Series(x=at, y=line, look=look, name=name, line="curve", marks="none", letters=True, data=data))
        if tau > 0:
            averaged.append(tau)
            behind_x, behind_y = _thinned(at, y)
            raw.append(Series(x=behind_x, y=behind_y, look=look, line="curve", marks="none", pale=True))
    kinds = " and ".join(METRICS[metric] for metric in sorted(metrics)) or "loss"
    caption = [f"{kinds.capitalize()} inside runs; no verdict: losses before the learning rate has decayed mislead."]
    if averaged:
        span = sorted({f"{tau:.3g}" for tau in averaged}, key=float)
        steps_text = span[0] if len(span) == 1 else f"{span[0]} to {span[-1]}"
        caption.append(f"Lines: averages over {steps_text} steps; pale: as logged.")
    if len(metrics) > 1:
        caption.append("Training and validation losses are different things; compare curves of one kind.")
    top = None if log_x else _top(series)
    if top is not None and any(one.y[0] > top for one in series):
        caption.append(f"Losses before {100 * START:g} % of a run are out of scale where they are higher.")
    panel = Panel(
        title="", x=Axis(label=X[x], log=log_x), y=Axis(label=f"{kinds}, nats/token", top=top), series=[*series, *raw]
    )
    return Figure(
        kind="loss",
        title=f"loss against {x}",
        panels=[panel],
        columns=1,
        caption=caption,
        provenance=source.line,
        refused=refused,
    )


def _top(series: list[Series]) -> float | None:
    """The largest loss that is shown: the first fall of a run would flatten all that follows."""
    later = [one.y[one.x >= START * one.x[-1]] for one in series]
    return max((float(np.nanmax(values)) for values in later if np.isfinite(values).any()), default=None)


def _name(row: Row) -> str:
    lr = "" if row["lr"] is None else f" lr {row['lr']:g}"
    return f"{row['optimizer']} {row['model']} {ratio_text(row['chinchilla'] or 0)}{lr} {row['run_id'][:8]}"


def _place_among(optimizers: list[str], place: int) -> tuple[int, int]:
    """(which of its optimizer's runs this is, how many those are)."""
    same = [number for number, name in enumerate(optimizers) if name == optimizers[place]]
    return same.index(place), len(same)


def _tau(smooth: float | None, metric: str, steps: Floats) -> float:
    if smooth is not None:
        return smooth
    return SMOOTHED_OVER * float(steps[-1]) if metric == "train_loss" and len(steps) >= NOISY_POINTS else 0.0


def _thinned(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """A long curve as the smallest and largest value of each of many columns; a short one as it is."""
    if len(x) <= 2 * MOST_COLUMNS:
        return x, y
    edges = np.linspace(x[0], x[-1], MOST_COLUMNS + 1)
    low, high = column_extents(x, y, edges)
    middle = 0.5 * (edges[1:] + edges[:-1])
    return np.repeat(middle, 2), points(np.stack([low, high], axis=1).ravel().tolist())
