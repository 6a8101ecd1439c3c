"""Which optimizers can work on parameters that are spread over processes, `mesh = "fsdp=N"`; without torch, for planning too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers.base import Hyper, OptimizerEntry, Rule, hyper
from optsweep_engines.optimizers.user import OwnOptimizerError
from optsweep_engines.spec import Scalar


def refused_class(label: str, name: str) -> OwnOptimizerError:
    """Why a torch.optim class cannot.

    Args:
        label: the user's file, or the package.
    """
    return OwnOptimizerError(
        f"{label}: {name} is a torch.optim class, which takes its parameters whole: they cannot be spread over processes, "
        "take fsdp=1"
    )


def rules_of(
    entry: OptimizerEntry, knobs: Mapping[str, Scalar], table: Sequence[Parameter], **asked: int
) -> list[tuple[Rule, Hyper]]:
    """The rule of each tensor at peak learning rate 1.

    Args:
        asked: as of `hyper`.

    Raises:
        ValueError: one of them cannot be spread, with the reason; or as `hyper`.
    """
    pairs = [hyper(entry, item, knobs, lr=1.0, **asked) for item in table]
    for rule, hp in pairs:
        where = f"the rule of {entry.name} for {hp.tensor.name}"
        apart = rule.scope == "number"
        if rule.prepare is not None:
            reason = f"{where} sums over all tensors before each update"
        elif "hessian_diagonal" in entry.needs:
            reason = f"{entry.name} differentiates twice"
        elif not apart and (rule.eval_params is not None or "sampled_gradient" in entry.needs):
            reason = f"{where} takes whole tensors in more than its update"
        elif apart and "noise" in rule.events(1, hp.knobs):
            reason = f"{where} takes noise"
        else:
            continue
        raise ValueError(f"{reason}: it cannot be spread over processes, take fsdp=1")
    return pairs
