"""A user's own optimizer as planning sees it: `planned("./mine.py:MyOptimizer", folder)` is an entry like the catalogue's.

Its file is executed in a process of its own (`user_probe`) only; the entry holds what that process said of it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers import catalogue, user
from optsweep_engines.optimizers.base import TO_ALL, Group, Knob, OptimizerEntry, Rule, decay_of
from optsweep_engines.optimizers.user import Source, unknown_flops
from optsweep_engines.optimizers.user_knobs import OwnKnob
from optsweep_engines.optimizers.user_probe import ask, source_fields
from optsweep_engines.spec import RunSpec, Scalar, canonical_json

DESCRIBE_SECONDS = 120.0
"""Limit of importing a user's file: torch alone takes some seconds, on a busy machine many."""
ATTEMPT_SECONDS = 240.0
"""Limit of two trial steps under each configuration of a plan."""
ATTEMPTS = 40
"""Configurations of one plan that are tried; a larger sweep is tried at its first ones."""

ROLES_IN_GROUPS = (
    "every tensor, as one matrix or vector per layer, in one parameter group per role; norms and biases are not decayed"
)


@dataclass(frozen=True, kw_only=True)
class OwnEntry(OptimizerEntry):
    """The entry of a user's optimizer, without its code."""

    kind: user.Kind
    engines: tuple[str, ...]
    """Engines that can run it; empty = all."""
    source: Source | None
    """None for a class of a package."""
    request: Mapping[str, Any]
    """What the probing process is asked about it."""
    fixed: tuple[str, ...] = ()
    """Parameters of its constructor that are no knobs and keep their defaults."""
    state_per_number: dict[str, float] = field(default_factory=dict)
    """"matrix" and "vector" -> floats of state per number, measured by `attempt`; empty before."""

    @property
    def file_hash(self) -> str | None:
        return self.source.sha256 if self.source else None


_planned: dict[tuple[str, str, str | None], OwnEntry] = {}


def planned(reference: str, folder: Path) -> OwnEntry:
    """The entry of `./mine.py:NAME` or `pytorch_optimizer:NAME`, described once per content, and known to the catalogue.

    Args:
        folder: what a relative path starts from.

    Raises:
        OwnOptimizerError: the file cannot be read, executed, or holds no such optimizer; the package is not installed.
    """
    key: tuple[str, str, str | None]
    source: Source | None = None
    request: dict[str, Any]
    if user.is_package(reference):
        name = user.target_name(reference)
        if importlib.util.find_spec(user.PACKAGE) is None:
            raise user.missing_package(reference)
        key, request, label = (user.PACKAGE, "", name.lower()), {"package": name}, reference
    else:
        parts = user.split_reference(reference)
        assert parts is not None, f"{reference} names no file"
        label, wanted = parts
        source = user.read(folder / Path(label).expanduser(), label)
        key, request = (source.stem, source.sha256, wanted), {"source": source_fields(source), "name": wanted}
    if key not in _planned:
        [description] = ask({"action": "describe", **request}, label, DESCRIBE_SECONDS)
        _planned[key] = _entry(description, source, request)
        catalogue.register(_planned[key])
    return _planned[key]


def _entry(description: Mapping[str, Any], source: Source | None, request: Mapping[str, Any]) -> OwnEntry:
    name, kind = description["name"], description["kind"]
    if source is None:
        full = f"{user.PACKAGE}:{name}"
    else:
        full = user.own_name(source.stem, name, source.sha256)
    knobs = tuple(
        (OwnKnob if fields.pop("own") else Knob)(**{key: _tupled(value) for key, value in fields.items()})
        for fields in (dict(each) for each in description["knobs"])
    )
    decays = any(knob.name == "weight_decay" for knob in knobs)
    measured: dict[str, float] = {}

    def state_floats(parameter: Parameter, values: Mapping[str, Scalar]) -> float:
        # Before it was tried: as much as AdamW, which most rules are near to.
        return measured.get("matrix" if parameter.role not in ("norm", "bias") else "vector", 2.0) * parameter.count

    rule = Rule(name=full, init=_absent, update=_absent, state_floats=state_floats, flops=unknown_flops)

    def route(parameter: Parameter, values: Mapping[str, Scalar]) -> Group:
        return Group(rule=rule, lr_ratio=1.0, weight_decay=decay_of(parameter, values) if decays else 0.0)

    options: dict[str, Any] = {}
    if kind != "class":
        options = {
            "schedule": description["schedule"],
            "run_defaults": description["run_defaults"],
            "needs": frozenset(description["needs"]),
            "decay_convention": description["decay_convention"],
        }
    return OwnEntry(
        name=full,
        family="own",
        doc=description["doc"],
        formula=description["formula"],
        papers=tuple((title, link) for title, link in description.get("papers", [])),
        knobs=knobs,
        route=route,
        routing=description.get("routing") or (ROLES_IN_GROUPS if kind == "class" else TO_ALL),
        aliases=(full.partition("@")[0],) if source else (),
        kind=kind,
        engines=("torch",) if kind == "class" else (),
        source=source,
        request={**request, "name": name} if source else request,
        fixed=tuple(description["fixed"]),
        state_per_number=measured,
        **options,
    )


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _absent(*_: Any) -> Any:
    raise AssertionError("planning does not run a user's code")


_tried: set[str] = set()


def attempt(specs: Iterable[RunSpec]) -> None:
    """Try each configuration of user's optimizers: constructor and two steps, in a process of its own.

    Raises:
        OwnOptimizerError: one does not work; nothing was launched yet.
    """
    configurations: dict[str, dict[str, dict[str, Any]]] = {}
    for spec in specs:
        if user.is_own(spec.optimizer):
            configuration = {"knobs": dict(spec.hyperparameters), "schedule": spec.schedule}
            text = canonical_json([spec.optimizer, configuration])
            if text not in _tried:
                configurations.setdefault(spec.optimizer, {})[text] = configuration
    if importlib.util.find_spec("torch") is None:
        return  # rules that another engine runs: tried where they are trained
    for name, chosen in configurations.items():
        entry = catalogue.optimizer(name)
        assert isinstance(entry, OwnEntry)
        request = {"action": "attempt", **entry.request, "configurations": list(chosen.values())[:ATTEMPTS]}
        [answer] = ask(request, name, ATTEMPT_SECONDS)
        entry.state_per_number.update(answer["state"])
        _tried.update(chosen)


def sources(specs: Iterable[RunSpec]) -> dict[str, bytes]:
    """Content of every file that these specs name by hash."""
    found: dict[str, bytes] = {}
    for spec in specs:
        if spec.optimizer_file_hash is not None and spec.optimizer_file_hash not in found:
            entry = catalogue.optimizer(spec.optimizer)
            assert isinstance(entry, OwnEntry) and entry.source is not None
            found[spec.optimizer_file_hash] = entry.source.content
    return found
