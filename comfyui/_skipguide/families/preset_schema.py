# Built by `make comfyui` from src/skipguide/families/preset_schema.py; do not edit.
"""The keys of a preset's file: what each value must be, and what is said of another."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..families import blocks, presets
from ..families.rows import FAMILIES
from ..families.schema import Family
from ..method import perturbations, validate
from ..method.protocols import PlainData, ReadOnlyData
from ..method.terms import SLG, STG, Schedule

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FORMAT = 1  # that this version writes
USE, TIED, CFG_ALONE = "use", "not distinguishable", "use CFG alone"
VERDICTS = (USE, TIED, CFG_ALONE)
# What [best_stg] has, and a file whose answer is CFG alone has nowhere else.
OF_TERMS = (
    "layers", "scale", "skip", "axis", "start", "stop", "rescale", "normalize", "terms", "schedule",
    "modality_scale", "rescale_space", "audio_rescale", "replace_own",
)  # fmt: skip
# What [best_stg] may have besides, where it is not that of [preset.defaults].
OF_BEST = ("guidance_scale", "num_inference_steps")
# What a preset's defaults may say of videos beside guidance and steps.
OF_VIDEOS = (
    "height", "width", "num_frames", "fps", "max_sequence_length", "motion_bucket_id",
    "noise_aug_strength", "min_guidance_scale",
)  # fmt: skip
Check = tuple[str, Callable[[Any], bool]]  # what the value must be, and whether it is
MAX_BYTES = 2**20  # a preset has a few thousand; a file of weights that was named by mistake more


def load_toml(path: Path) -> PlainData:
    """Return the content of a TOML file.

    Raises:
        ValueError: if it cannot be read or is no TOML.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes, and a preset a few thousand")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or no TOML
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(
            f"a preset must be a TOML file, but {path.name} cannot be read as one:"
            f" {str(reason).rstrip('. ')}. Correct it there, or name another file."
        ) from None


# --- what values must be --------------------------------------------------------------------------


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _number(low: float, high: float = math.inf) -> Check:
    words = f"a finite number >= {low:g}" if high == math.inf else f"a number from {low} to {high}"
    return words, lambda value: validate.is_number(value) and low <= value <= high


def _one_of(words: Collection[str]) -> Check:
    shown = ", ".join(map(repr, words))
    return f"one of {shown}", lambda value: isinstance(value, str) and value in words


def _is_list_of(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(kind, value))


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_interval(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(validate.is_number, value))


_TEXT: Check = ("a text", _is_text)
_COUNT: Check = ("a whole number >= 0", _is_whole)
_NUMBER: Check = ("a finite number", validate.is_number)
_TABLE: Check = ("a table of names and values", _is_table)
_TEXTS: Check = ("a table of texts", lambda value: _is_table(value) and all(
    map(_is_text, value.values())
))  # fmt: skip
_LAYERS: Check = (
    'a list of layers, as in [34] or ["single:3"]',
    _is_list_of(lambda layer: _is_whole(layer) or _is_text(layer)),
)
_SWITCH: Check = ("true or false", lambda value: isinstance(value, bool))
_ROWS: Check = ("a list of tables", _is_list_of(_is_table))
_TERM: dict[str, Check] = {
    "layers": _LAYERS,
    "scale": _number(0),
    "skip": _one_of(tuple(perturbations.PERTURBATIONS)),
    "axis": _one_of(("spatial", "temporal")),
    "start": _number(0, 1),
    "stop": _number(0, 1),
    "rescale": _number(0, 1),
    "normalize": _SWITCH,
    "terms": ("a list of tables with an axis and a scale", _is_list_of(
        lambda row: _is_table(row) and set(row) == {"axis", "scale"}
    )),
    "schedule": _ROWS,
    "modality_scale": _number(1),
    "rescale_space": _one_of(("prediction", "data")),
    "audio_rescale": _number(0, 1),
    "replace_own": _SWITCH,
}  # fmt: skip
_PRESET: dict[str, Check] = {
    "name": _TEXT,
    "model": _TEXT,
    "pipelines": (
        'a list of pipelines, as in ["MochiPipeline"]',
        lambda value: bool(value) and _is_list_of(_is_text)(value),
    ),
    "depth": _COUNT,
    "width": _COUNT,
    "config": _TABLE,
    "kind": _one_of(("stg", "slg")),
    "source": _TEXT,
    "note": _TEXT,
    "defaults": _TABLE,
    **_TERM,
}
_DEFAULTS: dict[str, Check] = {
    "guidance_scale": _number(0),
    "min_guidance_scale": _number(0),
    "audio_guidance_scale": _number(0),
    "num_inference_steps": _COUNT,
    "height": _COUNT,
    "width": _COUNT,
    "num_frames": _COUNT,
    "fps": _number(0),
    "max_sequence_length": _COUNT,
    "motion_bucket_id": _COUNT,
    "noise_aug_strength": _number(0),
}
_PROVENANCE: dict[str, Check] = {
    "skipguide": _TEXT,
    "date": _TEXT,
    "weights": _TEXTS,
    "prompts": _COUNT,
    "answer_prompts": _COUNT,
    "prompts_sha256": _TEXT,
    "metric": _TEXT,
    "gain": _NUMBER,
    "gain_interval": ("a list of two numbers", _is_interval),
    "verdict": _one_of(VERDICTS),
    "sentence": _TEXT,
    "command": _TEXT,
}
_TABLES = {
    "preset": _PRESET,
    "provenance": _PROVENANCE,
    "best_stg": {
        **{name: _TERM[name] for name in OF_TERMS},
        **{name: _DEFAULTS[name] for name in OF_BEST},
    },
}
_REQUIRED = ("model", "pipelines", "depth")


