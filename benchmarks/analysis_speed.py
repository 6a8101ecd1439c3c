"""Seconds of the analysis on the reference figures and on 10,000 cells: python benchmarks/analysis_speed.py > FILE.md"""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pandas as pd

from benchmarks.coverage import PARAMS, law
from optsweep_tui import analysis

CELLS = Path(__file__).parents[1] / "grids" / "reference" / "cells.csv"


def reference() -> pd.DataFrame:
    """The 150 published cells, one run each."""
    cells = pd.read_csv(CELLS).rename(
        columns={"non_embedding_params": "params", "min_loss": "loss", "incumbent_hyperparameters": "hyperparameters"}
    )
    ids = [f"{place:032x}" for place in range(len(cells))]
    return cells.assign(run_id=ids, study="reference", dataset="c4_en", state="done")


def synthetic(models: int, optimizers: int) -> pd.DataFrame:
    """`models` x 4 budgets x (`optimizers` and the baseline), one run each."""
    rng = np.random.default_rng(0)
    names = ["adamw", *(f"o{number}" for number in range(optimizers))]
    rows = [
        (name, f"m{model}", ratio, ratio * 20 * PARAMS, float(law(np.array(ratio * (1 + 0.03 * place)))))
        for model in range(models)
        for ratio in (1.0, 2.0, 4.0, 8.0)
        for place, name in enumerate(names)
    ]
    frame = pd.DataFrame(rows, columns=["optimizer", "model", "chinchilla", "tokens", "loss"])
    frame["loss"] += 0.0013 * rng.standard_normal(len(frame))
    ids = [f"{place:032x}" for place in range(len(frame))]
    return frame.assign(
        run_id=ids, study="s", dataset="c4", state="done", params=PARAMS, seed=0, hyperparameters='{"lr":0.01}'
    )


def imports() -> float:
    """CPU seconds of a process that only loads what a speedup needs."""
    code = (
        "import time, pandas\nfrom optsweep_tui import analysis\n"
        "analysis.speedup(pandas.DataFrame()), analysis.fit(pandas.DataFrame())\nprint(time.process_time())"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(answer.stdout)


def main() -> None:
    published, large = reference(), synthetic(250, 10)
    cases: list[tuple[str, float, Callable[[], pd.DataFrame]]] = [
        ("reference: table", 2, lambda: analysis.table(published)),
        ("reference: fit, three solvers", 10, lambda: analysis.fit(published)),
        ("reference: speedup, profile intervals", 2, lambda: analysis.speedup(published)),
        ("reference: speedup, one exponent", 2, lambda: analysis.speedup(published, shared_exponent=True)),
        ("reference: speedup, 2,000-draw bootstrap", 20, lambda: analysis.speedup(published, ci="bootstrap")),
        ("1,000 cells x 10 optimizers: speedup", 10, lambda: analysis.speedup(large)),
    ]
    print("# Speed of the analysis\n")
    print(f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, one thread, Python", end=" ")
    print(f"{platform.python_version()}, numpy {np.__version__}. Made by `python benchmarks/analysis_speed.py`.\n")
    print(f"Imports (pandas, scipy, the analysis) come once a process, before: {imports():.1f} s CPU.\n")
    print("| what | rows | seconds (wall) | seconds (CPU) | limit |")
    print("|---|---|---|---|---|")
    for name, limit, call in cases:
        wall, cpu = time.perf_counter(), time.process_time()
        rows = len(call())
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(f"| {name} | {rows} | {wall:.2f} | {cpu:.2f} | {limit} |", flush=True)


if __name__ == "__main__":
    main()
