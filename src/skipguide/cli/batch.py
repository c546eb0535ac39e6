"""Many videos by one command: which shall be made, and which are there already.

What an earlier command has made stays, however that one ended: a file is left as it is if its
record says what would be made again.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skipguide.cli import options
from skipguide.cli.names import Subject
from skipguide.cli.prompt_options import parse_seeds, read_prompts
from skipguide.generate.settings import GenerationSettings
from skipguide.method import validate
from skipguide.method.protocols import PlainData, ReadOnlyData

if TYPE_CHECKING:
    import PIL.Image

    from skipguide.runs.prompt_rows import Prompt


@dataclass(frozen=True)
class Item:
    """One prompt and seed of a command."""

    settings: GenerationSettings  # as they were given
    row: Prompt | None = None  # where the prompt comes from a file
    without_row: GenerationSettings | None = None  # the same without what its row says

    @property
    def subject(self) -> Subject:
        """The text after which its files are named."""
        return Subject(self.settings, self.row.settings if self.row else None)

    @property
    def tags(self) -> PlainData:
        """The columns of the file of prompts that decide nothing."""
        return {} if self.row is None else dict(self.row.tags)

    def title(self) -> str:
        """Return the prompt, or the image, and the seed."""
        named = self.settings.prompt or Path(self.settings.image or "").name
        return f"{' '.join(named.split())[:60]}, seed {self.settings.seed}"


# --- what shall be made ---------------------------------------------------------------------------


def is_batch(prompts: Path | None, seeds: str | None) -> bool:
    """Return whether a command asks for many videos."""
    return prompts is not None or seeds is not None


def build_items(
    file: ReadOnlyData,
    given: ReadOnlyData,
    texts: Sequence[str | None],
    prompts: Path | None,
    seeds: str | None,
) -> tuple[list[Item], str | None]:
    """Return the items of a command, by prompt, then seed, and a note of what its file decides.

    Args:
        file: settings of --config.
        given: settings of the command line.
        texts: prompts of the command line; [None] without any.
        prompts: the file of --prompts.
        seeds: as --seeds has them.

    Raises:
        ValueError: for what is wrong with any of them, all at once.
    """
    if prompts is not None and texts != [None]:
        raise ValueError(
            f"prompts must come from the command line or from --prompts, but got {texts[0]!r} and"
            f" {prompts}. Leave one of them out."
        )
    if seeds is not None and "seed" in given:
        raise ValueError(
            f"--seed and --seeds cannot be combined, but got {given['seed']} and {seeds}. Leave"
            " one of them out."
        )
    rows, note = read_prompts(prompts) if prompts is not None else (None, None)
    common = parse_seeds(seeds) if seeds is not None else None
    problems = validate.ProblemCollector()
    found: list[Item] = []
    for row in rows if rows is not None else [None]:
        for text in texts:
            own = (row.seeds if row else ()) or common
            found += _items_of_prompt(file, given, text, row, own, problems)
    problems.raise_all()
    unique = _each_once(found)
    if len(unique) < len(found):
        twice = (
            f"{len(found) - len(unique)} of {len(found)} are asked for more than once (the"
            " same prompt, settings and seed); each is made once."
        )
        note = " ".join(filter(None, [note, twice]))
    return unique, note


def _each_once(items: Sequence[Item]) -> list[Item]:
    """Return each video once, with the tags of all rows that ask for it."""
    found: dict[str, Item] = {}
    for item in items:
        key = item.settings.model_dump_json()
        first = found.get(key, item)
        if first.row is not None and item.row is not None and first.row is not item.row:
            tags = {**item.row.tags, **first.row.tags}
            first = dataclasses.replace(first, row=dataclasses.replace(first.row, tags=tags))
        found[key] = first
    return list(found.values())


def _items_of_prompt(
    file: ReadOnlyData,
    given: ReadOnlyData,
    text: str | None,
    row: Prompt | None,
    seeds: Sequence[int] | None,
    problems: validate.ProblemCollector,
) -> list[Item]:
    """Return an item for each seed of a prompt; what is wrong goes to `problems`."""
    named: PlainData = {} if row is None else {"prompt": row.text}
    if row is not None and row.image is not None:
        named["image"] = str(row.image)
    plain = {**given, **named, **({} if seeds is None else {"seed": seeds[0]})}
    own = {} if row is None else row.settings
    with _at_place(row, problems):
        first = options.build_settings(file, {**plain, **own}, text)
        base = options.build_settings(file, plain, text) if own else first
        return [
            Item(
                first.model_copy(update={"seed": seed}),
                row,
                base.model_copy(update={"seed": seed}),
            )
            for seed in seeds or [first.seed]
        ]
    return []


@contextlib.contextmanager
def _at_place(row: Prompt | None, problems: validate.ProblemCollector) -> Iterator[None]:
    """Collect what is wrong with an item, and say in which row it stands."""
    before = len(problems.messages)
    with problems.attempt():
        yield
    if row is not None:
        new = problems.messages[before:]
        problems.messages[before:] = [f"{row.place}: {said}" for said in new]


class FirstFrames:
    """The pictures that videos start from, each read when it is needed, the last one kept.

    All are read once before, so that a damaged one is refused before any work.
    """

    def __init__(self, items: Sequence[Item]):
        self._last: tuple[str | None, PIL.Image.Image | None] = (None, None)
        problems = validate.ProblemCollector()
        for item in {item.settings.image: item for item in items}.values():
            with _at_place(item.row, problems):
                self.read(item)
        problems.raise_all()

    def read(self, item: Item) -> PIL.Image.Image | None:
        """Return the picture of an item; None without one."""
        name = item.settings.image
        if name is None or self._last[0] != name:
            self._last = (name, options.first_frame(item.settings))
        return self._last[1]


def check_early(items: Sequence[Item], pictures: FirstFrames, every: bool = False) -> None:
    """Check the settings of videos before any weight is read.

    Args:
        every: whether each must pass; else one that passes is enough, and the others are refused
            when it is their turn.

    Raises:
        ValueError: for what the model is going to refuse.
    """
    from skipguide.generate import preflight

    refused: list[ValueError] = []
    for item in items:
        try:
            preflight.check(item.settings, pictures.read(item))
        except ValueError as error:
            if every:
                raise
            refused.append(error)
        else:
            if not every:
                return
    if refused:
        raise refused[0]


def same_as_made(
    then: ReadOnlyData | None,
    complete: GenerationSettings,
    weights: ReadOnlyData,
    image: PIL.Image.Image | None,
) -> list[str]:
    """Return in what a record differs from that of a video which would be made now.

    Args:
        then: the record; None differs in everything.
        complete: the settings of the video.
        image: the picture that it would start from, of any size.
    """
    from skipguide.files import image as image_file
    from skipguide.generate import record

    if then is None:
        return ["the record"]
    first = None if image is None else image_file.encode_for_record(_fitted(image, complete))
    versions = {name: n for name, n in record.library_versions().items() if name != "python"}
    now = {
        "settings": complete.model_dump(mode="json"),
        "weights": dict(weights),
        "versions": versions,
        "image": first or {},
    }
    before = {**then, "versions": {name: then.get("versions", {}).get(name) for name in versions}}
    kept = ("settings", "weights", "versions", "image")
    changed = record.diff_records({name: before.get(name) or {} for name in kept}, now)
    return [f"{name.rpartition('.')[2]} {a!r}, now {b!r}" for name, (a, b) in changed.items()]


def _fitted(image: PIL.Image.Image, complete: GenerationSettings) -> PIL.Image.Image:
    from skipguide.files import image as image_file

    if not complete.width or not complete.height:
        return image
    return image_file.fit_to_size(
        image, complete.width, complete.height, complete.image_fit == "pad"
    )


def refuse_others(different: Sequence[tuple[Path, Sequence[str]]], all_files: int) -> None:
    """Refuse to replace files that were made otherwise.

    Raises:
        ValueError: if there are any.
    """
    if not different:
        return
    path, changes = different[0]
    others = f" and {len(different) - 1} more" if different[1:] else ""
    more = f" and {len(changes) - 2} more" if changes[2:] else ""
    raise ValueError(
        f"the output must be new files, or those that would be made again, but {path}{others} of"
        f" {all_files} {'are' if others else 'is'} neither: {', '.join(changes[:2])}{more}. Pass"
        " --overwrite, or another folder."
    )
