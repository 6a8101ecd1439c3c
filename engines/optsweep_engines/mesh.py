"""The words of a mesh, "data=4,fsdp=2": over how many devices one run is spread along which axis; stdlib only."""

from __future__ import annotations

from collections.abc import Mapping

AXES = ("data", "fsdp")
"""Batches are spread over both, parameters over the second."""


def parsed(text: str) -> dict[str, int]:
    """ "data=4,fsdp=2" as sizes; an axis left out is 1.

    Raises:
        ValueError: it is written otherwise.
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        axis, _, size = part.strip().partition("=")
        if axis not in AXES or not size.isdecimal() or int(size) < 1:
            raise ValueError(f'mesh "{text}": "{part.strip()}" is not one of data=N, fsdp=N')
        if axis in sizes:
            raise ValueError(f'mesh "{text}": {axis} is given twice')
        sizes[axis] = int(size)
    return {axis: sizes.get(axis, 1) for axis in AXES}


def words(sizes: Mapping[str, int]) -> str | None:
    """Sizes as a record says them, in the order of AXES, an axis of 1 left out; None for a single device."""
    return ",".join(f"{axis}={sizes[axis]}" for axis in AXES if sizes.get(axis, 1) > 1) or None


def dividing(rows: int, devices: int) -> int:
    """As many of the devices as divide a micro-batch of so many sequences: what a run takes that no mesh was named for."""
    return next(count for count in range(max(1, devices), 0, -1) if rows % count == 0)


def devices_of(text: str, rows: int, gpus: int) -> int:
    """How many devices a run of so many sequences in a micro-batch takes.

    Args:
        gpus: that the run was given; 0 on a CPU, where a process is a device.

    Raises:
        ValueError: they do not divide the batch, are more than the GPUs, or as `parsed`.
    """
    sizes = require_divides(text, rows)
    count = sizes["data"] * sizes["fsdp"]
    if gpus and count > gpus:
        raise ValueError(f'mesh "{text}" takes {count} devices, there are {gpus} GPUs')
    return count


def require_divides(text: str, rows: int) -> dict[str, int]:
    """The sizes of a mesh that divides a micro-batch of so many sequences.

    Raises:
        ValueError: it does not, or as `parsed`.
    """
    sizes = parsed(text)
    count = sizes["data"] * sizes["fsdp"]
    if rows % count:
        raise ValueError(f'mesh "{text}" does not divide the batch: {count} devices, {rows} sequences in a micro-batch')
    return sizes
