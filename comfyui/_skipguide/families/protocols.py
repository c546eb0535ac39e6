# Built by `make comfyui` from src/skipguide/families/protocols.py; do not edit.
"""Types for the denoisers of diffusers and for their attentions.

Nothing here is checked when the code runs: the classes of diffusers need not derive from these, and
what a denoiser of one family has beyond them is named in the row of the family. Pipelines,
schedulers and guiders are in method/protocols.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import torch
from torch import nn

Config = Mapping[str, Any]  # the arguments that a model was made with
Inputs = Mapping[str, Any]  # the arguments of one call of a denoiser, by name
Projection = Callable[[torch.Tensor], torch.Tensor]


class Denoiser(Protocol):
    """A denoiser of diffusers: an nn.Module with a config, a precision and a device."""

    @property
    def config(self) -> Config:
        """The arguments that it was made with."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The precision of its weights."""
        ...

    @property
    def device(self) -> torch.device:
        """The device that holds the weights."""
        ...


class Attention(Protocol):
    """A self-attention of diffusers, by what is left of it when its map is the identity."""

    heads: int
    to_v: Projection
    to_out: Sequence[Projection]  # a linear layer and dropout


class GroupedAttention(Attention, Protocol):
    """An attention with fewer heads of keys and values than of queries."""

    inner_dim: int  # the width of all heads of queries together


class GatedGroupAttention(Protocol):
    """A self-attention of Krea 2, which has names of its own for numbers of heads."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    to_v: Projection
    to_gate: Projection
    to_out: Sequence[Projection]


class JointAttention(Attention, Protocol):
    """An attention over video and text that has projections of its own for the text."""

    add_v_proj: Projection
    to_add_out: Projection
    context_pre_only: bool  # the text is not projected, for no later block reads it


class HiDreamAttention(Protocol):
    """A self-attention of HiDream, which has names of its own for the text."""

    single: bool  # text and image are one stream
    to_v: Projection
    to_out: Projection
    to_v_t: Projection
    to_out_t: Projection


class KandinskyAttention(Protocol):
    """A self-attention of Kandinsky 5 and 6, which has names of its own."""

    to_value: Projection
    out_layer: Projection


class ParallelAttention(Protocol):
    """A self-attention of Flux 2's single-stream blocks, with the feed-forward in it."""

    to_qkv_mlp_proj: Projection
    mlp_hidden_dim: int
    mlp_mult_factor: int  # of what enters the activation
    mlp_act_fn: Projection
    to_out: Projection


def as_denoiser(module: nn.Module) -> Denoiser:
    """Return a module as what it is beside an nn.Module, for the type checker."""
    return cast("Denoiser", module)
