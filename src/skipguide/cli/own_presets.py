"""The presets of one's own: put one into their folder, take one out, list them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from skipguide.method import validate
from skipguide.method.protocols import PlainData

if TYPE_CHECKING:
    from skipguide.families.preset_files import PresetFile


def add(source: Path, name: str | None, overwrite: bool) -> tuple[Path, PresetFile]:
    """Copy a preset's file into the folder of one's own, and return where it is and what it says.

    Args:
        name: without ".toml"; None is that of the file.

    Raises:
        ValueError: for a file that is no preset, a name that is none, or one that another has.
    """
    from skipguide.families import preset_files, preset_folder
    from skipguide.files.atomic import atomic_replace

    file = preset_files.read_preset_file(source)
    wanted = source.stem if name is None else name
    if not preset_folder.is_preset_name(wanted):
        raise ValueError(
            f"the name of a preset must be a word that is no path, without {preset_folder.SUFFIX},"
            f" but got {wanted!r}. Write one, as in --name night."
        )
    target = preset_folder.preset_folder() / f"{wanted}{preset_folder.SUFFIX}"
    content = source.read_bytes()
    if target.exists() and not overwrite and target.read_bytes() != content:
        raise ValueError(
            f"the name of a preset must be a new one, but {wanted!r} is there already, with another"
            f" content ({target}). Pass --name, or --overwrite to replace it."
        )
    with atomic_replace(target) as (part,):
        part.write_bytes(content)
    return target, file


def remove(name: str) -> Path:
    """Remove a preset from the folder of one's own, and return where it was.

    Raises:
        ValueError: if there is none of this name.
    """
    from skipguide.families import preset_folder

    known = preset_folder.preset_names()
    if name not in known:
        advice = validate.did_you_mean(name, known, "`skipguide presets` lists them.")
        raise ValueError(
            f"the preset must be one of your own, in {preset_folder.preset_folder()}"
            f" ({', '.join(known) or 'which has none'}), but got {name!r}. {advice}"
        )
    target = preset_folder.preset_folder() / f"{name}{preset_folder.SUFFIX}"
    target.unlink()
    return target


def list_own(model: str, pipeline: str) -> list[PlainData]:
    """Return the presets of one's own that match, in the rows of `tables`.

    A file that is no preset has an `error` and its name alone.

    Args:
        model, pipeline: as for `tables.preset_rows`.
    """
    from skipguide.families import preset_files, preset_folder, tables

    found: list[PlainData] = []
    for name in preset_folder.preset_names():
        try:
            file = preset_files.read_preset_file(name)
        except (ValueError, OSError) as error:
            found += [{"name": name, "error": str(error)}] if not model + pipeline else []
            continue
        if tables.matches(file.row, model, pipeline, name):
            answer = {"verdict": file.provenance.verdict, "measured": file.describe_answer(),
                      "sentence": file.provenance.sentence}  # fmt: skip
            row = {**tables.preset_row(file.row), "name": name}
            found.append({**row, "source": preset_files.source_of(file), **answer})
    return found
