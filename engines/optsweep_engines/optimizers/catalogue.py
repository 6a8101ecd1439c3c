"""Optimizers by name, and knobs resolved: `resolve_knobs("muon", {"learning_rate": 0.02})` is the full set for a run."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from importlib.metadata import entry_points

from optsweep_engines.optimizers import (
    adafactor,
    adafactorw,
    adalayer,
    adalayer_frozen,
    adam_mini,
    adamc,
    adamw,
    ademamix,
    adopt,
    cautious,
    kron,
    lamb,
    lion,
    mars,
    muon,
    muon_variants,
    prodigy,
    scion,
    sf_adamw,
    sgd,
    shampoo,
    soap,
    sophia,
)
from optsweep_engines.optimizers.base import Knob, OptimizerEntry, find_knob
from optsweep_engines.optimizers.knobs import FIELD_ALIASES, RUN_KNOBS
from optsweep_engines.schedules import schedule
from optsweep_engines.spec import Scalar

ENTRY_POINT_GROUP = "optsweep.optimizers"


class WrongSchedule(ValueError):
    """A rule that its own schedule suits is asked to run under another."""


ENTRIES: dict[str, OptimizerEntry] = {
    entry.name: entry
    for entry in (
        adamw.ENTRY,
        adamw.ADAM,
        adamw.NADAMW,
        adamc.ENTRY,
        cautious.ENTRY,
        mars.ENTRY,
        adam_mini.ENTRY,
        ademamix.ENTRY,
        adopt.ENTRY,
        lamb.ENTRY,
        prodigy.ENTRY,
        sf_adamw.ENTRY,
        adafactor.ENTRY,
        adafactorw.ENTRY,
        adafactorw.LAST,
        adalayer.ENTRY,
        adalayer.LAST,
        adalayer_frozen.ENTRY,
        lion.ENTRY,
        lion.SIGNUM,
        sgd.ENTRY,
        muon.ENTRY,
        muon.D_ENTRY,
        muon_variants.NORMUON_ENTRY,
        muon_variants.ADAMUON_ENTRY,
        muon_variants.MUON_H_ENTRY,
        scion.ENTRY,
        scion.FANTASTIC_ENTRY,
        soap.ENTRY,
        shampoo.ENTRY,
        kron.ENTRY,
        sophia.ENTRY_G,
        sophia.ENTRY_H,
    )
}


@functools.cache
def optimizers() -> dict[str, OptimizerEntry]:
    """Every registered optimizer by name: the in-tree ones and those of installed packages (looked up once)."""
    found = dict(ENTRIES)
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name != "builtin":
            found.update(point.load())
    return found


_registered: dict[str, OptimizerEntry] = {}
"""Users' own optimizers that were looked at in this process, by name."""


def register(entry: OptimizerEntry) -> None:
    """Make a user's own optimizer known for the life of this process; of two that share an alias the newer has it."""
    _registered.pop(entry.name, None)
    _registered[entry.name] = entry


def known() -> dict[str, OptimizerEntry]:
    """`optimizers()` and the users' own ones that were registered."""
    return {**optimizers(), **_registered}


def optimizer(name: str) -> OptimizerEntry:
    """The entry of a name or alias, matched without case.

    Raises:
        LookupError: no such optimizer; the argument is the name that was asked for.
    """
    wanted = name.lower()
    if wanted in optimizers():  # most calls: 10,000 runs are planned in a second
        return optimizers()[wanted]
    for entry in (*optimizers().values(), *reversed(_registered.values())):
        if wanted in (entry.name.lower(), *(alias.lower() for alias in entry.aliases)):
            return entry
    raise LookupError(name)


def published_alias(key: str) -> str:
    """Our name of a published key: learning_rate is lr, lr_schedule is the field schedule; others stay as they are."""
    if key.lower() in FIELD_ALIASES:
        return FIELD_ALIASES[key.lower()]
    for knobs in (RUN_KNOBS, *(entry.knobs for entry in known().values())):
        knob = find_knob(knobs, key)
        if knob is not None:
            return knob.name
    return key


