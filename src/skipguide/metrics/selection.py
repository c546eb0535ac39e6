"""The selection of metrics and extractors, and the check that they have all that they need."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from skipguide.metrics import weights
from skipguide.metrics.catalog import EXTRACTORS, METRICS, WEIGHTS, Extractor, Kind, Metric

REFERENCE, NON_COMMERCIAL = "reference", "non_commercial"  # of `UnavailableMetric.needs`
CLASSES = ".classes"  # after the name of an extractor: its class probabilities, not features


@dataclass(frozen=True)
class Options:
    """Options of an evaluation."""

    features: str = ""  # the extractor of all set metrics that do not name one
    weights: Path | None = None  # the folder to search, before the hub's cache
    non_commercial: bool = False  # whether weights under such a licence may be used
    batch_size: int = 8  # clips that an extractor gets at a time
    device: str = "cpu"
    fps: float | None = None  # of frame folders and tensors
    pictures: bool = False  # whether each image file is a picture, and not a frame of a video
    part: tuple[int, int] = (1, 1)  # (i, n): every n-th video from the i-th on, for n workers

    @property
    def noun(self) -> str:
        """Return "picture" or "video", as one or the other is measured."""
        return "picture" if self.pictures else "video"

    def __post_init__(self) -> None:
        if self.features and self.features not in EXTRACTORS:
            raise ValueError(
                f"features must be one of {', '.join(EXTRACTORS)}, but got {self.features!r}."
                " Choose one."
            )
        if self.batch_size < 1:
            raise ValueError(
                f"batch_size must be at least 1, but got {self.batch_size}. Choose a larger one."
            )
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise ValueError(
                f"fps must be positive, but got {self.fps}. Leave it out if it is unknown."
            )
        if not 1 <= self.part[0] <= self.part[1]:
            raise ValueError(
                f"part must be (i, n) with 1 <= i <= n, but got {self.part}. Count parts from 1."
            )


@dataclass(frozen=True)
class MetricRequest:
    """A metric, with the extractor to use if it is a set metric."""

    metric: str
    extractor: str = ""

    @property
    def label(self) -> str:
        return f"{self.metric}:{self.extractor}" if self.extractor else self.metric

    @property
    def row(self) -> Metric:
        return METRICS[self.metric]

    @property
    def kind(self) -> str:
        """The kind of vectors that it reads, as in `features.Readings`."""
        return self.extractor + (CLASSES if self.metric == "inception_score" else "")


@dataclass(frozen=True)
class UnavailableMetric:
    """A metric without a number, and why.

    `needs` is all that it lacks and a user can give: REFERENCE, the names of weights, and
    NON_COMMERCIAL.
    """

    metric: str
    reason: str
    needs: tuple[str, ...] = ()


def parse_metric(text: str, features: str = "", kind: Kind = "video") -> MetricRequest:
    """Parse a metric as users write it: "temporal_flickering", "fvd", "fvd:judge".

    A set metric without an extractor uses `features`, or else its usual one.

    Args:
        kind: what is measured, videos or pictures.

    Raises:
        ValueError: for an unknown metric, one that cannot measure what is there, or an extractor
            that does not fit it.
    """
    name, _, extractor = text.partition(":")
    if name not in METRICS:
        raise ValueError(
            f"a metric must be one of {', '.join(METRICS)}, but got {name!r}. See skipguide"
            " metrics."
        )
    row = METRICS[name]
    if kind not in row.of:
        raise ValueError(f"{name} {why_not(name)}")
    if row.kind == "video":
        if extractor:
            raise ValueError(
                f"{name} uses no features, so it cannot name an extractor, but got {text!r}. Write"
                f" {name}."
            )
        return MetricRequest(name)
    # Features of pictures are not asked of what hears, nor the other way round.
    of_all = features if features and EXTRACTORS[features].sound == row.sound else ""
    chosen = extractor or of_all or _usual_extractor(row, kind)
    fitting = [known for known, one in EXTRACTORS.items() if _fits(name, one, kind)]
    if chosen not in fitting:
        raise ValueError(
            f"the features of {name} must be {' or '.join(fitting)}, but got {chosen!r}. Choose one"
            " of them."
        )
    return MetricRequest(name, chosen)


def why_not(metric: str) -> str:
    """Say why a metric does not measure pictures, or videos, and what does."""
    row = METRICS[metric]
    if row.sound:
        return "measures the sound of videos, and a picture has none."
    if "image" not in row.of:
        fewest = row.fewest_frames if row.kind == "video" else EXTRACTORS[row.extractor].fewest
        others = ", ".join(name for name, one in METRICS.items() if "image" in one.of)
        return (
            f"measures videos, of which it needs {fewest} frames, but a picture has one. For"
            f" pictures take one of {others}."
        )
    return (
        "measures pictures, one frame each, but these are videos. For videos there are fvd and kvd;"
        " for folders of pictures pass --pictures (pictures=True)."
    )


def _usual_extractor(row: Metric, kind: Kind) -> str:
    return (row.picture_extractor if kind == "image" else "") or row.extractor


def _fits(metric: str, extractor: Extractor, kind: Kind) -> bool:
    """Tell whether a metric can use an extractor.

    Sounds are heard, pictures and videos are seen, and the Inception Score needs probabilities.
    """
    if METRICS[metric].sound != extractor.sound or extractor.of != kind:
        return False
    return bool(extractor.classes) if metric == "inception_score" else extractor.has_features


def all_metrics(features: str = "", kind: Kind = "video") -> list[MetricRequest]:
    """Return all metrics but those on request, and those that cannot measure what is there.

    Set metrics use `features` where it fits, else their usual extractor.
    """
    return [
        parse_metric(
            name, features if features and _fits(name, EXTRACTORS[features], kind) else "", kind
        )
        for name, row in METRICS.items()
        if not row.on_request and kind in row.of
    ]


def select_metrics(
    metrics: Sequence[str], has_reference: bool, options: Options, kind: Kind = "video"
) -> tuple[list[MetricRequest], list[UnavailableMetric]]:
    """Return the metrics to run and those that cannot be run.

    Without names, these are all metrics but those on request, divided by whether everything they
    need is there.

    Args:
        kind: what is measured, videos or pictures. Of pictures, metrics of videos are among those
            that cannot be run, with the reason.

    Raises:
        ValueError: if a metric that is named cannot be run.
    """
    asked = [parse_metric(text, options.features, kind) for text in metrics] or all_metrics(
        options.features, kind
    )
    usable, not_run = [], _unfit(kind) if not metrics else []
    for one in dict.fromkeys(asked):
        lacking = list(_missing(one, has_reference, options))
        if not lacking:
            usable.append(one)
        elif metrics:
            raise lacking[0][1]
        else:
            needs = tuple(dict.fromkeys(need for needs, _ in lacking for need in needs))
            not_run.append(UnavailableMetric(one.label, str(lacking[0][1]), needs))
    return usable, not_run


def _unfit(kind: Kind) -> list[UnavailableMetric]:
    """Return the metrics that pictures have no number for."""
    return [
        UnavailableMetric(name, "They need several frames, and a picture has one.")
        for name, row in METRICS.items()
        if kind == "image" and not row.on_request and "image" not in row.of
    ]


def _missing(
    asked: MetricRequest, has_reference: bool, options: Options
) -> Iterator[tuple[tuple[str, ...], weights.MissingWeights]]:
    """Yield what a metric lacks, with the error that says so."""
    if asked.row.reference and not has_reference:
        yield (
            (REFERENCE,),
            weights.MissingWeights(
                f"{asked.label} needs reference videos, but got none. Pass them with --reference."
            ),
        )
    for name in EXTRACTORS[asked.extractor].weights if asked.extractor else asked.row.weights:
        try:
            weights.find_weights(name, options.weights, options.non_commercial)
        except weights.MissingWeights as error:
            yield _needs_of(name, options), error


def _needs_of(name: str, options: Options) -> tuple[str, ...]:
    """Return what a network's weights lack: the permission to use them, the file, or both."""
    needs = () if WEIGHTS[name].commercial or options.non_commercial else (NON_COMMERCIAL,)
    try:
        weights.find_weights(name, options.weights, non_commercial=True)
    except weights.MissingWeights:
        return (*needs, name)
    return needs
