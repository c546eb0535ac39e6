"""What people chain with these nodes: areas, compiled models, NAG, caches, and any order of nodes.

The nodes named Tiny do to a model what the packs of others do; oracles are written by hand, or are
runs without what is tested.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfy_server import Graph, Refused, Server
from test_comfyui_server import Node, apart, core, custom, graph, slg, stg
from test_comfyui_tune import map_graph

pytestmark = [pytest.mark.comfyui, pytest.mark.timeout(900)]

VACE = "wan_vace"  # of 8 blocks, which compile in a moment
COMPILED = {name: ("TinyCompile", {"blocks": name == "blocks"}) for name in ("whole", "blocks")}
EASY: Node = ("EasyCache", {"reuse_threshold": 0.9, "start_percent": 0.1, "end_percent": 0.95,
                            "verbose": False})  # fmt: skip
CACHES: dict[str, Node] = {
    "easy": EASY, "tea": ("TinyCache", {"kind": "tea"}), "mag": ("TinyCache", {"kind": "mag"}),
}  # fmt: skip


def with_areas(found: Graph) -> Graph:
    """Let the positive prompt be two texts, each in one half."""
    for number, seed in enumerate((1, 5)):
        text = {"class_type": "TinyText", "inputs": {"family": "wan", "seed": seed}}
        size = {"width": 0.5, "height": 1.0, "temporal": 1.0, "x": number / 2, "y": 0.0, "z": 0.0}
        area = {"conditioning": [f"text{number}", 0], **size, "strength": 1.0}
        found[f"text{number}"] = text
        found[f"area{number}"] = {
            "class_type": "ConditioningSetAreaPercentageVideo", "inputs": area
        }  # fmt: skip
    pair = {"conditioning_1": ["area0", 0], "conditioning_2": ["area1", 0]}
    found["joined"] = {"class_type": "ConditioningCombine", "inputs": pair}
    return found


def test_slg_of_a_prompt_that_has_only_areas_is_that_of_core(server: Server) -> None:
    """Core gives the negative prompt copies of the areas, with the uuids of the positive one."""
    ours, theirs, plain = (
        server.run(with_areas(graph("wan", *nodes, positive="joined")))
        for nodes in ((slg(),), (core("8", simple=True),), ())
    )
    assert torch.equal(ours.latent, theirs.latent)
    assert apart(ours, plain) > 1e-2


@pytest.mark.parametrize("kind", COMPILED)
@pytest.mark.parametrize("skip", ["residual", "attention"])
@pytest.mark.parametrize("make", [stg, slg])
def test_a_compiled_model_is_guided_as_the_other(
    server: Server, kind: str, skip: str, make: Any
) -> None:
    """Compiled code sees neither new patches nor hooks on its modules."""
    node = make(layers="4", skip=skip)
    expected = server.run(graph(VACE, node))
    assert torch.allclose(
        server.run(graph(VACE, COMPILED[kind], node)).latent, expected.latent, atol=1e-5
    )
    assert apart(expected, server.run(graph(VACE))) > 1e-3


def test_a_window_of_a_compiled_model_and_compiling_behind(server: Server) -> None:
    node = stg(layers="4", start_percent=0.3)
    expected = server.run(graph(VACE, node, steps=4))
    for kind in COMPILED.values():
        found = server.run(graph(VACE, node, kind, steps=4))
        assert torch.allclose(found.latent, expected.latent, atol=1e-5)
    assert "the model is compiled as a whole" in server.log.read_text()


def test_a_window_is_that_of_the_noise_levels_of_the_run(server: Server) -> None:
    """A node behind shifts them: the window is the same share of the run."""
    shift: Node = ("ModelSamplingSD3", {"shift": 12.0})
    node = stg(start_percent=0.2, end_percent=0.6)
    behind, before = (
        server.run(graph("wan", *nodes, steps=6)) for nodes in ((node, shift), (shift, node))
    )
    assert torch.equal(behind.latent, before.latent)
    assert apart(behind, server.run(graph("wan", shift, steps=6))) > 1e-3


def dual(*nodes: Node, style: str = "regular") -> Graph:
    prompts = {"cond1": ["pos", 0], "cond2": ["empty", 0], "negative": ["neg", 0]}
    guider: Node = (
        "DualCFGGuider",
        {**prompts, "cfg_conds": 4.0, "cfg_cond2_negative": 2.0, "style": style},
    )
    empty = {"empty": {"class_type": "TinyText", "inputs": {"family": "ltx", "seed": 5}}}
    return {**custom("ltx", guider, nodes), **empty}


def test_dual_cfg(server: Server) -> None:
    plain = server.run(dual())
    before = len(server.log.read_text())
    assert apart(server.run(dual(slg(layers="19"))), plain) > 1e-3
    assert "SLG skips layers in the unconditional pass" not in server.log.read_text()[before:]
    for style in ("regular", "nested"):
        ours, theirs = (
            server.run(dual(node, style=style)) for node in (stg(layers="19"), core("19"))
        )
        assert apart(ours, theirs) < 1e-4
    bins: Node = ("SkipGuideSchedule", {"preset": "custom", "bins": "sigma=0..1.1 layers=19 cfg=6"})
    with pytest.raises(Refused, match=r"one scale, but this one is a Guider_DualCFG"):
        server.run(dual(bins))


def test_slg_without_a_negative_pass_says_so(server: Server) -> None:
    before = len(server.log.read_text())
    server.run(graph("wan", slg(), cfg=1.0))
    assert server.log.read_text()[before:].count("SLG skips layers in the unconditional pass") == 1


# --- code that looks at the whole batch -----------------------------------------------------------


@pytest.mark.parametrize("share", [True, False])
def test_attention_that_looks_at_the_whole_batch_has_it(server: Server, share: bool) -> None:
    mix: Node = ("TinyMixRows", {})
    ours = server.run(graph("wan", mix, stg(share_prefix=share)))
    assert apart(ours, server.run(graph("wan", mix, ("TinyRowsByHand", {"block": 8})))) < 1e-5
    assert apart(ours, server.run(graph("wan", stg()))) > 1e-2
    both = slg(layers="10", skip="attention"), stg(skip="attention", share_prefix=share)
    assert apart(server.run(graph("wan", mix, *both)), server.run(graph("wan", mix))) > 1e-3


def test_both_terms_of_a_whole_batch_share_the_prefix(server: Server) -> None:
    found = [
        server.run(graph("wan", ("TinyMixRows", {}), slg(layers="4,10", skip=skip),
                         stg(layers="8,9", skip=skip, share_prefix=share)))
        for skip in ("residual", "attention") for share in (True, False)
    ]  # fmt: skip
    assert torch.equal(found[0].latent, found[1].latent)
    assert torch.equal(found[2].latent, found[3].latent)


@pytest.mark.parametrize("family", ["flux", "hunyuan"])
def test_nag_of_core(server: Server, family: str) -> None:
    if "NAGuidance" not in server.ask("/object_info"):
        pytest.skip("this ComfyUI has no NAGuidance")
    nag: Node = ("NAGuidance", {"nag_scale": 5.0, "nag_alpha": 0.5, "nag_tau": 1.5})
    ours = server.run(graph(family, nag, stg(layers="double:2")))
    theirs = server.run(graph(family, nag, ("TinyRowsByHand", {"block": 2})))
    assert apart(ours, theirs) < 1e-5
    assert apart(ours, server.run(graph(family, stg(layers="double:2")))) > 1e-2


# --- caches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CACHES)
@pytest.mark.parametrize("share", [True, False])
def test_a_weak_pass_has_a_cache_of_its_own(server: Server, name: str, share: bool) -> None:
    """The oracle is a weak pass of a copy of the model, which has a cache, too."""
    cache = CACHES[name]
    ours = server.run(graph("wan", cache, stg(share_prefix=share), steps=8))
    found = graph("wan", cache, ("TinyCopyByHand", {"copy": ["cached", 0], "block": 8}), steps=8)
    found["copy"] = {"class_type": "TinyModel", "inputs": {"family": "wan", "seed": 1000}}
    found["cached"] = {"class_type": cache[0], "inputs": {"model": ["copy", 0], **cache[1]}}
    assert apart(ours, server.run(found)) < 1e-5
    assert apart(ours, server.run(graph("wan", cache, steps=8))) > 1e-3
    assert apart(ours, server.run(graph("wan", stg(), steps=8))) > 1e-3


@pytest.mark.parametrize("name", ["tea", "mag"])
def test_a_pass_that_begins_late_is_computed_first(server: Server, name: str) -> None:
    """The window begins at a step that the cache would leave out: it is one more that is run."""
    window = stg(start_percent=0.2)  # the second of 8 steps and what follows
    found = server.run(graph("wan", CACHES[name], window, steps=8))
    early = server.run(graph("wan", CACHES[name], stg(), steps=8))
    plain = server.run(graph("wan", CACHES[name], steps=8))
    assert 1e-3 < apart(found, plain) < 3 * apart(early, plain)
    again = server.run(graph("wan", CACHES[name], window, steps=8))
    assert torch.equal(found.latent, again.latent)


def test_slg_has_no_state_of_the_plain_negative_pass(server: Server) -> None:
    """Where SLG ends, the negative pass is computed: the second half is not that of a skip."""
    ends, always, never = (
        server.run(graph("wan", CACHES["mag"], *nodes, steps=8))
        for nodes in ((slg(end_percent=0.2),), (slg(),), ())
    )
    assert apart(ends, never) > 1e-3
    assert apart(ends, always) > 1e-3


def test_a_map_is_that_of_a_model_without_cache(server: Server) -> None:
    found = map_graph("wan", model="n1")
    found["n1"] = graph("wan", EASY)["n1"]
    with pytest.raises(Refused, match="but EasyCache is on this one"):
        server.run(found)


# --- whether guidance does anything ---------------------------------------------------------------


@pytest.mark.parametrize("make", [stg, slg])
def test_guidance_that_changes_nothing_is_an_error(server: Server, make: Any) -> None:
    idle: Node = ("TinyIdle", {"block": 8, "sigma": 2.0})
    with pytest.raises(Refused, match=r"skipping layers block:8.* changed nothing"):
        server.run(graph("wan", idle, make()))


def test_guidance_that_ends_to_change_anything_is_an_error(server: Server) -> None:
    idle: Node = ("TinyIdle", {"block": 8, "sigma": 0.4})
    with pytest.raises(Refused, match=r"skipping layers block:8.* changed nothing"):
        server.run(graph("wan", idle, stg(), steps=8))
