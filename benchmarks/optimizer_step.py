"""Cost of one optimizer step, rule by rule: `python benchmarks/optimizer_step.py [--quick] [--out FILE]`.

On a CPU: seconds of a step over those of fused AdamW on the same parameters, and bytes of state per parameter; then the
batched matrix rules against a loop over matrices. One process, one thread, one core; processor time, so that waiting for
a busy machine does not count; AdamW and the rule take turns, and the ratio is the median over the turns. What a rule does
on some steps only is timed apart and weighed by how often it happens over a whole period of the rule.
On CUDA: what a step costs over AdamW's, as a share of a whole AdamW training step of 0.5M tokens in bf16 on one GPU, and a
profile of where the time of each matrix rule goes.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import functools
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from array_api_compat import torch as xp
from torch import Tensor

from optsweep_engines.models import Parameter, model, parameter_table
from optsweep_engines.optimizers import muon, noise
from optsweep_engines.optimizers.base import OptimizerEntry, Service, at_step, hyper
from optsweep_engines.optimizers.catalogue import ENTRIES, resolve_knobs
from optsweep_engines.spec import ModelShape, Scalar
from optsweep_engines.torch_engine.device import cpu_name, opened
from optsweep_engines.torch_engine.fused import multiplying
from optsweep_engines.torch_engine.model import Decoder, has_triton
from optsweep_engines.torch_engine.optimizer import Optimizer

SMALL = model("bench-small").shape
GPT2 = dataclasses.replace(SMALL, layers=12, width=768, heads=12, mlp_width=2048)
SHAPES: dict[str, ModelShape] = {
    "2x64": model("bench-micro").shape,
    "4x128": model("bench-tiny").shape,
    "6x384": SMALL,
    "12x768": GPT2,
    "520m": model("520m").shape,
}
GPU_SHAPES = {"12x768": dataclasses.replace(GPT2, vocab_size=50304), "520m": SHAPES["520m"]}
"""(on a GPU the vocabulary of the 124M models, for its training step is what the optimizer is compared with)"""

QUICK = ("adamw", "lion", "cautious", "muon", "soap", "kron")
BARS = {"muon": 0.03, "soap": 0.08, "shampoo": 0.20, "kron": 0.10}
"""Issue 3, "Proof": largest share of an AdamW training step on one GPU."""

TOKENS = 1 << 19
SEQ_LEN = 1024
LEAST_SECONDS = 0.05
"""Of one turn: shorter steps are repeated."""

KRON_AT_REST: dict[str, Scalar] = {"update_prob_flat_start": 0, "update_prob_decay": 1.0}
"""The share of updates that kron ends at, from the first steps on; for 500 steps before that every step is one."""

VARIANTS: dict[str, tuple[str, dict[str, Scalar]]] = {
    **{name: (name, {}) for name in ENTRIES},
    "kron": ("kron", KRON_AT_REST),
    "kron, first 500 steps": ("kron", {}),
}
FIRST_STEP = 101
"""Where the calendar of rare events is read from."""


def period(entry: OptimizerEntry, knobs: Mapping[str, Scalar]) -> int:
    """Steps after which a rule's rare events repeat."""
    if "preconditioner_update_probability" in knobs and not knobs["update_prob_flat_start"]:
        return round(20 / float(knobs["preconditioner_update_probability"] or 1))  # 20 updates between two balances
    return int(knobs.get("precondition_frequency") or knobs.get("hessian_interval") or 20)


def calendar(entry: OptimizerEntry, knobs: Mapping[str, Scalar], table: Sequence[Parameter]) -> list[tuple[int, float]]:
    """(a step, its share of the period) for every kind of step: by what the rules do then."""
    bound = [hyper(entry, item, knobs) for item in table]
    length = period(entry, knobs)
    kinds: dict[object, list[int]] = collections.defaultdict(list)
    for step in range(FIRST_STEP, FIRST_STEP + length):
        kinds[tuple(sorted({tuple(sorted(rule.events(step, hp.knobs))) for rule, hp in bound}))].append(step)
    return [(steps[0], len(steps) / length) for steps in kinds.values()]


