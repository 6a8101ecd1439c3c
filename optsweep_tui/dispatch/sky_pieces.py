"""What a managed job is made of: engine, setup script, diagnostics, each by its hash; and its task as it is submitted."""

from __future__ import annotations

import hashlib
from pathlib import Path

from optsweep_engines import envfile, folder
from optsweep_tui.dispatch import hostsfile, sky_task, staging
from optsweep_tui.dispatch.hostsfile import HostEntry
from optsweep_tui.dispatch.mirror import Attempt
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace


def device_of(entry: HostEntry) -> str:
    """ "tpu", "cuda" or "cpu", by what is asked for."""
    if entry.device != "auto":
        return entry.device
    accelerators = (entry.sky.accelerators or "").lower()
    return "tpu" if accelerators.startswith("tpu") else "cuda" if accelerators else "cpu"


def setup_of(entry: HostEntry) -> tuple[str, bytes] | None:
    """(hash, content) of the host's setup script.

    Raises:
        OptsweepError: it cannot be read.
    """
    if entry.sky.setup is None:
        return None
    path = Path(entry.sky.setup).expanduser()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise OptsweepError(
            f"hosts.{entry.name}.setup: {path} cannot be read: {error.strerror}", "name a shell script in hosts.toml"
        ) from None
    return hashlib.sha256(data).hexdigest(), data


def require_secrets(entry: HostEntry) -> None:
    """See that the env_file can be handed to SkyPilot: a file of this machine that nobody else may read.

    Raises:
        OptsweepError: it cannot.
    """
    if entry.env_file is None:
        return
    try:
        envfile.read(entry.env_file)
    except (OSError, ValueError) as error:
        words = error.strerror if isinstance(error, OSError) else error
        raise OptsweepError(
            f"hosts.{entry.name}.env_file: {entry.env_file}: {words}", "write NAME=VALUE lines, chmod 600"
        ) from None


def pieces(entry: HostEntry) -> dict[str, bytes]:
    """What every job finds in the storage: name -> content."""
    engine = staging.archive()
    found = {f"engine/{engine.sha256}/engine.zip": engine.data}
    setup = setup_of(entry)
    return found | ({f"setup/{setup[0]}.sh": setup[1]} if setup else {})


def yaml_of(workspace: Workspace, entry: HostEntry, attempt: Attempt) -> str:
    """The task of an attempt, as it is submitted."""
    setup, asked = setup_of(entry), diagnostics_of(workspace, attempt)
    hashes = [hashlib.sha256(asked).hexdigest() if asked is not None else None, setup[0] if setup else None]
    return sky_task.text(entry, attempt, staging.archive().sha256, hashes[1], hashes[0])


def diagnostics_of(workspace: Workspace, attempt: Attempt) -> bytes | None:
    """What the run's engine is asked to tell, a user's program perhaps among it; None: nothing beyond the usual."""
    try:
        return (workspace.runs / attempt[0] / folder.DIAGNOSTICS).read_bytes()
    except FileNotFoundError:
        return None


def preview(workspace: Workspace, name: str, attempt: Attempt) -> str | None:
    """The task that a run would be submitted as; None where the host is of another back-end.

    Raises:
        OptsweepError: a file that hosts.toml names cannot be used, as at the launch.
    """
    entry = hostsfile.read(workspace).get(name)
    if entry is None or entry.backend != "skypilot":
        return None
    require_secrets(entry)
    return yaml_of(workspace, entry, attempt)
