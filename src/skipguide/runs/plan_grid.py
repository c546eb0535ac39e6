"""The settings of a plan: expand a grid to the settings it means, and read the word `stg`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from skipguide.generate.flags import SCALE_AXES, GuidanceFlags
from skipguide.generate.settings import GenerationSettings
from skipguide.method import validate
from skipguide.method.protocols import PlainData, ReadOnlyData
from skipguide.runs.prompt_rows import ALIASES

_SCALE_BY_AXIS = {axis: name for name, axis in SCALE_AXES.items()}
# What a term of `stg` may say: what flags hold once for all terms, and what they hold for each.
_SHARED_TERM_KEYS = (
    "layers", "random_share", "skip", "strength", "normalize", "every", "start", "stop",
)  # fmt: skip
_TERM_KEYS = (*_SHARED_TERM_KEYS, "scale", "axis")
# Words that say what is skipped; a setting without any of them skips nothing.
_OF_PLAN = ("prompt", "image", "seed")
# All keys that a setting may have, beside its name, its model and a grid.
KEYS = tuple(
    name
    for name in (
        *GenerationSettings.model_fields, *GuidanceFlags.model_fields, "stg", *ALIASES
    )
    if name not in (*_OF_PLAN, "model")
)  # fmt: skip
ENTRY_KEYS = ("name", "model", "grid", *KEYS)
_SKIPPING = {
    "layers", "random_share", "schedule", "slg_layers", "term", "guidance", "preset", *SCALE_AXES
}  # fmt: skip


def expand_grid(entry: ReadOnlyData) -> Iterator[tuple[str, PlainData]]:
    """Expand one entry of a plan: (name, words), one per point of its grid.

    A grid has lists in the places of values. `grid: {guidance_scale: [3, 4.5], stg: {layers: [4,
    8], scale: [1, 2]}}` means 8 settings, named after the entry and their point.

    The points of an entry without a name have "" as their names (`setting_names` finds some).

    Raises:
        Problems: for a name that is none, or misspelt, and for a grid that is not made of lists.
    """
    words = dict(entry)
    name, grid = words.pop("name", ""), words.pop("grid", {})
    problems = validate.ProblemCollector()
    blank = not isinstance(name, str) or (not name.strip() and "name" in entry)
    if blank or misspelt_name(entry):
        advice = "Did you mean 'name'?" if misspelt_name(entry) else "Write {name: stg, ...}."
        problems.messages.append(
            f"the name of a setting must be a text, but got {dict(entry)!r}. {advice}"
        )
    axes: list[tuple[tuple[str, ...], Sequence[Any]]] = []
    with problems.attempt():
        axes = list(_grid_axes(grid, ()))
    problems.raise_all()
    assert isinstance(name, str)
    for point in itertools.product(*(values for _, values in axes)):
        at = [(path, value) for (path, _), value in zip(axes, point, strict=True)]
        values = [f"{path[-1]}={format_value(value)}" for path, value in at]
        full = " ".join([name.strip(), *values]) if name.strip() else ""
        yield full, _apply_point(words, at)


def misspelt_name(entry: ReadOnlyData) -> str | None:
    """Return the key of an entry without a name that was probably meant to be `name`."""
    return validate.find_misspelt("name", entry, ENTRY_KEYS) if "name" not in entry else None


def without_faults(entry: ReadOnlyData) -> PlainData:
    """Return an entry without a wrong name and grid, so that all the rest can be checked."""
    meant = misspelt_name(entry)
    words = {key: value for key, value in entry.items() if key != meant}
    name = words.get("name")
    if not isinstance(name, str) or not name.strip():
        words.pop("name", None)
    if (grid := words.pop("grid", None)) is not None:
        words["grid"] = _lists_in(grid)
    return words


def _lists_in(grid: Any, inner: bool = False) -> Any:
    """Return a grid in which a value that is no list is a list of that value."""
    if isinstance(grid, Mapping):
        found = {key: _lists_in(values, True) for key, values in grid.items()}
        return {key: values for key, values in found.items() if values}
    return (grid if isinstance(grid, list) else [grid]) if inner else {}


def _grid_axes(grid: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Sequence[Any]]]:
    if isinstance(grid, list) and grid and path:
        yield path, grid
    elif isinstance(grid, Mapping) and (grid or not path):
        for name, values in grid.items():
            yield from _grid_axes(values, (*path, str(name)))
    else:
        raise ValueError(
            f"grid must have a list of values for each word, but {'.'.join(path) or 'it'} is"
            f" {grid!r}. Write grid: {{stg: {{scale: [0.5, 1.0]}}}}."
        )


def _apply_point(words: ReadOnlyData, at: Sequence[tuple[tuple[str, ...], Any]]) -> PlainData:
    """Return the words with the values of one point of the grid put in."""
    out = dict(words)
    for path, value in at:
        place = out
        for name in path[:-1]:
            inner = place.get(name)
            place[name] = dict(inner) if isinstance(inner, Mapping) else {}
            place = place[name]
        place[path[-1]] = value
    return out


def format_value(value: Any) -> str:
    """Return a value as names of settings have it."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(format_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def to_settings(words: ReadOnlyData) -> PlainData:
    """Return a setting of a plan in the words of `validate_settings`.

    `guidance` is what guide() takes. `stg` is shorter: a term, a list of terms (Eq. 20), `preset`
    for the model's published setting, or left out for none. `num_inference_steps` is `steps`. All
    other words are those of a generation already.

    Raises:
        ValueError: for a term that says something else, or what is said twice.
    """
    out = {ALIASES.get(name, name): value for name, value in words.items() if name != "stg"}
    problems = validate.ProblemCollector()
    if of_plan := sorted(set(_OF_PLAN) & set(out)):
        problems.messages.append(
            f"a setting cannot have {', '.join(of_plan)}, which belong to the prompts and seeds"
            " of the plan. Move them there."
        )
    with problems.attempt():
        out = _put_stg_in(out, words.get("stg"))
    problems.raise_all()
    return out


