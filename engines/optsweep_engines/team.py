"""Machines that train each run together: who they are, how they find and prove each other, and what they say; stdlib only.

`team.json` under the root of each machine is written by the controller over ssh, the same secret in all of them. The first
machine listens on the address that was given, the others come to it. What they say goes in the clear; who says it is
proved by the secret, for each attempt anew, and then with each line.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optsweep_engines import folder

FILE = "team.json"
PORTS = (29400, 29409)
"""Where the first machine listens unless hosts.toml says otherwise: one for the workers, one for the engine's processes."""
VARIABLE = "OPTSWEEP_TEAM"
"""What a worker tells the engine: the JSON of a `Place`."""
BEAT_SECONDS = 5.0
SILENT_SECONDS = 40.0
"""A worker that has said nothing for so long is cut off."""
HELLO_SECONDS = 5.0
"""How long a worker hears whatever listens on the ports of the first machine, all of it at once."""
COMER_SECONDS = 15.0
"""How long the first machine waits for the words of one that has come: longer, so that it is never the one who hangs up."""
LARGEST_ATTEMPT = 999_999_999
LARGEST_FILE = 1 << 44
"""Bytes of a checkpoint, 16 TiB: more is nonsense."""
LARGEST_LINE = 1 << 20
PIECE = 1 << 20
SIOCGIFADDR = 0x8915  # linux/sockios.h


@dataclass(frozen=True, kw_only=True)
class Team:
    """The machines of one entry of hosts.toml, as one of them knows them."""

    process: int
    """Number of this machine, from 0; the first one leads."""
    workers: tuple[str, ...]
    """Their names for messages, the targets of ssh."""
    address: str
    """Of the first machine, as all can reach it."""
    ports: tuple[int, int]
    """First and last port that it may listen on."""
    secret: str

    @property
    def leads(self) -> bool:
        return self.process == 0

    def key(self, run_id: str, attempt: int) -> bytes:
        """Known to the machines of this team alone, another one for each attempt."""
        return hmac.digest(self.secret.encode(), f"{run_id}.a{attempt}".encode(), "sha256")


def read(path: Path) -> Team:
    """The team of a file.

    Raises:
        ValueError: it is none.
    """
    data = folder.read_json(path)
    if not isinstance(data, dict):
        raise ValueError(f"{path} names no workers")
    try:
        return made(data)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from None


def made(data: Mapping[str, Any]) -> Team:
    """A team of its JSON.

    Raises:
        ValueError, KeyError, TypeError: it is none.
    """
    workers, (first, last) = tuple(map(str, data["workers"])), data["ports"]
    team = Team(
        process=int(data["process"]), workers=workers, address=str(data["address"]), ports=(int(first), int(last)),
        secret=str(data["secret"]),
    )  # fmt: skip
    if not 0 <= team.process < len(workers) <= 1024 or len(team.secret) < 32:
        raise ValueError("that are no workers")
    if not 0 < team.ports[0] < team.ports[1] < 65536 or team.ports[1] - team.ports[0] > 255:
        raise ValueError("two to 256 ports are needed")
    return team


@dataclass(frozen=True, kw_only=True)
class Place:
    """What the engine of one machine has to know to join the others."""

    process: int
    processes: int
    address: str
    port: int
    """Of the first machine, free for the engine."""
    own_address: str
    """Of this machine, on the way to the first."""
    token: str
    """Of the attempt: the processes compare it before they train."""

    @property
    def leads(self) -> bool:
        return self.process == 0

    @property
    def mark(self) -> list[int]:
        """The token as numbers that fit into 31 bits."""
        return [int(self.token[start : start + 7], 16) for start in range(0, 28, 7)]


def place() -> Place | None:
    """Of this engine process; None where it trains for itself."""
    text = os.environ.get(VARIABLE)
    return Place(**json.loads(text)) if text else None


def require_same(here: Place, first: list[int]) -> None:
    """Refuse to train with processes of another attempt.

    Raises:
        RuntimeError: the first process is of another one.
    """
    if first != here.mark:
        raise RuntimeError("the processes that met are of different attempts: none of them trains")


# ---------------------------------------------------------------- listening and coming


def listening(team: Team) -> socket.socket:
    """A socket on the first free port.

    Raises:
        OSError: the address is none of this machine, or no port is free.
    """
    error: OSError | None = None
    for port in range(team.ports[0], team.ports[1] + 1):
        try:
            return bound(team.address, port)
        except OSError as found:
            error = found
    why = error.strerror if error is not None else "no port"
    raise OSError(f"cannot listen on {team.address} ports {team.ports[0]}-{team.ports[1]}: {why}")


