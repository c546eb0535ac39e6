"""Find the files of a recorded video where they are now: the options of `reproduce`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from skipguide.generate.settings import GenerationSettings, validate_settings
from skipguide.method.protocols import PlainData
from skipguide.models import parsing


def move(settings: GenerationSettings, moved: Mapping[str, Any]) -> GenerationSettings:
    """Return recorded settings with the places where files are now.

    Args:
        moved: `model`, `base_model`, `device`; `component` as NAME=PATH, each in the place of the
            recorded one of that name; `lora` as PATH, each in the place of the recorded one with
            that file name, or all in the recorded order.

    Raises:
        ValueError: for a component or LoRA that the record does not have.
    """
    given: PlainData = {name: value for name, value in moved.items() if value}
    if given.get("component"):
        given["component"] = _move_components(settings.component or (), given["component"])
    if given.get("lora"):
        given["lora"] = _move_loras(settings, given["lora"])
    return validate_settings({**settings.model_dump(), **given}) if given else settings


def _move_components(recorded: Sequence[str], given: Sequence[str]) -> list[str]:
    places = dict(entry.split("=", 1) for entry in recorded)
    for entry in parsing.parse_components(list(given)):
        name, _, path = entry.partition("=")
        if name not in places:
            known = ", ".join(places) or "none"
            raise ValueError(
                f"--component must name one of the record, which has {known}, but got {name!r}."
                " Leave it out."
            )
        places[name] = path
    return [f"{name}={path}" for name, path in places.items()]


def _move_loras(settings: GenerationSettings, given: Sequence[str]) -> list[PlainData]:
    recorded = [lora.model_dump() for lora in settings.lora or ()]
    entries = [dict(entry) for entry in parsing.parse_loras(list(given)) or ()]
    names = [Path(lora["path"]).name for lora in recorded]
    by_name = all(names.count(Path(entry["path"]).name) == 1 for entry in entries)
    if not by_name and len(entries) != len(recorded):
        raise ValueError(
            f"--lora must be given for each LoRA of the record ({', '.join(names) or 'none'}), or"
            f" have its file name, but got {', '.join(given)}. Name them in the recorded order."
        )
    for place, entry in enumerate(entries):
        at = names.index(Path(entry["path"]).name) if by_name else place
        recorded[at] = {**recorded[at], **entry}
    return recorded


def check_places(settings: GenerationSettings, weights: Mapping[str, Any] | None = None) -> None:
    """Check that the model and the files of recorded settings are where the record says.

    Args:
        weights: of the record. With a hash in it the model was a folder; else it may be of the hub.

    Raises:
        ValueError: if one is not, with what says where it is.
    """
    from skipguide.models import loading, lora, parts

    try:
        found = parts.find_parts(settings)
        if loading.local_folder(found.base) is None and "sha256" in (weights or {}):
            raise ValueError(
                f"the model of the record was the folder {found.base}, and there is no such folder"
                " here."
            )
        for entry in settings.lora or ():
            lora.find_lora_file(entry.path)
    except ValueError as error:
        raise ValueError(
            f"{error} If it has moved since, say where it is with --model, --base-model,"
            " --component or --lora."
        ) from error


def lora_changes(then: GenerationSettings, now: GenerationSettings) -> list[str]:
    """Say which LoRAs are not those with which a video was made.

    Args:
        then: the settings of the record.
        now: those completed by loading.
    """
    pairs = zip(then.lora or (), now.lora or (), strict=False)
    return [
        f"the LoRA {new.path} is not that of the record: its sha256 is {new.sha256}, and was"
        f" {old.sha256}."
        for old, new in pairs
        if old.sha256 is not None and old.sha256 != new.sha256
    ]
