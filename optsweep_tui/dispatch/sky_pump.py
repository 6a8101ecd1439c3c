"""One thread per skypilot host: submits what waits, asks the queue once for everything, reads what nodes write into the storage.

Only files in the storage say that a run began or ended. SkyPilot says that nobody will begin or go on with one any more, and
only where it answers does that count, together with a lease that has stood still. What does not answer changes nothing.
"""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Sequence
from typing import Any

from optsweep_engines import folder
from optsweep_engines.courier import Pace
from optsweep_engines.shim_batch import CONTINUED
from optsweep_tui import rundir
from optsweep_tui.dispatch import links, opening, sky_host, sky_task, told
from optsweep_tui.dispatch.mirror import Attempt
from optsweep_tui.dispatch.sky_commands import NAME, Said
from optsweep_tui.dispatch.sky_handover import Handover
from optsweep_tui.dispatch.sky_storage import Item, Listing, attempt_file

LOOK_SECONDS = 10.0
"""Between two looks at a run in a bucket: each is a request that costs something."""
NEAR_SECONDS = 0.5
"""The same in a folder of this machine."""
STILL_SECONDS = Pace().still
SICK = 3
"""So many jobs in a row that ended before their run began: nothing is submitted for a while, for each is a machine that costs."""
TORN_SECONDS = 300.0
"""How long an ended attempt is waited for whose parts or record are not all there."""
CANCEL_SECONDS = 90.0
"""A run that was told to stop saves nothing and ends by itself; after this its machine is taken away."""
AGAIN_SECONDS = 30.0
CANCELS_SECONDS = 2.0
"""Between two looks for markers."""
SCREEN_SECONDS = 2.0


