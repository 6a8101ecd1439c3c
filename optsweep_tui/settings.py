"""Where runs, store and data of a workspace live, and its few defaults; the only reader of the environment."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optsweep_engines import mesh
from optsweep_tui.errors import OptsweepError, UnknownName

_KEYS = {"slots", "gpus_per_run", "device", "checkpoint_seconds", "poll_seconds", "sinks", "mesh"}
_COUNTS = {"slots", "gpus_per_run"}
_APP_TABLES = {"keymap", "tui"}
"""Tables of optsweep.toml that the app reads and checks itself: `app/preferences.py`."""


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """One folder that holds everything of a body of work."""

    root: Path
    slots: int
    """Runs at a time on the cores of this machine; `run_slots` says how many in all."""
    device: str
    """"cpu", "cuda", "tpu" (all chips of this machine for one run) or "auto"."""
    checkpoint_seconds: float
    """Between two checkpoints of a run."""
    poll_seconds: float
    """Between two looks of the controller at its runs."""
    mesh: str | None = None
    """Devices that one run is spread over, "data=4,fsdp=2", on an engine that can; None: the engine's own choice."""
    gpus_per_run: int = 1
    """GPUs that one run is spread over, a process each."""
    sinks: tuple[str, ...] = ()
    """Where runs are copied to while they go on: "tensorboard:DIR", "wandb:DIR"; a relative DIR is in the workspace."""

    @property
    def gpus(self) -> list[str]:
        """GPUs of this machine that runs may take, one each."""
        return visible_gpus() if self.device in ("auto", "cuda") else []

    @property
    def run_slots(self) -> int:
        """Runs at a time on this machine: as the GPUs suffice, or all chips of a TPU for one, else `slots`."""
        gpus = self.gpus
        if gpus:
            return max(1, len(gpus) // self.gpus_per_run)
        return 1 if self.device == "tpu" else self.slots

    @property
    def free_bytes(self) -> int:
        """Of the disk that the workspace is on, or will be."""
        there = next(place for place in (self.root, *self.root.absolute().parents) if place.exists())
        return shutil.disk_usage(there).free

    @functools.cached_property
    def runs(self) -> Path:
        """The run folders; asked for ten thousand times per plan."""
        return self.root / "runs"

    @property
    def store(self) -> Path:
        return self.root / "results.duckdb"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def optimizers(self) -> Path:
        """Files of users' own optimizers by their hash: what run folders get their copy from."""
        return self.root / "optimizers"

    @property
    def studies(self) -> Path:
        return self.root / "studies"

    @property
    def grids(self) -> Path:
        """Grid files that imports wrote; `run --grid NAME` finds them."""
        return self.root / "grids"

    @property
    def placing(self) -> Path:
        """Which runs may go to which hosts, a line per launch; absent where no run was ever sent elsewhere."""
        return self.root / "placing.jsonl"

    @property
    def sends_elsewhere(self) -> bool:
        """Whether any run may be on another machine."""
        return self.placing.exists()

    @property
    def queue(self) -> Path:
        return self.root / "queue"

    def ensure(self) -> Workspace:
        """Create the folders that a command is about to write into.

        Raises:
            OptsweepError: the workspace cannot be written.
        """
        above = self.root.parent
        if not self.root.exists() and not above.is_dir():
            why = "is not a folder" if above.exists() or above.parent.is_file() else "does not exist"
            hint = f"mkdir -p {above}, or name another with --workspace DIR"
            raise OptsweepError(f"workspace {self.root} cannot be made: {above} {why}", hint)
        try:
            for folder in (self.root, self.runs, self.data, self.studies, self.queue):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(self.runs, os.W_OK | os.X_OK):
                raise PermissionError(13, "Permission denied", str(self.runs))
        except OSError as error:
            raise OptsweepError(
                f"workspace {self.root} cannot be written: {error.strerror}", "name another with --workspace DIR"
            ) from None
        return self


def workspace(root: Path | None = None) -> Workspace:
    """The workspace that is named, else OPTSWEEP_WORKSPACE, else the current folder, with its optsweep.toml."""
    chosen = Path(root or os.environ.get("OPTSWEEP_WORKSPACE") or ".").expanduser().resolve()
    if chosen.exists() and not chosen.is_dir():
        raise OptsweepError(f"workspace {chosen} is not a folder", "name another with --workspace DIR")
    values = _read(chosen / "optsweep.toml")
    return Workspace(
        root=chosen,
        slots=int(values.get("slots", usable_cores())),
        device=str(values.get("device", "auto")),
        checkpoint_seconds=float(values.get("checkpoint_seconds", 30.0)),
        poll_seconds=float(values.get("poll_seconds", 0.25)),
        mesh=values.get("mesh"),
        gpus_per_run=int(values.get("gpus_per_run", 1)),
        sinks=tuple(values.get("sinks", ())),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptsweepError(f"{path} is not TOML: {error}", "mend that line") from None
    except OSError as error:
        raise OptsweepError(f"{path} cannot be read: {error.strerror}", "check its permissions") from None
    for key, value in values.items():
        if key in _APP_TABLES:
            continue
        if key not in _KEYS:
            raise UnknownName("key", key, sorted(_KEYS | _APP_TABLES), where=str(path))
        if key == "device":
            if not isinstance(value, str):
                raise OptsweepError(f"{path}: device = {value!r} is not a text", 'write device = "cpu"')
        elif key == "mesh":
            if not isinstance(value, str):
                raise OptsweepError(f"{path}: mesh = {value!r} is not a text", 'write mesh = "data=4,fsdp=2"')
            try:
                mesh.parsed(value)
            except ValueError as error:
                raise OptsweepError(f"{path}: {error}", 'write mesh = "data=4,fsdp=2"') from None
        elif key == "sinks":
            if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
                raise OptsweepError(
                    f"{path}: sinks = {value!r} is not a list of texts", 'write sinks = ["tensorboard:DIR"]'
                )
        elif key in _COUNTS and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise OptsweepError(f"{path}: {key} = {value!r} is not a whole number from 1", f"write {key} = 2")
        elif isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise OptsweepError(f"{path}: {key} = {value!r} is not a positive number", f"write {key} = 2")
    return values


def user_config() -> Path:
    """The file of a user's own settings, for every workspace; it need not exist (XDG base directories)."""
    return _home("XDG_CONFIG_HOME", ".config") / "config.toml"


def user_state() -> Path:
    """The folder of what the program remembers of its use by a user; it need not exist."""
    return _home("XDG_STATE_HOME", ".local/state")


def _home(variable: str, usual: str) -> Path:
    named = os.environ.get(variable, "")
    # The specification: a relative path is invalid and has to be ignored.
    return (Path(named) if named.startswith("/") else Path(os.path.expanduser("~")) / usual) / "optsweep"


def usable_cores() -> int:
    """CPU cores that this process may use: its affinity, cut by the control group's quota."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return max(1, cores)


def visible_gpus() -> list[str]:
    """Indices of the NVIDIA GPUs that may be used here, without importing a framework."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() and name.strip() != "-1"]
    return list(_installed_gpus(os.environ.get("PATH", "")))


@functools.cache
def _installed_gpus(path: str) -> tuple[str, ...]:
    """What nvidia-smi on this PATH lists; it takes up to a second, and GPUs do not come and go."""
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(answer.stdout.split()) if answer.returncode == 0 else ()


def ssh_config() -> Path | None:
    """The ssh config that OPTSWEEP_SSH_CONFIG names, in the place of the user's own.

    Raises:
        OptsweepError: there is no such file.
    """
    named = os.environ.get("OPTSWEEP_SSH_CONFIG", "")
    if not named:
        return None
    path = Path(named).expanduser()
    if not path.is_file():
        raise OptsweepError(f"OPTSWEEP_SSH_CONFIG names {path}, which is no file", "mend or unset it")
    return path


def colour_off() -> bool:
    """NO_COLOR as no-color.org defines it."""
    return bool(os.environ.get("NO_COLOR"))
