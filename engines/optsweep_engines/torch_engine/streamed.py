"""Checkpoints of several processes: each tensor comes to the first one when its turn is, and goes into the file at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from optsweep_engines import tensorfile

Save: TypeAlias = Callable[[int, Callable[[Path], None]], None]
"""(step, what writes a file) -> published by the first process, nothing elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor of a file."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    whole: Callable[[], Tensor | None]
    """Asked of all processes, of all entries in one order: the first gets the tensor, the others None."""


def publish(save: Save, step: int, entries: Sequence[Entry], metadata: Mapping[str, str], *, leads: bool) -> None:
    """Write a file of all entries; all processes call it.

    Args:
        leads: whether this is the first process, whose `save` calls what it is given.
    """
    kinds: dict[str, tuple[str, tuple[int, ...]]] = {
        entry.name: (tensorfile.kind_of(entry.dtype), entry.shape) for entry in entries
    }
    of = {entry.name: entry.whole for entry in entries}

    def array(name: str) -> Any:
        found = of[name]()
        assert found is not None and tuple(found.shape) == kinds[name][1], name
        return tensorfile.plain(found)

    save(step, lambda path: tensorfile.write_each(kinds, array, path, metadata))
    if not leads:
        for name in tensorfile.ordered(kinds):
            of[name]()
