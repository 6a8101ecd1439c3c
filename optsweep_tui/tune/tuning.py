"""A tuning: its cells with their starts and lists, its rules, and the document that they are kept as."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from optsweep_engines.spec import OWN_SET, Scalar
from optsweep_tui.core import Study
from optsweep_tui.tune.axes import Config
from optsweep_tui.tune.problem import Rules


@dataclass(frozen=True, kw_only=True)
class TunedCell:
    """One cell of a tuning."""

    optimizer: str
    """Name in results."""
    reference: str
    """What a user types for it; a user's own file by its whole path."""
    model: str
    chinchilla: float
    start: Config
    axes: Mapping[str, tuple[Scalar, ...]]
    """Knob -> values, the start's among them, in the order in which the knobs are tried."""
    given: Mapping[str, tuple[Scalar, ...]] = dataclasses.field(default_factory=dict)
    """Knob -> its list before the start's value came to it."""
    phase: int = 1
    """Of a three-phase study: 1 = all knobs, 2 = only those that the first phase found sensitive, 3 = predicted."""
    sigma: float | None = None
    """Run-to-run standard deviation that was known when the tuning began, nats."""
    sigma_source: str = "none"
    """measured, prior or none."""

    @property
    def name(self) -> str:
        return f"{self.optimizer} {self.model} {self.chinchilla:g}"

    @property
    def budget(self) -> tuple[str, float]:
        """Cells that share it are compared with each other."""
        return self.model, self.chinchilla

    def ruled(self, rules: Rules) -> Rules:
        """The rules of a tuning as they are for this cell: a sigma that was given goes before one that was known."""
        if rules.sigma is not None:
            return rules
        return dataclasses.replace(rules, sigma=self.sigma, sigma_source=self.sigma_source)


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """All that decides which runs a tuning asks for, beside their results."""

    name: str
    """The study that its runs belong to."""
    baseline: str
    engine: str
    dataset: str | None
    rules: Rules
    cells: tuple[TunedCell, ...]
    equal_budget: bool = False
    """Every optimizer of a model and ratio spends as many configurations."""
    phased: bool = False
    """The cells are those of a three-phase study."""
    sampler_version: str | None = None
    """Version of Optuna, where it is used."""
    notes: tuple[str, ...] = ()
    """What of its grid is left aside."""
    validation_sets: Mapping[str, str] = field(default_factory=dict)
    """Further validation sets, as in a Study."""
    validation_set: str = OWN_SET
    """The one whose loss is compared."""

    @property
    def study(self) -> Study:
        """What specs are resolved with."""
        return Study(
            name=self.name,
            baseline=self.baseline,
            engine=self.engine,
            dataset=self.dataset,
            validation_sets=self.validation_sets,
            validation_set=self.validation_set,
        )


def to_dict(tuning: Tuning) -> dict[str, Any]:
    """Plain JSON types."""
    data = dataclasses.asdict(tuning)
    for cell in data["cells"]:
        for lists in ("axes", "given"):  # pairs: the order of the knobs counts, and files sort their keys
            cell[lists] = [[knob, list(values)] for knob, values in cell[lists].items()]
    return data


def _lists(pairs: Iterable[tuple[str, list[Scalar]]]) -> dict[str, tuple[Scalar, ...]]:
    return {knob: tuple(values) for knob, values in pairs}


def from_dict(data: Mapping[str, Any]) -> Tuning:
    """The inverse of `to_dict`.

    Raises:
        ValueError, TypeError, KeyError: it is something else.
    """
    rules = dict(data["rules"])
    rules["block"] = None if rules["block"] is None else tuple(rules["block"])
    cells = tuple(
        TunedCell(**{**cell, "axes": _lists(cell["axes"]), "given": _lists(cell["given"])}) for cell in data["cells"]
    )
    return Tuning(**{**data, "rules": Rules(**rules), "cells": cells, "notes": tuple(data["notes"])})
