"""The original tree of the published study: the same rows as the shipped figures, and nothing dropped without a word."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optsweep_tui import ask, flow, imports, settings
from optsweep_tui.core import Filter
from optsweep_tui.errors import OptsweepError
from optsweep_tui.importers.marin import MarinImporter
from optsweep_tui.importers.protocol import Found, Request
from optsweep_tui.settings import Workspace
from tests.store.marin_tree import chosen, result_of, write_tree
from tests.store.run_folders import sql_rows

FUZZ = int(os.environ.get("OPTSWEEP_FUZZ", "800")) // 2
"""Mutated trees; the full campaign over all importers is OPTSWEEP_FUZZ=20000."""
ROW = "* EXCLUDE (run_id, run, study, origin, source)"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("marin") / "clone", chosen())


def read(path: Path) -> Found:
    return MarinImporter().read(Request(path=path))


def test_the_tree_gives_the_rows_of_the_shipped_figures(tree: Path, tmp_path: Path) -> None:
    place = settings.workspace(tmp_path)
    report = imports.import_results(place, "marin", path=tree)
    imports.import_results(place, "reference")
    assert report.skipped == []
    assert set(report.states) == {"done", "diverged", "nan", "missing"}
    here = "study = 'marin'"
    cells = "(optimizer, model, chinchilla) IN (SELECT (optimizer, model, chinchilla) FROM v_run WHERE study = 'marin')"
    there = f"study = 'reference' AND {cells}"
    rows = {
        name: sql_rows(place.store, f"SELECT {ROW} FROM v_run WHERE {what}")
        for name, what in (("a", here), ("b", there))
    }
    assert len(rows["a"]) == report.runs > 150
    assert sorted(rows["a"], key=repr) == sorted(rows["b"], key=repr)
    tables = [ask.table(ask.results(place, Filter(study=study))) for study in ("marin", "reference")]
    losses = [
        {(row["optimizer"], row["model"], row["chinchilla"]): row["loss"] for row in table.to_dict("records")}
        for table in tables
    ]
    assert losses[0].items() <= losses[1].items() and len(losses[0]) == len(chosen())


def test_twice_is_once_and_a_changed_loss_is_a_change(tree: Path, tmp_path: Path) -> None:
    place, copy = settings.workspace(tmp_path / "work"), tmp_path / "clone"
    shutil.copytree(tree, copy)
    first = imports.import_results(place, "marin", path=copy)
    again = imports.import_results(place, "marin", path=tree)
    assert (again.new, again.changed, again.unchanged) == (0, 0, first.runs)
    file = next(copy.rglob("adamw/130m/1/result.json"))
    data = json.loads(file.read_text())
    data["ablations"][0]["loss"] = data["result"][
        f"{data['ablations'][0]['param']}={data['ablations'][0]['value']}"
    ] = 3.25
    data["min_loss"] = 3.25
    file.write_text(json.dumps(data))
    changed = imports.import_results(place, "marin", path=copy)
    assert (changed.new, changed.changed) == (0, 1)
    assert sql_rows(place.store, "SELECT min(loss) FROM v_run WHERE optimizer = 'adamw' AND model = '130m'") == [
        (3.25,)
    ]


def mended(cell: str, change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    data = result_of(next(item for item in chosen() if item.name == cell))
    change(data)
    return data


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data["result"].update({"beta1=0.95": 9.0}), "which is kept"),
        (lambda data: data["result"].update({"no knob": 3.0}), "neither Baseline nor param=value"),
        (lambda data: data["ablations"].append({"param": "x"}), "not a param with a value"),
        (lambda data: data["ablations"].append({"param": "beta2", "value": [1], "loss": 3.0}), "not a value of a knob"),
        (lambda data: data["ablations"].append({"param": "beta2", "value": 0.5, "loss": "bad"}), "is not a number"),
        (lambda data: data["ablations"].append({"param": "beta2", "value": 0.5, "loss": True}), "is not a number"),
        (lambda data: data["ablations"].append({"param": "beta2", "value": 0.5, "loss": -1}), "is not positive"),
        (lambda data: data["ablations"].append({"param": 'b"', "value": 0.5, "loss": 3}), "not the name of a knob"),
        (lambda data: data["ablations"].append({"param": "train_batch_size", "value": 0.5, "loss": 3}), "batch size"),
        (lambda data: data.update(ablations={"a": 1}), "ablations: it is not a list"),
        (lambda data: data.update(min_loss=3.9), "above the smallest listed"),
        (lambda data: data.update(min_loss="x"), "min_loss"),
        (lambda data: data.pop("best_config"), "configurations of this cell are not known"),
        (lambda data: data["best_config"].update(lr=1.0), "two of its knobs are one"),
    ],
)
def test_what_cannot_be_read_is_listed_and_the_rest_is_kept(
    change: Callable[[dict[str, Any]], Any], said: str, tmp_path: Path
) -> None:
    folder = tmp_path / "adamw" / "130M" / "1"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(mended("adamw/130m/1", change)))
    found = read(tmp_path)
    assert any(said in f"{entry.where}: {entry.why}" for entry in found.skipped), found.skipped
    if "two of its" not in said:
        assert len(found.runs) >= 19 - 1
        assert {run.spec.model for run in found.runs} == {"130m"}


def test_one_value_in_two_spellings_is_one_entry(tmp_path: Path) -> None:
    folder = tmp_path / "adamw" / "130m" / "1"
    folder.mkdir(parents=True)

    def respell(data: dict[str, Any]) -> None:
        data["result"] = {key.replace("1e-25", "9.999999999999999e-26"): loss for key, loss in data["result"].items()}
        data["result"] = {key.replace("=2.0", "=2"): loss for key, loss in data["result"].items()}

    (folder / "result.json").write_text(json.dumps(mended("adamw/130m/1", respell)))
    found = read(tmp_path)
    assert len(found.runs) == 19 and found.skipped == []


def test_copies_unknown_models_and_plans_without_results_are_listed(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "clone"
    shutil.copytree(tree, copy)
    results = copy / "experiments" / "sweep" / "Analysis" / "Results"
    before = len(read(copy).runs)
    shutil.copytree(results / "adamw" / "130m" / "1", copy / "old" / "AdamW" / "130M" / "1.0")
    shutil.copytree(results / "adamw" / "130m" / "1", results / "adamw" / "77m" / "1")
    shutil.copytree(results / "adamw" / "130m" / "1", results / "adamw" / "130m" / "best")
    (copy / "experiments" / "sweep_grids" / "adamw" / "520M" / "1").mkdir(parents=True)
    (copy / "experiments" / "sweep_grids" / "adamw" / "520M" / "1" / "x.json").write_text('{"sweep_grids": {}}')
    (copy / "experiments" / "baseline_config" / "muon" / "300M" / "16" / "y.json").write_text("{]")
    found = read(copy)
    assert len(found.runs) == before
    said = "\n".join(f"{entry.where}: {entry.why}" for entry in found.skipped)
    for words in (
        "the same cell as",
        "model 77m is not in the catalogue",
        "not a Chinchilla ratio",
        "without results",
        "not JSON",
    ):
        assert words in said
    assert len(found.skipped) == 5


def test_files_from_windows_and_nan_in_five_spellings_are_read(tmp_path: Path) -> None:
    for place, (literal, state) in enumerate(
        [
            ("NaN", "nan"),
            ('"NaN"', "nan"),
            ('"nan"', "nan"),
            ("Infinity", "nan"),
            ('"-inf"', "nan"),
            ("null", "missing"),
        ]
    ):
        folder = tmp_path / str(place) / "adamw" / "130m" / "1"
        folder.mkdir(parents=True)
        text = (
            f'{{\n"best_config": {{"learning_rate": 0.008}},\n"result": {{"Baseline": {literal}, "beta1=0.9": 3.5}}\n}}'
        )
        (folder / "result.json").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
        found = read(tmp_path / str(place))
        assert [run.outcome.state for run in found.runs] == [state, "done"]
        assert found.skipped == []


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    place = settings.workspace(tmp_path)
    with pytest.raises(OptsweepError, match="needs a path"):
        imports.import_results(place, "marin")
    with pytest.raises(OptsweepError, match="no such file"):
        imports.import_results(place, "marin", path=tmp_path / "nowhere")
    with pytest.raises(OptsweepError, match=r"no result\.json"):
        imports.import_results(place, "marin", path=tmp_path)


# ---------------------------------------------------------------- mutated inputs

ODD = [
    float("nan"), float("inf"), "NaN", "-Infinity", "inf", 1e308, 10**400, 138172780511232, -1, 0, -0.0, True, None, [], {},
    "", "x" * 5000, "\ud800", "\x00", "a\nb", "1e999", [[[]]], {"a": {"b": 1}}, 1e-25, 9.999999999999999e-26, "0x10", "۳",
]  # fmt: skip
NAMES = ["..", "nan", "1e400", "-1", "0", "1_0", "0.5", "16.", "a b", "𝔸", "x" * 200, "130M", "\u202e", "ADAMW", "1"]


def mutated_document(rng: random.Random, document: Any) -> Any:
    """The document with a few of its nodes replaced, removed, renamed or doubled."""
    copy = json.loads(json.dumps(document))
    for _ in range(rng.randint(1, 4)):
        node, steps = copy, rng.randint(1, 3)
        for _ in range(steps):
            keys = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(node[key], dict | list) and rng.random() < 0.7:
                node = node[key]
                continue
            action = rng.random()
            if action < 0.6:
                node[key] = rng.choice(ODD)
            elif action < 0.8:
                del node[key]
            elif isinstance(node, dict):
                node[str(rng.choice(ODD))[:100] + rng.choice(["", "=1", "="])] = node.pop(key)
            else:
                node.append(node[key])
            break
    return copy


def mutated_bytes(rng: random.Random, start: bytes) -> bytes:
    """Cut, flipped, doubled, re-encoded."""
    data = bytearray(start)
    for _ in range(rng.randint(1, 5)):
        at = rng.randrange(len(data) + 1)
        length = rng.randint(1, 40)
        match rng.randrange(8):
            case 0:
                del data[at : at + length]
            case 1:
                data[at:at] = rng.randbytes(length)
            case 2:
                data[at:at] = data[at : at + length]
            case 3:
                data = data[:at]
            case 4:
                data[at:at] = rng.choice(
                    [b"NaN", b"Infinity", b"[" * 3000, b'{"a":' * 3000, b"9" * 5000, b"null", b'"', b","]
                )
            case 5:
                data = data.replace(b"\n", b"\r\n")
            case 6:
                data = bytearray(b"\xef\xbb\xbf") + data
            case _:
                data = data.replace(rng.choice([b"3.", b"0.", b"1"]), rng.choice([b"-", b"1e", b"", b"1e99999"]), 3)
    return bytes(data)


@pytest.mark.timeout(7200)
def test_mutated_trees_end_in_a_listed_skip_or_one_line(tmp_path: Path) -> None:
    rng = random.Random(7)
    documents = [result_of(cell) for cell in chosen(("adamw/130m/1", "mars/130m/8", "cautious/130m/4"))]
    texts = [json.dumps(document, indent=1).encode() for document in documents]
    kept: dict[str, Any] = {}
    refused, listed = 0, 0
    plan = tmp_path / "baseline_config" / "adamw" / "130M" / "1"
    plan.mkdir(parents=True)
    for turn in range(FUZZ):
        names = ["adamw", "130m", "1"]
        if rng.random() < 0.1:
            names[rng.randrange(3)] = rng.choice(NAMES)
        folder = tmp_path.joinpath("tree", *names)
        folder.mkdir(parents=True, exist_ok=True)
        place = rng.randrange(len(documents))
        if rng.random() < 0.5:
            content = json.dumps(mutated_document(rng, documents[place])).encode()
        else:
            content = mutated_bytes(rng, texts[place])
        (folder / "result.json").write_bytes(content)
        (plan / "x.json").write_bytes(
            mutated_bytes(rng, b'{"baseline_config": {"a": 1}}') if turn % 10 == 0 else content
        )
        try:
            found = read(tmp_path)
        except OptsweepError as error:
            refused += 1
            assert "\n" not in str(error)
            shutil.rmtree(tmp_path / "tree")
            continue
        ids = [run.run_id for run in found.runs]
        assert len(set(ids)) == len(ids)
        for entry in found.skipped:
            listed += 1
            assert entry.why and "\n" not in entry.why
        if turn % max(1, FUZZ // 100) == 0:
            kept |= {run.run_id: run for run in found.runs}
        shutil.rmtree(tmp_path / "tree")
    assert listed > FUZZ // 10
    _collected_cleanly(settings.workspace(tmp_path / "work"), list(kept.values()))


def _collected_cleanly(place: Workspace, runs: list[Any]) -> None:
    """What an importer let through gets into the store, and every view can be asked."""
    from optsweep_tui.importers import plant

    place.ensure()
    plant.plant(place.runs, runs)
    report = flow.collect(place)
    assert report.skipped == [] and report.runs == len(runs) > 0
    for view in ("v_run", "v_cell", "v_best", "v_gap", "v_knob", "v_provenance", "v_final"):
        assert sql_rows(place.store, f"SELECT count(*) FROM (SELECT * FROM {view})")
    ask.table(ask.results(place, Filter(study="marin")))
    ask.speedup(ask.results(place, Filter(study="marin")))
