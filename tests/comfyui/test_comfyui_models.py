"""Every class of ComfyUI that has a row: both skips against passes made by hand.

The oracles are ComfyUI's own classes at tiny size, with a block that returns its input, or with
torch's attention replaced; and core's own nodes for LTX-2.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfy_server import Graph, Refused, Server
from test_comfyui_server import Node, apart, core, graph, slg, stg

pytestmark = [pytest.mark.comfyui, pytest.mark.timeout(900)]

# The layer; the block; its self-attentions, "all" where the block has no other attention.
BY_HAND = {
    "ltx": ("19", "transformer_blocks.19", "attn1"),
    "wan": ("8", "blocks.8", "self_attn"),
    "mochi": ("34", "blocks.34", ""),
    "cosmos": ("8", "blocks.block8", ""),
    "cosmos2": ("8", "blocks.8", "self_attn"),
    "qwen": ("5", "transformer_blocks.5", ""),
    "sd3": ("2", "joint_blocks.2", "all"),
    "sd3.5": ("1", "joint_blocks.1", "all"),
    "lumina": ("5", "layers.5", "attention"),
    "zimage": ("5", "layers.5", "attention"),
    "omnigen2": ("5", "layers.5", "attn"),
    "kandinsky5": ("5", "visual_transformer_blocks.5", "self_attention"),
    "hunyuan1.5": ("double:5", "double_blocks.5", "all"),
    "hunyuan_image": ("double:5", "double_blocks.5", "all"),
    "flux": ("single:3", "single_blocks.3", "all"),
    "chroma": ("double:2", "double_blocks.2", "all"),
    "radiance": ("single:3", "single_blocks.3", "all"),
    "flux2": ("double:2", "double_blocks.2", "all"),
    "scail": ("5", "blocks.5", "self_attn"),
    "wan_causal": ("5", "blocks.5", "self_attn"),
    "wan_dancer": ("5", "blocks.5", "self_attn"),
    "animate2": ("5", "blocks.5", "none"),
    "anima": ("8", "blocks.8", "self_attn"),
    "cogvideox": ("5", "blocks.5", "all"),
    "aura": ("single:2", "single_layers.2", "all"),
    "minimax": ("5", "blocks.5", "attn"),
    "ltx2": ("7", "transformer_blocks.7", "attn1,audio_attn1"),
    "ltx2.3": ("28", "transformer_blocks.28", "attn1,audio_attn1"),
}
PAIRS = {"mochi", "qwen", "sd3", "sd3.5", "hunyuan1.5", "hunyuan_image", "chroma", "flux2"}


def by_hand(block: str, attention: str) -> Node:
    return "TinyByHand", {"block": block, "attention": attention}


@pytest.mark.parametrize("family", BY_HAND)
def test_both_skips_are_passes_by_hand(server: Server, family: str) -> None:
    layer, block, attention = BY_HAND[family]
    once: dict[str, Any] = {"cfg": 1.0, "steps": 1}
    plain = server.run(graph(family, **once))
    for skip, paths in (("residual", ""), ("attention", attention)):
        if skip == "attention" and paths == "none":
            with pytest.raises(Refused, match='Use skip="residual"'):
                server.run(graph(family, stg(layers=layer, skip=skip), **once))
            continue
        if paths == "" and (skip == "attention" or family in PAIRS):
            theirs = None if skip == "attention" else core(layer)
        else:
            theirs = by_hand(block, paths)
        ours, full = (
            server.run(graph(family, stg(layers=layer, skip=skip, share_prefix=share), **once))
            for share in (True, False)
        )
        assert torch.equal(ours.latent, full.latent), skip
        assert apart(ours, plain) > 1e-4, skip
        if theirs is not None:
            assert apart(ours, server.run(graph(family, theirs, **once))) < 1e-5, skip
