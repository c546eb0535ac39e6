"""Load a pipeline, run it with or without guidance, and measure it."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import itertools
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from skipguide import guide
from skipguide.families import lookup, rows
from skipguide.files import image as image_file
from skipguide.files import packaged
from skipguide.files.video import Frames
from skipguide.generate.record import GenerationResult, hash_weights
from skipguide.generate.resolve import call_parameters, guider_sets_scale, pipeline_argument
from skipguide.generate.settings import GenerationSettings
from skipguide.method.protocols import Pipeline, PlainData, ReadOnlyData
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


# --- loading --------------------------------------------------------------------------------------


def local_folder(model: str) -> Path | None:
    """Return the folder of a lab model or a local one; None for a hub id.

    Raises:
        ValueError: for a folder without model_index.json, and for a name that is neither a folder
            nor like a hub id.
    """
    if model in packaged.NAMES:
        return packaged.packaged_path(model)
    path = Path(model)
    if (path / "model_index.json").is_file():
        return path
    known = (
        f"{', '.join(packaged.NAMES)}, a folder with a model_index.json, or a hub id such as"
        " genmo/mochi-1-preview"
    )
    if path.exists():
        raise ValueError(
            f"model must be {known}, but got {model!r}, and there is no"
            f" {path / 'model_index.json'}. Name the folder that save_pretrained() wrote."
        )
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", model):
        raise ValueError(
            f"model must be {known}, but got {model!r}, and there is no such folder. Check the"
            " name."
        )
    return None


def load_pipeline(
    model: str, dtype: str | None = None, device: str | None = None, revision: str | None = None
) -> Any:
    """Load a diffusers pipeline.

    Args:
        model: the name of a lab model, a local folder in diffusers layout, or a hub id.
        dtype: None is bfloat16 on a GPU (float32 for the lab's small models), float32 elsewhere.
        device: None is the GPU if there is one.
        revision: of a model on the hub; None is the newest.

    Raises:
        ValueError: if there is no such model or no such device.
    """
    folder = local_folder(model)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device)
    small = device == "cpu" or model in packaged.NAMES
    torch_dtype = getattr(torch, dtype or ("float32" if small else "bfloat16"))
    pipe = (
        _load_from_folder(folder, torch_dtype)
        if folder
        else _load_from_hub(model, torch_dtype, revision)
    )
    pipe.set_progress_bar_config(disable=True)  # on_step reports instead
    return pipe.to(device)


def check_device(device: str) -> None:
    """Check that torch has a device here.

    Raises:
        ValueError: if it has not.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device must be one that torch has here, but got {device!r} ({reason}). Try cpu."
        ) from error


def _load_from_folder(folder: Path, dtype: torch.dtype) -> Any:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    _import_pipeline_class(folder)
    with _hide_progress_bars():
        return DiffusionPipeline.from_pretrained(folder, dtype=dtype, local_files_only=True)


def _import_pipeline_class(folder: Path) -> None:
    """Import the package of a pipeline that diffusers does not have; it registers itself there.

    Raises:
        ValueError: if the folder names no pipeline, or one that neither package has.
    """
    path = folder / "model_index.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"a model_index.json must be JSON, but {path} is not: {error}. Copy the model again."
        ) from None
    named = content.get("_class_name") if isinstance(content, dict) else None
    if isinstance(
        named, list
    ):  # [module, class]: the code lies in the folder, and diffusers asks whether to trust it
        return
    if not isinstance(named, str):
        raise ValueError(
            f"a model_index.json must name its pipeline as _class_name, but {path} does not."
            " Check it."
        )
    package = next(
        (family.package for family in rows.FAMILIES if named in family.pipelines), "diffusers"
    )
    if not any(
        hasattr(importlib.import_module(name), named)
        for name in dict.fromkeys((package, "diffusers"))
    ):
        raise ValueError(
            f"the pipeline of a model must be one of diffusers, but {path} names {named!r}, which"
            f" diffusers {version('diffusers')} does not have. Install a newer one."
        )


def _load_from_hub(model: str, dtype: torch.dtype, revision: str | None) -> Any:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    try:
        # Downloaded first and loaded from the snapshot, because the name of that folder is the
        # revision.
        snapshot = DiffusionPipeline.download(model, revision=revision)
        _import_pipeline_class(Path(snapshot))
        return DiffusionPipeline.from_pretrained(snapshot, dtype=dtype)
    except OSError as error:
        reason = error.__cause__ or error  # diffusers wraps it in a story about its cache
        raise ValueError(
            f"model must be a local folder or a model on the hub, but {model!r} is no folder, and"
            f" the hub says: {reason} Check the name, the network, and the licence of a gated"
            " model."
        ) from error


