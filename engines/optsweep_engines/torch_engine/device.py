"""Where a run trains: the device by name, its threads and matmul precision, and how much memory was held."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import time
from collections.abc import Iterator
from typing import Any

import numpy
import torch

from optsweep_engines.machine import cpu_name, exact_wanted, resident_peak_bytes
from optsweep_engines.torch_engine.probe import use_fast_matmul


def devices() -> list[dict[str, Any]]:
    """CUDA devices, then the CPU: [{"device", "name", "memory_bytes"}]."""
    found: list[dict[str, Any]] = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append({"device": f"cuda:{index}", "name": properties.name, "memory_bytes": properties.total_memory})
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return [*found, {"device": "cpu", "name": cpu_name(), "memory_bytes": memory}]


def gpus_for(name: str) -> int:
    """How many GPUs a run may take that was given this device: all that are visible unless one is named; 0 for the CPU."""
    if name in ("auto", "cuda") and torch.cuda.is_available():
        return torch.cuda.device_count()
    return 1 if name.startswith("cuda:") else 0


def opened(name: str, threads: int) -> torch.device:
    """The device of a run, ready: threads set on CPU, matmul precision chosen, memory counters at zero.

    Args:
        name: "auto", "cpu", "cuda" or "cuda:0".

    Raises:
        ValueError: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f'device "{name}" is not one of auto, cpu, cuda, cuda:N') from error
    torch.set_num_threads(max(1, threads))
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f'device "{name}": torch {torch.__version__} finds no CUDA device here')
        if (device.index or 0) >= torch.cuda.device_count():
            raise ValueError(f'device "{name}": only {torch.cuda.device_count()} CUDA devices here')
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        torch.set_float32_matmul_precision("highest")
        if exact_wanted():
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    elif device.type == "cpu":
        keep_freed_memory()
        use_fast_matmul()
    else:
        raise ValueError(f'device "{name}" is not one of auto, cpu, cuda, cuda:N')
    return device


@contextlib.contextmanager
def exactly(device: torch.device) -> Iterator[None]:
    """Forward and backward give the same bits each time, where that is asked for and not so anyway.

    torch takes the slower backward of its attention kernel only where nothing else is let pass.
    """
    if device.type != "cuda" or not exact_wanted():
        yield
        return
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def matmul_flops(name: str, dtype: str = "fp32", rounds: int = 5) -> float:
    """FLOP/s of a plain product of square matrices in a compute type, the best of some rounds."""
    device = opened(name, torch.get_num_threads())
    size = 1024 if device.type == "cpu" else 8192
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    left = torch.randn(size, size, generator=torch.Generator(device).manual_seed(0), device=device).to(kind)
    best = float("inf")
    for _ in range(rounds + 1):
        started = time.perf_counter()
        float((left @ left)[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


@functools.cache
def keep_freed_memory() -> None:
    """Ask glibc to keep freed blocks for the next tensor instead of giving their pages back.

    Measured: a 2 x 64 model took 2304 page faults per step without it, 13 % of the step. Does nothing elsewhere.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        trim_threshold, mmap_threshold, bytes_kept = -1, -3, 1 << 30  # malloc.h
        mallopt(mmap_threshold, bytes_kept)
        mallopt(trim_threshold, bytes_kept)


def description(device: torch.device) -> str:
    """Device and its name, for the record: "cpu (AMD EPYC)"."""
    return f"{device} ({torch.cuda.get_device_name(device) if device.type == 'cuda' else cpu_name()})"


def peak_bytes(device: torch.device) -> int:
    """Most memory held: allocated on the GPU, resident set of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resident_peak_bytes()


def versions() -> dict[str, str]:
    """Versions that a trajectory may depend on."""
    found = {"python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__}
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
        found["exact"] = "yes" if exact_wanted() else "no"
    return found
