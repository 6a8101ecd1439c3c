"""Which values a knob is tried at where nobody says, in which order the knobs come, and lists checked by the catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from optsweep_engines import schedules
from optsweep_engines.optimizers import catalogue
from optsweep_engines.optimizers.base import Knob, find_knob
from optsweep_engines.spec import RunSpec, Scalar
from optsweep_tui import grid, published
from optsweep_tui.errors import OptsweepError
from optsweep_tui.tune.axes import Axis, Config, proposed

FIRST = ("lr", "batch_size", "weight_decay")
"""Knobs in the order in which they are tried, what moves the others' optima most first; then the catalogue's order."""
BATCH = "batch_size"
BATCH_KNOB = Knob(
    name=BATCH, kind="int", default=8, doc="sequences per optimizer step", low=1, high=float(2**20), scale="log"
)
"""The one setting of a run that is tuned like a knob, as the published study does."""
SPAN = 2.0
"""Of the list of a logarithmic knob for which nobody names one: half the start, the start, twice the start."""


def default_lists(cell: tuple[str, str, float], start: Config, spec: RunSpec) -> dict[str, tuple[Scalar, ...]]:
    """Lists for a cell that nobody gives any: those of the published study where it has the shape, else the catalogue's.

    Catalogue lists in steps (warmup) do not go with a start that is a fraction, and `decay` is left alone under cosine,
    which the published study did not cut short.
    """
    optimizer, model, value = cell
    near = published.nearest(optimizer, model, value)
    if near is not None and near.sweep:
        return {grid.knob_name(key, [optimizer], "published"): values for key, values in near.sweep.items()}
    found: dict[str, tuple[Scalar, ...]] = {}
    for knob in catalogue.all_knobs(catalogue.optimizer(optimizer)):
        here = start[knob.name]
        if knob.name == "lr" and isinstance(here, int | float) and here not in knob.published:
            found[knob.name] = (here / SPAN, here, here * SPAN)
        elif knob.published and not _out_of_place(knob.name, here, spec.schedule):
            found[knob.name] = knob.published
    return found


def _out_of_place(knob: str, here: Scalar, schedule: str) -> bool:
    if knob == "warmup":
        return isinstance(here, int | float) and here < 1
    return knob in schedules.unread(schedule) or (knob == "decay" and schedule == "cosine")


def chosen(
    wanted: tuple[str, ...], optimizer: str, lists: Mapping[str, tuple[Scalar, ...]], start: Config
) -> dict[str, tuple[Scalar, ...]]:
    """The lists of the knobs that are to be tuned; of a knob without one, its start and a step to either side."""
    if not wanted:
        return dict(lists)
    found = {}
    for knob in wanted:
        if knob not in start:
            continue  # another optimizer's
        if knob in lists:
            found[knob] = lists[knob]
            continue
        axis = axis_of(optimizer, knob, [start[knob]], optimizer)
        around = (proposed(axis, "low"), start[knob], proposed(axis, "high"))
        values = (False, True) if axis.kind == "bool" else tuple(value for value in around if value is not None)
        if len(values) < 2:
            raise OptsweepError(f"--knobs {knob}: {optimizer} has no list of values for it", f"give --sweep {knob}=...")
        found[knob] = values
    return found


def ordered(knobs: Iterable[str], optimizer: str) -> list[str]:
    order = [*FIRST, *grid.own_knobs(optimizer)]
    return sorted(knobs, key=order.index)


def declared_knob(optimizer: str, knob: str) -> Knob | None:
    """How the catalogue declares a knob, batch_size included."""
    return BATCH_KNOB if knob == BATCH else find_knob(catalogue.all_knobs(catalogue.optimizer(optimizer)), knob)


def axis_of(optimizer: str, knob: str, values: Iterable[Scalar], where: str, given: tuple[Scalar, ...] = ()) -> Axis:
    """A knob's values checked and in order.

    Args:
        given: those of them whose spacing counts beyond the ends.

    Raises:
        OptsweepError: a value out of range or of the wrong kind, or a setting that is not tuned.
    """
    declared = declared_knob(optimizer, knob)
    if declared is None:
        raise OptsweepError(f"{where}: {knob} is a setting of the run and not tuned", f"fix it with --set {knob}=VALUE")
    values = list(values)
    if None in values:
        raise OptsweepError(f"{where}: {knob} has no value to start from", f"give --set {knob}=VALUE")
    try:
        checked = [declared.checked(value) for value in values]
    except ValueError as error:
        hint = f"optsweep optimizers {grid.reference_of(optimizer)} shows the ranges"
        raise OptsweepError(f"{where}: {error}", hint) from None
    kind, high = declared.kind, declared.high
    if knob in ("warmup", "t_freeze"):
        numbers = [float(value) for value in checked if isinstance(value, int | float)]
        if min(numbers) < 1 <= max(numbers) and any(0 < number < 1 for number in numbers):
            raise OptsweepError(f"{where}: {knob} mixes fractions with numbers of steps", "give one or the other")
        kind, high = ("float", 0.9) if max(numbers) < 1 else ("int", high)
        checked = [int(number) if kind == "int" else number for number in numbers]
    log = declared.scale == "log"
    axis = Axis(knob=knob, values=(), kind=kind, low=declared.low, high=high, log=log, given=given)
    for value in checked:
        axis = axis.with_value(value)
    return axis