@contextlib.contextmanager
def _hide_progress_bars() -> Iterator[None]:
    """Keep stderr free while a local model loads, which takes seconds only."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    loggings = [
        log for log in (diffusers_logging, transformers_logging) if log.is_progress_bar_enabled()
    ]
    for log in loggings:
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log in loggings:
            log.enable_progress_bar()


def weights_fingerprint(model: str, pipe: Pipeline) -> dict[str, str]:
    """Identify the weights of `pipe`: a hash over the files of a local model, or the hub
    revision."""
    folder = local_folder(model)
    return (
        {"sha256": hash_weights(folder)} if folder else {"revision": Path(pipe.name_or_path).name}
    )


# --- running --------------------------------------------------------------------------------------


def generate(
    pipe: Pipeline,
    settings: GenerationSettings,
    on_step: StepCallback | None = None,
    image: Image.Image | None = None,
) -> GenerationResult:
    """Make one video.

    Equal settings on the same machine with the same versions give equal bytes.

    Args:
        settings: complete, as `resolve_settings` returns them.
        on_step: called after each denoising step; an exception from it ends the generation.
        image: the first frame, of any size; given if and only if the settings name one.

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
    started, first = time.perf_counter(), image
    if image is not None and settings.width and settings.height:
        first = image_file.fit_to_size(image, settings.width, settings.height)
    with _set_guider_scale(pipe, settings), _apply_guidance(pipe, settings) as passes_per_step:
        clock = _StepTimer(pipe, settings, passes_per_step, on_step)
        video = _call_pipeline(pipe, settings, first, clock)
        passes = passes_per_step()
    frames = _to_uint8(np.asarray(video), settings)
    return GenerationResult(
        frames, passes, clock.seconds_per_step(), time.perf_counter() - started, first
    )


@contextlib.contextmanager
def _apply_guidance(pipe: Pipeline, settings: GenerationSettings) -> Iterator[Callable[[], float]]:
    """Guide the pipeline, if anything is asked for; yield a function for the passes per step so
    far."""
    if settings.request.is_plain:
        yield functools.partial(_count_plain_passes, pipe, [math.nan])
        return
    terms, options = settings.request.with_seed(settings.seed).guide_arguments()
    with guide(pipe, *terms, **options) as handle:
        yield lambda: handle.passes_per_step


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
    try:
        known[0] = 1.0 + loop.is_cfg_on(pipe, lookup.call_convention_of(pipe), frame)
    except ValueError:  # no row for this pipeline, which plain CFG does not need
        known[0] = 1.0 + bool(getattr(pipe, "do_classifier_free_guidance", True))
    return known[0]


class _StepTimer:
    """A callback of the pipeline that times the steps and reports them."""

    def __init__(
        self,
        pipe: Pipeline,
        settings: GenerationSettings,
        passes_per_step: Callable[[], float],
        on_step: StepCallback | None,
    ):
        assert settings.steps is not None
        self.steps, self.passes_per_step, self.on_step = settings.steps, passes_per_step, on_step
        self.on_gpu, self.repeats = pipe.device.type == "cuda", bool(settings.request.restart)
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
        if self.on_step is not None:
            steps = len(pipe.scheduler.timesteps) if self.repeats else self.steps
            self.on_step(
                StepProgress(
                    index + 1, steps, passes, (steps - index - 1) * self.seconds_per_step()
                )
            )
        return {}

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
) -> Any:
    """Run the pipeline; return `(F, H, W, 3)` floats in [0, 1]."""
    parameters = call_parameters(pipe)
    values = {pipeline_argument(name, pipe): getattr(settings, name) for name in _CALL_SETTINGS} | {
        "image": image
    }
    if guider_sets_scale(pipe):
        del values["guidance_scale"]
    call = {name: value for name, value in values.items() if value is not None}
    call |= {"output_type": "np"}
    if "callback_on_step_end" in parameters:
        call["callback_on_step_end"] = callback
    # On the CPU, so that a GPU starts from the same noise.
    call["generator"] = torch.Generator("cpu").manual_seed(settings.seed)
    if (fps := pipeline_argument("fps", pipe)) in parameters and settings.fps is not None:
        call[fps] = int(settings.fps) if settings.fps.denominator == 1 else float(settings.fps)
    call |= {name: off for name, off in _DISABLED_PIPELINE_GUIDANCE.items() if name in parameters}
    _check_call(type(pipe).__name__, call, parameters)
    try:
        with (
            ignore_cpu_autocast_warning(),
            _report_scheduler_steps(pipe, callback, "callback_on_step_end" not in parameters),
        ):
            return pipe(**call).frames[0]
    except (ZeroDivisionError, IndexError) as error:
        if isinstance(error, IndexError):  # LTX's, which looks for a timestep that is no number
            noise_levels.check_timesteps(pipe.scheduler, type(pipe).__name__)
            raise
        raise ValueError(  # Mochi's linear-quadratic schedule of one step
            f"steps must be enough for the schedule of {type(pipe).__name__}, but got"
            f" {settings.steps}. Take 2 or more."
        ) from error


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
        if parameter.default is parameter.empty and name not in call
    )
    reasons = [f"does not take {', '.join(unknown)}"] if unknown else []
    reasons += [f"needs {', '.join(needed)}"] if needed else []
    if reasons:
        raise ValueError(
            f"model must be a text-to-video or image-to-video pipeline, but {model}"
            f" {' and '.join(reasons)}. Use another model, or guide() from Python."
        )


def _to_uint8(video: np.ndarray, settings: GenerationSettings) -> Frames:
    if not np.isfinite(video).all():
        raise ValueError(
            f"the frames must be finite numbers, but {settings.dtype} overflowed. Use --dtype"
            " bfloat16 or float32, or smaller scales."
        )
    return (video * 255).round().astype(np.uint8)
