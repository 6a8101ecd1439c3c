"""The smallest sets of values that hold one good value for every cell: all of them, in a defined order."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

V = TypeVar("V", bound=Hashable)

# Random sweeps make every cell's values its own, and then the smallest covers are a product over cells.
MOST_COVERS = 200
# Of the search for one size; the reference study needs some hundreds.
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


def minimal_covers(sets: Iterable[Collection[V]], order: Sequence[V]) -> Covers[V]:
    """All sets of fewest values that meet every given set (minimal hitting sets), exact.

    Sets that contain another are dropped (whoever meets the smaller meets them too), the rest falls into parts that
    share no value, and each part is searched by rising size, branching on the values of its smallest unmet set.

    Args:
        sets: none of them empty.
        order: every value once; decides which come first where not all are listed.
    """
    distinct = {frozenset(each) for each in sets}
    needed = [each for each in distinct if not any(other < each for other in distinct)]
    place = {value: index for index, value in enumerate(order)}
    parts = [_part(part, place) for part in _parts(needed, place)]
    products = itertools.islice(itertools.product(*(part.sets for part in parts)), MOST_COVERS + 1)
    found = [frozenset[V]().union(*chosen) for chosen in products]
    return Covers(
        size=sum(part.size for part in parts),
        sets=tuple(found[:MOST_COVERS]),
        complete=len(found) <= MOST_COVERS and all(part.complete for part in parts),
        exact=all(part.exact for part in parts),
    )


def _parts(sets: Sequence[frozenset[V]], place: dict[V, int]) -> list[list[frozenset[V]]]:
    """Sets that are joined by common values, part by part."""
    parts: list[tuple[set[V], list[frozenset[V]]]] = []
    for each in sorted(sets, key=lambda each: _key(each, place)):
        joined = [part for part in parts if part[0] & each]
        values, members = set(each), [each]
        for part in joined:
            values |= part[0]
            members = part[1] + members
            parts.remove(part)
        parts.append((values, members))
    return [members for _, members in parts]


def _part(sets: list[frozenset[V]], place: dict[V, int]) -> Covers[V]:
    """The minimal covers of one part."""
    budget = [MOST_STEPS]
    for size in range(1, len(sets) + 1):
        found: dict[frozenset[V], None] = {}
        for cover in _search(sets, frozenset(), size, place, budget):
            found[cover] = None
            if len(found) > MOST_COVERS:
                break
        if found:
            ordered = sorted(found, key=lambda each: _key(each, place))
            complete = budget[0] > 0 and len(ordered) <= MOST_COVERS
            return Covers(size=size, sets=tuple(ordered[:MOST_COVERS]), complete=complete, exact=True)
        if budget[0] <= 0:
            break
    cover = _greedy(sets, place)
    return Covers(size=len(cover), sets=(cover,), complete=False, exact=False)


def _search(
    sets: list[frozenset[V]], chosen: frozenset[V], room: int, place: dict[V, int], budget: list[int]
) -> Iterator[frozenset[V]]:
    unmet = [each for each in sets if not each & chosen]
    if not unmet:
        yield chosen
        return
    budget[0] -= 1
    if room == 0 or budget[0] <= 0:
        return
    narrowest = min(unmet, key=lambda each: (len(each), _key(each, place)))
    for value in sorted(narrowest, key=place.__getitem__):
        yield from _search(unmet, chosen | {value}, room - 1, place, budget)


def _greedy(sets: list[frozenset[V]], place: dict[V, int]) -> frozenset[V]:
    chosen: set[V] = set()
    unmet = list(sets)
    while unmet:
        values = {value for each in unmet for value in each}
        best = min(values, key=lambda value: (-sum(value in each for each in unmet), place[value]))
        chosen.add(best)
        unmet = [each for each in unmet if best not in each]
    return frozenset(chosen)


def _key(each: frozenset[V], place: dict[V, int]) -> list[int]:
    return sorted(place[value] for value in each)
