"""LTX-Video: batched CFG, self-attention and cross-attention with a mask; with images, a timestep
per token."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from diffusers.pipelines.ltx.pipeline_ltx import LTXPipeline
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXConditionPipeline, LTXVideoCondition
from diffusers.pipelines.ltx.pipeline_ltx_i2v_long_multi_prompt import LTXI2VLongMultiPromptPipeline
from diffusers.pipelines.ltx.pipeline_ltx_image2video import LTXImageToVideoPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.schedulers.scheduling_ltx_euler_ancestral_rf import LTXEulerAncestralRFScheduler
from transformers.models.t5.configuration_t5 import T5Config
from transformers.models.t5.modeling_t5 import T5EncoderModel
from transformers.models.t5.tokenization_t5 import T5Tokenizer

from support.tiny.base import Tiny, denoiser, matter, quiet

IMAGE: Any = torch.linspace(0, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)


def dynamic() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=0.95,
        max_shift=2.05,
        base_image_seq_len=1024,
        shift_terminal=0.1,
    )


def autoencoder() -> AutoencoderKLLTXVideo:
    """One latent of 8 channels for 16 x 16 pixels of 4 frames; the first frame has its own."""
    vae = AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        layers_per_block=(1, 1, 1), down_block_types=("LTXVideoDownBlock3D",) * 2,
        decoder_layers_per_block=(1, 1, 1), spatio_temporal_scaling=(True, True),
        decoder_spatio_temporal_scaling=(True, True), decoder_inject_noise=(False,) * 3,
        upsample_residual=(False,) * 2, upsample_factor=(1, 1),
    )  # fmt: skip
    return vae.eval()


def ltx(
    pipeline: Any, inputs: dict[str, Any], scheduler: Any, dtype: torch.dtype = torch.float32
) -> Tiny:
    torch.manual_seed(0)
    transformer = denoiser("ltx")
    text: dict[str, Any] = dict(tokenizer=None, text_encoder=None)
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[0, 5:] = False
    embeds = dict(
        prompt_embeds=torch.randn(2, 8, 32), prompt_attention_mask=mask,
        negative_prompt_embeds=torch.randn(2, 8, 32), negative_prompt_attention_mask=mask.flip(0),
    )  # fmt: skip
    if "prompt" in inputs:
        text, embeds = t5(), {}
    pipe = pipeline(
        scheduler=scheduler(), vae=autoencoder(), transformer=matter(transformer), **text
    )
    call = dict(
        **embeds,
        height=32,
        width=32,
        num_frames=5,
        num_inference_steps=3,
        guidance_scale=4.5,
        output_type="latent",
    )
    return Tiny(quiet(pipe, dtype), {**call, **inputs}, off=dict(guidance_scale=1.0))


def t5(width: int = 32) -> dict[str, Any]:
    words = ["a", "red", "star", "blue", "square", "blurry"]
    vocab = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -2.0),
        *((f"▁{word}", -1.0) for word in words),
    ]
    config = T5Config(vocab_size=16, d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return dict(
        tokenizer=T5Tokenizer(vocab=vocab, extra_ids=0), text_encoder=T5EncoderModel(config).eval()
    )


PIPELINES = {
    "LTXPipeline": functools.partial(ltx, LTXPipeline, {}, dynamic),
    "LTXImageToVideoPipeline": functools.partial(
        ltx, LTXImageToVideoPipeline, dict(image=IMAGE), dynamic
    ),
    # an image in the place of the first frame, one beside the video: its tokens come before those
    # of the video
    "LTXConditionPipeline": functools.partial(
        ltx,
        LTXConditionPipeline,
        dict(
            conditions=[
                LTXVideoCondition(image=IMAGE),
                LTXVideoCondition(image=IMAGE, frame_index=4, strength=0.8),
            ]
        ),
        FlowMatchEulerDiscreteScheduler,
    ),
    # one video, texts only: two windows of three of five latent frames, a prompt and three steps
    # for each
    "LTXI2VLongMultiPromptPipeline": functools.partial(
        ltx,
        LTXI2VLongMultiPromptPipeline,
        dict(
            prompt="a red star | a blue square",
            negative_prompt="blurry",
            max_sequence_length=8,
            cond_image=IMAGE[:1],
            num_frames=17,
            temporal_tile_size=12,
            temporal_overlap=4,
            seed=None,
            sigmas=[1.0, 0.7, 0.4, 0.0],
        ),
        LTXEulerAncestralRFScheduler,
    ),
}
