"""Training speed of the torch engine beside a plain nanoGPT-style loop: `python benchmarks/train_speed.py [--json]`.

Tokens per CPU-second of one process pinned to one core with one thread. Every variant is a process of its own and they
take turns, a second or so at a time, so that a busy or a throttled machine hits all of them alike; the ratio is the
median over the rounds. Variants: the yardstick (`yardstick.py`) and the engine (`TorchEngine().train` with metric lines
written to a folder). The overhead is what the engine spends outside its bare step, by the clock of its own process: two
processes with the same code differ by some percent, by where their memory lies.
`--nanogpt FOLDER` adds the model and optimizer of a nanoGPT checkout, to see that the yardstick is a fair one.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

ROOT = Path(__file__).resolve().parents[1]

SHAPES = ("bench-micro", "bench-tiny", "bench-small")

STEPS_PER_TURN = {"bench-micro": 50, "bench-tiny": 10, "bench-small": 2}

# The bars: on AMD where torch's default fp32 matmul takes a slow path, and elsewhere.
BARS = {"bench-micro": 1.05, "bench-tiny": 1.2, "bench-small": 1.5}
BAR_ELSEWHERE = 0.95
OVERHEAD_BAR = 0.03


def dataset(root: Path) -> Any:
    """The embedded corpus, prepared if need be."""
    from optsweep_engines import data

    return data.find("embedded", root) or data.prepare("embedded", root)


def spec_of(name: str, root: Path, engine: str = "torch") -> Any:
    """Two thousand steps of a shape with adamw: a metric line every ten, as often as the yardstick reads its loss."""
    from optsweep_engines.models import model
    from optsweep_engines.optimizers.catalogue import resolve_knobs
    from optsweep_engines.spec import RunSpec

    entry = model(name)
    return RunSpec(
        engine=engine,
        optimizer="adamw",
        hyperparameters=resolve_knobs("adamw", {"lr": 6e-4}, entry.schedule),
        model=entry.name,
        shape=entry.shape,
        dataset="embedded",
        dataset_hash=dataset(root).sha256,
        tokens=2000 * entry.batch_size * entry.seq_len,
        batch_size=entry.batch_size,
        seq_len=entry.seq_len,
        schedule=entry.schedule,
        dtype="fp32",
        seed=0,
    )


def yardstick_steps(name: str, root: Path) -> Iterator[object]:
    """The plain loop on the same tokens per step."""
    from benchmarks.yardstick import Gpt, training
    from optsweep_engines.models import model

    entry = model(name)
    gpt = Gpt(entry.shape.layers, entry.shape.width, entry.shape.heads, entry.seq_len)
    return training(gpt, dataset(root).folder / "train.bin", entry.batch_size, entry.seq_len)


def nanogpt_steps(name: str, root: Path) -> Iterator[object]:
    """The same loop around the model and the optimizer of a nanoGPT checkout, named by NANOGPT."""
    import torch

    from benchmarks.yardstick import batches
    from optsweep_engines.models import model

    location = importlib.util.spec_from_file_location("nanogpt_model", Path(os.environ["NANOGPT"]) / "model.py")
    assert location is not None and location.loader is not None
    module = importlib.util.module_from_spec(location)
    sys.modules["nanogpt_model"] = module
    location.loader.exec_module(module)
    entry = model(name)
    config = module.GPTConfig(
        block_size=entry.seq_len,
        vocab_size=256,
        n_layer=entry.shape.layers,
        n_head=entry.shape.heads,
        n_embd=entry.shape.width,
        dropout=0.0,
        bias=False,
    )
    gpt = module.GPT(config)
    optimizer = gpt.configure_optimizers(0.1, 6e-4, (0.9, 0.95), "cpu")
    source = batches(dataset(root).folder / "train.bin", entry.batch_size, entry.seq_len)
    x, y = next(source)
    step = 0
    while True:
        _, loss = gpt(x, y)
        x, y = next(source)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(gpt.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield loss.item() if step % 10 == 0 else None
        step += 1


class TurnLog:
    """A RunLog on a folder; between two steps it hands the turn back."""

    attempt = 1
    device = "cpu"
    threads = 1
    mesh = None

    def __init__(self, folder: Path, data_root: Path, step_done: Callable[[], None]) -> None:
        self.data_root = data_root
        self.optimizer_file = folder / "optimizer.py"
        self.file = (folder / "metrics.jsonl").open("a", encoding="utf-8", buffering=1)
        self.cancel = folder / "cancel"
        self.step_done = step_done

    def metric(self, row: dict[str, Any]) -> None:
        self.file.write(json.dumps(row) + "\n")

    def event(self, kind: str, **fields: Any) -> None:
        self.file.write(json.dumps({"kind": kind, **fields}) + "\n")

    def stop_requested(self) -> str | None:
        self.step_done()
        return "cancelled" if self.cancel.exists() else None

    def checkpoint_due(self) -> bool:
        return time.monotonic() < 0

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        raise AssertionError("no checkpoint is due")

    def checkpoints(self) -> Iterator[tuple[int, Path]]:
        return iter(())


def worker(variant: str, name: str, root: Path) -> None:
    """Reads a number of steps per line, answers with their CPU-seconds and those inside bare steps, until stdin ends."""
    left, started, inside = 0, 0.0, 0.0

    def step_done() -> None:
        nonlocal left, started, inside
        if left:
            left -= 1
            if left:
                return
            print(time.process_time() - started, inside, flush=True)
        line = sys.stdin.readline()
        if not line:
            os._exit(0)
        left, inside = int(line), 0.0
        started = time.process_time()

    if variant == "jax":
        import jax

        from optsweep_engines.jax_engine import JaxEngine
        from optsweep_engines.jax_engine.train import Trainer as JaxTrainer

        dispatched = JaxTrainer.step

        def waited(trainer: JaxTrainer, step: int) -> Any:
            result = dispatched(trainer, step)
            if left == 1:  # the last step of a turn: nothing may be computed in the turns of others
                jax.block_until_ready(trainer.params)
            return result

        JaxTrainer.step = waited  # type: ignore[method-assign]
        with tempfile.TemporaryDirectory() as folder:
            JaxEngine().train(spec_of(name, root, "jax"), TurnLog(Path(folder), root, step_done))
    import torch

    torch.set_num_threads(1)
    if variant == "engine":
        from optsweep_engines.torch_engine import TorchEngine
        from optsweep_engines.torch_engine.train import Trainer

        bare = Trainer.step

        def timed(trainer: Trainer, step: int) -> Any:
            nonlocal inside
            before = time.process_time()
            result = bare(trainer, step)
            inside += time.process_time() - before
            return result

        Trainer.step = timed  # type: ignore[method-assign, assignment]
        with tempfile.TemporaryDirectory() as folder:
            TorchEngine().train(spec_of(name, root), TurnLog(Path(folder), root, step_done))
    steps = {"yardstick": yardstick_steps, "nanogpt": nanogpt_steps}[variant](name, root)
    step_done()
    for _ in steps:
        step_done()


Seconds: TypeAlias = dict[str, list[tuple[float, float]]]
"""Variant -> CPU-seconds per step and those inside bare steps, one pair per round."""


def measured(name: str, variants: list[str], rounds: int, core: int, root: Path) -> Seconds:
    """Let the variants take turns; the first round is thrown away."""
    processes: dict[str, subprocess.Popen[str]] = {}
    for variant in variants:
        command = [
            sys.executable,
            str(Path(__file__).resolve()),
            "--worker",
            variant,
            "--shapes",
            name,
            "--data",
            str(root),
        ]
        processes[variant] = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'engines'}:{ROOT}"},
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
    seconds: Seconds = {variant: [] for variant in variants}
    count = STEPS_PER_TURN[name]
    try:
        for turn in range(rounds + 1):
            order = variants[turn % len(variants) :] + variants[: turn % len(variants)]
            for variant in order:
                process = processes[variant]
                assert process.stdin is not None and process.stdout is not None
                process.stdin.write(f"{count}\n")
                process.stdin.flush()
                answer = process.stdout.readline()
                while answer and not answer[0].isdigit():  # a model may print its size
                    answer = process.stdout.readline()
                if not answer:
                    raise RuntimeError(f"the {variant} process on {name} ended")
                if turn:
                    total, inside = (float(part) / count for part in answer.split())
                    seconds[variant].append((total, inside))
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    return seconds


def report(name: str, seconds: Seconds) -> dict[str, Any]:
    """Rates and ratios of one shape."""
    from optsweep_engines.models import model

    entry = model(name)
    tokens = entry.batch_size * entry.seq_len
    totals = {variant: [total for total, _ in values] for variant, values in seconds.items()}
    rates = {variant: tokens / statistics.median(values) for variant, values in totals.items()}

    def ratio(over: str, under: str) -> dict[str, float]:
        values = sorted(slow / fast for fast, slow in zip(totals[over], totals[under], strict=True))
        return {"median": statistics.median(values), "low": values[0], "high": values[-1]}

    result: dict[str, Any] = {
        "shape": name,
        "tokens_per_cpu_second": rates,
        "engine_over_yardstick": ratio("engine", "yardstick"),
        "overhead": sum(totals["engine"]) / sum(inside for _, inside in seconds["engine"]) - 1,
        "model_gflops_per_cpu_second": entry.shape.flops_per_token(entry.seq_len) * rates["engine"] / 1e9,
    }
    if "nanogpt" in seconds:
        result["yardstick_over_nanogpt"] = ratio("yardstick", "nanogpt")
    return result


def machine() -> dict[str, Any]:
    """What the figures hold for."""
    import torch

    from optsweep_engines.torch_engine.device import cpu_name, versions
    from optsweep_engines.torch_engine.probe import medium_is_exact

    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "versions": versions(),
        "medium_matmul_is_fp32": medium_is_exact(),
        "matmul_speedup_of_medium": matmul_speedup(),
    }


def matmul_speedup() -> float:
    """How much faster precision 'medium' multiplies here: 1 where torch's default has no slow path."""
    import torch

    torch.set_num_threads(1)
    left, right = torch.randn(1024, 384), torch.randn(384, 1024)
    times: dict[str, list[float]] = {"highest": [], "medium": []}
    for _ in range(10):
        for precision, values in times.items():
            torch.set_float32_matmul_precision(precision)
            started = time.process_time()
            for _ in range(5):
                left @ right
            values.append(time.process_time() - started)
    return min(times["highest"]) / min(times["medium"])


