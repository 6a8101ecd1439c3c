"""What a run tells beside its losses: spikes, watched on every step of every run, and statistics by `--diagnostics full`.

Nothing here changes a trajectory. Norms and losses of the steps between two metric lines wait on the device and are looked
at when the line is written, so no step waits for the device. The statistics are taken on steps with a metric line only.
"""

from __future__ import annotations

import math
import statistics as medians
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers import user

Array: TypeAlias = Any
Arrays: TypeAlias = Mapping[str, Array]

Statistic: TypeAlias = Callable[[Any, Sequence[Parameter], Arrays, Arrays, Arrays], Mapping[str, Any]]
"""A user's own: (array namespace, table, parameters before the step, gradients before clipping, what the step added), each
by name, to numbers by key."""

FULL, LAYERS = "full", "layers"

SPARSE_BELOW = 1e-8
"""`grad_sparsity` is the share of gradient entries whose size is below it."""

WINDOW = 100
"""Steps that a running median is over."""
FEWEST = 3
"""Steps before anything counts as a spike."""
NORM_FACTOR = 10.0
"""A gradient norm above this many running medians is a spike."""
LOSS_RISE = 0.5
"""A loss this far above its running median, nats, and LOSS_DEVIATIONS median absolute deviations, is a spike."""
LOSS_DEVIATIONS = 10.0
QUIET_STEPS = 10
"""Steps without a spike after which the next one is an event of its own."""
MOST_EVENTS = 100
"""Of one kind in one run."""


def short(value: float) -> float:
    """Six significant digits."""
    return float(f"{value:.6g}")


@dataclass(kw_only=True)
class SpikeWatch:
    """Gradient norms and losses of every step against their running medians; small, and saved in every checkpoint."""

    norms: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    last: dict[str, int] = field(default_factory=dict)
    """Kind of event -> the last step that was one."""
    counts: dict[str, int] = field(default_factory=dict)
    """Kind of event -> events so far."""
    largest_norm: float | None = None
    """Since the last metric line."""

    def look(self, step: int, loss: float, norm: float) -> list[tuple[str, dict[str, Any]]]:
        """Note one step; returns the events (kind, fields) that it makes."""
        found: list[tuple[str, dict[str, Any]]] = []
        if math.isfinite(norm):
            middle = medians.median(self.norms) if len(self.norms) >= FEWEST else None
            if middle and norm > NORM_FACTOR * middle and self._is_new("spike", step):
                found.append(
                    (
                        "spike",
                        {
                            "step": step,
                            "grad_norm": short(norm),
                            "median": short(middle),
                            "ratio": short(norm / middle),
                        },
                    )
                )
            self.norms = [*self.norms[-(WINDOW - 1) :], norm]
            self.largest_norm = norm if self.largest_norm is None else max(norm, self.largest_norm)
        elif math.isfinite(loss) and self._is_new("spike", step):  # else the loss says it; JSON has no infinity
            usual = short(medians.median(self.norms)) if self.norms else None
            found.append(("spike", {"step": step, "grad_norm": None, "median": usual, "ratio": None}))
        if math.isfinite(loss):
            if len(self.losses) >= FEWEST:
                middle = medians.median(self.losses)
                spread = medians.median(abs(value - middle) for value in self.losses)
                if loss - middle > max(LOSS_RISE, LOSS_DEVIATIONS * spread) and self._is_new("loss_spike", step):
                    rise = loss - middle
                    fields = {"step": step, "train_loss": short(loss), "median": short(middle), "rise": short(rise)}
                    found.append(("loss_spike", fields))
            self.losses = [*self.losses[-(WINDOW - 1) :], loss]
        return found

    def _is_new(self, kind: str, step: int) -> bool:
        """Whether a spike is not the tail of the one before."""
        new = step - self.last.get(kind, -QUIET_STEPS - 1) > QUIET_STEPS and self.counts.get(kind, 0) < MOST_EVENTS
        self.last[kind] = step
        self.counts[kind] = self.counts.get(kind, 0) + new
        return new

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


# ---------------------------------------------------------------- statistics


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What `--diagnostics` asked for."""

    layers: bool
    """Norms per layer, too."""
    own: Mapping[str, Statistic]
    """A user's own by `file.py:name`."""


