"""The terminal's own settings: kept while the app has them changed, so that after a kill -9 the next start puts them back.

A process that is killed cannot restore anything: the terminal stays raw, on the alternate screen, reporting the mouse. The
app leaves a note per terminal with the settings before it changed them; who starts next on that terminal and finds the
note of a process that is gone restores them first.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optsweep_engines.folder import boot_id, process_start, write_json
from optsweep_tui import settings

_MODES_OFF = (1000, 1002, 1003, 1006, 1015, 1016, 2004, 1004, 2048)
RESTORE = "".join(f"\x1b[?{mode}l" for mode in _MODES_OFF) + "\x1b[<u\x1b[?7h\x1b[?1049l\x1b[?25h\x1b[0m"
"""Mouse reports, bracketed paste, focus reports, the kitty keyboard and in-band resize off; line wrap on; the usual
screen; cursor shown; no colour. ECMA-48 and xterm's control sequences; a terminal ignores those that it does not know."""


@contextlib.contextmanager
def guarded(handle: int, folder: Path | None = None) -> Iterator[bool]:
    """Restore what a killed app left behind, then keep the settings in a note while the app runs.

    Args:
        handle: descriptor of the terminal.
        folder: where the notes are; None = the user's state folder.

    Yields: whether something had to be restored.
    """
    try:
        name = os.ttyname(handle)
    except OSError:
        yield False
        return
    note = (folder or settings.user_state()) / f"terminal-{re.sub('[^A-Za-z0-9]+', '-', name).strip('-')}.json"
    restored = _restore(handle, note)
    with contextlib.suppress(OSError, termios.error):
        note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(note, _own() | {"attributes": _plain(termios.tcgetattr(handle))})
    try:
        yield restored
    finally:
        with contextlib.suppress(OSError):
            note.unlink(missing_ok=True)


def _own() -> dict[str, Any]:
    return {"pid": os.getpid(), "start": process_start(os.getpid()), "boot_id": boot_id()}


def _restore(handle: int, note: Path) -> bool:
    """True when there was a note of an app on this terminal that is gone without having ended."""
    try:
        found = json.loads(note.read_bytes())
        alive = found["boot_id"] == boot_id() and process_start(int(found["pid"])) == found["start"]
        if alive or found["boot_id"] != boot_id():
            return False  # another app has this terminal, or the terminal is a new one after a restart
        termios.tcsetattr(handle, termios.TCSANOW, _attributes(found["attributes"]))
        os.write(handle, RESTORE.encode())
    except (OSError, ValueError, TypeError, KeyError, IndexError, termios.error):
        return False
    return True


def _plain(attributes: list[Any]) -> list[Any]:
    """termios attributes as JSON: the control characters are bytes or numbers."""
    return [*attributes[:6], [value if isinstance(value, int) else value[0] for value in attributes[6]]]


def _attributes(plain: list[Any]) -> list[Any]:
    flags = [int(value) for value in plain[:6]]
    canonical = bool(flags[3] & termios.ICANON)
    characters: list[Any] = [bytes([int(value)]) for value in plain[6]]
    if not canonical:  # the two counts of a raw terminal are numbers, the same places are characters in a cooked one
        for place in (termios.VMIN, termios.VTIME):
            characters[place] = int(plain[6][place])
    return [*flags, characters]
