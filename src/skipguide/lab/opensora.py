"""lab-opensora: a real OpenSoraPipeline with small configs, transformer and text encoder trained
together on latents.

Open-Sora's flow runs from noise at t = 1000 to data at t = 0,

    x_t = (1 - t / 1000) x + t / 1000 noise,      the transformer predicts  v = x - noise      and is told  t,

for every latent frame but those that are given: they stay as they are, at t = 0.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import nn

from skipguide.lab import autoencoder, latents, text, training_loop, world
from skipguide.opensora import (
    AutoencoderKLOpenSora,
    OpenSoraPipeline,
    OpenSoraRFlowScheduler,
    OpenSoraTransformer3DModel,
    prompts,
)

Tensor = torch.Tensor
FRAMES = autoencoder.OPENSORA_FRAMES
MAX_TOKENS = 32  # in training; the longest caption has 26, the score 3
NUM_CLIPS = 14_336  # latents that are kept; every use of a clip gets a new caption
BATCH_SIZE = 112
CAPTION_DROPOUT = 0.1
EMPTY_SHARE = 0.03  # of the captions are "", which is a negative prompt as well
GIVEN_SHARE = 0.1  # of the clips start from a picture
SCORED_SHARE = 0.5  # of the captions end as those of a call that leaves out aesthetic_score
AESTHETIC_SCORE = 6.5
SCORE_WORDS = ("aesthetic", "score:", f"{AESTHETIC_SCORE}.")
SCHEDULE = training_loop.Schedule(steps=2300, learning_rate=3e-3, decay=0.5, ema=0.998)

TRANSFORMER: dict[str, Any] = dict(
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
# Upstream's timesteps are moved towards noise by 2.4 for 51 frames of 240 x 426; these by 2.2 for
# our clips.
SCHEDULER: dict[str, Any] = dict(base_resolution=world.FRAME_SIZE**2, base_num_frames=1)


def build(vae: AutoencoderKLOpenSora) -> Any:
    """The untrained pipeline around a trained autoencoder."""
    torch.manual_seed(0)
    words = text.build_tokenizer(SCORE_WORDS)
    transformer = OpenSoraTransformer3DModel(**TRANSFORMER)
    _initialise(transformer)
    scheduler = OpenSoraRFlowScheduler(**SCHEDULER)
    return OpenSoraPipeline(words, text.build_encoder(words), vae, transformer, scheduler)


@torch.no_grad()
def _initialise(transformer: OpenSoraTransformer3DModel) -> None:
    """As upstream trains from nothing: temporal blocks that do nothing yet, small embeddings; and a
    zero prediction."""
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
    """OpenSoraAttnProcessor as plain products, which are faster for so few tokens. For training
    only."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> Tensor:
        """`(B, N, D)`, text `(B, L, D)`, its mask `(B, 1, 1, L)` -> `(B, N, D)`."""
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        projected = (attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source))
        q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in projected)
        if attn.norm_q is not None:
            q, k = attn.norm_q(q), attn.norm_k(k)
        if image_rotary_emb is not None:
            q: Any = apply_rotary_emb(q, image_rotary_emb, sequence_dim=1)
            k: Any = apply_rotary_emb(k, image_rotary_emb, sequence_dim=1)
        q, k, v = (x.to(v.dtype).transpose(1, 2) for x in (q, k, v))
        scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        if attention_mask is not None:
            scores = scores.masked_fill(~attention_mask, -torch.inf)
        out = scores.softmax(-1).to(v.dtype) @ v
        return attn.to_out[0](out.transpose(1, 2).flatten(2))


# --- data -----------------------------------------------------------------------------------------


def training_scenes(num: int = NUM_CLIPS) -> world.Scenes:
    """The scenes behind the cached latents, in the same order."""
    return world.sample_scenes(num, seed=4 * 10**6)


def encode_clips(
    folder: Path, device: torch.device, num: int = NUM_CLIPS
) -> Iterator[training_loop.Progress]:
    """Encode `num` clips once, with the autoencoder in `folder`.

    `folder/latents.safetensors` holds float16, normalised as the pipeline does: the latents of
    whole clips `(num, 12, 5, 8, 8)`, and of their first frames alone `(num, 12, 1, 8, 8)`, as the
    pipeline encodes a given picture."""
    training_loop.require_files(folder, "vae/config.json")
    vae: Any = AutoencoderKLOpenSora.from_pretrained(folder / "vae")
    autoencoder.use_channels_last(vae.to(device))
    encode, scenes = latents.make_encoder(vae, device), training_scenes(num)

    def encoded(rows: slice) -> dict[str, Tensor]:
        frames = world.render(scenes[rows], FRAMES)
        return {"latents": encode(frames), "pictures": encode(frames[:, :, :1])}

    yield from latents.cache_latents(folder, num, encoded)


