-- The tables of results.duckdb. README.md beside this file says what each column means and in which unit.
-- No primary keys and no unique indexes: known faults of write-ahead-log replay involve indexes. The one collector keeps
-- rows unique. `run` and `key` are small integers so that a metric row costs about ten bytes on disk.

CREATE TABLE schema_version (
  version     INTEGER NOT NULL,
  applied_at  TIMESTAMP NOT NULL,
  program     VARCHAR NOT NULL
);

CREATE TABLE run (
  run                       INTEGER NOT NULL,
  run_id                    VARCHAR NOT NULL,
  origin                    VARCHAR NOT NULL,
  source                    JSON,
  state                     VARCHAR NOT NULL,
  attempts                  INTEGER NOT NULL,
  engine                    VARCHAR,
  optimizer                 VARCHAR,
  model                     VARCHAR,
  params                    BIGINT,
  total_params              BIGINT,
  chinchilla                DOUBLE,
  tokens                    BIGINT,
  dataset                   VARCHAR,
  dataset_hash              VARCHAR,
  validation_set            VARCHAR,
  seq_len                   BIGINT,
  batch_size                BIGINT,
  schedule                  VARCHAR,
  dtype                     VARCHAR,
  seed                      BIGINT,
  hyperparameters           JSON,
  steps                     BIGINT,
  tokens_per_step           BIGINT,
  flops_per_token           DOUBLE,
  optimizer_flops_per_step  DOUBLE,
  optimizer_file_hash       VARCHAR,
  numerics_version          INTEGER,
  spec                      JSON,
  repeats                   BOOLEAN NOT NULL
);

CREATE TABLE study_run (
  study       VARCHAR NOT NULL,
  run         INTEGER NOT NULL,
  planned_at  TIMESTAMP
);

CREATE TABLE attempt (
  run           INTEGER NOT NULL,
  attempt       INTEGER NOT NULL,
  host          VARCHAR,
  claimed_at    TIMESTAMP,
  ended_at      TIMESTAMP,
  returncode    INTEGER,
  signal        INTEGER,
  reason        VARCHAR,
  status        VARCHAR,
  error         VARCHAR,
  resumed_from  BIGINT,
  first_step    BIGINT,
  last_step     BIGINT,
  repeats       BOOLEAN NOT NULL
);

CREATE TABLE run_final (
  run                INTEGER NOT NULL,
  attempt            INTEGER NOT NULL,
  state              VARCHAR NOT NULL,
  loss               DOUBLE,
  train_loss         DOUBLE,
  steps              BIGINT,
  tokens             BIGINT,
  train_seconds      DOUBLE,
  tokens_per_second  DOUBLE,
  seconds_per_token  DOUBLE,
  peak_bytes         BIGINT,
  state_bytes        BIGINT,
  device             VARCHAR,
  versions           JSON,
  parameters_sha256  VARCHAR,
  ended_at           TIMESTAMP,
  error              VARCHAR
);

CREATE TABLE metric_key (
  key   INTEGER NOT NULL,
  name  VARCHAR NOT NULL,
  unit  VARCHAR
);

CREATE TABLE metric (
  run      INTEGER NOT NULL,
  attempt  INTEGER NOT NULL,
  key      INTEGER NOT NULL,
  step     BIGINT NOT NULL,
  value    DOUBLE
);

CREATE TABLE event (
  run      INTEGER NOT NULL,
  attempt  INTEGER NOT NULL,
  seq      BIGINT,
  time     TIMESTAMP,
  kind     VARCHAR,
  data     JSON
);

CREATE TABLE src_offset (
  path        VARCHAR NOT NULL,
  run         INTEGER,
  attempt     INTEGER,
  generation  INTEGER NOT NULL,
  inode       UBIGINT NOT NULL,
  size        BIGINT NOT NULL,
  mtime_ns    BIGINT NOT NULL,
  position    BIGINT NOT NULL,
  lines       BIGINT NOT NULL,
  skipped     BIGINT NOT NULL,
  tail        UBIGINT NOT NULL,
  signature   VARCHAR
);

-- One row per run and study, in words; the columns that every analysis takes come first.
CREATE VIEW v_run AS
SELECT
  r.run_id, coalesce(s.study, 'default') AS study, r.origin, r.engine, r.optimizer, r.model, r.params, r.total_params,
  r.chinchilla, r.tokens, r.dataset, r.dataset_hash, r.validation_set, r.seq_len, r.batch_size, r.schedule, r.dtype,
  r.seed, r.hyperparameters, r.state,
  CASE WHEN r.state IN ('done', 'diverged') THEN f.loss END AS loss,
  r.steps, r.tokens_per_step, r.flops_per_token, r.optimizer_flops_per_step, f.seconds_per_token, f.device,
  f.state_bytes, f.train_seconds,
  try_cast(r.hyperparameters ->> 'lr' AS DOUBLE) AS lr,
  f.train_loss, f.steps AS steps_done, f.tokens AS tokens_done, f.tokens_per_second, f.peak_bytes,
  r.attempts, f.ended_at, f.error, s.planned_at, r.numerics_version, f.parameters_sha256, f.versions, r.source, r.run
FROM run r
LEFT JOIN study_run s ON s.run = r.run
LEFT JOIN run_final f ON f.run = r.run;

