"""A plan: the videos that a run shall have, read from YAML and checked before anything is
loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from skipguide.method import documents, validate
from skipguide.method.protocols import PlainData, ReadOnlyData
from skipguide.runs import plan_grid, prompts
from skipguide.runs.plan_settings import Setting, check_rows, parse_settings, readable_settings
from skipguide.runs.prompt_rows import Prompt, describe_columns
from skipguide.runs.prompts import Entry, PromptFile
from skipguide.runs.watch import Watch


class _PlanSchema(BaseModel):
    """A plan as it is written; everything else in it is a setting that all settings share."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | list[str] = Field(default="lab-mochi", min_length=1)
    prompts: Annotated[str | list[str | Entry], Field(min_length=1)] | PromptFile
    seeds: list[int] = Field(default=[0], min_length=1)
    settings: PlainData | list[PlainData] = Field(min_length=1)
    save_latents: bool = False


_REQUIREMENTS = {
    "model": "the name of a model, or a list of names",
    "prompts": (
        "a list of texts (or {prompt, image, seed, ...}), the name of a file, or {file, dimensions,"
        " images, first}"
    ),
    "seeds": "a list of whole numbers, as in [0, 1]",
    "settings": "a list of settings, as in [{name: cfg, guidance_scale: 4.5}]",
    "save_latents": "true or false",
}


@dataclass(frozen=True)
class Plan:
    """The videos that a run shall have: every prompt x seed x setting.

    A prompt may have seeds and settings of its own.
    """

    prompts: tuple[Prompt, ...]
    seeds: tuple[int, ...]
    settings: tuple[Setting, ...]  # in the order of their models
    save_latents: bool = False
    text: str = field(default="", repr=False)  # as written
    notes: tuple[str, ...] = ()  # what was read and decides nothing
    watch: Watch | None = None  # what else is kept of its videos; no file says it

    @property
    def sha256(self) -> str:
        """The sha256 of its text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def clips(self) -> int:
        """The number of its videos."""
        per_setting = sum(len(self.seeds_of(prompt)) for prompt in self.prompts)
        return per_setting * len(self.settings)

    def seeds_of(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the seeds of the videos of a prompt: its own, or else the plan's."""
        return prompt.seeds or self.seeds

    @classmethod
    def read(cls, path: Path, replaced: ReadOnlyData | None = None) -> Plan:
        """Read the plan in a YAML file. Relative paths in it count from its folder.

        Args:
            replaced: what stands in the place of what the plan says, as {"seeds": [0, 1]}.

        Raises:
            ValueError: if the file cannot be read or is not a plan; all that is wrong at once.
        """
        try:
            text = path.read_text(encoding="utf-8")
            content = documents.load_yaml(text)
        except (
            OSError,
            ValueError,
            yaml.YAMLError,
        ) as error:  # ValueError: no UTF-8; a date that is none
            reason = error.strerror if isinstance(error, OSError) else error
            raise ValueError(
                f"a plan must be a readable YAML file, but {path} is not:"
                f" {documents.advise(reason, 'Check it.')}"
            ) from None
        if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
            raise ValueError(
                f"a plan must have lines such as model: lab-mochi, but {path} holds"
                f" {type(content).__name__}. Write prompts: [...] and settings: [...]."
            )
        if replaced:
            return cls.of({**content, **replaced}, path.parent)
        return cls.of(content, path.parent, text)

    @classmethod
    def of(cls, content: ReadOnlyData, base: Path = Path(), text: str | None = None) -> Plan:
        """Read the plan in a mapping, as YAML gives it.

        Args:
            base: the folder from which relative paths in it count.
            text: the plan as it was written, if it was.

        Raises:
            ValueError: if it is not a plan; all that is wrong at once.
        """
        problems = validate.ProblemCollector()
        problems.messages += _unknown_keys(content)
        written, wrong = _parse_plan(content)
        problems.messages += wrong.values()
        found = [_STAND_IN]
        if "prompts" not in wrong:
            with problems.attempt():
                found = _read_prompts(written.prompts, base)
        common = {name: content[name] for name in content if name in plan_grid.KEYS}
        names = [written.model] if isinstance(written.model, str) else written.model
        settings: list[Setting] = []
        with problems.attempt():
            rows = readable_settings(content.get("settings"), "model" in wrong)
            settings = parse_settings(rows, common, names, found[0], base)
        with problems.attempt():
            _check_seeds(written.seeds)
        with problems.attempt():
            _check_images(found)
        with problems.attempt():
            check_rows(found, settings)
        problems.raise_all()
        written_out = (
            text
            if text is not None
            else yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
        )
        return cls(
            tuple(found),
            tuple(dict.fromkeys(written.seeds)),
            tuple(settings),
            written.save_latents,
            written_out,
            tuple(filter(None, [describe_columns(found, _name_of(written.prompts))])),
        )


