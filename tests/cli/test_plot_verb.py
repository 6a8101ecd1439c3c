"""`optsweep plot`: every kind on the terminal and as a file; mistakes are one line, refusals have their reason."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from optsweep_tui.charts.kinds import KINDS
from optsweep_tui.cli.root import run_command
from tests.unit.analysis_frames import curve, frame, run

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with an imported study of known speedups and an lr sweep."""
    root = tmp_path_factory.mktemp("plot")
    rows = curve((1, 2, 4, 8))
    for name, gain in (("soap", 1.2), ("muon", 1.7), ("sgd", 0.4)):
        rows += curve((1, 2, 4, 8), optimizer=name, speedup=gain)
    rows += [run("adamw", 1.0, 3.3 + off, knobs={"lr": lr}) for lr, off in ((0.005, 0.02), (0.02, 0.05))]
    table = frame(rows).drop(columns=["study"])
    table.insert(0, "entry", table["run_id"])
    table.to_csv(root / "runs.csv", index=False)
    workspace = root / "work"
    assert run_command(["import", "csv", str(root / "runs.csv"), "--study", "known", "-w", str(workspace)]) == 0
    return workspace


def ask(workspace: Path, *arguments: str) -> int:
    return run_command(["plot", *arguments, "--study", "known", "-w", str(workspace)])


KNOWN = {"ratio": 0, "deff": 0, "speedup": 0, "lr": 0, "strip": 0, "rank": 0, "overhead": 0, "best-after-k": 1}


@pytest.mark.parametrize("kind", KNOWN)
def test_every_kind_prints_one_json_document(kind: str, imported: Path, capfd: Capture) -> None:
    capfd.readouterr()
    assert ask(imported, *named(kind), "--json") == KNOWN[kind]
    document = json.loads(capfd.readouterr().out)
    assert document["kind"] == kind
    assert bool(document["panels"]) is (KNOWN[kind] == 0)
    assert document["panels"] or "order" in document["refused"][0]


@pytest.mark.parametrize("kind", ["speedup", "strip", "best-after-k"])
def test_a_chart_fits_the_terminal_and_has_no_escapes_in_a_pipe(kind: str, imported: Path, capfd: Capture) -> None:
    capfd.readouterr()
    assert ask(imported, *named(kind), "--width", "80") == KNOWN[kind]
    text = capfd.readouterr().out
    assert "study known" in text and "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80


def named(kind: str) -> list[str]:
    return [kind, "lr"] if kind == "strip" else [kind]


def test_with_out_the_paths_are_printed_and_files_are_there(imported: Path, tmp_path: Path, capfd: Capture) -> None:
    first, second = tmp_path / "a.pdf", tmp_path / "b.SVG"
    capfd.readouterr()
    assert ask(imported, "speedup", "--out", str(first), "--out", str(second)) == 0
    assert capfd.readouterr().out.split() == [str(first), str(second)]
    assert first.read_bytes().startswith(b"%PDF") and b"<svg" in second.read_bytes()
    assert ask(imported, "speedup", "--out", str(first), "--json", "--overwrite") == 0
    assert json.loads(capfd.readouterr().out) == {"kind": "speedup", "refused": [], "paths": [str(first)]}


def test_the_filter_narrows_what_is_drawn_and_not_what_is_fitted(imported: Path, capfd: Capture) -> None:
    capfd.readouterr()
    assert ask(imported, "speedup", "-o", "soap", "-c", "2", "--json") == 0
    document = json.loads(capfd.readouterr().out)
    points = [one for panel in document["panels"] for one in panel["series"] if one["marks"] != "none"]
    assert [(one["label"], one["x"], one["state"]) for one in points] == [("soap", [2.0], "INTERP")]
    assert points[0]["y"][0] == pytest.approx(1.2, rel=1e-3)


def test_refusals_go_to_stderr_write_no_file_and_exit_1(imported: Path, tmp_path: Path, capfd: Capture) -> None:
    capfd.readouterr()
    assert ask(imported, "best-after-k", "--out", str(tmp_path / "b.pdf")) == 1
    said = capfd.readouterr()
    assert said.out == "" and "order" in said.err
    assert list(tmp_path.iterdir()) == []


MISTAKES = [
    (["spedup"], 'did you mean "speedup"?'),
    (["ratio", "--x", "step"], "one x axis only"),
    (["loss", "--x", "epochs"], "step, tokens, minutes"),
    (["speedup", "--unit", "hours"], "--unit"),
    (["ratio", "3fa2"], "no RUN"),
    (["ratio", "--smooth", "3"], "no --smooth"),
    (["loss", "--smooth", "-1"], "no number of steps"),
    (["deff", "--unit", "time"], "no --unit"),
    (["strip"], "needs the name of a knob"),
    (["strip", "lrr"], 'did you mean "lr"?'),
    (["strip", "lr", "beta1"], "one knob"),
    (["strip", "lr", "-o", "sgd"], "not swept in the cells asked for"),
    (["ratio", "--out", "x.gif"], "names no kind of figure"),
    (["ratio", "--out", "/nowhere/x.pdf"], "is no folder"),
    (["ratio", "--sigma", "-1"], "--sigma"),
    (["ratio", "--baseline", "lion"], "baseline"),
    (["ratio", "-m", "nope"], "selection is empty"),
    (["loss"], "no run of this selection has a loss curve"),
]


@pytest.mark.parametrize(("arguments", "expected"), MISTAKES, ids=[" ".join(entry[0]) for entry in MISTAKES])
def test_a_mistake_is_one_line_with_exit_code_2(
    arguments: list[str], expected: str, imported: Path, capfd: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()
    assert ask(imported, *arguments) == 2
    said = capfd.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("error: ") and expected in line
    assert list(tmp_path.iterdir()) == []


def test_existing_files_are_kept(imported: Path, tmp_path: Path, capfd: Capture) -> None:
    target = tmp_path / "figure.svg"
    target.write_text("mine")
    capfd.readouterr()
    assert ask(imported, "ratio", "--out", str(target)) == 2
    assert "--overwrite" in capfd.readouterr().err
    assert target.read_text() == "mine"


def test_the_help_names_every_kind(capfd: Capture) -> None:
    assert run_command(["plot", "--help"]) == 0
    text = capfd.readouterr().out
    for kind in KINDS:
        assert f"\n  {kind} " in text, kind


def test_the_kinds_cost_nothing_to_name() -> None:
    code = (
        "import sys; import optsweep_tui.charts.kinds, optsweep_tui.cli.plot, optsweep_tui.cli.charts\n"
        "heavy = {'matplotlib', 'pandas', 'numpy', 'plotext', 'duckdb', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'imported: {sorted(heavy)}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_inline_svg_for_a_page_is_one_call(imported: Path) -> None:
    from optsweep_tui import ask as questions
    from optsweep_tui import settings
    from optsweep_tui.charts import files
    from optsweep_tui.core import Filter
    from optsweep_tui.drawings import Choice

    workspace = settings.workspace(imported)
    results = questions.results(workspace, Filter(study="known"))
    text = files.svg_text(questions.figure(workspace, results, Choice(kind="speedup")))
    assert text.count("<svg") == 1 and "speedup over adamw" in text
