"""What skipguide computed when it was pinned: small pipelines, settings, and the results of both.

The pipelines are no others' and stay as they are, so that the results say something. Their weights
are drawn by the names of the parameters and therefore do not depend on the order in which a model
makes them. `python -m support.pinned` in tests/ writes latents.safetensors again; do that only
where results are meant to change, and say so in a decision record."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_kl_mochi import AutoencoderKLMochi
from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import (
    AutoencoderKLTemporalDecoder,
)
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.latte_transformer_3d import LatteTransformer3DModel
from diffusers.models.transformers.transformer_mochi import MochiTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionModel
from diffusers.modular_pipelines.wan.modular_blocks_wan import WanCoreDenoiseStep
from diffusers.pipelines.latte.pipeline_latte import LattePipeline
from diffusers.pipelines.mochi.pipeline_mochi import MochiPipeline
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (
    StableVideoDiffusionPipeline,
)
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from PIL import Image
from transformers.models.clip.configuration_clip import CLIPVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.clip.modeling_clip import CLIPVisionModelWithProjection

from skipguide import APG, SLG, STG, TCFG, Bin, CFGZero, Random, Restart, Schedule, guide
from skipguide.guider import SkipGuidance

FOLDER = Path(__file__).parent
LATENTS = FOLDER / "latents.safetensors"
Tensor = torch.Tensor
Run = Callable[..., Tensor]


def drawn(name: str, *shape: int) -> Tensor:
    """Normal numbers that depend on a name alone."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(*shape, generator=generator)


def fill(model: Any) -> Any:
    """Give a model weights for which every block matters and no output grows: half the usual size
    for matrices, norms near 1."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
            around = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            parameter.copy_(around + drawn(name, *parameter.shape) * 0.8 / fan_in**0.5)
    return model.eval()


# --- pipelines ------------------------------------------------------------------------------------


def ready(pipe: Any, **call: Any) -> tuple[Any, Run]:
    """A pipeline, and what runs it: three steps, latents out."""
    pipe.set_progress_bar_config(disable=True)
    usual = {"num_inference_steps": 3, "output_type": "latent", **call}

    def run() -> Tensor:
        result = pipe(**usual, generator=torch.Generator().manual_seed(0))
        return torch.as_tensor(next(iter(result.values())))

    return pipe, run


def mochi() -> tuple[Any, Run]:
    """Batched CFG; text and video packed into one sequence."""
    transformer = MochiTransformer3DModel(
        patch_size=2, num_attention_heads=2, attention_head_dim=8, num_layers=4,
        pooled_projection_dim=16, in_channels=12, text_embed_dim=32, time_embed_dim=16,
        max_sequence_length=16,
    )  # fmt: skip
    channels: Any = (32, 32, 32, 32)
    vae = AutoencoderKLMochi(
        encoder_block_out_channels=channels, decoder_block_out_channels=channels,
        layers_per_block=(0, 0, 0, 0, 1), add_attention_block=(False,) * 5,
    )  # fmt: skip
    pipe = MochiPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True), vae=vae,
        text_encoder=None, tokenizer=None, transformer=fill(transformer),  # type: ignore[arg-type]
    )  # fmt: skip
    mask = torch.ones(1, 16, dtype=torch.bool)
    mask[0, 9:] = False
    return ready(
        pipe, prompt_embeds=drawn("prompt", 1, 16, 32), prompt_attention_mask=mask,
        negative_prompt_embeds=drawn("negative", 1, 16, 32), negative_prompt_attention_mask=mask,
        height=32, width=32, num_frames=7, guidance_scale=4.5,
    )  # fmt: skip


def wan() -> tuple[Any, Run]:
    """Cond and uncond in separate calls."""
    transformer = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, num_layers=4, in_channels=4, out_channels=4,
        text_dim=16, freq_dim=16, ffn_dim=32, rope_max_seq_len=16,
    )  # fmt: skip
    vae = AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        temperal_downsample=[False, True, True], latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    pipe = WanPipeline(
        tokenizer=None, text_encoder=None, vae=vae, transformer=fill(transformer),  # type: ignore[arg-type]
        scheduler=UniPCMultistepScheduler(  # type: ignore[arg-type]
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5
        ),
    )  # fmt: skip
    return ready(
        pipe, prompt_embeds=drawn("prompt", 1, 12, 16), height=32, width=32, num_frames=5,
        negative_prompt_embeds=drawn("negative", 1, 12, 16), guidance_scale=4.5,
    )  # fmt: skip


def modular_wan() -> tuple[Any, Run]:
    """A guider of diffusers' Modular pipelines says how CFG is called."""
    plain, steps = wan()[0], WanCoreDenoiseStep()
    pipe: Any = steps.init_pipeline()
    pipe.update_components(transformer=plain.transformer, scheduler=plain.scheduler)
    pipe.set_progress_bar_config(disable=True)
    steps.sub_blocks["denoise"].set_progress_bar_config(disable=True)
    inputs = dict(
        prompt_embeds=drawn("prompt", 1, 12, 16), latents=drawn("latents", 1, 4, 2, 4, 4),
        negative_prompt_embeds=drawn("negative", 1, 12, 16), num_inference_steps=3, num_frames=5,
    )  # fmt: skip
    return pipe, lambda: pipe(**inputs, output="latents")


