"""Time several ways of doing the same thing, in rounds in which they alternate."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import torch


def measure_time(way: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that a call takes; on a GPU those of the device."""
    if device.type != "cuda":
        start = time.perf_counter()
        way()
        return time.perf_counter() - start
    start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start_event.record()
    way()
    end_event.record()
    torch.cuda.synchronize()
    return start_event.elapsed_time(end_event) / 1000


def compare_ways(
    seconds: Mapping[str, Sequence[float]], to: str
) -> dict[str, dict[str, float | tuple[float, float]]]:
    """Return for each way its best seconds, their ratio to those of another one, and an interval.

    Whatever disturbs a round makes it slower, so that the best one is nearest to the truth. The
    interval goes from the smallest to the largest ratio of a round. It holds the ratio of the best
    rounds, and the median ratio with the probability `interval_level`, whatever the distribution.

    Args:
        seconds: of each way, one number for each round.
        to: the way that the ratios are to.
    """
    found: dict[str, dict[str, float | tuple[float, float]]] = {}
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(times, seconds[to], strict=True)]
        found[name] = {
            "seconds": min(times),
            "ratio": min(times) / min(seconds[to]),
            "interval": (min(ratios), max(ratios)),
        }
    return found


def interval_level(rounds: int) -> float:
    """Return with which probability the median lies between the extremes of so many rounds."""
    return 1 - 2.0 ** (1 - rounds)
