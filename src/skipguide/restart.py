"""Restart sampling (Xu et al. 2023; Algorithm 3 of the STG paper): go back to a higher noise level, K times.

When a run arrives at the noise level t_min, noise is added until it is at t_max, and the steps from t_max to t_min are
done again with the same guidance; K times. What one step did wrong another one can repair. The pipeline's own loop does
all of it: its scheduler lists the steps of an interval K times more, and adds the noise where one round ends.

    z at level s_1 -> z' at level s_2 > s_1, eps: new noise
    flow    z' = r z + sqrt(s_2^2 - r^2 s_1^2) eps    r = (1 - s_2) / (1 - s_1)    x = (1 - s) x_0 + s eps
    vp      z' = r z + sqrt(1 - r^2) eps              r = sqrt(ab_2 / ab_1)        x = sqrt(ab) x_0 + sqrt(1 - ab) eps
    ve      z' = z + sqrt(s_2^2 - s_1^2) eps                                       x = x_0 + s eps

with ab = 1 / (1 + s^2). (The paper's code has 1 - r in the place of the square root for flow matching, which is right
for s_1 = 0 alone; Algorithm 3 as printed is the third line, whatever the sampler.)
"""

from __future__ import annotations

import functools
import inspect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from skipguide import checks, guidance, running, scheduling, skips

Tensor = torch.Tensor


@dataclass(frozen=True)
class Restart:
    """Do the steps of an interval again, after adding the noise that they took away.

    Args:
        sigma: (t_min, t_max), noise levels: of flow matching from 1, noise, to 0; of others as the scheduler's `sigmas`
            have them, or sqrt((1 - ab) / ab). The first step at or below t_max begins a round, and the first one at or
            below t_min ends it.
        window: (start, stop), in the place of `sigma`: fractions of the run; steps i with start <= i/N < stop.
        repeats: K, how many times more.
        noise_scale: the noise is multiplied by it (S_noise; Xu et al. use 1.003 on ImageNet). 1 keeps the distribution.

    Raises:
        ValueError: for both or none of the two, an empty interval, or a number out of range.
    """

    sigma: tuple[float, float] | None = None
    window: tuple[float, float] | None = None
    repeats: int = 1
    noise_scale: float = 1.0

    def __post_init__(self) -> None:
        given = [pair for pair in (self.sigma, self.window) if pair is not None]
        if len(given) != 1:
            raise ValueError(
                f"a Restart needs sigma=(t_min, t_max) or window=(start, stop), but got {len(given)} of the two. Write "
                "Restart(window=(0.4, 0.6))."
            )
        name, high = ("sigma", math.inf) if self.window is None else ("window", 1.0)
        object.__setattr__(self, name, checks.interval(name, given[0], high, "Change them."))
        checks.check_whole("repeats", self.repeats, 1, "Leave it out for 1.")
        if not checks.is_number(self.noise_scale) or self.noise_scale <= 0:
            raise ValueError(f"noise_scale must be a number above 0, but got {self.noise_scale!r}. Leave it out for 1.")

    def steps(self, before: Sequence[float], after: Sequence[float]) -> tuple[int, int]:
        """(first, end): the steps done again are first <= i < end.

        Args:
            before, after: noise level before each of the N steps, and after it.

        Raises:
            ValueError: if the run has no step in the interval.
        """
        num = len(before)
        if self.window is not None:
            first, end = (math.ceil(edge * num - 1e-9) for edge in self.window)
        else:
            assert self.sigma is not None
            low, high = self.sigma
            first = next((i for i, level in enumerate(before) if level <= high + 1e-6), num)
            end = next((i + 1 for i, level in enumerate(after) if level <= low + 1e-6), num + 1)
        if not first < end <= num:
            where = f"sigma={self.sigma}" if self.window is None else f"window={self.window}"
            levels = ", ".join(f"{level:.3g}" for level in (*before, after[-1]))
            raise ValueError(
                f"a Restart must hold at least one whole step, but {where} holds none of this run, whose noise levels "
                f"are {levels}. Widen it, or take more steps."
            )
        return first, end


def checked(restart: Any) -> tuple[Restart, ...]:
    """One Restart, several, or None, as a tuple.

    Raises:
        ValueError: for something else.
    """
    found = () if restart is None else (restart,) if isinstance(restart, Restart) else restart
    if not isinstance(found, (tuple, list)) or not all(isinstance(entry, Restart) for entry in found):
        raise ValueError(f"restart must be a Restart or a list of them, but got {restart!r}. Write Restart(...).")
    return tuple(found)


