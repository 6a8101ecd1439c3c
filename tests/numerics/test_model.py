"""The decoder against a second one written in numpy float64, and its fast CPU form against the definition."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from optsweep_engines.models import initial_parameters, model, training_bytes
from optsweep_engines.spec import ModelShape
from optsweep_engines.torch_engine import loss
from optsweep_engines.torch_engine.cpu_model import CpuDecoder
from optsweep_engines.torch_engine.loss import cross_entropy
from optsweep_engines.torch_engine.model import Decoder, decoder
from tests.numerics.toy import VOCAB, shape

Floats = npt.NDArray[np.float64]


def values(small: ModelShape) -> dict[str, Floats]:
    """Initial values with norms that are not one."""
    stream = np.random.Generator(np.random.PCG64(1))
    found = {name: value.astype(np.float64) for name, value in initial_parameters(small, 0).items()}
    for name in found:
        if "norm" in name:
            found[name] += 0.2 * stream.standard_normal(found[name].shape)
    return found


def tokens(batch: int, length: int) -> npt.NDArray[np.int64]:
    return np.random.Generator(np.random.PCG64(2)).integers(0, VOCAB, (batch, length))


def numpy_loss(small: ModelShape, p: dict[str, Floats], x: npt.NDArray[np.int64], y: npt.NDArray[np.int64]) -> float:
    """Mean cross-entropy, token by token and head by head, straight from the formulas."""

    def norm(h: Floats, weight: Floats) -> Floats:
        result: Floats = h / np.sqrt((h**2).mean(-1, keepdims=True) + small.norm_eps) * weight
        return result

    head = small.width // small.heads

    def turned(vector: Floats, position: int) -> Floats:
        result = np.empty(head)
        for i in range(head // 2):
            angle = position * small.rope_theta ** (-2 * i / head)
            a, b = vector[i], vector[i + head // 2]
            result[i] = a * math.cos(angle) - b * math.sin(angle)
            result[i + head // 2] = b * math.cos(angle) + a * math.sin(angle)
        return result

    total = 0.0
    for row in range(len(x)):
        h = p["embedding"][x[row]]
        for layer in range(small.layers):
            normed = norm(h, p["attention_norm"][layer])
            q, k, v = (normed @ p[name][layer].T for name in ("q", "k", "v"))
            mixed = np.zeros_like(h)
            for index in range(small.heads):
                own = slice(index * head, (index + 1) * head)
                keys = np.stack([turned(k[t, own], t) for t in range(len(h))])
                for t in range(len(h)):
                    scores = keys[: t + 1] @ turned(q[t, own], t) / math.sqrt(head)
                    weights = np.exp(scores - scores.max())
                    mixed[t, own] = weights @ v[: t + 1, own] / weights.sum()
            h = h + mixed @ p["attention_out"][layer].T
            normed = norm(h, p["mlp_norm"][layer])
            gate = normed @ p["mlp_gate"][layer].T
            h = h + (gate / (1 + np.exp(-gate)) * (normed @ p["mlp_up"][layer].T)) @ p["mlp_out"][layer].T
        table = p["embedding" if small.tied_embeddings else "head"]
        logits = norm(h, p["final_norm"]) @ table.T
        logits = logits - logits.max(-1, keepdims=True)
        total += float((np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(h)), y[row]]).mean())
    return total / len(x)


def tensors(p: dict[str, Floats], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value).to(dtype).requires_grad_() for name, value in p.items()}


@pytest.mark.parametrize("tied", [False, True])
def test_the_decoder_computes_the_formulas(tied: bool) -> None:
    small = shape(tied_embeddings=tied)
    p, x, y = values(small), tokens(3, 11), tokens(3, 12)[:, 1:]
    found = Decoder(small, 11, tensors(p, torch.float64), torch.float64)
    # the loss itself is taken in fp32
    loss = found.loss(torch.from_numpy(x), torch.from_numpy(y.copy())).detach()
    assert float(loss) == pytest.approx(numpy_loss(small, p, x, y), abs=1e-6)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("batch", "length"), [(3, 16), (2, 64), (1, 65), (2, 150), (2, 256)])
def test_the_written_out_backward_equals_autograd(tied: bool, batch: int, length: int) -> None:
    small = shape(tied_embeddings=tied)
    p = values(small)
    x, y = torch.from_numpy(tokens(batch, length)), torch.from_numpy(tokens(batch, length + 1)[:, 1:].copy())
    loss, grads = Decoder(small, length, tensors(p, torch.float64), torch.float64).loss_and_grads(x, y)
    fast = CpuDecoder(small, length, tensors(p, torch.float32))
    fast.loss_and_grads(y, x)  # buffers hold another batch's numbers now
    fast_loss, fast_grads = fast.loss_and_grads(x, y)
    assert float(fast_loss) == pytest.approx(float(loss), abs=2e-6)
    assert float(fast.loss(x, y)) == pytest.approx(float(loss), abs=2e-6)
    assert len(grads) == len(fast_grads) == len(p)
    for name, exact, found in zip(p, grads, fast_grads, strict=True):
        # float32 against float64: some roundings of 6e-8 over sums of a few hundred terms
        assert float((found - exact).norm() / exact.norm()) < 5e-6, name


def test_shorter_and_smaller_batches_share_one_cpu_decoder() -> None:
    small = shape()
    p = values(small)
    fast = CpuDecoder(small, 64, tensors(p, torch.float32))
    for batch, length in ((2, 64), (1, 64), (2, 10), (2, 64)):
        x, y = torch.from_numpy(tokens(batch, length)), torch.from_numpy(tokens(batch, length + 1)[:, 1:].copy())
        plain = Decoder(small, length, tensors(p, torch.float64), torch.float64)
        assert float(fast.loss(x, y)) == pytest.approx(float(plain.loss(x, y).detach()), abs=2e-6)


def test_the_cpu_decoder_sees_parameters_that_change_in_place() -> None:
    small = shape()
    params = tensors(values(small), torch.float32)
    fast = CpuDecoder(small, 16, params)
    x = torch.from_numpy(tokens(2, 16))
    before = float(fast.loss(x, x))
    with torch.no_grad():
        for value in params.values():
            value.mul_(0.5)
    after = float(fast.loss(x, x))
    assert after != before
    assert after == pytest.approx(float(Decoder(small, 16, params, torch.float32).loss(x, x).detach()), abs=1e-5)


def test_long_sequences_and_bf16_take_the_plain_form() -> None:
    small = shape()
    params = tensors(values(small), torch.float32)
    assert isinstance(decoder(small, 1024, params, torch.float32, 1e12), CpuDecoder)
    assert isinstance(decoder(small, 1025, params, torch.float32, 1e12), Decoder)
    assert isinstance(decoder(small, 64, params, torch.bfloat16, 1e12), Decoder)


def test_the_fused_attention_kernel_gives_what_plain_attention_gives() -> None:
    small = shape()
    params = tensors(values(small), torch.float32)
    x = torch.from_numpy(tokens(2, 300))
    fused = Decoder(small, 300, params, torch.float32)
    assert not fused.plain_attention
    plain = CpuDecoder(small, 300, params)
    assert float(fused.loss(x, x).detach()) == pytest.approx(float(plain.loss(x, x)), abs=2e-6)


def test_bf16_stays_near_fp32_and_gives_fp32_gradients() -> None:
    small = shape()
    params = tensors(values(small), torch.float32)
    x = torch.from_numpy(tokens(4, 32))
    exact, exact_grads = Decoder(small, 32, params, torch.float32).loss_and_grads(x, x)
    rough, grads = Decoder(small, 32, params, torch.bfloat16).loss_and_grads(x, x)
    # 8 bits of mantissa: 2^-8 of a loss of about 4, through two layers
    assert 0 < abs(float(rough) - float(exact)) < 0.05
    assert {grad.dtype for grad in grads} == {torch.float32}
    for found, expected in zip(grads, exact_grads, strict=True):
        assert float(torch.cosine_similarity(found.flatten(), expected.flatten(), dim=0)) > 0.99


@pytest.mark.parametrize("rows", [7, 8, 9])
def test_chunked_cross_entropy_equals_the_plain_one(rows: int) -> None:
    stream = torch.Generator().manual_seed(0)

    def made() -> list[torch.Tensor]:
        return [
            torch.randn(size, generator=stream.manual_seed(1)).double().requires_grad_()
            for size in ((rows, 5), (20, 5))
        ]

    y = torch.randint(0, 20, (rows,), generator=stream)
    results: list[Any] = []
    for largest in (1 << 26, 3 * 20):
        hidden, head = made()
        loss = cross_entropy(hidden, head, y, largest) * 3.0
        results.append((loss.detach(), *torch.autograd.grad(loss, [hidden, head])))
    for plain, chunked in zip(*results, strict=True):
        # logits are taken in fp32 by both
        assert torch.allclose(plain.double(), chunked.double(), atol=1e-6)


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
@pytest.mark.parametrize("rows", [6, 7])
def test_the_fused_cross_entropy_equals_the_plain_one(
    rows: int, z_loss: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "fused_softmax_part", lambda: loss.softmax_part)  # as it is before it is compiled
    stream = torch.Generator().manual_seed(0)
    hidden, head = (torch.randn(size, generator=stream).requires_grad_() for size in ((rows, 5), (20, 5)))
    y = torch.randint(0, 20, (rows,), generator=stream)
    logits = hidden.double() @ head.double().T
    plain = torch.nn.functional.cross_entropy(logits, y)
    target = plain + z_loss * logits.logsumexp(-1).square().mean()
    for largest in (1 << 26, 3 * 20):
        found, found_target = loss.fused_cross_entropy_and_target(hidden, head, y, z_loss, largest)
        assert [found.item(), found_target.item()] == pytest.approx([plain.item(), target.item()], abs=1e-6)
        for one, other in zip(
            torch.autograd.grad(found_target, [hidden, head]),
            torch.autograd.grad(target, [hidden, head], retain_graph=True),
            strict=True,
        ):
            assert torch.allclose(one, other, atol=1e-6)


def test_chunked_cross_entropy_takes_no_gradients_where_none_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, head = torch.randn(8, 5), torch.randn(20, 5).requires_grad_()
    y = torch.randint(0, 20, (8,))

    def refused(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("a gradient was computed")

    monkeypatch.setattr(torch, "mm", refused)
    with torch.no_grad():
        assert float(cross_entropy(hidden, head, y, 60)) == pytest.approx(
            float(cross_entropy(hidden, head, y)), abs=1e-6
        )
    with pytest.raises(AssertionError):
        cross_entropy(hidden, head, y, 60)


def test_the_memory_estimate_is_near_what_the_cpu_decoder_holds() -> None:
    for name, batch, length in (("bench-micro", 8, 64), ("bench-tiny", 4, 256), ("bench-tiny", 1, 1024)):
        entry = model(name)
        params = {key: torch.from_numpy(value) for key, value in initial_parameters(entry.shape, 0).items()}
        fast = CpuDecoder(entry.shape, length, params)
        x = torch.randint(0, 256, (batch, length))
        fast.loss_and_grads(x, x)
        seen: dict[int, int] = {}
        pending: list[Any] = [fast]
        while pending:  # every tensor that can be reached from the decoder, each storage once
            item = pending.pop()
            if isinstance(item, torch.Tensor):
                seen[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes()
            elif isinstance(item, dict):
                pending.extend(item.values())
            elif isinstance(item, list | tuple):
                pending.extend(item)
            elif type(item).__module__.startswith("optsweep_engines") and hasattr(item, "__dict__"):
                pending.extend(vars(item).values())
        estimate = training_bytes(entry.shape, batch, length, "fp32", 0)
        assert 0.6 < estimate / sum(seen.values()) < 1.5, name
