"""Figures on paper, drawn with matplotlib: panels on a page of a two-column paper, legends and caption below them.

Fonts are embedded in a PDF and text stays text in an SVG. 3.4 inches for one panel, else 7.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Sheet
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from optsweep_tui.charts import style
from optsweep_tui.charts.figure import Figure, Panel
from optsweep_tui.charts.paper_panel import ROW_INCHES, ROWS_INCHES, SMALL_POINTS, arrow, draw

COLUMN_INCHES, PAGE_INCHES = 3.4, 7.0
"""Widths of one column and of the text of a two-column paper (ICML and NeurIPS: 3.25 to 3.4, and 6.75 to 7)."""
TALL_INCHES, LEAST_INCHES = 7.8, 1.6
"""Height that all panels together should have at most, and that one has at least."""
TEXT_POINTS = 7.0
# Set on top of matplotlib's defaults, never of the user's matplotlibrc: the same figure everywhere.
_SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": TEXT_POINTS,
    "axes.labelsize": TEXT_POINTS,
    "axes.titlesize": TEXT_POINTS,
    "xtick.labelsize": SMALL_POINTS,
    "ytick.labelsize": SMALL_POINTS,
    "legend.fontsize": SMALL_POINTS,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.edgecolor": style.INK,
    "axes.labelcolor": style.INK,
    "text.color": style.INK,
    "xtick.color": style.INK,
    "ytick.color": style.INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
    "pdf.fonttype": 42,  # TrueType outlines: text can be searched and edited
    "svg.fonttype": "none",  # text as text
    "svg.hashsalt": "optsweep",  # ids that do not change from one call to the next
}


@contextmanager
def settings() -> Iterator[None]:
    """matplotlib's defaults and ours, whatever the user's own settings are; theirs come back afterwards."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        for name, value in _SETTINGS.items():
            matplotlib.rcParams[name] = value
        yield


_LEGEND: dict[str, Any] = {
    "loc": "lower center",
    "frameon": False,
    "borderpad": 0.1,
    "columnspacing": 1.2,
    "handletextpad": 0.6,
    "handlelength": 2.0,
    "numpoints": 1,
}


