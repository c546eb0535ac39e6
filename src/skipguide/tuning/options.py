"""The options of a tuning: what is asked, on which prompts, and what it may cost."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from skipguide.files import image as image_file
from skipguide.generate.record import hash_file
from skipguide.method.protocols import PlainData
from skipguide.method.validate import is_number
from skipguide.runs import storage
from skipguide.runs.ledger import to_json
from skipguide.runs.prompt_rows import Prompt
from skipguide.stats.intervals import MIN_CLUSTERS
from skipguide.tuning.names import FOLDER
from skipguide.tuning.objective.objective import ObjectiveSpec
from skipguide.tuning.scan.layer_map import ScanOptions

_FILE = "options.json"
_FORMAT = 2  # since prompts are shuffled before a third is kept back
_KEPT_BACK_EVERY = 3  # of the prompts one in three chooses nothing
# Of the prompts kept back, for a gain: an interval must be left without the best of them.
FEWEST_KEPT = MIN_CLUSTERS + 1
DEFAULT_HOURS = 1.0
_OF_ONE_PROMPT = "negative_prompt"  # the one setting that prompts may have of their own


@dataclass(frozen=True)
class TuneOptions:
    """The options of a tuning.

    Args:
        model: as in a plan; of a pipeline that a caller made a name for it.
        prompts: on which settings are compared. A third, by chance, is kept back: it chooses
            nothing, and the answer is measured on it.
        common: what all settings share, in the words of a plan, as `steps`.
        seeds: of every prompt that has none of its own.
        objective: what is to be raised, and what must not fall.
        guidance_scales: the first is the scale of CFG that all is compared with, the others race
            too; none means the model's own and half of it.
        scan: layers, skips and axes to look at, and at which noise levels.
        scan_size: width, height and frames of the scan's videos; None for those of all others,
            which is cheaper: its videos are then the first of CFG alone.
        scan_prompts: on how many prompts the scan looks.
        hours: that all of it may take; passes: forward passes of one sample. Neither is one hour.

    Raises:
        ValueError: for what is out of range, at once.
    """

    model: str
    prompts: tuple[Prompt, ...]
    common: PlainData = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    objective: ObjectiveSpec = field(default_factory=ObjectiveSpec)
    guidance_scales: tuple[float, ...] = ()
    scan: ScanOptions = field(default_factory=ScanOptions)
    scan_size: tuple[int, int, int] | None = None
    scan_prompts: int = 4
    hours: float | None = None
    passes: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", _merge(self.prompts, self.seeds))
        if self.hours is not None and self.passes is not None:
            raise ValueError(
                f"a tuning has one budget, but got hours={self.hours:g} and passes={self.passes:g}."
                " Leave one of them out."
            )
        for name, value in (("hours", self.hours), ("passes", self.passes)):
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a number above 0, but got {value}. Correct it.")
        if len(self.prompts) < 2:
            raise ValueError(
                f"a tuning needs 2 prompts at least, one of which chooses nothing, but got"
                f" {len(self.prompts)}. Give {_KEPT_BACK_EVERY * FEWEST_KEPT} or more, so that the"
                " answer has an interval."
            )
        for prompt in self.prompts:
            check_own_settings(prompt, "all prompts of a tuning")
        self._check_scales()
        self._check_size()

    def _check_scales(self) -> None:
        scales = tuple(dict.fromkeys(self.guidance_scales))
        object.__setattr__(self, "guidance_scales", scales)
        if any(not is_number(g) or g < 0 for g in scales):
            raise ValueError(
                "guidance scales must be finite numbers from 0 up, but got"
                f" {', '.join(map(str, scales))}. Correct them."
            )
        without = [g for g in scales if g <= 1]
        if without[1:] or (without and scales[1:] and scales[0] <= 1):
            first = next((g for g in scales if g > 1), None)
            advice = f"Give {first:g} first, and 1 after it" if first else "Give one of them"
            raise ValueError(
                "of a guidance scale of 1 or less there is no CFG, so that one of them is enough,"
                " and others are compared with one above 1 that stands first, but got"
                f" {', '.join(f'{g:g}' for g in scales)}. {advice}."
            )

    def _check_size(self) -> None:
        size = self.scan_size
        if size is None or (len(size) == 3 and all(type(n) is int and n > 0 for n in size)):
            return
        raise ValueError(
            "scan_size must be width, height and frames, whole numbers above 0, but got"
            f" {size!r}. Correct it."
        )

    @property
    def clock_hours(self) -> float | None:
        """The hours that it may take by the clock; None for a budget in passes."""
        return None if self.passes is not None else self.hours or DEFAULT_HOURS

    def split(self) -> tuple[list[int], list[int]]:
        """Return the numbers of the prompts that choose, and of those that are kept back.

        Both in the order in which they are used.
        """
        groups = self._groups
        kept = groups[_KEPT_BACK_EVERY - 1 :: _KEPT_BACK_EVERY] or groups[-1:]
        racing = [group for group in groups if group not in kept]
        if not racing:  # one text, with other negative prompts
            (group,) = groups
            racing, kept = [group[:-1]], [group[-1:]]
        return [i for group in racing for i in group], [i for group in kept for i in group]

    @functools.cached_property
    def _groups(self) -> list[list[int]]:
        """The numbers of the prompts, those of one text and picture together, shuffled by hashes.

        A file that is sorted by subject would race one subject first, and keep back one in three of
        a pattern. The order of a file and the prompts beside a prompt change nothing.
        """
        found: dict[bytes, list[int]] = {}
        for number, prompt in enumerate(self.prompts):
            content = _prompt_content(prompt)
            shown = to_json([content["text"], content["image"]])
            found.setdefault(hashlib.sha256(shown.encode()).digest(), []).append(number)
        return [found[key] for key in sorted(found)]

    def size_of_scan(self) -> PlainData:
        """Return what the setting of the scan has of its own; nothing at the size of all videos."""
        if self.scan_size is None:
            return {}
        width, height, frames = self.scan_size
        return {"name": "scan", "width": width, "height": height, "num_frames": frames}

    @property
    def most_seeds(self) -> int:
        """How many videos a setting has on a prompt, at most: rows may have seeds of their own."""
        return max(len(self.seeds_of(prompt)) for prompt in self.prompts)

    def seeds_of(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the seeds of the videos of a prompt."""
        return prompt.seeds or self.seeds

    def content(self) -> PlainData:
        """Return all that decides what is found, ready for JSON: all but the budget."""
        return {
            "model": self.model,
            "common": self.common,
            "prompts": [_prompt_content(prompt) for prompt in self.prompts],
            "seeds": list(self.seeds),
            "objective": self.objective.to_dict(),
            "guidance_scales": list(self.guidance_scales),
            "scan": self.scan.to_dict(),
            "scan_size": None if self.scan_size is None else list(self.scan_size),
            "scan_prompts": self.scan_prompts,
        }

    def notes(self) -> list[str]:
        """Return what is worth saying before work begins, a sentence each."""
        kept = len(self.split()[1])
        if kept >= FEWEST_KEPT:
            return []
        return [
            f"{kept} of {len(self.prompts)} prompts {'is' if kept == 1 else 'are'} kept back to"
            f" measure the answer on, and to claim a gain takes {FEWEST_KEPT}: give"
            f" {_KEPT_BACK_EVERY * FEWEST_KEPT} prompts or more."
        ]


