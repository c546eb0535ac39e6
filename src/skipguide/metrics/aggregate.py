"""From readings to the rows of the table: value, 95 % interval, how many videos, and what to beware
of."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from skipguide.metrics.catalog import EXTRACTORS, Range
from skipguide.metrics.features import GENERATED, REFERENCE, Readings
from skipguide.metrics.frechet import Moments, frechet_distance
from skipguide.metrics.inception import Predictions, inception_score, split_scores
from skipguide.metrics.inputs import SkippedVideo, prompt_from_name
from skipguide.metrics.kernel import Grams, kernel_distance
from skipguide.metrics.neighbours import Distances, neighbours
from skipguide.metrics.selection import MetricRequest, UnavailableMetric
from skipguide.metrics.vendi import vendi_score
from skipguide.stats import jackknife

Tensor = torch.Tensor
Statistic = Callable[..., list[float]]  # indices of the videos to take, for each set -> values
SET_METRICS = "set metrics"  # in the place of a metric, of a video that all of them go without
SPLITS, FEWEST_IN_SPLIT = 10, 10  # of the Inception Score, beside the one over all


@dataclass(frozen=True)
class ResultRow:
    """One number."""

    metric: str
    value: float
    low: float | None  # of the 95 % interval; None where there are too few videos for one
    high: float | None
    videos: int
    reference: int | None
    better: str
    warnings: tuple[str, ...] = ()
    # the Inception Score's mean and deviation over parts
    splits: dict[str, float] = field(default_factory=dict)


# --- sets -----------------------------------------------------------------------------------------


def _frechet(extractor: str, x: Tensor, y: Tensor) -> Statistic:
    return lambda i, j: [frechet_distance(Moments.from_features(x[i]), Moments.from_features(y[j]))]


def _kernel(extractor: str, x: Tensor, y: Tensor) -> Statistic:
    grams = Grams.from_features(x, y)
    return lambda i, j: [kernel_distance(grams.subset(i, j))]


def _neighbours(extractor: str, x: Tensor, y: Tensor) -> Statistic:
    distances = Distances.from_features(x, y)
    return lambda i, j: list(dataclasses.astuple(neighbours(distances.subset(i, j))))


def _inception(extractor: str, p: Tensor) -> Statistic:
    return lambda i: [
        inception_score(Predictions.from_probabilities(p[i], EXTRACTORS[extractor].epsilon))
    ]


def _vendi(extractor: str, x: Tensor) -> Statistic:
    return lambda i: [vendi_score(x[i])]


_STATISTICS: dict[str, tuple[Callable[..., Statistic], int]] = {  # which of the values it returns
    "fvd": (_frechet, 0),
    "kvd": (_kernel, 0),
    "precision": (_neighbours, 0),
    "recall": (_neighbours, 1),
    "density": (_neighbours, 2),
    "coverage": (_neighbours, 3),
    "inception_score": (_inception, 0),
    "vendi": (_vendi, 0),
}


@dataclass
class _StatisticValues:
    """The values of a statistic, which several metrics may share, and half their intervals'
    widths."""

    values: Tensor
    widths: Tensor | None

    def __getitem__(self, which: int) -> tuple[Tensor, Tensor | None]:
        return self.values[which], None if self.widths is None else self.widths[which]


def score(
    readings: Readings, asked: Sequence[MetricRequest]
) -> tuple[list[ResultRow], list[UnavailableMetric], list[SkippedVideo]]:
    """Every metric that the readings suffice for, those they do not, and the videos left out
    because of their size."""
    rows, not_run, shared = [], [], {}
    odd = _odd_sizes(readings)
    for one in asked:
        try:
            if one.row.kind == "video":
                rows.append(_score_videos(readings, one))
            else:
                rows.append(_score_set(readings, one, {skipped.video for skipped in odd}, shared))
        except ValueError as error:
            not_run.append(UnavailableMetric(one.label, str(error)))
    return rows, not_run, odd if any(one.row.kind == "set" for one in asked) else []


def _score_set(
    readings: Readings,
    asked: MetricRequest,
    odd: set[str],
    shared: dict[tuple[Callable[..., Statistic], str], _StatisticValues],
) -> ResultRow:
    sides = [GENERATED, REFERENCE] if asked.row.reference else [GENERATED]
    names = [readings.names(side, asked.kind) for side in sides]
    names[0] = [name for name in names[0] if name not in odd]
    fewest = min(map(len, names))
    if fewest < asked.row.fewest_videos:
        raise ValueError(
            f"{asked.label} needs at least {asked.row.fewest_videos} videos a set, but got"
            f" {fewest}. Add videos."
        )
    sets = [
        readings.stack(side, asked.kind, chosen) for side, chosen in zip(sides, names, strict=True)
    ]
    prepare, which = _STATISTICS[asked.metric]
    if (prepare, asked.kind) not in shared:
        shared[prepare, asked.kind] = _compute_statistic(prepare(asked.extractor, *sets), names)
    row = _make_row(asked, *shared[prepare, asked.kind][which], list(map(len, names)))
    row = _widen_by_wilson(row, asked, names)
    warnings = (*_warnings(readings, asked, sets), *_few_prompts_warning(names))
    return dataclasses.replace(row, warnings=warnings, splits=_split_summary(asked, sets[0]))


def _compute_statistic(statistic: Statistic, names: Sequence[Sequence[str]]) -> _StatisticValues:
    def values(*kept: Tensor) -> Tensor:
        return torch.tensor(statistic(*kept), dtype=torch.float64)

    everything = [torch.arange(len(chosen)) for chosen in names]
    # Videos of one prompt are alike, and so are left out together.
    return _StatisticValues(
        values(*everything),
        jackknife.half_widths(values, [_prompt_labels(chosen) for chosen in names]),
    )


def _prompt_labels(names: Sequence[str]) -> list[str]:
    """What is left out together. Names that differ by their number alone number the videos: each is
    by itself."""
    found = [prompt_from_name(name) for name in names]
    return list(names) if len(set(found)) == 1 else found


def _few_prompts_warning(sets: Sequence[Sequence[str]]) -> list[str]:
    """Why there is no interval, where there are videos enough for one, taken for independent."""
    found = []
    for side, names in zip((GENERATED, REFERENCE), sets, strict=False):
        count = len(set(_prompt_labels(names)))
        if count < jackknife.MIN_GROUPS <= len(names):
            found.append(
                f"no interval: the {len(names)} {side} videos are of {count} prompts, and those of"
                f" one prompt are alike; an interval needs {jackknife.MIN_GROUPS} prompts (or names"
                " without a number after a hyphen, where that does not count the videos of a"
                " prompt)"
            )
    return found


def _split_summary(asked: MetricRequest, probabilities: Tensor) -> dict[str, float]:
    if asked.metric != "inception_score" or len(probabilities) < SPLITS * FEWEST_IN_SPLIT:
        return {}
    mean, deviation = split_scores(probabilities, SPLITS, EXTRACTORS[asked.extractor].epsilon)
    return {"splits": SPLITS, "mean": mean, "std": deviation}


def _make_row(
    asked: MetricRequest, value: Tensor, width: Tensor | None, counts: Sequence[int]
) -> ResultRow:
    reference = counts[1] if len(counts) > 1 else None
    low, high = (
        (None, None) if width is None else _interval(float(value), float(width), asked.row.range)
    )
    return ResultRow(asked.label, float(value), low, high, counts[0], reference, asked.row.better)


def _interval(value: float, width: float, bounds: Range) -> tuple[float, float]:
    """Not beyond what the metric can be."""
    lowest, highest = bounds
    low = value - width if lowest is None else max(value - width, lowest)
    return low, value + width if highest is None else min(value + width, highest)


def _widen_by_wilson(
    row: ResultRow, asked: MetricRequest, names: Sequence[Sequence[str]]
) -> ResultRow:
    """A share of 0 or 1 gets Wilson's interval too: nothing varies there, so that the jackknife is
    certain."""
    if not asked.row.share or row.low is None or row.high is None or row.value not in (0, 1):
        return row
    count = len(set(_prompt_labels(names[0 if asked.row.share == GENERATED else 1])))
    low, high = jackknife.wilson(count if row.value else 0, count)
    return dataclasses.replace(row, low=min(row.low, low), high=max(row.high, high))


def _warnings(readings: Readings, asked: MetricRequest, sets: Sequence[Tensor]) -> list[str]:
    found = []
    for side, vectors in zip((GENERATED, REFERENCE), sets, strict=False):
        count, width = vectors.shape
        if count < asked.row.enough_videos:
            found.append(
                f"{count} {side} videos are few: below {asked.row.enough_videos} their number sways"
                " the value"
            )
        if asked.metric == "fvd" and count <= width:
            found.append(
                f"{count} {side} videos give {width} features a covariance without full rank"
            )
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
            f"the reference has videos of {len(sizes[1])} sizes, all resized by the extractor"
        )
    usual = [_format_size(counts.most_common(1)[0][0]) for counts in sizes if counts]
    if len(set(usual)) > 1:
        found.append(
            f"the generated videos are {usual[0]}, the reference {usual[1]}, both resized by the"
            " extractor"
        )
    return found


def _rate_warnings(readings: Readings, sets: int) -> list[str]:
    """The same motion at another rate is another one to an extractor, which counts in frames."""
    known = [
        [rate for rate in readings.rates.get(side, {}).values() if rate]
        for side in (GENERATED, REFERENCE)
    ]
    if sets < 2 or not all(known):
        return []
    made, real = (Counter(rates).most_common(1)[0][0] for rates in known)
    if abs(made - real) <= 0.02 * real:  # 23.976 and 24 are one
        return []
    return [
        f"the generated videos have {made:.5g} frames a second, the reference {real:.5g}, and"
        " features are of frames: convert one of them"
    ]


def _odd_sizes(readings: Readings) -> list[SkippedVideo]:
    """Generated videos of another size than most: one model makes one size, so that something went
    wrong there."""
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
            f"{asked.label} needs at least 1 video that can be measured, but got none."
        )
    names = sorted(rows)
    values = torch.tensor([rows[name] for name in names], dtype=torch.float64)
    widths = jackknife.half_widths(
        lambda kept: values[kept].mean()[None], [_prompt_labels(names)], groups=len(names)
    )
    row = _make_row(asked, *_StatisticValues(values.mean()[None], widths)[0], [len(names)])
    row = _widen_by_wilson(row, asked, [names])
    return dataclasses.replace(
        row,
        warnings=(*_missing_rate_warning(readings, asked, names), *_few_prompts_warning([names])),
    )


def _missing_rate_warning(
    readings: Readings, asked: MetricRequest, names: Sequence[str]
) -> list[str]:
    rates = readings.rates.get(GENERATED, {})
    count = sum(name in rates and rates[name] is None for name in names)
    if not asked.row.uses_rate or not count:
        return []
    return [
        f"{count} videos have no known rate, so that all their frames were taken, whatever their"
        " speed: say --fps"
    ]
