"""UNets that make images: their layers are transformer blocks, and PAG, SEG and TPG are settings of
STG there, equal to diffusers' and to the authors' own pipelines."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from diffusers.guiders.classifier_free_guidance import ClassifierFreeGuidance
from diffusers.modular_pipelines.stable_diffusion_xl.modular_blocks_stable_diffusion_xl import (
    StableDiffusionXLCoreDenoiseStep,
)
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from safetensors.torch import load_file

from skipguide import NAG, SLG, STG, guide
from skipguide.families import blocks, presets
from skipguide.families.examples import denoiser_class, example_of
from skipguide.families.rows import FAMILIES
from skipguide.guider import SkipGuidance
from support import oracle, without_cfg
from support.references import seg_tpg
from support.tiny import builders, tiny
from support.tiny.base import Tiny
from support.tiny.sd import WITHOUT_CFG
from support.written import assert_equal, by_hand, paths_of, trace_of

Tensor = torch.Tensor
ROWS = {row.name: row for row in FAMILIES}
SD, XL = "StableDiffusionPAGPipeline", "StableDiffusionXLPAGPipeline"
MID = ["mid:0", "mid:1"]


def run(small: Tiny, *terms: Any, **options: Any) -> Tensor:
    """The latents of a run of two steps, or of others in `options`."""
    with guide(small.pipe, *terms) if terms else contextlib.nullcontext():
        return oracle.run(small, **{**small.short, **options})


def assert_same(ours: Tensor, theirs: Tensor, plain: Tensor) -> None:
    """Equal up to float32's rounding, where guidance moved the run much more than that."""
    away, moved = float((ours - theirs).abs().max()), float((theirs - plain).abs().max())
    assert away < 1e-5 < 2e-3 < moved


# --- layers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "address", "path"),
    [
        ("sdxl", "down:6", "down_blocks.2.attentions.0.transformer_blocks.2"),  # TPG's d6
        ("sdxl", "mid:9", "mid_block.attentions.0.transformer_blocks.9"),
        ("sdxl", "up:35", "up_blocks.1.attentions.2.transformer_blocks.1"),
        ("sd", "down:5", "down_blocks.2.attentions.1.transformer_blocks.0"),
        ("sd", "mid:0", "mid_block.attentions.0.transformer_blocks.0"),
        ("sd", "up:0", "up_blocks.1.attentions.0.transformer_blocks.0"),
    ],
)
def test_layers_are_counted_as_pag_seg_and_tpg_count_them(
    family: str, address: str, path: str
) -> None:
    row = ROWS[family]
    with torch.device("meta"):
        unet = denoiser_class(row)(**example_of(family).config("full"))
    (site,) = (site for site in blocks.layer_sites(row, unet) if site.address == address)
    assert site.text_block is unet.get_submodule(path)
    assert [blocks_of.get_submodule(name) for blocks_of, name in site.inner_blocks()] == [
        unet.get_submodule(path)
    ]


@pytest.mark.parametrize("skip", ["residual", "attention"])
def test_blocks_equal_separate_full_passes(skip: str) -> None:
    """One of two blocks, both, and both of one transformer with one of the next."""
    small, heard = tiny("StableDiffusionXLPipeline"), {}
    plain = run(small)
    for layers in (["down:1"], MID, ["up:0", "up:1", "up:3"]):
        term = STG(layers, 1.3, skip, stop=0.5)
        ours = run(small, term)
        assert_equal(small, ours, by_hand(small, [term], heard=heard), plain)
        with guide(small.pipe, term, share_prefix=False):
            assert torch.equal(oracle.run(small, **small.short), ours)


@contextlib.contextmanager
def counted(small: Tiny, pattern: str) -> Iterator[dict[str, int]]:
    """How often each module ran whose path ends like this pattern."""
    calls: dict[str, int] = {}
    hooks = []
    for path, module in small.pipe.unet.named_modules():
        if re.search(f"{pattern}$", path):

            def note(*_: Any, path: str = path) -> None:
                calls[path] = calls.get(path, 0) + 1

            hooks.append(module.register_forward_pre_hook(note))
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def test_a_weak_pass_starts_in_the_middle_of_a_transformer() -> None:
    """The second of its two blocks is skipped: the first one is not computed again."""
    small = tiny(XL)
    with counted(small, r"\.transformer_blocks\.\d") as calls:
        run(small, STG(["down:1"], 1.0, "attention"), num_inference_steps=1)
    before, *after = [paths_of(small, [layer], "attention", None)[0] for layer in layers_in_order()]
    assert calls.pop(before) == 2  # c and u of the only step
    assert calls == dict.fromkeys(after, 3)


def layers_in_order() -> list[str]:
    return ["down:0", "down:1", *MID, *(f"up:{i}" for i in range(4))]


