"""The palette (ctrl+p): every action of the screen and of the app by its description, with its key; themes and studies too."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, cast

from textual.command import CommandPalette, DiscoveryHit, Hit, Hits, Provider
from textual.screen import Screen

if TYPE_CHECKING:
    from optsweep_tui.app.app import OptsweepApp


class Entry(NamedTuple):
    """One line of the palette."""

    text: str
    keys: str
    run: Callable[[], Awaitable[object] | object]


_MOVES = (
    "up",
    "down",
    "left",
    "right",
    "page up",
    "page down",
    "first row",
    "last row",
    "column to the left",
    "column to the right",
)
"""What a palette is no good for comes last."""


def entries(app: OptsweepApp, screen: Screen[object]) -> Iterator[Entry]:
    """What can be done now: the actions of the keys that are valid, then what has no key of its own."""
    found: dict[tuple[str, str], tuple[str, list[str], Callable[[], Awaitable[object]]]] = {}
    for active in screen.active_bindings.values():
        binding = active.binding
        if (
            not binding.id
            or not binding.description
            or not active.enabled
            or binding.id in ("app.palette", "app.interrupt")
        ):
            continue
        act: Callable[[], Awaitable[object]] = partial(app.run_action, binding.action, active.node)
        _, keys, _ = found.setdefault((binding.id, binding.action), (binding.description, [], act))
        shown = app.get_key_display(binding)
        if shown not in keys:
            keys.append(shown)
    for text, keys, act in sorted(found.values(), key=lambda entry: entry[0] in _MOVES):
        yield Entry(text[0].upper() + text[1:], " ".join(keys), act)
    yield from app.extra_commands()


class Palette(CommandPalette):
    """The palette, which takes keys before its list has a place: in a window of a few columns it never has one."""

    def _action_command_list(self, action: str) -> None:
        """Move in the list."""
        with contextlib.suppress(LookupError):  # Textual 8.2 looks for a line among none
            super()._action_command_list(action)


class Actions(Provider):
    """Every action of the screen below the palette."""

    def _all(self) -> list[Entry]:
        return list(entries(cast("OptsweepApp", self.app), self.screen))

    async def discover(self) -> Hits:
        """Everything, in the order of the keys."""
        for entry in self._all():
            yield DiscoveryHit(_shown(entry), entry.run, text=entry.text)

    async def search(self, query: str) -> Hits:
        """What fits the words."""
        matcher = self.matcher(query)
        for entry in self._all():
            score = matcher.match(entry.text)
            if score > 0:
                yield Hit(score, matcher.highlight(_shown(entry)), entry.run, text=entry.text)


def _shown(entry: Entry) -> str:
    return f"{entry.text}   {entry.keys}" if entry.keys else entry.text
