"""The sampling loop around a guider: what it does not tell its guider is read from its frames."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch

from skipguide.method import cfg_rules
from skipguide.method.protocols import Guider
from skipguide.pipeline import call_frame, noise_levels

Tensor = torch.Tensor


class GuiderLoop:
    """The sampling loop around a guider; what it does not tell its guider is read from its
    frames."""

    scale_argument = "guidance_scale"
    negates_predictions = False

    def __init__(self, guider: Guider):
        self._reference = weakref.ref(guider)  # the guider holds the run, which holds this

    @property
    def _guider(self) -> Any:
        guider = self._reference()
        assert guider is not None  # nobody else asks
        return guider

    @property
    def owner(self) -> str:
        """The name of the pipeline's class."""
        found = self._find_owner()
        return "SkipGuidance" if found is None else type(found[0]).__name__

    @property
    def scheduler(self) -> Any:
        """The scheduler of the running pipeline."""
        found = self._find_owner()
        if found is None:
            raise ValueError(
                "a Schedule, CFGZero(zero_steps=1) and the space of the data need the scheduler of"
                " the pipeline, but SkipGuidance was called outside of one. Put it into a pipeline."
            )
        return found[0].scheduler

    def _find_owner(self) -> Any:
        return call_frame.find_guider_owner(self._guider)

    # No properties with the names of components: the frames of this object are searched for those.

    def find_video_guider(self) -> Any:
        """Return what runs the passes of this guider, LTX-2's audio guider; None for others."""
        found = self._find_owner()
        is_audio = found is not None and getattr(found[0], "audio_guider", None) is self._guider
        return found[0].guider if found is not None and is_audio else None

    def find_audio_guider(self) -> Any:
        """Return the audio guider whose passes this one runs too; None without one."""
        found = self._find_owner()
        audio = None if found is None else getattr(found[0], "audio_guider", None)
        return None if audio is self._guider else audio

    def check(self) -> None:
        """Check the timesteps of the run, and what only LTX-2's Modular pipelines have: an audio
        guider and estimates of the data.

        Raises:
            ValueError: for timesteps that are no numbers, two guiders whose passes differ, or what
                speaks of predictions.
        """
        found, guider = self._find_owner(), self._guider
        if found is not None:
            noise_levels.check_timesteps(found[0].scheduler, type(found[0]).__name__)
        audio = getattr(found[0], "audio_guider", None) if found is not None else None
        if audio is None or found is None:
            return
        request = guider.make_request()
        if isinstance(guider.cfg, cfg_rules.MAMBOG):
            raise ValueError(
                f"{type(found[0]).__name__} hands its guiders estimates of the clean video, but"
                " MAMBOG compares the lengths of predictions. Use another rule."
            )
        if request.data_space_features or request.zero_steps:
            raise ValueError(
                f"{type(found[0]).__name__} hands its guiders estimates of the clean video, but"
                f" {request.data_space_features or 'CFGZero with zero_steps above 0'} needs"
                ' predictions. Use space="prediction", which is the space of the data there, or'
                " CFGZero(zero_steps=0)."
            )
        if request.decides_in_run:
            raise ValueError(
                f"{type(found[0]).__name__} has two guiders, which must come to the same steps, but"
                ' a budget or every="auto" is decided by each of them for itself. Write a share,'
                " such as every=0.5."
            )
        self._check_pair(found[0], audio)

    def _check_pair(self, owner: Any, audio: Any) -> None:
        """Check that the two guiders of LTX-2 can share the passes of a step."""
        guider, name = self._guider, type(owner).__name__
        if audio is owner.guider is guider:
            raise ValueError(
                f"the two guiders of {name} each keep the state of a run, but they are one and the"
                " same SkipGuidance. Give it another one: audio_guider=guider.new()."
            )
        if audio is not guider and getattr(audio, "stg_scale", 0):
            raise ValueError(
                f"the STG of an audio_guider runs with the blocks of the guider of {name}, but that"
                f" one is a SkipGuidance, and the {type(audio).__name__} beside it has"
                f" stg_scale={audio.stg_scale:g}. Put a SkipGuidance of the same terms there."
            )
        if audio is guider and not guider.has_passes_of(owner.guider):
            raise ValueError(
                "an audio_guider gets the weak passes that the pipeline's guider makes, but the two"
                " skip different layers. Give both the same terms; only their scales may differ."
            )

    def num_steps(self) -> int:
        """Return N of the last set_state()."""
        return self._guider._num_inference_steps

    def first_timestep_index(self) -> int:
        """Return where in the scheduler's timesteps the run begins."""
        scheduler = self.scheduler
        begin = getattr(scheduler, "begin_index", None)
        return begin or max(0, len(scheduler.timesteps) - self.num_steps())

    def position(self, index: int) -> tuple[int, int]:
        """Return (i, N): a guider knows no restarts."""
        return index, self.num_steps()

    def denoiser_changes(self) -> list[int]:
        """Return none: Modular pipelines of two denoisers have a guider for each."""
        return []

    def scheduler_of(self, output: int) -> Any:
        """Return the scheduler of the pipeline: a guider has one output."""
        return self.scheduler

    def latents(self, shape: Sequence[int], output: int = 0) -> Tensor | None:
        """Return the noisy latents of the running loop, of a pipeline or of a Modular one's
        state."""
        found = self._find_owner()
        if found is None:
            return None
        names = found[1].f_locals
        for latents in (names.get("latents"), getattr(names.get("block_state"), "latents", None)):
            if getattr(latents, "shape", None) == shape:
                return latents
        return None

    def cfg_may_follow(self) -> bool:
        """Return whether CFG is on in a window of the run."""
        return self._guider.uses_cfg()
