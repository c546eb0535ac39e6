"""Lists of layers as people write them: "9", "9, 10", "7-9", "single:3", "double:0-2, single:7"."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from .models import Place

_ITEM = re.compile(r"(?:([a-z_]+)\s*:\s*)?(\d+)(?:\s*-\s*(\d+))?", re.ASCII)
_SAME = {"dual": "double"}
Name = tuple[str, int]  # the stack, "" for the first one; the block within it


def parsed(text: str) -> tuple[Name, ...]:
    """The blocks that a list names.

    Raises:
        ValueError: for anything that is no list of layers.
    """
    found: list[Name] = []
    for item in text.split(","):
        found.extend(_blocks(item.strip(), text, bool(found) and found[-1][0] != ""))
    twice = sorted({number for name, number in found if found.count((name, number)) > 1})
    if twice:
        raise ValueError(f"layers must name each block once, but {text!r} has {twice[0]} twice. Leave one out.")
    return tuple(found)


def _blocks(item: str, text: str, after_stack: bool) -> Iterator[Name]:
    match = _ITEM.fullmatch(item)
    if match is None:
        raise ValueError(
            f'layers must be numbers, ranges or "stack:number" with commas between, but got {item!r} in {text!r}. '
            'Write "9", "9, 10", "7-9" or "single:3".'
        )
    stack, first, last = match[1] or "", int(match[2]), int(match[3] or match[2])
    if after_stack and not stack:
        raise ValueError(
            f"layers must name the stack of each block or of none, but {item!r} follows one that does in {text!r}. "
            'Write "single:3, single:4".'
        )
    if last < first:
        raise ValueError(f"layers must have ranges that go up, but got {item!r} in {text!r}. Write {last}-{first}.")
    return ((_SAME.get(stack, stack), number) for number in range(first, last + 1))


def chosen(names: Sequence[Name], places: Sequence[Place]) -> tuple[Place, ...]:
    """The blocks of a model that a list names, in the order in which they run.

    Raises:
        ValueError: for a stack or a block that the model does not have.
    """
    first = places[0].stack.name
    depths = depths_of(places)
    for stack, number in names:
        depth = depths.get(stack or first, 0)
        if number >= depth:
            had = " and ".join(f"{name}:0 to {name}:{count - 1}" for name, count in depths.items())
            raise ValueError(
                f"layers must be blocks that the model has, but got {stack or first}:{number}. This one has {had}."
            )
    wanted = {(stack or first, number) for stack, number in names}
    return tuple(place for place in places if (place.stack.name, place.index) in wanted)


def depths_of(places: Sequence[Place]) -> dict[str, int]:
    """How many blocks each stack has."""
    depths: dict[str, int] = {}
    for place in places:
        depths[place.stack.name] = depths.get(place.stack.name, 0) + 1
    return depths
