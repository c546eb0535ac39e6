"""The video VAE of Open-Sora 1.2 for diffusers: an image VAE per frame, then a causal one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vae import (
    AutoencoderMixin,
    DecoderOutput,
    DiagonalGaussianDistribution,
)
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn

Tensor = torch.Tensor


class OpenSoraCausalConv3d(nn.Conv3d):
    """A convolution that sees only the present and past frames, with zeros before the first one."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        time_stride: int = 1,
        bias: bool = True,
    ):
        super().__init__(
            in_channels, out_channels, kernel_size, stride=(time_stride, 1, 1), bias=bias
        )
        side = kernel_size // 2
        self.causal_padding = (side, side, side, side, kernel_size - time_stride, 0)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve `(B, C, F, H, W)` to the same size, but F / time_stride frames."""
        return super().forward(nn.functional.pad(input, self.causal_padding))


class OpenSoraTemporalResnet(nn.Module):
    """Two causal convolutions with norms, added to the input."""

    def __init__(self, in_channels: int, out_channels: int, groups: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels)
        self.conv1 = OpenSoraCausalConv3d(in_channels, out_channels, 3, bias=False)
        self.norm2 = nn.GroupNorm(groups, out_channels)
        self.conv2 = OpenSoraCausalConv3d(out_channels, out_channels, 3, bias=False)
        self.act = nn.SiLU()
        changes = in_channels != out_channels
        self.conv_shortcut = (
            OpenSoraCausalConv3d(in_channels, out_channels, 1, bias=False) if changes else None
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        residual = (
            hidden_states if self.conv_shortcut is None else self.conv_shortcut(hidden_states)
        )
        hidden_states = self.conv1(self.act(self.norm1(hidden_states)))
        return residual + self.conv2(self.act(self.norm2(hidden_states)))


class OpenSoraTemporalLevel(nn.Module):
    """The resnets at one frame rate, with the halving after them or the doubling before them."""

    def __init__(self, in_channels: int, out_channels: int, layers: int, groups: int):
        super().__init__()
        widths = [in_channels] + [out_channels] * layers
        self.resnets = nn.ModuleList(
            OpenSoraTemporalResnet(widths[i], widths[i + 1], groups) for i in range(layers)
        )
        self.upsampler: nn.Module | None = None
        self.downsampler: nn.Module | None = None

    def forward(self, hidden_states: Tensor) -> Tensor:
        if self.upsampler is not None:
            doubled = self.upsampler(hidden_states).unflatten(1, (-1, 2))  # (B, C, 2, F, H, W)
            hidden_states = doubled.transpose(2, 3).flatten(2, 3)
        for resnet in self.resnets:
            hidden_states = resnet(hidden_states)
        return hidden_states if self.downsampler is None else self.downsampler(hidden_states)


class OpenSoraTemporalEncoder(nn.Module):
    """Maps `(B, C, F, H, W)` to `(B, out_channels, F / 2 per True in downsample, H, W)`."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        widths: Sequence[int],
        layers: int,
        downsample: Sequence[bool],
        groups: int,
    ):
        super().__init__()
        self.conv_in = OpenSoraCausalConv3d(channels, widths[0], 3, bias=False)
        before = [widths[0], *widths]
        self.levels = nn.ModuleList(
            OpenSoraTemporalLevel(before[i], widths[i], layers, groups) for i in range(len(widths))
        )
        for i, halve in enumerate(downsample):
            if halve:
                self.levels[i].downsampler = OpenSoraCausalConv3d(
                    widths[i], widths[i], 3, time_stride=2
                )
        self.middle = OpenSoraTemporalLevel(widths[-1], widths[-1], layers, groups)
        self.norm_out = nn.GroupNorm(groups, widths[-1])
        self.act = nn.SiLU()
        self.conv_out = OpenSoraCausalConv3d(widths[-1], out_channels, 1)

    def forward(self, hidden_states: Tensor) -> Tensor:
        hidden_states = self.conv_in(hidden_states)
        for level in self.levels:
            hidden_states = level(hidden_states)
        return self.conv_out(self.act(self.norm_out(self.middle(hidden_states))))


