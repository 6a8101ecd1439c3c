"""Data: tokenising in one and two processes, and loading batches from shards; CPU seconds beside wall seconds.

python benchmarks/data_speed.py [--json] [--mb 24]      the corpus is this Python's standard library as JSON lines, repeated
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

SEQ_LEN, BATCH_SIZE = 1024, 64
VOCABULARY = 8192


def cpu_seconds() -> float:
    """Of this process and of those that it has waited for."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def corpus(folder: Path, megabytes: int) -> tuple[Path, int]:
    """JSON lines of so many megabytes; returns the file and the bytes of its texts. A repeated text gets a number of its own."""
    root = Path(sysconfig.get_path("stdlib"))
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(root.glob("*.py"))]
    target, size, number = folder / "corpus.jsonl", 0, 0
    with target.open("w", encoding="utf-8") as file:
        while size < megabytes * 1_000_000:
            text = f"# {number}\n{texts[number % len(texts)]}"
            file.write(json.dumps({"text": text}) + "\n")
            size += len(text.encode())
            number += 1
    return target, size


def bpe(folder: Path, source: Path) -> Path:
    """A byte-level BPE in GPT-2's form, trained on the first two megabytes."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    with source.open(encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file.readlines(2_000_000)]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def tokenising(root: Path, source: Path, size: int, tokenizer: str, workers: int) -> dict[str, Any]:
    """One call of `data prepare`, with hashing and publishing."""
    from optsweep_tui import settings
    from optsweep_tui.preparing import job

    place = settings.workspace(Path(tempfile.mkdtemp(dir=root)))
    cpu, wall = cpu_seconds(), time.perf_counter()
    found = job.prepare(place, job.Request(name="corpus", source=source, tokenizer=tokenizer, workers=workers)).prepared
    cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
    tokens = found.train_tokens + found.validation_tokens
    return {
        "tokenizer": "bytes" if tokenizer == "bytes" else f"BPE of {VOCABULARY}",
        "processes": workers,
        "mb_per_second": size / 1e6 / wall,
        "mb_per_cpu_second": size / 1e6 / cpu,
        "tokens_per_second": tokens / wall,
        "tokens_per_cpu_second": tokens / cpu,
        "sha256": found.sha256,
    }


def loading(root: Path, source: Path) -> dict[str, Any]:
    """Batches of random windows, from pages that are in memory."""
    from optsweep_engines import data
    from optsweep_tui import settings
    from optsweep_tui.preparing import job

    place = settings.workspace(root / "loading")
    found = job.prepare(place, job.Request(name="corpus", source=source)).prepared
    times, cpu = [], time.process_time()
    for step in range(60):
        started = time.perf_counter()
        data.batch(found, 0, step, BATCH_SIZE, SEQ_LEN)
        times.append(time.perf_counter() - started)
    cpu = (time.process_time() - cpu) / len(times)
    hashing = time.process_time()
    found.verify()
    hashing = time.process_time() - hashing
    tokens = BATCH_SIZE * SEQ_LEN
    # 6 FLOPs per parameter and token; 40 % of a dense bf16 peak of 989 TFLOP/s (H100 and H200, NVIDIA's data sheets)
    step_seconds = {name: 6 * size * tokens / (0.4 * 989e12) for name, size in (("130M", 134e6), ("1.2B", 1.2e9))}
    return {
        "batch": f"{BATCH_SIZE} x {SEQ_LEN}",
        "ms": 1000 * statistics.median(times),
        "cpu_ms": 1000 * cpu,
        "tokens_per_cpu_second": tokens / cpu,
        "hashed_gb_per_cpu_second": 2 * (found.train_tokens + found.validation_tokens) / 1e9 / hashing,
        "share_of_a_step": {name: cpu / seconds for name, seconds in step_seconds.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--mb", type=int, default=24)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        source, size = corpus(root, asked.mb)
        tokenizer = str(bpe(root, source))
        rows = [tokenising(root, source, size, each, workers) for each in ("bytes", tokenizer) for workers in (1, 2)]
        batches = loading(root, source)
    if asked.json:
        print(json.dumps({"tokenising": rows, "loading": batches}))
        return
    print(f"{'tokenizer':<14}{'processes':>10}{'MB/s':>8}{'MB/cpu-s':>10}{'tokens/s':>11}{'tokens/cpu-s':>14}")
    for row in rows:
        print(
            f"{row['tokenizer']:<14}{row['processes']:>10}{row['mb_per_second']:>8.1f}{row['mb_per_cpu_second']:>10.1f}"
            f"{row['tokens_per_second']:>11,.0f}{row['tokens_per_cpu_second']:>14,.0f}"
        )
    assert rows[0]["sha256"] == rows[1]["sha256"] and rows[2]["sha256"] == rows[3]["sha256"]
    shares = ", ".join(f"{share:.1%} of a {name} step" for name, share in batches["share_of_a_step"].items())
    size = f"{batches['ms']:.2f} ms, {batches['cpu_ms']:.2f} ms of CPU"
    print(f"\nbatch {batches['batch']}: {size}; {shares} (at 40 % of 989 TFLOP/s)")
    print(f"hashing shards: {batches['hashed_gb_per_cpu_second']:.2f} GB per CPU second")


if __name__ == "__main__":
    main()
