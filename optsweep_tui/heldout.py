"""`--validate books=tinystories:train` read and looked up: further validation sets of a plan, checked before it is launched."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from optsweep_engines.spec import OWN_SET, RunSpec, ValidationSet
from optsweep_tui.core import DatasetFacts
from optsweep_tui.errors import OptsweepError, UnknownName

SPLITS = ("validation", "train")
FORM = "write NAME=DATASET or NAME=DATASET:train"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")


def named(texts: Iterable[str], option: str = "--validate") -> dict[str, str]:
    """NAME=DATASET[:SPLIT] texts as a table.

    Raises:
        OptsweepError: one is not of that form, or a name is given twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        if not equals or not name.strip() or not rest.strip():
            raise OptsweepError(f'{option} "{text}" is not of the form NAME=DATASET[:SPLIT]', FORM)
        if name.strip() in found:
            raise OptsweepError(f'{option} "{text}": {name.strip()} is given twice', "keep one of them")
        found[name.strip()] = rest.strip()
    return checked(found, option)


def checked(table: Mapping[str, object], where: str) -> dict[str, str]:
    """A table of names and DATASET[:SPLIT] texts.

    Raises:
        OptsweepError: a name or a split cannot be one.
    """
    for name, text in table.items():
        if not _NAME.fullmatch(name) or name == OWN_SET:
            raise OptsweepError(
                f'{where}: "{name}" cannot name a validation set',
                f'up to 40 letters, digits, "_", "." and "-"; {OWN_SET} is the split of the dataset itself',
            )
        if not isinstance(text, str) or not text.partition(":")[0]:
            raise OptsweepError(f"{where}: {name} = {text!r} names no dataset", 'write books = "tinystories"')
        split = text.partition(":")[2]
        if ":" in text and split not in SPLITS:
            raise UnknownName("split", split, SPLITS, f"{where}: {name}")
    return {name: str(text) for name, text in table.items()}


def sets_of(
    table: Mapping[str, str], training: DatasetFacts, datasets: Callable[[str], DatasetFacts], where: str
) -> dict[str, ValidationSet]:
    """The sets of a plan.

    Args:
        training: the dataset that the run trains on.
        datasets: looks a dataset up by name.

    Raises:
        OptsweepError: no such dataset, or its tokens are of another tokenizer.
    """
    found = {}
    for name, text in table.items():
        dataset, _, split = text.partition(":")
        facts = datasets(dataset)
        reason = other_tokens(training, facts)
        if reason is not None:
            raise OptsweepError(
                f"{where}: validation set {name}: {reason}", "prepare it with the tokenizer of the training data"
            )
        found[name] = ValidationSet(dataset=facts.name, dataset_hash=facts.sha256, split=split or OWN_SET)
    return found


def other_tokens(training: DatasetFacts, other: DatasetFacts) -> str | None:
    """Why a model trained on one dataset cannot read another, in one line; None where it can, as far as is known."""
    if training.vocab_size != other.vocab_size:
        return (
            f"{other.name} has a vocabulary of {other.vocab_size:,} tokens, the training data {training.name} one of "
            f"{training.vocab_size:,}"
        )
    for kind in ("tokenizer_sha256", "tokenizer"):
        first, second = getattr(training, kind), getattr(other, kind)
        if first and second:
            if first == second:
                return None
            if kind == "tokenizer":
                return f"{other.name} is in tokens of {second}, the training data {training.name} of {first}"
            return f"{other.name} is in tokens of another tokenizer than the training data {training.name}"
    return None


def require_windows(spec: RunSpec, datasets: Callable[[str], DatasetFacts], where: str) -> None:
    """Refuse a set with fewer tokens than the loss is measured on, and a metric that is none of them.

    Raises:
        OptsweepError: with both numbers.
    """
    if spec.validation_set not in spec.measured:
        raise UnknownName("validation set", spec.validation_set, spec.measured, where)
    windows = spec.validation_tokens // spec.seq_len
    for name, item in spec.validation_sets.items():
        facts = datasets(item.dataset)
        there = facts.train_tokens if item.split == "train" else facts.held_out
        if there is not None and windows * spec.seq_len >= there:
            raise OptsweepError(
                f"{where}: validation set {name} has {there:,} tokens, {windows} windows of {spec.seq_len} are asked for",
                "set validation_tokens to fewer",
            )
