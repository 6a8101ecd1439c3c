"""Real sshd processes on loopback for tests: throw-away keys, ports of their own, a home folder each; ended by pid."""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

COUNTING = Path(__file__).parent / "counting"
"""An engine that starts at once, for machines and controllers of these tests alone."""
SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")


@dataclass
class Box:
    """One machine that tests can ssh to."""

    name: str
    folder: Path
    port: int
    pid: int = 0

    @property
    def root(self) -> Path:
        """What optsweep keeps there."""
        return self.folder / "home" / ".optsweep"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def start(self, *options: str) -> None:
        """Bring sshd up, with further lines of its configuration."""
        lines = [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.folder / 'host_key'}",
            f"AuthorizedKeysFile {self.folder / 'authorized'}",
            f"PidFile {self.folder / 'sshd.pid'}",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "UsePAM no",
            "StrictModes no",
            f"SetEnv HOME={self.folder / 'home'} OPTSWEEP_TEST_BOX={self.name}",
            *options,
        ]
        (self.folder / "sshd_config").write_text("\n".join(lines) + "\n")
        assert SSHD is not None
        process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=open(self.folder / "sshd.log", "ab"),  # noqa: SIM115
            start_new_session=True,
        )
        self.pid = process.pid
        self._process = process
        limit = time.monotonic() + 10
        while time.monotonic() < limit:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.02)
        raise AssertionError((self.folder / "sshd.log").read_text())

    def connections(self) -> list[int]:
        """Processes of sshd that serve a connection of this box, children of the one that listens."""
        return [pid for pid in descendants(self.pid) if "sshd" in command_of(pid)]

    def cut(self) -> int:
        """Kill every connection, the listening sshd stays; returns how many processes that were."""
        pids = self.connections()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(pids)

    def stop(self) -> None:
        """End sshd and its connections; what they started goes on."""
        if self.pid:
            self.cut()
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._process.wait()
            self.pid = 0

    def processes(self, module: str) -> list[int]:
        """Live processes on this box whose command line names a module: told by the root in their arguments or files."""
        found = []
        for entry in Path("/proc").iterdir():
            pid = int(entry.name) if entry.name.isdigit() else 0
            command = command_of(pid) if pid else ""
            if module in command and (str(self.root) in command or _opens(pid, str(self.root))):
                found.append(pid)
        return found


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _opens(pid: int, prefix: str) -> bool:
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(entry.path).startswith(prefix):
                    return True
    return False


def descendants(pid: int) -> list[int]:
    """Children of a process, and theirs."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, due = [], [pid]
    while due:
        for child in children.get(due.pop(), []):
            found.append(child)
            due.append(child)
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _key(path: Path) -> str:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True, stdin=subprocess.DEVNULL
    )
    return path.with_suffix(".pub").read_text()


class Lab:
    """Some boxes, the ssh config that names them, and workspaces that have them in hosts.toml."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        user = _key(folder / "user_key")
        self.boxes = {name: self._box(name, user) for name in names}
        self.config = folder / "ssh_config"
        self.known = folder / "known_hosts"
        self.write_config()
        self.trust(*names)
        self.python = self._python()

    def _box(self, name: str, user: str) -> Box:
        where = self.folder / name
        (where / "home").mkdir(parents=True, exist_ok=True)
        where.chmod(where.stat().st_mode & ~stat.S_IWOTH)
        _key(where / "host_key")
        (where / "authorized").write_text(user)
        return Box(name=name, folder=where, port=_free_port())

    def _python(self) -> Path:
        """The interpreter of the boxes: that of the tests, which stands for a machine with torch."""
        path = self.folder / "python"
        lines = f"PYTHONPATH={shlex.quote(str(COUNTING))}:$PYTHONPATH; export PYTHONPATH"
        path.write_text(f'#!/bin/sh\n{lines}\nexec {shlex.quote(sys.executable)} "$@"\n')
        path.chmod(0o755)
        return path

    def write_config(self, extra: str = "") -> None:
        """What the user's ~/.ssh/config would say."""
        user = pwd.getpwuid(os.getuid()).pw_name
        text = ""
        for box in self.boxes.values():
            text += (
                f"Host {box.name}\n  HostName 127.0.0.1\n  Port {box.port}\n  User {user}\n"
                f"  IdentityFile {self.folder / 'user_key'}\n  IdentitiesOnly yes\n"
                f"  UserKnownHostsFile {self.known}\n  GlobalKnownHostsFile /dev/null\n{extra}"
            )
        self.config.write_text(text)

    def trust(self, *names: str) -> None:
        """Know the keys of these boxes."""
        lines = []
        for name in names:
            kind, key = (self.boxes[name].folder / "host_key.pub").read_text().split()[:2]
            lines.append(f"[127.0.0.1]:{self.boxes[name].port} {kind} {key}\n")
        self.known.write_text("".join(lines))

    def workspace(self, name: str, *boxes: str, settings: str = "", slots: int = 1, **keys: str) -> Path:
        """A workspace whose hosts.toml has some of the boxes, or all."""
        where = self.folder / name
        where.mkdir()
        (where / "optsweep.toml").write_text(f"slots = 1\npoll_seconds = 0.1\n{settings}")
        text = ""
        for box in boxes or self.boxes:
            text += f'[hosts.{box}]\nbackend = "ssh"\nssh = "{box}"\npython = "{self.python}"\nslots = {slots}\ndevice = "cpu"\n'
            text += "".join(f'{key} = "{value}"\n' for key, value in keys.items())
        (where / "hosts.toml").write_text(text)
        return where

    def stop(self) -> None:
        """End every box and whatever runs on it."""
        for box in self.boxes.values():
            box.stop()
            for module in ("optsweep_engines.shim", "optsweep_engines.run", "optsweep_engines.helper"):
                for pid in box.processes(module):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def lab(folder: Path, *names: str) -> Iterator[Lab]:
    """Boxes that are up, and OPTSWEEP_SSH_CONFIG set for this process and its children."""
    made = Lab(folder, names)
    ours = {"OPTSWEEP_SSH_CONFIG": str(made.config), "PYTHONPATH": f"{COUNTING}:{os.environ.get('PYTHONPATH', '')}"}
    before = {key: os.environ.get(key) for key in ours}
    os.environ.update(ours)
    try:
        for box in made.boxes.values():
            box.start()
        yield made
    finally:
        made.stop()
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
