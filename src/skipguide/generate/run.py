"""Run a pipeline with or without guidance, and measure it."""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
import torch
from PIL import Image

from skipguide import STG, guide
from skipguide.families import lookup
from skipguide.files import image as image_file
from skipguide.files.sound import Sound
from skipguide.files.video import Frames
from skipguide.generate import failures, notes, refusals, soundtrack, without_cfg
from skipguide.generate.preset_used import find_preset_used
from skipguide.generate.record import GenerationResult
from skipguide.generate.resolve import call_parameters, guider_sets_scale, pipeline_argument
from skipguide.generate.settings import GenerationSettings
from skipguide.generate.step_cache import cache_steps
from skipguide.method.protocols import Pipeline, PlainData, ReadOnlyData
from skipguide.models import memory, per_video, placement, telling
from skipguide.models.skeleton import ReachedMissingPart
from skipguide.pipeline import call_frame, loop, noise_levels
from skipguide.pipeline.warnings import ignore_cpu_autocast_warning


@dataclass(frozen=True)
class StepProgress:
    """The state of a generation after a denoising step."""

    number: int  # steps done
    steps: int  # steps in all
    passes_per_step: float
    seconds_left: float


StepCallback = Callable[[StepProgress], None]


# --- running --------------------------------------------------------------------------------------


def generate(
    pipe: Pipeline,
    settings: GenerationSettings,
    on_step: StepCallback | None = None,
    image: Image.Image | None = None,
    parallel: Any = None,
) -> GenerationResult:
    """Make one video, or one picture: a video of one frame.

    Equal settings on the same machine with the same versions give equal bytes.

    Args:
        settings: complete, as `resolve_settings` returns them.
        on_step: called after each denoising step; an exception from it ends the generation.
        image: the first frame, of any size; given if and only if the settings name one.
        parallel: as for guide(); the other processes call assist().

    Raises:
        ValueError: for settings that the pipeline refuses, an image too many or too few, or frames
            that are not finite.
    """
    if (image is None) != (settings.image is None):
        raise ValueError(
            "image must be given if and only if the settings name one, but they name"
            f" {settings.image!r} and {'none' if image is None else 'one'} was given. Read it with"
            " skipguide.files.image.read()."
        )
    started, said = time.perf_counter(), _Notes()
    device = placement.execution_device(pipe)
    memory.reset_peak(device)
    if image is not None and settings.width and settings.height:
        said.add(notes.crop_note(image, settings))
    first = _fit(image, settings)
    for note in notes.notes_before(pipe, settings):
        said.add(note)
    with (
        per_video.put_on(pipe, settings),
        cache_steps(pipe, settings.cache),
        _set_guider_scale(pipe, settings),
        _apply_guidance(pipe, settings, parallel, said) as passes_per_step,
    ):
        clock = _StepTimer(pipe, settings, passes_per_step, on_step, said)
        output = _call_pipeline(pipe, settings, first, clock)
        passes = passes_per_step()
    frames = _to_uint8(np.asarray(_first_of(output)), settings)
    said.add(notes.size_note(frames.shape, settings, type(pipe).__name__))
    sound = _sound_of(pipe, output, said)
    seconds = time.perf_counter() - started
    return GenerationResult(
        frames, passes, clock.seconds_per_step(), seconds, first, tuple(said.texts),
        memory.measure_peak(device), find_preset_used(settings, pipe),
        without_cfg.has_embedded_scale(pipe, settings), sound,
    )  # fmt: skip


def _sound_of(pipe: Pipeline, output: Any, said: _Notes) -> Sound | None:
    """Return the sound of a video; a video whose sound cannot be written is kept, with a note."""
    if getattr(output, "audio", None) is not None and soundtrack.sampling_rate(pipe) is None:
        said.add(f"The sound is left out: {soundtrack.missing_rate_note(pipe)}.")
        return None
    return soundtrack.sound_of(pipe, output)


