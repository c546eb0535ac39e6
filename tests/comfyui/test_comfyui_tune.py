"""The map of layers and presets in files, in a real ComfyUI."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comfy_server import Graph, Refused, Server
from test_comfyui_server import core, graph, stg

from skipguide.families.preset_files import PresetFile, Provenance
from skipguide.families.presets import Preset

pytestmark = pytest.mark.comfyui

SHIFT, SCALE = 0.1159, 0.3611  # of Flux's latents: what is saved is x / SCALE + SHIFT


def map_graph(family: str, model: str = "n0", **inputs: Any) -> Graph:
    found = graph(family)
    del found["sampled"], found["saved"]
    found["map"] = {
        "class_type": "SkipGuideLayerMap",
        "inputs": {
            "model": [model, 0], "positive": ["pos", 0], "negative": ["neg", 0],
            "latent_image": ["latent", 0], "seed": 3, "steps": 4, "cfg": 4.0,
            "sampler_name": "euler", "scheduler": "simple", "levels": "0.95, 0.6", "layers": "",
            "skip": "residual and attention", "trajectories": 1, **inputs,
        },
    }  # fmt: skip
    found["seen"] = {"class_type": "PreviewImage", "inputs": {"images": ["map", 0]}}
    return found


def rows(text: str) -> dict[str, list[str]]:
    """The lines of a table by cell: [score, ratio, hf, cos_c, cos_cfg, cost]."""
    found = {}
    for line in text.splitlines()[2:]:
        words = line.split()
        at = next(n for n, word in enumerate(words) if ":" in word)
        found[" ".join(words[at : at + 2])] = words[at + 2 :]
    return found


@pytest.mark.parametrize("layer", ["double:2", "single:3"])
def test_quantities_are_those_of_whole_passes_of_core(server: Server, layer: str) -> None:
    """One Euler step from noise gives the estimate itself: c, and with core's node c + (c - p)."""
    measured = server.run(map_graph("flux", steps=1, levels="1", cfg=1.0, skip="residual"))
    ratio, hf, cosine = map(float, rows(measured.text)[f"{layer} residual"][1:4])
    plain = server.run(graph("flux", cfg=1.0, steps=1)).latent
    pushed = server.run(graph("flux", core(layer), cfg=1.0, steps=1)).latent
    noise = torch.randn(plain.shape, generator=torch.manual_seed(3))
    c = (plain - SHIFT) * SCALE - noise  # of the prediction, up to its sign
    push = (pushed - plain) * SCALE
    assert ratio == pytest.approx((push.norm() / c.norm()).item(), abs=6e-4)
    assert cosine == pytest.approx(
        torch.nn.functional.cosine_similarity(push.flatten(), c.flatten(), 0).item(), abs=6e-4
    )
    energy = np.abs(np.fft.fft2(push.numpy())) ** 2
    y, x = (np.fft.fftfreq(size) for size in push.shape[-2:])
    upper = np.hypot(y[:, None], x) > 0.25
    assert hf == pytest.approx(energy[..., upper].sum() / energy.sum(), abs=6e-4)


@pytest.mark.parametrize(
    "family",
    ["wan", "ltx", "mochi", "hunyuan", "cosmos", "cosmos2", "qwen", "lumina", "cogvideox", "ltx2",
     "minimax"],
)  # fmt: skip
def test_every_family_has_a_map(server: Server, family: str) -> None:
    layers = "single:2-5" if family == "hunyuan" else "2-5"
    found = rows(server.run(map_graph(family, layers=layers, trajectories=2)).text)
    assert len(found) == 8
    for name, (_, ratio, hf, cos_c, cos_cfg, *_rest) in found.items():
        assert float(ratio) > 0, name
        assert 0 <= float(hf) <= 1
        assert abs(float(cos_c)) <= 1
        assert abs(float(cos_cfg)) <= 1


