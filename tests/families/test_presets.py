"""The published settings: every row can be used, fits its model, and is what its source has."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from typing import Any

import pytest
import torch
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXTransformer3DModel
from diffusers.models.transformers.hunyuan_transformer_2d import HunyuanDiT2DModel
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from diffusers.models.transformers.sana_transformer import SanaTransformer2DModel
from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoTransformer3DModel
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from diffusers.models.transformers.transformer_ltx2 import LTX2VideoTransformer3DModel
from diffusers.models.transformers.transformer_mochi import MochiTransformer3DModel
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)

from skipguide import SLG, STG, Modality
from skipguide.families import presets
from skipguide.families import rows as family_rows
from skipguide.families.examples import example_of
from skipguide.families.presets import Preset
from skipguide.families.schema import Family
from skipguide.generate.resolve import resolve_settings
from skipguide.generate.settings import validate_settings
from skipguide.lab import opensora as lab_opensora
from skipguide.lab import svd as lab_svd
from skipguide.method.terms import Bin, Random, Schedule
from skipguide.opensora import OpenSoraTransformer3DModel

ROWS = {row.name: row for row in presets.load_presets()}


def loaded(row: Preset) -> STG | SLG | Schedule | tuple[STG, ...]:
    """The terms that a row stands for; each checks itself."""
    if row.schedule:
        return Schedule([Bin(**entry) for entry in row.schedule], source=row.source)
    window: dict[str, Any] = dict(start=row.start, stop=row.stop)
    if row.kind == "slg":
        return SLG(list(row.layers), row.skip, row.axis, **window)
    if row.terms:
        assert (row.scale, row.axis) == (0, None)
        return tuple(
            STG(list(row.layers), term["scale"], row.skip, term["axis"], **window)
            for term in row.terms
        )
    stg = STG(
        list(row.layers) or [0],
        row.scale,
        row.skip,
        row.axis,
        **window,
        normalize=row.normalize,
        source=row.source,
    )
    modality = Modality(row.modality_scale, source=row.source)
    if row.modality_scale > 1:
        return (stg, modality) if row.layers else modality
    assert row.layers
    return stg


def family(row: Preset) -> Family:
    """The one family of a row's pipelines."""
    (found,) = {
        family.name: family
        for family in family_rows.FAMILIES
        if set(row.pipelines) & set(family.pipelines)
    }.values()
    return found


def all_layers(row: Preset) -> list[int | str]:
    return [*row.layers, *(layer for entry in row.schedule for layer in entry.get("layers", ()))]


# --- every row ------------------------------------------------------------------------------------


def test_names_are_unique() -> None:
    assert len(ROWS) == len(presets.load_presets())
    assert all(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_row_can_be_used(name: str) -> None:
    row = ROWS[name]
    assert isinstance(loaded(row), {"stg": (STG, Schedule, tuple), "slg": SLG}[row.kind])
    assert row.source
    assert row.model
    assert 0 <= row.rescale <= 1
    assert (row.kind == "stg") or row.scale == 0
    if row.schedule:
        assert (row.layers, row.rescale) == ((), 0)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.pipelines])
def test_row_fits_its_family(name: str) -> None:
    row = ROWS[name]
    known = family(row)
    assert set(row.pipelines) <= set(known.pipelines)
    first = next(iter(known.stacks))
    for layer in all_layers(row):
        stack, index = (first, layer) if isinstance(layer, int) else layer.split(":")
        depth = row.depth if stack == first else known.stacks[stack].depth
        assert not (known.unet and isinstance(layer, int)), (
            "a layer of a UNet is written with its part"
        )
        assert 0 <= int(index) < depth
        assert row.skip != "attention" or known.stacks[stack].attention


def test_one_recommended_row_per_model() -> None:
    asked = [
        (pipeline, row.kind, row.depth, row.width, tuple(row.config.items()))
        for row in ROWS.values() if row.recommended for pipeline in row.pipelines
    ]  # fmt: skip
    assert len(asked) == len(set(asked))
    assert all(row.pipelines for row in ROWS.values() if row.recommended)


