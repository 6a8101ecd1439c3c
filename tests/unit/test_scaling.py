"""The studies that ship as grids give their published steps; `--scale tiny` keeps everything of a plan but its size."""

from __future__ import annotations

from pathlib import Path

import pytest

from optsweep_tui import flow, settings
from optsweep_tui.core import RunSpec
from optsweep_tui.errors import OptsweepError

PUBLISHED_STEPS = {
    # arXiv 2407.07972 and its code: 25k, 50k, 100k, 200k steps of 256 x 512, t_freeze on top.
    ("olmo", "olmo-150m", "adamw"): 25_000,
    ("olmo", "olmo-150m", "adalayer_frozen"): 26_000,
    ("olmo", "olmo-300m", "sgd"): 50_000,
    ("olmo", "olmo-600m", "lion"): 100_000,
    ("olmo", "olmo-1.2b", "adamw"): 200_000,
    # modded-nanogpt, records of October 2024: 5100 steps of 512 x 1024.
    ("speedrun", "speedrun-124m", "muon"): 5100,
    ("speedrun", "speedrun-124m", "soap"): 5100,
    # nanoGPT: max_iters of config/train_shakespeare_char.py and of train.py.
    ("minimal", "gpt2-tiny", "adamw"): 5000,
    ("minimal", "gpt2-124m", "adamw"): 600_000,
    # arXiv 2509.02046: cells.csv.
    ("reference", "130m", "adamw"): 5120,
}
TOKENS_PER_STEP = {"olmo": 256 * 512, "speedrun": 512 * 1024, "gpt2-tiny": 64 * 256, "gpt2-124m": 480 * 1024}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> settings.Workspace:
    return settings.workspace(tmp_path_factory.mktemp("work"))


def planned(place: settings.Workspace, grid: str, **request: object) -> list[RunSpec]:
    return flow.plan(place, flow.Request(grid=grid, **request)).specs  # type: ignore[arg-type]


@pytest.mark.parametrize(("grid", "model", "optimizer"), sorted(PUBLISHED_STEPS))
def test_a_shipped_study_has_its_published_steps(
    place: settings.Workspace, grid: str, model: str, optimizer: str
) -> None:
    more = {"chinchillas": ("1",)} if grid == "reference" else {}
    first = planned(place, grid, optimizers=(optimizer,), models=(model,), limit=1, **more)[0]
    assert first.steps == PUBLISHED_STEPS[grid, model, optimizer]
    expected = TOKENS_PER_STEP.get(grid) or TOKENS_PER_STEP.get(model)
    assert expected is None or first.tokens_per_step == expected


def test_a_batch_swept_at_constant_tokens_changes_the_steps(place: settings.Workspace) -> None:
    specs = planned(place, "olmo", optimizers=("adamw",), models=("olmo-150m",))
    assert {(spec.batch_size, spec.steps) for spec in specs} == {
        (128, 50_000), (256, 25_000), (512, 12_500), (1024, 6_250)
    }  # fmt: skip


def test_the_decay_of_the_speedrun_takes_its_last_1450_steps(place: settings.Workspace) -> None:
    for spec in planned(place, "speedrun"):
        assert round(float(spec.hyperparameters["decay"] or 0) * spec.steps) == 1450
        assert spec.hyperparameters["warmup"] == (0 if spec.optimizer == "muon" else 250)


@pytest.mark.parametrize(
    ("grid", "family"), [("olmo", "olmo"), ("speedrun", "speedrun"), ("minimal", "gpt2"), ("stability", "olmo")]
)
def test_a_scaled_plan_is_the_same_plan_on_two_layers(place: settings.Workspace, grid: str, family: str) -> None:
    whole, small = planned(place, grid), planned(place, grid, scale="tiny")
    shape = small[0].shape
    assert (shape.family, shape.layers, shape.width, shape.vocab_size) == (family, 2, 64, 256)
    assert {(spec.dataset, spec.dtype, spec.seq_len) for spec in small} == {("embedded", "fp32", 128)}
    assert {spec.tokens for spec in small} == {100 * 8 * 128}
    assert {spec.optimizer for spec in small} == {spec.optimizer for spec in whole}

    def kept(spec: RunSpec) -> tuple[object, ...]:
        knobs = {key: value for key, value in spec.hyperparameters.items() if key not in ("warmup", "t_freeze")}
        shape = spec.shape
        return (
            spec.optimizer, spec.schedule, spec.seed, tuple(sorted(knobs.items())),
            shape.qk_norm, shape.activation, shape.biases, shape.tied_embeddings,
        )  # fmt: skip

    assert {kept(spec) for spec in small} == {kept(spec) for spec in whole}
    assert len({spec.run_id for spec in small}) == len(small)


def test_steps_of_warmup_become_the_same_fraction_and_batches_the_same_factor(place: settings.Workspace) -> None:
    small = planned(place, "olmo", scale="tiny", optimizers=("adamw",), models=("olmo-150m",))
    fractions = {float(spec.hyperparameters["warmup"] or 0) for spec in small}
    assert fractions == {0.1, 0.02, 0.05, 0.2, 0.4, 0.6, 0.8}  # 500 ... 20000 of 25,000
    assert {(spec.batch_size, spec.steps) for spec in small} == {(4, 200), (8, 100), (16, 50), (32, 25)}


def test_a_scaled_plan_is_a_study_of_its_own(place: settings.Workspace) -> None:
    assert flow.plan(place, flow.Request(grid="speedrun", scale="tiny")).study.name == "speedrun-tiny"
    with pytest.raises(OptsweepError, match='--scale "huge"'):
        flow.plan(place, flow.Request(grid="speedrun", scale="huge"))


def test_a_cell_says_how_long_in_one_way(place: settings.Workspace, tmp_path: Path) -> None:
    def refused(lines: str) -> str:
        path = tmp_path / "own.toml"
        path.write_text(f'[[cells]]\noptimizer = ["adamw"]\nmodel = ["bench-micro"]\n{lines}\n')
        with pytest.raises(OptsweepError) as raised:
            planned(place, str(path))
        return str(raised.value)

    assert "steps = 0 is not a positive whole number" in refused("steps = [0]")
    assert "steps = 1.5 is not" in refused("steps = [1.5]")
    assert "both say how long" in refused("steps = [10]\nchinchilla = [1]")
    assert "steps is missing or empty" in refused("steps = []")
