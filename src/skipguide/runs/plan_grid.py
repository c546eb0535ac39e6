"""The settings of a plan: from the words of guide() to those of one generation, and grids to the
settings they mean."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from skipguide.generate.settings import SCALE_AXES

_SCALE_BY_AXIS = {axis: name for name, axis in SCALE_AXES.items()}
_ALIASES = {"num_inference_steps": "steps"}
# What a term of a plan may say: what is alike in all terms of one setting, and what is not.
_SHARED_TERM_KEYS = (
    "layers",
    "random_share",
    "skip",
    "strength",
    "normalize",
    "every",
    "start",
    "stop",
)
_TERM_KEYS = (*_SHARED_TERM_KEYS, "scale", "axis")


def expand_grid(entry: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The settings that one entry of a plan means: (name, words), one per point of its grid.

    A grid has lists in the places of values: `grid: {guidance_scale: [3, 4.5], stg: {layers: [4,
        8], scale: [1, 2]}}`
    are 8 settings, named after the entry and their point.

    Raises:
        ValueError: for an entry without a name, or a grid that is not made of lists.
    """
    words = dict(entry)
    name, grid = words.pop("name", None), words.pop("grid", {})
    if not isinstance(name, str) or not name.strip():
        raise ValueError(
            f"every setting must have a name, but got {entry!r}. Write {{name: stg, ...}}."
        )
    axes = list(_grid_axes(grid, ()))
    for point in itertools.product(*(values for _, values in axes)):
        at = [(path, value) for (path, _), value in zip(axes, point, strict=True)]
        yield (
            " ".join([name.strip(), *(f"{path[-1]}={_format_value(value)}" for path, value in at)]),
            _apply_point(words, at),
        )


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


def _apply_point(
    words: Mapping[str, Any], at: Sequence[tuple[tuple[str, ...], Any]]
) -> dict[str, Any]:
    """The words with the values of one point of the grid in their places."""
    out = dict(words)
    for path, value in at:
        place = out
        for name in path[:-1]:
            inner = place.get(name)
            place[name] = dict(inner) if isinstance(inner, Mapping) else {}
            place = place[name]
        place[path[-1]] = value
    return out


def _format_value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(_format_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def flatten(words: Mapping[str, Any]) -> dict[str, Any]:
    """A setting in the words of guide() as settings of `settings.Generation`.

    `stg` is a term, a list of terms (Eq. 20: one spatial, one temporal), `preset` for the model's
    published setting, or left out for none; `num_inference_steps` is `steps`. All other words are
    those of a generation already.

    Raises:
        ValueError: for a term that says something else, or terms that a generation cannot have
            together.
    """
    out = {_ALIASES.get(name, name): value for name, value in words.items() if name != "stg"}
    if of_plan := sorted({"prompt", "image", "seed"} & set(out)):
        raise ValueError(
            f"a setting must leave {', '.join(of_plan)} to prompts and seeds of the plan. Move it"
            " there."
        )
    stg = words.get("stg")
    if stg == "preset":
        return out
    twice = sorted({*_SHARED_TERM_KEYS, *SCALE_AXES} & set(out)) if stg is not None else []
    if twice:
        raise ValueError(
            f"a setting must say {', '.join(twice)} within stg, but says it beside it too. Keep"
            " one."
        )
    if stg is None:
        return (
            out
            if {"layers", "random_share", "schedule", *SCALE_AXES} & set(out)
            else {**out, "stg_scale": 0.0}
        )
    return {**out, **_flatten_terms(stg if isinstance(stg, list) else [stg])}


def _flatten_terms(terms: Sequence[Any]) -> dict[str, Any]:
    for term in terms:
        _check_term(term)
    said = [{name: term.get(name) for name in _SHARED_TERM_KEYS} for term in terms]
    axes = [term.get("axis") for term in terms]
    if (
        any(other != said[0] for other in said)
        or len(set(axes)) < len(axes)
        or (len(axes) > 1 and None in axes)
    ):
        raise ValueError(
            "the terms of one setting must have the same layers, skip and window, and each another"
            f" axis, but got {list(terms)!r}. Use guide() from Python for others."
        )
    shared = {name: value for name, value in said[0].items() if value is not None}
    return {
        **shared,
        **{
            _SCALE_BY_AXIS[axis]: term.get("scale", 1.0)
            for axis, term in zip(axes, terms, strict=True)
        },
    }


def _check_term(term: Any) -> None:
    known = ", ".join(_TERM_KEYS)
    if not isinstance(term, Mapping) or (
        term.get("layers") in (None, "", []) and "random_share" not in term
    ):
        raise ValueError(
            f"stg must be a term with layers, a list of such terms, or preset, but got {term!r}."
            " Write stg: {layers: [8], scale: 1.0}."
        )
    unknown = sorted(set(map(str, term)) - set(_TERM_KEYS))
    if unknown:
        raise ValueError(
            f"a term of stg has {known}, but got {', '.join(unknown)}. Use guide() from Python for"
            " more."
        )
    if not isinstance(axis := term.get("axis"), str | None) or axis not in _SCALE_BY_AXIS:
        raise ValueError(
            f"axis must be spatial, temporal or left out, but got {axis!r}. Choose one of them."
        )