def two_listening(team: Team) -> list[socket.socket]:
    """Sockets on as many ports as a run needs: one for the workers, one for the engine's processes.

    Raises:
        OSError: the address is none of this machine, or fewer are free.
    """
    held = [listening(team)]
    try:
        return [*held, listening(team)]
    except OSError as error:
        held[0].close()
        raise OSError(f"one port is free, two are needed: {error}") from None


def bound(address: str, port: int) -> socket.socket:
    """A listening socket on this address alone.

    Raises:
        OSError: it cannot be had.
    """
    family, kind, _, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    made = socket.socket(family, kind)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(where)
        made.listen(128)
    except BaseException:
        made.close()
        raise
    return made


def free_port(team: Team) -> int:
    """A port for the engine.

    Raises:
        OSError: there is none.
    """
    with contextlib.closing(listening(team)) as held:
        return int(held.getsockname()[1])


def reached(team: Team, seconds: float = 2.0) -> list[socket.socket]:
    """Connections to whatever listens on the ports of the first machine, in their order.

    Raises:
        OSError: its name is not known.
    """
    family, kind, _, _, where = socket.getaddrinfo(team.address, 0, type=socket.SOCK_STREAM)[0]
    trying = []
    for port in range(team.ports[0], team.ports[1] + 1):
        made = socket.socket(family, kind)
        made.setblocking(False)
        made.connect_ex((where[0], port, *where[2:]))
        trying.append(made)
    waiting, found, limit = list(trying), set(), time.monotonic() + seconds
    while waiting and time.monotonic() < limit:
        _, ready, _ = select.select([], waiting, [], max(0.0, limit - time.monotonic()))
        waiting = [made for made in waiting if made not in ready]
        found |= {made for made in ready if made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0}
        if found:
            limit = min(limit, time.monotonic() + 0.2)  # what else listens there answers as quickly
    for made in trying:
        made.setblocking(True)
        if made not in found:
            made.close()
    return [made for made in trying if made in found]


