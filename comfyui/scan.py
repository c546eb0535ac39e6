"""The scan of a model's layers at one state: all weak passes from one conditional pass.

Nothing here knows ComfyUI's samplers: `measure.py` calls the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from . import blocks
from ._skipguide.method.terms import STG
from ._skipguide.tuning.scan.quantities import PushMeter, merge
from ._skipguide.tuning.scan.record import Cell, Floats, ScanRecord, ScanState
from .blocks import Change, Recording, Run, Streams
from .models import BlockChain
from .node_request import SKIPS, read_layers

Tensor = torch.Tensor
# A pass of the model: from what its blocks do, by the uuids of prompts, and the blocks whose
# attention gets the identity map, to its estimates of the clean video, and of its sound.
Pass = Callable[[Callable[[Sequence[Any]], dict[int, Change]], Sequence[int]], list[Tensor]]


def cells_of(chain: BlockChain, layers: str, skips: Sequence[str]) -> dict[Cell, int]:
    """Return the cells of a scan with the positions of their blocks, in running order.

    Args:
        layers: as the nodes take them; "" is all.
        skips: kinds of skip.

    Raises:
        ValueError: for layers that the model does not have.
    """
    wanted = range(len(chain.sites))
    if layers.strip():
        wanted = chain.skipped_by(STG(read_layers(layers)))
    return {
        Cell(chain.sites[position].address, skip): position
        for position in wanted
        for skip in SKIPS
        if skip in skips
    }


class LimitedRecording(Recording):
    """A recording that keeps blocks until a limit of bytes is reached, and at least one of them."""

    def __init__(self, positions: Sequence[int], limit: float) -> None:
        super().__init__(positions)
        self._limit, self._bytes, self.kept = limit, 0, set[int]()

    def recorder(self, position: int, uuids: Sequence[Any]) -> Change:
        """Return a change that copies what enters a block, where there is room for it."""
        record = super().recorder(position, uuids)

        def limited(streams: Streams, run: Run) -> Streams:
            if position not in self.kept and self._bytes and self._bytes >= self._limit:
                return run(streams)
            self.kept.add(position)
            self._bytes += sum(
                tensor.nbytes for value in streams.values() for tensor in blocks.tensors_of(value)
            )
            return record(streams, run)

        return limited


class StateScan:
    """Measures the cells of a model at the states of one trajectory.

    Args:
        chain: the blocks of the model.
        cells: as `cells_of` returns them.
        limit: bytes of recorded states that may be kept at a time.
    """

    def __init__(self, chain: BlockChain, cells: dict[Cell, int], limit: float) -> None:
        self.chain, self.cells, self.limit = chain, cells, limit
        self.states: list[ScanState] = []
        self._values: list[dict[str, Floats]] = []
        self._grams: list[Floats] = []
        self._counts: list[tuple[float, float, float]] = []
        self._shape: tuple[int, ...] = ()
        self._outputs: tuple[str, ...] = ()

    def add(
        self, state: ScanState, run: Pass, origin: list[Tensor], u: list[Tensor] | None
    ) -> None:
        """Measure a state.

        Args:
            run: a pass of the model with the positive prompt at this state.
            origin: the estimates where the model predicts 0; what is measured are predictions.
            u: the estimates with the negative prompt; None without CFG.
        """
        meter: PushMeter | None = None
        left, strong, in_strong, in_weak = sorted(set(self.cells.values())), 0, 0.0, 0.0
        while left:
            recording = LimitedRecording(left, self.limit)
            began = time.perf_counter()
            c = run(_recorders(recording, left), ())
            if meter is None:
                us = None if u is None else _minus(u, origin)
                layout = "bchw" if c[0].ndim == 4 else ""
                self._outputs = ("video", "audio")[: len(c)]
                meter = PushMeter(_minus(c, origin), us, self._outputs, layout, None)
                self._shape = tuple(c[0].shape)
            strong += 1
            between = time.perf_counter()
            for number, (cell, position) in enumerate(self.cells.items()):
                if position in recording.kept:
                    p = self._weak(run, cell, position, recording)
                    meter.add(number, _minus(p, origin))
            in_strong += between - began
            in_weak += time.perf_counter() - between
            left = [position for position in left if position not in recording.kept]
            recording.clear()
        assert meter is not None
        values, gram = meter.read()
        self.states.append(state)
        self._values.append(values)
        self._grams.append(gram)
        self._counts.append((strong, in_strong, in_weak))

    def _weak(self, run: Pass, cell: Cell, position: int, recording: Recording) -> list[Tensor]:
        def changes(uuids: Sequence[Any]) -> dict[int, Change]:
            recorded = recording.streams(position, uuids)
            return blocks.weak_changes([position], cell.skip, recorded)

        return run(changes, [position] if cell.skip == "attention" else ())

    def record(self) -> ScanRecord:
        """Return what was found.

        Raises:
            ValueError: if no state was measured.
        """
        if not self.states:
            raise ValueError(
                "a map needs a step of the sampler, but it called the model at none of the levels."
                " Use more steps, or another sampler."
            )
        chain = self.chain
        costs = [chain.cost(STG(cell.layers, skip=cell.skip), True) for cell in self.cells]
        strong, in_strong, in_weak = (
            np.array(column, np.float64) for column in zip(*self._counts, strict=True)
        )
        return ScanRecord(
            family=chain.family.title,
            denoiser=chain.family.model,
            depth=chain.depth,
            width=chain.width,
            outputs=self._outputs,
            shape=self._shape,
            cells=tuple(self.cells),
            num_places=len(chain.sites),
            states=tuple(self.states),
            places=np.array(list(self.cells.values()), np.float64),
            costs=np.array(costs, np.float64),
            values=merge(self._values),
            gram=np.stack(self._grams, -1),
            forwards=np.full(len(self.states), sum(costs)),
            strong_passes=strong,
            seconds_strong=in_strong,
            seconds_weak=in_weak,
        )


def _recorders(
    recording: Recording, positions: Sequence[int]
) -> Callable[[Sequence[Any]], dict[int, Change]]:
    return lambda uuids: {position: recording.recorder(position, uuids) for position in positions}


def _minus(values: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    return [value - other for value, other in zip(values, others, strict=True)]
