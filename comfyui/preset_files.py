"""Presets in files of one's own, as `skipguide tune` writes them, for models of ComfyUI."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ._skipguide.families import preset_files, presets, rows
from ._skipguide.families.preset_files import PresetFile
from ._skipguide.families.preset_folder import SUFFIX, preset_names
from ._skipguide.families.presets import Preset
from .models import BlockChain
from .node_request import SKIPS

NONE = "none"


def file_choices(folder: Path) -> list[str]:
    """Return what a node offers: the files of a folder, and the names of ~/.config's.

    Args:
        folder: for presets in ComfyUI's user folder.
    """
    there = sorted(path.name for path in folder.glob(f"*{SUFFIX}") if path.is_file())
    return [*there, *preset_names()] or [NONE]


def read_choice(choice: str, path: str, folder: Path) -> PresetFile:
    """Read the preset that a node asks for.

    Args:
        choice: one of `file_choices`.
        path: in its place, if it is not empty.
        folder: as for `file_choices`.

    Raises:
        ValueError: for a file that is not there or no preset.
    """
    if path.strip():
        return preset_files.read_preset_file(path.strip())
    if choice == NONE:
        raise ValueError(
            f"the preset must be a file, but none was chosen. Put one into {folder}, run"
            " `skipguide presets --add tune.toml`, or write its path."
        )
    return preset_files.read_preset_file(choice, folder)


def row_for(file: PresetFile, chain: BlockChain) -> Preset:
    """Return the setting of a preset's file for a model.

    Raises:
        ValueError: if it is for a model of another family or size, or needs what nodes have not.
    """
    row = file.row
    known = {name for family in rows.FAMILIES for name in family.pipelines
             if {*family.pipelines} & {*chain.family.published_as}}  # fmt: skip
    sized = row if chain.width else dataclasses.replace(row, width=0)  # this one does not say
    fits = presets.fits_size(sized, chain.depth, chain.width, {**row.config, **chain.config})
    if not {*row.pipelines} & {*known, *chain.family.published_as} or not fits:
        own = f" and width {chain.width}" if chain.width and row.width else ""
        raise ValueError(
            f"the preset must be for the model, but {file.name}{SUFFIX} is for {row.model}"
            f" ({' or '.join(row.pipelines)} of {presets.describe_size(row.depth, row.width)}), and"
            " this is"
            f" {chain.describe()}{own}. Choose another preset, or measure the layers with Skip"
            " Layer Map."
        )
    skips = [row.skip, *(entry.get("skip", "residual") for entry in row.schedule)]
    if row.axis or row.terms or not set(skips) <= set(SKIPS):
        raise ValueError(
            f"{file.name}{SUFFIX} skips along one axis, or in a way that these nodes do not have:"
            f" they have {' and '.join(SKIPS)} of whole blocks. Choose another preset."
        )
    return row


def describe(file: PresetFile, lines: Sequence[str] = ()) -> str:
    """Return what a preset says, for the node."""
    said = [f"{file.name}, for {file.row.model}: {file.describe()}", file.provenance.sentence]
    return "\n".join(filter(None, [*said, *lines]))
