"""Screen 6 and what it rests on: slots with their runs, the queue, leases that are stale, draining and filling."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from optsweep_engines import folder, shim, workers
from optsweep_tui import machines, rundir
from optsweep_tui.app.screens.hosts import HostsScreen
from optsweep_tui.app.views import hosts as views
from optsweep_tui.charts.chart import plain
from optsweep_tui.core import Host
from optsweep_tui.dispatch import hosts
from optsweep_tui.dispatch.hosts import Device, HostLook, Slot
from optsweep_tui.dispatch.local import LocalDispatcher
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace
from tests.app import made
from tests.app.driving import driven, sizes


@pytest.fixture
def busy_workspace(empty_workspace: Workspace) -> Iterator[tuple[Workspace, str]]:
    """One run on slot 0 of a worker that this process plays, two more in the queue."""
    queue = empty_workspace.queue / "local"
    queue.mkdir()
    running = made.spec(ratio=0.05)
    claim = made.plant(empty_workspace, running, "running", part=0.5)
    lock = os.open(queue / "slot-0.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.write(lock, str(os.getpid()).encode())
    (queue / f"{1:020d}.{running.run_id}.a1").touch()
    shim.Shim._renew(empty_workspace.runs / running.run_id / "a1", os.getpid())
    for place, ratio in enumerate((0.08, 0.13), 2):
        of = made.spec(ratio=ratio)
        made.plant(empty_workspace, of, "queued")
        (queue / f"{place:020d}.{of.run_id}.a1").touch()
    yield empty_workspace, running.run_id
    os.close(lock)
    if claim is not None:
        os.close(claim)


def test_a_look_finds_slots_runs_queue_and_devices(busy_workspace: tuple[Workspace, str]) -> None:
    workspace, run_id = busy_workspace
    looker = hosts.Looker(workspace)
    first = looker.look()[0]
    assert (first.host.name, first.queued, first.busy, first.drained) == ("local", 2, 1, False)
    assert first.slots[0].run_id == run_id and first.slots[0].pid == os.getpid()
    assert first.slots[0].lease_age_seconds is not None and first.slots[0].lease_age_seconds < 5
    assert not first.slots[0].stale
    assert all(slot.run_id is None for slot in first.slots[1:])
    cores = first.devices[0]
    assert cores.busy_percent is None
    assert cores.total_bytes is not None and 0 < (cores.used_bytes or 0) <= cores.total_bytes
    time.sleep(0.05)
    again = looker.look()[0].devices[0]
    assert again.busy_percent is None or 0 <= again.busy_percent <= 100


def test_a_worker_that_does_not_renew_its_lease_is_stale(busy_workspace: tuple[Workspace, str]) -> None:
    workspace, run_id = busy_workspace
    lease = workspace.runs / run_id / "a1" / rundir.LEASE
    data = json.loads(lease.read_text())
    folder.write_json(lease, data | {"uptime_seconds": data["uptime_seconds"] - 100})
    assert hosts.Looker(workspace).look()[0].slots[0].stale
    folder.write_json(lease, data | {"boot_id": "another boot"})
    slot = hosts.Looker(workspace).look()[0].slots[0]
    assert slot.lease_age_seconds is None and not slot.stale
    lease.write_text("garbage")
    assert hosts.Looker(workspace).look()[0].slots[0].lease_age_seconds is None


def test_looking_never_keeps_a_worker_from_its_slot(empty_workspace: Workspace) -> None:
    (empty_workspace.queue / "local").mkdir()
    looker = hosts.Looker(empty_workspace)
    looker.look()
    lock = shim.hold_slot(empty_workspace.queue / "local" / "slot-0.lock")
    assert lock is not None
    assert looker.look()[0].slots[0].pid == os.getpid()
    os.close(lock)


def test_a_drained_host_starts_nothing_and_a_filled_one_goes_on(
    empty_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []

    def start(_bench: workers.Bench, slot: int) -> subprocess.Popen[bytes]:
        started.append(slot)
        return subprocess.Popen([sys.executable, "-c", ""])

    monkeypatch.setattr(workers, "start_worker", start)
    of = made.spec(ratio=0.05)
    made.plant(empty_workspace, of, "planned")
    dispatcher = LocalDispatcher(empty_workspace)
    dispatcher.submit([of.run_id])
    machines.drain(empty_workspace, "local")
    dispatcher.advance()
    assert started == []
    assert hosts.Looker(empty_workspace).look()[0].drained
    machines.drain(empty_workspace, "local", on=False)
    machines.drain(empty_workspace, "local", on=False)
    dispatcher.advance()
    assert started == [0]


def test_a_worker_of_a_drained_host_takes_no_further_entry(empty_workspace: Workspace) -> None:
    of = made.spec(ratio=0.05)
    made.plant(empty_workspace, of, "planned")
    LocalDispatcher(empty_workspace).submit([of.run_id])
    machines.drain(empty_workspace, "local")
    shim.work_queue(shim.Shim({}), empty_workspace.queue / "local", empty_workspace.runs)
    assert rundir.state_of(empty_workspace.runs / of.run_id).state == "queued"


def test_an_unknown_host_is_named(empty_workspace: Workspace) -> None:
    with pytest.raises(OptsweepError, match='host "locl" is not known; did you mean "local"'):
        machines.drain(empty_workspace, "locl")


def test_what_nvidia_smi_prints_becomes_devices() -> None:
    text = "0, NVIDIA H100 80GB HBM3, 87, 40960, 81559\n1, NVIDIA A100, [N/A], [N/A], 40960\nnonsense\n"
    assert hosts.gpu_devices(text) == [
        Device(
            name="GPU 0 NVIDIA H100 80GB HBM3", busy_percent=87.0, used_bytes=40960 * 2**20, total_bytes=81559 * 2**20
        ),
        Device(name="GPU 1 NVIDIA A100", busy_percent=None, used_bytes=None, total_bytes=40960 * 2**20),
    ]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_hosts_of_any_kind_are_shown_as_they_are(width: int) -> None:
    looks = [
        HostLook(
            host=Host(name="local", backend="local", slots=1, device="cpu"),
            slots=(Slot(number=0, pid=1, run_id="f" * 32, lease_age_seconds=99.0),),
            devices=(Device(name="2 CPU cores", busy_percent=40.0, used_bytes=2**30, total_bytes=2**31),),
            contact_seconds=0.0,
            drained=True,
        ),
        HostLook(host=Host(name="far", backend="ssh", slots=4, device="cuda", address="me@far"), problem="no route"),
    ]
    lines = views.lines(looks, {}, 3.0)
    columns = views.columns(width)
    assert all(len(line.spans) == len(columns) for line in lines)
    text = "\n".join(" ".join(span.text for span in line.spans) for line in lines)
    assert "- drained" in text and "? stale" in text and "1.0 / 2.0" in text
    assert "far me@far" in text and "? no look" in text and "never" in text and "no route" in text
    assert all(len(row) <= 9 or True for row in views.queue_rows([], width, 12))
    assert "nothing is waiting" in plain(views.queue_rows([], width, 12, "said"))


@sizes
async def test_the_screen_shows_them_opens_the_run_and_drains(
    busy_workspace: tuple[Workspace, str], size: tuple[int, int]
) -> None:
    workspace, run_id = busy_workspace
    async with driven(workspace, size, "hosts") as driver:
        screen = driver.app.base_screen()
        assert isinstance(screen, HostsScreen)
        await driver.until(lambda: "slot 0" in driver.text)
        assert "◐ running" in driver.text
        assert "2 waiting" in driver.text
        await driver.press("d")
        await driver.until(lambda: "- drained" in driver.text)
        assert (workspace.queue / "local" / folder.DRAINED).exists()
        await driver.press("U")
        await driver.until(lambda: "- drained" not in driver.text)
        await driver.press("enter")
        assert driver.heard("no run here")
        screen.query_one("#hosts").cursor = next(  # type: ignore[attr-defined]
            place for place, line in enumerate(screen.lines) if line.run_id == run_id
        )
        await driver.pilot.pause()
        await driver.press("K")
        assert "Cancel 1 run?" in driver.text
        await driver.press("n", "enter")
        assert driver.app.current_mode == "run"
        await driver.press("6", "w")
        assert driver.app.current_mode == "runs"
        await driver.until(lambda: len(driver.app.listed_runs()) == 2)


async def test_the_screen_outlives_a_workspace_that_is_removed(empty_workspace: Workspace, tmp_path: Path) -> None:
    import shutil

    made.plant(empty_workspace, made.spec(ratio=0.05), "queued")
    async with driven(empty_workspace, (80, 24), "hosts") as driver:
        shutil.rmtree(empty_workspace.root)
        await driver.press("c")
        await driver.pilot.pause(0.3)
        assert driver.app.is_running
        await driver.press("d")
        await driver.pilot.pause(0.3)
        assert driver.app.is_running