class Subject:
    """One optimizer on random parameters, ready to step."""

    def __init__(self, name: str, given: Mapping[str, Scalar], table: Sequence[Parameter], device: str) -> None:
        self.entry = ENTRIES[name]
        self.knobs = resolve_knobs(name, given)
        self.table = table
        self.params = values(table, 0.02, 0, device)
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        self.optimizer = Optimizer(
            self.entry, self.knobs, table, self.params, total_steps=1000, tokens_per_step=TOKENS, dtype=dtype
        )
        filled(self.optimizer)

    def step(self, grads: Mapping[str, Tensor], step: int) -> None:
        """One step; the probe noise is drawn, for that is the rule's own cost; Hessian estimates are taken as given."""
        provided: dict[str, Service] = {
            "noise": lambda tensor, at: noise.normal(xp, 0, at, tensor, self.params[tensor.name]),
            "sampled_gradient": lambda tensor, at: grads[tensor.name],
            "hessian_diagonal": lambda tensor, at: grads[tensor.name],
        }
        self.optimizer.step(grads, step, 1e-4, provided)


def values(table: Sequence[Parameter], scale: float, seed: int, device: str) -> dict[str, Tensor]:
    """Random tensors by name."""
    stream = torch.Generator(device).manual_seed(seed)
    return {item.name: torch.randn(item.shape, generator=stream, device=device).mul_(scale) for item in table}


def filled(optimizer: Optimizer) -> None:
    """States of a run under way: full-rank Gram matrices, orthogonal bases; a first step would take minutes to start."""
    for key, value in optimizer.tensors().items():
        kind = key.rpartition("/")[2]
        if kind.startswith("gram"):
            x = torch.randn_like(value)
            value.copy_(x @ x.mT / x.shape[-1])
        elif kind.startswith("q_"):
            value.copy_(torch.eye(value.shape[-1], device=value.device).expand_as(value))


def seconds(action: Callable[[], object], device: str) -> float:
    """Of one call, repeated where it is short: processor seconds, or seconds of a GPU that was idle before."""
    count, spent = 0, 0.0
    if device == "cuda":
        torch.cuda.synchronize()
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    while spent < LEAST_SECONDS:
        action()
        if device == "cuda":
            torch.cuda.synchronize()
        count += 1
        spent = clock() - start
    return spent / count


