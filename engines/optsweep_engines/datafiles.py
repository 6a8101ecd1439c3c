"""A dataset arriving on a host piece by piece: resumed where it stopped, published when every token hashes right; stdlib only."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from optsweep_engines import folder

FILES = ("train.bin", "validation.bin", "manifest.json")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}")
_HASH = re.compile(r"[0-9a-f]{64}")


class Incoming:
    """One dataset on its way into `root/<name>-<first 12 of hash>`."""

    def __init__(self, root: Path, name: str, sha256: str) -> None:
        if not _NAME.fullmatch(name) or not _HASH.fullmatch(sha256):
            raise ValueError(f"dataset {name[:60]!r} with hash {sha256[:12]!r}")
        self._sha256 = sha256
        self.final = root / f"{name}-{sha256[:12]}"
        self.folder = root / f".incoming-{name}-{sha256[:12]}"

    def sizes(self) -> dict[str, int]:
        """Bytes of each file that have come."""
        return {name: path.stat().st_size if (path := self.folder / name).exists() else 0 for name in FILES}

    def write(self, name: str, offset: int, data: bytes) -> int:
        """Put bytes where they belong; returns the size of the file after it."""
        if name not in FILES:
            raise ValueError(f"file {name[:60]!r} is none of a dataset")
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            if offset > os.fstat(handle).st_size or offset < 0:
                raise ValueError("a piece that leaves a hole")
            view = memoryview(data)
            while view:
                written = os.pwrite(handle, view, offset)
                offset, view = offset + written, view[written:]
            return os.fstat(handle).st_size
        finally:
            os.close(handle)

    def publish(self) -> None:
        """Hash every token, then rename; wrong bytes are thrown away.

        Raises:
            ValueError: the content is not what its hash says.
        """
        if self.final.is_dir():
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        try:
            manifest = json.loads((self.folder / "manifest.json").read_bytes())
            found = _content_hash(manifest, self.folder)
        except (OSError, ValueError, KeyError, TypeError) as error:
            found = f"nothing ({error})"
        if found != self._sha256:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise ValueError(
                f"the dataset hashes to {found[:60]}, not to {self._sha256[:12]}: it is sent anew next time"
            )
        for name in FILES:
            with open(self.folder / name, "rb") as file:
                os.fsync(file.fileno())
        try:
            os.rename(self.folder, self.final)
        except OSError:
            if not self.final.is_dir():  # else another controller was quicker
                raise
            shutil.rmtree(self.folder, ignore_errors=True)
        folder.sync_folder(self.final.parent)


def state(root: Path, name: str, sha256: str) -> dict[str, Any]:
    """{"there": bool, "sizes": bytes of each file that have come}."""
    place = Incoming(root, name, sha256)
    return {"there": (place.final / "manifest.json").is_file(), "sizes": place.sizes()}


def _content_hash(manifest: dict[str, Any], where: Path) -> str:
    """The hash that `data.write` gave: header, then the tokens of both splits."""
    counts = f"{manifest['vocab_size']} {manifest['train_tokens']} {manifest['validation_tokens']}"
    digest = hashlib.sha256(f"optsweep dataset 1 {counts}\n".encode())
    for name in ("train.bin", "validation.bin"):
        with open(where / name, "rb") as file:
            while piece := file.read(1 << 22):
                digest.update(piece)
    return digest.hexdigest()
