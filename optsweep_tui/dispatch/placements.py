"""Where each attempt is, written down on the hosts themselves, so that two controllers never start one run on two of them.

Hosts are asked in the order of their ids, which is the same for everybody. The first that answers decides: whoever wrote a
run's place there first. The place is then copied to all others that answer, for a controller that reaches only those.
A host that does not answer is passed over; docs/hosts.md says what that leaves open.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from optsweep_tui.dispatch.mirror import Attempt
from optsweep_tui.errors import OptsweepError

BATCH = 2000
CONNECT_SECONDS = 40.0
"""For all hosts together; one that is switched off has been given up after 10 (ssh's ConnectTimeout)."""


class Placements:
    """The agreement of all controllers of a set of hosts."""

    def __init__(self, members: Callable[[], list[Any]]) -> None:
        """`members`: the dispatchers behind ssh, login nodes among them, reachable or not."""
        self._members = members
        self.elsewhere: set[str] = set()
        """Runs that another controller has given to a host that is not known here."""

    def agreed(self, choice: Mapping[Attempt, str]) -> dict[Attempt, str]:
        """The choice as it stands: where another controller was first, its host. "" where that host is not known here."""
        members = self._reached()
        if not members:
            return dict(choice)
        members.sort(key=lambda member: str(member.link.host_id))
        ids = {member.entry.name: str(member.link.host_id) for member in members}
        placed = {attempt: ids[_base(name)] for attempt, name in choice.items() if _base(name) in ids}
        places = {_name(attempt): host_id for attempt, host_id in placed.items()}
        for member in members:
            places = self._written(member, places)
        names = {host_id: name for name, host_id in ids.items()}
        found = dict(choice)
        for attempt, host_id in placed.items():
            where = places[_name(attempt)]
            if where != host_id:
                found[attempt] = names.get(where, "")
        self.elsewhere -= {attempt[0] for attempt in choice}
        self.elsewhere |= {attempt[0] for attempt, name in found.items() if not name}
        return found

    def _reached(self) -> list[Any]:
        """Members that answer; those that were never spoken to are waited for, also where no run is to go to them."""
        members = self._members()
        limit = time.monotonic() + CONNECT_SECONDS
        for member in members:
            member.pump.tried(max(0.0, limit - time.monotonic()))
        return [member for member in members if member.link.host_id and member.link.state == "connected"]

    @staticmethod
    def _written(member: Any, places: dict[str, str]) -> dict[str, str]:
        """Ask one host; what it had written before counts, and goes on to the next host."""
        answer = dict(places)
        names = list(places)
        try:
            for start in range(0, len(names), BATCH):
                batch = {name: places[name] for name in names[start : start + BATCH]}
                said, _ = member.pump.site.call("place", {"places": batch})
                answer |= {name: str(said["places"][name])[:16] for name in batch}
        except (OptsweepError, KeyError, TypeError):
            pass  # what it said before it went counts
        return answer


def _name(attempt: Attempt) -> str:
    return f"{attempt[0]}.a{attempt[1]}"


def _base(name: str) -> str:
    """The host of NAME or NAME:PARTITION."""
    return name.partition(":")[0]
