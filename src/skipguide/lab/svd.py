"""lab-svd: a real StableVideoDiffusionPipeline with small configs.

Its image encoder is trained first, as in CLIP, to describe an image in one embedding; then it is
frozen and the UNet is trained on cached latents and embeddings. A clip is conditioned on its first
frame (latents beside every frame's, and the embedding), on the frames per second, on its motion
bucket, which is the true amount of motion, and on how much noise was added to the first frame. In
EDM's terms the pipeline's scheduler computes, and the training uses,

    x = x_0 + sigma noise,    the UNet sees  x / sqrt(sigma^2 + 1)  and  log(sigma) / 4,

    and predicts  v = (x / (sigma^2 + 1) - x_0) sqrt(sigma^2 + 1) / sigma  ("v_prediction").
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import (
    AutoencoderKLTemporalDecoder,
)
from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionModel
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (
    StableVideoDiffusionPipeline,
    _resize_with_antialiasing,
)
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from torch import nn
from transformers.models.clip.configuration_clip import CLIPVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.clip.modeling_clip import CLIPVisionModelWithProjection

from skipguide.lab import autoencoder, latents, training_loop, world
from skipguide.method.protocols import PlainData

Tensor = torch.Tensor
FRAMES = autoencoder.SVD_FRAMES
NUM_CLIPS = 6_144
BATCH_SIZE = 16
IMAGE_DROPOUT = 0.1  # of latents and embedding of the first frame together, as in uncond
FPS = (5, 10)  # drawn from this range, ends included
# motion bucket = 200 x (half frames that the outline moves) at 7 fps, at most 255
BUCKETS_PER_UNIT = 200
USUAL_FPS = 7
# CFG of the last frame in scores; that of the first is 1. The pipeline's default is 3.
GUIDANCE_SCALE = 5.0
NOISE_AUG = (0.002, 0.1)  # strength, drawn log-uniformly
LOG_SIGMA = (0.5, 1.4)  # mean and deviation of log sigma; a sixth is uniform over the range
SCHEDULE = training_loop.Schedule(
    steps=4000, learning_rate=3e-3, decay=0.5, restarts=(2600,), ema=0.998
)
# of the image encoder
READER_SCHEDULE = training_loop.Schedule(steps=2000, learning_rate=3e-3, decay=0.5)
READER_BATCH = 32  # clips, two frames of each
READ_ATTRIBUTES = {  # attribute to recognise -> number of classes
    "shape": len(world.SHAPES), "colour": len(world.COLOURS), "size": len(world.SIZES),
    "background": len(world.BACKGROUNDS), "background_colour": len(world.BACKGROUND_COLOURS),
    "second_shape": len(world.SHAPES) + 1, "second_colour": len(world.COLOURS) + 1,
}  # fmt: skip

UNET: PlainData = dict(
    sample_size=8,
    in_channels=16,
    out_channels=8,
    down_block_types=("CrossAttnDownBlockSpatioTemporal",) * 2 + ("DownBlockSpatioTemporal",),
    up_block_types=("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * 2,
    block_out_channels=(96, 160, 160),
    layers_per_block=1,
    cross_attention_dim=64,
    num_attention_heads=(3, 5, 5),
    addition_time_embed_dim=32,
    projection_class_embeddings_input_dim=96,
    num_frames=FRAMES,
)
IMAGE_ENCODER: PlainData = dict(
    hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4,
    image_size=224, patch_size=16, projection_dim=64,
)  # fmt: skip
SCHEDULER: PlainData = dict(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
    prediction_type="v_prediction",
    use_karras_sigmas=True, timestep_type="continuous", timestep_spacing="leading", steps_offset=1,
    sigma_min=0.002,
    sigma_max=80.0,  # 700 in the public checkpoint, for images with a hundred times as many pixels
)  # fmt: skip


def build(
    vae: AutoencoderKLTemporalDecoder, image_encoder: CLIPVisionModelWithProjection
) -> StableVideoDiffusionPipeline:
    """Build the pipeline with an untrained UNet around trained autoencoder and image encoder."""
    torch.manual_seed(0)
    unet = UNetSpatioTemporalConditionModel(**UNET)
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(unet.conv_out.bias)  # type: ignore[arg-type]
    processor: Any = CLIPImageProcessorPil()  # this is CLIPImageProcessor without torchvision
    return StableVideoDiffusionPipeline(
        vae, image_encoder, unet, EulerDiscreteScheduler(**SCHEDULER), processor
    )


# --- the image encoder ----------------------------------------------------------------------------


class Reader(nn.Module):
    """The image encoder, with a linear head for each attribute that it learns to recognise."""

    def __init__(self) -> None:
        super().__init__()
        self.image_encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**IMAGE_ENCODER))
        width = IMAGE_ENCODER["projection_dim"]
        self.heads = nn.ModuleDict(
            {name: nn.Linear(width, num) for name, num in READ_ATTRIBUTES.items()}
        )

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return the logits `(B, classes)` of each head for pixels `(B, 3, 224, 224)`."""
        embeds = self.image_encoder(pixels).image_embeds
        return {name: head(embeds) for name, head in self.heads.items()}


