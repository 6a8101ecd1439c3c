"""A further machine in a run over several: a thread hears what the first one says and takes what it sends; stdlib only."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Any

from optsweep_engines import folder, kept, team
from optsweep_engines.meeting import CHECKPOINT, STATE
from optsweep_engines.run import EXIT_FAILED
from optsweep_engines.team import Gone, Place, Wire


class Membership:
    """Of one attempt."""

    def __init__(self, wire: Wire, attempt_folder: Path, process: int) -> None:
        self.wire, self.attempt_folder, self.process = wire, attempt_folder, process
        self.files: list[dict[str, Any]] | None = None
        """What the attempt begins with; None until all workers are there."""
        self.place: Place | None = None
        """Once the engines are to start."""
        self.over: str | None = None
        """Why there is nothing more to do; "" where the first machine said so."""
        self.over_since = 0.0
        self._here: set[str] = set()
        wire.patience(team.SILENT_SECONDS)
        for work in (self._hear, self._beat):
            threading.Thread(target=work, daemon=True).start()

    def _beat(self) -> None:
        while self.over is None:
            with contextlib.suppress(Gone):
                self.wire.beat("is")
            time.sleep(team.BEAT_SECONDS)

    def _hear(self) -> None:
        why = "the first machine was cut off"
        try:
            while True:
                message = self.wire.heard()
                said = message.get("do")
                if said == "begin":
                    self.files = self._wanted(message["files"])
                elif said == "file":
                    self._receive(message["name"], message["size"])
                elif said == "go":
                    told = {**message["place"], "process": self.process, "own_address": self.wire.own_address}
                    self.place = Place(**told)
                elif said == "end":
                    why = ""
                    break
        except Gone as error:
            why += f": {error}"
        except (KeyError, TypeError, ValueError, OSError) as error:
            why = f"{type(error).__name__}: {error}"
            with contextlib.suppress(Gone):
                self.wire.say(**{"is": "ended", "status": EXIT_FAILED, "error": why})
        self.over_since = time.monotonic()
        self.over = why

    @property
    def lacking(self) -> list[str]:
        """Names of files that are not here yet."""
        return [each["name"] for each in self.files or [] if each["name"] not in self._here and not self._has(each)]

    def _wanted(self, told: Any) -> list[dict[str, Any]]:
        """What the first machine says that the attempt begins with, where it can be.

        Raises:
            ValueError, KeyError, TypeError: it cannot.
        """
        if type(told) is not list or len(told) > 1:
            raise ValueError("more than one file to begin with")
        files = [{key: each[key] for key in ("kind", "run", "name", "size")} for each in told]
        for each in files:
            team.whole(each["size"], 0, team.LARGEST_FILE)
            self._target(each)
        return files

    def _target(self, each: dict[str, Any]) -> Path:
        """Where a file belongs: a checkpoint of this run, or the state that its spec says it starts from.

        Raises:
            ValueError: it is neither, or has not the name of one.
        """
        kind, name, run_id = each["kind"], team.words(each["name"], 100), team.words(each["run"], 32)
        run_folder = self.attempt_folder.parent
        if not kept.is_state_name(name) or not folder.is_run_id(run_id):
            raise ValueError(f"file name {name!r}")
        if kind == CHECKPOINT and run_id == run_folder.name:
            return self.attempt_folder / folder.CHECKPOINTS / name
        spec = folder.read_json(run_folder / folder.SPEC)
        start = spec.get("start") if isinstance(spec, dict) else None
        named = (start.get("run_id"), start.get("step")) if isinstance(start, dict) else None
        if kind == STATE and named == (run_id, kept.step_of(name)):
            return run_folder.parent / run_id / folder.KEPT / name
        raise ValueError("this run does not begin with that file")

    def _has(self, each: dict[str, Any]) -> bool:
        path = self._target(each)
        if path.exists() and kept.name_has(path, kept.sha256_of(path)):
            self._here.add(path.name)
        return path.name in self._here

    def _receive(self, name: Any, size: Any) -> None:
        [each] = [each for each in self.files or [] if each["name"] == name and each["size"] == size]
        target = self._target(each)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = target.with_name(f".{name}.{os.getpid()}.tmp")
        try:
            if not kept.name_has(target, self.wire.file_to(temporary, each["size"])):
                raise ValueError(f"{name} came with another content than its name says")
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        self._here.add(name)

    def close(self) -> None:
        """Hang up."""
        self.over = self.over or ""
        self.wire.close()
