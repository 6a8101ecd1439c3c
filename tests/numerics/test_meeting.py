"""Where the processes of a run meet: nothing of it stays, though they are killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from optsweep_engines.torch_engine.meeting import NEW_SECONDS, PREFIX, meeting

HOLD = """
import time
from optsweep_engines.torch_engine.meeting import meeting
with meeting() as place:
    (place / "store").write_bytes(b"words")
    print(place, flush=True)
    time.sleep(60)
"""


def test_what_a_killed_run_has_left_goes_with_the_next_one_and_what_is_held_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    try:
        assert holder.stdout is not None
        left = Path(holder.stdout.readline().strip())
        assert left.parent == tmp_path and left.name.startswith(PREFIX)
        long_ago = time.time() - 2 * NEW_SECONDS
        os.utime(left, (long_ago, long_ago))
        with meeting() as place:
            assert place.is_dir() and (left / "store").exists(), "its process lives"
        assert not place.exists()
    finally:
        holder.kill()
        holder.wait()
    fresh = tmp_path / f"{PREFIX}fresh"
    fresh.mkdir()
    with meeting():
        assert not left.exists() and fresh.exists()
