"""Number ids: unlike each other, readable back, and every run that a number rests on is listed behind it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optsweep_tui.analysis import fit, speedup, table
from optsweep_tui.analysis.audits.behind import behind, selected_from
from optsweep_tui.analysis.audits.ground import Ground
from optsweep_tui.analysis.audits.provenance import memberships
from optsweep_tui.analysis.audits.rows import records
from optsweep_tui.analysis.number_ids import matching, number_ids, parsed, with_options
from optsweep_tui.errors import OptsweepError
from tests.unit.analysis_frames import curve, frame, run
from tests.unit.reference_frame import reference


def test_an_address_reads_as_a_path_and_names_only_what_is_no_default() -> None:
    data = frame([*curve(), *curve(optimizer="muon", speedup=1.2)])
    assert speedup(data).number_id.iloc[0] == "speedup/s/muon/300m/1"
    assert fit(data, sigma=0.002).number_id.tolist() == ["fit/s/adamw/300m?sigma=0.002"]
    assert table(data).number_id.iloc[1] == "table/s/adamw/300m/1"
    other = speedup(
        data, baseline="muon", unit="flops", max_chinchilla=4, shared_exponent=True, ci="bootstrap", draws=100
    )
    assert other.number_id.iloc[0] == (
        "speedup/s/adamw/300m/1?baseline=muon&unit=flops&ci=bootstrap&max_chinchilla=4&shared_exponent=yes&draws=100"
    )


def test_parts_are_added_only_where_rows_would_share_a_path() -> None:
    rows = [run(chinchilla=1, engine=engine, dataset=dataset) for engine, dataset in (("jax", "c4"), ("torch", "c4"))]
    rows += [
        run(chinchilla=1, engine="torch", dataset="x"),
        run(chinchilla=2, engine="torch"),
        run(chinchilla=1, seq_len=512),
    ]
    ids = set(table(frame(rows)).number_id)
    assert ids == {
        "table/s/adamw/300m/1/engine=jax",
        "table/s/adamw/300m/1/engine=torch/dataset=c4/seq_len=4096",
        "table/s/adamw/300m/1/engine=torch/dataset=c4/seq_len=512",
        "table/s/adamw/300m/1/engine=torch/dataset=x",
        "table/s/adamw/300m/2",
    }
    near = [run(chinchilla=1, tokens=6_039_797_760), run(chinchilla=1, tokens=6_039_797_000)]
    assert [name.rpartition("/")[2] for name in table(frame(near)).number_id] == [
        "tokens=6039797000",
        "tokens=6039797760",
    ]


NAMES = st.sampled_from(["adamw", "mine:Opt@1a2b3c", "file.py:x", "a/b", "50% & more?", "é=ü", "none", "null"])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "study": NAMES,
                "optimizer": NAMES,
                "model": NAMES,
                "chinchilla": st.sampled_from([0.05, 1.0, 1.5741, 8.0, None]),
                "engine": st.sampled_from(["torch", "jax", None]),
                "dataset": NAMES,
                "seq_len": st.sampled_from([64.0, 4096.0, None]),
                "validation_set": NAMES,
                "dataset_hash": st.sampled_from(["a" * 64, "b" * 64, None]),
                "tokens": st.sampled_from([1e6, 2e9]),
            }
        ),
        max_size=12,
        unique_by=lambda row: tuple(map(str, row.values())),
    ),
    st.sampled_from([{}, {"sigma": 0.0013}, {"where": "loss < 3 & seed+1 = '0'"}]),
)
def test_every_address_leads_back_to_its_row(rows: list[dict[str, Any]], options: dict[str, Any]) -> None:
    ids = number_ids("speedup", rows, **options)
    assert len(set(ids)) == len(ids)
    for row, name in zip(rows, ids, strict=True):
        assert " " not in name
        address = parsed(name)
        assert (address.kind, address.study) == ("speedup", row["study"])
        mine = [other for other in rows if other["study"] == row["study"]]
        assert [found for found in matching(address, mine) if found is row] == [row]
        if all(value is not None and value not in ("none", "null") for value in row.values()):
            assert matching(address, [row]) == [row]
        if "where" in options:
            assert address.options == options


def test_filters_are_added_behind_what_is_there() -> None:
    assert with_options("fit/s/adamw/300m?sigma=0.002", where="seed = 0", engine=None, chinchilla="1,2") == (
        "fit/s/adamw/300m?sigma=0.002&chinchilla=1,2&where=seed%20%3D%200"
    )


@pytest.mark.parametrize(
    "text",
    ["", "/", "speedup", "speedup/s/muon/300m", "speeds/s/muon/300m/1", "table/s/muon/300m/1/engin=jax", "table/s/m/3/1/jax",
     "fit/s/adamw/300m?sigm=1"],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_a_next_step(text: str) -> None:
    with pytest.raises(OptsweepError) as error:
        parsed(text)
    assert "looks like" in str(error.value) or "lists them" in str(error.value) or "known" in str(error.value)


def seeds(optimizer: str, budget: float, losses: list[float]) -> list[dict[str, Any]]:
    return [run(optimizer, budget, loss, seed=seed) for seed, loss in enumerate(losses)]


def test_behind_a_speedup_stand_the_cells_runs_the_curves_runs_and_the_replicates_of_sigma() -> None:
    rows = [
        *seeds("adamw", 1, [3.26, 3.262, 3.261, 3.259]),
        *curve((2, 4)),
        *seeds("adamw", 8, [3.04, 3.041, 3.042, 3.043]),
        *seeds("muon", 4, [3.07, 3.071]),
        run("muon", 4, 3.2, knobs={"lr": 1.0}),
    ]
    data = frame(rows)
    ids = data.run_id.tolist()
    (row,) = records(speedup(data))
    ground = Ground.of(data, [row], {"baseline": "adamw"})
    found = behind(ground, "speedup", row)
    roles: dict[str, set[str]] = {}
    for part in found:
        roles.setdefault(part.role, set()).add(part.run_id)
    assert roles["loss"] == {ids[11]}, "the fresh seed"
    assert roles["curve"] == {*ids[1:4], ids[4], ids[5], *ids[7:10]}
    assert roles["selected"] == {ids[0], ids[6], ids[10]}
    assert roles["sigma"] == {*ids[0:4], *ids[6:10]}
    assert set(selected_from(ground, "speedup", row)) == {ids[10], ids[12]}
    (muon,) = [row for row in records(table(data)) if row["optimizer"] == "muon"]
    of_table = {part.role: part.run_id for part in behind(ground, "table", muon)}
    assert of_table["baseline"] == ids[5] and "curve" not in of_table
    (curve_row,) = records(fit(data))
    assert {part.role for part in behind(ground, "fit", curve_row)} == {"curve", "selected", "sigma"}


def test_a_run_knows_the_numbers_that_it_enters() -> None:
    rows = [*curve(), *curve((2,), optimizer="muon", speedup=1.2), run("muon", 2, 3.5, knobs={"lr": 1.0}),
            run("muon", 4, None, state="diverged")]  # fmt: skip
    data = frame(rows)
    on_curve, muon, worse, lost = (data.run_id[place] for place in (1, 4, 5, 6))
    (found,) = memberships(data, on_curve, baseline="adamw")
    assert set(found.numbers) >= {
        ("table/s/adamw/300m/2", "loss"), ("table/s/muon/300m/2", "baseline"),
        ("fit/s/adamw/300m", "curve"), ("speedup/s/muon/300m/2", "curve"),
    }  # fmt: skip
    (found,) = memberships(data, muon, baseline="adamw")
    assert set(found.numbers) == {("table/s/muon/300m/2", "loss"), ("speedup/s/muon/300m/2", "loss")}
    assert "n = 1" in found.part
    for run_id, words in ((worse, "nats from the best"), (lost, "diverged")):
        (found,) = memberships(data, run_id, baseline="adamw")
        assert found.numbers == () and words in found.part
    assert memberships(data, "f" * 32, baseline="adamw") == []


def test_all_numbers_of_the_reference_study_have_runs_behind_them_and_addresses_of_their_own() -> None:
    data = reference()
    known = set(data.run_id)
    for kind, found in (("table", table(data)), ("fit", fit(data)), ("speedup", speedup(data))):
        assert found.number_id.is_unique
        rows = list(records(found))
        ground = Ground.of(data, rows, {"baseline": "adamw"})
        for place, row in enumerate(rows):
            assert matching(parsed(row["number_id"]), rows) == [row]
            if place % 60 == 0:
                parts = behind(ground, kind, row)
                assert {part.run_id for part in parts} <= known
                assert set(row["run_ids"]) <= {part.run_id for part in parts}
                assert parts or row["run_ids"] == []
