"""SEG's and TPG's own pipelines, run on the tiny SDXL pipeline.

    PYTHONPATH=src:tests python -m support.references.seg_tpg UPSTREAM

reads pipeline_seg.py (SusungHong/SEG-SDXL at cf8256d) and pipeline_sdxl_tpg.py
(TaatiTeam/Token-Perturbation-Guidance at 6ee5a2b) in UPSTREAM, and writes seg_tpg.safetensors
beside this file: the latents of each case, and under "plain" those of diffusers' own pipeline,
which tell whether the weights are still the same. It prints how far SEG's finite blur is from the
one that the library has for videos. Attention processors that diffusers has removed
since are replaced by empty classes, which nothing uses; TPG's orders are the library's, for it
draws others each time."""

from __future__ import annotations

import importlib
import itertools
import math
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import save_file

from skipguide.weak.step_context import gaussian_blur_matrix, random_permutation
from support import oracle
from support.tiny import tiny
from support.tiny.base import Tiny

FILE = Path(__file__).with_suffix(".safetensors")
REMOVED = ("LoRAAttnProcessor2_0", "LoRAXFormersAttnProcessor", "FusedAttnProcessor2_0")
SEED, SCALE, STEPS = 5, 3.0, 3
SEG_LAYERS = {"mid": ["mid:0", "mid:1"], "down": ["down:0", "down:1"]}
SIGMAS = {"": None, " sigma 1": 1.0, " sigma 10": 10.0}  # the last is cut off by the width
TPG_LAYERS = {"d1": ["down:1"], "d0 d1": ["down:0", "down:1"], "m1 u2": ["mid:1", "up:2"]}


def cases() -> dict[str, tuple[list[str], str, float | None, dict[str, float]]]:
    """(layers, skip, its strength, options of the call) by the name of the case."""
    found: dict[str, tuple[list[str], str, float | None, dict[str, float]]] = {}
    for cfg, options in (("cfg", {}), ("no cfg", {"guidance_scale": 1.0})):
        for (part, layers), (finite, sigma) in itertools.product(
            SEG_LAYERS.items(), SIGMAS.items()
        ):
            if sigma is None or part == "down" or cfg == "cfg":
                found[f"seg {part}{finite}, {cfg}"] = (layers, "blur", sigma, options)
        for names, layers in TPG_LAYERS.items():
            found[f"tpg {names}, {cfg}"] = (layers, "shuffle", None, options)
    return found


def upstream(name: str, small: Tiny) -> Any:
    """A pipeline of the authors with the models of the tiny one."""
    processors = importlib.import_module("diffusers.models.attention_processor")
    for missing in REMOVED:
        if not hasattr(processors, missing):
            setattr(processors, missing, type(missing, (), {}))
    module = importlib.import_module({"SEG": "pipeline_seg", "TPG": "pipeline_sdxl_tpg"}[name])
    pipe = getattr(module, f"StableDiffusionXL{name}Pipeline")(**small.pipe.components)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def orders(layers: list[str]) -> Any:
    """The permutations of a run in the order in which TPG's blocks ask for them."""
    asked = ((step, layer) for step in itertools.count() for layer in layers)
    usual = torch.randperm

    def drawn(n: int, generator: Any = None, **_: Any) -> torch.Tensor:
        if generator is not None:  # the library's
            return usual(n, generator=generator)
        step, layer = next(asked)
        return random_permutation(n, SEED, step, f"{layer} spatial 0")

    return drawn


def print_distances_of_blur(size: int = 32) -> None:
    """Print how far SEG's blur of random queries is from the library's, as a part of what it
    changes in them."""
    theirs = importlib.import_module("pipeline_seg").gaussian_blur_2d
    queries = torch.randn(1, 64, size, size, generator=torch.Generator().manual_seed(0))
    for sigma in (1.0, 4.0, 10.0, 100.0):
        width = math.ceil(6 * sigma) + 1 - math.ceil(6 * sigma) % 2
        found, matrix = theirs(queries, width, sigma), gaussian_blur_matrix(size, sigma).float()
        away = (found - matrix @ queries @ matrix).norm() / (queries - found).norm()
        print(f"sigma {sigma:g}, {size} x {size} tokens: {float(away):.1%}")


def main(folder: Path) -> None:
    """Run all cases, and write their latents."""
    sys.path.insert(0, str(folder))
    small = tiny("StableDiffusionXLPipeline")
    found = {"plain": oracle.run(small, num_inference_steps=STEPS)}
    for name, (layers, skip, sigma, changes) in cases().items():
        theirs = Tiny(upstream(name[:3].upper(), small), small.call, {})
        options: Any = {"num_inference_steps": STEPS, **changes}
        if skip == "blur":
            part = name.split()[1].rstrip(",")
            given: Any = dict(seg_scale=SCALE, seg_applied_layers=[part])
            given |= {} if sigma is None else dict(seg_blur_sigma=sigma)
            found[name] = oracle.run(theirs, **options, **given)
            small.pipe.unet.set_default_attn_processor()
        else:
            given = dict(tpg_scale=SCALE, tpg_applied_layers_index=name[4:].split(",")[0].split())
            with mock.patch("torch.randperm", orders(layers)):
                found[name] = oracle.run(theirs, **options, **given)
    save_file(found, FILE)
    print_distances_of_blur()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
