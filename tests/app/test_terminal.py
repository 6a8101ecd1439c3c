"""The terminal after a kill -9: the next start finds the note and puts everything back."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from optsweep_tui.app import terminal
from optsweep_tui.settings import Workspace

LFLAG = 3


@pytest.fixture
def line() -> Iterator[tuple[int, int]]:
    """A terminal: (our end, its end)."""
    ours, theirs = pty.openpty()
    yield ours, theirs
    for handle in (ours, theirs):
        os.close(handle)


def written(handle: int) -> bytes:
    found = b""
    while select.select([handle], [], [], 0.2)[0]:
        found += os.read(handle, 1 << 16)
    return found


def dead_note(folder: Path) -> Path:
    """The note of the app, as if the app that wrote it were gone."""
    (note,) = folder.iterdir()
    data = json.loads(note.read_text())
    note.write_text(json.dumps(data | {"start": 1}))
    return note


def test_a_clean_end_leaves_no_note(line: tuple[int, int], tmp_path: Path) -> None:
    with terminal.guarded(line[1], tmp_path) as restored:
        assert not restored
        assert len(list(tmp_path.iterdir())) == 1
    assert not list(tmp_path.iterdir())
    assert written(line[0]) == b""


def test_what_a_killed_app_left_is_restored_by_the_next(line: tuple[int, int], tmp_path: Path) -> None:
    ours, theirs = line
    before = termios.tcgetattr(theirs)
    with terminal.guarded(theirs, tmp_path):
        note = dead_note(tmp_path)
        kept = note.read_text()
    tty.setraw(theirs)
    note.write_text(kept)
    assert termios.tcgetattr(theirs) != before
    with terminal.guarded(theirs, tmp_path) as restored:
        assert restored
        assert termios.tcgetattr(theirs) == before
    seen = written(ours)
    for mode in (b"\x1b[?1000l", b"\x1b[?1049l", b"\x1b[?25h", b"\x1b[?2004l"):
        assert mode in seen


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"garbage", b'{"pid": 1, "start": 2, "boot_id": "x", "attributes": []}']
)
def test_a_note_that_is_garbage_is_passed_over(line: tuple[int, int], tmp_path: Path, content: bytes) -> None:
    with terminal.guarded(line[1], tmp_path):
        (note,) = tmp_path.iterdir()
    note.write_bytes(content)
    with terminal.guarded(line[1], tmp_path) as restored:
        assert not restored


def test_something_that_is_no_terminal_is_left_alone(tmp_path: Path) -> None:
    with open(os.devnull) as handle, terminal.guarded(handle.fileno(), tmp_path) as restored:
        assert not restored
    assert not list(tmp_path.iterdir())


class Started:
    """The app in a pty of its own session."""

    def __init__(self, workspace: Workspace, state: Path) -> None:
        self.ours, self.theirs = pty.openpty()
        self.before = termios.tcgetattr(self.theirs)
        self.environment = os.environ | {
            "XDG_STATE_HOME": str(state),
            "XDG_CONFIG_HOME": str(state),
            "TERM": "xterm-256color",
        }
        self.workspace = workspace
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "optsweep_tui", "tui", "-w", str(self.workspace.root)]
        self.process = subprocess.Popen(
            command,
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            env=self.environment,
            start_new_session=True,
        )

    def close(self) -> None:
        """Leave nothing behind."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.ours)
        os.close(self.theirs)

    def until(self, text: bytes, seconds: float = 60.0) -> bytes:
        found, end = b"", time.monotonic() + seconds
        while text not in found:
            assert time.monotonic() < end, found[-500:]
            if select.select([self.ours], [], [], 0.2)[0]:
                found += os.read(self.ours, 1 << 16)
        return found

    def drained(self, seconds: float = 30.0) -> int:
        """Read on until the process has ended; returns its status."""
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < end
            if select.select([self.ours], [], [], 0.1)[0]:
                os.read(self.ours, 1 << 16)
        return self.process.returncode


@pytest.mark.slow
def test_kill_9_suspend_and_hangup(empty_workspace: Workspace, tmp_path: Path) -> None:
    app = Started(empty_workspace, tmp_path)
    try:
        app.until(b"No runs yet")
        assert not termios.tcgetattr(app.theirs)[LFLAG] & termios.ICANON
        app.process.send_signal(signal.SIGKILL)
        app.process.wait()
        assert not termios.tcgetattr(app.theirs)[LFLAG] & termios.ICANON  # nobody could restore it
        app.start()
        assert b"\x1b[?1049l" in app.until(b"No runs yet").split(b"\x1b[?1049h")[0]
        app.process.send_signal(signal.SIGTSTP)
        time.sleep(1.0)
        assert termios.tcgetattr(app.theirs)[LFLAG] & termios.ICANON  # suspended: the shell has its terminal
        app.process.send_signal(signal.SIGCONT)
        app.until(b"No runs yet")
        app.process.send_signal(signal.SIGHUP)
        assert app.drained() == 128 + signal.SIGHUP
        assert termios.tcgetattr(app.theirs) == app.before
        assert not list((tmp_path / "optsweep").glob("terminal-*"))
    finally:
        app.close()


@pytest.mark.slow
def test_an_app_whose_terminal_is_closed_without_a_signal_ends(empty_workspace: Workspace, tmp_path: Path) -> None:
    app = Started(empty_workspace, tmp_path)
    app.until(b"No runs yet")
    os.close(app.theirs)
    os.close(app.ours)
    assert app.process.wait(20) == 128 + signal.SIGHUP


@pytest.mark.slow
def test_an_app_that_waits_for_a_terminal_that_nobody_reads_ends_when_it_is_told_to(
    sweep_workspace: Workspace, tmp_path: Path
) -> None:
    app = Started(sweep_workspace, tmp_path)
    try:
        app.until(b"lr at edge")
        for _ in range(40):  # frames that nobody takes: the line is full, then the queue before it
            os.write(app.ours, b"2\x0c1\x0c")
            time.sleep(0.02)
        time.sleep(0.5)
        app.process.send_signal(signal.SIGTERM)
        assert app.process.wait(20) == 128 + signal.SIGTERM
    finally:
        app.close()
