"""The keys of hosts.toml that only managed jobs of SkyPilot have: read, checked, and nothing else. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

STORAGE = re.compile(
    r"(?:(?:s3|gs)://[a-z0-9][a-z0-9._-]{1,220}(?:/[A-Za-z0-9_+-][A-Za-z0-9_.+-]*)*|file:///[A-Za-z0-9_./+-]{1,500})/?"
)
"""A bucket with a folder in it, or a folder of this machine (for trials with a faked cloud)."""
ACCELERATORS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}(:[0-9]{1,2})?")
"""As SkyPilot names them: "H100", "H100:1", "tpu-v5e-8" (sky show-gpus lists them)."""
INFRA = re.compile(r"[a-z0-9]{1,20}(/[A-Za-z0-9*][A-Za-z0-9_.:@*-]{0,100}){0,2}")
"""CLOUD, CLOUD/REGION or CLOUD/REGION/ZONE."""
IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@+-]{0,300}")
"""What SkyPilot's image_id takes: "docker:nvcr.io/nvidia/pytorch:25.01-py3", "ami-0123"."""
FILE = re.compile(r"(~/|/)?[A-Za-z0-9_./+-]{1,512}")


@dataclass(frozen=True, kw_only=True)
class SkyOptions:
    """What a managed job asks for, and where its files are."""

    storage: str = ""
    """URL of the folder that this machine and the nodes share: "s3://bucket/optsweep", "gs://bucket/optsweep"."""
    accelerators: str | None = None
    infra: str | None = None
    use_spot: bool | None = None
    """Machines that may be taken away at any time; the run goes on on another."""
    image: str | None = None
    setup: str | None = None
    """A shell script here that prepares a node: it should bring torch or jax and numpy for `python`."""
    cpus: int | None = None
    """vCPUs at least."""
    memory: int | None = None
    """GB of memory at least."""
    disk_size: int | None = None
    """GB of the node's disk."""
    max_submitted: int | None = None
    """Most jobs of ours that are not over at a time."""


PATTERNS: Mapping[str, re.Pattern[str] | type] = {
    "storage": STORAGE, "accelerators": ACCELERATORS, "infra": INFRA, "use_spot": bool, "image": IMAGE, "setup": FILE,
    "cpus": int, "memory": int, "disk_size": int, "max_submitted": int,
}  # fmt: skip
"""Key -> what its value is to be."""
ONLY_HERE = tuple(key for key in PATTERNS if key not in ("cpus", "max_submitted"))
"""Keys that no other back-end has."""


def read(table: Mapping[str, Any], wrong: Callable[[str, str, str], Exception]) -> SkyOptions:
    """The options in a host's table.

    Args:
        wrong: (key, why, next step) -> what is raised where a value cannot be used.
    """
    values: dict[str, Any] = {}
    for key, kind in PATTERNS.items():
        if key not in table:
            continue
        value = table[key]
        if kind is bool:
            if not isinstance(value, bool):
                raise wrong(key, f"= {value!r} is neither true nor false", f"write {key} = true")
        elif kind is int:
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1_000_000:
                raise wrong(key, f"= {value!r} is not a whole number above 0", f"write {key} = 4")
        elif not isinstance(value, str) or not kind.fullmatch(value) or ".." in value.split("/"):  # type: ignore[union-attr]
            raise wrong(key, f"= {value!r} cannot be used", _example(key))
        values[key] = value
    if "storage" not in values:
        raise wrong("storage", "is missing", _example("storage"))
    return SkyOptions(**{**values, "storage": values["storage"].rstrip("/")})


def _example(key: str) -> str:
    value = {
        "storage": "s3://BUCKET/optsweep",
        "accelerators": "H100:1",
        "infra": "aws/us-east-1",
        "image": "docker:IMAGE",
        "setup": "setup.sh",
    }[key]
    return f'write {key} = "{value}"'
