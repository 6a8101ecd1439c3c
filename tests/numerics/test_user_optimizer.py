"""A user's own optimizer in the torch engine: what it sees, that it equals the catalogue's, that its resume is exact."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from optsweep_engines.data import PreparedDataset
from optsweep_engines.models import parameter_table
from optsweep_engines.optimizers import user
from optsweep_engines.optimizers.catalogue import run_knobs
from optsweep_engines.optimizers.user import OwnOptimizerError, Source
from optsweep_engines.properties.attempt import tried
from optsweep_engines.properties.check import checked
from optsweep_engines.spec import RunRecord, RunSpec, Scalar
from optsweep_engines.torch_engine import TorchEngine
from optsweep_engines.torch_engine.train import Trainer
from optsweep_engines.torch_engine.user import ClassOptimizer
from tests.numerics.run_log import FolderLog
from tests.numerics.test_resume import in_pieces
from tests.numerics.toy import shape, spec

HEAD = "import collections, math, random\nimport torch\nfrom torch.optim import Optimizer\n\n"

ADAMW_CLASS = """
class Mine(torch.optim.AdamW):
    pass
"""

ADAMW_RULE = """
def init(xp, param, hp):
    return {"m": xp.zeros_like(param), "v": xp.zeros_like(param)}

def mine(xp, param, grad, state, step, hp, *, lr=0.02, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1):
    m = beta1 * state["m"] + (1 - beta1) * grad
    v = beta2 * state["v"] + (1 - beta2) * grad * grad
    root = xp.sqrt(v / (1 - beta2**step)) + eps
    return param * (1 - lr * weight_decay) - lr * (m / (1 - beta1**step)) / root, {"m": m, "v": v}
"""

STEP = """
class Mine(Optimizer):
    def __init__(self, params, lr=0.02):
        super().__init__(params, {"lr": lr})
        self.before = self.start()

    def start(self):
        return None

    @torch.no_grad()
    def step(self):
        self.now()
        for group in self.param_groups:
            for p in group["params"]:
                self.move(p, group["lr"], self.state[p])

    def now(self):
        pass
"""

ODD: dict[str, str] = {
    "a counter of its own": """
    def start(self): self.t = 0
    def now(self): self.t += 1
    def move(self, p, lr, state): p.sub_(p.grad, alpha=lr / math.sqrt(self.t))
""",
    "a deque of gradients": """
    def move(self, p, lr, state):
        held = state.setdefault("last", collections.deque(maxlen=3))
        held.append(p.grad)
        p.sub_(sum(held), alpha=lr)
""",
    "torch's own noise": """
    def move(self, p, lr, state): p.sub_(p.grad + 0.01 * torch.randn_like(p), alpha=lr)
""",
    "a stream of random numbers": """
    def start(self): self.stream = random.Random(3)
    def move(self, p, lr, state): p.sub_(p.grad, alpha=lr * self.stream.random())
""",
    "a torch generator": """
    def start(self): self.generator = torch.Generator().manual_seed(1)
    def move(self, p, lr, state): p.sub_(p.grad, alpha=lr * float(torch.rand((), generator=self.generator)))
""",
    "a float64 average": """
    def move(self, p, lr, state):
        m = state.setdefault("m", torch.zeros_like(p, dtype=torch.float64))
        m.lerp_(p.grad.double(), 0.1)
        p.sub_(m.to(p.dtype), alpha=lr)
""",
    "state by parameter in a dict of its own": """
    def start(self): self.held = {}
    def move(self, p, lr, state):
        m = self.held.setdefault(p, torch.zeros_like(p))
        m.lerp_(p.grad, 0.1)
        p.sub_(m, alpha=lr)
""",
    "p.data replaced": """
    def move(self, p, lr, state):
        state["m"] = 0.9 * state.get("m", 0) + p.grad
        p.data = p.data - lr * state["m"]
