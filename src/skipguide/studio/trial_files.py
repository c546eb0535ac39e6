"""The files that a trial may name: those of the settings that its run has already."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from skipguide.families.preset_folder import preset_names
from skipguide.method.protocols import PlainData, ReadOnlyData
from skipguide.models import parsing
from skipguide.runs import Run
from skipguide.tuning.report import shown

_OF_MODEL = ("base_model", "component")


def of_model(run: Run, model: str) -> PlainData:
    """Return what a model of the run was loaded with beside its own file."""
    first = next((entry.complete for entry in run.settings() if entry.model == model), {})
    return {name: first[name] for name in _OF_MODEL if first.get(name) is not None}


def preset_choices(folder: Path) -> list[str]:
    """Return the presets that a trial may name: those of one's own, and that of a tune of the run.

    Args:
        folder: the run directory.
    """
    return [*([shown.PRESET] if (folder / shown.PRESET).is_file() else []), *preset_names()]


def check_files(run: Run, parameters: ReadOnlyData) -> None:
    """Check that a trial names no file of the machine that the run does not name.

    Raises:
        ValueError: if it does.
    """
    wanted_preset, presets = parameters.get("preset"), preset_choices(run.folder)
    if wanted_preset is not None and wanted_preset not in presets:
        raise ValueError(
            "the preset of a trial must be one of your own"
            f" ({', '.join(presets) or 'there is none'}), but got {str(wanted_preset)!r}. Choose"
            " one of them, or leave it out."
        )
    known = [entry.complete for entry in run.settings()]
    wanted = {
        "lora": _paths(parameters.get("lora")),
        "component": parsing.parse_components(parameters.get("component")) or (),
        "base_model": filter(None, [parameters.get("base_model")]),
    }
    allowed = {
        "lora": {path for one in known for path in _paths(one.get("lora"))},
        "component": {entry for one in known for entry in one.get("component") or ()},
        "base_model": {one.get("base_model") for one in known},
    }
    for name, values in wanted.items():
        unknown = [value for value in values if value not in allowed[name]]
        if unknown:
            has = ", ".join(sorted(filter(None, allowed[name]))) or "none"
            raise ValueError(
                f"the {name} of a trial must be one of the run, which has {has}, but got"
                f" {unknown[0]!r}. Choose one of them, or leave it out."
            )


def _paths(loras: Any) -> Iterable[str]:
    entries = parsing.parse_loras(loras) or ()
    return [str(entry.get("path")) if isinstance(entry, dict) else str(entry) for entry in entries]