def test_hunyuan_dual_and_single_are_told_apart() -> None:
    """Both of the authors' ports call it 2."""
    assert (ROWS["hunyuan-double-2"].layers, ROWS["hunyuan-single-2"].layers) == (
        ("dual:2",),
        ("single:2",),
    )


# --- what is picked -------------------------------------------------------------------------------

SDXL = example_of("sdxl").config("full")
MODELS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "mochi": ("MochiPipeline", MochiTransformer3DModel, {}),
    "lab-mochi": (
        "MochiPipeline",
        MochiTransformer3DModel,
        dict(num_layers=12, num_attention_heads=2),
    ),
    "ltx-2b": ("LTXPipeline", LTXVideoTransformer3DModel, {}),
    "ltx-13b-dev": (
        "LTXConditionPipeline",
        LTXVideoTransformer3DModel,
        dict(num_layers=48, attention_head_dim=128),
    ),
    "ltx-2": ("LTX2Pipeline", LTX2VideoTransformer3DModel, {}),
    "ltx-2.3": ("LTX2Pipeline", LTX2VideoTransformer3DModel, dict(gated_attn=True)),
    "hunyuan-double-2": ("HunyuanVideoPipeline", HunyuanVideoTransformer3DModel, {}),
    "cogvideox-5b": (
        "CogVideoXPipeline",
        CogVideoXTransformer3DModel,
        dict(num_layers=42, num_attention_heads=48),
    ),
    "cogvideox-2b": ("CogVideoXPipeline", CogVideoXTransformer3DModel, {}),
    "pixart-sigma-pag": ("PixArtSigmaPipeline", PixArtTransformer2DModel, {}),
    "sana-pag": ("SanaPipeline", SanaTransformer2DModel, {}),
    "hunyuan-dit-pag": (
        "HunyuanDiTPipeline",
        HunyuanDiT2DModel,
        dict(num_layers=40, in_channels=4, patch_size=2),
    ),
    "wan-14b": ("WanPipeline", WanTransformer3DModel, {}),
    "wan-1.3b": ("WanPipeline", WanTransformer3DModel, dict(num_layers=30, num_attention_heads=12)),
    "wan-slg-9": ("WanPipeline", WanTransformer3DModel, {}),
    "wan-slg-8": (
        "WanPipeline",
        WanTransformer3DModel,
        dict(num_layers=30, num_attention_heads=12),
    ),
    "svd": ("StableVideoDiffusionPipeline", UNetSpatioTemporalConditionModel, {}),
    "lab-svd": ("StableVideoDiffusionPipeline", UNetSpatioTemporalConditionModel, lab_svd.UNET),
    "sd3.5-medium": (
        "StableDiffusion3Img2ImgPipeline",
        SD3Transformer2DModel,
        dict(num_layers=24, qk_norm="rms_norm"),
    ),
    "opensora": ("OpenSoraPipeline", OpenSoraTransformer3DModel, {}),
    "lab-opensora": ("OpenSoraPipeline", OpenSoraTransformer3DModel, lab_opensora.TRANSFORMER),
    "sd1.5-pag": ("StableDiffusionPipeline", UNet2DConditionModel, {}),
    "sdxl-pag": ("StableDiffusionXLPipeline", UNet2DConditionModel, SDXL),
    "kolors-pag": ("KolorsPipeline", UNet2DConditionModel, SDXL),
}


def stub(pipeline: str, model: Any, config: dict[str, Any]) -> Any:
    """A pipeline by name, with the real denoiser and nothing else; no weights."""
    pipe: Any = type(pipeline, (), {})()
    with torch.device("meta"):
        denoiser = model(**config)
    setattr(pipe, "unet" if "UNet" in model.__name__ else "transformer", denoiser)
    return pipe


def test_every_recommended_row_has_a_model_here() -> None:
    assert set(MODELS) == {name for name, row in ROWS.items() if row.recommended}


