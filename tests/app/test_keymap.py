"""The keys: none twice on a screen, every one with an id and an action, none that a multiplexer takes away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from textual.binding import Binding
from textual.dom import DOMNode

from optsweep_tui.app.app import OptsweepApp
from optsweep_tui.app.screens.base import BaseScreen
from optsweep_tui.app.screens.modal import Confirm, HelpScreen
from optsweep_tui.app.screens.pick import Pick
from optsweep_tui.app.screens.runs import FilterLine
from optsweep_tui.app.widgets.editor import Editor
from optsweep_tui.app.widgets.table import VirtualTable
from optsweep_tui.app.widgets.tree import SchemaTree

MODES: list[type[BaseScreen]] = list(OptsweepApp.MODES.values())  # type: ignore[arg-type]
TABLES: dict[str, list[type[DOMNode]]] = {"runs": [VirtualTable], "sql": [SchemaTree, VirtualTable]}
OURS: list[type[DOMNode]] = [
    OptsweepApp,
    *MODES,
    BaseScreen,
    HelpScreen,
    Confirm,
    VirtualTable,
    SchemaTree,
    FilterLine,
    Editor,
    Pick,
]
TAKEN = {f"ctrl+{letter}" for letter in "abszqhjm"}
"""Keys of tmux and screen, of flow control, and keys that terminals cannot tell from backspace, tab or enter."""


def own(kind: type[DOMNode]) -> Iterator[Binding]:
    """Bindings that a class declares itself."""
    for entry in kind.__dict__.get("BINDINGS", []):
        assert isinstance(entry, Binding)
        yield entry


def keys(kind: type[DOMNode]) -> list[str]:
    return [key for binding in own(kind) for key in binding.key.split(",")]


@pytest.mark.parametrize("mode", OptsweepApp.MODES)
def test_no_key_has_two_meanings_on_a_screen(mode: str) -> None:
    screen: type[BaseScreen] = OptsweepApp.MODES[mode]  # type: ignore[assignment]
    at_once = keys(screen) + keys(BaseScreen) + keys(OptsweepApp)
    for kind in TABLES.get(mode, ()):
        at_once += keys(kind)
    assert [key for key, count in Counter(at_once).items() if count > 1] == []


def test_every_binding_has_an_id_of_its_own_and_says_what_it_does() -> None:
    bindings = [binding for kind in OURS for binding in own(kind)]
    assert all(binding.id and binding.description for binding in bindings)
    assert [name for name, count in Counter(binding.id for binding in bindings).items() if count > 1] == []


def test_no_binding_uses_a_key_that_multiplexers_or_terminals_take() -> None:
    assert {key for kind in OURS for key in keys(kind)} & TAKEN == set()


def test_every_action_exists() -> None:
    for kind in OURS:
        for binding in own(kind):
            target, _, rest = binding.action.rpartition(".")
            name = rest.partition("(")[0]
            owners: list[type[DOMNode]] = [*MODES] if target == "screen" else [kind, OptsweepApp]
            assert any(hasattr(owner, f"action_{name}") for owner in owners), binding


def test_number_keys_open_the_screens_in_the_order_of_the_tabs() -> None:
    numbers = {binding.key: binding.action for binding in own(OptsweepApp) if binding.key.isdigit()}
    assert numbers == {str(place): f"mode('{mode}')" for place, mode in enumerate(OptsweepApp.MODES, 1)}