def train_image_encoder(
    folder: Path, device: torch.device, schedule: training_loop.Schedule = READER_SCHEDULE
) -> Iterator[training_loop.Progress]:
    """Train from nothing, or from the checkpoint in `folder`; writes `folder/image_encoder`."""
    torch.manual_seed(0)
    reader = Reader().to(device)
    if training_loop.can_compile(device):
        reader.compile()
    dtype = training_loop.faster_dtype(device)

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        scenes = world.sample_scenes(READER_BATCH, seed=step + 10**7)
        frames = world.render(scenes, 2, span=world.draw_spans(READER_BATCH, seed=step + 10**7))
        pixels = pixel_values(frames.transpose(1, 2).flatten(0, 1))
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = reader(pixels.to(device))
        losses, metrics = [], {}
        for name, classes in _true_classes(scenes).items():
            found, truth = logits[name], classes.repeat_interleave(2).to(device)
            losses.append(F.cross_entropy(found.float(), truth, label_smoothing=0.05))
            metrics[name] = (found.argmax(1) == truth).float().mean().item()
        return torch.stack(losses).sum(), metrics

    yield from training_loop.fit(reader, loss, schedule, folder / "image_encoder.ckpt")
    with training_loop.atomic_path(folder / "image_encoder") as part:
        reader.image_encoder.cpu().save_pretrained(part)


def _true_classes(scenes: world.Scenes) -> dict[str, Tensor]:
    """Return the classes of `READ_ATTRIBUTES`, `(B,)` each.

    The last class of a second object means that there is none.
    """
    none = scenes.second_shape < 0
    found = {name: getattr(scenes, name) for name in READ_ATTRIBUTES}
    return {
        name: torch.where(none, READ_ATTRIBUTES[name] - 1, v) if "second" in name else v
        for name, v in found.items()
    }


def pixel_values(images: Tensor) -> Tensor:
    """Prepare images `(B, 3, H, W)` in [-1, 1] as the pipeline does: `(B, 3, 224, 224)`."""
    images = (_resize_with_antialiasing(images, (224, 224)) + 1) / 2
    processor = CLIPImageProcessorPil()
    mean, std = (
        images.new_tensor(v).view(3, 1, 1) for v in (processor.image_mean, processor.image_std)
    )
    return (images - mean) / std


@torch.no_grad()
def embed_images(image_encoder: CLIPVisionModelWithProjection, images: Tensor) -> Tensor:
    """Embed uint8 images `(N, 3, H, W)`: `(N, 64)`."""
    chunks = (
        pixel_values(chunk.to(image_encoder.device).float() / 127.5 - 1)
        for chunk in images.split(64)
    )
    return torch.cat([image_encoder(chunk).image_embeds.float().cpu() for chunk in chunks])


# --- data -----------------------------------------------------------------------------------------


def training_clips(num: int = NUM_CLIPS) -> tuple[world.Scenes, Tensor]:
    """Return the scenes behind the cached latents, and the share `(num,)` of its path per clip."""
    return world.sample_scenes(num, seed=3 * 10**6), world.draw_spans(num, seed=3 * 10**6)


def draw_conditions(scenes: world.Scenes, spans: Tensor, seed: int) -> Tensor:
    """Draw what the UNet is given `(B, 3)`: fps - 1, motion bucket, noise on the first frame."""
    generator = torch.Generator().manual_seed(seed)
    num = len(scenes)
    fps = torch.randint(FPS[0], FPS[1] + 1, (num,), generator=generator).float()
    low, high = map(math.log, NOISE_AUG)
    strength = (low + (high - low) * torch.rand(num, generator=generator)).exp()
    return torch.stack(
        [
            fps - 1,
            motion_bucket(world.amount_of_motion(world.masks(scenes, FRAMES, spans)), fps),
            strength,
        ],
        1,
    )


def motion_bucket(amount: Tensor, fps: Tensor) -> Tensor:
    """Return the motion bucket, 0 to 255: `world.amount_of_motion` per second, scaled."""
    return (BUCKETS_PER_UNIT * amount * fps / USUAL_FPS).round().clamp_max(255)


