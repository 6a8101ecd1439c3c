"""What a chart shows as a figure for paper and as rows for CSV: the same runs, metric, axes, window and smoothing."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from optsweep_tui.app.model import RunRow
from optsweep_tui.app.views.chart import AXIS_NAMES, ChartModel, Line, spiked
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Floats
from optsweep_tui.charts.figure import Axis, Figure, Panel, Series
from optsweep_tui.charts.reduce import column_extents

Seen = tuple[ChartModel, Sequence[Line]]
"""One chart as it was drawn last."""


def window(model: ChartModel, line: Line) -> slice:
    """The points of a line that lie in the visible part of x."""
    view, x = model.view, line.series.x
    assert view is not None
    low, high = view.x_range
    slack = 1e-9 * (abs(high) + abs(low))
    return slice(int(np.searchsorted(x, low - slack, "left")), int(np.searchsorted(x, high + slack, "right")))


def figure(charts: Sequence[Seen], runs: Sequence[RunRow], names: Sequence[str], provenance: str) -> Figure:
    """The charts on paper.

    Args:
        charts: as drawn last; one without a frame is left out.
        runs: of the chart, in the order of the letters.
        names: of the runs, as the legend writes them.
        provenance: study and program, below the figure.
    """
    papers = style.looks([row.line.optimizer for row in runs])
    same: dict[str, list[str]] = {}
    for row in runs:
        same.setdefault(row.line.optimizer, []).append(row.run_id)
    labels = {row.run_id: name for row, name in zip(runs, names, strict=True)}
    looks = {}
    for row in runs:
        own = papers[row.line.optimizer]
        among = same[row.line.optimizer]
        looks[row.run_id] = own._replace(paper=style.shade(own.paper, among.index(row.run_id), len(among)))
    panels, taus = [], set()
    for model, lines in charts:
        view = model.view
        if view is None:
            continue
        series, behind, marks = [], [], list[Series]()
        for line in lines:
            part = window(model, line)
            x, y = line.series.x[part], np.asarray(model.shown_y(line), np.float64)[part]
            if not len(x):
                continue
            look = looks[line.run_id]._replace(letter=line.letter, colour=line.colour)
            series.append(_series(x, y, look, name=labels[line.run_id], letters=True))
            marks += _spikes(model, line, part, look)
            if model.tau > 0:
                behind.append(_series(x, np.asarray(line.series.y, np.float64)[part], look, pale=True))
                taus.add(model.tau)
        unit = ", nats/token" if model.metric.endswith("_loss") else ""
        panels.append(
            Panel(
                title="",
                x=Axis(label=AXIS_NAMES[model.axis], log=model.x_log, limits=view.x_range),
                y=Axis(
                    label=f"{model.metric}{unit}",
                    log=model.y_log,
                    limits=view.y_range,
                    top=None if model.whole_y else view.y_range[1],
                ),
                series=[*series, *marks, *behind],
            )
        )
    caption = ["Curves inside runs; no verdict: losses before the learning rate has decayed mislead."]
    if taus:
        spans = ", ".join(f"{tau:g}" for tau in sorted(taus))
        caption.append(f"Lines: bias-corrected exponential averages over {spans} steps; pale: as logged.")
    if any(line.spikes is not None for _, lines in charts for line in lines):
        caption.append("Triangles: spikes of the gradient norm or the loss, as the runs reported them.")
    return Figure(
        kind="loss",
        title=", ".join(dict.fromkeys(model.metric for model, _ in charts))
        + f" against {AXIS_NAMES[charts[0][0].axis]}",
        panels=panels,
        columns=2 if len(panels) > 2 else 1,
        caption=caption,
        provenance=provenance,
    )


def _spikes(model: ChartModel, line: Line, part: slice, look: style.Look) -> list[Series]:
    """The spikes that can be seen."""
    view, places = model.view, spiked(line)
    assert view is not None
    places = places[(places >= part.start) & (places < part.stop)]
    y = np.asarray(model.shown_y(line), np.float64)[places]
    seen = (y >= view.y_range[0]) & (y <= view.y_range[1])
    x, y = line.series.x[places][seen], y[seen]
    return [Series(x=x, y=y, look=look._replace(marker="^"), marks="solid", large=True)] if len(x) else []


def _series(
    x: Floats, y: Floats, look: style.Look, *, name: str = "", letters: bool = False, pale: bool = False
) -> Series:
    y = np.where(np.isfinite(y), y, np.nan)
    from optsweep_tui.charts.kinds.loss import MOST_COLUMNS  # with it comes pandas: not before the first frame

    if len(x) > 2 * MOST_COLUMNS:  # smallest and largest value per column: nothing that could be seen is lost
        edges = np.linspace(x[0], x[-1], MOST_COLUMNS + 1)
        low, high = column_extents(x, y, edges)
        x, y = np.repeat(0.5 * (edges[1:] + edges[:-1]), 2), np.stack([low, high], axis=1).ravel()
        keep = np.isfinite(y)
        x, y = x[keep], y[keep]
    return Series(x=x, y=y, look=look, name=name, line="curve", marks="none", letters=letters, pale=pale)


CURVE_COLUMNS = (
    "letter", "run_id", "optimizer", "model", "chinchilla", "lr", "seed", "state", "metric", "step", "axis", "x",
    "value", "smoothed_over_steps", "smoothed", "spike",
)  # fmt: skip


def curves_csv(charts: Sequence[Seen], runs: Sequence[RunRow]) -> str:
    """Every point of the visible window, not thinned; an empty value was not finite, `spike` is 1 where one was reported."""
    rows = {row.run_id: row for row in runs}
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(CURVE_COLUMNS)
    for model, lines in charts:
        if model.view is None:
            continue
        for line in lines:
            part, row = window(model, line), rows[line.run_id].line
            first = (line.letter, line.run_id, row.optimizer, row.model, row.chinchilla, row.lr, row.seed, row.state)
            smooth, spikes = model.shown_y(line)[part], set((spiked(line) - part.start).tolist())
            points = zip(line.series.steps[part], line.series.x[part], line.series.y[part], smooth, strict=True)
            for place, (step, x, raw, drawn) in enumerate(points):
                smoothed = (model.tau, _number(drawn)) if model.tau else ("", "")
                ending = (*smoothed, 1 if place in spikes else 0)
                writer.writerow((*first, model.metric, _number(step), model.axis, _number(x), _number(raw), *ending))
    return target.getvalue()


FIGURE_COLUMNS = ("panel", "x_axis", "y_axis", "series", "state", "marks", "x", "y", "low", "high")


def figure_csv(shown: Figure) -> str:
    """Every point and curve of a figure."""
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(FIGURE_COLUMNS)
    for panel in shown.panels:
        head = (panel.title, panel.x.label, panel.y.label)
        for one in panel.series:
            name = one.name or one.look.letter
            for place, (x, y) in enumerate(zip(one.x, one.y, strict=True)):
                ends = ["" if end is None else _number(end[place]) for end in (one.low, one.high)]
                marks = one.line if one.marks == "none" else one.marks
                writer.writerow((*head, name, one.data.get("state", ""), marks, _number(x), _number(y), *ends))
        for band in panel.bands:
            for x, low, high in zip(band.x, band.low, band.high, strict=True):
                ends = [_number(low), _number(high)]
                writer.writerow((*head, "95 % band", band.data.get("state", ""), "band", _number(x), "", *ends))
    return target.getvalue()


def _number(value: Any) -> Any:
    number = float(value)
    if not np.isfinite(number):
        return ""
    return int(number) if number == int(number) and abs(number) < 2**53 else float(f"{number:.9g}")