def test_where_all_blocks_are_skipped_so_are_the_projections() -> None:
    """One of two blocks returns its input, and both together are the transformer that does."""
    small = tiny(XL)
    with counted(small, r"^mid_block\..*\.\d") as calls:
        run(small, STG(MID, 1.0), num_inference_steps=1)
        assert calls["mid_block.attentions.0"] == 2
    with counted(small, r"^mid_block\..*\.\d") as calls:
        run(small, STG(MID[1:], 1.0), num_inference_steps=1)
        assert calls["mid_block.attentions.0"] == 3
        assert calls["mid_block.attentions.0.transformer_blocks.1"] == 2


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (STG(["mid:0"], axis="temporal"), r'axis must be one that sdxl has \("spatial"\)'),
        (STG(["mid:0"], skip="frames"), "it makes images, which are one frame"),
        (STG([3]), r"must be written with its part \(down, mid or up\), but got 3"),
        (STG(["mid:2"]), r"must be from 0 to 1 \(2 mid\), but got 2"),
    ],
)
def test_what_an_image_does_not_have(term: STG, message: str) -> None:
    small = tiny(XL)
    before = trace_of(small)
    with pytest.raises(ValueError, match=message):
        guide(small.pipe, term)
    assert trace_of(small) == before


# --- PAG, by diffusers ----------------------------------------------------------------------------


