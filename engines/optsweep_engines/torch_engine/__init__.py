"""The torch engine: trains a RunSpec on CPU or CUDA; torch itself is imported when a run starts."""

from __future__ import annotations

from typing import Any

from optsweep_engines.engine import RunLog
from optsweep_engines.spec import RunRecord, RunSpec
from optsweep_engines.team import Place


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
        from optsweep_engines.torch_engine.ranks import joined, spread_over, wanted  # noqa: PLC0415
        from optsweep_engines.torch_engine.train import train  # noqa: PLC0415

        count = 1 if joined().count > 1 else wanted(spec, log.mesh, gpus_for(log.device))
        attempt = getattr(log, "attempt_folder", None)
        if count == 1 or attempt is None:  # a log without a folder, of a test or a benchmark: nothing to follow
            return train(spec, log)
        from optsweep_engines.torch_engine.worker import leading  # noqa: PLC0415

        if spread_over(log.mesh, count) is not None:
            from optsweep_engines.torch_engine.spread_train import require_spreadable  # noqa: PLC0415

            require_spreadable(spec, log.optimizer_file)  # before there are processes to tell
        with leading(log, attempt, count) as shared:
            return train(spec, shared)

    def together(self, log: RunLog, place: Place) -> RunLog:
        """Join the other machines of a run: the log of this process among theirs.

        Raises:
            ValueError: the run does not divide among the machines.
            RuntimeError: the others do not come, or are of another attempt.
        """
        from optsweep_engines.torch_engine.machines import together  # noqa: PLC0415

        return together(log, place)

    def matmul_flops(self, device: str, dtype: str = "fp32") -> float:
        """FLOP/s of a plain matrix product in a compute type on a device."""
        from optsweep_engines.torch_engine.device import matmul_flops  # noqa: PLC0415

        return matmul_flops(device, dtype)

    def trainer(self, spec: RunSpec, log: RunLog) -> Any:
        """The trainer of a spec at its first step, in this process alone.

        Raises:
            ValueError: the log names a mesh of several.
        """
        from optsweep_engines.loop import runs_root  # noqa: PLC0415
        from optsweep_engines.torch_engine.device import opened  # noqa: PLC0415
        from optsweep_engines.torch_engine.ranks import wanted  # noqa: PLC0415
        from optsweep_engines.torch_engine.train import Trainer  # noqa: PLC0415
        from optsweep_engines.weights import initial  # noqa: PLC0415

        if log.mesh is not None and wanted(spec, log.mesh, 0) > 1:
            raise ValueError(f'mesh "{log.mesh}": the torch engine takes one in a run, this is a single process')
        first = initial(spec, runs_root(spec, log))
        return Trainer(spec, log.data_root, opened(log.device, log.threads), log.optimizer_file, first)

    def devices(self) -> list[dict[str, Any]]:
        """What can be trained on here: CUDA devices with their memory, then the CPU."""
        from optsweep_engines.torch_engine.device import devices  # noqa: PLC0415

        return devices()