def run_knobs(schedule_name: str) -> tuple[Knob, ...]:
    """RUN_KNOBS without those that the schedule does not read.

    Raises:
        LookupError: no such schedule.
    """
    read = schedule(schedule_name).knobs
    return tuple(knob for knob in RUN_KNOBS if knob.name in ("max_grad_norm", "z_loss") or knob.name in read)


def all_knobs(entry: OptimizerEntry) -> tuple[Knob, ...]:
    """The optimizer's own knobs, then those of the run with the defaults that the optimizer gives them."""
    own = entry.run_defaults
    if not own:
        return (*entry.knobs, *RUN_KNOBS)
    run = (dataclasses.replace(knob, default=own.get(knob.name, knob.default)) for knob in RUN_KNOBS)
    return (*entry.knobs, *run)


def resolve_knobs(name: str, given: Mapping[str, Scalar], schedule_name: str | None = None) -> dict[str, Scalar]:
    """Every knob of a run by our names: the given ones checked, the rest at their defaults.

    `decay` defaults to the schedule's own; where a schedule does not read a knob, it may only be given its default.

    Args:
        name: optimizer, by name or alias.
        given: knobs by our names or published ones; fields of the run (batch_size, schedule) do not belong here.
        schedule_name: "cosine", "linear", "wsd", "constant" or "freeze_cosine_with_warmup"; None = the optimizer's own.

    Raises:
        LookupError: no such optimizer or schedule.
        WrongSchedule: a schedule that the rule cannot be run under, where its own would do.
        ValueError: an unknown knob, one given twice under two names, a value out of its range, or a combination that
            the rule cannot be run with, with the reason.
    """
    entry = optimizer(name)
    shape = schedule(schedule_name or entry.schedule)
    knobs = all_knobs(entry)
    resolved: dict[str, Scalar] = {knob.name: knob.default for knob in knobs}
    resolved["decay"] = shape.default_decay
    seen: dict[str, str] = {}
    for key, value in given.items():
        knob = find_knob(knobs, key)
        if knob is None:
            if published_alias(key) in FIELD_ALIASES.values():
                raise ValueError(f'{entry.name}: "{key}" is a field of the run, not a knob of the optimizer')
            raise ValueError(f'{entry.name} has no knob "{key}"; it has {", ".join(i.name for i in knobs)}')
        if knob.name in seen:
            raise ValueError(f'{entry.name}: "{seen[knob.name]}" and "{key}" are the same knob')
        seen[knob.name] = key
        checked = knob.checked(value, entry.name)
        unread = knob.name in ("decay", "min_lr_ratio") and knob.name not in shape.knobs
        if unread and checked not in (0, resolved[knob.name]):
            raise ValueError(f"{entry.name}: schedule {shape.name} does not read {knob.name}; leave it out")
        if not unread:
            resolved[knob.name] = checked
    lacking = sorted(shape.knobs - set(resolved))
    if lacking:
        raise WrongSchedule(
            f"{entry.name}: schedule {shape.name} reads {lacking[0]}, which this optimizer does not have"
        )
    reason = entry.refuses(shape.name, resolved)
    if reason is not None:
        suited = shape.name != entry.schedule and entry.refuses(entry.schedule, resolved) is None
        raise (WrongSchedule if suited else ValueError)(f"{entry.name}: {reason}")
    return resolved


def idle_knobs(name: str, knobs: Mapping[str, Scalar]) -> dict[str, tuple[str, ...]]:
    """Knobs that were changed and do nothing, with those that would have to be on for it.

    Args:
        knobs: resolved, of this optimizer.

    Raises:
        LookupError: no such optimizer.
    """
    return {
        knob.name: knob.only_with
        for knob in optimizer(name).knobs
        if knob.only_with
        and knobs.get(knob.name, knob.default) != knob.default
        and not any(knobs.get(other) for other in knob.only_with)
    }


__all__ = [
    "ENTRIES",
    "FIELD_ALIASES",
    "RUN_KNOBS",
    "WrongSchedule",
    "all_knobs",
    "idle_knobs",
    "known",
    "optimizer",
    "optimizers",
    "published_alias",
    "register",
    "resolve_knobs",
    "run_knobs",
]
