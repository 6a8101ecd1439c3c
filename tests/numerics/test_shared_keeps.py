"""States that are asked for while several processes train: all of them take it up, and keep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from optsweep_engines import folder, kept
from optsweep_engines.data import PreparedDataset
from optsweep_engines.run import AttemptLog
from optsweep_engines.shared_log import ASKED_EVERY
from tests.numerics import spread_processes
from tests.numerics.toy import spec


class Asking:
    """In each process: what is kept is asked for when the run has written its third line, as `retry --keep` does."""

    def __init__(self, run_folder: Path, steps: list[int]) -> None:
        self.run_folder, self.steps = run_folder, steps

    def __call__(self) -> None:
        metric = AttemptLog.metric

        def asked(log: AttemptLog, row: dict[str, Any]) -> None:
            metric(log, row)
            if row["step"] == 3:
                kept.ask(self.run_folder, add=self.steps)
                log._keeps_read = 0.0  # a second is longer than this run

        AttemptLog.metric = asked  # type: ignore[method-assign]


@pytest.mark.parametrize("mesh", ["data=2", "fsdp=2"])
def test_processes_of_a_run_keep_what_is_asked_for_on_the_way(
    mesh: str, dataset: PreparedDataset, tmp_path: Path
) -> None:
    run = spec(dataset, "adamw", batch_size=8, tokens=40 * 8 * 16, seq_len=16)
    attempt = spread_processes.prepared(tmp_path / "runs", run, dataset.folder.parent, mesh)
    steps = [ASKED_EVERY * 2, ASKED_EVERY * 2 + 5]
    records = spread_processes.together(tmp_path / "where", 2, [attempt], Asking(attempt.parent, steps))
    assert [each[1]["status"] for each in records] == ["done", "done"], json.dumps(records)[-2000:]
    assert sorted(kept.steps(attempt.parent)) == steps
    modes = {oct(path.stat().st_mode & 0o777) for _, path, _ in kept.listed(attempt.parent / folder.KEPT)}
    assert modes == {"0o600"}
