"""What a collect did and what it had to leave out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

MAX_LISTED_SKIPS = 1000
"""More are counted but not listed."""


@dataclass(frozen=True, kw_only=True)
class Skip:
    """Something that could not be read, and where it is."""

    where: str
    """file or file:line."""
    why: str

    def __str__(self) -> str:
        return f"{self.where}: {self.why}"


@dataclass(kw_only=True)
class CollectReport:
    """What one collect did."""

    runs: int = 0
    """Runs in the store now."""
    new_runs: int = 0
    points: int = 0
    """Metric values written by this collect."""
    events: int = 0
    """Events written by this collect."""
    finished: int = 0
    """Runs in the store that are over."""
    new_finished: int = 0
    skipped_lines: int = 0
    """Garbage lines met by this collect."""
    skipped: list[Skip] = field(default_factory=list)
    """Garbage lines and unreadable files; the first MAX_LISTED_SKIPS."""
    vanished: int = 0
    """Runs in the store whose folder has gone; their rows stay until a rebuild."""
    seconds: float = 0.0
    archived: int = 0
    """Points of finished runs that this collect moved to Parquet files, because there were many."""
    kept: str | None = None
    """Where a rebuild left the store that it replaced, when that was damaged or held more than the new one."""

    def skip(self, where: str, why: str) -> None:
        """List something that could not be read."""
        if len(self.skipped) < MAX_LISTED_SKIPS:
            self.skipped.append(Skip(where=where, why=" ".join(why.split())[:300]))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return dataclasses.asdict(self)