def latte() -> tuple[Any, Run]:
    """Batched CFG; blocks of space and of time in turn, and a learned variance."""
    transformer = LatteTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, num_layers=3, in_channels=4, out_channels=8,
        cross_attention_dim=16, caption_channels=32, sample_size=4, patch_size=2, video_length=2,
        attention_bias=True, activation_fn="gelu-approximate", num_embeds_ada_norm=1000,
        norm_type="ada_norm_single", norm_elementwise_affine=False, norm_eps=1e-6,
    )  # fmt: skip
    blocks: Any = dict(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), norm_num_groups=4,
    )  # fmt: skip
    pipe = LattePipeline(
        tokenizer=None, text_encoder=None, vae=AutoencoderKL(**blocks),  # type: ignore[arg-type]
        transformer=fill(transformer),
        scheduler=DDIMScheduler(  # type: ignore[arg-type]
            beta_start=0.0001, beta_end=0.02, beta_schedule="linear", clip_sample=False
        ),
    )  # fmt: skip
    return ready(
        pipe, prompt_embeds=drawn("prompt", 1, 8, 32), negative_prompt=None,
        negative_prompt_embeds=drawn("negative", 1, 8, 32), height=8, width=8, video_length=2,
        guidance_scale=4.5,
    )  # fmt: skip


def svd() -> tuple[Any, Run]:
    """A UNet; batched CFG whose scale grows from frame to frame."""
    unet = UNetSpatioTemporalConditionModel(
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        block_out_channels=(32, 32), num_attention_heads=(2, 2), layers_per_block=1,
        cross_attention_dim=16, addition_time_embed_dim=8, num_frames=3,
        projection_class_embeddings_input_dim=24,
    )  # fmt: skip
    blocks: Any = dict(block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2)
    scheduler = EulerDiscreteScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
        interpolation_type="linear", prediction_type="v_prediction", sigma_max=20.0,
        sigma_min=0.02, steps_offset=1, timestep_spacing="leading", timestep_type="continuous",
        use_karras_sigmas=True,
    )  # fmt: skip
    clip = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        projection_dim=16, image_size=224, patch_size=56,
    )  # fmt: skip
    size: Any = {"height": 224, "width": 224}
    pipe = StableVideoDiffusionPipeline(
        vae=fill(AutoencoderKLTemporalDecoder(**blocks)), unet=fill(unet), scheduler=scheduler,
        image_encoder=fill(CLIPVisionModelWithProjection(clip)),
        feature_extractor=CLIPImageProcessorPil(size={"shortest_edge": 224}, crop_size=size),  # type: ignore[arg-type]
    )  # fmt: skip
    picture = Image.linear_gradient("L").resize((16, 16)).convert("RGB")
    return ready(
        pipe, image=picture, height=16, width=16, num_frames=3, min_guidance_scale=1.0,
        max_guidance_scale=3.0,
    )  # fmt: skip


PIPELINES = {"mochi": mochi, "wan": wan, "modular wan": modular_wan, "latte": latte, "svd": svd}

# --- settings -------------------------------------------------------------------------------------

