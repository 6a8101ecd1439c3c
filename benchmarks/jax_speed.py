"""The JAX engine beside the torch engine and a plain nanoGPT-style loop: `python benchmarks/jax_speed.py [--shapes S]`.

Tokens per CPU-second of one process pinned to one core; the three take turns of a second or so (`train_speed.py` says how),
so that a busy machine hits all alike; a ratio is the median over the rounds. Bars against the yardstick on a CPU: micro 1.6,
tiny 0.9, small 1.25.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BARS = {"bench-micro": 1.6, "bench-tiny": 0.9, "bench-small": 1.25}


def ratio(over: list[float], under: list[float]) -> tuple[float, float, float]:
    """Median, least and largest of how many times as fast the first is."""
    import statistics

    values = sorted(slow / fast for fast, slow in zip(over, under, strict=True))
    return statistics.median(values), values[0], values[-1]


def measured(name: str, rounds: int, core: int, data: Path) -> dict[str, Any]:
    """Rates and ratios of one shape."""
    import statistics

    from benchmarks import train_speed
    from optsweep_engines.models import model

    seconds = train_speed.measured(name, ["yardstick", "engine", "jax"], rounds, core, data)
    totals = {variant: [total for total, _ in values] for variant, values in seconds.items()}
    tokens = model(name).batch_size * model(name).seq_len
    return {
        "shape": name,
        "tokens_per_cpu_second": {key: tokens / statistics.median(values) for key, values in totals.items()},
        "jax_over_yardstick": ratio(totals["jax"], totals["yardstick"]),
        "jax_over_torch": ratio(totals["jax"], totals["engine"]),
    }


def main() -> None:
    """Measure, print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="bench-micro,bench-tiny,bench-small", help="comma-separated")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "optsweep-bench-data")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sys.path[:0] = [str(ROOT / "engines"), str(ROOT)]
    from importlib.metadata import version

    from benchmarks import train_speed
    from optsweep_engines.machine import cpu_name

    train_speed.dataset(options.data)
    results = [measured(name, options.rounds, options.core, options.data) for name in options.shapes.split(",")]
    if options.json:
        print(json.dumps(results, indent=1))
        return
    import datetime

    print(f"{datetime.date.today()}  {cpu_name()}, one pinned thread, jax {version('jax')}, torch {version('torch')}")
    print(
        f"tokens per CPU-second, median of {options.rounds} interleaved rounds; load average {os.getloadavg()[0]:.1f}\n"
    )
    print(
        f"{'shape':12} {'yardstick':>10} {'torch':>8} {'jax':>8} {'jax/yardstick (range)':>24} {'bar':>5}"
        f" {'jax/torch (range)':>20}"
    )
    for row in results:
        rates = row["tokens_per_cpu_second"]
        over, torch = ("{:.2f} ({:.2f}-{:.2f})".format(*row[key]) for key in ("jax_over_yardstick", "jax_over_torch"))
        print(
            f"{row['shape']:12} {rates['yardstick']:10.0f} {rates['engine']:8.0f} {rates['jax']:8.0f} {over:>24}"
            f" {BARS[row['shape']]:5.2f} {torch:>20}"
        )


if __name__ == "__main__":
    main()
