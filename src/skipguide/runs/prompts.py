"""Read the prompts of a plan: a list in the plan, a file, or the files of VBench and
EvalCrafter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from skipguide.files.folders import contents
from skipguide.method.protocols import PlainData, ReadOnlyData
from skipguide.runs import prompt_files
from skipguide.runs.prompt_files import Row


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

    - a text file: one prompt per line (VBench's `all_dimension.txt`, EvalCrafter's
      `prompt700.txt`); empty lines and lines that begin with # count for nothing, and \\# is the
      sign itself
    - .csv, .tsv: a table whose first line names the columns: `prompt`, `image` for the picture to
      start from, `id`; all others are kept beside the prompt, as its tags
    - .jsonl: a text, or a row with the same names, on each line
    - VBench's `VBench_full_info.json`, and VBench-I2V's: a list of `{"prompt_en", "dimension",
    "image_name"}`
    - EvalCrafter's `metadata.json`: `{"0000": {"prompt", "attributes"}}`
    - EvalCrafter's folder `prompts`: `0000.txt` and so on, one prompt each
    - a JSON list of texts, or of rows with the names of a table

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
    folder = base if source.images is None else base / source.images
    if source.images is not None:
        found = [_attach_image(prompt, path) for prompt in found]
    found = [_place_image(prompt, folder) for prompt in found]
    found = _deduplicate(found)[: source.first]
    if not found:
        raise ValueError(
            f"a file of prompts must have at least one, but {path} has none. Write one per line."
        )
    return found


def ignored_tags(found: Iterable[Prompt], keys: Iterable[str]) -> str | None:
    """Say which tags of prompts look as if they decided something, and do not; None if none does.

    Args:
        keys: what a plan may say.
    """
    named = {name for prompt in found for name in prompt.tags}
    ignored = sorted(named & {*keys, "seed", "seeds"})
    if not ignored:
        return None
    return (
        f"the file of prompts has {', '.join(ignored)} beside them, which is kept but changes"
        " nothing: seeds and settings are those of the plan"
    )


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
    for row in prompt_files.read_rows(path):
        yield _parse_row(row, path)


def _parse_row(row: Row, path: Path) -> Prompt:
    """Return the prompt in one row of a file of any kind."""
    content = row.content
    if isinstance(content, str):
        return Prompt(content)
    if isinstance(content, Mapping):
        for name, tags_of in _TAG_PARSERS.items():
            if isinstance(content.get(name), str):
                _check_tags(row.place, content, path)
                image = content.get("image")
                return Prompt(
                    content[name].strip(), Path(image) if image else None,
                    tags_of(row.number, content),
                )  # fmt: skip
        if isinstance(content.get("image"), str):
            return Prompt(None, Path(content["image"]), _row_tags(row.number, content))
    raise ValueError(
        "prompts must be texts, VBench's rows with prompt_en, or rows with prompt, but"
        f" {row.place} of {path} is {str(content)[:80]!r}. Give it a prompt."
    )


def _place_image(prompt: Prompt, folder: Path) -> Prompt:
    if prompt.image is None:
        return prompt
    return Prompt(prompt.text, folder / prompt.image, prompt.tags)


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
    return Prompt(prompt.text, Path(name), prompt.tags)


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
