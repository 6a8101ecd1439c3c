"""The seam to a training engine: `load_engine(name).train(spec, log)` returns a RunRecord; stdlib only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from optsweep_engines.spec import RunRecord, RunSpec

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

ENTRY_POINT_GROUP = "optsweep.engines"


class Preempted(BaseException):
    """The run was asked to stop without an end of its own: it resumes later from its checkpoint."""


class Superseded(BaseException):
    """A newer attempt of this run exists: this one must stop and write nothing more."""


class RunLog(Protocol):
    """The engine's only way to the run folder and to the world outside; `run.py` builds it."""

    attempt: int
    """Number of this attempt, from 1."""
    data_root: Path
    """Folder that holds the prepared datasets."""
    device: str
    """"cpu", "cuda" or "cuda:0"; "auto" = the best one here."""
    threads: int
    """CPU threads that the engine may use."""
    mesh: str | None
    """Devices that one run is spread over, "data=4,fsdp=2", for an engine that can; None: the engine's own choice."""
    optimizer_file: Path
    """The run's own copy of a user's optimizer file; there where the spec names the file's hash."""

    # A log may also hold `runs_root` (the folder of all runs), `keeps` (steps whose state is to be kept) and `save_kept`
    # beside `save_checkpoint`; `diagnostics`, what `--diagnostics` asked for; `diagnostics.wanted` reads it where it is
    # there; and `attempt_folder`, which further processes of the same run read.

    def metric(self, row: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl (keys of MetricRow and any further numeric ones); non-finite becomes null."""

    def event(self, kind: str, **fields: Any) -> None:
        """Append one line to events.jsonl."""

    def stop_requested(self) -> str | None:
        """None, "cancelled" or "preempted"; cheap enough to be asked at every step."""

    def checkpoint_due(self) -> bool:
        """True when so many seconds have passed since the last checkpoint that the next one is due."""

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        """Let `write` fill a temporary file, then publish it by fsync and rename; keeps the newest two.

        Raises:
            Superseded: a newer attempt exists.
        """

    def checkpoints(self) -> Iterator[tuple[int, Path]]:
        """(step, file) of every checkpoint of this run with a valid checksum, newest first, all attempts."""


class Engine(Protocol):
    """One training engine. Found by entry point; the in-tree ones are registered like a stranger's."""

    name: str

    def train(self, spec: RunSpec, log: RunLog) -> RunRecord:
        """Train to the end of the spec, or resume and train to the end.

        Raises:
            Preempted: `log.stop_requested()` said so; a checkpoint was saved first.
        """

    def trainer(self, spec: RunSpec, log: RunLog) -> Any:
        """The `loop.Trainer` of a spec at its first step: for certificates, which look at single steps and arrays."""

    def matmul_flops(self, device: str, dtype: str = "fp32") -> float:
        """FLOP/s of a plain matrix product in a compute type on a device: the roof that `optsweep bench` compares with."""

    def devices(self) -> list[dict[str, Any]]:
        """What can be trained on here: [{"device": "cuda:0", "name": ..., "memory_bytes": ...}]."""


def _entry_points() -> EntryPoints:
    from importlib.metadata import entry_points  # noqa: PLC0415 (a tenth of the start of a command that needs none)

    return entry_points(group=ENTRY_POINT_GROUP)


def engine_names() -> list[str]:
    """Names of all registered engines, installed or not."""
    return sorted(entry.name for entry in _entry_points())


def load_engine(name: str) -> Engine:
    """Import one engine.

    Raises:
        LookupError: no engine of that name is registered.
        ImportError: its library is not installed.
    """
    for entry in _entry_points():
        if entry.name == name:
            engine: Engine = entry.load()()
            return engine
    raise LookupError(f'engine "{name}" is not registered; known: {", ".join(engine_names()) or "none"}')
