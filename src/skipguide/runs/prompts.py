"""Read the prompts of a plan: a list in the plan, a file, or the files of VBench and
EvalCrafter."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from skipguide.method.protocols import PlainData, ReadOnlyData


@dataclass(frozen=True)
class Prompt:
    """The text of a video and the image that it starts from."""

    text: str | None
    image: Path | None = None
    tags: PlainData = field(
        default_factory=dict
    )  # what the file says beside it: dimensions, attributes, its number


class Entry(BaseModel):
    """A prompt of a plan that has an image."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str | None = None
    image: str | None = Field(default=None, min_length=1)


class PromptFile(BaseModel):
    """A file of prompts, and the part of it that is taken."""

    model_config = ConfigDict(extra="forbid", strict=True)

    file: str = Field(min_length=1)
    dimensions: list[str] | None = None  # VBench's: only prompts of these
    images: str | None = None  # folder of the pictures that a file names, as VBench-I2V's does
    first: int | None = Field(default=None, ge=1)  # only so many


def parse_prompt_list(entries: Iterable[str | Entry], base: Path) -> list[Prompt]:
    """Return the prompts that stand in a plan.

    Args:
        base: the folder from which relative paths count.

    Raises:
        ValueError: if one is empty.
    """
    written = [
        Entry(prompt=entry, image=None) if isinstance(entry, str) else entry for entry in entries
    ]
    if any(entry.prompt is entry.image is None for entry in written):
        raise ValueError(
            "a prompt of a plan must have a text, an image or both, but one has neither. Write a"
            " text."
        )
    return _deduplicate(
        Prompt(entry.prompt, base / entry.image if entry.image else None) for entry in written
    )


def read(source: PromptFile, base: Path) -> list[Prompt]:
    """Read the prompts of a file or folder, each once, in its order.

    - a text file: one prompt per line (VBench's `all_dimension.txt`, EvalCrafter's `prompt700.txt`)
    - VBench's `VBench_full_info.json`, and VBench-I2V's: a list of `{"prompt_en", "dimension",
    "image_name"}`
    - EvalCrafter's `metadata.json`: `{"0000": {"prompt", "attributes"}}`
    - EvalCrafter's folder `prompts`: `0000.txt` and so on, one prompt each
    - a JSON list of texts

    Args:
        base: the folder from which relative paths count.

    Raises:
        ValueError: if it cannot be read, is none of these, has no prompts, or lacks the dimension
            or image asked for.
    """
    path = base / source.file
    found = list(_read_text_folder(path) if path.is_dir() else _read_prompt_file(path))
    if source.dimensions:
        found = _select_dimensions(found, source.dimensions, path)
    if source.images is not None:
        found = [_attach_image(prompt, base / source.images, path) for prompt in found]
    found = _deduplicate(found)[: source.first]
    if not found:
        raise ValueError(
            f"a file of prompts must have at least one, but {path} has none. Write one per line."
        )
    return found


def _read_text_folder(folder: Path) -> Iterator[Prompt]:
    for path in sorted(folder.glob("*.txt")):
        text = _read_text(path).strip()
        if text:
            yield Prompt(text, tags={"ids": [path.stem]})


def _read_prompt_file(path: Path) -> Iterator[Prompt]:
    text = _read_text(path)
    if path.suffix.lower() != ".json":
        yield from (Prompt(line.strip()) for line in text.splitlines() if line.strip())
        return
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"a file of prompts named .json must be JSON, but {path} is not: {error}. Correct it."
        ) from None
    rows = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    for number, row in rows:
        yield _parse_row(str(number), row, path)


def _parse_row(number: str, row: Any, path: Path) -> Prompt:
    """Return the prompt in one row of a JSON file of any kind."""
    if isinstance(row, str):
        return Prompt(row)
    for name, tags_of in _TAG_PARSERS.items():
        if isinstance(row, Mapping) and isinstance(row.get(name), str):
            _check_tags(number, row, path)
            return Prompt(row[name].strip(), tags=tags_of(number, row))
    raise ValueError(
        "prompts must be texts, VBench's rows with prompt_en or EvalCrafter's with prompt, but row "
        f"{number} of {path} is {str(row)[:80]!r}. Take one of these files, or one text per line."
    )


def _check_tags(number: str, row: ReadOnlyData, path: Path) -> None:
    dimension, image = row.get("dimension") or [], row.get("image_name") or ""
    if not isinstance(dimension, list) or not all(
        isinstance(entry, str) for entry in [*dimension, image]
    ):
        raise ValueError(
            "a row of VBench must have a list of texts as dimension and a text as image_name, but"
            f" row {number} of {path} has {dimension!r} and {image!r}. Take one of its own files."
        )


def _vbench_tags(number: str, row: ReadOnlyData) -> PlainData:
    names = ("dimension", "auxiliary_info", "image_type", "image_name")
    return {name: row[name] for name in names if row.get(name)}


def _evalcrafter_tags(number: str, row: ReadOnlyData) -> PlainData:
    return {"ids": [number], **({"attributes": row["attributes"]} if row.get("attributes") else {})}


_TAG_PARSERS: dict[str, Callable[[str, ReadOnlyData], PlainData]] = {
    "prompt_en": _vbench_tags,
    "prompt": _evalcrafter_tags,
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


def _attach_image(prompt: Prompt, folder: Path, path: Path) -> Prompt:
    name = prompt.tags.get("image_name")
    if not name:
        raise ValueError(
            f"images needs a file whose every row has an image_name, but {prompt.text!r} of {path}"
            " has none. Take VBench-I2V's newest file, or choose its dimensions."
        )
    return Prompt(prompt.text, folder / name, prompt.tags)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise ValueError(
            f"prompts must be a readable file, but {path} is not: {reason}. Check it."
        ) from None


def _deduplicate(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Return each prompt once with the tags of all its rows; both benchmarks repeat some."""
    found: dict[tuple[str | None, Path | None], Prompt] = {}
    for prompt in prompts:
        at = (prompt.text, prompt.image)
        found[at] = Prompt(*at, _merge_tags(found[at].tags, prompt.tags)) if at in found else prompt
    return list(found.values())


def _merge_tags(tags: PlainData, more: PlainData) -> PlainData:
    joined = {**more, **tags}
    for name in ("ids", "dimension"):
        if name in tags and name in more:
            joined[name] = list(dict.fromkeys([*tags[name], *more[name]]))
    return joined
