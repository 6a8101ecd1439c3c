"""The task of a managed job as SkyPilot's YAML: one constant command, everything else as data in it. Pure.

`optsweep run --dry-run --host NAME` prints it. Format: SkyPilot 0.14, docs.skypilot.co/en/latest/reference/yaml-spec.html.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import Any

import yaml

from optsweep_engines import cloud_start
from optsweep_engines.cloud_start import STORAGE
from optsweep_tui.dispatch.hostsfile import HostEntry
from optsweep_tui.dispatch.mirror import Attempt

MOUNT = STORAGE
"""Where the storage is mounted on a node."""
RUN = """\
exec "${OPTSWEEP_PYTHON/#\\~\\//$HOME/}" -c "$OPTSWEEP_START"
"""
"""The command, the same for all: what differs reaches it in quoted variables, so no shell ever reads it as code."""
SETUP = """\
cp "$HOME/optsweep-storage/setup/$OPTSWEEP_SETUP.sh" ./optsweep-setup.sh
echo "$OPTSWEEP_SETUP  ./optsweep-setup.sh" | sha256sum --check --status && bash ./optsweep-setup.sh
"""
"""By reference: the user's own script is run only with the content that it was submitted with."""


def name_of(attempt: Attempt) -> str:
    """Name of the managed job of an attempt: unique, and what is asked for before anything is submitted again."""
    return f"os-{attempt[0]}-a{attempt[1]}"


def task(
    entry: HostEntry, attempt: Attempt, engine: str, setup: str | None, diagnostics: str | None = None
) -> dict[str, Any]:
    """The task of one attempt.

    Args:
        entry: a skypilot host.
        attempt: run id and number.
        engine: sha256 of the engine's archive.
        setup: sha256 of the host's setup script; None without one.
        diagnostics: sha256 of the run's diagnostics.json; None without one.
    """
    environment = {
        "OPTSWEEP_RUN": attempt[0],
        "OPTSWEEP_ATTEMPT": str(attempt[1]),
        "OPTSWEEP_ENGINE": engine,
        "OPTSWEEP_PYTHON": entry.python,
        "OPTSWEEP_THREADS": str(entry.sky.cpus or 1),
        "OPTSWEEP_START": start(),
    }
    environment |= {"OPTSWEEP_SETUP": setup} if setup else {}
    environment |= {"OPTSWEEP_DIAGNOSTICS": diagnostics} if diagnostics else {}
    body: dict[str, Any] = {
        "name": name_of(attempt),
        "resources": resources(entry),
        "file_mounts": {MOUNT: {"source": entry.sky.storage, "mode": "MOUNT"}},
        "envs": {key: _Text(value) for key, value in environment.items()},
        "num_nodes": 1,
    }
    if setup:
        body["setup"] = SETUP
    return body | {"run": RUN}


@functools.cache
def start() -> str:
    """The program that a node runs first, without its comments."""
    return ast.unparse(_bare(ast.parse(Path(cloud_start.__file__).read_text(encoding="utf-8")))) + "\n"


def _bare(tree: ast.Module) -> ast.Module:
    """Without docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef):
            node.body = [item for item in node.body if not (isinstance(item, ast.Expr) and _is_text(item.value))]
    return tree


def _is_text(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def resources(entry: HostEntry) -> dict[str, Any]:
    """What a machine must have."""
    asked = entry.sky
    found: dict[str, Any] = {
        "accelerators": asked.accelerators,
        "infra": asked.infra,
        "use_spot": asked.use_spot,
        "image_id": asked.image,
        "cpus": f"{asked.cpus}+" if asked.cpus else None,
        "memory": f"{asked.memory}+" if asked.memory else None,
        "disk_size": asked.disk_size,
    }
    return {key: value for key, value in found.items() if value is not None}


def trial(entry: HostEntry) -> str:
    """A task that asks for the same machine and does nothing, for `sky launch --dryrun`."""
    return _text({"name": "os-trial", "resources": resources(entry), "run": "true"})


def text(entry: HostEntry, attempt: Attempt, engine: str, setup: str | None, diagnostics: str | None = None) -> str:
    """The task as YAML."""
    return _text(task(entry, attempt, engine, setup, diagnostics))


def _text(body: dict[str, Any]) -> str:
    return str(yaml.dump(body, Dumper=_Plain, sort_keys=False, allow_unicode=False, width=120))


class _Text(str):
    """A value that is a text whatever it looks like: an id of digits, 1e10, yes."""


class _Plain(yaml.SafeDumper):
    """Scripts as blocks, so that a person can read them; values of variables in quotes."""


def _script(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if value.endswith("\n") else None)


def _quoted(dumper: yaml.SafeDumper, value: _Text) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", str(value), style="|" if value.endswith("\n") else '"')


_Plain.add_representer(str, _script)
_Plain.add_representer(_Text, _quoted)
