"""Give a pipeline another scheduler or another shift of its noise levels, or refuse it in words."""

from __future__ import annotations

import contextlib
import copy
import difflib
import functools
import inspect
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from skipguide.method.protocols import Pipeline, PlainData
from skipguide.models import scheduler_options
from skipguide.models.parsing import split_scheduler
from skipguide.models.scheduler_options import options_of
from skipguide.models.settings import ModelSettings

_USUAL = ("FlowMatchEulerDiscrete", "UniPCMultistep", "DPMSolverMultistep")  # of video models


@contextlib.contextmanager
def use_scheduler(pipe: Pipeline, settings: ModelSettings) -> Iterator[None]:
    """Give a pipeline another scheduler or another shift of its noise levels."""
    if settings.scheduler is None and settings.flow_shift is None:
        yield
        return
    own = pipe.scheduler
    steps = getattr(settings, "steps", None)
    made = build_scheduler(own, settings.scheduler, settings.flow_shift, steps)
    _check_fit(made, own, pipe)
    pipe.scheduler = made
    if settings.scheduler is None:
        _check_effect(pipe.scheduler, own, type(pipe).__name__)
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        if settings.scheduler is None or not _is_of_scheduler(error):
            raise
        raise ValueError(
            f"scheduler must be one that goes with {type(pipe).__name__}, but with"
            f" {settings.scheduler} diffusers fails: {type(error).__name__}:"
            f" {str(error).partition(chr(10))[0][:200]}. Take another, or leave out --scheduler."
        ) from error
    finally:
        pipe.scheduler = own


def _is_of_scheduler(error: Exception) -> bool:
    """Return whether an error came out of a scheduler, or of how a pipeline calls it."""
    inner = traceback.extract_tb(error.__traceback__)[-3:]
    in_file = any("schedulers" in Path(frame.filename).parts for frame in inner)
    return in_file or re.search(r"Scheduler|set_timesteps\(\)|\bstep\(\)", str(error)) is not None


def build_scheduler(
    own: Any, named: str | None, flow_shift: float | None, steps: int | None = None
) -> Any:
    """Return a scheduler for the model that has its own one.

    Args:
        own: the model's scheduler, whose noise levels and prediction are taken over.
        named: as `ModelSettings.scheduler`; None keeps the class.
        flow_shift: as `ModelSettings.flow_shift`; None keeps that of the model.
        steps: of the video, with which the options are tried.

    Raises:
        ValueError: for a scheduler that diffusers does not have or the model cannot use, for
            options that it does not have or cannot make steps with, and for two shifts.
    """
    kind, options = (type(own), {}) if named is None else _named_scheduler(named, own)
    config = _complete(own, kind, options)
    if flow_shift is not None:
        name = _shift_option(own, kind, config)
        if options.get(name) not in (None, flow_shift):
            raise ValueError(
                f"flow_shift must be given once, but got --flow-shift {flow_shift:g} and"
                f" {name}={options[name]} in --scheduler {named}. Leave one of them out."
            )
        config[name] = flow_shift
    if _is_flow(own.config) and not _is_flow(config, kind):
        raise ValueError(
            f"scheduler must be one for flow matching with this model, whose own is a"
            f" {type(own).__name__}, but {kind.__name__} is none. Take"
            f" {', '.join(_USUAL[:-1])} or {_USUAL[-1]}."
        )
    scheduler_options.check_steps(kind, config, options, steps or 0)
    return kind(**config)


def scheduler_notes(own: Any, settings: ModelSettings) -> Iterator[str]:
    """Yield a note for each option of the scheduler that changes nothing.

    Args:
        own: the model's scheduler.
        settings: that `use_scheduler` takes.
    """
    if settings.scheduler is None or ":" not in settings.scheduler:
        return
    kind, options = _named_scheduler(settings.scheduler, own)
    config = _complete(own, kind, options)
    if settings.flow_shift is not None:
        config[_shift_option(own, kind, config)] = settings.flow_shift
    steps = getattr(settings, "steps", None) or 0
    yield from scheduler_options.unused_options(kind, config, options, steps)


def _complete(own: Any, kind: type[Any], options: PlainData) -> PlainData:
    kept = {name: own.config[name] for name in options_of(kind) if name in own.config}
    return {**kept, **_translated(own, kind), **options}


def _check_fit(made: Any, own: Any, pipe: Pipeline) -> None:
    """Check that a scheduler has what the code of a pipeline asks of its own one.

    Raises:
        ValueError: if it lacks something.
    """
    source = ""
    with contextlib.suppress(OSError, TypeError):  # of a class that was typed in
        source = inspect.getsource(sys.modules[type(pipe).__module__])
    used = set(re.findall(r"self\.scheduler\.([a-z]\w*)", source))
    asked = set(re.findall(r"hasattr\(self\.scheduler, ['\"](\w+)", source))
    missing = [name for name in used - asked if hasattr(own, name) and not hasattr(made, name)]
    taken = inspect.signature(made.set_timesteps).parameters
    missing += [
        f"set_timesteps({name}=...)"
        for name, parameter in inspect.signature(own.set_timesteps).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in taken
    ]
    if missing:
        raise ValueError(
            f"scheduler must be one that {type(pipe).__name__} can call, but {type(made).__name__}"
            f" has no {', '.join(sorted(missing))}, as the model's own {type(own).__name__} has."
            " Take another, or leave out --scheduler."
        )


