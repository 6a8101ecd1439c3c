"""Training on one CUDA GPU: `python benchmarks/gpu_speed.py [--parts LIST] [--nanogpt FOLDER] [--out FOLDER]`.

Each part is a process of its own; what is to be compared takes turns within a part, or part by part. MFU counts model FLOPs,
6 (N + head) + 12 layers width T a token, against the 989 TFLOP/s of dense bf16 of an H100 or H200; the product that the
same card reaches is printed beside it. Tokens are random: nothing here depends on what they say.

    roof       what a plain product reaches
    exact      the same steps once straight and once through a checkpoint: equal hashes of the parameters?
    torch, jax tokens/s and MFU of the reference shapes
    nanogpt    nanoGPT's own train.py with torch.compile beside the engine, both at 5 micro-batches of 12 x 1024
    pack       8 runs of a small model in one program beside one run: 4 x 128, bytes and a vocabulary of 32768
    muon       a Llama of 50M parameters with muon
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PEAK_FLOPS = 989e12
TOKENS = 1 << 24
VOCABULARY = 1 << 15
TURNS, TURN_STEPS = 3, 3

MICRO_BATCH = {
    "torch": {"130m": 16, "300m": 8, "520m": 8, "1.2b": 4},
    "jax": {"130m": 8, "520m": 4},
}
"""Sequences of 4096 tokens; two of these make a step here, 8 to 32 in the study."""


def random_tokens(root: Path, vocabulary: int = VOCABULARY) -> Any:
    """The dataset of the benchmark: random tokens below a number, prepared once."""
    import numpy as np

    from optsweep_engines import data, shards

    def documents() -> Iterator[tuple[str, Any]]:
        stream = np.random.Generator(np.random.Philox(0))
        for index in range(64):
            yield f"document {index}", stream.integers(vocabulary, size=TOKENS // 64).astype("<u2")

    entry = data.DatasetEntry(
        name=f"random-{vocabulary}",
        vocab_size=vocabulary,
        source="random",
        doc="random",
        documents=documents,
        fingerprint=lambda: "random",
    )
    ready = sorted(root.glob(f"random-{vocabulary}-*"))
    return shards.read(ready[0]) if ready else data.write(entry, root)


def spec_of(
    root: Path,
    name: str,
    engine: str,
    optimizer: str = "adamw",
    sequences: int = 0,
    accumulation: int = 1,
    **changes: Any,
) -> Any:
    """A spec on random tokens; `changes` go to its shape, `seq_len`, `dtype` and `steps` to itself.

    Args:
        sequences: per micro-batch; 0 = the catalogue's batch.
    """
    from optsweep_engines.models import model
    from optsweep_engines.optimizers.catalogue import resolve_knobs
    from optsweep_engines.spec import RunSpec

    entry = model(name)
    seq_len, dtype, steps = (
        changes.pop(key, given) for key, given in (("seq_len", entry.seq_len), ("dtype", "bf16"), ("steps", 100_000))
    )
    shape = dataclasses.replace(entry.shape, **changes)
    batch = (sequences or entry.batch_size) * accumulation
    tokens = random_tokens(root, min(VOCABULARY, shape.vocab_size))
    return RunSpec(
        engine=engine,
        optimizer=optimizer,
        hyperparameters=resolve_knobs(optimizer, {"lr": 1e-3}, entry.schedule),
        model=entry.name,
        shape=shape,
        dataset=tokens.name,
        dataset_hash=tokens.sha256,
        tokens=steps * batch * seq_len,
        batch_size=batch,
        seq_len=seq_len,
        schedule=entry.schedule,
        dtype=dtype,
        seed=0,
        accumulation=accumulation,
    )


def turns_of(specs: dict[str, tuple[Any, int]], root: Path, engine: str, turn_seconds: float = 0.0) -> dict[str, Any]:
    """name -> figures; the variants take turns.

    Args:
        specs: name -> (spec, replicas in one program).
        turn_seconds: about so long a turn; 0 = TURN_STEPS steps.
    """
    from optsweep_engines.certify import NoLog, Request
    from optsweep_engines.throughput import Turns, Variant

    log = NoLog(Request(engine=engine, spec={}, data_root=str(root), device="cuda", steps=0, answer=""))
    runs = [
        Turns(engine_of(engine), Variant(name=name, spec=spec.to_dict(), pack=pack), log)
        for name, (spec, pack) in specs.items()
    ]
    counts = []
    for each in runs:
        each.steps(2)
        started = time.perf_counter()
        each.steps(2)
        counts.append(max(TURN_STEPS, round(2 * turn_seconds / (time.perf_counter() - started))))
    for turn in range(TURNS):
        for each, count in list(zip(runs, counts, strict=True))[:: 1 if turn % 2 else -1]:
            each.turn(count)
    found = {}
    for each in runs:
        figures = each.figures(PEAK_FLOPS)
        single = each.trainer.trainers[0] if each.variant.pack > 1 else each.trainer
        about = single.facts()
        found[each.variant.name] = {
            "tokens_per_second": figures["tokens_per_second"],
            "mfu": figures["mfu"],
            "step_ms": 1e3 * figures["step_seconds"],
            "spread": max(each.seconds) / min(each.seconds),
            "start_seconds": each.start_seconds,
            "peak_gb": about["peak_bytes"] / 1e9,
            "params": each.spec.shape.total_params,
            "device": about["device"],
        }
    return found


def quick_start() -> None:
    """Initial values from one block over and over: the draw of 1.6e9 numbers takes half a minute, and no clock here runs then."""
    import numpy as np

    from optsweep_engines.models import parameter_table

    def values(shape: Any, seed: int) -> dict[str, Any]:
        block = np.random.Generator(np.random.Philox(seed)).standard_normal(1 << 20, dtype=np.float32) * 0.02
        found = {}
        for item in parameter_table(shape):
            one = np.ones(item.shape, np.float32) if item.init_std is None else np.resize(block, item.shape)
            found[item.name] = one
        return found

    from importlib import import_module

    for module in ("torch_engine.train", "jax_engine.train"):
        try:
            import_module(f"optsweep_engines.{module}").initial_parameters = values  # type: ignore[attr-defined]
        except ImportError:
            continue  # that engine is not here


def engine_of(name: str) -> Any:
    """The engine by its class: the benchmark runs from a checkout, installed or not."""
    if name == "torch":
        from optsweep_engines.torch_engine import TorchEngine

        return TorchEngine()
    from optsweep_engines.jax_engine import JaxEngine

    return JaxEngine()


# ---------------------------------------------------------------- parts


def roof(root: Path) -> dict[str, Any]:
    """TFLOP/s of plain products."""
    return {
        f"{engine} {kind}": engine_of(engine).matmul_flops("cuda", kind) / 1e12
        for engine in ("torch",)
        for kind in ("bf16", "fp32")
    }


def models(root: Path, engine: str, names: list[str]) -> dict[str, Any]:
    """Reference shapes, one at a time: their memory goes before the next one's comes."""
    found: dict[str, Any] = {}
    for name in names:
        spec = spec_of(root, name, engine, sequences=MICRO_BATCH[engine][name], accumulation=2)
        found |= turns_of({name: (spec, 1)}, root, engine)
        if engine == "torch":
            import gc

            import torch

            gc.collect()
            torch.cuda.empty_cache()
    return found


