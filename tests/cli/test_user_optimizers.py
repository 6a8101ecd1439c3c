"""A user's own optimizer at the command line: planned, refused with one line, checked; nothing changes on disk."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from optsweep_engines.optimizers import catalogue, user_plan
from optsweep_tui import grid, gridfile
from optsweep_tui.cli.root import run_command
from optsweep_tui.errors import OptsweepError

RULE = """
def init(xp, param, hp):
    return {"m": xp.zeros_like(param)}


def mine(xp, param, grad, state, step, hp, *, lr=0.01, beta=0.9, weight_decay=0.1):
    \"\"\"Momentum.\"\"\"
    m = beta * state["m"] + (1 - beta) * grad
    return param - lr * (m + weight_decay * param), {"m": m}
"""

CLASS = """
import torch


class Mine(torch.optim.SGD):
    def __init__(self, params, lr=0.1, momentum=0.9):
        if momentum >= 1:
            raise ValueError("momentum must be below 1")
        super().__init__(params, lr=lr, momentum=momentum)
"""

CELL = ["-m", "bench-micro", "-c", "0.01", "--set", "batch_size=4", "--set", "seq_len=32"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPTSWEEP_WORKSPACE", raising=False)
    for module, name in ((catalogue, "_registered"), (user_plan, "_planned")):
        monkeypatch.setattr(module, name, {})  # as in a process of its own
    return tmp_path


def plan(capfd: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    """The runs of a dry run."""
    code = run_command(["run", *arguments, *CELL, "--dry-run", "--json", "-w", "w"])
    said = capfd.readouterr()
    assert code == 0, said.err
    runs: list[dict[str, Any]] = json.loads(said.out)["runs"]
    return runs


def test_a_file_s_optimizer_is_named_hashed_and_has_its_knobs(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (here / "mine.py").write_text(RULE)
    digest = hashlib.sha256(RULE.encode()).hexdigest()
    name = f"mine:mine@{digest[:6]}"
    (run,) = plan(capfd, "-o", "./mine.py:mine")
    assert run["optimizer"] == name
    assert {key: run["hyperparameters"][key] for key in ("lr", "beta", "weight_decay")} == {
        "lr": 0.01,
        "beta": 0.9,
        "weight_decay": 0.1,
    }
    swept = plan(
        capfd, "-o", "./mine.py,adamw", "--sweep", "mine:mine.beta=0.8,0.95", "--set", "./mine.py:mine.lr=0.02"
    )
    betas = [run["hyperparameters"].get("beta") for run in swept if run["optimizer"] == name]
    assert betas == [0.9, 0.8, 0.95]
    assert {run["hyperparameters"]["lr"] for run in swept if run["optimizer"] == name} == {0.02}
    assert [run["optimizer"] for run in swept if run["optimizer"] != name] == ["adamw"]
    assert sorted(path.name for path in here.iterdir()) == ["mine.py"], "a dry run writes nothing"


def test_the_same_content_is_the_same_run_wherever_it_lies(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (here / "mine.py").write_text(RULE)
    (here / "sub").mkdir()
    (here / "sub" / "mine.py").write_text(RULE)
    first, moved = (plan(capfd, "-o", path)[0]["run_id"] for path in ("./mine.py:mine", "sub/mine.py"))
    assert first == moved
    (here / "mine.py").write_text(RULE + "# edited\n")
    assert plan(capfd, "-o", "./mine.py:mine")[0]["run_id"] != first


def test_a_grid_file_s_optimizers_lie_beside_it(here: Path) -> None:
    folder = here / "grids"
    folder.mkdir()
    (folder / "mine.py").write_text(RULE)
    (folder / "mine.toml").write_text(
        """
