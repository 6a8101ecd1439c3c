"""Runs a user's torch.optim.Optimizer class on the engine's banks: one matrix or vector per layer, one group per role."""

from __future__ import annotations

import contextlib
import inspect
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers import user
from optsweep_engines.optimizers.base import Rule, Service
from optsweep_engines.optimizers.catalogue import optimizer as optimizer_entry
from optsweep_engines.optimizers.user import Found, OwnOptimizerError, Source
from optsweep_engines.optimizers.user_knobs import Signature, call_arguments, signature
from optsweep_engines.optimizers.user_rules import entry_of
from optsweep_engines.spec import RunSpec, Scalar
from optsweep_engines.torch_engine.optimizer import Optimizer
from optsweep_engines.torch_engine.user_state import packed, unpacked

GIVEN = ("params",)
"""What the engine gives a constructor beside the knobs."""


class ClassOptimizer:
    """A torch.optim class bound to the banks of one run; the same face as `Optimizer`.

    The class sees what a plain PyTorch model would show it: separate leaf Parameters, 2-D for matrices and 1-D for norms,
    each a view of its layer in the bank, and `.grad` filled in (already clipped). Parameters come in one group per
    role, with "role" and "names" beside "params"; groups of norms and biases have weight_decay 0 where that is a knob.
    Before every step each group's "lr" is what the constructor left there x the schedule.
    """

    def __init__(
        self,
        found: Found,
        made: Signature,
        knobs: Mapping[str, Scalar],
        table: Sequence[Parameter],
        params: Mapping[str, Tensor],
        *,
        label: str,
        seed: int,
    ) -> None:
        """Call the constructor.

        Args:
            knobs: every knob, resolved.
            label: what messages call it.
            seed: of the run; with the step it seeds torch's generators before each step, so that noise is repeatable.

        Raises:
            OwnOptimizerError: the constructor raised, or its groups have no lr.
        """
        self.label = label
        self.seed = seed
        self.plain: Mapping[Rule, list[str]] = {}
        """No rule asks the engine for services."""
        self.filename = getattr(sys.modules.get(found.target.__module__), "__file__", None)
        self.peak_lr = float(knobs["lr"] or 0.0)
        self.banks: dict[str, tuple[Tensor, ...]] = {}
        """Bank -> its layers as views."""
        self.params: dict[str, torch.nn.Parameter] = {}
        """"bank.layer" -> the leaf that the class sees."""
        groups: dict[str, dict[str, Any]] = {}
        decays = any(knob.name == "weight_decay" for knob in made.knobs)
        for item in table:
            bank = params[item.name].detach()
            self.banks[item.name] = tuple(bank) if item.stacked else (bank,)
            group = groups.setdefault(item.role, {"params": [], "role": item.role, "names": []})
            if decays and not item.decays:
                group["weight_decay"] = 0.0
            for name, layer in self._layers(item.name):
                leaf = self.params[name] = torch.nn.Parameter(layer)
                group["params"].append(leaf)
                group["names"].append(name)
        self.param_names = {id(leaf): name for name, leaf in self.params.items()}
        try:
            self.optimizer: torch.optim.Optimizer = found.target(list(groups.values()), **call_arguments(made, knobs))
            lrs = [float(group["lr"]) for group in self.optimizer.param_groups]
        except Exception as error:
            self._raise(error, "its constructor: ")
        self.ratios = [lr / self.peak_lr if self.peak_lr else 1.0 for lr in lrs]
        plain = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        self.own_attributes = sorted(set(vars(self.optimizer)) - set(vars(plain)))
        self.swaps = all(callable(getattr(self.optimizer, name, None)) for name in ("train", "eval"))
        if self.swaps:
            self.optimizer.train()  # type: ignore[attr-defined]

    def _layers(self, bank: str) -> Iterator[tuple[str, Tensor]]:
        layers = self.banks[bank]
        return ((bank if len(layers) == 1 else f"{bank}.{index}", layer) for index, layer in enumerate(layers))

    def _raise(self, error: Exception, during: str = "") -> None:
        """The same error with its place; what means "out of memory" to the engine stays as it is."""
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
            raise error
        if isinstance(error, OwnOptimizerError):
            raise error
        raise OwnOptimizerError(f"{during}{user.error_line(error, self.label, self.filename)}", "mend it") from error

    def step(
        self, grads: Mapping[str, Tensor], step: int, lr: float, services: Mapping[str, Service] | None = None
    ) -> None:
        """One step of the class; arguments as of `Optimizer.step`.

        Raises:
            OwnOptimizerError: it raised; with the line of the file.
        """
        for bank in self.banks:
            whole = grads[bank].detach().clone()  # the class may keep it; the engine writes the next one over its own
            parts = tuple(whole) if whole.dim() > self.banks[bank][0].dim() else (whole,)
            for (name, _), grad in zip(self._layers(bank), parts, strict=True):
                self.params[name].grad = grad
        factor = lr / self.peak_lr if self.peak_lr else 1.0
        for group, ratio in zip(self.optimizer.param_groups, self.ratios, strict=True):
            value = lr if ratio == 1.0 else self.peak_lr * ratio * factor
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(value)
            else:
                group["lr"] = value
        torch.manual_seed((self.seed << 32) + step)
        try:
            self.optimizer.step()
        except Exception as error:
            self._raise(error)
        self._bind()

    @torch.no_grad()
    def _bind(self) -> None:
        """Bring parameters whose storage was replaced (`p.data = ...`) back into the bank."""
        for bank in self.banks:
            for name, layer in self._layers(bank):
                leaf = self.params[name]
                if leaf.data_ptr() != layer.data_ptr():
                    layer.copy_(leaf.detach())
                    leaf.data = layer

    @contextlib.contextmanager
    def evaluated(self) -> Iterator[None]:
        """Parameters hold what the class's own `eval()` gives, where it has `train()` and `eval()` (schedule-free rules)."""
        if not self.swaps:
            yield
            return
        kept = {name: leaf.detach().clone() for name, leaf in self.params.items()}
        self.optimizer.eval()  # type: ignore[attr-defined]
        self._bind()
        try:
            yield
        finally:
            self.optimizer.train()  # type: ignore[attr-defined]
            self._bind()
            with torch.no_grad():
                for name, leaf in self.params.items():
                    leaf.copy_(kept[name])  # the way back is not exact by itself

    # ---------------------------------------------------------------- state

    def _packed(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        tensors: dict[str, Tensor] = {}
        optimizer, names = self.optimizer, self.param_names
        notes: dict[str, Any] = {"state": packed(dict(optimizer.state), "state", tensors, names), "attributes": {}}
        notes["groups"] = [
            packed({key: value for key, value in group.items() if key != "params"}, f"group/{index}", tensors, names)
            for index, group in enumerate(optimizer.param_groups)
        ]
        for name in self.own_attributes:
            value = vars(optimizer)[name]
            if not callable(value) and not inspect.ismodule(value):  # those are nothing that a step changes
                notes["attributes"][name] = packed(value, f"self/{name}", tensors, names)
        return notes, tensors

    def tensors(self) -> dict[str, Tensor]:
        """State tensors by path.

        Raises:
            OwnOptimizerError: the state holds something that a checkpoint cannot keep.
        """
        return self._packed()[1]

    def notes(self) -> dict[str, Any]:
        """Everything of the state that is no tensor, as JSON types."""
        return self._packed()[0]

    @torch.no_grad()
    def load(self, notes: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Take up the state that `notes` and `tensors` gave."""
        device = next(iter(self.params.values())).device

        def restored(data: Any, old: Any = None) -> Any:
            return unpacked(data, tensors, self.params, device, old)

        restored(notes["state"], self.optimizer.state)
        for group, data in zip(self.optimizer.param_groups, notes["groups"], strict=True):
            group.update(restored(data))
        for name, data in notes["attributes"].items():
            setattr(self.optimizer, name, restored(data, vars(self.optimizer).get(name)))

    def state_bytes(self) -> int:
        """Bytes of the tensors held between steps."""
        return sum(value.numel() * value.element_size() for value in self.tensors().values())


# ---------------------------------------------------------------- from a spec


def loaded(spec_optimizer: str, file: Path | None, file_hash: str | None) -> tuple[Found, str, dict[str, str]]:
    """What a run's optimizer is, what messages call it, and the versions that its trajectory depends on.

    Args:
        file: the copy in the run folder.
        file_hash: of the content that was planned.

    Raises:
        OwnOptimizerError: no such file or package, another content, or nothing usable in it.
    """
    if user.is_package(spec_optimizer):
        found, version = user.package_class(user.target_name(spec_optimizer))
        return found, spec_optimizer, {user.PACKAGE: version}
    if file is None or not file.exists():
        raise OwnOptimizerError(f"the run folder lacks {file.name if file else 'the optimizer file'}", "plan it again")
    stem = spec_optimizer.partition(":")[0]
    source = Source(label=f"{stem}.py", stem=stem, content=file.read_bytes())
    if source.sha256 != file_hash:
        raise OwnOptimizerError(
            f"{file.name} of the run folder was changed: it hashes to {source.sha256[:12]}, the spec says {str(file_hash)[:12]}",
            "put the original back from the workspace's optimizers folder",
        )
    return user.find(user.run_module(source), user.target_name(spec_optimizer), source.label), source.label, {}


def bound(
    found: Found,
    name: str,
    label: str,
    knobs: Mapping[str, Scalar],
    table: Sequence[Parameter],
    params: Mapping[str, Tensor],
    *,
    total_steps: int,
    tokens_per_step: int,
    seed: int,
    dtype: torch.dtype = torch.float32,
) -> Optimizer | ClassOptimizer:
    """A user's optimizer on the banks of a run: a class by itself, a rule as the catalogue's run."""
    if found.kind == "class":
        if any(item.width_ratio is not None for item in table):
            raise OwnOptimizerError(f"muP (mup_base_width) is not defined for {label}", "leave mup_base_width out")
        made = signature(found.target, GIVEN, f"{label}: {found.name}")
        return ClassOptimizer(found, made, knobs, table, params, label=label, seed=seed)
    return Optimizer(
        entry_of(found, name, label),
        knobs,
        table,
        params,
        total_steps=total_steps,
        tokens_per_step=tokens_per_step,
        dtype=dtype,
        fused=False,
    )


def optimizer_of(
    spec: RunSpec,
    table: Sequence[Parameter],
    params: Mapping[str, Tensor],
    dtype: torch.dtype,
    file: Path | None,
) -> tuple[Optimizer | ClassOptimizer, dict[str, str]]:
    """The optimizer of a run, from the catalogue or the user's own, and the versions of what it came from."""
    steps, tokens = spec.steps, spec.tokens_per_step
    if not user.is_own(spec.optimizer):
        entry = optimizer_entry(spec.optimizer)
        knobs = spec.hyperparameters
        return Optimizer(entry, knobs, table, params, total_steps=steps, tokens_per_step=tokens, dtype=dtype), {}
    found, label, versions = loaded(spec.optimizer, file, spec.optimizer_file_hash)
    made = bound(
        found,
        spec.optimizer,
        label,
        spec.hyperparameters,
        table,
        params,
        seed=spec.seed,
        dtype=dtype,
        total_steps=steps,
        tokens_per_step=tokens,
    )
    return made, versions


def savable(optimizer: Optimizer | ClassOptimizer) -> None:
    """Try what a checkpoint does.

    Raises:
        OwnOptimizerError: the state cannot be kept.
    """
    if isinstance(optimizer, ClassOptimizer):
        notes, tensors = optimizer.notes(), optimizer.tensors()
        from safetensors.torch import save  # noqa: PLC0415 (the trial of a plan only)

        json.loads(json.dumps(notes))
        save({name: value.contiguous().clone() for name, value in tensors.items()})
