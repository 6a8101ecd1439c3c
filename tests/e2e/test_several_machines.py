"""One run over two machines behind ssh, two sshd with homes of their own: the losses of one process; deaths, order, ends.

The counting engine stands for the others where only its processes matter: it goes in step over a connection of its own.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optsweep_engines.certify import NoLog, Request
from optsweep_engines.engine import load_engine
from optsweep_engines.spec import RunSpec
from optsweep_tui import settings
from optsweep_tui.certificates.parity import CONTROLS, LATER
from optsweep_tui.dispatch import hostsfile, links, team_check
from tests.e2e import remote, workbench
from tests.e2e.workbench import optsweep
from tests.sshd import Box, Lab, lab

pytestmark = [pytest.mark.slow, pytest.mark.system("sshd")]

RUN = ["run", "-m", "bench-micro", "--set", "batch_size=8", "--set", "seq_len=32", "--set", "validation_tokens=2048"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("lab"), "first", "second") as made:
        yield made


def free_ports(count: int = 6) -> str:
    """A range of ports that nobody listens on."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first: int = probe.getsockname()[1]
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            continue
        return f"{first}-{first + count - 1}"


PORTS = free_ports()
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
"""Compile in less time: what is computed stays the same to rounding."""


def place(made: Lab, name: str, *lines: str, settings: str = "", patience: float = 60.0, step: float = 0.004) -> Path:
    """A workspace whose one host is both boxes together.

    Args:
        patience: seconds for which the first machine waits for the second.
        step: seconds of a step of the counting engine.
    """
    where = made.folder / name
    where.mkdir()
    (where / "optsweep.toml").write_text(f"slots = 1\npoll_seconds = 0.1\n{settings}")
    secrets = where / "engine.env"
    secrets.write_text(
        f"OPTSWEEP_MEETING_SECONDS={patience}\nOMP_NUM_THREADS=1\nCOUNTING_STEP_SECONDS={step}\nXLA_FLAGS={QUICK}\n"
    )
    secrets.chmod(0o600)
    entry = [
        "[hosts.pod]", 'ssh = "first"', 'workers = ["second"]', f'python = "{made.python}"', 'device = "cpu"',
        f'coordinator = "127.0.0.1:{PORTS}"', f'env_file = "{secrets}"', *lines,
    ]  # fmt: skip
    (where / "hosts.toml").write_text("\n".join(entry) + "\n")
    return where


def specs(workspace: Path) -> list[RunSpec]:
    return [RunSpec.from_dict(json.loads(path.read_text())) for path in sorted(workspace.glob("runs/*/spec.json"))]


def losses_of(run_folder: Path) -> dict[int, float]:
    """step -> training loss; the later attempt of a step counts."""
    found: dict[int, float] = {}
    for path in sorted(run_folder.glob("a*/metrics.jsonl")):
        found |= {row["step"]: row["train_loss"] for row in map(json.loads, path.read_text().splitlines())}
    return found


def alone(workspace: Path, spec: RunSpec, *, ulps: int = 0) -> list[float]:
    """Losses of the same steps in this process, from parameters moved by so many units in the last place."""
    request: dict[str, Any] = {"engine": spec.engine, "spec": {}, "data_root": str(workspace / "data"), "device": "cpu"}
    trainer = load_engine(spec.engine).trainer(spec, NoLog(Request(**request, steps=0, answer="")))
    for _ in range(ulps):
        held = {name: value for name, value in trainer.arrays().items() if name.startswith("param/")}
        trainer.set_arrays({name: np.nextafter(value, np.float32(np.inf)) for name, value in held.items()})
    return [float(trainer.step(step)[0]) for step in range(spec.steps)]


def listening(box: Box) -> set[str]:
    """Addresses, as the kernel writes them, that workers and engines of a machine listen on."""
    own = set()
    for module in ("optsweep_engines.shim_team", "optsweep_engines.run"):
        for pid in box.processes(module):
            with contextlib.suppress(OSError):
                for handle in os.scandir(f"/proc/{pid}/fd"):
                    with contextlib.suppress(OSError):
                        own |= set(re.findall(r"socket:\[(\d+)\]", os.readlink(handle.path)))
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in own}


def wait_for(what: Any, seconds: float = 120.0) -> Any:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        found = what()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come to pass")


def require_nobody_left(made: Lab) -> None:
    """No process of ours is left on either machine."""
    for module in ("optsweep_engines.shim", "optsweep_engines.run", "torch_engine.machines"):
        wait_for(lambda: not [pid for box in made.boxes.values() for pid in box.processes(module)], 30)  # noqa: B023


