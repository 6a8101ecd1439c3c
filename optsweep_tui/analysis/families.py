"""Which curves share one exponent: by default each has its own, on request all sizes of a study have one."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from optsweep_tui.analysis.noise import Floats, Rows


@dataclass(frozen=True, kw_only=True)
class Families:
    """A partition of R curves into F families."""

    of: Rows
    """Family of each curve, shape (R,)."""
    order: Rows
    """The curves, one family after the other, shape (R,)."""
    counts: Rows
    """Curves per family, shape (F,)."""

    @classmethod
    def apart(cls, curves: int) -> Families:
        """Every curve a family of its own, under its own number."""
        each = np.arange(curves)
        return cls(of=each, order=each, counts=np.ones(curves, dtype=np.intp))

    @classmethod
    def numbered(cls, of: Rows) -> Families:
        """From the family of each curve, numbers from 0 without gaps."""
        return cls(of=of, order=np.argsort(of, kind="stable"), counts=np.bincount(of))

    @classmethod
    def labelled(cls, labels: Sequence[Hashable]) -> Families:
        """Curves of one label are one family; families are numbered in the order in which their labels come first."""
        numbers: dict[Hashable, int] = {}
        return cls.numbered(np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.intp))

    @property
    def first(self) -> Rows:
        """One curve of each family, shape (F,)."""
        return np.asarray(self.order[np.cumsum(self.counts) - self.counts])

    @property
    def single(self) -> bool:
        """No two curves share anything."""
        return len(self.counts) == len(self.of)

    def __len__(self) -> int:
        return len(self.counts)

    def members(self, which: Rows) -> tuple[Rows, Rows]:
        """(curves of these families, one family after the other; place in them at which each family starts)."""
        if self.single:
            return self.order[which], np.arange(len(which))
        counts = self.counts[which]
        starts = np.cumsum(counts) - counts
        first = (np.cumsum(self.counts) - self.counts)[which]
        within = np.arange(int(counts.sum())) - np.repeat(starts, counts)
        return self.order[np.repeat(first, counts) + within], starts

    def total(self, values: Floats) -> Floats:
        """Sums over the curves of each family: (R, ...) -> (F, ...)."""
        if not len(self):
            return values
        return np.add.reduceat(values[self.order], np.cumsum(self.counts) - self.counts, axis=0)