seeds = [0]
baseline = "adamw"
[[cells]]
optimizer = ["./mine.py:mine", "adamw"]
model = ["bench-micro"]
chinchilla = [0.01]
[optimizer."./mine.py:mine"]
set = { beta = 0.5 }
sweep = { lr = [0.02, 0.03] }
[[override]]
optimizer = "mine.py"
set = { weight_decay = 0.0 }
"""
    )
    study = gridfile.load("grids/mine.toml")
    (name,) = (each for each in study.cells[0].optimizer if each != "adamw")
    assert name.startswith("mine:mine@")
    assert study.start[name] == {"beta": 0.5} and study.sweep[name] == {"lr": (0.02, 0.03)}
    facts = grid.DatasetFacts(name="embedded", sha256="0" * 64, vocab_size=256)
    specs = [spec for spec in grid.expand(study, lambda _: facts) if spec.optimizer == name]
    assert len(specs) == 3 and {spec.optimizer_file_hash for spec in specs} == {
        hashlib.sha256(RULE.encode()).hexdigest()
    }
    assert {spec.hyperparameters["weight_decay"] for spec in specs} == {0}


def test_a_torch_class_is_for_the_torch_engine(here: Path) -> None:
    (here / "mine.py").write_text(CLASS)
    study = grid.from_names(["./mine.py:Mine"], ["bench-micro"], [0.01])
    facts = grid.DatasetFacts(name="embedded", sha256="0" * 64, vocab_size=256)
    import dataclasses

    assert grid.expand(study, lambda _: facts)
    with pytest.raises(OptsweepError, match=r"is a torch.optim class, engine jax cannot run it"):
        grid.expand(dataclasses.replace(study, engine="jax"), lambda _: facts)


FILES = {
    "broken.py": "def f(:\n",
    "raises.py": "\nraise KeyError('x')\n",
    "two.py": RULE + RULE.replace("def mine", "def other"),
    "mine.py": RULE,
    "none.py": "def f(x): return x\n",
    "beside.py": "import mine\n" + RULE,
    "asks.py": "input()\n" + RULE,
    "hangs.py": "import time\ntime.sleep(600)\n",
    "dies.py": "import os\nos._exit(3)\n",
    "model.py": RULE.replace("*, lr", "*, model, lr"),
    "nolr.py": RULE.replace("lr=0.01, ", "").replace("lr *", "hp.lr *"),
    "boom.py": RULE.replace("    m = beta", "    raise RuntimeError('boom')\n    m = beta"),
    "class.py": CLASS,
    "closure.py": CLASS + "    def step(self, closure): closure()\n",
    "odd.py": CLASS.replace(
        "class Mine(torch.optim.SGD)",
        "class Odd(type(torch.optim.SGD)):\n    __signature__ = 3\n\nclass Mine(torch.optim.SGD, metaclass=Odd)",
    ),
}

MISTAKES: list[tuple[list[str], str]] = [
    (["./missing.py:X"], "file ./missing.py does not exist"),
    (["./broken.py"], "./broken.py line 1: SyntaxError"),
    (["./raises.py"], "./raises.py line 2: KeyError: 'x'"),
    (["./two.py"], "defines 2 optimizers: mine, other. name one: ./two.py:mine"),
    (["./mine.py:mime"], 'has no "mime"; did you mean "mine"?'),
    (["./none.py"], "defines no optimizer"),
    (["./none.py:f"], "f is a function, not an optimizer"),
    (["./beside.py"], "what lies beside it does not travel with a run"),
    (["./asks.py"], "line 1: EOFError"),
    (["./hangs.py"], "took longer than 3 s"),
    (["./dies.py"], "ended the process (status 3)"),
    (["./model.py"], 'needs "model", which has no default'),
    (["./nolr.py"], 'takes no "lr"'),
    (["./boom.py"], "RuntimeError: boom"),
    (["./mine.py", "--set", "beat=1"], '"beat" is not known; did you mean "beta"?'),
    (["./mine.py", "--set", "beta=fast"], "is not a number"),
    (["./class.py", "--sweep", "momentum=0.5,1.5"], "ValueError: momentum must be below 1"),
    (["./closure.py"], 'Mine: step() needs "closure". a run calls step() without arguments'),
    (["./odd.py"], "TypeError"),
    (["mine:mine"], "name its file, ./mine.py:mine"),
    (["pytorch_optimizer:Lionn"], 'did you mean "Lion"?'),
]


@pytest.mark.parametrize(("arguments", "expected"), MISTAKES, ids=[" ".join(entry[0]) for entry in MISTAKES])
def test_a_mistake_in_a_user_s_optimizer_is_one_line_and_changes_nothing(
    arguments: list[str], expected: str, here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "hangs" in arguments[0]:
        monkeypatch.setattr(user_plan, "DESCRIBE_SECONDS", 3.0)
    for name, text in FILES.items():
        (here / name).write_text(text)
    before = sorted(here.rglob("*"))
    assert run_command(["run", "-o", *arguments, *CELL]) == 2
    said = capfd.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("error: ") and expected in line, line
    assert sorted(here.rglob("*")) == before


def test_a_package_that_is_not_installed_is_named(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "pytorch_optimizer" else real(name, *rest)
    )
    assert run_command(["run", "-o", "pytorch_optimizer:Lion", *CELL]) == 2
    said = capfd.readouterr()
    assert "needs the package pytorch-optimizer, which is not installed here" in said.err
    assert said.err.count("\n") == 1 and list(here.iterdir()) == []


# ---------------------------------------------------------------- check


def test_check_prints_a_verdict_per_property_and_exits_by_it(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (here / "mine.py").write_text(RULE)
    assert run_command(["optimizers", "check", "./mine.py:mine", "--json"]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert answer["passed"] and answer["file_hash"] == hashlib.sha256(RULE.encode()).hexdigest()
    names = [row["property"] for row in answer["properties"]]
    from optsweep_engines.properties.listing import PROPERTIES

    assert names == [item.name for item in PROPERTIES]
    (here / "worse.py").write_text(RULE.replace("beta=0.9,", "beta=0.9, gamma=1.0,"))
    assert run_command(["optimizers", "check", "./worse.py"]) == 1
    out = capfd.readouterr().out
    assert "FAIL  every knob changes the trajectory" in out and "gamma" in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["check"], "no optimizer is named"),
        (["check", "adamw"], "is no optimizer file"),
        (["check", "./missing.py"], "does not exist"),
        (["adamw", "muon"], "one argument too many"),
    ],
)
def test_a_mistaken_check_is_one_line(
    arguments: list[str], expected: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["optimizers", *arguments]) == 2
    said = capfd.readouterr()
    assert expected in said.err and said.err.count("\n") == 1 and said.out == ""


def test_one_s_own_is_shown_as_the_catalogue_s_are(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (here / "mine.py").write_text(RULE)
    assert run_command(["optimizers", "./mine.py:mine", "--json"]) == 0
    data = json.loads(capfd.readouterr().out)
    assert data["doc"] == "Momentum." and 'm = beta * state["m"]' in data["formula"]
    assert [knob["name"] for knob in data["knobs"] if knob["of"] == "rule"] == ["lr", "beta", "weight_decay"]
    assert data["flops_per_step"] is None
    assert run_command(["optimizers", "./mine.py:mine"]) == 0
    assert "any float" in capfd.readouterr().out


def test_the_defaults_that_are_shown_are_those_that_a_run_gets(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command(["optimizers", "--json"]) == 0
    for row in json.loads(capfd.readouterr().out):
        shown = {knob["name"]: knob["default"] for knob in row["knobs"]}
        assert shown == catalogue.resolve_knobs(row["name"], {}), row["name"]
        idle = [knob["name"] for knob in row["knobs"] if "does not read it" in knob["doc"]]
        assert idle == (["decay", "min_lr_ratio"] if row["schedule"] == "constant" else []), row["name"]


@pytest.mark.parametrize("columns", ["80", "120"])
def test_every_entry_fits_the_width_of_the_terminal(
    columns: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Formulas and links are never broken; everything else wraps."""
    monkeypatch.setenv("COLUMNS", columns)
    for name, entry in catalogue.optimizers().items():
        assert run_command(["optimizers", name]) == 0
        text = capfd.readouterr().out
        for line in text.splitlines():
            free = line.strip() in entry.formula or "https://" in line
            assert free or len(line) <= int(columns), (name, line)
        for knob in catalogue.all_knobs(entry):
            assert f"  {knob.name} " in text
