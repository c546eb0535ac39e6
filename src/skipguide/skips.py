"""What it means to skip: stand-ins that take the place of blocks and attentions for the length of one weak pass.

A stand-in replaces an entry of its parent module and forwards every other attribute to the module it stands for. The
real module is not run and not changed, so its own hooks (offloading), compilation and quantization are left in peace.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

Tensor = torch.Tensor
Swap = tuple[nn.Module, str, nn.Module]  # (parent, name of its child, what stands there for now)


class StandIn(nn.Module):
    """Takes the place of `real` without owning it: parameters, hooks and state stay with the real module."""

    def __init__(self, real: nn.Module):
        super().__init__()
        self.__dict__["real"] = real  # past nn.Module's registration: a stand-in has no children

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["real"], name)


class SkippedBlock(StandIn):
    """Eq. 15: the block returns its input, every stream of it. With `state`, that is the input recorded before.

    Args:
        streams: names of the block's inputs that it returns, in the order in which it returns them.
        state: what to return instead of the inputs, one tensor per stream.
    """

    def __init__(self, real: nn.Module, streams: Sequence[str], state: Sequence[Tensor] | None = None):
        super().__init__(real)
        self.__dict__["streams"], self.__dict__["state"] = tuple(streams), state

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        state = self.state if self.state is not None else stream_values(self.streams, args, kwargs)
        return state[0] if len(state) == 1 else tuple(state)


class ResumedBlock(StandIn):
    """The real block, run on recorded streams instead of those that arrive."""

    def __init__(self, real: nn.Module, streams: Sequence[str], state: Sequence[Tensor]):
        super().__init__(real)
        self.__dict__["streams"], self.__dict__["state"] = tuple(streams), state

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        rest = args[len(self.streams) :]
        positional = tuple(self.state[: min(len(args), len(self.streams))])
        named = {name: value for name, value in zip(self.streams, self.state, strict=True) if name in kwargs}
        return self.real(*positional, *rest, **{**kwargs, **named})


class IdentityAttention(StandIn):
    """Eq. 17: an attention whose map is the identity over all tokens it sees; `values` computes what is left."""

    def __init__(self, real: nn.Module, values: Callable[..., Any]):
        super().__init__(real)
        self.__dict__["values"] = values

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.values(self.real, *args, **kwargs)


def stream_values(streams: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """The streams among the inputs of a block; blocks take them first and in order when positional."""
    return tuple(args[i] if i < len(args) else kwargs[name] for i, name in enumerate(streams))


@contextlib.contextmanager
def swapped(swaps: Sequence[Swap]) -> Iterator[None]:
    """Put every stand-in in place, and the real modules back again whatever happens in between."""
    real = [(parent, name, getattr(parent, name)) for parent, name, _ in swaps]
    try:
        for parent, name, stand_in in swaps:
            parent._modules[name] = stand_in
        yield
    finally:
        for parent, name, module in real:
            parent._modules[name] = module


# --- attention with the identity map, one function per shape of attention module --------------------------------------


def joint_values(
    attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: Tensor, **_: Any
) -> tuple[Tensor, Tensor]:
    """W_o V for the joint video-text attention of Mochi: the discarded queries, keys and scores are not computed.

    Args:
        hidden_states: `(B, N, D)` video tokens.
        encoder_hidden_states: `(B, M, D')` text tokens.
        attention_mask: `(B, M)`, true where a text token is real.

    Mochi's attention packs the real text tokens to the front and fills up with zeros; the order here is the same.
    """
    video = attn.to_out[1](attn.to_out[0](attn.to_v(hidden_states)))
    text = attn.add_v_proj(encoder_hidden_states)
    order = attention_mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[..., None]
    real = attention_mask.bool()[..., None].gather(1, order)
    text = text.gather(1, order.expand_as(text)).masked_fill(~real, 0)
    if not attn.context_pre_only:
        text = attn.to_add_out(text)
    return video, text
