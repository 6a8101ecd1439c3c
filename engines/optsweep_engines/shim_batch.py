"""One task of a batch job: `python -m optsweep_engines.shim_batch --manifest FILE [--index N]` runs one run, then leaves.

The manifest names an attempt per array index. A task that its scheduler starts again (requeue, preemption, a restarted
controller) goes on with the same run: it waits until the attempt before is over, opens the next one and resumes from its
checkpoint. A task that another one has overtaken leaves without a trace. Only claim files decide who trains. Stdlib only.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optsweep_engines import deaths, envfile, folder
from optsweep_engines.attempts import seen, settle
from optsweep_engines.shim import LEASE_SECONDS, Shim

STILL_SECONDS = 6 * LEASE_SECONDS
"""A lease of another machine that has not moved for so long, watched from here by one clock, has no holder."""
WAIT_SECONDS = 0.5
"""Between two looks at an attempt that is still alive."""
CONTINUED = ("preempted", "lost", "died")
"""Reasons in exit.json after which a task that was started again goes on."""
EXIT_NOTHING_TO_DO = 0
EXIT_UNUSABLE = 2  # the manifest does not fit: a person has to look
REQUEUE_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """Who this process is to the scheduler."""

    name: str | None
    """"ARRAY_INDEX" of an array's task, else the job id: the same after a requeue; None outside a scheduler."""
    restarts: int
    """How often the scheduler has started it before."""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Job:
        """From what Slurm tells a task (sbatch(1), output environment variables)."""
        array, index = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
        name = f"{array}_{index}" if array and index else environment.get("SLURM_JOB_ID")
        restarts = environment.get("SLURM_RESTART_COUNT", "0")
        return cls(name=name, restarts=int(restarts) if restarts.isdigit() else 0)


class Task:
    """One run, from the attempt that the manifest names on."""

    def __init__(self, shim: Shim, run_folder: Path, number: int, job: Job) -> None:
        self._shim = shim
        self._run_folder = run_folder
        self._number = number
        self._job = job
        self._lease: tuple[Any, float] = (None, time.monotonic())

    def work(self) -> None:
        """Train until the run is over, this process is told to stop, or the run turns out to be another's."""
        while not self._shim.stopping() and not (self._run_folder / folder.CANCEL).exists():
            known = folder.attempts(self._run_folder)
            if not known or known[-1][0] < self._number:
                return  # the run was taken away, or its attempt never made
            number, newest = known[-1]
            look = seen(self._run_folder, number)
            phase = look["phase"]
            if phase == "waiting":
                # A later attempt than ours is some other job's, unless this one is the continuation of the run.
                if (number != self._number and not self._continues()) or not self._shim.attempt(newest):
                    if (newest / folder.CLAIM).exists():
                        continue
                    return
                if self._shim.stopping():
                    return
            elif phase == "ended":
                barren = deaths.barren(self._run_folder)
                if not self._follows(newest) or not self._continues() or barren >= deaths.BARREN_ATTEMPTS:
                    return
                if not self._rested(newest, barren):
                    time.sleep(WAIT_SECONDS)
                    continue
                self._open_next(number, newest)
            elif not self._continues():
                return  # somebody else's
            elif phase == "silent" or (phase == "foreign" and self._stands_still(newest)):
                settle(newest, "the task before this one had died", gone=True)
            else:
                time.sleep(WAIT_SECONDS)  # the one before still trains: two at once would be worse than to wait

    def _continues(self) -> bool:
        """True when the scheduler has started this very job before, by its own count or by a claim of that name."""
        if self._job.restarts > 0:
            return True
        claims = (
            folder.read_claim(path) for number, path in folder.attempts(self._run_folder) if number >= self._number
        )
        return self._job.name is not None and any(claim and claim.job == self._job.name for claim in claims)

    @staticmethod
    def _follows(ended: Path) -> bool:
        """True when an ended attempt asks for another: it was stopped or lost, and left no record."""
        if (ended / folder.RECORD).exists():
            return False
        try:
            ending = folder.read_json(ended / folder.EXIT)
        except ValueError:
            return False
        return isinstance(ending, dict) and ending.get("reason") in CONTINUED

    @staticmethod
    def _rested(ended: Path, barren: int) -> bool:
        """True once an end that gained nothing lies long enough behind."""
        try:
            return time.time() - os.stat(ended / folder.EXIT).st_mtime >= deaths.pause_seconds(barren)
        except OSError:
            return True

    def _open_next(self, number: int, ended: Path) -> None:
        """Make the folder of the next attempt with the same intent; a controller that is quicker has made it."""
        target = self._run_folder / f"a{number + 1}"
        try:
            target.mkdir(mode=0o700)
        except FileExistsError:
            time.sleep(0.05)  # its intent comes next
            return
        intent = folder.read_json(ended / folder.INTENT) or {}
        intent |= {"asked": False, "submitted_at": time.time(), "requeued": self._job.name}
        intent.pop("pack", None)
        folder.write_json(target / folder.INTENT, intent)

    def _stands_still(self, attempt_folder: Path) -> bool:
        """True once the lease of another machine has been the same for STILL_SECONDS of this one's clock."""
        try:
            lease = (attempt_folder / folder.LEASE).read_bytes()
        except OSError:
            lease = b""
        if lease != self._lease[0]:
            self._lease = (lease, time.monotonic())
        return time.monotonic() - self._lease[1] > STILL_SECONDS


