"""Which of three phases a cell of a study is in, by its training FLOPs or by the grid's own table."""

from __future__ import annotations

from optsweep_engines import models
from optsweep_tui import grid, gridfile
from optsweep_tui.core import Phases, Study
from optsweep_tui.errors import OptsweepError


def phase_of(study: Study, optimizer: str, model: str, chinchilla: float) -> int:
    """1, 2 or 3: by the grid's [phases], else by thirds of the optimizer's own cells in rising training FLOPs.

    An optimizer that has no cell in the first phase is tuned whole in the first one that it has.

    Raises:
        OptsweepError: the study has cells of one size only.
    """
    if len({(model_, value) for _, model_, value in grid.cells_of(study)}) < 2:
        raise OptsweepError(
            f"grid {study.name} has one model and ratio, three phases need two at least", "tune it without --phases"
        )
    own = sorted(
        {cell[1:] for cell in grid.cells_of(study) if cell[0] == optimizer}, key=lambda cell: (flops_of(cell), cell)
    )
    phases = {cell: _phase(study, own, place) for place, cell in enumerate(own)}
    first = min(phases.values())
    found = phases[model, chinchilla]
    return 1 if found == first else found


def _phase(study: Study, own: list[tuple[str, float]], place: int) -> int:
    if study.phases is not None:
        return _named_phase(study.phases, *own[place])
    return (1, 3)[place] if len(own) == 2 else 1 + 3 * place // len(own)


def _named_phase(phases: Phases, model: str, chinchilla: float) -> int:
    for number, name in enumerate(gridfile.PHASES, start=1):
        for other, value in getattr(phases, name):
            if other == model and grid.same_ratio(value, chinchilla):
                return number
    raise OptsweepError(f"[phases] does not name {model} {chinchilla:g}", "add it to small, middle or large")


def flops_of(cell: tuple[str, float]) -> float:
    """Training FLOPs of a model at a ratio."""
    entry = models.model(cell[0])
    return entry.shape.flops_per_token(entry.seq_len) * cell[1] * 20 * entry.shape.non_embedding_params