class OpenSoraTemporalDecoder(nn.Module):
    """Maps `(B, C, f, H, W)` to `(B, C, 2 f per True in downsample, H, W)`.

    The levels run from last to first.
    """

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        layers: int,
        downsample: Sequence[bool],
        groups: int,
    ):
        super().__init__()
        self.conv_in = OpenSoraCausalConv3d(channels, widths[-1], 3)
        self.middle = OpenSoraTemporalLevel(widths[-1], widths[-1], layers, groups)
        before = [*widths[1:], widths[-1]]
        self.levels = nn.ModuleList(
            OpenSoraTemporalLevel(before[i], widths[i], layers, groups) for i in range(len(widths))
        )
        for i, double in enumerate(downsample):
            if double:
                self.levels[i].upsampler = OpenSoraCausalConv3d(before[i], 2 * before[i], 3)
        self.norm_out = nn.GroupNorm(groups, widths[0])
        self.act = nn.SiLU()
        self.conv_out = OpenSoraCausalConv3d(widths[0], channels, 3)

    def forward(self, hidden_states: Tensor) -> Tensor:
        hidden_states = self.middle(self.conv_in(hidden_states))
        for level in reversed(self.levels):
            hidden_states = level(hidden_states)
        return self.conv_out(self.act(self.norm_out(hidden_states)))


class OpenSoraTemporalVAE(nn.Module):
    """The second VAE: latents of single frames to latents of a chunk of frames, and back."""

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        layers: int,
        downsample: Sequence[bool],
        groups: int,
    ):
        super().__init__()
        if len(downsample) != len(widths) - 1:
            raise ValueError(
                "temporal_downsample must say for every step from one width to the next whether it"
                f" halves the frames: {len(widths) - 1} values for {len(widths)} widths, but got"
                f" {len(downsample)}."
            )
        self.factor = 2 ** sum(map(bool, downsample))
        self.encoder = OpenSoraTemporalEncoder(
            channels, 2 * channels, widths, layers, downsample, groups
        )
        self.quant_conv = OpenSoraCausalConv3d(2 * channels, 2 * channels, 1)
        self.post_quant_conv = OpenSoraCausalConv3d(channels, channels, 1)
        self.decoder = OpenSoraTemporalDecoder(channels, widths, layers, downsample, groups)

    def encode(self, frames: Tensor) -> Tensor:
        """Return mean and log variance `(B, 2 C, f, H, W)` of a chunk `(B, C, F, H, W)`.

        Zeros before the chunk fill F up to a multiple of the compression.
        """
        missing = -frames.shape[2] % self.factor
        return self.quant_conv(self.encoder(nn.functional.pad(frames, (0, 0, 0, 0, missing, 0))))

    def decode(self, latents: Tensor, num_frames: int) -> Tensor:
        """Decode latents `(B, C, f, H, W)` of a chunk, and return its last `num_frames` frames."""
        return self.decoder(self.post_quant_conv(latents))[:, :, -num_frames % self.factor :]


