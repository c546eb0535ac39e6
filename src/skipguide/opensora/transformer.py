"""The denoiser of Open-Sora 1.2 (STDiT3: alternating spatial and temporal blocks) for diffusers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin, FeedForward
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.attention_processor import Attention
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.embeddings import (
    PixArtAlphaTextProjection,
    TimestepEmbedding,
    Timesteps,
    apply_rotary_emb,
    get_1d_rotary_pos_embed,
)
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

Tensor = torch.Tensor
Rotation = tuple[Tensor, Tensor]  # cosines and sines, (F, channels per head) each

NORM_EPS = 1e-6
FREQUENCIES = 256  # sines and cosines of a number, from which its embedding is learned


class OpenSoraAttnProcessor:
    """Attention with normalized queries and keys, rotated by `image_rotary_emb` if given."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Rotation | None = None,
    ) -> Tensor:
        """Attend from `(B, N, D)` to itself or to text `(B, L, D)`, masked at padding."""
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        projected = (attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source))  # type: ignore[misc]
        # (B, N, heads, channels)
        query, key, value = (x.unflatten(2, (attn.heads, -1)) for x in projected)
        if attn.norm_q is not None and attn.norm_k is not None:
            query, key = attn.norm_q(query), attn.norm_k(key)
        if image_rotary_emb is not None:
            query: Any = apply_rotary_emb(query, image_rotary_emb, sequence_dim=1)  # type: ignore[arg-type]
            key: Any = apply_rotary_emb(key, image_rotary_emb, sequence_dim=1)  # type: ignore[arg-type]
        hidden_states = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=attention_mask,
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )
        return attn.to_out[1](attn.to_out[0](hidden_states.flatten(2, 3)))  # type: ignore[index]


class OpenSoraTransformerBlock(nn.Module):
    """Self-attention within frames or across frames, then attention to text, then feed-forward.

    Args:
        temporal: Attend over the frames of each patch (rotated by their index) instead of over the
            patches of a frame.
    """

    def __init__(
        self, dim: int, heads: int, head_dim: int, mlp_ratio: float, qk_norm: bool, temporal: bool
    ):
        super().__init__()
        self.temporal = temporal
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS, elementwise_affine=False)
        shape: Any = dict(query_dim=dim, heads=heads, dim_head=head_dim, bias=True, eps=NORM_EPS)
        norm = "rms_norm" if qk_norm else None
        self.attn1 = Attention(**shape, qk_norm=norm, processor=OpenSoraAttnProcessor())  # type: ignore[arg-type]
        self.attn2 = Attention(**shape, cross_attention_dim=dim, processor=OpenSoraAttnProcessor())  # type: ignore[arg-type]
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS, elementwise_affine=False)
        self.ff = FeedForward(dim, inner_dim=int(dim * mlp_ratio), activation_fn="gelu-approximate")
        self.scale_shift_table = nn.Parameter(torch.randn(6, dim) / dim**0.5)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        modulation: Tensor,
        num_frames: int,
        encoder_attention_mask: Tensor | None = None,
        image_rotary_emb: Rotation | None = None,
    ) -> Tensor:
        """Apply one residual update to all tokens.

        Args:
            hidden_states: `(B, F * S, D)`, the S patches of the first frame first.
            encoder_hidden_states: `(B, L, D)`.
            modulation: `(B, F, 6, D)`, or `(B, 1, 6, D)` if all frames are at the same timestep.
            encoder_attention_mask: `(B, 1, 1, L)`, true where a text token is real.
            image_rotary_emb: Cosines and sines `(F, channels per head)`; used by temporal blocks.
        """
        table = (self.scale_shift_table + modulation).unsqueeze(3)  # (B, F or 1, 6, 1, D)
        shift1, scale1, gate1, shift2, scale2, gate2 = table.unbind(2)

        frames = hidden_states.unflatten(1, (num_frames, -1))  # (B, F, S, D)
        frames = frames + gate1 * self._self_attention(
            self.norm1(frames) * (1 + scale1) + shift1, image_rotary_emb
        )

        hidden_states = frames.flatten(1, 2)
        hidden_states = hidden_states + self.attn2(
            hidden_states, encoder_hidden_states, encoder_attention_mask
        )

        frames = hidden_states.unflatten(1, (num_frames, -1))
        frames = frames + gate2 * self.ff(self.norm2(frames) * (1 + scale2) + shift2)
        return frames.flatten(1, 2)

    def _self_attention(self, frames: Tensor, image_rotary_emb: Rotation | None) -> Tensor:
        """Attend within `(B, F, S, D)`, over patches or over frames."""
        rows = len(frames)
        if self.temporal:
            patches = frames.transpose(1, 2).flatten(0, 1)  # (B * S, F, D)
            return (
                self.attn1(patches, image_rotary_emb=image_rotary_emb)
                .unflatten(0, (rows, -1))
                .transpose(1, 2)
            )
        return self.attn1(frames.flatten(0, 1)).unflatten(0, (rows, -1))


