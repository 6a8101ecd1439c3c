"""Parameters, gradients and optimizer state spread over processes: the losses of one process, and what each of them holds."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed as dist

from optsweep_engines import folder, kept
from optsweep_engines.certify import moved_by_an_ulp
from optsweep_engines.data import PreparedDataset
from optsweep_engines.models import parameter_table
from optsweep_engines.run import AttemptLog
from optsweep_engines.spec import RunSpec, Start
from optsweep_engines.torch_engine.device import opened
from optsweep_engines.torch_engine.spread_train import SpreadTrainer, require_spreadable
from optsweep_engines.torch_engine.train import made, train
from optsweep_tui.certificates.parity import judged
from tests.numerics.run_log import FolderLog
from tests.numerics.spread_processes import Weighing, losses, prepared, rows_of, take_kept, together
from tests.numerics.test_user_optimizer import ADAM_KNOBS, ADAMW_CLASS, ADAMW_RULE, planted
from tests.numerics.toy import shape, spec

STEPS = 10
KEPT = 4
"""Step whose state is kept."""
WARM = 2
"""Steps that soap trains in one process first: engines agree on its first basis, see docs/jax.md."""
OWN = "def total(xp, table, params, grads, updates):\n    return {'total': sum(float(xp.sum(params[t.name])) for t in table)}\n"

DIAGNOSTICS = {"parts": ["full", "layers"], "own": [{"label": "mine.py", "name": "total", "content": OWN}]}

GPT2 = {"tied_embeddings": True, "positions": 16, "norm": "layer", "biases": True, "activation": "gelu"}
UNEVEN = {"width": 18, "heads": 3, "mlp_width": 23}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "fused, in micro-batches, z-loss": ("adamw", {"accumulation": 2, "knobs": {"lr": 0.01, "z_loss": 1e-3}}),
    "by number": ("lion", {"knobs": {"lr": 0.003}}),
    "by number, uneven rows": ("sgd", {"shape": shape(**UNEVEN), "knobs": {"lr": 0.05}}),
    "by number, evaluated elsewhere": ("sf_adamw", {}),
    "gradients of drawn labels": ("sophia_g", {"knobs": {"lr": 0.003}}),
    "matrices": ("muon", {"shape": shape(**GPT2), "knobs": {"lr": 0.01}}),
    "matrices, uneven, muP": ("scion", {"shape": shape(mup_base_width=9, **UNEVEN), "knobs": {"lr": 0.0005}}),
    "matrices and noise": ("kron", {"knobs": {"lr": 0.003}}),
    "matrices with an eigenbasis": ("soap", {"knobs": {"lr": 0.003}}),
    "all tensors whole": ("lamb", {}),
    "banks whole": ("adam_mini", {"knobs": {"lr": 0.01}}),
    "rows and columns, bf16": ("adafactor", {"dtype": "bf16"}),
}

OBSERVED = ("fused, in micro-batches, z-loss", "matrices")


def run_of(dataset: PreparedDataset, kind: str) -> RunSpec:
    optimizer, changes = KINDS[kind]
    return spec(dataset, optimizer, **{"batch_size": 8, "tokens": STEPS * 128, "knobs": {"lr": 0.005}, **changes})


def heavy(dataset: PreparedDataset, name: str) -> RunSpec:
    """Many layers and few tokens: nearly all that is held are parameters and what goes with them."""
    deep = shape(layers=12, width=128, mlp_width=192)
    return spec(dataset, name, shape=deep, batch_size=2, seq_len=4, tokens=16)


HEAVY = ("adamw", "muon", "soap")


# ---------------------------------------------------------------- the runs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ran:
    """What came of the runs."""

    root: Path
    """Folders of runs by where they ran: "one" process, "two" that share all numbers, "data": two that each have all."""
    one: dict[str, dict[str, Any]]
    """Records of one process by run id."""
    two: dict[str, list[dict[str, Any]]]
    """Records of both processes by run id."""
    weighed: list[list[dict[str, float]]]
    """By process, of HEAVY in order."""
    rule: RunSpec
    """Of a user's own file."""
    branch: RunSpec
    """From the state of a trunk that one process has kept."""