def _merge(prompts: Sequence[Prompt], seeds: tuple[int, ...]) -> tuple[Prompt, ...]:
    """Return each text and picture once, with the seeds of all its rows.

    A ledger knows it once, and it must not both choose and measure the answer.
    """
    found: dict[str, Prompt] = {}
    for prompt in prompts:
        first = found.setdefault(prompt.identity(), prompt)
        if first is not prompt:
            both = dict.fromkeys((*(first.seeds or seeds), *(prompt.seeds or seeds)))
            found[prompt.identity()] = replace(first, seeds=tuple(both))
    return tuple(found.values())


def _prompt_content(prompt: Prompt) -> PlainData:
    image = None if prompt.image is None else hash_file(prompt.image)
    found = {"text": prompt.text, "image": image, "settings": prompt.settings}
    return {**found, "seeds": list(prompt.seeds)}


def check_own_settings(prompt: Prompt, who: str) -> None:
    """Check that a prompt has no settings that all must share.

    Args:
        who: must share them, in words.

    Raises:
        ValueError: if it has.
    """
    if wrong := sorted({*prompt.settings} - {_OF_ONE_PROMPT}):
        raise ValueError(
            f"{who} have the same settings but for {_OF_ONE_PROMPT} and seeds, because settings"
            f" are what is compared, but {prompt.place or prompt.text!r} has {', '.join(wrong)} of"
            " its own. Leave it out, or set it for all."
        )