def _check_effect(shifted: Any, own: Any, model: str) -> None:
    """Let a scheduler refuse its shift where the noise levels are the same without it.

    Some pipelines hand the noise levels to the scheduler, and some schedulers leave them as they
    are.
    """
    set_timesteps = shifted.set_timesteps

    @functools.wraps(set_timesteps)
    def checked(*args: Any, **kwargs: Any) -> None:
        set_timesteps(*args, **kwargs)
        other = copy.deepcopy(own)
        other.set_timesteps(*args, **kwargs)
        if torch.equal(other.sigmas.cpu(), shifted.sigmas.cpu()):
            raise ValueError(
                f"flow_shift must change the noise levels, but those of {model} are the same"
                f" without it: its {type(own).__name__} is given them or finds them in another"
                " way. Leave out --flow-shift."
            )

    shifted.set_timesteps = checked


def _named_scheduler(named: str, own: Any) -> tuple[type[Any], PlainData]:
    import diffusers

    name, options = split_scheduler(named)
    kind: Any = getattr(diffusers, name, None)
    if not _is_scheduler(kind):
        short = name.removesuffix("Scheduler")
        close = _close_names(short, own)
        advice = f"Did you mean {' or '.join(close)}?" if close else "Check the name."
        raise ValueError(
            f"scheduler must be one of diffusers, but got {named!r}, and there is no {name}."
            f" {advice}"
        )
    return kind, scheduler_options.check_options(kind, options)


def _is_scheduler(kind: Any) -> bool:
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    return isinstance(kind, type) and issubclass(kind, SchedulerMixin)


def _close_names(short: str, own: Any) -> list[str]:
    """Return names that may have been meant, of schedulers that the model can use.

    A name is compared word by word, so that Eulr is near FlowMatchEulerDiscrete.
    """
    import diffusers

    found: dict[str, float] = {}
    for word in (word for word in dir(diffusers) if word.endswith("Scheduler")):
        kind = getattr(diffusers, word)
        if not _is_scheduler(kind) or (_is_flow(own.config) and not _can_flow(kind)):
            continue
        name = word.removesuffix("Scheduler")
        starts = [start.start() for start in re.finditer(r"[A-Z][a-z]", name)] or [0]
        parts = [name[start : start + len(short) + 1] for start in starts]
        ratios = [_likeness(short, part) for part in (name, *parts)]
        is_start = name.lower().startswith(short.lower())
        found[name] = max(ratios) + is_start + (name in _USUAL) / 4
    best = sorted(found, key=lambda name: -found[name])
    return [name for name in best if found[name] > 0.75][:2]


def _likeness(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a.lower(), b.lower()).ratio()


def _can_flow(kind: type[Any]) -> bool:
    return not {"shift", "use_flow_sigmas"}.isdisjoint(options_of(kind))


def _is_flow(config: Any, kind: type[Any] | None = None) -> bool:
    """Return whether the noise levels are those of flow matching, x = (1 - sigma) x0 + sigma e.

    Args:
        kind: the class for which the configuration is meant; None is the one that it is of.
    """
    known = None if kind is None else options_of(kind)
    if "shift" in (config if known is None else known):
        return True
    has_switch = known is None or "use_flow_sigmas" in known
    return has_switch and bool(config.get("use_flow_sigmas"))


def _translated(own: Any, kind: type[Any]) -> PlainData:
    """Return what flow matching is called in another scheduler: diffusers has two vocabularies."""
    known, config = options_of(kind), own.config
    if not _is_flow(config) or isinstance(own, kind):
        return {}
    shift = config.get("shift", config.get("flow_shift"))
    if "use_flow_sigmas" in known:
        words = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
        return words | ({"flow_shift": shift} if "flow_shift" in known and shift else {})
    return {"shift": shift} if "shift" in known and shift else {}


def _shift_option(own: Any, kind: type[Any], config: PlainData) -> str:
    known = options_of(kind)
    name = next((name for name in ("flow_shift", "shift") if name in known), None)
    if name is None or not _is_flow(own.config):
        raise ValueError(
            "flow_shift needs a scheduler of flow matching that takes a shift, but this"
            f" model has {type(own).__name__}. Leave out --flow-shift."
        )
    if config.get("use_dynamic_shifting"):
        raise ValueError(
            f"flow_shift needs a scheduler with a fixed shift, but the {type(own).__name__} of"
            " this model finds it from the size of the video (use_dynamic_shifting). Leave out"
            " --flow-shift, or switch that off: --scheduler"
            f" {type(own).__name__.removesuffix('Scheduler')}:use_dynamic_shifting=false"
        )
    return name
