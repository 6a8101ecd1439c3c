"""Where arrays lie: on one device, or spread over a mesh with the axes data (batches) and fsdp (parameters too).

`mesh = "data=4,fsdp=2"` in words. A stacked bank is spread over fsdp by its layers where they divide, so that a matrix rule
finds each matrix whole on one device; else by its longest axis that divides; else every device has all of it. Batches are
spread over both axes. The partitioner of XLA makes the collectives; the results are those of one device to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from optsweep_engines.jax_engine.checkpoint import laid_out
from optsweep_engines.jax_engine.device import platform_of
from optsweep_engines.mesh import AXES, parsed, require_divides
from optsweep_engines.models import Parameter


@dataclass(frozen=True)
class Layout:
    """The devices of a run and how arrays lie on them; hashable, a key of compiled programs."""

    devices: tuple[jax.Device, ...]
    data: int
    fsdp: int

    @property
    def platform(self) -> str:
        return platform_of(self.devices[0])

    @property
    def spread(self) -> bool:
        """Whether there is more than one device."""
        return len(self.devices) > 1

    @property
    def mesh(self) -> Mesh:
        return Mesh(np.array(self.devices).reshape(self.data, self.fsdp), AXES)

    def _on(self, *axes: Any) -> Sharding:
        if not self.spread:
            return SingleDeviceSharding(self.devices[0])
        return NamedSharding(self.mesh, PartitionSpec(*axes))

    @property
    def everywhere(self) -> Sharding:
        """The whole array on every device."""
        return self._on()

    def rows(self, count: int) -> Sharding:
        """So many sequences, each on one device; on every device where they do not divide."""
        return self._on(AXES if count % (self.data * self.fsdp) == 0 else None)

    def of(self, item: Parameter, shape: Sequence[int] | None = None) -> Sharding:
        """A parameter, or one of its states of another shape."""
        own = tuple(item.shape if shape is None else shape)
        if self.fsdp == 1 or not own:
            return self.everywhere
        if item.stacked and own[0] == item.shape[0] and own[0] % self.fsdp == 0:
            return self._on("fsdp")
        if own != item.shape:
            return self.everywhere
        fitting = [axis for axis in range(item.stacked, len(own)) if own[axis] % self.fsdp == 0]
        if not fitting:
            return self.everywhere
        longest = max(fitting, key=lambda axis: own[axis])
        return self._on(*[None] * longest, "fsdp")

    def states(self, table: Mapping[str, Parameter], states: Any) -> dict[str, dict[str, Sharding]]:
        """That of every state, given the states or their shapes."""
        return {
            bank: {kind: self.of(table[bank], value.shape) for kind, value in held.items()}
            for bank, held in states.items()
        }

    def batch(self, array: np.ndarray[Any, Any]) -> jax.Array:
        """Sequences [B, T] on the devices."""
        if not self.spread:
            single: jax.Array = jax.device_put(array, self.devices[0])
            return single
        whole: jax.Array = laid_out(array, self.rows(len(array)))
        return whole


def layout(devices: Sequence[jax.Device], mesh: str | None, rows: int) -> Layout:
    """The layout of a run.

    Args:
        devices: those of the kind that was asked for.
        mesh: as in `parsed`; None: one device, on a TPU all of them along data as far as they divide the rows.
        rows: sequences of one micro-batch.

    Raises:
        ValueError: the mesh takes more devices than there are, or does not divide the rows.
    """
    if mesh is None:
        count = len(devices) if platform_of(devices[0]) == "tpu" or jax.process_count() > 1 else 1
        while rows % count:
            count -= 1
        return Layout(_of_all(devices[:count], f"a micro-batch of {rows} sequences"), count, 1)
    sizes = parsed(mesh)
    count = sizes["data"] * sizes["fsdp"]
    if count > len(devices):
        raise ValueError(f'mesh "{mesh}" takes {count} devices, there are {len(devices)} of kind {devices[0].platform}')
    require_divides(mesh, rows)
    return Layout(_of_all(devices[:count], f'mesh "{mesh}"'), sizes["data"], sizes["fsdp"])


def _of_all(chosen: Sequence[jax.Device], what: str) -> tuple[jax.Device, ...]:
    """The devices, where every process has some of them.

    Raises:
        ValueError: one has none.
    """
    have = len({device.process_index for device in chosen})
    if jax.process_count() > have:
        raise ValueError(f"{what} takes devices of {have} of the {jax.process_count()} processes: all have to train")
    return tuple(chosen)


def pinned(tree: Any, shardings: Any) -> Any:
    """Inside a program: arrays that stay laid out as asked."""
    return jax.tree.map(jax.lax.with_sharding_constraint, tree, shardings)
