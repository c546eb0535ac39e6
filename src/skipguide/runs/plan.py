"""A plan: the videos that a run shall have, read from YAML and checked before anything is
loaded."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from skipguide.generate.parsing import read_schedule_files
from skipguide.generate.settings import GenerationSettings, validate_settings
from skipguide.method import documents, validate
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
    notes: tuple[str, ...] = ()  # what was read and decides nothing

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
            rows = _readable_settings(content.get("settings"), "model" in wrong)
            settings = _parse_settings(rows, common, names, found[0], base)
        with problems.attempt():
            _check_seeds(written.seeds)
        with problems.attempt():
            _check_images(found)
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
            tuple(filter(None, [prompts.ignored_tags(found, plan_grid.KEYS)])),
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
        known = PromptFile.model_fields if row is rows else Entry.model_fields
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


def _readable_settings(given: object, without_model: bool) -> list[PlainData]:
    """Return the settings of a plan that can be checked, whatever else is wrong with it.

    Args:
        given: what the plan says.
        without_model: leave out for which model they are, where the plan's are not known.
    """
    listed = given if isinstance(given, list) else [given]
    left_out = ("model",) if without_model else ()
    return [
        {name: value for name, value in row.items() if name not in left_out}
        for row in listed
        if isinstance(row, dict) and all(isinstance(name, str) for name in row)
    ]


def _parse_settings(
    entries: Sequence[PlainData],
    common: ReadOnlyData,
    models: Sequence[str],
    prompt: Prompt,
    base: Path,
) -> list[Setting]:
    """Return every setting for every model, or for the one that it names.

    Raises:
        ValueError: for all that is wrong in them, each thing once, with the settings that have it.
    """
    found: list[Setting] = []
    wrong: dict[str, list[str]] = {}  # what is wrong -> names of settings
    names: dict[str, None] = {}
    pairs = [
        (model, entry)
        for model in dict.fromkeys(models)
        for entry in entries
        if entry.get("model", model) == model
    ]
    for model, entry in pairs:
        for name, setting in _expand_entry(entry, common, model, prompt, base):
            names[name] = None
            if isinstance(setting, Setting):
                found.append(setting)
                continue
            for message in setting:
                wrong.setdefault(message, []).append(name)
    problems = validate.ProblemCollector()
    problems.messages += _describe_wrong_settings(wrong, list(names))
    others = [entry["model"] for entry in entries if entry.get("model", models[0]) not in models]
    with problems.attempt():
        _check_names(found, list(map(str, others)))
    problems.raise_all()
    return found


def _describe_wrong_settings(
    wrong: Mapping[str, Sequence[str]], names: Sequence[str]
) -> Iterator[str]:
    """Say once what several settings have in common; what all have is no matter of one of them."""
    for message, having in wrong.items():
        own = list(dict.fromkeys(having))
        if len(own) == len(names) > 1 or own == [""]:
            yield message
            continue
        shown = ", ".join(map(repr, own[:3])) + (f" and {len(own) - 3} more" if own[3:] else "")
        yield f"{'settings' if own[1:] else 'setting'} {shown}: {message}"


def _expand_entry(
    entry: ReadOnlyData, common: ReadOnlyData, model: str, prompt: Prompt, base: Path
) -> Iterator[tuple[str, Setting | tuple[str, ...]]]:
    """Yield the name and the setting of each point of an entry's grid, or what is wrong with it."""
    words = {key: value for key, value in entry.items() if key != "model"}
    try:
        points = list(plan_grid.expand_grid(words))
    except validate.Problems as error:
        given = str(entry.get("name") or "")
        yield given, error.messages
        # All the rest is checked too.
        for name, own in plan_grid.expand_grid(plan_grid.without_faults(words)):
            try:
                _make_setting(name, {**common, **own}, model, prompt, base)
            except validate.Problems as more:
                yield name if given else "", more.messages
        return
    for name, own in points:
        try:
            yield name, _make_setting(name, {**common, **own}, model, prompt, base)
        except validate.Problems as error:
            yield name, error.messages


def _make_setting(name: str, given: PlainData, model: str, prompt: Prompt, base: Path) -> Setting:
    """Make one setting of a plan.

    Raises:
        Problems: with all that is wrong with it.
    """
    problems = validate.ProblemCollector()
    problems.messages += _unknown_settings(given)
    given = {key: value for key, value in given.items() if key in _SETTING_KEYS}
    with problems.attempt():
        # What is in the file of a schedule, so that another content is another setting.
        given = read_schedule_files(given, base)
    flat = {key: given[key] for key in given if key not in _READ_IN_THE_PLAN}
    with problems.attempt():
        flat = plan_grid.to_settings(given)
    image = {} if prompt.image is None else {"image": str(prompt.image)}
    text = {} if prompt.text is None else {"prompt": prompt.text}
    generation = None
    with problems.attempt():
        generation = validate_settings({**flat, "model": model, **text, **image})
    problems.messages = [_FLAG_ADVICE.sub("Correct it.", said) for said in problems.messages]
    problems.raise_all()
    assert generation is not None
    return Setting(name, given, generation)


_FLAG_ADVICE = re.compile(r"Set it with \S+, or as \w+ in the config file\.")  # not of a plan
_READ_IN_THE_PLAN = ("stg", "guidance", "prompt", "image", "seed", "num_inference_steps")
_SETTING_KEYS = (*plan_grid.KEYS, "prompt", "image", "seed")


def _unknown_settings(given: ReadOnlyData) -> Iterator[str]:
    for name in given:
        if name not in _SETTING_KEYS:
            known = plan_grid.ENTRY_KEYS
            advice = validate.did_you_mean(str(name), known, "Remove it.")
            yield f"a setting must be one of {', '.join(known)}, but got {name!r}. {advice}"


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
