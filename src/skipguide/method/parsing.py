"""Read layers, terms, CFG rules and restarts as people write them: on a command line, in YAML, in
a widget of ComfyUI. The only grammar of the package; it needs nothing but Python."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from skipguide.method.protocols import Inputs

LAYER_GRAMMAR = (
    'block numbers from 0 on, or "stack:number" as in "single:7", separated by commas; "7-9" is a'
    ' range, and "20@3,7" is heads 3 and 7 of layer 20'
)
_RANGE = r"([0-9]+)(?:\s*-\s*([0-9]+))?"
_LAYER = re.compile(rf"(?:([^\s:,@]+)\s*:\s*)?{_RANGE}(?:\s*@(.*))?")
_HEADS = re.compile(rf"\s*{_RANGE}\s*")


def parse_layers(value: int | str | Sequence[int | str]) -> tuple[int | str, ...]:
    """Return layers as a tuple of ints and of texts such as "single:7".

    Args:
        value: 8, "8,9", "7-9" (both ends count), "single:7", "single:3-5", "20@3,7" (numbers that
            follow a layer with heads are heads of it), or a list of those.

    Raises:
        ValueError: if it is something else.
    """
    listed = value if isinstance(value, (list, tuple)) else [value]
    parts = [part for entry in listed for part in _split(entry)]
    return tuple(layer for part in parts for layer in _expand_layer(part))


def _split(entry: Any) -> list[Any]:
    """Split a text at its commas, but for those between the heads of one layer."""
    if not isinstance(entry, str):
        return [entry]
    found: list[str] = []
    for part in entry.split(","):
        if found and "@" in found[-1] and _HEADS.fullmatch(part):
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found


def _expand_layer(part: Any) -> Iterator[int | str]:
    known = isinstance(part, (int, str)) and not isinstance(part, bool)
    found = _LAYER.fullmatch(str(part).strip()) if known else None
    if found is None:
        raise ValueError(f"layers must be {LAYER_GRAMMAR}, but got {part!r}. Write 8, or 7-9.")
    stack, first, last, heads = found.groups()
    end = "" if heads is None else f"@{','.join(map(str, parse_heads(heads)))}"
    for number in _numbers("layers", part, first, last):
        name = number if stack is None else f"{stack}:{number}"
        yield f"{name}{end}" if end else name


def _numbers(what: str, part: Any, first: str, last: str | None) -> range:
    numbers = range(int(first), int(first if last is None else last) + 1)
    if not numbers:
        raise ValueError(
            f"a range of {what} must go upwards, but got {part!r}. Write {last}-{first}."
        )
    return numbers


def parse_heads(text: str) -> tuple[int, ...]:
    """Return the heads in a text such as "3,7" or "0-3", sorted, each once.

    Raises:
        ValueError: if it is something else.
    """
    found: set[int] = set()
    for part in text.split(","):
        numbers = _HEADS.fullmatch(part)
        if numbers is None:
            raise ValueError(
                f"heads of a layer must be numbers from 0 on, separated by commas, but got {text!r}"
                ' behind the @. Write "20@3,7", or "20@0-3".'
            )
        found |= set(_numbers("heads", part, *numbers.groups()))
    return tuple(sorted(found))


def split_heads(layer: int | str) -> tuple[int | str, tuple[int, ...]]:
    """Return a layer without its heads, and its heads: none where it is the whole layer.

    Args:
        layer: 20, "single:7", "20@3,7" or "single:7@0-3".
    """
    if not isinstance(layer, str):
        return layer, ()
    name, at, heads = layer.partition("@")
    found = int(name) if name.strip().isdecimal() else name
    return found, parse_heads(heads) if at else ()


def format_layers(layers: Sequence[int | str]) -> str:
    """Return layers in one text that `parse_layers` reads; those with heads come last."""
    return ",".join(sorted(map(str, layers), key=lambda layer: "@" in layer))


def parse_parts(text: str, first: str) -> Inputs:
    """Read "apg eta=0.2 window=0.1:0.9" as {first: "apg", "eta": 0.2, "window": [0.1, 0.9]}.

    Args:
        text: words `name=value`, separated by spaces. Values are numbers, true, false, texts, or
            lists whose entries are separated by colons or commas; `layers` and `mask` stay texts.
        first: the name of a word that has none.

    Raises:
        ValueError: for no words, a word without a value, or a name that comes twice.
    """
    words = [word if "=" in word else f"{first}={word}" for word in text.split()]
    pairs = [word.partition("=") for word in words]
    if not pairs or not all(name and value for name, _, value in pairs):
        raise ValueError(
            f"parts must be words such as name=value, each name once, but got {text!r}. Correct it."
        )
    names = [name for name, _, _ in pairs]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        is_unnamed = first in twice and not all("=" in word for word in text.split())
        unnamed = f" (a word without = is {first})" if is_unnamed else ""
        raise ValueError(
            f"parts must be words such as name=value, each name once, but {', '.join(twice)}"
            f" {'stands' if len(twice) == 1 else 'stand'} more than once in {text!r}{unnamed}. Keep"
            " one of them."
        )
    texts = ("layers", "mask")
    return {name: value if name in texts else _parse_value(value) for name, _, value in pairs}


def _parse_value(text: str) -> Any:
    for separator in (",", ":"):
        if separator in text:
            return [_parse_value(part) for part in text.split(separator)]
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def parse_every(value: Any) -> Any:
    """Return `every` as STG takes it: a whole number, a share below 1, or "auto".

    What is none of these is refused: a model of pydantic names the field.

    Raises:
        ValueError: for anything else.
    """
    found = _parse_value(value.strip()) if isinstance(value, str) else value
    if found is None or found == "auto":
        return found
    is_number = isinstance(found, (int, float)) and not isinstance(found, bool)
    if is_number and (found >= 1 and found == int(found)):
        return int(found)
    if is_number and 0 < found < 1:
        return found
    raise ValueError("not a whole number, a share or auto")


def parse_list(value: Any, first: str) -> Any:
    """Return one mapping or text, or a list of them, as a tuple; texts are read by `parse_parts`.

    What is none of these comes back as it is.
    """
    listed = [value] if isinstance(value, (Mapping, str)) else value
    if not isinstance(listed, (list, tuple)):
        return value
    return tuple(parse_parts(row, first) if isinstance(row, str) else row for row in listed)
