"""One OLMo training configuration as a run of a grid: names, shapes and budgets translated, what has no counterpart remarked.

The meaning of the fields is that of the code release of arXiv 2407.07972: `decouple_weight_decay` divides the decay by the
learning rate, `tie_betas` takes beta_0 for both, signsgd is Lion with one beta, SGD's momentum is beta_0.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import Any

from optsweep_engines import data, models
from optsweep_engines.optimizers import catalogue
from optsweep_engines.optimizers.base import OptimizerEntry, find_knob
from optsweep_tui import grid
from optsweep_tui.core import ListedRun, Scalar
from optsweep_tui.importers.logged import flat
from optsweep_tui.importers.olmo_fields import DTYPES, NEUTRAL, OF_FAMILY, OF_THE_MACHINE, SCHEDULES, SHAPE, Remarks

_REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")
_TOKENS = re.compile(r"([0-9.e+]+)\s*T", re.IGNORECASE)


class Configuration:
    """A composed configuration with the changes of one array task."""

    def __init__(
        self, base: Mapping[str, Any], changes: Mapping[str, Any], constants: Mapping[str, Any], remarks: Remarks
    ) -> None:
        """
        Args:
            base: nested tables.
            changes: names joined by dots.
            constants: what the user says instead: model, dataset, ...
        """
        self._values = {**flat(base), **changes}
        self._constants, self._remarks = constants, remarks
        self._read: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a field, references to other fields followed, numbers in text as numbers."""
        self._read.add(name)
        return self._resolved(name, default, 0)

    def _resolved(self, name: str, default: Any, depth: int) -> Any:
        value = self._values.get(name, default)
        if isinstance(value, str):
            match = _REFERENCE.fullmatch(value.strip())
            if match and depth < 8:
                return self._resolved(match.group(1), None, depth + 1)
            return grid.scalar(value)
        return value

    def run(self) -> ListedRun:
        """The run.

        Raises:
            ValueError: something that decides the run cannot be translated; the reason.
        """
        entry, optimizer = self._model(), self._optimizer()
        knobs: dict[str, Scalar] = {"seq_len": self._whole("model.max_sequence_length", entry.seq_len)}
        knobs["batch_size"] = self._whole("global_train_batch_size", None)
        per_step = int(str(knobs["seq_len"])) * int(str(knobs["batch_size"]))
        steps = self._steps(per_step)
        knobs |= self._schedule(per_step, steps) | self._rule(optimizer)
        precision = str(self.get("precision", "amp_bf16"))
        if precision in DTYPES:
            knobs["dtype"] = DTYPES[precision]
        else:
            self._remarks.add("precision", f"{precision} is not known: the model's own is used")
        seed = self.get("seed")
        self._remark_data(entry)
        self._remark_rest(knobs, entry.shape.family)
        return ListedRun(
            optimizer=optimizer.name,
            model=entry.name,
            chinchilla=steps * per_step / (20 * entry.shape.non_embedding_params),
            set=knobs,
            seed=seed if isinstance(seed, int) and not isinstance(seed, bool) else None,
        )

    def _model(self) -> models.ModelEntry:
        """The catalogue's model of this shape, or the one that the user names instead."""
        shape = {ours: self.get(f"model.{theirs}") for theirs, ours in SHAPE.items()}
        wanted = self._constants.get("model")
        text = "/".join(str(shape[name]) for name in ("width", "heads", "mlp_width", "layers"))
        if wanted is not None:
            try:
                entry = models.model(str(wanted))
            except LookupError:
                raise ValueError(f"model {wanted} of the --mapping is not in the catalogue") from None
            self._remarks.add(
                "model", f"{entry.name}, as the --mapping says, in the place of width/heads/mlp/layers {text}"
            )
            return entry
        fitting = [
            entry
            for entry in models.MODELS.values()
            if all(getattr(entry.shape, name) == value for name, value in shape.items())
        ]
        fitting.sort(key=lambda entry: not entry.name.startswith("olmo"))
        if not fitting:
            raise ValueError(
                f"no model of the catalogue has width/heads/mlp/layers {text}: name one by [constants] model in a --mapping"
            )
        return fitting[0]

    def _optimizer(self) -> OptimizerEntry:
        name = str(self.get("optimizer.name", ""))
        if name.lower() == "adalayerw" and self.get("optimizer.t_freeze"):
            name = "adalayerw_frozen"
        try:
            return catalogue.optimizer(name)
        except LookupError:
            raise ValueError(f"optimizer {name[:60]!r} is not in the catalogue") from None

    def _steps(self, per_step: int) -> int:
        duration = self.get("max_duration")
        match = _TOKENS.fullmatch(duration.strip()) if isinstance(duration, str) else None
        steps: Any = duration
        if match:
            tokens = grid.scalar(match.group(1))
            steps = tokens / per_step if isinstance(tokens, int | float) else None
        if isinstance(steps, bool) or not isinstance(steps, int | float) or not math.isfinite(steps) or steps < 1:
            raise ValueError(f"max_duration {str(duration)[:40]!r} is neither steps nor tokens (3e9T)")
        stop = self.get("stop_at")
        if isinstance(stop, int | float) and not isinstance(stop, bool) and stop < int(steps):
            raise ValueError(f"it stops at step {stop:g} of {int(steps)}: its learning rate never ends its schedule")
        return int(steps)

    def _schedule(self, per_step: int, steps: int) -> dict[str, Scalar]:
        theirs = str(self.get("scheduler.name", "cosine_with_warmup"))
        if theirs not in SCHEDULES:
            raise ValueError(f"scheduler {theirs[:60]!r} has no counterpart (known: {', '.join(SCHEDULES)})")
        found: dict[str, Scalar] = {"schedule": SCHEDULES[theirs]}
        warmup, frozen = self.get("scheduler.t_warmup", 0), self.get("optimizer.t_freeze")
        if self.get("scheduler.units", "steps") == "tokens" and isinstance(warmup, int | float):
            warmup = round(warmup / per_step)
        found["warmup"] = self._number("scheduler.t_warmup", warmup)
        if SCHEDULES[theirs] != "constant":
            found["min_lr_ratio"] = self._number("scheduler.alpha_f", self.get("scheduler.alpha_f", 0.1))
        if frozen and theirs.startswith("freeze"):
            found["t_freeze"] = self._number("optimizer.t_freeze", frozen)
        longest = self.get("scheduler.t_max")
        if isinstance(longest, int | float) and longest != steps:
            self._remarks.add("scheduler.t_max", f"{longest:g}: here the schedule spans the run's own steps")
        begin = self.get("scheduler.alpha_0", 0.1)
        if warmup and begin:
            self._remarks.add(
                "scheduler.alpha_0", f"{begin}: there the warmup begins at this part of the peak, here at 0"
            )
        return found

    def _rule(self, optimizer: OptimizerEntry) -> dict[str, Scalar]:
        """The optimizer's own knobs."""
        lr = self._number("optimizer.learning_rate", self.get("optimizer.learning_rate", 1e-4))
        found: dict[str, Scalar] = {
            "lr": lr,
            "max_grad_norm": self._number("max_grad_norm", self.get("max_grad_norm") or 0),
        }
        first = self.get("optimizer.beta_0", 0.9)
        second = first if self.get("optimizer.tie_betas") else self.get("optimizer.beta_1", 0.95)
        if optimizer.name == "sgd":
            found["momentum"] = first
            found["dampening"] = first if self.get("optimizer.use_dampening") else 0
            found["nesterov"] = bool(self.get("optimizer.nesterov", False))
        elif optimizer.name == "sophia_g":
            found |= {"beta1": first, "beta2": second, "rho": self.get("optimizer.eps", 1e-8)}
        else:
            for knob, value in (("beta1", first), ("beta2", second), ("eps", self.get("optimizer.eps", 1e-8))):
                if optimizer.knob(knob) is not None:
                    found[knob] = value
        decay = self._number("optimizer.weight_decay", self.get("optimizer.weight_decay", 0.01))
        if self.get("optimizer.decouple_weight_decay") and decay:
            decay = decay / lr if lr else decay
        if optimizer.knob("weight_decay") is not None:
            found["weight_decay"] = decay
        elif decay:
            self._remarks.add("optimizer.weight_decay", f"{optimizer.name} has none")
        multiplier = self.get("optimizer.lr_last_multiplier")
        if multiplier is not None and optimizer.knob("lr_last") is not None:
            found["lr_last"] = lr * self._number("optimizer.lr_last_multiplier", multiplier)
        for name in self._values:
            key = name.removeprefix("optimizer.")
            own = find_knob(optimizer.knobs, key) if key != name and name not in self._read else None
            if own is not None and own.name not in found:
                value = self.get(name)
                if isinstance(value, bool | int | float | str):
                    found[own.name] = value
        return found

    def _remark_data(self, entry: models.ModelEntry) -> None:
        named = self._constants.get("dataset") or self.dataset() or entry.dataset
        why = f"not read: the runs train on {named}, name another by [constants] dataset in a --mapping"
        self._remarks.add("data and evaluators", why)

    def _remark_rest(self, knobs: Mapping[str, Scalar], family: str) -> None:
        """Everything that was not read."""
        if knobs.get("weight_decay"):
            kept = self.get("optimizer.decay_norm_and_bias", False)
            if kept:
                self._remarks.add("optimizer.decay_norm_and_bias", "norms and biases are never decayed here")
        else:
            self._read |= {
                "optimizer.decay_norm_and_bias",
                "optimizer.decay_embeddings",
                "optimizer.decouple_weight_decay",
            }
        for name in self._values:
            if name in self._read or _of_another_rule(name):
                continue
            if OF_THE_MACHINE.fullmatch(name):
                self._remarks.machine(name)
                continue
            value = self._resolved(name, None, 0)
            neutral = [*NEUTRAL.get(name, ()), *OF_FAMILY.get(family, {}).get(name, ())]
            if name == "model.n_kv_heads":
                neutral += [None, self._resolved("model.n_heads", None, 0)]
            if not any(value == entry for entry in neutral):
                self._remarks.add(name, f"{_short(value)} has no counterpart")

    def _whole(self, name: str, default: int | None) -> int:
        value = self.get(name, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} = {_short(value)} is not a positive whole number")
        return value

    def _number(self, name: str, value: Any) -> float | int:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{name} = {_short(value)} is not a number")
        return value

    def dataset(self) -> str | None:
        """The catalogue's dataset that its data paths name; None without."""
        text = str(self._values.get("data.paths", "")).lower()
        named = [name for name in data.datasets() if re.search(rf"(^|[/_.-]){re.escape(name)}($|[/_.*-])", text)]
        return named[0] if len(named) == 1 else None


@functools.cache
def _of_another_rule(name: str) -> bool:
    """A field of the optimizer that only other rules read."""
    group, _, key = name.partition(".")
    if group != "optimizer":
        return False
    own = ("beta_0", "beta_1", "use_dampening", "lr_last_multiplier", "tie_betas")
    return key in own or any(find_knob(entry.knobs, key) is not None for entry in catalogue.optimizers().values())


def _short(value: Any) -> str:
    return repr(value)[:60] if isinstance(value, str | int | float | bool | None) else f"a {type(value).__name__}"
