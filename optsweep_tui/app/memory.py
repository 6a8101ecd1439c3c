"""How the app was left, kept between starts: a small file per workspace in the user's state folder, never in the way.

Whatever the file holds, the app starts: what is not of the right kind is forgotten, value by value.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any, TypeVar

from optsweep_engines.folder import write_atomic
from optsweep_tui import settings

LARGEST_BYTES = 1 << 20
"""A file beyond this is none of ours."""
_Value = TypeVar("_Value")


class Memory:
    """Values by name: what is shown in a workspace, and the theme, which is the user's everywhere."""

    def __init__(self, root: Path | None, folder: Path | None = None) -> None:
        """
        Args:
            root: the workspace; None remembers nothing.
            folder: where the files are; None = the user's state folder.
        """
        where = folder or settings.user_state()
        digest = hashlib.sha256(str(root).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        self._paths = {} if root is None else {"": where / f"tui-{digest}.json", "user": where / "tui.json"}
        self._kept = {scope: _read(path) for scope, path in self._paths.items()}

    @property
    def forgetful(self) -> bool:
        """Nothing is remembered."""
        return not self._paths

    def get(self, name: str, usual: _Value, scope: str = "") -> _Value:
        """A value that was kept, if it is of the same kind as the usual one; else the usual one."""
        found = self._kept.get(scope, {}).get(name)
        if isinstance(found, bool) != isinstance(usual, bool) or not isinstance(found, type(usual)):
            return usual
        if isinstance(found, list) and not all(isinstance(entry, str) for entry in found):
            return usual
        return found

    def put(self, name: str, value: Any, scope: str = "") -> None:
        """Remember a value, in memory until `save`."""
        if scope in self._kept:
            self._kept[scope][name] = value

    def save(self) -> None:
        """Write what was put; a folder that cannot be written is no reason to trouble anybody."""
        for scope, path in self._paths.items():
            with contextlib.suppress(OSError, ValueError, TypeError):
                text = json.dumps(self._kept[scope], ensure_ascii=False, indent=1)
                if _read(path) == self._kept[scope]:
                    continue
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_atomic(path, text.encode("utf-8", "surrogateescape"))


def _read(path: Path) -> dict[str, Any]:
    try:
        if os.stat(path).st_size > LARGEST_BYTES:
            return {}
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
