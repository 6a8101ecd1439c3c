"""The app in a real terminal: started by its command under tmux, driven by keys, read off the screen."""

from __future__ import annotations

import getpass
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from optsweep_engines import folder
from optsweep_engines.run import AttemptLog
from optsweep_tui import imports
from optsweep_tui.settings import Workspace
from tests.app import made

pytestmark = pytest.mark.system("tmux")


class Terminal:
    """One tmux server of its own with one window."""

    def __init__(self, where: Path, width: int, height: int, command: list[str], environment: dict[str, str]) -> None:
        self.socket = str(where / "tmux.socket")
        line = "; ".join([shlex.join(command), "echo ended with $?", "sleep 600"])
        known = {key: os.environ[key] for key in ("PATH", "HOME", "PYTHONPATH", "VIRTUAL_ENV") if key in os.environ}
        private = {name: str(where / name) for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME")}
        self.environment = known | private | {"LC_ALL": "C.UTF-8", "TERM": "xterm-256color"} | environment
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

    def start(
        workspace: Workspace, width: int, height: int, through: Sequence[str] = (), **environment: str
    ) -> Terminal:
        place = tmp_path / str(len(opened))
        place.mkdir()
        command = [sys.executable, "-m", "optsweep_tui", "tui", "-w", str(workspace.root)]
        if through:  # a shell on the other side, which knows nothing of this environment
            known = [f"XDG_STATE_HOME={place}", f"PYTHONPATH={os.pathsep.join(sys.path)}", "TERM=xterm-256color"]
            command = [*through, shlex.join(["env", "LC_ALL=C.UTF-8", *known, *command])]
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
        ("6", "slot 0"),
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
    assert seen["1"].split("\n")[2].split()[:6] == ["bench-micro", "0.05", "0.08", "0.13", "0.22", "0.36"]
    assert re.search(r"adamw +●6 +\d\.\d\d", seen["1"])
    assert seen["2"].count("● done") > 10
    assert re.search(r"smoothing \d+ steps", seen["3"])
    assert "A sgd" in seen["3"] or "A adamw" in seen["3"]
    assert "preview+launch" in seen["?"]
    assert "◐ running" in seen["6"] or "○ free" in seen["6"]


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


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(80, 24), (160, 48)])
def test_a_night_at_the_bench(terminal: Open, tmp_path: Path, width: int, height: int) -> None:
    """From an empty workspace: pick cells, preview, launch, watch, cancel, take that back, mark two runs, compare, quit.

    The runs are real: a controller of its own and workers train them, and go on when the app is closed.
    """
    workspace = made.workspace(tmp_path / "workspace")
    app = terminal(workspace, width, height)
    app.until("No runs yet")
    app.press("n")
    app.until("cells of your own")
    app.press("-l", "adamw,sgd bench-micro 0.01,1 study=night")
    app.until("4 cells, 4 runs, study night")
    app.press("Enter")
    app.until("not launched")
    app.press("A")
    app.until("4 cells selected")
    app.press("Enter")
    app.until("dry run: nothing is written yet")
    app.until("4 runs to train")
    app.press("y")
    app.until(lambda text: "◐" in text.split("\n")[3] + text.split("\n")[4], 60)
    app.until(lambda text: re.search(r"[12] done", text.split("\n")[0]) is not None, 120)
    app.press("2")
    app.until("by cell and lr")
    app.press("-l", "/c>0.1 state:running,queued")  # in one read: all of it belongs into the line
    app.press("Enter")
    time.sleep(1.0)
    app.until(lambda text: "sgd" in text and "0.01 " not in text.split("─")[0])
    app.press("*")
    app.until(lambda text: re.search(r"[12] marked", text) is not None)
    app.press("K")
    app.until("Cancel")
    app.press("y")
    app.until("U takes it back", 60)
    app.press("U")
    app.until(lambda text: re.search(r"[12] (run|wait)", text.split("\n")[0]) is not None, 60)
    app.press("Escape")
    time.sleep(1.0)  # esc and a key in one read are alt and that key
    app.press("u")
    app.press("g")
    app.press("Space")
    app.press("Space")
    app.until("2 marked")
    app.press("3")
    app.until("2 of 4 runs marked", 60)
    app.until(lambda text: dots(text) > 20, 60)
    app.press("1")
    app.until("● done")
    app.press("q")
    assert "ended with 0" in app.until("ended with")
    for run in workspace.runs.iterdir():  # nothing of the sweep hangs on the app
        (run / "cancel").touch()
    end = time.monotonic() + 60
    while any(folder.lock_held(path) for path in workspace.runs.glob("*/a*")):
        assert time.monotonic() < end
        time.sleep(0.2)


# ---------------------------------------------------------------- from an empty workspace to an answer


