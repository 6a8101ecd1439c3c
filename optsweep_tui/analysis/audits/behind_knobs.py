"""Which runs stand behind one row about a hyperparameter: those along the knob's line, its best, and the near-best."""

from __future__ import annotations

from typing import Any

from optsweep_tui.analysis.audits.ground import Ground, Part, Parts, Row, cell_name, noise_parts
from optsweep_tui.analysis.hyperparameters.tuned import Tuned
from optsweep_tui.analysis.lines import near_best, settings_of
from optsweep_tui.analysis.runs import Run


def swept(ground: Ground, row: Row) -> Parts:
    """The runs on the knob's line in every cell of the row, its best one, and what near-best is measured from."""
    for cell in ground.tuned(row):
        for knob in _knobs(cell, row):
            yield from _line(cell, knob)
        yield from _smallest(cell)
        for run in near_best(cell.cell.swept, row["threshold"]):
            if run.knobs is not None and any(knob in settings_of(run) for knob in _knobs(cell, row)):
                yield _part(cell, run, "near-best")


def edge(ground: Ground, row: Row) -> Parts:
    """The runs on the knob's line, and the one that the excess is measured from."""
    for cell in ground.tuned(row):
        yield from _line(cell, row["knob"])
        yield from _smallest(cell)


def curve_of_knob(ground: Ground, row: Row) -> Parts:
    """The runs on the knob's line, and the noise that they are held against."""
    for cell in ground.tuned(row):
        yield from _line(cell, row["knob"])
        yield from noise_parts(ground.by_key[cell.group.key])


def predicted(ground: Ground, row: Row) -> Parts:
    """The rules' cells, and the best listed run of every cell, which says what a knob never swept is set to."""
    yield from swept(ground, row)
    for cell in ground.family(row).cells:
        best = cell.best_listed()
        if best is not None:
            yield _part(cell, best, "listed")


def _line(cell: Tuned, knob: str) -> Parts:
    line = cell.lines[knob]
    best = None if line.best is None else line.run_ids[line.best]
    members = on_line(cell, knob)
    for run in members:
        yield _part(cell, run, "swept")
        if run.run_id == best:
            yield _part(cell, run, "best")
    known = {settings_of(run)[knob] for run in members}
    for run in cell.cell.swept:
        if run.knobs is not None and settings_of(run).get(knob) in set(line.tried) - known:
            yield _part(cell, run, "tried")


def on_line(cell: Tuned, knob: str) -> list[Run]:
    """The runs that agree in all but the knob with the best run of its line; without one, all that say the knob."""
    line = cell.lines[knob]
    saying = [run for run in cell.cell.swept if run.knobs is not None and knob in settings_of(run)]
    anchor = None if line.best is None else line.run_ids[line.best]
    rest = next((_rest(run, knob) for run in saying if run.run_id == anchor), None)
    return [run for run in saying if rest is None or _rest(run, knob) == rest]


def _rest(run: Run, knob: str) -> tuple[Any, ...]:
    others = {name: (type(value), value) for name, value in settings_of(run).items() if name != knob}
    return run.schedule, run.dtype, others


def _knobs(cell: Tuned, row: Row) -> list[str]:
    """The knob of a row; of a prediction all that the cell swept."""
    return [row["knob"]] if "knob" in row else list(cell.lines)


def _smallest(cell: Tuned) -> Parts:
    usable = [run for run in cell.cell.swept if run.usable]
    if usable:
        yield _part(cell, min(usable, key=lambda run: (run.loss, run.run_id)), "smallest")


def _part(cell: Tuned, run: Run, role: str) -> Part:
    return Part(run_id=run.run_id, role=role, cell=cell_name(cell.cell, cell.group))
