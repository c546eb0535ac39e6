"""guide(..., parallel=group): the passes of a step on several processes.

Every process runs the whole pipeline with the same arguments. At a guided step

    all         take the noisy latents of process 0, which rounding on unlike GPUs moves
    process 0   runs the conditional pass; at the layers where weak passes start it sends the state
                and goes on
    process 1   runs the unconditional pass
    the others  run weak passes from the first skipped layer on, as their state arrives
    all         get every prediction, and make D of them as one process does

So all have the same latents at every step, and whatever a run remembers is the same everywhere.
The call that a pipeline makes of its denoiser is the first pass of each process. Where it calls for
c and for u one after the other, process 1 leaves the first call out and the others the second one;
what the first one returned there is filled in when the second one ends. Process 0 returns the
result of every call in time, so its video is right whatever a pipeline does in between.

A step that is not guided is each process's own, where the pipeline makes one batch of u and c."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch

from skipguide.families.schema import Family
from skipguide.method import formula
from skipguide.method.protocols import Inputs, ReadOnlyInputs
from skipguide.method.request import GuidanceRequest
from skipguide.pipeline import branch_plan, combine
from skipguide.pipeline.branch_group import BranchGroup
from skipguide.pipeline.denoiser import GuidedDenoiser
from skipguide.pipeline.guide import Guide
from skipguide.pipeline.state_watch import SAME_PREDICTION
from skipguide.pipeline.step import GuidedStep
from skipguide.weak import patching
from skipguide.weak.weak_pass import WeakPass

Tensor = torch.Tensor
Predictions = tuple[Tensor, ...]
_log = logging.getLogger("skipguide")
_END = -1  # in the place of a proxy's number: no state follows in this step
_COND, _UNCOND = "cond", "uncond"  # a pass is one of these, or the index of a term


class BranchGuide(Guide):
    """The handle of guide() in one of several processes.

    Args:
        parallel: as for guide().

    Raises:
        ValueError: for more processes than there are passes, nothing to divide, or what leaves
            passes of u out.
    """

    def __init__(self, pipe: Any, family: Family, request: GuidanceRequest, parallel: Any):
        branch_plan.check_request(request)
        self.group = BranchGroup(parallel, most=branch_plan.max_passes(request.terms))
        self._plan = branch_plan.plan_passes((), 1, has_uncond=False)
        self.durations: list[float] = []  # of each divided step of the last run, by its plan
        # By name: what a process had, its version, and what process 0 had in its place.
        self._shared_inputs: dict[str, tuple[Tensor, int, Tensor]] = {}
        self._arrived: dict[Any, Predictions] = {}  # the predictions of the step, by pass
        self._late_call: tuple[Any, ...] | None = None  # what the call of c left to do
        self._reused_shapes: dict[tuple[GuidedDenoiser, int], torch.Size] = {}
        self._warned = False
        try:
            super().__init__(pipe, family, request)
        except BaseException as error:
            self.group.fail(error)
            raise

    # --- the ends of a run ------------------------------------------------------------------------

    def remove(self) -> None:
        """Take everything off the pipeline again, and leave the other processes."""
        super().remove()
        self.group.close()
        self._shared_inputs, self._arrived, self._late_call = {}, {}, None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.group.fail(error)
        super().__exit__(kind, error, trace)

    def _before_forward(self, denoiser: Any, args: Any, kwargs: Any) -> Any:
        try:
            return super()._before_forward(denoiser, args, kwargs)
        except BaseException as error:
            self.group.fail(error)
            raise

    def _after_forward(self, denoiser: Any, args: Any, kwargs: Any, output: Any) -> Any:
        try:
            if output is None and not self._in_own_pass:  # the call raised
                self.group.fail(sys.exc_info()[1])
            return super()._after_forward(denoiser, args, kwargs, output)
        except BaseException as error:
            self.group.fail(error)
            raise
        finally:
            step = self._step
            if not self._in_own_pass and (step is None or step.calls_done == step.num_calls):
                self._arrived = {}

    def _begin_run(self) -> None:
        super()._begin_run()
        self._shared_inputs, self.durations = {}, []

    # --- before a call of the denoiser ------------------------------------------------------------

    def _prepare_call(
        self, guided: GuidedDenoiser, step: GuidedStep, args: tuple[Any, ...], kwargs: Inputs
    ) -> Any:
        if guided.caches.is_on:
            raise ValueError(
                f"parallel= divides the passes of a step, and a cache across steps would decide in"
                f" each process what is left out, but this {self.family.model} has one. Switch it"
                " off with .disable_cache(), or guide in one process."
            )
        if not self._takes_part(step) or step.calls_done > step.has_uncond_call:
            return super()._prepare_call(guided, step, args, kwargs)
        inputs = guided.bind_inputs(args, kwargs)
        if step.calls_done == 1:
            self._undo = patching.apply_patches(self._uncond_patches(guided, step))
            return (), self._with_shared(inputs)
        if step.active_terms or step.uncond_terms:
            guided.begin_step(step.index)
            guided.observe_inputs((), inputs)
        self._plan = self._make_plan(guided, step, inputs)
        self.durations.append(self._plan.duration)
        inputs = self._share_inputs(step, inputs)
        step.inputs = inputs if step.split_batch else {}
        first = self._passes(step)[0]
        rows = self._rows(step, inputs, first)
        self._undo = patching.apply_patches(self._patches(guided, step, first, rows))
        return (), rows

    def _takes_part(self, step: GuidedStep) -> bool:
        return step.is_guided or step.has_uncond_call

    def _make_plan(
        self, guided: GuidedDenoiser, step: GuidedStep, inputs: ReadOnlyInputs
    ) -> branch_plan.PassPlan:
        """Divide the passes of a step; each process comes to the same."""
        shape = next(value.shape for value in inputs.values() if torch.is_tensor(value))
        works = []
        for active in step.active_terms:
            key, runs = (guided, active.index), self._run.runs_weak_pass(guided, active, step)
            if runs or self._reused_shapes.get(key) != shape:
                works.append(branch_plan.weak_work(guided, active.index))
                self._reused_shapes[key] = shape
        has_uncond = step.has_cfg and not step.leaves_out_uncond
        late = step.has_uncond_call
        self._warn_if_idle(step, len(step.active_terms) + 1 + has_uncond)
        return branch_plan.plan_passes(works, self.group.size, has_uncond, late)

    def _warn_if_idle(self, step: GuidedStep, most: int) -> None:
        if step.active_terms and self.group.size > most and not self._warned:
            self._warned = True
            if self.group.rank == 0:
                _log.warning(
                    "a step of this run has %d passes, so that %d of its %d processes have nothing"
                    " to do. Start %d.",
                    most, self.group.size - most, self.group.size, most,
                )  # fmt: skip

    def _passes(self, step: GuidedStep) -> list[Any]:
        """Return the passes of this process in a step, None first where the call is none."""
        rank, plan = self.group.rank, self._plan
        own: list[Any] = [_COND] if rank == 0 else []
        if rank == plan.uncond and step.split_batch:
            own.append(_UNCOND)
        own += plan.terms_of(rank)
        guided_call = own and (own[0] in (_COND, _UNCOND) or self.terms[own[0]].weak_model is None)
        return own if guided_call else [None, *own]

    def _patches(
        self, guided: GuidedDenoiser, step: GuidedStep, what: Any, rows: ReadOnlyInputs
    ) -> list[patching.Patch]:
        """Return the patches of a pass of this process; the state that it starts from is there
        then."""
        if what is None:
            return guided.idle_patches()
        if what == _COND:
            return self._recording_patches(guided, step)
        if what == _UNCOND:
            return self._uncond_patches(guided, step)
        weak = guided.weak_passes[what]
        shares = isinstance(weak, WeakPass) and weak.prefix_cache is not None
        if self.group.rank != 0 and shares:
            device = next(value.device for value in rows.values() if torch.is_tensor(value))
            self._receive_state(guided, weak.first_skipped, device)
        return guided.weak_patches(what)

    def _uncond_patches(self, guided: GuidedDenoiser, step: GuidedStep) -> list[patching.Patch]:
        if self.group.rank == self._plan.uncond:
            return super()._uncond_patches(guided, step)
        self.passes.uncond_weakened.update(guided.weak_passes[j] for j in step.uncond_terms)
        return guided.idle_patches()

    # --- inputs -----------------------------------------------------------------------------------

    def _share_inputs(self, step: GuidedStep, inputs: Inputs) -> Inputs:
        """Give all processes the inputs of process 0; what stays from step to step is kept."""
        tensors = {
            name: value
            for name, value in inputs.items()
            if torch.is_tensor(value) and value.is_floating_point()
        }
        new = [name for name, value in tensors.items() if not self._is_shared(name, value)]
        sizes = [(name, tuple(tensors[name].shape), str(tensors[name].dtype)) for name in new]
        where = f"step {step.index + 1} of {self._loop.num_steps()}, new inputs {sizes}"
        self.group.agree(where, f"{step.combination}, {self._plan}, {self.request}")
        found = self.group.broadcast([tensors[name] for name in new], 0)
        if not self._shared_inputs:
            self._check_same_inputs([tensors[name] for name in new], found)
        for name, value in zip(new, found, strict=True):
            self._shared_inputs[name] = (tensors[name], _version(tensors[name]), value)
        return self._with_shared(inputs)

    def _is_shared(self, name: str, value: Any) -> bool:
        own, version, _ = self._shared_inputs.get(name, (None, 0, None))
        return own is not None and own is value and version == _version(own)

    def _with_shared(self, inputs: Inputs) -> Inputs:
        """Replace what process 0 has handed over, also in the call of u that follows."""
        return {
            name: self._shared_inputs[name][2] if self._is_shared(name, value) else value
            for name, value in inputs.items()
        }

    def _check_same_inputs(self, own: Sequence[Tensor], found: Sequence[Tensor]) -> None:
        """Check once a run that all processes work on the same video; this waits for the device.

        Raises:
            ValueError: if they do not.
        """
        if all(
            torch.equal(a, b) or formula.equal_but_for_rounding(a, b, SAME_PREDICTION)
            for a, b in zip(own, found, strict=True)
        ):
            return
        raise ValueError(
            "all processes of parallel= must begin with the same noise and prompts, but process"
            f" {self.group.rank} has others than process 0. Pass"
            " generator=torch.Generator().manual_seed(seed) with the same seed in each."
        )

    def _rows(self, step: GuidedStep, inputs: Inputs, what: Any) -> Inputs:
        if not step.split_batch:
            return inputs
        return self._select_rows(inputs, patching.UNCOND if what == _UNCOND else patching.COND)

    # --- the state of the conditional pass --------------------------------------------------------

    def _recording_patches(self, guided: GuidedDenoiser, step: GuidedStep) -> list[patching.Patch]:
        """Return the patches of the conditional pass, which sends states as it gets to them."""
        if not step.active_terms and not step.uncond_terms:
            return []
        patches, cache = guided.recording_patches(list(self._plan.weak)), guided.prefix_cache
        if cache is None:
            return patches
        receivers = self._receivers(guided)
        for n, proxy in enumerate(cache.all_proxies()):
            ranks = {
                rank
                for k, needing in receivers.items()
                if proxy in cache.proxies_before(k)
                for rank in needing
            }
            send = functools.partial(self._send_state, n, sorted(ranks))
            proxy.__dict__["on_kept"] = torch.compiler.disable(send) if ranks else None
        return patches

    def _receivers(self, guided: GuidedDenoiser) -> dict[int, set[int]]:
        """Return which processes need the state before which layer."""
        found: dict[int, set[int]] = {}
        for j, rank in self._plan.weak.items():
            weak = guided.weak_passes[j]
            if rank != 0 and isinstance(weak, WeakPass) and weak.prefix_cache is not None:
                found.setdefault(weak.first_skipped, set()).add(rank)
        return found

    def _send_state(self, n: int, ranks: Sequence[int], value: Any) -> None:
        for rank in ranks:
            self.group.send_value(n, value, rank)

    def _receive_state(self, guided: GuidedDenoiser, k: int, device: torch.device) -> None:
        """Receive all that a weak pass from layer k on needs, unless it has come already."""
        cache = guided.prefix_cache
        assert cache is not None
        proxies = cache.all_proxies()
        while not cache.has_state_for(k):
            n, value = self.group.receive_value(0, device)
            assert n != _END, k  # the layer would have to be left out of the conditional pass
            proxy: Any = proxies[n]
            if isinstance(proxy, patching.RecordInput):
                proxy.__dict__["state"] = value
            else:
                proxy.outputs.append(value)

    def _end_states(self, guided: GuidedDenoiser) -> None:
        """End what process 0 sends to each receiver; there must be nothing more.

        Raises:
            ValueError: where a module of a UNet ran again after a weak pass had begun.
        """
        receivers = set().union(*self._receivers(guided).values())
        if self.group.rank == 0:
            self._send_state(_END, sorted(receivers), None)
            return
        cpu = torch.device("cpu")
        if self.group.rank in receivers and self.group.receive_value(0, cpu)[0] != _END:
            raise ValueError(
                f"modules of this {self.family.model} run several times in a pass, so that a weak"
                " pass in another process cannot know when it has all that it starts from. Pass"
                " share_prefix=False."
            )

    # --- after a call -----------------------------------------------------------------------------

    def _after_cond_call(
        self,
        guided: GuidedDenoiser,
        step: GuidedStep,
        args: tuple[Any, ...],
        kwargs: ReadOnlyInputs,
        output: Any,
    ) -> Any:
        """Run this process's other passes; return what the pipeline gets, or will get."""
        own, passes = self._extract_predictions(output), self._passes(step)
        self._arrived = {passes[0]: own}
        for what in passes[1:]:
            self._arrived[what] = self._run_pass(guided, step, what, kwargs)
        self._end_states(guided)
        self._collect_weak(own)
        if not step.has_uncond_call:
            self._exchange(own)
        elif self.group.rank != 0:
            empty = tuple(torch.zeros_like(x) for x in own)
            self._late_call = (args, kwargs, output, empty)
            return combine.replace_samples(output, empty)
        return super()._after_cond_call(guided, step, args, kwargs, output)

    def _run_pass(
        self, guided: GuidedDenoiser, step: GuidedStep, what: Any, kwargs: ReadOnlyInputs
    ) -> Predictions:
        rows = self._rows(step, step.inputs, what) if step.split_batch else kwargs
        denoiser = guided.denoiser if what == _UNCOND else guided.weak_passes[what].denoiser
        return self._run_denoiser(denoiser, (), rows, self._patches(guided, step, what, rows))

    def _collect_weak(self, like: Predictions) -> None:
        """Let process 0 have all weak predictions."""
        for j, rank in self._plan.weak.items():
            if rank == self.group.rank != 0:
                self.group.send(self._arrived[j], 0)
            elif rank != 0 == self.group.rank:
                self._arrived[j] = tuple(self.group.receive(like, rank))

    def _exchange(self, like: Predictions) -> None:
        """Let all processes have all predictions, those for c and of weak passes from process 0."""
        names, count = [_COND, *self._plan.weak], len(like)
        sent = [x for name in names for x in self._arrived.get(name, like)]
        found = self.group.broadcast(sent, 0)
        for i, name in enumerate(names):
            self._arrived[name] = tuple(found[i * count : (i + 1) * count])
        if self._plan.uncond is not None:
            us = self.group.broadcast(self._arrived.get(_UNCOND, like), self._plan.uncond)
            self._arrived[_UNCOND] = tuple(us)
        self.group.finish_sends()

    def _after_later_call(
        self,
        guided: GuidedDenoiser,
        step: GuidedStep,
        args: tuple[Any, ...],
        kwargs: ReadOnlyInputs,
        output: Any,
    ) -> Any:
        if not step.has_uncond_call or step.calls_done != 2:
            return super()._after_later_call(guided, step, args, kwargs, output)
        own = self._extract_predictions(output)
        if self._plan.uncond == self.group.rank:
            self._arrived[_UNCOND] = own
        self._exchange(own)
        if self._late_call is not None:
            self._fill_in(guided, step)
        us = self._arrived.get(_UNCOND, own)
        returned = combine.after_later_call(self._run, self._loop, step, us)
        return combine.replace_samples(output, returned)

    def _fill_in(self, guided: GuidedDenoiser, step: GuidedStep) -> None:
        """Do what the call of c left to do, and fill in what the pipeline got from it."""
        assert self._late_call is not None
        (args, kwargs, output, empty), self._late_call = self._late_call, None
        super()._after_cond_call(guided, step, args, kwargs, output)
        for tensor, value in zip(empty, step.returned, strict=True):
            tensor.copy_(value)

    def _extract_predictions(self, output: Any) -> Predictions:
        if self._step is None or self._step.is_guided:
            return super()._extract_predictions(output)
        return tuple(combine.output_samples(output)[: len(self.family.outputs)])

    # --- the predictions of a step, wherever they were made ---------------------------------------

    def _cond_predictions(self, output: Any) -> Predictions:
        return self._arrived[_COND]

    def _uncond_predictions(self, guided: GuidedDenoiser, step: GuidedStep) -> Predictions:
        return self._arrived[_UNCOND]

    def _run_weak_pass(
        self, guided: GuidedDenoiser, j: int, args: tuple[Any, ...], kwargs: ReadOnlyInputs
    ) -> Predictions:
        return self._arrived[j]

    def _repeat_cond_pass(
        self,
        guided: GuidedDenoiser,
        step: GuidedStep,
        args: tuple[Any, ...],
        kwargs: ReadOnlyInputs,
    ) -> None:
        raise ValueError(
            "parallel= cannot check code of others on a denoiser, which may keep results between"
            f" calls, but there is some on this {self.family.model}. Take it off, or guide in one"
            " process."
        )


def _version(x: Tensor) -> int:
    """Return a number that changes when a tensor is changed in place; 0 in inference mode."""
    return 0 if x.is_inference() else x._version
