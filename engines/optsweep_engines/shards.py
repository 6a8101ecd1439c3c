"""Tokens on disk: two splits beside a manifest, named by the hash of their content, published whole or not at all."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Tokens: TypeAlias = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]

SPLITS = ("train", "validation")
MANIFEST = "manifest.json"
STAMP = "verified.json"
"""Sizes and times that both files had when every token was last found to be right."""
NARROW_VOCABULARY = 1 << 16
"""Vocabularies up to it fit into two bytes a token; larger ones (Llama 3: 128256) take four."""
_PIECE_BYTES = 1 << 22


def token_type(vocab_size: int) -> np.dtype[Any]:
    """How a token of such a vocabulary lies on disk, little-endian."""
    return np.dtype("<u2" if vocab_size <= NARROW_VOCABULARY else "<u4")


@dataclass(frozen=True, kw_only=True)
class PreparedDataset:
    """Shards on disk: train.bin and validation.bin (little-endian, `token_type`) beside manifest.json."""

    name: str
    sha256: str
    """Hash over header and tokens of both splits."""
    vocab_size: int
    train_tokens: int
    validation_tokens: int
    source: str
    folder: Path
    tokenizer: str = ""
    """Name of what made the tokens; empty where the manifest does not tell."""
    tokenizer_sha256: str = ""

    @functools.cached_property
    def train(self) -> Tokens:
        """The training split, memory-mapped."""
        return self._mapped("train")

    @functools.cached_property
    def validation(self) -> Tokens:
        """The held-out split, memory-mapped."""
        return self._mapped("validation")

    def _mapped(self, split: str) -> Tokens:
        dtype = token_type(self.vocab_size)
        return np.asarray(np.memmap(self.folder / f"{split}.bin", dtype=dtype, mode="r"))

    def verify(self) -> None:
        """Hash every token again.

        Raises:
            ValueError: the shards are not what the manifest says.
        """
        found = content_hash(self.vocab_size, self.train_tokens, self.validation_tokens, self.folder)
        if found != self.sha256:
            raise ValueError(f"{self.folder}: the tokens hash to {found[:12]}, the manifest says {self.sha256[:12]}")

    def verify_once(self) -> None:
        """`verify`, unless neither file was touched since that last succeeded here: then it costs two looks at the disk.

        Touched is told by size, inode, time of change and of status change (which no user can set back), kept beside the
        shards.

        Raises:
            ValueError: the shards are not what the manifest says.
        """
        now = self._touched()
        try:
            if json.loads((self.folder / STAMP).read_text(encoding="utf-8")) == now:
                return
        except (OSError, ValueError):
            pass  # never verified here, or a damaged stamp: hash
        self.verify()
        self.remember(now)

    def _touched(self) -> dict[str, Any]:
        return {"sha256": self.sha256, **{split: _identity(self.folder / f"{split}.bin") for split in SPLITS}}

    def remember(self, touched: dict[str, Any] | None = None) -> None:
        """Note that every token is right; a folder that cannot be written is hashed each time."""
        temporary = self.folder / f".{STAMP}.{os.getpid()}"
        try:
            temporary.write_text(json.dumps(touched or self._touched()), encoding="utf-8")
            os.replace(temporary, self.folder / STAMP)
        except OSError:
            pass


def _identity(path: Path) -> list[int]:
    seen = path.stat()
    return [seen.st_size, seen.st_ino, seen.st_mtime_ns, seen.st_ctime_ns]


def content_hash(vocab_size: int, train_tokens: int, validation_tokens: int, folder: Path) -> str:
    """The name of some tokens: sha256 over a header and the bytes of both splits, read piece by piece."""
    digest = hashlib.sha256(f"optsweep dataset 1 {vocab_size} {train_tokens} {validation_tokens}\n".encode())
    for split in SPLITS:
        with open(folder / f"{split}.bin", "rb") as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
    return digest.hexdigest()


def folder_of(root: Path, name: str, sha256: str) -> Path:
    """Where the shards of a name and hash lie."""
    return root / f"{name}-{sha256[:12]}"


def manifests(root: Path, name: str = "*") -> Iterator[tuple[int, Path, dict[str, Any]]]:
    """(time of change in ns, folder, manifest) of everything prepared under `root`, unsorted; what is none is passed over."""
    for path in root.glob(f"{name}-*/{MANIFEST}"):
        if path.parent.name.startswith("."):
            continue  # in the making
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(manifest["name"], str) and isinstance(manifest["sha256"], str):
                yield path.stat().st_mtime_ns, path.parent, manifest
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a foreign or a damaged folder is no prepared dataset


def publish(temporary: Path, root: Path, manifest: dict[str, Any]) -> PreparedDataset:
    """Give a folder with both splits its manifest and its name; it appears whole or not at all.

    Args:
        manifest: name, vocab_size, train_tokens, validation_tokens, source, and what else is worth keeping.
    """
    counts = manifest["vocab_size"], manifest["train_tokens"], manifest["validation_tokens"]
    sha256 = content_hash(*counts, temporary)
    final = folder_of(root, manifest["name"], sha256)
    text = json.dumps({"name": manifest["name"], "sha256": sha256} | manifest, indent=1)
    for split in SPLITS:
        _sync(temporary / f"{split}.bin")
    (temporary / MANIFEST).write_text(text, encoding="utf-8")
    _sync(temporary / MANIFEST)
    temporary.chmod(0o755)
    try:
        temporary.rename(final)
        read(final).remember()
    except OSError:  # the same tokens are there already, from another process or another build of the same source
        if not (final / MANIFEST).is_file():
            raise
        _take_over(temporary, final)
    _sync(root)
    return read(final)


def _take_over(temporary: Path, final: Path) -> None:
    """The shards that lie there get the new manifest; where they are damaged, they are exchanged for the new ones."""
    os.replace(temporary / MANIFEST, final / MANIFEST)
    try:
        read(final).verify_once()
    except ValueError:
        for split in SPLITS:
            os.replace(temporary / f"{split}.bin", final / f"{split}.bin")
        read(final).remember()
    shutil.rmtree(temporary, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(folder: Path) -> PreparedDataset:
    """The shards in a folder; sizes are checked, tokens are not.

    Raises:
        ValueError: it is no dataset, or a file has another size than the manifest says.
    """
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = PreparedDataset(
            name=manifest["name"],
            sha256=manifest["sha256"],
            vocab_size=manifest["vocab_size"],
            train_tokens=manifest["train_tokens"],
            validation_tokens=manifest["validation_tokens"],
            source=manifest["source"],
            folder=folder,
            tokenizer=manifest.get("tokenizer", ""),
            tokenizer_sha256=manifest.get("tokenizer_sha256", ""),
        )
        width = token_type(found.vocab_size).itemsize
        expected = {"train": width * found.train_tokens, "validation": width * found.validation_tokens}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a dataset manifest ({error}); remove the folder and prepare it again") from error
    for split, wanted in expected.items():
        shard = folder / f"{split}.bin"
        size = shard.stat().st_size if shard.is_file() else 0
        if size != wanted:
            raise ValueError(f"{shard}: {size} bytes, the manifest says {wanted}; remove the folder, prepare again")
    return found
