"""The tree of the published optimizer study: `optsweep export marin FOLDER` writes a result.json per cell, as its code release.

What was imported from such a tree comes back as it was. In other studies a cell's baseline is the configuration that most
others differ from in one knob; what differs in more, and further seeds, have no place in the format and are listed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from optsweep_engines.spec import canonical_json
from optsweep_tui import published
from optsweep_tui.exporters.names import published_name, study_name
from optsweep_tui.exporters.protocol import Written
from optsweep_tui.exporters.runs import ExportedRun

NEAR_BEST = 3e-3
"""Nats: a loss nearer than this to the smallest is in the list of near-best configurations."""
DIVERGED_FROM = 5.0
"""What the format counts as diverged, nats; it has no other word for a run that diverged below."""
_STUDIES = ("marin", "reference")
"""Importers whose entries are those of such a tree."""


class MarinExporter:
    """Writes the tree."""

    name = "marin"
    doc = "the tree of arXiv 2509.02046: {optimizer}/{model}/{ratio}/result.json, one study"
    one_study = True

    def write(self, runs: Sequence[ExportedRun], target: Path) -> Written:
        """A file per cell."""
        written = Written()
        cells: dict[tuple[str, str, str], list[ExportedRun]] = {}
        for run in runs:
            if run.chinchilla is None:
                written.skip(run.title, "its budget in Chinchilla ratios is not known, and cells are named by it")
                continue
            if not run.state.finished:
                written.skip(run.title, f"it is {run.state.state}: the tree holds ended runs")
                continue
            key = (study_name(run.spec.optimizer), run.spec.model.lower(), f"{run.chinchilla:g}")
            cells.setdefault(key, []).append(run)
        _remark(runs, written)
        for key, members in sorted(cells.items()):
            document = _document(members, "/".join(key), written)
            if document is not None:
                where = target.joinpath(*(part.replace("/", "_") for part in key))
                where.mkdir(parents=True)
                text = json.dumps(document, indent=2, allow_nan=False)
                (where / "result.json").write_text(f"{text}\n", encoding="utf-8")
                written.files += 1
        return written


def _remark(runs: Sequence[ExportedRun], written: Written) -> None:
    """What `import marin` will take for granted although it is not so."""
    given = {"dataset": "dclm-mix", "seq_len": published.TOKENS_PER_SEQUENCE, "dtype": "bf16"}
    for name, value in given.items():
        others = sorted({str(getattr(run.spec, name)) for run in runs if getattr(run.spec, name) != value})
        if others:
            written.skip(name, f"the tree has no place for it and means {value}; here it is {', '.join(others[:4])}")
    if any(run.spec.schedule is None and run.hyperparameters is not None for run in runs):
        written.skip("schedule", "some runs have none that is known; without one the tree means cosine")


class _Cell:
    """The entries of a cell as the format keeps them."""

    def __init__(self) -> None:
        self.result: dict[str, Any] = {}
        self.names: dict[str, str | None] = {}
        self.changes: list[dict[str, Any]] = []
        self.losses: list[float] = []

    def add(self, param: str | None, value: Any, run: ExportedRun, written: Written) -> None:
        """One run, the baseline where `param` is None."""
        label = "Baseline" if param is None else f"{param}={value}"
        if label in self.result:
            written.skip(run.title, f"{label} is in its cell already: the tree has one place for it")
            return
        loss, name = _recorded(run, written), _run_name(run)
        self.result[label], self.names[label] = loss, name
        if param is not None:
            self.changes.append({"param": param, "value": value, "loss": loss, "wandb_id": name})
        if run.loss is not None:
            self.losses.append(run.loss)
        written.runs += 1


def _document(members: list[ExportedRun], where: str, written: Written) -> dict[str, Any] | None:
    """The result.json of a cell."""
    cell = _Cell()
    theirs = [run for run in members if run.imported is not None and run.imported.importer in _STUDIES]
    base: ExportedRun | None = None
    lowest: float | None = None
    if len(theirs) == len(members):
        labels = {run.run_id: run.imported.entry.split("/", 3)[-1] for run in members if run.imported is not None}
        for run in sorted(members, key=lambda run: (labels[run.run_id] != "Baseline", labels[run.run_id])):
            label = labels[run.run_id]
            if label == "min_loss":
                lowest = run.loss
                written.runs += 1
                continue
            param, equals, text = label.partition("=")
            cell.add(param if equals else None, _value(text) if equals else None, run, written)
            base = base if equals else run
    else:
        base = _baseline(members)
        if base is None:
            written.skip(where, "no configuration of its runs is known")
            return None
        _add_changes(cell, base, members, written)
    losses = [*cell.losses, *([] if lowest is None else [lowest])]
    incumbent = None if base is None else _published(base)
    swept = {change["param"] for change in cell.changes}
    document: dict[str, Any] = {
        "result": cell.result,
        "name": cell.names,
        "num_left": sum(loss is None for loss in cell.result.values()),
        "best_config": incumbent,
        "min_loss": min(losses, default=None),
        "approximate_best_config_list": _near_best(cell, incumbent or {}, swept, min(losses, default=math.inf)),
        "baseline": {"loss": cell.result.get("Baseline"), "wandb_id": cell.names.get("Baseline")},
    }
    return document | ({"ablations": cell.changes} if cell.changes else {})


def _near_best(cell: _Cell, incumbent: Mapping[str, Any], swept: set[str], lowest: float) -> list[dict[str, Any]]:
    """Configurations near the best loss, the swept knobs of each only."""
    base = {key: incumbent[key] for key in incumbent if key in swept}
    found = []
    if isinstance(cell.result.get("Baseline"), float) and cell.result["Baseline"] < lowest + NEAR_BEST:
        found.append(base)
    for change in cell.changes:
        if isinstance(change["loss"], float) and change["loss"] < lowest + NEAR_BEST:
            found.append({**base, change["param"]: change["value"]})
    return found


def _recorded(run: ExportedRun, written: Written) -> Any:
    """The loss as the format spells it: a number, "NaN", or null for none."""
    state, loss = run.state.state, run.loss
    if run.imported is not None and "recorded" in run.imported.source:
        return str(run.imported.source["recorded"])
    if state == "diverged" and (loss is None or loss < DIVERGED_FROM):
        if loss is not None:
            written.skip(
                run.title, f'it diverged at {loss:g}: written as "NaN", below {DIVERGED_FROM:g} it would count as done'
            )
        return "NaN"
    if state == "nan":
        return "NaN"
    return loss if state in ("done", "diverged") else None


def _run_name(run: ExportedRun) -> str | None:
    """What the source calls the run; a run of ours by its id."""
    if run.imported is None:
        return run.run_id
    name = run.imported.source.get("run")
    return str(name) if name else None


def _value(text: str) -> Any:
    """The value that a label names."""
    words = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
    if text in words:
        return words[text]
    try:
        return json.loads(text)
    except ValueError:
        return text


# ---------------------------------------------------------------- studies of our own


def _settings(run: ExportedRun) -> dict[str, Any]:
    """Knobs, batch and schedule under our names."""
    return {**(run.hyperparameters or {}), "batch_size": run.spec.batch_size, "schedule": run.spec.schedule}


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    return [key for key in {**first, **second} if first.get(key) != second.get(key)]


def _baseline(members: Iterable[ExportedRun]) -> ExportedRun | None:
    """The run that most others are one change away from; of several the one with the smallest loss, then id."""
    known = [run for run in members if run.hyperparameters is not None]

    def order(run: ExportedRun) -> tuple[int, float, str]:
        near = {
            canonical_json(_settings(other))
            for other in known
            if len(_differences(_settings(run), _settings(other))) == 1
        }
        return -len(near), math.inf if run.loss is None else run.loss, run.run_id

    return min(known, key=order, default=None)


def _add_changes(cell: _Cell, base: ExportedRun, members: Iterable[ExportedRun], written: Written) -> None:
    """The baseline, and every run that is one change away from it; the lowest seed of each."""
    start = _settings(base)
    seen: set[str] = set()
    ordered = sorted(members, key=lambda run: (run.spec.seed or 0, run.run_id))
    first = next(run for run in ordered if run.hyperparameters is not None and not _differences(start, _settings(run)))
    for run in [first, *(run for run in ordered if run is not first)]:
        if run.hyperparameters is None:
            written.skip(run.title, "its configuration is not known")
            continue
        settings = _settings(run)
        changed = _differences(start, settings)
        if canonical_json(settings) in seen:
            written.skip(run.title, f"seed {run.spec.seed}: the tree has one place for a configuration")
        elif len(changed) > 1:
            written.skip(
                run.title, f"it differs from the cell's baseline in {len(changed)} knobs: {', '.join(changed[:6])}"
            )
        elif changed and settings.get(changed[0]) is None:
            written.skip(run.title, f"it lacks {changed[0]}")
        else:
            seen.add(canonical_json(settings))
            param = published_name(run.spec.optimizer, changed[0]) if changed else None
            cell.add(param, settings[changed[0]] if changed else None, run, written)


# ---------------------------------------------------------------- names


def _published(run: ExportedRun) -> dict[str, Any]:
    """A run's configuration under the study's names."""
    settings = {key: value for key, value in _settings(run).items() if value is not None}
    cosine_is_meant = settings.get("schedule") == "cosine"
    names = {
        key: published_name(run.spec.optimizer, key) for key in settings if key != "schedule" or not cosine_is_meant
    }
    return {name: settings[key] for key, name in names.items()}
