"""`--diagnostics` as typed: what is kept for the engines, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from optsweep_engines import diagnostics, folder
from optsweep_tui import diagnosing, settings
from optsweep_tui.errors import OptsweepError


def test_parts_and_a_users_own_are_kept_and_found_again(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("def largest(xp, table, params, grads, updates):\n    return {'largest': 3}\n")
    assert diagnosing.parsed(None) is None
    assert diagnosing.parsed("layers") == {"parts": ["full", "layers"], "own": []}
    asked = diagnosing.parsed(f"full,{mine}:largest")
    assert asked is not None
    (tmp_path / "runs" / "ab").mkdir(parents=True)
    place = settings.workspace(tmp_path)
    diagnosing.keep(place, ["ab"], asked)
    kept = json.loads((tmp_path / "runs" / "ab" / folder.DIAGNOSTICS).read_text())

    class Log:
        diagnostics = kept

    wanted = diagnostics.wanted(Log())
    assert wanted is not None and not wanted.layers
    assert wanted.own["mine.py:largest"](None, (), {}, {}, {}) == {"largest": 3}
    assert diagnostics.wanted(object()) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("most", 'part "most" is not known'),
        ("full,./nowhere.py:f", "does not exist"),
        ("full,{mine}:other", "has no function other"),
        ("full,{mine}", "names no function"),
        ("full,{bad}:f", "bad.py"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def f(): ...\n")
    (tmp_path / "bad.py").write_text("def f(:\n")
    with pytest.raises(OptsweepError) as caught:
        diagnosing.parsed(text.format(mine=tmp_path / "mine.py", bad=tmp_path / "bad.py"))
    assert words in str(caught.value) and "\n" not in str(caught.value)