class AutoencoderKLOpenSora(ModelMixin, AutoencoderMixin, ConfigMixin):
    """The VAE of Open-Sora 1.2: 8x compression in space, 4x in time, in chunks of 17 frames.

    Source: Open-Sora 1.2, `opensora/models/vae/vae.py` and `opensora/models/vae/vae_temporal.py`.
    The defaults are the values of the checkpoint hpcai-tech/OpenSora-VAE-v1.2, whose 2-D part is
    that of SDXL. The chunks are independent. Tiling (`enable_tiling`) concerns the 2-D part,
    slicing (`enable_slicing`) processes the rows of a batch one by one. Latents are normalized
    outside of the model, `(latents - latents_mean) / latents_std`, as in diffusers.

    Args:
        in_channels: Channels of the video.
        latent_channels: Channels of the latents, of both parts.
        block_out_channels: Widths of the 2-D part; each step from one to the next halves height and
            width.
        layers_per_block: Resnets of the 2-D part per width.
        norm_num_groups: Groups of its norms.
        sample_size: The side of its tiles in pixels.
        temporal_block_out_channels: Widths of the part over time.
        temporal_layers_per_block: Resnets of the part over time per width.
        temporal_downsample: Where the part over time halves the frames.
        temporal_norm_num_groups: Groups of its norms.
        micro_frame_size: Frames per chunk.
        micro_batch_size: Frames that the 2-D part processes at a time.
        spatial_scaling_factor: Between the two parts, latents of the 2-D part are multiplied by it.
            Upstream has the number of Stable Diffusion 1 here, although the 2-D part is that of
            SDXL.
        latents_mean: Per channel, to normalize latents with.
        latents_std: Per channel, to normalize latents with.
    """

    _no_split_modules = ["OpenSoraTemporalResnet", "ResnetBlock2D"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        latent_channels: int = 4,
        block_out_channels: tuple[int, ...] = (128, 256, 512, 512),
        layers_per_block: int = 2,
        norm_num_groups: int = 32,
        sample_size: int = 512,
        temporal_block_out_channels: tuple[int, ...] = (128, 256, 256, 512),
        temporal_layers_per_block: int = 4,
        temporal_downsample: tuple[bool, ...] = (False, True, True),
        temporal_norm_num_groups: int = 32,
        micro_frame_size: int = 17,
        micro_batch_size: int = 4,
        spatial_scaling_factor: float = 0.18215,
        latents_mean: tuple[float, ...] = (-0.10, 0.34, 0.27, 0.98),
        latents_std: tuple[float, ...] = (3.85, 2.32, 2.33, 3.06),
    ):
        super().__init__()
        self.spatial_vae = AutoencoderKL(
            in_channels=in_channels,
            out_channels=in_channels,
            down_block_types=("DownEncoderBlock2D",) * len(block_out_channels),  # type: ignore[arg-type]
            up_block_types=("UpDecoderBlock2D",) * len(block_out_channels),  # type: ignore[arg-type]
            block_out_channels=block_out_channels,  # type: ignore[arg-type]
            layers_per_block=layers_per_block,
            latent_channels=latent_channels,
            norm_num_groups=norm_num_groups,
            sample_size=sample_size,
            scaling_factor=spatial_scaling_factor,
        )
        self.temporal_vae = OpenSoraTemporalVAE(
            latent_channels,
            temporal_block_out_channels,
            temporal_layers_per_block,
            temporal_downsample,
            temporal_norm_num_groups,
        )
        self.temporal_compression_ratio = self.temporal_vae.factor
        self.spatial_compression_ratio = 2 ** (len(block_out_channels) - 1)
        self.use_slicing = False

    def enable_tiling(self) -> None:
        """Use overlapping tiles of `sample_size` pixels in the 2-D part, to save memory."""
        self.spatial_vae.enable_tiling()

    def disable_tiling(self) -> None:
        """Process whole frames again."""
        self.spatial_vae.disable_tiling()

    def latent_frames(self, num_frames: int) -> int:
        """Return the number of latent frames of a video.

        There are 5 for each chunk of 17 frames, and 1 for each 4, or part of 4, that remain.

        Raises:
            ValueError: Without frames.
        """
        if num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, but got {num_frames}.")
        whole, rest = divmod(num_frames, self.config["micro_frame_size"])
        return whole * self._round_up_frames(
            self.config["micro_frame_size"]
        ) + self._round_up_frames(rest)

    def _round_up_frames(self, num_frames: int) -> int:
        return -(-num_frames // self.temporal_compression_ratio)

    @apply_forward_hook
    def encode(
        self,
        x: Tensor,
        return_dict: bool = True,
        sample_spatial: bool = False,
        generator: torch.Generator | None = None,
    ) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """Return the distribution of the latents of a video.

        Args:
            x: `(B, in_channels, F, H, W)` in -1..1. The remainder of H and W divided by 8 is lost.
            sample_spatial: Sample the latents of single frames from `generator`, 4 frames at a
                time, as upstream does, before they are encoded over time. Otherwise their mode is
                used, and the result is deterministic.

        Returns:
            `latent_dist`, of latents `(B, latent_channels, latent_frames(F), H / 8, W / 8)` that
            are not normalized.

        Raises:
            ValueError: If x is not such a video.
        """
        channels = self.config["in_channels"]
        if x.ndim != 5 or x.shape[1] != channels:
            raise ValueError(
                f"x must be a video (B, {channels}, F, H, W), but got {tuple(x.shape)}."
            )
        rows = x.split(1) if self.use_slicing else [x]
        moments = torch.cat([self._encode(row, sample_spatial, generator) for row in rows])
        posterior = DiagonalGaussianDistribution(moments)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)  # type: ignore[arg-type]

    def _encode(
        self, video: Tensor, sample_spatial: bool, generator: torch.Generator | None
    ) -> Tensor:
        latents = []
        for frames in video.transpose(1, 2).flatten(0, 1).split(self.config["micro_batch_size"]):
            posterior: DiagonalGaussianDistribution = self.spatial_vae.encode(
                frames, return_dict=False
            )[0]  # type: ignore
            latents.append(posterior.sample(generator) if sample_spatial else posterior.mode())
        frames = torch.cat(latents) * self.config["spatial_scaling_factor"]  # (B * F, C, h, w)
        chunks = (
            frames.unflatten(0, (len(video), -1))
            .transpose(1, 2)
            .split(self.config["micro_frame_size"], dim=2)
        )
        return torch.cat([self.temporal_vae.encode(chunk) for chunk in chunks], dim=2)

    @apply_forward_hook
    def decode(
        self, z: Tensor, num_frames: int, return_dict: bool = True
    ) -> DecoderOutput | tuple[Tensor]:
        """Decode latents into a video.

        Args:
            z: `(B, latent_channels, f, h, w)`, not normalized.
            num_frames: Frames of the video; they do not follow from f, because 1 latent frame may
                be 1 to 4 frames.

        Returns:
            `sample`: `(B, in_channels, num_frames, 8 h, 8 w)`, about -1..1.

        Raises:
            ValueError: If z does not have `latent_frames(num_frames)` latent frames.
        """
        channels, needed = self.config["latent_channels"], self.latent_frames(num_frames)
        if z.ndim != 5 or z.shape[1] != channels:
            raise ValueError(
                f"z must be latents (B, {channels}, f, h, w), but got {tuple(z.shape)}."
            )
        if z.shape[2] != needed:
            raise ValueError(
                f"num_frames={num_frames} needs {needed} latent frames, but z has {z.shape[2]}."
                " Pass the num_frames that the latents were made for."
            )
        rows = z.split(1) if self.use_slicing else [z]
        sample = torch.cat([self._decode(row, num_frames) for row in rows])
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def _decode(self, latents: Tensor, num_frames: int) -> Tensor:
        size = self.config["micro_frame_size"]
        chunks = enumerate(latents.split(self._round_up_frames(size), dim=2))
        parts = [
            self.temporal_vae.decode(chunk, min(size, num_frames - i * size)) for i, chunk in chunks
        ]
        frames = (
            torch.cat(parts, dim=2).transpose(1, 2).flatten(0, 1)
            / self.config["spatial_scaling_factor"]
        )
        images = [
            self.spatial_vae.decode(batch, return_dict=False)[0]  # type: ignore[index]
            for batch in frames.split(self.config["micro_batch_size"])
        ]
        return torch.cat(images).unflatten(0, (len(latents), -1)).transpose(1, 2)

    def forward(
        self,
        sample: Tensor,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
    ) -> DecoderOutput | tuple[Tensor]:
        """Encode and decode a video `(B, in_channels, F, H, W)`, optionally through a sample."""
        posterior: DiagonalGaussianDistribution = self.encode(
            sample, False, sample_posterior, generator
        )[0]  # type: ignore
        latents = posterior.sample(generator) if sample_posterior else posterior.mode()
        return self.decode(latents, sample.shape[2], return_dict=return_dict)
