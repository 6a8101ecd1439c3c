"""The original tree of the published optimizer study: `optsweep import marin PATH` finds every result.json below PATH.

`{optimizer}/{model}/{ratio}/result.json` holds a cell: `result` ({"Baseline" or "param=value": loss}), `name` (the same
keys to run names), `best_config` (the configuration that the changes were made around; despite its name not always the best
run's), `min_loss`, and usually `baseline` and `ablations` with typed values. The lists of configurations near the best are
not read: they repeat the entries with some knobs left out. `baseline_config` and `sweep_grids` hold where a sweep began and
the values it was to try; no result is in them, so they are only checked.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from optsweep_engines.spec import canonical_scalar
from optsweep_tui.errors import OptsweepError
from optsweep_tui.importers.cells import CellFigures, Entry, add_runs
from optsweep_tui.importers.documents import read_document
from optsweep_tui.importers.protocol import Found, Request, required_path

RESULT = "result.json"
PLANS = ("baseline_config", "sweep_grids")
"""Folders of plans, and the key that their files hold."""
_WORDS = {"True": True, "False": False, "None": None}
"""How Python spells what JSON spells otherwise."""


class MarinImporter:
    """Reads the tree of the study's code release."""

    name = "marin"
    doc = "the tree of arXiv 2509.02046: every {optimizer}/{model}/{ratio}/result.json below a folder"

    def read(self, request: Request) -> Found:
        """Every cell below the path.

        Raises:
            OptsweepError: the path is missing, or there is no result.json below it.
        """
        path = required_path(request, self.name)
        if request.mapping is not None:
            raise OptsweepError("import marin takes no mapping", "leave --mapping out")
        study = request.study or self.name
        found = Found(baselines={study: "adamw"})
        cells: dict[tuple[str, str, float], str] = {}
        count = 0
        for file in _files(path, found):
            if file.name == RESULT:
                count += 1
                self._read_cell(file, study, cells, found)
        if not count:
            raise OptsweepError(
                f"{path}: no {RESULT} lies in it, at any depth",
                "name the folder that holds {optimizer}/{model}/{ratio}",
            )
        for file in _files(path, Found()):
            if file.name != RESULT:
                _check_plan(file, cells, found)
        return found

    def _read_cell(self, file: Path, study: str, cells: dict[tuple[str, str, float], str], found: Found) -> None:
        where = str(file)
        try:
            optimizer, model, ratio = _cell_of(file.parent)
        except ValueError as error:
            found.skip(where, str(error))
            return
        key = (optimizer.lower(), model.lower(), ratio)
        if key in cells:
            found.skip(where, f"the same cell as {cells[key]}, which is kept")
            return
        try:
            figures = _figures(read_document(file, found.skip), optimizer, model, ratio, where, found)
        except ValueError as error:
            found.skip(where, str(error))
            return
        cells[key] = where
        add_runs(found, figures, where, self.name, study)


def _files(path: Path, found: Found) -> Iterator[Path]:
    """The JSON files that matter, sorted; links to folders are not followed, unreadable folders are listed."""
    if path.is_file():
        yield path
        return

    def complain(error: OSError) -> None:
        found.skip(str(error.filename), f"cannot be read: {error.strerror}")

    for folder, names, files in os.walk(path, onerror=complain):
        names.sort()
        planned = any(part in PLANS for part in Path(folder).parts)
        for name in sorted(files):
            if name == RESULT or (planned and name.endswith(".json")):
                yield Path(folder) / name


def _cell_of(folder: Path) -> tuple[str, str, float]:
    """(optimizer, model, ratio) from the names of three folders.

    Raises:
        ValueError: they name no cell.
    """
    names = folder.absolute().parts[-3:]
    if len(names) < 3 or "/" in names:
        raise ValueError("it does not lie in {optimizer}/{model}/{ratio}")
    optimizer, model, text = names
    if not (optimizer.isprintable() and len(optimizer) <= 64):
        raise ValueError(f"{ascii(optimizer)[:80]} is not the name of an optimizer")
    try:
        ratio = float(text)
    except ValueError:
        ratio = math.nan
    if not 0 < ratio < 1e6:
        raise ValueError(f"its folder {ascii(text)[:80]} is not a Chinchilla ratio")
    return optimizer, model, ratio


