"""The loops of Open-Sora's pipeline: clips that continue each other, and how each is denoised."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from skipguide.opensora.conditions import OpenSoraCondition, add_continuation, apply_mask_strategy
from skipguide.opensora.latents import Generators, LatentsMixin
from skipguide.opensora.scheduler import OpenSoraRFlowScheduler

Tensor = torch.Tensor


@dataclasses.dataclass(frozen=True)
class Loops:
    """The state that the loops of a call share, and the state of each of them."""

    timesteps: Mapping[str, Any]  # arguments of the scheduler's set_timesteps
    shape: tuple[int, ...]  # (B, C, f, h, w)
    generator: Generators
    noises: Sequence[Tensor | None]  # of each loop
    texts: Sequence[tuple[Tensor, Tensor]]  # of each loop, embeddings and their mask
    numbers: dict[str, Tensor]  # height, width and fps, as the model is told
    align: int | None
    last: Mapping[str, Any]  # how a loop continues the one before
    report: Callable[..., tuple[Tensor, Tensor]]


class LoopsMixin(LatentsMixin):
    """The part of the pipeline from noise to latents and clips."""

    scheduler: OpenSoraRFlowScheduler
    progress_bar: Any
    _guidance_scale: float
    _num_timesteps: int
    _current_timestep: Tensor | None
    _interrupt: bool

    @property
    def guidance_scale(self) -> float:
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        return self._num_timesteps

    @property
    def current_timestep(self) -> Tensor | None:
        return self._current_timestep

    @property
    def interrupt(self) -> bool:
        return self._interrupt

    def _run_loops(
        self, loops: Loops, given: Sequence[Sequence[OpenSoraCondition]], decoded: bool
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return latents (B, C, f, h, w) and, if `decoded`, clips (B, 3, F, H, W) of each loop."""
        parts: list[Tensor] = []
        clips: list[Tensor] = []
        number = len(loops.texts)
        self._set_timesteps(**loops.timesteps)
        progress: Any = self.progress_bar
        with progress(total=number * self.num_timesteps) as bar:
            for loop in range(number):
                noise = self.prepare_latents(
                    loops.shape, loops.timesteps["device"], loops.generator, loops.noises[loop]
                )  # fmt: skip
                if loop > 0:
                    self._set_timesteps(**loops.timesteps)
                    given = add_continuation(
                        given, self.encode_video(clips[-1]), loop, *loops.last.values()
                    )
                parts.append(self._denoise(noise, given, loop, loops, bar.update))
                if decoded or loop + 1 < number:
                    clips.append(self.decode_latents(parts[-1], loops.timesteps["num_frames"]))
                if self.interrupt:
                    break
        return parts, clips

    def _set_timesteps(self, **timesteps: Any) -> None:
        self.scheduler.set_timesteps(**timesteps)
        # Otherwise the scheduler would look at the timesteps, and wait for the device.
        self.scheduler.set_begin_index(0)
        self._num_timesteps = len(self.scheduler.timesteps)

    def _denoise(
        self,
        noise: Tensor,
        given: Sequence[Sequence[OpenSoraCondition]],
        loop: int,
        loops: Loops,
        advance: Callable[[], object],
    ) -> Tensor:
        """Denoise one loop from its noise: (B, C, f, h, w). Nothing here waits for the device.

        An edited frame gets its noise from its position in `noise`, which the reference had
        replaced; upstream draws another one. Once it has noise, it is denoised in every step, also
        if a scheduler goes back to earlier timesteps (`skipguide.Restart`).
        """
        latents, (embeds, mask), noisy, starts = noise, loops.texts[loop], None, None
        if any(one.loop == loop for row in given for one in row):
            latents, ratios = apply_mask_strategy(noise, given, loop, loops.align)
            starts, noisy = ratios * self.scheduler.config["num_train_timesteps"], ratios == 1
        for i, t in enumerate(self.scheduler.timesteps):
            if self.interrupt:
                continue
            self._current_timestep = t
            if starts is not None and noisy is not None:  # (B, f) each
                before, noisy = noisy, noisy | (starts >= t)
                edited = self.scheduler.add_noise(latents, noise, t)
                latents = torch.where((noisy & ~before)[:, None, :, None, None], edited, latents)
            velocity = self._velocity(latents, t, embeds, mask, noisy, loops.numbers)
            stepped = self.scheduler.step(velocity, t, latents, return_dict=False)[0]
            latents = (
                stepped
                if noisy is None
                else torch.where(noisy[:, None, :, None, None], stepped, latents)
            )
            latents, embeds = loops.report(i, t, latents, embeds)
            advance()
        return latents

    def _velocity(
        self,
        latents: Tensor,
        t: Tensor,
        embeds: Tensor,
        mask: Tensor,
        noisy: Tensor | None,
        numbers: dict[str, Tensor],
    ) -> Tensor:
        """Return u + g (c - u), or c without CFG, (B, C, f, h, w) in float32.

        A callback may remove the uncond rows from `embeds`.
        """
        rows, copies = len(embeds), len(embeds) // len(latents)
        with self.transformer.cache_context("cond_uncond"):
            predicted = self.transformer(
                hidden_states=latents.to(self.transformer.dtype).repeat(copies, 1, 1, 1, 1),
                timestep=t.expand(rows),
                encoder_hidden_states=embeds,
                encoder_attention_mask=mask[-rows:],
                frame_mask=None if noisy is None else noisy.repeat(copies, 1),
                **{name: x[-rows:] for name, x in numbers.items()},
                return_dict=False,
            )[0]
        predicted = predicted.chunk(2, dim=1)[
            0
        ].float()  # the other half is a variance that nothing uses
        if copies == 1:
            return predicted
        uncond, cond = predicted.chunk(2)
        return uncond + self.guidance_scale * (cond - uncond)

    def _report(
        self,
        callback: Callable[..., dict[str, Tensor]] | None,
        names: Sequence[str],
        step: int,
        t: Tensor,
        latents: Tensor,
        embeds: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Call the callback, and return the tensors that it may have changed."""
        if callback is None:
            return latents, embeds
        tensors = {"latents": latents, "prompt_embeds": embeds}
        changed = callback(self, step, t, {name: tensors[name] for name in names})
        return changed.pop("latents", latents), changed.pop("prompt_embeds", embeds)
