"""What has happened to runs between two looks, in one line: "2 runs done, 1 diverged: muon 1/4 lr 0.04"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from optsweep_tui import rundir
from optsweep_tui.app import format as fmt
from optsweep_tui.app.model import RunRow, Snapshot

WRONG = frozenset({"diverged", "nan", "failed", "oom", "lost", "orphan"})
"""States that need a look."""
MOST_NAMED = 3
"""Runs that a line names; more are counted."""


@dataclass(frozen=True, kw_only=True)
class Notice:
    """One line for the user."""

    text: str
    wrong: bool
    """Some of it went wrong."""
    last: bool
    """Nothing is running or waiting any more."""
    rows: tuple[RunRow, ...]
    """The runs that it is about."""


def ended(before: Snapshot, now: Snapshot, earlier: Iterable[RunRow] = ()) -> Notice | None:
    """The runs that ended, or were lost, since the look before; None when none did.

    Runs that are seen for the first time are no news, and neither is anything while they are still being read.

    Args:
        earlier: runs of the notice before, where that can still be read: one line is then about all of them.
    """
    if before.loading or now.loading or not before.rows:
        return None
    changed = [row for row in now.rows if _news(before.by_id.get(row.run_id), row)]
    if not changed:
        return None
    changed = list({row.run_id: row for row in (*earlier, *changed)}.values())
    counts = Counter(row.line.state for row in changed)
    order = [state for state in ("done", *sorted(counts)) if state in counts]
    parts = [f"{counts[state]} {state}" for state in dict.fromkeys(order)]
    bad = [row for row in changed if row.line.state in WRONG]
    named = "; ".join(_name(row) for row in bad[:MOST_NAMED]) if bad else ""
    if not bad and len(changed) == 1:
        named = f"{_name(changed[0])}, loss {fmt.loss(changed[0].line.loss)}"
    more = f" and {len(bad) - MOST_NAMED} more" if len(bad) > MOST_NAMED else ""
    head = next(iter(counts)) if len(changed) == 1 else f"runs: {', '.join(parts)}"
    text = head + (f": {named}{more}" if named else "")
    alive = any(row.line.state in ("running", "planned", "queued", "submitting") for row in now.rows)
    text += "" if alive else "   nothing is running or waiting any more"
    return Notice(text=text, wrong=bool(bad), last=not alive, rows=tuple(changed))


def _news(before: RunRow | None, now: RunRow) -> bool:
    if before is None or before.line.state == now.line.state:
        return False
    if before.line.state in rundir.FINISHED:
        return False
    if now.line.state == "cancelled":
        return False  # somebody asked for it
    return now.line.state in rundir.FINISHED or now.line.state in WRONG


def _name(row: RunRow) -> str:
    line = row.line
    return f"{line.optimizer} {fmt.ratio(line.chinchilla)} lr {fmt.knob(line.lr)} seed {fmt.knob(line.seed)}"


def counted(rows: Iterable[RunRow]) -> str:
    """ "12 runs", "1 run"."""
    count = sum(1 for _ in rows)
    return f"{count:,} run{'s' if count != 1 else ''}"
