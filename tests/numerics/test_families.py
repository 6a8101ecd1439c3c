"""Every family of models against a second one in numpy float64: losses, gradients, training, resume, every rule."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from optsweep_engines.data import PreparedDataset
from optsweep_engines.engine import Preempted, load_engine
from optsweep_engines.families import family_shape
from optsweep_engines.models import initial_parameters, parameter_table
from optsweep_engines.optimizers.base import unsuited
from optsweep_engines.optimizers.catalogue import ENTRIES
from optsweep_engines.spec import ModelShape
from optsweep_engines.torch_engine.cpu_model import CpuDecoder
from optsweep_engines.torch_engine.loss import cross_entropy_and_target
from optsweep_engines.torch_engine.model import Decoder, decoder
from optsweep_engines.torch_engine.train import Trainer
from tests.numerics.run_log import FolderLog
from tests.numerics.toy import VOCAB, spec

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"family": "gpt2"},
    "gpt2 biases": {"family": "gpt2", "biases": True},
    "gpt2 tanh untied": {"family": "gpt2", "activation": "gelu_tanh", "tied_embeddings": False},
    "olmo": {"family": "olmo"},
    "olmo plain": {"family": "olmo", "qk_norm": "none"},
    "olmo biases": {"family": "olmo", "biases": True, "qk_norm": "head"},
    "speedrun": {"family": "speedrun"},
    "speedrun untied": {"family": "speedrun", "tied_embeddings": False},
    "llama qk": {"family": "llama", "qk_norm": "head", "biases": True},
    "llama mup": {"family": "llama", "mup_base_width": 8},
    "gpt2 mup": {"family": "gpt2", "mup_base_width": 8, "biases": True},
    "olmo mup": {"family": "olmo", "mup_base_width": 8},
    "speedrun mup": {"family": "speedrun", "mup_base_width": 8},
}


def shape_of(name: str, **changes: Any) -> ModelShape:
    return family_shape(
        layers=2, width=16, heads=2, mlp_width=24, vocab_size=VOCAB, positions=16, **{**SHAPES[name], **changes}
    )


def values(shape: ModelShape) -> dict[str, Floats]:
    """Values at which no tensor is all ones or zeros, and large enough that a wrong factor shows."""
    stream = np.random.Generator(np.random.PCG64(1))
    return {
        name: (1.0 if "norm" in name and "bias" not in name else 0.0) + 0.3 * stream.standard_normal(value.shape)
        for name, value in initial_parameters(shape, 0).items()
    }


def tokens(batch: int, length: int, seed: int = 2) -> Ints:
    return np.random.Generator(np.random.PCG64(seed)).integers(0, VOCAB, (batch, length))


ERF = np.vectorize(math.erf)


def numpy_loss(s: ModelShape, p: dict[str, Floats], x: Ints, y: Ints, z_loss: float = 0.0) -> tuple[float, float]:
    """(mean cross-entropy, what is trained on), row by row and head by head, from the papers' formulas."""
    size = s.width // s.heads

    def norm(h: Floats, name: str, layer: int | None) -> Floats:
        if s.norm == "layer":
            h = h - h.mean(-1, keepdims=True)
        h = h / np.sqrt((h * h).mean(-1, keepdims=True) + s.norm_eps)
        if name in p:
            h = h * (p[name] if layer is None else p[name][layer])
        if f"{name}_bias" in p:
            h = h + (p[f"{name}_bias"] if layer is None else p[f"{name}_bias"][layer])
        return h

    def linear(h: Floats, name: str, layer: int) -> Floats:
        out: Floats = h @ p[name][layer].T
        return out + p[f"{name}_bias"][layer] if s.biases else out

    def turned(h: Floats) -> Floats:
        half = size // 2
        angle = np.arange(len(h))[:, None] * 10000.0 ** (-2 * np.arange(half) / size)
        a, b = h[:, :half], h[:, half:]
        return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)

    def activated(up: Floats, h: Floats, layer: int) -> Floats:
        if s.activation == "swiglu":
            gate = linear(h, "mlp_gate", layer)
            return gate / (1 + np.exp(-gate)) * up
        if s.activation == "relu2":
            return np.maximum(up, 0) ** 2
        if s.activation == "gelu":
            return up * 0.5 * (1 + ERF(up / math.sqrt(2)))
        return 0.5 * up * (1 + np.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)))

    loss = squares = 0.0
    for row in range(len(x)):
        h = p["embedding"][x[row]]
        if s.family == "gpt2":
            h = h + p["position"][: len(h)]
        for layer in range(s.layers):
            normed = norm(h, "attention_norm", layer)
            q, k, v = (linear(normed, name, layer) for name in ("q", "k", "v"))
            if s.qk_norm == "width":
                q, k = norm(q, "q_norm", layer), norm(k, "k_norm", layer)
            mixed = np.zeros_like(h)
            for index in range(s.heads):
                own = slice(index * size, (index + 1) * size)
                qh, kh = q[:, own], k[:, own]
                if s.qk_norm == "head":
                    qh, kh = norm(qh, "q_norm", layer), norm(kh, "k_norm", layer)
                if s.family != "gpt2":
                    qh, kh = turned(qh), turned(kh)
                scores = qh @ kh.T / (size if s.mup_base_width else math.sqrt(size))
                scores[np.triu_indices(len(h), 1)] = -np.inf
                weights = np.exp(scores - scores.max(-1, keepdims=True))
                mixed[:, own] = weights / weights.sum(-1, keepdims=True) @ v[:, own]
            h = h + linear(mixed, "attention_out", layer)
            normed = norm(h, "mlp_norm", layer)
            h = h + linear(activated(linear(normed, "mlp_up", layer), normed, layer), "mlp_out", layer)
        logits = norm(h, "final_norm", None) @ p["embedding" if s.tied_embeddings else "head"].T
        if s.mup_base_width:
            logits = logits * s.mup_base_width / s.width
        normaliser = np.log(np.exp(logits).sum(-1))
        loss += float((normaliser - logits[np.arange(len(h)), y[row]]).mean()) / len(x)
        squares += float((normaliser**2).mean()) / len(x)
    return loss, loss + z_loss * squares


