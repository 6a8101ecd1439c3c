"""Matrices cut into blocks of at most a given size, so that a preconditioner per block stays small.

Blocks of one shape make one array, so that products and decompositions run over all of them at once. A rest that does
not fill a block is a smaller block of its own, not a padded one: padding would enter the preconditioner's null space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from optsweep_engines.optimizers.base import Array, Knob
from optsweep_engines.optimizers.knobs import switch


@dataclass(frozen=True)
class Span:
    """A run of equal pieces of one axis."""

    start: int
    pieces: int
    size: int
    """Length of one piece."""

    @property
    def stop(self) -> int:
        return self.start + self.pieces * self.size


@dataclass(frozen=True)
class Tile:
    """The blocks of one shape."""

    rows: Span
    columns: Span

    @property
    def shape(self) -> tuple[int, int]:
        """Of one block."""
        return self.rows.size, self.columns.size

    @property
    def count(self) -> int:
        """How many blocks of one matrix."""
        return self.rows.pieces * self.columns.pieces


def spans(length: int, size: int) -> list[Span]:
    """An axis in pieces of `size` and the rest; in one piece where size is 0 or covers it."""
    if not 0 < size < length:
        return [Span(0, 1, length)]
    pieces, rest = divmod(length, size)
    whole = [Span(0, pieces, size)]
    return [*whole, Span(pieces * size, 1, rest)] if rest else whole


def tiles(shape: Sequence[int], size: int) -> list[Tile]:
    """The blocks of a [rows, columns] matrix, shape by shape: at most four, row by row."""
    rows, columns = shape[-2:]
    return [Tile(*pair) for pair in product(spans(rows, size), spans(columns, size))]


def cut(xp: Any, matrix: Array, tile: Tile) -> Array:
    """[..., rows, columns] -> the blocks of one shape, [..., row pieces, column pieces, block rows, block columns]."""
    part = matrix[..., tile.rows.start : tile.rows.stop, tile.columns.start : tile.columns.stop]
    lead = part.shape[:-2]
    split = xp.reshape(part, (*lead, tile.rows.pieces, tile.rows.size, tile.columns.pieces, tile.columns.size))
    return _middle_swapped(xp, split)


def joined(xp: Any, parts: Sequence[Array], layout: Sequence[Tile]) -> Array:
    """The inverse of cutting a matrix by all tiles of a layout."""
    bands: dict[int, list[Array]] = {}
    for part, tile in zip(parts, layout, strict=True):
        rows, columns = tile.rows, tile.columns
        swapped = _middle_swapped(xp, part)
        whole = xp.reshape(swapped, (*part.shape[:-4], rows.stop - rows.start, columns.stop - columns.start))
        bands.setdefault(rows.start, []).append(whole)
    lines = [line[0] if len(line) == 1 else xp.concat(line, axis=-1) for line in bands.values()]
    return lines[0] if len(lines) == 1 else xp.concat(lines, axis=-2)


def _middle_swapped(xp: Any, array: Array) -> Array:
    """[..., a, b, c, d] -> [..., a, c, b, d]."""
    lead = array.ndim - 4
    return xp.permute_dims(array, (*range(lead), lead, lead + 2, lead + 1, lead + 3))


def block_knobs(default: bool, roles: str) -> tuple[Knob, ...]:
    """partition_grads_into_blocks and block_size."""
    return (
        switch("partition_grads_into_blocks", default, "one preconditioner per block instead of one per matrix", roles),
        Knob(
            name="block_size",
            kind="int",
            default=256,
            doc="longest side of a block",
            low=1,
            high=10**6,
            scale="log",
            published=(128, 256, 512),
            roles=roles,
            only_with=("partition_grads_into_blocks",),
        ),
    )
