"""CSV, Parquet and speedrun logs as runs: round trips, mappings, what cannot be read, and thousands of mutated inputs."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from optsweep_tui import exchange, flow, imports, rundir, settings
from optsweep_tui.core import Filter
from optsweep_tui.errors import OptsweepError
from optsweep_tui.importers import plant, protocol
from optsweep_tui.settings import Workspace
from tests.store.run_folders import sql_rows
from tests.store.test_import_marin import mutated_bytes

FUZZ = -(-int(os.environ.get("OPTSWEEP_FUZZ", "800")) // 6)
"""Mutated files of each format, as in test_import_marin."""
ROW = (
    "* EXCLUDE (run_id, run, study, origin, source, steps_done, tokens_done, trained_tokens, train_loss, error, state)"
)


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return settings.workspace(tmp_path / "work")


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_what_is_exported_is_read_back_as_it_was(kind: str, tmp_path: Path, place: Workspace) -> None:
    imports.import_results(place, "reference")
    target = tmp_path / f"runs.{kind}"
    assert exchange.export_results(place, kind, target, Filter(study="reference", models=("300m",))).rows == 389
    report = imports.import_results(place, kind, path=target, study="again")
    assert report.skipped == []
    there = "study = 'reference' AND model = '300m'"
    rows = [sql_rows(place.store, f"SELECT {ROW} FROM v_run WHERE {what}") for what in (there, "study = 'again'")]
    assert len(rows[0]) == report.runs and sorted(rows[0], key=repr) == sorted(rows[1], key=repr)
    states = "SELECT state, count(*) FROM v_run WHERE {} GROUP BY state ORDER BY state"
    assert sql_rows(place.store, states.format(there)) == sql_rows(place.store, states.format("study = 'again'"))
    with pytest.raises(OptsweepError, match="exists"):
        exchange.export_results(place, kind, target, Filter())


def test_a_decay_branch_is_left_out_with_the_reason(tmp_path: Path, place: Workspace) -> None:
    table = written(
        tmp_path, "two.csv", "optimizer,model,chinchilla,loss,start_mode\nadamw,130m,1,3.5,\nadamw,130m,1,3.4,branch\n"
    )
    report = imports.import_results(place, "csv", path=table)
    assert report.runs == 1
    assert [skip.why for skip in report.skipped] == ["it is a decay branch of a trunk: imported cells hold whole runs"]


def test_a_start_that_would_be_forgotten_is_left_out_with_the_reason(tmp_path: Path, place: Workspace) -> None:
    head, cell = "optimizer,model,chinchilla,loss,start_mode,dataset,seed\n", "adamw,130m,1,3.4"
    rows = (
        f"{cell},BRANCH,c4,1",
        f"{cell},trunk,c4,2",
        f"{cell},weights,c4,3",
        f"{cell},weights,c4 from 1a2b3c4d@300,4",
    )
    report = imports.import_results(place, "csv", path=written(tmp_path, "starts.csv", head + "\n".join(rows) + "\n"))
    assert report.runs == 1
    why = [skip.why for skip in report.skipped]
    assert "decay branch" in why[0] and "'trunk' is not one of weights, branch" in why[1] and "must say which" in why[2]
    assert sql_rows(place.store, "SELECT dataset FROM v_run") == [("c4 from 1a2b3c4d@300",)]


def test_a_mapping_says_which_column_means_what(tmp_path: Path, place: Workspace) -> None:
    table = written(
        tmp_path, "sweep.csv",
        "opt;size;final;lr;wd;D;bs;name\r\nAdamW;130M;3.5;8e-3;0.1;2684354560;128;a\r\nmuon;130m;NaN;0.016;;2684354560;128.0;b\r\n"
        "nosuch;tiny-own;4.25;1;0;1e9;;c\r\n",
    )  # fmt: skip
    mapping = written(
        tmp_path, "m.toml",
        'study = "mine"\n[columns]\noptimizer = "opt"\nmodel = "size"\nloss = "final"\ntokens = "D"\nbatch_size = "bs"\n'
        'entry = "name"\n[hyperparameters]\nlearning_rate = "lr"\nweight_decay = "wd"\n'
        '[constants]\nseq_len = 4096\ndataset = "c4"\n',
    )  # fmt: skip
    report = imports.import_results(place, "csv", path=table, mapping=mapping)
    assert report.studies == {"mine": 3} and report.states == {"done": 2, "nan": 1} and report.skipped == []
    rows = sql_rows(
        place.store,
        "SELECT optimizer, model, chinchilla, loss, lr, batch_size, steps, dataset, hyperparameters FROM v_run"
        " ORDER BY source->>'entry'",
    )
    assert rows[0] == ("adamw", "130m", 1.0, 3.5, 0.008, 128, 5120, "c4", '{"lr":0.008,"weight_decay":0.1}')
    assert rows[1] == ("muon", "130m", 1.0, None, 0.016, 128, 5120, "c4", '{"lr":0.016}')
    assert rows[2][:5] == ("nosuch", "tiny-own", None, 4.25, None)
    assert imports.import_results(place, "csv", path=table, mapping=mapping).unchanged == 3


def test_bad_rows_are_listed_and_the_others_kept(tmp_path: Path, place: Workspace) -> None:
    table = written(
        tmp_path, "x.csv",
        "optimizer,model,loss,tokens,entry,hyperparameters\nadamw,130m,3.5,1000,a,\n,130m,3.5,1000,b,\nadamw,130m,low,1000,c,\n"
        'adamw,130m,3.5,1e99,d,\nadamw,130m,3.5,1000,a,\nadamw,130m,-3,1000,e,\nadamw,130m,3,1000,f,"{"\nadamw,130m,,1000,g,\n',
    )  # fmt: skip
    report = imports.import_results(place, "csv", path=table)
    assert report.states == {"done": 1, "missing": 1}
    assert [entry.where.rpartition("row ")[2] for entry in report.skipped] == ["2", "3", "4", "5", "6", "7"]


def test_columns_called_like_knobs_are_hyperparameters_and_others_are_listed(tmp_path: Path, place: Workspace) -> None:
    table = written(
        tmp_path, "t.csv",
        "optimizer,model,chinchilla,loss,seed,learning_rate,lr,momentum,note\n"
        "adamw,130m,1,3.5,0,9,0.001,0.9,x\nadamw,130m,1,3.6,0,9,0.002,,x\nmuon,130m,1,3.4,0,9,0.02,0.95,x\n",
    )  # fmt: skip
    report = imports.import_results(place, "csv", path=table, study="t")
    knobs = sql_rows(place.store, "SELECT optimizer, loss, hyperparameters FROM v_run ORDER BY loss")
    assert [(row[0], json.loads(row[2])) for row in knobs] == [
        ("muon", {"lr": 0.02, "momentum": 0.95}), ("adamw", {"lr": 0.001}), ("adamw", {"lr": 0.002}),
    ]  # fmt: skip
    # Momentum means nothing to adamw but something to muon, so it is not listed; lr's other name is.
    assert [skip.why for skip in report.skipped] == [
        "2 columns mean nothing here (name what matters in a --mapping): learning_rate, note"
    ]


@pytest.mark.parametrize(("column", "value"), [("chinchilla", "0"), ("chinchilla", "-1"), ("tokens", "0")])
def test_a_budget_that_is_not_positive_is_left_out_with_the_reason(
    column: str, value: str, tmp_path: Path, place: Workspace
) -> None:
    table = written(tmp_path, "t.csv", f"optimizer,model,{column},loss\nadamw,130m,{value},3.5\nadamw,130m,2e9,3.4\n")
    report = imports.import_results(place, "csv", path=table, study="t")
    assert report.runs == 1 and [skip.why for skip in report.skipped] == [f"{column} {value} is not positive"]


HEAD = "optimizer,model,chinchilla,loss,lr\n"


def test_a_table_that_grows_at_any_place_brings_its_new_rows_only(tmp_path: Path, place: Workspace) -> None:
    old = ["adamw,130m,1,3.5,0.001\n", "adamw,130m,1,3.6,0.002\n", "adamw,130m,1,3.61,0.002\n"]
    for rows, new, changed in (
        (old, 3, 0), (["adamw,130m,1,3.7,0.004\n", *old], 1, 0), (old[1:], 0, 0), ([old[0].replace("3.5", "3.4")], 0, 1),
    ):  # fmt: skip
        table = written(tmp_path, "t.csv", HEAD + "".join(rows))
        report = flow_import(place, table)
        assert (report.new, report.changed) == (new, changed)
    assert sql_rows(place.store, "SELECT lr, count(*) FROM v_run GROUP BY lr ORDER BY lr") == [
        (0.001, 1), (0.002, 2), (0.004, 1),
    ]  # fmt: skip


def flow_import(place: Workspace, table: Path, mapping: Path | None = None) -> imports.ImportReport:
    return imports.import_results(place, "csv", path=table, study="t", mapping=mapping)


@pytest.mark.parametrize(
    ("head", "row", "said"),
    [
        (HEAD, "adamw,130m,nan,3.5,0.1", "chinchilla nan is no such number"),
        (HEAD, "adamw,130m,inf,3.5,0.1", "chinchilla inf is no such number"),
        (HEAD, "adamw,130m,1e300,3.5,0.1", "chinchilla 1e+300 is no such number"),
        (HEAD, "adamw,130m,1,1_000,0.1", "loss = '1_000' is not a number that fits"),
        (HEAD, "adamw,130m,1", "it has not as many fields as the line of column names"),
        (HEAD, "adamw,130m,1,3.5,0.1,x", "it has not as many fields as the line of column names"),
        ("optimizer,model,steps,batch_size,seq_len,loss\n", "adamw,130m,-5,128,4096,3.5", "steps -5 is not positive"),
        (
            "optimizer,model,tokens,chinchilla,loss\n", "adamw,130m,2684354560,7,3.5",
            "its 2684354560 tokens are a ratio of 1, not 7: leave one out",
        ),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_is_left_out_with_the_reason(
    head: str, row: str, said: str, tmp_path: Path, place: Workspace
) -> None:
    report = flow_import(place, written(tmp_path, "t.csv", f"{head}{row}\n"))
    assert report.runs == 0 and [skip.why for skip in report.skipped if "row 1" in skip.where] == [said]


def test_two_columns_of_one_name_a_pipe_and_a_constant(tmp_path: Path, place: Workspace) -> None:
    with pytest.raises(OptsweepError, match="several columns called loss"):
        flow_import(place, written(tmp_path, "t.csv", "optimizer,model,chinchilla,loss,loss\nadamw,130m,1,3.5,3.4\n"))
    for kind, name in (("csv", "pipe.csv"), ("parquet", "pipe.parquet"), ("nanogpt", "pipe.txt")):
        os.mkfifo(tmp_path / name)
        if kind == "nanogpt":
            os.mkdir(tmp_path / "logs")
            os.rename(tmp_path / name, tmp_path / "logs" / name)
            mapping = written(tmp_path, "logs.toml", '[constants]\noptimizer = "adam"\nmodel = "130m"\n')
            report = imports.import_results(place, kind, path=tmp_path / "logs", mapping=mapping)
            assert [skip.why for skip in report.skipped] == ["cannot be read: it is a pipe or a device, not a file"]
        else:
            with pytest.raises(OptsweepError, match="a pipe or a device"):
                imports.import_results(place, kind, path=tmp_path / name)
    mapping = written(tmp_path, "m.toml", '[constants]\nmodel = "300m"\n')
    report = flow_import(place, written(tmp_path, "t.csv", f"{HEAD}adamw,130m,1,3.5,0.1\n"), mapping)
    assert [skip.why for skip in report.skipped] == ["[constants] hold instead of: model"]
    assert sql_rows(place.store, "SELECT model FROM v_run") == [("300m",)]


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ("[columns]\noptimizr = 'a'\n", 'did you mean "optimizer"'),
        ("[columns]\noptimizer = 'optimzer'\n", 'did you mean "optimizer"'),
        ("[columns]\noptimizer = 3\n", "not the name of a column"),
        ("columns = 3\n", "is not a table"),
        ("[[run]]\n", 'did you mean "runs"'),
        ("[columns\n", "is not TOML"),
    ],
)
def test_a_wrong_mapping_is_one_line(mapping: str, said: str, tmp_path: Path, place: Workspace) -> None:
    table = written(tmp_path, "x.csv", "optimizer,model,loss\nadamw,130m,3\n")
    with pytest.raises(OptsweepError) as caught:
        imports.import_results(place, "csv", path=table, mapping=written(tmp_path, "m.toml", mapping))
    assert said in str(caught.value) and "\n" not in str(caught.value)


# ---------------------------------------------------------------- speedrun logs

CODE = """import os, sys
os.system("touch {marker}")  # a log begins with the program that wrote it
print(f"step:{{step}}/{{args.num_iterations}} val_loss:{{val_loss:.4f}}")
step: this is no step line
====================================================================================================
Running pytorch 2.6.0 compiled for CUDA 12.4
"""


def log_of(losses: dict[int, str], total: int, marker: Path) -> str:
    lines = [CODE.format(marker=marker)]
    for step, loss in losses.items():
        lines.append(f"step:{step}/{total} val_loss:{loss} train_time:{step * 140 + 227}ms step_avg:nanms\n")
        lines.append("saved something in between\n")
        lines.append(f"step:{step + 1}/{total} train_loss:{loss} train_time:{step * 140 + 300}ms step_avg:140.1ms\n")
    return "".join(lines)


def test_a_speedrun_log_is_a_run_with_its_curve_and_its_code_is_never_executed(
    tmp_path: Path, place: Workspace
) -> None:
    logs, marker = tmp_path / "logs", tmp_path / "executed"
    (logs / "muon").mkdir(parents=True)
    written(logs / "muon", "a.txt", log_of({0: "16.0", 125: "5.4789", 250: "4.5"}, 250, marker))
    written(logs / "muon", "short.txt", log_of({0: "16.0", 125: "5.4789"}, 250, marker))
    written(logs / "muon", "bad.log", log_of({0: "16.0", 250: "nan"}, 250, marker))
    written(logs, "other.txt", log_of({250: "4.0"}, 250, marker))
    written(logs, "empty.txt", CODE)
    mapping = written(
        tmp_path, "m.toml",
        '[constants]\nmodel = "speedrun-124m"\nparams = 84934656\nbatch_size = 512\nseq_len = 1024\n'
        '[[runs]]\nmatch = "muon/*"\noptimizer = "muon"\nhyperparameters = { lr = 0.02 }\n',
    )  # fmt: skip
    report = imports.import_results(place, "nanogpt", path=logs, mapping=mapping)
    assert not marker.exists()
    assert report.states == {"done": 1, "failed": 1, "nan": 1}
    assert (
        sorted(entry.why.partition(":")[0] for entry in report.skipped) == ["nothing says which optimizer it is of"] * 2
    )
    rows = sql_rows(
        place.store, "SELECT source->>'entry', state, loss, steps_done, train_seconds, lr, tokens FROM v_run ORDER BY 1"
    )
    assert rows[0][:3] == ("muon/a.txt", "done", 4.5)
    assert rows[0][3:] == (250, pytest.approx(250 * 0.14 + 0.3), 0.02, 250 * 512 * 1024)
    assert rows[1][1:3] == ("nan", None) and rows[2][1:3] == ("failed", None)
    curve = sql_rows(
        place.store,
        "SELECT step, value, v_metric.tokens FROM v_metric JOIN v_run USING (run_id) WHERE key = 'val_loss' AND state = 'done'"
        " ORDER BY step",
    )
    assert curve == [(0, 16.0, 0), (125, 5.4789, 125 * 524288), (250, 4.5, 250 * 524288)]
    assert imports.import_results(place, "nanogpt", path=logs, mapping=mapping).new == 0


def test_logs_without_any_mapping_say_what_is_missing(tmp_path: Path, place: Workspace) -> None:
    written(tmp_path, "a.txt", log_of({250: "4.0"}, 250, tmp_path / "x"))
    report = imports.import_results(place, "nanogpt", path=tmp_path / "a.txt")
    assert report.runs == 0 and "name it in [constants]" in report.skipped[0].why
    with pytest.raises(OptsweepError, match=r"no \.txt or \.log"):
        imports.import_results(place, "nanogpt", path=place.runs)


# ---------------------------------------------------------------- mutated inputs


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", ["csv", "parquet", "nanogpt"])
def test_mutated_files_end_in_a_listed_skip_or_one_line(kind: str, tmp_path: Path, place: Workspace) -> None:
    rng = random.Random(11)
    file = tmp_path / {"csv": "x.csv", "parquet": "x.parquet", "nanogpt": "x.log"}[kind]
    mapping = None
    if kind == "nanogpt":
        mapping = written(
            tmp_path, "m.toml", '[constants]\noptimizer = "muon"\nmodel = "130m"\nbatch_size = 8\nseq_len = 64\n'
        )
        start = log_of({0: "16.0", 125: "5.4", 250: "4.5"}, 250, tmp_path / "no").encode()
    else:
        frame = pd.DataFrame(
            {
                "optimizer": ["adamw", "muon", "x"], "model": ["130m"] * 3, "loss": [3.5, float("nan"), 3.0],
                "tokens": [10**9] * 3, "batch_size": [128.0, None, 1.0], "state": ["done", "nan", None],
                "hyperparameters": ['{"lr": 0.1}', None, "{}"], "entry": ["a", "b", "c"], "seed": [1, 2, 3],
            }
        )  # fmt: skip
        frame.to_csv(file, index=False) if kind == "csv" else frame.to_parquet(file, index=False)
        start = file.read_bytes()
    kept: dict[str, Any] = {}
    for turn in range(FUZZ):
        file.write_bytes(mutated_bytes(rng, start) if turn else start)
        try:
            found = protocol.load_importer(kind).read(protocol.Request(path=file, mapping=mapping))
        except OptsweepError as error:
            assert "\n" not in str(error)
            continue
        assert all(entry.why and "\n" not in entry.why for entry in found.skipped)
        assert len({run.run_id for run in found.runs}) == len(found.runs)
        if turn % max(1, FUZZ // 100) == 0:
            kept |= {run.run_id: run for run in found.runs}
    place.ensure()
    plant.plant(place.runs, kept.values())
    report = flow.collect(place)
    assert report.skipped == [] and report.runs == len(kept) >= {"csv": 10, "parquet": 3, "nanogpt": 1}[kind]
    for run_id in rundir.run_ids(place.runs):
        assert flow.run_line(place, run_id).state
    for view in ("v_run", "v_cell", "v_best", "v_gap", "v_knob", "v_metric"):
        sql_rows(place.store, f"SELECT count(*) FROM (SELECT * FROM {view})")
