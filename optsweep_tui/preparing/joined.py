"""Several corpora as one: one after the other, or in turn by their weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from optsweep_tui.preparing.readers import Batch, Source


class Chain:
    """Corpora one after the other."""

    by_position = False

    def __init__(self, parts: list[Source]) -> None:
        self._parts = parts
        self.size = sum(part.size for part in parts)
        self.identity = " ".join(part.identity for part in parts).strip()

    def unchanged(self, after: dict[str, Any], identity: str) -> bool:
        part = int(after["part"])
        return part < len(self._parts) and self._parts[part].unchanged(after["inner"], identity)

    def batches(self, after: dict[str, Any] | None) -> Iterator[Batch]:
        first, inner = (after["part"], after["inner"]) if after else (0, None)
        before, done = (after["before"], after["done"]) if after else (0, 0)
        for number in range(first, len(self._parts)):
            for batch in self._parts[number].batches(inner):
                done = before + batch.done
                place = {"part": number, "before": before, "done": done, "inner": batch.after}
                yield Batch(header=batch.header, body=batch.body, after=place, done=done, identity=batch.identity)
            before, inner = done, None


class Mixed:
    """Corpora in turn, so that the bytes read of each are as their weights, until the first of them ends."""

    by_position = False

    def __init__(self, parts: list[Source], weights: list[float]) -> None:
        self._parts, self._weights = parts, weights
        self.identity = " ".join(part.identity for part in parts).strip()
        self.size = 0  # where the first ends is not known

    def unchanged(self, after: dict[str, Any], identity: str) -> bool:
        each = zip(self._parts, after["inner"], after["identities"], strict=True)
        return all(place is None or part.unchanged(place, before) for part, place, before in each)

    def batches(self, after: dict[str, Any] | None) -> Iterator[Batch]:
        count = len(self._parts)
        state = after or {"inner": [None] * count, "identities": [""] * count, "bytes": [0] * count}
        read = [part.batches(place) for part, place in zip(self._parts, state["inner"], strict=True)]
        inner, identities, sizes = list(state["inner"]), list(state["identities"]), list(state["bytes"])
        while True:
            part = min(range(count), key=lambda number: sizes[number] / self._weights[number])
            batch = next(read[part], None)
            if batch is None:
                return
            inner[part], identities[part] = batch.after, batch.identity
            sizes[part] += len(batch.body)
            place = {"inner": list(inner), "identities": list(identities), "bytes": list(sizes)}
            yield Batch(header=batch.header, body=batch.body, after=place, done=sum(sizes), identity="mix")
