"""The memory of a step: the peak of what its tensors take, and what the conditional pass keeps."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch

from skipguide.weak import patching


def measure_peak(way: Callable[[], object], device: torch.device) -> int:
    """Measure the peak of the bytes that tensors take in a step, over those taken before it.

    On a CPU this is by torch's profiler, and takes longer than the step."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        way()
    recorded: Any = profile.profiler  # its events have no public name
    events = [e for e in recorded.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in events))


def count_bytes(value: Any) -> int:
    """Count the bytes of the tensors in nested lists and tuples, each storage once."""
    tensors = {
        tensor.data_ptr(): tensor.numel() * tensor.element_size()
        for tensor in patching.iter_tensors(value)
    }
    return sum(tensors.values())
