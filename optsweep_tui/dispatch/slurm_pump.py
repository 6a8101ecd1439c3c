"""One thread per Slurm cluster: hands over what waits, asks squeue once for everything, looks at what may have changed.

Scheduler and files each know half. Only files say that a run began or ended; the scheduler says that nobody will begin or
go on with one any more, and only where it answers, twice, does that count.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from optsweep_engines import attempts as settling
from optsweep_engines import folder
from optsweep_engines.shim_batch import STILL_SECONDS
from optsweep_tui import rundir
from optsweep_tui.dispatch import links, slurm_commands, slurm_submit
from optsweep_tui.dispatch.hostsfile import HostEntry
from optsweep_tui.dispatch.lines import spec_of
from optsweep_tui.dispatch.mirror import Attempt
from optsweep_tui.dispatch.pump import Pump
from optsweep_tui.dispatch.site import LocalSite, Parcel, Seen, Site, Staged
from optsweep_tui.dispatch.slurm_chunks import Chunk, Chunks, named
from optsweep_tui.dispatch.slurm_commands import Limits, Snapshot, Task
from optsweep_tui.dispatch.sshsite import SshSite
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace

ASK_SECONDS = 3.0
"""Between two squeue: what a site's administrators bear; files tell the rest sooner."""
ASK_AGAIN_SECONDS = 10.0
"""Between two squeue while the controller does not answer."""
CANCEL_SECONDS = 1.0
TIDY_SECONDS = 10.0
GATHER_SECONDS = 0.3
"""Attempts that come one after the other are waited for, to make one array of them."""
BETWEEN_SECONDS = 2.0
"""Between two submissions of less than a whole array."""
SURE_SECONDS = 5.0
"""A submission whose answer was lost is in squeue after this, or was not taken."""
HOLD_SECONDS = (10.0, 20.0, 30.0, 60.0)
"""Waits after refusals in a row."""
SICK = 3
"""Tasks in a row that ended before their run began: the host is given no more for a while."""
SWEEP = 50
"""Waiting attempts looked at in each round all the same: the scheduler may be wrong about them."""


