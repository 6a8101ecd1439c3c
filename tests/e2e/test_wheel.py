"""The wheel, built and installed in a clean environment in another folder, with nothing of the checkout in reach."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_works_elsewhere_without_an_engine(tmp_path: Path) -> None:
    def run(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "OPTSWEEP", "VIRTUAL"))
        }
        result = subprocess.run(
            [str(part) for part in command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0 or not check, f"{command}\n{result.stdout}\n{result.stderr}"
        return result

    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", ROOT)
    (wheel,) = (tmp_path / "dist").glob("optsweep-*.whl")
    run(sys.executable, "-m", "venv", tmp_path / "clean")
    python = tmp_path / "clean" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-compile", "-c", ROOT / "constraints.txt", wheel)
    optsweep = tmp_path / "clean" / "bin" / "optsweep"

    assert run(optsweep, "--version").stdout.startswith("optsweep ")
    names = {entry["name"] for entry in json.loads(run(optsweep, "optimizers", "--json").stdout)}
    assert {"adamw", "muon", "sgd"} <= names
    assert "quickstart" in run(optsweep, "grids").stdout
    dry = run(optsweep, "run", "-o", "adamw,muon", "-m", "130m", "-c", "1,8", "--dry-run", "--json")
    assert json.loads(dry.stdout)["runs"][0]["steps"] == 5120

    refused = run(optsweep, "run", "--grid", "quickstart", check=False)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1 and "torch" in refused.stderr and "not installed" in refused.stderr
    assert not (tmp_path / "runs").exists(), "nothing changed"
    origin = run(
        python, "-c", "import optsweep_tui, optsweep_engines; print(optsweep_tui.__file__, optsweep_engines.__file__)"
    )
    assert str(ROOT) not in origin.stdout
