"""Read YAML and JSON that people write, in which every key stands once.

Both formats let a later key replace an earlier one without a word, so that the first of two
`settings:` blocks would be lost.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Sequence
from typing import Any

_WITHOUT_VALUE = ("tag:yaml.org,2002:merge", "tag:yaml.org,2002:value")  # << and =


class DuplicateKeys(ValueError):
    """Keys that stand more than once in one mapping."""


def load_yaml(text: str, first_line: int = 1) -> Any:
    """Return what a YAML document says.

    Args:
        first_line: where it begins in its file, for the error.

    Raises:
        DuplicateKeys: with the lines of all keys that stand more than once.
        yaml.YAMLError: if it is no YAML.
        ValueError: for a date that is none.
    """
    loader = _strict_loader()(text, first_line)
    try:
        node = loader.get_single_node()
        if loader.duplicates:
            raise DuplicateKeys(" ".join(loader.duplicates))
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def load_json(text: str, first_line: int = 1) -> Any:
    """Return what a JSON document says.

    Args:
        first_line: where it begins in its file, for the error.

    Raises:
        DuplicateKeys: with the lines of all keys that stand more than once.
        json.JSONDecodeError: if it is no JSON.
    """
    repeated: list[str] = []

    def collect(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            repeated.extend(name for name in found if names.count(name) > 1)
        return found

    content = json.loads(text, object_pairs_hook=collect)
    if repeated:
        _raise_with_lines(text, repeated, first_line)
    return content


def _raise_with_lines(text: str, repeated: Sequence[str], first_line: int) -> None:
    """Raise DuplicateKeys; JSON's reader knows no lines, but nearly all JSON is YAML too."""
    import yaml

    with contextlib.suppress(yaml.YAMLError):
        load_yaml(text, first_line)
    where = "" if "\n" in text else f" on line {first_line}"
    raise DuplicateKeys(
        " ".join(f"{name} stands twice{where}. Keep one of them." for name in repeated)
    )


def _describe_lines(places: Sequence[int], first_line: int) -> str:
    """Return "on line 2 and on line 5", or "twice on line 4"."""
    lines = [place + first_line for place in places]
    if len(set(lines)) == 1:
        times = "twice" if len(lines) == 2 else f"{len(lines)} times"
        return f"{times} on line {lines[0]}"
    return " and ".join(f"on line {line}" for line in dict.fromkeys(lines))


def advise(error: object, advice: str) -> str:
    """Return the end of a message: what a reader of documents said, and what to do.

    Duplicate keys come with their own advice; the words of other readers may end in a full stop.
    """
    said = str(error)
    return said if isinstance(error, DuplicateKeys) else f"{said.rstrip('. ')}. {advice}"


@functools.cache
def _strict_loader() -> Any:
    """Return YAML's safe loader, which also collects `duplicates` while it reads."""
    import yaml

    class StrictLoader(yaml.SafeLoader):
        def __init__(self, text: str, first_line: int):
            super().__init__(text)
            self.first_line = first_line
            self.duplicates: list[str] = []

        def compose_mapping_node(self, anchor: Any) -> Any:
            # Before `<<` is resolved, whose keys may be overridden.
            node = super().compose_mapping_node(anchor)
            lines: dict[Any, list[int]] = {}
            names: dict[Any, str] = {}
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag not in _WITHOUT_VALUE:
                    value = self.construct_object(key)  # so that yes and true are one key
                    names.setdefault(value, key.value)
                    lines.setdefault(value, []).append(key.start_mark.line)
            self.duplicates += [
                f"{names[value]} stands {_describe_lines(places, self.first_line)}, but only one of"
                " them can count. Keep one."
                for value, places in lines.items()
                if len(places) > 1
            ]
            return node

    return StrictLoader