def pipeline_captions(scenes: world.Scenes, seed: int) -> list[str]:
    """What the pipeline makes of prompts before T5 reads them: lower case, with a score or without;
    a few are empty."""
    rng, found = random.Random(seed), []
    for caption in world.captions(scenes, seed):
        score = AESTHETIC_SCORE if rng.random() < SCORED_SHARE else None
        empty = rng.random() < EMPTY_SHARE
        found.append("" if empty else prompts.append_scores(caption, score, None, None).lower())
    return found


def embed_captions(
    pair: Any, tokenizer: Any, words: Sequence[str], dropped: Tensor
) -> tuple[Tensor, Tensor]:
    """Captions to `(B, L, 96)` and the mask `(B, L)`; where they are dropped, `(B,)`, the null
    caption for as long."""
    device = pair.transformer.null_caption.device
    tokens = tokenizer(
        list(words), padding="max_length", max_length=MAX_TOKENS, return_tensors="pt"
    ).to(device)
    embeds = pair.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
    null = pair.transformer.null_caption[: embeds.shape[1]].to(embeds)
    return (
        torch.where(dropped.to(device)[:, None, None], null, embeds),
        tokens.attention_mask.bool(),
    )


def noise_latents(
    scheduler: OpenSoraRFlowScheduler,
    x: Tensor,
    pictures: Tensor,
    given: Tensor,
    noise: Tensor,
    t: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """What the transformer sees and shall say.

    Args:
        x: latents `(B, C, f, h, w)`; `noise` has the same shape.
        pictures: latents of the first frames alone `(B, C, 1, h, w)`.
        given: `(B,)`, true where a clip starts from its picture.
        t: timesteps `(B,)`, 0 to 1000.

    Returns:
        x_t, the frames that are at t `(B, f)`, and v.
    """
    first = torch.cat([pictures, scheduler.add_noise(x, noise, t)[:, :, 1:]], 2)
    x_t = torch.where(given.view(-1, 1, 1, 1, 1), first, scheduler.add_noise(x, noise, t))
    frame_mask = ~(given[:, None] & (torch.arange(x.shape[2], device=x.device) == 0))
    return x_t, frame_mask, x - noise


def sampler_timesteps(scheduler: OpenSoraRFlowScheduler) -> Tensor:
    """`(1000,)`: those of a sampler with a thousand steps, moved towards noise as it moves them for
    our clips."""
    size = world.FRAME_SIZE
    scheduler.set_timesteps(
        scheduler.config["num_train_timesteps"], height=size, width=size, num_frames=FRAMES
    )
    return scheduler.timesteps


def _sample_times(num: int, table: Tensor, generator: torch.Generator) -> Tensor:
    """`(num,)` of a table: half of them logit-normal, half uniform in the steps of the sampler."""
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
    """Train transformer and text encoder from nothing or from the checkpoint in `folder`; needs its
    vae and latents.

    Afterwards `folder/pipeline` is an OpenSoraPipeline in diffusers layout, in float16.
    """
    from safetensors.torch import load_file

    training_loop.require_files(folder, "vae/config.json", "latents.safetensors")
    pipe = build(AutoencoderKLOpenSora.from_pretrained(folder / "vae"))  # type: ignore[arg-type]
    data = load_file(folder / "latents.safetensors")
    scenes = training_scenes(len(data["latents"]))
    pair: Any = text.TrainingPair(pipe.transformer, pipe.text_encoder).to(device)
    dtype, table = training_loop.faster_dtype(device), sampler_timesteps(pipe.scheduler)
    usual = pair.transformer.attn_processors
    _speed_up_training(pair.transformer, device)
    size = dict.fromkeys(("height", "width"), float(world.FRAME_SIZE))

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
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
            y.to(device) for y in noise_latents(pipe.scheduler, x, pictures, given, noise, t)
        )
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            embeds, mask = embed_captions(
                pair, pipe.tokenizer, pipeline_captions(scenes[rows], step), dropped
            )
            predicted = pair.transformer(
                x_t, t.to(device), embeds, mask, frame_mask, world.FPS, **size, return_dict=False
            )[0].chunk(2, dim=1)[0]
        error = (predicted.float() - v).square().mean((1, 3, 4))[frame_mask].mean()
        return error, {"loss": error.item()}

    yield from training_loop.fit(pair, loss, schedule, folder / "transformer.ckpt")
    pair.transformer.set_attn_processor(usual)
    training_loop.save_pipeline(pipe, folder / "pipeline", pipe.transformer, pipe.vae)


def _speed_up_training(transformer: Any, device: torch.device) -> None:
    """For training only: attention of a few tokens as plain products; blocks compiled where that
    can be."""
    transformer.set_attn_processor(PlainAttention())
    if training_loop.can_compile(device):  # fusing the many small operations doubles the speed
        for block in (*transformer.spatial_blocks, *transformer.temporal_blocks):
            block.compile()
