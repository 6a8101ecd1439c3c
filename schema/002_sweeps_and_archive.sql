-- Views for sweeps (near-best sets, incumbents, one-at-a-time changes, hyperparameters as columns), and the archive of
-- finished metrics: Parquet files beside the store that v_metric reads as if they were in it.

-- One row per stream of points that was moved to a file of results.duckdb.archive/. What has no row here is not in the
-- archive, whatever lies in that folder.
CREATE TABLE archive (
  part     INTEGER NOT NULL,
  file     VARCHAR NOT NULL,
  run      INTEGER NOT NULL,
  attempt  INTEGER NOT NULL,
  points   BIGINT NOT NULL
);

-- The archived points. The collector puts a view over the Parquet files in its place as soon as there are any.
CREATE VIEW v_archive AS
SELECT run, attempt, key, step, value, CAST(0 AS BIGINT) AS place FROM metric WHERE false;

-- Every point of every attempt, wherever it is kept; place orders those of one attempt as its file does.
CREATE VIEW v_point AS
SELECT run, attempt, key, step, value, 4611686018427387904 + rowid AS place FROM metric
UNION ALL
SELECT run, attempt, key, step, value, place FROM v_archive;

-- Each step of each metric once: where attempts overlap the highest wins, within an attempt the last line. Only runs
-- that are marked as holding a step twice pay for the choice.
CREATE OR REPLACE VIEW v_metric AS
SELECT r.run_id, k.name AS key, m.step, m.step * r.tokens_per_step AS tokens, m.value, m.attempt
FROM v_point m
JOIN run r ON r.run = m.run
JOIN metric_key k ON k.key = m.key
WHERE NOT r.repeats
UNION ALL
SELECT run_id, key, step, tokens, value, attempt FROM (
  SELECT
    r.run_id, k.name AS key, m.step, m.step * r.tokens_per_step AS tokens, m.value, m.attempt,
    row_number() OVER (PARTITION BY m.run, m.key, m.step ORDER BY m.attempt DESC, m.place DESC) AS choice
  FROM v_point m
  JOIN run r ON r.run = m.run
  JOIN metric_key k ON k.key = m.key
  WHERE r.repeats
)
WHERE choice = 1;

-- One row per run and hyperparameter, whatever its name.
CREATE OR REPLACE VIEW v_knob AS
SELECT
  run_id, optimizer, model, chinchilla, entry.key AS knob, entry.value ->> '$' AS text,
  try_cast(entry.value ->> '$' AS DOUBLE) AS value
FROM (
  SELECT *, unnest(map_entries(CAST(hyperparameters AS MAP(VARCHAR, JSON)))) AS entry
  FROM run WHERE hyperparameters IS NOT NULL
);

-- One row per run and study with every hyperparameter as a column of its own behind these. The collector makes the view
-- anew when a run brings a hyperparameter that has no column yet.
CREATE VIEW v_config AS
SELECT run_id, study, engine, optimizer, model, chinchilla, seed, batch_size, schedule, state, loss FROM v_run;

-- The near-best set of each cell: what ends less than 0.003 nats above its best run.
CREATE VIEW v_near_best AS
SELECT
  study, engine, optimizer, model, chinchilla, tokens, dataset, dataset_hash, validation_set, seq_len, run_id, loss, gap,
  CAST(0.003 AS DOUBLE) AS threshold, seed, batch_size, schedule, dtype, lr, hyperparameters
FROM v_gap
WHERE gap < CAST(0.003 AS DOUBLE);

-- Runs with a published configuration, each setting of theirs, and two numbers: `cell` for the cell within a study, `rest`
-- for everything that the run has beside this setting. Two runs of a cell with the same setting and rest differ in it alone.
CREATE VIEW v_setting AS
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
    row(v.study, v.engine, v.optimizer, v.model, v.tokens, v.dataset, v.dataset_hash, v.validation_set, v.seq_len) AS VARCHAR
  )) AS cell,
  m.knob, m.text, m.configuration, xor(m.configuration, m.mark) AS rest
