"""What guided pipelines are compared with: the formula by hand, from one full forward pass per
prediction.

Nothing here uses skipguide. The pipeline is diffusers' own, unmodified; its denoiser is wrapped
twice over:

`Listener` runs the real denoiser and keeps what the pipeline calls it with and what it returns: c,
u and the inputs. `Player` returns prescribed predictions in the place of the denoiser's: D for cond
and for uncond, of which the pipeline's own CFG makes D + g (D - D) = D, and carries on from there
exactly as it does with a prediction of its own.

A weak model is the peers' way: the block is run and its output thrown away for its input
(residual), or its self-attention is run as it is, under a mask that leaves each token only itself
(attention)."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from support.tiny.base import Tiny

Tensor = torch.Tensor


@dataclasses.dataclass
class Call:
    """One call of a denoiser by a pipeline."""

    model: nn.Module
    kwargs: dict[str, Any]
    output: Any

    @property
    def batch(self) -> int:
        first = next(name for name in ("sample", "hidden_states", "x") if name in self.kwargs)
        return len(self.kwargs[first])

    def rows(self, which: slice) -> dict[str, Any]:
        """The inputs of some samples, where the first dimension is the batch of this call, or a
        multiple of it."""

        def taken(name: str, value: Any) -> Any:
            if isinstance(value, dict):
                return {key: taken(name, item) for key, item in value.items()}
            if isinstance(value, list) and name in LISTED:
                return value[which]
            if isinstance(value, (list, tuple)) and name in NESTED:
                return type(value)(taken(name, item) for item in value)
            if not torch.is_tensor(value) or not value.ndim or name in NOT_ROWS:
                return value
            if name in BATCH_SECOND:
                return value[:, which]
            if name in PER_FRAME and "sample" in self.kwargs:
                return value.unflatten(0, (self.batch, -1))[which].flatten(0, 1)
            return value[which] if len(value) == self.batch else value

        return {name: taken(name, value) for name, value in self.kwargs.items()}


BATCH_SECOND = {"encoder_hidden_states_llama3"}  # HiDream's, by layers of its text encoder
LISTED = {"x", "cap_feats"}  # an entry for each row
NOT_ROWS = {"ofs", "control_hidden_states_scale", "padding_mask", "img_ids", "txt_ids"}
NESTED = {
    "added_cond_kwargs",
    "block_controlnet_hidden_states",
    "controlnet_block_samples",
    "down_block_additional_residuals",
}
# of a UNet: AnimateDiff repeats its text, and what its ControlNets found, for every frame
PER_FRAME = {
    "encoder_hidden_states",
    "down_block_additional_residuals",
    "mid_block_additional_residual",
}


def samples(output: Any) -> list[Tensor]:
    if torch.is_tensor(output):
        return [output]
    found = list(output) if isinstance(output, tuple) else list(output.values())
    return [torch.stack(v) if isinstance(v, list) else v for v in found if v is not None]


def run(tiny: Tiny, **changes: Any) -> Any:
    """The latents of a short run (video and audio together where there are both)."""
    call = {"generator": torch.Generator().manual_seed(0), **tiny.call, **changes}
    result = tiny.pipe(**call)
    return torch.cat(
        [
            part.flatten()
            for part in tensors(
                list(result) if isinstance(result, tuple) else list(result.values())
            )
        ]
    )


def tensors(value: Any) -> list[Tensor]:
    """Those in nested lists of tensors and arrays."""
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors(item)]
    return (
        [torch.as_tensor(value)] if torch.is_tensor(value) or isinstance(value, np.ndarray) else []
    )


@contextlib.contextmanager
def listening(tiny: Tiny) -> Iterator[list[Call]]:
    """Collects the calls that the pipeline makes."""
    heard: list[Call] = []

    def hear(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        import inspect

        bound = inspect.signature(model.forward).bind(*args, **kwargs).arguments
        inputs = {k: v.clone() if torch.is_tensor(v) else v for k, v in bound.items()}
        heard.append(Call(model, inputs, output))

    hooks = [m.register_forward_hook(hear, with_kwargs=True) for m in models(tiny)]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def playing(tiny: Tiny, returns: Sequence[list[Tensor]]) -> Iterator[None]:
    """The first calls return what is given (their number of tensors each), the others what the
    denoiser says."""
    left = list(returns)

    def play(model: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        if not left:
            return None
        given = left.pop(0)
        if torch.is_tensor(output):
            return given[0]
        if isinstance(output, tuple) and isinstance(output[0], list):
            return (list(given[0]),)
        if isinstance(output, tuple):
            return (*given, *output[len(given) :])
        return type(output)(**dict(zip(output, given, strict=False)))

    hooks = [m.register_forward_hook(play, with_kwargs=True) for m in models(tiny)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def models(tiny: Tiny) -> list[Any]:
    return [m for name in tiny.denoisers if (m := getattr(tiny.pipe, name)) is not None]


# --- weak models ----------------------------------------------------------------------------------


def thrown_away(block: nn.Module) -> None:
    """Eq. 15, the expensive way: the block runs, and its input is returned."""

    def give_back(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        inputs = [*args, *kwargs.values()]
        if not isinstance(output, tuple):
            return inputs[0]
        # SD3 and Flux return the text first, which their shapes tell; HiDream's is not the second
        left = [one for one in inputs if torch.is_tensor(one)]
        return tuple(one if one is None else take_alike(one, left) for one in output)

    block.register_forward_hook(give_back, with_kwargs=True)


def take_alike(wanted: Tensor, left: list[Tensor]) -> Tensor:
    """The first tensor with the shape of another, which is taken out of the list."""
    return left.pop(next(i for i, one in enumerate(left) if one.shape == wanted.shape))


def masked(attention: nn.Module, sees_both: bool = False) -> None:
    """Eq. 17, the expensive way: softmax attention as it is, under a mask that leaves each token
    only itself.

    If sees_both, that is left alone in calls in which it is cross-attention.
    """
    usual = torch.nn.functional.scaled_dot_product_attention

    def identity(query: Tensor, key: Tensor, value: Tensor, **kwargs: Any) -> Tensor:
        kwargs = {
            **kwargs,
            "attn_mask": torch.eye(query.shape[-2], key.shape[-2], dtype=torch.bool),
        }
        return usual(query, key, value, **kwargs)

    def on(_: nn.Module, __: Any, kwargs: dict[str, Any]) -> None:
        if (
            not sees_both or kwargs.get("encoder_hidden_states") is None
        ):  # then it is self-attention too
            torch.nn.functional.scaled_dot_product_attention = identity

    def off(*_: Any) -> None:
        torch.nn.functional.scaled_dot_product_attention = usual

    if "Linear" in type(getattr(attention, "processor", None)).__name__:
        attention.processor = LinearIdentity()  # type: ignore[assignment]
        return
    attention.register_forward_pre_hook(on, with_kwargs=True)
    attention.register_forward_hook(off, always_call=True)


class LinearIdentity:
    """Linear attention has no softmax to mask: its map, written out as a matrix, and that matrix is
    the identity."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, rotary_emb: Any = None, **_: Any
    ) -> Tensor:
        value = attn.to_v(hidden_states).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        attention_map = torch.eye(value.shape[2])
        return attn.to_out[0]((attention_map @ value).transpose(1, 2).flatten(2))


