"""Host keys before they are trusted: what ssh would connect to, whether its key is known, what it shows, taking it in.

Only `optsweep hosts add` takes a key in, after a person has seen its fingerprint; every connection is strict.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import ssh_config

SCAN_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where ssh would go for a target, by the user's config."""

    target: str
    hostname: str
    port: int
    lookup: str
    """Name of its key in known_hosts files."""
    known_hosts: tuple[Path, ...]
    """Files that ssh reads, the first is the one that keys are added to."""
    jump: str
    """ProxyJump or ProxyCommand; empty for a direct connection."""


@dataclass(frozen=True, kw_only=True)
class HostKey:
    """One public key of a host."""

    kind: str
    key: str
    fingerprint: str
    """As ssh-keygen -l prints it: "256 SHA256:... (ED25519)"."""


def address(target: str) -> Address:
    """What the ssh config makes of a target.

    Raises:
        OptsweepError: ssh cannot read its config, or is not installed.
    """
    config = ssh_config()
    status, out, words = _run(["ssh", *(["-F", str(config)] if config else []), "-G", "--", target])
    if status != 0:
        raise OptsweepError(f'ssh cannot make sense of "{target}": {_last(words)}', "mend the ssh config")
    values: dict[str, str] = {}
    for line in out.splitlines():
        key, _, value = line.partition(" ")
        values.setdefault(key.lower(), value.strip())
    hostname, port = values.get("hostname", target), int(values.get("port", "22"))
    name = values.get("hostkeyalias") or hostname
    files = values.get("userknownhostsfile", "~/.ssh/known_hosts").split()
    files += values.get("globalknownhostsfile", "").split()
    jump = values.get("proxyjump") or values.get("proxycommand") or ""
    return Address(
        target=target,
        hostname=hostname,
        port=port,
        lookup=name if port == 22 or values.get("hostkeyalias") else f"[{name}]:{port}",
        known_hosts=tuple(Path(file).expanduser() for file in files if file not in ("none", "/dev/null")),
        jump="" if jump == "none" else jump,
    )


def known(place: Address) -> list[HostKey]:
    """The keys that are trusted for an address."""
    found = []
    for file in place.known_hosts:
        if file.is_file():
            _, out, _ = _run(["ssh-keygen", "-F", place.lookup, "-f", str(file)])
            found += _keys(line for line in out.splitlines() if not line.startswith("#"))
    return found


def shown(place: Address) -> list[HostKey]:
    """The keys that the host shows to anybody who asks.

    Raises:
        OptsweepError: it shows none: it is down, the name is wrong, or it is behind another host.
    """
    if place.jump:
        raise OptsweepError(
            f"{place.target} is reached through {place.jump}, so its key cannot be asked for directly",
            f"run ssh {place.target} once by hand and accept its key there, then add it again",
        )
    _, out, words = _run(["ssh-keyscan", "-T", str(SCAN_SECONDS), "-p", str(place.port), place.hostname])
    keys = _keys(line for line in out.splitlines() if line and not line.startswith("#"))
    if not keys:
        why = _last("\n".join(line for line in words.splitlines() if not line.startswith("#")))
        raise OptsweepError(
            f"{place.target} ({place.hostname} port {place.port}) shows no host key{f': {why}' if why else ''}",
            f"check the name, or try: ssh {place.target}",
        )
    return sorted(keys, key=lambda key: "ed25519" not in key.kind)


def accept(place: Address, keys: Sequence[HostKey]) -> Path:
    """Add keys to the user's known_hosts; returns that file.

    Raises:
        OptsweepError: it cannot be written.
    """
    if not place.known_hosts:
        raise OptsweepError("the ssh config names no known_hosts file", "set UserKnownHostsFile in it")
    path = place.known_hosts[0]
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        before = path.read_bytes() if path.exists() else b""
        text = b"\n" if before and not before.endswith(b"\n") else b""
        text += "".join(f"{place.lookup} {key.kind} {key.key}\n" for key in keys).encode()
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(handle, text)
        finally:
            os.close(handle)
    except OSError as error:
        raise OptsweepError(f"{path} cannot be written: {error.strerror}", "check its permissions") from None
    return path


def _keys(lines: Iterable[str]) -> list[HostKey]:
    found = []
    for line in lines:
        fields = line.split()
        fields = fields[1:] if fields and fields[0].startswith("@") else fields
        if len(fields) < 3:
            continue
        status, out, _ = _run(["ssh-keygen", "-l", "-f", "-"], f"{fields[0]} {fields[1]} {fields[2]}\n")
        if status == 0:
            words = out.split()
            print_ = f"{words[0]} {words[1]} {words[-1]}" if len(words) >= 3 else out.strip()
            found.append(HostKey(kind=fields[1], key=fields[2], fingerprint=print_))
    return found


def _last(words: str) -> str:
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def _run(command: list[str], stdin: str = "") -> tuple[int, str, str]:
    try:
        ended = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=3.0 * SCAN_SECONDS, check=False
        )
    except FileNotFoundError:
        raise OptsweepError(f"{command[0]} is not installed here", "install the OpenSSH client") from None
    except subprocess.TimeoutExpired:
        return 124, "", f"{command[0]} did not end in time"
    return ended.returncode, ended.stdout, ended.stderr
