"""One ssh process to one host, the resident helper at its far end, and framed calls over it with a time limit each.

OpenSSH does the connecting, so the user's ssh config, agents, jump hosts and hardware keys work as they do by hand.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from typing import IO, Any

from optsweep_engines import frames
from optsweep_tui.dispatch import staging, told
from optsweep_tui.dispatch.hostsfile import HostEntry
from optsweep_tui.dispatch.site import Unreachable
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import ssh_config

OPTIONS = (
    "-T", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=10",
    "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3", "-o", "ForwardAgent=no",
    "-o", "ClearAllForwardings=yes", "-o", "PermitLocalCommand=no", "-o", "RemoteCommand=none",
)  # fmt: skip
FULL = (28, 122)
"""ENOSPC, EDQUOT."""
START_SECONDS = 30.0
"""From the start of ssh to the first word of the host, its slow login files included."""
STAGE_SECONDS = 300.0
CALL_SECONDS = 45.0
"""For an answer: as long as OpenSSH itself waits for a host that has gone silent (3 times 15 s)."""
GREETING_BYTES = 1 << 16
"""What login files may print before the helper speaks."""

# Reads a program from standard input up to a zero byte and runs it. The text is constant: of all that a user can choose
# only the path of Python, letters and digits by hostsfile.PATH, is ever seen by the shell on the host.
_FIRST = "import os;exec(bytes().join(iter(lambda:os.read(0,1)or exit(3),bytes(1))))"


def command_line(entry: HostEntry, *extra: str) -> list[str]:
    """The arguments of ssh up to and with the target."""
    config = ssh_config()
    assert entry.ssh is not None
    return ["ssh", *(["-F", str(config)] if config else []), *OPTIONS, *extra, "--", entry.ssh]


class Channel:
    """A connection with the helper speaking at its far end. Not for two threads at once: `call` takes a lock."""

    def __init__(self, entry: HostEntry, started: Callable[[subprocess.Popen[bytes]], None] = lambda _: None) -> None:
        """Connect, send the engine if it is not there, greet.

        Args:
            started: is given the process of ssh as soon as there is one: what ends it ends the connecting.

        Raises:
            Unreachable: no connection, or it broke.
            OptsweepError: the host answers, and cannot be used.
        """
        self.entry = entry
        self._lock = threading.Lock()
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        command = [*command_line(entry), f'exec {entry.python} -c "{_FIRST}"']
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True
            )
        except FileNotFoundError:
            raise OptsweepError("ssh is not installed here", "install the OpenSSH client") from None
        started(self._process)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._to, False)
        try:
            self._greet()
            header, _ = self.call("hello", {key: value for key, value in _asked(entry).items() if value is not None})
            self.hello: dict[str, Any] = told.hello(header, entry.name)
        except BaseException:
            self.close()
            raise

    def _greet(self) -> None:
        archive = staging.archive()
        mark = f"optsweep-{os.urandom(12).hex()}"
        first = json.dumps({"root": self.entry.root, "archive": archive.sha256, "mark": mark})
        deadline = time.monotonic() + START_SECONDS
        self._send(staging.bootstrap() + b"\0" + first.encode() + b"\n", deadline)
        self._skip_to(b"\n" + mark.encode() + b"\n", deadline)
        answer = self._json_line(deadline)
        if answer.get("need"):
            deadline = time.monotonic() + STAGE_SECONDS
            self._send(f"{len(archive.data)}\n".encode() + archive.data, deadline)
            answer = self._json_line(deadline)
        if answer.get("problem"):
            raise self._unusable(answer)
        if not answer.get("ready"):
            raise Unreachable(f"host {self.entry.name} did not become ready", "optsweep hosts check tells more")

    def _unusable(self, answer: dict[str, Any]) -> OptsweepError:
        name, python, said = self.entry.name, self.entry.python, str(answer.get("version"))[:200]
        if answer["problem"] == "python":
            return OptsweepError(
                f"host {name}: {python} is Python {said} there, 3.11 or newer is needed",
                f"name another in hosts.toml: hosts.{self.entry.listed}.python",
            )
        if answer["problem"] == "platform":
            return OptsweepError(f"host {name} runs {said}; workers need Linux", "use another host")
        return OptsweepError(
            f"host {name}: {self.entry.root} there cannot be written: {said}",
            "free some space there"
            if answer.get("errno") in FULL
            else f"name another folder: hosts.{self.entry.listed}.root",
        )

    def call(
        self, verb: str, header: dict[str, Any] | None = None, body: bytes = b"", seconds: float = CALL_SECONDS
    ) -> tuple[dict[str, Any], bytes]:
        """Ask the helper and wait for its answer.

        Raises:
            Unreachable: the connection is gone, or no answer came in time; whether the message arrived is not known.
            OptsweepError: the helper refused, or could not: its disk is full, for one.
        """
        with self._lock:
            try:
                deadline = time.monotonic() + seconds
                self._send(frames.packed({**(header or {}), "verb": verb}, body), deadline)
                sizes = frames.lengths(self._exactly(8, deadline))
                text = self._exactly(sizes[0], deadline)
                answer, data = frames.header_of(text), self._exactly(sizes[1], deadline)
            except frames.Broken as error:
                self.close()
                raise Unreachable(f"host {self.entry.name} speaks nonsense: {error}", "optsweep hosts check") from None
            except BaseException:
                self.close()
                raise
        if "refused" in answer:
            raise OptsweepError(
                f"host {self.entry.name}: {told.plain(answer['refused'])}", _next_step(answer, self.entry, verb)
            )
        return answer, data

    def close(self) -> None:
        """End ssh, and with it the helper; workers go on."""
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def alive(self) -> bool:
        """False once closed or broken."""
        return self._process.poll() is None and not (self._process.stdin is None or self._process.stdin.closed)

    # ------------------------------------------------------------ bytes

    def _send(self, data: bytes, deadline: float) -> None:
        rest = memoryview(data)
        while rest:
            _, ready, _ = select.select([], [self._to], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise self._gone("took nothing")
            try:
                rest = rest[os.write(self._to, rest) :]
            except BlockingIOError:
                continue
            except OSError:
                raise self._gone("hung up") from None

    def _some(self, most: int, deadline: float) -> bytes:
        ready, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise self._gone("did not answer in time")
        data = os.read(self._from, most)
        if not data:
            raise self._gone("hung up")
        return data

    def _exactly(self, count: int, deadline: float) -> bytes:
        parts = []
        while count:
            parts.append(self._some(min(count, 1 << 20), deadline))
            count -= len(parts[-1])
        return b"".join(parts)

    def _skip_to(self, mark: bytes, deadline: float) -> None:
        """Pass over what login files print."""
        seen = b""
        while not seen.endswith(mark):
            seen += self._some(1, deadline)
            if len(seen) > GREETING_BYTES:
                raise Unreachable(f"host {self.entry.name} prints without end at login", "mend its shell's login files")

    def _json_line(self, deadline: float) -> dict[str, Any]:
        seen = b""
        while not seen.endswith(b"\n") and len(seen) < GREETING_BYTES:
            seen += self._some(1, deadline)
        try:
            return frames.header_of(seen)
        except frames.Broken:
            raise Unreachable(f"host {self.entry.name} speaks nonsense", "optsweep hosts check tells more") from None

    def _gone(self, how: str) -> OptsweepError:
        """What became of the connection, from ssh's own words."""
        try:
            status: int | None = self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            status = None
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - 8000))
        return explained(self.entry, how, status, self._errors.read().decode(errors="replace"))


