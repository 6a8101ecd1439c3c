"""The machines that runs can go to: named, added once their keys were seen, proved, looked at, drained, taken out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from optsweep_tui import flow
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace

if TYPE_CHECKING:
    from optsweep_tui.dispatch.checkup import Finding
    from optsweep_tui.dispatch.fingerprint import Address, HostKey
    from optsweep_tui.dispatch.hosts import HostLook
    from optsweep_tui.dispatch.hostsfile import HostEntry


def names(workspace: Workspace) -> list[str]:
    """Names of the hosts that runs can go to."""
    from optsweep_tui.dispatch import hosts

    return hosts.names(workspace)


def looks(workspace: Workspace) -> Callable[[], list[HostLook]]:
    """A function that looks at every host; between two calls it measures how busy they were."""
    from optsweep_tui.dispatch import hosts

    looker = hosts.Looker(workspace)

    def look() -> list[HostLook]:
        with contextlib.suppress(OptsweepError):  # a broken hosts.toml is one of the looks
            flow.attend(workspace)
        return looker.look()

    return look


def drain(workspace: Workspace, name: str, *, on: bool = True) -> str:
    """Let a host finish what it runs and start nothing more, or start again; returns why it could not be told yet."""
    from optsweep_tui.dispatch import hosts, hostsfile, sshsite

    hosts.drain(workspace, name, on=on)
    entry = hostsfile.read(workspace).get(name)
    if entry is None or entry.backend != "ssh":
        return ""
    site = sshsite.SshSite(workspace, entry)
    try:
        site.call("drain", {"on": on})
    except OptsweepError as error:
        return error.message
    finally:
        site.close()
    return ""


def check_new(workspace: Workspace, entry: HostEntry) -> None:
    """Raise where a host could not be added, before anything is asked of it."""
    from optsweep_tui.dispatch import hostsfile

    hostsfile.check_new(workspace, entry)


def keys(target: str) -> tuple[Address, bool, list[HostKey]]:
    """(where ssh would go, whether its key is trusted already, its keys: the trusted ones, else those that it shows)."""
    from optsweep_tui.dispatch import fingerprint

    place = fingerprint.address(target)
    known = fingerprint.known(place)
    return place, bool(known), known or fingerprint.shown(place)


def accept_keys(place: Address, keys: Sequence[HostKey]) -> Path:
    """Trust keys that a person has seen; returns the file that they were added to."""
    from optsweep_tui.dispatch import fingerprint

    return fingerprint.accept(place, keys)


def add(workspace: Workspace, entry: HostEntry) -> str:
    """Write a host into hosts.toml and greet it; returns what is wrong with it, if anything."""
    from optsweep_tui.dispatch import fleet, hostsfile

    hostsfile.add(workspace, entry)
    return fleet.greeting(workspace, entry)


def check(workspace: Workspace, name: str | None) -> Iterator[Finding]:
    """Prove one host, or all of hosts.toml: a finding for each thing that is looked at."""
    from optsweep_tui.dispatch import checkup, hostsfile

    entries = [hostsfile.entry_of(workspace, name)] if name else list(hostsfile.read(workspace).values())
    for entry in entries:
        yield from checkup.examine(workspace, entry)


def tasks(workspace: Workspace, hosts: Sequence[str], run_id: str) -> dict[str, str]:
    """Host -> the task that a run would be submitted to it as, for hosts that take a file of their own format."""
    from optsweep_tui.dispatch import sky_pieces

    found = {name: sky_pieces.preview(workspace, name, (run_id, 1)) for name in hosts}
    return {name: text for name, text in found.items() if text is not None}


def remove(workspace: Workspace, name: str, *, lost: bool = False) -> list[tuple[str, int]]:
    """Take a host out of hosts.toml; returns the attempts (run id, number) that it gives back."""
    from optsweep_tui.dispatch import leaving

    return leaving.remove(workspace, name, lost=lost)
