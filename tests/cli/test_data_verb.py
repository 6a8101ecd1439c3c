"""`optsweep data`: a real kill in the middle, a run on one's own corpus, a flipped byte, and one line for every mistake."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.workbench import OPTSWEEP, optsweep


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with JSON lines, packed and not, and a tokenizer trained on some of it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    root = tmp_path_factory.mktemp("corpus")
    (root / "texts").mkdir()
    stream = random.Random(0)
    words = ["".join(stream.choices("etaoinshrdlu", k=stream.randint(1, 9))) for _ in range(20_000)]
    lines = [json.dumps({"text": " ".join(stream.choices(words, k=150))}) + "\n" for _ in range(4500)]
    for part in range(3):
        (root / "texts" / f"{part}.jsonl").write_text("".join(lines[part * 1500 : part * 1500 + 1500]))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(lines[:100], trainer)
    tokenizer.save(str(root / "tokenizer.json"))
    return root


def _prepared(corpus: Path, workspace: Path, *more: str) -> dict[str, Any]:
    arguments = ("data", "prepare", "mine", "--from", str(corpus / "texts"), "--json", *more)
    (row,) = json.loads(optsweep(*arguments, workspace=workspace).stdout)
    return dict(row)


def test_a_kill_in_the_middle_costs_a_moment_and_the_hash_is_that_of_an_undisturbed_call(
    corpus: Path, tmp_path: Path
) -> None:
    tokenizer = ("--tokenizer", str(corpus / "tokenizer.json"))
    whole = _prepared(corpus, tmp_path / "whole", *tokenizer, "--workers", "1")
    cut = tmp_path / "cut"
    arguments = ["data", "prepare", "mine", "--from", str(corpus / "texts"), *tokenizer, "--workers", "2"]
    process = subprocess.Popen([*OPTSWEEP, *arguments, "--workspace", str(cut)], stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < limit:
        if any(path.stat().st_size for path in cut.glob("data/.preparing-mine-*/journal.jsonl")):
            break
        time.sleep(0.02)
    workers = _children(process.pid)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was killed before its end"
    assert list(cut.glob("data/mine-*")) == [], "nothing is published"
    assert len(workers) == 2
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < limit:
        time.sleep(0.02)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()], "its processes end with it"
    again = optsweep(*arguments, "--json", workspace=cut)
    assert "going on where an earlier call stopped" in again.stderr
    (row,) = json.loads(again.stdout)
    assert row["sha256"] == whole["sha256"]
    assert [path.name for path in (cut / "data").iterdir()] == [f"mine-{whole['sha256'][:12]}"]
    third = json.loads(optsweep(*arguments, "--json", workspace=cut).stdout)
    assert third[0]["already"]


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_a_run_trains_on_ones_own_corpus_and_a_flipped_byte_is_refused_before_the_next(
    corpus: Path, tmp_path: Path
) -> None:
    row = _prepared(corpus, tmp_path)
    run = ["run", "-o", "adamw", "-m", "bench-micro", "--dataset", "MINE", "--set", "validation_tokens=4096"]
    document = json.loads(optsweep(*run, "-c", "0.01", "--json", workspace=tmp_path).stdout)
    assert {each["dataset"] for each in document["runs"]} == {"mine"}
    listed = json.loads(optsweep("ls", "--json", workspace=tmp_path).stdout)
    assert [each["state"] for each in listed] == ["done"]
    shard = Path(row["folder"]) / "validation.bin"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    refused = optsweep(*run, "-c", "0.02", workspace=tmp_path, check=False)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1 and "dataset mine is damaged" in refused.stderr
    assert len(json.loads(optsweep("ls", "--json", workspace=tmp_path).stdout)) == 1, "nothing was planted"
    _prepared(corpus, tmp_path)
    optsweep(*run, "-c", "0.02", workspace=tmp_path)


@pytest.mark.slow
def test_an_engine_refuses_shards_that_were_damaged_after_the_launch(corpus: Path, tmp_path: Path) -> None:
    from optsweep_tui import flow, settings

    row = _prepared(corpus, tmp_path)
    place = settings.workspace(tmp_path)
    request = flow.Request(
        optimizers=("adamw",),
        models=("bench-micro",),
        chinchillas=("0.01",),
        dataset="mine",
        sets=("validation_tokens=4096",),
    )
    flow.launch(place, flow.plan(place, request, prepare=True))
    shard = Path(row["folder"]) / "train.bin"
    content = bytearray(shard.read_bytes())
    content[5] ^= 1
    shard.write_bytes(content)
    assert optsweep("resume", workspace=tmp_path, check=False).returncode == 1
    (run,) = json.loads(optsweep("ls", "--json", workspace=tmp_path).stdout)
    assert run["state"] == "failed" and "the tokens hash to" in run["error"]
    assert not list(place.runs.glob("*/a*/metrics.jsonl")) or not any(
        path.read_text() for path in place.runs.glob("*/a*/metrics.jsonl")
    ), "not a step was trained"


def test_ls_shows_what_is_prepared_which_is_used_and_what_is_damaged(corpus: Path, tmp_path: Path) -> None:
    assert json.loads(optsweep("data", "ls", "--json", workspace=tmp_path).stdout) == []
    first = _prepared(corpus, tmp_path)
    second = _prepared(corpus, tmp_path, "--held-out", "0.2")
    rows = json.loads(optsweep("data", "ls", "--json", workspace=tmp_path).stdout)
    assert [(row["sha256"], row["state"]) for row in rows] == [(second["sha256"], "used"), (first["sha256"], "older")]
    assert {row["tokenizer"] for row in rows} == {"bytes"}
    text = optsweep("data", "ls", workspace=tmp_path).stdout
    assert second["sha256"][:12] in text and "older" in text
    (Path(first["folder"]) / "train.bin").write_bytes(b"")
    rows = json.loads(optsweep("data", "ls", "--json", workspace=tmp_path).stdout)
    assert [row["state"] for row in rows] == ["used", "damaged"]
    listed = json.loads(optsweep("datasets", "--json", workspace=tmp_path).stdout)
    assert [row["name"] for row in listed if row["prepared"]] == ["mine"]
    shown = json.loads(optsweep("datasets", "mine", "--json", workspace=tmp_path).stdout)
    assert (shown["sha256"], shown["tokenizer"]) == (second["sha256"], "bytes")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["data", "prepare"], "needs the name"),
        (["data", "show"], '"show" is not known'),
        (["data", "prepare", "mine"], "is in no catalogue"),
        (["data", "prepare", "mine", "--from", "nowhere"], "cannot be read"),
        (["data", "prepare", "mine", "--from", "garbage.jsonl"], "garbage.jsonl line 2 is not JSON"),
        (["data", "prepare", "mine", "--from", "garbage.jsonl", "--tokens", "many"], "no number of tokens"),
        (["data", "ls", "mine"], "is not known"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "garbage.jsonl").write_text('{"text": "good"}\nbad\n')
    paths = [str(tmp_path / each) if each.endswith(("nowhere", ".jsonl")) else each for each in arguments]
    result = optsweep(*paths, workspace=tmp_path / "work", check=False)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.count("\n") == 1 and says in result.stderr, result.stderr


def test_a_library_that_is_missing_is_named_with_how_to_get_it(corpus: Path, tmp_path: Path) -> None:
    code = (
        "import sys, importlib.util as util; find = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name == 'tokenizers' else find(name, *more)\n"
        "from optsweep_tui.cli.root import run_command; sys.exit(run_command(sys.argv[1:]))"
    )
    arguments = [
        "data",
        "prepare",
        "mine",
        "--from",
        str(corpus / "texts"),
        "--tokenizer",
        str(corpus / "tokenizer.json"),
    ]
    command = [sys.executable, "-c", code, *arguments, "-w", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "pip install 'optsweep[data]'" in result.stderr


def test_without_a_network_it_says_what_to_download_and_how_to_go_on(tmp_path: Path) -> None:
    code = (
        "import sys, urllib.request as request, urllib.error\n"
        "def cut(*given, **named): raise urllib.error.URLError('Name or service not known')\n"
        "request.urlopen = cut\n"
        "from optsweep_tui.cli.root import run_command; sys.exit(run_command(sys.argv[1:]))"
    )
    for name, wanted in (("tinystories", "roneneldan/TinyStories"), ("shakespeare", "input.txt")):
        command = [sys.executable, "-c", code, "data", "prepare", name, "-w", str(tmp_path)]
        environment = {"HF_HOME": str(tmp_path / "cache"), "PATH": "/usr/bin"}
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
        assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
        assert wanted in result.stderr and f"data prepare {name} --from" in result.stderr