def entry_of(manifest: Mapping[str, Any], index: int) -> tuple[Path, int]:
    """(run folder, attempt number) of one index of a manifest.

    Raises:
        ValueError: the manifest has no such index, or its entry is not the name of an attempt.
    """
    entries = manifest.get("entries")
    if not isinstance(entries, list) or not 0 <= index < len(entries):
        raise ValueError(f"the manifest has no index {index}")
    run_id, _, attempt = str(entries[index]).partition(".a")
    if not folder.is_run_id(run_id) or not attempt.isdigit():
        raise ValueError(f"entry {index} is not RUN.aN")
    return Path(str(manifest["runs"])) / run_id, int(attempt)


def requeue(job: Job) -> bool:
    """Ask the scheduler to start this task again later; what it has saved is what it will go on from."""
    if job.name is None:
        return False
    try:
        asked = subprocess.run(
            ["scontrol", "requeue", job.name], capture_output=True, timeout=REQUEUE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run the task."""
    parser = argparse.ArgumentParser(prog="python -m optsweep_engines.shim_batch", description=__doc__)
    parser.add_argument("--manifest", type=Path, required=True, help="which attempt each index runs")
    parser.add_argument("--index", type=int, help="index in the manifest [default: SLURM_ARRAY_TASK_ID]")
    options = parser.parse_args(arguments)
    job = Job.of(os.environ)
    index = options.index if options.index is not None else int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
    try:
        manifest = folder.read_json(options.manifest) or {}
        run_folder, number = entry_of(manifest, index)
        environment = {**os.environ, **(envfile.read(manifest["env_file"]) if manifest.get("env_file") else {})}
    except (OSError, ValueError, KeyError) as error:
        print(f"optsweep: {options.manifest}: {error}", file=sys.stderr)
        return EXIT_UNUSABLE
    threads = str(manifest.get("threads") or 1)
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    shim = Shim(environment, job.name)
    warned = False

    def near_its_limit(number: int, frame: object) -> None:
        nonlocal warned
        warned = True
        shim.stop(number, frame)

    signal.signal(signal.SIGTERM, shim.stop)
    signal.signal(signal.SIGUSR1, near_its_limit)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        Task(shim, run_folder, number, job).work()
    finally:
        shim.close()
    unfinished = not (run_folder / folder.CANCEL).exists() and Task._follows(folder.attempts(run_folder)[-1][1])
    if warned and unfinished and manifest.get("requeue", True):
        requeue(job)
    return EXIT_NOTHING_TO_DO


if __name__ == "__main__":
    sys.exit(main())
