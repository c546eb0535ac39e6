"""The guidance that a pipeline has of its own beside CFG: STG, modality guidance and rescaling of
LTX-2's pipelines, on by default, and the skipped layers of StableDiffusion3Pipeline.

Their `__call__` writes its scales to attributes of the pipeline ("_stg_scale") and reads them at
every step. To switch that guidance off in a run is to write neutral scales there once the run has
begun. The next call of the pipeline writes its own again."""

from __future__ import annotations

import logging
from types import FrameType
from typing import Any

from skipguide.families import lookup
from skipguide.method.protocols import Pipeline, PlainData
from skipguide.pipeline import call_frame
from skipguide.pipeline.loop import is_cfg_on

_log = logging.getLogger("skipguide")


class OwnGuidance:
    """The pipeline's own guidance in the runs of one guide().

    Args:
        pipe: the pipeline.
        replace: whether it is switched off.
    """

    def __init__(self, pipe: Pipeline, replace: bool):
        self.pipe, self.replace = pipe, replace
        self._calls = lookup.call_convention_of(pipe)
        self._neutral = dict(self._calls.own_guidance)
        self._replaced: PlainData = {}  # by attribute: what the call had written
        self._warned = False  # in this run

    def begin_run(self) -> None:
        """Begin a run, in which everything is told once."""
        self._replaced, self._warned = {}, False

    def settle(self, frame: FrameType, has_terms: bool) -> None:
        """Switch it off at a step that begins, or tell that guidance of ours is added to it.

        Args:
            frame: that of the pipeline's call.
            has_terms: whether a term is on at the step.
        """
        on = self._scales_that_are_on(frame)
        if on and self.replace:
            self._switch_off(on)
        elif has_terms and not self._warned and not all(map(_is_rescaling, on)):
            self._warned = True
            _log.warning("%s", self._describe_sum(on, frame))

    def restore(self) -> None:
        """Give the pipeline what its call had written.

        Not in a run that is under way: only its first step prepares what its own passes take.
        """
        if self._replaced and call_frame.find_call_frame(self.pipe) is not None:
            _log.warning(
                "guide() was removed in the middle of a run, which goes on without the guidance of"
                " the %s's own that it had switched off.",
                type(self.pipe).__name__,
            )
            self._replaced = {}
        for name, value in self._replaced.items():
            setattr(self.pipe, name, value)
        self._replaced = {}

    def _scales_that_are_on(self, frame: FrameType) -> dict[str, float]:
        argument = self._calls.own_guidance_argument
        if argument and (
            frame.f_locals.get(argument) is None or not is_cfg_on(self.pipe, self._calls, frame)
        ):
            return {}
        values = {name: self._read_scale(frame, name) for name in self._neutral}
        return {
            name: value
            for name, value in values.items()
            if value is not None and value > self._neutral[name]
        }

    def _read_scale(self, frame: FrameType, name: str) -> float | None:
        """Return a scale as the pipeline will read it: one that is switched off has its neutral
        value, whatever the argument of the call still says."""
        written = vars(self.pipe).get(f"_{name}")
        return call_frame.read_value(self.pipe, frame, name) if written is None else written

    def _switch_off(self, on: dict[str, float]) -> None:
        for name in on:
            attribute = f"_{name}"
            if attribute not in vars(self.pipe):
                raise RuntimeError(
                    f"replace_own=True switches {name} off by the attribute {attribute} of a"
                    f" {type(self.pipe).__name__}, but this version of diffusers has none. Pass"
                    f" {name}={self._neutral[name]:g} in the call instead."
                )
            self._replaced[attribute] = getattr(self.pipe, attribute)
            setattr(self.pipe, attribute, type(on[name])(self._neutral[name]))
        _log.info(
            "this %s has guidance of its own on (%s); it is switched off, for guide() has its own"
            " in its place.",
            type(self.pipe).__name__,
            _list_scales(on),
        )

    def _describe_sum(self, on: dict[str, float], frame: FrameType) -> str:
        off = ", ".join(f"{name}={self._neutral[name]:g}" for name in on)
        found = (
            f"this {type(self.pipe).__name__} has guidance of its own on ({_list_scales(on)}), and"
            f" skipguide's is added to it. For the latter alone pass {off} to the pipeline, or"
            " replace_own=True to guide()."
        )
        return found + self._describe_ignored(on)

    def _describe_ignored(self, on: dict[str, float]) -> str:
        """Say where diffusers runs a pass of STG that is the conditional one."""
        config: Any = getattr(getattr(self.pipe, "transformer", None), "config", {})
        ignored = any("stg" in name for name in on) and config.get("perturbed_attn") is False
        return (
            " Its own STG costs a pass and changes nothing, for its transformer was made without"
            " perturbed_attn; skipguide's needs none."
            if ignored
            else ""
        )


def _is_rescaling(name: str) -> bool:
    return name.endswith("rescale")


def _list_scales(scales: dict[str, float]) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in scales.items())
