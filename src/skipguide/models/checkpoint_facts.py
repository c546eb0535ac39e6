"""Say of a model on this machine what it is, whether it is whole, and which preset it has."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch

from skipguide.families import lookup, presets, rows
from skipguide.families.schema import Family
from skipguide.files import hub_cache
from skipguide.method.protocols import PlainData
from skipguide.models.packages import is_installed


def describe_checkpoint(folder: Path) -> PlainData:
    """Return what is known of a model in diffusers layout; no weight is read.

    Returns:
        `pipeline` (its class), `family`, `missing_files`, `missing_packages`, `preset` (`name`,
        `setting`, `source`), and in `note` why there is no family, no preset or no look at all.
    """
    facts: PlainData = {
        "pipeline": None, "family": None, "missing_files": [], "missing_packages": [],
        "preset": None, "note": None,
    }  # fmt: skip
    try:
        index = hub_cache.read_index(folder)
        facts["missing_files"] = hub_cache.missing_files(folder, index)
    except (ValueError, OSError) as error:
        return {**facts, "note": str(error)}
    named = index.get("_class_name")
    facts["pipeline"] = named[-1] if isinstance(named, list) and named else named
    family = next((row for row in rows.FAMILIES if facts["pipeline"] in row.pipelines), None)
    if family is None:
        return {**facts, "note": _why_no_family(str(facts["pipeline"]))}
    facts["family"] = family.name
    facts["missing_packages"] = missing_packages(family)
    try:
        return {**facts, "preset": _find_preset(folder, family, str(facts["pipeline"]))}
    except ValueError as error:
        why = str(error).partition(" Choose the layer")[0].rpartition("but none is known")[2]
        return {**facts, "note": f"no preset: none is known{why}" if why else str(error)}
    except Exception as error:  # of a configuration that is cut off, or of a later version
        return {**facts, "note": f"its configuration cannot be read: {error}"}


def missing_packages(family: Family) -> list[str]:
    """Return what is to be installed for a family beside this package."""
    return [name for module, name in family.packages.items() if not is_installed(module)]


def _why_no_family(pipeline: str) -> str:
    if pipeline in rows.REFUSED_PIPELINES:
        return f"guide() cannot guide it: {rows.REFUSED_PIPELINES[pipeline]}"
    return "no family of skipguide"


def _find_preset(folder: Path, family: Family, pipeline: str) -> PlainData:
    """Look the preset up on the denoiser without weights, in a pipeline that is its name alone.

    Raises:
        ValueError: if no preset is published for it.
    """
    name = next(name for name in family.denoisers if (folder / name).is_dir())
    kind: Any = getattr(importlib.import_module(family.package), family.model)
    with torch.device("meta"):
        denoiser = kind.from_config(kind.load_config(folder / name, local_files_only=True))
    pipe: Any = type(pipeline, (), {})()
    setattr(pipe, name, denoiser)
    lookup.family_of(pipe)
    found = presets.preset_for(pipe)
    setting = presets.describe_preset(found)
    return {"name": found.name, "setting": setting, "source": found.source}