def renoised(z: Tensor, kind: str, low: float, high: float, noise: Tensor) -> Tensor:
    """A sample at noise level `low` -> one at `high`, computed in float32 or better.

    Args:
        z, noise: `(B, ...)`; noise is normal with deviation 1 (or `noise_scale`).
        kind: "flow", "vp" or "ve"; see the top of this file.
    """
    if kind == "ve":
        r, s = 1.0, math.sqrt(high**2 - low**2)
    elif kind == "flow":
        r = (1 - high) / (1 - low)
        s = math.sqrt(high**2 - (r * low) ** 2)
    else:
        r = math.sqrt((1 + low**2) / (1 + high**2))
        s = math.sqrt(1 - r**2)
    return (r * guidance.wide(z) + s * guidance.wide(noise)).to(z.dtype)


@dataclass(frozen=True)
class Jump:
    """What follows a step: from one noise level back up to another."""

    kind: str
    low: float
    high: float
    noise_scale: float


class Restarting:
    """Restarts on one scheduler, until `remove()`: its runs list the steps of each interval several times.

    Args:
        scheduler: one of `scheduling.KINDS`; it gets `set_timesteps` and `step` as attributes, in front of its methods.
        restarts: intervals that do not overlap.
        pipe: whose generator draws the noise, and whose progress bar shows the additional steps too.

    Raises:
        ValueError: for a scheduler that is not known.
    """

    def __init__(self, scheduler: Any, restarts: Sequence[Restart], pipe: Any = None):
        scheduling.kind_of(scheduler)
        self.scheduler, self.restarts, self.pipe = scheduler, tuple(restarts), pipe
        self.order: list[int] = []  # which step of the usual run each step of this one is
        self._jumps: dict[int, Jump] = {}  # what follows a step of this run
        self._first = 0  # the first step that is done again
        self._done: int | None = None  # steps of this run, or None before the first one
        self._bar, self._unseen = None, 0  # additional steps that the pipeline's bar would not count
        self._put(scheduler, "set_timesteps", self._set_timesteps)
        self._put(scheduler, "step", self._step)
        if hasattr(pipe, "progress_bar"):
            self._put(pipe, "progress_bar", self._progress_bar)

    def _put(self, owner: Any, name: str, ours: Any) -> None:
        setattr(owner, name, _Instead(getattr(owner, name), ours))

    def remove(self) -> None:
        """Give scheduler and pipeline their own methods back."""
        for owner, name in ((self.scheduler, "set_timesteps"), (self.scheduler, "step"), (self.pipe, "progress_bar")):
            if isinstance(vars(owner).get(name) if owner is not None else None, _Instead):
                delattr(owner, name)
        self._bar = None

    @property
    def usual(self) -> int:
        """Steps of the run without restarts."""
        return max(self.order, default=-1) + 1

    # --- a run begins -------------------------------------------------------------------------------------------------

    def _set_timesteps(self, real: Any, *args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        scheduler = self.scheduler
        before, after = scheduling.levels(scheduler)
        if len(scheduler.timesteps) != len(before):
            raise ValueError(
                f"a Restart needs a scheduler with one call per step, but this {type(scheduler).__name__} has "
                f"{len(scheduler.timesteps)} calls for {len(before)} noise levels. Exchange pipe.scheduler."
            )
        self._plan(before, after)
        order = torch.tensor(self.order, device=scheduler.timesteps.device)
        scheduler.timesteps = scheduler.timesteps[order]
        if getattr(scheduler, "sigmas", None) is not None:
            sigmas = scheduler.sigmas
            scheduler.sigmas = torch.cat([sigmas[order.to(sigmas.device)], sigmas[-1:]])

    def _plan(self, before: list[float], after: list[float]) -> None:
        rounds = sorted(((*r.steps(before, after), r) for r in self.restarts), key=lambda entry: entry[:2])
        for (_, end, _), (first, _, _) in itertools.pairwise(rounds):
            if first < end:
                raise ValueError("restarts must not overlap, but two share a step of this run. Move one of them.")
        kind = scheduling.kind_in_run(self.scheduler, before[0])
        self.order, self._jumps, self._done, self._first, begin = [], {}, None, rounds[0][0], 0
        for first, end, restart in rounds:
            self.order += range(begin, end)
            for _ in range(restart.repeats):
                self._jumps[len(self.order) - 1] = Jump(kind, after[end - 1], before[first], restart.noise_scale)
                self.order += range(first, end)
            begin = end
        self.order += range(begin, len(before))

    # --- a step -------------------------------------------------------------------------------------------------------

    def _step(self, real: Any, *args: Any, **kwargs: Any) -> Any:
        inputs = skips.named_inputs(inspect.signature(real), args, kwargs)
        if inputs.get("per_token_timesteps") is not None:
            raise ValueError(
                "a Restart needs one noise level for all of a sample, but this run has one for each token. Leave the "
                "restart out, or the conditions that keep a part of the video."
            )
        index = self._begin(inputs["timestep"]) if self._done is None else self._done
        self._done = index + 1
        if self._bar is not None and index < self._unseen:
            self._bar.update()
        if index - 1 in self._jumps:
            self._forget_history(inputs)
        jump, scheduler = self._jumps.get(index), self.scheduler
        if jump is None:
            return real(**inputs)
        sigmas = getattr(scheduler, "sigmas", None)
        if sigmas is None:
            return self._raised(real(**inputs), jump, inputs)
        scheduler.sigmas = sigmas.clone()  # the step goes to the end of the round; the next of the list begins higher
        scheduler.sigmas[index + 1] = 1 - jump.low if scheduler.config.get("invert_sigmas") else jump.low
        try:
            return self._raised(real(**inputs), jump, inputs)
        finally:
            scheduler.sigmas = sigmas

    def _begin(self, timestep: Any) -> int:
        """Where in its list a run begins: with `strength` a pipeline leaves out the first steps."""
        timesteps = self.scheduler.timesteps
        index = int((timesteps == torch.as_tensor(timestep, device=timesteps.device).flatten()[0]).nonzero()[0])
        if index > self._first:
            raise ValueError(
                f"a Restart must lie after the step at which a run begins, but this run begins at step {index} "
                f"(strength) and the first restart goes back to step {self._first}. Choose a later interval."
            )
        if getattr(self.scheduler, "step_index", index) != index:
            # of several steps with one timestep a scheduler takes the second one, unless it is told where to begin
            self.scheduler.set_begin_index(index)
            self.scheduler._step_index = index
        return index

    def _raised(self, output: Any, jump: Jump, inputs: dict[str, Any]) -> Any:
        """What a step returned, with its sample taken back to the higher noise level."""
        sample = output[0] if isinstance(output, tuple) else output.prev_sample
        frame = running.frame_of(self.pipe) if self.pipe is not None else None
        generator = inputs.get("generator") or (frame.f_locals.get("generator") if frame is not None else None)
        noise = _noise(sample, generator)
        sample = renoised(sample, jump.kind, jump.low, jump.high, jump.noise_scale * noise)
        if isinstance(output, tuple):
            return (sample, *output[1:])
        output.prev_sample = sample
        return output

    def _forget_history(self, inputs: dict[str, Any]) -> None:
        """Multistep methods extrapolate from the steps before: after a jump there are none."""
        if hasattr(self.scheduler, "lower_order_nums"):
            self.scheduler.lower_order_nums = 0
        if hasattr(self.scheduler, "last_sample"):
            self.scheduler.last_sample = None  # of the corrector
        if "old_pred_original_sample" in inputs:
            inputs["old_pred_original_sample"] = None

    def _progress_bar(self, real: Any, *args: Any, total: int | None = None, **kwargs: Any) -> Any:
        """The bar of the pipeline, long enough; those that count the usual steps begin when the additional are done."""
        own = len(self.order) if total == self.usual else total
        self._bar = real(*args, total=own, **kwargs)
        self._unseen = 0 if own is None or total is None else own - total
        return self._bar


class _Instead:
    """Stands in front of a method of one object; `inspect.signature` sees the method's own."""

    def __init__(self, real: Any, ours: Any):
        functools.update_wrapper(self, real)
        self._real, self._ours = real, ours

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._ours(self._real, *args, **kwargs)

    def __deepcopy__(self, memo: Any) -> Any:
        raise ValueError(
            "a Restart needs a pipeline with one scheduler for all of the video, but this one makes copies of it (for "
            "sound, or for frames at different noise levels). Leave the restart out."
        )


def _noise(sample: Tensor, generator: torch.Generator | list[torch.Generator] | None) -> Tensor:
    """Like `sample`, in float32, drawn where the generator is; of several generators one for each row."""
    if isinstance(generator, (list, tuple)):
        return torch.cat([_noise(row[None], one) for row, one in zip(sample, generator, strict=True)])
    device = sample.device if generator is None else generator.device
    return torch.randn(sample.shape, generator=generator, device=device).to(sample.device)
