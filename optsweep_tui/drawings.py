"""Every figure by its kind: reads the curves that it needs, asks the analysis, and has `charts.kinds` describe the result.

`optsweep plot` and the report call `drawing`; `charts.static` and `charts.files` draw what it returns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from optsweep_tui import __version__, analysis, grid
from optsweep_tui.analysis.bands import bands
from optsweep_tui.analysis.edges import KnobInfo
from optsweep_tui.analysis.rank_curves import contenders, rank_curves
from optsweep_tui.analysis.strips import strips
from optsweep_tui.charts.figure import Figure
from optsweep_tui.charts.kinds import (
    best_after_k,
    checked_kind,
    checked_x,
    deff,
    loss,
    lr,
    overhead,
    rank,
    ratio,
    speedup,
    strip,
)
from optsweep_tui.charts.kinds.common import Source, source
from optsweep_tui.charts.reduce import smoothed
from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.store import queries

LEAST_POINTS = 3
"""Points of a loss inside a run that make a curve: a final loss alone is none."""
NOTHING_LEFT = "no cell is left of the selection, or none of those left has a loss"
NOT_SWEPT = "no knob was tried at two values in any cell here; optsweep run --sweep lr=0.001,0.002 makes such runs"
RANK_COLUMNS = 200
"""Steps at which ranks inside runs are shown at most."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is drawn, and how."""

    kind: str
    baseline: str = "adamw"
    sigma: float | None = None
    """Nats; None = measured, else the prior, else none."""
    max_chinchilla: float | None = None
    """Largest ratio that enters the baseline's fits."""
    unit: str = "tokens"
    """Of speedups: tokens, flops or time."""
    x: str | None = None
    """One of `charts.kinds.X`; None = what suits the data."""
    knob: str | None = None
    """Of `strip`."""
    optimizers: tuple[str, ...] = ()
    """Draw these alone; the baseline's runs must be in the frame all the same."""
    chinchillas: tuple[float, ...] = ()
    """Draw these budgets alone; fits and their bands use all."""


def drawing(
    results: pd.DataFrame,
    choice: Choice,
    *,
    store: Path | None = None,
    knob_info: KnobInfo | None = None,
    facts: pd.DataFrame | None = None,
) -> Figure:
    """The figure of one kind but `loss` (see `loss_drawing`).

    Args:
        results: one row per run, columns of `analysis.columns.RESULTS`.
        choice: kind and options.
        store: where `rank` reads the curves of runs; None = no ranks inside runs.
        knob_info: declared knobs; best values at declared bounds are no edges.
        facts: plan order of runs, columns of `analysis.columns.FACTS`, for `best-after-k`.

    Raises:
        OptsweepError: no such kind, or no such knob.
    """
    kind = checked_kind(choice.kind)
    checked_x(kind, choice.x)
    sized = results["chinchilla"].notna()
    unsized, results = results[~sized], results[sized]
    where = source(results, choice.baseline, __version__, bool(choice.chinchillas))
    work = _Work(results=results, choice=choice, where=where, store=store, knob_info=knob_info, facts=facts)
    makers = {
        "ratio": work.ratio,
        "deff": work.deff,
        "speedup": work.speedup,
        "lr": work.lr,
        "strip": work.strip,
        "rank": work.rank,
        "overhead": work.overhead,
        "best-after-k": work.best_after_k,
    }
    if kind not in makers:
        raise OptsweepError(f"plot {kind} is drawn from run folders", "ask for it with loss_drawing")
    figure = makers[kind]()
    if len(unsized):
        models = ", ".join(sorted({str(model) for model in unsized["model"]}))
        reason = f"{models}: {len(unsized)} run{'s'[: len(unsized) != 1]} without a ratio, as parameters or tokens are not known"
        figure = replace(figure, refused=[*figure.refused, reason])
    if figure.empty and not figure.refused:
        unswept = kind in ("lr", "strip") and not analysis.swept_knobs(results)
        return replace(figure, refused=[NOT_SWEPT if unswept else NOTHING_LEFT])
    return figure


def loss_drawing(
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    *,
    x: str | None = None,
    log_x: bool = False,
    smooth: float | None = None,
) -> Figure:
    """The figure `loss`.

    Args:
        runs: run_id, study, state, loss, optimizer, model, chinchilla, lr; in drawing order.
        curves: run_id, metric, step, tokens, seconds, value.
        x: "step", "tokens" or "minutes"; None = tokens.
        log_x: logarithmic x axis.
        smooth: time constant in steps; 0 = raw; None = 2 % of a run with a noisy training loss.
    """
    checked_x("loss", x)
    where = source(runs, "", __version__)
    return loss.build(runs, curves, where, x=x or "tokens", log_x=log_x, smooth=smooth)


