"""A host typed in one line, as screen 6 takes it: "box me@box.example python=/opt/env/bin/python slots=2"."""

from __future__ import annotations

import dataclasses
from typing import Any

from optsweep_tui.dispatch.hostsfile import HostEntry
from optsweep_tui.errors import OptsweepError, UnknownName

KEYS = ("python", "slots", "device", "accelerator", "root", "partition")
"""What can be given after name and target, as KEY=VALUE; the rest is in hosts.toml."""
NOTES = (
    "NAME TARGET, then what differs from the usual: box me@box.example python=/opt/env/bin/python slots=2",
    f"TARGET is any name of your ssh config, or USER@HOST; keys: {', '.join(KEYS)}; the word slurm for a Slurm login node",
)


def typed(text: str) -> HostEntry:
    """The host that a line describes.

    Raises:
        OptsweepError: with what is missing or not known.
    """
    words = text.split()
    slurm = "slurm" in words[1:]
    plain = [word for word in words if "=" not in word and word != "slurm"]
    if len(plain) != 2:
        raise OptsweepError("a host is a name and a target of ssh", "box me@box.example")
    entry = HostEntry(name=plain[0], ssh=plain[1], backend="slurm" if slurm else "ssh")
    partitions: list[str] = []
    changes: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            continue
        if key not in KEYS:
            raise UnknownName("key", key, KEYS, where="the line")
        if not value:
            raise OptsweepError(f"{key}= says nothing", f"{key}=VALUE")
        if key == "partition":
            partitions.append(value)
        elif key == "slots":
            if not value.isdecimal() or int(value) < 1:
                raise OptsweepError(f"slots={value} is no number of runs", "slots=2")
            changes["slots"] = int(value)
        else:
            changes[key] = value
    return dataclasses.replace(entry, partitions=tuple(partitions), **changes)
