"""Habits of the libraries below that nothing follows from."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def ignore_cpu_autocast_warning() -> Iterator[None]:
    """diffusers' Mochi asks for autocast to float32 on every device; a CPU has no such thing, and
    torch says so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="In CPU autocast", category=UserWarning)
        yield
