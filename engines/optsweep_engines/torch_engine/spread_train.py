"""The trainer of one process among several that hold the parameters of a run together, `mesh = "data=N,fsdp=M"`."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist

from optsweep_engines import kept
from optsweep_engines.diagnostics import Wanted
from optsweep_engines.engine import RunLog
from optsweep_engines.loop import z_loss
from optsweep_engines.models import initial_parameter, parameter_table
from optsweep_engines.optimizers import user
from optsweep_engines.optimizers.base import OptimizerEntry
from optsweep_engines.optimizers.catalogue import optimizer as optimizer_entry
from optsweep_engines.optimizers.spreadable import refused_class, rules_of
from optsweep_engines.optimizers.user_rules import entry_of
from optsweep_engines.spec import RunSpec
from optsweep_engines.torch_engine import spread_checkpoint
from optsweep_engines.torch_engine.observe import Observer
from optsweep_engines.torch_engine.spread import Axes, Banks, Spread
from optsweep_engines.torch_engine.spread_model import SpreadDecoder
from optsweep_engines.torch_engine.spread_optimizer import SpreadOptimizer
from optsweep_engines.torch_engine.spread_services import SpreadServices
from optsweep_engines.torch_engine.train import Trainer, facts
from optsweep_engines.torch_engine.user import loaded

Values = Iterable[tuple[str, "np.ndarray[Any, Any]"]]


class SpreadTrainer(Trainer):
    """The same step; `params` are parts, by their own names, and gradients lie as they do. All processes call every method."""

    def __init__(
        self,
        spec: RunSpec,
        data_root: Path,
        device: torch.device,
        sizes: Mapping[str, int],
        optimizer_file: Path | None = None,
        initial: Values | None = None,
    ) -> None:
        """Arguments as of `Trainer`.

        Args:
            sizes: of the mesh.
            initial: bank by bank, for memory's sake.
        """
        self.sizes = sizes
        super().__init__(spec, data_root, device, optimizer_file, initial)  # type: ignore[arg-type]  # `build` takes it

    def build(self, optimizer_file: Path | None, initial: Any) -> None:
        """Parameters, model and optimizer."""
        spec = self.spec
        table = parameter_table(spec.shape)
        values: Values = initial or ((item.name, initial_parameter(spec.shape, spec.seed, item)) for item in table)
        axes = Axes.joined(self.sizes, self.device)
        self.spread = Spread(table, axes, self.device, self.dtype, values)
        self.names = [name for bank in self.spread.items for name in self.spread.names(bank)]
        parts = [part for bank in self.spread.items for part in self.spread.parts[bank]]
        self.params = dict(zip(self.names, parts, strict=True))
        shape = (spec.shape, spec.seq_len, self.dtype, self.device)
        self.decoder = SpreadDecoder(self.spread, *shape, spec.flops, z_loss(spec))
        self.services = SpreadServices(spec, SpreadDecoder(self.spread, *shape, 0.0), self.ranks, self.names)
        entry, self.versions = entry_for(spec, optimizer_file)
        self.held = SpreadOptimizer(
            entry,
            spec.hyperparameters,
            self.spread,
            total_steps=spec.steps,
            tokens_per_step=spec.tokens_per_step,
            dtype=self.dtype,
            fused=not user.is_own(spec.optimizer),
        )
        self.optimizer = self.held  # type: ignore[assignment]

    def gradients(self, x_BT: Tensor, y_BT: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Mean loss over all processes and this one's parts of the gradients, which come averaged."""
        count = self.spec.accumulation
        loss, grads = self.own_gradients(self.ranks.share(x_BT, count), self.ranks.share(y_BT, count))
        self.ranks.average_([loss])
        return loss, grads

    def norm(self, grads: list[Tensor]) -> Tensor:
        """Global norm of the gradients, over the parts of all processes."""
        squares = torch.stack(torch._foreach_norm(grads)).square().sum()
        dist.all_reduce(squares, group=self.spread.axes.group)
        return squares.sqrt()

    def observe(self, asked: Wanted | None, tell: Callable[..., None]) -> None:
        """As of the base."""
        if asked is not None:
            decoder, banks = self.services.decoder, functools.partial(Banks, self.spread)
            self.observer = Observer(self.spec, self.params, self.dtype, asked, tell, decoder=decoder, whole=banks)

    @torch.no_grad()
    def validation_loss(self, name: str | None = None) -> float:
        """Mean loss over the fixed windows of a held-out set (None: of the metric's), nats per token."""
        x, y = self.held_out.windows(name)
        rows = self.spec.batch_size // self.spec.accumulation
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        with self.optimizer.evaluated():
            for start in range(0, len(x), rows * self.ranks.count):
                own = slice(start + rows * self.ranks.index, start + rows * (self.ranks.index + 1))
                count = len(x[own])
                part = own if count else slice(rows)  # a layer takes all processes: one that is done runs along
                total += self.decoder.loss(self.moved(x[part]), self.moved(y[part])) * count
        self.ranks.sum_(total)
        return float(total) / len(x)

    def save(self, log: RunLog, step: int, progress: Mapping[str, Any]) -> None:
        """As of the base."""
        spread_checkpoint.save(log, self.spec.run_id, step, self.spread, self.held, progress)

    def keep(self, log: Any, step: int, progress: Mapping[str, Any]) -> None:
        """As of the base."""
        sha256 = self.parameters_sha256()
        spread_checkpoint.keep(log, self.spec.run_id, step, self.spread, self.held, progress, sha256)

    def take(self, runs_root: Path) -> dict[str, Any]:
        """As of the base."""
        found = kept.start_of(self.spec, runs_root)
        return spread_checkpoint.load(found.path, found.run_id, found.step, self.spread, self.held)

    def restore(self, log: RunLog) -> tuple[int, dict[str, Any]] | None:
        """As of the base."""
        return spread_checkpoint.restore(log, self.spec.run_id, self.spread, self.held)

    def arrays(self) -> dict[str, Any]:
        """Nothing has it whole."""
        raise ValueError("parameters that are spread over processes are not compared by a certificate")

    def set_arrays(self, arrays: Mapping[str, Any]) -> None:
        """As `arrays`."""
        self.arrays()

    def facts(self) -> dict[str, Any]:
        """As of the base."""
        return facts(self.device, self.sizes, self)

    def parameters_sha256(self) -> str:
        """Hash over the bytes of the parameters to keep, bank by bank in name order; every process takes it."""
        digest = hashlib.sha256()
        with self.optimizer.evaluated():
            for bank in sorted(self.spread.items):
                digest.update(bank.encode())
                whole = self.spread.whole(bank, self.spread.parts[bank])
                digest.update(whole.cpu().contiguous().numpy().data)
        return digest.hexdigest()


def entry_for(spec: RunSpec, file: Path | None) -> tuple[OptimizerEntry, dict[str, str]]:
    """The optimizer of a run, from the catalogue or the user's own, and the versions of what it came from.

    Raises:
        OwnOptimizerError: a class, which cannot be spread; as `loaded`.
    """
    if not user.is_own(spec.optimizer):
        return optimizer_entry(spec.optimizer), {}
    found, label, versions = loaded(spec.optimizer, file, spec.optimizer_file_hash)
    if found.kind == "class":
        raise refused_class(label, found.name)
    return entry_of(found, spec.optimizer, label), versions


def require_spreadable(spec: RunSpec, file: Path | None) -> None:
    """Refuse a run whose optimizer cannot work on parameters that are spread.

    Raises:
        ValueError: with the reason.
    """
    entry, _ = entry_for(spec, file)
    rules_of(entry, spec.hyperparameters, parameter_table(spec.shape))
