"""skipguide.tune: a tuning of a loaded pipeline, from Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipguide.method.parsing import parse_layers
from skipguide.metrics.selection import Options
from skipguide.runs.local_engine import LocalEngine
from skipguide.runs.prompt_rows import Prompt, parse_seeds
from skipguide.runs.storage import WORK
from skipguide.tuning.events import TuneEvent, TuneResult
from skipguide.tuning.objective.objective import ObjectiveSpec
from skipguide.tuning.options import TuneOptions
from skipguide.tuning.run import Tuning
from skipguide.tuning.scan.record import ScanOptions

if TYPE_CHECKING:
    from skipguide.generate.run import StepCallback

Metric = str | Callable[..., float]


class TuningProgress:
    """A tuning under way: iterate over it for what happens, or ask for its result.

    for event in skipguide.tune(pipe, prompts, metric="imaging_quality"):
        print(event)

    Attributes:
        folder: of the run.
        result: None before the end.
    """

    def __init__(self, tuning: Tuning, on_step: StepCallback | None = None):
        self.folder = tuning.folder
        self.result: TuneResult | None = None
        self._steps = tuning.run(on_step)

    def __iter__(self) -> Iterator[TuneEvent]:
        self.result = yield from self._steps

    def run(self) -> TuneResult:
        """Do all that is left, and return the result.

        Raises:
            ValueError, OSError: as `tune`.
        """
        for _ in self:
            pass
        assert self.result is not None
        return self.result


def tune(
    pipe: Any,
    prompts: Sequence[str | Mapping[str, Any] | Path],
    *,
    out: str | Path = "runs/tune",
    name: str | None = None,
    metric: Metric | Sequence[Metric] | Mapping[Metric, float] = (),
    features: str = "",
    reference: str | Path | None = None,
    votes: bool = False,
    floors: Mapping[Metric, float] | None = None,
    guidance_scale: float | Sequence[float] = (),
    layers: Any = None,
    skips: Sequence[str] | None = None,
    axes: Sequence[str | None] | None = None,
    scan_size: tuple[int, int, int] | None = None,
    seeds: int | str | Sequence[int] = 0,
    hours: float | None = None,
    passes: float | None = None,
    weights: str | Path | None = None,
    non_commercial: bool = False,
    on_step: StepCallback | None = None,
    **settings: Any,
) -> TuningProgress:
    """Choose the layer, the scale, and whether to use STG at all, by measurement.

    Nothing is done before the first event is asked for, or `.run()` is called. What was done stays
    in the folder `out`; the same call goes on from there.

        result = skipguide.tune(pipe, prompts, metric=sharpness, hours=1).run()
        with skipguide.guide(pipe, skipguide.STG.preset(pipe, file=result.preset)): ...

    Args:
        pipe: a diffusers pipeline of a known family, loaded and placed, without guide().
        prompts: texts; pictures (`Path`) for models that start from one alone; or mappings with
            "prompt", "image" and settings of their own. 15 or more, for a third measures the
            answer.
        out: the folder of the run.
        name: of the model in the run and in `tune.toml`; None is where the pipeline came from.
        metric: names of metrics of single clips, functions `f(frames, prompt, fps)` of frames
            `(F, H, W, 3)` uint8 that return a number, larger is better; several with weights.
        features, reference: instead of metrics, the kernel distance of these features to a folder
            of real videos.
        votes: instead of metrics, blind votes in the studio.
        floors: metrics that must not fall below this share of what CFG alone has.
        guidance_scale: CFG's scale that all is compared with; further ones race too.
        layers, skips, axes: to look at; None for all layers, residual and attention, all axes.
        scan_size: width, height and frames of the scan's videos; None for that of all others.
        seeds: of every prompt.
        hours, passes: the budget; neither is one hour.
        weights, non_commercial: as `skipguide evaluate` has them.
        on_step: called after each denoising step.
        settings: what all videos share, as steps, height, width and num_frames.

    Raises:
        ValueError: for what is wrong with any of it, before work starts.
    """
    from skipguide.families import lookup
    from skipguide.runs.worker import LoadedPipeline

    lookup.family_of(pipe)
    if isinstance(prompts, str | Mapping):
        raise ValueError(
            f"prompts must be a list of texts, but got {prompts!r}. Write [{prompts!r}]."
        )
    scales = guidance_scale if isinstance(guidance_scale, Sequence) else (guidance_scale,)
    objective = ObjectiveSpec(
        _weighted(metric), features, None if reference is None else Path(reference), votes,
        tuple((floors or {}).items()),
        Options(features, None if weights is None else Path(weights), non_commercial),
    )  # fmt: skip
    scan = ScanOptions(
        None if skips is None else tuple(skips),
        None if axes is None else tuple(axes),
        None if layers is None else tuple(parse_layers(layers)),
    )
    options = TuneOptions(
        name or str(getattr(pipe, "name_or_path", "") or type(pipe).__name__),
        tuple(_prompt(entry, number) for number, entry in enumerate(prompts, 1)),
        settings, parse_seeds(seeds), objective, tuple(scales), scan, scan_size,
        hours=hours, passes=passes,
    )  # fmt: skip
    folder = Path(out)
    engine = LocalEngine(folder / WORK, LoadedPipeline.of(pipe))
    return TuningProgress(Tuning(options, folder, engine), on_step)


def _weighted(
    metric: Metric | Sequence[Metric] | Mapping[Metric, float],
) -> tuple[tuple[Metric, float], ...]:
    if isinstance(metric, Mapping):
        return tuple(metric.items())
    listed = [metric] if isinstance(metric, str) or callable(metric) else list(metric)
    return tuple((one, 1.0) for one in listed)


def _prompt(entry: str | Mapping[str, Any] | Path, number: int) -> Prompt:
    """Return a prompt of a tuning.

    Raises:
        ValueError: for something else, or settings that no video has.
    """
    from skipguide.runs.prompts import Entry, parse_prompt_list

    if isinstance(entry, Path):
        return Prompt(None, entry, place=f"prompt {number}")
    if isinstance(entry, Mapping):
        words = {key: str(value) if isinstance(value, Path) else value
                 for key, value in entry.items()}  # fmt: skip
        return parse_prompt_list([Entry.model_validate(words)], Path())[0]
    return Prompt(str(entry), place=f"prompt {number}")