-- Finished runs only, without the study: one row per run.
CREATE VIEW v_final AS
SELECT
  r.run_id, r.origin, r.engine, r.optimizer, r.model, r.chinchilla, r.tokens, r.seed, r.hyperparameters, f.state,
  CASE WHEN f.state IN ('done', 'diverged') THEN f.loss END AS loss,
  f.train_loss, f.steps, f.tokens AS tokens_done, f.train_seconds, f.tokens_per_second, f.peak_bytes, f.state_bytes,
  f.device, f.attempt, f.ended_at, f.error
FROM run_final f
JOIN run r ON r.run = f.run;

-- One row per cell and study: how many runs, how they ended, the best final loss.
CREATE VIEW v_cell AS
SELECT
  study, engine, optimizer, model, chinchilla, tokens, dataset, dataset_hash, validation_set, seq_len,
  count(*) AS n_runs,
  count(*) FILTER (WHERE state = 'done') AS n_done,
  count(*) FILTER (WHERE state IN ('diverged', 'nan')) AS n_diverged,
  count(*) FILTER (WHERE state IN ('failed', 'oom', 'cancelled', 'missing')) AS n_without_result,
  count(*) FILTER (WHERE state NOT IN ('done', 'diverged', 'nan', 'failed', 'oom', 'cancelled', 'missing')) AS n_unfinished,
  count(DISTINCT seed) AS n_seeds,
  count(DISTINCT CAST(hyperparameters AS VARCHAR)) AS n_configurations,
  min(loss) FILTER (WHERE state = 'done') AS best_loss,
  arg_min(run_id, loss) FILTER (WHERE state = 'done') AS best_run_id,
  median(loss) FILTER (WHERE state = 'done') AS median_loss
FROM v_run
GROUP BY ALL;

-- The best finished run of each cell and study.
CREATE VIEW v_best AS
SELECT * EXCLUDE (place) FROM (
  SELECT
    study, engine, optimizer, model, chinchilla, tokens, dataset, dataset_hash, validation_set, seq_len, loss, run_id,
    seed, batch_size, schedule, dtype, lr, hyperparameters, steps, tokens_per_second, train_seconds, device,
    row_number() OVER (
      PARTITION BY study, engine, optimizer, model, tokens, dataset, dataset_hash, validation_set, seq_len
      ORDER BY loss, run_id
    ) AS place
  FROM v_run
  WHERE state = 'done' AND loss IS NOT NULL
)
WHERE place = 1;

-- Every finished run against the best of its cell: the near-best set is WHERE gap < 0.003.
CREATE VIEW v_gap AS
SELECT
  study, engine, optimizer, model, chinchilla, tokens, dataset, dataset_hash, validation_set, seq_len, run_id, loss,
  loss - min(loss) OVER (
    PARTITION BY study, engine, optimizer, model, tokens, dataset, dataset_hash, validation_set, seq_len
  ) AS gap,
  seed, batch_size, schedule, dtype, lr, hyperparameters
FROM v_run
WHERE state = 'done' AND loss IS NOT NULL;

-- What a result rests on: code, data, machine, final parameters. One row per run.
CREATE VIEW v_provenance AS
SELECT
  r.run_id, r.origin, r.source, r.dataset, r.dataset_hash, r.validation_set, r.numerics_version, r.optimizer_file_hash,
  r.seed, a.host, f.device, f.versions, f.parameters_sha256, f.attempt, f.ended_at, r.spec
FROM run r
LEFT JOIN run_final f ON f.run = r.run
LEFT JOIN attempt a ON a.run = f.run AND a.attempt = f.attempt;

-- One row per run and hyperparameter.
CREATE VIEW v_knob AS
SELECT
  run_id, optimizer, model, chinchilla, knob,
  json_extract_string(hyperparameters, '$."' || knob || '"') AS text,
  try_cast(json_extract_string(hyperparameters, '$."' || knob || '"') AS DOUBLE) AS value
FROM (SELECT *, unnest(json_keys(hyperparameters)) AS knob FROM run WHERE hyperparameters IS NOT NULL);

-- Each step of each metric once: where attempts overlap the highest wins, within an attempt the last line. Only runs
-- that are marked as holding a step twice pay for the choice.
CREATE VIEW v_metric AS
SELECT r.run_id, k.name AS key, m.step, m.step * r.tokens_per_step AS tokens, m.value, m.attempt
FROM metric m
JOIN run r ON r.run = m.run
JOIN metric_key k ON k.key = m.key
WHERE NOT r.repeats
UNION ALL
SELECT run_id, key, step, tokens, value, attempt FROM (
  SELECT
    r.run_id, k.name AS key, m.step, m.step * r.tokens_per_step AS tokens, m.value, m.attempt,
    row_number() OVER (PARTITION BY m.run, m.key, m.step ORDER BY m.attempt DESC, m.rowid DESC) AS place
  FROM metric m
  JOIN run r ON r.run = m.run
  JOIN metric_key k ON k.key = m.key
  WHERE r.repeats
)
WHERE place = 1;

-- One row per attempt, in words.
CREATE VIEW v_attempt AS
SELECT
  r.run_id, a.attempt, r.state, a.host, a.claimed_at, a.ended_at, a.reason, a.returncode, a.signal, a.status,
  a.resumed_from, a.first_step, a.last_step, a.error
FROM attempt a
JOIN run r ON r.run = a.run;

-- What happened, in words.
CREATE VIEW v_event AS
SELECT r.run_id, e.attempt, e.seq, e.time, e.kind, e.data
FROM event e
JOIN run r ON r.run = e.run;
