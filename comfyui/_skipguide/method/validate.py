# Built by `make comfyui` from src/skipguide/method/validate.py; do not edit.
"""Checks of single arguments. Their errors say what is required, what came and what to do."""

from __future__ import annotations

import math
from typing import Any


def is_number(value: Any) -> bool:
    """Return whether something is a finite number; True and False are none."""
    return not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value)


def check_number(name: str, value: Any, low: float, high: float = math.inf, note: str = "") -> None:
    """Check that an argument is a number from `low` to `high`.

    Args:
        note: what the limits mean, for the error.

    Raises:
        ValueError: if it is not.
    """
    if not is_number(value) or not low <= value <= high:
        allowed = (
            f"a finite number >= {low:g}"
            if high == math.inf
            else f"a number from {low:g} to {high:g}"
        )
        note = f" ({note})" if note else ""
        raise ValueError(f"{name} must be {allowed}{note}, but got {value!r}. Pass such a number.")


def check_integer(name: str, value: Any, low: int, hint: str) -> None:
    """Check that an argument is a whole number from `low`.

    Args:
        hint: what to do, the last sentence of the error.

    Raises:
        ValueError: if it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{name} must be a whole number from {low}, but got {value!r}. {hint}")


def check_interval(name: str, value: Any, top: float, hint: str) -> tuple[float, float]:
    """Return an argument that is a pair of numbers with 0 <= low < high <= top, as a tuple.

    Raises:
        ValueError: if it is none.
    """
    pair = tuple(value) if isinstance(value, (list, tuple)) else ()
    if len(pair) != 2 or not all(map(is_number, pair)) or not 0 <= pair[0] < pair[1] <= top:
        limit = "" if top == math.inf else f" <= {top:g}"
        raise ValueError(
            f"{name} must be two numbers with 0 <= low < high{limit}, but got {value!r}. {hint}"
        )
    return pair
