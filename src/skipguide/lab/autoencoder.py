"""Train the autoencoders of the lab on procedural clips, first on crops, then on whole frames.

An `AutoencoderSpec` holds what differs between them: AutoencoderKLMochi and AutoencoderKLOpenSora
encode clips, SVD's AutoencoderKLTemporalDecoder encodes single frames and decodes clips.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers.models.autoencoders.autoencoder_kl_mochi import (
    AutoencoderKLMochi,
    MochiChunkedGroupNorm3D,
)
from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import (
    AutoencoderKLTemporalDecoder,
)

from skipguide.lab import open_world, stills, training_loop, world
from skipguide.method.protocols import PlainData, ReadOnlyData
from skipguide.opensora import AutoencoderKLOpenSora

Tensor = torch.Tensor

CROP = 32  # pixels
WHOLE_FRAMES_FROM = 0.7  # fraction of the steps
KL_WEIGHT = 3e-5
MEASURED_CLIPS = 256  # from whose latents the scale of latents is measured


class Posterior(Protocol):
    """The distribution of latents that an encoder returns."""

    mean: Tensor
    std: Tensor
    logvar: Tensor


class EncoderOutput(Protocol):
    """The result of diffusers' `encode`."""

    latent_dist: Posterior


class DecoderOutput(Protocol):
    """The result of diffusers' `decode`."""

    sample: Tensor


class VideoAutoencoder(Protocol):
    """An autoencoder of diffusers, as far as the lab uses it."""

    config: ReadOnlyData

    def encode(self, x: Tensor, /) -> EncoderOutput: ...

    def decode(self, z: Tensor, /, num_frames: int = 1) -> DecoderOutput: ...

    def register_to_config(self, **values: object) -> None: ...

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...


@dataclass(frozen=True)
class AutoencoderSpec:
    """The recipe to build, run and train an autoencoder of clips `(B, 3, F, H, W)` in [-1, 1]."""

    build: Callable[[], Any]  # returns it with the weights that training starts from
    encode: Callable[[VideoAutoencoder, Tensor], Posterior]  # of clips, or of their frames
    decode: Callable[
        [VideoAutoencoder, Tensor, int], Tensor
    ]  # takes latents and the number of frames
    normalise: Callable[
        [VideoAutoencoder, Tensor], None
    ]  # so that pipelines get latents of deviation 1
    schedule: training_loop.Schedule
    crops: int  # per step
    crop_frames: int
    whole: int  # clips per step, in the last part of the training
    frames: int  # of a clip
    spans: bool = False  # clips show parts of the path of an object, not all of it
    is_open: bool = False  # clips are of the open world


# --- Mochi ----------------------------------------------------------------------------------------

MOCHI_CONFIG: PlainData = dict(
    encoder_block_out_channels=(12, 32, 96, 128),
    decoder_block_out_channels=(12, 32, 96, 128),
    layers_per_block=(0, 0, 2, 1, 1),
    add_attention_block=(False,) * 5,
    latents_mean=(0.0,) * 12,
    latents_std=(1.0,) * 12,
)


def _build_mochi(config: PlainData = MOCHI_CONFIG) -> AutoencoderKLMochi:
    vae = AutoencoderKLMochi(**config)
    unchunk(vae)
    _initialise_mochi(vae)
    return vae


def unchunk(vae: torch.nn.Module) -> None:
    """Normalise all frames at once instead of in chunks of eight.

    The chunks save GPU memory at 480p; at 64 pixels they only cost time.
    """
    for module in vae.modules():
        if isinstance(module, MochiChunkedGroupNorm3D):
            module.chunk_size = 1 << 20


@torch.no_grad()
def _initialise_mochi(vae: Any) -> None:
    """Start as a linear map of unit gain that keeps absolute colour.

    From PyTorch's initialisation, 500 steps teach no colours. Every layer on the path around the
    residual branches gets unit gain (PyTorch's is 1/sqrt(3), nine times over) and the branches
    start at zero. Of the encoder's 15 input channels 12 are sin(2^6 2 pi x) and the like, a hash of
    the colour of a flat region: they get weight zero. The encoder ends in a GroupNorm per frame,
    which erases brightness: two constant channels of opposite sign in every group dominate its
    statistics, so that it is nearly affine for the rest.
    """
    _set_unit_gain(vae)
    torch.nn.init.normal_(vae.encoder.proj_in.weight[:, :3], std=3**-0.5)
    vae.encoder.proj_in.weight[:, 3:] = 0
    _add_constant_channels(
        vae.encoder.block_out.resnets[-1].conv2.conv, vae.encoder.norm_out.norm_layer
    )


