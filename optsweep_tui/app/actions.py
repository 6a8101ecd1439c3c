"""What changes runs: cancel, retry, launch and their undoing, each in a thread, with a question first and a word after."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from optsweep_tui import flow, preview, rundir
from optsweep_tui.app.model import UNFINISHED, RunRow
from optsweep_tui.app.screens.modal import Confirm
from optsweep_tui.errors import OptsweepError

if TYPE_CHECKING:
    from optsweep_tui.app.app import OptsweepApp

KEPT_UNDOS = 20
STOP_SECONDS = 30.0
"""So long a cancelled run may take to its next step, before it is left alone."""
LOOK_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Undo:
    """How to take back what was done."""

    of: str
    """What it takes back, in words."""
    act: Callable[[], None]


class Actions:
    """The actions of one app."""

    def __init__(self, app: OptsweepApp) -> None:
        self._app = app
        self._undos: list[Undo] = []

    # ------------------------------------------------------------ cancel and retry

    def ask_cancel(self, rows: Iterable[RunRow]) -> None:
        """Cancel what is not over, after a question with the count."""
        rows = list(rows)
        alive = [row for row in rows if row.line.state in UNFINISHED]
        if not alive:
            self._app.notify("nothing to cancel: " + ("the run is over" if len(rows) == 1 else "no run is alive"))
            return
        running = sum(row.line.state == "running" for row in alive)
        notes = [f"{running} running, {len(alive) - running} waiting; a running one stops at its next step"]
        notes.append("U takes it back: they go on from their last checkpoints")
        self._ask(f"Cancel {runs_text(len(alive))}?", notes, lambda: self._cancel(alive))

    def ask_retry(self, rows: Iterable[RunRow]) -> None:
        """Queue a new attempt of what is over, after a question with the count."""
        rows = [row for row in rows if row.line.host]  # imported ones are not trained here
        over = [row for row in rows if row.line.state not in UNFINISHED or row.line.state == "lost"]
        if not over:
            self._app.notify("nothing to retry: " + ("the run is not over" if len(rows) == 1 else "no run is over"))
            return
        done = sum(row.line.state == "done" for row in over)
        notes = [f"{done} of them ended well and would be trained again"] if done else []
        notes.append("a controller in the background then drives everything unfinished here")
        self._ask(f"Retry {runs_text(len(over))}?", notes, lambda: self._retry(over))

    def _ask(self, question: str, details: list[str], act: Callable[[], None]) -> None:
        def answered(yes: bool | None) -> None:
            if yes:
                act()

        self._app.push_screen(Confirm(question, details), answered)

    def _cancel(self, rows: list[RunRow]) -> None:
        workspace = self._app.workspace

        def work() -> str:
            done = flow.cancel(workspace, [row.run_id for row in rows])
            chosen = [row for row in rows if row.run_id in set(done)]
            if chosen:
                of = f"the cancel of {runs_text(len(chosen))}"
                self.offer(Undo(of=of, act=lambda: self._retry(chosen, stopping=True)))
            return f"cancelled {runs_text(len(done))}" + ("   U takes it back" if done else "")

        self._app.work(work)

    def _retry(self, rows: list[RunRow], stopping: bool = False) -> None:
        """Queue them; those that were cancelled a moment ago (`stopping`) once they have stopped."""
        workspace = self._app.workspace
        run_ids = [row.run_id for row in rows]

        def work() -> str:
            late = _until_over(workspace.runs, run_ids) if stopping else []
            flow.retry(workspace, run_ids)
            # A cancelled run whose attempt nobody had taken yet goes on in that attempt: it counts like a new one.
            states = [rundir.state_of(workspace.runs / run_id) for run_id in run_ids if run_id not in late]
            queued = sum(not state.finished for state in states)
            if queued:
                flow.detach(workspace)
            more = f"; {runs_text(len(late))} not stopped yet: R retries later" if late else ""
            return f"queued {runs_text(queued)}{more}"

        self._app.work(work)

    # ------------------------------------------------------------ launch

    def launch(self, draft: preview.Draft) -> None:
        """Launch a draft that was confirmed."""
        app = self._app

        def work() -> str:
            queued, pid = preview.launch(app.workspace, draft)
            if not queued:
                return "nothing to launch: every run of it is over or going on; R on screen 2 retries"

            def take_back() -> None:
                self.ask_cancel([app.snapshot.by_id[run_id] for run_id in queued if run_id in app.snapshot.by_id])

            self.offer(Undo(of=f"the launch of {runs_text(len(queued))}", act=take_back))
            return f"launched {runs_text(len(queued))}, controller {pid} drives them   closing the app loses nothing"

        app.notify("launching ...", timeout=2)
        app.work(work)

    # ------------------------------------------------------------ undo

    def offer(self, undo: Undo) -> None:
        """Remember how the last action is taken back."""
        self._undos = [*self._undos[1 - KEPT_UNDOS :], undo]

    def undo(self) -> None:
        """Take back the last action that can be."""
        if not self._undos:
            self._app.notify("nothing to take back")
            return
        last = self._undos.pop()
        self._app.notify(f"taking back {last.of}")
        last.act()


def _until_over(runs: Path, run_ids: Iterable[str]) -> list[str]:
    """Wait for runs that are being stopped: a retry of one that still runs would be none. Gives those that did not stop."""
    end, left = time.monotonic() + STOP_SECONDS, list(run_ids)
    while True:
        left = [one for one in left if rundir.state_of(runs / one).state == "running"]
        if not left or time.monotonic() > end:
            return left
        time.sleep(LOOK_SECONDS)


def runs_text(count: int) -> str:
    """ "1 run", "12 runs"."""
    return f"{count:,} run{'s' if count != 1 else ''}"


def outcome(work: Callable[[], str]) -> tuple[str, bool]:
    """(what to say of some work, whether it went wrong)."""
    try:
        return work(), False
    except (OptsweepError, OSError) as error:
        return str(error), True
    except Exception as error:  # a bug in one action must not take down the curves of a night
        return f"{type(error).__name__}: {error} (a bug of optsweep, please report it)", True
