"""JSON and YAML files of strangers: whatever they hold ends in a document or in one ValueError; doubled keys are listed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from optsweep_tui.importers.protocol import opened

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

    text = _text(file, MAX_BYTES)
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    except ValueError as error:  # an integer of thousands of digits
        raise ValueError(str(error)) from None


def _text(file: Path, limit: int) -> str:
    try:
        size = file.stat().st_size
        if size > limit:
            raise ValueError(f"{size / 2**20:.0f} MiB is more than such a file can have")
        with opened(file) as handle:
            return handle.read().decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text (byte {error.start})") from None


MAX_YAML_BYTES = 4 << 20
"""Configurations have some kilobytes; the reader takes a second for each MiB."""
MAX_YAML_ENTRIES = 500_000


def read_yaml(file: Path, skip: Callable[[str, str], None]) -> Any:
    """The document, made of plain tables, lists, texts and numbers only: no tag of a file makes an object or runs code.

    Args:
        skip: called with (where, why) for a key that occurs twice: the first one counts.

    Raises:
        ValueError: the file cannot be read, is too large, is not YAML, or stands for too much (a few lines of aliases can
            stand for more than any memory holds).
    """

    class Loader(yaml.SafeLoader):
        """Safe loading, with doubled keys listed."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            table: dict[Any, Any] = {}
            for key_node, value_node in node.value:
                key = self.construct_object(key_node, deep=True)
                if not isinstance(key, str | int | float | bool | None):
                    raise ValueError(f"line {key_node.start_mark.line + 1}: a key is neither text nor number")
                if key in table:
                    skip(f"{file}: {ascii(key)[:80]}", "the key occurs twice in one table; the first one counts")
                else:
                    table[key] = self.construct_object(value_node, deep=True)
            return table

    text = _text(file, MAX_YAML_BYTES)
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _entries(node, {}, set()) > MAX_YAML_ENTRIES:
            raise ValueError(f"its aliases stand for more than {MAX_YAML_ENTRIES} entries")
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark is not None else ""
        raise ValueError(f"it is not YAML: {place}{getattr(error, 'problem', None) or error}") from None


def _entries(node: Any, known: dict[int, int], above: set[int]) -> int:
    """Entries that a part of a document stands for when every alias (*name) is written out.

    Raises:
        ValueError: an alias inside of what it names.
    """
    if id(node) in above:
        raise ValueError("an alias (*name) lies inside of what it names")
    if id(node) not in known and isinstance(node, yaml.CollectionNode):
        inner = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_entries(part, known, above | {id(node)}) for part in inner)
    return known.get(id(node), 1)