def _set_unit_gain(vae: torch.nn.Module) -> None:
    """Give every layer on the path around the residual branches unit gain; branches start at 0."""
    for name, module in vae.named_modules():
        if not isinstance(module, (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Conv3d)):
            continue
        branch = "resnets" in name and "shortcut" not in name
        gain = (0.0 if "conv2" in name else 1.4) if branch else 1.0
        torch.nn.init.normal_(module.weight, std=gain / module.weight[0].numel() ** 0.5)
        if module.bias is not None:
            torch.nn.init.zeros_(module.bias)


def _add_constant_channels(conv: Any, norm: torch.nn.GroupNorm) -> None:
    """Add two constant channels of opposite sign to every group of the norm after a convolution."""
    group = norm.num_channels // norm.num_groups * (len(conv.bias) // norm.num_channels)
    # A convolution that makes two frames of one has two copies of each channel in a row.
    copies = len(conv.bias) // norm.num_channels
    for i in range(copies):
        conv.bias[i::group], conv.bias[copies + i :: group] = 2.0, -2.0


def _normalise_channels(vae: VideoAutoencoder, frames: Tensor) -> None:
    """Put the mean and deviation of each latent channel into the config, for the pipelines."""
    with torch.no_grad():
        latents = torch.cat([vae.encode(f).latent_dist.mean for f in frames.split(16)])
    mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())


MOCHI = AutoencoderSpec(
    _build_mochi,
    lambda vae, frames: vae.encode(frames).latent_dist,
    lambda vae, latents, _: vae.decode(latents).sample,
    _normalise_channels,
    training_loop.Schedule(steps=3200, learning_rate=4e-3, decay=0.7, ema=0.998),
    crops=8,
    crop_frames=world.NUM_FRAMES,
    whole=2,
    frames=world.NUM_FRAMES,
)

# More channels and layers than above, for textures and outlines.
OPEN_CHANNELS = 24
OPEN_MOCHI_CONFIG: PlainData = {
    **MOCHI_CONFIG,
    "latent_channels": OPEN_CHANNELS,
    "encoder_block_out_channels": (16, 48, 96, 128),
    "decoder_block_out_channels": (16, 48, 96, 128),
    "layers_per_block": (0, 0, 2, 2, 1),
    "latents_mean": None,  # see fold_deviations
    "latents_std": None,
}


@torch.no_grad()
def fold_deviations(vae: Any, frames: Tensor) -> None:
    """Scale each latent channel to deviation 1, in the layers that make and take latents.

    MochiPipeline scales by the config, but 12 channels only (`.view(1, 12, 1, 1, 1)`), and without
    `latents_mean` and `latents_std` it takes latents as they are. The means stay: the encoder's
    last layer has no bias. So does the deviation of the posterior, from which nothing is drawn
    after the training.
    """
    latents = torch.cat([vae.encode(f).latent_dist.mean for f in frames.split(16)])
    std = latents.std((0, 2, 3, 4))
    vae.encoder.proj_out.weight[: len(std)] /= std[:, None]
    vae.decoder.conv_in.weight *= std.view(1, -1, 1, 1, 1)


OPEN_MOCHI = dataclasses.replace(
    MOCHI,
    build=functools.partial(_build_mochi, OPEN_MOCHI_CONFIG),
    normalise=fold_deviations,
    schedule=dataclasses.replace(MOCHI.schedule, steps=5600),
    is_open=True,
)

# --- SVD ------------------------------------------------------------------------------------------

SVD_FRAMES = 14
SVD_CONFIG: PlainData = dict(
    down_block_types=("DownEncoderBlock2D",) * 4,
    # 32 groups would leave a norm of 32 channels without any absolute colour.
    block_out_channels=(64, 64, 64, 128),
    layers_per_block=1,
    latent_channels=8,
    sample_size=world.FRAME_SIZE,
    scaling_factor=1.0,
    force_upcast=False,
)


@torch.no_grad()
def _build_svd() -> AutoencoderKLTemporalDecoder:
    """Build SVD's autoencoder, initialised like Mochi's.

    Unit gain, branches at zero, and colour kept through the norms at the ends of encoder and
    decoder.
    """
    vae: Any = AutoencoderKLTemporalDecoder(**SVD_CONFIG)
    initialise_frames(vae, vae.decoder.up_blocks[-1].resnets[-1].spatial_res_block.conv2)
    torch.nn.init.dirac_(vae.decoder.time_conv_out.weight)
    return vae


@torch.no_grad()
def initialise_frames(vae: Any, last: torch.nn.Module) -> None:
    """Initialise an autoencoder that encodes single frames, as AutoencoderKL and its kin do.

    Args:
        last: the convolution before the last norm of the decoder.
    """
    _set_unit_gain(vae)
    for attention in (vae.encoder.mid_block.attentions[0], vae.decoder.mid_block.attentions[0]):
        torch.nn.init.zeros_(attention.to_out[0].weight)
    _add_constant_channels(vae.encoder.mid_block.resnets[-1].conv2, vae.encoder.conv_norm_out)
    _add_constant_channels(last, vae.decoder.conv_norm_out)


