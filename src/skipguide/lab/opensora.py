"""lab-opensora: a real OpenSoraPipeline with small configs.

Its transformer and text encoder are trained together on latents. Open-Sora's flow runs from noise
at t = 1000 to data at t = 0,

    x_t = (1 - t / 1000) x + t / 1000 noise,  the transformer predicts  v = x - noise, given  t,

for every latent frame except those that are given: they stay as they are, at t = 0.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import nn

from skipguide.lab import autoencoder, text, text_to_video, training_loop, world
from skipguide.lab.text_to_video import CAPTION_DROPOUT, NUM_CLIPS
from skipguide.method.protocols import PlainData
from skipguide.opensora import (
    AutoencoderKLOpenSora,
    OpenSoraPipeline,
    OpenSoraRFlowScheduler,
    OpenSoraTransformer3DModel,
    prompts,
)

Tensor = torch.Tensor
FRAMES = autoencoder.OPENSORA_FRAMES
MAX_TOKENS = 32  # during training; the longest caption has 26, the score 3
BATCH_SIZE = 112
EMPTY_SHARE = 0.03  # share of empty captions, which also serve as negative prompts
GIVEN_SHARE = 0.1  # share of clips that start from a given picture
SCORED_SHARE = 0.5  # share of captions that end as in a call without aesthetic_score
AESTHETIC_SCORE = 6.5
SCORE_WORDS = ("aesthetic", "score:", f"{AESTHETIC_SCORE}.")
SCHEDULE = training_loop.Schedule(steps=2300, learning_rate=3e-3, decay=0.5, ema=0.998)

TRANSFORMER: PlainData = dict(
    patch_size=(1, 2, 2),
    in_channels=12,
    out_channels=24,
    num_layers=8,
    num_attention_heads=6,
    attention_head_dim=32,
    mlp_ratio=2.0,
    caption_channels=96,
    model_max_length=300,  # as long as prompts are by default
    input_sq_size=world.FRAME_SIZE,
)
# Upstream shifts timesteps towards noise by 2.4 for 51 frames of 240 x 426; these values shift by
# 2.2 for our clips.
SCHEDULER: PlainData = dict(base_resolution=world.FRAME_SIZE**2, base_num_frames=1)


def build(vae: AutoencoderKLOpenSora) -> OpenSoraPipeline:
    """Build the untrained pipeline around a trained autoencoder."""
    torch.manual_seed(0)
    words = text.build_tokenizer(SCORE_WORDS)
    transformer = OpenSoraTransformer3DModel(**TRANSFORMER)
    _initialise(transformer)
    scheduler = OpenSoraRFlowScheduler(**SCHEDULER)
    return OpenSoraPipeline(words, text.build_encoder(words), vae, transformer, scheduler)


@torch.no_grad()
def _initialise(transformer: OpenSoraTransformer3DModel) -> None:
    """Initialise as upstream trains from nothing.

    Temporal blocks do nothing at first, embeddings are small, and the prediction is zero.
    """
    for module in transformer.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    embedder: Any = transformer.time_embed.fps_embedder
    nn.init.normal_(embedder.linear_1.weight, std=0.02)
    block: Any
    for block in transformer.temporal_blocks:
        for last in (block.attn1.to_out[0], block.attn2.to_out[0], block.ff.net[2]):
            nn.init.zeros_(last.weight)
    for last in (embedder.linear_2, transformer.proj_out):
        nn.init.zeros_(last.weight)


class PlainAttention:
    """OpenSoraAttnProcessor as plain products, for training only."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> Tensor:
        """Attend from `(B, N, D)` to itself or to text `(B, L, D)`; the mask is `(B, 1, 1, L)`."""
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        projected = (attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source))
        q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in projected)
        if attn.norm_q is not None:
            q, k = attn.norm_q(q), attn.norm_k(k)
        if image_rotary_emb is not None:
            q: Any = apply_rotary_emb(q, image_rotary_emb, sequence_dim=1)
            k: Any = apply_rotary_emb(k, image_rotary_emb, sequence_dim=1)
        out = text_to_video.masked_attention(q, k, v, attention_mask)
        return attn.to_out[0](out)


# --- data -----------------------------------------------------------------------------------------


def training_scenes(num: int = NUM_CLIPS) -> world.Scenes:
    """Return the scenes behind the cached latents, in the same order."""
    return world.sample_scenes(num, seed=4 * 10**6)


def encode_clips(
    folder: Path, device: torch.device, num: int = NUM_CLIPS
) -> Iterator[training_loop.Progress]:
    """Encode `num` clips once, with the autoencoder in `folder`.

    `folder/latents.safetensors` holds float16, normalised as the pipeline does: the latents of
    whole clips `(num, 12, 5, 8, 8)`, and of their first frames alone `(num, 12, 1, 8, 8)`, as the
    pipeline encodes a given picture."""
    scenes = training_scenes(num)

    def encode_rows(encode: text_to_video.Encode, rows: slice) -> dict[str, Tensor]:
        frames = world.render(scenes[rows], FRAMES)
        return {"latents": encode(frames), "pictures": encode(frames[:, :, :1])}

    yield from text_to_video.encode_clips(folder, device, num, _load_autoencoder, encode_rows)


