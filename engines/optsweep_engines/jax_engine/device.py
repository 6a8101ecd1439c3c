"""Where a run trains: the device by name, the compilation cache, matmul precision, and how much memory was held."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy

from optsweep_engines.machine import cpu_name, exact_wanted, resident_peak_bytes

PLATFORMS = {"gpu": "gpu", "cuda": "gpu", "rocm": "gpu", "tpu": "tpu", "cpu": "cpu"}
"""What a device may be called -> the name of its kind in the engine."""
NAMES = "auto, cpu, cuda, cuda:N, tpu, tpu:N"


def devices() -> list[dict[str, Any]]:
    """Accelerators, then the CPU: [{"device", "name", "memory_bytes"}]."""
    found: list[dict[str, Any]] = []
    for device in jax.local_devices():
        if device.platform != "cpu":
            limit = (device.memory_stats() or {}).get("bytes_limit")
            kind = "cuda" if PLATFORMS.get(device.platform) == "gpu" else device.platform
            found.append(
                {"device": f"{kind}:{device.local_hardware_id}", "name": device.device_kind, "memory_bytes": limit}
            )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return [*found, {"device": "cpu", "name": cpu_name(), "memory_bytes": memory}]


def opened(name: str) -> list[jax.Device]:
    """The devices of a run, ready: those of the kind that is named, or the one that is named.

    Args:
        name: "auto", "cpu", "cuda", "cuda:0", "tpu" or "tpu:0".

    Raises:
        ValueError: no such device here.
    """
    use_compilation_cache()
    kind, _, index = name.partition(":")
    if kind not in ("auto", *PLATFORMS) or (index and not index.isdigit()):
        raise ValueError(f'device "{name}" is not one of {NAMES}')
    try:
        found = list(jax.devices() if kind == "auto" else jax.devices(kind))
    except (RuntimeError, AssertionError):  # a platform that JAX_PLATFORMS names and that is not there is an assertion
        raise ValueError(f'device "{name}": JAX {jax.__version__} finds none here, it finds {_found()}') from None
    if index:
        if int(index) >= len(found):
            raise ValueError(f'device "{name}": only {len(found)} {kind} devices here')
        found = [found[int(index)]]
    return found


def _found() -> str:
    """The devices here, for a message."""
    try:
        return ", ".join(sorted({each["device"] for each in devices()}))
    except (RuntimeError, AssertionError):
        return f"nothing with JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}"


@functools.cache
def model_options(platform_name: str) -> dict[str, Any] | None:
    """Compiler options for the programs of the model; None: the compiler's own.

    On a CPU XLA puts products into the kernels of YNNPACK with what follows them; its older ones were 1.1 to 1.15 times as
    fast on an AVX2 processor (benchmarks/jax_speed.md). On a GPU, where exactness is
    asked for, what adds up in an order of chance is left out. A compiler that does not know the option goes without.
    """
    options: dict[str, Any] = {}
    if platform_name == "cpu":
        options = {"xla_cpu_experimental_ynn_fusion_type": ""}
    elif platform_name == "gpu" and exact_wanted():
        options = {"xla_gpu_exclude_nondeterministic_ops": True}
    if not options:
        return None
    try:
        place = jax.devices(platform_name)[0]
        jax.jit(lambda x: x + 1, compiler_options=options)(jax.device_put(numpy.float32(0), place))
    except Exception:  # whatever another version of the compiler raises
        return None
    return options


def matmul_flops(name: str, dtype: str = "fp32", rounds: int = 5) -> float:
    """FLOP/s of a plain product of square matrices in a compute type, the best of some rounds."""
    place = opened(name)[0]
    size = 1024 if place.platform == "cpu" else 8192
    drawn = numpy.random.Generator(numpy.random.Philox(0)).standard_normal((size, size), numpy.float32)
    left = jax.device_put(drawn, place).astype("bfloat16" if dtype == "bf16" else "float32")
    product = jax.jit(lambda a, b: jax.numpy.matmul(a, b, precision="highest" if dtype == "fp32" else "default"))
    product(left, left).block_until_ready()
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        product(left, left).block_until_ready()
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


def platform_of(device: jax.Device) -> str:
    """ "cpu", "gpu" or "tpu"."""
    return PLATFORMS.get(device.platform, "gpu")


@functools.cache
def use_compilation_cache() -> None:
    """Keep compiled programs on disk, so that a sweep of same-shape runs compiles once, over all of its processes.

    In JAX_COMPILATION_CACHE_DIR where that is set, else in the user's cache folder, one per kind of processor: a program
    for one may crash another.
    """
    if getattr(jax.config, "jax_compilation_cache_dir", None) is None:
        named = os.environ.get("XDG_CACHE_HOME", "")
        base = Path(named) if named.startswith("/") else Path.home() / ".cache"
        mark = hashlib.sha256(f"{platform.machine()} {cpu_name()} {_cpu_flags()}".encode()).hexdigest()[:12]
        jax.config.update("jax_compilation_cache_dir", str(base / "optsweep" / f"jax-{jax.__version__}-{mark}"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _cpu_flags() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        return ""


def description(used: Sequence[jax.Device]) -> str:
    """Devices and their name, for the record: "cpu (AMD EPYC)", "8 x tpu (TPU v5 lite)"."""
    first = used[0]
    name = cpu_name() if first.platform == "cpu" else first.device_kind
    return f"{f'{len(used)} x ' if len(used) > 1 else ''}{platform_of(first)} ({name})"


def peak_bytes(used: Sequence[jax.Device]) -> int:
    """Most memory held: allocated on the fullest accelerator here, resident set of the process on a CPU."""
    here = [device for device in used if device.process_index == jax.process_index()]
    stats = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in here if device.platform != "cpu"]
    known = [int(value) for value in stats if value is not None]
    return max(known) if known else resident_peak_bytes()


def versions() -> dict[str, str]:
    """Versions that a trajectory may depend on."""
    return {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": version("jaxlib"),
        **({"optax": version("optax")} if find_spec("optax") else {}),  # no run uses it: a host may lack it
        "numpy": numpy.__version__,
    }