def _put_stg_in(out: PlainData, stg: Any) -> PlainData:
    if stg is None:
        return out if _SKIPPING & set(out) else {**out, "stg_scale": 0.0}
    if out.get("guidance") is not None:
        raise ValueError("a setting must have stg or guidance, but got both. Keep one of them.")
    if stg == "preset":
        return out
    twice = sorted(name for name in {*_SHARED_TERM_KEYS, *SCALE_AXES} if name in out)
    if twice:
        raise ValueError(
            f"a setting with stg must have {', '.join(twice)} inside of it, but has it beside it."
            " Move it into stg."
        )
    return {**out, **_translate_terms(stg if isinstance(stg, list) else [stg])}


def _translate_terms(terms: Sequence[Any]) -> PlainData:
    """Return terms as flags, or as `guidance` where flags cannot hold them."""
    problems = validate.ProblemCollector()
    for term in terms:
        with problems.attempt():
            _check_term(term)
    problems.raise_all()
    said = [{name: term.get(name) for name in _SHARED_TERM_KEYS} for term in terms]
    axes = [term.get("axis") for term in terms]
    alike = all(other == said[0] for other in said) and len(set(axes)) == len(axes)
    numbers = not any(isinstance(term.get("scale"), list) for term in terms)
    if not (alike and numbers and (len(axes) == 1 or None not in axes)):
        return {"guidance": {"terms": [_whole_term(term) for term in terms]}}
    scales = {
        _SCALE_BY_AXIS[axis]: term.get("scale", 1.0) for axis, term in zip(axes, terms, strict=True)
    }
    return {**{name: value for name, value in said[0].items() if value is not None}, **scales}


def _whole_term(term: ReadOnlyData) -> PlainData:
    share = term.get("random_share")
    drawn = {} if share is None else {"layers": {"random": share}}
    return {**{name: term[name] for name in term if name != "random_share"}, **drawn}


def _check_term(term: Any) -> None:
    """Check what a term of `stg` says.

    Raises:
        Problems: with all that is wrong with it.
    """
    problems = validate.ProblemCollector()
    rows = term if isinstance(term, Mapping) else {}
    for name in sorted(set(map(str, rows)) - set(_TERM_KEYS)):
        more = "Write guidance: {terms: [...]} for more."
        problems.messages.append(
            f"a term of stg has {', '.join(_TERM_KEYS)}, but got {name}."
            f" {validate.did_you_mean(name, _TERM_KEYS, more)}"
        )
    lacks_layers = rows.get("layers") in (None, "", []) and "random_share" not in rows
    meant = any(
        validate.find_misspelt(name, rows, _TERM_KEYS) for name in ("layers", "random_share")
    )
    if lacks_layers and not meant:
        problems.messages.append(
            f"stg must be a term with layers, a list of such terms, or preset, but got {term!r}."
            " Write stg: {layers: [8], scale: 1.0}."
        )
    if not isinstance(axis := rows.get("axis"), str | None) or axis not in _SCALE_BY_AXIS:
        problems.messages.append(
            f"axis must be spatial, temporal or left out, but got {axis!r}. Choose one of them."
        )
    problems.raise_all()
