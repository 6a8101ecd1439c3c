"""`fit` and `speedup` on the published figures and on an awkward table: options, text that explains itself, bad input."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from optsweep_tui import imports
from optsweep_tui.cli.root import run_command
from optsweep_tui.settings import workspace


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with both published studies."""
    folder = tmp_path_factory.mktemp("published")
    imports.import_results(workspace(folder), "reference")
    return folder


class Asked:
    """One call of a verb."""

    def __init__(self, capsys: pytest.CaptureFixture[str], work: Path, *arguments: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.code = run_command([*arguments, "--workspace", str(work)])
        found = capsys.readouterr()
        self.out, self.err = found.out, found.err

    @property
    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.out)
        return found


def test_crossings_to_two_losses_are_labelled_and_a_tie_has_no_winner(capsys: Any, work: Path) -> None:
    command = ["speedup", "--study", "speedrun-2024-10", "--target-loss", "3.35, 3.30"]
    asked = Asked(capsys, work, *command, "--x", "steps", "--json")
    assert asked.code == 0 and len(asked.rows) == 8
    assert {row["label"] for row in asked.rows} == {"in-run, biased low"}
    assert all("in-run, biased low" in row["flags"] for row in asked.rows)
    assert not any(row["winner"] for row in asked.rows)
    adam = next(row for row in asked.rows if (row["optimizer"], row["target_loss"]) == ("adam", 3.3))
    assert adam["state"] == "REFUSE" and "never reaches 3.3: its minimum is 3.3406 at step 5,100" in adam["reason"]
    seconds = Asked(capsys, work, *command, "--x", "time")
    assert "597.7*" in seconds.out and "first beyond noise and logging interval" in seconds.out
    assert "biased low" in seconds.out and "TIMED-ONCE" in seconds.out


def test_a_target_that_only_refusals_answer_ends_with_code_1(capsys: Any, work: Path) -> None:
    asked = Asked(capsys, work, "speedup", "--study", "speedrun-2024-10", "--target-loss", "3.0", "--json")
    assert asked.code == 1 and {row["state"] for row in asked.rows} == {"REFUSE"}
    one = Asked(capsys, work, "speedup", "--study", "speedrun-2024-10", "-o", "muon", "--target-loss", "3.35", "--json")
    assert one.code == 0 and [row["optimizer"] for row in one.rows] == ["muon"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target-loss", "low"], '"low" is not a positive number of nats'),
        (["--target-loss", "nan"], '"nan" is not a positive number of nats'),
        (["--target-loss", "-3"], '"-3" is not a positive number of nats'),
        (["--target-loss", ","], "names no loss"),
        (["--target-loss", "3.3", "--x", "epochs"], '"epochs"'),
        (["--target-loss", "3.3", "--unit", "time"], "fits no curve"),
        (["--target-loss", "3.3", "--shared-exponent"], "fits no curve"),
        (["--x", "time"], "belongs to --target-loss"),
        (["--sigma", "1e-300"], "positive and finite"),
        (["--sigma", "nan"], "not a positive number"),
        (["--baseline", "lbfgs"], "lbfgs"),
        (["--study", "nowhere"], "nowhere"),
        (["-m", "7b"], "selection is empty"),
    ],
)
def test_mistakes_are_one_line_on_stderr(capsys: Any, work: Path, arguments: list[str], said: str) -> None:
    asked = Asked(capsys, work, "speedup", *arguments)
    assert asked.code == 2 and asked.out == ""
    assert len(asked.err.strip().splitlines()) == 1 and said in asked.err


def test_one_exponent_is_that_of_all_models_also_where_one_is_shown(capsys: Any, work: Path) -> None:
    fits = Asked(capsys, work, "fit", "--study", "reference", "--shared-exponent", "--json").rows
    assert len(fits) == 4 and len({row["b"] for row in fits}) == 1 and {row["exponent"] for row in fits} == {"shared"}
    one = Asked(capsys, work, "fit", "--study", "reference", "--shared-exponent", "-m", "130M", "--json").rows
    assert [row["model"] for row in one] == ["130m"] and one[0]["b"] == fits[0]["b"]
    every, some = (
        Asked(capsys, work, "speedup", "--study", "reference", "--shared-exponent", *more, "--json").rows
        for more in ([], ["-m", "1.2b", "-o", "muon", "-c", "8"])
    )
    assert len(every) == 132 and len(some) == 1
    same = [row for row in every if (row["optimizer"], row["model"], row["chinchilla"]) == ("muon", "1.2b", 8)]
    assert same == some and some[0]["shared_b_p"] == fits[0]["shared_b_p"]


