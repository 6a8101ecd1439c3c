"""Trains one toy spec in a process of its own, to be killed: `python -m tests.numerics.resume_worker OPTIMIZER FOLDER DATA`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from optsweep_engines.data import open_dataset
from optsweep_engines.torch_engine import TorchEngine
from tests.numerics.run_log import FolderLog
from tests.numerics.toy import spec

STEPS = 400


def main(optimizer: str, folder: str, data_folder: str) -> None:
    """Train and write record.json."""
    shards = Path(data_folder)
    name, digits = shards.name.rsplit("-", 1)
    sha256 = json.loads((shards / "manifest.json").read_text(encoding="utf-8"))["sha256"]
    assert sha256.startswith(digits)
    dataset = open_dataset(shards.parent, name, sha256)
    run = spec(dataset, optimizer, tokens=STEPS * 64, validation_interval=90)
    log = FolderLog(Path(folder), shards.parent, checkpoint_every=7)
    record = TorchEngine().train(run, log)
    (Path(folder) / "record.json").write_text(json.dumps(record.to_dict()), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
