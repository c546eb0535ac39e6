"""LTX-2: video and audio in one pass, batched CFG in sample space; its own STG and modality
guidance are off here."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx2 import AutoencoderKLLTX2Video
from diffusers.models.autoencoders.autoencoder_kl_ltx2_audio import AutoencoderKLLTX2Audio
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from diffusers.pipelines.ltx2.pipeline_ltx2 import LTX2Pipeline
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import (
    LTX2ConditionPipeline,
    LTX2VideoCondition,
)
from diffusers.pipelines.ltx2.pipeline_ltx2_hdr_lora import (
    LTX2HDRPipeline,
    LTX2HDRReferenceCondition,
)
from diffusers.pipelines.ltx2.pipeline_ltx2_ic_lora import (
    LTX2InContextPipeline,
    LTX2ReferenceCondition,
)
from diffusers.pipelines.ltx2.pipeline_ltx2_image2video import LTX2ImageToVideoPipeline
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
from PIL import Image

from support.tiny.base import Tiny, denoiser, matter, quiet
from support.tiny.ltx import IMAGE, dynamic

PICTURE = Image.linear_gradient("L").resize((32, 32)).convert("RGB")
OFF = dict(guidance_scale=1.0, audio_guidance_scale=1.0)


def autoencoder() -> AutoencoderKLLTX2Video:
    """One latent of 8 channels for 16 x 16 pixels of 4 frames; the first frame has its own."""
    vae = AutoencoderKLLTX2Video(
        latent_channels=8, block_out_channels=(16, 32),
        down_block_types=("LTX2VideoDownBlock3D",) * 2, decoder_block_out_channels=(8, 16),
        layers_per_block=(1, 1, 1), decoder_layers_per_block=(1, 1, 1),
        spatio_temporal_scaling=(True, True), decoder_spatio_temporal_scaling=(True, True),
        decoder_inject_noise=(False,) * 3, downsample_type=("spatiotemporal",) * 2,
        upsample_type=("spatiotemporal",) * 2, upsample_residual=(True,) * 2,
        upsample_factor=(2, 2),
    )  # fmt: skip
    return vae.eval()


def sound() -> dict[str, Any]:
    """An audio VAE of 2 channels x 4 mel bins, 25 latents a second, and a vocoder for it."""
    vae = AutoencoderKLLTX2Audio(
        base_channels=8, ch_mult=(1, 1, 1), num_res_blocks=1, latent_channels=2, mel_bins=16
    )
    vocoder = LTX2Vocoder(
        in_channels=32, hidden_channels=16, upsample_kernel_sizes=[4], upsample_factors=[2],
        resnet_kernel_sizes=[3], resnet_dilations=[[1]],
    )  # fmt: skip
    return dict(audio_vae=vae.eval(), vocoder=vocoder.eval())


def ltx2(
    pipeline: Any,
    inputs: dict[str, Any],
    dtype: torch.dtype = torch.float32,
    config: dict[str, Any] | None = None,
    text: dict[str, Any] | None = None,
    hears: bool = True,
) -> Tiny:
    torch.manual_seed(0)
    transformer = denoiser("ltx-2", **(config or {}))
    connectors = LTX2TextConnectors(
        caption_channels=32, text_proj_in_factor=2, video_connector_num_attention_heads=2,
        video_connector_attention_head_dim=16, video_connector_num_layers=1,
        audio_connector_num_attention_heads=2, video_connector_num_learnable_registers=4,
        audio_connector_num_learnable_registers=4, audio_connector_num_layers=1, rope_type="split",
        **{"audio_connector_attention_head_dim": 16, **(text or {})},
    )  # fmt: skip
    pipe = pipeline(
        scheduler=dynamic(), vae=autoencoder(), text_encoder=None, tokenizer=None,
        connectors=connectors.eval(), transformer=matter(transformer), **sound(),
    )  # fmt: skip
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[0, :3] = 0
    call = dict(
        prompt_embeds=torch.randn(2, 8, 64), prompt_attention_mask=mask,
        negative_prompt_embeds=torch.randn(2, 8, 64), negative_prompt_attention_mask=mask.flip(0),
        height=32, width=32, num_frames=5, num_inference_steps=3, guidance_scale=4.5,
        audio_guidance_scale=None, stg_scale=0.0, audio_stg_scale=0.0, modality_scale=1.0,
        audio_modality_scale=1.0, guidance_rescale=0.0, audio_guidance_rescale=0.0,
        output_type="latent",
    )  # fmt: skip
    taken = {**call, **inputs}
    if hears:
        return Tiny(quiet(pipe, dtype), taken, off=OFF)
    taken = {name: value for name, value in taken.items() if not name.startswith("audio_")}
    return Tiny(quiet(pipe, dtype), taken, off=dict(guidance_scale=1.0))


PIPELINES = {
    "LTX2Pipeline": functools.partial(ltx2, LTX2Pipeline, {}),
    # LTX-2.3, with a CFG scale of its own for the audio
    "LTX2Pipeline gated": functools.partial(
        ltx2,
        LTX2Pipeline,
        dict(audio_guidance_scale=7.0),
        config=dict(
            gated_attn=True,
            audio_gated_attn=True,
            cross_attn_mod=True,
            audio_cross_attn_mod=True,
            perturbed_attn=True,
            use_prompt_embeddings=False,
        ),
        text=dict(
            per_modality_projections=True,
            video_hidden_dim=32,
            audio_hidden_dim=16,
            proj_bias=True,
            video_gated_attn=True,
            audio_gated_attn=True,
            audio_connector_attention_head_dim=8,
        ),
    ),
    "LTX2ImageToVideoPipeline": functools.partial(
        ltx2, LTX2ImageToVideoPipeline, dict(image=IMAGE, image_crf=0)
    ),
    # an image in the place of the first latent frame, one beside the video: its tokens come after
    # those of the video
    "LTX2ConditionPipeline": functools.partial(
        ltx2,
        LTX2ConditionPipeline,
        dict(
            conditions=[
                LTX2VideoCondition(frames=PICTURE, crf=0),
                LTX2VideoCondition(frames=PICTURE.rotate(90), index=1, strength=0.8, crf=0),
            ]
        ),
    ),
    # the tokens of a reference video come last of all, and the video attends to them at half
    # strength
    "LTX2InContextPipeline": functools.partial(
        ltx2,
        LTX2InContextPipeline,
        dict(
            conditions=[
                LTX2VideoCondition(frames=PICTURE.rotate(90), index=1, strength=0.8, crf=0)
            ],
            reference_conditions=[LTX2ReferenceCondition(frames=[PICTURE] * 5, strength=0.9)],
            conditioning_attention_strength=0.5,
        ),
    ),
    # the transformer makes audio here too, which the pipeline throws away
    "LTX2HDRPipeline": functools.partial(
        ltx2,
        LTX2HDRPipeline,
        dict(reference_conditions=[LTX2HDRReferenceCondition([PICTURE] * 5)]),
        hears=False,
    ),
}
