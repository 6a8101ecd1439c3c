"""The command in a process of its own whose libraries are loaded already: a server that forks itself for every call.

Half of the processor time of a short command is loading DuckDB, pandas and the rest. The server has only imported: each call
is a fork of it with its own arguments, environment, folder and output, and ends by its own exit code. Controllers and the
catalogues of `test_contract` are new interpreters as ever (`workbench.OPTSWEEP`); `test_wheel` starts the installed command.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from optsweep_tui import cli as root

LOADED = (
    "optsweep_tui.cli.root", "optsweep_tui.cli.output", "optsweep_tui.cli.options", "optsweep_tui.cli.run",
    "optsweep_tui.cli.collect", "optsweep_tui.cli.sql", "optsweep_tui.cli.table", "optsweep_tui.cli.ls",
    "optsweep_tui.flow", "optsweep_tui.ask", "optsweep_tui.grid", "optsweep_tui.diagnosing", "optsweep_tui.store.ingest",
    "optsweep_tui.store.collector", "optsweep_tui.store.queries", "optsweep_tui.dispatch.fleet",
    "optsweep_tui.analysis", "optsweep_tui.analysis.tails", "scipy.special", "duckdb", "pandas", "rich.table",
)  # fmt: skip


class Server:
    """One per test process; started with the first call."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="optsweep-preloaded-")
        self.address = f"{self._folder.name}/socket"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.preloaded", self.address, str(os.getpid())],
            cwd=Path(__file__).parents[2], stdin=subprocess.DEVNULL,
        )  # fmt: skip
        limit = time.monotonic() + 120
        while not os.path.exists(self.address):
            assert self._process.poll() is None and time.monotonic() < limit, "the server of commands did not start"
            time.sleep(0.01)

    def run(self, arguments: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
        """One command to its end.

        Raises:
            subprocess.TimeoutExpired: it took longer; it is killed.
        """
        with contextlib.ExitStack() as held:
            out, err = (held.enter_context(tempfile.TemporaryFile()) for _ in range(2))
            link = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            link.connect(self.address)
            asked = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
            with tempfile.TemporaryFile() as letter:
                letter.write(json.dumps(asked).encode(errors="surrogateescape"))
                letter.flush()
                socket.send_fds(link, [b"call"], [out.fileno(), err.fileno(), letter.fileno()])
            pid = int(link.recv(64))
            link.settimeout(timeout)
            try:
                answer = link.recv(64)
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(arguments, timeout) from None
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode().replace("\r\n", "\n"))
            return subprocess.CompletedProcess(arguments, int(answer), *texts)


def serve(address: str, parent: int) -> None:
    """Fork for every connection until the parent has gone."""
    for name in LOADED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children that wait for commands
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address + ".new")
    listener.listen(64)
    listener.settimeout(1.0)
    os.rename(address + ".new", address)
    while os.getppid() == parent:
        try:
            link, _ = listener.accept()
        except TimeoutError:
            continue
        if os.fork() == 0:
            listener.close()
            _attend(link)
        link.close()


def _attend(link: socket.socket) -> NoReturn:
    """Have one command run, and tell its pid and its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    link.settimeout(None)
    _, handles, _, _ = socket.recv_fds(link, 64, 3)
    out, err, letter = handles
    asked = json.loads(os.pread(letter, os.fstat(letter).st_size, 0).decode(errors="surrogateescape"))
    pid = os.fork()
    if pid == 0:
        link.close()
        os.close(letter)
        _become(asked, out, err)
    link.send(str(pid).encode())
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(BrokenPipeError):
        link.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _become(asked: dict[str, Any], out: int, err: int) -> NoReturn:
    """The command itself: as if it had just been started."""
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (out, 1), (err, 2)):
        os.dup2(source, target)
        os.close(source)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    extra = [folder for folder in asked["environment"].get("PYTHONPATH", "").split(os.pathsep) if folder]
    sys.path[1:1] = [folder for folder in extra if folder not in sys.path]  # as the interpreter does when it starts
    sys.argv = ["optsweep", *asked["arguments"]]
    random.seed()
    code = 0
    try:
        sys.exit(root.main())
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    # What a leaving interpreter does: threads are waited for, exit handlers run.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
