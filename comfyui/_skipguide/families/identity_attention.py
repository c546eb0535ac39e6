# Built by `make comfyui` from src/skipguide/families/identity_attention.py; do not edit.
"""Self-attention whose map is the identity (Eq. 17), one function for each shape of module.

softmax(Q K^T) V with the identity as the map is V: each token attends to itself only, and what is
left is W_o V. Queries, keys and scores are not computed. Every function takes the attention module
and what the block calls it with, and returns what the module returns. The token streams are
`(B, N, D)` for the video and `(B, M, D')` for the text."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..families.protocols import (
    Attention,
    GatedGroupAttention,
    GroupedAttention,
    HiDreamAttention,
    JointAttention,
    KandinskyAttention,
    ParallelAttention,
    Projection,
)

Tensor = torch.Tensor


def plain_attention(attn: Attention, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
    """Attend over one stream (Wan, LTX, Cosmos, Allegro, Sana, Latte).

    Where the module has a gate for each head (LTX-2.3), values are gated as in its processor."""
    value = _project_values(attn, hidden_states)
    to_gate_logits: Projection | None = getattr(attn, "to_gate_logits", None)
    if to_gate_logits is not None:
        gates = 2.0 * torch.sigmoid(to_gate_logits(hidden_states))  # (B, N, heads)
        value = (value.unflatten(2, (attn.heads, -1)) * gates.unsqueeze(-1)).flatten(2, 3)
    return _project_output(attn, value)


def grouped_attention(
    attn: GroupedAttention, hidden_states: Tensor, *_: object, **__: object
) -> Tensor:
    """Attend over one stream, with values that several heads of queries share (Lumina 2)."""
    width = attn.inner_dim // attn.heads
    value = _project_values(attn, hidden_states).unflatten(2, (-1, width))
    shared = attn.heads // value.shape[2]
    return _project_output(attn, value.repeat_interleave(shared, 2).flatten(2, 3))


def gated_group_attention(
    attn: GatedGroupAttention, hidden_states: Tensor, *_: object, **__: object
) -> Tensor:
    """Attend as grouped_attention() does, with a gate behind it, in a module of Krea 2's."""
    value = attn.to_v(hidden_states).unflatten(2, (-1, attn.head_dim))
    shared = attn.num_heads // attn.num_kv_heads
    value = value.repeat_interleave(shared, 2).flatten(2, 3)
    return attn.to_out[0](value * torch.sigmoid(attn.to_gate(hidden_states)))


def parallel_attention(
    attn: ParallelAttention, hidden_states: Tensor, *_: object, **__: object
) -> Tensor:
    """Attend over one stream in a module that has the feed-forward in its projections (Flux 2)."""
    projected = attn.to_qkv_mlp_proj(hidden_states)
    gated = attn.mlp_hidden_dim * attn.mlp_mult_factor
    qkv, feed_forward = projected.split([projected.shape[-1] - gated, gated], dim=-1)
    value = qkv.chunk(3, dim=-1)[-1]
    return attn.to_out(torch.cat([value, attn.mlp_act_fn(feed_forward)], dim=-1))


def kandinsky_attention(
    attn: KandinskyAttention, hidden_states: Tensor, *_: object, **__: object
) -> Tensor:
    """Attend over one stream, in a module with Kandinsky's names."""
    return attn.out_layer(attn.to_value(hidden_states))


def joint_attention(
    attn: JointAttention,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor,
    *_: object,
    **__: object,
) -> tuple[Tensor, Tensor]:
    """Attend over video and text, with the text's own projections where the module has any
    (Hunyuan, EasyAnimate)."""
    added: Projection | None = getattr(attn, "add_v_proj", None)
    video = _project_values(attn, hidden_states)
    text = (
        _project_values(attn, encoder_hidden_states)
        if added is None
        else added(encoder_hidden_states)
    )
    add_out: Projection | None = getattr(attn, "to_add_out", None)
    return _project_output(attn, video), text if add_out is None else add_out(text)


def shared_joint_attention(
    attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: object
) -> tuple[Tensor, Tensor]:
    """Attend over video and text with the same projections for both, in and out (CogVideoX)."""
    return plain_attention(attn, hidden_states), plain_attention(attn, encoder_hidden_states)


def packed_joint_attention(
    attn: JointAttention,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor,
    attention_mask: Tensor,
    **_: object,
) -> tuple[Tensor, Tensor]:
    """Attend over video and text as Mochi does: the real tokens of the text are moved to the front,
    and the rest is filled with zeros.

    Args:
        attn: the module.
        hidden_states: the video, `(B, N, D)`.
        encoder_hidden_states: the text, `(B, M, D')`.
        attention_mask: `(B, M)`, true where a text token is real.
    """
    video = _project_output(attn, _project_values(attn, hidden_states))
    text = attn.add_v_proj(encoder_hidden_states)
    order = attention_mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[..., None]
    real = attention_mask.bool()[..., None].gather(1, order)
    text = text.gather(1, order.expand_as(text)).masked_fill(~real, 0)
    return video, text if attn.context_pre_only else attn.to_add_out(text)


def hidream_attention(
    attn: HiDreamAttention,
    hidden_states: Tensor,
    mask: Tensor | None = None,
    encoder_hidden_states: Tensor | None = None,
    **_: object,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attend over image and text, in a module with HiDream's names; in its single blocks they are
    one stream."""
    image = attn.to_out(attn.to_v(hidden_states))
    if attn.single:
        return image
    assert encoder_hidden_states is not None
    return image, attn.to_out_t(attn.to_v_t(encoder_hidden_states))


def _project_values(attn: Attention, hidden_states: Tensor) -> Tensor:
    """Return V, through the fused projection where the conditional pass uses that one."""
    fused: Projection | None = getattr(attn, "to_qkv", None)
    if getattr(attn, "fused_projections", False) and fused is not None:
        return fused(hidden_states).chunk(3, dim=-1)[-1]
    return attn.to_v(hidden_states)


def _project_output(attn: Attention, value: Tensor) -> Tensor:
    """Return W_o V with its dropout.

    Blocks that project attention and feed-forward together have no projection here."""
    to_out: Sequence[Projection] | None = getattr(attn, "to_out", None)
    return value if to_out is None else to_out[1](to_out[0](value))
