"""A cloud in a folder: `sky` as a program that takes what SkyPilot 0.14.1 takes, prints what it prints, and really runs tasks.

    with fake_sky.installed(folder) as cloud: ...     # `sky` on PATH of this process and of all that it starts

A task runs as processes of this machine in an empty home, with the folder of a file:// storage in the place of its mount. Its
options, its words without jobs and the shape of its queue were taken from the real program. `cloud.preempt(job)` takes the
machine away and starts the same task anew elsewhere.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HOME = "FAKE_SKY"
NODE = "FAKE_SKY_NODE"
FIELDS = (
    "job_id", "task_id", "workspace", "job_name", "task_name", "resources", "submitted_at", "end_at", "job_duration",
    "recovery_count", "status", "pool", "cluster_resources", "schedule_state", "details", "failure_reason", "metadata",
)  # fmt: skip
"""Some of ManagedJobRecord's (sky/schemas/api/responses.py); the others are null there, too."""
TERMINAL = ("SUCCEEDED", "CANCELLED", "FAILED", "FAILED_SETUP", "FAILED_NO_RESOURCE")


class Cloud:
    """The test's side."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def jobs(self) -> dict[int, dict[str, Any]]:
        """Every job that was ever submitted."""
        with _state(self.root) as state:
            return {int(key): dict(job) for key, job in state["jobs"].items()}

    def answer(self, verb: str, mode: str, text: str = "") -> None:
        """How the next commands answer: "lost" (done, then an error), "refused", "away" (nothing done), "" as usual.

        "slow" (launch): after as many seconds as the text says, with its pid in slow/NAME meanwhile.
        "start": with "held", jobs wait for a machine.
        """
        with _state(self.root) as state:
            state["modes"][verb] = [mode, text]

    def calls(self, verb: str) -> int:
        """How often a command came."""
        with _state(self.root) as state:
            return int(state["calls"].get(verb, 0))

    def start(self, job: int) -> None:
        """A machine is found for a job that was held."""
        _start(self.root, job)

    def preempt(self, job: int, *, notice: float = 0.0, away: float = 0.0) -> None:
        """Take the machine of a job away, and start the task on another.

        Args:
            job: its number.
            notice: seconds between TERM and the end of the machine; 0: it goes without a word.
            away: seconds until another machine is found.
        """
        with _state(self.root) as state:
            entry = state["jobs"][str(job)]
            node, entry["status"] = entry["node"], "RECOVERING"
            entry["recovery_count"] += 1
            entry["node"] = f"{job}.{entry['recovery_count']}"
        if notice:
            for pid in _found(self.root, node):
                with contextlib.suppress(OSError):
                    if b"optsweep_engines.carrier" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        os.kill(pid, signal.SIGTERM)
            time.sleep(notice)
        _kill(self.root, node)
        time.sleep(away)
        shutil.rmtree(self.root / "nodes" / node, ignore_errors=True)
        _start(self.root, job)

    def destroy(self, job: int, status: str = "FAILED", reason: str = "the machine is gone") -> None:
        """Take the machine away, and give the job up."""
        with _state(self.root) as state:
            entry = state["jobs"][str(job)]
            entry |= {"status": status, "failure_reason": reason}
            node = entry["node"]
        _kill(self.root, node)

    def close(self) -> None:
        """Nothing of it runs any more."""
        for entry in self.jobs().values():
            _kill(self.root, entry["node"])


@contextlib.contextmanager
def installed(root: Path, *, pace: float = 0.03) -> Iterator[Cloud]:
    """`sky` on PATH, in this process's environment."""
    root.mkdir(parents=True, exist_ok=True)
    program = root / "bin" / "sky"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    before = dict(os.environ)
    os.environ |= {
        HOME: str(root), "PATH": f"{program.parent}:{before['PATH']}", "OPTSWEEP_CARRIER_PACE": str(pace),
    }  # fmt: skip
    cloud = Cloud(root)
    try:
        yield cloud
    finally:
        cloud.close()
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _state(root: Path) -> Iterator[dict[str, Any]]:
    handle = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        path = root / "state.json"
        state = json.loads(path.read_text()) if path.exists() else {"jobs": {}, "modes": {}, "calls": {}}
        yield state
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(state))
        os.replace(temporary, path)
    finally:
        os.close(handle)


def _found(root: Path, node: str) -> list[int]:
    """Pids of what was started on a node of this cloud."""
    mark = f"{NODE}={root}/{node}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                    found.append(int(entry))
    return found


def _kill(root: Path, node: str) -> None:
    """Every process that was started on a node of this cloud, at once, by its pid."""
    for _ in range(5):
        found = _found(root, node)
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            return
        time.sleep(0.05)


def _start(root: Path, job: int) -> None:
    subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), "_node", str(job)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, HOME: str(root)},
    )


# ---------------------------------------------------------------- the program