@pytest.mark.parametrize(("engine", "mesh"), [("jax", "data=2"), ("torch", "data=4")])
def test_two_machines_give_the_losses_of_one_process(made: Lab, engine: str, mesh: str) -> None:
    """torch with two processes on each."""
    workspace = place(made, f"two-{engine}", f'mesh = "{mesh}"')
    arguments = [*RUN, "-o", "adamw", "-c", "0.004", "--engine", engine, "--host", "pod"]
    controller = workbench.start(*arguments, workspace=workspace)
    heard: set[str] = set()
    while controller.poll() is None:
        heard |= {address for box in made.boxes.values() for address in listening(box)}
        time.sleep(0.4)
    assert controller.returncode == 0
    assert heard and heard <= {"0100007F", "0000000000000000FFFF00000100007F"}, "on loopback alone"
    [spec] = specs(workspace)
    found = losses_of(workspace / "runs" / spec.run_id)
    assert list(found) == list(range(1, spec.steps + 1)) and spec.steps == 33
    one, control = alone(workspace, spec), alone(workspace, spec, ulps=1)
    drift = np.maximum.accumulate(np.abs(np.subtract(one, control)))
    difference = np.abs(np.subtract(one, list(found.values())))
    assert (difference <= np.maximum(LATER, CONTROLS * drift)).all(), difference.max()
    [record] = workbench.records(workspace).values()
    assert record["status"] == "done" and ("2 x cpu" in record["device"]) == (engine == "jax")
    for box in made.boxes.values():  # each with a claim, a lease and an end of its own
        own = box.runs / spec.run_id / "a1"
        assert json.loads((own / "exit.json").read_text())["reason"] == "finished"
        assert (own / "claim").exists() and (own / "lease").exists()
        assert json.loads((own / "record.json").read_text())["parameters_sha256"] == record["parameters_sha256"]
    require_nobody_left(made)


def counted(made: Lab, name: str, runs: int, seed: int, ratio: str = "0.02") -> list[str]:
    """Arguments of a sweep of the counting engine."""
    return ["run", "--grid", str(remote.grid(made.folder / name, runs, ratio, first_seed=seed)), "--host", "pod"]


def end_of(box: Box, run_id: str, attempt: int) -> dict[str, Any]:
    """exit.json of an attempt on a machine; empty where it has none."""
    path = box.runs / run_id / f"a{attempt}" / "exit.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def left_alone(made: Lab, workspace: Path, arguments: list[str], runs: int) -> list[str]:
    """Give runs to the machines, wait until the first one trains, kill the controller; their ids, that one first.

    The engine of the first machine stands still, and with it the other's: `go_on` lets them.
    """
    controller = workbench.start(*arguments, workspace=workspace)
    try:
        wait_for(lambda: len([path for path in workspace.glob("runs/*/a1/remote.json") if "submitting" not in
                              path.read_text()]) == runs)  # fmt: skip
        (first,) = wait_for(lambda: training(made.boxes["second"], remote.specs(workspace)))
        for pid in made.boxes["first"].processes("optsweep_engines.run"):
            os.kill(pid, signal.SIGSTOP)
    finally:
        controller.kill()
        controller.wait()
    for box in made.boxes.values():
        box.cut()
    return [first, *sorted(set(remote.specs(workspace)) - {first})]


def go_on(made: Lab) -> None:
    for pid in made.boxes["first"].processes("optsweep_engines.run"):
        os.kill(pid, signal.SIGCONT)


def training(box: Box, runs: Any) -> list[str]:
    """Those of some runs that a machine has begun and not ended."""
    return [
        run_id
        for run_id in runs
        for path in box.runs.glob(f"{run_id}/a*/events.jsonl")
        if path.stat().st_size and not (path.parent / "exit.json").exists()
    ]


def test_engine_and_worker_of_either_machine_may_die_and_the_run_goes_on_from_its_checkpoint(made: Lab) -> None:
    workspace = place(made, "deaths", settings="checkpoint_seconds = 0.1\n", step=0.02)
    first, second = made.boxes["first"], made.boxes["second"]
    engine, worker = "optsweep_engines.run", "optsweep_engines.shim_team"
    blows = [(second, engine, signal.SIGKILL), (second, worker, signal.SIGKILL), (first, engine, signal.SIGKILL)]
    blows += [(first, worker, signal.SIGKILL), (second, worker, signal.SIGTERM)]
    controller = workbench.start(*counted(made, "deaths", 1, 100), workspace=workspace)
    try:
        for number, (box, module, blow) in enumerate(blows, start=1):
            [run_id] = wait_for(lambda: {path.name for path in workspace.glob("runs/*")})
            wait_for(lambda: list((first.runs / run_id).glob(f"a{number}/ckpt/step-*")))  # noqa: B023
            if number == len(blows):  # what is left goes fast: the file is read with each connection
                (workspace / "engine.env").write_text("COUNTING_STEP_SECONDS=0\n")
                first.cut()
                second.cut()
            for pid in box.processes(module):
                os.kill(pid, blow)
            wait_for(lambda: end_of(first, run_id, number))  # noqa: B023
        assert controller.wait(timeout=120) == 0
    finally:
        controller.kill()
        controller.wait()
    remote.require_whole(workspace, 1)
    [record] = workbench.records(workspace).values()
    assert record["attempt"] == 6 and record["resumed_from_step"] > 0
    ends = [end_of(first, run_id, number) for number in range(1, 7)]
    assert [end["reason"] for end in ends] == ["lost", "lost", "died", "lost", "preempted", "finished"]
    assert ends[0]["error"] == "worker second: its engine was killed by signal 9"
    assert ends[1]["error"] == "worker second was cut off: it hung up"
    assert all(end_of(second, run_id, number) for number in range(1, 7)), "each attempt has ended there, too"
    require_nobody_left(made)


