"""One look everywhere: fixed colour-blind-safe colours, marker and letter per optimizer, and the marks of states."""

from __future__ import annotations

import colorsys
import string
import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Look(NamedTuple):
    """How one optimizer looks in every figure: no two of the catalogue share colour and marker, none share the letter."""

    colour: str
    """On a dark terminal, `#rrggbb`."""
    paper: str
    """The same hue for white paper, at least 3:1 against it (WCAG 2.1, 1.4.11)."""
    marker: str
    """matplotlib's name of a shape that can be filled or hollow."""
    letter: str
    """On a terminal, with and without colour."""


# Hues after Okabe & Ito and Paul Tol (https://sronpersonalpages.nl/~pault/). Lightness was then chosen so that optimizers
# that studies compare, and those that share a marker, stay apart for protanopes, deuteranopes and tritanopes as well:
# tests/unit/test_figures_style.py simulates them.
LOOKS = {
    "adamw": Look("#e69f00", "#926500", "o", "a"),
    "adam": Look("#a18eff", "#8f81d6", "d", "A"),
    "nadamw": Look("#ffc36a", "#c67f16", "p", "n"),
    "adamc": Look("#909108", "#646427", "s", "C"),
    "cautious": Look("#b5903a", "#634603", "<", "c"),
    "mars": Look("#858cc4", "#3e4893", "P", "r"),
    "adam_mini": Look("#cfcacb", "#787070", "X", "t"),
    "ademamix": Look("#ff8b8b", "#a20000", "X", "e"),
    "adopt": Look("#b97d97", "#843256", "p", "o"),
    "lamb": Look("#f1d0b0", "#9c7754", "*", "b"),
    "prodigy": Look("#98ff13", "#37580c", ">", "q"),
    "sf_adamw": Look("#ede4f1", "#9025be", "<", "x"),
    "adafactor": Look("#c36fe0", "#c928ff", "o", "F"),
    "adafactorw": Look("#a6bffd", "#5980e3", "X", "f"),
    "adafactorw_last": Look("#e392d7", "#ce16b4", "D", "L"),
    "adalayer": Look("#f0bed1", "#e8578d", "P", "y"),
    "adalayer_last": Look("#cb9ea8", "#a45567", ">", "Y"),
    "adalayer_frozen": Look("#ab69ff", "#6600e5", "<", "z"),
    "lion": Look("#ee6677", "#b63041", "v", "l"),
    "signum": Look("#fc5140", "#ff4c3a", "^", "u"),
    "sgd": Look("#cc79a7", "#a9276f", "d", "g"),
    "muon": Look("#56b4e9", "#417795", "s", "m"),
    "d_muon": Look("#82d9ff", "#008fcd", "*", "d"),
    "normuon": Look("#7897b9", "#39506a", "^", "v"),
    "adamuon": Look("#e3cde4", "#9d16a2", "v", "w"),
    "muon_h": Look("#cc7afb", "#9827d9", "P", "j"),
    "scion": Look("#47f172", "#296638", "d", "I"),
    "scion_fantastic": Look("#c2dbfa", "#4a91ec", ">", "i"),
    "soap": Look("#2fc08f", "#00a76e", "D", "s"),
    "shampoo": Look("#77eef9", "#105258", "X", "h"),
    "kron": Look("#f0e442", "#4f4d26", "^", "k"),
    "sophia_g": Look("#ff5bd3", "#f512b8", "p", "G"),
    "sophia_h": Look("#b872fe", "#892ee4", "*", "p"),
}
"""Every optimizer of the catalogue."""

COLOURS = {name: entry.colour for name, entry in LOOKS.items()}
LETTERS = {name: entry.letter for name, entry in LOOKS.items()}

SPARE = ("#77aadd", "#ee8866", "#eedd88", "#ffaabb", "#99ddff", "#44bb99", "#bbcc33", "#aaaa00", "#dddddd")
"""Terminal colours of optimizers that are not in the list, chosen by their name."""
SPARE_PAPER = ("#2f6fb0", "#c2500f", "#8a7410", "#d1345b", "#0b84b8", "#1f7f66", "#6d7a00", "#6b6b00", "#707070")
"""Their counterparts on paper, in the same order."""
MARKERS = "osD^v<>PXp*d"
"""Shapes that can be told apart at the size of a figure in print, filled or hollow."""
INK = "#202020"
"""Text and axes on paper."""
PALE_INK = "#8a8a8a"
"""Reference lines, shades and provenance on paper."""
NEUTRAL = Look(colour="#8a8f98", paper="#8a8a8a", marker="o", letter="·")
"""Of what belongs to no optimizer."""

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
    return look_of(optimizer).colour


def letter_of(optimizer: str) -> str:
    """The optimizer's letter in charts without colour."""
    return look_of(optimizer).letter


def look_of(optimizer: str) -> Look:
    """Colours, marker and letter of an optimizer; always the same for the same name."""
    name = base_name(optimizer)
    known = LOOKS.get(name)
    if known is not None:
        return known
    number = zlib.crc32(name.encode())
    place = number % len(SPARE)
    marker = MARKERS[number // len(SPARE) % len(MARKERS)]
    return Look(SPARE[place], SPARE_PAPER[place], marker, name[:1] or "?")


def looks(optimizers: Iterable[str]) -> dict[str, Look]:
    """The look of each optimizer of one figure.

    One that is not in the catalogue gives way where it would look like another: it takes the next free marker, and a
    letter or digit that nobody has.
    """
    names = sorted(set(optimizers), key=lambda name: (base_name(name) not in LOOKS, name))
    found: dict[str, Look] = {}
    for name in names:
        own = look_of(name)
        shapes, letters = {(other.paper, other.marker) for other in found.values()}, {e.letter for e in found.values()}
        if base_name(name) not in LOOKS or own.letter in letters:
            first = MARKERS.index(own.marker)
            markers = MARKERS[first:] + MARKERS[:first]
            unseen = (each for each in markers if each not in {shape for _, shape in shapes})
            marker = next(unseen, next((each for each in markers if (own.paper, each) not in shapes), own.marker))
            choices = [own.letter, *base_name(name), *string.digits, *string.ascii_uppercase]
            letter = next((each for each in choices if each.isalnum() and each not in letters), own.letter)
            own = own._replace(marker=marker, letter=letter)
        found[name] = own
    return found


def base_name(optimizer: str) -> str:
    """The catalogue name, or the class of a user's `file.py:Name`, in lower case; published spellings are folded."""
    name = optimizer.rpartition(":")[2].lower()
    return {"soape": "soap", "sophia": "sophia_h", "mini": "adam_mini", "adalayerw": "adalayer"}.get(name, name)


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