def test_fit_prints_what_it_rests_on(capsys: Any, work: Path) -> None:
    text = Asked(capsys, work, "fit", "--study", "reference").out
    assert "left out, predicted - measured" in text
    assert "one exponent for all models of reference: B 0.4355" in text and "p = 0.354" in text
    assert "MISFIT: the curve beside the straight line" in text and "sigma taken 2.45 times as large" in text
    assert "huber_log" in text and "multistart" in text
    for flag in ("MISFIT", "UNTUNED", "SUPPORT", "DIVERGED"):
        assert f" {flag}" in text and f"{flag}:" in text.replace(" (every row)", "")


def test_speedup_prints_cost_interpolation_and_the_baselines_own_noise(capsys: Any, work: Path) -> None:
    text = Asked(capsys, work, "speedup", "--study", "reference", "-m", "130m", "--unit", "flops").out
    head = next(line for line in text.splitlines() if line.startswith("optimizer"))
    assert [name for name in ("interp.", "FLOPs", "B/param", "95 % interval") if name not in head] == []
    assert "adamw against itself by noise alone, 130m, at ratio 1: 0.97-1.03" in text
    assert text.count("at ratio 1:") == 1
    plain = Asked(capsys, work, "speedup", "--study", "reference", "-m", "300m").out
    assert "interp." not in plain and "B/param" not in plain


AWKWARD = """optimizer,model,params,chinchilla,tokens,loss,state,seed,dataset,schedule
adamw,two,300000000,1,6000000000,3.26,done,0,c4,cosine
adamw,two,300000000,2,12000000000,3.16,done,0,c4,cosine
muon,two,300000000,2,12000000000,3.1,done,0,c4,cosine
muon,alone,300000000,2,12000000000,3.1,done,0,c4,cosine
adamw,law,300000000,1,6000000000,3.26,done,0,c4,cosine
adamw,law,300000000,2,12000000000,3.16,done,0,c4,linear
adamw,law,300000000,4,24000000000,3.09,done,0,c4,cosine
adamw,law,300000000,8,48000000000,3.04,done,0,c4,cosine
adamw,law,300000000,8,48000000000,3.06,done,0,c4,cosine
muon,law,300000000,8,48000000000,1.2,done,0,c4,cosine
muon,law,300000000,4,24000000000,3.06,done,0,elsewhere,cosine
muon,law,300000000,2,12000000000,3.13,done,0,c4,cosine
lion,law,300000000,4,24000000000,138000000000000,done,0,c4,cosine
sgd,law,300000000,,,3.1,done,0,c4,cosine
adamw,flat,300000000,1,6000000000,3.0,done,0,c4,cosine
adamw,flat,300000000,2,12000000000,3.0,done,0,c4,cosine
adamw,flat,300000000,4,24000000000,3.0,done,0,c4,cosine
muon,flat,300000000,4,24000000000,2.9,done,0,c4,cosine
adamw,bent,300000000,1,6000000000,3.3,done,0,c4,cosine
adamw,bent,300000000,2,12000000000,3.29,done,0,c4,cosine
adamw,bent,300000000,4,24000000000,3.0,done,0,c4,cosine
muon,bent,300000000,2,12000000000,3.2,done,0,c4,cosine
adamw,unsized,,,1000000,3.3,done,0,c4,cosine
adamw,unsized,,,2000000,3.2,done,0,c4,cosine
adamw,unsized,,,4000000,3.13,done,0,c4,cosine
muon,unsized,,,2000000,3.15,done,0,c4,cosine
muon,unsized,,,4000000,3.1,done,0,c4,cosine
"""


