"""Runs that a grid lists one by one: in the order of the file, nothing added around them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from optsweep_tui import grid, gridfile
from optsweep_tui.errors import OptsweepError
from tests.unit.test_grid import facts

LISTED = """
name = "listed"
seeds = [3]
[defaults]
batch_size = 8
seq_len = 64
schedule = "linear"
[[run]]
optimizer = "muon"
model = "bench-micro"
chinchilla = 0.1
set = { lr = 0.02 }
[[run]]
optimizer = "adamw"
model = "bench-micro"
chinchilla = 0.05
set = { lr = 0.006, batch_size = 16 }
seed = 7
[[run]]
optimizer = "muon"
model = "bench-micro"
chinchilla = 0.1
set = { lr = 0.04 }
"""


def test_listed_runs_come_in_the_order_of_the_file_with_nothing_around_them(tmp_path: Path) -> None:
    path = tmp_path / "listed.toml"
    path.write_text(LISTED)
    study = gridfile.load(str(path))
    specs = grid.expand(study, facts)
    assert [(spec.optimizer, spec.hyperparameters["lr"], spec.seed) for spec in specs] == [
        ("muon", 0.02, 3), ("adamw", 0.006, 7), ("muon", 0.04, 3),
    ]  # fmt: skip
    assert specs[1].batch_size == 16
    assert [spec.optimizer for spec in grid.expand(grid.select(study, ["adamw"], [], []), facts)] == ["adamw"]
    changed = grid.with_settings(study, ["muon.lr=0.1", "batch_size=4"], [])
    assert [spec.hyperparameters["lr"] for spec in grid.expand(changed, facts)] == [0.1, 0.006]
    assert {spec.batch_size for spec in grid.expand(changed, facts)} == {4}
    with pytest.raises(OptsweepError, match="nothing to sweep around"):
        grid.with_settings(study, [], ["lr=0.1,0.2"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[[run]]\noptimizer = 'adamw'\nmodel = 'bench-micro'\n", "chinchilla is missing"),
        ("[[run]]\noptimizer = ['adamw']\nmodel = 'bench-micro'\nchinchilla = 1\n", "no single value"),
        ("[[run]]\noptimizer = 'adamw'\nmodel = 'bench-micro'\nchinchilla = 1\nlr = 1\n", 'key "lr"'),
        ("[[run]]\noptimizer = 'adamw'\nmodel = 'bench-micro'\nchinchilla = 1\nset = { lr = [1] }\n", "single value"),
        ("[[run]]\noptimizer = 'adamw'\nmodel = 'bench-micro'\nchinchilla = 1\nseed = -1\n", "seed"),
        ("run = 3\n", "not a list of tables"),
    ],
)
def test_a_wrong_listed_run_is_one_line(line: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(line)
    with pytest.raises(OptsweepError, match=re.escape(said)):
        gridfile.load(str(path))
