"""Read each video once, and give it to all networks that the metrics need."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType

import torch
from torch import nn

from skipguide.metrics import weights as stored
from skipguide.metrics.catalog import EXTRACTORS, METRICS
from skipguide.metrics.features import GENERATED, REFERENCE, Readings, Side
from skipguide.metrics.inputs import Clip, SkippedVideo, Source
from skipguide.metrics.selection import CLASSES, MetricRequest, Options
from skipguide.metrics.weights import WeightsRecord

Tensor = torch.Tensor
Note = Callable[[str], None]  # is called with the name of each video before it is read


@dataclass
class _Network:
    """A loaded network, and the clips of one shape that wait for it."""

    module: ModuleType
    model: nn.Module
    kinds: dict[Side, list[str]]  # the kinds of vectors to compute
    names: list[str] = field(default_factory=list)
    clips: list[Tensor] = field(default_factory=list)


class Reader:
    """Reads videos with the networks that some metrics need, and keeps the readings."""

    def __init__(self, asked: Sequence[MetricRequest], options: Options) -> None:
        self.options, self.readings = options, Readings()
        self.weights: dict[str, WeightsRecord] = {}
        rows = {one.metric: one.row for one in asked if one.row.kind == "video"}
        self.models = {
            name: self._load(row.module, row.weights) if row.module else None
            for name, row in rows.items()
        }
        self.extractors: dict[str, _Network] = {}
        for name in dict.fromkeys(one.extractor for one in asked if one.extractor):
            row, own = EXTRACTORS[name], [one for one in asked if one.extractor == name]
            kinds: dict[Side, list[str]] = {
                GENERATED: list(dict.fromkeys(one.kind for one in own)),
                REFERENCE: list(dict.fromkeys(one.kind for one in own if one.row.reference)),
            }
            model = self._load(row.module, row.weights)
            self.extractors[name] = _Network(importlib.import_module(row.module), model, kinds)

    def _load(self, module: str, names: Sequence[str]) -> nn.Module:
        paths = [
            stored.find_weights(name, self.options.weights, self.options.non_commercial)
            for name in names
        ]
        model = importlib.import_module(module).load(*paths)
        for name, path in zip(names, paths, strict=True):
            self.weights[name] = stored.identify(name, path).record()
        return model.to(self.options.device)

    def read(self, side: Side, sources: Sequence[Source], note: Note | None = None) -> None:
        """Add the videos of a set to the readings."""
        for source in sources:
            if note:
                note(source.name)
            self._read_video(side, source)
        for extractor in self.extractors:
            self._run_batch(extractor, side)

    def _read_video(self, side: Side, source: Source) -> None:
        try:
            clip = source.read()
        except (ValueError, OSError) as error:
            self._skip(source.name, side, "all", str(error))
            return
        frames, _, height, width = clip.frames.shape
        self.readings.sizes.setdefault(side, {})[source.name] = (frames, height, width)
        self.readings.rates.setdefault(side, {})[source.name] = clip.fps
        if side == GENERATED:
            self._measure(source.name, clip)
        for name, network in self.extractors.items():
            if network.kinds[side]:
                self._enqueue(name, side, source.name, clip.frames)

    def _skip(self, name: str, side: Side, metric: str, reason: str) -> None:
        self.readings.skipped.append(SkippedVideo(name, side, metric, reason))

    def _measure(self, name: str, clip: Clip) -> None:
        """Compute the per-video metrics of a clip."""
        for metric, model in self.models.items():
            fewest = METRICS[metric].fewest_frames
            if len(clip.frames) < fewest:
                self._skip(name, GENERATED, metric, _too_short_reason(len(clip.frames), fewest))
                continue
            function = getattr(importlib.import_module("skipguide.metrics.vbench"), metric)
            try:
                self.readings.values.setdefault(metric, {})[name] = _check_finite(
                    function(model, clip.frames, clip.fps)
                )
            except ValueError as error:
                self._skip(name, GENERATED, metric, str(error))

    def _enqueue(self, extractor: str, side: Side, name: str, frames: Tensor) -> None:
        row, network = EXTRACTORS[extractor], self.extractors[extractor]
        if len(frames) < row.fewest:
            self._skip(
                name, side, f"features {extractor}", _too_short_reason(len(frames), row.fewest)
            )
            return
        clip = frames[: row.frames]
        if network.clips and network.clips[0].shape != clip.shape:
            self._run_batch(extractor, side)
        network.names.append(name)
        network.clips.append(clip)
        if len(network.clips) == self.options.batch_size:
            self._run_batch(extractor, side)

    def _run_batch(self, extractor: str, side: Side) -> None:
        network = self.extractors[extractor]
        if not network.clips:
            return
        batch = torch.stack(network.clips)
        for kind in network.kinds[side]:
            function = (
                network.module.probabilities if kind.endswith(CLASSES) else network.module.features
            )
            for name, row in zip(network.names, function(network.model, batch), strict=True):
                if bool(row.isfinite().all()):
                    self.readings.add_vectors(side, kind, [name], row[None])
                else:
                    self._skip(
                        name, side, f"features {kind}", "the network returned infinity or NaN"
                    )
        network.names, network.clips = [], []


def _too_short_reason(got: int, needed: int) -> str:
    frames = "1 frame" if got == 1 else f"{got} frames"
    return f"at least {needed} frames are needed, but it has {frames}"


def _check_finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("the metric returned infinity or NaN")
    return float(value)
