"""lab-mochi: a real MochiPipeline with small configs, its transformer and text encoder trained
together on latents.

Mochi's flow runs from noise at t = 0 to data at t = 1 (the pipeline inverts the sigmas of its
scheduler), so

    x_t = (1 - t) noise + t x,      the transformer predicts  v = x - noise      and is told  1000 t.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_mochi import AutoencoderKLMochi
from diffusers.models.transformers.transformer_mochi import MochiTransformer3DModel
from diffusers.pipelines.mochi.pipeline_mochi import MochiPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from torch import nn

from skipguide.lab import autoencoder, text, training_loop, world
from skipguide.lab import latents as latent_cache

Tensor = torch.Tensor
MAX_TOKENS = 28  # in training; the longest caption has 26
NUM_CLIPS = 14_336  # latents that are kept; every use of a clip gets a new caption
BATCH_SIZE = 96
CAPTION_DROPOUT = 0.1
SCHEDULE = training_loop.Schedule(steps=2900, learning_rate=3e-3, decay=0.5, ema=0.998)

TRANSFORMER: dict[str, Any] = dict(
    patch_size=2,
    num_attention_heads=5,
    attention_head_dim=32,
    num_layers=12,
    pooled_projection_dim=64,
    in_channels=12,
    text_embed_dim=96,
    time_embed_dim=128,
    max_sequence_length=256,
)


def build(vae: AutoencoderKLMochi) -> MochiPipeline:
    """The untrained pipeline around a trained autoencoder."""
    torch.manual_seed(0)
    words = text.build_tokenizer()
    transformer = MochiTransformer3DModel(**TRANSFORMER)
    _initialise(transformer)
    scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    return MochiPipeline(scheduler, vae, text.build_encoder(words), words, transformer)


@torch.no_grad()
def _initialise(transformer: MochiTransformer3DModel) -> None:
    """Random, fixed rotary frequencies (diffusers' start is zero: no positions at all) and a zero
    prediction.

    Mochi stretches every grid to 192 x 192 units, so that neighbours on our 4 x 4 grid of tokens
    are 48 units apart."""
    shape = transformer.pos_frequencies.shape  # (3, heads, dim / 2)
    radians = torch.tensor([1.0, 1 / 48, 1 / 48])[:, None, None] * (
        0.15 * 10 ** torch.rand(shape[1:])
    )
    direction = F.normalize(torch.randn(shape), dim=0)
    transformer.pos_frequencies.copy_(radians * direction)
    transformer.pos_frequencies.requires_grad_(False)
    nn.init.zeros_(transformer.proj_out.weight)
    nn.init.zeros_(transformer.proj_out.bias)


class BatchedAttention:
    """MochiAttnProcessor2_0 without its loop over the batch: one masked attention. For training
    only.

    Outputs agree on every video token and every real text token; padding, which nothing reads, is
    left as it falls."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor,
        image_rotary_emb: Any,
    ) -> tuple[Tensor, Tensor]:
        video, text = hidden_states.shape[1], encoder_hidden_states.shape[1]
        heads = (attn.heads, -1)
        q = _rotate(attn.norm_q(attn.to_q(hidden_states).unflatten(2, heads)), *image_rotary_emb)
        k = _rotate(attn.norm_k(attn.to_k(hidden_states).unflatten(2, heads)), *image_rotary_emb)
        text_q = attn.norm_added_q(attn.add_q_proj(encoder_hidden_states).unflatten(2, heads))
        text_k = attn.norm_added_k(attn.add_k_proj(encoder_hidden_states).unflatten(2, heads))
        v = torch.cat(
            [attn.to_v(hidden_states), attn.add_v_proj(encoder_hidden_states)], 1
        ).unflatten(2, heads)
        q, k = torch.cat([q, text_q.to(q)], 1), torch.cat([k, text_k.to(k)], 1)
        q, k, v = (x.to(v.dtype).transpose(1, 2) for x in (q, k, v))
        bias = F.pad(attention_mask, (video, 0), value=True)[:, None, None]
        scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        out = scores.masked_fill(~bias, -torch.inf).softmax(-1).to(v.dtype) @ v
        out = out.transpose(1, 2).flatten(2)
        a, b = out.split((video, text), 1)
        b = b if attn.context_pre_only else attn.to_add_out(b)
        return attn.to_out[0](a), b


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


