"""Change a self-attention where torch multiplies queries and keys: a softened map, blurred queries,
frames or tokens that do not see each other.

The real attention module runs, norms and rotary embeddings included, but its call of torch's
`scaled_dot_product_attention` is intercepted and given other queries, another mask, or another
result. Every processor of diffusers with a native backend ends in that call. It runs outside of
compiled code."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from skipguide.method import perturbations
from skipguide.weak import context_parallel, isolated, patching, token_grid
from skipguide.weak.isolated import SDPA, SDPACall
from skipguide.weak.step_context import StepContext

Tensor = torch.Tensor


_INFINITE_BLUR = 9999.0  # a larger sigma is an infinite one, as in SEG's code


# --- attention ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AttentionView:
    """The tokens that one attention sees.

    Args:
        step_context: of its denoiser.
        axis: the axis along which it attends; None for all of the video.
        text_position: "before" or "after" the video where it sees text too.
        audio: it sees sound instead of a video: tokens in a row.
    """

    step_context: StepContext
    axis: str | None
    text_position: str = ""
    audio: bool = False

    def video_tokens(self, tokens: int) -> tuple[int, token_grid.TokenGrid]:
        """Return (first token, grid) of the video's tokens among those that it sees.

        Args:
            tokens: how many it sees.

        Raises:
            ValueError: if the video's tokens lie on no grid.
        """
        grid = (
            (tokens,)
            if self.audio
            else token_grid.attention_token_grid(self.step_context.grid, self.axis, tokens)
        )
        count = None if grid is None else math.prod(grid)
        if (
            grid is None
            or count is None
            or count > tokens
            or (count < tokens and not self.text_position)
        ):
            known = "is not known" if grid is None else f"is {' x '.join(map(str, grid))}"
            raise ValueError(
                "this skip needs a video or image whose tokens lie on one grid, but an attention of"
                f" this run sees {tokens} tokens, and the grid {known} (conditions beside it are"
                ' not on it). Use skip="residual", "attention", "soft" or "shuffle".'
            )
        return tokens - count if self.text_position == "before" else 0, grid


AttentionEdit = Callable[[SDPACall, AttentionView, "float | None"], Tensor]


class InterceptedAttention(patching.ModuleProxy):
    """The real self-attention, with an edit of ATTENTION_EDITS in the place of torch's call.

    Args:
        real: the attention module.
        skip: the kind, a key of ATTENTION_EDITS; "attention" too where heads are given.
        view: what the attention sees.
        strength: of the term; None is the kind's own meaning of it, an infinite one.
        heads: those that are edited; None is all of them.
    """

    def __init__(
        self, real: torch.nn.Module, skip: str, view: AttentionView, strength: float | None,
        heads: Sequence[int] | None = None,
    ):  # fmt: skip
        edit = ATTENTION_EDITS[skip] if heads is None else _edit_heads(_EDITS_OF_HEADS[skip], heads)
        # not as `heads`, which a block may ask its attention for
        super().__init__(
            real, edit=edit, view=view, strength=strength, skip=skip, edited_heads=heads
        )
        self.__dict__["forward"] = torch.compiler.disable(self._run_intercepted)

    def _run_intercepted(self, *args: Any, **kwargs: Any) -> Any:
        _check_sees_tokens_in_order(self.real, self.skip, self.view)
        _check_sees_all_heads(self.real, self.edited_heads)
        with InterceptSDPA(lambda call: self.edit(call, self.view, self.strength)) as caught:
            output = self.real(*args, **kwargs)
        if not caught.calls:
            raise RuntimeError(
                "this skip needs an attention that calls torch's scaled_dot_product_attention, but"
                f" a {type(self.real).__name__} did not call it. Choose diffusers' native attention"
                ' backend and a processor that uses it, or skip="residual" or "attention".'
            )
        return output


def _check_sees_tokens_in_order(real: torch.nn.Module, skip: str, view: AttentionView) -> None:
    """Check that torch's call has all tokens, each once, and those of the video in a row.

    Raises:
        ValueError: where context parallelism hands them to it in another way.
    """
    config = context_parallel.parallel_config(real)
    if config is None:
        return
    needs_grid = "grid" in perturbations.PERTURBATIONS[skip].required_traits
    if config.ring_degree > 1:
        came = "in ring attention it sees one part of the keys at a time"
        other = "Use ulysses_degree without ring_degree"
    elif needs_grid and (view.text_position or view.audio):
        came = (
            "under context parallelism it sees shares of the video with text or sound between them"
        )
        other = 'Use skip="soft", "residual", "attention" or "shuffle"'
    else:
        return
    raise ValueError(
        f'skip="{skip}" needs an attention that sees all tokens of the video in a row, but {came}.'
        f" {other}, or run in one process."
    )


def _check_sees_all_heads(real: torch.nn.Module, heads: Sequence[int] | None) -> None:
    """Check that torch's call has every head, which context parallelism divides or calls in parts.

    Raises:
        ValueError: where heads are named and it has not.
    """
    if heads is not None and context_parallel.parallel_config(real) is not None:
        raise ValueError(
            "heads of a layer need an attention that has all of them in one process, but context"
            f" parallelism divides those of this {type(real).__name__}. Name the layer without"
            " heads, or run in one process."
        )


class InterceptSDPA(TorchFunctionMode):
    """Hands calls of torch's attention to `edit`; all other functions run as they are."""

    def __init__(self, edit: Callable[[SDPACall], Tensor]):
        super().__init__()
        self.edit, self.calls = edit, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not SDPA:
            return func(*args, **(kwargs or {}))
        self.calls += 1
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        return self.edit({**dict(zip(names, args, strict=False)), **(kwargs or {})})