@pytest.fixture(scope="module")
def awkward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("awkward")
    (folder / "table.csv").write_text(AWKWARD)
    imports.import_results(workspace(folder), "csv", path=folder / "table.csv", study="awkward")
    return folder


REASONS = {
    ("two", "muon", 2.0): "has 2 budgets (1, 2); a curve needs 3",
    ("alone", "muon", 2.0): "no runs of the baseline adamw here",
    ("law", "muon", 8.0): "at or below the fitted floor",
    ("law", "muon", 4.0): "no runs of the baseline adamw here",
    ("law", "lion", 4.0): "above the baseline's reach",
    ("law", "sgd", None): "its token budget is not known",
    ("flat", "muon", 4.0): "does not fall with tokens",
}


def test_an_awkward_table_has_a_reason_or_a_flag_in_every_row(capsys: Any, awkward: Path) -> None:
    for more in ([], ["--shared-exponent"], ["--ci", "bootstrap"]):
        asked = Asked(capsys, awkward, "speedup", *more, "--json")
        assert asked.code == 0 and asked.err == ""
        rows = {(row["model"], row["optimizer"], row["chinchilla"]): row for row in asked.rows}
        for key, reason in REASONS.items():
            assert rows[key]["state"] == "REFUSE" and reason in rows[key]["reason"]
            assert rows[key]["speedup"] is None and rows[key]["low"] is None and rows[key]["d_eff"] is None
        assert rows["law", "muon", 2.0]["state"] == "INTERP" and "SCHEDULE" in rows["law", "muon", 2.0]["flags"]
        # Parameters unknown: budgets are tokens, and the ratio of two of them needs no more.
        assert rows["unsized", "muon", None]["state"] in ("INTERP", "EXTRAP")
        # Three points that no curve with a floor of 0 or more can bend like.
        bent = rows["bent", "muon", 2.0]
        assert "MISFIT" in bent["flags"] and bent["interpolated"] is not None
    for verb in (["table"], ["fit"], ["speedup"], ["speedup", "--unit", "flops"], ["speedup", "--target-loss", "3.1"]):
        asked = Asked(capsys, awkward, *verb)
        assert asked.code in (0, 1) and asked.out and "nan" not in asked.out


UNSIZED = [
    "table", "fit", "speedup", "fairness", "stable", "edges", "hp", "flips", "noise", "power", "profile",
    "ttest --target-loss 3.2", "stop-audit", "plot ratio", "plot lr", "plot rank", "plot deff", "plot best-after-k",
    "plot overhead",
]  # fmt: skip


@pytest.mark.parametrize("verb", UNSIZED)
def test_a_model_of_unknown_size_is_answered_by_tokens_or_left_out_with_the_reason(
    capsys: Any, awkward: Path, verb: str
) -> None:
    asked = Asked(capsys, awkward, *verb.split(), "-m", "unsized")
    assert asked.code in (0, 1) and "Traceback" not in asked.err
    if verb in ("table", "fairness"):
        assert all(f"{budget} tok" in asked.out for budget in ("1M", "2M", "4M"))
    if verb.startswith("plot") and not verb.endswith("lr"):
        assert "unsized: 5 runs without a ratio" in " ".join(asked.out.split())


def test_a_cell_of_one_configuration_is_unswept_and_a_pass_of_fairness_says_so(capsys: Any, work: Path) -> None:
    rows = Asked(capsys, work, "speedup", "--study", "reference", "--json").rows
    unswept = {(r["optimizer"], r["model"], r["chinchilla"]) for r in rows if "UNSWEPT" in r["flags"]}
    # Cells without edges of their own and of the baseline, and of one run each: nothing that UNTUNED could find.
    assert {("muon", "1.2b", 8.0), ("soap", "1.2b", 2.0), ("nadamw", "300m", 16.0)} <= unswept
    assert ("muon", "130m", 1.0) not in unswept
    fair = Asked(capsys, work, "fairness", "--study", "reference", "-m", "1.2b", "-c", "8", "--json").rows
    assert {row["verdict"] for row in fair} == {None, "PASS"}
    assert all("nothing was tuned in either" in row["reason"] for row in fair if row["verdict"] == "PASS")
