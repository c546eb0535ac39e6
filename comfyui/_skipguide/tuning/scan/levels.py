# Built by `make comfyui` from src/skipguide/tuning/scan/levels.py; do not edit.
"""The steps of a run at which a scan looks."""

from __future__ import annotations

from collections.abc import Sequence


def nearest_steps(
    shares: Sequence[float], levels: Sequence[float]
) -> list[tuple[float, int, float]]:
    """Return (level, step, share of noise there) in the order of the steps.

    For each level it is the step nearest to it; of levels with one step the nearest is taken, so
    that a run of few steps has fewer states.

    Args:
        shares: of noise at each step.
        levels: shares that are wanted.
    """
    chosen: dict[int, tuple[float, int, float]] = {}
    for level in levels:
        step = min(range(len(shares)), key=lambda i: (abs(shares[i] - level), i))
        held = chosen.get(step)
        if held is None or abs(shares[step] - level) < abs(shares[step] - held[0]):
            chosen[step] = (level, step, shares[step])
    return sorted(chosen.values(), key=lambda found: found[1])
