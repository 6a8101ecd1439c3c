"""JSON files of strangers: whatever they hold ends in a document or in one ValueError; keys that occur twice are listed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

MAX_BYTES = 64 << 20
"""A larger file of this kind is a mistake, and would take gigabytes of memory as Python objects."""


def read_document(file: Path, skip: Callable[[str, str], None]) -> Any:
    """The document; a byte-order mark, CRLF and the literals NaN and Infinity are taken as they are meant.

    Args:
        skip: called with (where, why) for a key that occurs twice: the first one counts.

    Raises:
        ValueError: the file cannot be read, is too large or is not JSON.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        table: dict[str, Any] = {}
        for key, value in items:
            if key in table and repr(table[key]) != repr(value):
                skip(f"{file}: {ascii(key)[:80]}", "the key occurs twice with different values; the first one counts")
            table.setdefault(key, value)
        return table

    try:
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise ValueError(f"{size / 2**20:.0f} MiB is more than such a file can have")
        text = file.read_bytes().decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=pairs)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text (byte {error.start})") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    except ValueError as error:  # an integer of thousands of digits
        raise ValueError(str(error)) from None