def cell(ratios: Sequence[float]) -> str:
    """Median and range."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


# ---------------------------------------------------------------- CPU


def steps_over_adamw(shape_name: str, names: Sequence[str], rounds: int, budget: float) -> Iterator[str]:
    """One table row per optimizer: time over fused AdamW, bytes of state per parameter.

    Args:
        budget: seconds per optimizer after which no further round is begun.
    """
    table = parameter_table(SHAPES[shape_name])
    count = sum(item.count for item in table)
    grads = values(table, 1.0, 1, "cpu")
    adamw = Subject("adamw", {}, table, "cpu")
    adamw.step(grads, FIRST_STEP)
    for name in names:
        subject = Subject(*VARIANTS[name], table, "cpu")
        kinds = calendar(subject.entry, subject.knobs, table)
        subject.step(grads, FIRST_STEP)
        ratios, ours, theirs, rare = [], [], [], []
        begun = time.perf_counter()
        while len(ratios) < rounds and (not ratios or time.perf_counter() - begun < budget):
            theirs.append(seconds(lambda: adamw.step(grads, FIRST_STEP), "cpu"))
            spent = [seconds(functools.partial(subject.step, grads, step), "cpu") for step, _ in kinds]
            ours.append(sum(share * one for (_, share), one in zip(kinds, spent, strict=True)))
            rare.append(max(spent) / theirs[-1])
            ratios.append(ours[-1] / theirs[-1])
        state = subject.optimizer.state_bytes() / count
        slowest = f"{statistics.median(rare):.1f}" if len(kinds) > 1 else ""
        yield (
            f"| {name} | {cell(ratios)} | {1e3 * statistics.median(ours):.1f} | {slowest} | {state:.2f} | {len(ratios)} |"
        )


class Loop:
    """A matrix rule as a plain loop over matrices: nothing is stacked, nothing but the rule's own operations runs."""

    def __init__(self, name: str, table: Sequence[Parameter], grads: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.items: list[list[Any]] = []
        for item in table:
            for layer in range(item.tensors):
                one = dataclasses.replace(item, name=f"{item.name}{layer}", shape=item.tensor_shape, stacked=False)
                rule, hp = hyper(ENTRIES[name], one, resolve_knobs(name, VARIANTS[name][1]), lr=1e-4, total_steps=1000)
                param = torch.randn(one.shape).mul_(0.02)
                state = rule.init(xp, param, hp)
                for kind, value in state.items():
                    if kind.startswith("gram"):
                        x = torch.randn_like(value)
                        value.copy_(x @ x.mT / x.shape[-1])
                    elif kind.startswith("q_"):
                        value.copy_(torch.eye(value.shape[-1]).expand_as(value))
                self.items.append([rule, hp, param, grads[item.name][layer].clone(), state])

    def step(self, step: int) -> None:
        """One step of every matrix."""
        for entry in self.items:
            rule, hp, param, grad, state = entry
            if rule is muon.RULE:
                muon_step(hp, param, grad, state["m"], self.dtype)
                continue
            ready = at_step(rule, hp, step, {"noise": lambda tensor, at: noise.normal(xp, 0, at, tensor, param)})  # noqa: B023
            new, entry[4] = rule.update(xp, param, grad, state, step, ready)
            param.copy_(new)


def muon_step(hp: Any, param: Tensor, grad: Tensor, m: Tensor, dtype: torch.dtype) -> None:
    """Muon on one matrix, in place, products in the type named: as the author's code runs it."""
    m.lerp_(grad, 1 - hp["momentum"])
    ahead = grad.lerp(m, hp["momentum"])
    x = ahead.mT if ahead.shape[0] > ahead.shape[1] else ahead
    x = (x / (x.norm() + hp["muon_eps"])).to(dtype)
    a, b, c = muon.COEFFICIENTS
    for _ in range(hp["ns_steps"]):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    change = x.mT if ahead.shape[0] > ahead.shape[1] else x
    param.mul_(1 - hp.lr * hp.weight_decay).add_(change, alpha=-hp.lr * muon.scale(hp.tensor))


def batched_over_loop(shape_name: str, name: str, dtype: torch.dtype, rounds: int, budget: float) -> str:
    """One table row: seconds of the loop over those of the batched rule, on the hidden matrices of a shape."""
    table = [item for item in parameter_table(SHAPES[shape_name]) if item.is_hidden_matrix]
    grads = values(table, 1.0, 1, "cpu")
    knobs = resolve_knobs(name, VARIANTS[name][1])
    params = values(table, 0.02, 0, "cpu")
    batched = Optimizer(ENTRIES[name], knobs, table, params, total_steps=1000, tokens_per_step=1, dtype=dtype)
    filled(batched)
    provided: dict[str, Service] = {"noise": lambda tensor, at: noise.normal(xp, 0, at, tensor, params[tensor.name])}
    loop = Loop(name, table, grads, dtype)
    kinds = calendar(ENTRIES[name], knobs, table)
    ratios: list[float] = []
    spent: dict[str, list[float]] = {"batched": [], "loop": []}
    begun = time.perf_counter()
    for step, _ in kinds[:1]:
        batched.step(grads, step, 1e-4, provided)
        loop.step(step)
    while len(ratios) < rounds and (not ratios or time.perf_counter() - begun < budget):
        total = {"batched": 0.0, "loop": 0.0}
        for step, share in kinds:
            total["batched"] += share * seconds(functools.partial(batched.step, grads, step, 1e-4, provided), "cpu")
            total["loop"] += share * seconds(functools.partial(loop.step, step), "cpu")
        ratios.append(total["loop"] / total["batched"])
        for key, value in total.items():
            spent[key].append(value)
    times = " | ".join(f"{1e3 * statistics.median(spent[key]):.1f}" for key in ("batched", "loop"))
    kind = "bf16" if dtype == torch.bfloat16 else "fp32"
    return f"| {name} | {kind} | {shape_name} | {cell(ratios)} | {times} | {len(ratios)} |"


# ---------------------------------------------------------------- CUDA


def gpu_rows(shape_name: str, names: Sequence[str], rounds: int, profiles: list[str]) -> Iterator[str]:
    """One table row per optimizer: what it adds to an AdamW training step of 0.5M tokens, in percent; fills `profiles`."""
    shape = GPU_SHAPES[shape_name]
    table = parameter_table(shape)
    grads = values(table, 1e-3, 1, "cuda")
    adamw = Subject("adamw", {}, table, "cuda")
    whole = model_seconds(shape, adamw.params, rounds)
    for name in names:
        subject = Subject(*VARIANTS[name], table, "cuda")
        kinds = calendar(subject.entry, subject.knobs, table)
        for step, _ in kinds:
            subject.step(grads, step)
        shares, slowest = [], []
        for _ in range(rounds):
            base = seconds(lambda: adamw.step(grads, FIRST_STEP), "cuda")
            spent = [seconds(functools.partial(subject.step, grads, step), "cuda") for step, _ in kinds]
            mean = sum(share * one for (_, share), one in zip(kinds, spent, strict=True))
            shares.append(100 * (mean - base) / (whole + base))
            slowest.append(max(spent))
        bar = f"{100 * BARS[name]:.0f}" if name in BARS else ""
        yield f"| {name} | {cell(shares)} | {bar} | {1e3 * statistics.median(slowest):.1f} | {1e3 * whole:.0f} |"
        if name in BARS:
            steps = [functools.partial(subject.step, grads, step) for step, _ in kinds]
            profiles.append(f"{name}, {shape_name}\n{profile_of(steps)}")


def model_seconds(shape: ModelShape, params: Mapping[str, Tensor], rounds: int) -> float:
    """Seconds of forward and backward over 0.5M tokens, from one micro-batch of 8 sequences."""
    trained = {name: value.detach().requires_grad_() for name, value in params.items()}
    decoder = Decoder(shape, SEQ_LEN, trained, torch.bfloat16, compiled=has_triton())
    x_BT = torch.randint(shape.vocab_size, (8, SEQ_LEN), device="cuda")
    decoder.loss_and_grads(x_BT, x_BT)
    decoder.loss_and_grads(x_BT, x_BT)
    one = statistics.median(seconds(lambda: decoder.loss_and_grads(x_BT, x_BT), "cuda") for _ in range(rounds))
    return one * TOKENS / x_BT.numel()


def profile_of(steps: Sequence[Callable[[], object]]) -> str:
    """The ten operations that take most of the GPU's time, one step of every kind."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for step in steps:
            step()
        torch.cuda.synchronize()
    return str(profile.key_averages().table(sort_by="self_cuda_time_total", row_limit=10, max_name_column_width=50))


# ---------------------------------------------------------------- the whole


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", help=f"comma-separated, of {', '.join(SHAPES)}")
    parser.add_argument("--optimizers", help="comma-separated; default all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--budget", type=float, default=30.0, help="seconds per optimizer after which no round begins")
    parser.add_argument("--only", choices=("steps", "batched"), help="one of the two CPU tables")
    parser.add_argument("--quick", action="store_true", help="some optimizers on small shapes, under a minute")
    parser.add_argument("--core", type=int, help="core to pin to; default the first allowed")
    parser.add_argument("--out", type=Path, help="append the tables to this file")
    return parser.parse_args()


def lines(given: argparse.Namespace) -> Iterator[str]:
    """The report, line by line as it is measured."""
    cuda = torch.cuda.is_available()
    device = opened("cuda" if cuda else "cpu", 1)
    default = list(GPU_SHAPES) if cuda else ["4x128"] if given.quick else ["6x384", "12x768"]
    shapes = given.shapes.split(",") if given.shapes else default
    names = given.optimizers.split(",") if given.optimizers else list(QUICK if given.quick else VARIANTS)
    rounds, budget = (2, 2.0) if given.quick else (given.rounds, given.budget)
    where = torch.cuda.get_device_name(device) if cuda else f"{cpu_name()}, {torch.backends.cpu.get_cpu_capability()}"
    today = datetime.datetime.now(datetime.UTC).date()
    yield f"{today}, {where}, Python {platform.python_version()}, torch {torch.__version__}"
    if cuda:
        profiles: list[str] = []
        for shape in shapes:
            yield f"\n{shape}, bf16, {TOKENS} tokens a step\n"
            yield "| optimizer | % of an AdamW training step | bar | slowest step, ms | model, ms |\n|---|---|---|---|---|"
            yield from gpu_rows(shape, names, rounds, profiles)
        yield from (f"\n```\n{profile}\n```" for profile in profiles)
        return
    if given.only != "batched":
        for shape in shapes:
            yield f"\nsteps, {shape}, fp32\n"
            yield "| optimizer | over AdamW | ms | rare step over AdamW | state bytes/param | rounds |\n|---|---|---|---|---|---|"
            yield from steps_over_adamw(shape, names, rounds, budget)
    if given.only != "steps":
        bf16 = multiplying(torch.bfloat16, "cpu")
        yield f"\nbatched over a loop of single matrices (bf16 products run in {str(bf16).removeprefix('torch.')} here)\n"
        yield "| rule | products | shape | loop / batched | batched, ms | loop, ms | rounds |\n|---|---|---|---|---|---|---|"
        wide = (
            given.shapes.split(",")
            if given.shapes
            else ["2x64", "4x128"] + ([] if given.quick else ["6x384", "12x768"])
        )
        for shape in wide:
            for name in ("soap", "kron", "shampoo", "muon"):
                yield batched_over_loop(shape, name, torch.float32, rounds, budget)
            yield batched_over_loop(shape, "muon", torch.bfloat16, rounds, budget)


def main() -> int:
    """Measure and print; the tables go to --out, too."""
    given = arguments()
    if hasattr(os, "sched_setaffinity"):
        core = min(os.sched_getaffinity(0)) if given.core is None else given.core
        os.sched_setaffinity(0, {core})
    for line in lines(given):
        print(line, flush=True)
        if given.out:
            with given.out.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
