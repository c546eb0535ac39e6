"""Small caches of every kind, and what stands on a model without being one.

The caches are right without guidance: they leave something out at every other call (or, as a
weighted mean, remember the call before), whatever the call was for.
"""

from __future__ import annotations

import functools
import time
import types
from collections.abc import Callable
from typing import Any

import torch
from diffusers.hooks.hooks import HookRegistry, ModelHook
from torch import nn

Switch = Callable[[nn.Module], Callable[[], None]]  # puts a thing on a model; returns the way back


def blocks_of(model: nn.Module) -> nn.ModuleList:
    blocks = getattr(model, "blocks", None) or model.transformer_blocks
    assert isinstance(blocks, nn.ModuleList)
    return blocks


class EveryOther:
    """Runs a function at every other call, and gives its last result again in between."""

    def __init__(self, function: Callable[..., Any], interval: int = 2):
        self.function, self.interval = function, interval
        self.calls, self.last = 0, None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.calls % self.interval == 0:
            self.last = self.function(*args, **kwargs)
        self.calls += 1
        return self.last


class NearlyTheSame:
    """Gives its last result again where its inputs are nearly those of the last call."""

    def __init__(self, function: Callable[..., Any]):
        self.function, self.before, self.last = function, list[torch.Tensor](), None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        inputs = [v.float() for v in (*args, *kwargs.values()) if torch.is_tensor(v)]
        if len(self.before) != len(inputs) or any(
            a.shape != b.shape or (a - b).norm() > 1e-3 * a.norm()
            for a, b in zip(inputs, self.before, strict=True)
        ):
            self.last = self.function(*args, **kwargs)
        self.before = inputs
        return self.last


def instead_of_forward(model: nn.Module) -> Callable[[], None]:
    """The forward of one model is another function."""
    cache = EveryOther(model.forward)
    model.forward = lambda *args, **kwargs: cache(*args, **kwargs)
    return functools.partial(model.__dict__.pop, "forward")


def bound_instead_of_forward(model: nn.Module) -> Callable[[], None]:
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return cache(*args, **kwargs)

    cache = EveryOther(model.forward)
    model.forward = types.MethodType(forward, model)
    return functools.partial(model.__dict__.pop, "forward")


def in_the_class(model: nn.Module) -> Callable[[], None]:
    """The forward of the class is another function, as TeaCache's scripts have it."""
    usual, caches = type(model).forward, dict[int, NearlyTheSame]()

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        cache = caches.setdefault(id(self), NearlyTheSame(functools.partial(usual, self)))
        return cache(*args, **kwargs)

    type(model).forward = forward
    return functools.partial(setattr, type(model), "forward", usual)


