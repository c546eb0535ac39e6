"""Every class of ComfyUI that has a row: both skips against passes made by hand.

The oracles are ComfyUI's own classes at tiny size, with a block that returns its input, or with
torch's attention replaced; and core's own nodes for LTX-2.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfy_server import Graph, Refused, Server
from test_comfyui_server import Node, apart, core, custom, graph, slg, stg

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
# Two streams, or a block with another name for its forward: there core's node is the oracle.
PAIRS = {
    "animate2",
    "mochi",
    "qwen",
    "sd3",
    "sd3.5",
    "hunyuan1.5",
    "hunyuan_image",
    "chroma",
    "flux2",
}


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


# --- LTX-2: video and sound -----------------------------------------------------------------------


@pytest.mark.parametrize("family", ["ltx2", "ltx2.3"])
def test_ltx_2_is_equal_to_the_nodes_of_core(server: Server, family: str) -> None:
    """At CFG 1 nothing else rounds; with CFG core has both prompts in one batch, which does."""
    window = {"start_percent": 0.0, "end_percent": 1.0}
    core_stg: Node = ("LTXVSpatioTemporalGuidance", {"scale": 1.5, "blocks": "7", **window})
    core_modality: Node = ("LTXVModalityGuidance", {"modality_scale": 3.0, **window})
    ours_stg = stg(layers="7", skip="attention", scale=1.5)
    ours_modality = stg(layers="", modality_scale=3.0)
    both = stg(layers="7", skip="attention", scale=1.5, modality_scale=3.0)
    for ours, theirs in (
        ((ours_stg,), (core_stg,)),
        ((ours_modality,), (core_modality,)),
        ((both,), (core_stg, core_modality)),
    ):
        for cfg, limit in ((1.0, 1e-7), (3.0, 1e-5)):
            mine = server.run(graph(family, *ours, cfg=cfg))
            assert apart(mine, server.run(graph(family, *theirs, cfg=cfg))) <= limit
            assert apart(mine, server.run(graph(family, cfg=cfg))) > 1e-3


def test_sound_of_ltx_2_has_scales_of_its_own(server: Server) -> None:
    """One step, so that video and sound cannot touch each other but through the pushes."""
    size = 128 * 3 * 8 * 8
    once: dict[str, Any] = {"cfg": 1.0, "steps": 1}
    plain = server.run(graph("ltx2", **once)).latent
    same = server.run(graph("ltx2", stg(layers="7"), **once)).latent
    silent = server.run(graph("ltx2", stg(layers="7", audio_scale=0.0), **once)).latent
    alone = server.run(graph("ltx2", stg(layers="7", scale=0.0, audio_scale=2.0), **once)).latent
    assert torch.equal(silent[..., :size], same[..., :size])
    assert torch.equal(silent[..., size:], plain[..., size:])
    assert torch.equal(alone[..., :size], plain[..., :size])
    push = same[..., size:] - plain[..., size:]
    torch.testing.assert_close(alone[..., size:] - plain[..., size:], 2 * push)


def test_published_settings_of_ltx_2_are_by_generation(server: Server) -> None:
    published = {"preset": "published for this model", "scale": 9.0}
    common = {"skip": "attention", "rescale": 0.7, "rescale_of": "data", "modality_scale": 3.0}
    for family, layers in (("ltx2_48", "29"), ("ltx2.3", "28")):
        ours = server.run(graph(family, stg(**published), cfg=1.0, steps=1))
        same = server.run(graph(family, stg(layers=layers, **common), cfg=1.0, steps=1))
        assert torch.equal(ours.latent, same.latent)
    with pytest.raises(Refused, match="is for Lightricks/LTX-2, 48 blocks, but this model is"):
        server.run(graph("ltx2.3", stg(preset="ltx-2")))


def test_slg_of_ltx_2(server: Server) -> None:
    ours = server.run(graph("ltx2", slg(layers="7")))
    theirs = server.run(graph("ltx2", core("7", simple=True)))
    assert torch.equal(ours.latent, theirs.latent)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "node", "words"),
    [
        ("wan", stg(modality_scale=3.0), "Modality is for models in whose blocks .* but Wan has"),
        ("minimax", stg(layers="3", modality_scale=3.0), "but MiniMax H3 has none"),
        ("wan", stg(audio_scale=0.5), "audio_scale is for models that make sound, but Wan"),
        ("pixart", stg(), "this one is PixArt. It knows: Wan"),
        ("hunyuan_image", stg(preset="published for this model"), "none is known for HunyuanVideo"),
        ("wan_vace", slg(preset="published for this model"), "none is known for Wan"),
    ],
)
def test_what_a_model_has_not_is_refused(
    server: Server, family: str, node: Node, words: str
) -> None:
    with pytest.raises(Refused, match=words):
        server.run(graph(family, node))


def test_a_video_made_frame_by_frame_is_refused(server: Server) -> None:
    if not server.ask("/object_info/SamplerARVideo"):
        pytest.skip("this ComfyUI has no SamplerARVideo")

    def run(*nodes: Node) -> None:
        found: Graph = custom("wan_causal", ("BasicGuider", {"conditioning": ["pos", 0]}), nodes)
        found["euler"] = {"class_type": "SamplerARVideo", "inputs": {"num_frame_per_block": 1}}
        server.run(found)

    run()
    with pytest.raises(Refused, match="goes"):
        run(stg(layers="5"))
