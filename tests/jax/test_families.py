"""Every family of models in JAX: the same losses and gradients as in torch, and exact resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from optsweep_engines.data import PreparedDataset
from optsweep_engines.engine import Preempted, load_engine
from optsweep_engines.jax_engine.layout import layout
from optsweep_engines.jax_engine.loss import cross_entropy_and_target
from optsweep_engines.jax_engine.model import Decoder
from optsweep_engines.jax_engine.train import Trainer
from optsweep_engines.torch_engine.model import Decoder as TorchDecoder
from optsweep_engines.torch_engine.train import Trainer as TorchTrainer
from tests.numerics.run_log import FolderLog
from tests.numerics.test_families import shape_of, tokens, values
from tests.numerics.toy import spec


@pytest.mark.parametrize("name", ["gpt2 biases", "gpt2 tanh untied", "olmo biases", "speedrun untied", "olmo mup"])
def test_losses_and_gradients_are_those_of_torch(name: str) -> None:
    shape, z_loss = shape_of(name), 0.01 if "mup" in name else 0.0
    p = {key: value.astype(np.float32) for key, value in values(shape).items()}
    x, y = tokens(2, 12), tokens(2, 12, 3)
    theirs = {key: torch.from_numpy(value).requires_grad_() for key, value in p.items()}
    loss, grads = TorchDecoder(shape, 12, theirs, torch.float32, z_loss=z_loss).loss_and_grads(
        torch.from_numpy(x), torch.from_numpy(y)
    )
    ours = {key: jnp.asarray(value) for key, value in p.items()}
    for unrolled in (False, True) if name == "gpt2 biases" else (False,):
        model = Decoder(shape, 12, unrolled=unrolled, z_loss=z_loss)
        found, own = jax.jit(model.loss_and_grads)(ours, x, y)
        assert float(found) == pytest.approx(float(loss), abs=2e-6)
        for (bank, grad), other in zip(own.items(), (grads[list(p).index(key)] for key in own), strict=True):
            assert np.abs(np.asarray(grad) - other.numpy()).max() < 2e-5, bank


def test_the_z_loss_in_chunks_equals_all_at_once() -> None:
    stream = np.random.Generator(np.random.PCG64(0))
    hidden, head = (jnp.asarray(stream.standard_normal(size), jnp.float32) for size in ((24, 8), (20, 8)))
    y = jnp.asarray(stream.integers(0, 20, 24), jnp.int32)

    def of(largest: int) -> Any:
        def target(h: Any, w: Any) -> Any:
            return cross_entropy_and_target(h, w, y, 0.1, largest)

        return jax.jit(jax.value_and_grad(target, argnums=(0, 1), has_aux=True))(hidden, head)

    for whole, parts in zip(jax.tree.leaves(of(1 << 20)), jax.tree.leaves(of(100)), strict=True):
        assert np.allclose(whole, parts, atol=2e-6)


@pytest.mark.parametrize(("name", "optimizer"), [("olmo", "adamw")])
def test_a_family_trains_as_in_torch_and_resumes_exactly(
    name: str, optimizer: str, dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    knobs = {"lr": 0.003, "z_loss": 1e-3}
    run = spec(dataset, optimizer, shape=shape_of(name), knobs=knobs, tokens=64 * 8).replace(engine="jax")
    ours = Trainer(run, data_root, layout(jax.devices(), None, run.batch_size))
    theirs = TorchTrainer(run, data_root, torch.device("cpu"))
    assert ours.parameters_sha256() == theirs.parameters_sha256()
    for step in range(8):
        one, other = float(ours.step(step)[0]), float(theirs.step(step)[0])
        assert one == pytest.approx(other, abs=2e-6 if step == 0 else 1e-5)
    engine = load_engine("jax")
    straight = engine.train(run, FolderLog(tmp_path / "straight", data_root))
    with pytest.raises(Preempted):
        engine.train(run, FolderLog(tmp_path / "p", data_root, stop=lambda asked: "preempted" if asked > 3 else None))
    resumed = engine.train(run, FolderLog(tmp_path / "p", data_root))
    assert resumed.parameters_sha256 == straight.parameters_sha256 == ours.parameters_sha256()
