"""Train the autoencoder of lab-mochi: AutoencoderKLMochi on procedural clips, first on crops, then on whole frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_mochi import AutoencoderKLMochi, MochiChunkedGroupNorm3D

from skipguide.lab import fit, world

CONFIG: dict[str, Any] = dict(
    encoder_block_out_channels=(12, 32, 96, 128),
    decoder_block_out_channels=(12, 32, 96, 128),
    layers_per_block=(0, 0, 2, 1, 1),
    add_attention_block=(False,) * 5,
    latents_mean=(0.0,) * 12,
    latents_std=(1.0,) * 12,
)
SCHEDULE = fit.Schedule(steps=3200, learning_rate=4e-3, decay=0.7, ema=0.998)
BATCH_SIZE = 8  # crops; whole frames come a quarter as many at a time
CROP = 32  # pixels
WHOLE_FRAMES_FROM = 0.7  # fraction of the steps
KL_WEIGHT = 3e-5


def train(folder: Path, device: torch.device, schedule: fit.Schedule = SCHEDULE) -> Iterator[fit.Progress]:
    """Train from nothing or from the checkpoint in `folder`; afterwards `folder/vae` holds the autoencoder."""
    torch.manual_seed(0)
    vae: Any = AutoencoderKLMochi(**CONFIG)
    vae.to(device, memory_format=torch.channels_last_3d)
    unchunk(vae)
    _initialise(vae)
    dtype = fit.faster_dtype(device)

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        whole = step >= WHOLE_FRAMES_FROM * schedule.steps
        frames = _batch(step, BATCH_SIZE // 4 if whole else BATCH_SIZE, whole).to(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            posterior = vae.encode(frames).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(step)).to(device)
            reconstruction = vae.decode(posterior.mean + posterior.std * noise).sample
        error = (reconstruction.float() - frames).square().mean()
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return error + KL_WEIGHT * kl, {"psnr": float(-10 * torch.log10(error.detach() / 4)), "kl": kl.item()}

    yield from fit.fit(vae, loss, schedule, folder / "vae.ckpt")
    _normalise(vae)
    with fit.finished(folder / "vae") as part:
        vae.save_pretrained(part)


def unchunk(vae: Any) -> None:
    """Normalise all frames at once: the chunks of eight save GPU memory at 480p and only cost time at 64 pixels."""
    for module in vae.modules():
        if isinstance(module, MochiChunkedGroupNorm3D):
            module.chunk_size = 1 << 20


@torch.no_grad()
def _initialise(vae: Any) -> None:
    """Start as a linear map of unit gain that keeps absolute colour; from PyTorch's start, 500 steps teach no colours.

    Every layer on the path around the residual branches gets unit gain (PyTorch's is 1/sqrt(3), nine times over) and
    the branches start at zero. Of the encoder's 15 input channels 12 are sin(2^6 2 pi x) and the like, a hash of the
    colour of a flat region: weight zero. The encoder ends in a GroupNorm per frame, which erases brightness: two
    constant channels of opposite sign in every group dominate its statistics, so that it is nearly affine for the rest.
    """
    for name, module in vae.named_modules():
        if not isinstance(module, (torch.nn.Linear, torch.nn.Conv3d)):
            continue
        branch = "resnets" in name
        gain = (0.0 if "conv2" in name else 1.4) if branch else 1.0
        torch.nn.init.normal_(module.weight, std=gain / module.weight[0].numel() ** 0.5)
        if module.bias is not None:
            torch.nn.init.zeros_(module.bias)
    torch.nn.init.normal_(vae.encoder.proj_in.weight[:, :3], std=3**-0.5)
    vae.encoder.proj_in.weight[:, 3:] = 0
    bias = vae.encoder.block_out.resnets[-1].conv2.conv.bias
    group = len(bias) // vae.encoder.norm_out.norm_layer.num_groups
    bias[0::group], bias[1::group] = 2.0, -2.0


def _batch(step: int, num: int, whole: bool) -> torch.Tensor:
    """(B, 3, F, H, W) in [-1, 1]; crops contain part of the path of the object, wherever that is."""
    frames = world.render(world.sample_scenes(num, seed=step))
    if whole:
        return frames
    generator = torch.Generator().manual_seed(step)
    corners = torch.randint(world.FRAME_SIZE - CROP + 1, (num, 2), generator=generator).tolist()
    return torch.stack([f[..., y : y + CROP, x : x + CROP] for f, (y, x) in zip(frames, corners, strict=True)])


@torch.no_grad()
def _normalise(vae: Any) -> None:
    """Put the per-channel mean and std of the latents into the config, where MochiPipeline looks for them."""
    device = next(vae.parameters()).device
    frames = world.render(world.sample_scenes(256, seed=10**6)).to(device)
    latents = torch.cat([vae.encode(f).latent_dist.mean for f in frames.split(16)])
    mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())


@torch.no_grad()
def psnr(vae: Any, split: str = "heldout", num: int = 128) -> float:
    """Reconstruction quality in dB on clips that were never trained on; peak signal is the range of [-1, 1]."""
    device = next(vae.parameters()).device
    error = 0.0
    for frames in world.render(world.sample_scenes(num, seed=10**6 + 1, split=split)).split(16):
        latents = vae.encode(frames.to(device)).latent_dist.mean
        error += (vae.decode(latents).sample.cpu() - frames).square().mean((1, 2, 3, 4)).sum().item()
    return float(-10 * torch.log10(torch.tensor(error / num / 4)))
