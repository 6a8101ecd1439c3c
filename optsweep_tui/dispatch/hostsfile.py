"""hosts.toml: the machines that runs may go to, read and checked once, edited without losing the user's comments.

[hosts.box]
backend = "ssh"            # or "slurm", "skypilot"
ssh = "box"                # any name of the user's ssh config; slurm without it: this machine is the login node
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optsweep_engines import folder
from optsweep_engines.engine import engine_names
from optsweep_engines.mesh import parsed
from optsweep_engines.team import PORTS
from optsweep_tui import rundir
from optsweep_tui.dispatch import sky_options
from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.settings import Workspace

BACKENDS = ("ssh", "slurm", "skypilot")
DEVICES = ("auto", "cpu", "cuda", "tpu")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
TARGET = re.compile(r"(ssh://)?[A-Za-z0-9_\[][A-Za-z0-9_.@:%\[\]+-]{0,254}")
"""What may follow `ssh --`: a name of the ssh config, HOST, USER@HOST or ssh://USER@HOST:PORT."""
PATH = re.compile(r"(~/)?[A-Za-z0-9_./+-]{1,512}")
"""Paths and program names on a host: a remote shell sees the one of Python, so nothing that a shell reads is in them."""
COORDINATOR = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9][A-Za-z0-9_.-]{0,253})(:([0-9]{1,5})-([0-9]{1,5}))?")
"""ADDRESS or ADDRESS:FIRST-LAST."""
_WORD = re.compile(r"[A-Za-z0-9_.,:=&|*+@/-]{1,200}")
_TIME = re.compile(r"[0-9]{1,7}(-[0-9]{1,2})?(:[0-9]{1,2}){0,2}")
_MEMORY = re.compile(r"[0-9]{1,9}[KMGT]?")
_OWN = ("local",)
"""Names that are taken: this machine."""


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """What sbatch is told, for a host or for one partition of it; None: the cluster's own default."""

    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time: str | None = None
    """Longest time of a run as sbatch takes it: "04:00:00", "1-00:00:00", minutes."""
    gres: str | None = None
    """"gpu:1", "gpu:h100:1"."""
    cpus: int | None = None
    mem: str | None = None
    """"16G"."""
    requeue: bool | None = None
    max_submitted: int | None = None
    """Most runs of ours in the scheduler at a time."""


@dataclass(frozen=True, kw_only=True)
class HostEntry:
    """One host of hosts.toml."""

    name: str
    backend: str
    """"ssh", "slurm" or "skypilot"."""
    ssh: str | None = None
    """Target of ssh; None (slurm only): the commands are run on this machine."""
    python: str = "python3"
    """Interpreter there that has torch or jax and numpy."""
    slots: int | None = None
    """Runs at a time; None: one per GPU, else one per core."""
    gpus_per_run: int = 1
    """Neighbouring GPUs that one slot shows to its run."""
    accelerator: str = ""
    """What `run --accelerator` asks for: "h100", "tpu-v5e"; empty: found by `hosts check` from the devices' names."""
    engine: str | None = None
    """The engine whose runs go there; None: those of every engine that is found there."""
    device: str = "auto"
    root: str = "~/.optsweep"
    """Folder on the host for engine, data and runs; hosts that share a home need one each."""
    workers: tuple[str, ...] = ()
    """Targets of ssh of the further machines that train each run together with the first (docs/hosts.md)."""
    coordinator: str | None = None
    """Of the first machine, as the others reach it: "10.0.0.1" or "10.0.0.1:29400-29409"; None: its name for ssh."""
    mesh: str | None = None
    """How a run is spread over devices there, "data=4,fsdp=2"; None: as optsweep.toml says."""
    drained: bool = False
    """Finishes what it runs, gets nothing new."""
    env_file: str | None = None
    """File there (0600) with NAME=VALUE lines for the engine: secrets by reference, never sent."""
    partitions: tuple[str, ...] = ()
    """Partitions that may be used; the first is the default one."""
    slurm: SlurmOptions = field(default_factory=SlurmOptions)
    by_partition: Mapping[str, SlurmOptions] = field(default_factory=dict)
    """[hosts.NAME.partition.P]: what differs for one partition."""
    sky: sky_options.SkyOptions = field(default_factory=sky_options.SkyOptions)

    @property
    def listed(self) -> str:
        """Its name in hosts.toml; of a further machine, whose own name is for messages: that of the host it works for."""
        return self.name.partition(" worker ")[0]

    def options(self, partition: str | None) -> SlurmOptions:
        """The options of one partition: its own, else the host's."""
        own = self.by_partition.get(partition or "", SlurmOptions())
        given = {key: value for key, value in dataclasses.asdict(own).items() if value is not None}
        return dataclasses.replace(self.slurm, **given)


