"""A plan: the videos that a run shall have, read from YAML and checked before anything is
loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from skipguide.generate.parsing import read_schedule_files
from skipguide.generate.settings import GenerationSettings, validate_settings
from skipguide.method import documents
from skipguide.method.protocols import PlainData, ReadOnlyData
from skipguide.runs import plan_grid, prompts
from skipguide.runs.prompts import Entry, Prompt, PromptFile


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
        "a list of texts (or {prompt, image}), the name of a file, or {file, dimensions, images,"
        " first}"
    ),
    "seeds": "a list of whole numbers, as in [0, 1]",
    "settings": "a list of settings, as in [{name: cfg, guidance_scale: 4.5}]",
    "save_latents": "true or false",
}


@dataclass(frozen=True)
class Setting:
    """One way to make a video, for one model."""

    name: str
    given: PlainData  # in the words of the plan
    # What is left out is still None; the prompt and the image are those of the first video.
    generation: GenerationSettings


@dataclass(frozen=True)
class Plan:
    """The videos that a run shall have: every prompt x seed x setting."""

    prompts: tuple[Prompt, ...]
    seeds: tuple[int, ...]
    settings: tuple[Setting, ...]  # in the order of their models
    save_latents: bool = False
    text: str = field(default="", repr=False)  # as written

    @property
    def sha256(self) -> str:
        """The sha256 of its text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def clips(self) -> int:
        """The number of its videos."""
        return len(self.prompts) * len(self.seeds) * len(self.settings)

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read the plan in a YAML file. Relative paths in it count from its folder.

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
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ValueError(
                f"a plan must be a readable YAML file, but {path} is not: {reason}. Check it."
            ) from None
        if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
            raise ValueError(
                f"a plan must have lines such as model: lab-mochi, but {path} holds"
                f" {type(content).__name__}. docs/sweeps.md has an example."
            )
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
        own = {name: content[name] for name in _PlanSchema.model_fields if name in content}
        common = {name: value for name, value in content.items() if name not in own}
        try:
            written = _PlanSchema.model_validate(own)
        except ValidationError as error:
            raise ValueError(
                " ".join(dict.fromkeys(_validation_message(dict(e)) for e in error.errors()))
            ) from None
        found = _read_prompts(written.prompts, base)
        names = [written.model] if isinstance(written.model, str) else written.model
        settings = _parse_settings(written.settings, common, names, found[0], base)
        written_out = (
            text
            if text is not None
            else yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
        )
        plan = cls(
            tuple(found),
            tuple(dict.fromkeys(written.seeds)),
            tuple(settings),
            written.save_latents,
            written_out,
        )
        _check_seeds(plan)
        _check_images(plan)
        return plan


def _validation_message(error: ReadOnlyData) -> str:
    name = str(error["loc"][0])
    came = "nothing" if error["type"] == "missing" else repr(error["input"])
    return (
        f"{name} of a plan must be {_REQUIREMENTS[name]}, but got {came[:200]}. docs/sweeps.md has"
        " an example."
    )


def _read_prompts(written: str | PromptFile | Sequence[str | Entry], base: Path) -> list[Prompt]:
    if isinstance(written, str):
        written = PromptFile.model_validate({"file": written})
    return (
        prompts.read(written, base)
        if isinstance(written, PromptFile)
        else prompts.parse_prompt_list(written, base)
    )


def _parse_settings(
    written: PlainData | list[PlainData],
    common: ReadOnlyData,
    models: Sequence[str],
    prompt: Prompt,
    base: Path,
) -> list[Setting]:
    """Return every setting for every model, or for the one that it names.

    Raises:
        ValueError: for all that is wrong in them at once.
    """
    entries = [written] if isinstance(written, dict) else written
    found: list[Setting] = []
    wrong: dict[str, None] = {}
    for model in dict.fromkeys(models):
        for entry in entries:
            if entry.get("model", model) != model:
                continue
            try:
                found += _expand_entry(entry, common, model, prompt, base)
            except ValueError as error:
                wrong[str(error)] = None
    if wrong:
        raise ValueError(" ".join(wrong))
    _check_names(
        found,
        [str(entry["model"]) for entry in entries if entry.get("model", models[0]) not in models],
    )
    return found


def _expand_entry(
    entry: ReadOnlyData, common: ReadOnlyData, model: str, prompt: Prompt, base: Path
) -> list[Setting]:  # fmt: skip
    found = []
    for name, own in plan_grid.expand_grid(
        {key: value for key, value in entry.items() if key != "model"}
    ):
        try:
            # What is in the file of a schedule, so that another content is another setting.
            given = read_schedule_files({**common, **own}, base)
            image = {} if prompt.image is None else {"image": str(prompt.image)}
            text = {} if prompt.text is None else {"prompt": prompt.text}
            generation = validate_settings(
                {**plan_grid.to_settings(given), "model": model, **text, **image}
            )
        except ValueError as error:
            raise ValueError(f"setting {name!r}: {error}") from None
        found.append(Setting(name, given, generation))
    return found


def _check_names(found: Sequence[Setting], strangers: Sequence[str]) -> None:
    if strangers:
        raise ValueError(
            f"the model of a setting must be one of the plan's, but got {', '.join(strangers)}. Add"
            " it to model."
        )
    names = [(setting.generation.model, setting.name) for setting in found]
    twice = sorted({name for model, name in names if names.count((model, name)) > 1})
    if twice:
        raise ValueError(
            "every setting must have a name of its own, but several are called"
            f" {', '.join(twice)}. Rename them."
        )


def _check_seeds(plan: Plan) -> None:
    wrong = [seed for seed in plan.seeds if not 0 <= seed < 2**63]
    if wrong:
        raise ValueError(
            f"seeds of a plan must be whole numbers from 0 to 2^63 - 1, but got {wrong}. Correct"
            " them."
        )


def _check_images(plan: Plan) -> None:
    """Check that all images are there; their content is read one by one later."""
    missing = [
        str(prompt.image)
        for prompt in plan.prompts
        if prompt.image is not None and not prompt.image.is_file()
    ]
    if missing:
        raise ValueError(
            f"images of a plan must be files, but {', '.join(missing[:5])}"
            f" {'is' if len(missing) == 1 else 'are'} not ({len(missing)} of {len(plan.prompts)}"
            " prompts). Check the names."
        )