def weakened(
    model: nn.Module, layers: Sequence[str], skip: str, attentions: Sequence[str]
) -> nn.Module:
    """A copy of a model in which blocks, named by their path, are skipped."""
    weak = copy.deepcopy(model)
    for layer in layers:
        block = weak.get_submodule(layer)
        if skip == "residual":
            thrown_away(block)
        there = dict(block.named_modules())
        for name in attentions if skip == "attention" else ():
            if name in there:
                masked(there[name], sees_both=name == "attn2")
    return weak


@dataclasses.dataclass
class Layer:
    """A layer of a UNet by its parts: paths of modules, of a spatial and of a temporal half where
    it has them."""

    halves: dict[str, list[str]] = dataclasses.field(
        default_factory=dict
    )  # what one half returns its input in
    blocks: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # its transformer blocks
    whole: list[str] = dataclasses.field(
        default_factory=list
    )  # what all of it returns its input in

    def skipped(self, skip: str, axis: str | None) -> list[str]:
        """The modules that return their input, or the transformer blocks whose self-attentions see
        each token alone."""
        if skip == "residual" and axis is None:
            return self.whole
        parts = self.halves if skip == "residual" else self.blocks
        return [path for name, paths in parts.items() if axis in (None, name) for path in paths]


def layers_of_unet(unet: Any) -> dict[str, Layer]:
    """By address: the places for transformers on the way down, in the middle and on the way up,
    counted in each."""
    if type(unet).__name__ == "UNet2DConditionModel":
        return blocks_of_image_unet(unet)
    found: dict[str, Layer] = {}
    down = [f"down_blocks.{i}" for i in range(len(unet.down_blocks))]
    up = [f"up_blocks.{i}" for i in range(len(unet.up_blocks))]
    for part, blocks in {"down": down, "mid": ["mid_block"], "up": up}.items():
        count = 0
        for path in blocks:
            block = unet.get_submodule(path)
            spatial, temporal = (
                next((f"{path}.{name}" for name in names if hasattr(block, name)), None)
                for names in (["attentions"], ["motion_modules", "temp_attentions"])
            )
            for i in range(
                len(unet.get_submodule(spatial or temporal)) if spatial or temporal else 0
            ):
                found[f"{part}:{count}"] = layer_of_unet(
                    unet, *(p and f"{p}.{i}" for p in (spatial, temporal))
                )
                count += 1
    return found


