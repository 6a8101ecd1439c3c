"""What only a CUDA device can show: the graph, the compiled layer and the exact form against the plain operations."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch

from optsweep_engines.models import initial_parameters, model
from optsweep_engines.shape import ModelShape
from optsweep_engines.torch_engine.graphed import Graphed
from optsweep_engines.torch_engine.model import Decoder, has_triton

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

TOKENS, VOCABULARY = 128, 512


def shape() -> ModelShape:
    return dataclasses.replace(
        model("gpt2-124m").shape, layers=2, width=128, heads=2, mlp_width=512, vocab_size=VOCABULARY, positions=TOKENS
    )


def trained(dtype: torch.dtype = torch.float32, **further: bool) -> Decoder:
    params = {
        name: torch.from_numpy(value).cuda().requires_grad_() for name, value in initial_parameters(shape(), 0).items()
    }
    return Decoder(shape(), TOKENS, params, dtype, **further)


def batches(count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    stream = torch.Generator("cuda").manual_seed(0)
    for _ in range(count):
        x_BT, y_BT = torch.randint(VOCABULARY, (2, 4, TOKENS), generator=stream, device="cuda")
        yield x_BT, y_BT


def test_a_graph_gives_the_gradients_of_each_batch_that_it_is_given() -> None:
    plain, graphed = trained(), Graphed(trained())
    losses = []
    for x_BT, y_BT in batches(3):
        expected, grads = plain.loss_and_grads(x_BT, y_BT)
        loss, found = graphed.loss_and_grads(x_BT, y_BT)
        losses.append((loss, float(expected)))
        for one, other in zip(found, grads, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
        found[0].mul_(0.0)  # as clipping does: the next call's are whole again
    assert [float(loss) for loss, _ in losses] == pytest.approx([value for _, value in losses], abs=1e-6)


@pytest.mark.skipif(not has_triton(), reason="no triton here")
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_the_compiled_form_gives_the_loss_and_the_gradients_of_the_plain_one(dtype: torch.dtype, near: float) -> None:
    plain, compiled = trained(dtype), trained(dtype, compiled=True)
    for x_BT, y_BT in batches(2):
        expected, grads = plain.loss_and_grads(x_BT, y_BT)
        loss, found = compiled.loss_and_grads(x_BT, y_BT)
        assert float(loss) == pytest.approx(float(expected), abs=1e-2 * near)
        for one, other in zip(found, grads, strict=True):
            assert float((one - other).norm() / other.norm()) < near


def test_the_exact_form_gives_the_same_bits_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTSWEEP_EXACT", "1")
    decoder = trained(torch.bfloat16)
    x_BT, y_BT = next(batches(1))
    _, first = decoder.loss_and_grads(x_BT, y_BT)
    for _ in range(5):
        _, again = decoder.loss_and_grads(x_BT, y_BT)
        assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
