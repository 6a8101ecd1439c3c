"""The first half of a pass of the collector: which run folders hold something that the store does not.

It needs neither numpy nor Arrow, so that a collect with nothing new costs little more than looking at the folders.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from optsweep_tui import rundir
from optsweep_tui.store import views
from optsweep_tui.store.connect import create, open_store
from optsweep_tui.store.ledger import Ledger
from optsweep_tui.store.report import CollectReport
from optsweep_tui.store.scan import RunFiles, scan
from optsweep_tui.store.whole import require_whole


@dataclass(kw_only=True)
class Look:
    """What was seen of a store and of the folder of all runs."""

    store: Path
    root: Path
    archive_folder: str
    """Where the points of finished runs go when there are many; beside the store that is made anew, not beside its draft."""
    wait_seconds: float
    ledger: Ledger
    report: CollectReport
    news: list[RunFiles] = field(default_factory=list)
    """Runs to take in, in the order of their ids."""
    run_ids: list[str] = field(default_factory=list)
    """All run folders."""
    runs_before: int = 0
    started: float = 0.0
    """Monotonic clock."""

    def finished(self) -> CollectReport:
        """The report, with the sums over the whole store."""
        report, ledger = self.report, self.ledger
        report.runs = len(ledger.runs)
        report.new_runs = len(ledger.runs) - self.runs_before
        report.finished = len(ledger.finals)
        report.vanished = len(ledger.runs.keys() - set(self.run_ids))
        report.seconds = time.monotonic() - self.started
        return report


def look(store: Path, runs_root: Path, archive_folder: str, wait_seconds: float) -> Look:
    """Read what the store holds, making it where there is none, and look at every run folder.

    Raises:
        StoreLocked: another program held the store for too long.
        OptsweepError: the store cannot be read or made, or is not whole.
    """
    started = time.monotonic()
    if not store.exists():
        create(store)
    with open_store(store, wait_seconds=wait_seconds, archive_folder=archive_folder) as connection:
        require_whole(store, connection)
        ledger = Ledger(connection)
        moved = not views.is_right(connection, archive_folder)
    if moved:
        with open_store(store, read_only=False, wait_seconds=wait_seconds, archive_folder=archive_folder) as connection:
            views.settle(connection, archive_folder, files_changed=True)
            connection.execute("CHECKPOINT")
    seen = Look(
        store=store,
        root=runs_root,
        archive_folder=archive_folder,
        wait_seconds=wait_seconds,
        ledger=ledger,
        report=CollectReport(),
        run_ids=rundir.run_ids(runs_root),
        runs_before=len(ledger.runs),
        started=started,
    )
    for run_id in seen.run_ids:
        try:
            files = scan(str(runs_root), run_id)
        except OSError as error:
            seen.report.skip(str(runs_root / run_id), f"cannot be read: {error.strerror}")
            continue
        if files is not None and ledger.is_news(files):
            seen.news.append(files)
    return seen
