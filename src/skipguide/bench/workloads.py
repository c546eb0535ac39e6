"""One denoising step per family for `skipguide bench`: the real class at its real depth, narrow,
with random weights.

A width that a CPU does in part of a second and about 600 tokens (in the outermost blocks of a UNet
2000 to 4600); the depth and the skipped layer are those of the public checkpoint."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import torch

from skipguide.families.schema import Family

Inputs = Callable[[int], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Workload:
    """One step of a family."""

    config: dict[str, Any]  # of the denoiser
    inputs: Inputs  # of the denoiser, for a batch of so many rows
    layer: int | str  # the published choice, or 0.7 of the depth where there is none
    full_size: tuple[dict[str, Any], Inputs] | None = (
        None  # config and inputs of the public checkpoint, for a large GPU
    )
    terms: tuple[dict[str, Any], ...] = (
        {},
    )  # what else is published of each STG term, all of them at `layer`


def _random_floats(*shape: int) -> torch.Tensor:
    return torch.randn(*shape)


def _full_mask(*shape: int) -> torch.Tensor:
    return torch.ones(*shape, dtype=torch.bool)


def _make_timesteps(batch: int) -> torch.Tensor:
    return torch.full((batch,), 500.0)


def _video_inputs(
    channels: int,
    text: int,
    tokens: int = 64,
    size: tuple[int, int, int] = (4, 24, 24),
    **more: Any,
) -> Inputs:
    """Latents (B, C, F, H, W), a timestep, text; `more` are functions of the batch, or
    constants."""

    def inputs(batch: int) -> dict[str, Any]:
        common = dict(
            hidden_states=_random_floats(batch, channels, *size), timestep=_make_timesteps(batch),
            encoder_hidden_states=_random_floats(batch, tokens, text),
        )  # fmt: skip
        return {
            **common,
            **{name: value(batch) if callable(value) else value for name, value in more.items()},
        }

    return inputs


def _put_frames_first(inputs: Inputs) -> Inputs:
    """The same with latents (B, F, C, H, W)."""

    def turned(batch: int) -> dict[str, Any]:
        found = inputs(batch)
        return {**found, "hidden_states": found["hidden_states"].transpose(1, 2)}

    return turned


def _make_text_mask(batch: int) -> torch.Tensor:
    return torch.ones(batch, 64, dtype=torch.long)


HEADS: dict[str, Any] = dict(num_attention_heads=4, attention_head_dim=64)
WAN: dict[str, Any] = dict(
    **HEADS, in_channels=16, out_channels=16, text_dim=256, freq_dim=64, ffn_dim=1024
)
COG: dict[str, Any] = dict(
    **HEADS, num_layers=42, text_embed_dim=256, time_embed_dim=128, sample_height=24,
    sample_width=24, sample_frames=13, max_text_seq_length=64,
)  # fmt: skip
HUNYUAN: dict[str, Any] = dict(
    **HEADS,
    text_embed_dim=256,
    pooled_projection_dim=64,
    rope_axes_dim=(16, 24, 24),
    num_refiner_layers=2,
)
KANDINSKY: dict[str, Any] = dict(
    in_text_dim=256, in_text_dim2=64, time_dim=128, model_dim=256, ff_dim=1024
)


def _ltx2_inputs(batch: int) -> dict[str, Any]:
    return dict(
        hidden_states=_random_floats(batch, 4 * 12 * 12, 128),
        audio_hidden_states=_random_floats(batch, 64, 128),
        encoder_hidden_states=_random_floats(batch, 64, 256),
        audio_encoder_hidden_states=_random_floats(batch, 64, 256), timestep=_make_timesteps(batch),
        sigma=_make_timesteps(batch), encoder_attention_mask=_make_text_mask(batch),
        audio_encoder_attention_mask=_make_text_mask(batch), num_frames=4, height=12, width=12,
        fps=24.0, audio_num_frames=64,
    )  # fmt: skip


def _framepack_inputs(batch: int) -> dict[str, Any]:
    indices = torch.arange
    return dict(
        hidden_states=_random_floats(batch, 16, 4, 24, 24), timestep=_make_timesteps(batch),
        encoder_hidden_states=_random_floats(batch, 64, 256),
        encoder_attention_mask=_make_text_mask(batch), pooled_projections=_random_floats(batch, 64),
        image_embeds=_random_floats(batch, 16, 64), guidance=_make_timesteps(batch),
        indices_latents=indices(20, 24), latents_clean=_random_floats(batch, 16, 2, 24, 24),
        indices_latents_clean=indices(0, 2),
        latents_history_2x=_random_floats(batch, 16, 2, 24, 24),
        indices_latents_history_2x=indices(2, 4),
        latents_history_4x=_random_floats(batch, 16, 4, 24, 24),
        indices_latents_history_4x=indices(4, 8),
    )  # fmt: skip


def _kandinsky5_inputs(batch: int) -> dict[str, Any]:
    return dict(
        hidden_states=_random_floats(batch, 4, 24, 24, 16),
        encoder_hidden_states=_random_floats(batch, 64, 256), timestep=_make_timesteps(batch),
        pooled_projections=_random_floats(batch, 64),
        visual_rope_pos=[torch.arange(4), torch.arange(12), torch.arange(12)],
        text_rope_pos=torch.arange(64),
    )  # fmt: skip


def _kandinsky6_inputs(batch: int) -> dict[str, Any]:
    return dict(
        hidden_states=_random_floats(batch, 4, 24, 24, 16),
        encoder_hidden_states=_random_floats(batch, 64, 256), timestep=_make_timesteps(batch),
        pooled_projections=_random_floats(batch, 64),
        audio_hidden_states=_random_floats(batch, 64, 20),
        visual_rope_pos=(torch.arange(4), torch.arange(12), torch.arange(12)),
    )  # fmt: skip


def _hunyuan15_inputs(batch: int) -> dict[str, Any]:
    text = _video_inputs(33, 256, size=(2, 20, 20), encoder_attention_mask=_make_text_mask)(batch)
    return dict(
        **text, encoder_hidden_states_2=_random_floats(batch, 16, 64),
        encoder_attention_mask_2=torch.zeros(batch, 16).long(),
        image_embeds=torch.zeros(batch, 8, 64),
    )  # fmt: skip


def _ltx_inputs(batch: int) -> dict[str, Any]:
    return dict(
        hidden_states=_random_floats(batch, 4 * 12 * 12, 128),
        encoder_hidden_states=_random_floats(batch, 64, 256), timestep=_make_timesteps(batch),
        encoder_attention_mask=_make_text_mask(batch), num_frames=4, height=12, width=12,
    )  # fmt: skip


# --- UNets ----------------------------------------------------------------------------------------

NARROW_UNET: dict[str, Any] = dict(block_out_channels=(64, 128, 256, 256), cross_attention_dim=256)
SPATIAL_AND_TEMPORAL = (
    dict(scale=2.0, skip="attention", axis="spatial"),
    dict(scale=0.5, skip="attention", axis="temporal"),
)  # fmt: skip


def _svd_inputs(width: int, frames: int, height: int, length: int) -> Inputs:
    """Latents behind those of the image (B, F, C, H, W), its embedding, and three numbers about the
    video."""

    def inputs(batch: int) -> dict[str, Any]:
        return dict(
            sample=_random_floats(batch, frames, 8, height, length), timestep=torch.tensor(1.6),
            encoder_hidden_states=_random_floats(batch, 1, width),
            added_time_ids=torch.tensor([[6.0, 127.0, 0.02]]).repeat(batch, 1),
        )  # fmt: skip

    return inputs


def _unet_inputs(
    width: int, frames: int, height: int, length: int, rows: int = 1,
    **more: Callable[[int], torch.Tensor]
) -> Inputs:  # fmt: skip
    """Latents (B, C, F, H, W), and as many `rows` of text for each video; `more` are functions of
    the batch."""

    def inputs(batch: int) -> dict[str, Any]:
        common = dict(
            sample=_random_floats(batch, 4, frames, height, length), timestep=torch.tensor(500.0),
            encoder_hidden_states=_random_floats(batch * rows, 77, width),
        )  # fmt: skip
        return {**common, **{name: value(batch) for name, value in more.items()}}

    return inputs


def _i2vgen_inputs(width: int, frames: int, height: int, length: int) -> Inputs:
    return _unet_inputs(
        width, frames, height, length, fps=lambda batch: torch.full((batch,), 16.0),
        image_latents=lambda batch: _random_floats(batch, 4, frames, height, length),
        image_embeddings=lambda batch: _random_floats(batch, width),
    )  # fmt: skip


UNETS: dict[str, Workload] = {
    "svd": Workload(
        dict(
            **NARROW_UNET, num_attention_heads=(1, 2, 4, 4), addition_time_embed_dim=64,
            projection_class_embeddings_input_dim=192, num_frames=8,
        ),
        _svd_inputs(256, 8, 24, 24), layer="up:0", terms=SPATIAL_AND_TEMPORAL,
        full_size=({}, _svd_inputs(1024, 25, 72, 128)),
    ),
    "animatediff": Workload(
        NARROW_UNET, _unet_inputs(256, 8, 24, 24, rows=8), layer="up:5",
        full_size=(dict(cross_attention_dim=768), _unet_inputs(768, 16, 64, 64, rows=16)),
    ),
    "modelscope": Workload(
        NARROW_UNET, _unet_inputs(256, 8, 16, 16), layer="up:4", full_size=({}, _unet_inputs(1024, 16, 32, 32))
    ),
    "i2vgen-xl": Workload(
        NARROW_UNET, _i2vgen_inputs(256, 8, 16, 16), layer="up:4",
        full_size=({}, _i2vgen_inputs(1024, 16, 88, 160)),
    ),
}  # fmt: skip

WORKLOADS: dict[str, Workload] = {
    "mochi": Workload(
        dict(
            patch_size=2, **HEADS, num_layers=48, pooled_projection_dim=128, in_channels=12, text_embed_dim=256,
            time_embed_dim=256,
        ),
        _video_inputs(12, 256, encoder_attention_mask=lambda batch: _full_mask(batch, 64)),
        layer=34,
        full_size=(
            {}, _video_inputs(12, 4096, 256, (15, 60, 106), encoder_attention_mask=lambda batch: _full_mask(batch, 256))
        ),
    ),
    "wan": Workload(dict(**WAN, num_layers=40), _video_inputs(16, 256), layer=9),
    "wan-vace": Workload(
        dict(**WAN, num_layers=40), _video_inputs(16, 256, control_hidden_states=lambda batch: _random_floats(batch, 96, 4, 24, 24)),
        layer=9,
    ),
    "wan-animate": Workload(
        dict(
            **{**WAN, "in_channels": 36}, num_layers=40, image_dim=None, motion_encoder_size=16, motion_style_dim=32,
            motion_dim=8, motion_encoder_dim=32, face_encoder_hidden_dim=64,
            motion_encoder_channel_sizes={"4": 32, "8": 32, "16": 32},
        ),
        _video_inputs(
            36, 256, size=(5, 24, 24), pose_hidden_states=lambda batch: _random_floats(batch, 16, 4, 24, 24),
            face_pixel_values=lambda batch: _random_floats(batch, 3, 16, 16, 16),
        ),
        layer=9,
    ),
    "chronoedit": Workload(dict(**WAN, num_layers=40), _video_inputs(16, 256), layer=28),
    "hunyuan": Workload(
        dict(**HUNYUAN, num_layers=20, num_single_layers=40),
        _video_inputs(
            16, 256, encoder_attention_mask=_make_text_mask, pooled_projections=lambda batch: _random_floats(batch, 64),
            guidance=_make_timesteps,
        ),
        layer="dual:2",
    ),
    "framepack": Workload(
        dict(
            **HUNYUAN, num_layers=20, num_single_layers=40, has_image_proj=True, image_proj_dim=64,
            has_clean_x_embedder=True,
        ),
        _framepack_inputs, layer="single:22",
    ),
    "hunyuan-1.5": Workload(
        dict(
            **HEADS, in_channels=33, out_channels=16, num_layers=54, num_refiner_layers=2, text_embed_dim=256,
            text_embed_2_dim=64, image_embed_dim=64, rope_axes_dim=(16, 24, 24), patch_size=2,
        ),
        _hunyuan15_inputs, layer=37,
    ),
    "ltx": Workload(dict(**HEADS, num_layers=28, cross_attention_dim=256, caption_channels=256), _ltx_inputs, layer=19),
    "ltx-2": Workload(
        dict(
            **HEADS, num_layers=48, cross_attention_dim=256, audio_num_attention_heads=4, audio_attention_head_dim=32,
            audio_cross_attention_dim=128, caption_channels=256,
        ),
        _ltx2_inputs, layer=29,
    ),
    "cogvideox": Workload(COG, _put_frames_first(_video_inputs(16, 256)), layer=11),
    "consisid": Workload(COG, _put_frames_first(_video_inputs(16, 256)), layer=11),
    "skyreels-v2": Workload(dict(**WAN, num_layers=40), _video_inputs(16, 256), layer=9),
    "cosmos": Workload(
        dict(**HEADS, num_layers=28, in_channels=16, text_embed_dim=256, adaln_lora_dim=64, concat_padding_mask=False),
        _video_inputs(16, 256), layer=19,
    ),
    "allegro": Workload(
        dict(
            **HEADS, num_layers=32, cross_attention_dim=256, caption_channels=256, in_channels=4, out_channels=4,
            sample_height=24, sample_width=24, sample_frames=4,
        ),
        _video_inputs(
            4, 256, encoder_attention_mask=_make_text_mask,
            image_rotary_emb=None,
        ),
        layer=22,
    ),
    "easyanimate": Workload(
        dict(
            **HEADS, num_layers=48, in_channels=16, out_channels=16, text_embed_dim=256, time_embed_dim=128,
            patch_size=2,
        ),
        _video_inputs(16, 256), layer=33,
    ),
    "sana-video": Workload(
        dict(
            **HEADS, num_layers=20, num_cross_attention_heads=4, cross_attention_head_dim=64, cross_attention_dim=256,
            caption_channels=256,
        ),
        _video_inputs(16, 256, encoder_attention_mask=_make_text_mask), layer=14,
    ),
    "kandinsky-5": Workload(
        dict(**KANDINSKY, in_visual_dim=16, out_visual_dim=16, num_visual_blocks=32, axes_dims=(16, 24, 24)),
        _kandinsky5_inputs, layer=22,
    ),
    "kandinsky-6": Workload(
        dict(
            **KANDINSKY, in_visual_dim=16, out_visual_dim=16, num_visual_blocks=60, axes_dims=(16, 24, 24),
            visual_cond=False,
        ),
        _kandinsky6_inputs, layer=42,
    ),
    "motif-video": Workload(
        dict(
            **HEADS, in_channels=33, out_channels=16, num_layers=20, num_single_layers=40, text_embed_dim=256,
            rope_axes_dim=(16, 24, 24), patch_size=2,
        ),
        _video_inputs(33, 256, encoder_attention_mask=_make_text_mask), layer="single:22",
    ),
    "helios": Workload(
        dict(**WAN, num_layers=40, rope_dim=(16, 24, 24)), _video_inputs(16, 256), layer=28
    ),
    "anyflow": Workload(
        dict(**WAN, num_layers=40),
        _put_frames_first(
            _video_inputs(
                16, 256, timestep=lambda batch: torch.full((batch, 4), 500.0),
                r_timestep=lambda batch: torch.full((batch, 4), 400.0),
            )
        ),
        layer=28,
    ),
    "latte": Workload(
        dict(
            **HEADS, num_layers=28, in_channels=4, out_channels=8, cross_attention_dim=256, caption_channels=256,
            sample_size=24, video_length=4, activation_fn="gelu-approximate", norm_elementwise_affine=False,
            norm_type="ada_norm_single", patch_size=2, attention_bias=True, norm_eps=1e-6,
        ),
        _video_inputs(4, 256), layer=19,
    ),
    "opensora": Workload(
        dict(
            num_layers=28, num_attention_heads=4, attention_head_dim=64, caption_channels=256, model_max_length=16,
        ),
        _video_inputs(4, 256), layer=11,
    ),
    **UNETS,
}  # fmt: skip


def model_class(family: Family) -> Any:
    """The denoiser's."""
    return getattr(importlib.import_module(family.package), family.model)