def assist(
    pipe: Pipeline, settings: GenerationSettings, image: Image.Image | None, parallel: Any
) -> None:
    """Run this process's passes of a video that process 0 of the group makes by generate().

    Args:
        pipe, settings, image, parallel: as for `generate`.

    Raises:
        ValueError: as `generate`, before the last step.
        BranchError: if another process failed or was lost.
    """
    with (
        per_video.put_on(pipe, settings),
        _set_guider_scale(pipe, settings),
        _apply_guidance(pipe, settings, parallel),
    ):
        clock = _StepTimer(pipe, settings, lambda: math.nan, None, _Notes())
        _call_pipeline(pipe, settings, _fit(image, settings), clock, output_type="latent")


def _fit(image: Image.Image | None, settings: GenerationSettings) -> Image.Image | None:
    """Return the first frame in the size of the video, where that is known."""
    if image is None or not (settings.width and settings.height):
        return image
    pad = settings.image_fit == "pad"
    return image_file.fit_to_size(image, settings.width, settings.height, pad)


def check_call(
    pipe: Pipeline, settings: GenerationSettings, image: Image.Image | None = None
) -> None:
    """Call a pipeline for its own checks of the settings, up to the first use of a denoiser.

    Args:
        pipe: a skeleton, whose missing parts end the call before.
        settings, image: as for `generate`.

    Raises:
        ValueError: for settings that the pipeline refuses.
        ReachedMissingPart: where it takes them.
    """
    hooks = [
        denoiser.register_forward_pre_hook(_end_call)
        for denoiser in placement.denoisers(pipe).values()
    ]
    try:
        with _set_guider_scale(pipe, settings):
            clock = _StepTimer(pipe, settings, lambda: math.nan, None, _Notes())
            _call_pipeline(pipe, settings, _fit(image, settings), clock)
    finally:
        for hook in hooks:
            hook.remove()


def _end_call(*_: Any) -> None:
    raise ReachedMissingPart


