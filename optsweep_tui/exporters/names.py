"""What the published optimizer study calls an optimizer and its knobs: the inverse of what `import marin` understands."""

from __future__ import annotations

import functools

from optsweep_engines.optimizers import catalogue
from optsweep_engines.optimizers.base import find_knob
from optsweep_tui import published


@functools.cache
def _study_names() -> dict[tuple[str, str], str]:
    """(optimizer, our name of a knob) -> the study's."""
    found: dict[tuple[str, str], str] = {}
    for cell in published.reference().values():
        try:
            knobs = catalogue.all_knobs(catalogue.optimizer(cell.optimizer))
        except LookupError:
            continue
        for key in (*cell.incumbent, *cell.sweep):
            knob = find_knob(knobs, key)
            found[cell.optimizer, catalogue.FIELD_ALIASES.get(key, knob.name if knob else key)] = key
    return found


@functools.lru_cache(maxsize=4096)
def published_name(optimizer: str, knob: str) -> str:
    """The study's name of a knob; where it has none, the first alias that `import` understands, or ours."""
    fields = {ours: theirs for theirs, ours in catalogue.FIELD_ALIASES.items()}
    if knob in fields:
        return fields[knob]
    if (optimizer, knob) in _study_names():
        return _study_names()[optimizer, knob]
    try:
        own = find_knob(catalogue.all_knobs(catalogue.optimizer(optimizer)), knob)
    except LookupError:
        own = None
    return own.aliases[0] if own is not None and own.aliases else knob


def study_name(optimizer: str) -> str:
    """What the study calls an optimizer."""
    theirs = {ours: name for name, ours in published.STUDY_NAMES.items()}
    return theirs.get(optimizer, optimizer)