# --- the whole content ----------------------------------------------------------------------------


def check(content: Any, where: str) -> None:
    """Check the content of a preset's file.

    Args:
        content: as TOML gives it.
        where: what the user calls the file.

    Raises:
        Problems: with all that is wrong.
    """
    problems = validate.ProblemCollector()
    with problems.attempt():
        _check_kind(content, where)
    problems.raise_all()
    said = list(_top_level(content))
    for name, known in _TABLES.items():
        said += _table_problems(content.get(name, {}), known, f"[{name}]")
    defaults = content["preset"].get("defaults", {})
    said += _table_problems(defaults, _DEFAULTS, "[preset.defaults]")
    said += [
        f"[preset] must have {name}, {_PRESET[name][0]}. Add it."
        for name in _REQUIRED
        if name not in content["preset"]
        and not validate.find_misspelt(name, content["preset"], _PRESET)
    ]
    if not said:
        said = list(_contradictions(content))
    problems.messages += [f"{where}: {message}" for message in said]
    problems.raise_all()


def _check_kind(content: Any, where: str) -> None:
    """Check that it is a preset at all, of a format that is known."""
    if isinstance(content, Mapping) and isinstance(content.get("preset"), list):
        raise ValueError(
            f"a preset's file must have one table [preset], but {where} has a list of them, as"
            " [[preset]] makes one. Write [preset], with one setting."
        )
    if not isinstance(content, Mapping) or not isinstance(content.get("preset"), Mapping):
        has = ", ".join(map(str, content)) if isinstance(content, Mapping) else "none"
        meant = validate.find_misspelt("preset", content, list(_TABLES))
        advice = "Did you mean 'preset'?" if meant else (
            "Name a file that `skipguide tune` has written."
        )  # fmt: skip
        raise ValueError(
            f"a preset's file must have a table [preset], but {where} is no preset: it has"
            f" {has[:200] or 'nothing'}. {advice}"
        )
    given = content.get("format", 1)
    if not _is_whole(given) or not 1 <= given <= FORMAT:
        raise ValueError(
            f"format of {where} must be a whole number from 1 to {FORMAT}, but got {given!r}. A"
            " later version of skipguide may have written it: update this one."
        )


def _top_level(content: ReadOnlyData) -> Iterator[str]:
    known = ("format", *_TABLES)
    for name, value in content.items():
        if name not in known:
            advice = validate.did_you_mean(str(name), known, "Remove it.")
            yield f"a preset's file has {', '.join(known)}, but got {name!r}. {advice}"
        elif name in _TABLES and not _is_table(value):
            yield f"{name} must be a table, but got {value!r}. Write [{name}]."


