"""The node pack in a real ComfyUI: tiny random models, sampled through its own server.

The oracles are ComfyUI itself: a full weak pass, core's SkipLayerGuidanceDiT and
SkipLayerGuidanceDiTSimple, and runs without nodes of ours.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfy_server import Graph, Refused, Result, Server
from safetensors.torch import save_file

pytestmark = [pytest.mark.comfyui, pytest.mark.timeout(900)]

Node = tuple[str, dict[str, Any]]  # class and inputs beside the model
LAYERS = {
    "ltx": "19",
    "wan": "8",
    "wan_vace": "4",
    "mochi": "34",
    "hunyuan": "single:2",
    "cosmos": "8",
    "cosmos2": "8",
    "flux": "double:2",
    "qwen": "5",
}
WITH_SOUND = ("ltx2", "ltx2_48", "ltx2.3", "minimax")
PATCHED = [
    family for family in LAYERS if not family.startswith("cosmos")
]  # core's nodes do nothing to Cosmos


def stg(**inputs: Any) -> Node:
    return "SkipGuideSTG", {
        "preset": "custom", "layers": "8", "skip": "residual", "scale": 1.0, "start_percent": 0.0,
        "end_percent": 1.0, "rescale": 0.0, "rescale_of": "data", "share_prefix": True, **inputs,
    }  # fmt: skip


def slg(**inputs: Any) -> Node:
    window = {"start_percent": 0.0, "end_percent": 1.0}
    return "SkipGuideSLG", {
        "preset": "custom",
        "layers": "8",
        "skip": "residual",
        **window,
        **inputs,
    }


def core(layers: str, simple: bool = False, **inputs: Any) -> Node:
    stack, _, number = layers.rpartition(":")
    single = stack == "single"
    listed = {"double_layers": "" if single else number, "single_layers": number if single else ""}
    window = {"start_percent": 0.0, "end_percent": 1.0}
    strength = {} if simple else {"scale": 1.0, "rescaling_scale": 0.0}
    return "SkipLayerGuidanceDiT" + "Simple" * simple, {**listed, **window, **strength, **inputs}


def graph(
    family: str,
    *nodes: Node,
    cfg: float = 4.0,
    steps: int = 2,
    batch: int = 1,
    sampler: str = "euler",
    positive: str = "pos",
    seed: int = 3,
) -> Graph:
    """Return a graph: a model, nodes on it one after the other, a KSampler."""
    found: Graph = {
        "n0": {"class_type": "TinyModel", "inputs": {"family": family, "seed": 0}},
        "pos": {"class_type": "TinyText", "inputs": {"family": family, "seed": 1}},
        "neg": {"class_type": "TinyText", "inputs": {"family": family, "seed": 2}},
        "latent": {"class_type": "TinyLatent", "inputs": {"family": family, "batch": batch}},
    }
    for number, (kind, inputs) in enumerate(nodes):
        found[f"n{number + 1}"] = {
            "class_type": kind,
            "inputs": {"model": [f"n{number}", 0], **inputs},
        }
    found["sampled"] = {
        "class_type": "KSampler",
        "inputs": {
            "model": [f"n{len(nodes)}", 0], "positive": [positive, 0], "negative": ["neg", 0],
            "latent_image": ["latent", 0], "seed": seed, "steps": steps, "cfg": cfg,
            "sampler_name": sampler, "scheduler": "simple", "denoise": 1.0,
        },
    }  # fmt: skip
    found["packed"] = {"class_type": "TinyPacked", "inputs": {"samples": ["sampled", 0]}}
    found["saved"] = {
        "class_type": "SaveLatent",
        "inputs": {"samples": ["packed" if family in WITH_SOUND else "sampled", 0],
                   "filename_prefix": "test"},
    }  # fmt: skip
    return found


def apart(a: Result, b: Result) -> float:
    """Return the largest difference, relative to the largest value."""
    return ((a.latent - b.latent).abs().max() / b.latent.abs().max()).item()


@pytest.mark.parametrize("skip", ["residual", "attention"])
@pytest.mark.parametrize("family", LAYERS)
def test_shared_prefix_is_bit_equal_to_full_weak_pass(
    server: Server, family: str, skip: str
) -> None:
    node = dict(layers=LAYERS[family], skip=skip)
    shared, full = (
        server.run(graph(family, stg(**node, share_prefix=share))) for share in (True, False)
    )
    assert torch.equal(shared.latent, full.latent)
    assert apart(shared, server.run(graph(family))) > 1e-3


@pytest.mark.parametrize("family", PATCHED)
def test_equal_to_the_node_of_core(server: Server, family: str) -> None:
    layers = LAYERS[family]
    ours, theirs = (
        server.run(graph(family, stg(layers=layers))),
        server.run(graph(family, core(layers))),
    )
    assert (
        apart(ours, theirs) < 1e-5
    )  # theirs has cond and uncond in one batch, which rounds otherwise
    ours, theirs = (
        server.run(graph(family, node, cfg=1.0)) for node in (stg(layers=layers), core(layers))
    )
    assert torch.equal(ours.latent, theirs.latent)


def test_equal_to_the_node_of_core_in_a_window_with_rescaling(server: Server) -> None:
    window: dict[str, Any] = dict(start_percent=0.2, end_percent=0.7, scale=2.0)
    ours = server.run(graph("wan", stg(rescale=0.7, **window), cfg=1.0, steps=6))
    theirs = server.run(graph("wan", core("8", rescaling_scale=0.7, **window), cfg=1.0, steps=6))
    assert apart(ours, theirs) < 1e-6
    always = server.run(graph("wan", stg(rescale=0.7, scale=2.0), cfg=1.0, steps=6))
    assert apart(ours, always) > 1e-3


def test_rescaling_of_the_prediction_is_not_that_of_the_data(server: Server) -> None:
    data, prediction = (
        server.run(graph("wan", stg(rescale=0.7, rescale_of=space)))
        for space in ("data", "prediction")
    )
    assert apart(data, prediction) > 1e-3


@pytest.mark.parametrize("family", ["cosmos", "cosmos2"])
def test_core_does_nothing_to_cosmos(server: Server, family: str) -> None:
    """If it does one day, the rows of Cosmos can have patches."""
    theirs, plain = (server.run(graph(family, *nodes, cfg=1.0)) for nodes in ((core("8"),), ()))
    assert torch.equal(theirs.latent, plain.latent)


@pytest.mark.parametrize("family", PATCHED)
def test_slg_equal_to_the_node_of_core(server: Server, family: str) -> None:
    layers = LAYERS[family]
    ours, theirs = (
        server.run(graph(family, slg(layers=layers))),
        server.run(graph(family, core(layers, simple=True))),
    )
    assert torch.equal(ours.latent, theirs.latent)
    assert apart(ours, server.run(graph(family))) > 1e-3


@pytest.mark.parametrize(
    "node",
    [stg(scale=0.0), stg(start_percent=0.999), slg(start_percent=0.999)],
    ids=["scale 0", "no step", "no step slg"],
)
def test_off_is_bit_equal_to_no_node(server: Server, node: Node) -> None:
    assert torch.equal(server.run(graph("wan", node)).latent, server.run(graph("wan")).latent)


def test_terms_add_up(server: Server) -> None:
    one, other = stg(layers="8"), stg(layers="20", scale=0.5)
    both = server.run(graph("wan", one, other, steps=1))
    plain, first, second = (
        server.run(graph("wan", *nodes, steps=1)) for nodes in ((), (one,), (other,))
    )
    assert torch.allclose(both.latent, first.latent + second.latent - plain.latent, atol=1e-4)
    swapped = server.run(graph("wan", other, one, steps=1))
    assert apart(both, swapped) < 1e-6
    chained = server.run(graph("wan", one, core("20", scale=0.5), steps=1))
    assert apart(both, chained) < 1e-5


def test_stg_and_slg_on_one_model(server: Server) -> None:
    both = graph("wan", slg(layers="9"), stg(layers="20"))
    assert torch.equal(
        server.run(both).latent, server.run(graph("wan", stg(layers="20"), slg(layers="9"))).latent
    )
    theirs = server.run(graph("wan", core("9", simple=True), core("20")))
    assert apart(server.run(both), theirs) < 1e-5


@pytest.mark.parametrize("sampler", ["heun", "uni_pc", "euler_cfg_pp", "dpmpp_2m_sde"])
def test_samplers(server: Server, sampler: str) -> None:
    ours, full = (
        server.run(graph("wan", stg(share_prefix=share), sampler=sampler))
        for share in (True, False)
    )
    assert torch.equal(ours.latent, full.latent)
    assert apart(ours, server.run(graph("wan", core("8"), sampler=sampler))) < 1e-4


def test_batch(server: Server) -> None:
    ours, full = (
        server.run(graph("ltx", stg(layers="19", share_prefix=share), batch=3))
        for share in (True, False)
    )
    assert ours.latent.shape[0] == 3
    assert torch.equal(ours.latent, full.latent)
    assert apart(ours, server.run(graph("ltx", core("19"), batch=3))) < 1e-5


@pytest.mark.parametrize("name", ["APG", "CFGZeroStar", "CFGNorm", "LazyCache"])
@pytest.mark.parametrize("after", [False, True])
def test_beside_other_guidance(server: Server, name: str, after: bool) -> None:
    """Whatever they do to c and u, the push is of what the model said: D moves as it does without
    them."""
    inputs = {
        "APG": {"eta": 0.0, "norm_threshold": 5.0, "momentum": 0.0},
        "CFGNorm": {"strength": 1.0},
        "LazyCache": {
            "reuse_threshold": 0.0,
            "start_percent": 0.0,
            "end_percent": 1.0,
            "verbose": False,
        },
    }
    other: Node = (name, inputs.get(name, {}))
    nodes = (stg(), other) if after else (other, stg())
    together = server.run(graph("wan", *nodes, steps=1))
    alone = server.run(graph("wan", other, steps=1))
    if name == "CFGNorm" and after:
        assert apart(together, alone) > 1e-3  # it scales the push too
        return
    push = (
        server.run(graph("wan", stg(), steps=1)).latent - server.run(graph("wan", steps=1)).latent
    )
    assert torch.allclose(together.latent - alone.latent, push, atol=1e-4)


def test_area_conditioning(server: Server) -> None:
    def run(**inputs: Any) -> Result:
        found = graph("wan", stg(**inputs), positive="joined")
        found["other"] = {"class_type": "TinyText", "inputs": {"family": "wan", "seed": 5}}
        size = {
            "width": 0.5,
            "height": 1.0,
            "temporal": 1.0,
            "x": 0.5,
            "y": 0.0,
            "z": 0.0,
            "strength": 1.0,
        }
        area = {"conditioning": ["other", 0], **size}
        found["area"] = {"class_type": "ConditioningSetAreaPercentageVideo", "inputs": area}
        pair = {"conditioning_1": ["pos", 0], "conditioning_2": ["area", 0]}
        found["joined"] = {"class_type": "ConditioningCombine", "inputs": pair}
        return server.run(found)

    shared, full = run(), run(share_prefix=False)
    assert torch.equal(shared.latent, full.latent)
    assert apart(shared, server.run(graph("wan", stg()))) > 1e-3


def test_windows_of_time(server: Server) -> None:
    """The model runs several times for one prompt: the weak pass is run in full, and the result is
    the same."""
    inputs = {
        "context_length": 5, "context_overlap": 1, "context_schedule": "standard_static",
        "context_stride": 1, "closed_loop": False, "fuse_method": "pyramid",
    }  # fmt: skip
    later = {"freenoise": False, "retain_first_frame": False, "split_conds_to_windows": False}
    known = server.ask("/object_info")["WanContextWindowsManual"]["input"]["required"]
    inputs.update({name: later[name] for name in later if name in known})
    windows: Node = ("WanContextWindowsManual", inputs)
    shared, full = (
        server.run(graph("wan", windows, stg(share_prefix=share))) for share in (True, False)
    )
    assert torch.equal(shared.latent, full.latent)
    assert apart(shared, server.run(graph("wan", stg()))) > 1e-3


def test_lora(server: Server) -> None:
    (server.base / "models" / "loras").mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    down, up = (
        torch.randn((4, 128), generator=generator),
        torch.randn((128, 4), generator=generator),
    )
    name = "diffusion_model.blocks.3.self_attn.o.lora_{}.weight"
    save_file(
        {name.format("A"): down, name.format("B"): up},
        server.base / "models" / "loras" / "tiny.safetensors",
    )
    lora: Node = ("LoraLoaderModelOnly", {"lora_name": "tiny.safetensors", "strength_model": 0.5})
    shared, full = (
        server.run(graph("wan", lora, stg(share_prefix=share))) for share in (True, False)
    )
    assert torch.equal(shared.latent, full.latent)
    assert apart(shared, server.run(graph("wan", stg()))) > 1e-3


def test_two_stages(server: Server) -> None:
    """As Wan 2.2: one model for the first steps, another for the rest, each with its own terms."""

    def run(first: Node, second: Node) -> Result:
        found = graph("wan", first)
        found["low"] = {"class_type": "TinyModel", "inputs": {"family": "wan", "seed": 7}}
        found["guided"] = {"class_type": second[0], "inputs": {"model": ["low", 0], **second[1]}}
        common = {**found["sampled"]["inputs"], "noise_seed": 3, "steps": 4}
        stages = (
            ("sampled", "n1", "latent", 0, 2, "enable"),
            ("last", "guided", "sampled", 2, 4, "disable"),
        )
        for name, model, latent, start, end, noise in stages:
            found[name] = {
                "class_type": "KSamplerAdvanced",
                "inputs": {
                    **common, "model": [model, 0], "latent_image": [latent, 0],
                    "start_at_step": start, "end_at_step": end, "add_noise": noise,
                    "return_with_leftover_noise": "enable",
                },
            }  # fmt: skip
        found["saved"]["inputs"]["samples"] = ["last", 0]
        return server.run(found)

    assert apart(run(stg(), stg(layers="20")), run(core("8"), core("20"))) < 1e-4


def custom(family: str, guider: Node, model: tuple[Node, ...] = ()) -> Graph:
    """SamplerCustomAdvanced with a guider."""
    found = graph(family, *model)
    last = f"n{len(model)}"
    kind, inputs = guider
    found["guider"] = {"class_type": kind, "inputs": {"model": [last, 0], **inputs}}
    found["noise"] = {"class_type": "RandomNoise", "inputs": {"noise_seed": 3}}
    found["euler"] = {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}}
    steps = {"model": [last, 0], "scheduler": "simple", "steps": 2, "denoise": 1.0}
    found["sigmas"] = {"class_type": "BasicScheduler", "inputs": steps}
    parts = {
        "noise": "noise",
        "guider": "guider",
        "sampler": "euler",
        "sigmas": "sigmas",
        "latent_image": "latent",
    }
    linked = {name: [node, 0] for name, node in parts.items()}
    found["sampled"] = {"class_type": "SamplerCustomAdvanced", "inputs": linked}
    return found


def test_guider_is_cfg_and_the_node_in_one(server: Server) -> None:
    prompts = {"positive": ["pos", 0], "negative": ["neg", 0], "cfg": 4.0}
    guider: Node = ("SkipGuideGuider", {**prompts, **stg(layers="19")[1]})
    ours = server.run(custom("ltx", guider))
    theirs = server.run(graph("ltx", stg(layers="19")))
    assert torch.equal(ours.latent, theirs.latent)


def test_schedule_is_terms_by_noise_level(server: Server) -> None:
    bins = "sigma=0.9..1.1 layers=8 scale=2 cfg=6\nsigma=0..0.9 cfg=1"
    scheduled = server.run(
        graph("wan", ("SkipGuideSchedule", {"preset": "custom", "bins": bins}), cfg=4.0)
    )
    assert apart(scheduled, server.run(graph("wan", stg(scale=2.0), cfg=4.0))) > 1e-3
    first = "sigma=0..1.1 layers=8 scale=2 cfg=6"
    one = server.run(
        graph("wan", ("SkipGuideSchedule", {"preset": "custom", "bins": first}), cfg=4.0)
    )
    assert torch.equal(one.latent, server.run(graph("wan", stg(scale=2.0), cfg=6.0)).latent)


def test_schedule_of_cfg_alone_and_a_term_behind_it(server: Server) -> None:
    bins: Node = ("SkipGuideSchedule", {"preset": "custom", "bins": "sigma=0..1.1 cfg=6"})
    ours = server.run(graph("wan", bins, stg(), cfg=2.0))
    assert torch.equal(ours.latent, server.run(graph("wan", stg(), cfg=6.0)).latent)


def test_schedule_with_cfg_needs_a_negative_prompt(server: Server) -> None:
    bins: Node = ("SkipGuideSchedule", {"preset": "custom", "bins": "sigma=0..1.1 layers=19 cfg=6"})
    with pytest.raises(Refused, match="needs a sampler with a negative prompt"):
        server.run(custom("ltx", ("BasicGuider", {"conditioning": ["pos", 0]}), (bins,)))


def test_other_guiders(server: Server) -> None:
    basic: Node = ("BasicGuider", {"conditioning": ["pos", 0]})
    ours, theirs = (
        server.run(custom("ltx", basic, (node,))) for node in (stg(layers="19"), core("19"))
    )
    assert torch.equal(ours.latent, theirs.latent)
    prompts = {"positive": ["pos", 0], "negative": ["neg", 0], "empty_conditioning": ["empty", 0]}
    perp: Node = ("PerpNegGuider", {**prompts, "cfg": 4.0, "neg_scale": 1.0})
    empty = {"empty": {"class_type": "TinyText", "inputs": {"family": "ltx", "seed": 5}}}
    ours, theirs = (
        server.run({**custom("ltx", perp, (node,)), **empty})
        for node in (stg(layers="19"), core("19"))
    )
    assert apart(ours, theirs) < 1e-4


def test_published_setting_is_found_by_the_size_of_the_model(server: Server) -> None:
    published = server.run(graph("mochi", stg(preset="published for this model", layers="1")))
    assert torch.equal(published.latent, server.run(graph("mochi", stg(layers="34"))).latent)
    with pytest.raises(
        Refused, match="mochi-1-preview, 48 blocks, but this model is LTX-Video, of 28"
    ):
        server.run(graph("ltx", stg(preset="mochi")))
    with pytest.raises(
        Refused, match="none is known for Flux or Chroma, of 4 double blocks, 8 single blocks"
    ):
        server.run(graph("flux", stg(preset="published for this model")))


def test_info(server: Server) -> None:
    found = graph("ltx", stg(layers="19"))
    found["info"] = {"class_type": "SkipGuideInfo", "inputs": {"model": ["n1", 0]}}
    text = server.run(found).text
    assert "LTX-Video: block:0 to block:27" in text
    assert "layers block:19, scale 1: 0.29 of a forward pass" in text
    assert "ltx-2b" in text


@pytest.mark.parametrize("text", ["-1", "7-", "9;10", "all", "", "9,9", "9-7"])
def test_anything_but_a_list_of_layers_is_refused_before_anything_runs(
    server: Server, text: str
) -> None:
    with pytest.raises(Refused, match="layer") as error:
        server.run(graph("wan", stg(layers=text)))
    assert "prompt_outputs_failed_validation" in str(error.value)


@pytest.mark.parametrize(
    ("family", "node", "words"),
    [
        ("wan", stg(layers="30"), "must be from 0 to 29 .30 block., but got 30"),
        (
            "hunyuan",
            stg(layers="single:8"),
            "must be from 0 to 7 .8 single., but got 8",
        ),
        ("wan", stg(layers="single:3"), "one that Wan has .block., but got single"),
        ("wan", stg(start_percent=0.5, end_percent=0.5), "end_percent must be above start_percent"),
        ("pixart", slg(), "this one is PixArt. It knows: Wan"),
    ],
)
def test_what_the_model_does_not_have_is_refused_by_name(
    server: Server, family: str, node: Node, words: str
) -> None:
    with pytest.raises(Refused, match=words):
        server.run(graph(family, node))


@pytest.mark.parametrize(
    ("family", "depth"), [("ltx", 28), ("wan", 30), ("mochi", 48), ("cosmos", 12)]
)
def test_time_of_a_weak_pass(
    server: Server, family: str, depth: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """In processor seconds and in turns, so that it holds on a busy machine."""
    layer = LAYERS[family]
    server.run(graph(family))  # the model is made
    ways = ((), (stg(layers=layer),), (stg(layers=layer, share_prefix=False),))
    seconds = [
        [server.run(graph(family, *nodes, steps=3, seed=seed)).seconds for nodes in ways]
        for seed in range(5)
    ]
    plain, shared, full = (min(column) for column in zip(*seconds, strict=True))
    floor = 1 + (depth - int(layer) - 1) / depth / 2
    with capsys.disabled():
        print(
            f"\n{family}, layer {layer} of {depth}: a guided step over one of CFG: full weak pass"
            f" {full / plain:.3f}, shared prefix {shared / plain:.3f}, floor {floor:.3f}"
        )
    assert shared < full
