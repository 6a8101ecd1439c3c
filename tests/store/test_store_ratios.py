"""The migration that puts stored ratios right gives each run the ratio that a run collected today has."""

from __future__ import annotations

import random

import duckdb

from optsweep_engines.spec import ratio_of
from optsweep_tui.store import migrate


def test_ratios_of_before_become_those_of_today() -> None:
    chance = random.Random(1)
    rows = [(None, 106_496, None), (21_299, None, 0.0099999), (0, 106_496, 0.0)]
    for _ in range(2000):
        params = chance.choice([7, 106_496, 1_234_567, 130_000_000, 1_200_000_000])
        ratio = chance.choice([0.005, 0.01, 1 / 3, 0.25, 1.0, 8.0, 20.576, chance.uniform(1e-3, 64.0)])
        tokens = round(ratio * 20 * params) if chance.random() < 0.8 else chance.randrange(1, 40 * params)
        rows.append((max(tokens, 1), params, float(f"{max(tokens, 1) / (20 * params):.5g}")))
    (script,) = (path for _, path in migrate.migrations() if path.name == "005_ratios.sql")
    store = duckdb.connect()
    store.execute("CREATE TABLE run (tokens BIGINT, params BIGINT, chinchilla DOUBLE)")
    store.executemany("INSERT INTO run VALUES (?, ?, ?)", rows)
    store.execute(script.read_text())
    found = store.execute("SELECT tokens, params, chinchilla FROM run").fetchall()
    assert found[:3] == rows[:3], "what cannot be worked out stays"
    assert [row[2] for row in found[3:]] == [ratio_of(tokens, params) for tokens, params, _ in found[3:]]
    assert (21_299, 106_496, 0.0099999) not in found
