"""Every benchmark of the project, one after the other: `make bench`. Each prints its own table; see the dated reports here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ORDER = (
    "startup.py",
    "train_speed.py",
    "jax_speed.py",
    "data_speed.py --mb 12",
    "ingest.py",
    "live_curves.py",
    "analysis_speed.py",
    "optimizer_step.py --quick",
)


def main() -> int:
    """Run them; the exit code counts those that could not run."""
    failed = 0
    for name in ORDER:
        script, *options = name.split()
        print(f"\n== {name}", flush=True)
        failed += subprocess.run([sys.executable, str(HERE / script), *options], check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