def _figures(data: Any, optimizer: str, model: str, ratio: float, where: str, found: Found) -> CellFigures:
    """The cell that a result.json holds.

    Raises:
        ValueError: it holds none.
    """
    if not isinstance(data, Mapping):
        raise ValueError("it is not a table of fields")
    incumbent = data.get("best_config")
    if not isinstance(incumbent, Mapping):
        found.skip(f"{where}: best_config", "it is not a table: the configurations of this cell are not known")
        incumbent = None
    entries = _entries(data, where, found)
    if not entries and data.get("min_loss") is None:
        raise ValueError("it holds no loss: neither result, ablations nor min_loss")
    return CellFigures(
        optimizer=optimizer,
        model=model,
        chinchilla=ratio,
        incumbent=incumbent,
        entries=tuple(entries),
        min_loss=data.get("min_loss"),
    )


def _entries(data: Mapping[str, Any], where: str, found: Found) -> list[Entry]:
    """`result` and `ablations` merged: a value that is in both is one entry, with the type that `ablations` gives it."""
    entries: dict[tuple[str | None, Any], Entry] = {}

    def add(entry: Entry, label: str) -> None:
        try:
            key = (entry.hyperparameter, _key(entry.value))
        except ValueError as error:
            found.skip(f"{where}: {label}", str(error))
            return
        before = entries.setdefault(key, entry)
        if before is not entry and not _same(before, entry):
            why = f"loss {_short(entry.recorded)} here, {_short(before.recorded)} as {before.label}, which is kept"
            found.skip(f"{where}: {label}", why)

    listed = data.get("ablations")
    for place, item in enumerate(listed if isinstance(listed, list) else []):
        label = f"ablations[{place}]"
        if not isinstance(item, Mapping) or not isinstance(item.get("param"), str) or "value" not in item:
            found.skip(f"{where}: {label}", "it is not a param with a value")
        else:
            run = _name(item.get("wandb_id"))
            add(Entry(hyperparameter=item["param"], value=item["value"], recorded=item.get("loss"), run=run), label)
    if listed is not None and not isinstance(listed, list):
        found.skip(f"{where}: ablations", "it is not a list")
    baseline = data.get("baseline")
    if isinstance(baseline, Mapping):
        run = _name(baseline.get("wandb_id"))
        add(Entry(hyperparameter=None, value=None, recorded=baseline.get("loss"), run=run), "baseline")
    losses, names = data.get("result"), data.get("name")
    if losses is not None and not isinstance(losses, Mapping):
        found.skip(f"{where}: result", "it is not a table")
        losses = None
    for label, loss in (losses or {}).items():
        knob, equals, text = str(label).partition("=")
        run = _name(names.get(label)) if isinstance(names, Mapping) else None
        if label == "Baseline":
            add(Entry(hyperparameter=None, value=None, recorded=loss, run=run), str(label))
        elif not equals or not knob:
            found.skip(f"{where}: result {_short(label)}", "it is neither Baseline nor param=value")
        else:
            add(Entry(hyperparameter=knob, value=_value(text), recorded=loss, run=run), f"result {label}")
    return sorted(entries.values(), key=lambda entry: entry.hyperparameter is not None)


def _same(first: Entry, second: Entry) -> bool:
    """The same loss, spelled as number or text."""
    try:
        one, other = float(first.recorded), float(second.recorded)
        return math.isclose(one, other, rel_tol=1e-9) or (math.isnan(one) and math.isnan(other))
    except (TypeError, ValueError, OverflowError):
        return _short(first.recorded) == _short(second.recorded)


def _key(value: Any) -> Any:
    if value is not None and not isinstance(value, bool | int | float | str):
        raise ValueError(f"{_short(value)} is not a value of a knob")
    canonical = canonical_scalar(value)
    return (type(canonical) is bool, canonical)  # True is no 1


def _value(text: str) -> Any:
    """What stands behind `param=`: a number, true, false, or a word."""
    if text in _WORDS:
        return _WORDS[text]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, bool | int | float | str) else text


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _short(value: Any) -> str:
    return json.dumps(value, default=str)[:80]


def _check_plan(file: Path, cells: Mapping[tuple[str, str, float], str], found: Found) -> None:
    """A file of baseline_config or sweep_grids: list it when it cannot be read, or when its cell has no result."""
    key = next(part for part in file.parts[::-1] if part in PLANS)
    try:
        optimizer, model, ratio = _cell_of(file.parent)
        data = read_document(file, found.skip)
        if not isinstance(data, Mapping) or not isinstance(data.get(key), Mapping):
            raise ValueError(f"it has no table {key}")
        if (optimizer.lower(), model.lower(), ratio) not in cells:
            raise ValueError(f"a plan without results: no {RESULT} of {optimizer}/{model}/{ratio:g} was read")
        for knob, values in data[key].items() if key == "sweep_grids" else ():
            if not isinstance(values, list):
                raise ValueError(f"the values of {knob} are not a list")
    except ValueError as error:
        found.skip(str(file), str(error))