""",
    "numbers in the group": """
    def now(self):
        for group in self.param_groups:
            group["k"] = group.get("k", 0) + 1
    def move(self, p, lr, state): p.sub_(p.grad, alpha=lr / self.param_groups[0]["k"])
""",
}


def planted(
    dataset: PreparedDataset, folder: Path, text: str, knobs: Mapping[str, Scalar] | None = None, **changes: Any
) -> tuple[RunSpec, Path]:
    """A spec of a file's optimizer, and the run folder that holds its copy."""
    content = (HEAD + text).encode()
    digest = hashlib.sha256(content).hexdigest()
    base = spec(dataset, "adamw", **changes)
    found = user.find(user.run_module(Source(label="mine.py", stem="mine", content=content)), None, "mine.py")
    shared = {knob.name: base.hyperparameters[knob.name] for knob in run_knobs(base.schedule)}
    own = {"lr": 0.02, **(knobs or {})}
    run = base.replace(
        optimizer=user.own_name("mine", found.name, digest),
        optimizer_file_hash=digest,
        hyperparameters={**shared, **own},
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "optimizer.py").write_bytes(content)
    return run, folder


def train(run: RunSpec, folder: Path, data_root: Path) -> RunRecord:
    return TorchEngine().train(run, FolderLog(folder, data_root))


# ---------------------------------------------------------------- equal to the catalogue's


ADAM_KNOBS: dict[str, dict[str, Scalar]] = {
    ADAMW_CLASS: {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "amsgrad": False},
    ADAMW_RULE: {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1},
}


