"""Queries to start from, printed by `optsweep sql --examples`; a test runs every one on published and on trained runs."""

from __future__ import annotations

from typing import NamedTuple


class Example(NamedTuple):
    """One question and its answer in SQL."""

    title: str
    query: str


EXAMPLES = (
    Example(
        title="How many runs are in which state", query="SELECT study, state, count(*) AS runs FROM v_run GROUP BY ALL"
    ),
    Example(
        title="The best run of every cell",
        query="SELECT optimizer, model, chinchilla, loss, lr, run_id FROM v_best ORDER BY model, chinchilla, loss",
    ),
    Example(
        title="Cells, how their runs ended and their best loss",
        query="SELECT optimizer, model, chinchilla, n_runs, n_done, n_diverged, n_seeds, best_loss FROM v_cell ORDER BY ALL",
    ),
    Example(
        title="Optimizers side by side, one row per budget",
        query="""PIVOT (SELECT model, chinchilla, optimizer, loss FROM v_best)
ON optimizer USING min(loss) GROUP BY model, chinchilla ORDER BY model, chinchilla""",
    ),
    Example(
        title="The near-best set of every cell: how many runs, and over which learning rates it reaches",
        query="""SELECT optimizer, model, chinchilla, count(*) AS near_best, min(lr) AS lr_from, max(lr) AS lr_to
FROM v_near_best GROUP BY ALL ORDER BY ALL""",
    ),
    Example(
        title="Everything within another threshold of the best of its cell",
        query="SELECT optimizer, model, chinchilla, gap, lr, seed, run_id FROM v_gap WHERE gap < 0.01 ORDER BY ALL",
    ),
    Example(
        title="Hyperparameters as columns, the best runs first",
        query="SELECT * FROM v_config WHERE state = 'done' ORDER BY loss LIMIT 20",
    ),
    Example(
        title="One-at-a-time changes: what each did to the incumbent's loss, the most harmful first",
        query="""SELECT optimizer, model, chinchilla, knob, incumbent_value, value, change, state
FROM v_ablation ORDER BY change DESC NULLS FIRST LIMIT 40""",
    ),
    Example(
        title="How sensitive each hyperparameter is: the median harm of a change, and how often a change helped",
        query="""SELECT optimizer, knob, count(*) AS changes, median(change) AS median_change,
       count(*) FILTER (WHERE change < 0) AS better, count(*) FILTER (WHERE state <> 'done') AS not_done
FROM v_ablation GROUP BY ALL ORDER BY optimizer, median_change DESC""",
    ),
    Example(
        title="Incumbents, and how far from them the best run of their cell is",
        query="""SELECT i.optimizer, i.model, i.chinchilla, i.n_changes, i.loss, g.gap, i.run_id
FROM v_incumbent i JOIN v_gap g USING (study, run_id) ORDER BY g.gap DESC""",
    ),
    Example(
        title="Final loss against learning rate",
        query="""SELECT optimizer, model, chinchilla, lr, min(loss) AS loss
FROM v_run WHERE state = 'done' GROUP BY ALL ORDER BY ALL""",
    ),
    Example(
        title="How much the seed matters: replicates of one configuration",
        query="""SELECT optimizer, model, chinchilla, lr, hyperparameters, count(*) AS seeds, avg(loss) AS mean,
       stddev_samp(loss) AS sd
FROM v_run WHERE state = 'done' GROUP BY ALL HAVING count(*) > 1 ORDER BY ALL""",
    ),
    Example(
        title="Which hyperparameters were swept, and over which values",
        query="""SELECT optimizer, knob, count(DISTINCT text) AS n, list_sort(list(DISTINCT text)) AS tried
FROM v_knob GROUP BY ALL HAVING count(DISTINCT text) > 1 ORDER BY ALL""",
    ),
    Example(
        title="Runs that diverged, failed or were cancelled, and why",
        query="""SELECT run_id, optimizer, model, lr, state, error
FROM v_run WHERE state NOT IN ('done', 'planned') ORDER BY state, optimizer""",
    ),
    Example(
        title="What is running now and how far it is",
        query="""SELECT r.run_id, r.optimizer, r.model, a.last_step, r.steps, round(100 * a.last_step / r.steps) AS percent
FROM v_run r JOIN v_attempt a ON a.run_id = r.run_id AND a.attempt = r.attempts WHERE r.state = 'running'""",
    ),
    Example(
        title="Throughput by optimizer and model",
        query="""SELECT optimizer, model, device, count(*) AS runs, median(tokens_per_second) AS tokens_per_second
FROM v_run WHERE tokens_per_second IS NOT NULL GROUP BY ALL ORDER BY ALL""",
    ),
    Example(
        title="Training hours and tokens by study",
        query="""SELECT study, sum(train_seconds) / 3600 AS hours, sum(trained_tokens) AS tokens,
       sum(trained_tokens * flops_per_token) AS model_flops FROM v_run GROUP BY study""",
    ),
    Example(
        title="Memory: optimizer state per parameter",
        query="""SELECT optimizer, model, max(state_bytes / total_params) AS bytes_per_param, max(peak_bytes) AS peak_bytes
FROM v_run WHERE state_bytes IS NOT NULL GROUP BY ALL ORDER BY ALL""",
    ),
    Example(
        title="The metrics that were written, with their units",
        query="SELECT name, unit FROM metric_key ORDER BY name",
    ),
    Example(
        title="The curves of the best run that has any",
        query="""SELECT key, step, tokens, value FROM v_metric WHERE key LIKE '%loss' AND run_id = (
  SELECT run_id FROM v_best JOIN v_attempt USING (run_id) WHERE last_step IS NOT NULL ORDER BY loss LIMIT 1
) ORDER BY key, step""",
    ),
    Example(
        title="Validation losses on the way, one column per run",
        query="""PIVOT (SELECT left(run_id, 8) AS run, step, value FROM v_metric WHERE key = 'val_loss')
ON run USING first(value) GROUP BY step ORDER BY step LIMIT 20""",
    ),
    Example(
        title="When each run first came below a validation loss of 4 nats",
        query="""SELECT m.run_id, r.optimizer, r.model, min(m.step) AS step, min(m.tokens) AS tokens
FROM v_metric m JOIN v_run r USING (run_id) WHERE m.key = 'val_loss' AND m.value < 4 GROUP BY ALL ORDER BY tokens""",
    ),
    Example(
        title="The largest gradient norms and where they came",
        query="""SELECT run_id, step, value AS grad_norm
FROM v_metric WHERE key = 'grad_norm' ORDER BY value DESC NULLS LAST LIMIT 10""",
    ),
    Example(
        title="Steps at which a metric was not finite",
        query="SELECT run_id, key, min(step) AS first_step, count(*) AS points FROM v_metric WHERE value IS NULL GROUP BY ALL",
    ),
    Example(
        title="Runs that needed more than one attempt",
        query="""SELECT run_id, attempt, host, reason, resumed_from, first_step, last_step FROM v_attempt
WHERE run_id IN (SELECT run_id FROM v_run WHERE attempts > 1) ORDER BY run_id, attempt""",
    ),
    Example(
        title="What happened to runs, newest first",
        query="SELECT time, run_id, attempt, kind, data FROM v_event ORDER BY time DESC LIMIT 20",
    ),
    Example(
        title="What a result rests on",
        query="""SELECT run_id, origin, dataset_hash, numerics_version, host, device, versions, parameters_sha256
FROM v_provenance ORDER BY run_id LIMIT 10""",
    ),
    Example(
        title="What was moved to Parquet files",
        query="SELECT file, count(*) AS streams, sum(points) AS points FROM archive GROUP BY file ORDER BY file",
    ),
)
"""What people ask most, in the order in which they ask it."""