def tensors(p: dict[str, Floats], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value).to(dtype).requires_grad_() for name, value in p.items()}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("z_loss", [0.0, 0.01])
def test_loss_and_gradients_are_those_of_the_formulas(name: str, z_loss: float) -> None:
    shape = shape_of(name)
    p, x, y = values(shape), tokens(2, 11), tokens(2, 11, 3)
    loss, grads = Decoder(shape, 11, tensors(p, torch.float64), torch.float64, z_loss=z_loss).loss_and_grads(
        torch.from_numpy(x), torch.from_numpy(y)
    )
    exact, _ = numpy_loss(shape, p, x, y, z_loss)
    assert float(loss) == pytest.approx(exact, abs=2e-6)  # the logits are fp32 in the engine
    stream = np.random.Generator(np.random.PCG64(4))
    for bank, grad in zip(p, grads, strict=True):
        # along a random direction, central differences of the second model: error of the fp32 logits / step
        along = stream.standard_normal(p[bank].shape)
        along /= np.linalg.norm(along)
        ends = [numpy_loss(shape, {**p, bank: p[bank] + h * along}, x, y, z_loss)[1] for h in (1e-5, -1e-5)]
        slope = (ends[0] - ends[1]) / 2e-5
        assert float((grad.numpy() * along).sum()) == pytest.approx(slope, abs=3e-6, rel=2e-5), bank


def test_the_written_out_form_takes_only_what_it_computes() -> None:
    for name in SHAPES:
        shape = shape_of(name)
        params = tensors(values(shape), torch.float32)
        assert isinstance(decoder(shape, 16, params, torch.float32, 1e12), Decoder), name
    plain = shape_of("llama qk", qk_norm="none", biases=False)
    params = tensors(values(plain), torch.float32)
    assert isinstance(decoder(plain, 16, params, torch.float32, 1e12), CpuDecoder)
    assert isinstance(decoder(plain, 16, params, torch.float32, 1e12, 1e-4), Decoder)


@pytest.mark.parametrize("name", ["gpt2 biases", "olmo", "speedrun", "olmo mup"])
def test_the_fused_kernel_and_bf16_stay_near(name: str) -> None:
    shape = shape_of(name)
    params = tensors(values(shape), torch.float32)
    x = torch.from_numpy(tokens(2, 16))
    plain = Decoder(shape, 16, params, torch.float32, plain_attention=True).loss(x, x).detach()
    fused = Decoder(shape, 16, params, torch.float32, plain_attention=False).loss(x, x).detach()
    rough, grads = Decoder(shape, 16, params, torch.bfloat16, plain_attention=False).loss_and_grads(x, x)
    assert float(fused) == pytest.approx(float(plain), abs=2e-6)
    assert 0 < abs(float(rough) - float(plain)) < 0.1  # 8 bits of mantissa
    assert {grad.dtype for grad in grads} == {torch.float32}


@pytest.mark.parametrize("rows", [8, 9])
def test_the_z_loss_in_chunks_equals_all_at_once(rows: int) -> None:
    stream = torch.Generator().manual_seed(0)
    hidden, head = (torch.randn(size, generator=stream).requires_grad_() for size in ((rows, 5), (20, 5)))
    y = torch.randint(0, 20, (rows,), generator=stream)
    found: list[Any] = []
    for largest in (1 << 26, 60):
        loss, target = cross_entropy_and_target(hidden, head, y, 0.1, largest)
        found.append((loss.detach(), target.detach(), *torch.autograd.grad(3 * target, [hidden, head])))
    for whole, parts in zip(*found, strict=True):
        assert torch.allclose(whole, parts, atol=1e-6)
    logits = (hidden @ head.T).double().detach()
    assert float(found[0][1] - found[0][0]) == pytest.approx(
        float(0.1 * logits.logsumexp(-1).square().mean()), rel=1e-5
    )


