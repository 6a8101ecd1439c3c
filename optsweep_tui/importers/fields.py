"""Plain fields of a run to an ImportedRun: names to catalogue names, budgets worked out from what is given."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from optsweep_engines import models
from optsweep_engines.optimizers import catalogue
from optsweep_engines.optimizers.base import find_knob
from optsweep_engines.spec import BRANCH, WEIGHTS
from optsweep_tui import grid
from optsweep_tui.core import dataset_parts
from optsweep_tui.imported import IMPORTED_STATES, ImportedRun, ImportedSpec, Outcome
from optsweep_tui.importers.cells import KNOB, catalogue_name, knob_name
from optsweep_tui.importers.protocol import printable

TEXTS = ("optimizer", "model", "engine", "dataset", "dataset_hash", "validation_set", "schedule", "dtype", "device")
INTEGERS = ("tokens", "params", "total_params", "batch_size", "seq_len", "seed", "steps")
NUMBERS = ("loss", "train_loss", "train_seconds", "tokens_per_second", "seconds_per_token", "chinchilla")
FIELDS = (*TEXTS, *INTEGERS, *NUMBERS, "state", "entry", "hyperparameters", "start_mode")
"""Everything that a file can say of a run."""

MOST_TOKENS = 1e18
"""More are no budget, and no number of parameters."""
SLACK = 1.2
"""By what factor tokens and a ratio may differ: steps are whole."""
MAX_TEXT = 200
"""Characters of a name or a metric's key."""
_MICROSOFT = {
    "1.#qnan": "nan",
    "-1.#ind": "nan",
    "1.#ind": "nan",
    "-1.#qnan": "nan",
    "1.#inf": "inf",
    "-1.#inf": "-inf",
}
"""How the C library of Windows has written them."""
_NOTHING = ("", "null", "none", "na", "n/a", "<na>")
_OF_SPEC = (
    *("engine", "dataset", "dataset_hash", "validation_set", "batch_size", "seq_len", "schedule", "dtype", "seed"),
)


def run_of(
    values: Mapping[str, Any], importer: str, study: str, entry: str, source: Mapping[str, Any], **more: Any
) -> ImportedRun:
    """One run from its fields.

    Args:
        values: field of FIELDS -> value, a text as well as a number; what is empty or absent is unpublished.
        more: further fields of ImportedRun.

    Raises:
        ValueError: a field that cannot be used.
    """
    _whole(text(values.get("start_mode")), text(values.get("dataset")))
    known: dict[str, Any] = {name: text(values.get(name)) for name in TEXTS}
    known |= {name: integer(name, values.get(name)) for name in INTEGERS}
    for name in ("optimizer", "model"):
        if known[name] is None:
            raise ValueError(f"it has no {name}")
    optimizer = catalogue_name(known["optimizer"])
    try:
        model = models.model(known["model"])
        known["model"], params, total = model.name, model.shape.non_embedding_params, model.shape.total_params
    except LookupError:
        params, total = known["params"], known["total_params"]
    if known["params"] is not None and known["params"] != params:
        params, total = known["params"], known["total_params"]
    for name in ("tokens", "steps", "batch_size", "seq_len", "params", "chinchilla"):
        found = as_float(name, values.get(name)) if not _empty(values.get(name)) else None
        if found is not None and not 0 < found <= MOST_TOKENS:
            raise ValueError(
                f"{name} {found:g} is not positive" if found <= 0 else f"{name} {found:g} is no such number"
            )
    ratio = number("chinchilla", values.get("chinchilla"))
    if ratio and known["tokens"] and params and not 1 / SLACK < known["tokens"] / (20 * params * ratio) < SLACK:
        implied = known["tokens"] / (20 * params)
        raise ValueError(f"its {known['tokens']} tokens are a ratio of {implied:.3g}, not {ratio:g}: leave one out")
    spec = ImportedSpec(
        optimizer=optimizer,
        model=known["model"],
        hyperparameters=_knobs(optimizer, values.get("hyperparameters")),
        tokens=_tokens(known, ratio, params),
        params=params,
        total_params=total,
        **{name: known[name] for name in _OF_SPEC},
    )
    run = ImportedRun(
        importer=importer,
        study=study,
        entry=printable(entry),
        source={key: printable(value) if isinstance(value, str) else value for key, value in source.items()},
        spec=spec,
        outcome=outcome_of(values, known, spec),
        **more,
    )
    run.check()
    return run


def _whole(start_mode: str | None, dataset: str | None) -> None:
    """Refuse a run whose start would be forgotten: it would stand beside runs from scratch.

    Raises:
        ValueError: with the reason.
    """
    if start_mode is None:
        return
    mode = start_mode.lower()
    if mode == BRANCH:
        raise ValueError("it is a decay branch of a trunk: imported cells hold whole runs")
    if mode != WEIGHTS:
        raise ValueError(f"start_mode {start_mode[:40]!a} is not one of {WEIGHTS}, {BRANCH}")
    if dataset_parts(dataset or "")[2] is None:
        raise ValueError(
            'it began with the weights of another run: its dataset must say which, as "c4 from 1a2b3c4d@300"'
        )


