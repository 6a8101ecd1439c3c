"""Attempts that died without a step gained: how many in a row, and when a run is given up for it; stdlib only.

A controller asks it before it opens another attempt, and so does a task that its scheduler starts again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optsweep_engines import folder
from optsweep_engines.metriclines import last_metric

BARREN_ATTEMPTS = 5
"""Deaths in a row without a step gained after which a run is given up (a kernel that kills for memory, mostly)."""
BLAMELESS = ("preempted", "withdrawn", "superseded", "stale", "cancelled", "given up")
"""Ends of attempts that say nothing against the run: it was moved, or its machine was taken away."""
BACKOFF_SECONDS = 0.5
BACKOFF_LIMIT_SECONDS = 60.0


def barren(run_folder: Path) -> int:
    """Ended attempts at the end of the line that got no further than the best one before them."""
    count, reached = 0, 0
    for path in since_retry(run_folder):
        row = last_metric(path)
        steps = int(row["step"]) if row else 0
        moved = table(path / folder.EXIT).get("reason") in BLAMELESS
        count = 0 if steps > reached or moved else count + 1
        reached = max(reached, steps)
    return count


def pause_seconds(count: int) -> float:
    """Between an end and the next attempt, after so many barren ones."""
    return 0.0 if count <= 1 else min(BACKOFF_LIMIT_SECONDS, BACKOFF_SECONDS * 2.0 ** (count - 2))


def since_retry(run_folder: Path) -> list[Path]:
    """Attempts from the newest one that a user asked for explicitly on: an asked retry starts the count anew."""
    found = [path for _, path in folder.attempts(run_folder)]
    for index in range(len(found) - 1, -1, -1):
        if table(found[index] / folder.INTENT).get("asked"):
            return found[index:]
    return found


def table(path: Path) -> dict[str, Any]:
    """A JSON file as a table; empty where it is missing, damaged or something else."""
    try:
        data = folder.read_json(path)
    except (ValueError, OSError):
        return {}
    return data if isinstance(data, dict) else {}
