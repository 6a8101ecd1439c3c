"""A user's own optimizer from the file to the speedup row; an edit between two attempts changes nothing."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e import workbench
from tests.e2e.workbench import optsweep

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
[EXAMPLE] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)

RULE = """
def init(xp, param, hp):
    return {"m": xp.zeros_like(param)}

def signs(xp, param, grad, state, step, hp, *, lr=0.003, beta=0.9, weight_decay=0.1):
    m = beta * state["m"] + (1 - beta) * grad
    return param - lr * (xp.sign(m) + weight_decay * param), {"m": m}
"""

GRID = """
name = "own"
dataset = "embedded"
seeds = [0]
[defaults]
batch_size = 4
seq_len = 32
validation_tokens = 2048
[[cells]]
optimizer = ["adamw"]
model = ["bench-micro"]
chinchilla = [0.004, 0.008, 0.016]
[[cells]]
optimizer = ["./mine.py:MyOptimizer", "./rule.py"]
model = ["bench-micro"]
chinchilla = [0.008]
[optimizer."./mine.py:MyOptimizer"]
sweep = { lr = [0.003, 0.03] }
"""

SETTINGS = ["--set", "batch_size=4", "--set", "seq_len=32", "--set", "validation_tokens=2048"]


def test_the_readme_s_example_has_every_property(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(EXAMPLE)
    command = [*workbench.OPTSWEEP, "optimizers", "check", str(tmp_path / "mine.py:MyOptimizer"), "--json"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    rows = json.loads(answer.stdout)
    assert rows["passed"] and answer.returncode == 0, [row for row in rows["properties"] if not row["passed"]]


@pytest.mark.slow
def test_a_file_s_optimizer_gets_its_speedup_row(tmp_path: Path) -> None:
    workspace, folder = tmp_path / "work", tmp_path / "mine"
    folder.mkdir()
    (folder / "mine.py").write_text(EXAMPLE)
    (folder / "rule.py").write_text(RULE)
    (folder / "own.toml").write_text(GRID)
    try:
        optsweep("run", "--grid", str(folder / "own.toml"), workspace=workspace)
        records = workbench.records(workspace)
        assert {record["status"] for record in records.values()} == {"done"} and len(records) == 7
        rows = json.loads(optsweep("speedup", "--json", workspace=workspace, check=False).stdout)
        by_name = {row["optimizer"].partition("@")[0]: row for row in rows}
        assert set(by_name) == {"mine:MyOptimizer", "rule:signs"}
        for row in rows:
            assert row["state"] in ("INTERP", "EXTRAP", "REFUSE") and row["loss"] < 5
            assert (row["speedup"] is None) == (row["state"] == "REFUSE")
            assert row["state_bytes_per_param"] == pytest.approx(4, rel=0.01)
        assert any(row["speedup"] for row in rows)
        chosen = json.loads(optsweep("table", "-o", "mine:MyOptimizer", "--json", workspace=workspace).stdout)
        assert {row["optimizer"] for row in chosen} == {by_name["mine:MyOptimizer"]["optimizer"]}
        flops = optsweep("speedup", "--unit", "flops", workspace=workspace, check=False)
        assert "Traceback" not in flops.stderr and "mine:MyOptimizer" in flops.stdout
        # Another content is another optimizer beside the first, not a part of its cell.
        (folder / "mine.py").write_text(EXAMPLE.replace("1e-8", "1e-6"))
        optsweep("run", "--grid", str(folder / "own.toml"), "-o", str(folder / "mine.py"), workspace=workspace)
        again = json.loads(optsweep("table", "-o", "mine:MyOptimizer", "--json", workspace=workspace).stdout)
        assert len({row["optimizer"] for row in again}) == 2 and len(workbench.records(workspace)) == 10
    finally:
        workbench.stop_everything(workspace)


@pytest.mark.slow
def test_a_resume_trains_what_was_planned_whatever_becomes_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(EXAMPLE)
    run = ["run", "-o", str(file), "-m", "bench-micro", "-c", "0.05", *SETTINGS]
    hashes = {}
    for name in ("straight", "edited", "deleted"):
        workspace = tmp_path / name
        workspace.mkdir()
        (workspace / "optsweep.toml").write_text("checkpoint_seconds = 0.3\nslots = 1\n")
        try:
            if name == "straight":
                optsweep(*run, workspace=workspace)
            else:
                controller = workbench.start(*run, workspace=workspace)
                limit = time.monotonic() + 120
                while not list(workspace.glob("runs/*/a1/ckpt/step-*")):
                    assert time.monotonic() < limit and controller.poll() is None
                    time.sleep(0.02)
                workbench.stop_everything(workspace)
                controller.wait(timeout=30)
                assert not list(workspace.glob("runs/*/a1/record.json")), "the kill came too late"
                file.write_text(EXAMPLE.replace("lerp_(p.grad", "lerp_(-p.grad"))
                if name == "deleted":
                    file.unlink()
                optsweep("resume", workspace=workspace)
            [record] = workbench.records(workspace).values()
            assert record["status"] == "done"
            assert (record["resumed_from_step"] > 0) == (name != "straight")
            hashes[name] = record["parameters_sha256"]
        finally:
            workbench.stop_everything(workspace)
            file.write_text(EXAMPLE)
    assert len(set(hashes.values())) == 1


@pytest.mark.slow
def test_a_run_whose_optimizer_raises_is_failed_with_the_line(tmp_path: Path) -> None:
    """The first two steps, which planning tries, are well."""
    text = EXAMPLE.replace("    def step(self):\n", "    def step(self):\n        self.t = getattr(self, 't', 0) + 1\n"
                           "        if self.t == 7: raise RuntimeError('boom')\n")  # fmt: skip
    (tmp_path / "mine.py").write_text(text)
    workspace = tmp_path / "work"
    try:
        arguments = ["run", "-o", f"{tmp_path}/mine.py,adamw", "-m", "bench-micro", "-c", "0.004", *SETTINGS]
        result = optsweep(*arguments, workspace=workspace, check=False)
        assert result.returncode == 1 and "Traceback" not in result.stderr
        line = text.splitlines().index("        if self.t == 7: raise RuntimeError('boom')") + 1
        assert f"mine.py line {line}: RuntimeError: boom" in result.stderr
        assert sorted(record["status"] for record in workbench.records(workspace).values()) == ["done", "failed"]
    finally:
        workbench.stop_everything(workspace)


@pytest.mark.slow
def test_a_class_of_the_package_trains_and_its_version_is_on_record(tmp_path: Path) -> None:
    from importlib.metadata import version

    workspace = tmp_path / "work"
    try:
        arguments = ["run", "-o", "pytorch_optimizer:lion", "-m", "bench-micro", "-c", "0.004", *SETTINGS]
        optsweep(*arguments, workspace=workspace)
        [record] = workbench.records(workspace).values()
        assert record["status"] == "done" and record["versions"]["pytorch_optimizer"] == version("pytorch-optimizer")
        rows = json.loads(optsweep("table", "--json", workspace=workspace).stdout)
        assert [row["optimizer"] for row in rows] == ["pytorch_optimizer:Lion"]
    finally:
        workbench.stop_everything(workspace)
