"""A study's plan at a size that one CPU core trains in seconds: `--scale tiny` tries out everything of it but its cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from optsweep_engines import models
from optsweep_engines.spec import OWN_SET, RunSpec
from optsweep_tui import grid
from optsweep_tui.core import Study
from optsweep_tui.errors import OptsweepError, UnknownName

SCALES = ("tiny",)
STEPS = 100
DATASET = "embedded"
_FEATURES = ("activation", "biases", "qk_norm", "tied_embeddings")
_COUNTED = ("warmup", "t_freeze")
"""Knobs that may be whole numbers of steps."""


def named(study: Study, scale: str) -> Study:
    """The study under a name of its own: its results are not those of the study.

    Raises:
        UnknownName: no such scale.
    """
    if scale not in SCALES:
        raise UnknownName("--scale", scale, SCALES)
    return dataclasses.replace(study, name=f"{study.name}-{scale}", dataset=DATASET)


def shrunk(specs: Iterable[RunSpec], dataset: grid.DatasetFacts) -> list[RunSpec]:
    """Each run on its family's 2 layers x 64, 100 steps of 8 sequences of 128 bytes in fp32; what becomes equal is one run.

    Optimizer, knobs, schedule, features of the model, seeds and engine stay. A batch that the plan changes is changed by the
    same factor at constant tokens; knobs that count steps become the same fraction of the steps.
    """
    found: dict[str, RunSpec] = {}
    for spec in specs:
        small = _small(spec, dataset)
        found.setdefault(small.run_id, small)
    return list(found.values())


def _small(spec: RunSpec, dataset: grid.DatasetFacts) -> RunSpec:
    own = models.model(spec.model)
    features = {name: getattr(spec.shape, name) for name in _FEATURES}
    entry = models.varied(models.model(f"{spec.shape.family}-scaled"), features)
    batch = max(1, round(entry.batch_size * spec.batch_size / own.batch_size))
    knobs = dict(spec.hyperparameters)
    for name in _COUNTED:
        value = knobs.get(name)
        if value is not None and float(value) >= 1:
            knobs[name] = float(f"{min(0.99, float(value) / spec.steps):.4g}")
    small = spec.replace(
        model=entry.name,
        shape=grid.trained_shape(entry, dataset, entry.seq_len),
        dataset=dataset.name,
        dataset_hash=dataset.sha256,
        hyperparameters=knobs,
        batch_size=batch,
        seq_len=entry.seq_len,
        dtype=entry.dtype,
        tokens=STEPS * entry.batch_size * entry.seq_len,
        accumulation=1,
        validation_set=OWN_SET,
        validation_sets={},
    )
    if small.steps < 1:
        raise OptsweepError(
            f"{spec.optimizer} {spec.model}: {STEPS} steps are less than {spec.simulate_epochs} whole epochs",
            "take fewer epochs",
        )
    return small
