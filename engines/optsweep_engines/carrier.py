"""One managed job on a cloud node: trains a run on the node's own disk and carries what it writes to the mounted storage.

    OPTSWEEP_RUN=ID OPTSWEEP_ATTEMPT=1 python -m optsweep_engines.carrier     # cloud_start.py is what starts it

The attempt itself is run by the ordinary shim. A job that was recovered on another machine finds the attempt before in the
storage, waits until its lease has stood still, opens the next one and resumes from the newest checkpoint. At most one job
trains a run: its name is unique, and of two that came about all the same the bids in the storage leave one. Stdlib only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optsweep_engines import cloud_start, datafiles, folder, kept, mounted
from optsweep_engines.courier import Courier, Pace
from optsweep_engines.shim import Shim
from optsweep_engines.shim_batch import CONTINUED
from optsweep_engines.spec import RunSpec

BESIDE = (folder.SPEC, folder.OPTIMIZER, folder.DIAGNOSTICS)
"""Files of a run that come from the controller."""
EXIT_UNUSABLE = 2
EXIT_CUT_OFF = 1


class Carried:
    """One run: its folder in the storage, its folder on this node, and which attempt is ours to train."""

    def __init__(
        self, storage: Path, node: Path, run_id: str, number: int, job: str, pace: Pace, diagnostics: str = ""
    ) -> None:
        """Nothing is read yet.

        Args:
            storage: where it is mounted.
            node: folder of this node.
            run_id: which run.
            number: of the attempt that the job was submitted for.
            job: its own name.
            pace: how often.
            diagnostics: sha256 of the run's diagnostics.json; empty where it has none.
        """
        self.there = storage / "runs" / run_id
        self.here = node / "runs" / run_id
        self._storage, self._node = storage, node
        self._number, self._job, self._pace, self._diagnostics = number, job, pace, diagnostics
        self.token = os.urandom(8).hex()
        self._lease: tuple[bytes, float] = (b"", time.monotonic())

    def next(self, shim: Shim) -> Path | None:
        """The folder here of the attempt that this job is to train now; None: nothing is left for it."""
        while not shim.stopping():
            known = folder.attempts(self.there)
            if not known or known[-1][0] < self._number:
                return None  # taken away, or never brought
            number, newest = known[-1]
            if (newest / folder.EXIT).exists():
                if not self._goes_on(newest) or not self._ours() or self._cancelled():
                    return None
                self._open(number + 1, newest)
                continue
            if not (newest / folder.CLAIM).exists():
                if self._cancelled():
                    self._end(newest, "cancelled", "cancelled before it began")
                    return None
                if number != self._number and not self._ours():
                    return None  # a later job's
                if self._claimed(newest):
                    return self._taken(number, newest)
                if not self._ours():
                    return None
                continue  # an earlier start of this very job was quicker
            if not self._ours():
                return None  # another job's
            if self._stands_still(newest):
                self._end(newest, "lost", "the machine of this attempt was gone without a word")
            else:
                time.sleep(min(1.0, self._pace.lease))
        return None

    def _cancelled(self) -> bool:
        return (self.there / folder.CANCEL).exists()

    def _ours(self) -> bool:
        """Whether an attempt from the submitted one on was claimed by this very job: before a recovery, then."""
        claims = (
            mounted.read_table(path / folder.CLAIM)
            for number, path in folder.attempts(self.there)
            if number >= self._number
        )
        return any(claim and claim.get("job") == self._job for claim in claims)

    @staticmethod
    def _goes_on(ended: Path) -> bool:
        ending = mounted.read_table(ended / folder.EXIT)
        return ending is not None and ending.get("reason") in CONTINUED and not (ended / folder.RECORD).exists()

    def _claimed(self, attempt: Path) -> bool:
        """Bid for an attempt, wait until every bid is seen by all, and claim it where ours is the lowest.

        Two starts of one job have one bid: the last to write it goes on.
        """
        ours = attempt / f"bid.{mounted.slug(self._job)}"
        mounted.put_json(ours, {"token": self.token})
        time.sleep(self._pace.settle)
        bids = sorted(name for name in os.listdir(attempt) if mounted.BID.fullmatch(name))
        if (attempt / folder.CLAIM).exists() or (attempt / folder.EXIT).exists() or bids[:1] != [ours.name]:
            return False
        if (mounted.read_table(ours) or {}).get("token") != self.token:
            return False
        self._claim(attempt)
        return True

    def _claim(self, attempt: Path) -> None:
        claim = folder.Claim(
            pid=os.getpid(),
            start=folder.process_start(os.getpid()) or 0,
            boot_id=folder.boot_id(),
            host=os.uname().nodename,
            token=self.token,
            claimed_at=time.time(),
            job=self._job,
        )
        mounted.put_json(attempt / folder.CLAIM, dataclasses.asdict(claim))

    def _open(self, number: int, before: Path) -> None:
        """Make an attempt with the intent of the one before; it is bid for like any other."""
        target = self.there / f"a{number}"
        intent = mounted.read_table(before / folder.INTENT) or {}
        if not target.exists():  # else a controller that had given this job up has made it
            mounted.put_json(target / folder.INTENT, intent | {"asked": False, "requeued": self._job})

    @staticmethod
    def _end(attempt: Path, reason: str, error: str) -> None:
        ending = {"returncode": None, "signal": None, "reason": reason, "ended_at": time.time(), "error": error}
        mounted.put_json(attempt / folder.EXIT, ending)

    def _stands_still(self, attempt: Path) -> bool:
        try:
            lease = (attempt / folder.LEASE).read_bytes() + str(attempt).encode()
        except OSError:
            lease = str(attempt).encode()
        if lease != self._lease[0]:
            self._lease = (lease, time.monotonic())
        return time.monotonic() - self._lease[1] > self._pace.still

    # ------------------------------------------------------------ what the attempt needs on this node

    def _taken(self, number: int, there: Path) -> Path:
        """`_brought`; where that cannot be, the storage is told why at once: a claim alone would be waited for in vain."""
        try:
            return self._brought(number)
        except (OSError, ValueError, TypeError) as error:
            with contextlib.suppress(OSError):
                if (self._storage / mounted.MARK).exists() and not (there / folder.EXIT).exists():
                    reason = (
                        "lost" if isinstance(error, OSError) else "failed"
                    )  # a disk or a mount may be well elsewhere
                    self._end(there, reason, f"its node did not begin it: {error}")
            raise

    def _brought(self, number: int) -> Path:
        """The attempt's folder here, with spec, intent, datasets and the newest checkpoint of the attempts before."""
        self.here.mkdir(parents=True, exist_ok=True)
        self._spec()
        intent = mounted.read_table(self.there / f"a{number}" / folder.INTENT) or {}
        for name, sha256 in intent.get("datasets", ()):
            self._dataset(str(name), str(sha256))
        for earlier, path in folder.attempts(self.there):
            if earlier < number:
                self._checkpoints(path, self.here / path.name)
        attempt = self.here / f"a{number}"
        if attempt.exists():  # this node ran it before, and its process was started anew: the storage has what counts
            shutil.rmtree(attempt)
        attempt.mkdir()
        folder.write_json(attempt / folder.INTENT, intent | {"data_root": str(self._node / "data")})
        return attempt

    def _spec(self) -> None:
        """Spec, optimizer file and diagnostics, each held against a hash that the task came with: nothing else is run here.

        Raises:
            ValueError: something else lies in the storage.
        """
        spec = RunSpec.from_dict(mounted.read_table(self.there / folder.SPEC) or {})
        if spec.run_id != self.here.name:
            raise ValueError(f"the spec in the storage is that of run {spec.run_id[:8]}")
        folder.write_json(self.here / folder.SPEC, spec.to_dict())
        told = self._diagnostics
        wanted = [
            (folder.OPTIMIZER, folder.OPTIMIZER, spec.optimizer_file_hash),
            (folder.DIAGNOSTICS, f"{folder.DIAGNOSTICS}.{told}", told),
        ]
        for name, there, sha256 in wanted:
            if sha256:
                content = (self.there / there).read_bytes()
                if hashlib.sha256(content).hexdigest() != sha256:
                    raise ValueError(f"{there} in the storage is not the one that was sent")
                folder.write_atomic(self.here / name, content)

    def _dataset(self, name: str, sha256: str) -> None:
        incoming = datafiles.Incoming(self._node / "data", name, sha256)
        if (incoming.final / "manifest.json").is_file():
            return
        source = self._storage / "data" / incoming.final.name
        shutil.rmtree(incoming.folder, ignore_errors=True)
        for file in datafiles.FILES:
            offset = 0
            with open(source / file, "rb") as opened:
                while piece := opened.read(1 << 23):
                    offset = incoming.write(file, offset, piece)
        incoming.publish()

    @staticmethod
    def _checkpoints(there: Path, here: Path) -> None:
        """The newest two: should the first be damaged, the other is there."""
        for _, path, _ in kept.listed(there / folder.CHECKPOINTS)[:2]:
            target = here / folder.CHECKPOINTS / path.name
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(OSError):
                    shutil.copyfile(path, target)