class OpenSoraTimeEmbedding(nn.Module):
    """Timestep and frame rate, each embedded through its sines and cosines, and added."""

    def __init__(self, dim: int):
        super().__init__()
        self.time_proj = Timesteps(FREQUENCIES, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.timestep_embedder = TimestepEmbedding(FREQUENCIES, dim)
        self.fps_embedder = TimestepEmbedding(FREQUENCIES, dim)
        self.act = nn.SiLU()
        self.linear = nn.Linear(dim, 6 * dim)

    def forward(self, timestep: Tensor, fps: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the embedding `(B, D)` and the blocks' modulation `(B, 1, 6, D)` of two `(B,)`."""
        embedding = self.timestep_embedder(self.time_proj(timestep).to(dtype))
        embedding = embedding + self.fps_embedder(self.time_proj(fps).to(dtype))
        modulation = self.linear(self.act(embedding)).unflatten(1, (6, -1))
        return embedding, modulation[:, None]


class OpenSoraTransformer3DModel(
    ModelMixin, ConfigMixin, AttentionMixin, CacheMixin, PeftAdapterMixin
):
    """The transformer of Open-Sora 1.2, which predicts the velocity from noise to video.

    Source: Open-Sora 1.2, `opensora/models/stdit/stdit3.py` and `opensora/models/layers/blocks.py`.
    The defaults are the values of the checkpoint hpcai-tech/OpenSora-STDiT-v3. Everything is
    computed in the dtype of the weights except the sines, the rotation, the norms of queries and
    keys and the softmax, which are in float32; the output has the dtype of the input (upstream's is
    float32). Upstream rounds timesteps and the rotation's frequencies to the dtype of the weights
    as well, and drops captions at random in training; this model does neither.

    Args:
        patch_size: Latent frames, rows and columns per patch. Only one frame per patch is possible.
        in_channels: Channels of the latents.
        out_channels: Twice as many: the velocity, and a variance that nothing uses.
        num_layers: Pairs of one spatial and one temporal block.
        caption_channels: Channels of the text embeddings (4096 from T5 XXL).
        model_max_length: Tokens of the null caption.
        qk_norm: Normalize queries and keys of the self-attention (RMS).
        input_sq_size: The side, in pixels, of the square whose positions are not rescaled.

    Raises:
        ValueError: With a patch of several frames, or a width that cannot be divided among the
            position embeddings.
    """

    _no_split_modules = ["OpenSoraTransformerBlock"]  # noqa: RUF012
    _repeated_blocks = ["OpenSoraTransformerBlock"]  # noqa: RUF012
    _skip_layerwise_casting_patterns = ["patch_embed", "time_embed", "norm"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        in_channels: int = 4,
        out_channels: int = 8,
        num_layers: int = 28,
        num_attention_heads: int = 16,
        attention_head_dim: int = 72,
        mlp_ratio: float = 4.0,
        caption_channels: int = 4096,
        model_max_length: int = 300,
        qk_norm: bool = True,
        input_sq_size: int = 512,
    ):
        super().__init__()
        dim = num_attention_heads * attention_head_dim
        _check_config(patch_size, attention_head_dim, dim)
        patch_size = (patch_size[0], patch_size[1], patch_size[2])
        self.patch_embed = nn.Conv3d(in_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.time_embed = OpenSoraTimeEmbedding(dim)
        self.caption_projection = PixArtAlphaTextProjection(caption_channels, dim)
        self.register_buffer(
            "null_caption", torch.randn(model_max_length, caption_channels) / caption_channels**0.5
        )
        shape = (dim, num_attention_heads, attention_head_dim, mlp_ratio, qk_norm)
        self.spatial_blocks = nn.ModuleList(
            OpenSoraTransformerBlock(*shape, False) for _ in range(num_layers)
        )
        self.temporal_blocks = nn.ModuleList(
            OpenSoraTransformerBlock(*shape, True) for _ in range(num_layers)
        )
        self.norm_out = nn.LayerNorm(dim, eps=NORM_EPS, elementwise_affine=False)
        self.scale_shift_table = nn.Parameter(torch.randn(2, dim) / dim**0.5)
        self.proj_out = nn.Linear(dim, patch_size[1] * patch_size[2] * out_channels)

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        frame_mask: Tensor | None = None,
        fps: Tensor | float = 24.0,
        height: Tensor | float = 512.0,
        width: Tensor | float = 512.0,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predict the velocity (first half of the channels) at `timestep`, without device syncs.

        Args:
            hidden_states: Latents `(B, C, F, H, W)`; H and W of any size, as they are padded to
                whole patches.
            timestep: `(B,)`, or one for all rows, from 1000 (noise) to 0 (video).
            encoder_hidden_states: Text embeddings `(B, L, caption_channels)`.
            encoder_attention_mask: `(B, L)`, true or not 0 where a token is real, which at least
                one in every row must be. None: all are.
            frame_mask: `(B, F)`, true where a frame is at `timestep`; the others are given, at
                timestep 0.
            fps: Frames per second of the video, `(B,)` or one for all rows (120 for an image, as
                upstream has it).
            height: Of the video in pixels, as `fps`.
            width: Of the video in pixels, as `fps`.

        Returns:
            `sample`: `(B, out_channels, F, H, W)`.

        Raises:
            ValueError: If an input has the wrong shape.
        """
        self._check_inputs(hidden_states, encoder_hidden_states, encoder_attention_mask, frame_mask)
        num_frames, rows, columns = hidden_states.shape[2:]
        hidden_states, grid = self._patchify(hidden_states)
        sides = (
            _expand_per_row("height", height, hidden_states),
            _expand_per_row("width", width, hidden_states),
        )
        positions = _position_embedding(
            grid, sides, self.config["input_sq_size"], hidden_states.shape[-1]
        )
        hidden_states = (hidden_states + positions.to(hidden_states.dtype)[:, None]).flatten(1, 2)

        embedding, given, modulation = self._embed_times(timestep, fps, frame_mask, hidden_states)
        text = self.caption_projection(encoder_hidden_states)
        mask = (
            None if encoder_attention_mask is None else encoder_attention_mask.bool()[:, None, None]
        )
        frame_index = torch.arange(num_frames, device=hidden_states.device)
        head_dim = self.config["attention_head_dim"]
        rotation: Any = get_1d_rotary_pos_embed(head_dim, frame_index, use_real=True)  # type: ignore

        for spatial_block, temporal_block in zip(
            self.spatial_blocks, self.temporal_blocks, strict=True
        ):
            hidden_states = spatial_block(hidden_states, text, modulation, num_frames, mask)
            hidden_states = temporal_block(
                hidden_states, text, modulation, num_frames, mask, rotation
            )

        tokens = self._modulate(hidden_states.unflatten(1, (num_frames, -1)), embedding)
        if frame_mask is not None and given is not None:
            # Computed from tokens that are already modulated: a mistake of upstream, with which the
            # checkpoint was trained.
            tokens = torch.where(
                frame_mask.bool()[:, :, None, None], tokens, self._modulate(tokens, given)
            )
        sample = self._unpatchify(self.proj_out(tokens), grid)[..., :rows, :columns]
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)  # type: ignore[arg-type]

    def _patchify(self, latents: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return tokens `(B, F, S, D)` of latents `(B, C, F, H, W)`, and the grid of patches."""
        _, high, wide = self.config["patch_size"]
        latents = nn.functional.pad(
            latents, (0, -latents.shape[4] % wide, 0, -latents.shape[3] % high)
        )
        tokens = self.patch_embed(latents)  # (B, D, F, rows, columns)
        return tokens.permute(0, 2, 3, 4, 1).flatten(2, 3), (tokens.shape[3], tokens.shape[4])

    def _unpatchify(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return `(B, C, F, H, W)` from `(B, F, S, pixels per patch * C)`."""
        _, high, wide = self.config["patch_size"]
        # (B, F, rows, columns, high, wide, C)
        pixels = tokens.unflatten(3, (high, wide, -1)).unflatten(2, grid)
        return pixels.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)

    def _embed_times(
        self,
        timestep: Tensor | float,
        fps: Tensor | float,
        frame_mask: Tensor | None,
        tokens: Tensor,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return embeddings `(B, D)` of the timestep and of timestep 0, and the modulation.

        The modulation is `(B, F or 1, 6, D)`.
        """
        timestep, fps = (
            _expand_per_row("timestep", timestep, tokens),
            _expand_per_row("fps", fps, tokens),
        )
        embedding, modulation = self.time_embed(timestep, fps, tokens.dtype)
        if frame_mask is None:
            return embedding, None, modulation
        given, still = self.time_embed(torch.zeros_like(timestep), fps, tokens.dtype)
        return embedding, given, torch.where(frame_mask.bool()[:, :, None, None], modulation, still)

    def _modulate(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        """Normalize, scale and shift tokens `(B, F, S, D)` for the last layer."""
        # (B, 1, 1, D)
        shift, scale = (self.scale_shift_table + embedding[:, None])[:, :, None, None].unbind(1)
        return self.norm_out(tokens) * (1 + scale) + shift

    def _check_inputs(
        self, latents: Tensor, text: Tensor, text_mask: Tensor | None, frame_mask: Tensor | None
    ) -> None:
        channels, text_channels = self.config["in_channels"], self.config["caption_channels"]
        if latents.ndim != 5 or latents.shape[1] != channels:
            raise ValueError(
                f"hidden_states must be (B, {channels}, F, H, W), but got {tuple(latents.shape)}."
            )
        rows, frames = latents.shape[0], latents.shape[2]
        if text.ndim != 3 or len(text) != rows or text.shape[2] != text_channels:
            raise ValueError(
                f"encoder_hidden_states must be ({rows}, L, {text_channels}), one text for each row"
                f" of hidden_states, but got {tuple(text.shape)}."
            )
        wanted = {
            "encoder_attention_mask": (text_mask, (rows, text.shape[1])),
            "frame_mask": (frame_mask, (rows, frames)),
        }
        for name, (mask, shape) in wanted.items():
            if mask is not None and tuple(mask.shape) != shape:
                raise ValueError(
                    f"{name} must be {shape} for these inputs, but got {tuple(mask.shape)}."
                )


def _check_config(patch_size: Sequence[int], head_dim: int, dim: int) -> None:
    if len(patch_size) != 3 or patch_size[0] != 1:
        raise ValueError(
            "patch_size must be (1, rows, columns), one frame to a patch, but is"
            f" {tuple(patch_size)}."
        )
    if head_dim % 2 or dim % 4:
        raise ValueError(
            "attention_head_dim must be even (frames are rotated in pairs of channels) and"
            " num_attention_heads * attention_head_dim a multiple of 4 (sines and cosines of x and"
            f" y), but they make {head_dim} and {dim}."
        )


def _expand_per_row(name: str, value: Tensor | float, tokens: Tensor) -> Tensor:
    """Return `(B,)` float32 on the device of the tokens, from one value per row or one for all."""
    rows = torch.as_tensor(value, device=tokens.device).float().reshape(-1)
    if len(rows) not in (1, len(tokens)):
        raise ValueError(
            f"{name} must be one value, or one for each of the {len(tokens)} rows, but has"
            f" {len(rows)}."
        )
    return rows.expand(len(tokens))


def _position_embedding(
    grid: tuple[int, int], sides: tuple[Tensor, Tensor], square: int, dim: int
) -> Tensor:
    """Return sines and cosines `(B, S, dim)` of patch positions: first half x, second half y.

    Both axes of the grid run to the side of a square with as many patches; the coordinates shrink
    as the video of `sides` = (height, width) pixels, `(B,)` each, outgrows the square of `square`
    pixels.
    """
    rows, columns = grid
    scale = (sides[0] * sides[1]).sqrt() / square  # (B,)
    base = round((rows * columns) ** 0.5)
    channel = torch.arange(0, dim // 2, 2, device=scale.device, dtype=torch.float32)
    frequencies = 1.0 / 10000 ** (channel / (dim // 2))

    def axis(patches: int) -> Tensor:
        # (B, patches)
        place = torch.arange(patches, device=scale.device) / scale[:, None] * (base / patches)
        angle = place[..., None] * frequencies
        return torch.cat([angle.sin(), angle.cos()], dim=-1)  # (B, patches, dim / 2)

    x, y = axis(columns)[:, None], axis(rows)[:, :, None]
    return torch.cat([x.expand(-1, rows, -1, -1), y.expand(-1, -1, columns, -1)], dim=-1).flatten(
        1, 2
    )
