"""Measure what the weak passes of a scan cost beside full passes of the model.

The weak passes of all L blocks of a stack from one conditional pass are (L - 1) / 2 forward passes
for "residual", where each leaves out its own block, and (L + 1) / 2 for "attention". What comes on
top is what every pass runs beside the blocks, what is measured of each push, and the copies of the
states."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any

import torch
from torch import nn

from skipguide.bench import layer_cost, step_cost
from skipguide.families import lookup, rows
from skipguide.families.protocols import as_denoiser
from skipguide.families.schema import Family
from skipguide.method.protocols import Inputs, PlainData
from skipguide.models import loading
from skipguide.pipeline import combine
from skipguide.pipeline.denoiser import GuidedDenoiser
from skipguide.tuning.scan import cells
from skipguide.tuning.scan.quantities import PushMeter
from skipguide.tuning.scan.record import ScanOptions
from skipguide.weak import patching, token_grid

Tensor = torch.Tensor
SKIPS = ("residual", "attention")
_Times = defaultdict[int, list[float]]  # by cell, one of each round


def run(
    name: str, *, prompts: int, width: int | None, repeats: int, full_size: bool, device: str,
    dtype: str,
) -> Iterator[tuple[str, Any]]:  # fmt: skip
    """Measure the weak passes of a scan; yield ("progress", text) and ("result", dict) at the end.

    Full passes and the passes of all cells alternate in rounds, and the median of each counts,
    with all that is measured of its push. On a CPU it is the processor's time.

    Args:
        name: a family, whose denoiser has its real class and depth and random weights; or a lab
            model or a folder, whose own denoiser is called as in a run of its own size.
        prompts, width, repeats, full_size, device, dtype: as for `bench.step_cost.run`; only
            repeats, device and dtype are for a model.

    Raises:
        ValueError: for an unknown name, or a size that it does not have.
    """
    yield "progress", f"{name}: building"
    with torch.no_grad():
        if name in [row.name for row in rows.FAMILIES]:
            work = step_cost.select_workload(name, width, full_size)
            precision = getattr(torch, dtype)
            step = step_cost.BenchmarkStep(name, work, prompts, torch.device(device), precision)
            bench = _ScanBench(step.family, step.model, step.cond)
        else:
            bench = _bench_of_model(name, dtype, device)
        results = []
        for skip in bench.skips:
            for number in range(repeats):
                bench.measure(skip)
                yield "progress", f"{name}: {skip}, round {number + 1} of {repeats}"
            results.append(bench.result(skip))
    yield (
        "result",
        {
            "name": name,
            "denoiser": type(bench.denoiser).__name__,
            "blocks": len(bench.guided.sites),
            "forward_s": bench.forward,
            "repeats": repeats,
            "dtype": str(as_denoiser(bench.denoiser).dtype).removeprefix("torch."),
            "device": str(bench.device),
            "threads": torch.get_num_threads(),
            "skips": results,
        },
    )


def _bench_of_model(model: str, dtype: str, device: str) -> _ScanBench:
    pipe = loading.load_pipeline(model, dtype, device)
    family = lookup.family_of(pipe)
    settings = layer_cost.default_settings(pipe, model, {}).model_copy(
        update={"guidance_scale": 1.0}  # so that a call has the rows of one prompt
    )
    denoisers = lookup.denoisers_of(pipe, family)
    denoiser, inputs = layer_cost.capture_denoiser_call(pipe, settings, denoisers)
    return _ScanBench(family, denoiser, inputs)


class _ScanBench:
    """One denoiser with its inputs, and the times so far.

    Args:
        family: the row of the denoiser.
        denoiser: the model.
        inputs: of a conditional pass.
    """

    def __init__(self, family: Family, denoiser: nn.Module, inputs: Inputs):
        self.family, self.denoiser, self.inputs = family, denoiser, inputs
        self.device = next(denoiser.parameters()).device
        self.guided = GuidedDenoiser(family, denoiser, (), True)
        self.guided.watch.begin_run()
        self.made = {
            skip: cells.WeakCells(self.guided, ScanOptions(skips=(skip,), axes=(None,)))
            for skip in SKIPS
            if skip == "residual" or all(stack.attention for stack in family.stacks.values())
        }
        self._forward: list[float] = []
        self._passes: dict[str, _Times] = {skip: defaultdict(list) for skip in self.made}
        self._measuring: dict[str, _Times] = {skip: defaultdict(list) for skip in self.made}
        self._strong: dict[str, list[float]] = {skip: [] for skip in self.made}

    @property
    def skips(self) -> tuple[str, ...]:
        """The kinds of skip that are measured."""
        return tuple(self.made)

    def _predict(self, patches: Sequence[patching.Patch]) -> tuple[Tensor, ...]:
        with patching.patched(patches):
            output = self.denoiser(**self.inputs)
        return tuple(combine.output_samples(output)[: len(self.family.outputs)])

    def measure(self, skip: str) -> None:
        """Time a full pass, and then the passes of all cells, once each."""
        made, meters = self.made[skip], list[PushMeter]()
        config = as_denoiser(self.denoiser).config
        grid = token_grid.video_token_grid(self.family.latent_layout, config, self.inputs)
        taken = [0.0]

        def timed_run(patches: cells.Patches) -> tuple[Tensor, ...]:
            taken[0], found = self._time(lambda: self._predict(patches))
            return found

        def begin(cs: tuple[Tensor, ...]) -> None:
            self._strong[skip].append(taken[0])
            layout, outputs = self.family.latent_layout, self.family.outputs
            meters.append(PushMeter(cs, None, outputs, layout, grid))

        def weigh(cell: int, ps: tuple[Tensor, ...]) -> None:
            spent, _ = self._time(lambda: meters[0].add(cell, ps))
            self._passes[skip][cell].append(taken[0])
            self._measuring[skip][cell].append(spent)
            if cell % 4 == 0:  # among the others, so that a slow moment hits both
                self._time_forward()

        self._time_forward()
        made.begin_state(0, self.inputs, float("inf"))
        made.run(timed_run, begin, weigh)
        meters[0].read()

    def _time_forward(self) -> None:
        seconds, _ = self._time(lambda: self._predict([]))
        self._forward.append(seconds)

    @property
    def forward(self) -> float:
        """The seconds of a full pass."""
        return median(self._forward)

    def _time(self, work: Callable[[], Any]) -> tuple[float, Any]:
        began = self._now()
        found = work()
        return self._now() - began, found

    def _now(self) -> float:
        """Return seconds; on a CPU those of the processor, which other work does not lengthen."""
        if self.device.type == "cpu":
            return time.process_time()
        return cells.seconds_now(self.device)

    def result(self, skip: str) -> PlainData:
        """Return what was found for a kind of skip."""
        made = self.made[skip]
        expected = sum(weak.cost(shared=True) for weak in made.passes)
        weakened = [(where, cell.skip) for cell, where in made.positions.items()]
        costs = layer_cost.count_weak_passes(self.family, self.denoiser, self.inputs, weakened)
        weak = sum(map(median, self._passes[skip].values()))
        measuring = sum(map(median, self._measuring[skip].values()))
        return {
            "skip": skip,
            "cells": len(made.cells),
            "expected": expected,
            "flops": sum(costs),
            "flops_ratio": sum(costs) / expected,
            "weak_s": weak,
            "measuring_s": measuring,
            "recording_s": median(self._strong[skip]) - self.forward,
            "expected_s": expected * self.forward,
            "ratio": (weak + measuring) / (expected * self.forward),
        }
