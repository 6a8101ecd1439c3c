"""Handing attempts over to Slurm in arrays, and taking back those that nobody will begin: each exactly once."""

from __future__ import annotations

import os
import time
from pathlib import Path

from optsweep_engines import attempts as settling
from optsweep_engines import folder
from optsweep_tui import rundir
from optsweep_tui.core import read_by
from optsweep_tui.dispatch import links, slurm_commands, slurm_submit
from optsweep_tui.dispatch.lines import spec_of
from optsweep_tui.dispatch.mirror import Attempt
from optsweep_tui.dispatch.site import Parcel
from optsweep_tui.dispatch.slurm_chunks import Chunk, named
from optsweep_tui.dispatch.slurm_cluster import Cluster

GATHER_SECONDS = 0.3
"""Attempts that come one after the other are waited for, to make one array of them."""
BETWEEN_SECONDS = 2.0
"""Between two submissions of less than a whole array."""
SURE_SECONDS = 5.0
"""A submission whose answer was lost is in squeue after this, or was not taken."""
HOLD_SECONDS = (10.0, 20.0, 30.0, 60.0)
"""Waits after refusals in a row."""


class Handover(Cluster):
    """From attempts that wait to arrays that the scheduler has acknowledged."""

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
            if room <= 0 or not self._accepts(partition):
                continue
            os.sync()  # the intents, all at once: a file each would take milliseconds each
            for chunk in named(attempts[:room], partition, min(self.limits.chunk, room), self._owner):
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
        self._staged = self._place.stage(read_by(specs))
        parcels = []
        for run_id, number in chunk.attempts:
            intent = links.read_plain(self._workspace.runs / run_id / f"a{number}" / rundir.INTENT) or {}
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
        self._refused = str(refusal)
        for attempt in chunk.attempts:
            self._withdraw_one(attempt, "withdrawn", refusal.message)

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

    def _where(self, attempt: Attempt) -> Path:
        return self._workspace.runs / attempt[0] / f"a{attempt[1]}"

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
