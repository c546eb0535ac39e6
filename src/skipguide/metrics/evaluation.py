"""Measure a set of videos, or all sets of a run."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

from skipguide.metrics import kept, selection
from skipguide.metrics.aggregate import SET_METRICS
from skipguide.metrics.extract import Note, Reader
from skipguide.metrics.features import GENERATED, REFERENCE, Side, join
from skipguide.metrics.inputs import (
    Source,
    Videos,
    file_source,
    find_videos,
    run_name,
    unreadable_source,
)
from skipguide.metrics.results import Result
from skipguide.metrics.selection import Options
from skipguide.runs import Clip, Run, SetMetric, Setting


def evaluate(
    videos: Videos,
    reference: Videos | None = None,
    metrics: Sequence[str] = (),
    options: Options | None = None,
    note: Note | None = None,
    keep: Callable[[Result], None] | None = None,
) -> Result:
    """Measure a set of videos.

    Args:
        videos: a folder of video files or of folders of frames, or of pictures where the options
            say so; tensors `(F, 3, H, W)` uint8 by
            name; or one tensor `(N, F, 3, H, W)`.
        reference: real videos in the same form, for the metrics that compare.
        metrics: names of `catalog.METRICS`; a set metric may name its extractor, "fvd:judge". None:
            every metric whose weights are available; the others are listed in `Result.not_run`.
        note: is called with the name of each video before it is read.
        keep: is called with the result of what was read if an error or an interrupt ends the
            reading; the videos that were not read are in `Result.skipped`.

    Raises:
        ValueError: before any video is read, for an unknown metric, a missing reference, or weights
            that are missing, damaged or not allowed.
    """
    options = options or Options()
    kind = "image" if options.pictures else "video"
    chosen, not_run = selection.select_metrics(metrics, reference is not None, options, kind)
    made = find_videos(videos, options.fps, options.pictures)
    sets: dict[Side, list[Source]] = {GENERATED: made, REFERENCE: []}
    sets[REFERENCE] = _find_reference(reference, chosen, options)
    reader = Reader(chosen, options)
    i, n = options.part
    with _kept_if_interrupted(reader, chosen, not_run, keep):
        for side, sources in sets.items():
            reader.read(side, sources[i - 1 :: n], note)
    return Result.of(reader.readings, chosen, reader.weights, not_run)


@contextlib.contextmanager
def _kept_if_interrupted(
    reader: Reader,
    chosen: Sequence[selection.MetricRequest],
    not_run: Sequence[selection.UnavailableMetric],
    keep: Callable[[Result], None] | None,
) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if keep is not None:
            keep(Result.of(reader.readings, chosen, reader.weights, not_run))
        raise


def _find_reference(
    reference: Videos | None, chosen: Sequence[selection.MetricRequest], options: Options
) -> list[Source]:
    """Find the reference videos; none if no metric compares, so that they are not read in vain."""
    return (
        find_videos(reference, options.fps, options.pictures)
        if reference is not None and any(one.row.reference for one in chosen)
        else []
    )


def evaluate_run(
    run: Run,
    reference: Videos | None = None,
    metrics: Sequence[str] = (),
    options: Options | None = None,
    note: Note | None = None,
    keep: Callable[[Result], None] | None = None,
) -> Iterator[tuple[Setting, Result]]:
    """Measure each setting of a run against one reference, which is read once.

    The arguments are those of `evaluate`.

    Raises:
        ValueError: as `evaluate`; or if the run has no videos, or `options.part` is set.
    """
    options = options or Options()
    if options.part != (1, 1):
        raise ValueError(
            f"a run can only be evaluated as a whole, but got part={options.part}. Leave part out."
        )
    settings = [(setting, _setting_sources(run, setting)) for setting in run.settings()]
    settings = [(setting, sources) for setting, sources in settings if sources]
    if not run.clips("done"):
        raise ValueError(
            f"a run must have videos or pictures, but {run.folder} has none yet. Run the sweep"
            " first."
        )
    options = dataclasses.replace(options, pictures=_makes_pictures(run))
    kind = "image" if options.pictures else "video"
    chosen, not_run = selection.select_metrics(metrics, reference is not None, options, kind)
    sources = _find_reference(reference, chosen, options)
    reader = Reader(chosen, options)
    reader.read(REFERENCE, sources, note)
    real = reader.readings
    for setting, sources in settings:
        reader.readings = join([real])
        with _kept_if_interrupted(reader, chosen, not_run, keep):
            reader.read(GENERATED, sources, note)
        yield setting, Result.of(reader.readings, chosen, reader.weights, not_run)


def _makes_pictures(run: Run) -> bool:
    """Return whether a run is of pictures.

    Raises:
        ValueError: if it has both pictures and videos.
    """
    kinds = {clip.is_picture for clip in run.clips("done")}
    if len(kinds) > 1:
        raise ValueError(
            f"a run must have videos or pictures to be measured, but {run.folder} has both. Sweep"
            " the models that make pictures into a run of their own."
        )
    return kinds == {True}


def _setting_sources(run: Run, setting: Setting) -> list[Source]:
    """Return the videos of a setting, including missing ones, which are listed as skipped."""
    texts = {prompt.id: prompt.text for prompt in run.prompts()}
    return [
        (
            dataclasses.replace(
                file_source(name, clip.video), text=functools.partial(texts.get, clip.prompt)
            )
            if clip.status == "done" and clip.video
            else unreadable_source(name, _missing_reason(clip))
        )
        for name, clip in _named_clips(run, setting)
    ]


def _missing_reason(clip: Clip) -> str:
    if clip.status == "failed":
        return "the sweep failed to make it" + (
            f": {clip.error.splitlines()[0]}" if clip.error else ""
        )
    return f"the sweep has not made it yet ({clip.status})"


def _named_clips(run: Run, setting: Setting) -> Iterator[tuple[str, Clip]]:
    """Yield the clips of a setting under names that tell the prompt (`inputs.prompt_from_name`)."""
    texts = {prompt.id: prompt.text or prompt.image or "" for prompt in run.prompts()}
    for clip in run.clips():
        if clip.setting == setting.id:
            yield run_name(clip.prompt, texts[clip.prompt], clip.seed), clip


def record_result(run: Run, setting: Setting, result: Result) -> None:
    """Write the numbers into the ledger of the run, which must be open for writing."""
    keys = {name: clip.key for name, clip in _named_clips(run, setting)}
    values = result.readings.values.items()
    run.record_metrics(
        (keys[name], metric, value) for metric, rows in values for name, value in rows.items()
    )
    odd = {one.video for one in result.skipped if one.metric == SET_METRICS}
    kinds = {one.label: one.kind for one in result.asked if one.row.kind == "set"}
    for row in result.rows:
        run.record_set_metric(
            SetMetric(setting.id, row.metric, row.value, row.videos, row.low, row.high)
        )
        if (kind := kinds.get(row.metric)) is not None:
            names = [name for name in result.readings.names(GENERATED, kind) if name not in odd]
            reference = kept.hash_reference(result.readings, kind) if row.reference else ""
            replicates = [values.numpy() for values in row.replicates]
            kept.keep(
                run, setting.id, row.metric, row.value, replicates,
                [keys[name] for name in names], reference,
            )  # fmt: skip
