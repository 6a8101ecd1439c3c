"""Pictures for docs: valid SVG that shows the screen's text in place, needs nothing from elsewhere, and names its errors."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from optsweep_tui import app
from optsweep_tui.app.app import OptsweepApp
from optsweep_tui.app.picture import portable
from optsweep_tui.errors import UnknownName
from optsweep_tui.settings import Workspace

NAMESPACE = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[ElementTree.Element]:
    return [element for element in ElementTree.fromstring(svg).iter(f"{NAMESPACE}text") if element.text]


def content(svg: str) -> str:
    return " ".join((element.text or "").replace("\u00a0", " ") for element in texts(svg))


@pytest.mark.parametrize("screen", OptsweepApp.MODES)
def test_every_screen_has_a_picture_with_its_own_content(sweep_workspace: Workspace, screen: str) -> None:
    svg = app.screenshot(sweep_workspace, screen, width=120, height=40)
    shown = content(svg)
    expected = {
        "sweep": "bench-micro",
        "runs": "36 runs, study quickstart",
        "compare": "speedup over adamw, tokens",
        "run": "batch_size",
        "sql": "SELECT",
        "hosts": "local",
    }
    assert expected[screen] in shown
    assert "1 Sweep" in shown
    assert "2 run" in shown
    assert not re.search(r"@font-face|href|url\([^#]|@import", svg)


def test_the_picture_of_the_curves_holds_them_in_the_optimizers_colours(sweep_workspace: Workspace) -> None:
    svg = app.screenshot(sweep_workspace, "compare", width=120, height=40)
    assert sum(0x2800 < ord(sign) <= 0x28FF for sign in content(svg)) > 200
    for colour in ("#e69f00", "#cc79a7"):
        assert colour in svg.lower()


def test_the_picture_is_as_large_as_asked_and_no_text_leaves_it(sweep_workspace: Workspace) -> None:
    for width, height in ((80, 24), (120, 40)):
        root = ElementTree.fromstring(app.screenshot(sweep_workspace, "sweep", width=width, height=height))
        _, _, wide, high = (float(number) for number in root.attrib["viewBox"].split())
        assert wide == pytest.approx(width * 12.2 + 18, abs=4)
        assert high > height * 24
        lines = {
            float(element.attrib["y"]) for element in root.iter(f"{NAMESPACE}text") if "textLength" in element.attrib
        }
        assert len(lines) <= height
        for element in root.iter(f"{NAMESPACE}text"):
            if "textLength" in element.attrib:
                assert float(element.attrib["x"]) + float(element.attrib["textLength"]) <= width * 12.2 + 1


def test_pieces_of_a_text_keep_their_columns() -> None:
    source = (
        '<text class="a" x="24.4" y="20" textLength="122" clip-path="url(#c)">&#160;&#160;ab&#160;&lt;c&#160;●d</text>'
    )
    found = [
        (match["x"], match["length"], match["text"])
        for match in re.finditer(
            r'x="(?P<x>[\d.]+)" y="20" textLength="(?P<length>[\d.]+)"[^>]*>(?P<text>[^<]*)<', portable(source)
        )
    ]
    width = 122 / 10
    assert found == [
        (f"{24.4 + 2 * width:.6g}", f"{5 * width:.6g}", "ab&#160;&lt;c"),
        (f"{24.4 + 8 * width:.6g}", f"{width:.6g}", "●"),
        (f"{24.4 + 9 * width:.6g}", f"{width:.6g}", "d"),
    ]


def test_an_unknown_screen_is_named_with_the_known_ones(sweep_workspace: Workspace) -> None:
    with pytest.raises(UnknownName, match='did you mean "compare"'):
        app.screenshot(sweep_workspace, "compar")
