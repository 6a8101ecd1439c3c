"""What is sent to SkyPilot and read from it, held against SkyPilot itself: its parser of tasks, its command line, its states.

Runs where SkyPilot is installed: in this environment, in that of `sky` on PATH, or in that of OPTSWEEP_SKY_PYTHON.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from optsweep_tui.dispatch import hostsfile, sky_commands, sky_task

RUN = "12345678901234567890123456789012"
TABLES = {
    "spot": 'accelerators = "H100:1"\ninfra = "aws/us-east-1"\nuse_spot = true',
    "cpus": "cpus = 8\nmemory = 32\ndisk_size = 200",
    "setup": 'accelerators = "A100:8"\ninfra = "gcp"\nimage = "docker:nvcr.io/nvidia/pytorch:25.01-py3"',
    "tpu": 'accelerators = "tpu-v5e-8"\ninfra = "gcp"',
}
INSIDE = """
import json, sys
import sky
from sky.client.cli import command
from sky.jobs import state
from sky.schemas.api import responses
asked = json.load(sys.stdin)
found = {"version": sky.__version__, "tasks": {}, "options": {}}
for name, path in asked["tasks"].items():
    task = sky.Task.from_yaml(path)
    (target, storage), = task.storage_mounts.items()
    resource, = task.resources
    found["tasks"][name] = {
        "name": task.name, "run": task.run, "setup": task.setup, "envs": task.envs, "nodes": task.num_nodes,
        "target": target, "source": storage.source, "mode": storage.mode.value, "accelerators": resource.accelerators,
        "spot": resource.use_spot, "cpus": resource.cpus, "memory": resource.memory, "disk": resource.disk_size,
        "cloud": str(resource.cloud), "region": resource.region,
    }
for name, argv in asked["options"].items():
    made = {"launch": command.jobs_launch, "queue": command.jobs_queue, "cancel": command.jobs_cancel,
            "dryrun": command.launch}[name]
    found["options"][name] = {key: value for key, value in made.make_context(name, list(argv)).params.items()
                              if isinstance(value, (str, bool, int, list, tuple, dict))}
found["states"] = [item.value for item in state.ManagedJobStatus]
found["terminal"] = [item.value for item in state.ManagedJobStatus.terminal_statuses()]
rows = [responses.ManagedJobRecord(job_id=index, job_name=asked["job"], status=value, recovery_count=2,
                                   failure_reason="no\\x1b[2J room") for index, value in enumerate(found["states"])]
found["queue"] = json.dumps([row.model_dump(mode="json") for row in rows], indent=2)
print("FOUND" + json.dumps(found))
"""


def interpreter() -> str | None:
    """One that has SkyPilot; None: there is none."""
    named = os.environ.get("OPTSWEEP_SKY_PYTHON")
    if named or find_spec("sky") is not None:
        return named or sys.executable
    program = shutil.which("sky")
    first = Path(program).read_text(errors="replace").partition("\n")[0] if program else ""
    return first[2:].strip() if first.startswith("#!") and "python" in first else None


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What SkyPilot makes of it all: asked once, for its import takes seconds."""
    python = interpreter()
    if python is None:
        pytest.skip("SkyPilot is not installed; OPTSWEEP_SKY_PYTHON names an interpreter that has it")
    where = tmp_path_factory.mktemp("sky")
    paths = {}
    for name, text in TABLES.items():
        path = where / f"{name}.yaml"
        path.write_text(sky_task.text(entry(text), (RUN, 3), "e" * 64, "5" * 64 if name == "setup" else None))
        paths[name] = str(path)
    (where / "secrets").write_text("TOKEN=abc\n")
    job = sky_task.name_of((RUN, 3))
    options = {
        "launch": ["--yes", "--detach-run", "--name", job, "--secret-file", str(where / "secrets"), paths["spot"]],
        "queue": sky_commands.QUEUE[2:],
        "cancel": ["--yes", "3", "4"],
        "dryrun": ["--dryrun", "--yes", paths["spot"]],
    }
    ended = subprocess.run(
        [python, "-c", INSIDE],
        input=json.dumps({"tasks": paths, "options": options, "job": job}),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env={**os.environ, "HOME": str(where), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1", "PYTHONPATH": ""},
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    found: dict[str, Any] = json.loads(ended.stdout.partition("FOUND")[2])
    return found


def entry(text: str) -> hostsfile.HostEntry:
    head = (
        '[hosts.c]\nbackend = "skypilot"\nstorage = "s3://some-bucket/folder/optsweep"\npython = "~/venv/bin/python"\n'
    )
    return hostsfile.parse(f"{head}{text}\n")["c"]


def test_its_parser_reads_tasks_as_they_are_meant(said: dict[str, Any]) -> None:
    for name, task in said["tasks"].items():
        assert task["name"] == f"os-{RUN}-a3" and task["nodes"] == 1
        assert (task["target"], task["source"], task["mode"]) == (
            "~/optsweep-storage",
            "s3://some-bucket/folder/optsweep",
            "MOUNT",
        )
        assert task["envs"]["OPTSWEEP_RUN"] == RUN and task["envs"]["OPTSWEEP_ATTEMPT"] == "3"
        assert task["envs"]["OPTSWEEP_PYTHON"] == "~/venv/bin/python"
        assert task["envs"]["OPTSWEEP_START"] == sky_task.start() and task["run"] == sky_task.RUN
        assert task["setup"] == (sky_task.SETUP if name == "setup" else None)
    tasks = said["tasks"]
    assert tasks["spot"]["accelerators"] == {"H100": 1} and tasks["spot"]["spot"] is True
    assert (tasks["spot"]["cloud"], tasks["spot"]["region"]) == ("AWS", "us-east-1")
    assert (tasks["cpus"]["cpus"], tasks["cpus"]["memory"], tasks["cpus"]["disk"]) == ("8+", "32+", 200)
    assert tasks["setup"]["accelerators"] == {"A100": 8} and tasks["setup"]["envs"]["OPTSWEEP_SETUP"] == "5" * 64
    assert tasks["tpu"]["accelerators"] == {"tpu-v5e-8": 1} and tasks["tpu"]["cloud"] == "GCP"


def test_its_command_line_takes_what_is_given_to_it(said: dict[str, Any]) -> None:
    launch, queue, cancel = (said["options"][name] for name in ("launch", "queue", "cancel"))
    assert launch["name"] == f"os-{RUN}-a3" and launch["yes"] and launch["detach_run"]
    assert launch["secret_file"] == {"TOKEN": "abc"}
    assert queue["all"] is True and queue["verbose"] is True and queue["output_format"] == "json"
    assert cancel["job_ids"] == [3, 4] and cancel["yes"] is True and cancel["all"] is False
    assert said["options"]["dryrun"]["dryrun"] is True


def test_its_states_and_records_are_known(said: dict[str, Any]) -> None:
    assert set(said["terminal"]) == set(sky_commands.TERMINAL)
    answer = sky_commands.Said(returncode=0, out=f"Checking managed jobs\n{said['queue']}\n", error="")
    snapshot = sky_commands.snapshot(answer, 1.0)
    assert snapshot is not None
    rows = snapshot.rows[f"os-{RUN}-a3"]
    assert [row.status for row in rows] == said["states"]
    assert {row.status for row in rows if not row.active} == set(said["terminal"])
    assert {row.recoveries for row in rows} == {2} and {row.reason for row in rows} == {"no [2J room"}


def test_the_release_that_all_this_was_read_from_is_the_one_that_is_pinned(said: dict[str, Any]) -> None:
    assert said["version"].startswith("0.14."), "read its options and answers anew, then move the pin in pyproject.toml"
