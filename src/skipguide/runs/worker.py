"""A worker: it makes videos, one at a time, with one model loaded."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors.torch import save

from skipguide.files import clips
from skipguide.generate import preflight, record, run
from skipguide.generate.resolve import resolve_model, resolve_settings, words_of_flags
from skipguide.generate.settings import GenerationSettings
from skipguide.method.terms import SLG, STG
from skipguide.models import fingerprint, loading
from skipguide.runs import prompt_cache
from skipguide.runs.engine import Cost, GeneratedVideo
from skipguide.runs.environment import environment
from skipguide.runs.jobs import Job, ResolvedSetting
from skipguide.runs.ledger import to_json
from skipguide.runs.plan_settings import Setting
from skipguide.runs.storage import ClipContents


class _StopEarly(Exception):
    pass


@dataclasses.dataclass(frozen=True)
class LoadedPipeline:
    """A pipeline that a caller has loaded, with what its weights are known by in a ledger."""

    pipe: Any
    weights: dict[str, str]

    @classmethod
    def of(cls, pipe: Any) -> LoadedPipeline:
        """Know a pipeline by a hash over a part of its weights."""
        return cls(pipe, {"sha256": fingerprint.hash_parameters(pipe)})


class Worker:
    """Makes videos, and loads a model when another one is needed than before.

    Args:
        scratch: a folder for unfinished files; None is one of the system.
        loaded: a pipeline that a caller has loaded, which makes all videos.
    """

    def __init__(self, scratch: Path | None = None, loaded: LoadedPipeline | None = None):
        self.scratch, self._loaded = scratch, loaded
        self._loads: set[tuple[Any, ...]] = (
            set()
        )  # what the pipeline was asked for as, and what that was filled in to
        self._pipe: Any = None
        self._weights: dict[str, str] = {}

    def pipe(self, settings: GenerationSettings) -> Any:
        """Return the pipeline for some settings, loaded if it is not."""
        if self._loaded is not None:
            self._pipe, self._weights = self._loaded.pipe, self._loaded.weights
            return self._pipe
        load = settings.load_key()
        if load not in self._loads:
            self._loads, self._pipe = set(), None  # before the next one takes its memory
            with loading.hash_meanwhile(settings):
                pipe = loading.load(settings)
                self._weights = loading.weights_fingerprint(settings, pipe)
            prompt_cache.encode_once(pipe)
            self._pipe = pipe
            self._loads = {load, resolve_model(settings, pipe).load_key()}
        return self._pipe

    def survey(
        self, settings: Sequence[Setting], image: Image.Image | None
    ) -> list[ResolvedSetting]:
        """Fill in what the settings leave out, and run one step of each to check layers, axes,
        windows.

        Raises:
            ValueError: for what the models refuse, of all settings at once.
        """
        self._check_before_loading(settings, image)
        found, wrong = [], []
        tried: set[str] = set()
        for setting in settings:
            try:
                pipe = self.pipe(setting.generation)
                complete = resolve_settings(setting.generation, pipe)
                if (content := _content_to_try(complete)) not in tried:
                    self._measure_steps(complete, image, 1)
                    tried.add(content)
            except ValueError as error:
                wrong.append(f"setting {setting.name!r} for {setting.generation.model}: {error}")
            else:
                words = words_of_flags(setting.generation, pipe)
                found.append(ResolvedSetting(setting, complete, self._weights, words))
        if wrong:
            raise ValueError(" ".join(wrong))
        return found

    def _check_before_loading(self, settings: Sequence[Setting], image: Image.Image | None) -> None:
        """Check what a model's configuration tells, of models that are still to be loaded."""
        if self._loaded is not None:
            return
        new = [entry for entry in settings if entry.generation.load_key() not in self._loads]
        alike = {_content_to_check(setting.generation): setting for setting in reversed(new)}
        wrong = []
        for setting in reversed(alike.values()):
            try:
                preflight.check(setting.generation, image)
            except ValueError as error:
                wrong.append(f"setting {setting.name!r} for {setting.generation.model}: {error}")
        if wrong:
            raise ValueError(" ".join(wrong))

    def inspect(self, generation: GenerationSettings, function: Callable[[Any], Any]) -> Any:
        """Return what a function says of the pipeline of some settings."""
        return function(self.pipe(generation))

    def cost(self, complete: GenerationSettings, image: Image.Image | None) -> Cost:
        """Measure a setting on two steps with its STG terms on, and count the steps on which each
        of them is.

        Of a schedule or restarts nothing is counted: the first two steps stand for all.
        """
        shares = _shares_of_steps(complete)
        if set(shares.values()) <= {1.0}:
            return Cost(*self._measure_steps(_with_stg(complete, tuple(shares)), image, 2))
        base = self._measure_steps(_with_stg(complete, ()), image, 2)
        total = list(base)
        for share in sorted(set(shares.values())):  # terms that are on equally often, at once
            alike = tuple(place for place, own in shares.items() if own == share)
            on = self._measure_steps(_with_stg(complete, alike), image, 2)
            total = [sum_ + share * (a - b) for sum_, a, b in zip(total, on, base, strict=True)]
        return Cost(*total)

    def _measure_steps(
        self, complete: GenerationSettings, image: Image.Image | None, steps: int
    ) -> tuple[float, float]:
        """Return passes per step, and seconds of the last step, of the first few steps of a run."""
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
        parallel: Any = None,
    ) -> GeneratedVideo:
        """Make one video.

        Args:
            parallel: as for guide(), in process 0 of it.

        Raises:
            ValueError: for what the model refuses; and whatever else a generation raises.
        """
        pipe = self.pipe(job.generation)
        with (
            prompt_cache.record_decoder_input(pipe) if job.latents else contextlib.nullcontext({})
        ) as latents:
            result, watched = _generate_watched(pipe, job, image, on_step, parallel)
        made = {
            **record.build_record(job.generation, result, self._weights),
            "run": {"key": job.key, "setting": job.setting},
        }
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            path = Path(folder) / f"{job.key}{job.generation.suffix}"
            clips.write(path, result.frames, made["settings"]["fps"], made, result.sounds)
            content, beside = path.read_bytes(), clips.sidecar_path(path).read_bytes()
        kept = save(latents, {"key": job.key}) if job.latents else None
        contents = ClipContents(content, beside, kept, watched, path.suffix)
        return GeneratedVideo(contents, made, environment(made))


