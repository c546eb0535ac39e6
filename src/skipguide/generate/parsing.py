"""How settings are spelt on the command line and in YAML, and what they are. What cannot be read is
a ValueError."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any


def parse_layers(value: Any) -> Any:
    """8, "8,9", "single:7" or a list of those -> a tuple of ints and "stack:int"."""
    if value is None:
        return None
    parts = (
        value.split(",")
        if isinstance(value, str)
        else value
        if isinstance(value, (list, tuple))
        else [value]
    )
    return tuple(_parse_layer(part) for part in parts)


def _parse_layer(value: Any) -> int | str:
    text = str(value).strip()
    if (
        isinstance(value, (int, str))
        and not isinstance(value, bool)
        and re.fullmatch(r"([^\s:,]+:)?[0-9]+", text)
    ):
        return text if ":" in text else int(text)
    raise ValueError("not a layer")


def parse_fps(value: Any) -> Fraction | None:
    """24, 23.976, "24000/1001" -> a Fraction above 0 and at most 1000."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Fraction)):
        raise ValueError("not a number")
    try:
        rate = Fraction(value)
    except (OverflowError, ZeroDivisionError) as error:  # inf; "1/0"
        raise ValueError("not a finite number") from error
    if isinstance(value, float):
        rate = rate.limit_denominator(1001)  # 23.976 as it was meant, not as its 53 bits
    if not 0 < rate <= 1000:
        raise ValueError("out of range")
    return rate


def parse_parts(value: Any, first: str) -> Any:
    """ "apg eta=0.2 window=0.1:0.9" -> {first: "apg", "eta": 0.2, "window": [0.1, 0.9]}; a mapping
    as it is."""
    if not isinstance(value, str):
        return value
    words = [word if "=" in word else f"{first}={word}" for word in value.split()]
    pairs = [word.partition("=") for word in words]
    named = {name for name, _, text in pairs if name and text}
    if not pairs or len(named) < len(pairs):
        raise ValueError("not a list of parts")
    return {name: _parse_part(text) for name, _, text in pairs}


def _parse_part(text: str) -> Any:
    if ":" in text:
        return [_parse_part(part) for part in text.split(":")]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def parse_mappings(value: Any) -> Any:
    """A list of mappings as a tuple; one mapping as that of one; a text, the name of a file, as it
    is."""
    found = [value] if isinstance(value, Mapping) else value
    return tuple(found) if isinstance(found, list) else found


def format_fps(rate: Fraction | None) -> int | str | None:
    """As JSON has it."""
    return rate if rate is None else int(rate) if rate.denominator == 1 else str(rate)
