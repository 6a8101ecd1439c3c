"""`optsweep tui`: pictures of any size, refusals in one line, nothing drawn without a terminal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def tui(where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "optsweep_tui", "tui", *arguments, "-w", str(where)]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "the app needs a terminal"),
        (("--serve", "--host", "0.0.0.0"), "served on loopback only"),
        (("--screenshot", "compar"), 'did you mean "compare"'),
        (("--screenshot", "compare", "--size", "big"), "--size big is no size"),
        (("--screenshot", "compare", "--size", "20x5"), "from 60x15 to 500x200"),
        (("--screenshot", "sweep", "--study", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = tui(tmp_path, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().split("\n")) == 1


def test_a_screen_is_written_as_svg_by_the_program_itself(tmp_path: Path) -> None:
    out = tmp_path / "sweep.svg"
    done = tui(tmp_path, "--screenshot", "sweep", "--size", "90x30", "--out", str(out))
    assert (done.returncode, done.stdout.strip()) == (0, str(out))
    text = out.read_text()
    assert text.startswith("<svg")
    assert "quickstart" in text
