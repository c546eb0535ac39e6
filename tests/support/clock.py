"""A clock for tests of what takes time."""

from __future__ import annotations


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now
