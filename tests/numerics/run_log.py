"""A RunLog on a plain folder, for tests of an engine without the shim."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


class FolderLog:
    """Metric lines in metrics.jsonl, events in events.jsonl, checkpoints in ckpt/<step>.safetensors."""

    def __init__(
        self,
        folder: Path,
        data_root: Path,
        *,
        attempt: int = 1,
        checkpoint_every: int = 0,
        stop: Callable[[int], str | None] = lambda asked: None,
    ) -> None:
        self.folder = folder
        self.data_root = data_root
        self.attempt = attempt
        self.device = "cpu"
        self.threads = 1
        self.mesh: str | None = None
        self.diagnostics: dict[str, Any] | None = None
        self.optimizer_file = folder / "optimizer.py"
        self.checkpoint_every = checkpoint_every
        """Loop turns between checkpoints; 0 = none. Deterministic, unlike the seconds of the real log."""
        self.stop = stop
        self.asked = 0
        self.turns_since_checkpoint = 0
        (folder / "ckpt").mkdir(parents=True, exist_ok=True)

    def metric(self, row: dict[str, Any]) -> None:
        plain = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()
        }
        self._append("metrics.jsonl", plain)

    def event(self, kind: str, **fields: Any) -> None:
        self._append("events.jsonl", {"kind": kind, **fields})

    def stop_requested(self) -> str | None:
        self.asked += 1
        self.turns_since_checkpoint += 1
        return self.stop(self.asked)

    def checkpoint_due(self) -> bool:
        return bool(self.checkpoint_every) and self.turns_since_checkpoint >= self.checkpoint_every

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        temporary = self.folder / "ckpt" / f".{os.getpid()}.tmp"
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(self.folder / "ckpt" / f"{step:08d}.safetensors")
        self.turns_since_checkpoint = 0

    def checkpoints(self) -> Iterator[tuple[int, Path]]:
        for path in sorted((self.folder / "ckpt").glob("*.safetensors"), reverse=True):
            yield int(path.stem), path

    def rows(self) -> list[dict[str, Any]]:
        """All metric lines so far."""
        path = self.folder / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    def _append(self, name: str, data: dict[str, Any]) -> None:
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(data) + "\n")
