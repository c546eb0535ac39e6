"""Read the prompts of a plan: a list in the plan, a file, or the files of VBench and
EvalCrafter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from skipguide.files.folders import contents
from skipguide.method import validate
from skipguide.method.protocols import PlainData, ReadOnlyData
from skipguide.runs import prompt_files
from skipguide.runs.prompt_files import Row
from skipguide.runs.prompt_rows import ALIASES, ROW_SETTINGS, Prompt, split_row


class Entry(BaseModel):
    """A prompt of a plan with an image, or with seeds or settings of its own."""

    model_config = ConfigDict(extra="allow", strict=True)

    prompt: str | None = None
    image: str | None = Field(default=None, min_length=1)


class PromptFile(BaseModel):
    """A file of prompts, and the part of it that is taken."""

    model_config = ConfigDict(extra="forbid", strict=True)

    file: str = Field(min_length=1)
    dimensions: list[str] | None = None  # VBench's: only prompts of these
    images: str | None = None  # folder of the pictures that a file names, as VBench-I2V's does
    first: int | None = Field(default=None, ge=1)  # only so many


ENTRY_KEYS = ("prompt", "image", "seed", "seeds", *ROW_SETTINGS, *ALIASES)


def parse_prompt_list(entries: Iterable[str | Entry], base: Path) -> list[Prompt]:
    """Return the prompts that stand in a plan.

    Args:
        base: the folder from which relative paths count.

    Raises:
        Problems: for entries that are empty, and for what none can have.
    """
    written = [
        Entry(prompt=entry, image=None) if isinstance(entry, str) else entry for entry in entries
    ]
    problems = validate.ProblemCollector()
    found: list[Prompt] = []
    for number, entry in enumerate(written, 1):
        with problems.attempt():
            found.append(_parse_entry(entry, f"prompt {number} of the plan", base))
    problems.raise_all()
    return _deduplicate(found)


def _parse_entry(entry: Entry, place: str, base: Path) -> Prompt:
    more: dict[str, Any] = entry.model_extra or {}
    if unknown := [name for name in more if name not in ENTRY_KEYS]:
        advice = validate.did_you_mean(unknown[0], ENTRY_KEYS, "Remove it.")
        raise ValueError(
            f"prompts of a plan must be texts, or have {', '.join(ENTRY_KEYS)}, but {place} has"
            f" {', '.join(unknown)}. {advice}"
        )
    if entry.prompt is entry.image is None:
        raise ValueError(
            f"a prompt of a plan must have a text, an image or both, but {place} has neither."
            " Write a text."
        )
    settings, seeds, _ = split_row(more, place)
    image = base / entry.image if entry.image else None
    return Prompt(entry.prompt, image, {}, settings, seeds, place)


def read(source: PromptFile, base: Path) -> list[Prompt]:
    """Read the prompts of a file or folder, each once, in its order.

    Pictures lie in the folder `images`; without one they count from `base`, or from the folder of
    the file where there is no such picture.

    - a text file: one prompt per line (VBench's `all_dimension.txt`, EvalCrafter's
      `prompt700.txt`); empty lines and lines that begin with # count for nothing, and \\# is the
      sign itself
    - .csv, .tsv: a table whose first line names the columns: `prompt`, `image` for the picture to
      start from, `id`; `seed` and the names of settings, as `negative_prompt` and `num_frames`, for
      the videos of a row; all others are kept beside the prompt, as its tags
    - .jsonl: a text, or a row with the same names, on each line; here and in tables, too, lines
      that begin with # are comments between rows
    - VBench's `VBench_full_info.json`, and VBench-I2V's: a list of `{"prompt_en", "dimension",
    "image_name"}`
    - EvalCrafter's `metadata.json`: `{"0000": {"prompt", "attributes"}}`
    - EvalCrafter's folder `prompts`: `0000.txt` and so on, one prompt each
    - a JSON list of texts, or of rows with the names of a table

    Args:
        base: the folder from which relative paths count.

    Raises:
        ValueError: if it cannot be read, is none of these, has no prompts, or lacks the dimension
            or image asked for; for what is wrong with its rows, all at once.
    """
    path = base / source.file
    found = list(_read_text_folder(path) if path.is_dir() else _read_prompt_file(path))
    if source.dimensions:
        found = _select_dimensions(found, source.dimensions, path)
    if source.images is not None:
        found = [_attach_image(prompt, path) for prompt in found]
        folders = (base / source.images,)
    else:
        folders = (base, path.parent)
    found = [_place_image(prompt, folders) for prompt in found]
    found = _deduplicate(found)[: source.first]
    if not found:
        raise ValueError(
            f"a file of prompts must have at least one, but {path} has none. Write one per line."
        )
    return found


def _read_text_folder(folder: Path) -> Iterator[Prompt]:
    files = sorted(path for path in contents(folder) if not path.name.startswith("."))
    others = [path.name for path in files if path.suffix.lower() != ".txt" or path.is_dir()]
    if others:
        raise ValueError(
            f"a folder of prompts must hold .txt files only, but {folder} holds"
            f" {', '.join(others[:5])}{' and more' if len(others) > 5 else ''}. Move the rest"
            " elsewhere."
        )
    for path in files:
        text = prompt_files.read_text(path).strip()
        if not text:
            raise ValueError(
                f"every file of a folder of prompts must hold one, but {path} is empty. Remove it."
            )
        yield Prompt(text, tags={"ids": [path.stem]})


def _read_prompt_file(path: Path) -> Iterator[Prompt]:
    problems, found = validate.ProblemCollector(), []
    for row in prompt_files.read_rows(path, problems):
        with problems.attempt():
            found.append(_parse_row(row, path))
    problems.raise_all()
    yield from found


def _parse_row(row: Row, path: Path) -> Prompt:
    """Return the prompt in one row of a file of any kind."""
    content, place = row.content, f"{row.place} of {path}"
    if isinstance(content, str):
        return Prompt(content, place=place)
    if isinstance(content, Mapping):
        settings, seeds, used = split_row(content, place)
        rest = {name: value for name, value in content.items() if name not in used}
        for name, tags_of in _TAG_PARSERS.items():
            if isinstance(content.get(name), str):
                _check_tags(row.place, content, path)
                text, image = content[name].strip(), content.get("image")
                tags = tags_of(row.number, rest)
                return Prompt(text, Path(image) if image else None, tags, settings, seeds, place)
        if isinstance(content.get("image"), str):
            tags = _row_tags(row.number, rest)
            return Prompt(None, Path(content["image"]), tags, settings, seeds, place)
    raise ValueError(
        "prompts must be texts, VBench's rows with prompt_en, or rows with prompt, but"
        f" {place} is {str(content)[:80]!r}. Give it a prompt."
    )


def _place_image(prompt: Prompt, folders: tuple[Path, ...]) -> Prompt:
    if prompt.image is None:
        return prompt
    places = [folder / prompt.image for folder in folders]
    image = next((place for place in places if place.is_file()), places[0])
    return dataclasses.replace(prompt, image=image)


def _check_tags(place: str, row: ReadOnlyData, path: Path) -> None:
    dimension, names = row.get("dimension") or [], (row.get("image_name"), row.get("image"))
    listed = [dimension] if isinstance(dimension, str) else dimension
    if not isinstance(listed, list) or not all(
        isinstance(entry, str) for entry in [*listed, *(name or "" for name in names)]
    ):
        raise ValueError(
            "a row of prompts must have texts as dimension, image_name and image, but"
            f" {place} of {path} has {dimension!r} and {names[0] or names[1]!r}. Correct it."
        )


def _vbench_tags(number: str | None, row: ReadOnlyData) -> PlainData:
    names = ("dimension", "auxiliary_info", "image_type", "image_name")
    return _list_dimension({name: row[name] for name in names if row.get(name)})


def _row_tags(number: str | None, row: ReadOnlyData) -> PlainData:
    """Return all that a row says beside prompt and image; `id` is what it is called."""
    id = row.get("id", number)
    ids = {} if id is None else {"ids": [str(id)]}
    more = {
        str(name): value
        for name, value in row.items()
        if name not in ("prompt", "image", "id") and value not in (None, "", [], {})
    }
    return _list_dimension({**ids, **more})


def _list_dimension(tags: PlainData) -> PlainData:
    """Make a list of `dimension`, which a table has as a text."""
    if isinstance(tags.get("dimension"), str):
        tags["dimension"] = [name.strip() for name in tags["dimension"].split(",")]
    return tags


_TAG_PARSERS: dict[str, Callable[[str | None, ReadOnlyData], PlainData]] = {
    "prompt_en": _vbench_tags,
    "prompt": _row_tags,
}


def _select_dimensions(found: list[Prompt], wanted: list[str], path: Path) -> list[Prompt]:
    known = sorted({name for prompt in found for name in prompt.tags.get("dimension", ())})
    missing = [name for name in wanted if name not in known]
    if missing:
        raise ValueError(
            f"dimensions must be some of {', '.join(known) or 'those of VBench_full_info.json'},"
            f" but got {', '.join(missing)}, which {path} does not have. Correct them."
        )
    return [prompt for prompt in found if set(wanted) & set(prompt.tags.get("dimension", ()))]


def _attach_image(prompt: Prompt, path: Path) -> Prompt:
    name = prompt.tags.get("image_name")
    if prompt.image is not None:
        return prompt
    if not name:
        raise ValueError(
            f"images needs a file whose every row has an image_name, but {prompt.text!r} of {path}"
            " has none. Take VBench-I2V's newest file, or choose its dimensions."
        )
    return dataclasses.replace(prompt, image=Path(name))


def _deduplicate(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Return each prompt once with the tags of all its rows; both benchmarks repeat some."""
    found: dict[tuple[str, tuple[int, ...]], Prompt] = {}
    for prompt in prompts:
        at = (prompt.identity(), prompt.seeds)
        first = found.get(at, prompt)
        found[at] = dataclasses.replace(first, tags=_merge_tags(first.tags, prompt.tags))
    return list(found.values())


def _merge_tags(tags: PlainData, more: PlainData) -> PlainData:
    joined = {**more, **tags}
    for name in ("ids", "dimension"):
        if name in tags and name in more:
            joined[name] = list(dict.fromkeys([*tags[name], *more[name]]))
    return joined
