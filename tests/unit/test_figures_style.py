"""Colours, markers and letters: fixed per optimizer, told apart by every kind of colour vision, on paper and on black."""

from __future__ import annotations

import colorsys
import itertools

import numpy as np
import numpy.typing as npt
import pytest

from optsweep_engines.optimizers import catalogue
from optsweep_tui.charts import style

Floats = npt.NDArray[np.float64]

# Severity 1.0 of Machado, Oliveira & Fernandes 2009, "A physiologically-based model for simulation of color vision
# deficiency", https://doi.org/10.1109/TVCG.2009.113; they act on linear RGB.
VISIONS: dict[str, Floats] = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
# sRGB to XYZ and CIE L*a*b* with D65: IEC 61966-2-1, CIE 15.
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.119192, 0.9503041]]
)
# CIE76 distances: 2.3 is just noticeable (Mahy 1994); 10 is seen at a glance.
SEEN_AT_A_GLANCE = 10.0
# WCAG 2.1, 1.4.11: graphics need 3:1.
LEAST_CONTRAST = 3.0

REFERENCE = (
    *(
        "adamw",
        "nadamw",
        "cautious",
        "mars",
        "adam_mini",
        "lion",
        "muon",
        "scion_fantastic",
        "soap",
        "kron",
        "sophia_h",
    ),
)
OLMO = (
    "adamw",
    "adafactorw",
    "adalayer",
    "adafactorw_last",
    "adalayer_last",
    "adalayer_frozen",
    "lion",
    "signum",
    "sgd",
)
SPEEDRUN = ("adam", "muon", "soap", "shampoo")
QUICKSTART = ("adamw", "muon", "sgd")


def linear(colour: str) -> Floats:
    channels = np.array([int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def lab(rgb: Floats) -> Floats:
    part = TO_XYZ @ rgb / (TO_XYZ @ np.ones(3))
    f = np.where(part > 216 / 24389, np.cbrt(part), (24389 / 27 * part + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distance(first: str, second: str, vision: str) -> float:
    seen = [lab(np.clip(VISIONS[vision] @ linear(colour), 0.0, 1.0)) for colour in (first, second)]
    return float(np.linalg.norm(seen[0] - seen[1]))


def contrast(colour: str, background: float) -> float:
    light = float(TO_XYZ[1] @ linear(colour))
    return (max(light, background) + 0.05) / (min(light, background) + 0.05)


def hue(colour: str) -> tuple[float, float]:
    """(hue, saturation)"""
    red, green, blue = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    found = colorsys.rgb_to_hls(red, green, blue)
    return found[0], found[2]


def test_the_simulation_keeps_grey_and_turns_red_and_green_alike_for_deuteranopes() -> None:
    for vision in VISIONS:
        assert distance("#808080", "#808080", vision) == 0
        grey = VISIONS[vision] @ linear("#808080")
        assert np.allclose(grey, linear("#808080"), atol=1e-5)
    assert distance("#c00000", "#606000", "deuteranopia") < 0.4 * distance("#c00000", "#606000", "normal")


def test_every_optimizer_of_the_catalogue_has_a_look() -> None:
    assert set(style.LOOKS) == set(catalogue.optimizers())
    assert all(len(look.letter) == 1 and look.letter.isalpha() for look in style.LOOKS.values())
    assert all(look.marker in style.MARKERS for look in style.LOOKS.values())


@pytest.mark.parametrize("vision", VISIONS)
def test_no_two_optimizers_share_colour_and_marker_on_paper(vision: str) -> None:
    for first, second in itertools.combinations(style.LOOKS, 2):
        one, other = style.LOOKS[first], style.LOOKS[second]
        if one.marker == other.marker:
            assert distance(one.paper, other.paper, vision) >= SEEN_AT_A_GLANCE, (first, second)


@pytest.mark.parametrize(
    "study", [REFERENCE, OLMO, SPEEDRUN, QUICKSTART], ids=["reference", "olmo", "speedrun", "quickstart"]
)
@pytest.mark.parametrize("vision", VISIONS)
def test_optimizers_that_a_study_compares_differ_in_marker_and_in_colour(study: tuple[str, ...], vision: str) -> None:
    found = [style.LOOKS[name] for name in study]
    assert len({look.marker for look in found}) == len(study)
    for one, other in itertools.combinations(found, 2):
        assert distance(one.paper, other.paper, vision) >= SEEN_AT_A_GLANCE
    if study is not OLMO:  # nine hues that are light enough for black come closer; their letters differ
        for one, other in itertools.combinations(found, 2):
            assert distance(one.colour, other.colour, vision) >= SEEN_AT_A_GLANCE


def test_colours_stand_out_from_their_background() -> None:
    for name, look in style.LOOKS.items():
        assert contrast(look.paper, 1.0) >= LEAST_CONTRAST, name
        assert contrast(look.colour, 0.0) >= LEAST_CONTRAST, name
    for colour in style.SPARE_PAPER:
        assert contrast(colour, 1.0) >= LEAST_CONTRAST
    assert len(style.SPARE) == len(style.SPARE_PAPER)


def test_a_colour_on_paper_is_the_terminals_hue_made_darker() -> None:
    for name, look in style.LOOKS.items():
        (one, much), (other, _) = hue(look.colour), hue(look.paper)
        assert float(TO_XYZ[1] @ linear(look.paper)) < float(TO_XYZ[1] @ linear(look.colour)), name
        if much > 0.1:  # grey has no hue
            turn = abs((one - other + 0.5) % 1.0 - 0.5)
            assert turn < 0.04, name


def test_an_optimizer_looks_the_same_in_every_figure() -> None:
    alone, together = style.looks(["muon"]), style.looks([*REFERENCE, "mine.py:Fancy"])
    assert alone["muon"] == together["muon"] == style.look_of("muon")


def test_optimizers_of_ones_own_give_way_to_the_catalogues() -> None:
    own = [f"mine.py:Own{number}" for number in range(12)]
    found = style.looks([*own, *style.LOOKS])
    assert len({(look.paper, look.marker) for look in found.values()}) == len(found)
    assert len({look.letter for look in found.values()}) == len(found)
    assert all(found[name] == style.LOOKS[name] for name in style.LOOKS)
    assert style.looks(own) == style.looks(reversed(own))
