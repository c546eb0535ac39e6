"""The example workflows, opened and run in a real ComfyUI, with tiny models for the loaders."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from comfy_server import Graph, Server
from workflow import FOLDER, api_graphs, graph_of

pytestmark = [pytest.mark.comfyui, pytest.mark.timeout(900)]

FAMILIES = {
    "wan_stg": "wan",
    "wan22_two_stage_slg": "wan",
    "ltx_2b_guider": "ltx",
    "ltx_13b_schedule": "ltx_13b",
    "hunyuan_stg": "hunyuan",
    "mochi_stg": "mochi",
}
MODELS = ("UNETLoader", "CheckpointLoaderSimple")
GONE = ("CLIPLoader", "DualCLIPLoader", "VAELoader", "CreateVideo", "SaveVideo")
SMALL = {"steps": 4, "width": 64, "height": 64, "length": 9}
# Narrow models have not the width, or the depth, by which the published setting is found.
CUSTOM = {"wan": {"layers": "8"}, "hunyuan": {"layers": "double:2"}}


@pytest.fixture(scope="module")
def info(server: Server) -> dict[str, Any]:
    return server.ask("/object_info")


def test_there_is_a_family_for_each() -> None:
    assert set(api_graphs()) == set(FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_page_holds_the_same_graph(info: dict[str, Any], name: str) -> None:
    page = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert graph_of(page, info) == api_graphs()[name]


@pytest.mark.parametrize("name", FAMILIES)
def test_example_runs_and_is_guided(server: Server, name: str) -> None:
    guided = tiny(api_graphs()[name], FAMILIES[name])
    off = copy.deepcopy(guided)
    for node in off.values():
        if node["class_type"] in ("SkipGuideSTG", "SkipGuideGuider", "SkipGuideSLG"):
            node["inputs"].update(
                preset="custom", layers="1", start_percent=0.9999, end_percent=1.0
            )
        if node["class_type"] == "SkipGuideSchedule":
            node["inputs"].update(preset="custom", bins="sigma=5..6")
    moved, plain = server.run(guided).latent, server.run(off).latent
    assert torch.isfinite(moved).all()
    assert (moved - plain).abs().max() > 1e-3 * plain.abs().max()


def tiny(graph: Graph, family: str) -> Graph:
    """Return the graph with a tiny model and tokens in the place of files.

    The video is small, and its latent is saved.
    """
    found: Graph = {}
    for name, node in copy.deepcopy(graph).items():
        kind, inputs = node["class_type"], node["inputs"]
        if kind in MODELS:
            found[name] = {
                "class_type": "TinyModel",
                "inputs": {"family": family, "seed": int(name)},
            }
        elif kind == "CLIPTextEncode":
            found[name] = {
                "class_type": "TinyText",
                "inputs": {"family": family, "seed": int(name)},
            }
        elif kind == "VAEDecode":
            found[name] = {
                "class_type": "SaveLatent",
                "inputs": {"samples": inputs["samples"], "filename_prefix": "test"},
            }
        elif kind not in GONE:
            found[name] = node
            inputs.update({key: value for key, value in SMALL.items() if key in inputs})
            inputs.update(
                {
                    key: min(value, 2)
                    for key, value in inputs.items()
                    if key == "end_at_step" and value < 100
                }
            )
            inputs.update(
                {key: 2 for key, value in inputs.items() if key == "start_at_step" and value}
            )
            if kind.startswith("SkipGuide") and family in CUSTOM and "preset" in inputs:
                inputs.update(preset="custom", **CUSTOM[family])
    return found