def job_of(environment: Mapping[str, str]) -> str:
    """The managed job's own name: SKYPILOT_TASK_ID stays the same through its recoveries (skylet/constants.py of 0.14)."""
    return environment.get("SKYPILOT_TASK_ID") or f"job-{environment.get('SKYPILOT_MANAGED_JOB_ID', 'unknown')}"


def main() -> int:
    """Read the environment, train one attempt. What follows its end is the controller's affair, or that of a recovered job."""
    environment: dict[str, Any] = dict(os.environ)
    storage = Path(cloud_start.STORAGE).expanduser()
    node = Path(cloud_start.NODE).expanduser()
    run_id, number = environment.get("OPTSWEEP_RUN", ""), environment.get("OPTSWEEP_ATTEMPT", "")
    if not folder.is_run_id(run_id) or not folder.attempt_number(f"a{number}"):
        print("optsweep: OPTSWEEP_RUN and OPTSWEEP_ATTEMPT name no attempt", file=sys.stderr)
        return EXIT_UNUSABLE
    pace = Pace.of(environment)
    threads = environment.get("OPTSWEEP_THREADS", "1")
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    job = job_of(environment)
    shim = Shim(environment, job)
    signal.signal(signal.SIGTERM, shim.stop)
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    carried = Carried(storage, node, run_id, int(number), job, pace, environment.get("OPTSWEEP_DIAGNOSTICS", ""))
    try:
        attempt = carried.next(shim)
        if attempt is not None:
            with Courier(attempt, carried.there / attempt.name, carried.token, pace, shim) as courier:
                shim.attempt(attempt)
            if not courier.delivered:
                print("optsweep: the storage could not be reached; the attempt was stopped", file=sys.stderr)
                return EXIT_CUT_OFF
    except (OSError, ValueError, TypeError) as error:
        print(f"optsweep: {error}", file=sys.stderr)
        return EXIT_UNUSABLE
    finally:
        shim.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
