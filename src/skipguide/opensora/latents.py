"""Convert videos to latents and back as Open-Sora 1.2 does, normalized per channel."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import torch
from diffusers.utils.torch_utils import randn_tensor
from diffusers.video_processor import VideoProcessor
from PIL import Image

from skipguide.opensora.autoencoder import AutoencoderKLOpenSora
from skipguide.opensora.conditions import OpenSoraCondition, to_clip
from skipguide.opensora.transformer import OpenSoraTransformer3DModel

Tensor = torch.Tensor
Generators = torch.Generator | list[torch.Generator] | None


class LatentsMixin:
    """The part of the pipeline that draws noise, encodes given frames, and decodes."""

    vae: AutoencoderKLOpenSora
    transformer: OpenSoraTransformer3DModel
    video_processor: VideoProcessor

    def latents_shape(self, rows: int, num_frames: int, height: int, width: int) -> tuple[int, ...]:
        """Return (B, C, f, h, w) for `rows` videos of this length and size in pixels."""
        channels, factor = (
            self.transformer.config["in_channels"],
            self.vae.spatial_compression_ratio,
        )
        return (
            rows,
            channels,
            self.vae.latent_frames(num_frames),
            height // factor,
            width // factor,
        )

    def prepare_latents(
        self,
        shape: tuple[int, ...],
        device: torch.device,
        generator: Generators,
        latents: Tensor | None = None,
    ) -> Tensor:
        """Return noise (B, C, f, h, w) in float32, drawn unless it is given."""
        if latents is None:
            return randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        return latents.to(device, torch.float32)

    def _normalization(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (
            torch.tensor(x, device=latents.device, dtype=latents.dtype).view(1, -1, 1, 1, 1)
            for x in (self.vae.config["latents_mean"], self.vae.config["latents_std"])
        )
        return mean, std

    def encode_video(self, video: Tensor) -> Tensor:
        """Encode a video (B, 3, F, H, W) in [-1, 1] as normalized float32 latents (B, C, f, h, w).

        They are the modes of the VAE's distributions, so that the same reference is the same
        condition in every run (upstream samples them).
        """
        posterior: Any = self.vae.encode(video.to(self.vae.dtype), return_dict=False)[0]
        latents = posterior.mode().float()
        mean, std = self._normalization(latents)
        return (latents - mean) / std

    def decode_latents(self, latents: Tensor, num_frames: int) -> Tensor:
        """Decode normalized latents (B, C, f, h, w) into a video (B, 3, F, H, W) around [-1, 1]."""
        mean, std = self._normalization(latents)
        latents = (latents * std + mean).to(self.vae.dtype)
        return cast(Any, self.vae.decode(latents, num_frames, return_dict=False))[0]

    def _pixels(self, frames: object, height: int, width: int, device: torch.device) -> Tensor:
        """Resize and crop frames to fill the size: (1, 3, F, height, width) in [-1, 1]."""
        clip = to_clip(frames)
        if isinstance(clip, list):
            fitted = [_fit_image(frame.convert("RGB"), height, width) for frame in clip]
            return self.video_processor.preprocess_video([fitted]).to(device)
        pixels = self.video_processor.preprocess_video(clip[None]).to(device)
        return _fit_pixels(pixels[0].transpose(0, 1), height, width).transpose(0, 1)[None]

    def encode_conditions(
        self,
        own: Sequence[Sequence[OpenSoraCondition]],
        height: int,
        width: int,
        device: torch.device,
    ) -> list[list[OpenSoraCondition]]:
        """Encode the frames in the conditions of each row, every reference once."""
        encoded: dict[int, Tensor] = {}
        for condition in (one for row in own for one in row):
            if condition.latents is None and id(condition.frames) not in encoded:
                pixels = self._pixels(condition.frames, height, width, device)
                encoded[id(condition.frames)] = self.encode_video(pixels)[0]

        def ready(one: OpenSoraCondition) -> OpenSoraCondition:
            return one if one.latents is not None else dataclasses.replace(
                one, frames=None, latents=encoded[id(one.frames)]
            )  # fmt: skip

        return [[ready(one) for one in row] for row in own]


def _covering_size(size: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """Return the (height, width) of an image scaled so that it just covers the frame."""
    high, wide = height / size[0], width / size[1]
    return (height, round(size[1] * high)) if high > wide else (round(size[0] * wide), width)


def _fit_image(image: Image.Image, height: int, width: int) -> Image.Image:
    """Resize with a bicubic filter and crop, as opensora/datasets/utils.py."""
    high, wide = _covering_size((image.height, image.width), height, width)
    top, left = round((high - height) / 2), round((wide - width) / 2)
    return image.resize((wide, high), Image.Resampling.BICUBIC).crop(
        (left, top, left + width, top + height)
    )


def _fit_pixels(frames: Tensor, height: int, width: int) -> Tensor:
    """Resize (F, 3, H, W) bilinearly and crop, as opensora/datasets/video_transforms.py."""
    high, wide = _covering_size((frames.shape[2], frames.shape[3]), height, width)
    resized = torch.nn.functional.interpolate(
        frames, size=(high, wide), mode="bilinear", align_corners=False
    )
    top, left = (high - height) // 2, (wide - width) // 2
    return resized[..., top : top + height, left : left + width]
