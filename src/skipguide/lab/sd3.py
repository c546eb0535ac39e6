"""lab-sd3: a real StableDiffusion3Pipeline with a small config, for pictures of the open world.

Its transformer and two CLIP text encoders are trained together on latents. SD3's flow runs from
data at sigma = 0 to noise at sigma = 1:

    x_t = (1 - sigma) x + sigma noise,    the transformer predicts  noise - x, given  1000 sigma.

SD3 works without its T5, whose tokens are zeros then. Here it has one, because pipelines are loaded
with it, but its tokens are zeros, too: 256 of them. Text tokens have no positions, so these stay
equal to each other in every layer. The training has one of them, and attends to it as to 256
(`WeightedAttention`): the same for a third of the price.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import (
    StableDiffusion3Pipeline,
)
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from torch import nn
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModelWithProjection
from transformers.models.clip.tokenization_clip import CLIPTokenizer
from transformers.models.t5.configuration_t5 import T5Config
from transformers.models.t5.modeling_t5 import T5EncoderModel
from transformers.models.t5.tokenization_t5 import T5Tokenizer

from skipguide.lab import (
    autoencoder,
    latents,
    mochi,
    open_world,
    stills,
    text,
    text_to_video,
    training_loop,
)
from skipguide.method.protocols import PlainData

Tensor = torch.Tensor

NUM_STILLS = 32_768  # whose latents are kept; one gets a new caption whenever it is used
BATCH_SIZE = 64
MAX_TOKENS = 32  # of a caption; the longest of the world has 24
T5_TOKENS = 256  # of zeros: the pipeline's max_sequence_length by default
SCHEDULE = training_loop.Schedule(steps=4000, learning_rate=3e-3, decay=0.5, ema=0.998)

# --- the autoencoder ------------------------------------------------------------------------------

CHANNELS = 8
AUTOENCODER_CONFIG: PlainData = dict(
    down_block_types=("DownEncoderBlock2D",) * 3,
    up_block_types=("UpDecoderBlock2D",) * 3,
    block_out_channels=(32, 64, 96),
    layers_per_block=1,
    norm_num_groups=8,  # 32 would leave a norm of 32 channels without any absolute colour
    latent_channels=CHANNELS,
    sample_size=open_world.FRAME_SIZE,
    scaling_factor=1.0,
    shift_factor=0.0,
    force_upcast=False,
    use_quant_conv=False,
    use_post_quant_conv=False,
)


def _build_autoencoder() -> AutoencoderKL:
    """Build SD3's autoencoder, initialised as SVD's is."""
    vae: Any = AutoencoderKL(**AUTOENCODER_CONFIG)
    autoencoder.initialise_frames(vae, vae.decoder.up_blocks[-1].resnets[-1].conv2)
    return vae


def _encode(vae: Any, frames: Tensor) -> autoencoder.Posterior:
    return vae.encode(frames[:, :, 0].contiguous(memory_format=torch.channels_last)).latent_dist


def _decode(vae: Any, z: Tensor, num_frames: int) -> Tensor:
    return vae.decode(z).sample[:, :, None]


@torch.no_grad()
def _normalise(vae: Any, frames: Tensor) -> None:
    """Scale each latent channel to deviation 1, in the layers that make and take latents.

    SD3's config has one scale for all channels. The shift is one for all, too, and goes there.
    """
    found = torch.cat([_encode(vae, part).mean for part in frames.split(16)])
    deviations = found.std((0, 2, 3))
    vae.encoder.conv_out.weight[:CHANNELS] /= deviations.view(-1, 1, 1, 1)
    vae.encoder.conv_out.bias[:CHANNELS] /= deviations
    vae.decoder.conv_in.weight *= deviations.view(1, -1, 1, 1)
    vae.register_to_config(shift_factor=(found.mean((0, 2, 3)) / deviations).mean().item())


AUTOENCODER = autoencoder.AutoencoderSpec(
    _build_autoencoder,
    _encode,
    _decode,
    _normalise,
    training_loop.Schedule(steps=2500, learning_rate=4e-3, decay=0.7, ema=0.998),
    crops=32,
    crop_frames=1,
    whole=10,
    frames=1,
    is_open=True,
)

# --- the pipeline ---------------------------------------------------------------------------------

TRANSFORMER: PlainData = dict(
    sample_size=open_world.FRAME_SIZE // 4,
    patch_size=2,
    in_channels=CHANNELS,
    out_channels=CHANNELS,
    num_layers=12,
    attention_head_dim=32,
    num_attention_heads=4,
    caption_projection_dim=128,
    joint_attention_dim=128,  # the two encoders' beside each other
    pooled_projection_dim=128,
    pos_embed_max_size=open_world.FRAME_SIZE // 8,
    qk_norm="rms_norm",
)
TEXT_ENCODER: PlainData = dict(
    hidden_size=64,
    intermediate_size=192,
    projection_dim=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=MAX_TOKENS,
)
T5: PlainData = dict(
    d_model=TRANSFORMER["joint_attention_dim"], d_kv=16, d_ff=16, num_heads=1, num_layers=1
)
_START, _END = "<|startoftext|>", "<|endoftext|>"
_LETTERS = tuple("abcdefghijklmnopqrstuvwxyz,.'-")


def build_tokenizer() -> CLIPTokenizer:
    """Build a CLIP tokenizer that knows the captions' words, and spells others out."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    pairs = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=_END))
    pairs.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=10_000, min_frequency=1, special_tokens=[_START, _END], show_progress=False,
        initial_alphabet=list(_LETTERS), end_of_word_suffix="</w>",
    )  # fmt: skip
    pairs.train_from_iterator([*stills.vocabulary(), *_LETTERS], trainer)
    known = json.loads(pairs.to_str())["model"]
    merges: Any = [tuple(pair) for pair in known["merges"]]
    return CLIPTokenizer(vocab=known["vocab"], merges=merges, model_max_length=MAX_TOKENS)