def path_of(workspace: Workspace) -> Path:
    """The file itself."""
    return workspace.root / "hosts.toml"


def read(workspace: Workspace) -> dict[str, HostEntry]:
    """Every host by name, in the order of the file; empty without a file.

    Raises:
        OptsweepError: with the line to mend.
    """
    text = _text(path_of(workspace))
    return parse(text, str(path_of(workspace))) if text else {}


def entry_of(workspace: Workspace, name: str) -> HostEntry:
    """One host.

    Raises:
        OptsweepError: there is none of that name.
    """
    known = read(workspace)
    if name not in known:
        raise UnknownName("host", name, [*_OWN, *known], hint="(optsweep hosts add NAME --ssh TARGET adds one)")
    return known[name]


def parse(text: str, where: str = "hosts.toml") -> dict[str, HostEntry]:
    """Hosts of a text in the format of hosts.toml.

    Raises:
        OptsweepError: with the line to mend.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise OptsweepError(f"{where} is not TOML: {error}", "mend that line") from None
    for key in data:
        if key != "hosts":
            raise OptsweepError(f'{where}: unknown key "{key}"', "hosts are tables: [hosts.NAME]")
    tables = data.get("hosts", {})
    if not isinstance(tables, dict):
        raise OptsweepError(f"{where}: hosts is not a table", "write [hosts.NAME]")
    return {name: _entry(name, table, text, where) for name, table in tables.items()}


_TEXTS: Mapping[str, re.Pattern[str]] = {
    "ssh": TARGET,
    "python": PATH,
    "root": PATH,
    "env_file": PATH,
    "accelerator": _WORD,
    "coordinator": COORDINATOR,
}
_SLURM: Mapping[str, re.Pattern[str] | type] = {
    "account": _WORD, "qos": _WORD, "constraint": _WORD, "time": _TIME, "gres": _WORD, "cpus": int, "mem": _MEMORY,
    "requeue": bool, "max_submitted": int,
}  # fmt: skip
_NOT_MANAGED = (
    "ssh", "slots", "gpus_per_run", "root", "partitions", "partition", "workers", "coordinator", "mesh",
)  # fmt: skip
COMMAND_LINE = "the command line"
"""Where an entry comes from that nobody has written into a file: it has no lines."""
_KEYS = (
    "backend", *_TEXTS, "workers", "mesh", "slots", "gpus_per_run", "engine", "device", "drained", "partitions", "partition",
    *_SLURM, *sky_options.ONLY_HERE,
)  # fmt: skip
_TOGETHER = ("workers", "coordinator", "mesh")


def _entry(name: str, table: Any, text: str, where: str) -> HostEntry:
    def place(key: str) -> str:
        line = _line_of(text, name, key) if where != COMMAND_LINE else None
        return f"{where} line {line}" if line else where

    def wrong(key: str, why: str, hint: str) -> OptsweepError:
        return OptsweepError(f"{place(key)}: hosts.{name}.{key} {why}", hint)

    check_name(name, where)
    if not isinstance(table, dict):
        raise OptsweepError(f"{where}: hosts.{name} is not a table", f"write [hosts.{name}]")
    for key in table:
        if key not in _KEYS:
            raise UnknownName("key", key, _KEYS, where=f"{place(key)}: hosts.{name}")
    backend = table.get("backend", "ssh")
    if backend not in BACKENDS:
        raise wrong("backend", f"= {backend!r} is not known", 'write backend = "ssh", "slurm" or "skypilot"')
    values: dict[str, Any] = {"name": name, "backend": backend}
    for key, pattern in _TEXTS.items():
        if key in table:
            values[key] = _matching(table[key], pattern, lambda why, key=key: wrong(key, why, "mend that line"))
    if backend == "ssh" and "ssh" not in values:
        raise wrong("ssh", "is missing", f'write ssh = "TARGET", or optsweep hosts rm {name}')
    for key, known in (("device", DEVICES), ("engine", tuple(engine_names()))):
        if key in table:
            if table[key] not in known:
                raise wrong(key, f"= {table[key]!r} is not known", f"write one of {', '.join(known)}")
            values[key] = table[key]
    for key in ("slots", "gpus_per_run"):
        if key in table:
            values[key] = _count(table[key], lambda why, key=key: wrong(key, why, f"write {key} = 1"))
    if not isinstance(table.get("drained", False), bool):
        raise wrong("drained", f"= {table['drained']!r} is neither true nor false", "write drained = true")
    values["drained"] = table.get("drained", False)
    if backend == "skypilot":
        return _managed(values, table, wrong)
    misplaced = next((key for key in table if key in sky_options.ONLY_HERE), None)
    if misplaced:
        raise wrong(misplaced, "is for skypilot hosts", 'delete it, or write backend = "skypilot"')
    if backend != "slurm":
        misplaced = next((key for key in table if key in _SLURM or key in ("partitions", "partition")), None)
        if misplaced:
            raise wrong(misplaced, "is for slurm hosts", 'delete it, or write backend = "slurm"')
        return HostEntry(**{**values, **_together(table, wrong)})
    misplaced = next((key for key in table if key in _TOGETHER), None)
    if misplaced:
        raise wrong(misplaced, "is for ssh hosts", "delete it")
    names = table.get("partitions", [])
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(item, str) and NAME.fullmatch(item) for item in names):
        raise wrong("partitions", f"= {names!r} is not a list of names", 'write partitions = ["gpu"]')
    values["partitions"] = tuple(names)
    values["slurm"] = _slurm({key: table[key] for key in table if key in _SLURM}, wrong)
    by_partition = table.get("partition", {})
    if not isinstance(by_partition, dict) or not all(isinstance(item, dict) for item in by_partition.values()):
        raise wrong("partition", "is not a table per partition", f"write [hosts.{name}.partition.NAME]")
    for partition, own in by_partition.items():
        for key in own:
            if key not in _SLURM:
                raise UnknownName("key", key, tuple(_SLURM), where=f"{where}: hosts.{name}.partition.{partition}")
        if partition not in names:
            raise wrong("partition", f".{partition} is not in its partitions", f'write partitions = ["{partition}"]')
    values["by_partition"] = {partition: _slurm(own, wrong) for partition, own in by_partition.items()}
    return HostEntry(**values)


def _together(table: Mapping[str, Any], wrong: Any) -> dict[str, Any]:
    """The machines that train each run together, and how."""
    values: dict[str, Any] = {}
    names = table.get("workers", [])
    if not isinstance(names, list) or not all(isinstance(item, str) and TARGET.fullmatch(item) for item in names):
        raise wrong("workers", f"= {names!r} is not a list of targets of ssh", 'write workers = ["me@tpu-w1"]')
    if len({table.get("ssh"), *names}) <= len(names):
        raise wrong(
            "workers", "names a machine twice", "each trains once; ssh names the first of them, workers the others"
        )
    if names and table.get("slots", 1) != 1:
        raise wrong("slots", f"= {table['slots']!r}: machines that train together have one", "delete it")
    if "coordinator" in table:
        if not names:
            raise wrong("coordinator", "is for hosts with workers", "delete it, or name the workers")
        first, last = COORDINATOR.fullmatch(table["coordinator"]).group(3, 4)  # type: ignore[union-attr]
        if first and not (0 < int(first) < int(last) < 65536 and int(last) - int(first) < 256):
            raise wrong("coordinator", "names no two to 256 ports", f'write "ADDRESS:{PORTS[0]}-{PORTS[1]}"')
    if "mesh" in table:
        try:
            parsed(table["mesh"] if isinstance(table["mesh"], str) else "")
        except ValueError as error:
            raise wrong("mesh", f"= {table['mesh']!r}: {error}", 'write mesh = "data=8"') from None
        values["mesh"] = table["mesh"]
    return values | ({"workers": tuple(names), "slots": 1} if names else {})


def _managed(values: dict[str, Any], table: Mapping[str, Any], wrong: Any) -> HostEntry:
    """A skypilot host: every run is a managed job on machines of its own."""
    for key in table:
        if key in _NOT_MANAGED or (key in _SLURM and key not in sky_options.PATTERNS):
            raise wrong(key, "means nothing for skypilot hosts", "delete that line")
    sky = sky_options.read(table, wrong)
    values["accelerator"] = values.get("accelerator") or sky.accelerators or ""
    return HostEntry(**values, sky=sky)


def _slurm(table: Mapping[str, Any], wrong: Any) -> SlurmOptions:
    values: dict[str, Any] = {}
    for key, value in table.items():
        kind = _SLURM[key]
        if kind is int:
            values[key] = _count(value, lambda why, key=key: wrong(key, why, f"write {key} = 4"))
        elif kind is bool:
            if not isinstance(value, bool):
                raise wrong(key, f"= {value!r} is neither true nor false", f"write {key} = true")
            values[key] = value
        else:
            text = str(value) if key in ("time", "mem") and type(value) is int else value
            values[key] = _matching(text, kind, lambda why, key=key: wrong(key, why, "mend that line"))
    return SlurmOptions(**values)


def _matching(value: Any, pattern: Any, wrong: Any) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise wrong(f"= {value!r} is not one that can be used: letters, digits and {_allowed(pattern)} only")
    return value


def _allowed(pattern: re.Pattern[str]) -> str:
    marks = {
        TARGET: "_ . @ : % [ ] + -",
        COORDINATOR: ". - and two ports behind it, ADDRESS:FIRST-LAST,",
        PATH: "_ . / + - and ~/ in front",
        _TIME: ": -",
        _MEMORY: "K M G T at the end",
    }
    return marks.get(pattern, "_ . , : = & | * + @ / -")


def _count(value: Any, wrong: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1_000_000:
        raise wrong(f"= {value!r} is not a whole number above 0")
    return value


def check_name(name: str, where: str = "") -> None:
    """Raise where a host cannot be called that."""
    place = f"{where}: " if where else ""
    if name in _OWN:
        raise OptsweepError(f"{place}host name {name} means this machine", "choose another name")
    if not NAME.fullmatch(name):
        raise OptsweepError(
            f"{place}host name {name!r} has other signs than letters, digits and _ . -", "choose another"
        )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise OptsweepError(f"{path} cannot be read: {error}", "check that file") from None


_HEADER = re.compile(r"\s*\[\s*hosts\s*\.\s*(\"[^\"]*\"|[A-Za-z0-9_-]+)\s*(\.[^\]]*)?\]")


def _owner(line: str) -> str | None:
    """The host whose table a line opens; "" for another table; None for a line that opens none."""
    match = _HEADER.match(line)
    if match:
        return match.group(1).strip('"')
    return "" if re.match(r"\s*\[", line) else None


def _line_of(text: str, name: str, key: str) -> int | None:
    owner: str | None = ""
    for number, line in enumerate(text.splitlines(), 1):
        opened = _owner(line)
        owner = owner if opened is None else opened
        if owner == name and re.match(rf"\s*\"?{re.escape(key)}\"?\s*=", line):
            return number
    return None


# ---------------------------------------------------------------- edits


def check_new(workspace: Workspace, entry: HostEntry) -> None:
    """Raise where an entry cannot be added: a value that cannot be, or a name that is taken.

    Raises:
        OptsweepError: with what to change.
    """
    check_name(entry.name)
    parse(_table(entry), COMMAND_LINE)
    if entry.name in read(workspace):
        raise OptsweepError(f"host {entry.name} is there already", f"optsweep hosts rm {entry.name}, or another name")


def add(workspace: Workspace, entry: HostEntry) -> None:
    """Append a host.

    Raises:
        OptsweepError: the name is taken, or the file cannot be written.
    """
    check_name(entry.name)
    with _edited(workspace) as lines:
        if entry.name in parse("".join(lines)):
            raise OptsweepError(
                f"host {entry.name} is there already", f"optsweep hosts rm {entry.name}, or another name"
            )
        if lines and lines[-1].strip():
            lines.append("\n")
        lines.append(_table(entry))


def remove(workspace: Workspace, name: str) -> None:
    """Take a host out, with its sub-tables."""
    entry_of(workspace, name)
    with _edited(workspace) as lines:
        kept, owner = [], None
        for line in lines:
            opened = _owner(line)
            owner = owner if opened is None else opened
            if owner != name:
                kept.append(line)
        lines[:] = kept


def set_drained(workspace: Workspace, name: str, on: bool) -> None:
    """Write or delete `drained = true` of a host."""
    entry_of(workspace, name)
    with _edited(workspace) as lines:
        kept, owner = [], None
        for line in lines:
            opened = _owner(line)
            owner = owner if opened is None else opened
            if owner == name and re.match(r"\s*drained\s*=", line):
                continue
            kept.append(line)
            match = _HEADER.match(line)
            if on and match and match.group(1).strip('"') == name and not match.group(2):
                kept.append("drained = true\n")
        lines[:] = kept


@contextlib.contextmanager
def _edited(workspace: Workspace) -> Iterator[list[str]]:
    """The lines of the file under a lock; what is left in the list is checked and written at the end."""
    path = path_of(workspace.ensure())
    try:
        handle = os.open(path.with_name(".hosts.toml.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise rundir.unwritable(path.parent, error) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        before = _text(path)
        lines = before.splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):
            lines[-1] += "\n"
        yield lines
        text = "".join(lines)
        parse(text, str(path))
        if text != before:
            folder.write_atomic(path, text.encode())
    except OSError as error:
        raise rundir.unwritable(path.parent, error) from None
    finally:
        os.close(handle)


def _table(entry: HostEntry) -> str:
    usual = HostEntry(name=entry.name, backend=entry.backend)
    head = f'"{entry.name}"' if "." in entry.name else entry.name
    lines = [f"[hosts.{head}]", f'backend = "{entry.backend}"']
    for item in dataclasses.fields(HostEntry):
        value = getattr(entry, item.name)
        if item.name in ("name", "backend", "slurm", "by_partition", "sky") or value == getattr(usual, item.name):
            continue
        if item.name == "slots" and entry.workers and value == 1:
            continue  # always one
        lines.append(f"{item.name} = {_toml(value)}")
    lines += [f"{key} = {_toml(value)}" for key, value in dataclasses.asdict(entry.slurm).items() if value is not None]
    managed = {key: value for key, value in dataclasses.asdict(entry.sky).items() if value not in (None, "")}
    lines += [f"{key} = {_toml(value)}" for key, value in managed.items()]
    for partition, own in entry.by_partition.items():
        lines += ["", f"[hosts.{head}.partition.{partition}]"]
        lines += [f"{key} = {_toml(value)}" for key, value in dataclasses.asdict(own).items() if value is not None]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """A value as TOML: JSON's escapes are among those of its basic strings."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return str(value) if isinstance(value, int) else json.dumps(str(value))
