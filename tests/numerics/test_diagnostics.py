"""What a run tells of its gradients: numbers against numpy, trajectories unchanged, spikes where a run is pushed into them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optsweep_engines.data import PreparedDataset
from optsweep_engines.diagnostics import SPARSE_BELOW, SpikeWatch, statistics
from optsweep_engines.engine import Preempted, load_engine
from optsweep_engines.models import initial_parameters, parameter_table
from optsweep_engines.spec import RunRecord, RunSpec
from optsweep_engines.torch_engine.observe import attention_of
from tests.numerics.run_log import FolderLog
from tests.numerics.test_families import shape_of
from tests.numerics.toy import spec

OWN = """
def kurtosis(xp, table, params, grads, updates):
    return {"kurtosis": float((grads["q"] ** 4).mean() / (grads["q"] ** 2).mean() ** 2)}

def broken(xp, table, params, grads, updates):
    raise RuntimeError("not today")
"""


def asked(*parts: str, own: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"parts": list(parts), "own": [{"label": "mine.py", "name": name, "content": OWN} for name in own]}


def trained(
    run: RunSpec, folder: Path, data_root: Path, diagnostics: Any = None, **log: Any
) -> tuple[RunRecord, FolderLog]:
    run_log = FolderLog(folder, data_root, **log)
    run_log.diagnostics = diagnostics
    return load_engine(run.engine).train(run, run_log), run_log


def events(log: FolderLog) -> list[dict[str, Any]]:
    path = log.folder / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# ---------------------------------------------------------------- the numbers


def test_statistics_are_those_of_numpy() -> None:
    table = parameter_table(shape_of("gpt2 biases"))
    stream = np.random.Generator(np.random.PCG64(0))
    params, grads, updates = (
        {item.name: stream.standard_normal(item.shape) * size for item in table} for size in (1.0, 0.1, 0.01)
    )
    grads["mlp_up"][0] = SPARSE_BELOW / 2
    found = statistics(np, table, params, grads, updates, layers=True)

    def flat(values: dict[str, Any], role: str | None = None) -> Any:
        return np.concatenate([values[i.name].ravel() for i in table if role in (None, i.role)])

    everything = flat(grads)
    assert found["global_grad_norm"] == pytest.approx(np.linalg.norm(everything))
    assert found["max_grad"] == np.abs(everything).max()
    assert found["grad_sparsity"] == pytest.approx(np.mean(np.abs(everything) < SPARSE_BELOW))
    assert found["grad_sparsity"] > 0
    assert found["update_ratio"] == pytest.approx(np.linalg.norm(flat(updates)) / np.linalg.norm(flat(params)))
    assert found["norm_grad_norm"] == pytest.approx(np.linalg.norm(flat(grads, "norm")))
    assert found["embedding_grad_norm"] == pytest.approx(np.linalg.norm(flat(grads, "embedding")))
    assert found["grad_norm/mlp_up"] == pytest.approx(np.linalg.norm(grads["mlp_up"]))
    assert found["param_norm/bias"] == pytest.approx(np.linalg.norm(flat(params, "bias")))
    assert found["update_ratio/q"] == pytest.approx(np.linalg.norm(updates["q"]) / np.linalg.norm(params["q"]))
    own = np.concatenate([grads[item.name][1].ravel() for item in table if item.stacked])
    assert found["grad_norm/layer1"] == pytest.approx(np.linalg.norm(own))


def test_attention_is_looked_at_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 3, 5, 4, generator=stream, dtype=torch.float64).float() for _ in range(2))
    monkeypatch.setattr("optsweep_engines.torch_engine.observe.LARGEST_SCORES", 60)  # two heads at a time
    largest, entropy = attention_of(q, k, 0.5)
    top, sums = -math.inf, []
    for b, h, t in np.ndindex(2, 3, 5):
        logits = (k[b, h, : t + 1] @ q[b, h, t]).numpy().astype(float) * 0.5
        weights = np.exp(logits) / np.exp(logits).sum()
        top = max(top, logits.max())
        sums.append(-(weights * np.log(weights)).sum())
    assert float(largest) == pytest.approx(top, rel=1e-6)
    assert float(entropy) == pytest.approx(np.mean(sums), rel=1e-5)


@pytest.mark.parametrize("name", ["olmo", "speedrun"])
def test_full_diagnostics_are_logged_and_change_no_bit(
    name: str, dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    run = spec(dataset, shape=shape_of(name), tokens=64 * 12, knobs={"max_grad_norm": 0.1})
    plain, plain_log = trained(run, tmp_path / "plain", data_root)
    full, log = trained(run, tmp_path / "full", data_root, asked("full", "layers", own=("kurtosis", "broken")))
    assert full.parameters_sha256 == plain.parameters_sha256
    rows, plain_rows = log.rows(), plain_log.rows()
    assert [row["train_loss"] for row in rows] == [row["train_loss"] for row in plain_rows]
    for row in rows:
        assert row["global_grad_norm"] == pytest.approx(row["grad_norm"], rel=1e-5)
        assert row["max_grad"] <= row["global_grad_norm"]
        assert 0 <= row["attention_entropy"] <= math.log(16)
        # the speedrun's outputs start at zero: no gradient reaches q in its first step, and the ratio of 0 to 0 is null
        assert row["kurtosis"] is None if name == "speedrun" and row["step"] == 1 else row["kurtosis"] > 1
        assert row["update_ratio"] > 0 and 0 <= row["grad_sparsity"] <= 1
        assert ("norm_grad_norm" in row) == (name == "olmo")
        assert {"grad_norm/q", "grad_norm/layer1", "param_norm/layer0", "attention_logit_max"} <= set(row)
    told = [event for event in events(log) if event["kind"] == "diagnostic_failed"]
    assert [(event["statistic"], event["error"]) for event in told] == [("mine.py:broken", "RuntimeError: not today")]


def test_the_written_out_model_is_observed_too(dataset: PreparedDataset, data_root: Path, tmp_path: Path) -> None:
    run = spec(dataset, "muon", tokens=64 * 6)
    plain, _ = trained(run, tmp_path / "plain", data_root)
    full, log = trained(run, tmp_path / "full", data_root, asked("full"))
    assert full.parameters_sha256 == plain.parameters_sha256
    first = log.rows()[0]
    values = initial_parameters(run.shape, run.seed)
    assert first["param_norm"] == pytest.approx(math.sqrt(sum(float((v**2).sum()) for v in values.values())), rel=1e-5)
    assert "grad_norm/layer0" not in first


def test_diagnostics_are_the_same_after_a_kill(dataset: PreparedDataset, data_root: Path, tmp_path: Path) -> None:
    run = spec(dataset, tokens=64 * 430, seq_len=16)  # a line every other step
    assert run.log_interval == 2
    _, straight = trained(run, tmp_path / "straight", data_root, asked("full"))
    for piece in (33, 100):
        with pytest.raises(Preempted):
            trained(
                run, tmp_path / "pieces", data_root, asked("full"),
                stop=lambda turns, piece=piece: "preempted" if turns > piece else None,
            )  # fmt: skip
    _, log = trained(run, tmp_path / "pieces", data_root, asked("full"))
    clock = ("train_seconds",)
    once = [{key: value for key, value in row.items() if key not in clock} for row in straight.rows()]
    again = [{key: value for key, value in row.items() if key not in clock} for row in log.rows()]
    assert once == again
    assert all(row["grad_norm_max"] >= row["grad_norm"] for row in once)


# ---------------------------------------------------------------- spikes


def test_a_spike_is_ten_times_the_running_median_and_its_tail_is_no_other() -> None:
    watch = SpikeWatch()
    assert [watch.look(step, 3.0, 1.0) for step in range(1, 31)] == [[]] * 30
    assert watch.look(31, 3.0, 9.9) == []
    [(kind, fields)] = watch.look(32, 3.0, 10.1)
    assert kind == "spike" and fields == {"step": 32, "grad_norm": 10.1, "median": 1.0, "ratio": 10.1}
    assert watch.look(33, 3.0, 50.0) == []
    [(kind, fields)] = watch.look(34, 3.6, 1.0)
    assert kind == "loss_spike" and fields["rise"] == 0.6
    for step in range(35, 60):
        assert watch.look(step, 3.0, 1.0) == []
    assert watch.look(60, math.nan, math.inf) == []
    kept = SpikeWatch(**json.loads(json.dumps(watch.to_dict())))
    assert kept.look(61, 3.0, 30.0) == watch.look(61, 3.0, 30.0) != []


def test_an_explosion_in_the_first_steps_is_told() -> None:
    watch = SpikeWatch()
    told = [watch.look(step, loss, 1.0) for step, loss in enumerate([6.1, 6.6, 1675.0, 382440.0, 5.545], start=1)]
    assert [[kind for kind, _ in events] for events in told] == [[], [], [], ["loss_spike"], []]


def test_a_norm_that_is_not_finite_is_a_spike_while_the_loss_is() -> None:
    watch = SpikeWatch()
    [(kind, fields)] = watch.look(1, 3.0, math.inf)
    assert kind == "spike" and fields == {"step": 1, "grad_norm": None, "median": None, "ratio": None}
    assert [watch.look(step, 3.0, 2.0) for step in range(2, 20)] == [[]] * 18
    [(kind, fields)] = watch.look(20, 3.0, math.nan)
    assert (kind, fields["median"]) == ("spike", 2.0)
    assert watch.look(40, math.nan, math.nan) == [], "the run ends by it"


def test_nothing_is_a_spike_before_there_is_a_median() -> None:
    watch = SpikeWatch()
    assert [watch.look(step, 3.0, norm) for step, norm in enumerate([1.0, 1.0, 100.0, 1.0], start=1)] == [[]] * 4


def test_a_run_pushed_into_instability_has_spikes_and_a_calm_one_has_none(
    dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    found = {}
    for lr in (0.3, 3.0):
        run = spec(
            dataset, "sgd", knobs={"lr": lr, "warmup": 0.4, "max_grad_norm": 0}, tokens=64 * 250, schedule="constant"
        )
        _, log = trained(run, tmp_path / str(lr), data_root)
        found[lr] = [event for event in events(log) if "spike" in event["kind"]]
    assert found[0.3] == []
    assert {event["kind"] for event in found[3.0]} == {"spike", "loss_spike"}
    for event in found[3.0]:
        if event["kind"] == "spike":
            assert event["grad_norm"] > 10 * event["median"]
        else:
            assert event["train_loss"] > event["median"] + 0.5
