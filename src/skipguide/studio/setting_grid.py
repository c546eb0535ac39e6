"""Relate the settings of a run: those that differ in one scale only, and the layers of one map."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from skipguide.generate.describe import COLUMNS, columns
from skipguide.generate.flags import SCALE_AXES
from skipguide.method.protocols import PlainData, ReadOnlyData
from skipguide.runs import Setting
from skipguide.runs.ledger import to_json

Steps = list[
    tuple[float, int]
]  # values of a scale in their order, and the id of the setting of each

_STG_PARAMETERS = (
    "layers",
    "skip",
    "start",
    "stop",
    "rescale",
    "orthogonalize",
)  # without meaning where all scales are 0
# What is on in some settings and off in others tells them apart also where it has one value.
_OFF_WHERE_MISSING = (
    "layers", "skip", "guidance", "random_share", "strength", "slg_layers", "term", "schedule",
    "cfg_rule", "nag", "restart", "exact", "audio_rescale", "skip_step",
)  # fmt: skip
_SLIDERS = (*SCALE_AXES, "guidance_scale", "rescale")


def effective_parameters(setting: Setting) -> PlainData:
    """Return the parameters of a setting without those that have no effect in it."""
    said = columns(setting.complete)
    return (
        said
        if _stg_is_on(said)
        else {name: value for name, value in said.items() if name not in _STG_PARAMETERS}
    )


def _stg_is_on(said: ReadOnlyData) -> bool:
    return any(said.get(name) for name in (*SCALE_AXES, "guidance", "schedule"))


def varying_parameters(settings: Sequence[Setting]) -> list[str]:
    """Return the parameters that differ among the settings that have them.

    What STG skips is among them if it is on in some settings and off in others.
    """
    said = [effective_parameters(setting) for setting in settings]

    def differ(name: str) -> bool:
        values = {to_json(entry[name]) for entry in said if name in entry}
        return len(values) > 1 or (
            name in _OFF_WHERE_MISSING and 0 < sum(name in entry for entry in said) < len(said)
        )

    return [name for name in COLUMNS if differ(name)]


def sliders(settings: Sequence[Setting]) -> dict[int, dict[str, Steps]]:
    """Return for each setting and scale the values for which there is a setting equal in all else.

    STG's scale 0 is the setting without STG that is equal in all else. That one has a slider itself
    where it is the zero of one scale only.
    """
    found: dict[int, dict[str, list[Steps]]] = {setting.id: {} for setting in settings}
    for name in _SLIDERS:
        for group in _groups_varying_only(settings, name):
            steps = sorted(
                (effective_parameters(setting).get(name, 0.0), setting.id) for setting in group
            )
            if len(steps) > 1:
                for setting in group:
                    found[setting.id].setdefault(name, []).append(steps)
    return {
        setting: {name: groups[0] for name, groups in by_name.items() if len(groups) == 1}
        for setting, by_name in found.items()
    }


def _groups_varying_only(settings: Sequence[Setting], name: str) -> Iterator[list[Setting]]:
    """Group the settings that differ in one parameter only."""
    groups: dict[str, list[Setting]] = {}
    for setting in settings:
        said = effective_parameters(setting)
        if name in said and (name not in SCALE_AXES or _stg_is_on(said)):
            groups.setdefault(_key_without(setting, name), []).append(setting)
    plain = {
        _key_without(setting, *SCALE_AXES): setting
        for setting in settings
        if not _stg_is_on(effective_parameters(setting))
    }
    for group in groups.values():
        others = [
            scale
            for scale in SCALE_AXES
            if scale != name and effective_parameters(group[0]).get(scale)
        ]
        zero = (
            None
            if name not in SCALE_AXES or others
            else plain.get(_key_without(group[0], *SCALE_AXES, *_STG_PARAMETERS))
        )
        yield [*group, *([zero] if zero else [])]


def _key_without(setting: Setting, *names: str) -> str:
    return setting.model + to_json(
        {key: value for key, value in effective_parameters(setting).items() if key not in names}
    )


def layer_maps(settings: Sequence[Setting]) -> list[PlainData]:
    """Return, per model, the settings with STG as a table: layers down, all else that varies
    across.

    Returns:
        `{"model", "rows", "columns", "cells"}`: cells[row][column] is the id of a setting, or None.
    """
    return [
        _layer_map(model, group) for model, group in _guided_by_model(settings).items() if group
    ]


def _guided_by_model(settings: Sequence[Setting]) -> dict[str, list[Setting]]:
    found: dict[str, list[Setting]] = {}
    for setting in settings:
        group = found.setdefault(setting.model, [])
        said = effective_parameters(setting)
        if any(said.get(name) for name in SCALE_AXES):  # else there is no one row to put it in
            group.append(setting)
    return found


def _layer_map(model: str, settings: Sequence[Setting]) -> PlainData:
    names = sorted(
        (name for name in varying_parameters(settings) if name != "layers"),
        key=lambda name: name in _SLIDERS,
    )
    said = {setting.id: effective_parameters(setting) for setting in settings}
    rows = sorted({_row_key(entry) for entry in said.values()}, key=_sort_key)
    columns = sorted({_column_key(entry, names) for entry in said.values()}, key=_sort_key)
    place = {
        (_row_key(entry), _column_key(entry, names)): setting for setting, entry in said.items()
    }
    return {
        "model": model,
        "rows": [", ".join(map(str, row)) for row in rows],
        "columns": [_format_column(column) for column in columns],
        "cells": [[place.get((row, column)) for column in columns] for row in rows],
    }


def _row_key(said: ReadOnlyData) -> tuple[Any, ...]:
    return tuple(said.get("layers") or ())


def _column_key(said: ReadOnlyData, names: Sequence[str]) -> tuple[tuple[str, Any], ...]:
    return tuple((name, _in_a_set(said[name])) for name in names if said.get(name) is not None)


def _in_a_set(value: Any) -> Any:
    """Write values with parts, rules and restarts, as text, because sets cannot hold them."""
    return _format_value(value) if isinstance(value, (list, dict)) else value


def _format_value(value: Any) -> str:
    """Write any value in words: the rule {name: apg, eta: 0.2} is "apg, eta 0.2"."""
    if isinstance(value, Mapping):
        named = [str(value["name"])] if "name" in value else []
        parts = (f"{key} {_format_value(part)}" for key, part in value.items() if key != "name")
        return ", ".join([*named, *parts])
    if isinstance(value, (list, tuple)):
        return "; ".join(map(_format_value, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


_COLUMN_PREFIXES = {
    "skip": "",
    "stg_scale": "s ",
    "spatial_scale": "spatial ",
    "temporal_scale": "temporal ",
    "guidance_scale": "g ",
}


def _format_column(column: Sequence[tuple[str, Any]]) -> str:
    words = (
        _COLUMN_PREFIXES.get(name, f"{name.replace('_', ' ')} ") + _format_value(value)
        for name, value in column
    )
    return ", ".join(words) or "all"


def _sort_key(values: Sequence[Any]) -> list[tuple[bool, float, str]]:
    """Sort numbers by size, 9 before 10, and the rest by the alphabet."""
    plain = [value[1] if isinstance(value, tuple) else value for value in values]
    numbers = [isinstance(value, (int, float)) for value in plain]
    return [
        (not is_number, float(value) if is_number else 0.0, str(value))
        for value, is_number in zip(plain, numbers, strict=True)
    ]