@pytest.fixture(scope="module")
def ran(dataset: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    root, data_root = tmp_path_factory.mktemp("spread"), dataset.folder.parent
    torch.set_num_threads(1)
    one: dict[str, dict[str, Any]] = {}
    attempts = []

    def alone(attempt: Path, run: RunSpec) -> None:
        one[run.run_id] = train(run, AttemptLog(attempt)).to_dict()

    for kind in KINDS:
        run = run_of(dataset, kind)
        keep = {"keep": {"steps": [first_of(run) or KEPT]}}
        full = {"diagnostics": DIAGNOSTICS} if kind in OBSERVED else {}
        alone(prepared(root / "one", run, data_root, "", **keep, **full), run)
        if first_of(run):
            take_kept(root / "one" / run.run_id, root / "two" / run.run_id, WARM)
        attempts.append(prepared(root / "two", run, data_root, "fsdp=2", **({} if first_of(run) else keep), **full))
        if run.dtype == "bf16":
            attempts.append(prepared(root / "data", run, data_root, "data=2"))
    trunk = spec(dataset, "muon", batch_size=8, tokens=20 * 128, schedule="wsd", knobs={"warmup": 2, "decay": 0.4})
    alone(prepared(root / "one", trunk, data_root, "", keep={"steps": [6]}), trunk)
    take_kept(root / "one" / trunk.run_id, root / "two" / trunk.run_id, 6)
    sha256 = kept.find(root / "one", trunk.run_id, 6).parameters_sha256
    start = Start(run_id=trunk.run_id, step=6, mode="branch", parameters_sha256=sha256)
    branch = trunk.replace(tokens=STEPS * 128, start=start)
    alone(prepared(root / "one", branch, data_root, ""), branch)
    attempts.append(prepared(root / "two", branch, data_root, "fsdp=2"))
    rule, _ = planted(dataset, root / "rule", ADAMW_RULE, ADAM_KNOBS[ADAMW_RULE], batch_size=8, tokens=STEPS * 128)
    for where, mesh in (("one", ""), ("two", "fsdp=2")):
        attempt = prepared(root / where, rule, data_root, mesh)
        shutil.copy(root / "rule" / "optimizer.py", attempt.parent)
    alone(root / "one" / rule.run_id / "a1", rule)
    attempts.append(root / "two" / rule.run_id / "a1")
    weights = [(heavy(dataset, name).to_dict(), "fsdp=2") for name in ("sgd", *HEAVY)]  # the first one loads modules
    weights.append((heavy(dataset, "soap").to_dict(), "data=2"))
    weighing = Weighing(runs=weights, data_root=str(data_root), where=str(root / "weighed"))
    answers = together(root / "meeting", 2, attempts, weighing)
    two = {
        attempt.parent.name: [answer[index] for answer in answers]
        for index, attempt in enumerate(attempts, start=1)
        if attempt.parent.parent.name == "two"
    }
    return Ran(root=root, one=one, two=two, weighed=[answer[0][1:] for answer in answers], rule=rule, branch=branch)


def first_of(run: RunSpec) -> int:
    """Steps that its processes do not train themselves."""
    return WARM if run.optimizer == "soap" else 0


def control(run: RunSpec, data_root: Path, where: Path, state: Path | None) -> list[float]:
    """Losses of one process whose parameters, at the first step, were moved by a unit in the last place."""
    log = FolderLog(where, data_root)
    trainer = made(run, log, torch.device("cpu"))
    first = first_of(run)
    if state is not None:
        shutil.copy(state, where / "ckpt" / f"{first:08d}.safetensors")
        assert trainer.restore(log) is not None
    trainer.set_arrays(moved_by_an_ulp(trainer.arrays()))
    return [float(trainer.step(step)[0]) for step in range(first, run.steps)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
def test_two_processes_that_share_all_numbers_give_the_losses_of_one(
    kind: str, ran: Ran, dataset: PreparedDataset, tmp_path: Path
) -> None:
    run = run_of(dataset, kind)
    # In bf16 the gradients of half a batch are rounded: two processes that each have all numbers round the same.
    whole = rows_of(ran.root / ("data" if run.dtype == "bf16" else "one") / run.run_id / "a1")
    two = rows_of(ran.root / "two" / run.run_id / "a1")
    assert [row["step"] for row in two] == list(range(first_of(run) + 1, STEPS + 1)), "each step is written once"
    state = kept.listed(ran.root / "one" / run.run_id / folder.KEPT)[0][1] if first_of(run) else None
    moved = control(run, dataset.folder.parent, tmp_path, state)
    verdict = judged(*(np.array(each) for each in (losses(whole[-len(two) :]), losses(two), moved)))
    assert verdict["verdict"] == "equal", verdict
    one, others = ran.one[run.run_id], ran.two[run.run_id]
    assert {each["status"] for each in others} == {"done"} and one["steps"] == others[0]["steps"] == STEPS
    assert len({each["parameters_sha256"] for each in others}) == 1
    assert others[0]["optimizer_state_bytes"] == one["optimizer_state_bytes"]
    assert others[0]["val_loss"] == pytest.approx(one["val_loss"], abs=max(1e-4, 3 * verdict["control_difference"]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", OBSERVED)
def test_statistics_are_those_of_one_process(kind: str, ran: Ran, dataset: PreparedDataset) -> None:
    """Norms by role and layer, of attention, and a user's own, which asks for whole banks."""
    run = run_of(dataset, kind)
    one, two = (rows_of(ran.root / where / run.run_id / "a1") for where in ("one", "two"))
    assert {"update_ratio/q", "grad_norm/layer1", "attention_entropy", "grad_sparsity", "total"} <= set(two[0])
    for expected, found in list(zip(one, two, strict=True))[:3]:  # before the runs drift apart
        assert expected.keys() == found.keys()
        for key in expected.keys() - {"train_seconds"}:
            assert (found[key] is None) == (expected[key] is None), key
            if expected[key] is None:  # a bank that starts at zero
                continue
            if key == "grad_sparsity":  # it counts: some numbers lie at the threshold
                assert abs(found[key] - expected[key]) <= 0.002
                continue
            assert found[key] == pytest.approx(expected[key], rel=2e-4, abs=2e-4), (key, expected["step"])


@pytest.mark.slow
def test_a_rule_of_a_user_s_file_is_spread_and_a_class_is_refused(
    ran: Ran, dataset: PreparedDataset, tmp_path: Path
) -> None:
    one, two = (losses(rows_of(ran.root / where / ran.rule.run_id / "a1")) for where in ("one", "two"))
    assert two == pytest.approx(one, abs=1e-5) and len(two) == STEPS
    run, where = planted(dataset, tmp_path, ADAMW_CLASS, ADAM_KNOBS[ADAMW_CLASS])
    with pytest.raises(ValueError, match=r"mine.py: Mine is a torch.optim class.*take fsdp=1"):
        require_spreadable(run, where / folder.OPTIMIZER)


# ---------------------------------------------------------------- what each of them holds


@pytest.mark.slow
@pytest.mark.parametrize("name", HEAVY)
def test_each_process_holds_half_of_the_numbers_and_a_few_layers(
    name: str, ran: Ran, dataset: PreparedDataset, tmp_path: Path
) -> None:
    """Between steps to the number; while it steps, what is brought together is a few layers, or a bank."""
    run = heavy(dataset, name)
    runs = [(run.to_dict(), None)] * 2  # the first one loads modules
    whole = Weighing(runs=runs, data_root=str(dataset.folder.parent), where=str(tmp_path))()[1]
    spread = [answer[HEAVY.index(name)] for answer in ran.weighed]
    layer = sum(item.count // item.tensors for item in parameter_table(run.shape) if item.stacked)
    bank = max(item.count for item in parameter_table(run.shape))
    assert whole["parameters"] == run.shape.total_params > 12 * layer
    for each in spread:
        assert each["parameters"] == whole["parameters"] / 2
        assert each["held"] <= whole["held"] / 2 + layer
        assert each["peak"] <= whole["peak"] / 2 + MOST_LAYERS / 2 * layer, (each, whole)
        assert each["peak"] <= each["held"] + MOST_LAYERS * layer + MOST_BANKS * bank, (each, layer, bank)
    assert sum(each["held"] for each in spread) == pytest.approx(whole["held"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*HEAVY, "soap, data=2"])
def test_a_checkpoint_brings_one_bank_together_in_the_first_process_alone(
    name: str, ran: Ran, dataset: PreparedDataset
) -> None:
    index = (*HEAVY, "soap, data=2").index(name)
    first, other = (answer[index] for answer in ran.weighed)
    bank = max(item.count for item in parameter_table(heavy(dataset, HEAVY[0]).shape))
    # soap keeps two square matrices beside each of 192 x 128, the larger one of 192 x 192 as a state of its own.
    largest = bank * (192 / 128 if name.startswith("soap") else 1)
    assert first["held"] > 8 * largest
    assert first["saving"] <= 3 * largest, "what it holds, what comes, and both as they are written"
    assert other["saving"] <= largest


MOST_LAYERS = 8
"""torch gathers into one buffer and lays a layer out in another, the next layer's beside them, and their gradients likewise."""
MOST_BANKS = 3
"""Of a matrix rule, over both processes: gradient and parameter of a bank and what the rule computes from them."""


# ---------------------------------------------------------------- states


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["fused, in micro-batches, z-loss", "by number, evaluated elsewhere", "matrices", "banks whole"]
)
def test_one_process_goes_on_from_what_two_have_kept(
    kind: str, ran: Ran, dataset: PreparedDataset, tmp_path: Path
) -> None:
    run = run_of(dataset, kind)
    state = kept.find(ran.root / "two", run.run_id, KEPT)
    own = kept.find(ran.root / "one", run.run_id, KEPT)
    assert names_in(state.path) == names_in(own.path), "the file of one process, tensor by tensor"
    take_kept(ran.root / "two" / run.run_id, tmp_path / run.run_id, KEPT)
    attempt = prepared(tmp_path, run, dataset.folder.parent, "")
    record = train(run, AttemptLog(attempt))
    assert (record.status, record.resumed_from_step) == ("done", KEPT)
    two = rows_of(ran.root / "two" / run.run_id / "a1")
    assert losses(rows_of(attempt)) == pytest.approx(losses(two[KEPT:]), abs=1e-5)
    trainer = made(run, AttemptLog(attempt), torch.device("cpu"))
    assert trainer.restore(AttemptLog(attempt)) is not None
    assert trainer.parameters_sha256() == state.parameters_sha256, "the hash that the same numbers have in one process"


def names_in(path: Path) -> dict[str, tuple[str, list[int]]]:
    with open(path, "rb") as handle:
        header = json.loads(handle.read(int.from_bytes(handle.read(8), "little")))
    return {name: (each["dtype"], each["shape"]) for name, each in header.items() if name != "__metadata__"}


@pytest.mark.slow
def test_four_processes_in_two_replicas_go_on_from_what_two_or_one_have_kept(
    ran: Ran, dataset: PreparedDataset, tmp_path: Path
) -> None:
    """A matrix rule from two, one by number from one; and a run that begins with the weights of another."""
    mesh, data_root = "data=2,fsdp=2", dataset.folder.parent
    matrices, numbers = run_of(dataset, "matrices"), run_of(dataset, "fused, in micro-batches, z-loss")
    take_kept(ran.root / "two" / matrices.run_id, tmp_path / "runs" / matrices.run_id, KEPT)
    take_kept(ran.root / "one" / numbers.run_id, tmp_path / "runs" / numbers.run_id, KEPT)
    sha256 = kept.find(tmp_path / "runs", numbers.run_id, KEPT).parameters_sha256
    tuned = numbers.replace(start=Start(run_id=numbers.run_id, step=KEPT, mode="weights", parameters_sha256=sha256))
    attempts = [prepared(tmp_path / "runs", run, data_root, mesh) for run in (matrices, numbers, tuned)]
    answers = together(tmp_path / "meeting", 4, attempts)
    for index in range(3):
        records = [answer[index + 1] for answer in answers]
        assert {each["status"] for each in records} == {"done"}
        assert len({each["parameters_sha256"] for each in records}) == 1, "replicas are alike"
    assert [answers[0][index]["resumed_from_step"] for index in (1, 2, 3)] == [KEPT, KEPT, 0]
    for run, attempt in zip((matrices, numbers), attempts, strict=False):
        expected = losses(rows_of(ran.root / "one" / run.run_id / "a1"))[KEPT:]
        assert losses(rows_of(attempt)) == pytest.approx(expected, abs=1e-5)
    shutil.copytree(tmp_path / "runs" / numbers.run_id, tmp_path / "alone" / numbers.run_id)
    alone = prepared(tmp_path / "alone", tuned, data_root, "")
    train(tuned, AttemptLog(alone))
    assert losses(rows_of(attempts[2])) == pytest.approx(losses(rows_of(alone)), abs=1e-5)


@pytest.mark.slow
def test_a_branch_goes_on_from_a_trunk_of_one_process(ran: Ran) -> None:
    one, two = (rows_of(ran.root / where / ran.branch.run_id / "a1") for where in ("one", "two"))
    assert [row["step"] for row in two] == [row["step"] for row in one] == list(range(7, STEPS + 1))
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    assert ran.two[ran.branch.run_id][0]["started_from_step"] == 6


GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_mesh_of_one_device_trains_saves_and_goes_on_as_without(
    name: str, device: str, dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that is sent goes to the process itself: what one GPU can show of its library of messages."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    run = spec(dataset, name, batch_size=8, tokens=6 * 128, knobs={"lr": 0.01}, shape=shape(**GPT2))
    log, own = FolderLog(tmp_path, dataset.folder.parent), opened(device, 1)
    plain = made(run, log, own)
    expected = [float(plain.step(step)[0]) for step in range(6)]
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        first, second = (SpreadTrainer(run, log.data_root, own, {"data": 1, "fsdp": 1}) for _ in range(2))
        found = [float(first.step(step)[0]) for step in range(3)]
        first.save(log, 3, {})
        assert second.restore(log) == (3, {})
        assert second.parameters_sha256() == first.parameters_sha256()
        found += [float(second.step(step)[0]) for step in range(3, 6)]
        assert found == pytest.approx(expected, abs=1e-5)
        assert second.validation_loss() == pytest.approx(plain.validation_loss(), abs=1e-5)
    finally:
        dist.destroy_process_group()
