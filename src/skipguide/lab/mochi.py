"""lab-mochi and lab-mochi-2: real MochiPipelines with small configs.

Their transformers and text encoders are trained together on latents. Mochi's flow runs from noise
at t = 0 to data at t = 1 (the pipeline inverts the sigmas of its scheduler), so

    x_t = (1 - t) noise + t x,    the transformer predicts  v = x - noise,  and is given  1000 t.

A `Recipe` holds what differs: the world that a model knows, its size, and how long it is trained.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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

from skipguide.lab import (
    autoencoder,
    open_captions,
    open_world,
    text,
    text_to_video,
    training_loop,
    world,
    worlds,
)
from skipguide.lab.text_to_video import CAPTION_DROPOUT, NUM_CLIPS
from skipguide.method.protocols import PlainData

Tensor = torch.Tensor
_BLOCK = 4096  # scenes that are drawn together

TRANSFORMER: PlainData = dict(
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


@dataclass(frozen=True)
class Recipe:
    """The facts in which lab-mochi and lab-mochi-2 differ."""

    transformer: PlainData
    num_clips: int  # whose latents are kept; a clip gets a new caption whenever it is used
    max_tokens: int  # of a caption during the training, at least as many as the longest has
    schedule: training_loop.Schedule
    world: worlds.World
    draw: Callable[[int], Any]  # number -> the scenes behind the latents, in the same order
    more_words: tuple[str, ...] = field(default=(), repr=False)  # beside those of `world`
    text_steps: int | None = None  # the text encoder learns until then; None: to the end
    autoencoder: str = "vae"  # the folder of the training that holds it
    batch_size: int = 96  # clips a step


def training_scenes(num: int = NUM_CLIPS) -> world.Scenes:
    """Return the scenes behind the cached latents of lab-mochi, in the same order."""
    return world.sample_scenes(num, seed=2 * 10**6)


def open_training_scenes(num: int) -> open_world.OpenScenes:
    """Return the scenes behind the cached latents of lab-mochi-2, in the same order.

    They are drawn in blocks, so that those of fewer clips are the first of those of more.
    """
    blocks = range(-(-num // _BLOCK))
    parts = [open_world.sample_scenes(_BLOCK, seed=4 * 10**6 + block) for block in blocks]
    return open_world.join(parts)[slice(num)]


CLOSED = Recipe(
    TRANSFORMER,
    NUM_CLIPS,
    28,
    training_loop.Schedule(steps=2900, learning_rate=3e-3, decay=0.5, ema=0.998),
    worlds.CLOSED,
    training_scenes,
)
OPEN = Recipe(
    # A token of 2 x 2 places would have 96 numbers, half of the width: shapes were never learned.
    {
        **TRANSFORMER,
        "num_attention_heads": 6,
        "in_channels": autoencoder.OPEN_CHANNELS,
        "patch_size": 1,
    },
    16_384,
    30,
    training_loop.Schedule(
        steps=14_000,
        learning_rate=3e-3,
        decay=0.5,
        ema=0.998,
        snapshots=(1400, 3500, 7000, 14_000),
    ),
    worlds.OPEN,
    open_training_scenes,
    tuple(sorted({*open_captions.vocabulary()} - {*world.vocabulary()})),
    # So that later states of the training share it: an earlier one is a weak model of theirs.
    text_steps=3500,
    autoencoder="decoder",
    batch_size=32,
)


def build(vae: AutoencoderKLMochi, recipe: Recipe = CLOSED) -> MochiPipeline:
    """Build the untrained pipeline around a trained autoencoder."""
    torch.manual_seed(0)
    words = text.build_tokenizer(recipe.more_words)
    transformer = MochiTransformer3DModel(**recipe.transformer)
    _initialise(transformer)
    scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    return MochiPipeline(scheduler, vae, text.build_encoder(words), words, transformer)


@torch.no_grad()
def _initialise(transformer: MochiTransformer3DModel) -> None:
    """Set random, fixed rotary frequencies (diffusers starts without positions); predict zero.

    Mochi stretches every grid to 192 x 192 units, so that neighbours on lab-mochi's 4 x 4 grid of
    tokens are 48 units apart, on lab-mochi-2's 8 x 8 grid 24.
    """
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
    """MochiAttnProcessor2_0 as one masked attention, without a loop over the batch; for training.

    Outputs agree on every video token and every real text token; padding tokens, which nothing
    reads, get arbitrary values.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor,
        image_rotary_emb: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Attend over video and text; the mask `(B, L)` is true at real text tokens."""
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
        mask = F.pad(attention_mask, (video, 0), value=True)[:, None, None]
        out = text_to_video.masked_attention(q, k, v, mask)
        a, b = out.split((video, text), 1)
        b = b if attn.context_pre_only else attn.to_add_out(b)
        return attn.to_out[0](a), b


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


def load_snapshot(folder: Path, step: int, pipe: MochiPipeline) -> MochiPipeline:
    """Return the pipeline as it was after some steps of its training.

    Args:
        folder: of the packaged model, or `pipeline` of a training folder.
        pipe: the trained pipeline, whose other parts, dtype and device the result has.

    Raises:
        FileNotFoundError: if the weights after this step were not kept.
    """
    from safetensors.torch import load_file

    name = training_loop.snapshot_path(folder / "transformer.ckpt", step).name
    path = next((p for p in (folder / name, folder.parent / name) if p.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"the weights after {step} steps must be in {folder / name}, but they are not there."
            " Take a step of `snapshots` in the schedule of the training."
        )
    pair = text.TrainingPair(copy.deepcopy(pipe.transformer), copy.deepcopy(pipe.text_encoder))
    pair.load_state_dict(load_file(path))
    parts = {**pipe.components, "transformer": pair.transformer, "text_encoder": pair.text_encoder}
    return type(pipe)(**parts)


# --- data -----------------------------------------------------------------------------------------


def encode_clips(
    folder: Path, device: torch.device, num: int | None = None, recipe: Recipe = CLOSED
) -> Iterator[training_loop.Progress]:
    """Encode `num` clips once, with the autoencoder in `folder`; None is the recipe's number.

    `folder/latents.safetensors` holds `(num, C, 4, 8, 8)` float16, normalised as MochiPipeline
    does.
    """
    num = recipe.num_clips if num is None else num
    scenes = recipe.draw(num)
    yield from text_to_video.encode_clips(
        folder,
        device,
        num,
        load_autoencoder,
        lambda encode, rows: {"latents": encode(recipe.world.render(scenes[rows]))},
    )


def load_autoencoder(folder: Path) -> AutoencoderKLMochi:
    """Load a trained autoencoder, which normalises all frames at once."""
    vae = AutoencoderKLMochi.from_pretrained(folder)
    autoencoder.unchunk(vae)
    return vae


def sample_batch(
    step: int, latents: Tensor, scenes: Any, recipe: Recipe, size: int
) -> tuple[Tensor, list[str]]:
    """Return the latents and captions of a training step; some of the captions are empty."""
    rows = torch.randint(len(latents), (size,), generator=torch.Generator().manual_seed(step))
    rng = random.Random(step)
    words = recipe.world.caption(scenes[rows], step, None)
    return latents[rows].float(), [
        "" if rng.random() < CAPTION_DROPOUT else caption.text for caption in words
    ]


def _sample_times(num: int, generator: torch.Generator) -> Tensor:
    """Draw times `(num,)` in [0, 1] from a logit-normal distribution.

    A fifth lies near pure noise, where Mochi's schedule spends half its steps.
    """
    t = torch.sigmoid(torch.randn(num, generator=generator) - 0.3)
    early = 0.06 * torch.rand(num, generator=generator)
    return torch.where(torch.rand(num, generator=generator) < 0.2, early, t)


# --- training -------------------------------------------------------------------------------------


def train(
    folder: Path,
    device: torch.device,
    schedule: training_loop.Schedule | None = None,
    recipe: Recipe = CLOSED,
) -> Iterator[training_loop.Progress]:
    """Train transformer and text encoder; see `text_to_video.train`."""
    yield from text_to_video.train(
        folder,
        device,
        schedule or recipe.schedule,
        lambda vae: build(AutoencoderKLMochi.from_pretrained(vae), recipe),
        lambda setup: _make_loss(setup, recipe),
        BatchedAttention(),
        source=recipe.autoencoder,
    )


def _make_loss(setup: text_to_video.TrainingSetup, recipe: Recipe) -> Callable[[int], Tensor]:
    latents, device = setup.data["latents"], setup.device
    scenes = recipe.draw(len(latents))

    def error_at(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        x, words = sample_batch(step, latents, scenes, recipe, recipe.batch_size)
        noise = torch.randn(x.shape, generator=generator)
        t = _sample_times(len(x), generator)
        x_t = torch.lerp(noise, x, t.view(-1, 1, 1, 1, 1)).to(device)
        tokens, mask = setup.tokenize(words, recipe.max_tokens)
        mask, pair = mask.bool(), setup.pair
        learns = recipe.text_steps is None or step < recipe.text_steps
        with setup.autocast():
            with torch.set_grad_enabled(learns):
                embeds = pair.text_encoder(tokens, attention_mask=mask)[0]
            v = pair.transformer(x_t, embeds, (1000 * t).to(device), mask, return_dict=False)[0]
        return (v.float() - (x - noise).to(device)).square().mean()

    return error_at