@pytest.mark.parametrize("name", MODELS)
def test_recommended_row_is_picked(name: str, caplog: pytest.LogCaptureFixture) -> None:
    pipe, kind = stub(*MODELS[name]), ROWS[name].kind
    with caplog.at_level(logging.INFO, logger="skipguide"):
        assert presets.preset_for(pipe, kind) is ROWS[name]
    said = caplog.messages[-1]
    assert said.startswith(f"preset {name} for {ROWS[name].model}: ")
    assert said.endswith(f"Source: {ROWS[name].source}")
    picked: Any = STG.preset(pipe) if kind == "stg" else SLG.preset(pipe)
    assert picked == loaded(ROWS[name])
    assert {term.source for term in (picked if isinstance(picked, tuple) else [picked])} == {
        ROWS[name].source
    }


def test_a_pipeline_of_ones_own_is_known_by_its_base() -> None:
    base = stub(*MODELS["wan-1.3b"])
    pipe = type("Mine", (type(base),), {})()
    pipe.transformer = base.transformer
    assert presets.preset_for(pipe).name == "wan-1.3b"


def test_equal_depth_and_another_width_is_another_model() -> None:
    pipe = stub(
        "WanPipeline", WanTransformer3DModel, dict(num_layers=30)
    )  # as deep as the 1.3B, as wide as the 14B
    with pytest.raises(
        ValueError, match="none is known for a WanPipeline of 30 blocks and width 5120"
    ) as error:
        presets.preset_for(pipe)
    assert "Wan-AI/Wan2.1-T2V-1.3B-Diffusers (30 blocks, width 1536)" in str(error.value)
    assert "Choose the layer yourself, as in STG(layers=[21]" in str(error.value)


def test_nothing_is_published_for_a_pipeline() -> None:
    pipe = stub(
        "WanImageToVideoPipeline", WanTransformer3DModel, {}
    )  # SLG rows name it, and are not picked
    with pytest.raises(ValueError, match=r"WanImageToVideoPipeline of 40 blocks \(known: none\)"):
        presets.preset_for(pipe)


def test_layers_of_sd35_are_not_those_of_sd3() -> None:
    """It has as many blocks of the same width. For 3.5 Large nothing is published."""
    name, kind, config = MODELS["sd3.5-medium"]
    for other in (dict(qk_norm=None), dict(num_layers=38)):
        with pytest.raises(ValueError, match="none is known for a StableDiffusion3Img2ImgPipeline"):
            presets.preset_for(stub(name, kind, {**config, **other}))


def test_the_most_specific_row_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [ROWS["ltx-2.3"], ROWS["ltx-2"]]
    for order in (rows, rows[::-1]):
        monkeypatch.setattr(presets, "load_presets", lambda order=order: tuple(order))
        assert presets.preset_for(stub(*MODELS["ltx-2.3"])).name == "ltx-2.3"
        assert presets.preset_for(stub(*MODELS["ltx-2"])).name == "ltx-2"


# --- the schedules of LTX-Video 13B ---------------------------------------------------------------

