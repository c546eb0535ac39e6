"""The fields of a family's row.

A row is data; the code that uses it is the same for all families. `rows.py` has the rows, and
docs/add-a-family.md tells how to write one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

DEFAULT_FPS = 24
# What an attention returns when its map is the identity: (attention, *inputs) -> output.
ValueProjection = Callable[..., Any]
Entry = tuple[nn.Module, str]  # (parent, name of its child)


@dataclass(frozen=True)
class TextAttention:
    """Name the attention of a block in which the video attends to the text, and its inputs.

    Guidance by a negative prompt (NAG) acts there.

    In cross-attention the text is an argument of the block, the same for all of them. In joint
    attention it is a stream, which every block changes.

    Args:
        path: of the attention in the block.
        inputs: the arguments of the block that come from the text, by the names of the attention's
            arguments that they are handed on as; of joint attention those beside the stream.
        stream: the stream of the block that is the text; "" for cross-attention.
        output: path in the attention of the projection W_o that the joined heads enter; "" where
            the attention returns them as they are.
        has_text: the text's tokens enter W_o together with those of the video.
        image_values: the projections to values of an image, whose attention is added to that of
            the text before W_o; NAG leaves it as it is.
        video_only: modules of the block whose results reach the video alone.
    """

    path: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    stream: str = ""
    output: str = "to_out.0"
    has_text: bool = False
    image_values: tuple[str, ...] = ()
    video_only: tuple[str, ...] = ()


@dataclass(frozen=True)
class NegativePrompt:
    """Describe how the negative prompt of a pipeline's call becomes inputs of the denoiser (NAG).

    Args:
        inputs: the denoiser's inputs that come from the text, each with the name of what it is.
        encoded: what the pipeline's `encode_prompt` returns, by the names that it has in the
            pipeline's `__call__`; "" is of no use here.
        finish: makes what `inputs` names of the pipeline and that; None where it is the same.
        as_prompt: `encode_prompt` takes one text, so the negative prompt is handed over as prompt.
        every_step: what the blocks get of the text depends on the timestep.
    """

    inputs: Mapping[str, str]
    encoded: tuple[str, ...]
    finish: Callable[[Any, Mapping[str, Any]], Mapping[str, Any]] | None = None
    as_prompt: bool = False
    every_step: bool = False


@dataclass(frozen=True)
class Stack:
    """A ModuleList of blocks that run one after the other.

    Args:
        path: where the list is on the denoiser.
        depth: how many blocks it has in the public checkpoint.
        streams: the inputs of a block that carry state from block to block, that of the video (or
            image) first. They come first in its signature.
        returns: the streams in the order in which a block returns them, where it is another one.
        attention: the self-attentions of a block by their paths in it, and for each the function of
            `identity_attention.py` that computes it with the identity map.
        axis: "spatial" or "temporal" where attention is factorized, None where it is joint.
        token_layout: how the tokens of `streams[0]` lie that the block's attention sees; as for
            `weak.shuffle.ShuffleTokens`. "joint": the text's are among them.
        audio: those of `attention` that see sound instead of a video.
        text: where a block attends to the text; none where NAG is not offered.
        isolation: the modules of a block without which video and sound do not see each other, if
            each of them returns zero.
    """

    path: str
    depth: int
    streams: tuple[str, ...]
    attention: Mapping[str, ValueProjection]
    axis: str | None = None
    token_layout: str = ""
    audio: tuple[str, ...] = ()
    text: tuple[TextAttention, ...] = ()
    isolation: tuple[str, ...] = ()
    returns: tuple[str, ...] = ()

    def as_returned(self, state: Sequence[Any]) -> tuple[Any, ...]:
        """Return the streams, which come in the order of `streams`, as a block returns them."""
        return tuple(state[self.streams.index(name)] for name in self.returns or self.streams)

    def position_returned(self, stream: str) -> int:
        """Return the position of a stream in what a block returns."""
        return (self.returns or self.streams).index(stream)


@dataclass(frozen=True)
class AxisLayers:
    """The spatial or the temporal half of the transformer layers of a UNet.

    Args:
        modules: the list of a UNet block that holds them.
        blocks: the list of transformer blocks in each of them.
        attention: the self-attentions of a transformer block.
        token_layout: as in Stack.
    """

    modules: str
    blocks: str
    attention: tuple[str, ...]
    token_layout: str = ""


@dataclass(frozen=True)
class UNetLayout:
    """The modules that make up the blocks of a UNet.

    Layer i of a part (down, mid, up) is the i-th place for transformers in the blocks of the part.

    Args:
        module_order: the lists of a block whose i-th modules run one after the other.
        axis_layers: the halves of a layer by their axes, in the order in which they run.
        is_divided: there is one axis, and layer i is the i-th block inside of the transformers,
            which may have several each. PAG, SEG and TPG count like this.
    """

    module_order: tuple[str, ...]
    axis_layers: Mapping[str, AxisLayers]
    is_divided: bool = False


@dataclass(frozen=True)
class CallConvention:
    """The calls that a pipeline makes of its denoiser in one step, and its formula for CFG.

    A flag or a scale is named; the name is a property of the pipeline, or a variable in its
    `__call__` while it runs.

    Args:
        cfg_mode: "batched", one call on [uncond, cond]; "separate", one for cond and one for
            uncond; "guider", as the pipeline's guider asks for; "none", one for cond, where a
            pipeline has no CFG at all.
        cond_first: a batch is [cond, uncond].
        float32_prediction: in a run in half precision the pipeline accepts predictions in float32,
            so that the guidance is not rounded before CFG.
        cfg_flag: whether CFG is on.
        cfg_off_flag: a variable of the loop that is true at steps which leave CFG out; "" for none.
        scale_names: the scale g at this step, one for each output of the denoiser.
        scale_from_cond: the formula is c + g (c - u) instead of u + g (c - u).
        unsupported_flag: where this is true, the pipeline has a formula of its own, by which D
            cannot be handed over.
        unsupported_hint: the argument that makes `unsupported_flag` false, where the flag itself is
            no argument.
        dynamic_scale_flag: where this is true, g changes after the denoiser was called, and is not
            known at that time.
        rescale_names: the pipeline's own guidance_rescale for each output; it refers to the
            deviation of c.
        scale_argument: the argument of the call that sets g, where its name is another.
        extra_guidance_flags: for each that is true, the pipeline calls the denoiser once more on
            the cond rows, for guidance of its own.
        own_pass: of the variables of its call, whether it calls the denoiser once more on the cond
            rows at the step that begins; for what no flag says. The call comes even where the scale
            of `own_guidance` is 0.
        own_guidance: the scales of guidance of its own beside CFG, and the value that switches each
            off; `__call__` keeps them in attributes with an underscore before the name.
        own_guidance_argument: the argument of its call without which, or without CFG, there is no
            such guidance; "" where it is on by itself.
        cuts_tokens: the denoiser predicts tokens of other pictures after those of the latents, and
            the pipeline cuts them off.
        keeps_length: where this flag is true ("always": at every step), the pipeline gives the
            result of CFG the length of c, per place; so it must get c as it is.
        is_early: of the inputs by name, whether a call of the denoiser comes before the loop, for
            what its blocks keep, so that it is no step's; None where there are no such calls.
        negated: the pipeline hands its scheduler predictions with the other sign.
        audio_names: the variables of its call that hold the latents and the scheduler of the sound;
            () where the sound has none of its own.
    """

    cfg_mode: str
    cond_first: bool = False
    float32_prediction: bool = False
    cfg_flag: str = "do_classifier_free_guidance"
    cfg_off_flag: str = ""
    scale_names: tuple[str, ...] = ("guidance_scale",)
    scale_from_cond: bool = False
    unsupported_flag: str = ""
    dynamic_scale_flag: str = ""
    rescale_names: tuple[str, ...] = ()
    scale_argument: str = ""
    unsupported_hint: str = ""
    extra_guidance_flags: tuple[str, ...] = ()
    own_pass: Callable[[Mapping[str, Any]], bool] | None = None
    own_guidance: tuple[tuple[str, float], ...] = ()
    own_guidance_argument: str = ""
    cuts_tokens: bool = False
    keeps_length: str = ""
    audio_names: tuple[str, ...] = ()
    negated: bool = False
    is_early: Callable[[Mapping[str, Any]], bool] | None = None


@dataclass(frozen=True)
class Family:
    """All that guide() knows of a model.

    Args:
        name: as `skipguide families` and the benchmark call it.
        title: the model's name as its makers write it.
        model: the name of the denoiser's class.
        checkpoint: the public checkpoint that the depths of `stacks` are those of.
        makes: what comes out of its pipelines, "video" or "image". To guide() an image is a video
            of one frame.
        pipelines: the pipelines by the names of their classes, and how each calls the denoiser.
        stacks: the lists of blocks in the order in which they run; a layer that is a bare number is
            one of the first list. Of a UNet its parts: "down", "mid" and "up".
        batched_inputs: the inputs of the denoiser whose first dimension is the batch; needed where
            a pipeline calls it "batched".
        batched_second: those of them whose second dimension it is instead.
        listed_inputs: those of them that are lists with an entry for each row; what the denoiser
            predicts is a list as well.
        denoisers: the attributes of the pipeline that hold denoisers; one of two may be None.
        interleaved: the stacks run in turn, one block of each, and a bare number is a block of each
            (or of the one with the term's axis).
        cached_modules: modules before the blocks that cost as much as blocks; weak passes reuse
            their outputs.
        injected_modules: (path of a ModuleList that runs between blocks, name of the config entry
            that says after how many blocks each time).
        outputs: what the denoiser predicts: "video", and "audio" after it.
        long_skips: later blocks see what earlier ones returned, so that these must be kept for a
            pass that starts between them.
        learned_variance: out_channels may be twice those of the latents: a prediction, and then a
            variance, which is not guided.
        unet: what the blocks of a UNet are made of; None for stacks of blocks.
        latent_layout: the dimensions of the denoiser's first input, from which the grid of its
            tokens is read; as for `weak.token_grid.video_token_grid`.
        text_position: where the text is in joint attention, "before" or "after" the video.
        linear_attention: attention has no softmax.
        fps: frames per second of its videos, where its call is not told; None for images.
        notes: what else to know, for the tables.
        package: the package that has the classes.
        modular: Modular pipelines whose guider may be a `SkipGuidance`.
        packages: what its pipelines need that this package does not install: the names to install
            by the modules to import.
        negative: how the negative prompt reaches the denoiser; None where NAG is not offered.
        no_nag: why it is not, for errors and tables.
        axes: the axes along which it attends apart; none where attention is joint.
    """

    name: str
    title: str
    model: str
    checkpoint: str
    pipelines: Mapping[str, CallConvention]
    stacks: Mapping[str, Stack]
    batched_inputs: tuple[str, ...] = ()
    listed_inputs: tuple[str, ...] = ()
    denoisers: tuple[str, ...] = ("transformer",)
    interleaved: bool = False
    cached_modules: tuple[str, ...] = ()
    injected_modules: tuple[tuple[str, str], ...] = ()
    outputs: tuple[str, ...] = ("video",)
    batched_second: tuple[str, ...] = ()
    long_skips: bool = False
    learned_variance: bool = False
    unet: UNetLayout | None = None
    latent_layout: str = "bcthw"
    text_position: str = ""
    linear_attention: bool = False
    fps: int | None = DEFAULT_FPS
    makes: Literal["video", "image"] = "video"
    notes: str = ""
    package: str = "diffusers"
    modular: tuple[str, ...] = ()
    packages: Mapping[str, str] = field(default_factory=dict)
    negative: NegativePrompt | None = None
    no_nag: str = "where its text goes was not tried yet"
    axes: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        axes = tuple(stack.axis for stack in self.stacks.values() if stack.axis) or tuple(
            self.unet.axis_layers if self.unet else ()
        )
        object.__setattr__(self, "axes", axes)
        if self.makes == "image":
            object.__setattr__(self, "fps", None)

    @property
    def batch_dims(self) -> dict[str, int]:
        """The dimension of the batch in each of the inputs that have one."""
        return {name: int(name in self.batched_second) for name in self.batched_inputs}

    @property
    def traits(self) -> set[str]:
        """The traits that the family has, of those in `perturbations.MISSING_TRAIT_REASONS`."""
        has = {
            "attention": all(stack.attention for stack in self.stacks.values()),
            "softmax": not self.linear_attention,
            "grid": bool(self.latent_layout),
            "text": bool(self.text_position),
            "time": self.makes == "video",
            "joint": not self.axes,
        }
        return {name for name, there in has.items() if there}


def channel_dimension(family: Family) -> int:
    """Return the dimension of the channels in the latents of a family."""
    layout = family.latent_layout
    if layout == "packed":  # (B, tokens, C)
        return 2
    return layout.index("c") if layout else 1
