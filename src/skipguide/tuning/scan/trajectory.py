"""Scan the layers of a model on a trajectory of its own: what skipping each would push.

A `TrajectoryScan` stands on guide() without a term: it lets every call of the pipeline through as
it is, and at some steps, after the last call of the step, it runs passes of its own on the inputs
of the conditional one. The weak passes of all cells start from one conditional pass, so that those
of L blocks take about (L - 1) / 2 forward passes for "residual", (L + 1) / 2 for "attention"."""

from __future__ import annotations

import dataclasses
import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from skipguide.bench import layer_cost
from skipguide.families import blocks, lookup, presets
from skipguide.families.protocols import as_denoiser
from skipguide.method.protocols import ReadOnlyInputs, Scheduler
from skipguide.method.request import GuidanceRequest
from skipguide.models import machine
from skipguide.pipeline import noise_levels
from skipguide.pipeline.denoiser import GuidedDenoiser
from skipguide.pipeline.guide import Guide, check_unguided
from skipguide.pipeline.step import GuidedStep
from skipguide.tuning.scan import cells, quantities
from skipguide.tuning.scan.levels import nearest_steps
from skipguide.tuning.scan.quantities import PushMeter
from skipguide.tuning.scan.record import Cell, Floats, ScanOptions, ScanRecord, ScanState
from skipguide.weak import patching, token_grid

Tensor = torch.Tensor
_SHARE_OF_FREE = 1 / 3  # of the free memory, that kept states may take
USUAL = ScanOptions()
_FALLBACK_BYTES = 2 * 2**30  # where the device does not tell what is free
# The costs of the cells of a denoiser by (cells, inputs): they are counted once for all prompts.
_COSTS: weakref.WeakKeyDictionary[nn.Module, dict[Any, list[float]]] = weakref.WeakKeyDictionary()


def choose_steps(
    scheduler: Scheduler, levels: Sequence[float], num_steps: int, first: int = 0
) -> list[tuple[float, int, float]]:
    """Return the steps of a run at which a scan looks, as `nearest_steps` does.

    Args:
        scheduler: whose timesteps are set.
        levels: shares of noise.
        num_steps: how many the run has.
        first: where in the scheduler's timesteps the run begins.
    """
    shares = noise_levels.noise_shares(scheduler)[first:][:num_steps]
    return nearest_steps(shares, levels)


def survey_cells(pipe: Any, options: ScanOptions = USUAL) -> tuple[tuple[Cell, ...], float]:
    """Return the cells that a scan of a pipeline has, and the forward passes of one of its states.

    These are all weak passes together, by the places of their layers; the model does not run.

    Raises:
        ValueError: for an unknown pipeline, or a layer, skip or axis that the family has not.
    """
    family = lookup.family_of(pipe)
    denoiser = lookup.denoisers_of(pipe, family)[0]
    made = cells.WeakCells(GuidedDenoiser(family, denoiser, (), True), options)
    return made.cells, sum(weak.cost(shared=True) for weak in made.passes)


@dataclasses.dataclass
class _StateUnderWay:
    """The inputs of a step that is scanned, and its unconditional predictions once there are any.

    Args:
        wanted, found: the share of noise that was asked for, and that of x_t at this step.
        denoiser: the model that is called.
        args, kwargs: of its conditional call.
        us: the unconditional prediction of each output; None without CFG.
    """

    wanted: float
    found: float
    denoiser: nn.Module
    args: tuple[Any, ...]
    kwargs: ReadOnlyInputs
    us: tuple[Tensor, ...] | None = None


@dataclasses.dataclass(frozen=True)
class _ScannedState:
    state: ScanState
    values: dict[str, Floats]
    gram: Floats
    times: cells.PassTimes
    shape: tuple[int, ...]


class ScanFinished(Exception):
    """Ends a call of a pipeline of which nothing but its scan is wanted."""


