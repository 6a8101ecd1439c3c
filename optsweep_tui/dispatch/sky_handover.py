"""From attempts that wait to managed jobs that SkyPilot has acknowledged: each exactly once, whatever answer is lost."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import time
from pathlib import Path
from typing import Any

from optsweep_engines import datafiles, folder
from optsweep_tui import rundir
from optsweep_tui.core import read_by
from optsweep_tui.dispatch import links, sky_commands, sky_host, sky_pieces, sky_task
from optsweep_tui.dispatch.lines import spec_of
from optsweep_tui.dispatch.mirror import Attempt
from optsweep_tui.dispatch.sky_commands import Said
from optsweep_tui.dispatch.sky_host import SkyHost
from optsweep_tui.dispatch.sky_storage import attempt_file
from optsweep_tui.errors import OptsweepError

SURE_SECONDS = 900.0
"""A submission whose answer was lost is in the queue after this, or was not taken: SkyPilot's server works on by itself, and
the first job of all waits for its controller to come up."""


@dataclasses.dataclass(kw_only=True)
class Try:
    """What is remembered of a submission until it is acknowledged: a file, for this process may die."""

    tried_at: float = 0.0
    """Unix seconds at which the last process of `sky` was started; 0: none was."""
    tries: int = 0
    error: str = ""
    refused: bool = False
    """The answer was a refusal; it counts once the queue has said that no job of that name is there."""
    asked_after: float = 0.0
    """Monotonic seconds of this process: only an answer to a later question counts."""


class Handover(SkyHost):
    """See above."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._launching: dict[Attempt, concurrent.futures.Future[Said]] = {}
        self._tries: dict[Attempt, Try] = {}
        self._cancelling: dict[str, float] = {}
        """Run with a cancel marker -> monotonic seconds at which it was there."""
        self._noted: set[Attempt] = set()
        """Attempts whose note, if there was one, has been read."""
        self._queued_at: dict[Attempt, float] = {}
        """Monotonic seconds at which a job was acknowledged: what the queue said before says nothing of it."""
        self.awaited: dict[Attempt, str] = {}
        """Attempts of which it is not known whether they were submitted -> that in words."""

    def _hand_over(self, attempts: list[Attempt]) -> None:
        """Submit what waits, as many as may be; settle what is not known to have been taken."""
        self._take_answers()
        room = self._room(attempts)
        for attempt in attempts:
            if self._states.get(attempt) != "submitting" or attempt in self._launching:
                continue
            known = self._tries.get(attempt) or self._remembered(attempt)
            if known is not None and known.tried_at:
                self._find(attempt, known)
                continue
            if attempt[0] in self._cancelling and (self._run_folder(attempt) / rundir.CANCEL).exists():
                self._end_here(attempt, "cancelled", "cancelled before it was submitted")
            elif room > 0 and not self.entry.drained and self._accepts():
                room -= self._begin(attempt, known)
        if self._refused and time.monotonic() < self._hold_until:
            self._trouble = ("refused", self._refused)

    def _run_folder(self, attempt: Attempt) -> Path:
        return self._workspace.runs / attempt[0]

    def _room(self, attempts: list[Attempt]) -> int:
        known = self.snapshot.rows if self.snapshot else {}
        active = self.snapshot.active_count if self.snapshot else 0
        unlisted = [
            attempt
            for attempt in attempts
            if (self._states.get(attempt) != "submitting" or attempt in self._launching)
            and sky_task.name_of(attempt) not in known
        ]
        return self.most - active - len(unlisted)

    def _begin(self, attempt: Attempt, known: Try | None) -> int:
        """Bring an attempt into the storage and submit its job; 0 where nothing was submitted."""
        listing = self.storage.listing(attempt[0])
        there = listing.get(attempt[1], {})
        if max(listing, default=0) > attempt[1]:
            self._end_here(attempt, "stale", "a newer attempt of this run is in the storage already")
            return 0
        if folder.EXIT in there or folder.CLAIM in there:
            self._acknowledge(attempt)
            return 0
        if folder.INTENT in there and known is None:  # another controller's: its job is asked for by name
            self._keep(attempt, Try(tried_at=time.time(), asked_after=time.monotonic()))
            return 0
        known = known or Try()
        self._keep(attempt, known)
        self._bring(attempt)
        self._awaits_nothing(attempt)
        path = sky_host.folder_of(self._workspace, self.entry) / f"{sky_task.name_of(attempt)}.yaml"
        text = sky_pieces.yaml_of(self._workspace, self.entry, attempt)
        before = functools.partial(self._calls.begin, functools.partial(self._starts, attempt, known))
        self._launching[attempt] = self._calls.submit(sky_host.launched, path, text, self.entry, attempt, before)
        return 1

    def _starts(self, attempt: Attempt, known: Try) -> None:
        """Note on the disk that `sky` is started now. In a thread of `Calls`; the host's own leaves `known` alone meanwhile."""
        now, tries = time.time(), known.tries + 1
        self._write(attempt, dataclasses.replace(known, tried_at=now, tries=tries, error="", refused=False))
        known.tried_at, known.tries, known.error, known.refused = now, tries, "", False

    def _bring(self, attempt: Attempt) -> None:
        """Spec, what lies beside it, datasets, and the intent last."""
        run_id, number = attempt
        spec = spec_of(self._workspace, run_id)
        datasets = read_by([spec])
        for name, sha256 in datasets:
            here = self._workspace.data / f"{name}-{sha256[:12]}"
            if not (here / "manifest.json").is_file():
                raise OptsweepError(f"{here}: dataset {name} is not prepared here", "optsweep run prepares it")
            for file in datafiles.FILES:
                self.storage.bring(f"data/{here.name}/{file}", here / file)
        run_folder = self._run_folder(attempt)
        self.storage.remove(f"runs/{run_id}/{folder.CANCEL}")  # a run that was cancelled may be asked for again
        body = json.dumps(rundir.read_spec(run_folder).to_dict(), sort_keys=True, allow_nan=False)
        self.storage.write(f"runs/{run_id}/{folder.SPEC}", body.encode() + b"\n")
        if (run_folder / folder.OPTIMIZER).exists():
            self.storage.write(f"runs/{run_id}/{folder.OPTIMIZER}", (run_folder / folder.OPTIMIZER).read_bytes())
        asked = sky_pieces.diagnostics_of(self._workspace, attempt)
        if asked is not None:
            self.storage.write(f"runs/{run_id}/{folder.DIAGNOSTICS}.{hashlib.sha256(asked).hexdigest()}", asked)
        intent = links.read_plain(run_folder / f"a{number}" / rundir.INTENT) or {}
        data = json.dumps(sky_host.json_intent(intent, datasets), sort_keys=True).encode() + b"\n"
        self.storage.write(attempt_file(run_id, number, folder.INTENT), data)

    def _take_answers(self) -> None:
        if self._stop:
            return  # the next controller asks by name for what was begun
        for attempt, future in list(self._launching.items()):
            if not future.done():
                continue
            del self._launching[attempt]
            said, known = future.result(), self._tries.get(attempt)
            if known is None or attempt not in self._states:
                continue  # what became of it is known already
            known.asked_after = time.monotonic()
            if said.returncode == 0:
                self._acknowledge(attempt)
                continue
            kind = sky_commands.meaning(said)
            known.error, known.refused = said.words, kind == "refused"
            if kind in ("missing", "refused") or not known.tried_at:  # where it never started, that is sure
                self._refuse(said)
            self._keep(attempt, known)

    def _acknowledge(self, attempt: Attempt) -> None:
        self._queued_at[attempt] = time.monotonic()
        self._refusals = 0
        self.awaited.pop(attempt, None)
        self._set(attempt, "queued", {})
        self._forget(attempt)

    def _find(self, attempt: Attempt, known: Try) -> None:
        """A submission of which it is not known whether it was taken: asked for by name, then by its claim."""
        name = sky_task.name_of(attempt)
        snapshot = self.fresh(known.asked_after)
        if known.error and not known.refused:
            words = f"host {self.entry.name}: sky says: {known.error}; asking by name before any retry"
            self._trouble = ("unreachable", words)
        if snapshot is not None and name in snapshot.rows:
            self._acknowledge(attempt)
            return
        if not known.refused:
            self._wait(attempt, known)
        if snapshot is None:
            return
        there = self.storage.listing(attempt[0]).get(attempt[1], {})
        if folder.CLAIM in there or folder.EXIT in there:
            self._acknowledge(attempt)
        elif known.refused:
            self.end_there(attempt, "withdrawn", known.error)
            self._forget(attempt)
            self._end_here(attempt, "withdrawn", known.error)
        elif time.time() - known.tried_at > SURE_SECONDS and self._accepts():
            self._begin(attempt, known)

    def _wait(self, attempt: Attempt, known: Try) -> None:
        """Tell what a run waits for, once, where `show` finds it."""
        until = known.tried_at + SURE_SECONDS
        when = time.strftime("until %H:%M", time.localtime(until)) if time.time() < until else "until sky answers"
        words = f"not known whether managed job {sky_task.name_of(attempt)} was submitted: asked again {when}"
        if self.awaited.get(attempt) != words:
            self.awaited[attempt] = words
            self._set(attempt, "submitting", {}, waits=words)

    def _awaits_nothing(self, attempt: Attempt) -> None:
        """It is submitted again: nothing is waited for."""
        if self.awaited.pop(attempt, None):
            self._set(attempt, "submitting", {})

    def _closed(self, attempt: Attempt) -> None:
        self.awaited.pop(attempt, None)
        super()._closed(attempt)

    def end_there(self, attempt: Attempt, reason: str, error: str) -> None:
        """Write the end of an attempt into the storage: no task that comes late begins it."""
        ending = {"returncode": None, "signal": None, "reason": reason, "error": error, "ended_at": time.time()}
        self.storage.write(attempt_file(*attempt, folder.EXIT), json.dumps(ending, sort_keys=True).encode() + b"\n")

    # ------------------------------------------------------------ what is remembered

    def _note(self, attempt: Attempt) -> Path:
        return sky_host.folder_of(self._workspace, self.entry) / f"{sky_task.name_of(attempt)}.json"

    def _remembered(self, attempt: Attempt) -> Try | None:
        data = None if attempt in self._noted else links.read_plain(self._note(attempt))
        self._noted.add(attempt)
        if data is None:
            return None
        found = Try(
            tried_at=float(data.get("tried_at") or 0.0),
            tries=int(data.get("tries") or 0),
            error=str(data.get("error") or ""),
            refused=data.get("refused") is True,
            asked_after=self.began,
        )
        self._tries[attempt] = found
        return found

    def _keep(self, attempt: Attempt, known: Try) -> None:
        self._tries[attempt] = known
        self._write(attempt, known)

    def _write(self, attempt: Attempt, known: Try) -> None:
        path = self._note(attempt)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.write_json(path, {key: value for key, value in vars(known).items() if key != "asked_after"})

    def _forget(self, attempt: Attempt) -> None:
        self._tries.pop(attempt, None)
        for path in (self._note(attempt), self._note(attempt).with_suffix(".yaml")):
            path.unlink(missing_ok=True)
