"""Text of files and terminals. A file name on Linux is bytes, which need not be UTF-8.

Python keeps such bytes as lone surrogates (PEP 383), which no encoding accepts.
"""

from __future__ import annotations

import io
import json
import re
import unicodedata
from typing import Any, TextIO

_LONE = re.compile("[\ud800-\udfff]")


def dump_json(content: Any, **options: Any) -> str:
    r"""Return JSON that can be written as UTF-8 and reads back equal.

    Only bytes of file names that are not UTF-8 become escapes, as in "a\udcff.mp4"; json.loads
    turns them back. `options` are those of json.dumps.
    """
    text = json.dumps(content, ensure_ascii=False, **options)
    return _LONE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def to_ascii(letter: str) -> str:
    """Return a Latin letter without its accents; "" for letters that have no ASCII in them."""
    return unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()


def symbol_name(letter: str) -> str:
    """Return the name of an emoji or another symbol, such as "fox face"; "" for other letters."""
    is_symbol = unicodedata.category(letter) == "So"
    return unicodedata.name(letter, "symbol").lower() if is_symbol else ""


def displayable(name: str) -> str:
    """Return a file name as text that can be shown and sent, with escapes for other bytes."""
    return name.encode("utf-8", "backslashreplace").decode()


def format_count(number: int, noun: str) -> str:
    """Return a number of things in words: "1 prompt", "8 prompts"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def format_duration(seconds: float) -> str:
    """Return a duration in words: "42 s", "7 min", "3 h 20 min", "2 d 5 h"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def first_line(error: BaseException) -> str:
    """Return the first line of an error without its full stop; of one without words its class."""
    lines = str(error).strip().splitlines()
    return (lines[0].rstrip(". ") if lines else "") or type(error).__name__


def accept_all_characters(stream: TextIO) -> None:
    """Have a terminal or pipe write what its encoding lacks as an escape, and not fail."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


def is_unicode(stream: TextIO) -> bool:
    """Tell whether a stream can write every character of a text."""
    return (stream.encoding or "").lower().replace("-", "").startswith("utf")
