"""The log of one run that several processes train: what the first one decides is agreed on, what it writes only it writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from optsweep_engines.engine import RunLog

Agreed: TypeAlias = Callable[[Sequence[int]], Sequence[int]]
"""The numbers of the first process, in all of them; every process calls it."""

ASKED_EVERY = 10
"""Steps between two agreements on whether to stop, to save, or to keep what was asked for since: each waits for all devices."""
STOPS = (None, "cancelled", "preempted")


class SharedLog:
    """A RunLog for each of the processes."""

    def __init__(self, log: RunLog, mesh: str | None, *, leads: bool, agreed: Agreed) -> None:
        """Wrap a process' own log.

        Args:
            mesh: in the place of the log's.
            leads: whether this is the first process.
        """
        self.log, self.leads, self.agreed = log, leads, agreed
        self.attempt, self.data_root, self.device = log.attempt, log.data_root, log.device
        self.threads, self.optimizer_file = log.threads, log.optimizer_file
        self.diagnostics = getattr(log, "diagnostics", None)
        self.mesh = mesh or log.mesh
        self.runs_root = getattr(log, "runs_root", None)
        self.keeps: set[int] = set()
        """As the first process found them: all have to save together."""
        news = self._news()
        self._agree_on_keeps(news, *agreed([_many(news)]))
        self.asked = 0
        self.due = False

    def metric(self, row: dict[str, Any]) -> None:
        """By the first process."""
        if self.leads:
            self.log.metric(row)

    def event(self, kind: str, **fields: Any) -> None:
        """By the first process."""
        if self.leads:
            self.log.event(kind, **fields)

    def stop_requested(self) -> str | None:
        """What the first process was told, agreed on every few steps."""
        self.asked += 1
        if self.asked % ASKED_EVERY:
            return None
        own = [STOPS.index(self.log.stop_requested()), int(self.log.checkpoint_due())] if self.leads else [0, 0]
        news = self._news()
        stop, due, told = self.agreed([*own, _many(news)])
        self.due = bool(due)
        self._agree_on_keeps(news, told)
        return STOPS[stop]

    def _news(self) -> list[int] | None:
        """Steps that the first process is to keep, where the others do not know them."""
        own = set(getattr(self.log, "keeps", set())) if self.leads else self.keeps
        return sorted(own) if own != self.keeps else None

    def _agree_on_keeps(self, news: list[int] | None, told: int) -> None:
        """Take up the news of the first process: `told` is how many steps they are, and 1; 0 without any."""
        if told:
            count = told - 1
            self.keeps = set(self.agreed(news or [0] * count)) if count else set()

    def checkpoint_due(self) -> bool:
        """As agreed."""
        return self.due

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        """By the first process."""
        self.due = False
        if self.leads:
            self.log.save_checkpoint(step, write)

    def save_kept(self, step: int, write: Callable[[Path], None]) -> None:
        """By the first process."""
        if self.leads:
            self.log.save_kept(step, write)  # type: ignore[attr-defined]
        self.keeps = self.keeps - {step}

    def checkpoints(self) -> Iterator[tuple[int, Path]]:
        """The one that the first process found newest."""
        newest = next(self.log.checkpoints(), (0, Path())) if self.leads else (0, Path())
        [step] = self.agreed([newest[0]])
        if step:
            own = [(found, path) for found, path in self.log.checkpoints() if found == step]
            if not own:
                raise RuntimeError(
                    f"this process does not see the state of step {step} that the first one goes on from"
                )
            yield from own


def _many(news: list[int] | None) -> int:
    return 0 if news is None else len(news) + 1