def layer_of_unet(unet: Any, spatial: str | None, temporal: str | None) -> Layer:
    """From the paths of the modules at one place."""

    def blocks(path: str, name: str = "transformer_blocks") -> list[str]:
        return [f"{path}.{name}.{i}" for i in range(len(unet.get_submodule(f"{path}.{name}")))]

    if spatial and hasattr(
        unet.get_submodule(spatial), "temporal_transformer_blocks"
    ):  # SVD: one module for both
        both = {
            "spatial": blocks(spatial),
            "temporal": blocks(spatial, "temporal_transformer_blocks"),
        }
        return Layer(both, both, [spatial])
    halves = {axis: [path] for axis, path in (("spatial", spatial), ("temporal", temporal)) if path}
    return Layer(
        halves,
        {axis: blocks(path) for axis, [path] in halves.items()},
        [p for [p] in halves.values()],
    )


def blocks_of_image_unet(unet: Any) -> dict[str, Layer]:
    """By address: the transformer blocks of an image UNet, counted in each part as PAG does."""
    found: dict[str, Layer] = {}
    for part in ("down", "mid", "up"):
        paths = [
            path
            for path, _ in unet.named_modules()
            if path.startswith(f"{part}_block") and path.split(".")[-2:-1] == ["transformer_blocks"]
        ]
        for count, path in enumerate(paths):
            found[f"{part}:{count}"] = Layer({"spatial": [path]}, {"spatial": [path]}, [path])
    return found


def whole_transformers(unet: Any, paths: Sequence[str]) -> list[str]:
    """The modules that return their input: a transformer all of whose blocks are named, or else the
    blocks."""
    found: dict[str, None] = {}
    for path in paths:
        transformer, _, _ = path.partition(".transformer_blocks.")
        siblings = unet.get_submodule(f"{transformer}.transformer_blocks")
        every = all(f"{transformer}.transformer_blocks.{i}" in paths for i in range(len(siblings)))
        found[transformer if every else path] = None
    return list(found)


# --- the formula ----------------------------------------------------------------------------------


@dataclasses.dataclass
class Step:
    """The predictions of one step, from the calls that the unguided pipeline makes in it."""

    calls: list[Call]
    cond: dict[str, Any]  # inputs of the cond rows
    uncond: dict[str, Any] | None  # and of the others
    c: list[Tensor]
    u: list[Tensor] | None
    batched: bool


def another_prompt(tiny: Tiny) -> dict[str, Any]:
    """Other embeddings of the positive prompts: what changes with them is cond."""

    def other(value: Any) -> Any:
        if isinstance(value, list):
            return [other(item) for item in value]
        return value + 1 if torch.is_tensor(value) and value.is_floating_point() else value

    return {
        **{k: other(v) for k, v in tiny.call.items() if f"negative_{k}" in tiny.call},
        **tiny.other,
    }