def _build_text_encoder(words: CLIPTokenizer) -> CLIPTextModelWithProjection:
    start, end = (words.get_vocab()[name] for name in (_START, _END))
    size = -(-len(words) // 16) * 16
    ends: PlainData = dict(bos_token_id=start, eos_token_id=end, pad_token_id=end)
    return CLIPTextModelWithProjection(CLIPTextConfig(vocab_size=size, **ends, **TEXT_ENCODER))


def _build_silent_t5(words: T5Tokenizer) -> T5EncoderModel:
    """Build a T5 whose tokens are zeros, as the pipeline makes them without one."""
    silent = T5EncoderModel(T5Config(vocab_size=-(-len(words) // 16) * 16, **T5))
    nn.init.zeros_(silent.encoder.final_layer_norm.weight)
    return silent


def build(vae: AutoencoderKL) -> StableDiffusion3Pipeline:
    """Build the untrained pipeline around a trained autoencoder."""
    torch.manual_seed(0)
    words, t5_words = build_tokenizer(), text.build_tokenizer(mochi.OPEN.more_words)
    transformer = SD3Transformer2DModel(**TRANSFORMER)
    nn.init.zeros_(transformer.proj_out.weight)
    nn.init.zeros_(transformer.proj_out.bias)
    return StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae,
        text_encoder=_build_text_encoder(words), tokenizer=words,
        text_encoder_2=_build_text_encoder(words), tokenizer_2=words,
        text_encoder_3=_build_silent_t5(t5_words), tokenizer_3=t5_words,
    )  # fmt: skip


class WeightedAttention:
    """SD3's joint attention in which the last text token counts as many; for training.

    Args:
        count: equal tokens that the last one stands for.
    """

    def __init__(self, count: int = T5_TOKENS) -> None:
        self.bias = math.log(count)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: None = None,
    ) -> tuple[Tensor, Tensor]:
        """Attend over the tokens of the picture `(B, N, D)` and of the text `(B, L, D)`."""
        heads, places = (attn.heads, -1), hidden_states.shape[1]
        q, k, v = (
            layer(hidden_states).unflatten(2, heads) for layer in (attn.to_q, attn.to_k, attn.to_v)
        )
        text_q, text_k, text_v = (
            layer(encoder_hidden_states).unflatten(2, heads)
            for layer in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        )
        q = torch.cat([attn.norm_q(q), attn.norm_added_q(text_q)], 1)
        k = torch.cat([attn.norm_k(k), attn.norm_added_k(text_k)], 1)
        v = torch.cat([v, text_v], 1)
        weight = torch.full((1,), self.bias, device=v.device)  # in float32
        weight = F.pad(weight, (k.shape[1] - 1, 0))
        out = text_to_video.masked_attention(q, k, v, weight)
        picture, words = out[:, :places], out[:, places:]
        words = words if attn.context_pre_only else attn.to_add_out(words)
        return attn.to_out[0](picture), words


# --- data -----------------------------------------------------------------------------------------


def encode_stills(
    folder: Path, device: torch.device, num: int = NUM_STILLS
) -> Iterator[training_loop.Progress]:
    """Encode `num` pictures once, with the autoencoder in `folder`.

    `folder/latents.safetensors` holds `(num, C, 16, 16)` float16, shifted as the pipeline does.
    """
    training_loop.require_files(folder, "vae/config.json")
    vae: Any = AutoencoderKL.from_pretrained(folder / "vae")
    vae.to(device)
    scenes, shift = mochi.open_training_scenes(num), vae.config["shift_factor"]

    @torch.no_grad()
    def encode_rows(rows: slice) -> dict[str, Tensor]:
        frames = stills.render(scenes[rows]).to(device)
        return {"latents": (_encode(vae, frames).mean - shift).half().cpu()}

    yield from latents.cache_latents(folder, num, encode_rows)


def encode_captions(encoders: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the transformer reads of captions, as the pipeline makes it without a T5.

    Returns:
        The tokens of both encoders beside each other and one token of zeros, `(B, L + 1, D)`, and
        their pooled vectors `(B, P)`.
    """
    found = [encoder(tokens, output_hidden_states=True) for encoder in encoders.children()]
    words = torch.cat([one.hidden_states[-2] for one in found], -1)
    return F.pad(words, (0, 0, 0, 1)), torch.cat([one.text_embeds for one in found], -1)


# --- training -------------------------------------------------------------------------------------


def train(
    folder: Path, device: torch.device, schedule: training_loop.Schedule = SCHEDULE
) -> Iterator[training_loop.Progress]:
    """Train transformer and text encoders; see `text_to_video.train`."""
    yield from text_to_video.train(
        folder,
        device,
        schedule,
        lambda vae: build(AutoencoderKL.from_pretrained(vae)),
        _make_loss,
        WeightedAttention(),
        text_encoders=lambda pipe: nn.ModuleList([pipe.text_encoder, pipe.text_encoder_2]),
    )


def _make_loss(setup: text_to_video.TrainingSetup) -> Callable[[int], Tensor]:
    data, device, pair = setup.data["latents"], setup.device, setup.pair
    scenes = mochi.open_training_scenes(len(data))

    def error_at(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        rows = torch.randint(len(data), (BATCH_SIZE,), generator=generator)
        x, noise = data[rows].float(), torch.randn(BATCH_SIZE, *data.shape[1:], generator=generator)
        sigma = torch.sigmoid(torch.randn(BATCH_SIZE, generator=generator))
        x_t = torch.lerp(x, noise, sigma.view(-1, 1, 1, 1)).to(device)
        tokens, _ = setup.tokenize(_draw_captions(scenes[rows], step), MAX_TOKENS)
        with setup.autocast():
            words, pooled = encode_captions(pair.text_encoder, tokens)
            time = (1000 * sigma).to(device)
            v = pair.transformer(x_t, words, pooled, time, return_dict=False)[0]
        return (v.float() - (noise - x).to(device)).square().mean()

    return error_at


def _draw_captions(scenes: Any, step: int) -> list[str]:
    rng = random.Random(step)
    return [
        "" if rng.random() < text_to_video.CAPTION_DROPOUT else caption.text
        for caption in stills.captions(scenes, step)
    ]
