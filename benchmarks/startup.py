"""Start-up and planning: `--version`, `--help`, and a plan of 10,000 runs; medians over fresh processes.

python benchmarks/startup.py [--json]      bars: --version 50 ms, --help 150 ms, 10,000 runs planned 2 s
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 15


def seconds(command: list[str]) -> float:
    """Wall seconds of one process."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def planning(runs: int) -> tuple[int, float]:
    """Plan so many runs in this process: (runs, seconds), imports apart."""
    from optsweep_tui import grid
    from optsweep_tui.grid import DatasetFacts

    def facts(name: str) -> DatasetFacts:
        return DatasetFacts(name=name, sha256="0" * 64, vocab_size=256)

    study = grid.from_names(["adamw", "muon", "sgd"], ["130m", "300m"], ["1", "2", "4", "8"])
    per_cell = max(1, runs // 24)
    study = grid.with_settings(
        study, [], ["lr=" + ",".join(f"{1e-4 * (1 + index / 1000):.9f}" for index in range(per_cell))]
    )
    grid.expand(grid.from_names(["adamw"], ["130m"], ["1"]), facts)  # reads the published tables once
    started = time.perf_counter()
    specs = grid.expand(study, facts)
    ids = {spec.run_id for spec in specs}
    assert len(ids) == len(specs) >= runs - 24
    return len(specs), time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    optsweep = str(Path(sys.executable).parent / "optsweep")
    figures: dict[str, float] = {}
    for name, command in (("--version", [optsweep, "--version"]), ("--help", [optsweep, "--help"])):
        seconds(command)
        figures[f"{name} ms"] = round(1000 * statistics.median(seconds(command) for _ in range(ROUNDS)), 1)
    runs, took = planning(10_000)
    figures[f"plan of {runs} runs s"] = round(took, 3)
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:28}{value}")


if __name__ == "__main__":
    main()
