"""Proving a Slurm cluster: its version and limits, the partitions, what sbatch accepts, one training step on a node."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from optsweep_tui.dispatch import slurm_commands, slurm_submit
from optsweep_tui.dispatch.hostsfile import HostEntry
from optsweep_tui.dispatch.site import LocalSite, Site, Staged
from optsweep_tui.dispatch.slurm_commands import Limits, Partition

TRIAL_SECONDS = 180.0
"""How long a job of one step is waited for: a full cluster lets it wait for hours, which says nothing against it."""
POLL_SECONDS = 1.0
Found = Callable[..., Any]
"""finding(check, state, found, next_step): what `checkup` makes its rows with."""


def examine(site: Site, entry: HostEntry, finding: Found) -> Iterator[Any]:
    """Look at a cluster in order, until something makes the rest pointless; the last step runs a job on a node."""
    status, out, words = site.scheduler(["scontrol", "show", "config"])
    if status == 127:
        yield finding("slurm", "bad", words, 'ssh = "LOGIN" in hosts.toml names a login node; or install its commands')
        return
    if status != 0:
        yield finding("slurm", "bad", slurm_commands.one_line(words), "ask whether the cluster is up: sinfo")
        return
    limits = slurm_commands.parse_config(out)
    sacct = "sacct answers" if limits.accounting else "no sacct here, and none is needed"
    yield finding("slurm", "ok", f"{limits.cluster} {limits.version}; {sacct}")
    yield _limits(limits, entry, finding)
    _, out, _ = site.scheduler(["sinfo", "-h", "-a", "-o", slurm_commands.SINFO_FORMAT])
    partitions = {part.name: part for part in slurm_commands.parse_partitions(out)}
    usable = []
    for name in entry.partitions or tuple(part.name for part in partitions.values() if part.default):
        row, fits = _partition(entry, partitions.get(name), name, list(partitions), finding)
        yield row
        usable += [name] if fits else []
    if not usable:
        return
    staged = site.stage(())
    script = site.write("slurm/task.sh", slurm_submit.SCRIPT.encode())
    for name in usable:
        accepted = _accepted(site, entry, name, script, finding)
        yield accepted
        if accepted.state != "ok":
            return
    engines = [entry.engine] if entry.engine else ["torch", "jax"]
    rows = [_trial(site, entry, usable[0], staged, script, engine, finding) for engine in engines]
    works = any(row.state == "ok" for row in rows)
    for row in rows:  # one engine is enough
        yield dataclasses.replace(row, state="note") if works and row.state == "bad" else row


def _limits(limits: Limits, entry: HostEntry, finding: Found) -> Any:
    most = entry.slurm.max_submitted or limits.max_jobs // 2
    text = f"arrays of {limits.chunk} tasks (MaxArraySize {limits.max_array_size}), at most {most} tasks at a time"
    if most > limits.max_jobs:
        return finding("limits", "note", text, f"MaxJobCount is {limits.max_jobs}: set max_submitted below it")
    return finding("limits", "ok", text)


def _partition(
    entry: HostEntry, part: Partition | None, name: str, there: Sequence[str], finding: Found
) -> tuple[Any, bool]:
    check = f"partition {name}"
    if part is None:
        step = f"set hosts.{entry.name}.partitions to some of {', '.join(there[:12]) or 'those that sinfo lists'}"
        return finding(check, "bad", f"{name} is not there", step), False
    text = f"{part.nodes} nodes ({part.states}) of {part.cpus} CPUs, {part.gres or 'no gres'}, limit {part.time_limit}"
    if not part.up:
        return finding(check, "note", f"{text}; it is down", "jobs wait there until it is up"), False
    wanted = entry.options(name).gres
    if wanted and wanted.partition(":")[0] not in part.gres:
        return finding(
            check, "bad", text, f"no gres {wanted} there: set gres or partitions of hosts.{entry.name}"
        ), False
    if part.gres and not wanted:
        return finding(check, "note", text, f'runs get no GPU: set gres = "gpu:1" for hosts.{entry.name}'), True
    return finding(check, "ok", text), True


def _accepted(site: Site, entry: HostEntry, partition: str, script: str, finding: Found) -> Any:
    """What sbatch says to the options of hosts.toml, without a job."""
    argv = slurm_submit.arguments("os-test", 1, entry.options(partition), partition, script, "/dev/null")
    status, _, words = site.scheduler([argv[0], "--test-only", *argv[1:]])
    if status == 0:
        return finding(f"sbatch {partition}", "ok", "takes the options of hosts.toml")
    return finding(f"sbatch {partition}", "bad", slurm_commands.one_line(words), slurm_commands.hint_for(words))


def _trial(
    site: Site, entry: HostEntry, partition: str, staged: Staged, script: str, engine: str, finding: Found
) -> Any:
    """One training step as a job; on a shared folder its own words are read, elsewhere its exit code."""
    check = f"node, {engine}"
    output = site.write(f"slurm/trial-{engine}.txt", b"")
    argv = slurm_submit.arguments("os-trial", 1, entry.options(partition), partition, script, output)
    device = entry.device if entry.device in ("cpu", "cuda") else "auto"
    command = [staged.engine, staged.python, "-m", "optsweep_engines.trial", "--engine", engine, "--device", device]
    status, out, words = site.scheduler([*argv, *command])
    job = slurm_commands.job_id(out) if status == 0 else None
    if job is None:
        return finding(check, "bad", slurm_commands.one_line(words), slurm_commands.hint_for(words))
    table = _ended(site, f"{job}_0")
    state, code = table.get("JobState", "gone"), table.get("ExitCode", "?")
    if state in ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "gone"):
        site.scheduler(["scancel", "--quiet", job])
        why = f"job {job} was {state.lower()} ({table.get('Reason', 'no reason given')}) after {TRIAL_SECONDS:g} s"
        return finding(check, "note", why, "the cluster is busy; runs will wait in the same way")
    said = _said(output) if isinstance(site, LocalSite) else {}
    if code == "0:0" and said.get("status", "done") == "done":
        node = table.get("NodeList") or table.get("BatchHost") or "a node"
        return finding(
            check, "ok", f"one step trained on {node}" + (f", {said['device']}" if said.get("device") else "")
        )
    why = said.get("error") or said.get("text") or f"job {job} ended {state.lower()} with exit code {code}"
    return finding(
        check, "bad", str(why)[:300], f"set hosts.{entry.name}.python to one that has {engine} on the nodes too"
    )


def _ended(site: Site, job: str) -> dict[str, str]:
    """What scontrol shows of a job once it has ended, or has been waited for long enough."""
    limit = time.monotonic() + TRIAL_SECONDS
    table: dict[str, str] = {}
    while time.monotonic() < limit:
        status, out, _ = site.scheduler(["scontrol", "show", "job", job, "-o"])
        table = slurm_commands.details(out) if status == 0 else table
        if table.get("JobState") in slurm_commands.TERMINAL:
            return table
        time.sleep(POLL_SECONDS)
    return table


def _said(output: str) -> dict[str, Any]:
    """The last line of the trial, or what stood in its place."""
    try:
        lines = Path(output).read_text(errors="replace").strip().splitlines()
    except OSError:
        return {"text": f"the node wrote nothing to {output}: does it see that folder?"}
    if not lines:
        return {}
    try:
        data = json.loads(lines[-1])
    except ValueError:
        return {"text": lines[-1][:300]}
    return data if isinstance(data, dict) else {"text": lines[-1][:300]}