def _table_problems(table: Any, known: Mapping[str, Check], title: str) -> Iterator[str]:
    for name, value in table.items() if isinstance(table, Mapping) else ():
        if name not in known:
            advice = validate.did_you_mean(str(name), known, "Remove it.")
            yield f"{title} has {', '.join(known)}, but got {name!r}. {advice}"
        elif not known[name][1](value):
            yield f"{name} of {title} must be {known[name][0]}, but got {value!r}. Correct it."


def _contradictions(content: ReadOnlyData) -> Iterator[str]:
    """Say what does not go together in a file whose values are right one by one."""
    row = content["preset"]
    verdict = content.get("provenance", {}).get("verdict")
    has_terms = any(row.get(name) for name in ("layers", "terms", "schedule", "modality_scale"))
    if has_terms and verdict == CFG_ALONE:
        yield (
            f"a preset whose verdict is {verdict!r} must have no layers, but it has"
            f" {row.get('layers')}. Move them to [best_stg], or correct the verdict."
        )
    elif has_terms:
        yield from _term_problems(row, row, "[preset]")
    elif verdict != CFG_ALONE:
        yield (
            f"[preset] must have layers, unless the verdict of [provenance] is {CFG_ALONE!r}, but"
            f" it has none. Name them, as in layers = [{row['depth'] * 7 // 10}]."
        )
    if "best_stg" in content:
        yield from _term_problems(content["best_stg"], row, "[best_stg]")


def _term_problems(row: ReadOnlyData, model: ReadOnlyData, title: str) -> Iterator[str]:
    """Say what the terms themselves find wrong, or the family of the model.

    That is layers that are none, windows of no step; layers, skips or axes that the family has not.

    Args:
        row: the table with the terms.
        model: the table that says which pipelines it is for, and how many blocks they have.
    """
    problems = validate.ProblemCollector()
    with problems.attempt():
        for term in _make_terms(row):
            for family in _families_of(model["pipelines"]):
                blocks.check_term(family, model["depth"], term)
    for message in problems.messages:
        yield f"{title}: {message}"


def _families_of(pipelines: Collection[str]) -> list[Family]:
    """Return the rows of pipelines; one that this version does not know has none."""
    return [family for family in FAMILIES if set(pipelines) & set(family.pipelines)]


def _make_terms(row: ReadOnlyData) -> list[STG | SLG]:
    """Make the terms of a table, once nothing in it contradicts itself.

    Raises:
        ValueError: for a contradiction, and for what the terms refuse.
    """
    _check_terms(row)
    required = {"model": "", "pipelines": (), "depth": 0, "layers": (), "scale": 0.0,
                "skip": "residual", "source": ""}  # fmt: skip
    given = {name: row[name] for name in (*OF_TERMS, "kind") if name in row}
    try:
        made = presets.to_terms(presets.to_preset({**required, **given}))
    except TypeError as error:
        raise ValueError(f"a bin has a part that is none: {error}. Correct it.") from None
    if isinstance(made, Schedule):
        return [entry.term() for entry in made.bins if entry.scale > 0]
    return list(made) if isinstance(made, tuple) else [made]


def _check_terms(row: ReadOnlyData) -> None:
    if row.get("schedule"):
        names = ("layers", "terms", "axis", "start", "rescale", "normalize")
        if beside := [name for name in names if row.get(name)]:
            raise ValueError(
                f"a schedule has these per bin, so it cannot be beside {', '.join(beside)}. Write"
                " that into the bins, or leave the schedule out."
            )
        return
    if row.get("kind") == "slg":
        if row.get("scale") or row.get("terms") or row.get("rescale") or row.get("normalize"):
            raise ValueError(
                "SLG has no scale, terms, rescale or normalize, but got some. Leave them out."
            )
        return
    if row.get("terms") and (row.get("scale") or row.get("axis")):
        raise ValueError(
            "scale and axis must be those of the terms, but stand beside them. Leave them out."
        )
    is_modality_alone = row.get("modality_scale") and not row.get("layers")
    for term in row.get("terms") or (row,):
        if not term.get("scale") and not is_modality_alone:
            raise ValueError(
                f"scale must be a finite number above 0, but got {term.get('scale')!r}. Correct it;"
                " a preset of CFG alone has no layers."
            )