@dataclass(frozen=True, kw_only=True)
class _Work:
    """One figure being made."""

    results: pd.DataFrame
    choice: Choice
    where: Source
    store: Path | None
    knob_info: KnobInfo | None
    facts: pd.DataFrame | None

    @property
    def _fit_options(self) -> dict[str, Any]:
        choice = self.choice
        return {"baseline": choice.baseline, "sigma": choice.sigma, "max_chinchilla": choice.max_chinchilla}

    def _kept(self, rows: pd.DataFrame, *, baseline_too: bool = False) -> pd.DataFrame:
        """The rows that were asked for."""
        wanted, ratios = self.choice.optimizers, self.choice.chinchillas
        if wanted and baseline_too:
            wanted = (*wanted, self.choice.baseline)
        keep = [
            (not wanted or any(grid.same_optimizer(name, want) for want in wanted))
            and (not ratios or any(grid.same_ratio(ratio, want) for want in ratios))
            for name, ratio in zip(rows["optimizer"], rows["chinchilla"], strict=True)
        ]
        return rows[np.array(keep, dtype=bool)]

    def _table(self) -> pd.DataFrame:
        return analysis.table(
            self.results, baseline=self.choice.baseline, sigma=self.choice.sigma, knob_info=self.knob_info
        )

    def _speedups(self, unit: str) -> pd.DataFrame:
        options: Any = {**self._fit_options, "unit": unit, "knob_info": self.knob_info}
        return self._kept(analysis.speedup(self.results, **options))

    def _fits(self) -> pd.DataFrame:
        return analysis.fit(self.results, **self._fit_options)

    def ratio(self) -> Figure:
        cells = self._kept(self._table(), baseline_too=True)
        return ratio.build(cells, self._fits(), bands(self.results, **self._fit_options), self.where)

    def deff(self) -> Figure:
        return deff.build(self._speedups("tokens"), self._fits(), self.where)

    def speedup(self) -> Figure:
        unit = self.choice.unit
        return speedup.build(self._speedups(unit), self.where, x=self.choice.x, unit=unit)

    def _strips(self, knob: str) -> pd.DataFrame:
        found = self._kept(strips(self.results, knob, knob_info=self.knob_info))
        if len(found) == 0:
            known = analysis.swept_knobs(self.results)
            if not known:
                return found
            if knob not in known:
                raise UnknownName("knob", knob, known, hint=f"swept here: {', '.join(known)}")
            raise OptsweepError(f"{knob} was not swept in the cells asked for", "leave out -o or -c")
        return found

    def lr(self) -> Figure:
        return lr.build(self._strips("lr"), self.where)

    def strip(self) -> Figure:
        if self.choice.knob is None:
            known = ", ".join(analysis.swept_knobs(self.results)) or "none"
            raise OptsweepError("plot strip needs the name of a knob", f"optsweep plot strip KNOB; swept here: {known}")
        return strip.build(self._strips(self.choice.knob), self.choice.knob, self.where)

    def rank(self) -> Figure:
        inside, metric = pd.DataFrame(), "val_loss"
        if self.store is not None and self.choice.x != "ratio":
            inside, metric = in_run_ranks(self._kept(self.results, baseline_too=True), self.store)
        cells = self._kept(self._table(), baseline_too=True)
        return rank.build(cells, inside, self.where, x=self.choice.x, metric=metric)

    def overhead(self) -> Figure:
        return overhead.build(self._speedups("tokens"), self._speedups("time"), self._table(), self.where)

    def best_after_k(self) -> Figure:
        efforts = analysis.fairness_audit(
            self.results, baseline=self.choice.baseline, sigma=self.choice.sigma, facts=self.facts
        )
        return best_after_k.build(self._kept(efforts, baseline_too=True), self.where)


def in_run_ranks(results: pd.DataFrame, store: Path) -> tuple[pd.DataFrame, str]:
    """Ranks inside runs, and the metric they are of: validation losses where runs have several, else averaged training losses."""

    ids = contenders(results)
    found = pd.DataFrame()
    for metric in ("val_loss", "train_loss"):
        curves = queries.curves(store, ids, metric)
        parts = []
        for _, own in curves.groupby("run_id", sort=False):
            if len(own) < LEAST_POINTS:
                continue
            if metric == "train_loss":
                steps = own["step"].to_numpy(dtype=float)
                values = smoothed(steps, own["value"].to_numpy(dtype=float), loss.SMOOTHED_OVER * float(steps[-1]))
                own = own.assign(value=values)
            parts.append(own)
        if not parts:
            continue
        found = rank_curves(results, pd.concat(parts, ignore_index=True))
        if len(found):
            return _thinned(found), metric
    return found, "val_loss"


def _thinned(ranks: pd.DataFrame) -> pd.DataFrame:
    """At most `RANK_COLUMNS` steps per run, evenly spread, the last one among them."""
    parts = []
    for _, own in ranks.groupby(["study", "model", "run_id"], sort=False, dropna=False):
        every = max(1, math.ceil(len(own) / RANK_COLUMNS))
        parts.append(own.iloc[np.arange(len(own) - 1, -1, -every)[::-1]])
    return pd.concat(parts, ignore_index=True)
