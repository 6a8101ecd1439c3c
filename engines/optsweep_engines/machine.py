"""This machine as a record names it: the processor, and how much memory a process held; stdlib only, for every engine."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import sys


def cpu_name() -> str:
    """Model name of the processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def resident_peak_bytes() -> int:
    """Of this program alone: Linux keeps in ru_maxrss what the process held before its exec, a fork of its parent."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="utf-8", errors="replace") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024  # "VmHWM:    123456 kB"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def exact_wanted() -> bool:
    """OPTSWEEP_EXACT=1: on a GPU, too, the same run gives the same bits, at some cost in speed.

    The fast backward passes of attention add up in the order in which blocks happen to end. On a CPU every run is exact.
    """
    return os.environ.get("OPTSWEEP_EXACT", "") not in ("", "0")
