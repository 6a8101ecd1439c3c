"""A host is added and proved from screen 6: typed in one line, its key shown first, nothing trusted without a yes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from optsweep_tui import machines
from optsweep_tui.app import newhost
from optsweep_tui.dispatch.checkup import Finding
from optsweep_tui.dispatch.fingerprint import Address, HostKey
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace
from tests.app.driving import driven


def test_a_line_is_a_host_with_what_differs_from_the_usual() -> None:
    entry = newhost.typed("box me@box.example python=/opt/env/bin/python slots=2 accelerator=h100")
    assert (entry.name, entry.ssh, entry.backend) == ("box", "me@box.example", "ssh")
    assert (entry.python, entry.slots, entry.accelerator) == ("/opt/env/bin/python", 2, "h100")
    entry = newhost.typed("cluster login slurm partition=gpu partition=long")
    assert (entry.backend, entry.partitions) == ("slurm", ("gpu", "long"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a name and a target"),
        ("box", "a name and a target"),
        ("box a b", "a name and a target"),
        ("box a slot=2", 'key "slot" is not known; did you mean "slots"'),
        ("box a slots=none", "is no number of runs"),
        ("box a slots=0", "is no number of runs"),
        ("box a python=", "says nothing"),
    ],
)
def test_what_is_wrong_with_a_line_is_named(text: str, message: str) -> None:
    with pytest.raises(OptsweepError, match=message):
        newhost.typed(text)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """A host that shows a key nobody knows; what the app does with it."""
    found: dict[str, Any] = {}
    place = Address(
        target="me@box", hostname="box", port=22, lookup="box", known_hosts=(tmp_path / "known",), jump="none"
    )
    key = HostKey(kind="ssh-ed25519", key="AAAA", fingerprint="256 SHA256:abc (ED25519)")

    def findings(workspace: Workspace, name: str | None) -> Iterator[Finding]:
        yield Finding(host=str(name), check="ssh", state="bad", found="no route to host", next_step="ssh me@box")

    def accept(_place: Address, keys: list[HostKey]) -> Path:
        found["keys"] = keys
        return tmp_path / "known"

    def add(workspace: Workspace, entry: Any) -> str:
        found["entry"] = entry
        return ""

    monkeypatch.setattr(machines, "keys", lambda target: (place, False, [key]))
    monkeypatch.setattr(machines, "accept_keys", accept)
    monkeypatch.setattr(machines, "add", add)
    monkeypatch.setattr(machines, "check", findings)
    return found


@pytest.mark.parametrize("answer", ["n", "y"])
async def test_a_host_is_added_after_a_yes_to_its_key(
    empty_workspace: Workspace, told: dict[str, Any], answer: str
) -> None:
    async with driven(empty_workspace, (100, 30), "hosts") as driver:
        await driver.press("a", *"box", "space", *"me@box")
        await driver.until(lambda: "ssh host box at me@box" in driver.text)
        await driver.press("enter")
        await driver.until(lambda: "Trust box?" in driver.text and "SHA256:abc" in driver.text)
        assert told == {}
        await driver.press(answer)
        if answer == "y":
            await driver.until(lambda: driver.heard("host box added"))
            assert told["entry"].name == "box" and len(told["keys"]) == 1
        else:
            assert told == {}


async def test_what_is_wrong_with_a_host_is_shown_with_its_next_step(
    empty_workspace: Workspace, told: dict[str, Any]
) -> None:
    (empty_workspace.root / "hosts.toml").write_text('[hosts.box]\nbackend = "ssh"\nssh = "me@box.invalid"\n')
    async with driven(empty_workspace, (100, 30), "hosts") as driver:
        await driver.press("p")
        assert driver.heard("optsweep doctor")
        await driver.until(lambda: " box" in driver.text)
        await driver.press("G", "p")
        await driver.until(lambda: "no route to host" in driver.text and "ssh me@box" in driver.text)
        await driver.press("escape")
