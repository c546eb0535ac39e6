"""Checks of single arguments. Their errors say what is required, what came and what to do."""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Iterable, Iterator
from typing import Any


class Problems(ValueError):
    """All that is wrong at once; `messages` has a sentence or two for each."""

    def __init__(self, messages: Iterable[str]):
        self.messages = tuple(dict.fromkeys(messages))
        super().__init__(" ".join(self.messages))


class ProblemCollector:
    """Collects the errors of several checks, so that all of them can be told at once.

    Use `attempt()` around each check and `raise_all()` after the last one.
    """

    def __init__(self) -> None:
        self.messages: list[str] = []

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Keep a ValueError of the block instead of raising it."""
        try:
            yield
        except ValueError as error:
            self.messages += error.messages if isinstance(error, Problems) else [str(error)]

    def raise_all(self) -> None:
        """Raise Problems if there are any."""
        if self.messages:
            raise Problems(self.messages)


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "Correct the name.") -> str:
    """Return the last sentence of an error about an unknown name.

    Args:
        otherwise: the sentence if no known name is near.
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {close[0]!r}?" if close else otherwise


def find_misspelt(name: str, given: Iterable[Any], known: Iterable[str]) -> str | None:
    """Return the unknown key that was probably meant to be `name`; None if there is none.

    Args:
        given: the keys that came.
        known: all keys that there are; each unknown one stands for the nearest of them.
    """
    known = list(known)
    for key in map(str, given):
        if key not in known and difflib.get_close_matches(key, known, n=1) == [name]:
            return key
    return None


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
