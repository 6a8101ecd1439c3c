"""A miniature of the published study's original tree, with every trap that it has, built from the shipped figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optsweep_tui.importers.cells import CellFigures
from optsweep_tui.importers.reference import reference_cells

TRAPS = (
    "adamw/130m/1",  # the minimum is the baseline; two diverged
    "mars/130m/8",  # a loss spelled "NaN"
    "mars/130m/1",  # an epsilon of 9.999999999999999e-26 that is swept over 1e-25
    "cautious/130m/4",  # losses that are null; the minimum belongs to no listed run
    "muon/130m/1",  # batch sizes with their own steps; the minimum is an ablation; a schedule in the configuration
    "muon/300m/16",  # nothing but a minimum: no ablations, the baseline null
    "soape/130m/2",  # the baseline null, ablations there; a name of its own for the optimizer
    "mini/300m/1",  # another alias
    "adamw/1.2b/1",  # folders say 1.2B elsewhere
    "lion/130m/8",
)


def chosen(names: Sequence[str] = TRAPS) -> list[CellFigures]:
    """The figures of some cells, and of the one whose loss is an integer of 1.4e14."""
    cells = {cell.name: cell for cell in reference_cells()}
    huge = next(cell for cell in cells.values() if any(entry.recorded == 138172780511232 for entry in cell.entries))
    return list({cell.name: cell for cell in (*(cells[name] for name in names), huge)}.values())


def label_of(knob: str | None, value: Any) -> str:
    """How the tree writes an entry's key: Python's own spelling of the value."""
    return "Baseline" if knob is None else f"{knob}={value}"


def result_of(cell: CellFigures) -> dict[str, Any]:
    """The document of one cell."""
    losses = {label_of(entry.hyperparameter, entry.value): entry.recorded for entry in cell.entries}
    names = {label_of(entry.hyperparameter, entry.value): entry.run for entry in cell.entries}
    assert cell.incumbent is not None
    swept = {entry.hyperparameter for entry in cell.entries if entry.hyperparameter}
    document: dict[str, Any] = {
        "result": losses,
        "name": names,
        "num_left": sum(loss is None for loss in losses.values()),
        "best_config": dict(cell.incumbent),
        "min_loss": cell.min_loss,
        "approximate_best_config_list": [{key: cell.incumbent[key] for key in cell.incumbent if key in swept}],
        "baseline": {"loss": losses["Baseline"], "wandb_id": names["Baseline"]},
    }
    changes = [entry for entry in cell.entries if entry.hyperparameter]
    if changes:
        document["ablations"] = [
            {"param": entry.hyperparameter, "value": entry.value, "loss": entry.recorded, "wandb_id": entry.run}
            for entry in changes
        ]
    return document


def write_tree(root: Path, cells: Sequence[CellFigures]) -> Path:
    """Results deep below `root`, plans beside them with sizes in upper case."""
    for cell in cells:
        folder = root / "experiments" / "sweep" / "Analysis" / "Results" / cell.name
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(result_of(cell), indent=2))
        assert cell.incumbent is not None
        size, ratio = cell.model.upper(), f"{cell.chinchilla:g}"
        # Where the sweep began is not the configuration that the changes were made around.
        start = {**cell.incumbent, "learning_rate": 1.0}
        plans = {
            "baseline_config": {"baseline_config": start, "target_chinchilla": cell.chinchilla},
            "sweep_grids": {"sweep_grids": {"learning_rate": [0.1, 1.0]}, "target_chinchilla": cell.chinchilla},
        }
        for kind, plan in plans.items():
            where = root / "experiments" / kind / cell.optimizer / size / ratio
            where.mkdir(parents=True)
            document = {**plan, "model_size": cell.model, "optimizer_name": cell.optimizer}
            (where / f"sweep_{size}_{ratio}.json").write_text(json.dumps(document))
    return root