def test_without_a_controller_the_others_train_what_the_first_machine_trains_whatever_their_own_order(
    made: Lab,
) -> None:
    workspace = place(made, "order", step=0.01)
    first, second = made.boxes["first"], made.boxes["second"]
    ids = left_alone(made, workspace, counted(made, "order", 3, 200, "0.012"), 3)
    waiting = sorted(path for path in (second.root / "queue").glob("0*.*.a1") if ids[0] not in path.name)
    assert len(waiting) == 2
    orders, names = zip(*(path.name.split(".", 1) for path in waiting), strict=True)
    for path, order, name in zip(waiting, reversed(orders), names, strict=True):
        path.rename(path.with_name(f"{order}.{name}"))
    go_on(made)
    wait_for(lambda: all(end_of(box, run_id, 1) for box in (first, second) for run_id in ids))
    require_nobody_left(made)
    begun = [
        sorted(ids, key=lambda run_id: json.loads((box.runs / run_id / "a1" / "claim").read_text())["claimed_at"])
        for box in (first, second)
    ]
    assert begun[0] == begun[1] and begun[0][0] == ids[0]
    optsweep("resume", workspace=workspace)
    remote.require_whole(workspace, 3)
    assert {remote.starts([box])[run_id] for box in (first, second) for run_id in ids} == {1}


def test_a_worker_that_does_not_come_is_named_and_what_is_queued_behind_is_left_for_a_controller(made: Lab) -> None:
    workspace = place(made, "absent", patience=1.0, step=0.01)
    first, second = made.boxes["first"], made.boxes["second"]
    ids = left_alone(made, workspace, counted(made, "absent", 3, 300, "0.012"), 3)
    for pid in second.processes("optsweep_engines.shim_team"):
        workbench.kill(pid)
    ended = wait_for(lambda: [run_id for run_id in ids[1:] if end_of(first, run_id, 1)])
    require_nobody_left(made)
    assert end_of(first, ids[0], 1)["error"] == "worker second was cut off: it hung up"
    assert end_of(first, ended[0], 1)["error"] == "worker second did not come within 1 s" and len(ended) == 1
    (workspace / "engine.env").write_text("COUNTING_STEP_SECONDS=0\n")
    optsweep("resume", workspace=workspace)
    remote.require_whole(workspace, 3)
    require_nobody_left(made)


def test_a_cancel_ends_the_run_on_all_machines(made: Lab) -> None:
    workspace = place(made, "cancel", step=0.02)
    ids = left_alone(made, workspace, counted(made, "cancel", 2, 400), 2)
    go_on(made)
    optsweep("cancel", "--all", workspace=workspace)
    optsweep("resume", workspace=workspace)
    listed = json.loads(optsweep("ls", "--json", workspace=workspace).stdout)
    assert {row["state"] for row in listed} == {"cancelled"} and len(listed) == 2
    wait_for(lambda: all(end_of(box, ids[0], 1) for box in made.boxes.values()))
    require_nobody_left(made)
    assert list((made.boxes["second"].root / "queue").glob("0*.*.a1")) == []


def test_machines_given_up_as_lost_are_ended_where_they_answer(made: Lab) -> None:
    workspace = place(made, "lost", step=0.05)
    first, second = made.boxes["first"], made.boxes["second"]
    [run_id] = left_alone(made, workspace, counted(made, "lost", 1, 500), 1)
    go_on(made)
    first.stop()
    try:
        link = workspace / "queue" / "pod" / "link.json"
        link.write_text(json.dumps({**json.loads(link.read_text()), "heard_at": time.time() - 600}))
        given = json.loads(optsweep("hosts", "rm", "pod", "--lost", "--json", workspace=workspace).stdout)
        assert given[0]["given_back"] == [run_id]
        assert end_of(second, run_id, 1)
        wait_for(lambda: end_of(first, run_id, 1).get("reason") == "lost")
        require_nobody_left(made)
    finally:
        first.start()


