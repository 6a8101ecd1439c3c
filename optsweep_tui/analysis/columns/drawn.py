"""Columns of what is only drawn: the baseline's curve with its band, the values of one knob, ranks inside runs."""

from __future__ import annotations

from optsweep_tui.analysis.columns.results import GROUP

_GROUP = dict.fromkeys(GROUP, "as in the results")

# One row per point of a curve: `analysis.bands`.
BAND = _GROUP | {
    "baseline": "optimizer whose cells were fitted",
    "chinchilla": "D / (20 N)",
    "tokens": "D",
    "loss": "the fitted curve, nats per token",
    "low": "lower 95 % profile limit of the curve there, nats; null without sigma",
    "high": "upper 95 % profile limit",
    "inside": "false outside the baseline's budgets, where the curve is believed, not measured",
}

# One row per cell and value that was tried: `analysis.strips`.
STRIP = _GROUP | {
    "optimizer": "catalogue name",
    "chinchilla": "D / (20 N)",
    "tokens": "D, target training tokens",
    "params": "N, non-embedding parameters",
    "knob": "name of the hyperparameter",
    "value": "number; null for a boolean or a text",
    "text": "the value as it is written in a grid",
    "loss": "smallest loss with this value on the line through the cell's best run of it, nats; null without",
    "excess": "that loss minus the line's smallest, nats",
    "best": "true for the value of the line's smallest loss",
    "near_best": "true where excess is below the threshold",
    "edge": "low or high on the best value where it is the end of its swept list and no declared bound; empty otherwise",
    "state": "done, or why the value has no loss: diverged, nan, missing, ...; other line: a loss, but not on this line",
    "run_id": "the run behind the loss; null without",
}

# One row per run and shared step: `analysis.rank_curves`.
IN_RUN = _GROUP | {
    "optimizer": "catalogue name",
    "chinchilla": "D / (20 N)",
    "run_id": "the optimizer's best run of the cell",
    "step": "optimizer steps done",
    "tokens": "tokens trained",
    "value": "loss inside the run at that step, nats per token",
    "rank": "1 = smallest of the runs at that step; equal losses share a rank",
}
