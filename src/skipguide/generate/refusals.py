"""Say in words why the call of a pipeline refused its settings."""

from __future__ import annotations

import re
from types import TracebackType

from skipguide.generate.settings import GenerationSettings
from skipguide.method.protocols import Pipeline

_MULTIPLE = re.compile(r"\b(?P<name>height|width)\b.*divisible by\D*(?P<step>\d+)", re.DOTALL)


def explain(error: ValueError, pipe: Pipeline, settings: GenerationSettings) -> ValueError:
    """Return the error of a call in words; one of this package is returned as it is.

    Args:
        settings: complete.
    """
    if _is_own(error.__traceback__):
        return error
    model, said = type(pipe).__name__, " ".join(str(error).split())
    found = _MULTIPLE.search(said)
    size = (settings.height, settings.width)
    if found and size[0] is not None and size[1] is not None and int(found["step"]) > 0:
        step = int(found["step"])
        near = [max(round(pixels / step), 1) * step for pixels in (size[0], size[1])]
        return ValueError(
            f"height and width must be multiples of {step} for {model}, but got {size[0]} and"
            f" {size[1]}. Take --height {near[0]} --width {near[1]}."
        )
    return ValueError(
        f"the settings must be some that {model} takes, but it refuses them: {said.rstrip('. ')}."
        " Change that setting."
    )


def _is_own(trace: TracebackType | None) -> bool:
    """Return whether an error was raised by this package, and speaks for itself."""
    name = ""
    while trace is not None:
        name, trace = trace.tb_frame.f_globals.get("__name__", ""), trace.tb_next
    return name.split(".")[0] == "skipguide"
