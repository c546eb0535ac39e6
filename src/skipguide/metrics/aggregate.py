"""Turn readings into rows: value, 95 % interval, number of videos, and warnings."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from skipguide.metrics.catalog import EXTRACTORS
from skipguide.metrics.features import GENERATED, REFERENCE, Readings, Side
from skipguide.metrics.frechet import Moments, frechet_distance
from skipguide.metrics.inception import Predictions, inception_score, split_scores
from skipguide.metrics.inputs import SkippedVideo, is_run_name, prompt_from_name
from skipguide.metrics.kernel import CMMD, CMMD_SCALE, Grams, kernel_distance
from skipguide.metrics.neighbours import Distances, neighbours
from skipguide.metrics.selection import MetricRequest, UnavailableMetric
from skipguide.metrics.vendi import vendi_score
from skipguide.stats import intervals, jackknife
from skipguide.stats.estimate import Estimate

Tensor = torch.Tensor
Statistic = Callable[..., list[float]]  # maps the videos to keep, by set, to values
SET_METRICS = "set metrics"  # stands for all of them where a video is left out
SPLITS, FEWEST_IN_SPLIT = 10, 10  # of the Inception Score, in addition to that over all videos


@dataclass(frozen=True)
class ResultRow:
    """One number of a result."""

    metric: str
    value: float
    low: float | None  # of the 95 % interval; None if there are too few videos for one
    high: float | None
    videos: int
    reference: int | None
    better: str
    warnings: tuple[str, ...] = ()
    # the Inception Score's mean and deviation over parts
    splits: dict[str, float] = field(default_factory=dict)
    # of a set metric, by set: its values (groups,) without each group of prompts, for differences
    replicates: tuple[Tensor, ...] = field(default=(), repr=False, compare=False)

    @classmethod
    def from_estimate(
        cls,
        request: MetricRequest,
        estimate: Estimate,
        reference: int | None = None,
        warnings: Sequence[str] = (),
        splits: dict[str, float] | None = None,
        replicates: tuple[Tensor, ...] = (),
    ) -> ResultRow:
        """Build the row of a metric; `reference` is the number of reference videos."""
        return cls(
            request.label,
            estimate.value,
            estimate.low,
            estimate.high,
            estimate.count,
            reference,
            request.row.better,
            tuple(warnings),
            splits or {},
            replicates,
        )

    def payload(self) -> dict[str, Any]:
        """Return the row ready for JSON, without the replicates, which its features give again."""
        every = dataclasses.asdict(dataclasses.replace(self, replicates=()))
        return {name: value for name, value in every.items() if name != "replicates"}


# --- sets -----------------------------------------------------------------------------------------


def _frechet(extractor: str, x: Tensor, y: Tensor) -> Statistic:
    return lambda i, j: [frechet_distance(Moments.from_features(x[i]), Moments.from_features(y[j]))]


def _kernel(extractor: str, x: Tensor, y: Tensor) -> Statistic:
    grams = Grams.from_features(x, y)
    return lambda i, j: [kernel_distance(grams.subset(i, j))]


def _cmmd(extractor: str, x: Tensor, y: Tensor) -> Statistic:
    grams = Grams.from_features(x, y, CMMD)
    return lambda i, j: [CMMD_SCALE * kernel_distance(grams.subset(i, j), unbiased=False)]


def _neighbours(extractor: str, x: Tensor, y: Tensor) -> Statistic:
    distances = Distances.from_features(x, y)
    return lambda i, j: list(dataclasses.astuple(neighbours(distances.subset(i, j))))


def _inception(extractor: str, p: Tensor) -> Statistic:
    return lambda i: [
        inception_score(Predictions.from_probabilities(p[i], EXTRACTORS[extractor].epsilon))
    ]


def _vendi(extractor: str, x: Tensor) -> Statistic:
    return lambda i: [vendi_score(x[i])]


# metric -> (what prepares its statistic, the position of its value in what the statistic returns)
_STATISTICS: dict[str, tuple[Callable[..., Statistic], int]] = {
    "fvd": (_frechet, 0),
    "fad": (_frechet, 0),
    "kvd": (_kernel, 0),
    "fid": (_frechet, 0),
    "kid": (_kernel, 0),
    "cmmd": (_cmmd, 0),
    "precision": (_neighbours, 0),
    "recall": (_neighbours, 1),
    "density": (_neighbours, 2),
    "coverage": (_neighbours, 3),
    "inception_score": (_inception, 0),
    "vendi": (_vendi, 0),
}


@dataclass
class _StatisticValues:
    """The values of a statistic, which metrics may share, and those without each group.

    Args:
        values: `(V,)`.
        without: by set `(groups, V)`; None if there are too few prompts for an interval.
    """

    values: Tensor
    without: list[Tensor] | None

    def __getitem__(self, which: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        without = () if self.without is None else self.without
        return self.values[which], tuple(values[:, which] for values in without)


def score(
    readings: Readings, asked: Sequence[MetricRequest]
) -> tuple[list[ResultRow], list[UnavailableMetric], list[SkippedVideo]]:
    """Compute every metric that the readings suffice for.

    Returns the rows, the metrics without a number, and the videos that set metrics leave out
    because of their size.
    """
    rows, not_run, shared = [], [], {}
    odd = _odd_sizes(readings)
    for one in asked:
        try:
            if one.row.kind == "video":
                rows.append(_score_videos(readings, one))
            else:
                rows.append(_score_set(readings, one, {skipped.video for skipped in odd}, shared))
        # One metric that fails, as on a matrix that has no decomposition, must not take along what
        # was measured for the others.
        except (ValueError, ArithmeticError, RuntimeError, MemoryError) as error:
            not_run.append(UnavailableMetric(one.label, str(error) or type(error).__name__))
    return rows, not_run, odd if any(one.row.kind == "set" for one in asked) else []


def _score_set(
    readings: Readings,
    asked: MetricRequest,
    odd: set[str],
    shared: dict[tuple[Callable[..., Statistic], str], _StatisticValues],
) -> ResultRow:
    sides: list[Side] = [GENERATED, REFERENCE] if asked.row.reference else [GENERATED]
    names = [readings.names(side, asked.kind) for side in sides]
    names[0] = [name for name in names[0] if name not in odd]
    fewest = min(map(len, names))
    if fewest < asked.row.fewest_videos:
        raise ValueError(
            f"{asked.label} needs at least {asked.row.fewest_videos} {readings.noun}s a set, but"
            f" got {fewest}. Add {readings.noun}s."
        )
    sets = [
        readings.stack(side, asked.kind, chosen) for side, chosen in zip(sides, names, strict=True)
    ]
    prepare, which = _STATISTICS[asked.metric]
    if (prepare, asked.kind) not in shared:
        windows = [
            readings.windows(side, asked.kind, chosen)
            for side, chosen in zip(sides, names, strict=True)
        ]
        statistic = _of_videos(prepare(asked.extractor, *sets), windows)
        shared[prepare, asked.kind] = _compute_statistic(statistic, names)
    value, without = shared[prepare, asked.kind][which]
    width = jackknife.half_widths_of(without) if without else None
    estimate = _estimate_set(asked, value, width, names)
    reference = len(names[1]) if len(names) > 1 else None
    warnings = [
        *_warnings(readings, asked, sets, names),
        *_no_interval_warning(estimate, names, jackknife.MIN_GROUPS, readings.noun),
    ]
    return ResultRow.from_estimate(
        asked, estimate, reference, warnings, _split_summary(asked, sets[0]), without
    )


def _of_videos(statistic: Statistic, windows: Sequence[Sequence[int]]) -> Statistic:
    """Return a statistic of rows as one of videos, of which each may have several rows."""
    if all(count == 1 for counts in windows for count in counts):
        return statistic
    rows = [torch.arange(sum(counts)).split(list(counts)) for counts in windows]

    def of_videos(*kept: Tensor) -> list[float]:
        chosen = [
            torch.cat([own[i] for i in videos.tolist()])
            for own, videos in zip(rows, kept, strict=True)
        ]
        return statistic(*chosen)

    return of_videos


def _compute_statistic(statistic: Statistic, names: Sequence[Sequence[str]]) -> _StatisticValues:
    def values(*kept: Tensor) -> Tensor:
        return torch.tensor(statistic(*kept), dtype=torch.float64)

    everything = [torch.arange(len(chosen)) for chosen in names]
    # Videos of one prompt are similar, so they are left out together.
    return _StatisticValues(
        values(*everything),
        jackknife.replicates(values, [_prompt_labels(chosen) for chosen in names]),
    )


def _prompt_labels(names: Sequence[str]) -> list[str]:
    """Label the videos that are left out together, i.e. those of one prompt.

    If all names differ only in their number, the number counts the videos, and each has its own
    label.
    """
    found = [prompt_from_name(name) for name in names]
    return list(names) if len(set(found)) == 1 else found


def _rename_hint(noun: str) -> str:
    return (
        f". If the number after the hyphen in a name does not count the {noun}s of a prompt, rename"
        f" the {noun}s"
    )


def _no_interval_warning(
    estimate: Estimate, sets: Sequence[Sequence[str]], needed: int, noun: str
) -> list[str]:
    """Say why there is no interval, and what to do where names may be to blame.

    Args:
        needed: how many prompts have an interval.
        noun: what was measured, in a word.
    """
    if estimate.reason is None:
        return []
    found = [f"no interval: {estimate.reason}"]
    for side, names in zip((GENERATED, REFERENCE), sets, strict=False):
        count = len(set(_prompt_labels(names)))
        if count < needed <= len(names):
            are = "1 prompt" if count == 1 else f"{count} prompts"
            found.append(
                f"the {len(names)} {side} {noun}s are of {are}, and {noun}s of one prompt are"
                " similar" + ("" if all(map(is_run_name, names)) else _rename_hint(noun))
            )
    return found


def _split_summary(asked: MetricRequest, probabilities: Tensor) -> dict[str, float]:
    if asked.metric != "inception_score" or len(probabilities) < SPLITS * FEWEST_IN_SPLIT:
        return {}
    mean, deviation = split_scores(probabilities, SPLITS, EXTRACTORS[asked.extractor].epsilon)
    return {"splits": SPLITS, "mean": mean, "std": deviation}


def _estimate_set(
    asked: MetricRequest, value: Tensor, width: Tensor | None, names: Sequence[Sequence[str]]
) -> Estimate:
    """Give the value of a set its interval, cut off at the bounds of the metric.

    That of a share reaches at least as far as the exact one of as many independent votes as there
    are prompts: near 0 and 1 little varies when a prompt is left out.
    """
    found, count = float(value), len(names[0])
    if width is None:
        prompts = min(len(set(_prompt_labels(chosen))) for chosen in names)
        return Estimate(found, None, None, count, jackknife.too_few(prompts))
    low, high = found - float(width), found + float(width)
    if asked.row.share:
        prompts = len(set(_prompt_labels(names[0 if asked.row.share == GENERATED else 1])))
        exact = intervals.clopper_pearson(found * prompts, prompts)
        low, high = min(low, exact[0]), max(high, exact[1])
    return Estimate(found, *intervals.clip(low, high, asked.row.range), count)


def _warnings(
    readings: Readings,
    asked: MetricRequest,
    sets: Sequence[Tensor],
    names: Sequence[Sequence[str]],
) -> list[str]:
    found = []
    for side, vectors, chosen in zip((GENERATED, REFERENCE), sets, names, strict=False):
        count, (rows, width) = len(chosen), vectors.shape
        if count < asked.row.enough_videos:
            found.append(
                f"{count} {side} {readings.noun}s are few: below {asked.row.enough_videos}, the"
                " value depends on their number"
            )
        if asked.metric in ("fvd", "fad", "fid") and rows <= width:
            what = f"the {rows} windows of {count}" if asked.row.sound else str(count)
            found.append(
                f"{what} {side} {readings.noun}s are too few for a covariance of {width} features"
                " with full rank"
            )
    if asked.row.sound:  # which has neither a size nor frames
        return found
    return found + _size_warnings(readings, len(sets)) + _rate_warnings(readings, len(sets))


def _size_warnings(readings: Readings, sets: int) -> list[str]:
    if sets < 2:
        return []
    sizes = [
        Counter(size[1:] for size in readings.sizes.get(side, {}).values())
        for side in (GENERATED, REFERENCE)
    ]
    found = []
    if len(sizes[1]) > 1:
        found.append(
            f"the reference has {readings.noun}s of {len(sizes[1])} sizes, all resized by the"
            " extractor"
        )
    usual = [_format_size(counts.most_common(1)[0][0]) for counts in sizes if counts]
    if len(set(usual)) > 1:
        found.append(
            f"the generated {readings.noun}s are {usual[0]}, the reference {usual[1]}, both resized"
            " by the extractor"
        )
    return found


def _rate_warnings(readings: Readings, sets: int) -> list[str]:
    """Warn if the two sets differ in frame rate, because extractors count in frames."""
    known = [
        [rate for rate in readings.rates.get(side, {}).values() if rate]
        for side in (GENERATED, REFERENCE)
    ]
    if sets < 2 or not all(known):
        return []
    made, real = (Counter(rates).most_common(1)[0][0] for rates in known)
    if abs(made - real) <= 0.02 * real:  # 23.976 and 24 count as equal
        return []
    return [
        f"the generated videos have {made:.5g} frames a second, the reference {real:.5g}, but"
        " features count in frames: convert one of the sets"
    ]


def _odd_sizes(readings: Readings) -> list[SkippedVideo]:
    """Find generated videos of another size than most of them.

    One model makes videos of one size, so something went wrong with these.
    """
    sizes = {name: size[1:] for name, size in readings.sizes.get(GENERATED, {}).items()}
    if not sizes:
        return []
    usual = min(Counter(sizes.values()).items(), key=lambda item: (-item[1], item[0]))[0]
    return [
        SkippedVideo(
            name,
            GENERATED,
            SET_METRICS,
            f"it is {_format_size(size)}, but most are {_format_size(usual)}",
        )
        for name, size in sorted(sizes.items())
        if size != usual
    ]


def _format_size(size: Sequence[int]) -> str:
    return " x ".join(map(str, reversed(size)))


# --- videos ---------------------------------------------------------------------------------------


def _score_videos(readings: Readings, asked: MetricRequest) -> ResultRow:
    rows = readings.values.get(asked.metric, {})
    if not rows:
        raise ValueError(
            f"{asked.label} needs at least 1 {readings.noun} that can be measured, but got none."
            " Check why they were skipped."
        )
    names = sorted(rows)
    values = torch.tensor([rows[name] for name in names], dtype=torch.float64)
    labels = _prompt_labels(names)
    estimate = (
        intervals.share(values, labels)
        if asked.row.share
        else intervals.mean(values, labels, asked.row.range)
    )
    warnings = [
        *_missing_rate_warning(readings, asked, names),
        *_no_interval_warning(estimate, [names], intervals.MIN_CLUSTERS, readings.noun),
    ]
    return ResultRow.from_estimate(asked, estimate, warnings=warnings)


def _missing_rate_warning(
    readings: Readings, asked: MetricRequest, names: Sequence[str]
) -> list[str]:
    rates = readings.rates.get(GENERATED, {})
    count = sum(name in rates and rates[name] is None for name in names)
    if not asked.row.uses_rate or not count:
        return []
    return [
        f"the frame rate of {count} videos is unknown, so all their frames were used, whatever"
        " their speed: set it with --fps"
    ]
