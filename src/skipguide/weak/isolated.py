"""Attend from each frame, or from each token, of a video to itself and the text only.

What is returned is that of torch's attention under a mask of all pairs, without such a mask, which
would be as large as the map; the text sees all. The tokens of the video stand in a row, with those
of the text before or after them."""

from __future__ import annotations

import math

import torch

from skipguide.method.protocols import Inputs

Tensor = torch.Tensor
SDPACall = Inputs  # arguments of scaled_dot_product_attention, by name
# Kept from the import on: a function that somebody puts in its place later is not intercepted.
SDPA = torch.nn.functional.scaled_dot_product_attention
_QUERIES_AT_ONCE = 4096  # of tokens alone, whose scores are in float32


def attend_frames(call: SDPACall, video: slice, frames: int) -> Tensor:
    """Attend from each frame to itself and the text only.

    Frames are put into the batch, so that this is less work than joint attention. (CAG's code sets
    the entries between frames to zero after the softmax, so that the rest sums to less than 1.)

    Args:
        call: of torch's attention; its query is `(B, heads, N, width)`.
        video: the tokens of the video among the N.
        frames: how many there are.
    """
    mask = call.get("attn_mask")
    own = {name: _split_frames(call[name], video, frames) for name in ("query", "key", "value")}
    for name in ("key", "value"):
        text = _remove_video(call[name], video, -2)
        own[name] = torch.cat([own[name], text.repeat_interleave(frames, 0)], -2)
    rest = {
        name: value
        for name, value in call.items()
        if name not in ("query", "key", "value", "attn_mask")
    }
    output = SDPA(
        **own,
        attn_mask=None if mask is None else _split_mask(mask, video, frames, len(call["query"])),
        **rest,
    )
    output = output.unflatten(0, (-1, frames)).transpose(1, 2).flatten(2, 3)
    return _join_text(call, video, output)


def attend_tokens(call: SDPACall, video: slice) -> Tensor:
    """Attend from each token to itself and the text only, which PAG for SD3 does.

    Args:
        call: of torch's attention; its query is `(B, heads, N, width)`.
        video: the tokens of the video among the N.
    """
    query = call["query"][..., video, :]
    shared = query.shape[-3] // call["key"].shape[-3]  # heads of queries for one of keys
    key, value = (call[name].float().repeat_interleave(shared, -3) for name in ("key", "value"))
    own_key, own_value = key[..., video, :], value[..., video, :]
    text_key, text_value = (_remove_video(states, video, -2) for states in (key, value))
    bias = _bias_of_tokens(call.get("attn_mask"), video)
    scale = call.get("scale") or 1 / math.sqrt(query.shape[-1])
    output = torch.empty_like(own_value)
    for first in range(0, query.shape[-2], _QUERIES_AT_ONCE):
        part = slice(first, first + _QUERIES_AT_ONCE)
        rows = query[..., part, :].float() * scale
        own_scores = (rows * own_key[..., part, :]).sum(-1, keepdim=True)
        scores = torch.cat([own_scores, rows @ text_key.mT], -1)
        if bias is not None:
            scores = scores + (bias[..., part, :] if bias.shape[-2] > 1 else bias)
        weights = scores.softmax(-1)
        if bias is not None:
            weights = weights.nan_to_num(0.0)  # of a token that sees nothing, as torch has it
        output[..., part, :] = (
            weights[..., :1] * own_value[..., part, :] + weights[..., 1:] @ text_value
        )
    return _join_text(call, video, output.to(query.dtype))


def _bias_of_tokens(mask: Tensor | None, video: slice) -> Tensor | None:
    """Return what is added to the scores of each token with itself and with the text.

    Its shape is `(B or 1, 1 or heads, 1 or tokens, 1 + text)`."""
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, -math.inf)
    mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape).float()
    if mask.shape[-2] == 1:
        own = mask[..., video].mT
        text = _remove_video(mask, video, -1).expand(*own.shape[:-1], -1)
    else:
        rows = mask[..., video, :]
        own = rows[..., video].diagonal(dim1=-2, dim2=-1)[..., None]
        text = _remove_video(rows, video, -1)
    return torch.cat([own, text], -1)


def _join_text(call: SDPACall, video: slice, output: Tensor) -> Tensor:
    """Put what the tokens of the text get, which see all, beside what those of the video got."""
    query, mask = call["query"], call.get("attn_mask")
    if output.shape[-2] == query.shape[-2]:
        return output
    rows = mask if mask is None or mask.shape[-2] == 1 else _remove_video(mask, video, -2)
    text = SDPA(**{**call, "query": _remove_video(query, video, -2), "attn_mask": rows})
    return torch.cat([text, output] if video.start else [output, text], -2)


def _split_frames(states: Tensor, video: slice, frames: int) -> Tensor:
    """Turn `(B, heads, N, width)` into `(B * frames, heads, tokens of a frame, width)`."""
    return states[..., video, :].unflatten(-2, (frames, -1)).transpose(1, 2).flatten(0, 1)


def _remove_video(states: Tensor, video: slice, dim: int) -> Tensor:
    """Return what is beside the video along a dimension."""
    size = states.shape[dim]
    return torch.cat(
        [states.narrow(dim, 0, video.start), states.narrow(dim, video.stop, size - video.stop)], dim
    )


def _split_mask(mask: Tensor, video: slice, frames: int, batch: int) -> Tensor:
    """Return the mask of the keys that a frame sees.

    Its shape is `(B * frames, 1 or heads, 1 or tokens of a frame, tokens of a frame + text)`."""
    mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
    mask = mask.expand(batch, *mask.shape[1:])
    if mask.shape[-2] == 1:
        mask = mask[..., None, :, :].expand(*mask.shape[:2], frames, *mask.shape[2:])
    else:
        mask = mask[..., video, :].unflatten(-2, (frames, -1))
    keys = mask[..., video].unflatten(-1, (frames, -1))  # (B, heads, frames, rows, frames, tokens)
    own = keys.diagonal(dim1=2, dim2=4).movedim(-1, 2)
    return torch.cat([own, _remove_video(mask, video, -1)], -1).transpose(1, 2).flatten(0, 1)
