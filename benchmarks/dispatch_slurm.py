"""How long a large plan takes to Slurm: `python benchmarks/dispatch_slurm.py [--runs 10000]` on a real one-node Slurm.

Brings the node up by itself (tests/slurm_node.py), plants the plan, hands it to a partition that is down, and measures
the steps apart, then one round of the thread that watches it, and cancelling it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

_figures: list[tuple[str, float, float]] = []


@contextmanager
def measured(what: str) -> Iterator[None]:
    """Wall and CPU seconds of a step (of this process and the commands it waits for)."""
    wall, before = time.perf_counter(), os.times()
    yield
    after = os.times()
    cpu = sum(after[:4]) - sum(before[:4])
    _figures.append((what, time.perf_counter() - wall, cpu))
    print(f"{what:<58} {_figures[-1][1]:8.3f} s wall {cpu:8.3f} s CPU", flush=True)


def main() -> None:
    """Run it all."""
    from optsweep_tui import flow, plan, settings
    from optsweep_tui.dispatch import fleet, links
    from tests import walker
    from tests.slurm_node import SlurmNode

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="slurm-bench-"))
    (folder / "hosts.toml").write_text(
        '[hosts.cluster]\nbackend = "slurm"\npartitions = ["held"]\nmax_submitted = 100000\n'
    )
    grid = folder / "many.toml"
    grid.write_text(
        f'name = "many"\ndataset = "embedded"\nengine = "walker"\nseeds = {list(range(options.runs))}\n'
        "[defaults]\nbatch_size = 4\nseq_len = 32\nvalidation_tokens = 2048\n"
        '[[cells]]\noptimizer = ["adamw"]\nmodel = ["bench-micro"]\nchinchilla = [0.005]\n'
    )
    place = settings.workspace(folder)
    try:
        with walker.installed(folder / "engine"), SlurmNode(max_jobs=40_000) as node:
            os.environ.update(node.environment | {"PYTHONPATH": os.environ["PYTHONPATH"]})
            with measured("plan: grid to specs"):
                chosen = flow.plan(place, flow.Request(grid=str(grid)), prepare=True)
            with measured("first word of the scheduler"):
                fleet.of(place).connect(["cluster"])
            with measured("plant the run folders"):
                plan.plant(place.ensure(), chosen.study, chosen.specs)
            pump = fleet.of(place)._member("cluster").pump
            with measured("planted plan to acknowledged arrays"):
                with measured("  of it: open attempts, intents written"):
                    flow.launch(place, chosen, hosts=("cluster",))
                while sum(len(chunk.entries) for chunk in pump.chunks.all() if chunk.job) < options.runs:
                    time.sleep(0.01)
            tasks = len(node.queue())
            print(f"tasks in the queue: {tasks}; arrays: {len(pump.chunks.all())}")
            assert tasks == options.runs
            dispatcher = fleet.of(place)
            with measured("poll of all, first"):
                dispatcher.poll(chosen.run_ids)
            with measured("poll and submit of all, again"):
                dispatcher.poll(chosen.run_ids)
                dispatcher.submit(chosen.run_ids)
            rounds = []
            for _ in range(5):
                started = time.thread_time()
                pump._open(), pump._look_at(pump._candidates())
                rounds.append(time.thread_time() - started)
            print(f"a round of looks at {options.runs} waiting runs: {1e3 * statistics.median(rounds):.1f} ms CPU")
            assert len(links.open_attempts(place, "cluster")) == options.runs
            with measured("ls of all"):
                flow.run_lines(place)
            with measured("cancel of all, marker and scancel"):
                flow.cancel(place, chosen.run_ids)
                while node.queue():
                    time.sleep(0.05)
            fleet.of(place).close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