def exact(root: Path, engine: str, optimizers: list[str]) -> dict[str, Any]:
    """Twelve steps, and six, everything written out and taken up by another trainer, and six: hashes and seconds."""
    from optsweep_engines.certify import NoLog, Request

    log = NoLog(Request(engine=engine, spec={}, data_root=str(root), device="cuda", steps=0, answer=""))
    found = {}
    for form in ("graph", "compiled"):
        if engine == "jax" and form == "graph":
            continue
        for optimizer in optimizers:
            spec = spec_of(root, "gpt2-124m", engine, optimizer, sequences=4, layers=4, accumulation=2, steps=12)
            if engine == "torch":
                from optsweep_engines.torch_engine import model

                model.COMPILE_FLOPS = 0.0 if form == "compiled" else 1e30  # type: ignore[misc]
            first = engine_of(engine).trainer(spec, log)
            losses = [float(first.step(step)[0]) for step in range(12)]
            half = engine_of(engine).trainer(spec, log)
            for step in range(6):
                half.step(step)
            arrays = half.arrays()
            other = engine_of(engine).trainer(spec, log)
            other.set_arrays(arrays)
            again = [float(other.step(step)[0]) for step in range(6, 12)]
            found[f"{form} {optimizer}"] = {
                "equal": first.parameters_sha256() == other.parameters_sha256(),
                "losses": (losses[0], losses[-1]),
                "largest_difference": max(abs(a - b) for a, b in zip(losses[6:], again, strict=True)),
            }
    return found


def nanogpt(root: Path, folder: Path) -> dict[str, Any]:
    """nanoGPT's script and the engine on its shape, twice each, in turn."""
    data = folder / "data" / "random-tokens"
    data.mkdir(parents=True, exist_ok=True)
    for name, split in (("train", "train"), ("val", "validation")):
        if not (data / f"{name}.bin").exists():
            (data / f"{name}.bin").symlink_to(random_tokens(root).folder / f"{split}.bin")
    command = [sys.executable, "train.py", "--dataset=random-tokens", "--compile=True", "--batch_size=12"]
    command += ["--gradient_accumulation_steps=5", "--eval_iters=1", "--max_iters=40", "--out_dir=/tmp/nanogpt-out"]
    tokens = 5 * 12 * 1024
    theirs, ours = [], []
    for _ in range(2):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=150)
        times = [float(found) for found in re.findall(r"time ([\d.]+)ms", done.stdout)]
        if len(times) < 20:
            raise RuntimeError(done.stderr[-2000:])
        theirs.append(tokens / statistics.median(times[10:]) * 1e3)
        answer = subprocess.run(
            [sys.executable, __file__, "--part", "gpt2", "--data", str(root)],
            capture_output=True,
            text=True,
            check=True,
        )
        ours.append(json.loads(answer.stdout.splitlines()[-1])["gpt2-124m"]["tokens_per_second"])
    return {"nanogpt": theirs, "engine": ours, "ratio": [a / b for a, b in zip(ours, theirs, strict=True)]}