class SkyPump(Handover):
    """The agreement with one host."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._seen_at: dict[str, float] = {}
        """Run -> monotonic seconds of the last look."""
        self._still: dict[Attempt, tuple[str, float]] = {}
        """Claimed -> (stamp of its lease, since when it has been the same)."""
        self._gone: dict[Attempt, tuple[float, int]] = {}
        """Unclaimed, and its job is over: (the answer that said so last, how many have)."""
        self._torn: dict[Attempt, float] = {}
        self._cancels: list[concurrent.futures.Future[Said]] = []
        self._cancel_again = self._cancels_at = 0.0
        self._looked_screen = 0.0
        self._unstarted = 0
        """Jobs in a row that ended before their run began."""

    def tick(self) -> bool:
        """See `Pump.tick`."""
        self._trouble = None
        self._prepared()
        attempts = self._open()
        for attempt in attempts:
            if self._states[attempt] != "submitting":
                self._tries.pop(attempt, None)
        soon = bool(self.held or self._gone or any(known.tried_at for known in self._tries.values()))
        if attempts or self.held:
            self._ask(soon)
        self._pass_cancels(attempts)
        self._hand_over(attempts)
        self._look_at(attempts)
        self._settle_held()
        self._screen()
        if self._away and not self._trouble:
            self._trouble = ("unreachable", self._away)
        self._say(*(self._trouble or ("connected", "")))
        return bool(attempts) or bool(self.held)

    def state(self, attempt: Attempt) -> str | None:
        """submitting, queued or running, as far as this thread knows; None: not its own."""
        return self._states.get(attempt)

    def job_of(self, attempt: Attempt) -> str:
        """Name of the job that an attempt belongs to: its own, or that of the attempt that it goes on from."""
        intent = links.read_plain(self.mirror.folder_of(attempt) / rundir.INTENT) or {}
        name = str(intent.get("requeued") or "")
        return name if NAME.fullmatch(name) else sky_task.name_of(attempt)

    def job_active(self, attempt: Attempt) -> bool | None:
        """Whether the job of an ended attempt may go on; None while the queue has not been asked since its end."""
        snapshot = self.fresh(self.ended_at.get(attempt, self.began))
        return None if snapshot is None else snapshot.active(self.job_of(attempt))

    # ------------------------------------------------------------ what nodes have written

    def _look_at(self, attempts: Sequence[Attempt]) -> None:
        """One question per run that is there, as often as it is due."""
        by_run: dict[str, list[Attempt]] = {}
        for attempt in [*attempts, *self.held]:
            if attempt in self.held or self._states.get(attempt) in ("queued", "running"):
                by_run.setdefault(attempt[0], []).append(attempt)
        wait = self.look_seconds
        for run_id, known in by_run.items():
            if self._stop or time.monotonic() - self._seen_at.get(run_id, -wait) < wait:
                continue
            listing = self.storage.listing(run_id)
            self._seen_at[run_id] = time.monotonic()
            for attempt in sorted(known):
                if attempt not in self.held:
                    self._learned(attempt, listing)
            newest, last = max(listing, default=0), max(number for _, number in known)
            for number in range(last + 1, min(newest, last + 100) + 1):
                if number in listing:
                    self._adopt((run_id, last), (run_id, number))

    def _learned(self, attempt: Attempt, listing: Listing) -> None:
        files = listing.get(attempt[1], {})
        whole = self.mirror.bring(attempt, files)
        if folder.EXIT in files:
            if folder.CLAIM in files and self._states.get(attempt) != "running":
                self._claimed(attempt)
            since = self._torn.setdefault(attempt, time.monotonic())
            late = time.monotonic() - since > TORN_SECONDS
            if (whole or late) and self.mirror.ended(attempt, files, late=late):
                self._ended_there(attempt)
        elif folder.CLAIM in files:
            if self._states.get(attempt) != "running":
                self._claimed(attempt)
            self._judge(attempt, files)
        else:
            self._unclaimed(attempt)

    def _claimed(self, attempt: Attempt) -> None:
        claim = self.storage.table(attempt_file(*attempt, folder.CLAIM)) or {}
        self._set(attempt, "running", {"claim": claim})
        self._unstarted = self._refusals = 0
        self._gone.pop(attempt, None)

    def _ended_there(self, attempt: Attempt) -> None:
        """All of an ended attempt is here. Where its job may go on, the next attempt is the job's to make."""
        self.ended_at[attempt] = time.monotonic()
        self._looked_screen = 0.0
        self._torn.pop(attempt, None)
        self._still.pop(attempt, None)
        self._gone.pop(attempt, None)
        where = self.mirror.folder_of(attempt)
        ending = links.read_plain(where / rundir.EXIT) or {}
        if ending.get("reason") in CONTINUED and not (where / rundir.RECORD).exists():
            self.held[attempt] = self.job_of(attempt)
        self._closed(attempt)

    def _judge(self, attempt: Attempt, files: dict[str, Item]) -> None:
        """Proof of death: the job is over for SkyPilot, and the lease has stood still."""
        stamp = files[folder.LEASE].stamp if folder.LEASE in files else ""
        before, since = self._still.get(attempt, (None, 0.0))
        if stamp != before:
            since = time.monotonic()
            self._still[attempt] = (stamp, since)
        snapshot = self.fresh(since)
        name = self.job_of(attempt)
        if snapshot is None or time.monotonic() - since < STILL_SECONDS or snapshot.active(name):
            return
        why = self._why(name)
        self.end_there(attempt, "lost", f"{why}, and its lease stood still for {STILL_SECONDS:g} s")

    def _unclaimed(self, attempt: Attempt) -> None:
        """Nobody has begun it. Where its job is over, twice, nobody will."""
        snapshot = self.fresh(self._queued_at.get(attempt, self.began))
        name = self.job_of(attempt)
        if snapshot is None or snapshot.active(name):
            self._gone.pop(attempt, None)
            return
        last, count = self._gone.get(attempt, (0.0, 0))
        if snapshot.started > last:
            count += 1
            self._gone[attempt] = (snapshot.started, count)
        if count < 2:
            return
        off = (self._run_folder(attempt) / rundir.CANCEL).exists()
        why = "cancelled before it began" if off else f"{self._why(name)} before the run began"
        self.end_there(attempt, "cancelled" if off else "lost", why)
        self._gone.pop(attempt, None)
        if not off:
            self._unstarted += 1
            if self._unstarted >= SICK:
                self._hold(f"host {self.entry.name}: {SICK} jobs in a row ended before their run began: {why}")

    def _why(self, name: str) -> str:
        rows = self.snapshot.rows.get(name, ()) if self.snapshot else ()
        if not rows:
            return f"managed job {name} is gone"
        row = max(rows, key=lambda row: row.job)
        return f"managed job {row.job} was {row.status.lower()}" + (f" ({row.reason})" if row.reason else "")

    def _adopt(self, old: Attempt, new: Attempt) -> None:
        """A job that was recovered has opened the next attempt itself; or another controller has."""
        self.held.pop(old, None)
        where = self.mirror.folder_of(new)
        if not where.is_dir():
            there = self.storage.table(attempt_file(*new, folder.INTENT)) or {}
            intent = links.read_plain(self.mirror.folder_of(old) / rundir.INTENT) or {"host": self.entry.name}
            intent |= {"asked": False, "why": "another controller's", "requeued": None}
            if there.get("requeued"):
                intent |= {"why": "its machine was taken away", "requeued": self.job_of(old)}
            where.mkdir(mode=0o700, exist_ok=True)
            opening.intended(where, intent)
        if not (where / rundir.EXIT).exists() and new not in self._states:
            links.mark_open(self._workspace, self.entry.name, new)
            self._set(new, "queued", {})
        self.changed.add(new[0])

    def _settle_held(self) -> None:
        """Runs of jobs that are over are the controller's again."""
        for attempt, name in list(self.held.items()):
            snapshot = self.fresh(self.ended_at.get(attempt, self.began))
            if snapshot is not None and not snapshot.active(name):
                del self.held[attempt]
                self.changed.add(attempt[0])

    # ------------------------------------------------------------ cancelling, the screen

    def _pass_cancels(self, attempts: Sequence[Attempt]) -> None:
        """Markers into the storage at once; jobs that wait are cancelled, those that run after a while."""
        now = time.monotonic()
        if now - self._cancels_at < CANCELS_SECONDS:
            return
        self._cancels_at = now
        wanted = [
            attempt for attempt in (*attempts, *self.held) if (self._run_folder(attempt) / rundir.CANCEL).exists()
        ]
        news = {run_id for run_id, _ in wanted} - set(self._cancelling)
        self.storage.cancel(sorted(news))
        self._cancelling = {run_id: self._cancelling.get(run_id, now) for run_id, _ in wanted}
        self._cancels = [future for future in self._cancels if not future.done()]
        if self.snapshot is None or self._cancels or now < self._cancel_again:
            return
        jobs = []
        for attempt in wanted:
            late = now - self._cancelling[attempt[0]] > CANCEL_SECONDS
            if late or self._states.get(attempt) == "queued" or attempt in self.held:
                jobs += [row.job for row in self.snapshot.rows.get(self.job_of(attempt), ()) if row.active]
        if jobs:
            self._cancel_again = now + AGAIN_SECONDS
            self._cancels.append(self._calls.submit(sky_host.cancelled, sorted(set(jobs))))
            self._ask_at = min(self._ask_at, now + sky_host.SOON_SECONDS)

    def _screen(self) -> None:
        """Write down for the Hosts screen what runs and how much waits."""
        if time.monotonic() - self._looked_screen < SCREEN_SECONDS:
            return
        self._looked_screen = time.monotonic()
        running = sorted(run_id for (run_id, _), state in self._states.items() if state == "running")
        slots = [{"number": number, "run_id": run_id} for number, run_id in enumerate(running)]
        look = told.look({"slots": slots, "queued": len(self._states) - len(running), "drained": self.entry.drained})
        path = links.folder_of(self._workspace, self.entry.name) / "look.json"
        links.write_plain(path, {**look, "looked_at": time.time()})
