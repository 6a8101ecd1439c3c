"""Pictures of the screens for docs: the app runs without a terminal until nothing changes, then exports itself as SVG."""

from __future__ import annotations

import html
import re
import time

from optsweep_tui.app.app import OptsweepApp
from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.settings import Workspace

SETTLE_SECONDS = 120.0
"""How long a screen may take to show everything: a busy machine needs a while for the fits of a large study."""

_TEXT = re.compile(
    r'(?P<head><text[^>]*?) x="(?P<x>[\d.]+)" y="(?P<y>[\d.]+)" textLength="(?P<length>[\d.]+)"(?P<tail>[^>]*)>'
    r"(?P<text>[^<]+)</text>"
)
_PIECES = re.compile(r"[!-~]+(?: [!-~]+)*|[\u2800-\u28ff]+|[─┬┴└┘┐┌│┤├]+|[^\x00-\x20\x7f-\xa0]")
"""Words, braille, lines, and any other sign alone: signs from a substitute font may have another width."""
_REMOTE_FONTS = re.compile(r"@font-face\s*\{.*?\}", re.DOTALL)


async def take(workspace: Workspace, screen: str, width: int, height: int, study: str | None = None) -> str:
    """The SVG text of a screen, by its mode (sweep, runs, compare, ...); SQL shows the answer of its first example.

    Raises:
        OptsweepError: no such screen, no such study, or it was not complete in time.
    """
    if screen not in OptsweepApp.MODES:
        raise UnknownName("screen", screen, OptsweepApp.MODES)
    app = OptsweepApp(workspace)
    async with app.run_test(size=(width, height)) as pilot:
        deadline = time.monotonic() + SETTLE_SECONDS

        async def settle() -> None:
            await pilot.pause(0.1)
            while not app.settled() and time.monotonic() < deadline:
                await pilot.pause(0.05)

        await settle()
        names = [info.name for info in app.snapshot.studies]
        if study is not None:
            if study not in names:
                raise UnknownName("study", study, names)
            app.step_study(names.index(study) - (names.index(app.study) if app.study in names else 0))
        await app.switch_mode(screen)
        await settle()
        if screen == "sql" and workspace.store.exists():
            await pilot.press("r")
        shown = app.base_screen()
        for _ in range(3):  # what a worker brought may ask for more
            if shown is not None:
                shown.refresh_all()
            await settle()
        if not app.settled():
            raise OptsweepError(f"screen {screen} was not complete after {SETTLE_SECONDS:g} s", "try again later")
        return portable(app.export_screenshot(title=f"optsweep tui: {screen}"))


def portable(svg: str) -> str:
    """The same picture for any viewer.

    Without fonts from elsewhere (showing a document must not call a server), and in small pieces that each have a place
    of their own: some renderers drop blanks at the start of a text, or know nothing of `textLength`.
    """

    def pieces(match: re.Match[str]) -> str:
        text = html.unescape(match["text"]).replace("\xa0", " ")
        width = float(match["length"]) / len(text)
        found = []
        for piece in _PIECES.finditer(text):
            x, length = float(match["x"]) + piece.start() * width, len(piece[0]) * width
            content = html.escape(piece[0], quote=False).replace(" ", "&#160;")
            found.append(
                f'{match["head"]} x="{x:.6g}" y="{match["y"]}" textLength="{length:.6g}"{match["tail"]}>{content}</text>'
            )
        return "".join(found)

    plain = _REMOTE_FONTS.sub("", svg).replace("Fira Code", "DejaVu Sans Mono, Menlo, Consolas")
    return _TEXT.sub(pieces, plain)
