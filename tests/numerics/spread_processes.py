"""Several processes that train runs side by side, and what each of them holds; for the tests of spread parameters."""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import json
import multiprocessing
import os
import shutil
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from optsweep_engines import folder, kept
from optsweep_engines.run import AttemptLog
from optsweep_engines.spec import RunSpec
from optsweep_engines.torch_engine import worker
from optsweep_engines.torch_engine.train import made, train
from tests.numerics.run_log import FolderLog

# ---------------------------------------------------------------- processes


def prepared(runs: Path, run: RunSpec, data_root: Path, mesh: str, number: int = 1, **documents: Any) -> Path:
    """An attempt folder with its intent and the run's documents."""
    where = runs / run.run_id / f"a{number}"
    where.mkdir(parents=True)
    intent = {"data_root": str(data_root), "device": "cpu", "mesh": mesh}
    folder.write_json(where / folder.INTENT, intent)
    folder.write_json(where.parent / folder.SPEC, run.to_dict())
    for name, document in documents.items():
        folder.write_json(where.parent / f"{name}.json", document)
    return where


def process(index: int, count: int, where: str, attempts: Sequence[str], first: Callable[[], Any] | None) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{where}/meeting", rank=index, world_size=count)
    records: list[Any] = []
    try:
        records.append(first() if first is not None else None)
        for attempt in map(Path, attempts):
            run = RunSpec.from_dict(folder.read_json(attempt.parent / folder.SPEC) or {})
            records.append(train(run, worker.shared(AttemptLog(attempt), index)).to_dict())
    except Exception:
        records = [traceback.format_exc()]
    Path(where, f"{index}.json").write_text(json.dumps(records))
    dist.destroy_process_group()


def together(
    where: Path, count: int, attempts: Sequence[Path], first: Callable[[], Any] | None = None
) -> list[list[Any]]:
    """What each of so many processes says of what it does first, and then of each attempt."""
    where.mkdir()
    context = multiprocessing.get_context("spawn")
    arguments = (count, str(where), [str(attempt) for attempt in attempts], first)
    processes = [context.Process(target=process, args=(index, *arguments)) for index in range(count)]
    for each in processes:
        each.start()
    for each in processes:
        each.join(timeout=240)
        assert each.exitcode == 0
    found = [json.loads((where / f"{index}.json").read_text()) for index in range(count)]
    assert all(len(answer) == len(attempts) + 1 for answer in found), "\n".join(str(answer[-1]) for answer in found)
    return found


def rows_of(attempt: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (attempt / folder.METRICS).read_text().splitlines()]


def losses(rows: Sequence[dict[str, Any]]) -> list[float]:
    return [row["train_loss"] for row in rows]


def take_kept(source: Path, target: Path, step: int) -> None:
    """A run's state at a step, for the same run elsewhere."""
    (target / folder.KEPT).mkdir(parents=True)
    [path] = [path for found, path, _ in kept.listed(source / folder.KEPT) if found == step]
    shutil.copy(path, target / folder.KEPT)


# ---------------------------------------------------------------- what each of them holds


class Heap(ctypes.Structure):
    """glibc's struct mallinfo2, malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "mapped", "usmblks", "fsmblks", "used", "free", "keepcost")
    ]


class Watch(TorchDispatchMode):
    """Looks at what the process has taken of memory before and after every operation of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = ctypes.CDLL(None).mallinfo2
        self.taken.restype = Heap
        gc.collect()
        self.before = self.now()
        self.most = 0

    def now(self) -> int:
        found = self.taken()
        return int(found.used + found.mapped)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.most = max(self.most, self.now())
        result = func(*args, **(kwargs or {}))
        self.most = max(self.most, self.now())
        return result

    def peak_numbers(self) -> float:
        """Most fp32 numbers beyond what was there before."""
        return (self.most - self.before) / 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weighing:
    """Trains two steps and saves, and says what was held."""

    runs: list[tuple[dict[str, Any], str | None]]
    """(spec, mesh)."""
    data_root: str
    where: str

    def __call__(self) -> list[dict[str, float]]:
        found = []
        for index, (data, mesh) in enumerate(self.runs):
            log: Any = FolderLog(Path(self.where) / str(index), Path(self.data_root))
            log.mesh = mesh
            if mesh is not None:
                log = worker.shared(log, dist.get_rank())
            with Watch() as watch:
                trainer: Any = made(RunSpec.from_dict(data), log, torch.device("cpu"))
                for step in range(2):
                    trainer.step(step)
            parameters = sum(value.numel() for value in trainer.params.values())
            state = sum(value.numel() for value in trainer.optimizer.tensors().values())
            with Watch() as saving:
                trainer.save(log, 2, {})
            each = {"parameters": parameters, "held": 2 * parameters + state}
            found.append({**each, "peak": watch.peak_numbers(), "saving": saving.peak_numbers()})
            del trainer  # it would be gone while the next one is weighed
        return found
