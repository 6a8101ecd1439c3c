"""Proving a host: key, connection, Python, engine, devices, disk, clock, writing, one training step; a finding for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from optsweep_engines import sources
from optsweep_tui.dispatch import channel, fingerprint, sky_check, slurm_check, team_check, teamsite, told
from optsweep_tui.dispatch.fleet import SKEW_SECONDS
from optsweep_tui.dispatch.hostsfile import HostEntry
from optsweep_tui.dispatch.site import Site
from optsweep_tui.dispatch.slurm import site_of
from optsweep_tui.dispatch.sshsite import SshSite
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace

LEAST_FREE_BYTES = 1 << 30
SLOW_BYTES_PER_SECOND = 5e6
"""Below it, checkpoints of a 100M model take minutes."""
TRIAL_SECONDS = 310.0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    host: str
    check: str
    state: str
    """ok, note (works, but read it), or bad."""
    found: str
    next_step: str = ""


def examine(workspace: Workspace, entry: HostEntry) -> Iterator[Finding]:
    """Look at everything of a host in order, until something makes the rest pointless; its further machines, too."""
    bad = False
    others = teamsite.others_of(entry)
    for one in (entry, *others):
        for found in _examined(workspace, one):
            bad |= found.state == "bad"
            yield found
    if others and not bad:

        def finding(check: str, state: str, found: str, next_step: str = "") -> Finding:
            return Finding(host=entry.name, check=check, state=state, found=found, next_step=next_step)

        yield from team_check.examine(workspace, entry, finding)


def _examined(workspace: Workspace, entry: HostEntry) -> Iterator[Finding]:
    """One machine, or one scheduler."""

    def finding(check: str, state: str, found: str, next_step: str = "") -> Finding:
        return Finding(host=entry.name, check=check, state=state, found=found, next_step=next_step)

    if entry.backend == "skypilot":
        yield from sky_check.examine(workspace, entry, finding)
        return
    site: Site
    if entry.ssh is not None:
        try:
            place = fingerprint.address(entry.ssh)
            keys = fingerprint.known(place)
        except OptsweepError as error:
            yield finding("host key", "bad", error.message, error.hint)
            return
        if not keys:
            yield finding("host key", "bad", f"the key of {place.lookup} is not known here", channel.key_step(entry))
            return
        yield finding("host key", "ok", f"{place.lookup} {keys[0].fingerprint}")
        ssh_site = site = SshSite(workspace, entry)
        try:
            yield from _machine(ssh_site, entry, finding)
        except OptsweepError as error:
            site.close()
            yield finding("connection", "bad", error.message, error.hint)
            return
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:  # a host may answer anything
            site.close()
            why = f"host {entry.name} answered with nonsense: {type(error).__name__}: {told.plain(error, 200)}"
            yield finding("connection", "bad", why, f"is hosts.{entry.listed}.python in hosts.toml a Python?")
            return
    else:
        site = site_of(workspace, entry)
    try:
        if entry.backend == "slurm":
            yield from slurm_check.examine(site, entry, finding)
    except OptsweepError as error:
        yield finding("scheduler", "bad", error.message, error.hint)
    finally:
        site.close()


def _machine(site: SshSite, entry: HostEntry, finding: Any) -> Iterator[Finding]:
    hello = site.connect()
    yield finding("connection", "ok", f"{hello['hostname']}, root {hello['root']}")
    yield finding("python", "ok", f"{hello['python']} ({hello['executable']})")
    same = hello["code"] == sources.digest()
    yield finding(
        "engine", "ok" if same else "bad", f"staged, code {str(hello['code'])[:12]}" + ("" if same else ", not ours"),
        "" if same else f"remove {hello['engine_home']} there",
    )  # fmt: skip
    libraries = dict(hello["libraries"])
    wanted = [entry.engine] if entry.engine else ["torch", "jax"]
    engines = [engine for engine in wanted if engine in libraries]
    there = "  ".join(f"{name} {version}" for name, version in libraries.items()) or "none"
    if "numpy" not in libraries or not engines:
        lacking = "numpy" if "numpy" not in libraries else " or ".join(wanted)
        step = f"there: {entry.python} -m pip install {'numpy' if 'numpy' not in libraries else wanted[0]}"
        yield finding("libraries", "bad", f"{lacking} is missing (there: {there})", f"{step}, or set another python")
        engines = []
    else:
        yield finding("libraries", "ok", there)
    devices = ", ".join(map(str, hello["gpus"])) or f"{hello['cores']} cores"
    if entry.device == "cuda" and not hello["gpus"]:
        yield finding("devices", "bad", f"no NVIDIA GPU ({devices})", f'set hosts.{entry.listed}.device = "cpu"')
        engines = []
    else:
        yield finding("devices", "ok", f"{devices}; {hello['slots']} slots on {hello['device']}")
    yield from _disk_and_clock(site, finding)
    if entry.workers and hello["device"] == "tpu":
        why = "not tried: the chips of a slice start on all of its machines at once"
        yield finding("one step", "note", why, "optsweep run with a small grid tries them together")
        return
    for engine in engines if entry.backend == "ssh" else []:  # a login node is not there to train on
        answer, _ = site.call("trial", {"engine": engine, "device": hello["device"]}, seconds=TRIAL_SECONDS)
        if answer.get("trained") and answer.get("status") == "done":
            yield finding(
                f"one step, {engine}",
                "ok",
                f"trained on {told.plain(answer['device'], 100)} in {answer['seconds']:.1f} s",
            )
        else:
            why = told.plain(answer.get("why") or answer.get("error") or "it did not end well", 300)
            yield finding(
                f"one step, {engine}", "bad", why, f"make {engine} work there, or set hosts.{entry.listed}.python"
            )


def _disk_and_clock(site: SshSite, finding: Any) -> Iterator[Finding]:
    speed, _ = site.call("speed", {"bytes": 16 << 20})
    free, rate = float(speed["free_bytes"]), float(speed["bytes_per_second"])
    state, step = ("ok", "") if free >= LEAST_FREE_BYTES else ("bad", "free some space there")
    yield finding("disk", state, f"{free / 2**30:.1f} GiB free", step)
    state, step = ("ok", "") if rate >= SLOW_BYTES_PER_SECOND else ("note", "set its root to a faster disk")
    yield finding("writing", state, f"{rate / 1e6:.0f} MB/s with fsync", step)
    skew = site.skew_seconds
    if abs(skew) > SKEW_SECONDS:
        way = "ahead of" if skew > 0 else "behind"
        step = "start its time service (timedatectl set-ntp true); results do not depend on it, shown times do"
        yield finding("clock", "note", f"{abs(skew):.0f} s {way} this machine", step)
    else:
        yield finding("clock", "ok", f"{skew:+.1f} s")