def wanted(log: Any) -> Wanted | None:
    """What the log of a run says; None where only what is free was asked for.

    Raises:
        OwnOptimizerError: a user's file cannot be run, or holds nothing of that name.
    """
    asked: Mapping[str, Any] | None = getattr(log, "diagnostics", None)
    if not asked:
        return None
    own = {f"{item['label']}:{item['name']}": loaded(item) for item in asked.get("own", [])}
    return Wanted(layers=LAYERS in asked["parts"], own=own)


def loaded(item: Mapping[str, str]) -> Statistic:
    """The function of a user's file."""
    source = user.Source(label=item["label"], stem=item["label"].removesuffix(".py"), content=item["content"].encode())
    found: Any = getattr(user.run_module(source), item["name"], None)
    if not callable(found):
        raise user.OwnOptimizerError(f"{item['label']} has no function {item['name']}", "name one after the colon")
    statistic: Statistic = found
    return statistic


def statistics(
    xp: Any, table: Sequence[Parameter], params: Arrays, grads: Arrays, updates: Arrays, *, layers: bool = False
) -> dict[str, Array]:
    """Numbers by key, each a 0-d array.

    Args:
        params: before the step.
        grads: before clipping.
        updates: what the step added to the parameters.
        layers: norms per layer, too.
    """

    def squares(values: Arrays) -> dict[str, Array]:
        """Sum of squares by name: one number, or one per layer."""
        return {
            item.name: xp.sum(values[item.name] ** 2, axis=tuple(range(int(item.stacked), len(item.shape))))
            for item in table
        }

    kinds = {"grad_norm": squares(grads), "param_norm": squares(params), "update_norm": squares(updates)}

    def norm(kind: str, names: Sequence[str]) -> Array:
        parts = [xp.sum(kinds[kind][name]) for name in names]
        return xp.sqrt(sum(parts[1:], start=parts[0]))

    everything = [item.name for item in table]
    roles: dict[str, list[str]] = {}
    for item in table:
        roles.setdefault(item.role, []).append(item.name)
    count = sum(item.count for item in table)
    small = [xp.sum(xp.abs(grads[name]) < SPARSE_BELOW) for name in everything]
    largest = [xp.max(xp.abs(grads[name])) for name in everything]
    found = {
        "global_grad_norm": norm("grad_norm", everything),
        "max_grad": xp.max(xp.stack(largest)),
        "grad_sparsity": sum(small[1:], start=small[0]) / count,
        "param_norm": norm("param_norm", everything),
        "update_ratio": norm("update_norm", everything) / norm("param_norm", everything),
        "embedding_grad_norm": norm("grad_norm", roles["embedding"]),
    }
    if "norm" in roles:
        found["norm_grad_norm"] = norm("grad_norm", roles["norm"])
    for role, names in roles.items():
        found[f"grad_norm/{role}"] = norm("grad_norm", names)
        found[f"param_norm/{role}"] = size = norm("param_norm", names)
        # A bank that starts at zero has no size to compare a step with: the ratio is left out by its being infinite.
        found[f"update_ratio/{role}"] = norm("update_norm", names) / size
    if layers:
        banks = [item.name for item in table if item.stacked]
        for kind in ("grad_norm", "param_norm"):
            sums = [kinds[kind][name] for name in banks]
            total = xp.sqrt(sum(sums[1:], start=sums[0]))
            found |= {f"{kind}/layer{index}": total[index] for index in range(total.shape[0])}
    return found


class Own:
    """A user's own statistics: one that fails is told of once and left out from then on; the run goes on."""

    def __init__(self, functions: Mapping[str, Statistic], tell: Callable[..., None]) -> None:
        self.functions = dict(functions)
        self.tell = tell

    def of(
        self, xp: Any, table: Sequence[Parameter], params: Arrays, grads: Arrays, updates: Arrays
    ) -> dict[str, float]:
        """Their numbers by key."""
        found: dict[str, float] = {}
        for label, function in list(self.functions.items()):
            try:
                numbers = {str(key): float(value) for key, value in function(xp, table, params, grads, updates).items()}
            except Exception as error:  # a user's code may raise anything
                del self.functions[label]
                self.tell("diagnostic_failed", statistic=label, error=f"{type(error).__name__}: {error}"[:200])
                continue
            found |= numbers
        return found


__all__ = ["FULL", "LAYERS", "SPARSE_BELOW", "Own", "SpikeWatch", "Wanted", "statistics", "wanted"]