class _Notes:
    """The notes of one video; each is told when it is known."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def add(self, text: str | None) -> None:
        if text is not None:
            telling.tell(text)
            self.texts.append(text)


@contextlib.contextmanager
def _apply_guidance(
    pipe: Pipeline, settings: GenerationSettings, parallel: Any = None, said: _Notes | None = None
) -> Iterator[Callable[[], float]]:
    """Guide the pipeline, if anything is asked for; yield a function for the passes per step so
    far."""
    if settings.request.is_plain and settings.cache is not None:
        with guide(pipe, STG([0], 0.0)) as handle:  # changes nothing, and counts what is left out
            yield lambda: handle.passes_per_step
        return
    if settings.request.is_plain:
        if parallel is not None:
            raise ValueError(
                "parallel divides the passes of a guided step, but nothing is guided. Name layers,"
                " or leave it out."
            )
        yield functools.partial(_count_plain_passes, pipe, [math.nan])
        return
    terms, options = settings.request.with_seed(settings.seed).guide_arguments()
    with guide(pipe, *terms, **options, parallel=parallel) as handle:
        if said is not None:
            without_cfg.tell_price(pipe, settings, handle)
        yield lambda: handle.passes_per_step
        if said is not None and handle.plan is not None:
            said.add(str(handle.plan))


@contextlib.contextmanager
def _set_guider_scale(pipe: Pipeline, settings: GenerationSettings) -> Iterator[None]:
    """Set the guidance scale where it belongs to a component and not to the call."""
    if not guider_sets_scale(pipe):
        yield
        return
    own = pipe.guider.guidance_scale
    pipe.guider.guidance_scale = settings.guidance_scale
    try:
        yield
    finally:
        pipe.guider.guidance_scale = own


def _count_plain_passes(pipe: Pipeline, known: list[float]) -> float:
    """Return the passes of the current step without guidance.

    After the run it returns those of its last step, which `known` keeps.
    """
    frame = call_frame.find_call_frame(pipe)
    if frame is None:
        return known[0]
    known[0] = 1.0 + _is_cfg_on(pipe, frame)
    return known[0]


def _is_cfg_on(pipe: Pipeline, frame: FrameType) -> bool:
    try:
        return loop.is_cfg_on(pipe, lookup.call_convention_of(pipe), frame)
    except ValueError:  # no row for this pipeline, which plain CFG does not need
        return bool(getattr(pipe, "do_classifier_free_guidance", True))


class _StepTimer:
    """A callback of the pipeline that times the steps and reports them."""

    def __init__(
        self,
        pipe: Pipeline,
        settings: GenerationSettings,
        passes_per_step: Callable[[], float],
        on_step: StepCallback | None,
        said: _Notes,
    ):
        assert settings.steps is not None
        self.settings, self.said = settings, said
        self.steps, self.passes_per_step, self.on_step = settings.steps, passes_per_step, on_step
        self.on_gpu = placement.execution_device(pipe).type == "cuda"
        self.repeats = bool(settings.request.restart)
        self.step_times = [time.perf_counter()]

    def __call__(self, pipe: Pipeline, index: int, timestep: Any, tensors: PlainData) -> PlainData:
        passes = (
            self.passes_per_step()
        )  # now, while the pipeline can be asked; a UNet's cost is measured at step one
        if self.on_gpu:
            torch.cuda.synchronize()  # else this measures how fast work is handed to the GPU
        self.step_times.append(time.perf_counter())
        if index == 0:  # LTX-2 goes through a step without a noise level, and its frames are nan
            noise_levels.check_timesteps(pipe.scheduler, type(pipe).__name__)
            self._note_unused_prompt(pipe)
        if self.on_step is not None:
            steps = len(pipe.scheduler.timesteps) if self.repeats else self.steps
            self.on_step(
                StepProgress(
                    index + 1, steps, passes, (steps - index - 1) * self.seconds_per_step()
                )
            )
        return {}

    def _note_unused_prompt(self, pipe: Pipeline) -> None:
        frame = call_frame.find_call_frame(pipe)
        nag = self.settings.request.nag
        if not self.settings.negative_prompt or frame is None or (nag and not nag.is_off):
            return
        if not _is_cfg_on(pipe, frame):
            self.said.add(notes.negative_prompt_note(self.settings, type(pipe).__name__))

    def seconds_per_step(self) -> float:
        times = self.step_times[1:] if len(self.step_times) > 2 else self.step_times
        return (times[-1] - times[0]) / max(len(times) - 1, 1)


# LTX-2's pipelines have STG of their own, on by default: ours is in its place, and there is none in
# plain CFG.
_DISABLED_PIPELINE_GUIDANCE = {
    "stg_scale": 0.0, "audio_stg_scale": 0.0, "modality_scale": 1.0, "audio_modality_scale": 1.0,
    "guidance_rescale": 0.0, "audio_guidance_rescale": 0.0,
}  # fmt: skip


# What the pipelines get, under our names, where it is not None.
_CALL_SETTINGS = (
    "prompt", "negative_prompt", "height", "width", "num_frames", "guidance_scale", "steps",
    "max_sequence_length", "min_guidance_scale", "motion_bucket_id", "noise_aug_strength",
    "decode_chunk_size",
)  # fmt: skip


def _call_pipeline(
    pipe: Pipeline,
    settings: GenerationSettings,
    image: Image.Image | None,
    callback: _StepTimer,
    output_type: str = "np",
) -> Any:
    """Run the pipeline; return its output: `frames` of `(F, H, W, 3)` floats in [0, 1], or latents,
    and `audio` where it makes sound."""
    parameters = call_parameters(pipe)
    values = {pipeline_argument(name, pipe): getattr(settings, name) for name in _CALL_SETTINGS} | {
        "image": image
    }
    if guider_sets_scale(pipe):
        del values["guidance_scale"]
    call = {name: value for name, value in values.items() if value is not None}
    call |= {"output_type": output_type}
    if "callback_on_step_end" in parameters:
        call["callback_on_step_end"] = callback
    # On the CPU, so that a GPU starts from the same noise.
    call["generator"] = torch.Generator("cpu").manual_seed(settings.seed)
    if (fps := pipeline_argument("fps", pipe)) in parameters and settings.fps is not None:
        call[fps] = int(settings.fps) if settings.fps.denominator == 1 else float(settings.fps)
    call |= {name: off for name, off in _DISABLED_PIPELINE_GUIDANCE.items() if name in parameters}
    if "audio_guidance_scale" in parameters and (settings.guidance_scale or 0) <= 1:
        call["audio_guidance_scale"] = 1.0  # else the sound's own, 7, would switch CFG on
    _check_call(type(pipe).__name__, call, parameters)
    try:
        with (
            ignore_cpu_autocast_warning(),
            notes.hide_truncation_messages(),
            _report_scheduler_steps(pipe, callback, "callback_on_step_end" not in parameters),
        ):
            return pipe(**call)
    except (RuntimeError, MemoryError, AttributeError, TypeError) as error:
        placement.explain_sequential(error, pipe, settings)
        if explained := failures.explain(error, type(pipe).__name__, settings):
            raise explained from error
        raise
    except ValueError as error:
        explained = refusals.explain(error, pipe, settings)
        raise explained from (None if explained is error else error)
    except (ZeroDivisionError, IndexError) as error:
        if isinstance(error, IndexError):  # LTX's, which looks for a timestep that is no number
            noise_levels.check_timesteps(pipe.scheduler, type(pipe).__name__)
            raise
        raise too_few_steps(pipe, settings) from error


def _first_of(output: Any) -> Any:
    """Return the video of an output, or its first picture as a video of one frame."""
    for name in ("images", "image"):  # Kandinsky's
        if hasattr(output, name):
            return getattr(output, name)[:1]
    return output.frames[0]


def too_few_steps(pipe: Pipeline, settings: GenerationSettings) -> ValueError:
    """Return the error of Mochi's linear-quadratic schedule of one step."""
    return ValueError(
        f"steps must be enough for the schedule of {type(pipe).__name__}, but got"
        f" {settings.steps}. Take 2 or more."
    )


