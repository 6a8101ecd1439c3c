"""A user's optimizer tried before anything is launched: its constructor and two steps on a small model's tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from optsweep_engines.models import model, parameter_table
from optsweep_engines.optimizers.user import Found, OwnOptimizerError, error_line
from optsweep_engines.properties.services import services
from optsweep_engines.properties.tensors import Floats
from optsweep_engines.spec import Scalar
from optsweep_engines.torch_engine.user import bound, savable

STEPS = 2
ABSENT_HERE = ("cuda", "triton", "gpu")
"""In an error's text: the optimizer may work where it is going to be trained."""


def tried(found: Found, label: str, knobs: Mapping[str, Scalar], schedule: str) -> dict[str, float]:
    """Two steps in float32 on the CPU, and what a checkpoint would do.

    Returns:
        "matrix" and "vector" -> floats of state per number.

    Raises:
        OwnOptimizerError: it does not work, with the knobs under which it does not.
    """
    torch.set_num_threads(1)
    table = parameter_table(model("bench-micro").shape)
    generator = torch.Generator().manual_seed(0)
    params = {item.name: torch.randn(item.shape, generator=generator).mul_(0.1) for item in table}

    def to_torch(array: Floats) -> torch.Tensor:
        return torch.from_numpy(array).float()

    try:
        if found.kind == "entry":
            reason = found.target.refuses(schedule, knobs)
            if reason is not None:
                raise OwnOptimizerError(f"{label}: {found.name}: {reason}", "change it")
        optimizer = bound(found, found.name, label, knobs, table, params, total_steps=100, tokens_per_step=64, seed=0)
        for step in range(1, STEPS + 1):
            grads = {item.name: torch.randn(item.shape, generator=generator).mul_(0.1) for item in table}
            optimizer.step(grads, step, float(knobs["lr"] or 0.0), services(to_torch))
        savable(optimizer)
    except Exception as error:
        text = str(error) if isinstance(error, OwnOptimizerError) else error_line(error, label, None)
        if any(word in text.lower() for word in ABSENT_HERE) and not torch.cuda.is_available():
            return {}
        raise OwnOptimizerError(f"{text} (in a trial of {STEPS} steps)", getattr(error, "hint", "")) from None
    numbers = {"matrix": 0, "vector": 0}
    kept = {"matrix": 0, "vector": 0}
    kinds = {item.name: "matrix" if item.in_axis is not None else "vector" for item in table}
    for item in table:
        numbers[kinds[item.name]] += item.count
    for name, value in optimizer.tensors().items():
        bank = next((part for part in name.replace(".", "/").split("/") if part in kinds), None)
        kept[kinds[bank] if bank else "matrix"] += value.numel()
    return {kind: kept[kind] / numbers[kind] for kind in numbers}