class TrajectoryScan(Guide):
    """Scan one call of a pipeline: a context manager.

        with TrajectoryScan(pipe, ScanOptions()) as scan:
            pipe(prompt)
        record = scan.record()

    The pipeline's own calls, and what it returns, are to the bit what they are without it. Of a
    call that makes its video in several runs (chunks, stages, segments), the first is scanned.

    Args:
        pipe: an unmodified diffusers pipeline of a known family.
        options: which cells, and where on the trajectory.
        on_state: called after each state with (states done, states of this call).
        ends_call: raise ScanFinished behind the last state, so that the rest of the steps is not
            run and nothing is decoded.

    Raises:
        ValueError: for an unknown pipeline, or a layer, skip or axis that the family has not.
        RuntimeError: if the pipeline is guided already.
    """

    def __init__(
        self, pipe: Any, options: ScanOptions = USUAL,
        on_state: Callable[[int, int], None] | None = None, ends_call: bool = False,
    ):  # fmt: skip
        family = lookup.family_of(pipe)
        check_unguided(pipe, family)
        self.options, self._on_state, self._ends_call = options, on_state, ends_call
        self._weak_cells: dict[GuidedDenoiser, cells.WeakCells] = {}
        self._wanted: dict[int, tuple[float, float]] | None = None  # by step: level, share of noise
        self._under_way: _StateUnderWay | None = None
        self._scanned: list[_ScannedState] = []
        self._costs: list[float] = []
        super().__init__(pipe, family, GuidanceRequest())
        try:
            for guided in self._guided_denoisers.values():
                self._cells_of(guided)
            self._check_same_cells()
        except ValueError:  # of the options; nothing stays on the pipeline
            self.remove()
            raise

    @property
    def states(self) -> tuple[ScanState, ...]:
        """The states that are scanned so far."""
        return tuple(scanned.state for scanned in self._scanned)

    def _cells_of(self, guided: GuidedDenoiser) -> cells.WeakCells:
        if guided not in self._weak_cells:
            self._weak_cells[guided] = cells.WeakCells(guided, self.options)
        return self._weak_cells[guided]

    def _check_same_cells(self) -> None:
        found = {made.cells for made in self._weak_cells.values()}
        if len(found) > 1:
            raise ValueError(
                f"the denoisers of a {type(self.pipe).__name__} must have the same layers to be"
                " scanned together, but these have not. Name layers that both have."
            )

    # --- the pipeline's calls ---------------------------------------------------------------------

    def _begin_run(self) -> None:
        super()._begin_run()
        self._weak_cells = {
            guided: self._cells_of(guided) for guided in self._guided_denoisers.values()
        }
        if self._wanted is None:
            steps, first = self._loop.num_steps(), self._loop.first_timestep_index()
            found = choose_steps(self.pipe.scheduler, self.options.levels, steps, first)
            self._wanted = {step: (level, share) for level, step, share in found}
            self._planned = len(found)

    def _before_forward(self, denoiser: nn.Module, args: tuple[Any, ...], kwargs: Any) -> Any:
        changed = super()._before_forward(denoiser, args, kwargs)
        step = self._step
        own = self._in_own_pass or denoiser not in self._guided_denoisers
        if not own and step is not None and step.calls_done == 0:
            self._under_way = None
            level = (self._wanted or {}).pop(step.index, None)
            if level is not None:
                self._under_way = _StateUnderWay(*level, denoiser, args, kwargs)
        return changed

    def _after_forward(
        self, denoiser: nn.Module, args: tuple[Any, ...], kwargs: ReadOnlyInputs, output: Any
    ) -> Any:
        step, state = self._step, self._under_way
        own = self._in_own_pass or denoiser not in self._guided_denoisers
        returned = super()._after_forward(denoiser, args, kwargs, output)
        if own or step is None or state is None:
            return returned
        if output is None:  # the call raised
            self._under_way = None
            return returned
        batched = self._is_batched(step)
        if step.has_cfg and step.calls_done == (1 if batched else 2):
            us = self._extract_predictions(output)
            half = patching.COND if self._loop.calls.cond_first else patching.UNCOND
            select = functools.partial(patching.select_half, half)
            state.us = tuple(map(select, us)) if batched else us
        if step.calls_done == step.num_calls:
            self._under_way = None
            self._scan_state(step, state)
        return returned

    def _is_batched(self, step: GuidedStep) -> bool:
        return step.has_cfg and self._loop.calls.cfg_mode == "batched"

    # --- passes of ours ---------------------------------------------------------------------------

    def _scan_state(self, step: GuidedStep, state: _StateUnderWay) -> None:
        guided = self._guided_denoisers[state.denoiser]
        inputs = guided.bind_inputs(state.args, state.kwargs)
        if self._is_batched(step):
            inputs = self._select_rows(inputs, patching.COND)
        try:
            guided.begin_step(step.index)
            self._scanned.append(self._scan(guided, step, state, inputs))
        finally:
            self._clean_up()
            for made in self._weak_cells.values():
                made.prefix_cache.clear()
        if self._on_state is not None:
            self._on_state(len(self._scanned), self._planned)
        if self._ends_call and len(self._scanned) == self._planned:
            raise ScanFinished

    def _scan(
        self, guided: GuidedDenoiser, step: GuidedStep, state: _StateUnderWay, inputs: Any
    ) -> _ScannedState:
        made, meters = self._cells_of(guided), list[PushMeter]()
        kept = list[tuple[Tensor, ...]]()
        grid = token_grid.video_token_grid(
            self.family.latent_layout, as_denoiser(guided.denoiser).config, inputs
        )

        def run(patches: cells.Patches) -> tuple[Tensor, ...]:
            return self._run_denoiser(guided.denoiser, (), inputs, patches)

        def begin(cs: tuple[Tensor, ...]) -> None:
            channels = cs[0].shape[1] // 2 if self._run.variance else None
            layout, outputs = self.family.latent_layout, self.family.outputs
            meters.append(PushMeter(cs, state.us, outputs, layout, grid, channels))
            kept.append(cs)

        made.begin_state(step.index, inputs, self._max_bytes(guided.denoiser))
        times = made.run(run, begin, lambda cell, ps: meters[0].add(cell, ps))
        if guided.watch.repeat_is_due:
            guided.watch.check_repeat(kept[0], run(guided.watch.patches([])))
        values, gram = meters[0].read()
        if not self._costs:
            self._costs = self._count_costs(guided, made, inputs)
        found = ScanState(
            step.index, self._loop.num_steps(), state.wanted, state.found,
            self._attribute(state.denoiser), state.us is not None,
        )  # fmt: skip
        return _ScannedState(found, values, gram, times, tuple(kept[0][0].shape))

    def _max_bytes(self, denoiser: nn.Module) -> float:
        if self.options.max_bytes is not None:
            return self.options.max_bytes
        free = machine.free_memory(next(denoiser.parameters()).device)
        return _FALLBACK_BYTES if free is None else free * _SHARE_OF_FREE

    def _count_costs(
        self, guided: GuidedDenoiser, made: cells.WeakCells, inputs: Any
    ) -> list[float]:
        shapes = repr({name: getattr(value, "shape", None) for name, value in inputs.items()})
        known = _COSTS.setdefault(guided.denoiser, {})
        key = (made.cells, shapes)
        if key not in known:
            weakened = [(where, cell.skip) for cell, where in made.positions.items()]
            try:
                self._in_own_pass = True
                known[key] = layer_cost.count_weak_passes(
                    self.family, guided.denoiser, inputs, weakened
                )
            finally:
                self._in_own_pass = False
        return known[key]

    def _attribute(self, denoiser: nn.Module) -> str:
        held = {name: getattr(self.pipe, name, None) for name in self.family.denoisers}
        return next(
            name
            for name, one in held.items()
            if one is not None and getattr(one, "_orig_mod", one) is denoiser
        )

    # --- the result -------------------------------------------------------------------------------

    def record(self) -> ScanRecord:
        """Return what was found.

        Raises:
            ValueError: if no step was scanned, for the pipeline was not called, or its run ended
                before.
        """
        if not self._scanned:
            raise ValueError(
                f"a scan needs a call of its {type(self.pipe).__name__} while it is on, but no step"
                " was scanned. Call the pipeline inside of the with-block."
            )
        made = next(iter(self._weak_cells.values()))
        denoiser, sites = made.guided.denoiser, made.guided.sites
        places, count = cells.places(self.family, sites, list(made.positions.values()))
        costs, times = np.array(self._costs, np.float64), [one.times for one in self._scanned]
        return ScanRecord(
            family=self.family.name,
            denoiser=type(denoiser).__name__,
            depth=blocks.depth(self.family, sites),
            width=presets.model_width(as_denoiser(denoiser).config),
            outputs=self.family.outputs,
            shape=self._scanned[0].shape,
            cells=made.cells,
            num_places=count,
            states=self.states,
            places=np.array(places, np.float64),
            costs=costs,
            values=quantities.merge([one.values for one in self._scanned]),
            gram=np.stack([one.gram for one in self._scanned], -1),
            forwards=np.full(len(times), costs.sum()),
            strong_passes=np.array([one.strong_passes for one in times], np.float64),
            seconds_strong=np.array([one.seconds_strong for one in times], np.float64),
            seconds_weak=np.array([one.seconds_weak for one in times], np.float64),
        )
