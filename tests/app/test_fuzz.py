"""Random keys, clicks and window sizes on every screen: nothing may crash, and nothing may be left running.

OPTSWEEP_FUZZ=10000 sends so many events to each screen; without it some dozens.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from textual.binding import Binding
from textual.pilot import OutOfBounds, Pilot

from optsweep_tui import flow, machines
from optsweep_tui.app import answers
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


HOLDER = (
    "import duckdb, sys, time; c = duckdb.connect(sys.argv[1]); print(1, flush=True); time.sleep(float(sys.argv[2]))"
)
"""Another program that has the store open for writing."""


class Harm:
    """What happens on the disk while the app runs."""

    def __init__(self, workspace: Workspace, chance: random.Random, intact: Path) -> None:
        """
        Args:
            intact: the runs as they were: removed ones come back from there.
        """
        self.workspace, self.chance, self.intact = workspace, chance, intact
        self.holders: list[subprocess.Popen[bytes]] = []

    def act(self) -> None:
        """One of the things that go wrong, or a mend."""
        self.chance.choice(
            [
                self.remove_run, self.spoil_spec, self.spoil_metrics, self.spoil_records, self.spoil_store, self.delete_store,
                self.collect, self.hold_store, self.forget_studies, self.spoil_hosts, self.spoil_queries, self.bring_back,
            ]
        )()  # fmt: skip

    def _run(self) -> Path | None:
        runs = sorted(path for path in self.workspace.runs.iterdir() if path.is_dir())
        return self.chance.choice(runs) if runs else None

    def remove_run(self) -> None:
        """Of the app's own chart, in half of the cases."""
        shutil.rmtree(self._run() or self.workspace.runs / "none", ignore_errors=True)

    def bring_back(self) -> None:
        """A run that was removed or spoilt is whole again."""
        run = self.chance.choice(sorted(self.intact.iterdir()))
        if run.is_dir():
            shutil.rmtree(self.workspace.runs / run.name, ignore_errors=True)
            shutil.copytree(run, self.workspace.runs / run.name)

    def spoil_spec(self) -> None:
        """No JSON, or a JSON of another kind."""
        run = self._run()
        if run is not None:
            (run / "spec.json").write_bytes(self.chance.choice([b"{", b"[]", b"", b"\xff\xfe"]))

    def spoil_metrics(self) -> None:
        """Bytes, lines that are none, values of another kind, steps that go back."""
        lines = [
            b"\x00garbage\n{}",
            b'{"step": 1e99}\n',
            b'{"step": 5, "train_loss": "x", "tokens": []}\n',
            b'{"step": 9, "train_loss": null}\n' * 50,
            b'{"step": 3, "tokens": -1, "train_loss": 1e400}\n',
            b"[" * 5000,
        ]
        for path in self.workspace.runs.glob("*/a1/metrics.jsonl"):
            if self.chance.random() < 0.2:
                with open(path, self.chance.choice(["wb", "ab"])) as target:
                    target.write(self.chance.choice(lines))

    def spoil_records(self) -> None:
        """Records and events."""
        for name in ("record.json", "events.jsonl", "exit.json", "intent.json"):
            for path in self.workspace.runs.glob(f"*/a1/{name}"):
                if self.chance.random() < 0.05:
                    path.write_bytes(
                        self.chance.choice([b"[]", b"{", b'{"status": 3}', b'{"kind": "spike", "step": "x"}\n'])
                    )

    def spoil_store(self) -> None:
        """Its bytes are no store any more."""
        self.release()
        self.workspace.store.write_bytes(b"garbage" * 500)

    def delete_store(self) -> None:
        """It is gone."""
        self.release()
        self.workspace.store.unlink(missing_ok=True)

    def collect(self) -> None:
        """A new store."""
        self.release()
        try:
            flow.collect(self.workspace)
        except OptsweepError:
            self.workspace.store.unlink(missing_ok=True)

    def hold_store(self) -> None:
        """Another program has it open for writing."""
        if self.workspace.store.exists() and not self.holders:
            command = [sys.executable, "-c", HOLDER, str(self.workspace.store), "20"]
            held = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            assert held.stdout is not None
            held.stdout.readline()
            self.holders.append(held)

    def release(self) -> None:
        """Nobody has the store any more."""
        for held in self.holders:
            held.kill()
            held.communicate()
        self.holders.clear()

    def forget_studies(self) -> None:
        """The files of the studies, or what is in one."""
        for path in self.workspace.studies.glob("*.json"):
            path.write_bytes(self.chance.choice([b"{", b"[]", b'{"name": 3}', b""]))
        if self.chance.random() < 0.3:
            shutil.rmtree(self.workspace.studies, ignore_errors=True)

    def spoil_hosts(self) -> None:
        """No TOML, hosts that are none, a host that does not answer."""
        texts = [
            "[host",
            "host = 3",
            "[hosts.box]\nssh = 5\n",
            "\x00",
            '[hosts.box]\nbackend = "ssh"\nssh = "nobody@127.0.0.1"\n',
            "",
        ]
        (self.workspace.root / "hosts.toml").write_text(self.chance.choice(texts))

    def spoil_queries(self) -> None:
        """Saved queries of any bytes."""
        (self.workspace.root / "queries").mkdir(exist_ok=True)
        (self.workspace.root / "queries" / "q.sql").write_bytes(self.chance.choice([b"\xff\xfe", b"select 1", b""]))


@pytest.mark.slow
@pytest.mark.timeout(max(600, EVENTS))
@pytest.mark.parametrize("mode", [*OptsweepApp.MODES] if EVENTS >= 1000 else ["everywhere"])
async def test_random_input_while_the_disk_changes_under_it_never_crashes(
    sweep_workspace: Workspace, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs removed, everything turned into garbage, the store coming, going, broken and held, while keys are pressed."""
    monkeypatch.setattr(flow, "detach", lambda workspace: 1)
    monkeypatch.setattr(machines, "keys", nobody_there)
    monkeypatch.setattr(OptsweepApp, "action_quit", stay)
    monkeypatch.setattr(answers, "STORE_SECONDS", 0.3)
    monkeypatch.chdir(tmp_path)
    copy = made.workspace(tmp_path / "copy")
    shutil.copytree(sweep_workspace.runs, copy.runs, dirs_exist_ok=True)
    shutil.copytree(sweep_workspace.studies, copy.studies, dirs_exist_ok=True)
    flow.collect(copy)
    chance = random.Random(mode)
    harm, keys = Harm(copy, chance, sweep_workspace.runs), keys_to_press()
    app = OptsweepApp(copy, "" if mode == "everywhere" else mode)
    try:
        async with app.run_test(size=(100, 30)) as pilot:
            for number in range(EVENTS):
                if number % 10 == 5:
                    harm.act()
                    app.feed.poke()
                here = chance.choice(list(OptsweepApp.MODES)) if mode == "everywhere" else mode
                await prod(pilot, app, chance, keys, here)
                assert app.is_running
    finally:
        harm.release()
    assert app._exception is None
