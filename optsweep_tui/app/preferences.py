"""What a user has set for the app: `[keymap]` and `[tui]` of the own config file, and of the workspace's over it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optsweep_tui import settings
from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.settings import Workspace

_SWITCHES = ("bell", "desktop", "slow_link", "remember")
_KEYS = ("theme", *_SWITCHES)


@dataclass(frozen=True, kw_only=True)
class Preferences:
    """Settings of the app."""

    keymap: Mapping[str, str] = field(default_factory=dict)
    """Binding id -> keys, comma separated."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Binding id -> the file that sets it, for messages."""
    theme: str | None = None
    """None: the one that was chosen last, else the default."""
    bell: bool = False
    """Ring the terminal's bell when runs end."""
    desktop: bool = False
    """Ask the terminal for a desktop notification when runs end (OSC 9)."""
    slow_link: bool = False
    """Fewer frames, no animation."""
    remember: bool = True
    """Start as the app was left."""


def load(workspace: Workspace) -> Preferences:
    """Read both files; one that is missing says nothing.

    Raises:
        OptsweepError: not TOML, an unknown key, or a value of the wrong kind; the message names file and key.
    """
    keymap: dict[str, str] = {}
    sources: dict[str, str] = {}
    values: dict[str, Any] = {}
    for path, only in ((settings.user_config(), True), (workspace.root / "optsweep.toml", False)):
        tables = _tables(path)
        unknown = sorted(tables.keys() - {"keymap", "tui"}) if only else []
        if unknown:
            raise UnknownName("key", unknown[0], ["[keymap]", "[tui]"], where=str(path))
        for name, keys in _table(tables, "keymap", path).items():
            keymap[name] = _keys(name, keys, path)
            sources[name] = str(path)
        values |= _checked(_table(tables, "tui", path), path)
    return Preferences(keymap=keymap, sources=sources, **values)


def _tables(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptsweepError(f"{path} is not TOML: {error}", "mend that line") from None
    except OSError as error:
        raise OptsweepError(f"{path} cannot be read: {error.strerror}", "check its permissions") from None


def _table(tables: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    found = tables.get(name, {})
    if not isinstance(found, dict):
        raise OptsweepError(f"{path}: {name} = {found!r} is not a table", f"write it under [{name}]")
    return _flat(found) if name == "keymap" else found


def _flat(table: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """`runs.mark = "m"` without quotes is a table in TOML: {"runs": {"mark": "m"}}."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= _flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return found


def _keys(name: str, keys: Any, path: Path) -> str:
    chosen = ",".join(keys) if isinstance(keys, list) and all(isinstance(key, str) for key in keys) else keys
    if not isinstance(chosen, str) or not chosen.strip():
        raise OptsweepError(f'{path}: [keymap] {name} = {keys!r} is no key', f'write {name} = "m" or "m,ctrl+o"')  # fmt: skip
    return chosen


def _checked(table: Mapping[str, Any], path: Path) -> dict[str, Any]:
    for key, value in table.items():
        if key not in _KEYS:
            raise UnknownName("key", key, _KEYS, where=f"{path}: [tui]")
        if key in _SWITCHES and not isinstance(value, bool):
            raise OptsweepError(f"{path}: [tui] {key} = {value!r} is neither true nor false", f"write {key} = true")
        if key == "theme" and not isinstance(value, str):
            raise OptsweepError(f"{path}: [tui] theme = {value!r} is not a text", 'write theme = "optsweep-light"')
    return dict(table)
