"""Screen 6: hosts with their devices and slots as lines of a table, and what the marks mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optsweep_tui.app import format as fmt
from optsweep_tui.app.model import RunRow
from optsweep_tui.app.widgets.column import Column
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Row, Span
from optsweep_tui.dispatch.hosts import STALE_SECONDS, Device, HostLook, Slot

if TYPE_CHECKING:
    from optsweep_tui.dispatch.checkup import Finding

GIB = 2.0**30


@dataclass(frozen=True, kw_only=True)
class HostLine:
    """One line of the table."""

    host: str
    spans: tuple[Span, ...]
    said: str = ""
    """All that is known of it, for below the table."""
    run_id: str | None = None
    """The run of a slot."""


def columns(width: int) -> list[Column]:
    """What a line holds; the last column takes what is left."""
    found = [
        Column(title="host", width=15 if width < 100 else 24, key="name"),
        Column(title="state", width=9, key="state"),
        Column(title="busy %", width=6, right=True, key="busy"),
        Column(title="memory GiB", width=13, right=True, key="memory"),
        Column(title="waits", width=5, right=True, key="waits"),
        Column(title="heard", width=6, right=True, key="heard"),
    ]
    rest = width - 2 - sum(column.width + 1 for column in found)
    return [*found, Column(title="what it does", width=max(12, rest), key="doing")]


def lines(looks: Sequence[HostLook], rows: Mapping[str, RunRow], age_seconds: float) -> list[HostLine]:
    """Each host, its devices, its slots.

    Args:
        looks: the last look.
        rows: the runs by id.
        age_seconds: since that look.
    """
    found = []
    for look in looks:
        for spans, run_id in (
            (_host(look, age_seconds), None),
            *((_device(device), None) for device in look.devices),
            *((_slot(slot, rows), slot.run_id) for slot in look.slots),
        ):
            said = f"{spans[0].text.strip()}: {spans[-1].text or spans[1].text or 'nothing'}"
            found.append(HostLine(host=look.host.name, spans=spans, said=said, run_id=run_id))
    return found


def _host(look: HostLook, age_seconds: float) -> tuple[Span, ...]:
    host = look.host
    if look.problem:
        state = Span("? no look", style.BAD, bold=True)
    elif look.drained:
        state = Span("- drained", style.BAD, bold=True)
    elif look.busy:
        state = Span("◐ busy", style.ALIVE, bold=True)
    else:
        state = Span("○ free", style.GREY)
    heard = None if look.contact_seconds is None else look.contact_seconds + age_seconds
    facts = [f"{look.busy} of {host.slots} slots busy", " ".join(look.engines) or "no engine found"]
    if look.load is not None:
        facts.append(f"load {look.load:.1f}")
    if look.free_disk_bytes is not None:
        facts.append(f"{look.free_disk_bytes / GIB:,.0f} GiB of disk free")
    return (
        Span(host.name if host.address is None else f"{host.name} {host.address}", bold=True),
        state,
        Span(""),
        Span(""),
        Span(f"{look.queued:,}", bold=bool(look.queued)),
        Span("never" if heard is None else fmt.duration(heard), style.BAD if heard is None else style.GREY),
        Span(look.problem or "   ".join(facts), style.BAD if look.problem else style.GREY),
    )


def _device(device: Device) -> tuple[Span, ...]:
    memory = fmt.NOTHING
    if device.used_bytes is not None and device.total_bytes:
        memory = f"{device.used_bytes / GIB:.1f} / {device.total_bytes / GIB:.1f}"
    busy = device.busy_percent
    bar = "" if busy is None else "▮" * round(busy / 10)
    return (
        Span(f"  {device.name}"),
        Span(""),
        Span(fmt.NOTHING if busy is None else f"{busy:.0f}"),
        Span(memory),
        Span(""),
        Span(""),
        Span(bar, style.ALIVE),
    )


def _slot(slot: Slot, rows: Mapping[str, RunRow]) -> tuple[Span, ...]:
    age = slot.lease_age_seconds
    if slot.run_id is None:
        word = "free" if slot.pid is None else "between"
        return (Span(f"  slot {slot.number}"), Span(f"○ {word}", style.GREY), *([Span("")] * 4), Span(""))
    row = rows.get(slot.run_id)
    state = Span("? stale", style.BAD, bold=True) if slot.stale else Span("◐ running", style.ALIVE)
    return (
        Span(f"  slot {slot.number}"),
        state,
        Span(""),
        Span(""),
        Span(""),
        Span(fmt.NOTHING if age is None else fmt.duration(age), style.BAD if slot.stale else style.GREY),
        Span(slot.run_id[:8] if row is None else doing(row)),
    )


def finding_rows(findings: Sequence[Finding], width: int) -> list[Row]:
    """What `hosts check` found, a line each, its next step below it."""
    colours = {"ok": style.ALIVE, "bad": style.BAD}
    rows: list[Row] = []
    for one in findings:
        first, *more = fmt.wrapped(one.found, width - 23) or [""]
        head = Span(f" {fmt.fit(one.check, 14)} ")
        rows.append((head, Span(f"{fmt.fit(one.state, 6)}", colours.get(one.state)), Span(first)))
        rows += [(Span(" " * 22 + line),) for line in more]
        rows += [(Span(" " * 22 + line, style.GREY),) for line in fmt.wrapped(one.next_step, width - 23)]
    return rows or [(Span(" nothing was found", style.GREY),)]


def doing(row: RunRow) -> str:
    """A run in one line: "muon bench-micro 1/4 lr 0.02 312/400 loss 1.82 to go 0:12"."""
    line = row.line
    parts = [line.optimizer, line.model, fmt.ratio(line.chinchilla), f"lr {fmt.knob(line.lr)}"]
    parts.append(f"{line.step:,}/{line.steps:,}")
    if line.loss is not None:
        parts.append(f"loss {fmt.loss(line.loss)}")
    if line.eta_seconds is not None:
        parts.append(f"to go {fmt.duration(line.eta_seconds)}")
    return " ".join(parts)


def queue_rows(rows: Sequence[RunRow], width: int, height: int, said: str = "") -> list[Row]:
    """What waits, cell by cell; the last line counts what has no room.

    Args:
        rows: the waiting runs.
        said: a line above them, on what the cursor stands on.
    """
    title = f" {len(rows):,} waiting" if rows else " nothing is waiting"
    found: list[Row] = [(Span(f" {said}", bold=True),)] if said else []
    found.append((Span(title + " ", style.GREY), Span("─" * max(0, width - len(title) - 2), style.FAINT)))
    room = max(0, height - 2 - len(found))
    fits = rows if len(rows) <= room else rows[: max(0, room - 1)]
    for row in fits:
        line = row.line
        name = Span(f" ○ {fmt.fit(line.optimizer, 12)}", style.colour_of(line.optimizer))
        rest = f"{fmt.fit(line.model, 14)} {fmt.fit(fmt.ratio(line.chinchilla), 6, True)}   lr {fmt.fit(fmt.knob(line.lr), 8)}"
        found.append(
            (name, Span(f"{rest} seed {fmt.knob(line.seed)}   {line.steps:,} steps   {line.state}", style.GREY))
        )
    if len(fits) < len(rows):
        found.append((Span(f"   and {len(rows) - len(fits):,} more: state:queued,planned on screen 2", style.GREY),))
    found += [()] * max(0, height - 2 - len(found))
    heard = f" heard: since the last look, or the last sign of a slot's worker; ? stale: {STALE_SECONDS:.0f} s"
    drained = " drained: what runs is finished, nothing more starts, what waits goes on waiting"
    found += [(Span(heard, style.GREY),), (Span(drained, style.GREY),)]
    return [fmt.cut(row, width) for row in found[:height]]