def called_like_knobs(optimizer: str, names: Iterable[str]) -> list[str]:
    """Those names that are knobs of an optimizer, or of every run, also by a published name; none of one not known.

    Of two names of one knob the catalogue's own is taken, else the first.
    """
    try:
        knobs = catalogue.all_knobs(catalogue.optimizer(catalogue_name(optimizer)))
    except LookupError:
        return []
    found: dict[str, str] = {}
    for name in names:
        knob = find_knob(knobs, name)
        if knob is not None and (knob.name not in found or name == knob.name):
            found[knob.name] = name
    return list(found.values())


def unread_text(one: str, several: str, names: Iterable[str]) -> str:
    """That some entries or columns were not understood, and which."""
    shown = sorted(ascii(name)[1:-1][:60] for name in names)
    what = f"1 {one} means" if len(shown) == 1 else f"{len(shown)} {several} mean"
    return f"{what} nothing here (name what matters in a --mapping): {', '.join(shown)}"


def outcome_of(values: Mapping[str, Any], known: Mapping[str, Any], spec: ImportedSpec) -> Outcome:
    """How it ended: the state that is said, else what the loss says."""
    raw = values.get("loss")
    loss = None if _empty(raw) else as_float("loss", raw)
    state = text(values.get("state"))
    if state is None:
        state = "missing" if loss is None else "done" if math.isfinite(loss) else "nan"
    state = state.lower()
    if state not in IMPORTED_STATES:
        raise ValueError(f"state {state[:40]!r} is not one of {', '.join(IMPORTED_STATES)}")
    if loss is not None and math.isfinite(loss) and loss <= 0:
        raise ValueError(f"loss {loss:g} is not positive")
    if state == "done" and (loss is None or not math.isfinite(loss)):
        raise ValueError("it is done but has no finite loss")
    rate, seconds = (number(name, values.get(name)) for name in ("tokens_per_second", "seconds_per_token"))
    if rate is None and seconds is not None and seconds > 0:
        rate = 1.0 / seconds
    kept = loss if state in ("done", "diverged") and loss is not None and math.isfinite(loss) else None
    return Outcome(
        state=state,
        loss=kept,
        train_loss=number("train_loss", values.get("train_loss")),
        steps=known["steps"],
        tokens=spec.tokens if state == "done" else None,
        train_seconds=number("train_seconds", values.get("train_seconds")),
        tokens_per_second=rate,
        device=known["device"],
        error=f"the loss is recorded as {loss}" if state == "nan" else None,
    )


def _tokens(known: Mapping[str, Any], ratio: float | None, params: int | None) -> int | None:
    """D as it is given; else from the steps; else from the ratio."""
    if known["tokens"] is not None:
        return int(known["tokens"])
    if known["steps"] and known["batch_size"] and known["seq_len"]:
        return int(known["steps"] * known["batch_size"] * known["seq_len"])
    return None if ratio is None or not params else round(ratio * 20 * params)


def _knobs(optimizer: str, given: Any) -> dict[str, Any] | None:
    """Hyperparameters from a table or from JSON text; None where there are none."""
    if isinstance(given, str) and not _empty(given):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            raise ValueError(f"hyperparameters {given[:40]!r} is not JSON") from None
    if _empty(given):
        return None
    if not isinstance(given, Mapping):
        raise ValueError("hyperparameters is not a table")
    knobs: dict[str, Any] = {}
    for key, value in given.items():
        if not KNOB.fullmatch(str(key)):
            raise ValueError(f"{ascii(key)[:80]} is not the name of a knob")
        name = knob_name(optimizer, str(key))
        if name in knobs:
            raise ValueError(f"{key} is {name} again")
        knobs[name] = scalar(value)
    return knobs


def scalar(value: Any) -> Any:
    """A knob's value: numbers and truth values in text become such, empty is None.

    Raises:
        ValueError: no number, text or truth value, or not finite.
    """
    if _empty(value):
        return None
    if isinstance(value, str):
        return grid.scalar(value)
    if not isinstance(value, bool | int | float):
        raise ValueError(f"{str(value)[:40]!r} is not a value of a knob")
    return value


def text(value: Any) -> str | None:
    """A text; None for nothing."""
    if _empty(value):
        return None
    if not isinstance(value, str | int | float):
        raise ValueError(f"{str(value)[:40]!r} is not a text")
    found = str(value).strip()
    if len(found) > MAX_TEXT or not found.isprintable():
        raise ValueError(f"{ascii(found)[:60]} is not a name")
    return found


def integer(name: str, value: Any) -> int | None:
    """A whole number, spelled 1000, 1e3 or 1000.0; None for nothing."""
    if _empty(value):
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = as_float(name, value)
    if not found.is_integer():
        raise ValueError(f"{name} = {str(value)[:40]} is not a whole number")
    try:
        return int(str(value).strip())
    except ValueError:
        return int(found)


def number(name: str, value: Any) -> float | None:
    """A finite number; None for nothing and for what is not finite."""
    if _empty(value):
        return None
    found = as_float(name, value)
    return found if math.isfinite(found) else None


def as_float(name: str, value: Any) -> float:
    """Raises ValueError for what is no number."""
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        if isinstance(value, str):
            if "_" in value or not value.isascii():  # what Python reads beyond any file's convention
                raise ValueError
            value = _MICROSOFT.get(value.strip().lower().rstrip("0"), value)
        return float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"{name} = {str(value)[:40]!r} is not a number that fits") from None


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.strip().lower() in _NOTHING)
