"""Driving a set of runs with live progress on stderr, and what Ctrl-C does: detach, stop or go on."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from optsweep_tui.cli import output
from optsweep_tui.errors import Interrupted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from optsweep_tui.flow import Progress, RunLine
    from optsweep_tui.settings import Workspace

PLAIN_SECONDS = 10.0
"""Between two progress lines where stderr is no terminal."""

OVER = ("done", "diverged", "failed", "oom", "cancelled", "nan", "missing")


def drive(workspace: Workspace, run_ids: Iterable[str], title: str, *, quiet: bool = False) -> Progress:
    """Drive the runs to their ends, drawing progress; returns the last look.

    Raises:
        Interrupted: the user pressed Ctrl-C and did not choose to go on.
    """
    from optsweep_tui import flow

    wanted = list(run_ids)
    last = followed(workspace, lambda: drawn(flow.drive(workspace, wanted, output.say), title, quiet), wanted)
    assert last is not None
    return last


def followed(
    workspace: Workspace, looks: Callable[[], Iterable[Progress]], driven: Iterable[str], *again: str
) -> Progress | None:
    """Drive by looking, until there is no further look; returns the last one, None without any.

    Args:
        looks: begins to drive, at first and after a Ctrl-C that was to go on.
        driven: runs that a Ctrl-C before the first look is about.
        again: the command that goes on where this one was left; `resume` unless given.

    Raises:
        Interrupted: the user pressed Ctrl-C and did not choose to go on.
    """
    last: Progress | None = None
    while True:
        try:
            for seen in looks():
                last = seen
            return last
        except KeyboardInterrupt:
            _ask(workspace, [line.run_id for line in last.lines] if last else driven, again or ("resume",))


def drawn(looks: Iterable[Progress], title: str | Callable[[], str], quiet: bool = False) -> Iterable[Progress]:
    """Pass the looks on, drawing each on stderr; a title that changes is a function."""
    if quiet:
        yield from looks
    elif sys.stderr.isatty():
        yield from _live(looks, title)
    else:
        yield from _plain(looks, title)


def _live(looks: Iterable[Progress], title: str | Callable[[], str]) -> Iterable[Progress]:
    from rich.live import Live

    with Live(console=output.console(stderr=True), auto_refresh=False, transient=False) as live:
        for look in looks:
            live.update(_picture(look, title if isinstance(title, str) else title()), refresh=True)
            yield look


def _plain(looks: Iterable[Progress], title: str | Callable[[], str]) -> Iterable[Progress]:
    output.say(title if isinstance(title, str) else title())
    due = time.monotonic()
    for look in looks:
        if look.complete or time.monotonic() >= due:
            output.say(f" {summary(look)}")
            due = time.monotonic() + PLAIN_SECONDS
        yield look


def summary(look: Progress) -> str:
    """One line: how many are done, running, waiting, failed; time gone and to go."""
    counts = dict(look.counts)
    done = counts.get("done", 0) + counts.get("diverged", 0)
    failed = counts.get("failed", 0) + counts.get("oom", 0)
    running = counts.get("running", 0)
    cancelled = counts.get("cancelled", 0)
    unreachable = counts.get("unreachable", 0)
    waiting = len(look.lines) - done - failed - running - cancelled - unreachable
    text = f"total  {done} done, {running} running, {waiting} waiting, {failed} failed"
    if unreachable:
        text += f", {unreachable} on hosts that do not answer now"
    if look.elsewhere:
        text += f", {look.elsewhere} of them given by another controller to hosts that are not in hosts.toml here"
    if cancelled:
        text += f", {cancelled} cancelled"
    if look.awaited:
        text += f", {look.awaited[0]}" + (f" (and {len(look.awaited) - 1} more)" if look.awaited[1:] else "")
    to_go = "" if look.complete else f", {output.duration_text(look.eta_seconds)} to go"
    return f"{text}   {output.duration_text(look.seconds)} gone{to_go}"


def _picture(look: Progress, title: str) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1, 0, 0))
    for justify in ("left", "left", "right", "right", "left", "right", "right", "right"):
        grid.add_column(justify=justify, no_wrap=True)
    running = [line for line in look.lines if line.state == "running"][:16]
    bar = max(
        4, min(24, output.console(stderr=True).width - 51 - max((len(line.optimizer) for line in running), default=0))
    )
    for line in running:
        grid.add_row(
            Text(" ◐", style="green"),
            line.optimizer,
            f"{line.chinchilla:g}",
            f"lr {output.number(line.lr, 3)}",
            ProgressBar(total=line.steps, completed=line.step, width=bar),
            f"{line.step}/{line.steps}",
            output.loss_text(line.loss),
            f"{output.count_text(line.tokens_per_second)} tok/s",
        )
    bad = [line for line in look.lines if line.state in ("failed", "oom")][:3]
    troubles = [Text(f" failed   {line.run_id[:8]} {line.optimizer}: {line.error}", style="red") for line in bad]
    return Group(Text(title), grid, *troubles, Text(f" {summary(look)}"))


def _ask(workspace: Workspace, driven: Iterable[str], again: Sequence[str]) -> None:
    """After Ctrl-C: returns to go on, else raises Interrupted; `again` is the command that takes up what was left."""
    from optsweep_tui import flow

    live = [line.run_id for line in flow.run_lines(workspace, driven) if line.state not in OVER]
    answer = "d"
    if sys.stdin.isatty() and sys.stderr.isatty():
        output.say(
            f"\nNot over: {output.runs_text(len(live))}. [d]etach and let them go on (default), [s]top them, [c]ontinue watching?"
        )
        try:
            answer = (sys.stdin.readline().strip().lower() or "d")[0]
        except KeyboardInterrupt:
            answer = "d"
    if answer == "c":
        return
    if answer == "s":
        flow.cancel(workspace, live)
        output.say(f"{output.runs_text(len(live))} being stopped; optsweep retry RUN takes one up again where it was")
    elif sys.stdin.isatty() and (live or len(again) > 1):
        pid = flow.detach(workspace, *again)
        output.say(
            f"detached: {output.runs_text(len(live))} under way (controller {pid}); optsweep watch | optsweep cancel --all"
        )
    else:
        output.say(
            f"detached: {output.runs_text(len(live))} under way; "
            f"optsweep watch | optsweep {' '.join(again)} | optsweep cancel --all"
        )
    raise Interrupted


def failures(lines: Iterable[RunLine]) -> list[RunLine]:
    """The runs that went wrong: failed or out of memory; diverged is a result."""
    return [line for line in lines if line.state in ("failed", "oom", "lost")]


def report_failures(lines: Iterable[RunLine]) -> bool:
    """Say on stderr which runs failed and what to do; True if any did."""
    bad = failures(lines)
    for line in bad[:10]:
        output.say(f"failed: {line.run_id[:12]} {line.optimizer} {line.model} {line.chinchilla:g}: {line.error}")
    if bad:
        output.say(f"{output.runs_text(len(bad))} failed. optsweep logs RUN shows why, optsweep retry RUN tries again")
    return bool(bad)


def lines_json(lines: Iterable[RunLine]) -> list[dict[str, Any]]:
    """The rows of `ls --json`: `output.clean` of each, without its questions about types; there may be thousands."""
    return [
        {
            name: value if type(value) is not float or math.isfinite(value) else None
            for name, value in vars(line).items()
        }
        for line in lines
    ]
