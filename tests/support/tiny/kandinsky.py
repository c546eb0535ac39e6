"""Kandinsky 5 and 6: separate CFG passes, latents with channels last; Kandinsky 6 denoises sound
with the video."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import AutoencoderKLHunyuanVideo
from diffusers.models.autoencoders.autoencoder_mmaudio import MMAudioVAE
from diffusers.models.autoencoders.mmaudio_vocoder import MMAudioVocoder
from diffusers.pipelines.kandinsky5.pipeline_kandinsky import Kandinsky5T2VPipeline
from diffusers.pipelines.kandinsky5.pipeline_kandinsky_i2i import Kandinsky5I2IPipeline
from diffusers.pipelines.kandinsky5.pipeline_kandinsky_i2v import Kandinsky5I2VPipeline
from diffusers.pipelines.kandinsky5.pipeline_kandinsky_t2i import Kandinsky5T2IPipeline
from diffusers.pipelines.kandinsky6.pipeline_kandinsky6_ti2va import Kandinsky6TI2VAPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)

from support.tiny.base import Tiny, denoiser, matter
from support.tiny.hunyuan_dit import autoencoder as image_autoencoder
from support.tiny.wan import load, picture


def autoencoder() -> AutoencoderKLHunyuanVideo:
    """One latent of 4 channels for 8 x 8 pixels of 4 frames; the first frame has its own."""
    channels: Any = (8, 8, 8, 8)
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=channels, layers_per_block=1, norm_num_groups=4
    )
    return vae.eval()


def kandinsky(
    pipeline: Any,
    transformer: Any,
    call: dict[str, Any],
    dtype: torch.dtype,
    also: tuple[str, ...] = (),
    **components: Any,
) -> Tiny:
    pipe = pipeline(
        transformer=matter(transformer), vae=autoencoder(), text_encoder=None, tokenizer=None,
        text_encoder_2=None, tokenizer_2=None, scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        **components,
    )  # fmt: skip
    sizes = dict(
        height=32, width=32, num_inference_steps=3, guidance_scale=4.5, output_type="latent"
    )
    load(pipe, dtype, "transformer", "vae", also=also)
    return Tiny(pipe, {**call, **sizes}, off=dict(guidance_scale=1.0))


def five(
    pipeline: Any, inputs: dict[str, Any], dtype: torch.dtype = torch.float32, **changes: Any
) -> Tiny:
    torch.manual_seed(0)
    # prompts of 7 and 5 tokens, negative ones of 4 and 6: the two passes differ in length
    call = dict(
        prompt_embeds_qwen=torch.randn(2, 7, 16),
        prompt_embeds_clip=torch.randn(2, 8),
        prompt_cu_seqlens=torch.tensor([0, 7, 12], dtype=torch.int32),
        negative_prompt_embeds_qwen=torch.randn(2, 6, 16),
        negative_prompt_embeds_clip=torch.randn(2, 8),
        negative_prompt_cu_seqlens=torch.tensor([0, 4, 10], dtype=torch.int32),
        **inputs,
    )
    transformer = denoiser("kandinsky-5", **changes)
    # it calls these norms in float32, and torch warns if their weights are bfloat16
    norms = ("query_norm", "key_norm")
    return kandinsky(pipeline, transformer, call, dtype, norms)


def image_of_five(
    pipeline: Any, inputs: dict[str, Any], dtype: torch.dtype = torch.float32, **changes: Any
) -> Tiny:
    small = five(pipeline, inputs, dtype, **changes)
    small.pipe.resolutions = [(32, 32)]  # it scales other sizes to the nearest of them
    small.pipe.vae = torch.nn.Module.to(image_autoencoder(), dtype)
    return small


def six(inputs: dict[str, Any], dtype: torch.dtype = torch.float32) -> Tiny:
    torch.manual_seed(0)
    transformer = denoiser("kandinsky-6")
    sound = MMAudioVAE(
        mel_bins=8,
        latent_channels=4,
        hidden_channels=8,
        channel_multipliers=(1, 1),
        layers_per_block=1,
        n_fft=64,
    )
    vocoder = MMAudioVocoder(
        num_mels=8, upsample_initial_channel=8, upsample_rates=(2,), upsample_kernel_sizes=(4,),
        resblock_kernel_sizes=(3,), resblock_dilation_sizes=((1,),),
    )  # fmt: skip
    # without masks: the pipeline makes them of prompts that it encodes itself, and takes none
    call = dict(
        prompt_embeds=torch.randn(2, 7, 16),
        pooled_prompt_embeds=torch.randn(2, 8),
        negative_prompt_embeds=torch.randn(2, 6, 16),
        negative_pooled_prompt_embeds=torch.randn(2, 8),
        num_frames=5,
        **inputs,
    )
    components: dict[str, Any] = dict(audio_vae=sound.eval(), vocoder=vocoder.eval())
    return kandinsky(Kandinsky6TI2VAPipeline, transformer, call, dtype, **components)


PIPELINES = {
    "Kandinsky5T2VPipeline": functools.partial(five, Kandinsky5T2VPipeline, dict(num_frames=5)),
    # fewer than five latent frames come out as nan: the fifth and later ones normalise the first
    # four
    "Kandinsky5I2VPipeline": functools.partial(
        five, Kandinsky5I2VPipeline, dict(num_frames=17, image=picture(32))
    ),
    "Kandinsky5T2IPipeline": functools.partial(
        image_of_five, Kandinsky5T2IPipeline, {}, visual_cond=False
    ),
    "Kandinsky5I2IPipeline": functools.partial(
        image_of_five, Kandinsky5I2IPipeline, dict(image=[picture(32)] * 2)
    ),
    "Kandinsky6TI2VAPipeline": functools.partial(six, {}),
    # no sound; an image is one more frame at the end, which the pipeline cuts off again
    "Kandinsky6TI2VAPipeline image": functools.partial(
        six, dict(image=[picture(32)] * 2, sample_audio=False)
    ),
}
