"""The app in a browser: only on loopback, only with the token, no request to anybody else; tried in headless Chromium."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace

pytest.importorskip("textual_serve", reason="the extra 'serve' is not installed")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def address(sweep_workspace: Workspace) -> Iterator[str]:
    """Where a server of the sweep listens, token included."""
    port = free_port()
    command = [sys.executable, "-m", "optsweep_tui", "tui", "--serve", "--port", str(port)]
    process = subprocess.Popen([*command, "-w", str(sweep_workspace.root)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    match = re.search(r"http://\S+", line)
    assert match, line
    end = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.05)
    yield match[0]
    process.terminate()
    process.wait(20)


def status(url: str, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_only_who_has_the_whole_address_gets_in_and_no_page_from_elsewhere(address: str) -> None:
    plain = address.partition("?")[0]
    assert status(plain)[0] == 403
    assert "token included" in status(plain)[1]
    assert status(plain + "ws")[0] == 403
    assert status(f"{plain}?token=wrong")[0] == 403
    assert status(address, Host="attacker.example")[0] == 403
    assert status(address, Origin="https://attacker.example")[0] == 403
    code, page = status(address)
    assert code == 200
    named = set(re.findall(r"https?://(?!127\.0\.0\.1)[^\"'\s]+", page))
    assert named <= {"http://www.w3.org/2000/svg"}  # the name of a format, which nothing asks for


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org"])
def test_other_addresses_than_loopback_are_refused_with_the_reason(host: str) -> None:
    from optsweep_tui.app.serve import checked_host

    with pytest.raises(OptsweepError, match=r"without asking for a password.*ssh -L"):
        checked_host(host)


def test_loopback_is_taken_by_any_of_its_names() -> None:
    from optsweep_tui.app.serve import checked_host

    assert [checked_host(host) for host in ("localhost", "127.0.0.1", "127.0.0.9", "::1")]


class Browser:
    """Headless Chromium, driven over its debugging socket."""

    def __init__(self, program: str, where: Path) -> None:
        self.port = free_port()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,800", "--hide-scrollbars"]
        command = [program, *flags, f"--user-data-dir={where}", f"--remote-debugging-port={self.port}", "about:blank"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.requested: list[str] = []
        self._number = 0

    def target(self) -> str:
        end = time.monotonic() + 60
        while True:
            try:
                pages = json.loads(status(f"http://127.0.0.1:{self.port}/json")[1])
                return str(next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page"))
            except (OSError, StopIteration, ValueError):
                assert time.monotonic() < end, "Chromium did not start"
                time.sleep(0.2)

    async def ask(self, link: Any, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        await link.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            message = json.loads((await link.receive(timeout=60)).data)
            if message.get("method") == "Network.requestWillBeSent":
                self.requested.append(message["params"]["request"]["url"])
            if message.get("id") == self._number:
                return dict(message.get("result", {}))

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)


async def settled(browser: Browser, link: Any, other_than: bytes = b"", seconds: float = 60) -> bytes:
    """A picture of the page once it stands still and shows something: an empty terminal compresses to little."""
    end, before = time.monotonic() + seconds, b""
    while True:
        answer = await browser.ask(link, "Page.captureScreenshot", format="png")  # none while the page is loading
        picture = base64.b64decode(answer.get("data", ""))
        if len(picture) > 25_000 and picture == before != other_than:
            return picture
        assert time.monotonic() < end, f"only {len(picture)} bytes were drawn"
        before = picture
        await asyncio.sleep(1.0)


async def press(browser: Browser, link: Any, key: str) -> None:
    """A key of the keyboard."""
    code = {"type": "keyDown", "key": key, "text": key, "windowsVirtualKeyCode": ord(key.upper())}
    await browser.ask(link, "Input.dispatchKeyEvent", **code)
    await browser.ask(link, "Input.dispatchKeyEvent", **{**code, "type": "keyUp", "text": ""})


@pytest.mark.system("chromium")
async def test_chromium_shows_the_app_takes_keys_and_asks_nobody_else(address: str, tmp_path: Path) -> None:
    import aiohttp

    program = shutil.which("chromium") or shutil.which("chromium-browser") or "chromium"
    browser = Browser(program, tmp_path / "profile")
    try:
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(browser.target(), max_msg_size=0) as link:
                await browser.ask(link, "Network.enable")
                await browser.ask(link, "Page.enable")
                await browser.ask(link, "Page.navigate", url=address)
                first = await settled(browser, link)
                for kind in ("mousePressed", "mouseReleased"):  # a page gets no keys before it was clicked
                    where = {"x": 640, "y": 600, "button": "left", "clickCount": 1}
                    await browser.ask(link, "Input.dispatchMouseEvent", type=kind, **where)
                await press(browser, link, "3")
                second = await settled(browser, link, other_than=first)
                await press(browser, link, "q")
                end = time.monotonic() + 60
                while True:  # the page says so when the app has ended
                    found = await browser.ask(link, "Runtime.evaluate", expression="document.body.className")
                    if "-closed" in str(found):
                        break
                    assert time.monotonic() < end, found
                    await asyncio.sleep(0.3)
        place = os.environ.get("OPTSWEEP_PICTURES")
        if place:
            Path(place, "browser-1.png").write_bytes(first)
            Path(place, "browser-3.png").write_bytes(second)
    finally:
        browser.close()
    here = address.partition("?")[0]
    assert [
        url for url in browser.requested if not url.startswith((here, here.replace("http", "ws", 1), "data:"))
    ] == []
