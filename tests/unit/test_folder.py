"""The atomic operations under every run: claims are taken once and die with their holders, files are whole or absent."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from optsweep_engines import folder
from tests import smalldisk

CLAIM_AND_WAIT = """
import sys, time
from pathlib import Path
from optsweep_engines import folder
handle = folder.take_claim(Path(sys.argv[1]))
print("won" if handle is not None else "lost", flush=True)
time.sleep(float(sys.argv[2]))
"""


def claimer(attempt: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CLAIM_AND_WAIT, str(attempt), str(seconds)], stdout=subprocess.PIPE, text=True
    )


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_of_eight_processes_one_gets_the_claim(tmp_path: Path) -> None:
    contenders = [claimer(tmp_path, 1.0) for _ in range(8)]
    assert sorted(answer(process) for process in contenders) == ["lost"] * 7 + ["won"]
    for process in contenders:
        process.wait()


def test_a_claim_is_held_exactly_as_long_as_its_holder_lives(tmp_path: Path) -> None:
    holder = claimer(tmp_path, 60)
    assert answer(holder) == "won"
    claim = folder.read_claim(tmp_path)
    assert claim is not None and claim.pid == holder.pid and claim.holder_alive
    assert folder.lock_held(tmp_path)
    holder.kill()
    holder.wait()
    assert not folder.lock_held(tmp_path)
    assert not claim.holder_alive
    assert folder.take_claim(tmp_path) is None, "a dead claim is never taken over: a new attempt is opened instead"


def test_a_claim_is_never_seen_unlocked_while_its_holder_lives(tmp_path: Path) -> None:
    def contest(number: int) -> int:
        attempt = tmp_path / f"a{number}"
        attempt.mkdir()
        seen_free = 0
        holder = claimer(attempt, 0.5)
        while holder.poll() is None:
            if (attempt / folder.CLAIM).exists() and not folder.lock_held(attempt) and holder.poll() is None:
                time.sleep(0.05)  # it may just be going
                seen_free += holder.poll() is None
        return seen_free

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(contest, range(4))) == 0


def test_a_reused_pid_is_not_the_holder(tmp_path: Path) -> None:
    handle = folder.take_claim(tmp_path)
    assert handle is not None
    data = json.loads((tmp_path / folder.CLAIM).read_text())
    for change in ({"start": data["start"] + 1}, {"boot_id": "another"}):
        (tmp_path / folder.CLAIM).write_text(json.dumps({**data, **change}))
        claim = folder.read_claim(tmp_path)
        assert claim is not None and not claim.holder_alive
    os.close(handle)


def test_a_garbage_claim_is_no_claim_but_stays_taken(tmp_path: Path) -> None:
    (tmp_path / folder.CLAIM).write_text("{torn")
    assert folder.read_claim(tmp_path) is None
    assert folder.take_claim(tmp_path) is None


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    folder.write_json(path, {"old": 1})

    def no_space(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        folder.write_json(path, {"new": 2})
    monkeypatch.undo()
    assert folder.read_json(path) == {"old": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]


def test_record_and_exit_are_written_on_a_full_disk(tmp_path: Path) -> None:
    with smalldisk.required(tmp_path / "disk", "256k") as disk:
        folder.reserve(disk)
        with pytest.raises(OSError, match="No space"):
            (disk / "filler").write_bytes(b"x" * 2**20)
        for name in (folder.RECORD, folder.EXIT):
            with pytest.raises(OSError, match="No space"):
                folder.write_json(disk / "another.json", {"big": "y" * 20000})
            folder.write_reserved(disk / name, {"status": "failed", "error": "disk full"})
            assert folder.read_json(disk / name) == {"status": "failed", "error": "disk full"}


def test_run_ids_are_32_lower_case_hex_digits_and_nothing_else() -> None:
    assert folder.is_run_id("0" * 32)
    for name in ("0" * 31, "0" * 33, "A" * 32, "../" + "0" * 29, "0" * 31 + "\n"):
        assert not folder.is_run_id(name)


def test_attempts_come_in_numeric_order_and_other_names_are_left_out(tmp_path: Path) -> None:
    for name in ("a10", "a2", "a1", "a0", "a-1", "b3", "a1x", "ckpt"):
        (tmp_path / name).mkdir()
    assert [number for number, _ in folder.attempts(tmp_path)] == [1, 2, 10]
    assert folder.attempts(tmp_path / "gone") == []
