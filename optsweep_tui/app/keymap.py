"""The keys: every binding of the app by its id, and what is wrong with a keymap that a user wrote."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from textual.binding import Binding
from textual.dom import DOMNode
from textual.keys import Keys, _character_to_key

from optsweep_tui.errors import OptsweepError, UnknownName

_MODIFIERS = {"ctrl", "shift", "alt", "super", "hyper", "meta"}
_NAMES = {key.value for key in Keys if not key.value.startswith("<")} | {"space", "enter", "escape", "tab", "backspace"}


def own(kind: type[DOMNode]) -> Iterator[Binding]:
    """The bindings that a class declares itself."""
    for entry in kind.__dict__.get("BINDINGS", []):
        if isinstance(entry, Binding) and entry.id:
            yield entry


def table(kinds: Iterable[type[DOMNode]]) -> dict[str, Binding]:
    """Every binding by its id."""
    return {str(binding.id): binding for kind in kinds for binding in own(kind)}


def keys_of(text: str) -> list[str]:
    """Keys as Textual names them, from a comma separated list: "?" is question_mark."""
    parts = [part.strip() for part in text.split(",")]
    return [_character_to_key(part) if len(part) == 1 else part for part in parts]


def checked(
    keymap: Mapping[str, str],
    layers: Iterable[tuple[str, Iterable[type[DOMNode]]]],
    sources: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The keymap, if it can be used.

    Args:
        keymap: binding id -> keys, comma separated.
        layers: (name of a screen, the classes whose bindings are valid there at the same time).
        sources: binding id -> file, for messages.

    Raises:
        OptsweepError: an unknown id or key, or a key with two meanings on one screen.
    """
    together = [(name, list(kinds)) for name, kinds in layers]
    known = table(kind for _, kinds in together for kind in kinds)
    for name, keys in keymap.items():
        where = (sources or {}).get(name, "keymap")
        if name not in known:
            raise UnknownName(
                "binding", name, known, f"{where}: [keymap]", "(? in the app lists keys; the palette too)"
            )
        for key in keys_of(keys):
            if not _is_key(key):
                raise OptsweepError(
                    f'{where}: [keymap] {name} = "{keys}": "{key}" is no key',
                    'write a letter, "f5", "ctrl+o" or "shift+left"',
                )
    for screen, kinds in together:
        meanings: dict[str, str] = {}
        for name, binding in table(kinds).items():
            for key in keys_of(keymap.get(name, binding.key)):
                other = meanings.setdefault(key, name)
                if other != name and (name in keymap or other in keymap):
                    where = (sources or {}).get(name) or (sources or {}).get(other) or "keymap"
                    raise OptsweepError(
                        f"{where}: [keymap] {key} would be both {other} and {name} on screen {screen}",
                        f"give one of them another key: {other if other not in keymap else name} is free to move too",
                    )
    return dict(keymap)


def _is_key(key: str) -> bool:
    *modifiers, last = key.split("+") if key != "plus" else [key]
    return bool(last) and set(modifiers) <= _MODIFIERS and (_single(last) or last in _NAMES)


def _single(key: str) -> bool:
    """A character, under its own name or Textual's."""
    if len(key) == 1:
        return key.isprintable() and not key.isspace()
    return key in {_character_to_key(chr(code)) for code in range(0x21, 0x7F)}
