"""What the torch engine provides beside gradients: drawn labels, their gradients, Hessian products, noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from optsweep_engines.data import PreparedDataset
from optsweep_engines.models import parameter_table
from optsweep_engines.spec import RunSpec
from optsweep_engines.torch_engine.model import Decoder
from optsweep_engines.torch_engine.services import Services
from optsweep_engines.torch_engine.train import Trainer
from tests.numerics.toy import VOCAB, spec


def made(run: RunSpec, data_root: Path, dtype: torch.dtype = torch.float32) -> tuple[Trainer, Services]:
    """A trainer after three steps, and services over a copy of its parameters in a type."""
    trainer = Trainer(run, data_root, torch.device("cpu"))
    for step in range(3):
        trainer.step(step)
    params = {name: value.detach().to(dtype).requires_grad_() for name, value in trainer.params.items()}
    return trainer, Services(run, params, dtype)


def test_labels_are_drawn_from_the_distribution_of_the_model(dataset: PreparedDataset, data_root: Path) -> None:
    trainer, services = made(spec(dataset), data_root)
    x, _ = trainer.batch(0)
    with torch.no_grad():
        logits = F.linear(services.decoder.hidden(x), services.decoder.head())
    expected = logits.softmax(-1)[0, 5].double().numpy()
    draws = 4000
    counts = np.zeros(VOCAB)
    for step in range(draws // x.numel() * 4):
        uniforms = services.uniforms(step, x)
        # every place of the batch gets the context of one place: only the uniform numbers differ
        drawn = services.labels(x[:1, :6].expand(len(x), 6), uniforms[:, :6])
        counts += np.bincount(drawn[:, 5].numpy(), minlength=VOCAB)
    total = counts.sum()
    deviations = (counts - total * expected) / np.sqrt(total * expected * (1 - expected))
    assert total > 900
    assert np.abs(deviations).max() < 4.5  # 32 binomials in standard deviations


def test_the_sampled_gradient_is_the_gradient_against_those_labels(dataset: PreparedDataset, data_root: Path) -> None:
    trainer, services = made(spec(dataset), data_root)
    x, y = trainer.batch(3)
    labels = services.labels(x, services.uniforms(4, y))
    _, expected = Decoder(trainer.spec.shape, 16, services.params, torch.float32).loss_and_grads(x, labels)
    offered = services.at(x, y)["sampled_gradient"]
    for item, grad in zip(parameter_table(trainer.spec.shape), expected, strict=True):
        assert torch.allclose(offered(item, 4), grad, atol=1e-7)
        assert not torch.equal(offered(item, 5), grad)


def test_the_hessian_estimate_is_the_change_of_the_gradient_along_the_noise(
    dataset: PreparedDataset, data_root: Path
) -> None:
    trainer, services = made(spec(dataset), data_root, torch.float64)
    x, y = trainer.batch(3)
    table = parameter_table(trainer.spec.shape)
    probes = {item.name: services.normal(item, 4) for item in table}
    # Central differences in float64 over a path of 2e-4: their own error is about 1e-7 of the result.
    gradients = []
    for sign in (1.0, -1.0):
        moved = {
            name: (value.detach() + sign * 1e-4 * probes[name]).requires_grad_()
            for name, value in services.params.items()
        }
        logits = Decoder(trainer.spec.shape, 16, moved, torch.float64)
        loss = F.cross_entropy(F.linear(logits.hidden(x), logits.head()).flatten(0, 1), y.flatten())
        gradients.append(torch.autograd.grad(loss, list(moved.values())))
    offered = services.at(x, y)["hessian_diagonal"]
    for item, plus, minus in zip(table, *gradients, strict=True):
        expected = probes[item.name] * (plus - minus) / 2e-4
        found = offered(item, 4)
        assert float((found - expected).norm() / expected.norm()) < 1e-3, item.name  # the engine takes the loss in fp32


@pytest.mark.parametrize("service", ["sampled_gradient", "hessian_diagonal"])
def test_services_over_micro_batches_equal_those_of_the_full_batch(
    service: str, dataset: PreparedDataset, data_root: Path
) -> None:
    trainer, whole = made(spec(dataset, batch_size=8), data_root)
    parts = Services(spec(dataset, batch_size=8, accumulation=4), whole.params, torch.float32)
    x, y = trainer.batch(3)
    for item in parameter_table(trainer.spec.shape):
        full, split = whole.at(x, y)[service](item, 4), parts.at(x, y)[service](item, 4)
        assert float((full - split).norm() / full.norm()) < 1e-4, item.name


def test_services_leave_the_gradients_of_the_step_alone(dataset: PreparedDataset, data_root: Path) -> None:
    trainer = Trainer(spec(dataset, "sophia_g"), data_root, torch.device("cpu"))
    x, y = trainer.batch(0)
    _, grads = trainer.gradients(x, y)
    before = [grad.clone() for grad in grads]
    offered = trainer.services.at(x, y)
    for item in parameter_table(trainer.spec.shape):
        offered["sampled_gradient"](item, 1)
        offered["hessian_diagonal"](item, 1)
    assert all(torch.equal(old, new) for old, new in zip(before, grads, strict=True))