@pytest.mark.parametrize("text", [ADAMW_CLASS, ADAMW_RULE], ids=["class", "rule"])
def test_a_file_s_adamw_trains_as_the_catalogue_s(
    text: str, dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    """Schedule, clipping, weight decay by role: all that surrounds the rule is the same."""
    ours = train(spec(dataset, "adamw", knobs={"weight_decay": 0.1, "eps": 1e-8}), tmp_path / "ours", data_root)
    run, folder = planted(dataset, tmp_path / "theirs", text, ADAM_KNOBS[text])
    theirs = train(run, folder, data_root)
    assert theirs.status == "done"
    assert theirs.val_loss == pytest.approx(ours.val_loss, rel=1e-5)  # float32, 40 steps
    rows = [FolderLog(tmp_path / name, data_root).rows() for name in ("ours", "theirs")]
    assert [row["lr"] for row in rows[0]] == [row["lr"] for row in rows[1]]
    assert ours.optimizer_state_bytes is not None and theirs.optimizer_state_bytes is not None
    counters = 4 * 7 * 2 + 4 * (2 + 2) + 4 * 3  # torch keeps a number of steps per tensor
    assert 0 <= theirs.optimizer_state_bytes - ours.optimizer_state_bytes <= 4 * 30 + counters


# ---------------------------------------------------------------- what a class sees


def of_trainer(run: RunSpec, folder: Path, data_root: Path) -> ClassOptimizer:
    made = Trainer(run, data_root, torch.device("cpu"), folder / "optimizer.py").optimizer
    assert isinstance(made, ClassOptimizer)
    return made


def test_a_class_sees_a_leaf_per_layer_and_a_group_per_role(
    dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    run, folder = planted(dataset, tmp_path, ADAMW_CLASS, ADAM_KNOBS[ADAMW_CLASS])
    optimizer = of_trainer(run, folder, data_root)
    groups = {group["role"]: group for group in optimizer.optimizer.param_groups}
    table = parameter_table(shape())
    assert set(groups) == {item.role for item in table}
    assert groups["norm"]["weight_decay"] == 0.0
    assert {group["weight_decay"] for role, group in groups.items() if role != "norm"} == {0.1}
    assert len(groups["q"]["params"]) == 2 and groups["q"]["names"] == ["q.0", "q.1"]
    for item in table:
        for leaf in groups[item.role]["params"]:
            assert leaf.is_leaf and leaf.requires_grad and leaf.dim() == (1 if item.role == "norm" else 2)


def test_what_a_constructor_scaled_stays_scaled_under_the_schedule(
    dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    text = """
class Mine(torch.optim.SGD):
    def __init__(self, params, lr=0.02):
        for group in params:
            group["lr"] = lr * (0.1 if group["role"] == "embedding" else 1.0)
        super().__init__(params, lr=lr)
"""
    run, folder = planted(dataset, tmp_path, text)
    optimizer = of_trainer(run, folder, data_root)
    grads = {item.name: torch.zeros(item.shape) for item in parameter_table(shape())}
    optimizer.step(grads, 1, 0.01)
    lrs = {group["role"]: group["lr"] for group in optimizer.optimizer.param_groups}
    assert lrs["head"] == 0.01 and lrs["embedding"] == pytest.approx(0.001)


# ---------------------------------------------------------------- resume


@pytest.mark.parametrize("kind", sorted(ODD))
def test_a_class_in_pieces_equals_the_straight_run_whatever_it_keeps(
    kind: str, dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    run, folder = planted(dataset, tmp_path / "straight", STEP + ODD[kind])
    straight = train(run, folder, data_root)
    run, folder = planted(dataset, tmp_path / "pieces", STEP + ODD[kind])
    resumed = in_pieces(run, folder, data_root, [1, 13, 5])
    assert straight.status == "done" and resumed.resumed_from_step == 19
    assert resumed.parameters_sha256 == straight.parameters_sha256
    assert resumed.optimizer_state_bytes == straight.optimizer_state_bytes


@pytest.mark.parametrize("name", ["ScheduleFreeAdamW", "Prodigy", "SOAP", "Lion"])
def test_a_class_of_the_package_in_pieces_equals_the_straight_run(
    name: str, dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    found, version = user.package_class(name.lower())
    assert found.name == name
    from optsweep_engines.optimizers.user_knobs import signature

    made = signature(found.target, ("params",), name)
    base = spec(dataset, "adamw", validation_interval=9)
    shared = {knob.name: base.hyperparameters[knob.name] for knob in run_knobs(base.schedule)}
    knobs = {knob.name: knob.default for knob in made.knobs} | {"lr": 1.0 if name == "Prodigy" else 0.01}
    run = base.replace(optimizer=f"pytorch_optimizer:{name}", hyperparameters={**knobs, **shared})
    straight = train(run, tmp_path / "straight", data_root)
    resumed = in_pieces(run, tmp_path / "pieces", data_root, [1, 13, 5])
    assert straight.status == "done" and math.isfinite(straight.val_loss or math.nan)
    assert resumed.parameters_sha256 == straight.parameters_sha256
    assert resumed.val_loss == straight.val_loss
    assert straight.versions["pytorch_optimizer"] == version


def test_evaluation_of_a_schedule_free_class_is_elsewhere_and_leaves_no_trace(
    dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    found, _ = user.package_class("ScheduleFreeAdamW")
    base = spec(dataset, "adamw")
    run = base.replace(optimizer="pytorch_optimizer:ScheduleFreeAdamW")
    from optsweep_engines.optimizers.user_knobs import signature

    made = signature(found.target, ("params",), "x")
    knobs = {knob.name: knob.default for knob in made.knobs} | dict(run.hyperparameters)
    trainer = Trainer(run.replace(hyperparameters=knobs), data_root, torch.device("cpu"))
    for step in range(5):
        trainer.step(step)
    before = {name: value.detach().clone() for name, value in trainer.params.items()}
    with trainer.optimizer.evaluated():
        assert any(not torch.equal(value, before[name]) for name, value in trainer.params.items())
    assert all(torch.equal(value, before[name]) for name, value in trainer.params.items())


# ---------------------------------------------------------------- what goes wrong


def test_a_step_that_raises_says_where(dataset: PreparedDataset, data_root: Path, tmp_path: Path) -> None:
    moves = "    def start(self): self.t = 0\n    def now(self):\n        self.t += 1\n"
    moves += "        if self.t == 5: raise RuntimeError('boom')\n    def move(self, p, lr, state): pass\n"
    run, folder = planted(dataset, tmp_path, STEP + moves)
    line = (HEAD + STEP + moves).splitlines().index("        if self.t == 5: raise RuntimeError('boom')") + 1
    with pytest.raises(OwnOptimizerError, match=rf"mine.py line {line}: RuntimeError: boom"):
        train(run, folder, data_root)


def test_another_content_in_the_run_folder_is_not_trained(
    dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    run, folder = planted(dataset, tmp_path, ADAMW_CLASS, ADAM_KNOBS[ADAMW_CLASS])
    (folder / "optimizer.py").write_text(HEAD + ADAMW_CLASS + "# edited\n")
    with pytest.raises(OwnOptimizerError, match="was changed"):
        train(run, folder, data_root)
    (folder / "optimizer.py").unlink()
    with pytest.raises(OwnOptimizerError, match=r"lacks optimizer\.py"):
        train(run, folder, data_root)


TROUBLE: dict[str, tuple[str, str]] = {
    "raises at once": (STEP + "    def move(self, p, lr, state): raise ValueError('no')\n", "ValueError: no"),
    "cannot be saved": (
        STEP + "    def move(self, p, lr, state): state['f'] = open\n",
        "builtin_function_or_method .*checkpoint cannot keep",
    ),
    "holds what cannot be saved": (
        STEP + "    def start(self): self.rows = iter([1])\n    def move(self, p, lr, state): pass\n",
        "list_iterator .*checkpoint cannot keep",
    ),
    "needs a closure": (STEP.replace("def step(self)", "def step(self, closure)"), "closure"),
    "refuses its knobs": (
        "class Mine(Optimizer):\n    def __init__(self, params, lr=0.1):\n        raise ValueError('lr is odd')\n",
        "constructor: mine.py line 7: ValueError: lr is odd",
    ),
    "another state than it began with": (
        ADAMW_RULE.replace('"v": v}', '"w": v}'),
        r"returns the state \['m', 'w'\], it began with \['m', 'v'\]",
    ),
    "no pair": (
        "def mine(xp, param, grad, state, step, hp, *, lr=0.1):\n    return param\n",
        "return \\(param, state\\)",
    ),
    "another shape": (
        "def mine(xp, param, grad, state, step, hp, *, lr=0.1):\n    return param[:1], {}\n",
        "another shape",
    ),
}


@pytest.mark.parametrize("case", sorted(TROUBLE))
def test_a_trial_finds_what_would_fail(case: str) -> None:
    text, words = TROUBLE[case]
    content = (HEAD + text).encode()
    found = user.find(user.run_module(Source(label="mine.py", stem="mine", content=content)), None, "mine.py")
    knobs = {"lr": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
    with pytest.raises(OwnOptimizerError, match=words):
        tried(found, "mine.py", knobs, "linear")


def test_a_trial_measures_the_state(dataset: PreparedDataset) -> None:
    for text in (ADAMW_CLASS, ADAMW_RULE):
        source = Source(label="mine.py", stem="mine", content=(HEAD + text).encode())
        found = user.find(user.run_module(source), None, "mine.py")
        state = tried(found, "mine.py", {"lr": 0.1, **ADAM_KNOBS[text]}, "linear")
        assert state["matrix"] == pytest.approx(2, rel=1e-3) and state["vector"] == pytest.approx(2, rel=0.02)


# ---------------------------------------------------------------- the list of properties on one's own


def verdicts(text: str) -> dict[str, str]:
    """Property -> reason, of those that do not hold."""
    source = Source(label="mine.py", stem="mine", content=(HEAD + text).encode())
    found = user.find(user.run_module(source), None, "mine.py")
    return {row["property"]: row["reason"] for row in checked(found, "mine.py") if not row["passed"]}


@pytest.mark.parametrize("text", [ADAMW_CLASS, ADAMW_RULE], ids=["class", "rule"])
def test_every_property_holds_for_adamw(text: str) -> None:
    assert verdicts(text) == {}


BROKEN: dict[str, tuple[str, str]] = {
    "a knob that no line reads": (
        ADAMW_RULE.replace("weight_decay=0.1", "weight_decay=0.1, gamma=0.5"),
        "every knob changes the trajectory",
    ),
    "a norm over the whole bank": (
        ADAMW_RULE.replace("+ (1 - beta1) * grad", "+ (1 - beta1) * grad / xp.sqrt(xp.sum(grad * grad))"),
        "a stacked bank is its slices",
    ),
    "writes into its state": (
        ADAMW_RULE.replace('m = beta1 * state["m"]', 'm = state["m"]; m *= beta1; m = m'),
        "writes into no argument",
    ),
    "uphill": (ADAMW_RULE.replace("- lr * (m", "+ lr * (m"), "converges on a quadratic"),
    "swallows NaN": (ADAMW_RULE.replace("    m = beta1", "    grad = xp.nan_to_num(grad)\n    m = beta1").replace(
        "xp.nan_to_num(grad)", "xp.where(grad == grad, grad, xp.zeros_like(grad))"), "a NaN gradient shows"),
    "a NaN in its state": (
        ADAMW_RULE.replace('{"m": m, "v": v}\n', '{"m": m, "v": v, "x": state["x"]}\n').replace(
            'xp.zeros_like(param)}', 'xp.zeros_like(param), "x": xp.zeros_like(param) + float("nan")}'
        ),
        "works on every shape",
    ),
    "0 / 0": (ADAMW_RULE.replace(" + eps", ""), "a zero gradient is survived"),
    "raises the type": (
        ADAMW_RULE.replace("return param *", "param = xp.astype(param, xp.float64)\n    return param *"),
        "keeps dtypes and shapes",
    ),
    "state outside": (
        "SEEN = []\n" + ADAMW_RULE.replace("    root =", "    SEEN.append(1)\n    lr = lr / len(SEEN) ** 0.1\n    root ="),
        "saves and loads exactly",
    ),
    "memory that grows": (
        STEP
        + "    def move(self, p, lr, state):\n        state.setdefault('all', []).append(p.grad)\n"
        + "        p.sub_(p.grad, alpha=lr)\n",
        "state size",
    ),
    "one tensor left alone": (
        STEP + "    def move(self, p, lr, state):\n        if p.dim() == 2: p.sub_(p.grad, alpha=lr)\n",
        "works on every shape",
    ),
}  # fmt: skip


def test_an_optimizer_that_raises_is_told_so_and_passes_nothing_by_it() -> None:
    found = verdicts(STEP + "    def move(self, p, lr, state): raise ValueError('no\\nway')\n")
    assert (
        "it raises at every learning rate tried: mine.py line 23: ValueError: no way"
        in found["converges on a quadratic"]
    )
    for name in ("a NaN gradient shows", "an infinite gradient is survived or shown", "works on every shape"):
        assert found[name].endswith("ValueError: no way"), name


def test_an_optimizer_that_raises_on_a_nan_shows_it() -> None:
    text = (
        STEP
        + "    def move(self, p, lr, state):\n        assert p.grad.isfinite().all(), 'bad'\n        p.sub_(p.grad, alpha=lr)\n"
    )
    assert verdicts(text) == {}


def test_what_is_broken_elsewhere_is_not_called_a_write_into_an_argument() -> None:
    text, _ = BROKEN["a NaN in its state"]
    assert set(verdicts(text)) == {"works on every shape"}


@pytest.mark.parametrize("case", sorted(BROKEN))
def test_what_is_broken_fails_its_property(case: str) -> None:
    text, name = BROKEN[case]
    assert name in verdicts(text)
