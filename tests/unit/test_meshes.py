"""What a mesh of this workspace means for a plan: whose rates tell its hours, and which runs cannot be spread."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from optsweep_engines import folder, mesh
from optsweep_engines.optimizers import user_plan
from optsweep_engines.spec import RunRecord, RunSpec
from optsweep_tui import benches, flow, meshes, preview, settings
from optsweep_tui.certificates import parity
from optsweep_tui.errors import OptsweepError
from tests.unit.test_benches import row
from tests.unit.test_spec import spec

REQUEST = flow.Request(optimizers=("adamw",), models=("bench-micro",), chinchillas=("0.1",))


def place(where: Path, *lines: str) -> settings.Workspace:
    where.mkdir(exist_ok=True)
    (where / "optsweep.toml").write_text("\n".join(["slots = 2", *lines]) + "\n")
    return settings.workspace(where)


def finished(work: settings.Workspace, run: RunSpec, rate: float, **changes: Any) -> None:
    """A run of the workspace that is over."""
    attempt = work.runs / run.run_id / "a1"
    attempt.mkdir(parents=True)
    folder.write_json(attempt.parent / folder.SPEC, run.to_dict())
    folder.write_json(attempt / folder.INTENT, {"host": "local"})
    record: dict[str, Any] = {
        "run_id": run.run_id, "attempt": 1, "status": "done", "train_loss": 2.0, "val_loss": 2.0, "steps": 10, "tokens": 10,
        "train_seconds": 1.0, "tokens_per_second": rate, "peak_bytes": 1, "optimizer_state_bytes": 1, "device": "cpu (x)",
        "versions": {}, **changes,
    }  # fmt: skip
    folder.write_json(attempt / folder.RECORD, record)
    folder.write_json(attempt / folder.EXIT, {"returncode": 0, "reason": "done"})


@pytest.mark.parametrize(
    ("text", "said"),
    [("data=2", "data=2"), ("fsdp=2,data=4", "data=4,fsdp=2"), ("data=1,fsdp=3", "fsdp=3"), ("data=1", None)],
)
def test_a_record_says_a_mesh_in_one_way(text: str, said: str | None) -> None:
    assert mesh.words(mesh.parsed(text)) == said


def test_hours_rest_on_runs_of_the_same_mesh_alone(tmp_path: Path) -> None:
    one, spread = place(tmp_path / "one"), place(tmp_path / "spread", 'mesh = "data=1, fsdp=2"')
    run = flow.plan(one, REQUEST).specs[0]
    for work in (one, spread):
        benches.remember(work, [row("adamw", 1000.0, batch_size=run.batch_size, seq_len=run.seq_len)])
        finished(work, spec(seed=1), 3000.0)
        finished(work, spec(seed=2), 50.0, mesh="data=2")
    key = ("torch", "adamw", "bench-micro", 8, 64, "fp32")
    assert flow.rates(one)[key] == 3000.0 and benches.rates(one)
    assert flow.rates(spread) == {}, "neither of one process nor of another mesh"
    assert preview.of(spread, flow.plan(spread, REQUEST))["totals"]["seconds_estimate"] is None
    finished(spread, spec(seed=3), 70.0, mesh="fsdp=2")
    assert flow.rates(spread) == {key: 70.0}


def test_gpus_of_a_run_are_a_mesh_of_the_torch_engine_as_far_as_they_divide_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    work = place(tmp_path, "gpus_per_run = 4")
    assert [meshes.of_run(work, "torch", rows) for rows in (8, 6, 1)] == ["data=4", "data=3", None]
    assert meshes.of_run(work, "jax", 8) is None
    assert meshes.as_here(work, spec(), "data=4") and not meshes.as_here(work, spec(), None)


def test_chips_of_a_tpu_are_not_counted_here(tmp_path: Path) -> None:
    work = place(tmp_path, 'device = "tpu"')
    assert meshes.as_here(work, spec(engine="jax"), "data=8") and not meshes.as_here(work, spec(engine="jax"), "fsdp=8")


def test_an_old_record_is_one_of_one_device() -> None:
    old = {
        "run_id": "x", "attempt": 1, "status": "done", "train_loss": 2.0, "val_loss": 2.0, "steps": 1, "tokens": 1,
        "train_seconds": 1.0, "tokens_per_second": 1.0, "peak_bytes": 1, "optimizer_state_bytes": 1, "device": "cpu",
        "versions": {},
    }  # fmt: skip
    assert RunRecord.from_dict(old).mesh is None


@pytest.mark.parametrize(
    ("line", "words"),
    [('mesh = "dta=2"', '"dta=2" is not one of data=N'), ('mesh = "data=0"', "is not one of"), ('mesh = ""', "is not one of"),
     ('mesh = "data=2,data=2"', "data is given twice"), ("mesh = 2", "is not a text")],
)  # fmt: skip
def test_a_mesh_that_is_none_is_said_when_settings_are_read(line: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(OptsweepError, match=words) as caught:
        place(tmp_path, line)
    assert "optsweep.toml" in str(caught.value) and 'write mesh = "data=4,fsdp=2"' in caught.value.hint


UNSPREADABLE = ("prodigy", "adalayer", "adalayer_frozen", "sophia_h")


def refused(work: settings.Workspace, run: RunSpec) -> str | None:
    try:
        meshes.require_fits(work, [run])
    except OptsweepError as error:
        return str(error).removesuffix(f". {error.hint}")
    return None


def planned(work: settings.Workspace, name: str, **changes: Any) -> RunSpec:
    request = dataclasses.replace(REQUEST, optimizers=(name,), sets=("batch_size=8",))
    return dataclasses.replace(flow.plan(work, request).specs[0], **changes)


@pytest.mark.parametrize("name", [*UNSPREADABLE, "adamw", "muon", "soap"])
def test_rules_that_cannot_be_spread_are_refused_with_the_words_of_the_engine(name: str, tmp_path: Path) -> None:
    spread, copied = place(tmp_path / "spread", 'mesh = "fsdp=2"'), place(tmp_path / "copied", 'mesh = "data=2"')
    run = planned(spread, name)
    said = refused(spread, run)
    assert (said is not None) == (name in UNSPREADABLE), said
    if said is not None:
        assert said.startswith(f"{name} bench-micro: ") and said.endswith(
            "it cannot be spread over processes, take fsdp=1"
        )
    assert refused(copied, run) is None and refused(place(tmp_path / "one"), run) is None
    assert refused(spread, dataclasses.replace(run, engine="jax")) is None, "it spreads them otherwise"


def test_a_mesh_has_to_divide_the_rows_and_to_find_its_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = place(tmp_path, 'mesh = "data=4"')
    run = planned(work, "adamw")
    assert refused(work, run) is None
    said = 'adamw bench-micro: mesh "data=4" does not divide the batch: 4 devices, 2 sequences in a micro-batch'
    for engine in ("torch", "jax"):
        assert refused(work, planned(work, "adamw", accumulation=4, engine=engine)) == said
    finished(work, planned(work, "adamw", accumulation=4), 1.0)
    assert refused(work, planned(work, "adamw", accumulation=4)) is None, "it is over"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    said = 'adamw bench-micro: mesh "data=4" takes 4 devices, there are 2 GPUs'
    assert refused(place(tmp_path, 'mesh = "data=4"', "gpus_per_run = 2"), run) == said


def test_a_torch_class_of_a_users_file_cannot_be_spread(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "mine.py").write_text(
        "import torch\n\n\nclass Mine(torch.optim.SGD):\n"
        "    def __init__(self, params, lr=0.01):\n        super().__init__(params, lr=lr)\n"
    )
    work = place(tmp_path, 'mesh = "fsdp=2"')
    entry = user_plan.planned("./mine.py:Mine", tmp_path)
    run = dataclasses.replace(spec(), optimizer=entry.name)
    said = refused(work, run)
    assert said is not None and "mine.py: Mine is a torch.optim class" in said and said.endswith("take fsdp=1")


def test_a_certificate_of_torch_on_a_mesh_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    work, said = place(tmp_path), list[str]()
    run = planned(work, "adamw")
    with pytest.raises(OptsweepError, match='mesh "data=2": the torch engine takes one in a run'):
        parity.certified(work, run, ("torch", "torch"), steps=1, mesh="data=2", say=said.append)
    assert said == []
