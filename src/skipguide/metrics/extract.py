"""Read each video once, frame by frame, and give the frames to all networks that need them."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import nn

from skipguide.metrics import alignment, pixels, sounds, vbench
from skipguide.metrics import weights as stored
from skipguide.metrics.catalog import EXTRACTORS, METRICS
from skipguide.metrics.features import GENERATED, REFERENCE, Readings, Side
from skipguide.metrics.inputs import Clip, SkippedVideo, Source, prompt_from_name
from skipguide.metrics.networks.clips import stack_frames
from skipguide.metrics.selection import CLASSES, MetricRequest, Options
from skipguide.metrics.weights import WeightsRecord
from skipguide.models.memory import is_out_of_memory

Tensor = torch.Tensor
METERS = vbench.METERS | pixels.METERS | sounds.METERS
_SILENT = "it has no sound"
Note = Callable[[str], None]  # is called with the name of each video before it is read


@dataclass
class _Network:
    """A loaded network, and the prepared clips of one shape that wait for it."""

    module: ModuleType
    model: nn.Module
    kinds: dict[Side, list[str]]  # the kinds of vectors to compute
    shape: tuple[int, ...] = ()  # of the clips before they were prepared
    names: list[str] = field(default_factory=list)
    clips: list[Tensor] = field(default_factory=list)


class _Frames:
    """The frames of a clip that an extractor sees, prepared for its network."""

    def __init__(self, network: _Network, extractor: str, clip: Clip, count: int) -> None:
        first = EXTRACTORS[extractor].frames
        self.network = network
        self.indices = range(first) if first else network.module.sample(count)
        self.shape = (min(count, first or count), clip.height, clip.width)
        self.next, self.wanted = 0, sorted(set(self.indices))
        self.prepared: dict[int, Tensor] = {}

    def takes(self, index: int) -> bool:
        return self.next < len(self.wanted) and self.wanted[self.next] == index

    def add(self, frame: Tensor) -> None:
        self.prepared[self.wanted[self.next]] = self.network.module.prepare(
            self.network.model, frame
        )
        self.next += 1

    def stack(self) -> Tensor:
        """Return the prepared clip `(F, 3, h, w)`."""
        return stack_frames([self.prepared[index] for index in self.indices])


@dataclass
class _Pass:
    """One way through the frames of a clip, for a number of frames that is expected."""

    count: int
    meters: dict[str, vbench.Meter] = field(default_factory=dict)
    extractors: dict[str, _Frames] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)  # metric or features -> reason

    def run(self, clip: Clip) -> int:
        """Give every frame to what takes it, and return how many frames there were."""
        index = -1
        for index, convert in enumerate(clip.frames()):
            takers = {
                name: one
                for group in (self.meters, self.extractors)
                for name, one in group.items()
                if one.takes(index)
            }
            if takers:
                frame = convert()
                for name, one in takers.items():
                    self._try(name, lambda one=one, frame=frame: one.add(frame))
        return index + 1

    def start(self, metric: str, meter: Callable[[], vbench.Meter]) -> None:
        """Add the meter of a metric, or the reason why there is none."""
        self._try(metric, lambda: self.meters.update({metric: meter()}))

    def values(self) -> dict[str, float]:
        """Return the values of the metrics that have one."""
        found = {}
        for name, meter in list(self.meters.items()):
            self._try(
                name, lambda name=name, meter=meter: found.update({name: _finite(meter.value())})
            )
        return found

    def _try(self, name: str, work: Callable[[], object]) -> None:
        """Do a part of the work for a metric; if it fails, leave only this metric out."""
        try:
            work()
        except Exception as error:
            reason = _memory_reason(error) or (str(error) if isinstance(error, ValueError) else "")
            if not reason:
                raise
            self.failures[name] = reason
            self.meters.pop(name, None)
            self.extractors.pop(name, None)


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
        """Add the videos of a set to the readings.

        Whatever ends this early, the readings hold what was read, and name what was not.
        """
        waiting = [source.name for source in sources]
        try:
            for source in sources:
                if note:
                    note(source.name)
                self._read_video(side, source)
                waiting.remove(source.name)
            for extractor in self.extractors:
                self._run_batch(extractor, side)
        except BaseException as error:
            self._give_up(side, waiting, error)
            raise

    def _give_up(self, side: Side, waiting: Sequence[str], error: BaseException) -> None:
        reason = f"the evaluation ended before it was read ({type(error).__name__})"
        for name in waiting:
            self._skip(name, side, "all", reason)
        for name, network in self.extractors.items():
            for video in network.names:
                self._skip(video, side, f"features {name}", reason)
            network.names, network.clips = [], []

    def _read_video(self, side: Side, source: Source) -> None:
        try:
            clip = source.read()
            found, count = self._pass(side, source, clip, clip.count)
            if count != clip.count:  # what to take depends on it
                found, count = self._pass(side, source, clip, count)
        except (ValueError, OSError) as error:
            self._skip(source.name, side, "all", _memory_reason(error) or str(error))
            return
        except (MemoryError, RuntimeError) as error:
            reason = _memory_reason(error)
            if not reason:
                raise
            self._skip(source.name, side, "all", reason)
            return
        self._keep(side, source.name, clip, found)

    def _pass(self, side: Side, source: Source, clip: Clip, count: int) -> tuple[_Pass, int]:
        """Read a clip of which `count` frames are expected; returns how many there were."""
        one = _Pass(count)
        for metric, model in self.models.items() if side == GENERATED else ():
            fewest = METRICS[metric].fewest_frames
            if count < fewest:
                one.failures[metric] = _too_short_reason(count, fewest)
            elif METRICS[metric].uses_text:
                text = source.text()
                if text is None:
                    one.failures[metric] = _NO_TEXT
                else:
                    one.meters[metric] = alignment.METERS[metric](model, text)
            else:
                one.start(
                    metric,
                    lambda model=model, metric=metric: _meter(metric, model, source, clip, count),
                )
        for name, network in self.extractors.items():
            if EXTRACTORS[name].sound:
                continue
            fewest = EXTRACTORS[name].fewest
            if network.kinds[side] and count < fewest:
                one.failures[f"features {name}"] = _too_short_reason(count, fewest)
            elif network.kinds[side]:
                one.extractors[f"features {name}"] = _Frames(network, name, clip, count)
        return one, one.run(clip)

    def _keep(self, side: Side, name: str, clip: Clip, found: _Pass) -> None:
        """Add what was found in a video to the readings; its features follow with their batch."""
        self.readings.sizes.setdefault(side, {})[name] = (found.count, clip.height, clip.width)
        self.readings.rates.setdefault(side, {})[name] = clip.fps
        if clip.notes:
            self.readings.notes.setdefault(side, {})[name] = list(clip.notes)
        for metric, value in found.values().items():
            self.readings.values.setdefault(metric, {})[name] = value
        for metric, reason in found.failures.items():
            self._skip(name, side, metric, reason)
        for extractor, frames in found.extractors.items():
            self._enqueue(extractor.removeprefix("features "), side, name, frames)
        for extractor, network in self.extractors.items():
            if EXTRACTORS[extractor].sound and network.kinds[side]:
                self._listen(extractor, side, name, clip)

    def _listen(self, extractor: str, side: Side, name: str, clip: Clip) -> None:
        """Add the features of a video's sound, a row for each of its windows."""
        network = self.extractors[extractor]
        try:
            heard = clip.sound()
            if heard is None:
                raise ValueError(_SILENT)
            samples = torch.from_numpy(heard.mono(network.module.RATE))
            rows = network.module.features(network.model, samples)
            if not bool(rows.isfinite().all()):
                raise ValueError("the network returned infinity or NaN")
        except (ValueError, MemoryError, RuntimeError) as error:
            reason = _memory_reason(error) or (str(error) if isinstance(error, ValueError) else "")
            if not reason:
                raise
            self._skip(name, side, f"features {extractor}", reason)
            return
        for kind in network.kinds[side]:
            self.readings.add_windows(side, kind, name, rows)

    def _skip(self, name: str, side: Side, metric: str, reason: str) -> None:
        self.readings.skipped.append(SkippedVideo(name, side, metric, reason))

    def _enqueue(self, extractor: str, side: Side, name: str, frames: _Frames) -> None:
        network = self.extractors[extractor]
        if network.clips and network.shape != frames.shape:
            self._run_batch(extractor, side)
        network.shape = frames.shape
        network.names.append(name)
        network.clips.append(frames.stack())
        if len(network.clips) == self.options.batch_size:
            self._run_batch(extractor, side)

    def _run_batch(self, extractor: str, side: Side) -> None:
        network = self.extractors[extractor]
        if not network.clips:
            return
        try:
            self._run_network(network, side)
        except (MemoryError, RuntimeError) as error:
            if not _memory_reason(error):
                raise
            reason = (
                f"the network ran out of memory with a batch of {len(network.clips)} clips. Choose"
                " a smaller --batch-size."
            )
            for name in network.names:
                self._skip(name, side, f"features {extractor}", reason)
        network.names, network.clips = [], []

    def _run_network(self, network: _Network, side: Side) -> None:
        batch = torch.stack(network.clips)
        for kind in network.kinds[side]:
            function = network.module.classify if kind.endswith(CLASSES) else network.module.embed
            for name, row in zip(network.names, function(network.model, batch), strict=True):
                if bool(row.isfinite().all()):
                    self.readings.add_vectors(side, kind, [name], row[None])
                else:
                    self._skip(
                        name, side, f"features {kind}", "the network returned infinity or NaN"
                    )


def _meter(
    metric: str, model: nn.Module | None, source: Source, clip: Clip, count: int
) -> vbench.Meter:
    """Return the meter of a metric for a clip, which has heard its sound if it needs one."""
    meter: Any = METERS[metric](model, count, clip.fps)
    if METRICS[metric].sound:
        heard = clip.sound()
        if heard is None:
            raise ValueError(_SILENT)
        meter.hear(heard, source.text() or prompt_from_name(source.name))
    return meter


_NO_TEXT = "its prompt is not known: it is not of a run, and has no record of skipguide"


def _too_short_reason(got: int, needed: int) -> str:
    frames = "1 frame" if got == 1 else f"{got} frames"
    return f"at least {needed} frames are needed, but it has {frames}"


def _memory_reason(error: BaseException) -> str:
    """Return what to say if memory ran out; "" for other errors."""
    if is_out_of_memory(error):
        return (
            "memory ran out while it was measured. Measure fewer metrics at a time, or make it"
            " smaller."
        )
    return ""


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("the metric returned infinity or NaN")
    return float(value)