# (sigma, cfg, stg, rescale, blocks) of the first pass: configs/ltxv-13b-0.9.8-dev.yaml, by the
# lines that choose them (LTX-Video@5260738 pipeline_ltx_video.py:958-1000). First its own 30 steps,
# then sigmas at the bounds. fmt: off
OFFICIAL = [
    (1.0, 1, 0, 1, []),
    (0.9983333349227905, 1, 0, 1, [11, 25, 35, 39]),
    (0.996666669845581, 1, 0, 1, [11, 25, 35, 39]),
    (0.9950000047683716, 6, 4, 0.5, [22, 35, 39]),
    (0.9933333396911621, 6, 4, 0.5, [22, 35, 39]),
    (0.9916666746139526, 8, 4, 0.5, [28]),
    (0.9900000095367432, 8, 4, 0.5, [28]),
    (0.9883333444595337, 8, 4, 0.5, [28]),
    (0.9866666793823242, 8, 4, 0.5, [28]),
    (0.9850000143051147, 8, 4, 0.5, [28]),
    (0.9833333492279053, 6, 4, 1, [28]),
    (0.9816666841506958, 6, 4, 1, [28]),
    (0.9800000190734863, 6, 4, 1, [28]),
    (0.9783333539962769, 6, 4, 1, [28]),
    (0.9766666889190674, 1, 2, 1, [28]),
    (0.9750000238418579, 1, 2, 1, [28]),
    (0.9691110849380493, 1, 2, 1, [28]),
    (0.9547777771949768, 1, 2, 1, [28]),
    (0.9319999814033508, 1, 2, 1, [28]),
    (0.9007777571678162, 1, 1, 1, [28]),
    (0.8611111044883728, 1, 1, 1, [28]),
    (0.8130000233650208, 1, 1, 1, [28]),
    (0.7564444541931152, 1, 1, 1, [28]),
    (0.691444456577301, 1, 1, 1, [28]),
    (0.6179999709129333, 1, 1, 1, [28]),
    (0.5361111164093018, 1, 1, 1, [28]),
    (0.4457777738571167, 1, 1, 1, [28]),
    (0.34700000286102295, 1, 1, 1, [28]),
    (0.23977777361869812, 1, 1, 1, [28]),
    (0.124111108481884, 1, 1, 1, [28]),
    (0.9960000514984131, 1, 0, 1, [11, 25, 35, 39]),
    (0.9959999918937683, 1, 0, 1, [11, 25, 35, 39]),
    (0.9959998726844788, 6, 4, 0.5, [22, 35, 39]),
    (0.9933000206947327, 6, 4, 0.5, [22, 35, 39]),
    (0.9932999610900879, 8, 4, 0.5, [28]),
    (0.98499995470047, 6, 4, 1, [28]),
    (0.9767000079154968, 6, 4, 1, [28]),
    (0.976699948310852, 1, 2, 1, [28]),
    (0.9007999897003174, 1, 2, 1, [28]),
    (0.9007999300956726, 1, 1, 1, [28]),
    (0.6179999709129333, 1, 1, 1, [28]),
]
# The same of "13b Dynamic", by sigma_to_params_mapping of ComfyUI-LTXVideo@aceeae9.
COMFY = [
    (1.0, 1, 0, 1, [11, 25, 35, 39]),
    (0.9950000047683716, 1, 0, 1, [11, 25, 35, 39]),
    (0.9933000206947327, 6, 4, 0.5, [22, 35, 39]),
    (0.9933000802993774, 1, 0, 1, [11, 25, 35, 39]),
    (0.9899899959564209, 6, 4, 0.5, [22, 35, 39]),
    (0.9850000143051147, 8, 4, 0.5, [28]),
    (0.9850000739097595, 6, 4, 0.5, [22, 35, 39]),
    (0.9800000190734863, 8, 4, 0.5, [28]),
    (0.9767000079154968, 6, 4, 1, [28]),
    (0.9767000675201416, 8, 4, 0.5, [28]),
    (0.949999988079071, 6, 4, 1, [28]),
    (0.9007999897003174, 1, 2, 1, [28]),
    (0.9008000493049622, 6, 4, 1, [28]),
    (0.699999988079071, 1, 2, 1, [28]),
    (0.6179999709129333, 1, 1, 1, [28]),
    (0.6180000305175781, 1, 2, 1, [28]),
    (0.30000001192092896, 1, 1, 1, [28]),
]
# fmt: on


def here(name: str, sigma: float) -> tuple[float | None, float, float, list[Any]]:
    """CFG, scale, rescale and layers at a noise level; no layers where nothing is skipped."""
    schedule = loaded(ROWS[name])
    assert isinstance(schedule, Schedule)
    found = schedule.at(sigma)
    assert found is not None
    assert not isinstance(found.layers, Random)
    return (
        found.guidance_scale,
        found.scale,
        found.rescale if found.scale else 0,
        list(found.layers),
    )