def _load_autoencoder(folder: Path) -> AutoencoderKLOpenSora:
    vae = AutoencoderKLOpenSora.from_pretrained(folder)
    autoencoder.use_channels_last(vae)
    return vae


def pipeline_captions(scenes: world.Scenes, seed: int) -> list[str]:
    """Write captions as the pipeline hands prompts to T5: lower case, half of them with a score.

    A few are empty.
    """
    rng, found = random.Random(seed), []
    for caption in world.captions(scenes, seed):
        score = AESTHETIC_SCORE if rng.random() < SCORED_SHARE else None
        empty = rng.random() < EMPTY_SHARE
        found.append("" if empty else prompts.append_scores(caption, score, None, None).lower())
    return found


def embed_captions(
    pair: Any, tokenizer: Any, words: Sequence[str], dropped: Tensor
) -> tuple[Tensor, Tensor]:
    """Embed captions as `(B, L, 96)`, and return their mask `(B, L)`.

    Captions that are dropped, `(B,)`, are replaced by the null caption of the same length.
    """
    device = pair.transformer.null_caption.device
    tokens, mask = text_to_video.tokenize(tokenizer, words, MAX_TOKENS, device)
    embeds = pair.text_encoder(tokens, attention_mask=mask)[0]
    null = pair.transformer.null_caption[: embeds.shape[1]].to(embeds)
    return torch.where(dropped.to(device)[:, None, None], null, embeds), mask.bool()


def noise_latents(
    scheduler: OpenSoraRFlowScheduler,
    x: Tensor,
    pictures: Tensor,
    given: Tensor,
    noise: Tensor,
    t: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the input of the transformer, and what it should predict.

    Args:
        x: latents `(B, C, f, h, w)`; `noise` has the same shape.
        pictures: latents of the first frames alone `(B, C, 1, h, w)`.
        given: `(B,)`, true for clips that start from their picture.
        t: timesteps `(B,)`, 0 to 1000.

    Returns:
        x_t, the frames that are at t `(B, f)`, and v.
    """
    first = torch.cat([pictures, scheduler.add_noise(x, noise, t)[:, :, 1:]], 2)
    x_t = torch.where(given.view(-1, 1, 1, 1, 1), first, scheduler.add_noise(x, noise, t))
    frame_mask = ~(given[:, None] & (torch.arange(x.shape[2], device=x.device) == 0))
    return x_t, frame_mask, x - noise


def sampler_timesteps(scheduler: OpenSoraRFlowScheduler) -> Tensor:
    """Return the timesteps `(1000,)` of a sampler with a thousand steps, shifted for our clips."""
    size = world.FRAME_SIZE
    scheduler.set_timesteps(
        scheduler.config["num_train_timesteps"], height=size, width=size, num_frames=FRAMES
    )
    return scheduler.timesteps


def _sample_times(num: int, table: Tensor, generator: torch.Generator) -> Tensor:
    """Draw `(num,)` from a table: half logit-normal, half uniform over the steps of the sampler."""
    uniform, normal = (
        torch.rand(num, generator=generator),
        torch.randn(num, generator=generator).sigmoid(),
    )
    place = torch.where(torch.rand(num, generator=generator) < 0.5, uniform, normal)
    return table[(place * len(table)).long().clamp_max(len(table) - 1)]


# --- training -------------------------------------------------------------------------------------


def train(
    folder: Path, device: torch.device, schedule: training_loop.Schedule = SCHEDULE
) -> Iterator[training_loop.Progress]:
    """Train transformer and text encoder; see `text_to_video.train`."""
    yield from text_to_video.train(
        folder,
        device,
        schedule,
        lambda vae: build(AutoencoderKLOpenSora.from_pretrained(vae)),
        _make_loss,
        PlainAttention(),
    )


def _make_loss(setup: text_to_video.TrainingSetup) -> Callable[[int], Tensor]:
    data, device = setup.data, setup.device
    scenes = training_scenes(len(data["latents"]))
    scheduler = setup.pipe.scheduler
    table = sampler_timesteps(scheduler)
    size = dict.fromkeys(("height", "width"), float(world.FRAME_SIZE))

    def error_at(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        rows = torch.randint(len(data["latents"]), (BATCH_SIZE,), generator=generator)
        dropped, given = (
            torch.rand(BATCH_SIZE, generator=generator) < share
            for share in (CAPTION_DROPOUT, GIVEN_SHARE)
        )
        t = _sample_times(BATCH_SIZE, table, generator)
        x, pictures = data["latents"][rows].float(), data["pictures"][rows].float()
        noise = torch.randn(x.shape, generator=generator)
        x_t, frame_mask, v = (
            y.to(device) for y in noise_latents(scheduler, x, pictures, given, noise, t)
        )
        words = pipeline_captions(scenes[rows], step)
        with setup.autocast():
            embeds, mask = embed_captions(setup.pair, setup.pipe.tokenizer, words, dropped)
            predicted = setup.pair.transformer(
                x_t, t.to(device), embeds, mask, frame_mask, world.FPS, **size, return_dict=False
            )[0].chunk(2, dim=1)[0]
        return (predicted.float() - v).square().mean((1, 3, 4))[frame_mask].mean()

    return error_at
