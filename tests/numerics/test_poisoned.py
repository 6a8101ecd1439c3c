"""A gradient that is not a number ends a run as diverged, for every optimizer: no rule hides it, none raises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from optsweep_engines.data import PreparedDataset
from optsweep_engines.optimizers.catalogue import ENTRIES
from optsweep_engines.torch_engine import TorchEngine, train
from tests.numerics.run_log import FolderLog
from tests.numerics.toy import spec

STEPS = 12
POISONED = 11
"""Gradient, from 1, that has a NaN in it: the first refresh of soap's basis takes it in, and shampoo has roots by then."""


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_one_nan_in_one_gradient_ends_the_run_as_diverged(
    name: str, clip: float, dataset: PreparedDataset, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With clipping the norm carries the NaN to every tensor; without it there is one number that must show."""
    gradients = train.Trainer.gradients
    taken = 0

    def poisoned(trainer: train.Trainer, *batch: Any) -> tuple[Tensor, list[Tensor]]:
        nonlocal taken
        loss, grads = gradients(trainer, *batch)
        taken += 1
        if taken == POISONED:
            grads[trainer.names.index("mlp_up")].view(-1)[5] = torch.nan
        return loss, grads

    monkeypatch.setattr(train.Trainer, "gradients", poisoned)
    run = spec(dataset, name, tokens=STEPS * 64, validation_interval=1, knobs={"max_grad_norm": clip})
    record = TorchEngine().train(run, FolderLog(tmp_path, data_root))
    assert record.status == "diverged", record
    assert record.error == "the loss is not finite"
    assert record.steps == POISONED  # the validation after that step sees it
