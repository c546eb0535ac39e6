"""The settings of a plan: read, named, and checked before anything is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from skipguide.generate.parsing import read_named_files
from skipguide.generate.settings import GenerationSettings, validate_settings
from skipguide.method import validate
from skipguide.method.protocols import PlainData, ReadOnlyData
from skipguide.runs import plan_grid, setting_names
from skipguide.runs.ledger import to_json
from skipguide.runs.plan_places import from_plan_folder
from skipguide.runs.prompt_rows import Prompt


@dataclass(frozen=True)
class Setting:
    """One way to make a video, for one model."""

    name: str
    given: PlainData  # in the words of the plan
    # What is left out is still None; the prompt and the image are those of the first video.
    generation: GenerationSettings


@dataclass(frozen=True)
class _Entry:
    """The words of a plan for one setting, or for all points of a grid."""

    model: str | None  # None is every model of the plan
    points: list[tuple[str, PlainData]]  # names and words; names of the rest are "" at first
    wrong: tuple[str, ...] = ()  # with the entry itself


def readable_settings(given: object, without_model: bool) -> list[PlainData]:
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


def parse_settings(
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
    expanded = _name_all([_expand_entry(entry) for entry in entries])
    pairs = [
        (model, entry)
        for model in dict.fromkeys(models)
        for entry in expanded
        if entry.model in (None, model)
    ]
    for model, entry in pairs:
        for message in entry.wrong:
            wrong.setdefault(message, []).append(entry.points[0][0] if entry.points else "")
        for name, own in entry.points:
            names[name] = None
            try:
                found.append(make_setting(name, {**common, **own}, model, prompt, base))
            except validate.Problems as error:
                for message in error.messages:
                    wrong.setdefault(message, []).append(name)
    problems = validate.ProblemCollector()
    problems.messages += _describe_wrong_settings(wrong, list(names))
    others = [entry.model for entry in expanded if entry.model not in (None, *models)]
    with problems.attempt():
        _check_names(found, list(map(str, others)))
    problems.raise_all()
    return found


def _expand_entry(entry: ReadOnlyData) -> _Entry:
    words = {key: value for key, value in entry.items() if key != "model"}
    model = entry.get("model")
    try:
        return _Entry(model, list(plan_grid.expand_grid(words)))
    except validate.Problems as error:  # all the rest is checked too
        rest = plan_grid.without_faults(words)
        named = str(entry.get("name") or "") or ""
        points = [(name if named else "", own) for name, own in plan_grid.expand_grid(rest)]
        return _Entry(model, points, error.messages)


def _name_all(entries: Sequence[_Entry]) -> list[_Entry]:
    """Give a name to each point that has none, by what it differs in from all others."""
    points = [point for entry in entries for point in entry.points]
    names = iter(setting_names.fill_in_names(points))
    return [
        _Entry(
            entry.model,
            [(name if not entry.wrong or old else "", own)
             for (old, own), name in zip(entry.points, names, strict=False)],
            entry.wrong,
        )
        for entry in entries
    ]  # fmt: skip


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


def make_setting(name: str, given: PlainData, model: str, prompt: Prompt, base: Path) -> Setting:
    """Make one setting of a plan.

    Raises:
        Problems: with all that is wrong with it.
    """
    problems = validate.ProblemCollector()
    problems.messages += _unknown_settings(given)
    given = {key: value for key, value in given.items() if key in _SETTING_KEYS}
    with problems.attempt():
        given = read_named_files(given, base)
    if isinstance(given.get("preset"), str):  # could not be read, which has been said
        given = {key: value for key, value in given.items() if key != "preset"}
    flat = {key: given[key] for key in given if key not in _READ_IN_THE_PLAN}
    with problems.attempt():
        flat = plan_grid.to_settings(given)
    image = {} if prompt.image is None else {"image": str(prompt.image)}
    text = {} if prompt.text is None else {"prompt": prompt.text}
    generation = None
    with problems.attempt():
        flat = from_plan_folder(flat, base)
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


# --- with what rows of prompts say ----------------------------------------------------------------


def variant_of(prompt: Prompt) -> str:
    """Return what tells apart the ways to make videos that rows of prompts ask for.

    Rows that differ in their negative prompts alone have the same way.
    """
    negative = "negative_prompt" in prompt.settings
    return to_json({**prompt.settings, **({"negative_prompt": True} if negative else {})})


def vary_setting(setting: Setting, prompt: Prompt) -> Setting:
    """Return a setting with what the row of a prompt says over it.

    Raises:
        Problems: with all that is wrong with it.
    """
    row = {name: value for name, value in prompt.settings.items() if value is not None}
    model = setting.generation.model
    return make_setting(setting.name, {**setting.given, **row}, model, prompt, Path())


def check_rows(found: Sequence[Prompt], settings: Sequence[Setting]) -> None:
    """Check what rows of prompts say, with each of the settings.

    Raises:
        Problems: with all that is wrong, and in which row.
    """
    problems = validate.ProblemCollector()
    rows: dict[str, Prompt] = {}
    for prompt in found:
        rows.setdefault(variant_of(prompt), prompt)
    for prompt in rows.values():
        said: dict[str, None] = {}
        for setting in settings if prompt.settings else ():
            try:
                vary_setting(setting, prompt)
            except validate.Problems as error:
                said |= dict.fromkeys(error.messages)
        problems.messages += [f"{prompt.place}: {message}" for message in said]
    problems.raise_all()
