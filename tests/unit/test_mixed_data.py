"""Losses on different tokens are never compared, also where the dataset has one name: the answer says why."""

from __future__ import annotations

from typing import Any

import pandas as pd

from optsweep_tui.analysis import fit, speedup, table
from tests.unit.analysis_frames import curve, frame

RATIOS = (1, 2, 4, 8)
BYTES, WORDS = "a" * 64, "b" * 64


def mixed(hash_of_muon: str) -> pd.DataFrame:
    """adamw on bytes; muon, with losses that would make it 1.2 times as fast, on what is given."""
    rows: list[dict[str, Any]] = [dict(row) | {"dataset": "mine", "dataset_hash": BYTES} for row in curve(RATIOS)]
    rows += [
        dict(row) | {"dataset": "mine", "dataset_hash": hash_of_muon}
        for row in curve(RATIOS, optimizer="muon", speedup=1.2)
    ]
    return frame(rows)


def test_a_speedup_over_another_tokenizer_is_refused_and_names_both_hashes() -> None:
    found = speedup(mixed(WORDS))
    assert set(found.state) == {"REFUSE"} and found.speedup.isna().all() and found.low.isna().all()
    assert found.reason.str.contains("aaaaaaaaaaaa, here bbbbbbbbbbbb", regex=False).all()
    assert found.reason.str.contains("do not compare").all()
    same = speedup(mixed(BYTES))
    assert "REFUSE" not in set(same.state) and same.speedup.notna().all()


def test_a_table_ranks_and_measures_gaps_within_a_hash_only() -> None:
    found = table(mixed(WORDS))
    muon = found[found.optimizer == "muon"]
    assert set(muon.dataset_hash) == {WORDS} and muon.gap.isna().all() and set(muon["rank"]) == {1}
    assert set(found[found.optimizer == "adamw"]["rank"]) == {1}
    same = table(mixed(BYTES))
    assert set(same[same.optimizer == "adamw"]["rank"]) == {2} and same.gap.notna().all()


def test_a_curve_is_fitted_to_the_points_of_one_hash() -> None:
    found = fit(mixed(WORDS))
    assert dict(zip(found.dataset_hash, found.state, strict=True)) == {BYTES: "FIT", WORDS: "REFUSE"}
    assert dict(zip(found.dataset_hash, found.n_points, strict=True))[BYTES] == len(RATIOS)