def swapped_list(model: nn.Module) -> Callable[[], None]:
    """During the forward one module has the place of all blocks, as in cache-dit and para-attn."""

    class All(nn.Module):
        def __init__(self, real: nn.ModuleList):
            super().__init__()
            self.real = real

        def forward(self, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
            for block in self.real:
                hidden_states = block(hidden_states, *args, **kwargs)
            return hidden_states

    usual, blocks = model.forward, blocks_of(model)
    name = next(name for name, child in model.named_children() if child is blocks)

    def forward(*args: Any, **kwargs: Any) -> Any:
        setattr(model, name, nn.ModuleList([All(blocks)]))
        try:
            return usual(*args, **kwargs)
        finally:
            setattr(model, name, blocks)

    model.forward = forward
    return functools.partial(model.__dict__.pop, "forward")


def forward_of_a_block(model: nn.Module) -> Callable[[], None]:
    block = blocks_of(model)[2]
    cache = EveryOther(block.forward)
    block.forward = lambda *args, **kwargs: cache(*args, **kwargs)
    return functools.partial(block.__dict__.pop, "forward")


def other_blocks(model: nn.Module) -> Callable[[], None]:
    """A module of others has the place of a block in the list."""

    class Cached(nn.Module):
        def __init__(self, real: nn.Module):
            super().__init__()
            self.real, self.cache = real, EveryOther(real.forward)

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return self.cache(*args, **kwargs)

    blocks = blocks_of(model)
    real = blocks[2]
    blocks[2] = Cached(real)
    return functools.partial(blocks.__setitem__, 2, real)


def decorated(model: nn.Module) -> Callable[[], None]:
    """A decorator in good manners, which runs the model's own forward at every other call."""
    cache = NearlyTheSame(model.forward)

    @functools.wraps(model.forward)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return cache(*args, **kwargs)

    model.forward = forward
    return functools.partial(model.__dict__.pop, "forward")


def hook_that_remembers(model: nn.Module) -> Callable[[], None]:
    """torch's hook on a block returns the mean of this call and the one before."""
    before: list[Any] = []

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        mean = (first + before[-1]) / 2 if before and before[-1].shape == first.shape else first
        before[:] = [mean]
        return (mean, *output[1:]) if isinstance(output, tuple) else mean

    return blocks_of(model)[2].register_forward_hook(hook).remove


def hook_of_the_model(model: nn.Module) -> Callable[[], None]:
    """torch's hook on the model returns what it kept, at every other call."""
    kept: list[Any] = []

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if kept:
            return kept.pop()
        kept.append(output)
        return None

    return model.register_forward_hook(hook).remove


def decorated_block(model: nn.Module) -> Callable[[], None]:
    """A decorator in good manners on a block, so that the model calls it each time."""
    block = blocks_of(model)[3]
    block.forward = functools.wraps(block.forward)(EveryOther(block.forward, 3))
    return functools.partial(block.__dict__.pop, "forward")


def subclass(model: nn.Module) -> Callable[[], None]:
    """The model is made one of a subclass, whose forward names no inputs."""
    usual = type(model)

    class Cached(usual):  # type: ignore[misc,valid-type]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return cache(*args, **kwargs)

    cache = NearlyTheSame(functools.partial(usual.forward, model))
    model.__class__ = Cached
    return functools.partial(setattr, model, "__class__", usual)


def hook_of_diffusers(model: nn.Module) -> Callable[[], None]:
    """A hook of the user's own in diffusers' registry, which does not say that it has a state."""

    class Mean(ModelHook):
        before: Any = None

        def post_forward(self, module: nn.Module, output: Any) -> Any:
            first = output[0] if isinstance(output, tuple) else output
            if self.before is not None and self.before.shape == first.shape:
                first = (first + self.before) / 2
            self.before = first
            return (first, *output[1:]) if isinstance(output, tuple) else first

    registry = HookRegistry.check_if_exists_or_initialize(blocks_of(model)[2])
    registry.register_hook(Mean(), "mean")
    return functools.partial(registry.remove_hook, "mean")


def processor(model: nn.Module) -> Callable[[], None]:
    """An attention's processor gives what it returned, at every other call."""
    attention: Any = blocks_of(model)[2].attn1
    usual = attention.processor

    class Cached(type(usual)):  # type: ignore[misc]
        def __init__(self) -> None:
            self.cache = EveryOther(usual)

        @functools.wraps(type(usual).__call__)  # Attention reads the names of its inputs
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.cache(*args, **kwargs)

    attention.set_processor(Cached())
    return functools.partial(attention.set_processor, usual)


CACHES: dict[str, Switch] = {
    "forward": instead_of_forward, "bound forward": bound_instead_of_forward,
    "class": in_the_class, "swapped list": swapped_list, "block's forward": forward_of_a_block,
    "block": other_blocks, "decorator": decorated, "hook": hook_that_remembers,
    "diffusers' hook": hook_of_diffusers, "processor": processor, "model's hook": hook_of_the_model,
    "block's decorator": decorated_block, "subclass": subclass,
}  # fmt: skip


# --- no caches ------------------------------------------------------------------------------------


def stopwatch(model: nn.Module) -> Callable[[], None]:
    """A decorator that measures the time of the model and of its blocks."""
    seconds: list[float] = []

    def timed(forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def run(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return forward(*args, **kwargs)
            finally:
                seconds.append(time.perf_counter() - started)

        return run

    for module in (model, *blocks_of(model)):
        module.forward = timed(module.forward)

    def off() -> None:
        for module in (model, *blocks_of(model)):
            del module.forward

    return off


def notes(model: nn.Module) -> Callable[[], None]:
    """Hooks that look at what comes in and goes out."""
    seen: list[Any] = []
    handles = [
        hook
        for block in blocks_of(model)
        for hook in (
            block.register_forward_pre_hook(lambda module, args: seen.append(len(args))),
            block.register_forward_hook(lambda module, args, output: seen.append(type(output))),
        )
    ]

    def off() -> None:
        for handle in handles:
            handle.remove()

    return off


def rounding(model: nn.Module) -> Callable[[], None]:
    """A hook that changes what a block returns, and remembers nothing."""

    def halve(module: nn.Module, args: Any, output: Any) -> Any:
        return (output[0] * 1.0, *output[1:]) if isinstance(output, tuple) else output * 1.0

    return blocks_of(model)[1].register_forward_hook(halve).remove


def own_processor(model: nn.Module) -> Callable[[], None]:
    """A processor of the user's own that keeps nothing."""
    attention: Any = blocks_of(model)[2].attn1
    usual = attention.processor

    class Same:
        @functools.wraps(type(usual).__call__)  # Attention reads the names of its inputs
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return usual(*args, **kwargs)

    attention.set_processor(Same())
    return functools.partial(attention.set_processor, usual)


def adapters(model: nn.Module) -> Callable[[], None]:
    """Adapters in the way of kohya: the forward of a linear layer is that of another module."""
    block: Any = blocks_of(model)[2]
    linear = block.attn1.to_q

    class Adapter(nn.Module):
        def __init__(self, real: nn.Linear):
            super().__init__()
            self.usual = real.forward

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.usual(x)

    linear.forward = Adapter(linear).forward
    return functools.partial(linear.__dict__.pop, "forward")


def compiled_forward(model: nn.Module) -> Callable[[], None]:
    """torch.compile on the method, as many scripts have it."""
    model.forward = torch.compile(model.forward, backend="eager")
    return functools.partial(model.__dict__.pop, "forward")


NO_CACHES: dict[str, Switch] = {
    "stopwatch": stopwatch, "notes": notes, "rounding": rounding, "processor": own_processor,
    "adapters": adapters, "compiled forward": compiled_forward,
}  # fmt: skip
