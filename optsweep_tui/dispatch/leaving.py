"""Taking a host out: what has not begun goes elsewhere, what runs is waited for; a machine gone for good is given up, fenced."""

from __future__ import annotations

import time

from optsweep_engines import folder
from optsweep_tui import rundir
from optsweep_tui.dispatch import hostsfile, links, teamsite
from optsweep_tui.dispatch.hostsfile import HostEntry
from optsweep_tui.dispatch.mirror import Attempt
from optsweep_tui.dispatch.site import Unreachable
from optsweep_tui.dispatch.sshsite import SshSite
from optsweep_tui.dispatch.teamsite import TeamSite
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace

SILENT_SECONDS = 60.0
"""A host that was heard of more recently is not given up: a reboot or a cut is not the end of a machine."""


def remove(workspace: Workspace, name: str, *, lost: bool) -> list[Attempt]:
    """Take a host out of hosts.toml; returns the attempts that were given back, to be tried elsewhere.

    Args:
        lost: the machine is gone for good. What it may still run is ended there should it ever come back, and counts for
            nothing here: that, with the user's word, is the fence.

    Raises:
        OptsweepError: no such host; runs go on there; or it is alive although it is said to be lost.
    """
    entry = hostsfile.entry_of(workspace, name)
    back: list[Attempt] = []
    if entry.backend == "skypilot" and (attempts := links.open_attempts(workspace, name)):
        if not lost:
            raise OptsweepError(
                f"{len(attempts)} runs go on at host {name}", "wait for them, or optsweep cancel them, then take it out"
            )
        back = _given_up(workspace, entry)
    elif entry.backend == "ssh" and links.open_attempts(workspace, name):
        site = teamsite.site_of(workspace, entry)
        try:
            site.connect()
            if isinstance(site, TeamSite):
                site.problem()  # further machines are told as far as they answer
            back = _given_back(workspace, site, lost)
        except Unreachable as error:
            if not lost:
                raise OptsweepError(
                    f"host {name} does not answer and has runs ({len(links.open_attempts(workspace, name))})",
                    f"wait for it; or optsweep hosts rm {name} --lost where it is gone for good ({error.message})",
                ) from None
            back = _given_up(workspace, entry)
            if isinstance(site, TeamSite):
                site.abandon(back)
        finally:
            site.close()
    hostsfile.remove(workspace, name)
    return back


def _given_back(workspace: Workspace, site: SshSite, lost: bool) -> list[Attempt]:
    """A host that answers: take back what waits; with `lost`, end what runs as well."""
    attempts = links.open_attempts(workspace, site.name)
    pairs = [list(attempt) for attempt in attempts]
    site.call("withdraw", {"attempts": pairs, "reason": "withdrawn"})
    if lost:
        site.call("fence", {"attempts": pairs}, seconds=45.0 + 6.0 * len(pairs))
        if isinstance(site, TeamSite):
            site.abandon(attempts)
    site.refresh(attempts)
    left = []
    for attempt in attempts:
        where = site.mirror.folder_of(attempt)
        if (where / rundir.EXIT).exists():
            links.mark_closed(workspace, site.name, attempt)
        elif site.seen([attempt])[attempt].phase == "absent":
            _end(workspace, site.name, attempt, "withdrawn", "its host was taken out before it was there")
        else:
            left.append(attempt)
    if left:
        raise OptsweepError(
            f"{len(left)} runs go on at host {site.name}", "wait for them, or optsweep cancel them, then take it out"
        )
    return attempts


def _given_up(workspace: Workspace, entry: HostEntry) -> list[Attempt]:
    """A host that does not answer any more."""
    link = links.read_link(workspace, entry.name)
    silent = time.time() - link.heard_at if link is not None and link.heard_at else None
    if silent is not None and silent < SILENT_SECONDS:
        raise OptsweepError(
            f"host {entry.name} answered {silent:.0f} s ago: that is no machine gone for good",
            f"try again in {SILENT_SECONDS - silent:.0f} s, or wait for it",
        )
    attempts = links.open_attempts(workspace, entry.name)
    if link is not None and link.host_id:
        links.give_up(workspace, link.host_id, attempts)
    for attempt in attempts:
        _end(workspace, entry.name, attempt, "given up", f"host {entry.name} was given up as lost")
    return attempts


def _end(workspace: Workspace, host: str, attempt: Attempt, reason: str, error: str) -> None:
    where = workspace.runs / attempt[0] / f"a{attempt[1]}"
    ending = {"returncode": None, "signal": None, "reason": reason, "error": error, "ended_at": time.time()}
    if not (where / rundir.EXIT).exists():
        folder.write_json(where / rundir.EXIT, ending)
    links.mark_closed(workspace, host, attempt)