_STAND_IN = Prompt("a prompt")  # with which settings are checked where the prompts are wrong


def _unknown_keys(content: ReadOnlyData) -> Iterator[str]:
    """Say of each key that neither a plan nor its settings have what it may have meant."""
    own = list(_PlanSchema.model_fields)
    for name in content:
        if name not in (*own, *plan_grid.KEYS):
            advice = validate.did_you_mean(name, [*own, *plan_grid.KEYS], "Remove it.")
            yield (
                f"a plan has {', '.join(own)}, and what all of its settings share, but got"
                f" {name!r}. {advice}"
            )


def _parse_plan(content: ReadOnlyData) -> tuple[_PlanSchema, dict[str, str]]:
    """Return the plan without what is wrong in it, and a sentence for each key that is."""
    own = {name: content[name] for name in _PlanSchema.model_fields if name in content}
    try:
        return _PlanSchema.model_validate(own), {}
    except ValidationError as error:
        names = dict.fromkeys(str(entry["loc"][0]) for entry in error.errors())
    rest = {name: value for name, value in own.items() if name not in names}
    stand_ins = {"prompts": ["a prompt"], "settings": [{"name": "a setting"}]}
    return _PlanSchema.model_validate(stand_ins | rest), {
        name: _validation_message(name, own) for name in names
    }


def _validation_message(name: str, own: ReadOnlyData) -> str:
    came = repr(own[name])[:200] if name in own else "nothing"
    return f"{name} of a plan must be {_REQUIREMENTS[name]}, but got {came}. {_advice(name, own)}"


def _advice(name: str, own: ReadOnlyData) -> str:
    """Return what to do about a wrong key of a plan: of prompts, whose keys may be misspelt."""
    rows = own.get(name) if name == "prompts" else None
    advice: dict[str, None] = {}
    for row in rows if isinstance(rows, list) else [rows]:
        known = PromptFile.model_fields if row is rows else prompts.ENTRY_KEYS
        for key in row if isinstance(row, dict) else ():
            if key not in known and (said := validate.did_you_mean(str(key), known, "")):
                advice[said] = None
    return " ".join(advice) or ("Correct it." if name in own else "Add it.")


def _read_prompts(written: str | PromptFile | Sequence[str | Entry], base: Path) -> list[Prompt]:
    if isinstance(written, str):
        written = PromptFile.model_validate({"file": written})
    return (
        prompts.read(written, base)
        if isinstance(written, PromptFile)
        else prompts.parse_prompt_list(written, base)
    )


def _name_of(written: str | PromptFile | Sequence[str | Entry]) -> str:
    """Return what notes call the prompts of a plan."""
    named = written.file if isinstance(written, PromptFile) else written
    return Path(named).name if isinstance(named, str) else "the list of prompts"


def _check_seeds(seeds: Sequence[int]) -> None:
    wrong = [seed for seed in seeds if not 0 <= seed < 2**63]
    if wrong:
        raise ValueError(
            f"seeds of a plan must be whole numbers from 0 to 2^63 - 1, but got {wrong}. Correct"
            " them."
        )


def _check_images(found: Sequence[Prompt]) -> None:
    """Check that all images are there; their content is read one by one later."""
    missing = [
        str(prompt.image)
        for prompt in found
        if prompt.image is not None and not prompt.image.is_file()
    ]
    if missing:
        raise ValueError(
            f"images of a plan must be files, but {', '.join(missing[:5])}"
            f" {'is' if len(missing) == 1 else 'are'} not ({len(missing)} of {len(found)}"
            " prompts). Check the names."
        )
