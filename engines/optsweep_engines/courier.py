"""Carries what an attempt writes on this node to the storage while it trains, and holds its lease there; stdlib only."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from optsweep_engines import folder, kept, mounted
from optsweep_engines.shim import LEASE_SECONDS, Shim

SLOW_SECONDS = 60.0
"""Longest time between two deliveries: an attempt of many hours stays below some thousand parts."""
KEPT_CHECKPOINTS = 2
LAST_SECONDS = 600.0
"""How long the last delivery is tried."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pace:
    """How slow everything is, in seconds; tests are faster."""

    lease: float = LEASE_SECONDS
    """Between two renewals of the lease in the storage, and two deliveries of what was written."""
    still: float = 12 * LEASE_SECONDS
    """A lease that has not moved for so long, watched from here by one clock, has no holder."""
    settle: float = 15.0
    """What one node has written all others see within this: mounts keep what they know for 5 s
    (_STAT_CACHE_TTL of SkyPilot 0.14's mounting_utils)."""
    checkpoint: float = 300.0
    """Between two checkpoints that are carried; the last one before an end always is."""

    @property
    def fence(self) -> float:
        """A holder that could not renew its lease for so long stops its engine: KILL comes before anybody takes over."""
        return self.still * 0.4

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Pace:
        """The usual one times OPTSWEEP_CARRIER_PACE."""
        usual, factor = cls(), float(environment.get("OPTSWEEP_CARRIER_PACE", "1"))
        return cls(
            lease=usual.lease * factor,
            still=usual.still * factor,
            settle=usual.settle * factor,
            checkpoint=usual.checkpoint * factor,
        )


class Courier:
    """Threads beside the shim, for one attempt: one holds the lease, one carries, one watches the clock."""

    def __init__(self, here: Path, there: Path, token: str, pace: Pace, shim: Shim) -> None:
        """Nothing is carried before `with`.

        Args:
            here: the attempt's folder on this node.
            there: its folder in the storage.
            token: of the claim in the storage; a lease carries it.
            pace: how often.
            shim: what is told to stop when the attempt is not ours any more.
        """
        self._here, self._there, self._token, self._pace, self._shim = here, there, token, pace, shim
        self._sent = dict.fromkeys(mounted.STREAMS, 0)
        self._seq = 0
        self._began = time.monotonic()
        self._renewed = time.monotonic()
        self._carried_at = 0.0
        self._delivered_at = 0.0
        self._end, self._left = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)
        self.delivered = False
        """All of the attempt is in the storage, its exit.json too; or it was ended there by somebody else."""

    def __enter__(self) -> Courier:
        self._renew()
        for work in (self._hold, self._guard):
            threading.Thread(target=work, name=work.__name__, daemon=True).start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(LAST_SECONDS)  # a mount may hang: nothing of it is waited for longer
        self._left.set()

    def _hold(self) -> None:
        """Renew the lease, whatever large file is on its way; stop the engine when the attempt is not ours any more."""
        while not self._left.wait(self._pace.lease):
            with contextlib.suppress(OSError):  # the storage is away: `_guard` knows for how long
                if self._over():
                    self._shim.stop(0, None)
                else:
                    self._renew()

    def _guard(self) -> None:
        """Stop the engine when the lease could not be renewed for long: whoever sees it stand still may begin soon.

        A mount that hangs holds up whoever asks it, so this is a thread that never does.
        """
        while not self._end.wait(min(1.0, self._pace.lease)):
            if time.monotonic() - self._renewed > self._pace.fence:
                self._shim.stop(0, None)

    def _run(self) -> None:
        while not self._end.wait(self._pace.lease):
            with contextlib.suppress(OSError):  # what was not carried is carried later
                self._require_mount()
                age = time.monotonic() - self._began
                if time.monotonic() - self._delivered_at >= min(SLOW_SECONDS, age / 60):
                    self._deliver()
                    self._delivered_at = time.monotonic()
                if time.monotonic() - self._carried_at >= self._pace.checkpoint:
                    self._carry_checkpoint()
        self._last()

    def _last(self) -> None:
        """All that is left, tried again and again."""
        limit = time.monotonic() + LAST_SECONDS
        while not self.delivered and time.monotonic() < limit:
            try:
                self._finish()
                self.delivered = True
            except OSError:
                time.sleep(min(5.0, self._pace.lease))

    def _over(self) -> bool:
        """The attempt was ended in the storage, or followed by another; a cancel marker is brought here on the way."""
        self._require_mount()
        run_folder = self._there.parent
        if (run_folder / folder.CANCEL).exists():
            (self._here.parent / folder.CANCEL).touch()
        if (self._there / folder.EXIT).exists():
            return True
        known = folder.attempts(run_folder)
        return bool(known) and known[-1][1].name != self._there.name

    def _renew(self) -> None:
        self._seq += 1
        mounted.put_json(
            self._there / folder.LEASE, {"token": self._token, "seq": self._seq, "renewed_at": time.time()}
        )
        self._renewed = time.monotonic()

    def _deliver(self) -> None:
        """What was written since, as parts; of metrics and events whole lines only."""
        for stream in mounted.STREAMS:
            while data := self._unsent(stream):
                name = mounted.part_name(stream, self._sent[stream], len(data))
                mounted.put(self._there / name, data)
                self._sent[stream] += len(data)

    def _unsent(self, stream: str) -> bytes:
        try:
            with open(self._here / stream, "rb") as file:
                file.seek(self._sent[stream])
                data = file.read(mounted.PART_BYTES)
        except FileNotFoundError:
            return b""
        if stream != folder.LOG and len(data) < mounted.PART_BYTES:
            return data[: data.rfind(b"\n") + 1]
        return data

    def _carry_checkpoint(self) -> None:
        """The newest one, then fewer of the old."""
        found = kept.listed(self._here / folder.CHECKPOINTS)
        target = self._there / folder.CHECKPOINTS
        if found and not (target / found[0][1].name).exists():
            try:
                mounted.put_file(target / found[0][1].name, found[0][1])
            except FileNotFoundError:
                return  # a newer one has taken its place here meanwhile
            self._carried_at = time.monotonic()
        for _, stale, _ in kept.listed(target)[KEPT_CHECKPOINTS:]:
            stale.unlink(missing_ok=True)

    def _finish(self) -> None:
        """Streams, checkpoint, record, and exit.json last."""
        if (self._there / folder.EXIT).exists():
            return  # judged dead by somebody who had waited: the attempt after this one counts
        self._require_mount()
        self._deliver()
        if (self._here / folder.RECORD).exists():
            mounted.put(self._there / folder.RECORD, (self._here / folder.RECORD).read_bytes().strip() + b"\n")
        else:
            self._carry_checkpoint()
        ending = mounted.read_table(self._here / folder.EXIT)
        if ending is None:
            cancelled = (self._here.parent / folder.CANCEL).exists()  # before the shim had begun
            ending = {"returncode": None, "signal": None, "reason": "cancelled" if cancelled else "lost"}
            ending |= {"ended_at": time.time(), "error": "it did not begin"}
        recorded = (self._here / folder.RECORD).exists()
        mounted.put_json(self._there / folder.EXIT, ending | {mounted.CARRIED: {**self._sent, folder.RECORD: recorded}})

    def _require_mount(self) -> None:
        """A mount that has gone leaves an empty folder, which would take everything."""
        if not (self._there.parents[2] / mounted.MARK).exists():
            raise OSError("the storage is not mounted")
