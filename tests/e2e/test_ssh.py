"""Hosts behind a real sshd: cuts, wrong keys, two controllers, a lost host, bad machines; nothing lost, nothing twice.

OPTSWEEP_SSH_CUTS=40 OPTSWEEP_SSH_CUT_SECONDS=180 makes it long (`make faults`).
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from optsweep_tui import rundir, settings
from optsweep_tui.dispatch import fleet, waiting
from tests import smalldisk
from tests.e2e import remote, workbench
from tests.e2e.workbench import optsweep
from tests.sshd import Lab, lab

CUTS = int(os.environ.get("OPTSWEEP_SSH_CUTS", "1"))
CUT_SECONDS = float(os.environ.get("OPTSWEEP_SSH_CUT_SECONDS", "3"))
LATENCY_SECONDS = 2.0

pytestmark = [pytest.mark.slow, pytest.mark.system("sshd"), pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("lab"), "a", "b") as made:
        yield made


@pytest.fixture
def made(boxes: Lab) -> Lab:
    """Both boxes up, their keys known, nothing going on."""
    for box in boxes.boxes.values():
        if not box.pid:
            box.start()
    boxes.trust("a", "b")
    return boxes


def rows(workspace: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(optsweep("ls", "--json", workspace=workspace).stdout)
    return found


def wait_for(what: Any, seconds: float = 90.0, every: float = 0.05) -> Any:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        found = what()
        if found:
            return found
        time.sleep(every)
    raise AssertionError("it did not come to pass")


def one_run(folder: Path, seed: int, ratio: str = "0.02", runs: int = 1) -> Path:
    return remote.grid(folder, runs, ratio, first_seed=seed)


def test_a_connection_cut_at_any_moment_of_a_launch_starts_each_run_once(made: Lab, tmp_path: Path) -> None:
    chance = random.Random(5)
    workspace = made.workspace("cut", "a")
    box = made.boxes["a"]
    for number in range(CUTS):
        grid = one_run(tmp_path, 1000 + 2 * number, runs=2)
        controller = workbench.start("run", "--grid", str(grid), "--host", "a", workspace=workspace)
        wait_for(lambda: box.connections() or controller.poll() is not None, every=0.005)  # noqa: B023
        time.sleep(chance.uniform(0.0, 2.0))
        box.cut()
        assert controller.wait(timeout=180) == 0
    assert {(row["state"], row["attempt"]) for row in rows(workspace)} == {("done", 1)}
    begun = remote.starts([box])
    assert {begun[row["run_id"]] for row in rows(workspace)} == {1}


def test_a_long_cut_changes_no_state_but_the_display_and_what_ran_meanwhile_is_there_after_it(
    made: Lab, tmp_path: Path
) -> None:
    workspace = made.workspace("long", "a", settings="checkpoint_seconds = 0.2\n")
    box = made.boxes["a"]
    controller = workbench.start(
        "run", "--grid", str(one_run(tmp_path, 2000, "0.05", runs=2)), "--host", "a", workspace=workspace
    )
    try:
        (metrics,) = wait_for(lambda: list(workspace.glob("runs/*/a1/metrics.jsonl"))[:1])
        run_folder = metrics.parents[1]
        assert rundir.state_of(run_folder).state == "running"
        box.stop()
        cut = time.monotonic()
        seen = set()
        while time.monotonic() - cut < CUT_SECONDS:
            seen |= {(path.name, rundir.state_of(path).state, rundir.state_of(path).attempt) for path in
                     (workspace / "runs").iterdir()}  # fmt: skip
            time.sleep(0.1)
        assert {state for name, state, _ in seen if name == run_folder.name} == {"running"}
        assert {attempt for _, _, attempt in seen} == {1}
        assert any(row["state"] == "unreachable" for row in rows(workspace)), "the display says it"
        assert controller.poll() is None
        box.start()
        assert controller.wait(timeout=180) == 0
    finally:
        controller.kill()
        controller.wait()
    assert {(row["state"], row["attempt"]) for row in rows(workspace)} == {("done", 1)}
    assert {row["run_id"]: remote.starts([box])[row["run_id"]] for row in rows(workspace)} == {
        row["run_id"]: 1 for row in rows(workspace)
    }


def test_runs_and_the_queue_go_on_without_a_controller_and_resume_finds_every_result(made: Lab, tmp_path: Path) -> None:
    workspace = made.workspace("alone", "a")
    box = made.boxes["a"]
    launched = optsweep(
        "run", "--grid", str(one_run(tmp_path, 3000, runs=4)), "--host", "a", "--detach", workspace=workspace
    )
    (controller,) = [int(word.rstrip(")")) for word in launched.stderr.replace(",", " ").split() if word.isdigit()][-1:]
    wait_for(lambda: len(list(workspace.glob("runs/*/a1/remote.json"))) == 4)
    wait_for(lambda: all('"submitting"' not in path.read_text() for path in workspace.glob("runs/*/a1/remote.json")))
    workbench.kill(controller)
    box.cut()
    ids = set(remote.specs(workspace))
    wait_for(lambda: sum((box.runs / run_id / "a1" / "exit.json").exists() for run_id in ids) == 4)
    optsweep("resume", workspace=workspace)
    remote.require_whole(workspace, 4)
    assert {remote.starts([box])[run_id] for run_id in ids} == {1}


def test_two_controllers_on_two_machines_with_one_host_list_start_no_run_twice(made: Lab, tmp_path: Path) -> None:
    first, second = made.workspace("one"), made.workspace("two")
    grid = one_run(tmp_path, 4000, runs=4)
    started = [
        workbench.start("run", "--grid", str(grid), "--host", "a,b", workspace=workspace)
        for workspace in (first, second)
    ]
    assert [controller.wait(timeout=300) for controller in started] == [0, 0]
    begun = remote.starts(list(made.boxes.values()))
    ids = set(remote.specs(first))
    assert ids == set(remote.specs(second)) and len(ids) == 4
    assert {begun[run_id] for run_id in ids} == {1}, "a run was trained twice"
    remote.require_whole(first, 4)
    remote.require_whole(second, 4)
    hosts = [{row["run_id"]: row["host"] for row in rows(workspace)} for workspace in (first, second)]
    assert hosts[0] == hosts[1] and set(hosts[0].values()) == {"a", "b"}


def test_controllers_whose_host_lists_differ_start_no_run_twice_and_say_where_it_is_not(
    made: Lab, tmp_path: Path
) -> None:
    """The second one knows only a host that the first did not choose: the run is not its own, and it says so."""
    wide, narrow = made.workspace("wide"), made.workspace("narrow", "a")
    grid = one_run(tmp_path, 4500, "0.1", runs=2)
    first = workbench.start("run", "--grid", str(grid), "--host", "b", workspace=wide)
    wait_for(lambda: len(list(wide.glob("runs/*/a1/metrics.jsonl"))) >= 1)
    with open(tmp_path / "said", "wb") as said:
        second = subprocess.Popen(
            [*workbench.OPTSWEEP, "run", "--grid", str(grid), "--host", "a", "--workspace", str(narrow)],
            stdin=subprocess.DEVNULL, stdout=said, stderr=said,
        )  # fmt: skip
        try:
            assert first.wait(timeout=300) == 0
            wait_for(lambda: "2 of them given by another controller" in (tmp_path / "said").read_text())
        finally:
            second.kill()
            second.wait()
    ids = set(remote.specs(wide))
    assert ids == set(remote.specs(narrow)) and len(ids) == 2
    begun = remote.starts(list(made.boxes.values()))
    assert {begun[run_id] for run_id in ids} == {1}, "a run was trained twice"
    remote.require_whole(wide, 2)


def test_metrics_and_log_lines_are_here_within_two_seconds_while_a_run_goes_on(made: Lab, tmp_path: Path) -> None:
    workspace = made.workspace("live", "a")
    controller = workbench.start(
        "run", "--grid", str(one_run(tmp_path, 5000, "0.06")), "--host", "a", workspace=workspace
    )
    try:
        (metrics,) = wait_for(lambda: list(workspace.glob("runs/*/a1/metrics.jsonl")))
        far = made.boxes["a"].runs / metrics.parents[1].name / "a1" / "metrics.jsonl"
        worst = 0.0
        for _ in range(10):
            size = far.stat().st_size
            asked = time.monotonic()
            wait_for(lambda: metrics.stat().st_size >= size, every=0.01)  # noqa: B023
            worst = max(worst, time.monotonic() - asked)
            time.sleep(0.05)
        assert worst < LATENCY_SECONDS
        stream = subprocess.run(
            [*workbench.OPTSWEEP, "logs", metrics.parents[1].name, "-f", "--json", "--workspace", str(workspace)],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        found = [json.loads(line) for line in stream.stdout.splitlines()]
        assert any(row["source"] == "metric" and '"step": 996' in row["text"] for row in found)
        assert controller.wait(timeout=120) == 0
    finally:
        controller.kill()
        controller.wait()


def test_unknown_and_changed_host_keys_are_refused_with_the_next_step(made: Lab, tmp_path: Path) -> None:
    workspace = made.workspace("keys")
    grid = one_run(tmp_path, 6000)
    made.trust("b")
    unknown = optsweep("run", "--grid", str(grid), "--host", "a", workspace=workspace, check=False)
    assert unknown.returncode == 2 and "hosts add a --ssh a" in unknown.stderr.splitlines()[-1]
    kind, key = (made.boxes["b"].folder / "host_key.pub").read_text().split()[:2]
    made.known.write_text(f"[127.0.0.1]:{made.boxes['a'].port} {kind} {key}\n")
    changed = optsweep("run", "--grid", str(grid), "--host", "a", workspace=workspace, check=False)
    assert changed.returncode == 2 and "another key than before" in changed.stderr.splitlines()[-1]
    assert not (workspace / "runs").exists() or list((workspace / "runs").iterdir()) == [], "nothing was planted"
    made.trust("b")
    rest = optsweep("run", "--grid", str(grid), "--host", "a,b", workspace=workspace)
    assert "the key of host a" in rest.stderr, "what cannot be used is said, the rest goes on"
    assert {row["host"] for row in rows(workspace)} == {"b"}


def test_a_host_is_added_only_with_its_fingerprint_accepted_and_proved_by_check(made: Lab, tmp_path: Path) -> None:
    workspace = tmp_path / "work"
    workspace.mkdir()
    made.known.write_text("")
    add = ["hosts", "add", "box", "--ssh", "a", "--python", str(made.python), "--device", "cpu", "--slots", "1"]
    asked = optsweep(*add, workspace=workspace, check=False)
    printed = subprocess.run(
        ["ssh-keygen", "-lf", str(made.boxes["a"].folder / "host_key.pub")], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    assert asked.returncode == 2 and printed in asked.stderr and not (workspace / "hosts.toml").exists()
    assert made.known.read_text() == ""
    taken = optsweep(*add, "--yes", "--json", workspace=workspace)
    assert printed in json.loads(taken.stdout)[0]["fingerprints"][0]
    assert made.known.read_text().count("ssh-ed25519") == 1
    again = optsweep(
        "hosts", "add", "twin", "--ssh", "a", "--python", str(made.python), "--yes", workspace=workspace, check=False
    )
    assert again.returncode == 2 and "keeps its files where host box does" in again.stderr
    listed = json.loads(optsweep("hosts", "ls", "--json", workspace=workspace).stdout)
    assert [row["name"] for row in listed] == ["local", "box"]
    assert optsweep("hosts", "rm", "box", workspace=workspace).returncode == 0
    made.trust("a", "b")


def test_bad_machines_are_named_with_what_to_do(made: Lab, tmp_path: Path) -> None:
    workspace = made.workspace("bad")
    ahead = tmp_path / "ahead"
    ahead.mkdir()
    (ahead / "sitecustomize.py").write_text("import time\n_time = time.time\ntime.time = lambda: _time() + 3600.0\n")
    clock = tmp_path / "clock-python"
    clock.write_text(f'#!/bin/sh\nPYTHONPATH={ahead}:$PYTHONPATH; export PYTHONPATH\nexec {made.python} "$@"\n')
    clock.chmod(0o755)
    old = tmp_path / "old-python"
    old.write_text("#!/bin/sh\necho python: command not found >&2\nexit 127\n")
    old.chmod(0o755)
    text = "".join(
        f'[hosts.{name}]\nssh = "{ssh}"\npython = "{python}"\nslots = 1\ndevice = "{device}"\nroot = "~/.o-{name}"\n'
        for name, ssh, python, device in (
            ("nopython", "a", old, "cpu"), ("nogpu", "a", made.python, "cuda"), ("clock", "b", clock, "cpu"),
            ("noroot", "b", made.python, "cpu"),
        )
    )  # fmt: skip
    (workspace / "hosts.toml").write_text(text.replace("~/.o-noroot", "/proc/nothing"))

    def checked(name: str) -> dict[str, dict[str, Any]]:
        found = optsweep("hosts", "check", name, "--json", workspace=workspace, check=False)
        return {row["check"]: row for row in json.loads(found.stdout)}

    assert "hosts.nopython.python" in checked("nopython")["connection"]["next_step"]
    gpu = checked("nogpu")["devices"]
    assert gpu["state"] == "bad" and "no NVIDIA GPU" in gpu["found"]
    assert "cannot be written" in checked("noroot")["connection"]["found"]
    late = optsweep("run", "--grid", str(one_run(tmp_path, 7000)), "--host", "clock,nopython", workspace=workspace)
    assert "clock of host clock is 3600 s ahead" in late.stderr and "host nopython" in late.stderr
    assert [(row["host"], row["state"]) for row in rows(workspace)] == [("clock", "done")]
    nobody = optsweep(
        "run", "--grid", str(one_run(tmp_path, 7001)), "--host", "nopython", workspace=workspace, check=False
    )
    assert nobody.returncode == 2 and nobody.stderr.strip().count("\n") == 0
    late = optsweep("run", "--grid", str(one_run(tmp_path, 7002)), "--host", "nogpu,clock", workspace=workspace)
    assert "no NVIDIA GPU" in late.stderr
    assert {row["host"] for row in rows(workspace)} == {"clock"}


def test_a_host_that_is_lost_for_good_gives_its_runs_back_and_is_fenced_when_it_returns(
    made: Lab, tmp_path: Path
) -> None:
    slow = tmp_path / "slow"
    slow.write_text("COUNTING_STEP_SECONDS=0.05\n")
    slow.chmod(0o600)
    workspace = made.workspace("lost", settings="checkpoint_seconds = 0.2\n")
    toml = workspace / "hosts.toml"
    entry = toml.read_text().replace("[hosts.a]\n", f'[hosts.a]\nenv_file = "{slow}"\n')
    toml.write_text(entry)
    box = made.boxes["a"]
    controller = workbench.start(
        "run", "--grid", str(one_run(tmp_path, 8000, "0.08")), "--host", "a", workspace=workspace
    )
    (run_id,) = wait_for(lambda: {path.parents[1].name for path in workspace.glob("runs/*/a1/metrics.jsonl")})
    controller.kill()
    controller.wait()
    box.stop()
    early = optsweep("hosts", "rm", "a", "--lost", workspace=workspace, check=False)
    assert early.returncode == 2 and ("no machine gone for good" in early.stderr)
    plain = optsweep("hosts", "rm", "a", workspace=workspace, check=False)
    assert plain.returncode == 2 and "--lost" in plain.stderr
    link = json.loads((workspace / "queue" / "a" / "link.json").read_text())
    (workspace / "queue" / "a" / "link.json").write_text(json.dumps({**link, "heard_at": time.time() - 600}))
    given = json.loads(optsweep("hosts", "rm", "a", "--lost", "--json", workspace=workspace).stdout)
    assert given[0]["given_back"] == [run_id]
    homeless = optsweep("resume", workspace=workspace, check=False)
    assert homeless.returncode == 2 and "resume --host" in homeless.stderr
    assert not (box.runs / run_id / "a1" / "exit.json").exists(), "it goes on over there, nobody can tell it"
    # The machine comes back under its old name, while its run is on its way elsewhere.
    toml.write_text(entry)
    box.start()
    optsweep("resume", "--host", "b", workspace=workspace, timeout=600)
    assert [(row["host"], row["state"], row["attempt"]) for row in rows(workspace)] == [("b", "done", 2)]
    checked = optsweep("run", "--grid", str(one_run(tmp_path, 8010, "0.002")), "--host", "a", workspace=workspace)
    assert checked.returncode == 0
    assert json.loads((box.runs / run_id / "a1" / "exit.json").read_text())["reason"] != "finished", "it was fenced"
    remote.require_whole(workspace, 2)


def test_a_cancel_reaches_the_host_and_a_retry_goes_on_from_the_checkpoint(made: Lab, tmp_path: Path) -> None:
    workspace = made.workspace("cancel", "a", settings="checkpoint_seconds = 0.2\n")
    controller = workbench.start(
        "run", "--grid", str(one_run(tmp_path, 9000, "0.1")), "--host", "a", workspace=workspace
    )
    wait_for(lambda: list(workspace.glob("runs/*/a1/metrics.jsonl")))
    controller.kill()
    controller.wait()
    optsweep("cancel", "--all", workspace=workspace)
    optsweep("resume", workspace=workspace)
    optsweep("collect", workspace=workspace)
    assert {row["state"] for row in rows(workspace)} == {"cancelled"}
    optsweep("retry", *[row["run_id"] for row in rows(workspace)], workspace=workspace)
    assert {(row["state"], row["attempt"]) for row in rows(workspace)} == {("done", 2)}
    assert max(record["resumed_from_step"] for record in workbench.records(workspace).values()) > 0
    remote.require_whole(workspace, 1)
    shown = optsweep("show", rows(workspace)[0]["run_id"], workspace=workspace).stdout
    assert "on host a" in shown and "asked for" in shown and "claimed by" in shown


def test_a_cancel_while_the_host_is_away_says_so_and_reaches_it_later(made: Lab, tmp_path: Path) -> None:
    workspace = made.workspace("away", "a")
    controller = workbench.start(
        "run", "--grid", str(one_run(tmp_path, 9100, "0.2")), "--host", "a", workspace=workspace
    )
    wait_for(lambda: list(workspace.glob("runs/*/a1/metrics.jsonl")))
    controller.kill()
    controller.wait()
    made.boxes["a"].stop()
    said = optsweep("cancel", "--all", workspace=workspace)
    assert said.stdout.startswith("1 run cancelled") and "1 run may go on: the host does not answer" in said.stderr
    made.boxes["a"].start()
    optsweep("resume", workspace=workspace)
    assert {row["state"] for row in rows(workspace)} == {"cancelled"}


def test_a_full_disk_on_a_host_loses_nothing(made: Lab, tmp_path: Path) -> None:
    small = tmp_path / "small"
    with smalldisk.mounted(small, "40m") as disk:
        if disk is None:
            pytest.skip("a tmpfs cannot be mounted here")
        workspace = made.workspace("full", "a", settings="checkpoint_seconds = 0.2\n", root=str(small / "root"))
        controller = workbench.start(
            "run", "--grid", str(one_run(tmp_path, 9500, "0.06", runs=2)), "--host", "a", workspace=workspace
        )
        wait_for(lambda: list((small / "root" / "runs").glob("*/a1/metrics.jsonl")))
        try:
            disk.fill()
            time.sleep(2.0)
            disk.free()
            controller.wait(timeout=240)
            optsweep("retry", "--failed", workspace=workspace, check=False)
            remote.require_whole(workspace, 2)
        finally:
            controller.kill()
            controller.wait()
            for module in ("optsweep_engines.shim", "optsweep_engines.helper"):
                for pid in made.boxes["a"].processes(module):
                    workbench.kill(pid)


@pytest.mark.skipif(CUTS < 2, reason="part of make faults: OPTSWEEP_SSH_CUTS=40")
def test_a_server_that_allows_one_connection_and_one_session_is_enough(made: Lab, tmp_path: Path) -> None:
    box = made.boxes["b"]
    box.stop()
    box.start("MaxSessions 1", "MaxStartups 1:100:1")
    try:
        workspace = made.workspace("limits", "b", slots=2)
        grid = one_run(tmp_path, 9700, runs=4)
        assert optsweep("run", "--grid", str(grid), "--host", "b", workspace=workspace).returncode == 0
        remote.require_whole(workspace, 4)
    finally:
        box.stop()
        box.start()


def test_diagnostics_and_a_statistic_of_ones_own_come_back_from_a_host_as_they_are_here(
    made: Lab, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "def heaviest(xp, table, params, grads, updates):\n"
        "    return {'heaviest': max(float(abs(p).max()) for p in params.values())}\n"
    )
    told = {}
    for place in ("local", "a"):
        workspace = made.workspace(f"told-{place}", "a")
        arguments = [
            "run",
            "-o",
            "adamw",
            "-m",
            "bench-micro",
            "-c",
            "0.005",
            "--set",
            "batch_size=4",
            "--set",
            "seq_len=32",
        ]
        arguments += ["--set", "validation_tokens=2048", "--diagnostics", f"full,{tmp_path}/mine.py:heaviest"]
        optsweep(*arguments, "--host", place, workspace=workspace)
        rows = json.loads(
            optsweep("sql", "select key, step, value from v_metric", "--json", workspace=workspace).stdout
        )
        told[place] = {(row["key"], row["step"]): row["value"] for row in rows if row["key"] != "train_seconds"}
        workbench.stop_everything(workspace)
    keys = {key for key, _ in told["a"]}
    assert {"heaviest", "update_ratio", "attention_entropy", "grad_norm/q"} <= keys
    assert told["a"] == told["local"]


def test_the_five_lines_of_the_readme_lead_from_nothing_to_a_remote_sweep(made: Lab, tmp_path: Path) -> None:
    """As written, but for the machine's name, its Python, and a sweep that takes seconds."""
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    block = text.split("## From nothing to a remote sweep in five lines")[1].split("```")[1]
    lines = [line for line in block.splitlines() if line and line != "bash"]
    assert len(lines) == 5 and lines[0].startswith("pip install")
    workspace = tmp_path / "work"
    workspace.mkdir()
    grid = str(one_run(tmp_path, 9900, runs=2))
    swaps = {"me@gpubox": "a", "~/venv/bin/python": str(made.python), "quickstart": grid}
    for line in lines[1:]:
        words = [swaps.get(word, word) for word in line.split()]
        assert words[0] == "optsweep"
        extra = ["--device", "cpu", "--slots", "2"] if words[1:3] == ["hosts", "add"] else []
        optsweep(*words[1:], *extra, workspace=workspace)
    remote.require_whole(workspace, 2)
    assert {row["host"] for row in rows(workspace)} == {"box"}


def test_a_host_that_accepts_and_says_nothing_is_named_while_a_launch_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        (tmp_path / "ssh").write_text(f"Host mute\n  HostName 127.0.0.1\n  Port {mute.getsockname()[1]}\n")
        (tmp_path / "hosts.toml").write_text('[hosts.mute]\nbackend = "ssh"\nssh = "mute"\n')
        monkeypatch.setenv("OPTSWEEP_SSH_CONFIG", str(tmp_path / "ssh"))
        place, said = settings.workspace(tmp_path), list[str]()
        with waiting.told(place, ("local", "mute"), said.append):
            fleet.of(place).connect(["mute"], seconds=waiting.SILENT_SECONDS + 1)
        with waiting.told(place, ("local",), said.append):
            pass
        fleet.of(place).close()
    assert said == ["waiting for mute to answer, 40 s at most"]
