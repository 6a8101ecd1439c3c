-- Runs that begin with the state of another run, and losses on several validation sets. A cell holds whole runs or branches of a
-- trunk, never both.

ALTER TABLE run ADD COLUMN start_mode VARCHAR;
ALTER TABLE run ADD COLUMN start_run VARCHAR;
ALTER TABLE run ADD COLUMN start_step BIGINT;
ALTER TABLE run_final ADD COLUMN val_losses JSON;
ALTER TABLE run_final ADD COLUMN trained_tokens BIGINT;

-- One row per run and study, in words; the columns that every analysis takes come first.
CREATE OR REPLACE VIEW v_run AS
SELECT
  r.run_id, coalesce(s.study, 'default') AS study, r.origin, r.engine, r.optimizer, r.model, r.params, r.total_params,
  r.chinchilla, r.tokens, r.dataset, r.dataset_hash, r.validation_set, r.seq_len, r.batch_size, r.schedule, r.dtype,
  r.seed, r.hyperparameters, r.state,
  CASE WHEN r.state IN ('done', 'diverged') THEN f.loss END AS loss,
  r.steps, r.tokens_per_step, r.flops_per_token, r.optimizer_flops_per_step, f.seconds_per_token, f.device,
  f.state_bytes, f.train_seconds, r.start_mode,
  try_cast(r.hyperparameters ->> 'lr' AS DOUBLE) AS lr,
  f.train_loss, f.steps AS steps_done, f.tokens AS tokens_done, f.tokens_per_second, f.peak_bytes,
  r.attempts, f.ended_at, f.error, s.planned_at, r.numerics_version, f.parameters_sha256, f.versions, r.source, r.run,
  r.start_run, r.start_step, coalesce(f.trained_tokens, f.tokens) AS trained_tokens, f.val_losses
FROM run r
LEFT JOIN study_run s ON s.run = r.run
LEFT JOIN run_final f ON f.run = r.run;

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
  median(loss) FILTER (WHERE state = 'done') AS median_loss,
  coalesce(start_mode, '') = 'branch' AS branches
FROM v_run
GROUP BY ALL;

-- The best finished run of each cell and study.
CREATE OR REPLACE VIEW v_best AS
SELECT * EXCLUDE (place) FROM (
  SELECT
    study, engine, optimizer, model, chinchilla, tokens, dataset, dataset_hash, validation_set, seq_len, loss, run_id,
    seed, batch_size, schedule, dtype, lr, hyperparameters, steps, tokens_per_second, train_seconds, device,
    row_number() OVER (
      PARTITION BY study, engine, optimizer, model, tokens, dataset, dataset_hash, validation_set, seq_len,
        coalesce(start_mode, '') = 'branch'
      ORDER BY loss, run_id
    ) AS place,
    coalesce(start_mode, '') = 'branch' AS branches
  FROM v_run
  WHERE state = 'done' AND loss IS NOT NULL
)
WHERE place = 1;

-- Every finished run against the best of its cell: the near-best set is WHERE gap < 0.003.
CREATE OR REPLACE VIEW v_gap AS
SELECT
  study, engine, optimizer, model, chinchilla, tokens, dataset, dataset_hash, validation_set, seq_len, run_id, loss,
  loss - min(loss) OVER (
    PARTITION BY study, engine, optimizer, model, tokens, dataset, dataset_hash, validation_set, seq_len,
      coalesce(start_mode, '') = 'branch'
  ) AS gap,
  seed, batch_size, schedule, dtype, lr, hyperparameters, coalesce(start_mode, '') = 'branch' AS branches
FROM v_run
WHERE state = 'done' AND loss IS NOT NULL;

-- Runs with a published configuration, each setting of theirs, and two numbers: `cell` for the cell within a study, `rest`
-- for everything that the run has beside this setting. Two runs of a cell with the same setting and rest differ in it alone.
CREATE OR REPLACE VIEW v_setting AS
WITH entries AS (
  SELECT run, entry.key AS knob, entry.value ->> '$' AS text
  FROM (SELECT run, unnest(map_entries(CAST(hyperparameters AS MAP(VARCHAR, JSON)))) AS entry FROM run)
  WHERE entry.value IS NOT NULL
  UNION ALL SELECT run, 'batch_size', CAST(batch_size AS VARCHAR) FROM run WHERE batch_size IS NOT NULL
  UNION ALL SELECT run, 'schedule', schedule FROM run WHERE schedule IS NOT NULL
  UNION ALL SELECT run, 'dtype', dtype FROM run WHERE dtype IS NOT NULL
),
-- hash(a, b) mixes so simply that its bits cancel out between entries: one text is hashed.
marked AS (
  SELECT *, bit_xor(mark) OVER (PARTITION BY run) AS configuration
  FROM (SELECT run, knob, text, hash(length(knob) || knob || text) AS mark FROM entries)
)
SELECT
  v.study, v.run_id, v.run,
  hash(CAST(
    row(v.study, v.engine, v.optimizer, v.model, v.tokens, v.dataset, v.dataset_hash, v.validation_set, v.seq_len,
      coalesce(v.start_mode, '') = 'branch') AS VARCHAR
  )) AS cell,
  m.knob, m.text, m.configuration, xor(m.configuration, m.mark) AS rest
FROM marked m
JOIN v_run v ON v.run = m.run
WHERE v.hyperparameters IS NOT NULL;