def gpt2(root: Path) -> dict[str, Any]:
    """nanoGPT's shape in the torch engine, one micro-batch as large as its own."""
    return turns_of(
        {"gpt2-124m": (spec_of(root, "gpt2-124m", "torch", sequences=12, accumulation=5), 1)}, root, "torch"
    )


def pack(root: Path) -> dict[str, Any]:
    """Small models: K = 8 packed, and one run, in turn."""
    found: dict[str, Any] = {}
    for name, more in (("0.9M", {}), ("9M", {"vocab_size": VOCABULARY})):
        spec = spec_of(root, "bench-tiny", "jax", sequences=8, **more)
        runs = turns_of({"one": (spec, 1), "pack of 8": (spec, 8)}, root, "jax", 0.5)
        runs["gain"] = runs["pack of 8"]["tokens_per_second"] / runs["one"]["tokens_per_second"]
        found[name] = runs
    return found


def muon(root: Path, engine: str) -> dict[str, Any]:
    """A Llama of 50M parameters: 8 layers of 512, vocabulary 32768, sequences of 1024."""
    shape = {"layers": 8, "width": 512, "heads": 8, "mlp_width": 1408, "vocab_size": 1 << 15, "seq_len": 1024}
    specs = {
        f"{optimizer} {engine}": (spec_of(root, "bench-small", engine, optimizer, sequences=64, **shape), 1)
        for optimizer in ("muon", "adamw")
    }
    return turns_of(specs, root, engine, 1.0)


def part(given: argparse.Namespace) -> Any:
    """One part, in this process."""
    root, name = given.data, given.part
    quick_start()
    kind, _, engine = name.partition(" ")
    if kind == "torch" or kind == "jax":
        names = given.models.split(",") if given.models else list(MICRO_BATCH[kind])
        return models(root, kind, names)
    if kind == "exact":
        return exact(root, engine, given.optimizers.split(","))
    if kind == "nanogpt":
        return nanogpt(root, given.nanogpt)
    if kind == "muon":
        return muon(root, engine)
    return {"roof": roof, "gpt2": gpt2, "pack": pack}[kind](root)


PARTS = ("roof", "exact torch", "exact jax", "torch", "jax", "nanogpt", "pack", "muon torch", "muon jax")


def main() -> int:
    """Every part asked for, each a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help=f"comma-separated, of {', '.join(PARTS)}")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--models", help="comma-separated, for torch and jax")
    parser.add_argument("--optimizers", default="adamw,muon", help="for exact")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "optsweep-gpu-data")
    parser.add_argument("--timeout", type=float, default=180.0, help="seconds per part")
    parser.add_argument("--together", action="store_true", help="all parts at once: fills caches, times nothing")
    parser.add_argument("--out", type=Path, help="folder for one .json and one .log per part")
    given = parser.parse_args()
    sys.path[:0] = [str(ROOT / "engines"), str(ROOT)]
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    random_tokens(given.data)
    if given.part:
        print(json.dumps(part(given)), flush=True)
        return 0
    out = given.out or Path(tempfile.mkdtemp())
    out.mkdir(parents=True, exist_ok=True)
    running = []
    for name in given.parts.split(","):
        log = out / f"{name.replace(' ', '-')}.log"
        command = [
            sys.executable,
            __file__,
            "--part",
            name,
            "--data",
            str(given.data),
            "--optimizers",
            given.optimizers,
        ]
        command += ["--models", given.models] if given.models else []
        command += ["--nanogpt", str(given.nanogpt)] if given.nanogpt else []
        with log.open("w") as file:
            running.append((name, time.perf_counter(), subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file)))
        if not given.together:
            told(*running.pop(), given.timeout, log)
    for name, started, child in running:
        told(name, started, child, given.timeout, out / f"{name.replace(' ', '-')}.log")
    return 0


def told(name: str, started: float, child: subprocess.Popen[bytes], timeout: float, log: Path) -> None:
    """Wait for a part and print what it found, or the end of its log."""
    try:
        text = child.communicate(timeout=timeout)[0].decode()
    except subprocess.TimeoutExpired:
        child.kill()
        text = ""
    seconds = time.perf_counter() - started
    lines = text.strip().splitlines()
    if child.returncode or not lines:
        print(f"{name}: failed after {seconds:.0f} s\n{log.read_text()[-1500:]}", flush=True)
        return
    print(f"{name} ({seconds:.0f} s): {lines[-1]}", flush=True)
    log.with_suffix(".json").write_text(lines[-1])


if __name__ == "__main__":
    sys.exit(main())