def encode_svd(vae: VideoAutoencoder, frames: Tensor) -> Posterior:
    """Return the posterior of every frame: `(B F, C, h, w)`."""
    return vae.encode(
        frames.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
    ).latent_dist


def decode_svd(vae: VideoAutoencoder, latents: Tensor, num_frames: int) -> Tensor:
    """Decode latents `(B F, C, h, w)` into clips `(B, 3, F, H, W)`."""
    return (
        vae.decode(latents, num_frames=num_frames)
        .sample.unflatten(0, (-1, num_frames))
        .transpose(1, 2)
    )


def _normalise_svd(vae: VideoAutoencoder, frames: Tensor) -> None:
    """Set scaling_factor, the one scale of all channels, to give latents unit deviation."""
    with torch.no_grad():
        latents = torch.cat([encode_svd(vae, f).mean for f in frames.split(16)])
    vae.register_to_config(scaling_factor=1 / latents.std().item())


SVD = AutoencoderSpec(
    _build_svd,
    encode_svd,
    decode_svd,
    _normalise_svd,
    training_loop.Schedule(steps=1700, learning_rate=4e-3, decay=0.7, ema=0.998),
    crops=8,
    crop_frames=7,
    whole=1,
    frames=SVD_FRAMES,
    spans=True,
)

# --- Open-Sora ------------------------------------------------------------------------------------

OPENSORA_FRAMES = 17  # one chunk
OPENSORA_CONFIG: PlainData = dict(
    latent_channels=12,  # upstream has 4, for videos with a hundred times as many pixels
    block_out_channels=(32, 48, 96, 128),
    layers_per_block=1,
    norm_num_groups=8,
    sample_size=world.FRAME_SIZE,
    temporal_block_out_channels=(80, 80, 80),
    temporal_layers_per_block=1,
    temporal_downsample=(True, True),
    temporal_norm_num_groups=8,
    micro_batch_size=1 << 20,  # all frames at once; upstream's 4 saves GPU memory at 720p
    spatial_scaling_factor=1.0,
    latents_mean=(0.0,) * 12,
    latents_std=(1.0,) * 12,
)


@torch.no_grad()
def _build_opensora() -> AutoencoderKLOpenSora:
    """Build Open-Sora's autoencoder, initialised like the others.

    Unit gain, branches at zero, and colour kept through the norms at the ends of both parts.
    """
    vae: Any = AutoencoderKLOpenSora(**OPENSORA_CONFIG)
    _set_unit_gain(vae)
    frame, time = vae.spatial_vae, vae.temporal_vae
    for attention in (frame.encoder.mid_block.attentions[0], frame.decoder.mid_block.attentions[0]):
        torch.nn.init.zeros_(attention.to_out[0].weight)
    _initialise_temporal_layers(time)
    for part, before, norm in (
        (frame.encoder, frame.encoder.mid_block.resnets[-1].conv2, frame.encoder.conv_norm_out),
        (frame.decoder, frame.decoder.up_blocks[-1].resnets[-1].conv2, frame.decoder.conv_norm_out),
        (time.encoder, time.encoder.levels[-2].downsampler, time.encoder.norm_out),
        (time.decoder, time.decoder.levels[0].upsampler, time.decoder.norm_out),
    ):
        _add_constant_channels(before, norm)
        _ignore_constant_channels(part.conv_out, norm)
    torch.nn.init.zeros_(time.quant_conv.weight[OPENSORA_CONFIG["latent_channels"] :])
    time.quant_conv.bias[
        OPENSORA_CONFIG["latent_channels"] :
    ] = -5.0  # log variance: little noise at first
    return vae


def _ignore_constant_channels(conv: Any, norm: torch.nn.GroupNorm) -> None:
    """Make the convolution after a norm and a SiLU ignore the constant channels, at unit gain.

    Four such norms lie on the path through both parts: their constants would add up, and SiLU
    halves small signals.
    """
    group = norm.num_channels // norm.num_groups
    conv.weight *= 2.0
    conv.weight[:, 0::group] = 0
    conv.weight[:, 1::group] = 0


def _initialise_temporal_layers(vae: torch.nn.Module) -> None:
    """Start the temporal part as every fourth frame, repeated four times by the decoder.

    A random map of four frames would leave nothing for the part for single frames to learn from.
    """
    for name, module in vae.named_modules():
        if (
            isinstance(module, torch.nn.Conv3d)
            and module.kernel_size == (3, 3, 3)
            and "resnets" not in name
        ):
            now = module.weight[:, :, -1, 1, 1] * 27**0.5  # still of unit gain
            if name.endswith("upsampler"):
                now[1::2] = now[::2]  # the second of two frames repeats the first
            module.weight.zero_()
            module.weight[:, :, -1, 1, 1] = now


