"""What guided pipelines with a cache across steps are compared with: a copy of the denoiser with a
cache of its own for each pass, put together by hand.

Nothing here uses skipguide. The pipeline's own denoiser has no cache; a hook on it returns what the
copies predict in the place of its output, u and c both shifted by the push."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from diffusers.hooks.first_block_cache import FirstBlockCacheConfig
from diffusers.hooks.mag_cache import MagCacheConfig
from diffusers.hooks.pyramid_attention_broadcast import PyramidAttentionBroadcastConfig
from diffusers.hooks.sea_cache import SeaCacheConfig
from diffusers.hooks.taylorseer_cache import TaylorSeerCacheConfig
from torch import nn

from support import oracle
from support.tiny.base import Tiny

Tensor = torch.Tensor
STEPS = 10
TWO_STREAMS = (
    "MochiTransformer3DModel", "CogVideoXTransformer3DModel", "MotifVideoTransformer3DModel",
)  # fmt: skip


def sea_latents(model: nn.Module, args: Any, kwargs: Any) -> list[Tensor]:
    return list(kwargs["hidden_states"].unbind(dim=0))


def configs(steps: int = STEPS) -> dict[str, Any]:
    """Of each cache one that computes at some steps and not at others, in most of the passes."""
    attentions = [r"(transformer_)?blocks\.\d+\.attn1?"]
    return {
        "first block": FirstBlockCacheConfig(threshold=0.2),
        "mag": MagCacheConfig(
            threshold=0.2, num_inference_steps=steps, mag_ratios=torch.linspace(1.0, 0.9, steps)
        ),
        "sea": SeaCacheConfig(threshold=0.4, raw_vision_callback=sea_latents),
        "taylor seer": TaylorSeerCacheConfig(
            cache_interval=2, disable_cache_before_step=2, cache_identifiers=attentions,
            taylor_factors_dtype=torch.float32,
        ),
        "taylor seer lite": TaylorSeerCacheConfig(
            cache_interval=3, disable_cache_before_step=2, use_lite_mode=True,
            taylor_factors_dtype=torch.float32,
        ),
        "pyramid": PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=3, cross_attention_block_skip_range=2,
            current_timestep_callback=lambda: 500,
        ),
    }  # fmt: skip


def blocks_of(model: Any) -> list[Any]:
    """The blocks in the order in which they run."""
    if hasattr(model, "blocks"):
        return [*model.blocks]
    return [*model.transformer_blocks, *getattr(model, "single_transformer_blocks", [])]


class Copy:
    """A copy of a denoiser, weakened, with a cache of its own.

    Args:
        model: the denoiser, without a cache.
        config: of the cache.
        skipped: blocks that return their input, as if the model had been made so.
        masked: blocks whose self-attention sees each token alone.
        name: of the context.
    """

    def __init__(
        self, model: Any, config: Any, name: str, skipped: Sequence[int] = (),
        masked: Sequence[int] = (),
    ):  # fmt: skip
        self.model, self.name, self.runs = copy.deepcopy(model), name, 0
        self.depth, self.last_step = len(blocks_of(self.model)), -2
        self.counted = self.depth - len(skipped)  # blocks of which each run is counted
        for k, block in enumerate(blocks_of(self.model)):
            block.forward = self._skip if k in skipped else self._count(block.forward)
        if config is not None:
            self.model.enable_cache(copy.deepcopy(config))
        for k in masked:
            attention = blocks_of(self.model)[k].attn1
            registry = getattr(attention, "_diffusers_hook", None)
            if registry is not None:  # the weakened attention is computed at each step
                for name in {"taylorseer_cache", "pyramid_attention_broadcast"} & {*registry.hooks}:
                    registry.remove_hook(name, recurse=False)
            oracle.masked(attention)

    def _count(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.runs += 1
            return forward(*args, **kwargs)

        return counted

    def _skip(self, *args: Any, **kwargs: Any) -> Any:
        if type(self.model).__name__ not in TWO_STREAMS:
            return args[0] if args else kwargs["hidden_states"]
        names = ("hidden_states", "encoder_hidden_states")
        return tuple(args[i] if i < len(args) else kwargs[n] for i, n in enumerate(names))

    def predict(self, inputs: dict[str, Any], step: int, **fields: Any) -> Tensor:
        """What the model predicts at a step; after a gap its cache begins anew."""
        if step != self.last_step + 1:
            self.model._reset_stateful_cache()
        with self.model.cache_context(self.name, **{"step_index": step, **fields}):
            if step != self.last_step + 1:
                self._count_from(step)
            self.last_step = step
            return oracle.samples(self.model(**inputs))[0]

    def _count_from(self, step: int) -> None:
        """MagCache counts the steps of a run; a pass that joins it late is at the same step."""
        registry = getattr(blocks_of(self.model)[0], "_diffusers_hook", None)
        for name, hook in registry.hooks.items() if registry is not None else ():
            if name == "mag_cache_leader_block_hook":
                hook.state_manager.get_state().step_index = step


@dataclasses.dataclass
class Push:
    """A weak model that pushes at some steps."""

    weak: Copy
    scale: float = 1.0
    steps: Sequence[int] = range(STEPS)


@dataclasses.dataclass
class Copies:
    """The passes of a run: c, u, u weakened at some steps, and pushes."""

    cond: Copy
    uncond: Copy
    pushes: Sequence[Push] = ()
    weak_uncond: Copy | None = None
    uncond_steps: Sequence[int] = ()

    def runs(self) -> int:
        """How many blocks ran."""
        every = [self.cond, self.uncond, *(push.weak for push in self.pushes)]
        return sum(one.runs for one in [*every, *([self.weak_uncond] if self.weak_uncond else [])])

    def u(self, inputs: dict[str, Any], step: int, **fields: Any) -> Tensor:
        weak = self.weak_uncond if step in self.uncond_steps else None
        return (weak or self.uncond).predict(inputs, step, **fields)

    def c_and_push(self, inputs: dict[str, Any], step: int, **fields: Any) -> tuple[Tensor, Tensor]:
        c = self.cond.predict(inputs, step, **fields)
        push = torch.zeros_like(c)
        for one in self.pushes:
            if step in one.steps:
                push = push + one.scale * (c - one.weak.predict(inputs, step, **fields))
        return c, push


@contextlib.contextmanager
def by_copies(tiny: Tiny, copies: Copies) -> Iterator[None]:
    """Let a pipeline of batched or of separate calls run with the predictions of copies."""
    calls, push = [], [torch.zeros(())]
    batched = type(tiny.pipe).__name__ in ("MochiPipeline", "LTXPipeline", "CogVideoXPipeline")

    def play(model: Any, args: Any, kwargs: Any, output: Any) -> Any:
        step = len(calls) // (1 if batched else 2)
        first = len(calls) % 2 == 0
        calls.append(None)
        sigmas = getattr(tiny.pipe.scheduler, "sigmas", None)
        fields = dict(
            sigma=None if sigmas is None else float(sigmas[step]), num_inference_steps=STEPS
        )
        if not batched:
            if first:
                c, push[0] = copies.c_and_push(kwargs, step, **fields)
                return (c + push[0],)
            return (copies.u(kwargs, step, **fields) + push[0],)
        halves = oracle.Call(model, kwargs, output)
        n = halves.batch // 2
        c, push[0] = copies.c_and_push(halves.rows(slice(n, None)), step, **fields)
        u = copies.u(halves.rows(slice(n)), step, **fields)
        return (torch.cat([u + push[0], c + push[0]]),)

    hook = tiny.pipe.transformer.register_forward_hook(play, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