def test_a_worker_that_does_not_answer_holds_new_runs_and_what_runs_is_shown_as_it_is(made: Lab) -> None:
    workspace = place(made, "held", step=0.02)
    first, second = made.boxes["first"], made.boxes["second"]
    controller = workbench.start(*counted(made, "held", 1, 600), workspace=workspace)
    try:
        [run_id] = wait_for(lambda: training(second, remote.specs(workspace)))
        for pid in first.processes("optsweep_engines.run"):
            os.kill(pid, signal.SIGSTOP)
        second.stop()
        held = wait_for(lambda: (links.read_link(settings.workspace(workspace), "pod") or links.Link(state="")).held)
        assert "host pod worker second" in held
        rows = json.loads(optsweep("ls", "--json", workspace=workspace).stdout)
        assert [row["state"] for row in rows] == ["running"], "the first machine answers"
        assert held in optsweep("hosts", "ls", workspace=workspace).stderr
        more = optsweep(*counted(made, "more", 1, 700), workspace=workspace, check=False)
        assert more.returncode == 2 and "host pod worker second" in more.stderr
        second.start()
        wait_for(
            lambda: not (links.read_link(settings.workspace(workspace), "pod") or links.Link(state="", held="x")).held
        )
        go_on(made)
        assert controller.wait(timeout=60) == 0
    finally:
        go_on(made)
        controller.kill()
        controller.wait()
        if not second.pid:
            second.start()
    assert end_of(first, run_id, 1)["reason"] == "finished"
    require_nobody_left(made)


def test_check_names_the_worker_at_fault_and_add_shows_the_key_of_each(made: Lab) -> None:
    workspace = place(made, "check", 'engine = "torch"')

    def checked() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(
            optsweep("hosts", "check", "pod", "--json", workspace=workspace, check=False).stdout
        )
        return found

    rows = checked()
    assert {row["state"] for row in rows} <= {"ok", "note"}
    assert {row["host"] for row in rows} == {"pod", "pod worker second"}
    assert "worker second reaches 127.0.0.1" in rows[-1]["found"] and "same versions" in rows[-2]["found"]
    toml = workspace / "hosts.toml"
    whole = toml.read_text()
    toml.write_text(whole.replace("127.0.0.1:", "192.0.2.1:"))  # TEST-NET-1, RFC 5737: nobody's

    def wrong() -> str:
        here = settings.workspace(workspace)
        *_, last = team_check.examine(here, hostsfile.entry_of(here, "pod"), lambda *words: words)
        assert last[1] == "bad"
        return str(last[2])

    assert "first cannot listen at 192.0.2.1" in wrong()
    toml.write_text(whole.replace('workers = ["second"]', 'workers = ["nobody.invalid"]'))
    assert "host pod worker nobody.invalid" in wrong()
    user = os.environ.get("USER") or getpass.getuser()
    toml.write_text(whole.replace('workers = ["second"]', f'workers = ["second", "{user}@second"]'))
    assert re.search(r"host pod worker \S*second keeps its files where worker \S*second does", wrong())
    toml.write_text(whole)
    made.trust("first")
    assert "the key of host pod worker second" in wrong()
    made.trust("first", "second")
    link = workspace / "queue" / "alone" / "link.json"
    link.parent.mkdir(parents=True)
    host_id = (made.boxes["second"].root / "host-id").read_text().strip()
    link.write_text(json.dumps({"state": "connected", "host_id": host_id}))
    toml.write_text(whole + '\n[hosts.alone]\nssh = "second"\n')
    assert "host pod worker second keeps its files where host alone does" in wrong()
    made.known.write_text("")
    try:
        fresh = made.folder / "fresh"
        fresh.mkdir()
        add = ["hosts", "add", "pod", "--ssh", "first", "--worker", "second", "--python", str(made.python)]
        add += ["--device", "cpu", "--coordinator", f"127.0.0.1:{PORTS}", "--mesh", "data=2"]
        asked = optsweep(*add, workspace=fresh, check=False)
        assert asked.returncode == 2 and made.known.read_text() == "" and not (fresh / "hosts.toml").exists()
        assert asked.stderr.count("SHA256:") == 2
        taken = json.loads(optsweep(*add, "--yes", "--json", workspace=fresh).stdout)
        assert len(taken[0]["fingerprints"]) == 2 and taken[0]["problem"] is None
        assert 'workers = ["second"]' in (fresh / "hosts.toml").read_text()
    finally:
        made.trust("first", "second")
