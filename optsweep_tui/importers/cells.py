"""Published cells as runs: an incumbent, the one-at-a-time changes around it, and a minimum that may belong to neither."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optsweep_engines import models
from optsweep_engines.optimizers import catalogue
from optsweep_engines.optimizers.base import find_knob
from optsweep_engines.spec import canonical_scalar
from optsweep_tui.imported import ImportedRun, ImportedSpec, Outcome
from optsweep_tui.importers.protocol import Found
from optsweep_tui.published import STUDY_NAMES, TOKENS_PER_SEQUENCE

SOURCE = {"published": "arXiv 2509.02046, code release of August 2025", "url": "https://arxiv.org/abs/2509.02046"}
DIVERGED_FROM = 5.0
"""The study's own cut, nats: a final loss from here up counts as diverged. The curves that would tell are not published;
a finished run more than 0.5 above the best of its cell is FAR to the analysis, diverged or not."""
SAME_LOSS = 1e-9
"""Relative: `min_loss` is one of the listed losses, copied."""
VALIDATION_SET = "paloma c4_en"
DATASET = "dclm-mix"
DTYPE = "bf16"
KNOB = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
"""What can name a knob: queries put it into JSON paths."""
SCHEDULE = "cosine"
"""Of a configuration that names none."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a cell: the baseline, or one change to it."""

    hyperparameter: str | None
    """Published name of the knob that was changed; None for the baseline itself."""
    value: Any
    recorded: Any
    """The loss as it is recorded: a number, null, or a text."""
    run: str | None
    """Name of the run where it was trained."""

    @property
    def label(self) -> str:
        """What the source calls it."""
        return "Baseline" if self.hyperparameter is None else f"{self.hyperparameter}={_text(self.value)}"


@dataclass(frozen=True, kw_only=True)
class CellFigures:
    """One cell as it is published, under published names."""

    optimizer: str
    model: str
    chinchilla: float
    incumbent: Mapping[str, Any] | None
    """The configuration around which the changes were made; None where it is not known, and then no run's is."""
    entries: tuple[Entry, ...]
    min_loss: Any
    """Smallest loss of the cell as it is recorded; it may belong to no entry."""

    @property
    def name(self) -> str:
        return f"{self.optimizer}/{self.model.lower()}/{self.chinchilla:g}"


def outcome_of(recorded: Any) -> Outcome:
    """How a run ended, by its recorded loss: a number, null, or a text such as "NaN".

    Raises:
        ValueError: it is nothing of the kind.
    """
    if recorded is None:
        return Outcome(state="missing", error="no loss was recorded")
    if isinstance(recorded, bool) or not isinstance(recorded, int | float | str):
        raise ValueError(f"loss {_text(recorded)} is not a number")
    try:
        loss = float(recorded)
    except (ValueError, OverflowError):
        raise ValueError(f"loss {_text(recorded)} is not a number that fits") from None
    if not math.isfinite(loss):
        return Outcome(state="nan", error=f"the loss is recorded as {_text(recorded)}")
    if loss <= 0:
        raise ValueError(f"loss {_text(recorded)} is not positive")
    return Outcome(state="diverged" if loss >= DIVERGED_FROM else "done", loss=loss)


def add_runs(found: Found, cell: CellFigures, where: str, importer: str, study: str, *, trusted: bool = False) -> None:
    """Append the runs of a cell to `found`, and to its `skipped` what cannot be used.

    Args:
        where: the cell's place in the source, for what is listed as skipped.
        trusted: the figures are shipped and tested, so the runs need no check that they can be read back.
    """
    try:
        model = models.model(cell.model)
    except LookupError:
        found.skip(where, f"model {cell.model} is not in the catalogue, so its parameters are not known")
        return
    params = model.shape.non_embedding_params
    common: dict[str, Any] = {
        "optimizer": catalogue_name(cell.optimizer),
        "model": model.name,
        "tokens": round(cell.chinchilla * 20 * params),
        "params": params,
        "total_params": model.shape.total_params,
        "dataset": DATASET,
        "validation_set": VALIDATION_SET,
        "seq_len": TOKENS_PER_SEQUENCE,
        "dtype": DTYPE,
    }
    losses: list[float] = []
    seen: dict[tuple[str | None, Any], Entry] = {}
    for entry in cell.entries:
        try:
            key = (entry.hyperparameter, _canonical(entry.value))
            before = seen.setdefault(key, entry)
            if before is not entry:
                if (_text(before.recorded), before.run) != (_text(entry.recorded), entry.run):
                    found.skip(f"{where}: {entry.label}", f"the same value as {before.label}, which is kept")
                continue
            outcome = outcome_of(entry.recorded)
            spec = ImportedSpec(**common, **_configuration(common["optimizer"], cell.incumbent, entry))
            run = _run(cell, entry.label, entry.recorded, entry.run, spec, outcome, importer, study)
            if not trusted:
                run.check()
        except (ValueError, OverflowError) as error:
            found.skip(f"{where}: {entry.label}", str(error))
            continue
        if outcome.loss is not None:
            losses.append(outcome.loss)
        found.runs.append(run)
    _add_unlisted(found, cell, where, losses, ImportedSpec(**common, hyperparameters=None), importer, study)