def _edit_heads(edit: AttentionEdit, heads: Sequence[int]) -> AttentionEdit:
    """Return an edit of some heads; what the others return is that of the real attention."""

    def edit_some(call: SDPACall, view: AttentionView, strength: float | None) -> Tensor:
        output = SDPA(**call)  # (B, heads, N, width)
        edited = edit(_select_heads(call, heads), view, strength)
        for n, head in enumerate(heads):  # not by a list of them, which would go to the device
            output[..., head, :, :] = edited[..., n, :, :]
        return output

    return edit_some


def _select_heads(call: SDPACall, heads: Sequence[int]) -> SDPACall:
    """Return a call of some heads alone; several of them may have keys and values in common."""
    count = call["query"].shape[-3]
    found = {**call, "enable_gqa": False} if "enable_gqa" in call else dict(call)
    for name in ("query", "key", "value", "attn_mask"):
        tensor = call.get(name)
        if tensor is None or tensor.ndim < 3 or (name == "attn_mask" and tensor.shape[-3] == 1):
            continue
        shared = count // tensor.shape[-3]
        found[name] = torch.stack([tensor[..., head // shared, :, :] for head in heads], -3)
    return found


def _keep_values(call: SDPACall, view: AttentionView, _: float | None) -> Tensor:
    """Return V, what is left where the map is the identity."""
    value, heads = call["value"], call["query"].shape[-3]
    return value.repeat_interleave(heads // value.shape[-3], -3)


def _soften_map(call: SDPACall, view: AttentionView, strength: float | None) -> Tensor:
    """Return ((1 - a) A + a I) V = (1 - a) A V + a V for the map A and the strength a."""
    assert strength is not None
    value, output = call["value"], SDPA(**call)
    if value.shape[-3] != output.shape[-3]:  # several heads of queries for one of values
        value = value.repeat_interleave(output.shape[-3] // value.shape[-3], -3)
    return output.lerp(value, strength)


def _blur_queries(call: SDPACall, view: AttentionView, sigma: float | None) -> Tensor:
    """Attend with blurred queries of the video; those of a text stay."""
    query = call["query"]  # (B, heads, N, width)
    start, grid = view.video_tokens(query.shape[-2])
    end = start + math.prod(grid)
    video = query[..., start:end, :]
    if sigma is None or sigma > _INFINITE_BLUR:
        blurred = video.float().mean(-2, keepdim=True).to(query.dtype).expand_as(video)
    else:
        blurred = _blur_grid(video.float().unflatten(-2, grid), sigma, view.step_context).flatten(
            -1 - len(grid), -2
        )
    parts = [query[..., :start, :], blurred.to(query.dtype), query[..., end:, :]]
    return SDPA(**{**call, "query": torch.cat(parts, -2)})


def _blur_grid(cube: Tensor, sigma: float, step_context: StepContext) -> Tensor:
    """Blur `(B, heads, *grid, width)` along each dimension of the grid."""
    for dim in (dim for dim in range(2, cube.ndim - 1) if cube.shape[dim] > 1):
        cube = (
            cube.movedim(dim, -1) @ step_context.blur_matrix(cube.shape[dim], sigma, cube.device).mT
        ).movedim(-1, dim)
    return cube


def _isolate_frames(call: SDPACall, view: AttentionView, _: float | None) -> Tensor:
    """Attend from each frame to itself and the text only."""
    start, grid = view.video_tokens(call["query"].shape[-2])
    if grid[0] == 1 and not view.audio:
        raise ValueError(
            'skip="frames" needs a video of several frames in the latents, but this one has one.'
            " Use another skip."
        )
    return isolated.attend_frames(call, slice(start, start + math.prod(grid)), grid[0])


def _isolate_tokens(call: SDPACall, view: AttentionView, _: float | None) -> Tensor:
    """Attend from each token to itself and the text only."""
    start, grid = view.video_tokens(call["query"].shape[-2])
    return isolated.attend_tokens(call, slice(start, start + math.prod(grid)))


ATTENTION_EDITS: Mapping[str, AttentionEdit] = {
    "soft": _soften_map, "blur": _blur_queries, "frames": _isolate_frames,
    "tokens": _isolate_tokens,
}  # fmt: skip
# All heads of "attention" together need no queries and no keys: patching.IdentityAttention.
_EDITS_OF_HEADS = {**ATTENTION_EDITS, "attention": _keep_values}