def _generate_watched(
    pipe: Any,
    job: Job,
    image: Image.Image | None,
    on_step: Callable[[run.StepProgress], None] | None,
    parallel: Any,
) -> tuple[record.GenerationResult, dict[str, bytes]]:
    """Make a video; return it, and by its folder what the job's watch saw of it, if it has one.

    The seconds of the video are those that it takes without the watch.
    """
    if job.watch is None:
        return run.generate(pipe, job.generation, on_step, image, parallel), {}
    with job.watch.attach(pipe) as watcher:
        result = run.generate(pipe, job.generation, on_step, image, parallel)
        watched = watcher.finish()
    per_step = watched.seconds / (job.generation.steps or 1)
    result = dataclasses.replace(
        result,
        seconds=max(0.0, result.seconds - watched.seconds),
        seconds_per_step=max(0.0, result.seconds_per_step - per_step),
    )
    return result, {job.watch.folder: watched.content}


def _content_to_try(complete: GenerationSettings) -> str:
    """Return all of some settings that can be refused by a step, as equal texts."""
    texts = ("prompt", "negative_prompt", "seed", "fps")
    return to_json(complete.model_dump(mode="json", exclude={*texts}))


def _content_to_check(given: GenerationSettings) -> str:
    """Return what settings must agree in to be refused or taken together."""
    prompt = given.prompt and "a prompt"
    return given.model_copy(update={"prompt": prompt, "seed": 0}).model_dump_json()


def _with_stg(complete: GenerationSettings, places: Sequence[int]) -> GenerationSettings:
    """Keep the STG terms at these places, and have them at every step, with one scale."""
    request = complete.request
    if request.schedule is not None:
        return complete
    terms = tuple(
        _always_on(term)
        for place, term in enumerate(request.terms)
        if isinstance(term, SLG) or place in places
    )
    guidance = dataclasses.replace(
        request,
        terms=terms,
        rescale=request.rescale if terms or request.replaces_cfg else 0.0,
        orthogonalize=request.orthogonalize and len(places) > 1,
    )
    return complete.model_copy(update={"guidance": guidance})


def _always_on(term: STG | SLG) -> STG | SLG:
    if isinstance(term, SLG):
        return term
    return dataclasses.replace(term, scale=term.highest_scale, start=0.0, stop=1.0, every=1)


def _shares_of_steps(complete: GenerationSettings) -> dict[int, float]:
    """Return for each STG term, by its place, on which part of the steps its weak pass runs."""
    request, steps = complete.request, complete.steps
    assert steps is not None
    terms = () if request.schedule is not None else request.terms
    return {
        place: term.reuse.count(len(term.guided_steps(steps) or ())) / steps
        for place, term in enumerate(terms)
        if isinstance(term, STG)
    }
