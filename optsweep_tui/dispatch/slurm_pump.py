"""One thread per Slurm cluster: hands over what waits, asks squeue once for everything, looks at what may have changed.

Scheduler and files each know half. Only files say that a run began or ended; the scheduler says that nobody will begin or
go on with one any more, and only where it answers, twice, does that count.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence

from optsweep_engines import attempts as settling
from optsweep_engines.shim_batch import STILL_SECONDS
from optsweep_tui import rundir
from optsweep_tui.dispatch import links, opening, slurm_commands
from optsweep_tui.dispatch.mirror import Attempt
from optsweep_tui.dispatch.site import Seen
from optsweep_tui.dispatch.slurm_chunks import Chunk
from optsweep_tui.dispatch.slurm_commands import Task
from optsweep_tui.dispatch.slurm_handover import Handover

CANCEL_SECONDS = 1.0
TIDY_SECONDS = 10.0
LOOK_SECONDS = 2.0
SICK = 3
"""Tasks in a row that ended before their run began: the host is given no more for a while."""
SICK_SECONDS = 60.0
FORGOTTEN_SECONDS = 60.0
"""A task that the scheduler calls running so long after its run has ended is taken out of it: a slurmctld that was killed
before it had saved its state believes for half an hour that such tasks hold their processors."""
SWEEP = 50
"""Waiting attempts looked at in each round all the same: the scheduler may be wrong about them."""


class SlurmPump(Handover):
    """The agreement with one cluster."""

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
        self._look()
        self._say(*(self._trouble or ("connected", "")))
        return bool(attempts) or bool(self.held)

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
        intent = links.read_plain(where / rundir.INTENT) or {}
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

    def _look(self) -> None:
        """Write down for the Hosts screen what runs and how much waits: a slot per run, the rest are free."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        running = sorted(run_id for (run_id, _), state in self._states.items() if state == "running")
        names = [*running, *([None] * max(0, self._link.slots - len(running)))]
        slots = [
            {"number": number, "pid": None, "run_id": run_id, "lease_age_seconds": None}
            for number, run_id in enumerate(names)
        ]
        look = {
            "slots": slots,
            "devices": [],
            "queued": len(self._states) - len(running),
            "drained": self.entry.drained,
        }
        path = links.folder_of(self._workspace, self.entry.name) / "look.json"
        links.write_plain(path, {**look, "load": None, "free_disk_bytes": None, "looked_at": time.time()})

    def _usual_partition(self) -> str | None:
        return self.entry.partitions[0] if self.entry.partitions else None

    def state(self, attempt: Attempt) -> str | None:
        """submitting, queued or running, as far as this thread knows; None: not its own."""
        return self._states.get(attempt)

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
            self.site.call("fence", {"attempts": [list(attempt)], "gone": True, "why": why})
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
        why = self._why_unstarted(chunk, index, tasks)
        if self._withdraw_one(attempt, "lost", why):
            self._unstarted += 1
            if self._unstarted >= SICK:
                self._hold_until = time.monotonic() + SICK_SECONDS
                self._refused = f"host {self.entry.name}: {SICK} tasks in a row ended before their run began: {why}"

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

    def _adopt(self, old: Attempt, new: Attempt) -> None:
        """A task that was started again has opened the next attempt itself."""
        if new in self._states:
            return
        chunk = self.held.pop(old, None) or self.chunks.of(old)
        where = self._where(new)
        if not where.is_dir():
            where.mkdir(mode=0o700, exist_ok=True)
            intent = links.read_plain(self._where(old) / rundir.INTENT) or {"host": self.entry.name}
            opening.intended(where, {**intent, "asked": False, "requeued": f"{chunk.job if chunk else ''}"})
        links.mark_open(self._workspace, self.entry.name, new)
        self._states[new] = "queued"
        if chunk is not None:
            self.chunks.adopt(new, chunk)
        self._due.add(new)
        self.changed.add(new[0])

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

    def _tidy(self) -> None:
        """Forget arrays whose runs are all over or elsewhere; a task that still stands in the queue for one is cancelled."""
        for attempt in list(self.held):
            state = rundir.state_of(self._where(attempt).parent)
            if state.finished or state.attempt > attempt[1]:
                self.held.pop(attempt)
        self._free_processors()
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

    def _free_processors(self) -> None:
        """Cancel tasks that the scheduler still calls running long after their runs have ended."""
        if self.snapshot is None:
            return
        before, self._forgotten = self._forgotten, {}
        for chunk in self.chunks.all():
            for row in self.snapshot.rows.get(chunk.name, ()):
                running = row.indices & set(range(len(chunk.entries))) if row.state == "RUNNING" else ()
                for index in running:
                    attempt = chunk.attempts[index]
                    if attempt in self._states or attempt in self.held or not self._done_with(chunk, attempt):
                        continue
                    task = f"{row.job}_{index}"
                    self._forgotten[task] = before.get(task, self.snapshot.started)
                    if self.snapshot.started - self._forgotten[task] > FORGOTTEN_SECONDS:
                        self._scheduler("scancel", "--quiet", task)

    def _done_with(self, chunk: Chunk, attempt: Attempt) -> bool:
        """The run is over, or has gone on in another array or on another host."""
        state = rundir.state_of(self._where(attempt).parent)
        if state.finished:
            return True
        newer = (attempt[0], state.attempt)
        return state.attempt > attempt[1] and self.chunks.of(newer) is not chunk