def test_what_cannot_be_scanned_is_refused(server: Server) -> None:
    guided = map_graph("wan", model="n1")
    guided["n1"] = graph("wan", stg())["n1"]
    with pytest.raises(Refused, match="Connect the model before these nodes"):
        server.run(guided)
    with pytest.raises(Refused, match="levels of a scan must be shares of noise"):
        server.run(map_graph("wan", levels="1.5"))
    with pytest.raises(Refused, match="levels must be numbers"):
        server.run(map_graph("wan", levels="high"))
    with pytest.raises(Refused, match="99"):
        server.run(map_graph("wan", layers="99"))


# --- presets in files -----------------------------------------------------------------------------

WAN = Preset(
    model="tiny-wan", pipelines=("WanPipeline",), depth=30, width=128, layers=(8,), scale=2.0,
    skip="attention", source="", stop=0.75, normalize=True, defaults={"guidance_scale": 3.0},
)  # fmt: skip


LTX_2 = Preset(
    model="tiny-ltx-2", pipelines=("LTX2Pipeline",), depth=48, layers=(), scale=0.0,
    skip="attention", source="", modality_scale=3.0, rescale=0.45, audio_rescale=1.0,
    rescale_space="data",
)  # fmt: skip


def by_file(server: Server, file: PresetFile, **inputs: Any) -> tuple[str, dict[str, Any]]:
    folder = server.base / "user" / "skipguide"
    folder.mkdir(exist_ok=True)
    (folder / "tune.toml").write_text(file.to_toml(), encoding="utf-8")
    return "SkipGuidePresetFile", {"file": "tune.toml", "path": "", "cfg": 5.0, **inputs}


def test_a_preset_s_file_is_its_node(server: Server) -> None:
    node = dict(layers="8", skip="attention", scale=2.0, end_percent=0.75, normalize=True)
    written = server.run(graph("wan", stg(**node)))
    read = server.run(graph("wan", by_file(server, PresetFile(WAN))))
    assert torch.equal(read.latent, written.latent)
    plain = server.run(graph("wan", stg(**{**node, "normalize": False})))
    assert not torch.equal(read.latent, plain.latent)


def test_a_preset_s_file_of_ltx_2_may_have_modality_alone(server: Server) -> None:
    node = dict(layers="", modality_scale=3.0, rescale=0.45, audio_rescale=1.0, rescale_of="data")
    written = server.run(graph("ltx2_48", stg(**node), steps=1))
    read = server.run(graph("ltx2_48", by_file(server, PresetFile(LTX_2)), steps=1))
    assert torch.equal(read.latent, written.latent)


def test_cfg_scale_is_handed_on(server: Server) -> None:
    found = graph("wan", by_file(server, PresetFile(WAN)))
    found["sampled"]["inputs"]["cfg"] = ["n1", 1]
    same = server.run(graph("wan", by_file(server, PresetFile(WAN)), cfg=3.0))
    assert torch.equal(server.run(found).latent, same.latent)


def test_a_path_and_cfg_alone(server: Server, tmp_path: Path) -> None:
    row = dataclasses.replace(WAN, layers=(), scale=0.0, skip="residual", stop=1.0, normalize=False)
    made = Provenance(verdict="use CFG alone", sentence="The interval holds 0.")
    path = tmp_path / "alone.toml"
    path.write_text(PresetFile(row, made).to_toml())
    node = by_file(server, PresetFile(WAN), path=str(path))
    alone = server.run(graph("wan", node))
    assert torch.equal(alone.latent, server.run(graph("wan")).latent)
    assert "CFG 3 alone" in alone.text
    assert "The interval holds 0." in alone.text


def test_a_preset_of_another_model_is_refused(server: Server) -> None:
    other = PresetFile(dataclasses.replace(WAN, depth=40))
    with pytest.raises(Refused, match="40 blocks and width 128"):
        server.run(graph("wan", by_file(server, other)))
    with pytest.raises(Refused, match=r"is for tiny-wan \(WanPipeline of 30"):
        server.run(graph("ltx", by_file(server, PresetFile(WAN))))
    with pytest.raises(Refused, match="must be a file that is there, but absent"):
        server.run(graph("wan", by_file(server, PresetFile(WAN), path="absent.toml")))
