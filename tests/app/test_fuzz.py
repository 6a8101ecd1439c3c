"""Random keys, clicks and window sizes on every screen: nothing may crash, and nothing may be left running.

OPTSWEEP_FUZZ=10000 sends so many events to each screen; without it some dozens.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from textual.binding import Binding
from textual.pilot import OutOfBounds, Pilot

from optsweep_tui import flow, machines
from optsweep_tui.app.app import OptsweepApp
from optsweep_tui.app.keymap import keys_of
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace
from tests.app import made

EVENTS = int(os.environ.get("OPTSWEEP_FUZZ", "60"))
"""Per screen."""
TYPED = [
    "a",
    "x",
    "space",
    "quotation_mark",
    "colon",
    "less_than_sign",
    "comma",
    "equals_sign",
    "minus",
    "0",
    "7",
    "full_stop",
]


def keys_to_press() -> list[str]:
    """Every key that is bound anywhere but those that leave the app, some letters, and what moves the focus."""
    found = set(TYPED) | {"tab", "shift+tab", "backspace", "delete", "home", "end", "ctrl+w", "f1"}
    for _, kinds in OptsweepApp.key_layers():
        for kind in kinds:
            for entry in kind.__dict__.get("BINDINGS", []):
                if isinstance(entry, Binding) and entry.id not in ("app.quit", "app.interrupt"):
                    found |= set(keys_of(entry.key))
    return sorted(found | {"y", "n", "enter", "escape"})


async def stay(app: OptsweepApp) -> None:
    """In the place of quitting, which the palette offers too."""


async def prod(pilot: Pilot[None], app: OptsweepApp, chance: random.Random, keys: list[str], mode: str) -> None:
    """One random event; now and then back to the screen that is tried."""
    kind = chance.random()
    if kind < 0.9:
        await pilot.press(chance.choice(keys))
    elif kind < 0.93:
        await pilot.resize_terminal(chance.randint(5, 140), chance.randint(3, 45))
    elif kind < 0.98:
        width, height = app.size
        where = (chance.randrange(width), chance.randrange(height))
        try:
            act = chance.choice((pilot.click, pilot.hover, pilot.double_click))
            await act(offset=where)
        except OutOfBounds:
            pass  # the window has just shrunk
    elif app.current_mode != mode and len(app.screen_stack) == 1:
        await app.switch_mode(mode)
    else:
        await pilot.press("escape")


def nobody_there(target: str) -> Any:
    """In place of asking a machine for its key."""
    raise OptsweepError(f"{target} does not answer", "name another")


@pytest.mark.slow
@pytest.mark.timeout(max(600, EVENTS))
@pytest.mark.parametrize("mode", OptsweepApp.MODES)
async def test_random_input_never_crashes(
    sweep_workspace: Workspace, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("retry", "cancel", "launch"):
        monkeypatch.setattr(flow, name, lambda workspace, *rest, **options: [])
    monkeypatch.setattr(flow, "detach", lambda workspace: 1)
    monkeypatch.setattr(machines, "drain", lambda workspace, name, on=True: "")
    monkeypatch.setattr(machines, "keys", nobody_there)  # random letters are somebody's machine, now and then
    monkeypatch.setattr(OptsweepApp, "action_quit", stay)
    monkeypatch.chdir(tmp_path)  # exports and grids with names of random letters
    chance = random.Random(mode)
    keys = keys_to_press()
    app = OptsweepApp(sweep_workspace, mode)
    async with app.run_test(size=chance.choice([(80, 24), (120, 40), (62, 16)])) as pilot:
        for _ in range(EVENTS):
            await prod(pilot, app, chance, keys, mode)
            assert app.is_running
    assert app._exception is None
    assert not app.feed.is_alive()
    assert not app.poller.is_alive()


@pytest.mark.slow
@pytest.mark.timeout(max(600, EVENTS))
@pytest.mark.parametrize("seed", range(1 if EVENTS < 1000 else 5))
async def test_random_input_while_the_disk_changes_under_it_never_crashes(
    sweep_workspace: Workspace, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs removed, records turned into garbage, the store coming, going and broken, while keys are pressed."""
    monkeypatch.setattr(flow, "detach", lambda workspace: 1)
    monkeypatch.setattr(OptsweepApp, "action_quit", stay)
    monkeypatch.chdir(tmp_path)
    copy = made.workspace(tmp_path / "copy")
    shutil.copytree(sweep_workspace.runs, copy.runs, dirs_exist_ok=True)
    shutil.copytree(sweep_workspace.studies, copy.studies, dirs_exist_ok=True)
    chance = random.Random(seed)

    def harm() -> None:
        runs = [path for path in copy.runs.iterdir() if path.is_dir()]
        acts: list[Any] = [
            lambda: runs and shutil.rmtree(chance.choice(runs), ignore_errors=True),
            lambda: runs and (chance.choice(runs) / "spec.json").write_bytes(b"{"),
            lambda: [
                path.write_bytes(b"\x00garbage\n{}")
                for path in copy.runs.glob("*/a1/metrics.jsonl")
                if chance.random() < 0.2
            ],
            lambda: [path.write_bytes(b"[]") for path in copy.runs.glob("*/a1/record.json") if chance.random() < 0.1],
            lambda: copy.store.write_bytes(b"garbage" * 500),
            lambda: copy.store.unlink(missing_ok=True),
            lambda: flow.collect(copy) if not copy.store.exists() else None,
            lambda: shutil.rmtree(copy.studies, ignore_errors=True),
        ]
        chance.choice(acts)()

    keys = keys_to_press()
    app = OptsweepApp(copy)
    async with app.run_test(size=(100, 30)) as pilot:
        for number in range(EVENTS):
            if number % 10 == 5:
                harm()
                app.feed.poke()
            await prod(pilot, app, chance, keys, chance.choice(list(OptsweepApp.MODES)))
            assert app.is_running
    assert app._exception is None