def calls_of_step(
    tiny: Tiny, i: int, played: Sequence[list[Tensor]], options: dict[str, Any]
) -> tuple[Step, int]:
    """What the pipeline calls at step i, after steps whose calls returned what is given; and the
    number of steps."""
    with listening(tiny) as heard, playing(tiny, played):
        run(tiny, **options)
    with listening(tiny) as others, playing(tiny, played):
        run(tiny, **{**options, **another_prompt(tiny)})
    rows = [changed(call, other, tiny.cond) for call, other in zip(heard, others, strict=True)]
    per_step = 2 if len(rows) > 1 and all(rows[0]) and not any(rows[1]) else 1
    here = slice(i * per_step, (i + 1) * per_step)
    return read_step(heard[here], rows[here]), len(heard) // per_step


def changed(call: Call, other: Call, name: str) -> list[bool]:
    """Per row of a call, whether another prompt changes the input `name`: then it is a cond row."""
    rows, others = call.kwargs[name], other.kwargs[name]
    if name in PER_FRAME and "sample" in call.kwargs:
        rows, others = (value.unflatten(0, (call.batch, -1)) for value in (rows, others))
    return [not torch.equal(a, b) for a, b in zip(rows, others, strict=True)]


def read_step(calls: list[Call], rows: list[list[bool]]) -> Step:
    """Sort the one or two calls of a step into cond and uncond."""
    if len(calls) == 1 and not all(rows[0]):
        half = len(rows[0]) // 2
        halves = slice(half, None), slice(half)
        if rows[0][0]:  # cond comes first in Z-Image alone
            halves = halves[::-1]
        assert sorted(rows[0], reverse=rows[0][0]) == rows[0], "a batch is made of two halves"
        both = samples(calls[0].output)
        cond, uncond = (calls[0].rows(which) for which in halves)
        c, u = ([sample[which] for sample in both] for which in halves)
        return Step(calls, cond, uncond, c, u, True)
    assert all(rows[0])
    if len(calls) == 1:
        return Step(calls, calls[0].kwargs, None, samples(calls[0].output), None, False)
    c, u = calls
    return Step(calls, c.kwargs, u.kwargs, samples(c.output), samples(u.output), False)


