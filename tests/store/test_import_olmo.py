"""OLMo sweeps as grids: the order of array tasks, budgets, translated knobs, everything without a counterpart listed."""

from __future__ import annotations

import itertools
import os
import random
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from optsweep_engines import models
from optsweep_tui import flow, gridfile, imports, settings
from optsweep_tui.errors import OptsweepError
from optsweep_tui.importers import protocol
from optsweep_tui.importers.olmo_sweep import ranges
from optsweep_tui.importers.protocol import Found
from optsweep_tui.settings import Workspace
from tests.store.test_import_marin import mutated_bytes

FUZZ = -(-int(os.environ.get("OPTSWEEP_FUZZ", "800")) // 32)

BASE = """
run_name: olmo
seed: 6
wandb: {name: "${run_name}"}
max_duration: 25000
global_train_batch_size: 256
device_train_microbatch_size: 32
optimizer:
  name: adamw
  learning_rate: 1.0e-3
  eps: 1.0e-15
  beta_0: 0.9
  beta_1: 0.95
  decouple_weight_decay: true
  weight_decay: 0.0
  decay_norm_and_bias: true
  metrics_log_interval: 100
scheduler: {name: cosine_with_warmup, t_warmup: 2500, alpha_0: 0.1, alpha_f: 0.1}
softmax_auxiliary_loss: true
model:
  max_sequence_length: 512
  n_kv_heads: ${model.n_heads}
  attention_layer_norm: true
  attention_dropout: 0.0
precision: amp_bf16
max_grad_norm: 1.0
data: {paths: "${path.glob:/data/*.npy}"}
save_folder: ${oc.env:HOME}/x
"""
MODEL = "model: {d_model: 512, n_heads: 8, mlp_hidden_size: 2048, n_layers: 32}\n"
N = 32 * (4 * 512 * 512 + 3 * 512 * 2048)


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return settings.workspace(tmp_path / "work")


def composed(folder: Path, sweep: str, base: str = BASE, model: str = MODEL) -> Path:
    """base+model+sweep as a user types it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("base", base), ("model", model), ("lr", sweep)):
        (folder / f"{name}.yaml").write_text(text)
    return Path("+".join(str(folder / f"{name}.yaml") for name in ("base", "model", "lr")))


def read(path: Path, mapping: Path | None = None) -> Found:
    return protocol.load_importer("olmo-sweep").read(protocol.Request(path=path, mapping=mapping))


def reasons(found: Found) -> str:
    return "\n".join(f"{entry.where}: {entry.why}" for entry in found.skipped)


def runs_of(found: Found) -> list[dict[str, Any]]:
    """The [[run]] tables, [defaults] put in."""
    (draft,) = found.grids.values()
    data = tomllib.loads(draft.text)
    return [{**run, "set": {**data.get("defaults", {}), **run.get("set", {})}} for run in data.get("run", [])]


def test_a_sweep_becomes_a_grid_whose_plan_has_the_order_of_the_array_tasks(tmp_path: Path, place: Workspace) -> None:
    sweep = """
        wandb: {group: lr}
        scheduler: {t_warmup: 1000}
        sweep:
          - optimizer: {name: adamw, learning_rate: [1e-4, 1.0e-3], beta_1: [0.9, 0.99]}
          - optimizer.name: lionw
            optimizer.learning_rate: [1.0e-5, 1.0e-4]
          - optimizer: {name: adamw, learning_rate: 3.16e-3}
        """
    path = composed(tmp_path, sweep)
    report = imports.import_results(place, "olmo-sweep", path=path)
    assert (report.runs, report.planned) == (0, 7) and report.grids == {"lr": str(place.grids / "lr.toml")}
    chosen = flow.plan(place, flow.Request(grid="lr"))
    expected = [("adamw", lr, beta) for lr, beta in itertools.product([1e-4, 1e-3], [0.9, 0.99])]
    expected += [("lion", 1e-5, 0.95), ("lion", 1e-4, 0.95), ("adamw", 3.16e-3, 0.95)]
    found = [(spec.optimizer, spec.hyperparameters["lr"], spec.hyperparameters["beta2"]) for spec in chosen.specs]
    assert found == expected
    for spec in chosen.specs:
        assert (spec.steps, spec.tokens, spec.batch_size, spec.seq_len) == (25000, 25000 * 256 * 512, 256, 512)
        assert (spec.model, spec.seed, spec.schedule, spec.dtype) == ("130m", 6, "cosine", "bf16")
        assert (spec.hyperparameters["warmup"], spec.hyperparameters["min_lr_ratio"]) == (1000, 0.1)
        assert spec.hyperparameters["max_grad_norm"] == 1 and spec.hyperparameters["weight_decay"] == 0
    assert chosen.specs[0].hyperparameters["eps"] == 1e-15
    again = imports.import_results(place, "olmo-sweep", path=path)
    assert again.grids == report.grids and again.planned == 7
    with pytest.raises(OptsweepError, match="holds another grid"):
        imports.import_results(place, "olmo-sweep", path=composed(tmp_path, "sweep: [{seed: 1}]"))


def test_axes_blocks_and_merging_are_those_of_the_study(tmp_path: Path) -> None:
    """An independent expansion of random sweeps: nested merge, flatten, product with the first list slowest."""
    rng = random.Random(3)
    keys = ["optimizer.learning_rate", "optimizer.beta_0", "optimizer.beta_1", "global_train_batch_size", "seed"]
    values = {
        "optimizer.learning_rate": [0.001, 0.002, 0.004],
        "optimizer.beta_0": [0.8, 0.9],
        "optimizer.beta_1": [0.95, 0.99],
        "global_train_batch_size": [128, 256],
        "seed": [1, 2],
    }

    def some() -> dict[str, Any]:
        chosen = rng.sample(keys, rng.randint(1, 4))
        return {key: rng.choice([values[key], values[key][:1], values[key][0], values[key][::-1]]) for key in chosen}

    defaults = dict(zip(keys, (1e-3, 0.9, 0.95, 256, 6), strict=True))
    for turn in range(8):
        common, blocks = some(), [some() for _ in range(rng.randint(1, 3))]
        expected: list[tuple[Any, ...]] = []
        for block in blocks:
            whole = {**common, **block}
            # Nested merging keeps the place of a table where it was first named, and of a key inside it.
            tables = list(dict.fromkeys(key.partition(".")[0] for key in whole))
            axes = {
                key: whole[key]
                for key in sorted(whole, key=lambda key: tables.index(key.partition(".")[0]))
                if isinstance(whole[key], list)
            }
            for combination in itertools.product(*axes.values()):
                values_of = {**defaults, **whole, **dict(zip(axes, combination, strict=True))}
                expected.append(tuple(values_of[key] for key in keys))
        path = composed(tmp_path / str(turn), yaml.safe_dump({**common, "sweep": blocks}, sort_keys=False))
        found = [
            (*(run["set"][key] for key in ("lr", "beta1", "beta2", "batch_size")), run["seed"])
            for run in runs_of(read(path))
        ]
        assert found == list(dict.fromkeys(expected))


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("{optimizer: {name: sgdw, learning_rate: 1.0, beta_0: 0.98, use_dampening: true, nesterov: true}}",
         {"optimizer": "sgd", "lr": 1.0, "momentum": 0.98, "dampening": 0.98, "nesterov": True}),
        ("{optimizer: {name: signsgd, beta_0: 0.9}}", {"optimizer": "signum", "beta1": 0.9}),
        ("{optimizer: {tie_betas: true, beta_0: 0.8}}", {"beta1": 0.8, "beta2": 0.8}),
        # Decoupled decay is that study's name for a decay that is divided by the learning rate.
        ("{optimizer: {weight_decay: 1.0e-4, learning_rate: 1.0e-3}}", {"weight_decay": 0.1}),
        ("{optimizer: {weight_decay: 0.1, decouple_weight_decay: false}}", {"weight_decay": 0.1}),
        ("{optimizer: {name: adalayerw_last, learning_rate: 3160, lr_last: 3.16e-3, update_norm: true, update_last: true}}",
         {"optimizer": "adalayer_last", "lr": 3160, "lr_last": 3.16e-3, "update_norm": True}),
        ("{optimizer: {name: adalayerw_last, learning_rate: 10.0, lr_last_multiplier: 0.1}}", {"lr_last": 1.0}),
        ("{optimizer: {name: adalayerw, t_freeze: 1000}, scheduler: {name: freeze_cosine_with_warmup}, max_duration: 26000}",
         {"optimizer": "adalayer_frozen", "t_freeze": 1000, "schedule": "freeze_cosine_with_warmup", "steps": 26000}),
        ("{max_duration: 3e9T}", {"steps": 3_000_000_000 // (256 * 512)}),
        ("{scheduler: {t_warmup: 131072000, units: tokens}}", {"warmup": 1000}),
        ("{scheduler: {name: linear_with_warmup, alpha_f: 0.0}}", {"schedule": "linear", "min_lr_ratio": 0}),
        ("{scheduler: {name: constant}}", {"schedule": "constant"}),
        ("{global_train_batch_size: 1024, max_duration: 6250}", {"batch_size": 1024, "steps": 6250}),
        ("{precision: fp32, max_grad_norm: null}", {"dtype": "fp32", "max_grad_norm": 0}),
        ("{optimizer: {name: adafactorw, neuron_only: true}}", {"optimizer": "adafactorw", "neuron_only": True}),
    ],
)  # fmt: skip
def test_every_field_of_the_study_has_its_meaning(block: str, expected: dict[str, Any], tmp_path: Path) -> None:
    (run,) = runs_of(read(composed(tmp_path, f"sweep: [{block}]")))
    found = {**run["set"], "optimizer": run["optimizer"]}
    found["steps"] = round(run["chinchilla"] * 20 * N) // (found["batch_size"] * found["seq_len"])
    for key, value in expected.items():
        assert found[key] == pytest.approx(value) if isinstance(value, float) else found[key] == value, key


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("{optimizer: {name: nosuch}}", "array task 1: optimizer 'nosuch' is not in the catalogue"),
        ("{model: {n_layers: 7}}", "width/heads/mlp/layers 512/8/2048/7"),
        ("{stop_at: 100}", "its learning rate never ends its schedule"),
        ("{scheduler: {name: inverse_sqrt_with_warmup}}", "has no counterpart"),
        ("{max_duration: 1ep}", "neither steps nor tokens"),
        ("{max_duration: .inf}", "neither steps nor tokens"),
        ("{optimizer: {learning_rate: 1.0e+9}}", "outside"),
        ("{optimizer: {learning_rate: fast}}", "is not a number"),
        ("{global_train_batch_size: [1.5, 2]}", "array task 1: global_train_batch_size = 1.5 is not a positive whole number"),
        ("{optimizer: {metrics_log_interval: [1, 2]}}", "array task 2: the same run as 1"),
        ("{model: {attention_dropout: 0.1}}", "model.attention_dropout: 0.1 has no counterpart"),
        ("{model: {n_kv_heads: 2}}", "model.n_kv_heads: 2 has no counterpart"),
        ("{optimizer: {weight_decay: 0.1}}", "norms and biases are never decayed here"),
        ("{seed: []}", "a block has an empty list"),
        ("{seed: 1}", "data and evaluators: not read"),
        ("{seed: 1}", "alpha_0: 0.1: there the warmup begins"),
        ("{seed: 1}", "not read: run_name, wandb, device_train_microbatch_size"),
        ("{seed: 1}", "softmax_auxiliary_loss: True has no counterpart"),
    ],
)  # fmt: skip
def test_what_has_no_counterpart_is_listed(block: str, said: str, tmp_path: Path) -> None:
    assert said in reasons(read(composed(tmp_path, f"sweep: [{block}]")))


def test_a_mapping_names_the_model_and_the_dataset(tmp_path: Path, place: Workspace) -> None:
    mapping = tmp_path / "m.toml"
    mapping.write_text('study = "mine"\n[constants]\nmodel = "bench-micro"\ndataset = "embedded"\n')
    sweep = "global_train_batch_size: 4\nmodel: {max_sequence_length: 64}\nmax_duration: 50\n"
    sweep += "sweep: [{optimizer.learning_rate: [1.0e-3, 2.0e-3]}]\n"
    out = tmp_path / "here.toml"
    report = imports.import_results(place, "olmo-sweep", path=composed(tmp_path / "a", sweep), mapping=mapping, out=out)
    assert report.grids == {"mine": str(out)} and report.planned == 2 and not place.root.exists()
    study = gridfile.load(str(out))
    assert study.dataset == "embedded"
    specs = flow.plan(place, flow.Request(grid=str(out))).specs
    assert [spec.steps for spec in specs] == [50, 50] and specs[0].shape == models.model("bench-micro").shape


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"a.yaml": "x: 1"}, "none of the files has a list of blocks"),
        ({"a.yaml": "sweep: 3"}, "is not a list of tables"),
        ({"a.yaml": "sweep: [1]"}, "is not a list of tables"),
        ({"a.yaml": "3"}, "holds no table"),
        ({"a.yaml": "sweep: [{}]", "b.yaml": "sweep: [{}]"}, "a second sweep"),
        ({"a.yaml": "x: [", "b.yaml": "sweep: [{}]"}, "is not YAML"),
        ({"a.yaml": f"sweep: [{{a: {list(range(400))}, b: {list(range(400))}}}]"}, "more than 100,000"),
    ],
)
def test_a_wrong_composition_is_one_line(parts: dict[str, str], said: str, tmp_path: Path) -> None:
    for name, text in parts.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(OptsweepError) as caught:
        read(Path("+".join(str(tmp_path / name) for name in parts)))
    assert said in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(OptsweepError, match="cannot be read"):
        read(tmp_path / "nowhere.yaml")


def test_the_name_of_a_shipped_grid_is_not_taken(tmp_path: Path, place: Workspace) -> None:
    with pytest.raises(OptsweepError, match="shipped grid"):
        imports.import_results(place, "olmo-sweep", path=composed(tmp_path, "sweep: [{}]"), study="quickstart")


ODD = ["[1, 2]", "{a: 1}", "null", "true", ".nan", "2024-01-01", "!!binary aGk=", "'x'", "-1", "1e999"]


@pytest.mark.parametrize("odd", ODD)
def test_any_kind_of_value_anywhere_is_taken_or_listed(odd: str, tmp_path: Path) -> None:
    fields = [key for key in yaml.safe_load(BASE) if key != "model"]
    fields += [f"{table}.{key}" for table in ("optimizer", "scheduler", "model") for key in yaml.safe_load(BASE)[table]]
    fields += ["stop_at", "optimizer.t_freeze", "scheduler.t_max", "scheduler.units", "model.d_model"]
    # A third of the fields for each value; every field meets several kinds.
    for place, field in enumerate(fields[ODD.index(odd) % 3 :: 3]):
        table, _, key = field.rpartition(".")
        text = f"{table}: {{{key}: {odd}}}" if table else f"{key}: {odd}"
        if table == "model":
            path = composed(tmp_path / str(place), f"{text}\nsweep: [{{seed: 1}}]\n")
        else:
            path = composed(tmp_path / str(place), "sweep: [{seed: 1}]", model=f"{MODEL}{text}\n")
        found = read(path)
        assert found.skipped and all("\n" not in entry.why for entry in found.skipped), field
        for draft in found.grids.values():
            if draft.runs:
                gridfile.parse(tomllib.loads(draft.text), "x", "x")


def test_a_sweep_that_is_a_bare_list_and_ranges(tmp_path: Path) -> None:
    assert len(runs_of(read(composed(tmp_path, "- seed: [1, 2]\n")))) == 2
    assert ranges([1, 2, 3, 7, 9, 10]) == "1-3, 7, 9-10"


@pytest.mark.timeout(7200)
def test_mutated_sweeps_end_in_a_listed_skip_or_one_line(tmp_path: Path) -> None:
    rng = random.Random(5)
    sweep = "sweep:\n  - optimizer: {name: [adamw, lionw], learning_rate: [1e-4, .nan, 100000000000000]}\n    seed: [1, 2]\n"
    path = composed(tmp_path, sweep)
    texts = {file: file.read_bytes() for file in tmp_path.glob("*.yaml")}
    planned = 0
    for turn in range(FUZZ):
        victim = rng.choice(sorted(texts))
        victim.write_bytes(mutated_bytes(rng, texts[victim]) if turn else texts[victim])
        try:
            found = read(path)
        except OptsweepError as error:
            assert "\n" not in str(error)
        else:
            assert all(entry.why and "\n" not in entry.why for entry in found.skipped)
            for draft in found.grids.values():
                if draft.runs:
                    gridfile.parse(tomllib.loads(draft.text), "x", "x")
                    planned += 1
        victim.write_bytes(texts[victim])
    assert planned > FUZZ // 10
