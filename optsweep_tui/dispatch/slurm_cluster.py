"""One Slurm cluster as a pump knows it: its limits, what its sbatch accepts, and the newest answer of squeue."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable
from typing import Any, cast

from optsweep_tui.dispatch import links, slurm_commands, slurm_submit
from optsweep_tui.dispatch.hostsfile import HostEntry
from optsweep_tui.dispatch.mirror import Attempt
from optsweep_tui.dispatch.pump import Pump, host_id_of
from optsweep_tui.dispatch.site import LocalSite, Site, Staged
from optsweep_tui.dispatch.slurm_chunks import Chunk, Chunks
from optsweep_tui.dispatch.slurm_commands import Limits, Snapshot
from optsweep_tui.dispatch.sshsite import SshSite
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace

ASK_SECONDS = 3.0
"""Between two squeue: what a site's administrators bear; files tell the rest sooner."""
REFUSED_SECONDS = 15.0
"""Between two questions whether sbatch takes what it has refused: somebody may have mended it."""
ASK_AGAIN_SECONDS = 10.0
"""Between two squeue while the controller does not answer."""


class Cluster(Pump):
    """What is asked of the scheduler; nothing here changes a run."""

    def __init__(self, workspace: Workspace, site: Site, entry: HostEntry) -> None:
        super().__init__(workspace, cast(SshSite, site))
        self._place: Site = site
        self.entry = entry
        self.chunks = Chunks(workspace, entry.name)
        self.snapshot: Snapshot | None = None
        """The newest answer of squeue."""
        self.limits: Limits | None = None
        self.began = time.monotonic()
        self.held: dict[Attempt, Chunk] = {}
        """Ended attempts whose task may be started again by the scheduler: the run is its own until that is settled."""
        self.ended_at: dict[Attempt, float] = {}
        """Monotonic seconds at which an end was seen."""
        self._waiting: dict[Attempt, str | None] = {}
        """Opened, in no array yet -> partition."""
        self._grew_at = self._sent_at = self._cancels_at = self._tidied_at = 0.0
        self._ask_at = 0.0
        self._tried_at: dict[str, float] = {}
        self._due: set[Attempt] = set()
        """Waiting attempts that the scheduler does not list as pending."""
        self._gone: dict[Attempt, tuple[float, int]] = {}
        """Unclaimed, and not in the queue: (the snapshot that said so last, how many have)."""
        self._still: dict[Attempt, tuple[float, float]] = {}
        """Claimed elsewhere: (when its lease was renewed, since when it has been the same)."""
        self._forgotten: dict[str, float] = {}
        """ARRAY_INDEX that runs for the scheduler though its run is over -> monotonic seconds of the first answer so."""
        self._sweep = 0
        self._unstarted = 0
        self._refusals = 0
        self._hold_until = 0.0
        self._trouble: tuple[str, str] | None = None
        self._refused = ""
        """Why nothing is handed over until `_hold_until`: a refusal of sbatch, or tasks that cannot begin."""
        self._owner = f"{os.uname().nodename}:{workspace.root}"
        self._accepted: set[str | None] = set()
        """Partitions whose options sbatch has taken."""
        self._staged: Staged | None = None
        self._script = ""
        self._opened: tuple[int, list[Attempt]] = (0, [])

    @property
    def local(self) -> bool:
        """The cluster sees the workspace itself."""
        return isinstance(self._place, LocalSite)

    def _scheduler(self, *argv: str) -> tuple[int, str, str]:
        return self._place.scheduler(argv)

    def _prepared(self) -> bool:
        """What has to be known before anything is handed over; False while the controller does not answer.

        Raises:
            OptsweepError: Slurm is not there, or refuses what hosts.toml asks for.
        """
        if self._staged is None:
            self._staged = self._place.stage(())
            self._script = ""
            if isinstance(self._place, SshSite):  # a login node remembers places for all controllers, as any host does
                self._link = self._replaced(host_id=host_id_of(self._place.connect()))
        if self.limits is None:
            if time.monotonic() < self._ask_at:
                self._trouble = ("unreachable", self._link.error)
                return False
            returncode, text, error = self._scheduler("scontrol", "show", "config")
            if returncode == 127:
                raise OptsweepError(
                    f"host {self.entry.name}: {slurm_commands.one_line(error)}",
                    'name its login node in hosts.toml: ssh = "LOGIN"; or put Slurm\'s commands into PATH',
                )
            if returncode != 0:
                self._away(error)
                return False
            self.limits = slurm_commands.parse_config(text)
            self._link = self._replaced(slots=self.entry.slots or self._cpus(), device=self._device())
        if not self._accepts(self.entry.partitions[0] if self.entry.partitions else None) and not self._trouble:
            self._trouble = ("refused", self._refused)
        return True

    def _accepts(self, partition: str | None) -> bool:
        """Whether tasks may be handed over to a partition now; a refusal is asked about again after a while."""
        if time.monotonic() < self._hold_until and self._refused:
            return False
        if partition in self._accepted:
            self._refused = ""
            return True
        try:
            self.accept(partition)
            self._refused = ""
        except OptsweepError as error:
            self._refused = str(error)
            self._hold_until = time.monotonic() + REFUSED_SECONDS
            return False
        return True

    def _replaced(self, **values: Any) -> links.Link:
        return dataclasses.replace(self._link, **values)

    def _device(self) -> str:
        if self.entry.device != "auto":
            return self.entry.device
        return "cuda" if "gpu" in (self.entry.slurm.gres or "") else "cpu"

    def _cpus(self) -> int:
        """Runs that may go on at once: what the partitions' processors give, for the choice of hosts only."""
        returncode, text, _ = self._scheduler("sinfo", "-h", "-o", slurm_commands.SINFO_FORMAT)
        found = slurm_commands.parse_partitions(text) if returncode == 0 else []
        wanted = [part for part in found if part.name in self.entry.partitions] or [p for p in found if p.default]
        return max([1, *(part.nodes * part.cpus // (self.entry.slurm.cpus or 1) for part in wanted)])

    def accept(self, partition: str | None) -> None:
        """Have sbatch try the options of a partition without submitting anything.

        Raises:
            OptsweepError: it refuses them.
        """
        options = self.entry.options(partition)
        argv = slurm_submit.arguments("os-test", 1, options, partition, self._batch_script(), "/dev/null")
        argv.insert(1, "--test-only")
        returncode, _, error = self._scheduler(*argv)
        if returncode != 0 and slurm_commands.meaning(returncode, error) == "refused":
            raise self._refusal(error, partition)
        if returncode == 0:
            self._accepted.add(partition)

    def _refusal(self, error: str, partition: str | None) -> OptsweepError:
        name = f"{self.entry.name}:{partition}" if partition else self.entry.name
        return OptsweepError(
            f"host {name}: sbatch says: {slurm_commands.one_line(error)}", slurm_commands.hint_for(error)
        )

    def _batch_script(self) -> str:
        if not self._script:
            self._place.write(
                "slurm/README", b"Job scripts, lists of runs and what tasks printed; optsweep gc keeps it small.\n"
            )
            self._script = self._place.write("slurm/task.sh", slurm_submit.SCRIPT.encode())
        return self._script

    def _away(self, error: str) -> None:
        """The scheduler did not answer: nothing follows from that."""
        self._ask_at = time.monotonic() + ASK_AGAIN_SECONDS
        self._trouble = ("unreachable", f"host {self.entry.name}: {slurm_commands.one_line(error)}")

    def _ask(self) -> None:
        """One squeue for every array of ours."""
        now = time.monotonic()
        chunks = self.chunks.all()
        if now < self._ask_at or not chunks:
            return
        self._ask_at = now + ASK_SECONDS
        names = ",".join(chunk.name for chunk in chunks)
        argv = ("squeue", "-h", "-a", "-t", "all", "-o", slurm_commands.QUEUE_FORMAT, f"--name={names}")
        returncode, text, error = self._scheduler(*argv)
        if returncode != 0:
            self._away(error)
            return
        self.snapshot = Snapshot.of(text, now)
        self._due |= {
            attempt
            for attempt, state in self._states.items()
            if state != "running" and attempt not in self._waiting and not self._pending(attempt)
        }

    def _pending(self, attempt: Attempt) -> bool:
        chunk = self.chunks.of(attempt)
        if chunk is None or self.snapshot is None:
            return False
        tasks = self.snapshot.tasks(chunk.name, self._index(chunk, attempt))
        return bool(tasks) and all(task.state == "PENDING" for task in tasks)

    @staticmethod
    def _index(chunk: Chunk, attempt: Attempt) -> int:
        try:
            return chunk.index(attempt)
        except KeyError:  # opened by the task itself after a requeue: the same run, an attempt before it
            return next(place for place, (run_id, _) in enumerate(chunk.attempts) if run_id == attempt[0])

    def _fresh(self, since: float) -> Snapshot | None:
        """The newest answer, if it was asked for after `since` (monotonic seconds)."""
        return self.snapshot if self.snapshot is not None and self.snapshot.started > since else None

    def _of_job(self, job: str) -> Chunk | None:
        array = job.partition("_")[0]
        return next((chunk for chunk in self.chunks.all() if chunk.job and chunk.job == array), None)

    def task_active(self, attempt: Attempt, job: str | None) -> bool | None:
        """Whether the task that ran an attempt may run again; None while the scheduler has not said so since its end."""
        chunk = self.chunks.of(attempt) or self._of_job(job or "")
        if chunk is None:
            return False
        snapshot = self._fresh(self.ended_at.get(attempt, self.began))
        return None if snapshot is None else snapshot.active(chunk.name, self._index(chunk, attempt))

    def scancel(self, attempts: Iterable[Attempt]) -> bool:
        """Take tasks out of the scheduler; False while it does not answer."""
        by_job: dict[str, set[int]] = {}
        for attempt in attempts:
            chunk = self.chunks.of(attempt)
            if chunk is not None and chunk.job is not None:
                by_job.setdefault(chunk.job, set()).add(self._index(chunk, attempt))
        if not by_job:
            return True
        tasks = [f"{job}_[{slurm_commands.ranges(indices)}]" for job, indices in by_job.items()]
        returncode, _, error = self._scheduler("scancel", "--quiet", *tasks)
        if returncode != 0 and slurm_commands.meaning(returncode, error) == "unreachable":
            self._away(error)
            return False
        return True