@pytest.mark.parametrize(("sigma", "cfg", "stg", "rescale", "blocks"), OFFICIAL)
def test_official_bins(
    sigma: float, cfg: float, stg: float, rescale: float, blocks: list[int]
) -> None:
    off = stg == 0 or rescale == 1  # 1 is off there
    assert here("ltx-13b-dev", sigma) == (cfg, stg, 0 if off else rescale, blocks if stg else [])


@pytest.mark.parametrize(("sigma", "cfg", "stg", "rescale", "blocks"), COMFY)
def test_comfy_bins(
    sigma: float, cfg: float, stg: float, rescale: float, blocks: list[int]
) -> None:
    assert here("ltx-13b-comfy-dynamic", sigma) == (
        cfg,
        stg,
        rescale if stg else 0,
        blocks if stg else [],
    )


def test_the_two_official_repositories_differ() -> None:
    assert here("ltx-13b-dev", 0.99)[0] == 8 != here("ltx-13b-comfy-dynamic", 0.99)[0]


def test_a_run_of_diffusers_has_the_sigmas_of_the_table() -> None:
    """LTXConditionPipeline gives its timesteps to the scheduler, whose sigmas decide on the bin."""
    scheduler = FlowMatchEulerDiscreteScheduler()
    steps = [row[0] for row in OFFICIAL[:30]]
    scheduler.set_timesteps(sigmas=steps)
    assert [
        here("ltx-13b-dev", sigma) for sigma in torch.as_tensor(scheduler.sigmas).tolist()[:30]
    ] == [here("ltx-13b-dev", sigma) for sigma in steps]


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.schedule])
def test_a_schedule_covers_the_whole_run(name: str) -> None:
    bins = sorted(entry["sigma"] for entry in ROWS[name].schedule)
    assert (bins[0][0], bins[-1][1]) == (0.0, 1.1)
    assert all(lower[1] == upper[0] for lower, upper in itertools.pairwise(bins))


def test_second_pass() -> None:
    assert here("ltx-13b-dev-second-pass", 0.5) == (1, 1, 0, [27])


def test_the_command_line_takes_a_published_schedule() -> None:
    pipe: Any = stub(*MODELS["ltx-13b-dev"])
    pipe.dtype, pipe.device = torch.float32, torch.device("cpu")
    type(pipe).__call__ = (
        lambda self, prompt, height, width, num_frames, num_inference_steps, guidance_scale: None
    )
    size: dict[str, Any] = dict(prompt="p", height=32, width=32, num_frames=9, guidance_scale=3.0)
    complete = resolve_settings(validate_settings(size), pipe)
    schedule = complete.guidance.schedule
    assert schedule is not None
    assert list(schedule.bins) == [Bin(**entry) for entry in ROWS["ltx-13b-dev"].schedule]
    off = resolve_settings(validate_settings({**size, "stg_scale": 0}), pipe)
    assert off.guidance.schedule is None


# --- in words -------------------------------------------------------------------------------------


def test_in_words() -> None:
    row = dataclasses.replace(
        ROWS["svd"], scale=0.5, axis="temporal", terms=(), start=0.1, stop=0.9
    )
    assert (
        presets.describe_preset(row)
        == "layer up:0, attention, temporal only, scale 0.5, steps 10% to 90%, rescale 0.7, CFG 3"
    )
    assert (
        presets.describe_preset(ROWS["svd"])
        == "layer up:0, attention, spatial scale 2, temporal scale 0.5, rescale 0.7, CFG 3"
    )
    assert (
        presets.describe_preset(ROWS["wan-slg-9"])
        == "layer 9, residual, in the unconditional pass, steps 10% to 90%"
    )
    assert presets.describe_preset(ROWS["ltx-13b-dev"]) == "a schedule of 6 ranges of sigma"
    assert presets.describe_layers(ROWS["sdxl-pag"].layers) == "mid:0, mid:1, ..., mid:9"
