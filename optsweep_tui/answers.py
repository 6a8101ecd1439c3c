"""Every kind of printed number: how its answer is computed again, and which other numbers it rests on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import pandas as pd

from optsweep_tui import ask, grid
from optsweep_tui.analysis import number_ids
from optsweep_tui.analysis.audits.behind import pair_cells, workloads
from optsweep_tui.analysis.audits.ground import Ground, Row
from optsweep_tui.analysis.audits.rows import budget, group_key, records
from optsweep_tui.settings import Workspace


@dataclass(frozen=True, kw_only=True)
class Question:
    """What an address asks."""

    workspace: Workspace
    frame: pd.DataFrame
    """The runs that its filters leave."""
    whole: pd.DataFrame
    """The same with all optimizers and ratios: what measures the noise of a sensitivity."""
    names: Mapping[str, str]
    """Column -> text of its path."""
    options: dict[str, Any]

    @property
    def optimizer(self) -> str:
        """The optimizer of the path as the runs have it."""
        typed = self.names["optimizer"]
        known = set(self.frame["optimizer"].dropna())
        return next((name for name in known if name.lower() == typed.lower()), typed)

    def cut(self) -> pd.DataFrame:
        """The runs of its optimizer alone."""
        return self.frame[self.frame["optimizer"] == self.optimizer]


Answer: TypeAlias = Callable[[Question], list[dict[str, Any]]]


def _sensitivity(asked: Question) -> list[dict[str, Any]]:
    knob = ask.swept_knob(asked.whole, asked.names["knob"])
    return _rows(ask.sensitivity(asked.frame, knob, noise_from=asked.whole, **asked.options))


def _predict(asked: Question) -> list[dict[str, Any]]:
    model, ratio = grid.model_name(asked.names["model"]), grid.ratio(asked.names["chinchilla"])
    return [ask.predict(asked.cut(), optimizer=asked.optimizer, model=model, chinchilla=ratio, **asked.options)]


def _project(asked: Question) -> list[dict[str, Any]]:
    model, params = ask.model_size(asked.frame, asked.names["model"])
    place = {"model": model, "params": params, "chinchilla": grid.ratio(asked.names["chinchilla"])}
    return _rows(ask.project(asked.frame, optimizer=asked.optimizer, **place, **asked.options))


def _fairness(asked: Question) -> list[dict[str, Any]]:
    facts = ask.run_facts(asked.workspace, str(asked.frame["study"].iloc[0]))
    return _rows(ask.fairness(asked.frame, facts, **asked.options))


def _crossings(asked: Question) -> list[dict[str, Any]]:
    options = {name: value for name, value in asked.options.items() if name != "target_loss"}
    targets = [asked.options["target_loss"]]
    return _rows(ask.crossings(asked.workspace, asked.frame, targets=targets, **options))


def _stops(asked: Question) -> list[dict[str, Any]]:
    audit, cells = ask.stop_audit(asked.workspace, asked.frame, **asked.options)
    return [*_rows(audit), *_rows(cells)]


def _of(function: Callable[..., pd.DataFrame]) -> Answer:
    """A question to the runs alone."""
    return lambda asked: _rows(function(asked.frame, **asked.options))


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return list(records(frame))


ANSWERS: Mapping[str, Answer] = {
    "table": _of(ask.table),
    "fit": _of(ask.fit),
    "speedup": _of(ask.speedup),
    "crossings": _crossings,
    "stable": _of(ask.stable),
    "hp": _of(ask.scaling_rules),
    "edges": _of(ask.edges),
    "sensitivity": _sensitivity,
    "predict": _predict,
    "fairness": _fairness,
    "flips": lambda asked: _rows(ask.flips(asked.workspace, asked.frame, **asked.options)),
    "noise": _of(ask.noise),
    "power": _of(ask.power),
    "profile": _of(ask.profile),
    "ttest": _of(ask.ttest),
    "project": _project,
    "stop-audit": _stops,
}
"""Kind of `number_ids.KINDS` -> its rows, from the runs."""


def rests_on(kind: str, asked: Question, ground: Ground, row: Row) -> list[str]:
    """The addresses of other answers' rows that a row was computed from, filters of the question left to the caller."""
    names = number_ids.KINDS["speedup"].options
    shared = {name: value for name, value in asked.options.items() if name in names and name != "unit"}
    if kind == "power":
        found = _rows(ask.speedup(asked.frame, **shared))
        return _of_cells(found, {(group_key(row), budget(row)): {row["optimizer"]}})
    if kind == "profile":
        places = {(key, tokens): set(rivals) for key, tokens, rivals in workloads(ground, row)}
        found = sorted(
            _rows(ask.speedup(asked.frame, **shared)), key=lambda each: each["optimizer"] != row["optimizer"]
        )
        return _of_cells(found, places)
    if kind == "flips" and row["over"] != "training":
        pairs: dict[tuple[Any, float], set[str]] = {}
        for item, cell in pair_cells(ground, row):
            pairs.setdefault((item.group.key, cell.tokens), set()).add(cell.optimizer)
        return _of_cells(_rows(ask.table(asked.frame, **shared)), pairs)
    if kind == "predict":
        rules = ask.scaling_rules(asked.cut(), **asked.options)["number_id"]
        return [number_ids.with_options(name, optimizer=asked.optimizer) for name in rules]
    return []


def _of_cells(rows: list[dict[str, Any]], places: Mapping[tuple[Any, float], set[str]]) -> list[str]:
    """Addresses of the rows of these cells: (group, tokens) -> optimizers."""
    return [
        row["number_id"] for row in rows if row["optimizer"] in places.get((group_key(row), budget(row)), frozenset())
    ]