def sheet(figure: Figure) -> Sheet:
    """The whole page: panels, legends and caption below them, each given the room it needs."""
    panels = [panel for panel in figure.panels if not panel.empty] or list(figure.panels)
    columns = max(1, min(figure.columns, len(panels)))
    rows = -(-len(panels) // columns)
    width = COLUMN_INCHES if columns == 1 else PAGE_INCHES
    heights = [
        max(_height(panel, width / columns, rows) for panel in panels[row * columns : (row + 1) * columns])
        for row in range(rows)
    ]
    page = Sheet(figsize=(width, sum(heights) + 1.0), layout="constrained")
    FigureCanvasAgg(page)
    grid = page.add_gridspec(rows, columns, height_ratios=heights)
    for place, panel in enumerate(panels):
        draw(page.add_subplot(grid[place // columns, place % columns]), panel, heights[place // columns])
    legends = _legends(page, figure)
    footer = _footer(figure, width)
    _arrange(page, legends, footer, sum(heights))
    return page


def _height(panel: Panel, width: float, rows: int) -> float:
    """Inches of a panel; many rows of them are flatter, so that a page of a paper holds the figure."""
    if panel.y.rows and panel.y.limits is not None:
        return ROWS_INCHES + ROW_INCHES * (panel.y.limits[1] - panel.y.limits[0])
    return min(0.72 * min(width, COLUMN_INCHES), max(LEAST_INCHES, TALL_INCHES / rows))


# ---------------------------------------------------------------- around the panels


def _footer(figure: Figure, width: float) -> tuple[str, str]:
    """(caption, provenance), wrapped to the width of the page."""
    # DejaVu Sans at 6 points is about 0.0475 inches a letter.
    letters = int(width / 0.0475)
    caption = "\n".join(textwrap.wrap(" ".join([*figure.caption, *figure.on_paper]), letters))
    refused = [f"Not drawn: {text}" for text in figure.refused]
    lines = [line for text in refused for line in textwrap.wrap(text, letters)]
    return "\n".join([caption, *lines]), "\n".join(textwrap.wrap(figure.provenance, letters))


def _legends(page: Sheet, figure: Figure) -> list[Legend]:
    """Optimizers, and below them what the marks mean."""
    found = []
    width = page.get_figwidth()
    for handles, names in (_names(figure), _keys(figure)):
        legend: Legend | None = None
        for columns in range(len(handles), 0, -1):
            rows = -(-len(handles) // columns)
            if -(-len(handles) // rows) < columns:
                continue  # the same rows with fewer columns are fuller
            order = _across(len(handles), columns)
            entries = ([handles[at] for at in order], [names[at] for at in order])
            legend = Legend(page, *entries, ncols=columns, **_LEGEND)
            if columns == 1 or _inches(page, legend)[0] <= width - 0.1:
                break
        if legend is not None:
            legend.set_in_layout(False)
            page.add_artist(legend)
            found.append(legend)
    return found


def _across(count: int, columns: int) -> list[int]:
    """The order in which entries read row by row where matplotlib fills columns: the first columns hold one more."""
    rows, longer = divmod(count, columns)
    lengths = [rows + (place < longer) for place in range(columns)]
    return [row * columns + column for column in range(columns) for row in range(lengths[column])]


def _inches(page: Sheet, artist: Any) -> tuple[float, float]:
    """Width and height of an artist that may not be part of the page yet."""
    canvas: Any = page.canvas
    box = artist.get_window_extent(canvas.get_renderer())
    return box.width / page.dpi, box.height / page.dpi


def _names(figure: Figure) -> tuple[list[Any], list[str]]:
    handles, names = [], []
    for name, look in figure.names.items():
        own = [one for panel in figure.panels for one in panel.series if one.name == name]
        marked = any(one.marks in ("solid", "hollow") for one in own) or any(one.ends for one in own)
        lined = next((one.line for one in own if one.line in ("curve", "steps")), "none")
        style_of_line: dict[str, Any] = {"linestyle": "none" if lined == "none" else "-", "linewidth": 1.1}
        shape = look.marker if marked else "none"
        handles.append(
            Line2D([], [], color=look.paper, marker=shape, markersize=4.2, markeredgewidth=0.7, **style_of_line)
        )
        lettered = all(one.letters for one in own)
        names.append(f"{look.letter} {name}" if lettered else name)
    return handles, names


def _keys(figure: Figure) -> tuple[list[Any], list[str]]:
    handles: list[Any] = []
    for key, _ in figure.keys:
        if key == "shade":
            handles.append(Patch(facecolor=style.PALE_INK, alpha=0.18, edgecolor="none"))
            continue
        marker: Any = {"bound": arrow("up", centred=True), "edge": arrow("right", centred=True), "cross": "x"}.get(
            key, "o"
        )
        look: dict[str, Any] = {"color": style.INK, "marker": marker, "linestyle": "none", "markeredgewidth": 0.8}
        size = 7.0 if key in ("bound", "edge") else 4.2
        handles.append(
            Line2D([], [], markersize=size, markerfacecolor=style.INK if key == "solid" else "white", **look)
        )
    return handles, [text for _, text in figure.keys]


def _arrange(page: Sheet, legends: list[Legend], footer: tuple[str, str], panels: float) -> None:
    """Set the height of the page to what everything needs, and put legends and text below the panels."""
    caption, provenance = footer
    margin = 0.04
    texts = []
    for text, colour in ((caption, style.INK), (provenance, style.PALE_INK)):
        if text:
            look: dict[str, Any] = {"fontsize": SMALL_POINTS, "color": colour, "linespacing": 1.25}
            artist = page.text(0.0, 0.0, text, va="bottom", ha="left", **look)
            artist.set_in_layout(False)
            texts.append((artist, _inches(page, artist)[1]))
    heights = [_inches(page, legend)[1] for legend in legends]
    below = sum(heights) + sum(height for _, height in texts) + margin * (len(heights) + len(texts) + 2)
    total = panels + below
    page.set_figheight(total)
    at = margin
    for artist, height in reversed(texts):
        artist.set_position((0.06 / page.get_figwidth(), at / total))
        at += height + margin
    for legend, height in zip(reversed(legends), reversed(heights), strict=True):
        legend.set_bbox_to_anchor((0.5, at / total), transform=page.transFigure)
        at += height + margin
    engine: Any = page.get_layout_engine()
    engine.set(rect=(0.0, at / total, 1.0, 1.0 - at / total), w_pad=0.03, h_pad=0.03)
