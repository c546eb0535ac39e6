"""Open-Sora 1.2: text to video, batched CFG, blocks of space and time in turn; a variance beside
the velocity."""

from __future__ import annotations

from typing import Any

import torch
from transformers.models.t5.configuration_t5 import T5Config
from transformers.models.t5.modeling_t5 import T5EncoderModel
from transformers.models.t5.tokenization_t5 import T5Tokenizer

from skipguide.opensora import (
    AutoencoderKLOpenSora,
    OpenSoraPipeline,
    OpenSoraRFlowScheduler,
)
from support.tiny.base import Tiny, denoiser, matter, quiet

WORDS = (
    "a",
    "red",
    "blue",
    "fox",
    "moving",
    "on",
    "the",
    "left",
    "aesthetic",
    "motion",
    "score:",
    "6.5.",
    "5.0.",
)


def opensora(dtype: torch.dtype = torch.float32) -> Tiny:
    torch.manual_seed(0)
    transformer = denoiser("opensora")
    vae = AutoencoderKLOpenSora(
        block_out_channels=(4, 4, 8, 8), layers_per_block=1, norm_num_groups=2, sample_size=32,
        temporal_block_out_channels=(4, 4, 8, 8), temporal_layers_per_block=1,
        temporal_norm_num_groups=2,
    )  # fmt: skip
    text = T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
    vocab = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -2.0),
        *((f"▁{word}", -1.0) for word in WORDS),
    ]
    pipe = OpenSoraPipeline(
        T5Tokenizer(vocab=vocab, extra_ids=0), T5EncoderModel(text).eval(), matter(vae),
        matter(transformer), OpenSoraRFlowScheduler(),
    )  # fmt: skip
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[0, 7:] = False
    call: dict[str, Any] = dict(
        prompt_embeds=torch.randn(2, 12, 32), prompt_attention_mask=mask,
        negative_prompt_embeds=torch.randn(2, 12, 32), negative_prompt_attention_mask=mask.flip(0),
        height=48, width=32, num_frames=17, num_inference_steps=3, guidance_scale=4.5,
        output_type="latent",
    )  # fmt: skip
    return Tiny(quiet(pipe, dtype), call, off=dict(guidance_scale=1.0), variance=True)


PIPELINES = {"OpenSoraPipeline": opensora}
