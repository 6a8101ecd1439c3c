"""Freezes a small store of the present schema: `python -m tests.store.freeze`, once, before the next migration is written.

The file stays in tests/store/frozen/ for good; test_store_schema.py brings every one of them forward.
"""

from __future__ import annotations

import json
import lzma
import tempfile
from pathlib import Path

from optsweep_tui import rundir
from optsweep_tui.store import migrate
from optsweep_tui.store.ingest import ingest
from tests.store.run_folders import append, attempt_folder, finish, line, lines, make_spec, plant


def main() -> None:
    """A run of two attempts that overlap, one that diverged and is in two studies, one that is planned."""
    with tempfile.TemporaryDirectory() as name:
        runs, store = Path(name) / "runs", Path(name) / "results.duckdb"
        other = make_spec(hyperparameters={"lr": 0.01, "weight_decay": 0.1, "beta1": 0.9})
        first, second, _ = plant(runs, make_spec(), make_spec(seed=1), other, study="one")
        plant(runs, make_spec(seed=1), study="two")
        append(attempt_folder(first), lines(range(1, 41)) + line(40, val_loss=2.5))
        append(attempt_folder(first), json.dumps({"seq": 1, "time": 1.7e9, "kind": "started"}) + "\n", rundir.EVENTS)
        append(attempt_folder(first, 2), lines(range(31, 51), train_loss=7.0))
        append(attempt_folder(second), lines(range(1, 21), grad_norm=None))
        finish(first, 2)
        finish(second, status="diverged", val_loss=None, error="the loss is not finite")
        ingest(store, runs)
        target = Path(__file__).parent / "frozen" / f"schema-{migrate.newest_version():03}.duckdb.xz"
        with open(target, "xb") as handle:
            handle.write(lzma.compress(store.read_bytes(), preset=9))
        print(target)


if __name__ == "__main__":
    main()