@contextlib.contextmanager
def _report_scheduler_steps(pipe: Pipeline, callback: _StepTimer, needed: bool) -> Iterator[None]:
    """Report steps through the scheduler, for pipelines without a callback (ModelScope,
    I2VGen-XL)."""
    if not needed:
        yield
        return
    step, count = pipe.scheduler.step, itertools.count()

    def counted(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        callback(pipe, next(count), None, {})
        return result

    pipe.scheduler.step = counted
    try:
        yield
    finally:
        del pipe.scheduler.step


def _check_call(
    model: str, call: ReadOnlyData, parameters: Mapping[str, inspect.Parameter]
) -> None:
    """Reject pipelines whose call takes or needs other things than text and image."""
    unknown = sorted(set(call) - set(parameters))
    needed = sorted(
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind is not parameter.VAR_KEYWORD  # AnimateDiff's
        and name not in call
    )
    reasons = [f"does not take {', '.join(unknown)}"] if unknown else []
    reasons += [f"needs {', '.join(needed)}"] if needed else []
    if reasons:
        raise ValueError(
            f"model must make a video or a picture from a text or an image, but {model}"
            f" {' and '.join(reasons)}. Use another model, or guide() from Python."
        )


def _to_uint8(video: np.ndarray, settings: GenerationSettings) -> Frames:
    if not np.isfinite(video).all():
        raise ValueError(notes.describe_overflow(settings))
    return (video * 255).round().astype(np.uint8)
