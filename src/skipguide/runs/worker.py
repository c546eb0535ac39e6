"""What makes the videos: one process that holds one model."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors.torch import save

from skipguide.files import video
from skipguide.generate import record, run
from skipguide.generate.resolve import resolve_settings, words_of_flags
from skipguide.generate.settings import GenerationSettings
from skipguide.method import formula
from skipguide.method.request import GuidanceRequest
from skipguide.method.terms import SLG, STG
from skipguide.runs import prompt_cache
from skipguide.runs.engine import Cost, GeneratedVideo
from skipguide.runs.environment import environment
from skipguide.runs.jobs import Job, ResolvedSetting
from skipguide.runs.plan import Setting
from skipguide.runs.storage import ClipContents


class _StopEarly(Exception):
    pass


class Worker:
    """Makes videos, and loads the model of each when it is another one than before.

    Args:
        scratch: a folder for files under way; None is one of the system.
    """

    def __init__(self, scratch: Path | None = None):
        self.scratch = scratch
        self._loads: set[tuple[Any, ...]] = (
            set()
        )  # what the pipeline was asked for as, and what that was filled in to
        self._pipe: Any = None
        self._weights: dict[str, str] = {}

    def pipe(self, settings: GenerationSettings) -> Any:
        """The pipeline for some settings."""
        load = (settings.model, settings.dtype, settings.device)
        if load not in self._loads:
            self._loads, self._pipe = set(), None  # before the next one takes its memory
            pipe = run.load_pipeline(*load)
            self._weights = run.weights_fingerprint(settings.model, pipe)
            prompt_cache.encode_once(pipe)
            self._pipe = pipe
            self._loads = {
                load,
                (settings.model, str(pipe.dtype).removeprefix("torch."), str(pipe.device)),
            }
        return self._pipe

    def survey(
        self, settings: Sequence[Setting], image: Image.Image | None
    ) -> list[ResolvedSetting]:
        """Fill in what the settings leave out, and see that the model takes each of them: every
        layer, axis, window.

        Raises:
            ValueError: for what it does not take, all settings at once.
        """
        found, wrong = [], []
        for setting in settings:
            try:
                pipe = self.pipe(setting.generation)
                complete = resolve_settings(setting.generation, pipe)
                self._measure_steps(complete, image, 1)
            except ValueError as error:
                wrong.append(f"setting {setting.name!r} for {setting.generation.model}: {error}")
            else:
                words = words_of_flags(setting.generation, pipe)
                found.append(ResolvedSetting(setting, complete, self._weights, words))
        if wrong:
            raise ValueError(" ".join(wrong))
        return found

    def cost(self, complete: GenerationSettings, image: Image.Image | None) -> Cost:
        """Measure a setting on two steps with its guidance on, and count the steps on which it is.

        Of a schedule or restarts nothing is counted: the first two steps stand for all.
        """
        on, seconds = self._measure_steps(_with_stg_always_on(complete), image, 2)
        share = _guided_share(complete)
        if share == 1:
            return Cost(on, seconds)
        off, plain = self._measure_steps(_without_stg(complete), image, 2)
        return Cost(off + share * (on - off), plain + share * (seconds - plain))

    def _measure_steps(
        self, complete: GenerationSettings, image: Image.Image | None, steps: int
    ) -> tuple[float, float]:
        """Passes per step, and seconds of the last one, of the first few steps of a run."""
        times = [time.perf_counter()]
        passes = [float("nan")]

        def on_step(step: run.StepProgress) -> None:
            times.append(time.perf_counter())
            passes.append(step.passes_per_step)
            if step.number >= steps:
                raise _StopEarly

        with contextlib.suppress(_StopEarly):
            run.generate(self.pipe(complete), complete, on_step, image)
        return passes[-1], times[-1] - times[-2]

    def make(
        self,
        job: Job,
        image: Image.Image | None,
        on_step: Callable[[run.StepProgress], None] | None = None,
    ) -> GeneratedVideo:
        """Make one video.

        Raises:
            ValueError: for what the model refuses; and whatever else a generation raises.
        """
        pipe = self.pipe(job.generation)
        with (
            prompt_cache.record_decoder_input(pipe) if job.latents else contextlib.nullcontext({})
        ) as latents:
            result = run.generate(pipe, job.generation, on_step, image)
        made = {
            **record.build_record(job.generation, result, self._weights),
            "run": {"key": job.key, "setting": job.setting},
        }
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            path = Path(folder) / f"{job.key}.mp4"
            video.write(path, result.frames, made["settings"]["fps"], made)
            content, beside = path.read_bytes(), video.sidecar_path(path).read_bytes()
        kept = save(latents, {"key": job.key}) if job.latents else None
        return GeneratedVideo(ClipContents(content, beside, kept), made, environment(made))


def _stg_terms(request: GuidanceRequest) -> list[STG]:
    terms = () if request.schedule else request.terms
    return [term for term in terms if isinstance(term, STG)]


def _with_stg_always_on(complete: GenerationSettings) -> GenerationSettings:
    """Every STG term at every step; a list of scales is as long as the run, and becomes its
    largest."""
    request = complete.request
    if request.schedule is not None:
        return complete
    terms = [
        dataclasses.replace(term, scale=term.scales(1)[0], start=0.0, stop=1.0, every=1)
        if isinstance(term, STG)
        else term
        for term in request.terms
    ]
    guidance = dataclasses.replace(request, terms=tuple(terms))
    return complete.model_copy(update={"guidance": guidance})


def _without_stg(complete: GenerationSettings) -> GenerationSettings:
    request = complete.request
    terms = tuple(term for term in request.terms if isinstance(term, SLG))
    rescale = request.rescale if terms or request.replaces_cfg else 0.0
    guidance = dataclasses.replace(request, terms=terms, rescale=rescale, orthogonalize=False)
    return complete.model_copy(update={"guidance": guidance})


def _guided_share(complete: GenerationSettings) -> float:
    """Return the part of the steps on which there is a weak pass, as a mean over the terms."""
    assert complete.steps is not None
    terms = _stg_terms(complete.request)
    if not terms:
        return 1.0
    shares = [_weak_passes(term, complete.steps) / complete.steps for term in terms]
    return sum(shares) / len(shares)


def _weak_passes(term: STG, steps: int) -> int:
    guided = [
        any(term.scales(2, i))
        for i in range(steps)
        if formula.is_in_window(term.start, term.stop, i, steps)
    ]
    return math.ceil(sum(guided) / term.every)
