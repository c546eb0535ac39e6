"""Text of files and terminals. A file name on Linux is bytes, which need not be UTF-8.

Python keeps such bytes as lone surrogates (PEP 383), which no encoding accepts.
"""

from __future__ import annotations

import io
import json
import re
from typing import Any, TextIO

_LONE = re.compile("[\ud800-\udfff]")


def dump_json(content: Any, **options: Any) -> str:
    r"""Return JSON that can be written as UTF-8 and reads back equal.

    Only bytes of file names that are not UTF-8 become escapes, as in "a\udcff.mp4"; json.loads
    turns them back. `options` are those of json.dumps.
    """
    text = json.dumps(content, ensure_ascii=False, **options)
    return _LONE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def displayable(name: str) -> str:
    """Return a file name as text that can be shown and sent, with escapes for other bytes."""
    return name.encode("utf-8", "backslashreplace").decode()


def accept_all_characters(stream: TextIO) -> None:
    """Have a terminal or pipe write what its encoding lacks as an escape, and not fail."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


def is_unicode(stream: TextIO) -> bool:
    """Tell whether a stream can write every character of a text."""
    return (stream.encoding or "").lower().replace("-", "").startswith("utf")