@pytest.mark.parametrize("cfg", [True, False], ids=["cfg", "no cfg"])
@pytest.mark.parametrize(
    ("name", "applied", "layers"),
    [
        (XL, "mid", MID),
        (XL, "down_blocks.1.attentions.0.transformer_blocks.1", ["down:1"]),
        (XL, ["mid", "up_blocks.0.attentions.1"], [*MID, "up:2", "up:3"]),
        (SD, "mid", ["mid:0"]),
        ("StableDiffusionXLControlNetPAGPipeline", "mid", MID),
        ("StableDiffusionPAGInpaintPipeline", "up_blocks.1", ["up:0", "up:1"]),
        ("KolorsPAGPipeline", "mid", MID),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pag_is_an_attention_skip(name: str, applied: Any, layers: list[Any], cfg: bool) -> None:
    small, options = tiny(name), {} if cfg else tiny(name).off
    plain = run(small, **options)
    ours = run(small, STG(layers, 3.0, "attention"), **options)
    small.pipe.set_pag_applied_layers(applied)
    theirs = run(small, pag_scale=3.0, **options)
    assert_same(ours, theirs, plain)


def test_both_at_once_are_refused() -> None:
    small = builders()[XL](torch.float32)  # diffusers leaves its processors behind an error
    with guide(small.pipe, STG(MID)), pytest.raises(ValueError, match="pag_scale=0"):
        oracle.run(small, pag_scale=3.0)


# --- SEG and TPG, by their authors ----------------------------------------------------------------


@pytest.mark.parametrize("case", seg_tpg.cases())
def test_seg_and_tpg_are_what_their_authors_run(case: str) -> None:
    """Infinite blur, which is SEG's default, and finite; TPG with the same orders of the tokens."""
    small, found = tiny("StableDiffusionXLPipeline"), load_file(seg_tpg.FILE)
    layers, skip, strength, changes = seg_tpg.cases()[case]
    options: Any = {"num_inference_steps": seg_tpg.STEPS, **changes}
    torch.testing.assert_close(  # or else the weights are others than those of the references
        run(small, num_inference_steps=seg_tpg.STEPS), found["plain"], atol=1e-5, rtol=1e-5
    )
    ours = run(
        small, STG(layers, seg_tpg.SCALE, skip, seed=seg_tpg.SEED, strength=strength), **options
    )
    assert_same(ours, found[case], run(small, **options))


@pytest.mark.parametrize("name", ["sd1.5-pag-without-cfg", "sdxl-seg", "sdxl-tpg"])
def test_published_settings_name_layers_that_there_are(name: str) -> None:
    (row,) = (row for row in presets.load_presets() if row.name == name)
    family = next(family for family in FAMILIES if row.pipelines[0] in family.pipelines)
    with torch.device("meta"):
        unet = denoiser_class(family)(**example_of(family.name).config("full"))
    sites, term = blocks.layer_sites(family, unet), presets.to_terms(row)
    assert isinstance(term, STG)
    assert len(blocks.resolve_layers(family, sites, term)) == len(row.layers)
    assert blocks.depth(family, sites) == row.depth
    assert set(row.pipelines) <= set(family.pipelines)


# --- in company -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [SD, XL])
def test_under_nag_a_shared_prefix_gives_what_full_passes_give(name: str) -> None:
    small = tiny(name)
    terms = [NAG(4.0, 1.5, 0.5), STG(["up:1"], 0.7), STG(["mid:0"], 0.4, "attention")]
    with guide(small.pipe, *terms):
        shared = oracle.run(small, **small.short)
    with guide(small.pipe, *terms, share_prefix=False):
        assert torch.equal(oracle.run(small, **small.short), shared)
    assert (shared - run(small, *terms[1:])).abs().max() > 1e-3


def test_nag_in_some_blocks_of_a_transformer() -> None:
    small = tiny(XL)
    both = run(small, NAG(4.0, 1.5, 0.5, layers=MID))
    one = run(small, NAG(4.0, 1.5, 0.5, layers=MID[1:]))
    plain = run(small)
    assert 1e-4 < (one - plain).abs().max() != (both - plain).abs().max()


def test_slg_of_blocks_in_the_middle_of_a_transformer_costs_less_than_cfg() -> None:
    small = tiny(XL)
    with guide(small.pipe, SLG(["mid:1", "up:0"])) as handle:
        oracle.run(small, **small.short)
        assert 1.5 < handle.passes_per_step < 2


@pytest.mark.parametrize("name", WITHOUT_CFG)
def test_consistency_models_are_pushed_without_cfg(name: str) -> None:
    """c + s (c - p) by hand; the scale of CFG is an input of such a model."""
    small = WITHOUT_CFG[name]()
    plain = without_cfg.run(small)
    paths = paths_of(small, ["up:0"], "attention", None)
    with without_cfg.by_hand(
        small, paths, lambda c, p, _: c + 1.3 * (c - p), "attention", ["attn1", "attn2"]
    ):
        theirs = without_cfg.run(small)
    runs = []
    for share in (True, False):
        with guide(small.pipe, STG(["up:0"], 1.3, "attention"), share_prefix=share):
            runs.append(without_cfg.run(small))
    assert torch.equal(*runs)
    torch.testing.assert_close(runs[0], theirs, atol=1e-4, rtol=1e-4)
    assert (theirs - plain).abs().max() > 1e-2


def test_a_base_hands_over_to_a_refiner() -> None:
    """SDXL's base stops early, and its refiner goes on from there: each has windows of its own."""
    base, refiner = tiny("StableDiffusionXLPipeline"), tiny("StableDiffusionXLImg2ImgPipeline")
    with guide(base.pipe, STG(["mid:0"], stop=0.5)) as handle:
        half = base.pipe(
            **{**base.call, "num_inference_steps": 10}, denoising_end=0.8,
            generator=torch.Generator().manual_seed(0),
        ).images  # fmt: skip
        assert handle.passes.steps == 8
        assert sum(handle.passes.weak_runs.values()) == 4
    call = {**refiner.call, "num_inference_steps": 10, "image": half}
    with guide(refiner.pipe, STG(["mid:0"], stop=0.5)) as handle:
        assert torch.isfinite(refiner.pipe(**call, denoising_start=0.8).images).all()
        assert handle.passes.steps == 2
        assert sum(handle.passes.weak_runs.values()) == 1


def test_a_scheduler_that_repeats_a_step() -> None:
    """PNDM, the one that Stable Diffusion 1.5 comes with, calls once more than there are steps."""
    small = builders()[SD](torch.float32)
    small.pipe.scheduler = PNDMScheduler.from_config(
        small.pipe.scheduler.config, skip_prk_steps=True
    )
    options = {"num_inference_steps": 4}
    plain, term = run(small, **options), STG(["mid:0"], 3.0, "attention")
    with guide(small.pipe, term) as handle:
        ours = oracle.run(small, **options)
        assert handle.passes.steps == sum(handle.passes.weak_runs.values()) == 5
    small.pipe.set_pag_applied_layers("mid")
    assert_same(ours, run(small, pag_scale=3.0, **options), plain)


def modular(small: Tiny, guider: Any) -> Tensor:
    """The latents of diffusers' modular SDXL with the models of the tiny pipeline."""
    steps: Any = StableDiffusionXLCoreDenoiseStep()
    pipe = steps.init_pipeline()
    parts = {n: getattr(small.pipe, n) for n in pipe._component_specs if hasattr(small.pipe, n)}
    pipe.update_components(**parts, guider=guider)
    inputs = {item.name for item in steps.inputs}
    call = {name: value for name, value in small.call.items() if name in inputs}
    return pipe(**call, latents=noise(), output="latents").flatten()


def noise() -> Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("layers", "skip"), [(MID, "attention"), (["down:1", "up:3"], "residual")])
def test_modular_sdxl_takes_our_guider(layers: Sequence[str], skip: str) -> None:
    small = tiny("StableDiffusionXLPipeline")
    options = dict(latents=noise(), num_inference_steps=small.call["num_inference_steps"])
    plain = run(small, **options)
    torch.testing.assert_close(
        modular(small, ClassifierFreeGuidance(guidance_scale=4.5)), plain, atol=1e-5, rtol=1e-4
    )
    guider = SkipGuidance(layers=layers, scale=1.3, skip=skip, guidance_scale=4.5)
    assert_same(run(small, STG(list(layers), 1.3, skip), **options), modular(small, guider), plain)


def test_pictures_in_the_place_of_texts_have_no_negative_one_without_cfg() -> None:
    """With CFG it is the picture that is none, of which pipelines make a batch."""
    small = tiny("StableDiffusionImageVariationPipeline")
    assert (run(small, NAG(4.0, 1.5, 0.5)) - run(small)).abs().max() > 1e-2
    with pytest.raises(ValueError, match=r"takes none, and without CFG .* Run it with CFG"):
        run(small, NAG(4.0, 1.5, 0.5), **small.off)
