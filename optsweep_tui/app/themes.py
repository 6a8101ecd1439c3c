"""The themes of the app: dark, light, and one of the terminal's own 16 colours; and how the fixed colours look in each.

The views name colours as they are on a dark terminal (`charts.style`). On a light one each optimizer has its colour for
paper; with 16 colours each gets the nearest name, and the letters at the curves tell them apart.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from functools import lru_cache

from textual.theme import Theme

from optsweep_tui.charts import style

_BARS = {"scrollbar": "#30343c", "scrollbar-background": "#15181d", "scrollbar-corner-color": "#15181d"}
DARK = Theme(
    name="optsweep",
    primary=style.ALIVE,
    accent=style.ALIVE,
    foreground="#d7dae0",
    background="#101216",
    surface="#101216",
    panel="#1a1d23",
    dark=True,
    variables=_BARS,
)
LIGHT = Theme(
    name="optsweep-light",
    primary="#00736a",
    accent="#00736a",
    foreground="#202020",
    background="#fbfbf8",
    surface="#fbfbf8",
    panel="#ecece6",
    dark=False,
    variables={"scrollbar": "#c4c4bd", "scrollbar-background": "#f0f0ea", "scrollbar-corner-color": "#f0f0ea"},
)
SIXTEEN = Theme(
    name="optsweep-16",
    ansi=True,
    primary="ansi_cyan",
    secondary="ansi_blue",
    warning="ansi_yellow",
    error="ansi_red",
    success="ansi_green",
    accent="ansi_cyan",
    foreground="ansi_default",
    background="ansi_default",
    surface="ansi_default",
    panel="ansi_default",
    boost="ansi_default",
    dark=True,
    variables={
        "ansi-background": "ansi_black",
        "ansi-foreground": "ansi_white",
        "border-blurred": "ansi_bright_black",
        "block-cursor-foreground": "ansi_black",
        "block-cursor-background": "ansi_cyan",
        "block-cursor-text-style": "none",
        "input-cursor-background": "ansi_white",
        "input-cursor-foreground": "ansi_black",
        "input-selection-background": "ansi_blue",
        "input-selection-foreground": "ansi_white",
        "scrollbar": "ansi_bright_black",
        "scrollbar-background": "ansi_default",
        "scrollbar-corner-color": "ansi_default",
    },
)
THEMES = {theme.name: theme for theme in (DARK, LIGHT, SIXTEEN)}
MEANINGS = {
    "optsweep": "dark",
    "optsweep-light": "light: for bright rooms and paper-white terminals",
    "optsweep-16": "the terminal's own 16 colours, on its own background",
}

_ON_LIGHT = {
    style.ALIVE: "#00736a",
    style.BAD: "#b3261e",
    style.GREY: "#63665f",
    style.FAINT: "#8d908a",
    **{look.colour: look.paper for look in style.LOOKS.values()},
    **dict(zip(style.SPARE, style.SPARE_PAPER, strict=True)),
}
_NAMED = {style.ALIVE: "cyan", style.BAD: "red", style.GREY: "bright_black", style.FAINT: "bright_black"}
# The colours of xterm, which most terminals keep in spirit; black, white and grey are text and never name a curve.
_ANSI = {
    "red": 0.0, "yellow": 1 / 6, "green": 1 / 3, "cyan": 1 / 2, "blue": 2 / 3, "magenta": 5 / 6,
}  # fmt: skip
_LEAST_CONTRAST = 3.0
"""Of a colour on light ground (WCAG 2.1, 1.4.11)."""


def default_of(color_system: str | None) -> str:
    """The theme of a terminal, by rich's name of what it can show; without colours the dark one in shades of grey."""
    return SIXTEEN.name if color_system == "standard" else DARK.name


def translation(theme: str) -> Callable[[str], str]:
    """How the colours of the views look in a theme; one of Textual's own is dark or light."""
    if theme == SIXTEEN.name or theme.startswith("ansi-"):
        return sixteen
    if theme == LIGHT.name or theme.endswith(("-light", "-latte", "-dawn")):
        return on_light
    return lambda colour: colour


@lru_cache(maxsize=1024)
def on_light(colour: str) -> str:
    """A colour that can be read on light ground, of the same hue: darkened as far as that takes."""
    if colour in _ON_LIGHT:
        return _ON_LIGHT[colour]
    hue, light, saturation = _hls(colour)
    ground = _luminance(str(LIGHT.background))
    while light > 0:
        channels = colorsys.hls_to_rgb(hue, light, saturation)
        found = "#" + "".join(f"{round(channel * 255):02x}" for channel in channels)
        if (ground + 0.05) / (_luminance(found) + 0.05) >= _LEAST_CONTRAST:
            return found
        light -= 0.02
    return "#000000"


def _luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.1."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@lru_cache(maxsize=1024)
def sixteen(colour: str) -> str:
    """The nearest of the terminal's 16 colours by hue; light ones are the bright ones."""
    if colour in _NAMED:
        return _NAMED[colour]
    hue, light, saturation = _hls(colour)
    if saturation < 0.15:
        return "white" if light > 0.6 else "bright_black"
    name = min(_ANSI, key=lambda name: min(abs(hue - _ANSI[name]), 1 - abs(hue - _ANSI[name])))
    return f"bright_{name}" if light > 0.62 or name == "blue" else name


def _hls(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    return colorsys.rgb_to_hls(red, green, blue)
