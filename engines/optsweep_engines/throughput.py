"""Steps per second of an engine, for `optsweep bench`: `python -m optsweep_engines.throughput < request.json`.

The variants of a request, optimizers or a pack, take turns in one process, so that a busy machine hits all of them alike;
a figure is the median over the turns. The roof is a plain matrix product of the engine's own library.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

from optsweep_engines.certify import NoLog, Request
from optsweep_engines.engine import load_engine
from optsweep_engines.spec import RunSpec

WARM_STEPS = 2
"""Steps before the clock runs: programs are compiled in them."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One thing to time."""

    name: str
    spec: dict[str, Any]
    pack: int = 1
    """Replicas trained in one program."""


class Turns:
    """A variant with its trainer, timed a turn at a time."""

    def __init__(self, engine: Any, variant: Variant, log: Any) -> None:
        spec = RunSpec.from_dict(variant.spec)
        self.variant, self.spec = variant, spec
        started = time.perf_counter()
        trainers = [engine.trainer(spec.replace(seed=spec.seed + index), log) for index in range(variant.pack)]
        self.trainer = engine.pack(trainers) if variant.pack > 1 else trainers[0]
        self.done = 0
        self.steps(WARM_STEPS)
        self.start_seconds = time.perf_counter() - started
        self.seconds: list[float] = []
        """Per step, of each turn."""
        self.cpu_seconds: list[float] = []

    def steps(self, count: int) -> None:
        """So many steps; the device is waited for at the end."""
        for _ in range(count):
            loss = self.trainer.step(self.done % self.spec.steps)[0]
            self.done += 1
        [float(value) for value in (loss if self.variant.pack > 1 else [loss])]

    def turn(self, count: int) -> None:
        """Timed."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.steps(count)
        self.seconds.append((time.perf_counter() - wall) / count)
        self.cpu_seconds.append((time.process_time() - cpu) / count)

    def figures(self, roof_flops: float) -> dict[str, Any]:
        """What was measured."""
        tokens, spec = self.spec.tokens_per_step * self.variant.pack, self.spec
        seconds = statistics.median(self.seconds)
        return {
            "variant": self.variant.name,
            "pack": self.variant.pack,
            "tokens_per_second": tokens / seconds,
            "tokens_per_cpu_second": tokens / statistics.median(self.cpu_seconds),
            "step_seconds": seconds,
            "start_seconds": self.start_seconds,
            "mfu": spec.shape.flops_per_token(spec.seq_len) * tokens / seconds / roof_flops,
            "turns": self.seconds,
        }


def measured(request: dict[str, Any]) -> dict[str, Any]:
    """The figures of every variant of a request: {"engine", "device", "data_root", "variants", "turns", "turn_seconds"}."""
    engine: Any = load_engine(request["engine"])
    log = NoLog(
        Request(
            engine=request["engine"],
            spec={},
            data_root=request["data_root"],
            device=request["device"],
            steps=0,
            answer="",
        )
    )
    runs = [Turns(engine, Variant(**variant), log) for variant in request["variants"]]
    counts = []
    for each in runs:
        started = time.perf_counter()
        each.steps(1)
        counts.append(max(1, round(request["turn_seconds"] / (time.perf_counter() - started))))
    roof = engine.matmul_flops(request["device"], runs[0].spec.dtype)
    for turn in range(request["turns"]):
        order = list(zip(runs, counts, strict=True))
        for each, count in order[turn % len(order) :] + order[: turn % len(order)]:
            each.turn(count)
    single = runs[0].trainer if runs[0].variant.pack == 1 else runs[0].trainer.trainers[0]
    about = single.facts()
    return {
        "engine": request["engine"],
        "device": about["device"],
        "versions": about["versions"],
        "roof_flops": roof,
        "figures": [each.figures(roof) for each in runs],
    }


def main() -> int:
    """One request in, one JSON document out."""
    print(json.dumps(measured(json.load(sys.stdin))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
