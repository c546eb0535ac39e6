"""Tell the user something once, on the log, and keep off stderr what libraries say beside it."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator

_log = logging.getLogger("skipguide")


@functools.cache  # a sweep makes a thousand videos with the same settings
def tell(note: str) -> None:
    """Log a note, once in this process."""
    _log.warning("note: %s", note)


@contextlib.contextmanager
def only_from(level: int, name: str) -> Iterator[None]:
    """Let a logger say nothing below a level.

    Args:
        name: of the logger.
    """
    log = logging.getLogger(name)
    before = log.level
    log.setLevel(level)
    try:
        yield
    finally:
        log.setLevel(before)


@contextlib.contextmanager
def filter_libraries(is_shown: Callable[[logging.LogRecord], bool]) -> Iterator[None]:
    """Let diffusers and transformers say only what passes."""
    handlers = [
        handler
        for name in ("diffusers", "transformers")
        for handler in logging.getLogger(name).handlers
    ]
    for handler in handlers:
        handler.addFilter(is_shown)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(is_shown)
