"""Read what a row of prompts says beside text and picture: settings, seeds and tags.

Settings are by the names of `skipguide generate`, as `num_frames`; they hold for the videos of this
row, over those of the plan or the command line. What belongs to the model, which is loaded once for
all, is a tag, as are all names that no setting has.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skipguide.generate.flags import GuidanceFlags
from skipguide.generate.settings import GenerationSettings, validate_settings
from skipguide.generate.words import number_type, parse_text, text_fields
from skipguide.method.protocols import PlainData, ReadOnlyData
from skipguide.method.validate import ProblemCollector
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
        if not seeds:
            raise ValueError(
                f"{where} must be ranges from a number to a higher one, as in 0:4 (which is 0, 1,"
                f" 2, 3), but got {text!r}, which is empty. Correct it."
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
        Problems: for seeds that are none, a setting that is said twice, and values that no setting
            can have.
    """
    settings: PlainData = {}
    seeds: tuple[int, ...] = ()
    used: set[str] = set()
    problems = ProblemCollector()
    for name, value in row.items():
        meant = _meant_by(str(name))
        if value is None or value == "" or (meant not in ROW_SETTINGS and meant not in _SEEDS):
            continue
        used.add(str(name))
        with problems.attempt():
            if meant in _SEEDS:
                seeds = tuple(dict.fromkeys((*seeds, *parse_seeds(value, f"{name} of {place}"))))
                continue
            if meant in settings:
                raise ValueError(
                    f"a row of prompts must say a setting once, but {place} has {meant} twice, once"
                    f" as {name}. Remove one."
                )
            settings[meant] = _parse_cell(meant, value)
            _check_cell(meant, settings[meant], place)
    problems.raise_all()
    return settings, seeds, used


def _meant_by(name: str) -> str:
    """Return the setting that a column means: spreadsheets have Negative Prompt, or num-frames."""
    plain = re.sub(r"[\s-]+", "_", name.strip().lower())
    return ALIASES.get(plain, plain)


def _check_cell(name: str, value: Any, place: str) -> None:
    """Check a value by itself; what goes with what is known with the rest of the settings.

    Raises:
        ValueError: for what the setting cannot have, with the row where it is to be corrected.
    """
    files = ("schedule", "preset", "mask")
    if name in files and isinstance(value, str):  # which is read later
        return
    try:
        validate_settings({"prompt": "", name: value})
    except ValueError as error:
        wrong = re.match(rf"{name} must be .*?, but got .*(?=\. )", str(error), re.DOTALL)
        if wrong is None:
            return
        decimal = isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d+,\d+\s*", value)
        number = decimal and number_type(name) is float
        advice = f"Write it with a point: {value.strip().replace(',', '.')}" if number else (
            "Correct it"
        )  # fmt: skip
        raise ValueError(f"{place}: {wrong[0]}. {advice}.") from None


def _parse_cell(name: str, value: Any) -> Any:
    if not isinstance(value, str) or name not in text_fields():
        return value
    return parse_text(name, _without_zeros(value) if number_type(name) is int else value)


def describe_columns(found: Iterable[Prompt], name: str = "the list of prompts") -> str | None:
    """Say once what rows say beside their prompts: what applies to their videos, and what does not.

    Args:
        name: of the file.

    Returns:
        A note; None where there is nothing but what benchmarks say.
    """
    prompts = list(found)
    applied = {name for prompt in prompts for name in prompt.settings}
    applied |= {"seed" for prompt in prompts if prompt.seeds}
    tags = sorted({name for prompt in prompts for name in prompt.tags} - {*_USUAL_TAGS})
    parts = [f"sets {_listed(sorted(applied))} row by row"] if applied else []
    if tags:
        are = "are kept as tags and change" if tags[1:] else "is kept as a tag and changes"
        kept = f"{_listed(tags)} {are} nothing"
        parts.append(kept if applied else f"sets nothing row by row; {kept}")
    if not parts:
        return None
    known = (*ROW_SETTINGS, *_SEEDS)
    near = {tag: difflib.get_close_matches(tag, known, 1, 0.85) for tag in tags}
    meant = [f"Did you mean {close[0]} by {tag}?" for tag, close in near.items() if close]
    return " ".join([f"{name} {'; '.join(parts)}.", *meant])


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


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
