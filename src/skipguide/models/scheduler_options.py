"""Check the options of a scheduler: their types, their values, and whether they change anything.

diffusers takes any value when a scheduler is made. Some fail in the middle of the sampling loop,
and some change nothing; a few steps on small random numbers show which.
"""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

import torch

from skipguide.files.text import first_line
from skipguide.method import validate
from skipguide.method.protocols import PlainData, ReadOnlyData

_STEPS = 4  # of a trial where the number is not known
_WORDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a word"}
_AT_LEAST_ONE = ("num_train_timesteps", "solver_order", "predictor_order")
_ABOVE_ZERO = ("shift", "flow_shift")
_UP_TO_THREE = ("DPMSolver", "DEIS")  # whose solver_order is 1, 2 or 3
# What a pipeline takes from the configuration to find a shift for the size of the video.
_OF_DYNAMIC_SHIFTING = ("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len")


def options_of(kind: type[Any]) -> list[str]:
    """Return the names of the options of a scheduler's class."""
    return [name for name in inspect.signature(kind.__init__).parameters if name != "self"]


def check_options(kind: type[Any], options: ReadOnlyData) -> PlainData:
    """Return options as the class takes them: 1 as true where it wants that, 1e-4 as a number.

    Raises:
        ValueError: for an option that the class does not have, and a value of another type or
            outside of its range.
    """
    known, name = options_of(kind), kind.__name__
    for option in options:
        if option not in known:
            raise ValueError(
                f"an option of {name} must be one of {', '.join(known)}, but got"
                f" {option!r}. {validate.did_you_mean(option, known, 'Remove it.')}"
            )
    return {option: _check_value(kind, option, value) for option, value in options.items()}


def _check_value(kind: type[Any], option: str, value: Any) -> Any:
    wanted = list(_members(typing.get_type_hints(kind.__init__).get(option)))
    if value is None and inspect.signature(kind.__init__).parameters[option].default is None:
        return None
    fitting = [found for found in (_as_type(value, one) for one in wanted) if found is not None]
    must = " or ".join(dict.fromkeys(filter(None, map(_type_words, wanted))))
    must = must or ("" if not wanted else "left out")
    found = fitting[0] if fitting else value
    if fitting or not must:  # diffusers says nothing of some types
        must = _range_words(kind, option, found)
    if must:
        raise ValueError(
            f"{option} of {kind.__name__} must be {must}, but got {value!r}. Correct it in"
            " --scheduler, or leave it out."
        )
    return found


def _members(hint: Any) -> Iterator[Any]:
    """Yield the types that a hint allows; of None there are none."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        for member in typing.get_args(hint):
            yield from _members(member)
    elif hint is not None:
        yield hint


def _as_type(value: Any, wanted: Any) -> Any:
    """Return a value as one of a type; None if it is none."""
    if typing.get_origin(wanted) is Literal:
        return value if value in typing.get_args(wanted) else None
    if (typing.get_origin(wanted) or wanted) is list:
        return value if isinstance(value, list) else None
    if wanted is bool:
        return bool(value) if value in (0, 1) else None
    if wanted is float:
        return _as_number(value)
    is_one = isinstance(wanted, type) and isinstance(value, wanted)
    return value if is_one and not isinstance(value, bool) else None


def _as_number(value: Any) -> float | int | None:
    """Return a finite number, also of 1e-4, which is text in YAML."""
    try:
        found = float(value) if isinstance(value, str) else value
    except ValueError:
        return None
    is_number = isinstance(found, (int, float)) and not isinstance(found, bool)
    return found if is_number and math.isfinite(found) else None


def _type_words(wanted: Any) -> str:
    if typing.get_origin(wanted) is Literal:
        return " or ".join(map(str, typing.get_args(wanted)))
    return "a list" if (typing.get_origin(wanted) or wanted) is list else _WORDS.get(wanted, "")


def _range_words(kind: type[Any], option: str, value: Any) -> str:
    """Return what a value must be that is outside of its range; "" for any other."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return ""
    if option == "solver_order" and any(word in kind.__name__ for word in _UP_TO_THREE):
        return "" if 1 <= value <= 3 else "1, 2 or 3"
    if option in _AT_LEAST_ONE:
        return "" if value >= 1 else "a whole number >= 1"
    return "a finite number above 0" if option in _ABOVE_ZERO and value <= 0 else ""


