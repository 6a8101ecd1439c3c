"""Proving a skypilot host: `sky` and its version, the storage, files that hosts.toml names, whether such a machine can be had."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import Any

from optsweep_engines import mounted
from optsweep_tui.dispatch import sky_commands, sky_host, sky_pieces
from optsweep_tui.dispatch.hostsfile import HostEntry
from optsweep_tui.dispatch.sky_storage import Storage
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace

TRIED = "0.14"
"""Release whose options and answers are known."""
Found = Callable[..., Any]
"""finding(check, state, found, next_step): what `checkup` makes its rows with."""


def examine(workspace: Workspace, entry: HostEntry, finding: Found) -> Iterator[Any]:
    """Look at what can be looked at without renting a machine."""
    usable = True
    for row in (_program(finding), _storage(entry, finding), _files(entry, finding)):
        yield row
        usable = usable and row.state != "bad"
    if not usable:
        return
    said = sky_host.accepted(workspace, entry)
    asked = ", ".join(f"{key} {value}" for key, value in entry.sky.__dict__.items() if value and key in _ASKED)
    if said.returncode != 0:
        error = sky_host.refusal(entry, said)
        yield finding("machine", "bad", error.message.partition(": ")[2], error.hint)
        return
    yield finding("machine", "ok", f"sky finds one ({asked or 'the smallest'})")
    yield finding("one step", "note", "not tried: it would rent a machine", "the first run tells; docs/cloud.md")


_ASKED = ("accelerators", "infra", "use_spot", "image", "cpus", "memory")


def _program(finding: Found) -> Any:
    said = sky_commands.call(["--version"], 60.0)
    if said.returncode != 0:
        words = sky_commands.MISSING if said.returncode == 127 else said.words
        return finding("sky", "bad", words, sky_commands.hint_for(sky_commands.MISSING))
    match = re.search(r"\d+(\.\d+)+", said.out)
    version = match.group() if match else "unknown"
    if not version.startswith(f"{TRIED}."):
        return finding("sky", "note", f"version {version}", f"what it says was read from {TRIED}: skypilot=={TRIED}.*")
    return finding("sky", "ok", f"version {version}")


def _storage(entry: HostEntry, finding: Found) -> Any:
    storage = Storage(entry.sky.storage, entry.name)
    probe = f"probe/{os.urandom(8).hex()}"
    try:
        storage.write(probe, b"probe\n")
        same = storage.read(probe) == b"probe\n"
        storage.remove(probe)
        mark = storage.table(mounted.MARK)
    except OptsweepError as error:
        return finding("storage", "bad", error.message.partition(": ")[2] or error.message, error.hint)
    if not same:
        return finding("storage", "bad", f"{entry.sky.storage} gives back other bytes", "is it one bucket for all?")
    return finding("storage", "ok", f"{entry.sky.storage}, {'has files of ours' if mark else 'empty'}")


def _files(entry: HostEntry, finding: Found) -> Any:
    try:
        sky_pieces.setup_of(entry)
        sky_pieces.require_secrets(entry)
    except OptsweepError as error:
        return finding("files", "bad", error.message, error.hint)
    named = [path for path in (entry.sky.setup, entry.env_file) if path]
    return finding("files", "ok", ", ".join(named) or "hosts.toml names none")
