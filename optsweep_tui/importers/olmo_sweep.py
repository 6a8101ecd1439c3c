"""OLMo-style sweeps: `optsweep import olmo-sweep base.yaml+model.yaml+sweep.yaml` writes a grid that `run --grid` launches.

As in the code release of arXiv 2407.07972: configurations are merged from left to right, and a sweep file is a list of
blocks under `sweep`, each merged over the file's other keys; every list in a block is an axis, all combinations are taken
with the first axis slowest, the blocks follow each other, and the number of a configuration, from 1, is its array task.
Nothing of a file is executed, no variable of the environment and no glob in it is looked up.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from optsweep_tui.core import ListedRun
from optsweep_tui.errors import OptsweepError
from optsweep_tui.grid import MOST_RUNS
from optsweep_tui.importers import mapping as mappings
from optsweep_tui.importers.documents import read_yaml
from optsweep_tui.importers.grid_draft import drafted
from optsweep_tui.importers.logged import flat
from optsweep_tui.importers.olmo_config import Configuration
from optsweep_tui.importers.olmo_fields import Remarks
from optsweep_tui.importers.protocol import Found, Request

SWEEP = "sweep"


class OlmoSweepImporter:
    """Reads a composed configuration and its sweep."""

    name = "olmo-sweep"
    doc = "an OLMo sweep, BASE.yaml+MODEL.yaml+SWEEP.yaml: it becomes a grid, a plan without results"

    def read(self, request: Request) -> Found:
        """The grid of the sweep; no runs.

        Raises:
            OptsweepError: a file cannot be read, or there is no sweep among them.
        """
        if request.path is None:
            raise OptsweepError("import olmo-sweep needs a path", "optsweep import olmo-sweep BASE.yaml+SWEEP.yaml")
        said = mappings.load(request.mapping)
        if said.columns or said.hyperparameters or said.metrics or said.runs:
            raise OptsweepError(f"{request.mapping}: a sweep has no columns", "use [constants] only")
        found = Found()
        base, sweep, name = _parts(str(request.path), found)
        blocks = _blocks(sweep)
        count = sum(math.prod(len(axis) for axis in _axes(block).values()) for block in blocks)
        if count > MOST_RUNS:
            raise OptsweepError(
                f"{request.path} asks for {count:,} runs, more than {MOST_RUNS:,}", "split the sweep into several"
            )
        study = request.study or said.study or name
        remarks = Remarks()
        runs: list[tuple[int, ListedRun]] = []
        refused: dict[str, list[int]] = {}
        constants = dict(said.constants)
        for index, changes in enumerate(itertools.chain.from_iterable(map(_product, blocks)), start=1):
            configuration = Configuration(base, changes, said.constants, remarks)
            constants.setdefault("dataset", configuration.dataset())
            try:
                runs.append((index, configuration.run()))
            except ValueError as error:
                refused.setdefault(str(error), []).append(index)
        if not all(math.prod(len(axis) for axis in _axes(block).values()) for block in blocks):
            found.skip(name, "a block has an empty list: it stands for no run")
        found.grids[study], others = drafted(study, str(request.path), runs, constants)
        for why, tasks in (refused | others).items():
            found.skip(f"array task{'s' * (len(tasks) > 1)} {ranges(tasks)}", why)
        for where, why in remarks.listed():
            found.skip(where, why)
        return found


def ranges(numbers: Iterable[int]) -> str:
    """1, 2, 3, 7 as "1-3, 7"."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, part)) for part in parts)


def _parts(text: str, found: Found) -> tuple[dict[str, Any], Any, str]:
    """(merged configuration, the sweep file's document, the sweep file's name) of files that are joined by "+"."""
    base: dict[str, Any] = {}
    sweep: Any = None
    name = ""
    for part in [text] if Path(text).is_file() else text.split("+"):
        path = Path(part)
        try:
            document = read_yaml(path, found.skip)
        except ValueError as error:
            raise OptsweepError(
                f"{path}: {error}", "name YAML files, joined by +: BASE.yaml+MODEL.yaml+SWEEP.yaml"
            ) from None
        if isinstance(document, list) or (isinstance(document, Mapping) and SWEEP in document):
            if sweep is not None:
                raise OptsweepError(f"{path}: a second sweep", "give one sweep file; blocks of it follow each other")
            sweep, name = document, path.stem
        elif isinstance(document, Mapping):
            base = merged(base, nested(document))
        else:
            raise OptsweepError(f"{path} holds no table", "an OLMo configuration is a YAML table")
    if sweep is None:
        raise OptsweepError(
            f"{text}: none of the files has a list of blocks under sweep:", "add the sweep file: ...+SWEEP.yaml"
        )
    return base, sweep, name


def _blocks(document: Any) -> list[dict[str, Any]]:
    """Each block merged over the other keys of its file.

    Raises:
        OptsweepError: a block is no table.
    """
    common = {} if isinstance(document, list) else nested({key: document[key] for key in document if key != SWEEP})
    listed = document if isinstance(document, list) else document[SWEEP]
    if not isinstance(listed, list) or not listed or not all(isinstance(block, Mapping) for block in listed):
        raise OptsweepError("sweep: is not a list of tables", "write sweep: and under it a list of blocks")
    return [merged(common, nested(block)) for block in listed]


def _axes(block: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {key: value for key, value in flat(block).items() if isinstance(value, list)}


def _product(block: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The configurations of a block, names joined by dots; the first axis changes slowest."""
    fixed = {key: value for key, value in flat(block).items() if not isinstance(value, list)}
    axes = _axes(block)
    for values in itertools.product(*axes.values()):
        yield fixed | dict(zip(axes, values, strict=True))


def nested(table: Mapping[Any, Any], depth: int = 0) -> dict[str, Any]:
    """The table with names that hold dots taken apart: {"optimizer.eps": 1} is {"optimizer": {"eps": 1}}."""
    result: dict[str, Any] = {}
    for key, value in table.items():
        value = nested(value, depth + 1) if isinstance(value, Mapping) and depth < 8 else value
        for part in reversed(str(key).split(".")[1:]):
            value = {part: value}
        result = merged(result, {str(key).partition(".")[0]: value})
    return result


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """The second table over the first: tables are merged, everything else is replaced."""
    result = dict(first)
    for key, value in second.items():
        before = result.get(key)
        result[key] = merged(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return result
