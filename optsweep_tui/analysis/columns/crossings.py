"""Columns of in-run crossings: what they take beside the runs, and what they answer."""

from __future__ import annotations

# One row per run and validation: what `analysis.in_run_crossings` reads curves from.
CURVES = {
    "run_id": "32 hex digits",
    "step": "optimizer steps",
    "loss": "validation loss, nats per token; points that are not finite are left out",
    "seconds": "seconds in training steps until then; null where not logged",
}

# One row per cell and target loss: `analysis.in_run_crossings`.
CROSSINGS = {
    "optimizer": "catalogue name; the baseline has a row too",
    "model": "catalogue name",
    "chinchilla": "D / (20 N)",
    "engine": "torch, jax or null",
    "dataset": "name",
    "study": "name",
    "label": 'always "in-run, biased low"',
    "x": "steps or time; the unit of the crossings, time in seconds",
    "baseline": "optimizer compared with",
    "target_loss": "validation loss to be reached, nats per token",
    "crossing": "where the loss is first at or below the target, on straight lines between logged points; null if never",
    "bracket_low": "last logged point before that, above the target",
    "bracket_high": "first logged point at or below the target",
    "crossing_low": "bracket_low, or where a curve that lies 95 % of sigma lower would have crossed",
    "crossing_high": "bracket_high, or where a curve that lies 95 % of sigma higher comes down for good; infinite if never",
    "last_crossing": "where the loss came down for good; above `crossing` when it rose over the target again; null if not",
    "speedup": "the baseline's crossing over this one; null where either is missing",
    "low": "the baseline's crossing_low over this crossing_high: both at their worst, so at least 95 %",
    "high": "the baseline's crossing_high over this crossing_low; infinite when open",
    "state": "INTERP: both crossed the target between two logged points; REFUSE",
    "reason": "why it is refused; empty otherwise",
    "bound": 'text, "> 1.3x": what is known where one of the two never gets there; empty otherwise',
    "min_loss": "smallest logged validation loss, nats per token",
    "min_at": "where that was",
    "rank": "1 = first to cross; null without a crossing",
    "tie_group": "1, 2, ...: not told apart from the first of their group by logging interval or noise; null without sigma",
    "winner": "true where rank 1 stands alone in its tie group",
    "flags": "list of `analysis.flags`",
    "n_seeds": "seeds in the mean curve",
    "sigma": "run-to-run standard deviation of the final loss, nats; taken as that of the curve",
    "sigma_source": "measured, prior, given or none",
    "params": "N, non-embedding parameters",
    "tokens": "D, target training tokens of the run",
    "dataset_hash": "sha256 of the shards",
    "validation_set": "name:tokens of the held-out set",
    "seq_len": "tokens",
    "number_id": "address of this row: `optsweep why` takes it and shows what it rests on",
    "run_ids": "list: the runs behind the curve",
}