def interface_of(address: str) -> str | None:
    """The network interface that has an IPv4 address; None where none is found."""
    with contextlib.suppress(OSError, ValueError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        wanted = socket.inet_aton(address)
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it has none
                found = fcntl.ioctl(asking.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                if found[20:24] == wanted:
                    return name
    return None


def use_network(address: str) -> None:
    """Have the collectives of this process use the network of its own address, unless its environment names one.

    gloo takes a name, NCCL the beginning of one, or all of it behind "=" (NCCL user guide, NCCL_SOCKET_IFNAME).
    """
    interface = interface_of(address)
    if interface:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")


# ---------------------------------------------------------------- what is said


class Gone(Exception):
    """The other side has hung up, is silent, or says what is no message."""


class Wire:
    """One connection: lines of JSON, the bytes of files behind some of them. One thread reads, any may send.

    Once both sides have proved themselves (`seal`), each line begins with its HMAC-SHA256 over side, number and text, so that
    nobody on the way can add, change, repeat or leave out one. Files are checked by the hash in their name.
    """

    def __init__(self, connection: socket.socket, seconds: float = HELLO_SECONDS) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._buffer = b""
        self._key: bytes | None = None
        self._sides = ("", "")
        self._counts = [0, 0]
        """Lines sent and heard under the key."""
        self.patience(seconds)
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def seal(self, key: bytes, own: str, other: str) -> None:
        """From here on every line carries its proof, both ways."""
        self._key, self._sides = key, (own, other)

    def _mark(self, way: int, text: bytes) -> bytes:
        assert self._key is not None
        self._counts[way] += 1
        head = f"{self._sides[way]} {self._counts[way]} ".encode()
        return hmac.new(self._key, head + text, "sha256").hexdigest().encode()

    def _line(self, message: Mapping[str, Any]) -> bytes:
        text = json.dumps(message, allow_nan=False).encode()
        return (self._mark(0, text) + b" " if self._key is not None else b"") + text + b"\n"

    def patience(self, seconds: float) -> None:
        """How long the next words are waited for."""
        self._seconds = seconds
        self._connection.settimeout(seconds)  # of sending

    @property
    def own_address(self) -> str:
        """Of this machine on this way."""
        return str(self._connection.getsockname()[0])

    def say(self, **message: Any) -> None:
        """Send one line.

        Raises:
            Gone: it cannot be sent.
        """
        with self._sending:
            self._send(self._line(message))

    def beat(self, side: str) -> None:
        """Say that one is there, unless something is being said already.

        Args:
            side: "do" of the first machine, "is" of the others.

        Raises:
            Gone: it cannot be sent.
        """
        if self._sending.acquire(blocking=False):
            try:
                self._send(self._line({side: "beat"}))
            finally:
                self._sending.release()

    def say_file(self, path: Path, size: int, **message: Any) -> None:
        """Send one line and a file behind it.

        Raises:
            Gone: it cannot be sent. OSError: the file cannot be read.
        """
        with self._sending, open(path, "rb") as file:
            self._send(self._line({**message, "size": size}))
            while size:
                piece = file.read(min(PIECE, size))
                if not piece:
                    raise OSError(f"{path} has become shorter")
                self._send(piece)
                size -= len(piece)

    def _send(self, data: bytes) -> None:
        try:
            self._connection.sendall(data)
        except OSError as error:
            raise Gone(str(error)) from None

    def heard(self) -> dict[str, Any]:
        """The next line.

        Raises:
            Gone: there will be none.
        """
        limit = time.monotonic() + self._seconds  # of the whole line: single bytes now and then are silence, too
        while b"\n" not in self._buffer:
            if len(self._buffer) > LARGEST_LINE:
                raise Gone("a line without an end")
            self._fill(limit)
        line, _, self._buffer = self._buffer.partition(b"\n")
        if self._key is not None:
            mark, _, line = line.partition(b" ")
            if not hmac.compare_digest(mark, self._mark(1, line)):
                raise Gone("words that are not the other side's")
        try:
            message = json.loads(line, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise Gone("words that are no message") from None
        if not isinstance(message, dict):
            raise Gone("words that are no message")
        return message

    def file_to(self, path: Path, size: int) -> str:
        """The bytes behind a line, into a file; returns their sha256.

        Raises:
            Gone: they do not come. OSError: they cannot be written.
        """
        digest = hashlib.sha256()
        with open(path, "wb") as file:
            while size:
                if not self._buffer:
                    self._fill(time.monotonic() + self._seconds)
                piece, self._buffer = self._buffer[:size], self._buffer[size:]
                file.write(piece)
                digest.update(piece)
                size -= len(piece)
            file.flush()
            os.fsync(file.fileno())
        return digest.hexdigest()

    def _fill(self, limit: float) -> None:
        """More bytes, before so many monotonic seconds; the socket's own time limit is that of whoever sends meanwhile."""
        try:
            waiting = select.poll()
            waiting.register(self._connection, select.POLLIN)
            if not waiting.poll(max(0.0, limit - time.monotonic()) * 1000):
                raise Gone("silence")
            data = self._connection.recv(PIECE)
        except TimeoutError:
            raise Gone("silence") from None
        except ValueError:  # closed here
            raise Gone("it was hung up") from None
        except OSError as error:
            raise Gone(str(error)) from None
        if not data:
            raise Gone("it hung up")
        self._buffer += data

    def close(self) -> None:
        """Hang up; whoever waits in `heard` is told."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()


def _no_constant(name: str) -> None:
    raise ValueError(name)


def whole(value: Any, first: int, last: int) -> int:
    """A number that somebody said.

    Raises:
        ValueError: it is no whole number from first to last.
    """
    if type(value) is not int or not first <= value <= last:
        raise ValueError("that is no such number")
    return value


def words(value: Any, most: int) -> str:
    """A text that somebody said.

    Raises:
        ValueError: it is none of at most so many characters.
    """
    if type(value) is not str or len(value) > most:
        raise ValueError("that is no such text")
    return value


def proof(key: bytes, side: str, process: int, nonces: tuple[str, str]) -> str:
    """That one side of a connection knows the key."""
    return hmac.new(key, f"{side} {process} {nonces[0]} {nonces[1]}".encode(), "sha256").hexdigest()


def line_key(key: bytes, process: int, nonces: tuple[str, str]) -> bytes:
    """Of the lines of one connection."""
    return hmac.digest(key, f"lines {process} {nonces[0]} {nonces[1]}".encode(), "sha256")


def nonce() -> str:
    """Never used before."""
    return os.urandom(16).hex()
