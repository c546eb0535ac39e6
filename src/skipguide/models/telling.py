"""Tell the user something once, on the log, which ends on stderr."""

from __future__ import annotations

import functools
import logging

_log = logging.getLogger("skipguide")


@functools.cache  # a sweep makes a thousand videos with the same settings
def tell(note: str) -> None:
    """Log a note, once in this process."""
    _log.warning("note: %s", note)