FROM marked m
JOIN v_run v ON v.run = m.run
WHERE v.hyperparameters IS NOT NULL;

-- The incumbent of each cell: the configuration from which the most others differ in one setting, the best of equal ones.
-- It is what a one-at-a-time sweep was made around, and often not the best run.
CREATE VIEW v_incumbent AS
WITH lines AS (
  SELECT cell, knob, rest, count(DISTINCT text) - 1 AS others FROM v_setting GROUP BY ALL HAVING count(DISTINCT text) > 1
),
counted AS (
  SELECT s.cell, s.run_id, s.study, s.configuration, coalesce(sum(l.others), 0) AS n_changes
  FROM v_setting s LEFT JOIN lines l USING (cell, knob, rest)
  GROUP BY ALL
),
ranked AS (
  SELECT
    v.*, c.cell, c.configuration, CAST(c.n_changes AS BIGINT) AS n_changes,
    min(CASE WHEN v.state = 'done' THEN v.loss END) OVER (PARTITION BY c.cell, c.configuration) AS own_loss
  FROM counted c JOIN v_run v ON v.run_id = c.run_id AND v.study = c.study
),
chosen AS (
  SELECT *, first_value(configuration) OVER (
    PARTITION BY cell ORDER BY n_changes DESC, own_loss NULLS LAST, configuration
  ) AS winner
  FROM ranked
)
SELECT
  study, engine, optimizer, model, chinchilla, tokens, dataset, dataset_hash, validation_set, seq_len, run_id, seed, state,
  loss, n_changes, batch_size, schedule, dtype, lr, hyperparameters, cell, configuration
FROM chosen
WHERE configuration = winner;

-- One row per run that differs from its cell's incumbent in one setting, with the incumbent's value and, under the same
-- seed, its loss.
CREATE VIEW v_ablation AS
WITH incumbent AS (
  SELECT * FROM v_incumbent
  QUALIFY row_number() OVER (PARTITION BY cell, seed ORDER BY state <> 'done', loss NULLS LAST, run_id) = 1
),
held AS (
  SELECT DISTINCT i.cell, s.knob, s.text, s.rest
  FROM incumbent i JOIN v_setting s ON s.cell = i.cell AND s.run_id = i.run_id
)
SELECT
  v.study, v.engine, v.optimizer, v.model, v.chinchilla, v.tokens, v.dataset, v.dataset_hash, v.validation_set, v.seq_len,
  s.knob, s.text AS value, h.text AS incumbent_value, try_cast(s.text AS DOUBLE) AS number,
  try_cast(h.text AS DOUBLE) AS incumbent_number, v.seed, v.state, v.loss, i.loss AS incumbent_loss,
  v.loss - i.loss AS change, v.run_id, i.run_id AS incumbent_run_id
FROM held h
JOIN v_setting s ON s.cell = h.cell AND s.knob = h.knob AND s.rest = h.rest AND s.text <> h.text
JOIN v_run v ON v.run_id = s.run_id AND v.study = s.study
LEFT JOIN incumbent i ON i.cell = h.cell AND i.seed IS NOT DISTINCT FROM v.seed;

-- What a result rests on: code, data, machine, final parameters. One row per run.
CREATE OR REPLACE VIEW v_provenance AS
SELECT
  r.run_id, r.origin, r.source, r.dataset, r.dataset_hash, r.validation_set, r.numerics_version,
  f.versions ->> 'code' AS code_digest, r.optimizer_file_hash, r.seed, a.host, f.device, f.versions, f.parameters_sha256,
  f.attempt, f.ended_at, r.spec
FROM run r
LEFT JOIN run_final f ON f.run = r.run
LEFT JOIN attempt a ON a.run = f.run AND a.attempt = f.attempt;
