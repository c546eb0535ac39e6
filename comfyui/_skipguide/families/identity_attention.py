# Built by `make comfyui` from src/skipguide/families/identity_attention.py; do not edit.
"""Self-attention whose map is the identity (Eq. 17): W_o V, one function per shape of attention
module.

softmax(Q K^T) V with the identity in the place of the map is V: each token attends to itself.
Queries, keys and scores are not computed. Every function takes the attention module and what the
block calls it with, and returns what the module returns; the token streams are `(B, N, D)` video
and `(B, M, D')` text."""

from __future__ import annotations

from typing import Any

import torch

Tensor = torch.Tensor


def plain_attention(attn: Any, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    """Attention over one stream (Wan, LTX, Cosmos, Allegro, Sana, Latte), with LTX-2's gate per
    head if it has one."""
    value = _project_values(attn, hidden_states)
    if getattr(attn, "to_gate_logits", None) is not None:
        gates = 2.0 * torch.sigmoid(
            attn.to_gate_logits(hidden_states)
        )  # (B, N, heads), as in its processor
        value = (value.unflatten(2, (attn.heads, -1)) * gates.unsqueeze(-1)).flatten(2, 3)
    return _project_output(attn, value)


def kandinsky_attention(attn: Any, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    """As `plain`, under Kandinsky 5's names."""
    return attn.out_layer(attn.to_value(hidden_states))


def joint_attention(
    attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, Tensor]:
    """Joint attention over video and text, each with its own projections where it has any (Hunyuan,
    EasyAnimate)."""
    added = getattr(attn, "add_v_proj", None)
    video = _project_values(attn, hidden_states)
    text = (
        _project_values(attn, encoder_hidden_states)
        if added is None
        else added(encoder_hidden_states)
    )
    add_out = getattr(attn, "to_add_out", None)
    return _project_output(attn, video), text if add_out is None else add_out(text)


def shared_joint_attention(
    attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any
) -> tuple[Tensor, Tensor]:
    """Joint attention with the same projections for video and text, in and out (CogVideoX)."""
    return plain_attention(attn, hidden_states), plain_attention(attn, encoder_hidden_states)


def packed_joint_attention(
    attn: Any,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor,
    attention_mask: Tensor,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Joint attention that packs the real text tokens to the front and fills up with zeros (Mochi).

    Args:
        attention_mask: `(B, M)`, true where a text token is real.
    """
    video = _project_output(attn, _project_values(attn, hidden_states))
    text = attn.add_v_proj(encoder_hidden_states)
    order = attention_mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[..., None]
    real = attention_mask.bool()[..., None].gather(1, order)
    text = text.gather(1, order.expand_as(text)).masked_fill(~real, 0)
    return video, text if attn.context_pre_only else attn.to_add_out(text)


def _project_values(attn: Any, hidden_states: Tensor) -> Tensor:
    """V, through the fused projection where the strong pass uses that one."""
    if getattr(attn, "fused_projections", False) and getattr(attn, "to_qkv", None) is not None:
        return attn.to_qkv(hidden_states).chunk(3, dim=-1)[-1]
    return attn.to_v(hidden_states)


def _project_output(attn: Any, value: Tensor) -> Tensor:
    """W_o and its dropout; blocks that project attention and feed-forward together have none
    here."""
    to_out = getattr(attn, "to_out", None)
    return value if to_out is None else to_out[1](to_out[0](value))
