"""Screen 6, Hosts: where runs go: devices, how busy they are, slots with their runs, the queue; drain, cancel, open."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widget import Widget

from optsweep_tui import machines
from optsweep_tui.app import newhost
from optsweep_tui.app.actions import Undo
from optsweep_tui.app.model import WAITING, RunRow
from optsweep_tui.app.screens.base import BaseScreen
from optsweep_tui.app.screens.modal import Confirm, Told
from optsweep_tui.app.screens.prompt import Prompt
from optsweep_tui.app.views import hosts
from optsweep_tui.app.widgets.spans import SpanView
from optsweep_tui.app.widgets.table import VirtualTable
from optsweep_tui.dispatch.hosts import HostLook

if TYPE_CHECKING:
    from optsweep_tui.dispatch.checkup import Finding
    from optsweep_tui.dispatch.fingerprint import Address, HostKey
    from optsweep_tui.dispatch.hostsfile import HostEntry

LOOK_SECONDS = 2.0
"""Between two looks while the screen is on; a look may ask nvidia-smi, which takes a tenth of a second."""


class HostsScreen(BaseScreen):
    """One table of hosts, devices and slots; the queue below it."""

    TAB = "Hosts"
    AUTO_FOCUS = "#hosts"
    DEFAULT_CSS = """
    HostsScreen #hosts { height: 1fr; }
    HostsScreen #queue { dock: bottom; height: 40%; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "its run", id="hosts.open"),
        Binding("d", "drain", "drain or fill", id="hosts.drain"),
        Binding("c", "check", "look now", id="hosts.check"),
        Binding("K", "cancel", "cancel its run", id="hosts.cancel"),
        Binding("R", "retry", "retry what failed", id="hosts.retry"),
        Binding("w", "waiting", "what waits", id="hosts.waiting"),
        Binding("a", "add", "add a host", id="hosts.add"),
        Binding("p", "prove", "prove a host", id="hosts.prove"),
    ]

    class Looked(Message):
        """A thread has looked at the hosts."""

        def __init__(self, looks: list[HostLook], wrong: str = "") -> None:
            super().__init__()
            self.looks, self.wrong = looks, wrong

    class KeysSeen(Message):
        """A thread knows which keys a new host shows."""

        def __init__(self, entry: HostEntry, place: Address, known: bool, keys: list[HostKey]) -> None:
            super().__init__()
            self.entry, self.place, self.known, self.keys = entry, place, known, keys

    class Proved(Message):
        """A thread has looked at everything of a host."""

        def __init__(self, title: str, findings: list[Finding]) -> None:
            super().__init__()
            self.title, self.findings = title, findings

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[HostLook] = []
        self.lines: list[hosts.HostLine] = []
        self.wrong = ""
        self._looked_at = 0.0
        self._busy = False
        self._look: Callable[[], list[HostLook]] | None = None

    def body(self) -> Iterable[Widget]:
        """Table over queue."""
        yield VirtualTable(id="hosts", empty="looking ...")
        yield SpanView(id="queue")

    def on_mount(self) -> None:
        """Look again while the screen is on."""
        self._look = machines.looks(self.bench.workspace)
        self.set_interval(LOOK_SECONDS, self._tick)

    def _tick(self) -> None:
        if self.is_current:
            self._ask()

    def on_screen_resume(self) -> None:
        """Look at once."""
        self._ask()

    def _ask(self) -> None:
        look = self._look
        if look is not None and not self._busy:
            self._busy = True
            self.bench.in_thread(
                self, lambda: self.Looked(look()), lambda text: self.Looked([], wrong=text), group="hosts"
            )

    def on_hosts_screen_looked(self, message: Looked) -> None:
        """Show what was seen; after trouble the last look stays, with its age."""
        self._busy = False
        self.wrong = message.wrong
        if not message.wrong:
            self.looks, self._looked_at = message.looks, time.monotonic()
        if self.is_current:
            self.draw()

    def settled(self) -> bool:
        """The first look is there."""
        return bool(self.looks or self.wrong)

    def draw(self) -> None:
        """The table, and what waits."""
        table = self.query_one("#hosts", VirtualTable)
        age = time.monotonic() - self._looked_at if self.looks else 0.0
        self.lines = hosts.lines(self.looks, self.bench.snapshot.by_id, age)
        table.show_empty(self.wrong or "looking ...")
        shown = self.lines
        table.show(hosts.columns(table.size.width), len(shown), lambda index: shown[index].spans)
        self._draw_queue()

    def _draw_queue(self) -> None:
        queue, line = self.query_one("#queue", SpanView), self.under
        queue.show(hosts.queue_rows(self._waiting(), *queue.size, said=line.said if line is not None else ""))

    def on_virtual_table_moved(self, message: VirtualTable.Moved) -> None:
        """Say all that is known of the line under the cursor."""
        self._draw_queue()

    def _waiting(self) -> list[RunRow]:
        return [row for row in self.bench.snapshot.rows if row.line.state in WAITING]

    @property
    def under(self) -> hosts.HostLine | None:
        """The line under the cursor."""
        place = self.query_one("#hosts", VirtualTable).cursor
        return self.lines[place] if 0 <= place < len(self.lines) else None

    def _run(self) -> RunRow | None:
        """The run of the slot under the cursor; says so where there is none."""
        line = self.under
        row = self.bench.snapshot.by_id.get(line.run_id or "") if line is not None else None
        if row is None:
            self.bench.notify("no run here: choose a slot that is running")
        return row

    def action_open(self) -> None:
        """Show the run of the slot on screen 4."""
        row = self._run()
        if row is not None:
            self.bench.show_run(row.run_id)

    def action_cancel(self) -> None:
        """Cancel the run of the slot."""
        row = self._run()
        if row is not None:
            self.bench.ask_cancel([row])

    def action_retry(self) -> None:
        """Retry every run of the study that went wrong."""
        rows = [row for row in self.bench.study_rows() if row.line.state in ("failed", "oom", "lost", "cancelled")]
        self.bench.ask_retry(rows)

    def action_check(self) -> None:
        """Look now."""
        self._ask()

    def action_waiting(self) -> None:
        """What waits, on screen 2."""
        self.bench.show_runs("state:planned,queued")

    def action_drain(self) -> None:
        """Let the host finish what it runs and start nothing more, or let it start again."""
        line = self.under
        look = next((look for look in self.looks if line is not None and look.host.name == line.host), None)
        if look is None:
            return
        name, on, workspace = look.host.name, not look.drained, self.bench.workspace

        def work() -> str:
            machines.drain(workspace, name, on=on)
            if on:
                self.bench.actions.offer(Undo(of=f"the draining of {name}", act=fill))
                return f"{name} is drained: what runs is finished, nothing more is started   U takes it back"
            return f"{name} starts runs again"

        def fill() -> None:
            self.bench.work(lambda: _filled(name))
            self._ask()

        def _filled(host: str) -> str:
            machines.drain(workspace, host, on=False)
            return f"{host} starts runs again"

        self.bench.work(work)
        self.set_timer(0.3, self._ask)

    def action_add(self) -> None:
        """Type a host; its key is shown before anything is trusted."""
        workspace = self.bench.workspace

        def check(text: str) -> str:
            entry = newhost.typed(text)
            machines.check_new(workspace, entry)
            return f"{entry.backend} host {entry.name} at {entry.ssh}; its key is looked at next"

        def taken(text: str | None) -> None:
            if text:
                self._ask_keys(newhost.typed(text))

        self.app.push_screen(Prompt("add a host", "", check, newhost.NOTES), taken)

    def _ask_keys(self, entry: HostEntry) -> None:
        def look() -> Message:
            return self.KeysSeen(entry, *machines.keys(entry.ssh or ""))

        self.notify(f"asking {entry.ssh} for its key ...", timeout=3)
        self.bench.in_thread(self, look, lambda text: self.bench.Answered(text, wrong=True), group="host-keys")

    def on_hosts_screen_keys_seen(self, message: KeysSeen) -> None:
        """Add a host whose key is trusted; else ask whether it is the right one."""
        if message.known:
            self._add(message, trust=False)
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self._add(message, trust=True)

        details = [key.fingerprint for key in message.keys]
        details.append("compare with what its owner names: ssh-keygen -lf on its host key")
        self.app.push_screen(Confirm(f"Trust {message.place.lookup}?", details), answered)

    def _add(self, message: KeysSeen, trust: bool) -> None:
        workspace, entry = self.bench.workspace, message.entry

        def work() -> str:
            if trust:
                machines.accept_keys(message.place, message.keys)
            problem = machines.add(workspace, entry)
            return f"host {entry.name} added" + (f", but: {problem}" if problem else "   p proves it")

        self.bench.work(work)
        self.set_timer(0.5, self._ask)

    def action_prove(self) -> None:
        """Look at everything of the host under the cursor, as `optsweep hosts check` does."""
        line, workspace = self.under, self.bench.workspace
        name = line.host if line is not None else ""
        if not name or name == "local":
            self.notify("this machine is proved by optsweep doctor; choose another host, or add one with a")
            return

        def work() -> Message:
            return self.Proved(f"host {name}", list(machines.check(workspace, name)))

        self.notify(f"proving {name} ...", timeout=3)
        self.bench.in_thread(self, work, lambda text: self.bench.Answered(text, wrong=True), group="prove")

    def on_hosts_screen_proved(self, message: Proved) -> None:
        """Show what was found."""
        self.app.push_screen(Told(message.title, hosts.finding_rows(message.findings, 74)))
