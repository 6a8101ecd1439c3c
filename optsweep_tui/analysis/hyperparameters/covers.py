"""The smallest sets of values that hold one good value for every cell: all of them, in a defined order."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

V = TypeVar("V", bound=Hashable)

Mask: TypeAlias = int
"""A set of values: bit i for the value at place i of the order."""

# Random sweeps make every cell's values its own, and then the smallest covers are a product over cells.
MOST_COVERS = 200
# Of one part of the search; the reference study needs some hundreds.
MOST_STEPS = 50_000


@dataclass(frozen=True, kw_only=True)
class Covers(Generic[V]):
    """The minimal covering sets of a family of sets."""

    size: int
    """Members of each."""
    sets: tuple[frozenset[V], ...]
    """Every one of them, unless `complete` is false."""
    complete: bool
    """False: there are more than MOST_COVERS; the first ones found are listed."""
    exact: bool
    """False: the search was cut off at MOST_STEPS; a cover of the values that meet most sets stands in, maybe too large."""


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The minimal covers of sets that no others share a value with."""

    size: int
    covers: tuple[Mask, ...]
    complete: bool
    exact: bool


def minimal_covers(sets: Iterable[Collection[V]], order: Sequence[V]) -> Covers[V]:
    """All sets of fewest values that meet every given set (minimal hitting sets), exact.

    Sets that contain another are dropped (whoever meets the smaller meets them too), the rest falls into parts that
    share no value, and each part is searched by rising size, branching on the values of its smallest unmet set.

    Args:
        sets: none of them empty.
        order: every value once; decides which come first where not all are listed.
    """
    place = {value: index for index, value in enumerate(order)}
    masks = {sum(1 << place[value] for value in set(each)) for each in sets}
    needed = [each for each in masks if not any(other != each and other & each == other for other in masks)]
    parts = [_part(part) for part in _parts(sorted(needed))]
    products = itertools.islice(itertools.product(*(part.covers for part in parts)), MOST_COVERS + 1)
    found = [sum(chosen) for chosen in products]
    return Covers(
        size=sum(part.size for part in parts),
        sets=tuple(frozenset(order[bit] for bit in _bits(cover)) for cover in found[:MOST_COVERS]),
        complete=len(found) <= MOST_COVERS and all(part.complete for part in parts),
        exact=all(part.exact for part in parts),
    )


def _parts(sets: Sequence[Mask]) -> list[list[Mask]]:
    """Sets that are joined by common values, part by part."""
    parts: list[tuple[Mask, list[Mask]]] = []
    for each in sets:
        joined = [part for part in parts if part[0] & each]
        values, members = each, [each]
        for part in joined:
            values, members = values | part[0], part[1] + members
            parts.remove(part)
        parts.append((values, members))
    return [members for _, members in parts]


def _part(sets: list[Mask]) -> _Part:
    budget = [MOST_STEPS]
    for size in range(1, len(sets) + 1):
        found: dict[Mask, None] = {}
        for cover in _search(sets, 0, size, budget):
            found[cover] = None
            if len(found) > MOST_COVERS:
                break
        if found:
            ordered = sorted(found, key=_bits)
            complete = budget[0] > 0 and len(ordered) <= MOST_COVERS
            return _Part(size=size, covers=tuple(ordered[:MOST_COVERS]), complete=complete, exact=True)
        if budget[0] <= 0:
            break
    cover = _greedy(sets)
    return _Part(size=cover.bit_count(), covers=(cover,), complete=False, exact=False)


def _search(sets: list[Mask], chosen: Mask, room: int, budget: list[int]) -> Iterator[Mask]:
    unmet = [each for each in sets if not each & chosen]
    if not unmet:
        yield chosen
        return
    budget[0] -= 1
    if room == 0 or budget[0] <= 0:
        return
    narrowest = min(unmet, key=lambda each: (each.bit_count(), each))
    for bit in _bits(narrowest):
        yield from _search(unmet, chosen | 1 << bit, room - 1, budget)


def _greedy(sets: list[Mask]) -> Mask:
    chosen, unmet = 0, list(sets)
    while unmet:
        every = set(itertools.chain.from_iterable(map(_bits, unmet)))
        best = min(every, key=lambda bit: (-sum(each >> bit & 1 for each in unmet), bit))
        chosen |= 1 << best
        unmet = [each for each in unmet if not each & chosen]
    return chosen


def _bits(mask: Mask) -> list[int]:
    """Places of the values, rising."""
    found = []
    while mask:
        lowest = mask & -mask
        found.append(lowest.bit_length() - 1)
        mask ^= lowest
    return found