def explained(entry: HostEntry, how: str, status: int | None, words: str) -> OptsweepError:
    """An error with its next step, from the exit status of ssh and what it said.

    Args:
        how: what was noticed here: "hung up", "did not answer in time".
        status: of ssh; None while it still runs.
    """
    name, target = entry.name, entry.ssh
    refused = status in (255, None)  # ssh's own words: with any other status they are those of a program over there
    if refused and "HOST IDENTIFICATION HAS CHANGED" in words:
        known = next((line.strip() for line in words.splitlines() if line.startswith("Offending ") and ":" in line), "")
        why = f" ({known})" if known else ""
        return Unreachable(
            f"host {name} ({target}) shows another key than before{why}: a new machine, or somebody in between",
            f"ask its owner; if it is right: delete that line of known_hosts, then optsweep hosts check {entry.listed}",
        )
    if refused and ("Host key verification failed" in words or "host key is known" in words):
        return Unreachable(f"the key of host {name} ({target}) is not known here", key_step(entry))
    if refused and "Permission denied" in words:
        return Unreachable(f"host {name} ({target}) lets nobody in with the keys at hand", f"try: ssh {target}")
    lines = [line for line in map(told.plain, words.splitlines()) if line]
    said = lines[-1][:300] if lines else ""
    if status == 127 or (status is not None and status != 255 and "not found" in words):
        return OptsweepError(
            f"host {name} has no {entry.python} ({said or 'command not found'})",
            f"set hosts.{entry.listed}.python in hosts.toml to a Python that has torch or jax",
        )
    if status == 126:
        return OptsweepError(
            f"host {name}: {entry.python} cannot be run there", f"set hosts.{entry.listed}.python in hosts.toml"
        )
    if status not in (None, 0, 3, 4, 255) and "Traceback" in words:
        return OptsweepError(f"host {name}: the helper ended: {said}", f"optsweep hosts check {entry.listed}")
    if status == 0:  # ssh and the login went well
        return OptsweepError(
            f"host {name}: {entry.python} ended at once there{f': {said}' if said else ''}",
            f"is it a Python? hosts.{entry.listed}.python in hosts.toml names it",
        )
    how = "cannot be reached" if status == 255 and said else how
    return Unreachable(f"host {name} ({target}) {how}{f': {said}' if said else ''}", f"try: ssh {target}")


def key_step(entry: HostEntry) -> str:
    """How the key of a host becomes known here; a further machine's name is none that can be added by itself."""
    if entry.name == entry.listed:
        return f"optsweep hosts add {entry.name} --ssh {entry.ssh} shows its fingerprint and asks"
    return f"ssh {entry.ssh} once by hand and accept it there, or add the host anew with --worker {entry.ssh}"


def _asked(entry: HostEntry) -> dict[str, Any]:
    return {
        "device": entry.device,
        "slots": entry.slots,
        "gpus_per_run": entry.gpus_per_run,
        "env_file": entry.env_file,
        "together": bool(entry.workers),
    }


def _next_step(answer: dict[str, Any], entry: HostEntry, verb: str) -> str:
    if answer.get("errno") in FULL:
        return "its disk is full: free some space there; nothing is lost"
    if verb == "hello" and entry.env_file and "env_file" not in str(answer["refused"]):
        return f"hosts.{entry.listed}.env_file in hosts.toml names a file there"
    return "optsweep hosts check tells more"
