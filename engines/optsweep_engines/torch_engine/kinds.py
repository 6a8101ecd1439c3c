"""What the processes of a run tell each other of the states that they hold: JSON, read strictly, for they may be other machines.

torch's own exchange of objects unpickles whatever a peer sends, which runs its code; it is not used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import distributed as dist

from optsweep_engines.torch_engine.spread import Axes

Kind = tuple[tuple[int, ...], torch.dtype]
"""Shape and type of a state of a whole bank."""
Kinds = Mapping[str, Mapping[str, Kind]]
"""Bank -> entry -> kind."""

TYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.bfloat16, torch.float16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}
LARGEST_BYTES = 16 << 20
LARGEST_DIMENSIONS = 8


def exchanged(own: Kinds, axes: Axes) -> list[dict[str, dict[str, Kind]]]:
    """What every process of a replica said, in their order; all of them call it.

    Raises:
        ValueError: one of them said something else.
    """
    text = json.dumps(
        {
            bank: {entry: [list(shape), str(dtype).removeprefix("torch.")] for entry, (shape, dtype) in kinds.items()}
            for bank, kinds in own.items()
        }
    ).encode()
    device = axes.mesh.device_type
    size = torch.tensor([len(text)], dtype=torch.int64, device=device)
    sizes = [torch.zeros_like(size) for _ in range(axes.count)]
    dist.all_gather(sizes, size, group=axes.group)
    lengths = [int(each) for each in sizes]
    if not all(0 <= length <= LARGEST_BYTES for length in lengths):
        raise ValueError(f"the processes of this run say that they have {max(lengths)} bytes of words")
    padded = torch.zeros(max(lengths), dtype=torch.uint8, device=device)
    padded[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8).to(device)
    heard = [torch.zeros_like(padded) for _ in range(axes.count)]
    dist.all_gather(heard, padded, group=axes.group)
    return [parsed(bytes(each[:length].tolist())) for each, length in zip(heard, lengths, strict=True)]


def parsed(text: bytes) -> dict[str, dict[str, Kind]]:
    """Kinds as another process has written them.

    Raises:
        ValueError: it is something else.
    """
    try:
        data = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError("not a table")
        return {str(bank): {str(entry): _kind(*kind) for entry, kind in kinds.items()} for bank, kinds in data.items()}
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise ValueError(f"a process of this run says something else than its states: {error}") from None


def _kind(shape: Sequence[Any], dtype: str) -> Kind:
    whole = isinstance(shape, list) and all(type(size) is int and 0 <= size < 1 << 40 for size in shape)
    if not whole or len(shape) > LARGEST_DIMENSIONS:
        raise ValueError("not a shape")
    return tuple(shape), TYPES[dtype]
