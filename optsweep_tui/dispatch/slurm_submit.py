"""What sbatch is given: its arguments, a job script without a word of the user's, and the list of runs of an array. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from optsweep_tui.dispatch.hostsfile import HostEntry, SlurmOptions
from optsweep_tui.dispatch.site import Staged

SCRIPT = """#!/bin/sh
# One task of optsweep. The first argument is where its engine is, the others are the command.
PYTHONPATH="$1${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONPATH
shift
exec "$@"
"""
"""The job script, the same for all: names and paths reach it as arguments, so no shell ever reads them."""
LEAD_SECONDS = 120
"""How long before its time limit a task is told to save its state and ask for another turn."""
SHORTEST_LEAD_SECONDS = 10


def arguments(
    name: str, tasks: int, options: SlurmOptions, partition: str | None, script: str, output: str
) -> list[str]:
    """`sbatch` and its options up to the script, for an array of `tasks` tasks with the indices 0 to tasks - 1."""
    lead = lead_seconds(options.time)
    found = ["sbatch", "--parsable", f"--job-name={name}", f"--array=0-{tasks - 1}", "--nodes=1", "--ntasks=1"]
    found += [f"--output={output}", "--open-mode=append", f"--signal=B:USR1@{lead}"]
    found.append("--no-requeue" if options.requeue is False else "--requeue")
    for option, value in (
        ("partition", partition),
        ("account", options.account),
        ("qos", options.qos),
        ("constraint", options.constraint),
        ("time", options.time),
        ("gres", options.gres),
        ("cpus-per-task", options.cpus),
        ("mem", options.mem),
    ):
        if value is not None:
            found.append(f"--{option}={value}")
    return [*found, script]


def command(staged: Staged, manifest: str) -> list[str]:
    """What follows the script: the folder of the engine, then what a task runs."""
    return [staged.engine, staged.python, "-m", "optsweep_engines.shim_batch", "--manifest", manifest]


def manifest(entries: Sequence[str], staged: Staged, entry: HostEntry, options: SlurmOptions) -> bytes:
    """Which attempt each index runs, and what all of them have in common."""
    body: dict[str, Any] = {
        "version": 1,
        "runs": staged.runs,
        "entries": list(entries),
        "threads": options.cpus or 1,
        "env_file": entry.env_file,
        "requeue": options.requeue is not False,
    }
    return (json.dumps(body, sort_keys=True) + "\n").encode()


def lead_seconds(limit: str | None) -> int:
    """How long before the limit to stop: LEAD_SECONDS, or a quarter of a limit that is shorter than four of them."""
    seconds = time_seconds(limit) if limit else None
    return LEAD_SECONDS if seconds is None else max(SHORTEST_LEAD_SECONDS, min(LEAD_SECONDS, seconds // 4))


def time_seconds(text: str) -> int | None:
    """A time as sbatch takes it (minutes, M:S, H:M:S, D-H, D-H:M, D-H:M:S; sbatch(1) --time) in seconds."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is None:
        return None
    days, *rest = match.groups()
    parts = [int(part) for part in rest if part is not None]
    if days is not None:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:
        hours, minutes, seconds = 0, *(*parts, 0)[:2]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
