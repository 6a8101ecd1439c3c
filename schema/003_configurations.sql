-- A configuration is the hyperparameters with batch size, schedule and dtype in every view: v_cell counted different
-- hyperparameters alone.

-- One row per cell and study: how many runs, how they ended, the best final loss.
CREATE OR REPLACE VIEW v_cell AS
SELECT
  study, engine, optimizer, model, chinchilla, tokens, dataset, dataset_hash, validation_set, seq_len,
  count(*) AS n_runs,
  count(*) FILTER (WHERE state = 'done') AS n_done,
  count(*) FILTER (WHERE state IN ('diverged', 'nan')) AS n_diverged,
  count(*) FILTER (WHERE state IN ('failed', 'oom', 'cancelled', 'missing')) AS n_without_result,
  count(*) FILTER (WHERE state NOT IN ('done', 'diverged', 'nan', 'failed', 'oom', 'cancelled', 'missing')) AS n_unfinished,
  count(DISTINCT seed) AS n_seeds,
  count(DISTINCT row(CAST(hyperparameters AS VARCHAR), batch_size, schedule, dtype))
    FILTER (WHERE hyperparameters IS NOT NULL) AS n_configurations,
  min(loss) FILTER (WHERE state = 'done') AS best_loss,
  arg_min(run_id, loss) FILTER (WHERE state = 'done') AS best_run_id,
  median(loss) FILTER (WHERE state = 'done') AS median_loss
FROM v_run
GROUP BY ALL;
