"""Figure files: fonts embedded, text as text, the same bytes from the same data, nothing overwritten or left half written."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optsweep_tui import drawings
from optsweep_tui.charts import files, style
from optsweep_tui.charts.figure import Axis, Figure, Key, Panel, Series
from optsweep_tui.errors import OptsweepError
from tests.unit.analysis_frames import curve, frame


def example(kind: str = "speedup") -> Figure:
    rows = curve((1, 2, 4, 8))
    for name, gain in (("soap", 1.2), ("muon", 1.7), ("sgd", 0.4)):
        rows += curve((1, 2, 4, 8), optimizer=name, speedup=gain)
    return drawings.drawing(frame(rows), drawings.Choice(kind=kind))


def simple(panels: int = 1) -> Figure:
    """A figure that no counter of run ids enters."""
    x = np.array([1.0, 2.0, 4.0])
    one = Series(
        x=x, y=x**-0.5, low=x**-0.5 - 0.1, high=np.array([1.2, 0.9, np.inf]), look=style.look_of("muon"), name="muon"
    )
    two = Series(x=x, y=x**-0.4, look=style.look_of("adamw"), name="adamw", line="curve", marks="hollow")
    panel = Panel(
        title="300m", x=Axis(label="Chinchilla ratio", log=True), y=Axis(label="loss, nats/token"), series=[one, two]
    )
    keys: tuple[tuple[Key, str], ...] = (("hollow", "EXTRAP"), ("bound", "REFUSE"), ("shade", "extrapolated"))
    return Figure(
        kind="ratio", title="loss", panels=[panel] * panels, caption=["Sigma."], keys=keys, provenance="study s"
    )


def test_a_pdf_embeds_its_fonts_as_truetype() -> None:
    data = files.drawn(example(), "pdf")
    assert data.startswith(b"%PDF") and b"/FontFile2" in data
    assert b"/Subtype /Type3" not in data, "Type 3 fonts are refused by journals"
    assert b"/CreationDate" not in data


def test_text_in_an_svg_is_text() -> None:
    text = files.svg_text(example())
    for wanted in (
        "speedup over adamw, tokens",
        "Chinchilla ratio, D / (20 N)",
        "EXTRAP",
        "REFUSE",
        "muon",
        "study s",
        "prior",
    ):
        assert re.search(rf"<text[^>]*>[^<]*{re.escape(wanted)}", text), wanted
    assert text.lstrip().startswith("<?xml")


def test_the_same_data_give_the_same_bytes_whatever_the_users_settings(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("font.size: 30\naxes.facecolor: red\nsvg.fonttype: path\n")
    code = (
        "import sys, hashlib; sys.path.insert(0, '.')\n"
        "from tests.unit.test_figures_files import files, simple\n"
        "print([hashlib.sha256(files.drawn(simple(), suffix)).hexdigest() for suffix in files.SUFFIXES])"
    )
    environment = os.environ | {"MATPLOTLIBRC": str(tmp_path), "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    here = Path(__file__).parents[2]
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, timeout=300, env=environment, cwd=here, text=True
    ).stdout
    own = [hashlib.sha256(files.drawn(simple(), suffix)).hexdigest() for suffix in files.SUFFIXES]
    assert str(own) == other.strip()


def test_drawing_leaves_matplotlibs_settings_as_they_were() -> None:
    import matplotlib

    before = matplotlib.rcParams["font.size"]
    matplotlib.rcParams["font.size"] = 13.0
    try:
        files.drawn(simple(), "svg")
        assert matplotlib.rcParams["font.size"] == 13.0
        assert "matplotlib.pyplot" not in sys.modules, "no window, no global figure"
    finally:
        matplotlib.rcParams["font.size"] = before


def test_pages_are_as_wide_as_a_column_or_a_page_of_a_paper() -> None:
    from optsweep_tui.charts import paper

    with paper.settings():
        assert paper.sheet(example()).get_figwidth() == pytest.approx(3.4)
        assert paper.sheet(simple(2)).get_figwidth() == pytest.approx(7.0)


def test_nothing_lies_outside_the_page_and_legends_do_not_cover_panels() -> None:
    from optsweep_tui.charts import paper

    everyone = curve((1, 2, 4, 8))
    for name in style.LOOKS:
        if name != "adamw":
            everyone += curve((1, 2, 4, 8), optimizer=name, speedup=1.1)
    crowd = drawings.drawing(frame(everyone), drawings.Choice(kind="ratio"))
    with paper.settings():
        for figure in (example("ratio"), crowd):
            page = paper.sheet(figure)
            page.canvas.draw()
            width, height = page.bbox.width, page.bbox.height
            panels: list[Any] = [axes.get_tightbbox() for axes in page.axes]
            lowest = min(box.y0 for box in panels)
            for artist in [*page.legends, *page.artists, *page.texts]:
                box = artist.get_window_extent()
                assert box.x0 >= -1 and box.x1 <= width + 1 and box.y0 >= -1 and box.y1 <= height + 1
                assert box.y1 <= lowest + 1
            for box in panels:
                assert box.x0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1


def test_a_file_is_never_overwritten_unasked(tmp_path: Path) -> None:
    target = tmp_path / "figure.svg"
    assert files.write(simple(), target) == target
    before = target.read_bytes()
    with pytest.raises(OptsweepError, match="exists already"):
        files.write(example(), target)
    assert target.read_bytes() == before
    files.write(example(), target, overwrite=True)
    assert target.read_bytes() != before
    assert [path.name for path in tmp_path.iterdir()] == ["figure.svg"], "no half written file is left"


def test_files_that_cannot_be_written_are_refused_with_the_reason(tmp_path: Path) -> None:
    for path, expected in (
        (tmp_path / "figure.gif", "names no kind of figure"),
        (tmp_path / "figure", "no suffix"),
        (tmp_path / "nowhere" / "figure.pdf", "is no folder"),
        (Path("/proc/figure.pdf"), "cannot be written"),
    ):
        with pytest.raises(OptsweepError, match=expected):
            files.write(simple(), path)
    (tmp_path / "folder.pdf").mkdir()
    with pytest.raises(OptsweepError, match="is a folder"):
        files.write(simple(), tmp_path / "folder.pdf", overwrite=True)


def test_without_matplotlib_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "matplotlib" else found(name, *rest)
    )
    with pytest.raises(OptsweepError, match=r"pip install 'optsweep\[plots\]'"):
        files.drawn(simple(), "pdf")


def test_an_empty_figure_is_an_error_with_the_reasons() -> None:
    empty = Figure(kind="deff", title="t", panels=[], refused=["no baseline"])
    with pytest.raises(OptsweepError, match="no baseline"):
        files.svg_text(empty)


def test_hollow_points_are_white_inside() -> None:
    text = files.svg_text(simple())
    assert "fill: #ffffff" in text or "fill: white" in text
    assert style.look_of("muon").paper in text