def study_walk(app: Terminal, workspace: Workspace) -> dict[str, str]:
    """Empty workspace, published studies come in, mark two runs, compare under the crosshair, ask SQL, quit."""
    seen = {"empty": app.until("No runs yet in")}
    imports.import_results(workspace, "reference")
    app.until(lambda text: re.search(r" (1597|4) done", text) is not None and "reading" not in text, 90)
    for name, sign in (("reference", "1597 done"), ("speedrun", "speedrun-2024-10")):
        if sign not in app.screen():
            app.press("]")
        seen[name] = app.until(lambda text, sign=sign: sign in text and re.search(r"muon .*●", text) is not None)  # type: ignore[misc]
    app.press("2")
    app.until(lambda text: "shampoo" in text and "2 Runs" in text)
    app.press("Space")
    app.until("1 marked")
    app.press("Space")
    seen["marked"] = app.until("2 marked")
    app.press("3")
    app.until(lambda text: dots(text) > 40 and "val_loss" in text, 60)
    app.press("c")
    seen["crosshair"] = app.until(lambda text: "┆" in text and re.search(r" at [\d.]+[kMG]? ", text) is not None)
    app.press("D")
    pair = r"optimizer +(adam|muon|shampoo|soap) +(adam|muon|shampoo|soap)"
    seen["diff"] = app.until(lambda text: "config diff" in text and re.search(pair, text) is not None)
    app.press("5")
    app.until("example 1 of")
    app.press("r")
    seen["sql"] = app.until(lambda text: re.search(r"\d rows in", text) is not None, 60)
    app.press("q")
    assert "ended with 0" in app.until("ended with")
    place = os.environ.get("OPTSWEEP_PICTURES")
    for name, text in seen.items() if place else ():
        Path(str(place), f"walk-{name}-{len(text.splitlines())}.txt").write_text(text)
    return seen


def check_study_walk(seen: dict[str, str], width: int, height: int) -> None:
    """What must stand on the screens of the walk."""
    for name, text in seen.items():
        lines = text.split("\n")
        assert max(len(line) for line in lines) <= width, name
        assert len(lines) - 1 == height, name
    assert "optsweep quickstart" in seen["empty"]
    assert re.search(r"muon .*●", seen["reference"])
    letters = re.findall(r"^ *([AB]) (\w+)|\s([AB]) (adam|muon|shampoo|soap)\b", seen["crosshair"], re.MULTILINE)
    assert {found[0] or found[2] for found in letters} >= {"A", "B"}
    assert len(re.findall(r"\b3\.\d{3} ●|\b[3-9]\.\d{3} ●", seen["crosshair"])) == 2  # a value of each at the crosshair
    assert re.search(r"reference +done +1597", seen["sql"])


WALKS = {
    "true colour": (80, 24, {"COLORTERM": "truecolor"}),
    "16 colours": (160, 48, {"TERM": "xterm", "TEXTUAL_COLOR_SYSTEM": "standard"}),
    "no colour": (160, 48, {"NO_COLOR": "1"}),
    "16 colours, small": (80, 24, {"TERM": "xterm", "TEXTUAL_COLOR_SYSTEM": "standard"}),
}


@pytest.mark.parametrize("kind", WALKS)
def test_the_published_study_from_an_empty_workspace_to_an_answer(terminal: Open, tmp_path: Path, kind: str) -> None:
    width, height, environment = WALKS[kind]
    workspace = made.workspace(tmp_path / "workspace")
    check_study_walk(study_walk(terminal(workspace, width, height, **environment), workspace), width, height)


@pytest.fixture
def shell_on_loopback(tmp_path: Path) -> Iterator[list[str]]:
    """`ssh -tt` to an sshd of our own on loopback, with keys that are thrown away."""
    where = tmp_path / "ssh"
    where.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(where / name)], check=True)
    (where / "allowed").write_text((where / "user.pub").read_text())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin") or "sshd"
    settings = {
        "Port": port, "ListenAddress": "127.0.0.1", "HostKey": where / "host", "AuthorizedKeysFile": where / "allowed",
        "PidFile": "none", "UsePAM": "no", "StrictModes": "no", "PermitRootLogin": "prohibit-password",
        "PasswordAuthentication": "no", "KbdInteractiveAuthentication": "no",
    }  # fmt: skip
    (where / "config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where it drops its privileges
    server = subprocess.Popen([program, "-D", "-e", "-f", str(where / "config")], stderr=subprocess.DEVNULL)
    (where / "known").write_text(f"[127.0.0.1]:{port} {(where / 'host.pub').read_text()}")
    options = [
        "-F",
        os.devnull,
        "-i",
        str(where / "user"),
        "-p",
        str(port),
        "-o",
        f"UserKnownHostsFile={where / 'known'}",
    ]
    client = [
        "ssh",
        "-tt",
        *options,
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        "BatchMode=yes",
        f"{getpass.getuser()}@127.0.0.1",
    ]
    end = time.monotonic() + 20
    while subprocess.run([*client, "true"], capture_output=True, check=False, stdin=subprocess.DEVNULL).returncode:
        assert time.monotonic() < end, "sshd did not let us in"
        time.sleep(0.2)
    try:
        yield client
    finally:
        server.terminate()
        server.wait(10)


@pytest.mark.system("sshd")
def test_the_same_walk_through_ssh(terminal: Open, shell_on_loopback: list[str], tmp_path: Path) -> None:
    workspace = made.workspace(tmp_path / "workspace")
    app = terminal(workspace, 80, 24, through=shell_on_loopback)
    check_study_walk(study_walk(app, workspace), 80, 24)
