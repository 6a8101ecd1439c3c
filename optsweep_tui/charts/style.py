"""One look everywhere: a fixed colour-blind-safe colour and a fixed letter per optimizer, and the marks of states."""

from __future__ import annotations

import colorsys
import string
import zlib
from collections.abc import Sequence

# Paul Tol's "bright" and "muted" schemes and Okabe-Ito (https://sronpersonalpages.nl/~pault/), lightened where a colour
# is too dark on a black terminal. Neighbours in a typical chart (adamw, muon, soap, sgd) differ in lightness as well.
COLOURS = {
    "adamw": "#e69f00",
    "muon": "#56b4e9",
    "sgd": "#cc79a7",
    "soap": "#2fc08f",
    "kron": "#f0e442",
    "lion": "#ee6677",
    "mars": "#a9a1ff",
    "nadamw": "#d98c5f",
    "cautious": "#c0c060",
    "scion": "#88ccee",
    "sophia": "#d0a3d9",
    "mini": "#bbbbbb",
    "shampoo": "#44aa99",
    "signum": "#ddaa77",
    "adafactorw": "#99ddff",
    "adalayerw": "#ffaabb",
}
SPARE = ("#77aadd", "#ee8866", "#eedd88", "#ffaabb", "#99ddff", "#44bb99", "#bbcc33", "#aaaa00", "#dddddd")
"""Colours of optimizers that are not in the list, chosen by their name."""

LETTERS = {
    "adamw": "a",
    "muon": "m",
    "sgd": "g",
    "soap": "s",
    "kron": "k",
    "lion": "l",
    "mars": "r",
    "nadamw": "n",
    "cautious": "c",
    "scion": "i",
    "sophia": "p",
    "mini": "t",
    "shampoo": "h",
    "signum": "u",
    "adafactorw": "f",
    "adalayerw": "y",
}
RUN_LETTERS = string.ascii_uppercase + string.ascii_lowercase
"""Names of the curves of one chart, in the order in which they are drawn."""

ALIVE = "#4fd1c5"
"""The one accent: what is running now."""
BAD = "#ff6b6b"
"""What went wrong and needs a look."""
GREY = "#8a8f98"
"""Text that explains; never data."""
FAINT = "#5c6370"
"""Axes and rules."""

GLYPHS = {
    "planned": "○",
    "queued": "○",
    "submitting": "○",
    "running": "◐",
    "done": "●",
    "diverged": "~",
    "nan": "~",
    "failed": "✗",
    "oom": "✗",
    "cancelled": "-",
    "lost": "?",
    "orphan": "?",
    "unreachable": "?",
    "missing": " ",
}
"""One character per state, readable without colour."""


def colour_of(optimizer: str) -> str:
    """The optimizer's colour, `#rrggbb`; always the same for the same name."""
    name = base_name(optimizer)
    return COLOURS.get(name) or SPARE[zlib.crc32(name.encode()) % len(SPARE)]


def letter_of(optimizer: str) -> str:
    """The optimizer's letter in charts without colour."""
    name = base_name(optimizer)
    return LETTERS.get(name) or (name[:1] or "?")


def base_name(optimizer: str) -> str:
    """The catalogue name, or the class of a user's `file.py:Name`, in lower case; published spellings are folded."""
    name = optimizer.rpartition(":")[2].lower()
    return {"soape": "soap", "adam": "adamw"}.get(name, name)


def shade(colour: str, place: int, count: int) -> str:
    """The colour of the `place`-th of `count` curves of one optimizer: same hue, from light to dark."""
    if count <= 1:
        return colour
    red, green, blue = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    hue, light, saturation = colorsys.rgb_to_hls(red, green, blue)
    spread = 0.17 * (1 - 2 * place / (count - 1))
    channels = colorsys.hls_to_rgb(hue, min(0.9, max(0.35, light + spread)), saturation)
    return "#" + "".join(f"{round(channel * 255):02x}" for channel in channels)


def shades(optimizers: Sequence[str]) -> list[str]:
    """One colour per curve, given the optimizer of each: its own colour, shaded where it occurs more than once."""
    places: dict[str, int] = {}
    colours = []
    for optimizer in optimizers:
        place = places.get(optimizer, 0)
        places[optimizer] = place + 1
        colours.append(shade(colour_of(optimizer), place, optimizers.count(optimizer)))
    return colours
