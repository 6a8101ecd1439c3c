"""Matrix rules shared out over processes: who updates what, and that no number changes by it."""

from __future__ import annotations

import multiprocessing
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch import distributed as dist

from optsweep_engines.models import HIDDEN_ROLES, Parameter, initial_parameters, model, parameter_table
from optsweep_engines.optimizers.catalogue import optimizer, resolve_knobs
from optsweep_engines.torch_engine.optimizer import Optimizer
from optsweep_engines.torch_engine.ranks import Ranks
from optsweep_engines.torch_engine.shares import shared_out

SHAPE = model("bench-micro").shape
RULES = ("muon", "soap", "shampoo", "kron")
STEPS = 3


@given(
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from([1.0, 3.0, 8.0])), min_size=1, max_size=9), st.integers(1, 8)
)
def test_every_matrix_has_one_owner_in_order_and_no_owner_has_more_than_its_part_and_a_matrix(
    banks: list[tuple[int, float]], count: int
) -> None:
    owners = shared_out(banks, count)
    assert [len(owned) for owned in owners] == [many for many, _ in banks]
    flat = [owner for owned in owners for owner in owned]
    assert flat == sorted(flat) and set(flat) <= set(range(count))
    costs = [each for many, each in banks for _ in range(many)]
    loads = [sum(c for c, owner in zip(costs, flat, strict=True) if owner == rank) for rank in range(count)]
    assert max(loads) <= sum(costs) / count + max(costs) + 1e-9


def made(name: str, ranks: Ranks) -> tuple[dict[str, Tensor], Optimizer]:
    params = {key: torch.from_numpy(value.copy()) for key, value in initial_parameters(SHAPE, 0).items()}
    knobs = resolve_knobs(name, {})
    return params, Optimizer(
        optimizer(name), knobs, parameter_table(SHAPE), params, total_steps=STEPS, tokens_per_step=64, ranks=ranks
    )


def stepped(name: str, ranks: Ranks) -> tuple[dict[str, Tensor], dict[str, Tensor | None], int, int]:
    """Parameters and whole states after STEPS steps of the same gradients; bytes of state in all, and here."""
    params, own = made(name, ranks)
    for step in range(1, STEPS + 1):
        chance = torch.Generator().manual_seed(step)
        grads = {key: torch.randn(value.shape, generator=chance) * 0.01 for key, value in params.items()}
        own.step(grads, step, 0.01, {"noise": drawn})
    here = sum(value.numel() * value.element_size() for value in own.tensors().values())
    return (
        params,
        {name: own.whole_in_first(name, held) for name, held in own.tensors().items()},
        own.state_bytes(),
        here,
    )


def drawn(tensor: Parameter, step: int) -> Tensor:
    """Normal numbers of a bank and step."""
    return torch.randn(
        tensor.shape, generator=torch.Generator().manual_seed(zlib.crc32(f"{tensor.name} {step}".encode()))
    )


def process(index: int, count: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=index, world_size=count)
    found = {name: stepped(name, Ranks(index=index, count=count)) for name in RULES}
    torch.save(found, f"{folder}/{index}.pt")
    dist.destroy_process_group()


@pytest.fixture
def as_begun() -> Iterator[None]:
    """Products as in a process that has just begun, whichever test came before."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.slow
@pytest.mark.usefixtures("as_begun")
def test_three_processes_together_hold_the_state_of_one_and_give_its_parameters(tmp_path: Path) -> None:
    count = 3
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=process, args=(index, count, str(tmp_path))) for index in range(count)]
    for each in processes:
        each.start()
    for each in processes:
        each.join(timeout=240)
        assert each.exitcode == 0
    answers = [torch.load(tmp_path / f"{index}.pt") for index in range(count)]
    for name in RULES:
        params, states, everything, _ = stepped(name, Ranks())
        for answer in answers:
            found, _, whole, _ = answer[name]
            assert whole == everything
            for key, value in params.items():
                assert torch.equal(found[key], answers[0][name][0][key]), "the processes differ"
                assert torch.allclose(found[key], value, rtol=0, atol=2e-6), (name, key)
        gathered = answers[0][name][1]
        assert gathered.keys() == states.keys()
        for key, value in states.items():
            limit = 2e-5 * float(value.abs().max()) if value.is_floating_point() else 0
            assert float((gathered[key] - value).abs().max()) <= limit, (name, key)
        shared = [key for key in states if key.partition("/")[0] in HIDDEN_ROLES]
        assert shared and all(answer[name][1][key] is None for answer in answers[1:] for key in shared), (
            "one has it whole"
        )
        held = [answer[name][3] for answer in answers]
        assert max(held) < everything <= sum(held), "each keeps a part"