def encode_clips(
    folder: Path, device: torch.device, num: int = NUM_CLIPS
) -> Iterator[training_loop.Progress]:
    """Encode `num` clips once, with the autoencoder in `folder`.

    `folder/latents.safetensors` holds latents `(num, 14, 8, 8, 8)` with the pipeline's scaling,
    those of the noised first frame `(num, 8, 8, 8)` without it, that frame `(num, 3, 64, 64)` in 8
    bits, and the conditions `(num, 3)`."""
    training_loop.require_files(folder, "vae/config.json")
    vae: Any = AutoencoderKLTemporalDecoder.from_pretrained(folder / "vae")
    autoencoder.use_channels_last(vae.to(device))
    scenes, spans = training_clips(num)
    dtype = training_loop.faster_dtype(device)

    def encode_rows(rows: slice) -> dict[str, Tensor]:
        frames = world.render(scenes[rows], FRAMES, span=spans[rows])
        given, image = draw_conditions(scenes[rows], spans[rows], seed=rows.start), frames[:, :, 0]
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(rows.start))
        noised = image + given[:, 2].view(-1, 1, 1, 1) * noise
        with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            clips = autoencoder.encode_svd(vae, frames.to(device)).mean.unflatten(0, (-1, FRAMES))
            first = vae.encode(noised.to(device)).latent_dist.mean
        return {
            "latents": (clips.float() * vae.config["scaling_factor"]).half().cpu(),
            "image_latents": first.half().cpu(),
            "images": ((image + 1) * 127.5).round().byte(),
            "conditions": given,
        }

    yield from latents.cache_latents(folder, num, encode_rows)


def noise_latents(
    x_0: Tensor, noise: Tensor, sigma: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noise latents `(B, F, C, h, w)` by sigma `(B,)`: x, the UNet's input and timestep, and v."""
    s = sigma.view(-1, 1, 1, 1, 1)
    x = x_0 + s * noise
    return x, x / (s**2 + 1).sqrt(), sigma.log() / 4, (x / (s**2 + 1) - x_0) * (s**2 + 1).sqrt() / s


def _sample_sigmas(num: int, generator: torch.Generator) -> Tensor:
    """Draw `(num,)`: five sixths log-normal, the rest log-uniform over the scheduler's range."""
    usual = LOG_SIGMA[0] + LOG_SIGMA[1] * torch.randn(num, generator=generator)
    low, high = math.log(SCHEDULER["sigma_min"]), math.log(SCHEDULER["sigma_max"])
    anywhere = low + (high - low) * torch.rand(num, generator=generator)
    log = torch.where(torch.rand(num, generator=generator) < 1 / 6, anywhere, usual)
    return log.clamp(low, high).exp()


# --- training -------------------------------------------------------------------------------------


def train(
    folder: Path, device: torch.device, schedule: training_loop.Schedule = SCHEDULE
) -> Iterator[training_loop.Progress]:
    """Train the UNet from nothing, or from the checkpoint in `folder`, which needs the other parts.

    Afterwards `folder/pipeline` is a StableVideoDiffusionPipeline in diffusers layout, in float16.
    """
    from safetensors.torch import load_file

    training_loop.require_files(
        folder, "vae/config.json", "image_encoder/config.json", "latents.safetensors"
    )
    vae = AutoencoderKLTemporalDecoder.from_pretrained(folder / "vae")
    image_encoder = CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder").eval()
    pipe = build(vae, image_encoder)
    data = load_file(folder / "latents.safetensors")
    data["image_embeds"] = embed_images(image_encoder.to(device), data.pop("images"))  # type: ignore[arg-type]
    unet = pipe.unet.to(device)
    dtype = training_loop.faster_dtype(device)
    usual = unet.attn_processors
    _speed_up_training(unet, device)

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        generator = torch.Generator().manual_seed(step)
        rows = torch.randint(len(data["latents"]), (BATCH_SIZE,), generator=generator)
        x_0, ids = data["latents"][rows].float(), data["conditions"][rows]
        kept = (torch.rand(BATCH_SIZE, generator=generator) >= IMAGE_DROPOUT).float()
        sigma = _sample_sigmas(BATCH_SIZE, generator)
        _, scaled, log_sigma, v = noise_latents(
            x_0, torch.randn(x_0.shape, generator=generator), sigma
        )
        image_latents = data["image_latents"][rows].float() * kept.view(-1, 1, 1, 1)
        image_embeds = data["image_embeds"][rows, None] * kept.view(-1, 1, 1)
        sample = torch.cat([scaled, image_latents[:, None].expand(-1, FRAMES, -1, -1, -1)], 2)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            predicted = unet(
                *(given.to(device) for given in (sample, log_sigma, image_embeds, ids))
            ).sample
        error = (predicted.float() - v.to(device)).square().mean((1, 2, 3, 4))
        return error.mean(), {"loss": error.mean().item()}

    yield from training_loop.fit(unet, loss, schedule, folder / "unet.ckpt")
    unet.set_attn_processor(usual)
    training_loop.save_pipeline(pipe, folder / "pipeline", pipe.unet, pipe.vae)


def _speed_up_training(unet: UNetSpatioTemporalConditionModel, device: torch.device) -> None:
    """Prepare the UNet for training: plain attention, channels last, compiled if possible.

    Attention to a few tokens is faster as plain products.
    """
    unet.set_attn_processor(AttnProcessor())
    autoencoder.use_channels_last(unet)
    if training_loop.can_compile(device):
        unet.compile()