def guided(
    step: Step, weak: Sequence[tuple[nn.Module, Sequence[float]]], g: Sequence[Any], phi: float,
    variance: bool, orthogonalize: bool = False, keeps_length: bool = False,
) -> list[Tensor]:  # fmt: skip
    """D, per output: u + g (c - u) + sum s (c - p), rescaled per sample. By numpy, in double
    precision."""
    with torch.no_grad():
        outputs = [
            [p[:, : c.shape[1]] for p, c in zip(samples(model(**step.cond)), step.c, strict=True)]
            for model, _ in weak
        ]
    found = []
    for k, c in enumerate(step.c):
        c64 = c.double().numpy()
        D = (
            c64
            if step.u is None
            else step.u[k].double().numpy() + g[k] * (c64 - step.u[k].double().numpy())
        )
        channels = slice(0, D.shape[1] // 2 if variance else None)
        terms = [
            (scales[k], c64 - p[k].double().numpy())
            for (_, scales), p in zip(weak, outputs, strict=True)
        ]
        differences = [difference for s, difference in terms if s]
        if orthogonalize:
            differences = [rest_of(d, differences[:n], channels) for n, d in enumerate(differences)]
        for s, difference in zip([s for s, _ in terms if s], differences, strict=True):
            D = D + s * difference
        for sample, x in zip(D[:, channels], c64[:, channels], strict=True):  # views: D changes
            sample[:] *= phi * np.std(x, ddof=1) / np.std(sample, ddof=1) + 1 - phi
        if keeps_length and step.u is not None:
            lengths = [np.linalg.norm(x, axis=-1, keepdims=True) for x in (c64, D)]
            D = D * lengths[0] / lengths[1]
        found.append(torch.from_numpy(D).to(c.dtype))
    return found


def rest_of(difference: np.ndarray, before: Sequence[np.ndarray], channels: slice) -> np.ndarray:
    """Eq. 21: per sample, without what the ones before it explain of it, by least squares over some
    channels."""
    rest = difference.copy()
    for n in range(len(rest) if before else 0):
        columns = np.stack([other[n][channels].ravel() for other in before], axis=1)
        found = np.linalg.lstsq(columns, rest[n][channels].ravel(), rcond=1e-12)[0]
        rest[n] -= sum(factor * other[n] for factor, other in zip(found, before, strict=True))
    return rest


@dataclasses.dataclass
class Term:
    """A weak model by hand."""

    layers: Sequence[str]  # paths of blocks
    skip: str
    scales: Sequence[float]  # per output
    start: float = 0.0
    stop: float = 1.0


def by_hand(
    tiny: Tiny, terms: Sequence[Term], attentions: Sequence[str], phi: float = 0.0,
    slg: Term | None = None, orthogonalize: bool = False, heard: dict[str, Any] | None = None,
    **options: Any,
) -> Tensor:  # fmt: skip
    """The latents of a run guided by the formula, step by step, in separate full passes; u from a
    weak model if slg.

    Args:
        heard: where the calls of the first step are kept, which are the same for all terms. The
            caller of several runs that hands in one dictionary vouches that the pipeline and the
            options stay as they are.
    """
    options = {**tiny.short, **options}
    heard = {} if heard is None else heard
    played: list[list[Tensor]] = []
    copies: dict[tuple[int, int], nn.Module] = {}

    def weak(model: nn.Module, term: Term) -> nn.Module:
        if (id(model), id(term)) not in copies:
            copies[id(model), id(term)] = weakened(model, term.layers, term.skip, attentions)
        return copies[id(model), id(term)]

    i, steps = 0, 1
    while i < steps and (i == 0 or slg is not None or any(i / steps < term.stop for term in terms)):
        found = heard.get("first") if i == 0 else None
        step, steps = found or calls_of_step(tiny, i, played, options)
        if i == 0:
            heard["first"] = step, steps
        step = only_latents(tiny, step)
        model, active = (
            step.calls[0].model,
            [term for term in terms if term.start <= i / steps < term.stop],
        )
        if slg is not None and step.uncond is not None:
            with torch.no_grad():
                step = dataclasses.replace(step, u=samples(weak(model, slg)(**step.uncond)))
                step = only_latents(tiny, step)
        passes = [(weak(model, term), term.scales) for term in active]
        g = scales_of(tiny, model, options)
        D = guided(
            step, passes, g, phi if active or slg else 0.0, tiny.variance, orthogonalize,
            tiny.keeps_length,
        )  # fmt: skip
        played += [[torch.cat([d, d]) for d in D] if step.batched else D] * len(step.calls)
        i += 1
    with playing(tiny, played):
        return run(tiny, **options)


def only_latents(tiny: Tiny, step: Step) -> Step:
    """The step without the predictions of tokens that are no latents."""
    if not tiny.tokens:
        return step
    c, u = ([s[:, : tiny.tokens] for s in found] for found in (step.c, step.u or []))
    return dataclasses.replace(step, c=c, u=u or None)


def scales_of(tiny: Tiny, model: nn.Module, options: dict[str, Any]) -> list[Any]:
    """g for video and audio. Wan 2.2 has another for its second transformer, SVD one for each
    frame; some pipelines leave it to a guider."""
    if hasattr(tiny.pipe, "guider"):
        return [tiny.pipe.guider.guidance_scale] * 2
    call = {**tiny.call, **options}
    if tiny.g == "max_guidance_scale":
        frames = np.linspace(
            call["min_guidance_scale"], call["max_guidance_scale"], call["num_frames"]
        )
        return [frames.reshape(1, -1, 1, 1, 1)]
    g = call.get(tiny.g, 1.0)
    if model is not models(tiny)[0]:
        g = call.get(f"{tiny.g}_2") or g
    return [g + tiny.g_plus, (call.get(f"audio_{tiny.g}") or g) + tiny.g_plus]
