"""Many prompts and seeds on the command line: --prompts and --seeds, the same for all verbs."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skipguide.generate.words import parse_text, text_fields
from skipguide.method.protocols import PlainData

if TYPE_CHECKING:
    from skipguide.runs.prompt_rows import Prompt

# What every --prompts reads.
PROMPT_FORMATS = "Prompts of a file: a line each (.txt), or rows (.csv, .tsv, .jsonl, .json)"
PromptFile = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help=f"{PROMPT_FORMATS} with columns prompt, negative_prompt, image, seed, and any other"
        " setting, as num_frames.",
        show_default=False,
    ),
]
Seeds = Annotated[
    str | None,
    typer.Option(
        "--seeds",
        help="Of every prompt that has none of its own: 0:4 is 0, 1, 2, 3; or 0,3,7.",
        show_default="--seed",
    ),
]
PlanSeeds = Annotated[
    str | None,
    typer.Option(
        "--seeds",
        help="In the place of the plan's: 0:4 is 0, 1, 2, 3; or 0,3,7.",
        show_default="the plan's, or 0",
    ),
]


def read_prompts(path: Path) -> tuple[list[Prompt], str | None]:
    """Return the prompts of a file or folder, and a note of what its rows say beside them.

    Pictures count from the folder of the file.

    Raises:
        ValueError: if it cannot be read, or holds something else.
    """
    from skipguide.runs.prompt_rows import describe_columns

    found = read_rows(path)
    missing = [entry for entry in found if entry.image is not None and not entry.image.is_file()]
    if missing:
        raise ValueError(
            f"pictures of prompts must be files, but {missing[0].image} of {missing[0].place} is"
            f" not ({len(missing)} of {len(found)} prompts). Check the names."
        )
    return found, describe_columns(found, path.name)


def read_rows(path: Path) -> list[Prompt]:
    """Return the prompts of a file or folder, whether or not the pictures that it names are there.

    Raises:
        ValueError: if it cannot be read, or holds something else.
    """
    from skipguide.runs import prompts

    source = prompts.PromptFile.model_validate({"file": path.name or "."})
    return prompts.read(source, path.parent)


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds that --seeds means.

    Raises:
        ValueError: if it means none.
    """
    from skipguide.runs import prompt_rows

    return prompt_rows.parse_seeds(text, "--seeds")


def plan_content(prompts: Path | None, seeds: str | None, base: Path) -> PlainData:
    """Return what --prompts and --seeds say in the words of a plan.

    Args:
        base: the folder of the plan.
    """
    content: PlainData = {}
    if prompts is not None:
        content["prompts"] = {"file": _relative(prompts, base)}
    if seeds is not None:
        content["seeds"] = list(parse_seeds(seeds))
    return content


def _relative(path: Path, base: Path) -> str:
    """Return a path as it counts from a folder, so that a run names no folder of the machine."""
    if path.is_absolute() or base == Path():
        return str(path)
    try:
        return Path(os.path.relpath(path, base)).as_posix()
    except ValueError:  # another drive
        return str(path.absolute())


def parse_setting(text: str) -> PlainData:
    """Read a setting as "cfg stg_scale=0" or "layers=8 stg_scale=1 cfg_rule='apg eta=0.2'".

    A word without = is its name.

    Raises:
        ValueError: for words that are none, or come twice.
    """
    found: PlainData = {}
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(
            f"--setting must be words such as layers=8, but {text!r} has {error}. Close the quotes."
        ) from None
    for word in words:
        name, equals, value = word.partition("=") if "=" in word else ("name", "=", word)
        name = name.strip().replace("-", "_")
        if not name or name in found or not equals:
            raise ValueError(
                f"--setting must be words such as layers=8, each name once, but got {text!r}."
                " Correct it."
            )
        found[name] = parse_text(name, value) if name in text_fields() else value
    return found