OPENSORA = AutoencoderSpec(
    _build_opensora,
    lambda vae, frames: vae.encode(frames).latent_dist,
    lambda vae, latents, num_frames: vae.decode(latents, num_frames).sample,
    _normalise_channels,
    training_loop.Schedule(steps=1800, learning_rate=4e-3, decay=0.7, ema=0.998),
    crops=12,
    crop_frames=9,
    whole=2,
    frames=OPENSORA_FRAMES,
)

# --- training -------------------------------------------------------------------------------------


def train(
    folder: Path,
    device: torch.device,
    schedule: training_loop.Schedule | None = None,
    *,
    kind: AutoencoderSpec,
) -> Iterator[training_loop.Progress]:
    """Train from nothing, or from the checkpoint in `folder`; the result is `folder/vae`."""
    schedule = schedule or kind.schedule
    torch.manual_seed(0)
    vae = kind.build().to(device)
    use_channels_last(vae)
    dtype = training_loop.faster_dtype(device)

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        frames = _render_batch(step, kind, step >= WHOLE_FRAMES_FROM * schedule.steps).to(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            posterior = kind.encode(vae, frames)
            noise = torch.randn(
                posterior.mean.shape, generator=torch.Generator().manual_seed(step)
            ).to(device)
            reconstruction = kind.decode(
                vae, posterior.mean + posterior.std * noise, frames.shape[2]
            )
        error = (reconstruction.float() - frames).square().mean()
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return error + KL_WEIGHT * kl, {
            "psnr": float(-10 * torch.log10(error.detach() / 4)),
            "kl": kl.item(),
        }

    yield from training_loop.fit(vae, loss, schedule, folder / "vae.ckpt")
    kind.normalise(vae, render_clips(MEASURED_CLIPS, 10**6, kind).to(device))
    with training_loop.atomic_path(folder / "vae") as part:
        vae.save_pretrained(part)


def use_channels_last(model: torch.nn.Module) -> None:
    """Put the channels of convolutions last in memory, which is faster on CPUs and GPUs."""
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        elif isinstance(module, torch.nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)  # pyright: ignore[reportCallIssue]


def render_clips(num: int, seed: int, kind: AutoencoderSpec, split: str = "train") -> Tensor:
    """Render clips `(B, 3, F, H, W)` in [-1, 1]; the open world has no split."""
    if kind.is_open:
        scenes = open_world.sample_scenes(num, seed)
        is_still = kind.frames == 1
        return stills.render(scenes) if is_still else open_world.render(scenes, kind.frames)
    scenes = world.sample_scenes(num, seed, split)
    return world.render(
        scenes, kind.frames, span=world.draw_spans(num, seed) if kind.spans else None
    )


def _render_batch(step: int, kind: AutoencoderSpec, whole: bool) -> Tensor:
    """Render whole clips, or crops of them, which may or may not show the object."""
    frames = render_clips(kind.whole if whole else kind.crops, step, kind)
    if whole:
        return frames
    generator = torch.Generator().manual_seed(step)
    if kind.crop_frames < kind.frames:
        first = int(torch.randint(kind.frames - kind.crop_frames + 1, (), generator=generator))
        frames = frames[:, :, first : first + kind.crop_frames]
    corners = torch.randint(
        world.FRAME_SIZE - CROP + 1, (len(frames), 2), generator=generator
    ).tolist()
    return torch.stack(
        [f[..., y : y + CROP, x : x + CROP] for f, (y, x) in zip(frames, corners, strict=True)]
    )


@torch.no_grad()
def reconstruct(vae: VideoAutoencoder, kind: AutoencoderSpec, frames: Tensor) -> Tensor:
    """Return clips `(B, 3, F, H, W)` encoded and decoded, in float32 on the CPU."""
    weight = next(vae.parameters())
    parts = (part.to(weight.device, weight.dtype) for part in frames.split(16))
    made = [kind.decode(vae, kind.encode(vae, part).mean, part.shape[2]) for part in parts]
    return torch.cat([part.float().cpu() for part in made])


def psnr(
    vae: VideoAutoencoder, kind: AutoencoderSpec, split: str = "heldout", num: int = 128
) -> float:
    """Return the reconstruction quality in dB on clips that were not trained on.

    The peak signal is the range of [-1, 1].
    """
    frames = render_clips(num, 10**6 + 1, kind, split)
    error = (reconstruct(vae, kind, frames) - frames).square().mean()
    return float(-10 * torch.log10(error / 4))
