"""Attention with the identity map (Eq. 17), as ComfyUI's `optimized_attention_override`.

The override goes to one self-attention module for the length of a call. Counting calls of attention
instead would go wrong where another node chunks or patches attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

Tensor = torch.Tensor


def identity_attention(
    _attention: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, *_args: Any,
    skip_reshape: bool = False, skip_output_reshape: bool = False, **_kwargs: Any,
) -> Tensor:  # fmt: skip
    """Return the values, in the layout that ComfyUI asks for.

    Args:
        v: `(B, heads, N, D)` if `skip_reshape`, else `(B, N, heads D)`, or `(B, N, heads, D)` of
            SD3, as if it were flat. It may have fewer heads than q, each of which several queries
            share. What is returned has the first layout if `skip_output_reshape`, else the second.

    Raises:
        RuntimeError: if queries and keys are not the same tokens.
    """
    if not skip_reshape:
        q, v = (part.flatten(2) for part in (q, v))
    if q.shape[-2] != v.shape[-2]:
        raise RuntimeError(
            f"attention skip needs self-attention, but this layer has {q.shape[-2]} queries and"
            f" {v.shape[-2]} keys. Use residual skip for it."
        )
    if skip_reshape and v.shape[1] < heads:
        v = v.repeat_interleave(heads // v.shape[1], 1)
    if skip_reshape and not skip_output_reshape:
        return v.transpose(1, 2).flatten(2)
    if skip_output_reshape and not skip_reshape:
        return v.unflatten(2, (heads, -1)).transpose(1, 2)
    return v


def override_attention(
    module: nn.Module,
    override: Callable[..., Tensor],
    rows: Sequence[bool] = (),
    note: Callable[[], None] = lambda: None,
) -> Callable[[], None]:
    """Make an attention module use another function; return what undoes it.

    Args:
        rows: an entry for each prompt of the batch: whether its rows use it; () is all.
        note: is called when the function is used.
    """

    def add_option(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if "transformer_options" not in kwargs:
            raise RuntimeError(
                "attention skip needs a ComfyUI that passes transformer_options to"
                f" {type(module).__name__}, and this one does not, or another node calls the"
                " block in its own way. Update ComfyUI, use residual skip, or remove that node."
            )
        given = kwargs["transformer_options"] or {}
        usual = given.get("optimized_attention_override")
        options = {**given, "optimized_attention_override": _noted(override, usual, rows, note)}
        return args, {**kwargs, "transformer_options": options}

    return module.register_forward_pre_hook(add_option, with_kwargs=True).remove


def _noted(
    override: Callable[..., Tensor],
    usual: Callable[..., Tensor] | None,
    rows: Sequence[bool],
    note: Callable[[], None],
) -> Callable[..., Tensor]:
    """Return an override for some rows; the others use what another node has, or attention."""

    def attend(attention: Any, *args: Any, **kwargs: Any) -> Tensor:
        note()
        changed = override(attention, *args, **kwargs)
        if not rows or all(rows):
            return changed
        whole = usual(attention, *args, **kwargs) if usual else attention(*args, **kwargs)
        pairs = zip(changed.chunk(len(rows)), whole.chunk(len(rows)), rows, strict=True)
        return torch.cat([mine if taken else others for mine, others, taken in pairs])

    return attend
