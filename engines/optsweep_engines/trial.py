"""One training step of a tiny model on made-up tokens: `python -m optsweep_engines.trial --engine torch` proves a machine.

Prints one line of JSON: status, device, seconds, versions, error. Leaves nothing behind.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optsweep_engines import folder, run, spare
from optsweep_engines.spec import ModelShape, RunSpec

SHAPE = ModelShape(
    family="llama", layers=1, width=16, heads=2, mlp_width=32, vocab_size=256, init_std=0.02, embedding_std=0.02
)


def _documents() -> Iterator[tuple[str, Any]]:
    import numpy as np  # noqa: PLC0415

    stream = np.random.Generator(np.random.PCG64(0))
    for number in range(40):  # a few of forty names fall into the held-out split
        yield f"document {number}", stream.integers(0, 256, 500).astype("<u2")


def trained(engine: str, device: str, root: Path) -> dict[str, object]:
    """Train the step in a folder; what the record says."""
    from optsweep_engines import data  # noqa: PLC0415 (after `spare.use`: a staged engine brings packages of its own)
    from optsweep_engines.optimizers import catalogue  # noqa: PLC0415

    entry = data.DatasetEntry(
        name="trial", vocab_size=256, source="", doc="", documents=_documents, fingerprint=lambda: "trial"
    )
    prepared = data.write(entry, root / "data")
    spec = RunSpec(
        engine=engine,
        optimizer="adamw",
        hyperparameters=catalogue.resolve_knobs("adamw", {}),
        model="trial",
        shape=SHAPE,
        dataset="trial",
        dataset_hash=prepared.sha256,
        tokens=32,
        batch_size=2,
        seq_len=16,
        schedule="constant",
        dtype="fp32",
        seed=0,
        validation_tokens=32,
    )
    attempt_folder = root / "runs" / spec.run_id / "a1"
    attempt_folder.mkdir(parents=True)
    folder.write_json(attempt_folder.parent / folder.SPEC, spec.to_dict())
    intent = {"device": device, "threads": 1, "data_root": str(root / "data"), "checkpoint_seconds": 1000.0}
    folder.write_json(attempt_folder / folder.INTENT, intent)
    started = time.monotonic()
    run.train_attempt(attempt_folder)
    record = folder.read_json(attempt_folder / folder.RECORD) or {}
    return {
        "status": record.get("status", "failed"),
        "device": record.get("device"),
        "error": record.get("error"),
        "versions": record.get("versions", {}),
        "seconds": round(time.monotonic() - started, 3),
    }


def main() -> int:
    """Parse the command line, train, print."""
    parser = argparse.ArgumentParser(prog="python -m optsweep_engines.trial", description=__doc__)
    parser.add_argument("--engine", required=True, help="torch or jax")
    parser.add_argument("--device", default="auto", help="cpu, cuda, tpu or auto")
    options = parser.parse_args()
    spare.use()
    with tempfile.TemporaryDirectory(prefix="optsweep-trial-") as root:
        found = trained(options.engine, options.device, Path(root))
    print(json.dumps(found), flush=True)
    return 0 if found["status"] in ("done", "diverged") else 1


if __name__ == "__main__":
    sys.exit(main())
