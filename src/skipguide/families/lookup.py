"""Find the row of a pipeline or of a denoiser, and how the pipeline calls it."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from skipguide.families.rows import FAMILIES, REFUSED_PIPELINES
from skipguide.families.schema import CallConvention, Family

# What the calls of pipelines call the number of frames.
FRAME_COUNTS = ("num_frames", "video_length", "frames")
ROWS_FILE = "FAMILIES in skipguide/families/rows.py"


def family_of(pipe: object) -> Family:
    """Return the row for a pipeline, by the name of its class or of one that it derives from.

    Raises:
        ValueError: if no row names the pipeline's class, or its denoiser is not the row's.
    """
    return _find_row(pipe)[0]


def call_convention_of(pipe: object) -> CallConvention:
    """Return how a pipeline calls its denoiser.

    Raises:
        ValueError: as family_of().
    """
    return _find_row(pipe)[1]


def makes_of(pipeline: type) -> Literal["video", "image"]:
    """Return what the pipelines of a class make.

    One without a row makes images if its call takes no number of frames.
    """
    names = [cls.__name__ for cls in pipeline.__mro__]
    row = next((row for name in names for row in FAMILIES if name in row.pipelines), None)
    if row is not None:
        return row.makes
    calls = (vars(cls).get("__call__") for cls in pipeline.__mro__)
    call = next(filter(None, calls), None)
    taken = None if call is None else inspect.signature(call).parameters
    return "video" if taken is None or set(FRAME_COUNTS) & set(taken) else "image"


def denoisers_of(pipe: object, family: Family) -> tuple[Any, ...]:
    """Return the denoisers that a pipeline holds.

    It is one, or two that divide the run between them; Wan 2.2 may hold the second alone."""
    held = (getattr(pipe, name, None) for name in family.denoisers)
    return tuple(denoiser for denoiser in held if denoiser is not None)


def _find_row(pipe: object) -> tuple[Family, CallConvention]:
    names = [cls.__name__ for cls in type(pipe).__mro__]
    for name in names:
        if name in REFUSED_PIPELINES:
            raise ValueError(f"guide() cannot guide {name}: {REFUSED_PIPELINES[name]}.")
        for family in FAMILIES:
            if name in family.pipelines:
                _check_denoisers(pipe, family)
                return family, family.pipelines[name]
    if "ModularPipeline" in names and "guider" in getattr(pipe, "_component_specs", ["guider"]):
        raise ValueError(
            f"guide() cannot guide {names[0]}: the guidance of a Modular pipeline belongs to its"
            " guider. Set one:"
            " pipe.update_components(guider=skipguide.guider.SkipGuidance(layers=[...], scale=1.0,"
            " guidance_scale=5.0))."
        )
    if any(family.model in names for family in FAMILIES):
        raise ValueError(
            "guide() needs the pipeline that calls a denoiser, whose loop has the steps and the"
            f" scales, but got the {names[0]} itself. Write guide(pipe, ...)."
        )
    known = sorted(name for family in FAMILIES for name in family.pipelines)
    raise ValueError(
        f"guide() needs a pipeline that it knows, but got {names[0]}. Nearest known:"
        f" {closest_names(names[0], known)}; `skipguide families` lists all. To support another"
        f" one, add a row to {ROWS_FILE}."
    )


def _check_denoisers(pipe: object, family: Family) -> None:
    name = type(pipe).__name__
    held = {attribute: getattr(pipe, attribute, None) for attribute in family.denoisers}
    there = {attribute: denoiser for attribute, denoiser in held.items() if denoiser is not None}
    for attribute, denoiser in (there or held).items():
        found = type(denoiser).__name__
        if found == "OptimizedModule":
            raise ValueError(
                f"{name} needs its {family.model} itself as .{attribute}, but got the wrapper of"
                f" torch.compile(). Compile in place: pipe.{attribute}.compile() or"
                " .compile_repeated_blocks()."
            )
        if family.model not in (cls.__name__ for cls in type(denoiser).__mro__):
            raise ValueError(
                f"{name} needs a {family.model} as its .{attribute}, but got {found}. "
                f"Nearest known: {closest_names(found, [row.model for row in FAMILIES])}. "
                f"To support another denoiser, add a row to {ROWS_FILE}."
            )


def closest_names(name: str, known: Sequence[str]) -> str:
    """List the three known names that are most like a name."""
    return ", ".join(difflib.get_close_matches(name, known, n=3, cutoff=0.0))


def family_of_denoiser(denoiser: nn.Module) -> Family:
    """Return the row for a denoiser, by the name of its class or of one that it derives from.

    Raises:
        ValueError: if no row is for such a model.
    """
    names = [cls.__name__ for cls in type(denoiser).__mro__]
    rows = {family.model: family for family in FAMILIES}
    found = next((rows[name] for name in names if name in rows), None)
    if found is None and names[0] == "OptimizedModule":
        raise ValueError(
            "SkipGuidance needs the denoiser itself, but got the wrapper of torch.compile()."
            " Compile in place: pipe.transformer.compile() or .compile_repeated_blocks()."
        )
    if found is None:
        raise ValueError(
            f"SkipGuidance needs a denoiser that it knows, but got {names[0]}. Nearest known:"
            f" {closest_names(names[0], list(rows))}. To support another one, add a row to"
            f" {ROWS_FILE}."
        )
    return found
