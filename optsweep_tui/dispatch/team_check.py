"""Proving machines that train each run together: alike in their versions, each with files of its own, the first one in reach."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from optsweep_tui.dispatch import teamsite
from optsweep_tui.dispatch.hostsfile import HostEntry
from optsweep_tui.dispatch.sshsite import SshSite
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace


def examine(workspace: Workspace, entry: HostEntry, finding: Any) -> Iterator[Any]:
    """Look at the machines of an entry beside each other; each was looked at by itself.

    Args:
        finding: makes a `checkup.Finding` of this host.
    """
    site = teamsite.TeamSite(workspace, entry)
    try:
        problem = site.problem()
        if problem is not None:
            yield finding("together", "bad", problem.message, problem.hint)
            return
        yield finding("together", "ok", f"{len(site.others) + 1} machines with the same versions")
        address, ports = teamsite.coordinator(entry)
        where = f"{address} ports {ports[0]}-{ports[1]}"
        step = (
            f'set hosts.{entry.name}.coordinator = "ADDRESS:FIRST-LAST" to one that the others reach, open these ports'
        )
        try:
            probed = [int(port) for port in site.call("listen", {"words": len(site.others)})[0]["ports"]]
        except (OptsweepError, KeyError, TypeError, ValueError) as error:
            yield finding("coordinator", "bad", f"{entry.ssh} cannot listen at {where}: {_said(error)}", step)
            return
        for other in site.others:
            try:
                for port in probed:
                    _reached(other, address, port)
            except (OptsweepError, KeyError, TypeError, ValueError) as error:
                yield finding(
                    "coordinator", "bad", f"worker {other.entry.ssh} does not reach {where}: {_said(error)}", step
                )
            else:
                yield finding("coordinator", "ok", f"worker {other.entry.ssh} reaches {where}")
    finally:
        with contextlib.suppress(OptsweepError):
            site.close()


def _reached(other: SshSite, address: str, port: int) -> None:
    word = os.urandom(8).hex()
    answer, _ = other.call("reach", {"address": address, "port": port, "word": word})
    if answer.get("heard") != word:
        raise ValueError(f"somebody else answers at port {port}")


def _said(error: Exception) -> str:
    return error.message if isinstance(error, OptsweepError) else str(error)