SCHEDULE = [
    Bin((0.0, 0.6), [1], 2.0, "attention", rescale=0.5),
    Bin((0.6, 0.95), guidance_scale=3.0),
    Bin((0.95, 2.0), [2], 1.0, guidance_scale=6.0, rescale=0.7),
]
BLOCKS: dict[str, dict[str, Any]] = {
    "stg": dict(terms=[STG([1], 1.3)]),
    "two terms": dict(
        terms=[STG([1], 1.2, "attention"), STG([2], 0.8, start=0.3)],
        orthogonalize=True, rescale=0.7,
    ),
    "slg": dict(terms=[SLG([1], "attention"), STG([2], 1.0, normalize=True)], share_prefix=False),
    "apg": dict(terms=[STG([1], 1.0)], cfg=APG(0.2, -0.3, 2.0), rescale=0.5, rescale_space="data"),
    "cfg-zero": dict(terms=[STG([1], 1.0, "soft", strength=0.3)], cfg=CFGZero(1)),
    "random": dict(terms=[STG(Random(0.4), 0.5, seed=3), STG([2], 0.3, "shuffle", every=2)]),
    "restart": dict(
        terms=[STG([1], [1.0, 0.0, 0.5])], cfg=TCFG(),
        restart=Restart(window=(0.3, 0.6), repeats=2, noise_scale=1.01),
    ),
}  # fmt: skip
AXES: dict[str, dict[str, Any]] = {
    "axes": dict(
        terms=[
            STG([1], 2.0, "attention", axis="spatial"), STG([1], 0.5, "attention", axis="temporal")
        ],
        rescale=0.7,
    ),
}  # fmt: skip
UNET: dict[str, dict[str, Any]] = {
    "stg": dict(terms=[STG(["up:0"], 1.3)]),
    "axes": dict(
        terms=[
            STG(["up:0"], 2.0, "attention", axis="spatial"), STG(["mid:0"], 0.5, axis="temporal")
        ],
        rescale=0.7,
    ),
    "slg": dict(terms=[SLG(["down:0"]), STG(["up:1"], 1.0, "blur")]),
    "apg": dict(terms=[STG(["mid:0"], 1.0)], cfg=APG(), rescale=0.5),
    "restart": dict(terms=[STG(["up:0"], 1.0)], restart=Restart(window=(0.3, 0.6))),
}  # fmt: skip
GUIDERS: dict[str, dict[str, Any]] = {
    "stg": dict(layers=[1], scale=1.3, guidance_scale=4.5),
    "two terms": dict(
        layers=[1], scale=1.2, skip="attention", terms=[dict(layers=[2], scale=0.8, start=0.3)],
        guidance_scale=4.5, rescale=0.7, orthogonalize=True,
    ),
    "window": dict(
        layers=[2], scale=1.0, stop=0.7, guidance_scale=3.5, cfg_start=0.4,
        use_original_formulation=True,
    ),
}  # fmt: skip
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "mochi": {**BLOCKS, "schedule": dict(terms=[Schedule(SCHEDULE)])},
    "wan": {**BLOCKS, "schedule": dict(terms=[Schedule(SCHEDULE)], cfg=TCFG())},
    "modular wan": GUIDERS,
    "latte": {**{name: BLOCKS[name] for name in ("stg", "two terms", "apg", "restart")}, **AXES},
    "svd": UNET,
}


def compute(name: str) -> dict[str, Tensor]:
    """The latents of a pipeline without guidance ("plain") and under each of its settings."""
    pipe, run = PIPELINES[name]()
    if name == "modular wan":
        return {"plain": guided_by(pipe, run, layers=[1], scale=0.0, guidance_scale=4.5)} | {
            title: guided_by(pipe, run, **options) for title, options in SETTINGS[name].items()
        }
    found = {"plain": run()}
    for title, options in SETTINGS[name].items():
        with guide(pipe, *options["terms"], **{k: v for k, v in options.items() if k != "terms"}):
            found[title] = run()
    return found


def guided_by(pipe: Any, run: Run, **config: Any) -> Tensor:
    """The latents of a Modular pipeline with this guider of ours."""
    pipe.update_components(guider=SkipGuidance(**config))
    return run()
