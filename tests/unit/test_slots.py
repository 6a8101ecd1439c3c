"""How many runs train at a time on this machine: one per GPU, else one per core or what optsweep.toml says."""

from __future__ import annotations

from pathlib import Path

import pytest

from optsweep_tui import settings
from optsweep_tui.dispatch.local import LocalDispatcher
from optsweep_tui.errors import OptsweepError


def made(folder: Path, text: str = "slots = 5\n") -> settings.Workspace:
    (folder / "optsweep.toml").write_text(text)
    return settings.workspace(folder)


@pytest.mark.parametrize(
    ("visible", "text", "slots"),
    [("", "slots = 5\n", 5), ("0,1,2", "slots = 5\n", 3), ("0,1", 'slots = 5\ndevice = "cpu"\n', 5), ("-1", "slots = 5\n", 5)],
)  # fmt: skip
def test_estimates_and_the_dispatcher_count_the_same_slots(
    visible: str, text: str, slots: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    place = made(tmp_path, text)
    assert place.run_slots == slots == LocalDispatcher(place).host.slots


def test_a_driver_that_lists_its_gpus_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho asked >> {tmp_path}/asked\nprintf '0\\n1\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [made(tmp_path).run_slots for _ in range(3)] == [2, 2, 2]
    assert (tmp_path / "asked").read_text() == "asked\n"


@pytest.mark.parametrize("line", ["slots = 0.5", "slots = 0", "gpus_per_run = 0.5", "gpus_per_run = true"])
def test_a_count_that_is_no_whole_number_is_one_line(line: str, tmp_path: Path) -> None:
    with pytest.raises(OptsweepError, match="is not a whole number from 1"):
        made(tmp_path, f"{line}\n")


def test_neighbouring_gpus_go_to_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    assert [made(tmp_path, f"gpus_per_run = {count}\n").run_slots for count in (1, 2, 8)] == [5, 2, 1]
