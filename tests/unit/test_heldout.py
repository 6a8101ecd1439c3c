"""Several validation sets: what is measured, what a plan refuses, and that they change no trajectory."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from optsweep_engines import data
from optsweep_engines.data import PreparedDataset
from optsweep_engines.engine import load_engine
from optsweep_engines.heldout import HeldOut
from optsweep_engines.spec import RunRecord, RunSpec, ValidationSet
from optsweep_engines.torch_engine.train import Trainer
from optsweep_tui import drafts, grid, gridfile, heldout
from optsweep_tui.core import Cell, DatasetFacts, read_by, validation_key, validation_parts
from optsweep_tui.errors import OptsweepError
from tests.numerics.run_log import FolderLog
from tests.numerics.toy import TOY, spec, toy_dataset


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def dataset(root: Path) -> PreparedDataset:
    return toy_dataset(root)


@pytest.fixture(scope="module")
def other(root: Path) -> PreparedDataset:
    """Tokens that all are 7, once the first is known."""

    def sevens() -> object:
        for index in range(60):
            yield f"seven-{index}", np.full(1200, 7, dtype="<u2")

    return data.write(dataclasses.replace(TOY, name="sevens", documents=sevens), root)  # type: ignore[arg-type]


def sets(other: PreparedDataset, dataset: PreparedDataset) -> dict[str, ValidationSet]:
    return {
        "sevens": ValidationSet(dataset=other.name, dataset_hash=other.sha256),
        "seen": ValidationSet(dataset=dataset.name, dataset_hash=dataset.sha256, split="train"),
    }


def test_further_sets_change_no_bit_of_the_run_and_their_losses_stand_beside_its_own(
    dataset: PreparedDataset, other: PreparedDataset, root: Path, tmp_path: Path
) -> None:
    plain, several = spec(dataset), spec(dataset, validation_sets=sets(other, dataset), validation_interval=20)
    engine = load_engine("torch")
    first = engine.train(plain, FolderLog(tmp_path / "1", root))
    log = FolderLog(tmp_path / "2", root)
    second = engine.train(several, log)
    assert first.parameters_sha256 == second.parameters_sha256
    assert first.val_loss == second.val_loss
    assert first.val_losses is None
    measured = [row for row in log.rows() if "val_loss" in row]
    assert [row["step"] for row in measured] == [20, 40]
    last = {name: measured[-1][f"val_loss/{name}"] for name in ("validation", "sevens", "seen")}
    assert second.val_losses == last
    assert last["validation"] == second.val_loss == measured[-1]["val_loss"]
    assert RunRecord.from_dict(second.to_dict()) == second


def test_the_declared_set_is_the_metric_and_a_cell_of_its_own(
    dataset: PreparedDataset, other: PreparedDataset, root: Path, tmp_path: Path
) -> None:
    run = spec(dataset, validation_sets=sets(other, dataset), validation_set="sevens")
    record = load_engine("torch").train(run, FolderLog(tmp_path, root))
    assert record.val_losses is not None
    assert record.val_loss == record.val_losses["sevens"] != record.val_losses["validation"]
    assert Cell.of(run) != Cell.of(run.replace(validation_set="validation")) == Cell.of(spec(dataset))
    key = f"sevens=sevens@{other.sha256[:12]}:512"
    assert validation_key(run) == key
    assert validation_parts(key) == ("sevens", "sevens", 512)
    assert validation_parts("validation:65536") == ("validation", None, 65536)
    assert validation_parts("paloma/c4_en") == ("paloma/c4_en", None, None)


def test_the_loss_of_a_set_is_the_mean_over_its_windows(
    dataset: PreparedDataset, other: PreparedDataset, root: Path
) -> None:
    """Against a plain loop over the tokens of the split, window by window."""
    run = spec(dataset, validation_sets=sets(other, dataset))
    trainer = Trainer(run, root, torch.device("cpu"))
    tokens, losses = dataset.train.astype(np.int64), []
    for start in (np.arange(32) * (len(tokens) - 1) // 32).tolist():
        x, y = tokens[start : start + 16], tokens[start + 1 : start + 17]
        losses.append(float(trainer.decoder.loss(torch.from_numpy(x[None]), torch.from_numpy(y[None]))))
    assert trainer.validation_loss("seen") == pytest.approx(math.fsum(losses) / 32, rel=1e-5)


def test_a_set_that_is_not_there_or_not_declared_is_refused_before_training(
    dataset: PreparedDataset, root: Path
) -> None:
    gone = {"gone": ValidationSet(dataset="toy", dataset_hash="ab" * 32)}
    with pytest.raises(ValueError, match="toy with hash abababababab is not prepared there"):
        HeldOut(spec(dataset, validation_sets=gone), root, dataset)
    with pytest.raises(ValueError, match='"books", which the run does not have'):
        HeldOut(spec(dataset, validation_set="books"), root, dataset)


FACTS = {
    "embedded": DatasetFacts(name="embedded", sha256="0" * 64, vocab_size=256, held_out=10**6, train_tokens=10**7),
    "mine": DatasetFacts(name="mine", sha256="1" * 64, vocab_size=256, held_out=10**6, train_tokens=10**7),
    "small": DatasetFacts(name="small", sha256="2" * 64, vocab_size=256, held_out=100, train_tokens=10**7),
    "words": DatasetFacts(name="words", sha256="3" * 64, vocab_size=600, held_out=10**6, train_tokens=10**7),
}
GRID = {
    "cells": [{"optimizer": "adamw", "model": "bench-micro", "chinchilla": 0.02}],
    "validation_sets": {"books": "mine:train", "own": "small:train"},
    "metric_set": "books",
}


def planned(**changes: object) -> RunSpec:
    return grid.expand(gridfile.parse({**GRID, **changes}, "mine.toml", "mine"), FACTS.__getitem__)[0]


def test_a_grid_names_sets_and_metric_and_hosts_get_all_of_it() -> None:
    run = planned()
    assert run.validation_set == "books"
    assert run.validation_sets["books"] == ValidationSet(dataset="mine", dataset_hash="1" * 64, split="train")
    assert read_by([run]) == {("embedded", "0" * 64), ("mine", "1" * 64), ("small", "2" * 64)}
    assert validation_key(run) == "books=mine:train@111111111111:65536"
    again = RunSpec.from_dict(run.to_dict())
    assert again == run
    assert again.run_id == run.run_id


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric_set": "bookz"}, 'metric_set: validation set "bookz" is not known; did you mean "books"?'),
        ({"validation_sets": {"validation": "mine"}, "metric_set": "validation"}, "cannot name a validation set"),
        ({"validation_sets": {"a b": "mine"}, "metric_set": "validation"}, "cannot name a validation set"),
        ({"validation_sets": {"books": "mine:trian"}}, 'split "trian" is not known; did you mean "train"?'),
        ({"validation_sets": {"books": 3}}, "names no dataset"),
        ({"validation_sets": ["mine"]}, "is not a table"),
        ({"validation_sets": {"books": "words"}}, "words has a vocabulary of 600 tokens, the training data embedded one of 256"),
        ({"validation_sets": {"books": "small"}}, "has 100 tokens, 512 windows of 128 are asked for"),
    ],
)  # fmt: skip
def test_a_wrong_set_is_one_line(changes: dict[str, object], message: str) -> None:
    with pytest.raises(OptsweepError, match=message.replace("?", r"\?")):
        planned(**changes)


def test_tokenizers_are_told_apart_by_file_then_by_name() -> None:
    own = DatasetFacts(name="a", sha256=None, vocab_size=256, tokenizer="gpt2", tokenizer_sha256="x")
    assert heldout.other_tokens(own, dataclasses.replace(own, name="b", tokenizer="other")) is None
    assert "another tokenizer" in str(heldout.other_tokens(own, dataclasses.replace(own, tokenizer_sha256="y")))
    named = dataclasses.replace(own, name="b", tokenizer="t5", tokenizer_sha256="")
    assert heldout.other_tokens(own, named) == "b is in tokens of t5, the training data a of gpt2"
    assert heldout.other_tokens(own, FACTS["mine"]) is None


def test_a_proposed_grid_keeps_metric_and_epochs() -> None:
    run = planned(defaults={"simulate_epochs": 2})
    study = gridfile.parse({**GRID, "defaults": {"simulate_epochs": 2}}, "mine.toml", "mine")
    listed = drafts._listed(
        drafts.Wanted(
            optimizer="adamw", model="bench-micro", chinchilla=0.02, settings={}, dataset="embedded x2 epochs",
            validation_set=validation_key(run), seed=0,
        )
    )  # fmt: skip
    again = grid.expand(dataclasses.replace(study, cells=(), runs=(listed,), defaults={}), FACTS.__getitem__)[0]
    assert again.run_id == run.run_id
