# Built by `make comfyui` from src/skipguide/families/toml_text.py; do not edit.
"""Write TOML, which the standard library reads only.

It is what a preset needs: tables of texts, numbers, true and false, and lists of them or of tables.
"""

from __future__ import annotations

import json
import numbers
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..method.protocols import ReadOnlyData

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(content: ReadOnlyData) -> str:
    """Return a document that `tomllib` reads as the same content.

    Args:
        content: names and values. Mappings become tables, also within tables; what is None is left
            out, for TOML has no such value. Numbers of numpy are written as those of Python.

    Raises:
        TypeError: for a value that TOML does not have.
    """
    return "\n".join(_lines(content, ())).lstrip("\n") + "\n"


def _lines(table: ReadOnlyData, path: tuple[str, ...]) -> Iterator[str]:
    inner = {name: value for name, value in table.items() if isinstance(value, Mapping)}
    for name, value in table.items():
        if value is not None and name not in inner:
            yield f"{_key(name)} = {format_value(value)}"
    for name, value in inner.items():
        yield ""
        yield f"[{'.'.join(map(_key, (*path, name)))}]"
        yield from _lines(value, (*path, name))


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else format_value(str(name))


def format_value(value: Any) -> str:
    """Return a value as it stands behind the sign of equality.

    Raises:
        TypeError: for a value that TOML does not have.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real):
        return repr(float(value))  # the shortest text that is read as the same number
    if isinstance(value, Mapping):
        parts = [
            f"{_key(name)} = {format_value(part)}"
            for name, part in value.items()
            if part is not None
        ]
        return "{" + ", ".join(parts) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(format_value, value)) + "]"
    raise TypeError(
        f"a value in TOML must be a text, a number, true or false, a list or a table, but got"
        f" {value!r}. Leave it out."
    )


def _quoted(text: str) -> str:
    """Return a text in quotes; bytes of a terminal that were no UTF-8 are shown as their codes."""
    whole = text.encode("utf-8", "backslashreplace").decode("utf-8")
    # JSON has the escapes of TOML, but leaves one control character as it is.
    return json.dumps(whole, ensure_ascii=False).replace("\x7f", "\\u007F")
