"""The torch engine: trains a RunSpec on CPU or CUDA; torch itself is imported when a run starts."""

from __future__ import annotations

from typing import Any

from optsweep_engines.engine import RunLog
from optsweep_engines.spec import RunRecord, RunSpec


class TorchEngine:
    """Trains on CPU threads, on one CUDA device, or on several with a process each. Same file names as in the other engine."""

    name = "torch"

    def train(self, spec: RunSpec, log: RunLog) -> RunRecord:
        """Train to the end of the spec, resuming from the newest valid checkpoint.

        Raises:
            Preempted: `log.stop_requested()` said so; a checkpoint was saved first.
            ValueError: the spec cannot be trained here (dataset, device, shape).
        """
        from optsweep_engines.torch_engine.device import gpus_for  # noqa: PLC0415 (torch takes a second to import)
        from optsweep_engines.torch_engine.ranks import joined, wanted  # noqa: PLC0415
        from optsweep_engines.torch_engine.train import train  # noqa: PLC0415

        count = 1 if joined().count > 1 else wanted(spec, log.mesh, gpus_for(log.device))
        attempt = getattr(log, "attempt_folder", None)
        if count == 1 or attempt is None:  # a log without a folder, of a test or a benchmark: nothing to follow
            return train(spec, log)
        from optsweep_engines.torch_engine.worker import leading  # noqa: PLC0415

        with leading(log, attempt, count) as shared:
            return train(spec, shared)

    def matmul_flops(self, device: str, dtype: str = "fp32") -> float:
        """FLOP/s of a plain matrix product in a compute type on a device."""
        from optsweep_engines.torch_engine.device import matmul_flops  # noqa: PLC0415

        return matmul_flops(device, dtype)

    def trainer(self, spec: RunSpec, log: RunLog) -> Any:
        """The trainer of a spec at its first step."""
        from optsweep_engines.loop import runs_root  # noqa: PLC0415
        from optsweep_engines.torch_engine.device import opened  # noqa: PLC0415
        from optsweep_engines.torch_engine.train import Trainer  # noqa: PLC0415
        from optsweep_engines.weights import initial  # noqa: PLC0415

        first = initial(spec, runs_root(spec, log))
        return Trainer(spec, log.data_root, opened(log.device, log.threads), log.optimizer_file, first)

    def devices(self) -> list[dict[str, Any]]:
        """What can be trained on here: CUDA devices with their memory, then the CPU."""
        from optsweep_engines.torch_engine.device import devices  # noqa: PLC0415

        return devices()
