"""The JAX engine: trains a RunSpec on CPU, GPU or TPU, on one device or a mesh; JAX itself is imported when a run starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optsweep_engines.engine import RunLog
from optsweep_engines.spec import RunRecord, RunSpec
from optsweep_engines.team import Place


class JaxEngine:
    """Trains on one device, or on a mesh of them. Same file names as in the other engine."""

    name = "jax"

    def train(self, spec: RunSpec, log: RunLog) -> RunRecord:
        """Train to the end of the spec, resuming from the newest valid checkpoint.

        Raises:
            Preempted: `log.stop_requested()` said so; a checkpoint was saved first.
            ValueError: the spec cannot be trained here (dataset, device, shape, mesh).
        """
        from optsweep_engines.jax_engine.train import train  # noqa: PLC0415 (JAX takes a second to import)

        return train(spec, log)

    def together(self, log: RunLog, place: Place) -> RunLog:
        """Join the other machines of a run: the log of this process among theirs.

        Raises:
            RuntimeError: they do not come, or are of another attempt.
        """
        from optsweep_engines.jax_engine.worker import together  # noqa: PLC0415

        return together(log, place)

    def train_pack(self, specs: Sequence[RunSpec], logs: Sequence[RunLog]) -> list[RunRecord | None]:
        """Train runs of one shape in one program, as far as they go together; None for one that was preempted.

        Raises:
            ValueError: one of them cannot be trained here.
        """
        from optsweep_engines.jax_engine.packed import train_pack  # noqa: PLC0415

        return train_pack(specs, logs)

    def pack(self, trainers: Sequence[Any]) -> Any:
        """Trainers as one, step for step: for benchmarks."""
        from optsweep_engines.jax_engine.packed import Pack  # noqa: PLC0415

        return Pack(trainers)

    def matmul_flops(self, device: str, dtype: str = "fp32") -> float:
        """FLOP/s of a plain matrix product in a compute type on a device."""
        from optsweep_engines.jax_engine.device import matmul_flops  # noqa: PLC0415

        return matmul_flops(device, dtype)

    def trainer(self, spec: RunSpec, log: RunLog) -> Any:
        """The trainer of a spec at its first step."""
        from optsweep_engines.jax_engine.train import Trainer, placed  # noqa: PLC0415
        from optsweep_engines.loop import runs_root  # noqa: PLC0415
        from optsweep_engines.weights import initial  # noqa: PLC0415

        first = initial(spec, runs_root(spec, log))
        return Trainer(spec, log.data_root, placed(spec, log), log.optimizer_file, first)

    def devices(self) -> list[dict[str, Any]]:
        """What can be trained on here: accelerators with their memory, then the CPU."""
        from optsweep_engines.jax_engine.device import devices  # noqa: PLC0415

        return devices()
