"""Measure the most memory that a video took, and tell when there was too little."""

from __future__ import annotations

import sys
from typing import Any

import torch

from skipguide.method.protocols import PlainData


def reset_peak(device: torch.device) -> None:
    """Begin a measurement on a GPU. Of the main memory a process has one peak since its start."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def measure_peak(device: torch.device) -> PlainData:
    """Return the peak in bytes as `peak_memory_bytes`, and of what it is as `peak_memory_of`.

    On a CUDA device it is what torch's tensors took there at once since `reset_peak`, the weights
    among them; elsewhere all that this process held in the main memory. None where the system does
    not tell.
    """
    if device.type == "cuda":
        found = int(torch.cuda.max_memory_allocated(device))
        return {"peak_memory_bytes": found, "peak_memory_of": str(device)}
    return {"peak_memory_bytes": _peak_of_process(), "peak_memory_of": "process"}


def _peak_of_process() -> int | None:
    if sys.platform == "win32":
        return _peak_on_windows()
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, others KiB


def _peak_on_windows() -> int | None:
    import ctypes

    library: Any = getattr(ctypes, "windll").kernel32  # noqa: B009 (not there for pyright)

    class Counters(ctypes.Structure):
        """PROCESS_MEMORY_COUNTERS: its size, page faults, then the peak of the working set."""

        _fields_ = (
            ("cb", ctypes.c_ulong), ("PageFaultCount", ctypes.c_ulong),
            *((f"size_{i}", ctypes.c_size_t) for i in range(8)),
        )  # fmt: skip

    found = Counters()
    found.cb = ctypes.sizeof(found)
    library.GetCurrentProcess.restype = ctypes.c_void_p
    process = ctypes.c_void_p(library.GetCurrentProcess())
    asked = library.K32GetProcessMemoryInfo(process, ctypes.byref(found), found.cb)
    return int(found.size_0) if asked else None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, of a GPU or of the machine."""
    # torch raises a plain RuntimeError on a CPU.
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def format_bytes(count: float) -> str:
    """Return a number of bytes in words, as in "812 MB" and "13.4 GB"."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
