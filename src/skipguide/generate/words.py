"""Settings as text: the words of a command line and the cells of a table become their values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, get_args

from skipguide.generate.flags import GuidanceFlags
from skipguide.generate.settings import GenerationSettings

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

_SWITCHES = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def text_fields() -> dict[str, FieldInfo]:
    """Return the settings that can be said as text, in their order; flags stand for `guidance`.

    The prompt is not among them.
    """
    found: dict[str, FieldInfo] = {}
    for name, field in GenerationSettings.model_fields.items():
        found |= GuidanceFlags.model_fields if name == "guidance" else {name: field}
    del found["prompt"]
    return found


_FIELDS = text_fields()


def parse_text(name: str, value: str) -> Any:
    """Return the value of a setting that came as text: a number where the setting is one.

    Text that cannot be read stays text; the settings then say what is wrong with it.
    """
    if is_switch(name):
        return _SWITCHES.get(value.strip().lower(), value)
    try:
        return number_type(name)(value)
    except ValueError:
        return value


def is_switch(name: str) -> bool:
    """Return whether a setting is true or false."""
    return bool in _leaf_types(_FIELDS[name].annotation)


def number_type(name: str) -> type[int] | type[float] | type[str]:
    """Return the type of a setting as text: of several the one that says most."""
    leaves = list(_leaf_types(_FIELDS[name].annotation))
    return str if str in leaves else float if float in leaves else int if int in leaves else str


def _leaf_types(annotation: Any) -> Iterator[Any]:
    parts = get_args(annotation)
    if not parts:
        yield annotation
    for part in parts:
        yield from _leaf_types(part)
