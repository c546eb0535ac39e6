"""Read what a running pipeline knows about its step, from outside and without changing it.

A pipeline's `__call__` keeps some of what guidance has to know in its variables and not on itself
(whether CFG is on in HunyuanVideo, which of two scales applies in Wan 2.2). Python lets the code
that it calls look at them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any

from skipguide.method.protocols import Guider, Pipeline


def find_call_frame(pipe: Pipeline) -> FrameType | None:
    """Return the frame of the running `__call__` of `pipe`, or None if it is not running.

    This takes microseconds and touches no device.
    """
    frame = sys._getframe(1)
    while frame is not None and not _is_call_frame(pipe, frame):
        frame = frame.f_back
    return frame


def _is_call_frame(pipe: Pipeline, frame: FrameType) -> bool:
    code = frame.f_code
    return (
        code.co_name == "__call__"
        and code.co_varnames[:1] == ("self",)
        and frame.f_locals.get("self") is pipe
    )


def find_ended_call(pipe: Pipeline, trace: TracebackType | None) -> FrameType | None:
    """Return the frame of the `__call__` of `pipe` that an error came out of; None if there is
    none."""
    while trace is not None and not _is_call_frame(pipe, trace.tb_frame):
        trace = trace.tb_next
    return None if trace is None else trace.tb_frame


def find_tensor(pipe: Pipeline, name: str, shape: Sequence[int]) -> Any:
    """Return the innermost variable of that name and shape in the running call of `pipe`.

    A method that holds the loop counts too. An argument of the call may have the name as well
    without being what the loop works on: hence the innermost. None if there is no such variable.
    """
    frame = sys._getframe(1)
    while frame is not None:
        found = frame.f_locals.get(name)
        if getattr(found, "shape", None) == shape:
            return found
        frame = None if _is_call_frame(pipe, frame) else frame.f_back
    return None


def find_loop_variables(pipe: Pipeline) -> tuple[Any, Any] | None:
    """Return (i, t) of the loop `for i, t in enumerate(timesteps)` in the running call of `pipe`.

    i is None where the loop does not count. A method that holds the loop counts too; None if no
    frame has a `t`.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if "t" in frame.f_locals:
            return frame.f_locals.get("i"), frame.f_locals["t"]
        frame = None if _is_call_frame(pipe, frame) else frame.f_back
    return None


def read_value(pipe: Pipeline, frame: FrameType, name: str) -> Any:
    """Return a property of the pipeline, an entry of its config, or a variable of its call.

    Raises:
        LookupError: if none of them knows the name.
    """
    if name in vars(pipe) or hasattr(type(pipe), name):
        return getattr(pipe, name)
    for known in (getattr(pipe, "config", {}), frame.f_locals):
        if name in known:
            return known[name]
    raise LookupError(
        f"guidance needs {name} of {type(pipe).__name__}, but neither the pipeline nor its running"
        " call has it. This version of diffusers may be too new or too old for its row in"
        " skipguide/families/rows.py."
    )


def is_enabled(pipe: Pipeline, frame: FrameType, name: str) -> bool:
    """Return whether something is on: a scale above 1, a rescale above 0, or a flag that is set."""
    found = read_value(pipe, frame, name)
    if name.endswith("rescale"):
        return bool(found > 0)
    return bool(found > 1) if name.endswith("scale") else bool(found)


def find_guider_owner(guider: Guider) -> tuple[Any, FrameType] | None:
    """Return the running pipeline that has this guider, and the frame that knows it.

    A pipeline of diffusers is `self` in that frame, the components of a Modular one `components`.
    None if no pipeline with this guider is running.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        for name in ("components", "self"):
            owner = frame.f_locals.get(name)
            held = (getattr(owner, role, None) for role in ("guider", "guider_2", "audio_guider"))
            if owner is not guider and any(one is guider for one in held):
                return owner, frame
        frame = frame.f_back
    return None
