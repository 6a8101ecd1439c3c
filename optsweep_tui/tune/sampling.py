"""Optuna's TPE in the place of the descent: a few configurations at a time, each batch a function of the results before it.

Optuna keeps nothing: its study is built anew from the finished runs for every batch, with a seed of its own, so a search
that was killed asks for the same runs again (with the same version of Optuna, which the tuning remembers).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import math
import warnings
from typing import Any

from optsweep_engines.spec import Scalar, canonical_scalar
from optsweep_tui.errors import OptsweepError
from optsweep_tui.tune.axes import Axis, Config, Key, key_of
from optsweep_tui.tune.descent import finite
from optsweep_tui.tune.problem import Asking
from optsweep_tui.tune.search import Search

AT_ONCE = 4
"""Configurations per batch, whatever the number of slots: the search then does not depend on the machine."""
WITHOUT_LOSS_NATS = 0.5
"""A configuration without a loss counts as this much worse than the worst that has one."""
DEFAULT_RUNS = 30
"""Configurations of a cell where no budget is given."""
TRIES = 20
"""Suggestions in a row that were run before, after which there is nothing new."""


def version() -> str:
    """The installed version of Optuna.

    Raises:
        OptsweepError: it is not installed.
    """
    if importlib.util.find_spec("optuna") is None:
        hint = "pip install 'optsweep[optuna]', or leave --sampler out: coordinate descent needs no library"
        raise OptsweepError("--sampler optuna needs the library optuna, which is not installed here", hint)
    return importlib.metadata.version("optuna")


def sample(search: Search) -> Asking:
    """Run what TPE suggests until the budget is spent; the best configuration is the incumbent."""
    budget = search.budget if search.budget is not None else DEFAULT_RUNS
    number = 0
    while len(search.tuning) < budget:
        number += 1
        base = search.incumbent
        configs = suggested(search, min(AT_ONCE, budget - len(search.tuning)), number)
        if not configs:
            search.tell("sample", round=number, why="nothing new is suggested")
            return
        before = len(search.asked)
        yield search.ask("sample", configs)
        if len(search.asked) == before:
            search.tell("sample", round=number, why="none of the suggestions can be run")
            return
        best = min(configs, key=search.loss)
        gain, moved, why = search.consider(best)
        change = {knob: best[knob] for knob in search.axes}
        search.tell(
            "sample",
            knobs=tuple(search.axes),
            round=number,
            tried=search.tried(configs, base),
            best=change,
            loss=finite(search.loss(best)),
            gain=gain,
            moved=moved,
            why=why,
        )


def suggested(search: Search, count: int, number: int) -> list[Config]:
    """Configurations that were not run yet, at most `count`; fewer where TPE repeats itself.

    Args:
        number: of the batch; with the search's seed it decides the sampler's random numbers.
    """
    optuna: Any = importlib.import_module("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    spaces = {knob: space for knob, axis in search.axes.items() if (space := _space(optuna, axis)) is not None}
    if not spaces:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna 4 calls the argument experimental
        sampler = optuna.samplers.TPESampler(seed=search.rules.seed * 100_003 + number, constant_liar=True)
    study = optuna.create_study(direction="minimize", sampler=sampler)
    losses = [search.loss(candidate.config) for candidate in search.tuning]
    worst = max((loss for loss in losses if math.isfinite(loss)), default=0.0)
    for candidate, loss in zip(search.tuning, losses, strict=True):
        study.add_trial(
            optuna.trial.create_trial(
                params={knob: _inward(search.axes[knob], candidate.config[knob]) for knob in spaces},
                distributions=spaces,
                value=loss if math.isfinite(loss) else worst + WITHOUT_LOSS_NATS,
            )
        )
    known = {key_of(candidate.config) for candidate in search.tuning} | set(search.refusals)
    found: dict[Key, Config] = {}
    for _ in range(TRIES * count):
        if len(found) == count:
            break
        values = study.ask(spaces).params
        config = {**search.problem.start, **{knob: _outward(search.axes[knob], values[knob]) for knob in spaces}}
        if key_of(config) not in known:
            found.setdefault(key_of(config), config)
    return list(found.values())


def _space(optuna: Any, axis: Axis) -> Any:
    """What is sampled of a knob: the range of its list, on its own scale; None for a single value."""
    if len(axis.values) < 2:
        return None
    if not axis.ordered:
        return optuna.distributions.CategoricalDistribution(list(axis.values))
    low, high = (axis.number(_inward(axis, value)) for value in (axis.values[0], axis.values[-1]))
    low, high = sorted((low, high))
    log = low > 0 and (axis.log or axis.near_one)
    if axis.kind == "int":
        return optuna.distributions.IntDistribution(int(low), int(high), log=log)
    return optuna.distributions.FloatDistribution(low, high, log=log)


def _inward(axis: Axis, value: Scalar) -> Scalar:
    """A knob's value as it is sampled: near 1 its distance from 1."""
    return float(f"{1.0 - axis.number(value):.12g}") if axis.near_one else value


def _outward(axis: Axis, value: Scalar) -> Scalar:
    """A sampled value as a knob's: three significant digits, inside the list's range."""
    if axis.kind != "float":
        return value
    number = float(f"{axis.number(value):.3g}")
    if axis.near_one:
        number = float(f"{1.0 - number:.12g}")
    return canonical_scalar(min(max(number, axis.number(axis.values[0])), axis.number(axis.values[-1])))
