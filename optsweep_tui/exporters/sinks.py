"""Live copies of runs for other programs' screens: TensorBoard event files, Weights & Biases' offline logs.

A sink's own files are its memory: what was written is read back from them, so a copy goes on where it stopped, after any
kill, and no step is written twice. A half-written end is cut off (logs) or left behind (event files: a new one is begun).
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.exporters import wandb
from optsweep_tui.exporters.runs import ExportedRun, numbers
from optsweep_tui.formats import tfevents, tfrecord, wandblog, wire


class Copy(Protocol):
    """The copy of one run in one sink."""

    last_step: int
    """Highest step that is in it; -1 before the first."""
    closed: bool
    """The end of the run is in it."""

    def rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Metric lines by rising step, all above `last_step`."""

    def end(self, run: ExportedRun) -> None:
        """The run is over."""

    def close(self) -> None:
        """Let go of the file; the copy can be opened again."""


class TensorboardCopy:
    """A folder of event files for `tensorboard --logdir`."""

    def __init__(self, root: Path, run: ExportedRun) -> None:
        title = re.sub(r"[^A-Za-z0-9._-]+", "-", run.title)
        known = sorted(root.glob(f"*/{title}/"))  # a run that is in several studies stays where it began
        self._folder = known[0] if known else root / run.study / title
        self._started = run.started
        self.last_step, self.closed = -1, False
        for path in sorted(self._folder.glob(f"{tfevents.NAME}*")):
            self._recall(path)
        self._begun = self.last_step >= 0 or any(self._folder.glob(f"{tfevents.NAME}*"))
        self._run = run
        self._handle: Any = None

    def _recall(self, path: Path) -> None:
        with open(path, "rb") as handle:
            for record in tfrecord.records(handle):
                if record.problem is None and record.sound:
                    event = tfevents.parse(record.data)
                    if event.scalars:
                        self.last_step, self.closed = max(self.last_step, event.step), False
                    self.closed = True if event.ended is not None else self.closed

    def _write(self, *events: bytes) -> None:
        if self._handle is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            number = sum(1 for _ in self._folder.glob(f"{tfevents.NAME}*"))
            # Their reader takes files in the order of their names; the time in it is that of the run, then a count.
            name = f"{tfevents.NAME}.{int(self._started):010d}.optsweep.{number:04d}"
            self._handle = open(self._folder / name, "xb", buffering=0)  # noqa: SIM115 - kept open over many calls
            first = [tfevents.put_version(self._started)]
            if not self._begun:
                configuration = self._run.configuration()
                knobs = configuration.pop("hyperparameters", None) or {}
                first.append(tfevents.put_hparams(self._started, {**configuration, **knobs}, self._run.run_id))
            self._handle.write(b"".join(map(tfrecord.frame, first)))
            self._begun = True
        self._handle.write(b"".join(map(tfrecord.frame, events)))

    def rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """One event per line, all its numbers together."""
        events = []
        for row in rows:
            values = numbers(dict(row))
            seconds = values.pop("train_seconds", math.nan)
            at = self._started + (seconds if math.isfinite(seconds) else 0.0)
            events.append(tfevents.put_scalars(at, row["step"], values.items()))
            self.last_step, self.closed = row["step"], False
        if events:
            self._write(*events)

    def end(self, run: ExportedRun) -> None:
        """How it ended, for the hparams tab."""
        failed = run.state.state in wandb.FAILED
        self._write(tfevents.put_end(time.time(), tfevents.FAILURE if failed else tfevents.SUCCESS))
        self.closed = True

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None


class WandbCopy:
    """An offline run that `wandb sync` uploads, while it grows or afterwards."""

    def __init__(self, root: Path, run: ExportedRun) -> None:
        self._run = run
        found = sorted(root.glob(f"offline-run-*-{run.run_id}/run-{run.run_id}.wandb"))
        self._path = found[0] if found else root / wandb.folder_name(run) / f"run-{run.run_id}.wandb"
        self._place = self._number = 0
        self.last_step, self.closed = -1, False
        if found:
            self._recall()
        self._handle: Any = None
        self._log: wandblog.LogWriter | None = None

    def _recall(self) -> None:
        """Where the last line of the history ends: whatever stands behind it is written again."""
        with open(self._path, "rb") as handle:
            if handle.read(len(wandblog.HEADER)) != wandblog.HEADER:
                return
            for count, record in enumerate(wandblog.records(handle), start=1):
                if record.problem is not None:
                    return
                kind, message = wandblog.parts_of(record.data)
                if kind == wandblog.EXIT:
                    self.closed = True
                elif kind in (wandblog.HISTORY, wandblog.RUN):
                    self._place, self._number, self.closed = record.end, count, False
                    if kind == wandblog.HISTORY:
                        self.last_step = max(self.last_step, _step_of(message))

    def _open(self) -> wandblog.LogWriter:
        if self._log is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            (self._path.parent / "files").mkdir(exist_ok=True)
            self._handle = open(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0)  # noqa: SIM115
            self._handle.truncate(self._place)
            self._handle.seek(self._place)
            self._log = wandblog.LogWriter(self._handle, self._number)
            if self._number == 0:
                self._log.append(wandblog.RUN, wandb.begin(self._run))
        return self._log

    def rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """One line of the history each."""
        for row in rows:
            self._open().append(wandblog.HISTORY, wandb.line(self._run, dict(row)))
            self.last_step, self.closed = row["step"], False

    def end(self, run: ExportedRun) -> None:
        """Summary and exit."""
        self._open().extend(wandb.end(run))
        self.closed = True

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle, self._log = None, None


def _step_of(message: bytes) -> int:
    for number, _, value in wire.fields(message):
        if number == 2:
            return next(
                (wire.signed(wire.whole(each)) for inner, _, each in wire.fields(wire.message(value)) if inner == 1), 0
            )
    return -1


KINDS: Mapping[str, Callable[[Path, ExportedRun], Copy]] = {"tensorboard": TensorboardCopy, "wandb": WandbCopy}


def parsed(text: str, root: Path) -> tuple[str, Path]:
    """(kind, folder) of `tensorboard:DIR`; without a folder one in the workspace.

    Raises:
        OptsweepError: no such kind.
    """
    kind, _, folder = text.partition(":")
    if kind.lower() not in KINDS:
        raise UnknownName("sink", kind, KINDS, hint="write tensorboard:DIR or wandb:DIR")
    if "\0" in folder:
        raise OptsweepError(f"sink {text!a}: its folder is no path", "write tensorboard:DIR")
    return kind.lower(), root / Path(folder or kind.lower()).expanduser()
