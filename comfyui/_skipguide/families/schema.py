# Built by `make comfyui` from src/skipguide/families/schema.py; do not edit.
"""What a row of `families.FAMILIES` says of a model: data, on which all behaviour that is shared
rests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

DEFAULT_FPS = 24
ValueProjection = Callable[..., Any]


@dataclass(frozen=True)
class Stack:
    """A ModuleList of blocks that run one after the other."""

    path: str  # where it is on the denoiser
    depth: int  # in the public checkpoint
    # The block's inputs that carry state: first in its signature, in the order it returns them.
    streams: tuple[str, ...]
    attention: Mapping[
        str, ValueProjection
    ]  # the block's self-attentions, and what each is with the identity map
    axis: str | None = None  # "spatial" or "temporal" where attention is factorized
    token_layout: str = ""  # as for weakening.Shuffled
    audio: tuple[str, ...] = ()  # those of `attention` that see sound


@dataclass(frozen=True)
class AxisLayers:
    """The spatial or the temporal half of the transformer layers of a UNet."""

    modules: str  # the list of a UNet block that holds them
    blocks: str  # the list of transformer blocks in such a module
    attention: tuple[str, ...]  # the self-attentions of such a block
    token_layout: str = ""  # as for weakening.Shuffled


@dataclass(frozen=True)
class UNetLayout:
    """What the blocks of a UNet are made of. Layer i of a part is the i-th place for transformers
    in its blocks."""

    module_order: tuple[str, ...]  # the lists of a block whose i-th modules run one after the other
    axis_layers: Mapping[str, AxisLayers]  # by axis, in the order in which they run


@dataclass(frozen=True)
class CallConvention:
    """How a pipeline calls its denoiser in one step. A name is a property of the pipeline or a
    variable of its call."""

    cfg_mode: str  # "batched": once on [uncond, cond]; "separate": cond, then uncond; "guider": as its guider says
    float32_prediction: bool = False  # it takes a float32 prediction in a bf16 run, so that the guidance is not rounded before CFG
    cfg_flag: str = "do_classifier_free_guidance"  # whether CFG is on
    scale_names: tuple[str, ...] = (
        "guidance_scale",
    )  # g at this step, one per output of the denoiser
    scale_from_cond: bool = False  # its formula is c + g (c - u) instead of u + g (c - u)
    unsupported_flag: str = (
        ""  # where this is true, its formula is none that a shift of u and c passes through
    )
    dynamic_scale_flag: str = (
        ""  # where this is true, g changes after the denoiser was called, and cannot be known there
    )
    rescale_names: tuple[
        str, ...
    ] = ()  # its own guidance_rescale, per output, which refers to the deviation of c
    scale_argument: str = ""  # the call's, for g, where it has another name
    unsupported_hint: str = ""  # what to pass for `never` to be false, where that is no argument
    extra_guidance_flags: tuple[
        str, ...
    ] = ()  # where true, one more call on the cond rows each, for guidance of the pipeline's own


@dataclass(frozen=True)
class Family:
    """What guide() has to know about a model; all behaviour is shared."""

    name: str
    title: str  # as its makers write it
    model: str  # the denoiser's class
    checkpoint: str  # the public checkpoint that `depth` speaks of
    pipelines: Mapping[str, CallConvention]  # diffusers pipeline classes
    stacks: Mapping[
        str, Stack
    ]  # in the order in which they run; a bare int is a layer of the first one
    batched_inputs: tuple[
        str, ...
    ] = ()  # inputs of the denoiser with the batch first; needed where a pipeline is batched
    denoisers: tuple[str, ...] = (
        "transformer",
    )  # attributes of the pipeline; one of two may be None
    interleaved: bool = (
        False  # the stacks run in turn, one block of each; a bare int is one of each (see `axis`)
    )
    # Modules before the blocks that are as costly as blocks; weak passes reuse their outputs.
    cached_modules: tuple[str, ...] = ()
    injected_modules: tuple[
        tuple[str, str], ...
    ] = ()  # (ModuleList run between blocks, config name of the interval)
    outputs: tuple[str, ...] = ("video",)
    learned_variance: bool = (
        False  # out_channels may be twice the latents': prediction, then a variance
    )
    unet: UNetLayout | None = (
        None  # what the stacks of a UNet are: the layers of its down blocks, mid block and up blocks
    )
    latent_layout: str = "bcthw"  # of the denoiser's first input: grids.of_video reads the grid of the tokens from it
    text_position: str = ""  # where the text is in joint attention: "before" or "after" the video
    linear_attention: bool = False  # attention without a softmax
    fps: int = DEFAULT_FPS  # of its videos, where its call is not told
    notes: str = ""
    package: str = "diffusers"  # that has the classes
    axes: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        axes = tuple(stack.axis for stack in self.stacks.values() if stack.axis) or tuple(
            self.unet.axis_layers if self.unet else ()
        )
        object.__setattr__(self, "axes", axes)

    @property
    def traits(self) -> set[str]:
        """What weakening a layer may need, of kinds.LACKING."""
        has = {
            "attention": all(stack.attention for stack in self.stacks.values()),
            "softmax": not self.linear_attention, "grid": bool(self.latent_layout),
            "time": self.latent_layout != "bchw",
            "joint": not self.axes,
        }  # fmt: skip
        return {name for name, there in has.items() if there}


Entry = tuple[nn.Module, str]  # (parent, name of its child)