class SlurmPump(Pump):
    """The agreement with one cluster."""

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
        self._sweep = 0
        self._unstarted = 0
        self._refusals = 0
        self._hold_until = 0.0
        self._trouble: tuple[str, str] | None = None
        self._accepted: set[str | None] = set()
        """Partitions whose options sbatch has taken."""
        self._staged: Staged | None = None
        self._script = ""
        self._opened: tuple[int, list[Attempt]] = (0, [])

    @property
    def local(self) -> bool:
        """The cluster sees the workspace itself."""
        return isinstance(self._place, LocalSite)

    # ------------------------------------------------------------ one agreement

    def tick(self) -> bool:
        """See `Pump.tick`. A scheduler that is away does not keep files from being looked at."""
        self._trouble = None
        ready = self._prepared()
        self.chunks.read()
        attempts = self._open()
        if ready:
            self._ask()
            self._find_submissions()
            self._hand_over()
            self._pass_cancels(attempts)
        self._look_at(self._candidates())
        if ready and time.monotonic() - self._tidied_at > TIDY_SECONDS:
            self._tidied_at = time.monotonic()
            self._tidy()
        self._say(*(self._trouble or ("connected", "")))
        return bool(attempts) or bool(self.held)

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
        if not self._accepted:
            self.accept(self.entry.partitions[0] if self.entry.partitions else None)
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

    # ------------------------------------------------------------ which attempts there are

    def _open(self) -> list[Attempt]:
        """The open attempts; new ones get their place: in the array that they went out in, or among those that wait."""
        marks = links.folder_of(self._workspace, self.entry.name) / "open"
        try:
            stamp = marks.stat().st_mtime_ns
        except FileNotFoundError:
            stamp = 0
        if stamp == self._opened[0]:
            return self._opened[1]
        found = []
        for attempt in links.open_attempts(self._workspace, self.entry.name):
            if attempt not in self._states and not self._taken_up(attempt):
                continue
            found.append(attempt)
        for attempt in set(self._states) - set(found):
            self._states.pop(attempt)
            self._waiting.pop(attempt, None)
        self._opened = (stamp, found)
        return found

    def _taken_up(self, attempt: Attempt) -> bool:
        where = self._workspace.runs / attempt[0] / f"a{attempt[1]}"
        if (where / rundir.EXIT).exists() or not where.is_dir():
            links.mark_closed(self._workspace, self.entry.name, attempt)
            return False
        intent = _plain(where / rundir.INTENT) or {}
        chunk = self.chunks.of(attempt) or self._of_job(str(intent.get("requeued") or ""))
        if chunk is not None:
            self.chunks.adopt(attempt, chunk)
            self._states[attempt] = "queued" if chunk.job else "submitting"
            self._due.add(attempt)
        elif (where / rundir.CLAIM).exists() or intent.get("requeued"):
            self._states[attempt] = "running"
        else:
            self._states[attempt] = "submitting"
            self._waiting[attempt] = str(intent.get("host", "")).partition(":")[2] or self._usual_partition()
            self._grew_at = time.monotonic()
        return True

    def _usual_partition(self) -> str | None:
        return self.entry.partitions[0] if self.entry.partitions else None

    def _of_job(self, job: str) -> Chunk | None:
        array = job.partition("_")[0]
        return next((chunk for chunk in self.chunks.all() if chunk.job and chunk.job == array), None)

    def state(self, attempt: Attempt) -> str | None:
        """submitting, queued or running, as far as this thread knows; None: not its own."""
        return self._states.get(attempt)

    # ------------------------------------------------------------ what the scheduler says

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

    def task_active(self, attempt: Attempt, job: str | None) -> bool | None:
        """Whether the task that ran an attempt may run again; None while the scheduler has not said so since its end."""
        chunk = self.chunks.of(attempt) or self._of_job(job or "")
        if chunk is None:
            return False
        snapshot = self._fresh(self.ended_at.get(attempt, self.began))
        return None if snapshot is None else snapshot.active(chunk.name, self._index(chunk, attempt))

    # ------------------------------------------------------------ handing over

    def _hand_over(self) -> None:
        """Make arrays of what waits, as many as the limits allow, and hand them over."""
        now = time.monotonic()
        if not self._waiting or self.entry.drained or now < self._hold_until:
            return
        assert self.limits is not None
        if now - self._grew_at < GATHER_SECONDS and len(self._waiting) < self.limits.chunk:
            return
        if len(self._waiting) < self.limits.chunk and now - self._sent_at < BETWEEN_SECONDS:
            return
        by_partition: dict[str | None, list[Attempt]] = {}
        for attempt, partition in self._waiting.items():
            by_partition.setdefault(partition, []).append(attempt)
        for partition, attempts in by_partition.items():
            room = self._room(partition)
            if room <= 0:
                continue
            os.sync()  # the intents, all at once: a file each would take milliseconds each
            for chunk in named(attempts[:room], partition, min(self.limits.chunk, room)):
                self.chunks.save(chunk)
                if not self._send(chunk):
                    return
        self._sent_at = time.monotonic()

    def _room(self, partition: str | None) -> int:
        """How many more tasks may be in the scheduler."""
        assert self.limits is not None
        most = self.entry.options(partition).max_submitted or max(1, self.limits.max_jobs // 2)
        known = {chunk.name for chunk in self.chunks.all()}
        listed = set(self.snapshot.rows) if self.snapshot else set()
        unlisted = sum(len(chunk.entries) for chunk in self.chunks.all() if chunk.name in known - listed)
        return most - unlisted - (self.snapshot.active_count if self.snapshot else 0)

    def _send(self, chunk: Chunk) -> bool:
        """One sbatch. Whatever comes of it is either known, or asked for by name before it is tried again."""
        assert self._staged is not None
        options = self.entry.options(chunk.partition)
        self._bring(chunk)
        body = slurm_submit.manifest(chunk.entries, self._staged, self.entry, options)
        manifest = self._place.write(f"slurm/{chunk.name}.json", body)
        output = manifest.removesuffix(".json") + ".txt"
        argv = slurm_submit.arguments(
            chunk.name, len(chunk.entries), options, chunk.partition, self._batch_script(), output
        )
        chunk.tries, chunk.tried_at = chunk.tries + 1, time.time()
        try:
            returncode, text, error = self._scheduler(*argv, *slurm_submit.command(self._staged, manifest))
        finally:
            self._tried_at[chunk.name] = time.monotonic()
        for attempt in chunk.attempts:
            self._waiting.pop(attempt, None)
        job = slurm_commands.job_id(text) if returncode == 0 else None
        if job is not None:
            self._acknowledge(chunk, job)
            self._refusals = 0
            return True
        kind = slurm_commands.meaning(returncode, error)
        if kind in ("busy", "refused") and not text.strip():
            self._put_back(chunk, error, kind)
            return False
        chunk.error = slurm_commands.one_line(error)
        self.chunks.save(chunk)
        self._ask_at = min(self._ask_at, time.monotonic() + SURE_SECONDS)
        self._trouble = (
            "unreachable",
            f"host {self.entry.name}: sbatch says: {chunk.error}; asking by name before any retry",
        )
        return False

    def _bring(self, chunk: Chunk) -> None:
        """Data and attempts onto the machine; on a shared folder they are there."""
        if self.local:
            return
        specs = [spec_of(self._workspace, run_id) for run_id, _ in chunk.attempts]
        self._staged = self._place.stage({(spec.dataset, spec.dataset_hash) for spec in specs if spec.dataset_hash})
        parcels = []
        for run_id, number in chunk.attempts:
            intent = _plain(self._workspace.runs / run_id / f"a{number}" / rundir.INTENT) or {}
            intent |= {"data_root": self._staged.data}
            parcels.append(Parcel(run_id=run_id, attempt=number, intent=intent, enqueue=False))
        self._place.put(parcels)

    def _acknowledge(self, chunk: Chunk, job: str) -> None:
        chunk.job, chunk.error = job, ""
        self.chunks.save(chunk)
        for attempt in chunk.attempts:
            if self._states.get(attempt) == "submitting":
                self._states[attempt] = "queued"
                self.changed.add(attempt[0])

    def _put_back(self, chunk: Chunk, error: str, kind: str) -> None:
        """Nothing was taken, and that is sure: the attempts wait, or (a refusal that will not pass) are taken back."""
        self.chunks.remove(chunk)
        self._hold_until = time.monotonic() + HOLD_SECONDS[min(self._refusals, len(HOLD_SECONDS) - 1)]
        self._refusals += 1
        if kind == "busy":
            self._waiting = {**dict.fromkeys(chunk.attempts, chunk.partition), **self._waiting}
            return
        self._accepted.discard(chunk.partition)
        refusal = self._refusal(error, chunk.partition)
        for attempt in chunk.attempts:
            self._withdraw_one(attempt, "withdrawn", refusal.message)
        self._trouble = ("refused", str(refusal))

    def _find_submissions(self) -> None:
        """Arrays of which it is not known whether they were taken: asked for by name, then by the claims of their runs."""
        for chunk in self.chunks.all():
            if chunk.job is not None:
                continue
            tried = self._tried_at.get(chunk.name)
            snapshot = self._fresh(self.began if tried is None else tried + SURE_SECONDS)
            if snapshot is None:
                continue
            jobs = snapshot.jobs(chunk.name)
            if jobs:
                self._acknowledge(chunk, jobs[0])
                continue
            claims = [seen.claim.get("job") for seen in self._place.seen(chunk.attempts).values()]
            claimed = next((str(job) for job in claims if job), None)
            if claimed is not None:
                self._acknowledge(chunk, claimed.partition("_")[0])
            elif time.monotonic() >= self._hold_until and not self._send(chunk):
                return

    # ------------------------------------------------------------ what files say

    def _candidates(self) -> list[Attempt]:
        """Attempts that may have changed: those that run, those that the scheduler does not list as waiting, a few others."""
        found = {attempt for attempt, state in self._states.items() if state == "running"}
        found |= self._due & set(self._states)
        found |= set(self.held)
        self._due.clear()
        others = self._opened[1]
        if others:
            start = self._sweep % len(others)
            found |= {attempt for attempt in others[start : start + SWEEP] if attempt not in self._waiting}
            self._sweep = start + SWEEP
        return sorted(found)

    def _look_at(self, attempts: Sequence[Attempt]) -> None:
        if not attempts:
            return
        rows = self._place.seen(attempts)
        ended, live = [], []
        for attempt, seen in rows.items():
            if seen.newest > attempt[1]:
                self._adopt(attempt, (attempt[0], seen.newest))
            if attempt in self.held:
                continue
            if seen.phase == "waiting":
                self._unclaimed(attempt, seen)
            elif seen.phase == "absent":
                self._absent(attempt)
            elif seen.phase == "ended" or (seen.phase == "silent" and self._settled_here(attempt)):
                ended.append(attempt)
            else:
                live.append(attempt)
                self._running(attempt, seen)
        if not self.local and (live or ended):
            self._place.refresh(live + ended)
        for attempt in ended:
            self._over(attempt)

    def _where(self, attempt: Attempt) -> Path:
        return self._workspace.runs / attempt[0] / f"a{attempt[1]}"

    def _settled_here(self, attempt: Attempt) -> bool:
        return self.local and settling.settle(self._where(attempt))

    def _running(self, attempt: Attempt, seen: Seen) -> None:
        self._unstarted = 0
        self._gone.pop(attempt, None)
        if self._states.get(attempt) != "running":
            self._states[attempt] = "running"
            self.changed.add(attempt[0])
            if seen.phase == "foreign" or not self.local:
                self._note(attempt, seen)
        if seen.phase == "foreign":
            self._judge(attempt, seen)

    def _note(self, attempt: Attempt, seen: Seen) -> None:
        """Say in the workspace that it runs, where this machine cannot see that by a lock."""
        known = ("pid", "start", "boot_id", "host", "claimed_at", "job")
        claim = {key: seen.claim[key] for key in known if key in seen.claim}
        data = {"host": self.entry.name, "state": "running", "claim": claim, "changed_at": time.time()}
        with contextlib.suppress(FileNotFoundError):
            links.write_plain(self._where(attempt) / rundir.REMOTE, data)

    def _judge(self, attempt: Attempt, seen: Seen) -> None:
        """Proof of death for a claim of another node: its task is over for the scheduler, and its lease stands still."""
        now = time.monotonic()
        renewed = now - (seen.lease_age_seconds or 0.0)
        before, since = self._still.get(attempt, (renewed, now))
        if abs(renewed - before) > 2.0:
            before, since = renewed, now
        self._still[attempt] = (before, since)
        job = str(seen.claim.get("job") or "")
        snapshot = self._fresh(since)
        if now - since < STILL_SECONDS or snapshot is None:
            return
        task = snapshot.task_of(job)
        if task is not None and task.active:
            return
        why = f"slurm job {job} is {task.state if task else 'gone'} and its lease stood still for {STILL_SECONDS:g} s"
        if self.local:
            settling.settle(self._where(attempt), why, gone=True)
        else:
            self.site.call("fence", {"attempts": [list(attempt)], "gone": True})
        self._due.add(attempt)

    def _unclaimed(self, attempt: Attempt, seen: Seen) -> None:
        """Nobody has begun it. Where no task is left that could, it is ended: by a claim, so that none can."""
        chunk = self.chunks.of(attempt)
        if chunk is None or chunk.job is None:
            return
        self._due.add(attempt)
        if (self._where(attempt).parent / rundir.CANCEL).exists():
            self._withdraw_one(attempt, "cancelled", "cancelled before it began")
            return
        snapshot = self._fresh(self._tried_at.get(chunk.name, self.began) + 1.0)
        index = self._index(chunk, attempt)
        if snapshot is None or snapshot.active(chunk.name, index):
            self._gone.pop(attempt, None)
            return
        last, count = self._gone.get(attempt, (0.0, 0))
        if snapshot.started > last:
            self._gone[attempt] = (snapshot.started, count + 1)
        if self._gone[attempt][1] < 2:
            return
        tasks = snapshot.tasks(chunk.name, index)
        if self._withdraw_one(attempt, "lost", self._why_unstarted(chunk, index, tasks)):
            self._unstarted += 1
            if self._unstarted >= SICK:
                self._hold_until = time.monotonic() + HOLD_SECONDS[-1]
                self._trouble = (
                    "refused",
                    f"host {self.entry.name}: {SICK} tasks in a row ended before their run began",
                )

    def _why_unstarted(self, chunk: Chunk, index: int, tasks: Sequence[Task]) -> str:
        job = f"{chunk.job}_{index}"
        words = tasks[0].state.lower() if tasks else "gone"
        returncode, text, _ = (
            self._scheduler("scontrol", "show", "job", job, "-o") if self._unstarted < SICK else (1, "", "")
        )
        if returncode == 0:
            words += f", exit code {slurm_commands.details(text).get('ExitCode', 'unknown')}"
        said = self._last_word(chunk)
        return f"slurm job {job} was {words} before the run began" + (f": {said}" if said else "")

    def _last_word(self, chunk: Chunk) -> str:
        """The last line that tasks of an array printed."""
        if not self.local:
            return ""
        path = links.folder_of(self._workspace, self.entry.name) / "slurm" / f"{chunk.name}.txt"
        try:
            lines = path.read_text(errors="replace").strip().splitlines()
        except OSError:
            return f"it wrote nothing to {path}; do the nodes see that folder?"
        return lines[-1][:200] if lines else ""

    def _absent(self, attempt: Attempt) -> None:
        """Its folder is not there: taken away, or never brought."""
        if attempt in self._waiting or self._states.get(attempt) == "submitting":
            return
        if not self.local and self._where(attempt).is_dir():
            self._end_here(attempt, "lost", "its cluster does not have it any more")
        else:
            self._closed(attempt)

    def _withdraw_one(self, attempt: Attempt, reason: str, error: str) -> bool:
        """End an attempt that nobody has claimed; False where somebody has."""
        self._waiting.pop(attempt, None)
        where = self._where(attempt)
        on_its_way = self.chunks.of(attempt) is not None
        if self.local or not on_its_way:
            if not settling.withdraw(where, reason, error):
                return False
            self._over(attempt)
            return True
        self._withdraw([attempt], reason)
        self._due.add(attempt)
        return True

    def _over(self, attempt: Attempt) -> None:
        """All of an ended attempt is here."""
        if not (self._where(attempt) / rundir.EXIT).exists():
            self._due.add(attempt)
            return
        self.ended_at[attempt] = time.monotonic()
        self._ask_at = min(self._ask_at, time.monotonic() + 0.5)
        self._gone.pop(attempt, None)
        self._still.pop(attempt, None)
        self._closed(attempt)

    def _end_here(self, attempt: Attempt, reason: str, error: str) -> None:
        ending = {"returncode": None, "signal": None, "reason": reason, "error": error, "ended_at": time.time()}
        folder.write_json(self._where(attempt) / rundir.EXIT, ending)
        self._over(attempt)

    def _adopt(self, old: Attempt, new: Attempt) -> None:
        """A task that was started again has opened the next attempt itself."""
        if new in self._states:
            return
        chunk = self.held.pop(old, None) or self.chunks.of(old)
        where = self._where(new)
        if not where.is_dir():
            where.mkdir(mode=0o700, exist_ok=True)
            intent = _plain(self._where(old) / rundir.INTENT) or {"host": self.entry.name}
            with contextlib.suppress(FileExistsError):
                folder.write_new(
                    where / rundir.INTENT,
                    _line({**intent, "asked": False, "requeued": f"{chunk.job if chunk else ''}"}),
                )
        links.mark_open(self._workspace, self.entry.name, new)
        self._states[new] = "queued"
        if chunk is not None:
            self.chunks.adopt(new, chunk)
        self._due.add(new)
        self.changed.add(new[0])

    # ------------------------------------------------------------ cancelling, tidying

    def _pass_cancels(self, attempts: Sequence[Attempt]) -> None:
        """Markers to the machine, scancel to the scheduler; a run that waits here ends here."""
        if time.monotonic() - self._cancels_at < CANCEL_SECONDS:
            return
        self._cancels_at = time.monotonic()
        wanted = {*attempts, *self.held}
        marked = [
            attempt for attempt in wanted if os.path.exists(f"{self._workspace.runs}/{attempt[0]}/{rundir.CANCEL}")
        ]
        news = [attempt for attempt in marked if attempt[0] not in self._told]
        if not news:
            self._told &= {run_id for run_id, _ in marked}
            return
        for attempt in news:
            if attempt in self._waiting:
                self._withdraw_one(attempt, "cancelled", "cancelled before it was submitted")
        if not self.local:
            self._place.cancel(sorted({run_id for run_id, _ in news}))
        if self.scancel(news):
            self._told |= {run_id for run_id, _ in news}

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

    def _tidy(self) -> None:
        """Forget arrays whose runs are all over or elsewhere; a task that still stands in the queue for one is cancelled."""
        for attempt in list(self.held):
            state = rundir.state_of(self._where(attempt).parent)
            if state.finished or state.attempt > attempt[1]:
                self.held.pop(attempt)
        for chunk in self.chunks.all():
            if chunk.job is None or any(attempt in self._states or attempt in self.held for attempt in chunk.attempts):
                continue
            if not all(self._done_with(chunk, attempt) for attempt in chunk.attempts):
                continue
            snapshot = self._fresh(
                max((self.ended_at.get(attempt, self.began) for attempt in chunk.attempts), default=0.0)
            )
            if snapshot is None:
                continue
            if any(snapshot.active(chunk.name, index) for index in range(len(chunk.entries))):
                self._scheduler("scancel", "--quiet", f"--name={chunk.name}")
                continue
            self.chunks.remove(chunk)
            if self.local:
                where = links.folder_of(self._workspace, self.entry.name) / "slurm"
                for suffix in (".json", ".txt"):
                    (where / f"{chunk.name}{suffix}").unlink(missing_ok=True)

    def _done_with(self, chunk: Chunk, attempt: Attempt) -> bool:
        """The run is over, or has gone on in another array or on another host."""
        state = rundir.state_of(self._where(attempt).parent)
        if state.finished:
            return True
        newer = (attempt[0], state.attempt)
        return state.attempt > attempt[1] and self.chunks.of(newer) is not chunk


def _plain(path: Path) -> dict[str, Any] | None:
    try:
        data = folder.read_json(path)
    except (ValueError, OSError):
        return None
    return data if isinstance(data, dict) else None


def _line(data: dict[str, Any]) -> bytes:
    return (json.dumps(data, sort_keys=True) + "\n").encode()
