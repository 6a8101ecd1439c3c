"""What a live chart costs on the line: bytes per frame in a pty while one or all of ten curves grow, within the budgets."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from benchmarks import live_curves
from benchmarks.live_curves import LIMITS, lines, plant, spec, terminal

POINTS = 1000
FRAMES = 4


@pytest.mark.parametrize(("growing", "budget"), [(1, "bytes_one_curve"), (10, "bytes_ten_curves")])
def test_a_frame_of_a_growing_chart_stays_within_its_bytes(tmp_path: Path, growing: int, budget: str) -> None:
    specs = [spec(number, 2 * POINTS) for number in range(10)]
    planted = [plant(tmp_path, of, POINTS, alive=True) for of in specs]
    rng, step, written = random.Random(0), POINTS, []
    try:
        with terminal(tmp_path) as app:
            app.read(60, until=b"lr at edge")
            app.press(b"3")
            app.quiet(2.0, 60.0)
            for _ in range(FRAMES):
                new = POINTS // 50  # half a column of the chart
                for (metrics, _), of in list(zip(planted, specs, strict=True))[:growing]:
                    with open(metrics, "ab") as handle:
                        handle.write(lines(of, step + 1, step + new, rng))
                step += new
                written.append(len(app.read(1.2)))
    finally:
        for _, claim in planted:
            if claim is not None:
                os.close(claim)
    assert min(written) > 0, "nothing was drawn"
    assert sum(written) / len(written) <= LIMITS[budget], written
    assert live_curves.WIDTH == 120