def _add_unlisted(
    found: Found,
    cell: CellFigures,
    where: str,
    losses: list[float],
    spec: ImportedSpec,
    importer: str,
    study: str,
) -> None:
    """One further run with the cell's minimum where that belongs to no listed run: its configuration is unpublished."""
    try:
        outcome = outcome_of(cell.min_loss)
        run = _run(cell, "min_loss", cell.min_loss, None, spec, outcome, importer, study)
        run.check()
    except ValueError as error:
        found.skip(f"{where}: min_loss", str(error))
        return
    if outcome.loss is None or any(math.isclose(outcome.loss, loss, rel_tol=SAME_LOSS) for loss in losses):
        return
    if losses and outcome.loss > min(losses):
        why = f"min_loss {outcome.loss:g} is above the smallest listed loss {min(losses):g}, which is used"
        found.skip(f"{where}: min_loss", why)
        return
    found.runs.append(run)


def _run(
    cell: CellFigures,
    label: str,
    recorded: Any,
    run: str | None,
    spec: ImportedSpec,
    outcome: Outcome,
    importer: str,
    study: str,
) -> ImportedRun:
    source: dict[str, Any] = dict(SOURCE)
    if run:
        source["run"] = run
    if recorded != outcome.loss:
        source["recorded"] = _text(recorded)
    return ImportedRun(
        importer=importer, study=study, entry=f"{cell.name}/{label}", source=source, spec=spec, outcome=outcome
    )


def _configuration(optimizer: str, incumbent: Mapping[str, Any] | None, entry: Entry) -> dict[str, Any]:
    """The fields of a spec that one published configuration decides.

    Raises:
        ValueError: a name or a value that no knob can have.
    """
    if incumbent is None:
        return {"hyperparameters": None}
    published = dict(incumbent)
    if entry.hyperparameter is not None:
        published[entry.hyperparameter] = entry.value
    for key in published:
        if not KNOB.fullmatch(key):
            raise ValueError(f"{_text(key)} is not the name of a knob")
    names = {key: knob_name(optimizer, key) for key in published}
    values = {names[key]: _canonical(value) for key, value in published.items()}
    if len(values) < len(names):
        raise ValueError(f"two of its knobs are one: {', '.join(sorted(published))}")
    batch = values.pop("batch_size", None)
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise ValueError(f"batch size {_text(batch)} is not a whole number")
    schedule = values.pop("schedule", SCHEDULE)
    if not isinstance(schedule, str):
        raise ValueError(f"schedule {_text(schedule)} is not a name")
    return {"hyperparameters": values, "batch_size": batch, "schedule": schedule}


def catalogue_name(optimizer: str) -> str:
    """Our name of an optimizer of the study; its own where the catalogue does not have it."""
    name = STUDY_NAMES.get(optimizer.lower(), optimizer)
    try:
        return catalogue.optimizer(name).name
    except LookupError:
        return name


@functools.lru_cache(maxsize=4096)
def knob_name(optimizer: str, published: str) -> str:
    """Our name of a knob; the published one where the optimizer has no such knob."""
    if published.lower() in catalogue.FIELD_ALIASES:
        return catalogue.FIELD_ALIASES[published.lower()]
    try:
        knob = find_knob(catalogue.all_knobs(catalogue.optimizer(optimizer)), published)
    except LookupError:
        knob = None
    return published if knob is None else knob.name


def _canonical(value: Any) -> Any:
    """1 for 1.0, 1e-25 for 9.999999999999999e-26.

    Raises:
        ValueError: no number, text or truth value.
    """
    if value is not None and not isinstance(value, bool | int | float | str):
        raise ValueError(f"{_text(value)} is not a value of a knob")
    return canonical_scalar(value)


def _text(value: Any) -> str:
    return value[:80] if isinstance(value, str) else json.dumps(value, default=str)[:80]
