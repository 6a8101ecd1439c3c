"""The keys: none twice on a screen, every one with an id and an action, none that a multiplexer takes away."""

from __future__ import annotations

from collections import Counter

import pytest
from textual.dom import DOMNode

from optsweep_tui.app.app import OptsweepApp
from optsweep_tui.app.keymap import keys_of, own
from optsweep_tui.app.screens.base import BaseScreen
from optsweep_tui.app.screens.columns import ColumnsScreen
from optsweep_tui.app.screens.modal import Confirm, HelpScreen
from optsweep_tui.app.screens.pick import Pick
from optsweep_tui.app.screens.preview import PreviewScreen
from optsweep_tui.app.screens.prompt import Prompt
from optsweep_tui.app.screens.sql import Editor
from optsweep_tui.app.widgets.filterline import FilterLine
from optsweep_tui.app.widgets.table import VirtualTable

LAYERS = dict(OptsweepApp.key_layers())
MODALS: list[type[DOMNode]] = [HelpScreen, Confirm, Pick, Prompt, ColumnsScreen, PreviewScreen]
OURS: list[type[DOMNode]] = list(
    dict.fromkeys([*(kind for kinds in LAYERS.values() for kind in kinds), *MODALS, VirtualTable, FilterLine, Editor])
)
TAKEN = {f"ctrl+{letter}" for letter in "abszqhjm"}
"""Keys of tmux and screen, of flow control, and keys that terminals cannot tell from backspace, tab or enter."""


def keys(kind: type[DOMNode]) -> list[str]:
    return [key for binding in own(kind) for key in keys_of(binding.key)]


@pytest.mark.parametrize("layer", [*LAYERS, "preview"])
def test_no_key_has_two_meanings_on_a_screen(layer: str) -> None:
    kinds = LAYERS.get(layer, [PreviewScreen, VirtualTable])
    at_once = [key for kind in kinds for key in keys(kind)]
    assert [key for key, count in Counter(at_once).items() if count > 1] == []


def test_every_screen_of_the_app_is_looked_at() -> None:
    assert set(OptsweepApp.MODES) <= set(LAYERS)
    assert all(BaseScreen in LAYERS[mode] and OptsweepApp in LAYERS[mode] for mode in OptsweepApp.MODES)


def test_every_binding_has_an_id_of_its_own_and_says_what_it_does() -> None:
    bindings = [binding for kind in OURS for binding in kind.__dict__.get("BINDINGS", [])]
    assert all(binding.id and binding.description for binding in bindings)
    assert [name for name, count in Counter(binding.id for binding in bindings).items() if count > 1] == []


def test_no_binding_uses_a_key_that_multiplexers_or_terminals_take() -> None:
    assert {key for kind in OURS for key in keys(kind)} & TAKEN == set()


def test_every_action_exists() -> None:
    screens: list[type[DOMNode]] = [kinds[0] for kinds in LAYERS.values()]
    for kind in OURS:
        for binding in own(kind):
            target, _, rest = binding.action.rpartition(".")
            name = rest.partition("(")[0]
            owners = screens if target == "screen" else [kind, OptsweepApp]
            assert any(hasattr(owner, f"action_{name}") for owner in owners), binding


def test_number_keys_open_the_screens_in_the_order_of_the_tabs() -> None:
    numbers = {binding.key: binding.action for binding in own(OptsweepApp) if binding.key.isdigit()}
    assert numbers == {str(place): f"mode('{mode}')" for place, mode in enumerate(OptsweepApp.MODES, 1)}