# --- data -----------------------------------------------------------------------------------------


def encode_clips(
    folder: Path, device: torch.device, num: int = NUM_CLIPS
) -> Iterator[training_loop.Progress]:
    """Encode `num` clips once, with the autoencoder in `folder`.

    `folder/latents.safetensors` holds `(num, 12, 4, 8, 8)` float16, normalised as MochiPipeline
    does."""
    training_loop.require_files(folder, "vae/config.json")
    vae: Any = AutoencoderKLMochi.from_pretrained(folder / "vae")
    autoencoder.unchunk(vae)
    encode, scenes = latent_cache.make_encoder(vae.to(device), device), training_scenes(num)
    yield from latent_cache.cache_latents(
        folder, num, lambda rows: {"latents": encode(world.render(scenes[rows]))}
    )


def training_scenes(num: int = NUM_CLIPS) -> world.Scenes:
    """The scenes behind the cached latents, in the same order."""
    return world.sample_scenes(num, seed=2 * 10**6)


def _sample_batch(step: int, latents: Tensor, scenes: world.Scenes) -> tuple[Tensor, list[str]]:
    rows = torch.randint(len(latents), (BATCH_SIZE,), generator=torch.Generator().manual_seed(step))
    rng = random.Random(step)
    words = world.captions(scenes[rows], seed=step)
    return latents[rows].float(), [
        "" if rng.random() < CAPTION_DROPOUT else caption for caption in words
    ]


def _sample_times(num: int, generator: torch.Generator) -> Tensor:
    """`(num,)` in [0, 1]: logit-normal; a fifth near pure noise, where Mochi's schedule spends half
    its steps."""
    t = torch.sigmoid(torch.randn(num, generator=generator) - 0.3)
    early = 0.06 * torch.rand(num, generator=generator)
    return torch.where(torch.rand(num, generator=generator) < 0.2, early, t)


# --- training -------------------------------------------------------------------------------------


def train(
    folder: Path, device: torch.device, schedule: training_loop.Schedule = SCHEDULE
) -> Iterator[training_loop.Progress]:
    """Train transformer and text encoder from nothing or from the checkpoint in `folder`; needs its
    vae and latents.

    Afterwards `folder/pipeline` is a MochiPipeline in diffusers layout, in float16.
    """
    from safetensors.torch import load_file

    training_loop.require_files(folder, "vae/config.json", "latents.safetensors")
    pipe = build(AutoencoderKLMochi.from_pretrained(folder / "vae"))
    latents, scenes = load_file(folder / "latents.safetensors")["latents"], training_scenes()
    pair: Any = text.TrainingPair(pipe.transformer, pipe.text_encoder).to(device)
    dtype = training_loop.faster_dtype(device)
    blocks: list[Any] = list(pair.transformer.transformer_blocks)
    usual = [block.attn1.processor for block in blocks]
    for block in blocks:
        block.attn1.processor = BatchedAttention()
        if training_loop.can_compile(device):  # fusing the many small operations doubles the speed
            block.compile()

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        generator = torch.Generator().manual_seed(step)
        x, words = _sample_batch(step, latents, scenes)
        noise = torch.randn(x.shape, generator=generator)
        t = _sample_times(len(x), generator)
        x_t = torch.lerp(noise, x, t.view(-1, 1, 1, 1, 1)).to(device)
        tokens = pipe.tokenizer(
            words, padding="max_length", max_length=MAX_TOKENS, return_tensors="pt"
        )
        mask = tokens.attention_mask.bool().to(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            embeds = pair.text_encoder(tokens.input_ids.to(device), attention_mask=mask)[0]
            v = pair.transformer(x_t, embeds, (1000 * t).to(device), mask, return_dict=False)[0]
        error = (v.float() - (x - noise).to(device)).square().mean()
        return error, {"loss": error.item()}

    yield from training_loop.fit(pair, loss, schedule, folder / "transformer.ckpt")
    for block, processor in zip(blocks, usual, strict=True):
        block.attn1.processor = processor
    training_loop.save_pipeline(pipe, folder / "pipeline", pipe.transformer, pipe.vae)
