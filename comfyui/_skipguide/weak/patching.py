# Built by `make comfyui` from src/skipguide/weak/patching.py; do not edit.
"""What it means to skip: stand-ins that take the place of blocks and attentions for the length of
one pass.

A stand-in replaces an entry of its parent module and forwards every other attribute to the module
it stands for. The real module is not changed, so its own hooks (offloading), compilation and
quantization are left in peace. Stand-ins live as long as the guidance, so that torch.compile meets
the same modules at every step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import Signature
from typing import Any

import torch
from torch import nn

Tensor = torch.Tensor
Patch = tuple[nn.Module, str, nn.Module]  # (parent, name of its child, what stands there for now)


class ModuleProxy(nn.Module):
    """Takes the place of `real` without owning it: parameters, hooks and state stay with the real
    module."""

    def __init__(self, real: nn.Module, **attributes: Any):
        super().__init__()
        self.__dict__.update(
            attributes, real=real
        )  # past nn.Module's registration: a stand-in has no children

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["real"], name)

    # Who looks at the model while a stand-in is in place (or after a Ctrl-C left one there) sees
    # the real module.

    def named_modules(self, *args: Any, **kwargs: Any) -> Any:
        return self.real.named_modules(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.real.state_dict(*args, **kwargs)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self.real._apply(*args, **kwargs)
        return self


# --- in the strong pass ---------------------------------------------------------------------------


class RecordInput(ModuleProxy):
    """The real block, run as ever; the streams that enter it are copied into `state`, for blocks
    may work in place."""

    def __init__(self, real: nn.Module, streams: Sequence[str]):
        super().__init__(real, streams=tuple(streams), state=None)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        streams = stream_values(self.streams, args, kwargs)
        self.__dict__["state"] = tuple(
            None if stream is None else stream.clone() for stream in streams
        )
        return self.real(*args, **kwargs)


class CacheOutput(ModuleProxy):
    """The real module, run as ever; what it returns is kept in `outputs`, one entry per call."""

    def __init__(self, real: nn.Module):
        super().__init__(real, outputs=[])

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.real(*args, **kwargs)
        self.outputs.append(_copy_output(output))
        return output


# --- in a weak pass -------------------------------------------------------------------------------


class Bypass(ModuleProxy):
    """Eq. 15: the block returns its input, every stream of it; with a `source`, the input recorded
    there."""

    def __init__(self, real: nn.Module, streams: Sequence[str], source: RecordInput | None = None):
        super().__init__(real, streams=tuple(streams), source=source)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        _run_group_offloading_hooks(self.real)
        state = (
            stream_values(self.streams, args, kwargs) if self.source is None else self.source.state
        )
        # UNets ask their transformers for a tuple
        return state[0] if len(state) == 1 and kwargs.get("return_dict") is not False else state


class ResumeFrom(ModuleProxy):
    """The real block, run on the streams recorded at `source` instead of those that arrive."""

    def __init__(self, real: nn.Module, streams: Sequence[str], source: RecordInput):
        super().__init__(real, streams=tuple(streams), source=source)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = replace_streams(self.streams, self.source.state, args, kwargs)
        return self.real(*args, **kwargs)


class ReplayOutput(ModuleProxy):
    """What the real module returned in the strong pass, call by call, without running it."""

    def __init__(self, real: nn.Module, source: CacheOutput):
        super().__init__(real, source=source)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        _run_group_offloading_hooks(self.real)
        outputs = self.source.outputs
        outputs.append(outputs.pop(0))  # a whole pass turns the list once around
        return _copy_output(outputs[-1])


class ZeroOutput(ModuleProxy):
    """A module whose result is added to a state that nobody reads, because the recorded one takes
    its place."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return next(value for value in args if torch.is_tensor(value)).new_zeros(())


class IdentityAttention(ModuleProxy):
    """Eq. 17: an attention whose map is the identity over all tokens it sees; `values` computes
    what is left."""

    def __init__(self, real: nn.Module, values: Callable[..., Any]):
        super().__init__(real, values=values)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.values(self.real, *args, **kwargs)


def _run_group_offloading_hooks(block: nn.Module) -> None:
    """With several blocks to a group, diffusers' group offloading has the first one load it and the
    last one unload it.

    Those two must do so when they are skipped as well, for the others of their group may run.
    """
    registry = getattr(block, "_diffusers_hook", None)
    hook = registry.get_hook("group_offloading") if registry is not None else None
    if hook is not None and len(hook.group.modules) > 1:
        hook.pre_forward(block)
        hook.post_forward(block, None)


def _copy_output(output: Any) -> Any:
    """A copy of a tensor, for FreeU writes into what a block returns; tuples (skip connections) are
    only read."""
    return output.clone() if torch.is_tensor(output) else output


# --- helpers --------------------------------------------------------------------------------------


def stream_values(
    streams: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Tensor, ...]:
    """The streams among the inputs of a block; blocks take them first and in order when
    positional."""
    return tuple(args[i] if i < len(args) else kwargs[name] for i, name in enumerate(streams))


def replace_streams(
    streams: Sequence[str], state: Sequence[Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs of a block with other streams in the place of those that arrive."""
    positional = min(len(args), len(streams))
    named = {name: value for name, value in zip(streams, state, strict=True) if name in kwargs}
    return (*state[:positional], *args[positional:]), {**kwargs, **named}


def bind_inputs(
    signature: Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The inputs of a call, by name."""
    bound = signature.bind(*args, **kwargs).arguments
    return {**{k: v for k, v in bound.items() if k != "kwargs"}, **bound.get("kwargs", {})}


def get_child(parent: nn.Module, name: str) -> nn.Module:
    """The module that an entry names."""
    found = parent._modules[name]
    assert found is not None, name
    return found


UNCOND, COND = 0, 1  # the halves of a batch, which diffusers makes as [uncond, cond]


def select_half(half: int, value: Any) -> Any:
    """One half of a batch: of a tensor, or of every tensor in a tuple, list or dictionary. Other
    values stay."""
    if isinstance(value, dict):
        return {name: select_half(half, item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(select_half(half, item) for item in value)
    if not torch.is_tensor(value):
        return value
    if len(value) % 2:
        raise ValueError(
            "a batch of CFG must be [uncond, cond] with as many rows of each, but an input has"
            f" {len(value)} rows. It is not a batch: take its name out of `batched` in its row of"
            " skipguide/families.py."
        )
    return value.chunk(2)[half]


@contextlib.contextmanager
def patched(patches: Sequence[Patch]) -> Iterator[None]:
    """Put every stand-in in place, and the real modules back again whatever happens in between."""
    real = apply_patches(patches)
    try:
        yield
    finally:
        apply_patches(real)


def apply_patches(patches: Sequence[Patch]) -> list[Patch]:
    """Put every stand-in in place; returns the swaps that undo it."""
    undo = [(parent, name, parent._modules[name]) for parent, name, _ in patches]
    for parent, name, proxy in patches:
        parent._modules[name] = proxy
    return undo  # type: ignore[return-value]  # no entry is None: guide() resolved them