def check_images(options: TuneOptions) -> None:
    """Check that the pictures of all prompts can be read, before any work.

    Raises:
        ValueError: with the first that cannot, and how many more.
    """
    wrong = []
    for path in dict.fromkeys(one.image for one in options.prompts if one.image is not None):
        try:
            image_file.read(path)
        except (ValueError, OSError) as error:
            wrong.append(f"{str(error).rstrip('.')}.")
    if wrong:
        more = f" {len(wrong) - 1} more cannot be read either." if wrong[1:] else ""
        raise ValueError(f"{wrong[0]}{more} Mend them, or leave them out of the tuning.")


def check_run(folder: Path, options: TuneOptions) -> None:
    """Check that a folder can hold a tuning with these options, before any work.

    Raises:
        ValueError: if it cannot be written, holds something else, or has another tuning.
    """
    storage.check_run_folder(folder)
    storage.check_writable(folder)
    path = folder / FOLDER / _FILE
    if not path.is_file():
        return
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        then, of_format = dict(known["content"]), known["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"the options of a tuning must be as tune wrote them, but {path} is damaged ({error})."
            " Remove this file and run the same command again: no video is made twice. Whether it"
            " is the same command is not checked then, so type it as it was."
        ) from None
    if of_format != _FORMAT:
        raise ValueError(
            f"a tuning goes on with the version of skipguide that began it, but {folder} is of"
            f" format {of_format}, and this version writes {_FORMAT}. Choose another folder with"
            " --out."
        )
    now = json.loads(to_json(options.content()))
    changed = [name for name in now if then.get(name) != now[name]]
    if changed:
        raise ValueError(
            "a tuning goes on with the options that it began with, and more hours or passes, but"
            f" {', '.join(changed)} of {folder} {'are' if changed[1:] else 'is'} another one. Give"
            " the same, or choose another folder with --out."
        )


def keep_options(folder: Path, options: TuneOptions) -> None:
    """Write the options into the run, for those who go on with it."""
    budget = {"hours": options.clock_hours, "passes": options.passes}
    content = to_json({"format": _FORMAT, "content": options.content(), "budget": budget})
    storage.write_file(folder, f"{FOLDER}/{_FILE}", content.encode())


def kept_budget(folder: Path) -> dict[str, float | None] | None:
    """Return the hours or passes with which the tuning in a folder ran last; None without one."""
    path = folder / FOLDER / _FILE
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8")).get("budget")
    fits = isinstance(found, dict) and set(found) == {"hours", "passes"}
    return found if fits and any(map(is_number, found.values())) else None


def prompts_hash(options: TuneOptions) -> str:
    """Return the sha256 of texts, pictures, seeds and settings of the prompts."""
    content = to_json([_prompt_content(prompt) for prompt in options.prompts])
    return hashlib.sha256(content.encode()).hexdigest()