def main() -> None:
    """Measure, print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=",".join(SHAPES), help="comma-separated")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "optsweep-bench-data")
    parser.add_argument("--nanogpt", help="folder of a nanoGPT checkout")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path[:0] = [str(ROOT / "engines"), str(ROOT)]
    names = options.shapes.split(",")
    if options.worker:
        worker(options.worker, names[0], options.data)
        return
    if options.nanogpt:
        os.environ["NANOGPT"] = options.nanogpt
    dataset(options.data)
    variants = ["yardstick", "engine", *(["nanogpt"] if options.nanogpt else [])]
    results = [report(name, measured(name, variants, options.rounds, options.core, options.data)) for name in names]
    about = machine()
    if options.json:
        print(json.dumps({"machine": about, "rounds": options.rounds, "results": results}, indent=1))
        return
    print(
        f"{about['date']}  {about['cpu']} ({about['cpu_capability']}), one pinned thread, torch {about['versions']['torch']}"
    )
    print(f"precision 'medium' multiplies {about['matmul_speedup_of_medium']:.2f}x as fast as 'highest' here")
    print(f"tokens per CPU-second, median of {options.rounds} interleaved rounds; load average {about['load']:.1f}\n")
    print(
        f"{'shape':12} {'yardstick':>10} {'engine':>8} {'ratio (range)':>20} {'bar':>12} {'overhead':>9} {'GFLOP/s':>8}"
    )
    for row in results:
        rates, ratio = row["tokens_per_cpu_second"], row["engine_over_yardstick"]
        spread = f"{ratio['median']:.3f} ({ratio['low']:.2f}-{ratio['high']:.2f})"
        bar = f"{BARS.get(row['shape'], BAR_ELSEWHERE):.2f}/{BAR_ELSEWHERE:.2f}"
        print(
            f"{row['shape']:12} {rates['yardstick']:10.0f} {rates['engine']:8.0f} {spread:>20} {bar:>12}"
            f" {row['overhead']:9.1%} {row['model_gflops_per_cpu_second']:8.1f}"
        )
        if "yardstick_over_nanogpt" in row:
            print(f"{'':12} yardstick over nanoGPT: {row['yardstick_over_nanogpt']['median']:.3f}")
    print("\nbar: on AMD where 'medium' is faster / elsewhere")
    print(f"overhead: CPU time of the loop outside its bare steps; bar {OVERHEAD_BAR:.0%}")


if __name__ == "__main__":
    main()
