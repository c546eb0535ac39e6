"""What a row of prompts says beside text and picture: settings and seeds of its videos, and tags.

Settings are by the names of `skipguide generate`, as `num_frames`; they hold for the videos of this
row, over those of the plan or the command line. What belongs to the model, which is loaded once for
all, is a tag, as are all names that no setting has.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skipguide.generate.flags import GuidanceFlags
from skipguide.generate.settings import GenerationSettings
from skipguide.generate.words import number_type, parse_text, text_fields
from skipguide.method.protocols import PlainData, ReadOnlyData
from skipguide.models.settings import PER_VIDEO, ModelSettings
from skipguide.runs.ledger import to_json

ALIASES = {"num_inference_steps": "steps"}  # words of guide() -> of a generation
_SEEDS = ("seed", "seeds")
# What is the prompt itself, or is decided when the model is loaded.
_OF_ALL = {"prompt", "image", "seed", *ModelSettings.model_fields} - {*PER_VIDEO}
ROW_SETTINGS = tuple(
    name
    for name in (*GenerationSettings.model_fields, *GuidanceFlags.model_fields)
    if name not in _OF_ALL
)
_SEED_GRAMMAR = "whole numbers from 0 to 2^63 - 1, as in 7, or 0,3,7, or 0:4 (which is 0, 1, 2, 3)"
_RANGE = re.compile(r"([0-9]+)\s*:\s*([0-9]+)")
_WHOLE = re.compile(r"[0-9]+(\.0+)?")  # tables with gaps have 7.0 for 7
MAX_SEEDS = 100_000
# What files of benchmarks say, which nobody takes for a setting.
_USUAL_TAGS = ("ids", "id", "dimension", "auxiliary_info", "image_type", "image_name", "attributes")


@dataclass(frozen=True)
class Prompt:
    """The text of a video, the image that it starts from, and what its row says beside them."""

    text: str | None
    image: Path | None = None
    # What the file says beside it and decides nothing: dimensions, attributes, its number.
    tags: PlainData = field(default_factory=dict)
    settings: PlainData = field(default_factory=dict)  # of its videos alone, as for `generate`
    seeds: tuple[int, ...] = ()  # of its videos; none are those of the plan
    place: str = field(default="", compare=False)  # where it stands, for errors

    def identity(self) -> str:
        """Return what tells it from other prompts, whatever its seeds and tags."""
        image = None if self.image is None else str(self.image)
        return to_json([self.text, image, self.settings])


def parse_seeds(value: Any, where: str = "seeds") -> tuple[int, ...]:
    """Return seeds: 7, "7", "0,3,7", "0:4" for 0, 1, 2, 3, or a list of those; each once.

    Args:
        where: what has them, for the error.

    Raises:
        ValueError: if it is something else, or no seed at all.
    """
    listed = value if isinstance(value, (list, tuple)) else str(value).split(",")
    found: dict[int, None] = {}
    for part in listed:
        found.update(dict.fromkeys(_parse_seed(part, value, where)))
    return tuple(found)


def _parse_seed(part: Any, value: Any, where: str) -> Iterable[int]:
    text = "" if isinstance(part, bool) else str(part).strip()
    if span := _RANGE.fullmatch(text):
        seeds: Iterable[int] = range(int(span[1]), int(span[2]))
        if len(range(int(span[1]), min(int(span[2]), 2**63))) > MAX_SEEDS:
            raise ValueError(
                f"{where} must be {MAX_SEEDS} at most, but got {value!r}. Take a shorter range."
            )
    else:
        seeds = [int(_without_zeros(text))] if _WHOLE.fullmatch(text) else []
    if not seeds or not all(seed < 2**63 for seed in seeds):
        raise ValueError(f"{where} must be {_SEED_GRAMMAR}, but got {value!r}. Correct it.")
    return seeds


def _without_zeros(text: str) -> str:
    return text.partition(".")[0] if _WHOLE.fullmatch(text.strip()) else text


def split_row(row: ReadOnlyData, place: str) -> tuple[PlainData, tuple[int, ...], set[str]]:
    """Return the settings and seeds in a row, and the names that said them.

    Args:
        row: names and values; texts of a table, or what JSON and YAML have.
        place: where it stands, for errors.

    Raises:
        ValueError: for seeds that are none, or a setting that is said twice.
    """
    settings: PlainData = {}
    seeds: tuple[int, ...] = ()
    used: set[str] = set()
    for name, value in row.items():
        meant = ALIASES.get(str(name), str(name))
        if value is None or value == "" or (meant not in ROW_SETTINGS and meant not in _SEEDS):
            continue
        used.add(str(name))
        if meant in _SEEDS:
            seeds = tuple(dict.fromkeys((*seeds, *parse_seeds(value, f"{name} of {place}"))))
        elif meant in settings:
            raise ValueError(
                f"a row of prompts must say a setting once, but {place} has {meant} twice, once as"
                f" {name}. Remove one."
            )
        else:
            settings[meant] = _parse_cell(meant, value)
    return settings, seeds, used


def _parse_cell(name: str, value: Any) -> Any:
    if not isinstance(value, str) or name not in text_fields():
        return value
    return parse_text(name, _without_zeros(value) if number_type(name) is int else value)


def describe_columns(found: Iterable[Prompt]) -> str | None:
    """Say once what rows say beside their prompts: what applies to their videos, and what does not.

    Returns:
        A note; None where there is nothing but what benchmarks say.
    """
    prompts = list(found)
    applied = {name for prompt in prompts for name in prompt.settings}
    applied |= {"seed" for prompt in prompts if prompt.seeds}
    tags = {name for prompt in prompts for name in prompt.tags} - {*_USUAL_TAGS}
    parts = [f"{', '.join(sorted(applied))} for the videos of a row"] if applied else []
    if tags:
        parts.append(f"{', '.join(sorted(tags))} as tags, which change nothing")
    if not parts:
        return None
    known = (*ROW_SETTINGS, *_SEEDS)
    near = {tag: difflib.get_close_matches(tag, known, 1, 0.85) for tag in sorted(tags)}
    meant = [f"Did you mean {close[0]} by {tag}?" for tag, close in near.items() if close]
    return " ".join([f"the file of prompts has {', and '.join(parts)}.", *meant])


# --- in a ledger ----------------------------------------------------------------------------------

_IN_TAGS = "@settings"  # no column of a table; ledgers need no other table for it


def tags_for_ledger(prompt: Prompt) -> PlainData:
    """Return what a ledger keeps as the tags of a prompt: its settings are among them."""
    return {**prompt.tags, **({_IN_TAGS: prompt.settings} if prompt.settings else {})}


def tags_from_ledger(tags: ReadOnlyData) -> tuple[PlainData, PlainData]:
    """Return the tags and the settings in what a ledger has as the tags of a prompt."""
    settings = tags.get(_IN_TAGS)
    rest = {name: value for name, value in tags.items() if name != _IN_TAGS}
    return rest, dict(settings) if isinstance(settings, Mapping) else {}
