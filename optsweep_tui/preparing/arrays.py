"""Corpora that are tokens already: .npy and .bin files of whole numbers, split as their names say or at a place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from optsweep_engines import shards
from optsweep_tui.errors import OptsweepError
from optsweep_tui.preparing.inputs import InputFile, Inputs, Prefix
from optsweep_tui.preparing.readers import Batch
from optsweep_tui.preparing.worker import HELD_OUT, TRAIN

CHUNK = 1 << 20
"""Tokens in a batch."""
# A file of modded-nanogpt begins with 256 whole numbers of four bytes, the first of them this one:
# https://github.com/KellerJordan/modded-nanogpt (data/fineweb.py)
_MAGIC, _HEADER_BYTES = 20240520, 1024


class ArraySource:
    """Token arrays; a file with "val" in its name is held out."""

    def __init__(self, inputs: Inputs, vocab_size: int | None) -> None:
        """Look at every file.

        Args:
            vocab_size: tokens are below it; None: the largest token decides.

        Raises:
            OptsweepError: a file holds no tokens, or only one of the splits is there.
        """
        held = [file for file in inputs.files if "val" in Path(file.name).name.lower()]
        self.by_position = not held
        if len(held) == len(inputs.files):
            raise OptsweepError(
                "every file of the corpus is held out by its name", "a training file has no val in its name"
            )
        self._files = inputs.files
        self._held = {file.name for file in held}
        self.size, self._prefix = inputs.size, Prefix(inputs.files)
        self.identity = Prefix(inputs.files).to(len(inputs.files))[1]
        wide = vocab_size is not None and vocab_size > shards.NARROW_VOCABULARY
        self._arrays = [_tokens(file, wide) for file in inputs.files]
        self.largest = max(_largest(array, file) for array, file in zip(self._arrays, inputs.files, strict=True))
        self.vocab_size = vocab_size or self.largest + 1
        if self.largest >= self.vocab_size:
            raise OptsweepError(
                f"token {self.largest} is outside the vocabulary of {self.vocab_size}",
                "give the true size with --vocab-size N, or leave it out: the largest token then decides",
            )

    def unchanged(self, after: dict[str, Any], identity: str) -> bool:
        return int(after["file"]) < len(self._files) and self._prefix.to(after["file"] + 1)[1] == identity

    def batches(self, after: dict[str, Any] | None) -> Iterator[Batch]:
        place = after or {"file": 0, "at": 0}
        dtype = shards.token_type(self.vocab_size)
        for number in range(place["file"], len(self._files)):
            file, array = self._files[number], self._arrays[number]
            before, identity = self._prefix.to(number + 1)
            start = place["at"] if number == place["file"] else 0
            for at in range(start, len(array), CHUNK):
                piece = array[at : at + CHUNK]
                yield Batch(
                    header={"kind": "tokens", "split": HELD_OUT if file.name in self._held else TRAIN},
                    body=piece.astype(dtype).tobytes(),
                    after={"file": number, "at": at + len(piece)},
                    done=before + file.size * (at + len(piece)) // len(array),
                    identity=identity,
                )


def _tokens(file: InputFile, wide: bool) -> npt.NDArray[Any]:
    """The whole numbers of a file, memory-mapped."""
    try:
        if file.path.suffix == ".npy":
            array = np.load(file.path, mmap_mode="r", allow_pickle=False)
        elif file.size == 0:
            return np.zeros(0, dtype="<u2")
        else:
            array = _plain(file, wide)
    except (OSError, ValueError, EOFError) as error:
        raise OptsweepError(
            f"{file.path} holds no tokens: {str(error)[:120]}", "give a one-dimensional array"
        ) from None
    if array.ndim != 1 or array.dtype.kind not in "ui":
        raise OptsweepError(
            f"{file.path} holds no tokens: {array.ndim} dimensions of {array.dtype}",
            "give one dimension of whole numbers",
        )
    return np.asarray(array)


def _plain(file: InputFile, wide: bool) -> npt.NDArray[Any]:
    first = np.fromfile(file.path, dtype="<u4", count=1 << 16)
    offset = _HEADER_BYTES if len(first) and first[0] == _MAGIC and file.size >= _HEADER_BYTES else 0
    # Tokens of four bytes below 65536 are every other pair zero, which text of two-byte tokens never is for so long.
    pairs = np.fromfile(file.path, dtype="<u2", count=1 << 17, offset=offset)
    wide = wide or ((file.size - offset) % 4 == 0 and len(pairs) >= 64 and not pairs[1::2].any())
    dtype = np.dtype("<u4" if wide else "<u2")
    if (file.size - offset) % dtype.itemsize:
        raise ValueError(f"{file.size} bytes are not whole tokens of {dtype.itemsize} bytes")
    return np.memmap(file.path, dtype=dtype, mode="r", offset=offset)


def _largest(array: npt.NDArray[Any], file: InputFile) -> int:
    largest = -1
    for piece in _pieces(array):
        if int(piece.min()) < 0:
            raise OptsweepError(f"{file.path} has the negative token {int(piece.min())}", "tokens are 0 and up")
        largest = max(largest, int(piece.max()))
    return largest


def _pieces(array: npt.NDArray[Any]) -> Sequence[npt.NDArray[Any]]:
    return [array[start : start + CHUNK] for start in range(0, len(array), CHUNK)]