def _node(root: Path, job: int) -> None:
    """One machine: mounts, setup, run, each as SkyPilot does it (bash, variables exported)."""
    with _state(root) as state:
        entry = state["jobs"][str(job)]
        node, task, secrets = entry["node"], entry["task"], entry["secrets"]
        entry["status"] = "RUNNING"
    home = root / "nodes" / node
    home.mkdir(parents=True)
    for target, mount in task.get("file_mounts", {}).items():
        assert mount["mode"] == "MOUNT" and mount["source"].startswith("file://") and target.startswith("~/")
        (home / target[2:]).symlink_to(mount["source"].removeprefix("file://"))
    environment = {**os.environ, **task.get("envs", {}), **secrets, "HOME": str(home), NODE: f"{root}/{node}"}
    environment |= {"SKYPILOT_TASK_ID": f"sky-managed-{entry['name']}_{job}-0", "SKYPILOT_MANAGED_JOB_ID": str(job)}
    status, reason = "SUCCEEDED", ""
    with open(root / f"job-{job}.log", "ab") as log:
        for key, failed in (("setup", "FAILED_SETUP"), ("run", "FAILED")):
            script = task.get(key)
            if script and status == "SUCCEEDED":
                done = subprocess.run(
                    ["bash", "-c", script], cwd=home, env=environment, stdout=log, stderr=log,
                    stdin=subprocess.DEVNULL, start_new_session=True, check=False,
                )  # fmt: skip
                if done.returncode:
                    status, reason = failed, f"the {key} script ended with {done.returncode}"
    with _state(root) as state:
        entry = state["jobs"][str(job)]
        if entry["node"] == node and entry["status"] not in TERMINAL:
            entry |= {"status": status, "failure_reason": reason}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sky", allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=True)
    launch = verbs.add_parser("launch", allow_abbrev=False)
    launch.add_argument("--dryrun", action="store_true", required=True)
    launch.add_argument("--yes", "-y", action="store_true", required=True)
    launch.add_argument("entrypoint")
    jobs = verbs.add_parser("jobs").add_subparsers(dest="jobs", required=True)
    submit = jobs.add_parser("launch", allow_abbrev=False)
    for flag in ("--yes", "--detach-run"):
        submit.add_argument(flag, action="store_true", required=True)
    submit.add_argument("--name", required=True)
    submit.add_argument("--secret-file")
    submit.add_argument("entrypoint")
    queue = jobs.add_parser("queue", allow_abbrev=False)
    for flag in ("--all", "--verbose"):
        queue.add_argument(flag, action="store_true")
    queue.add_argument("--output", choices=("table", "json"), default="table")
    cancel = jobs.add_parser("cancel", allow_abbrev=False)
    cancel.add_argument("--yes", action="store_true", required=True)
    cancel.add_argument("job_ids", type=int, nargs="+")
    return parser


def main() -> int:
    """One command."""
    root = Path(os.environ[HOME])
    if sys.argv[1] == "_node":
        _node(root, int(sys.argv[2]))
        return 0
    if sys.argv[1:] == ["--version"]:
        print("skypilot, version 0.0.0 (a fake)")
        return 0
    options = _parser().parse_args()
    verb = options.jobs if options.verb == "jobs" else "dryrun"
    with _state(root) as state:
        state["calls"][verb] = state["calls"].get(verb, 0) + 1
        mode, text = state["modes"].get(verb, ["", ""])
    if mode in ("refused", "away"):
        print(text, file=sys.stderr)
        return 1
    if mode == "slow":
        (root / "slow").mkdir(exist_ok=True)
        (root / "slow" / options.name).write_text(str(os.getpid()))
        time.sleep(float(text))
    answer = {"launch": _submit, "queue": _queue, "cancel": _cancel, "dryrun": lambda *_: 0}[verb](root, options)
    if mode == "lost":
        print(text, file=sys.stderr)
        return 1
    return int(answer)


def _submit(root: Path, options: argparse.Namespace) -> int:
    import yaml

    task = yaml.safe_load(Path(options.entrypoint).read_text())
    secrets = {}
    if options.secret_file:
        lines = Path(options.secret_file).read_text().splitlines()
        secrets = dict(line.split("=", 1) for line in lines if "=" in line)
    with _state(root) as state:
        job = len(state["jobs"]) + 1
        state["jobs"][str(job)] = {
            "name": options.name, "task": task, "secrets": secrets, "status": "STARTING", "recovery_count": 0,
            "node": f"{job}.0", "failure_reason": "",
        }  # fmt: skip
        held = state["modes"].get("start", [""])[0]
    if not held:  # else no machine is found yet
        _start(root, job)
    print(f"\x1b[2mManaged job {options.name!r} submitted.\x1b[0m\nJob ID: {job}")
    return 0


def _queue(root: Path, _options: argparse.Namespace) -> int:
    with _state(root) as state:
        jobs = dict(state["jobs"])
    if not jobs:
        print("sky.exceptions.ClusterNotUpError: No in-progress managed jobs.", file=sys.stderr)
        return 1
    rows = [
        {**dict.fromkeys(FIELDS), "job_id": int(key), "task_id": 0, "job_name": job["name"], "task_name": job["name"],
         "status": job["status"], "recovery_count": job["recovery_count"], "failure_reason": job["failure_reason"] or None}
        for key, job in jobs.items()
    ]  # fmt: skip
    print(json.dumps(rows, indent=2))
    return 0


def _cancel(root: Path, options: argparse.Namespace) -> int:
    for job in options.job_ids:
        with _state(root) as state:
            entry = state["jobs"].get(str(job))
            if entry is None or entry["status"] in TERMINAL:
                continue
            entry["status"] = "CANCELLED"
        _kill(root, entry["node"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