# ---------------------------------------------------------------- training


def toy(dataset: PreparedDataset, name: str, optimizer: str = "adamw", **changes: Any) -> Any:
    knobs = {
        "lr": {"prodigy": 1.0, "scion": 0.001, "sgd": 0.1}.get(optimizer, 0.01),
        "warmup": 0,
        **changes.pop("knobs", {}),
    }
    return spec(dataset, optimizer, shape=shape_of(name), knobs=knobs, **changes)


@pytest.mark.parametrize("name", ["gpt2 biases", "olmo biases", "speedrun untied"])
@pytest.mark.parametrize("optimizer", sorted(ENTRIES))
def test_every_rule_steps_on_every_family(name: str, optimizer: str, dataset: PreparedDataset, data_root: Path) -> None:
    run = toy(dataset, name, optimizer, knobs={"z_loss": 1e-3}, tokens=64 * 40)
    table = {item.name: item for item in parameter_table(run.shape)}
    if any(unsuited(ENTRIES[optimizer], item) for item in table.values()):
        assert (optimizer, name) == ("muon_h", "speedrun untied")
        with pytest.raises(ValueError, match="starts at zero"):
            Trainer(run, data_root, torch.device("cpu"))
        return
    trainer = Trainer(run, data_root, torch.device("cpu"))
    before = {key: value.detach().clone() for key, value in trainer.params.items()}
    losses = [float(trainer.step(step)[0]) for step in range(12)]  # past the first refresh of every preconditioner
    assert np.isfinite(losses).all()
    for key, value in trainer.params.items():
        assert torch.isfinite(value).all(), key
        # adalayer_frozen only measures at first; a softmax does not see a bias of k, which stays within rounding
        if optimizer != "adalayer_frozen" and key != "k_bias":
            assert not torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", ["gpt2", "olmo", "speedrun", "gpt2 mup"])
def test_families_learn_and_a_run_in_pieces_equals_the_straight_run(
    name: str, dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    run = toy(dataset, name, tokens=64 * 60, validation_interval=25, knobs={"z_loss": 1e-4, "lr": 0.03})
    engine = load_engine("torch")
    straight = engine.train(run, FolderLog(tmp_path / "straight", data_root))
    for piece in (7, 30):
        with pytest.raises(Preempted):
            engine.train(
                run,
                FolderLog(
                    tmp_path / "pieces",
                    data_root,
                    stop=lambda asked, piece=piece: "preempted" if asked > piece else None,
                ),
            )
    resumed = engine.train(run, FolderLog(tmp_path / "pieces", data_root))
    assert resumed.parameters_sha256 == straight.parameters_sha256
    assert resumed.resumed_from_step == 37 and resumed.val_loss == straight.val_loss
    assert straight.val_loss is not None and straight.val_loss < 3.0  # guessing: log 32 = 3.47


def test_reported_losses_are_without_the_z_loss(dataset: PreparedDataset, data_root: Path) -> None:
    without, with_it = (
        Trainer(toy(dataset, "olmo", knobs={"z_loss": weight}), data_root, torch.device("cpu")) for weight in (0, 0.5)
    )
    assert float(without.step(0)[0]) == pytest.approx(float(with_it.step(0)[0]), abs=2e-6)
    assert not torch.equal(without.params["head"], with_it.params["head"])
    for trainer in (without, with_it):
        trainer.set_arrays(without.arrays())
    assert without.validation_loss() == pytest.approx(with_it.validation_loss(), abs=1e-6)


def test_accumulated_z_loss_equals_that_of_the_full_batch(dataset: PreparedDataset, data_root: Path) -> None:
    run = toy(dataset, "olmo", batch_size=8, knobs={"z_loss": 0.1})
    full, parts = (Trainer(run.replace(accumulation=n), data_root, torch.device("cpu")) for n in (1, 4))
    loss, grads = full.gradients(*full.batch(0))
    other, others = parts.gradients(*parts.batch(0))
    assert float(loss) == pytest.approx(float(other), abs=1e-6)
    for name, one, two in zip(full.names, grads, others, strict=True):
        assert torch.allclose(one, two, atol=1e-6, rtol=1e-4), name


def test_a_sequence_longer_than_the_table_of_positions_is_refused(dataset: PreparedDataset, data_root: Path) -> None:
    run = toy(dataset, "gpt2", seq_len=32)
    with pytest.raises(ValueError, match="learns 16 positions"):
        Trainer(run, data_root, torch.device("cpu"))


def test_a_rule_without_a_scale_over_widths_is_refused_under_mup(dataset: PreparedDataset, data_root: Path) -> None:
    for optimizer in ("shampoo", "prodigy", "sgd"):
        with pytest.raises(ValueError, match=rf"muP .* is not defined for {optimizer}"):
            Trainer(toy(dataset, "llama mup", optimizer), data_root, torch.device("cpu"))
