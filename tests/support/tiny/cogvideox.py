"""CogVideoX and ConsisID: batched CFG, joint attention over text and video."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX
from diffusers.pipelines.cogvideo.pipeline_cogvideox import CogVideoXPipeline
from diffusers.pipelines.cogvideo.pipeline_cogvideox_fun_control import CogVideoXFunControlPipeline
from diffusers.pipelines.cogvideo.pipeline_cogvideox_image2video import (
    CogVideoXImageToVideoPipeline,
)
from diffusers.pipelines.cogvideo.pipeline_cogvideox_video2video import (
    CogVideoXVideoToVideoPipeline,
)
from diffusers.pipelines.consisid.pipeline_consisid import ConsisIDPipeline
from diffusers.schedulers.scheduling_ddim_cogvideox import CogVideoXDDIMScheduler
from diffusers.schedulers.scheduling_dpm_cogvideox import CogVideoXDPMScheduler

from support.tiny.base import Tiny, denoiser, matter, quiet

FACE: Any = dict(
    is_train_face=True, cross_attn_interval=2, cross_attn_dim_head=8, cross_attn_num_heads=2,
    LFE_id_dim=8, LFE_vit_dim=16, LFE_depth=2, LFE_dim_head=8, LFE_num_heads=2, LFE_num_id_token=2,
    LFE_num_querie=4, LFE_output_dim=21, LFE_ff_mult=1, LFE_num_scale=2,
)  # fmt: skip
IMAGE = torch.linspace(0, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
VIDEO = torch.linspace(0, 1, 2 * 5 * 3 * 16 * 16).reshape(2, 5, 3, 16, 16)


def autoencoder() -> AutoencoderKLCogVideoX:
    """One latent of 4 channels for 4 x 4 pixels of 4 frames; the first frame has its own."""
    down: Any = ("CogVideoXDownBlock3D",) * 3
    up: Any = ("CogVideoXUpBlock3D",) * 3
    channels: Any = (8, 8, 8)
    vae = AutoencoderKLCogVideoX(
        down_block_types=down, up_block_types=up, block_out_channels=channels, latent_channels=4,
        layers_per_block=1, norm_num_groups=4,
    )  # fmt: skip
    return vae.eval()


def cogvideox(
    pipeline: Any,
    inputs: dict[str, Any],
    config: dict[str, Any],
    dtype: torch.dtype = torch.float32,
    family: str = "cogvideox",
    scheduler: Any = CogVideoXDDIMScheduler,
) -> Tiny:
    torch.manual_seed(0)
    transformer = denoiser(family, **config)
    pipe = pipeline(
        tokenizer=None,
        text_encoder=None,
        vae=autoencoder(),
        transformer=matter(transformer),
        scheduler=scheduler(
            prediction_type="v_prediction",
            timestep_spacing="trailing",
            rescale_betas_zero_snr=True,
            clip_sample=False,
        ),
    )
    call = dict(
        prompt_embeds=torch.randn(2, 8, 32), negative_prompt_embeds=torch.randn(2, 8, 32),
        height=16, width=16, num_inference_steps=3, guidance_scale=4.5, output_type="latent",
    )  # fmt: skip
    short = dict(
        num_inference_steps=3 if "strength" in inputs else 2
    )  # strength leaves the first quarter out
    return Tiny(quiet(pipe, dtype), {**call, **inputs}, off=dict(guidance_scale=1.0), short=short)


def consisid(dtype: torch.dtype = torch.float32) -> Tiny:
    config = dict(in_channels=8, use_learned_positional_embeddings=True, **FACE)
    # one face for all rows: a batch of faces is not doubled for CFG
    face = dict(
        id_cond=torch.linspace(-1, 1, 8)[None],
        id_vit_hidden=[torch.linspace(-1, 1, 48).reshape(1, 3, 16)] * 2,
    )
    inputs = dict(image=IMAGE, num_frames=5, **face)
    return cogvideox(ConsisIDPipeline, inputs, config, dtype, "consisid", CogVideoXDPMScheduler)


def row(pipeline: Any, inputs: dict[str, Any], **config: Any) -> Any:
    return functools.partial(cogvideox, pipeline, inputs, config)


PIPELINES = {
    "CogVideoXPipeline": row(CogVideoXPipeline, dict(num_frames=5)),
    "CogVideoXImageToVideoPipeline": row(
        CogVideoXImageToVideoPipeline,
        dict(image=IMAGE, num_frames=5),
        in_channels=8,
        use_learned_positional_embeddings=True,
    ),
    "CogVideoXImageToVideoPipeline 1.5": row(
        CogVideoXImageToVideoPipeline,
        dict(image=IMAGE, num_frames=13),
        in_channels=8,
        ofs_embed_dim=8,
        patch_size_t=2,
    ),
    # 3 of 4 steps; positions as in CogVideoX-2b
    "CogVideoXVideoToVideoPipeline": row(
        CogVideoXVideoToVideoPipeline,
        dict(video=VIDEO, num_inference_steps=4, strength=0.75),
        use_rotary_positional_embeddings=False,
    ),
    "CogVideoXFunControlPipeline": row(
        CogVideoXFunControlPipeline, dict(control_video=VIDEO), in_channels=8
    ),
    "ConsisIDPipeline": consisid,
}
