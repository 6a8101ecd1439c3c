"""The app in a real terminal: started by its command under tmux, driven by keys, read off the screen."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from optsweep_engines import folder
from optsweep_engines.run import AttemptLog
from optsweep_tui.settings import Workspace
from tests.app import made

pytestmark = pytest.mark.system("tmux")


class Terminal:
    """One tmux server of its own with one window."""

    def __init__(self, where: Path, width: int, height: int, command: list[str], environment: dict[str, str]) -> None:
        self.socket = str(where / "tmux.socket")
        line = "; ".join([shlex.join(command), "echo ended with $?", "sleep 600"])
        known = {key: os.environ[key] for key in ("PATH", "HOME", "PYTHONPATH", "VIRTUAL_ENV") if key in os.environ}
        self.environment = known | {"LC_ALL": "C.UTF-8", "TERM": "xterm-256color"} | environment
        size = ["-x", str(width), "-y", str(height)]
        self._tmux("-u", "-f", os.devnull, "new-session", "-d", *size, "-s", "app", "sh", "-c", line)

    def _tmux(self, *arguments: str) -> str:
        command = ["tmux", "-S", self.socket, *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout

    def press(self, *keys: str) -> None:
        """Send keys by tmux's names."""
        self._tmux("send-keys", "-t", "app", *keys)

    def resize(self, width: int, height: int) -> None:
        """Make the window larger or smaller."""
        self._tmux("resize-window", "-t", "app", "-x", str(width), "-y", str(height))

    def screen(self, escapes: bool = False) -> str:
        """What is on the screen."""
        return self._tmux("capture-pane", "-p", *(["-e"] if escapes else []), "-t", "app")

    def until(self, condition: Callable[[str], bool] | str, seconds: float = 30.0) -> str:
        """Wait for a text on the screen; returns the screen."""
        end = time.monotonic() + seconds
        while True:
            text = self.screen()
            if condition in text if isinstance(condition, str) else condition(text):
                return text
            assert time.monotonic() < end, f"waited for {condition!r}:\n{text}"
            time.sleep(0.05)

    def close(self) -> None:
        """End the server and everything in it."""
        subprocess.run(["tmux", "-S", self.socket, "kill-server"], capture_output=True, check=False)


Open = Callable[..., Terminal]


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Open]:
    opened: list[Terminal] = []

    def start(workspace: Workspace, width: int, height: int, **environment: str) -> Terminal:
        place = tmp_path / str(len(opened))
        place.mkdir()
        command = [sys.executable, "-m", "optsweep_tui", "tui", "-w", str(workspace.root)]
        opened.append(Terminal(place, width, height, command, environment))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def dots(text: str) -> int:
    """Braille characters on the screen."""
    return sum(0x2800 < ord(sign) <= 0x28FF for sign in text)


def walk(app: Terminal, width: int, height: int) -> dict[str, str]:
    """Open every screen and the help, then quit; returns what was on each."""
    seen = {"1": app.until(lambda text: "◐3" in text and "q quit" in text)}
    for key, wanted in (
        ("2", "by cell and lr"),
        ("3", lambda text: dots(text) > 50),
        ("4", "batch_size"),
        ("5", "example 1 of"),
    ):
        app.press(key)
        seen[key] = app.until(wanted)
    app.press("1")
    app.until("● done")
    app.press("?")
    seen["?"] = app.until("esc closes")
    app.press("Escape")
    app.until(lambda text: "esc closes" not in text)
    for text in seen.values():
        lines = text.split("\n")
        assert max(len(line) for line in lines) <= width
        assert len(lines) - 1 == height
    app.press("q")
    assert "ended with 0" in app.until("ended with")
    return seen


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
def test_a_walk_over_all_screens(terminal: Open, sweep_workspace: Workspace, width: int, height: int) -> None:
    app = terminal(sweep_workspace, width, height)
    seen = walk(app, width, height)
    assert seen["1"].split("\n")[2].split() == ["bench-micro", "0.05", "0.08", "0.13", "0.22", "0.36"]
    assert re.search(r"adamw +●6 +\d\.\d\d", seen["1"])
    assert seen["2"].count("● done") > 10
    assert re.search(r"smoothing \d+ steps", seen["3"])
    assert "A sgd" in seen["3"] or "A adamw" in seen["3"]
    assert "mark its best" in seen["?"]


@pytest.mark.parametrize(
    "environment",
    [{"NO_COLOR": "1"}, {"TERM": "xterm", "TEXTUAL_COLOR_SYSTEM": "standard"}],
    ids=["no colour", "16 colours"],
)
def test_the_same_walk_without_colours_and_with_sixteen(
    terminal: Open, sweep_workspace: Workspace, environment: dict[str, str]
) -> None:
    app = terminal(sweep_workspace, 80, 24, **environment)
    app.until("◐3")
    escapes = app.screen(escapes=True)
    if "NO_COLOR" not in environment:
        assert "38;2;" not in escapes
        assert "38;5;" not in escapes
    else:
        assert all(len(set(colour)) == 1 for colour in re.findall(r"38;2;(\d+);(\d+);(\d+)", escapes)), (
            "colour left under NO_COLOR"
        )
    walk(app, 80, 24)


def test_a_running_curve_grows_on_the_screen_and_the_window_may_change_its_size(terminal: Open, tmp_path: Path) -> None:
    workspace = made.workspace(tmp_path / "workspace")
    of = made.spec(ratio=0.22)
    claim = made.plant(workspace, of, "running", part=0.1)
    assert claim is not None
    try:
        app = terminal(workspace, 80, 24)
        app.until("◐1")
        app.press("3")
        before = app.until("A adamw")
        log = AttemptLog(workspace.runs / of.run_id / "a1")
        made.write_metrics(log, of, of.steps // 10 + 1, of.steps * 9 // 10)
        log.close()
        count = dots(before)
        app.until(lambda text: dots(text) > 1.5 * count)
        app.resize(50, 10)
        app.until("needs a window of at least 60 x 15")
        app.resize(120, 40)
        app.until("speedup over adamw")
        folder.write_atomic(workspace.runs / of.run_id / "cancel", b"")
        app.press("q")
        app.until("ended with 0")
    finally:
        os.close(claim)