# --- a few steps ----------------------------------------------------------------------------------


def check_steps(kind: type[Any], config: PlainData, options: ReadOnlyData, steps: int) -> None:
    """Check that a scheduler can make its steps with its options.

    Args:
        config: all of the configuration, with the options in it.
        options: those that the user gave; the others are the model's own.
        steps: of the video.

    Raises:
        ValueError: if it fails with them, or makes numbers that are not finite, and does not so
            without them.
    """
    if not options:
        return
    reason = _failure(kind, config, steps)
    if reason and not _failure(kind, _without(config, options), steps):
        given = ", ".join(f"{name}={value}" for name, value in options.items())
        raise ValueError(
            f"the options of {kind.__name__} must be ones with which it can make its steps, but"
            f" with {given} {reason}. Correct them in --scheduler, or leave them out."
        )


def unused_options(
    kind: type[Any], config: PlainData, options: ReadOnlyData, steps: int
) -> Iterator[str]:
    """Yield a note for each option that changes nothing in the steps of a video.

    Args:
        config, options, steps: as for `check_steps`.
    """
    dynamic = _OF_DYNAMIC_SHIFTING if config.get("use_dynamic_shifting") else ()
    for name, value in options.items():
        if name in dynamic:
            continue
        if name == "solver_order" and value > steps:
            yield (
                f"solver_order={value} of {kind.__name__} is more than the video has steps, and no"
                f" more than {steps} can have an effect. Take 2 or 3."
            )
        elif _is_same(kind, config, {**config, name: _default(kind, name)}, steps):
            yield (
                f"{name}={value} of {kind.__name__} has no effect on the steps of this video. Leave"
                " it out."
            )


def _is_same(kind: type[Any], config: PlainData, other: PlainData, steps: int) -> bool:
    if config == other:
        return False
    try:
        pairs = zip(_try(kind, config, steps), _try(kind, other, steps), strict=True)
        return all(torch.equal(a, b) for a, b in pairs)
    except Exception:  # of a scheduler that is called in a way of its own
        return False


def _default(kind: type[Any], name: str) -> Any:
    return inspect.signature(kind.__init__).parameters[name].default


def _without(config: PlainData, options: ReadOnlyData) -> PlainData:
    return {name: value for name, value in config.items() if name not in options}


def _failure(kind: type[Any], config: PlainData, steps: int) -> str | None:
    """Return what goes wrong when a scheduler makes its steps; None if nothing does."""
    try:
        sample = _try(kind, config, steps)[0]
    # Schedulers fail in many ways where an option is not one of theirs.
    except Exception as error:
        return f"diffusers says: {first_line(error)[:200]}"
    return None if bool(sample.isfinite().all()) else "the frames are not finite"


def _try(kind: type[Any], config: PlainData, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sample and the timesteps of a loop with random numbers for a denoiser."""
    scheduler = kind(**config)
    taken = inspect.signature(scheduler.set_timesteps).parameters
    shift = {"mu": 1.0} if "mu" in taken and config.get("use_dynamic_shifting") else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        scheduler.set_timesteps(steps or _STEPS, device="cpu", **shift)
        sample = torch.randn(1, 4, 2, 2) * float(getattr(scheduler, "init_noise_sigma", 1.0))
        for timestep in scheduler.timesteps:
            scaled = getattr(scheduler, "scale_model_input", lambda x, _: x)(sample, timestep)
            predicted = torch.tanh(scaled) + torch.randn(sample.shape)
            sample = scheduler.step(predicted, timestep, sample, return_dict=False)[0]
    return sample, scheduler.timesteps.float()
