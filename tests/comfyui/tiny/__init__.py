"""Nodes for the tests: narrow models of ComfyUI's own classes with random weights, and prompts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import comfy.model_management  # pyright: ignore[reportMissingImports]
import comfy.model_patcher  # pyright: ignore[reportMissingImports]
import comfy.supported_models as supported  # pyright: ignore[reportMissingImports]
import torch
from comfy_api.latest import ComfyExtension, io  # pyright: ignore[reportMissingImports]


@dataclass(frozen=True)
class Family:
    """What a tiny model is made of.

    Args:
        config: the class in comfy.supported_models.
        unet: its unet_config.
        latent: `(C, F, H, W)`, or `(C, H, W)` for images.
        text: tokens and their width.
        extra: what a conditioning has beside its tokens.
    """

    config: str
    unet: dict[str, Any]
    latent: tuple[int, ...]
    text: tuple[int, int]
    pooled: int = 0
    mask: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


_WAN = dict(
    image_model="wan2.1",
    model_type="t2v",
    dim=128,
    ffn_dim=384,
    num_heads=2,
    num_layers=30,
    text_dim=32,
)
_FLUX = dict(
    hidden_size=128, mlp_ratio=4.0, num_heads=2, depth=4, depth_single_blocks=8,
    axes_dim=[16, 24, 24], theta=256, qkv_bias=True, vec_in_dim=24, context_in_dim=32,
)  # fmt: skip
_COSMOS = dict(
    max_img_h=240, max_img_w=240, max_frames=128, in_channels=16, out_channels=16, patch_spatial=2,
    patch_temporal=1, model_channels=128, num_blocks=12, num_heads=2, crossattn_emb_channels=32,
    concat_padding_mask=True, pos_emb_cls="rope3d", pos_emb_interpolation="crop",
    use_adaln_lora=True, adaln_lora_dim=16,
)  # fmt: skip
_WAN_LATENT = (16, 3, 16, 16)

_LTX = dict(
    image_model="ltxv", num_layers=28, attention_head_dim=64, num_attention_heads=2,
    cross_attention_dim=128, caption_channels=32,
)  # fmt: skip
_LTX_LATENT = (128, 3, 8, 8)

FAMILIES = {
    "ltx": Family("LTXV", _LTX, _LTX_LATENT, (8, 32), mask=True, extra={"frame_rate": 25}),
    "ltx_13b": Family(
        "LTXV", {**_LTX, "num_layers": 48}, _LTX_LATENT, (8, 32), mask=True,
        extra={"frame_rate": 25},
    ),
    "wan": Family("WAN21_T2V", _WAN, _WAN_LATENT, (8, 32)),
    "wan_vace": Family(
        "WAN21_Vace",
        {**_WAN, "model_type": "vace", "num_layers": 8, "vace_layers": 4, "vace_in_dim": 96},
        _WAN_LATENT, (8, 32),
    ),
    "mochi": Family(
        "GenmoMochi",
        dict(image_model="mochi_preview", depth=48, patch_size=2, num_heads=2, hidden_size_x=32,
             hidden_size_y=16, mlp_ratio_x=384.0, mlp_ratio_y=4.0, learn_sigma=False,
             in_channels=12, qk_norm=True, qkv_bias=False, out_bias=True, attn_drop=0.0,
             patch_embed_bias=True, posenc_preserve_area=True, timestep_mlp_bias=True,
             attend_to_padding=False, timestep_scale=1000.0, use_t5=True, t5_feat_dim=32,
             t5_token_length=8, rope_theta=10000.0),
        (12, 2, 12, 12), (8, 32), mask=True,
    ),
    "hunyuan": Family(
        "HunyuanVideo",
        {**_FLUX, "image_model": "hunyuan_video", "in_channels": 16, "out_channels": 16,
         "patch_size": [1, 2, 2], "guidance_embed": False, "byt5": False, "meanflow": False},
        _WAN_LATENT, (8, 32), pooled=24,
    ),
    "cosmos": Family(
        "CosmosT2V",
        {**_COSMOS, "image_model": "cosmos", "block_config": "FA-CA-MLP",
         "pos_emb_learnable": False, "block_x_format": "THWBD", "affline_emb_norm": True,
         "extra_per_block_abs_pos_emb": True, "extra_per_block_abs_pos_emb_type": "learnable"},
        (16, 2, 16, 16), (8, 32), mask=True, extra={"frame_rate": 24},
    ),
    "cosmos2": Family(
        "CosmosT2IPredict2",
        {**_COSMOS, "image_model": "cosmos_predict2", "pos_emb_learnable": True, "min_fps": 1,
         "max_fps": 30, "extra_per_block_abs_pos_emb": False,
         "rope_enable_fps_modulation": False},
        (16, 1, 16, 16), (8, 32), extra={"frame_rate": 24},
    ),
    "flux": Family(
        "Flux",
        {**_FLUX, "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2,
         "guidance_embed": False},
        (16, 16, 16), (8, 32), pooled=24,
    ),
    "qwen": Family(
        "QwenImage",
        dict(image_model="qwen_image", in_channels=64, num_layers=8, attention_head_dim=64,
             num_attention_heads=2, joint_attention_dim=32, axes_dims_rope=(16, 24, 24)),
        (16, 1, 16, 16), (8, 32),
    ),
    "lumina": Family(  # a model that knows no block patches
        "Lumina2",
        dict(image_model="lumina2", patch_size=2, in_channels=16, dim=64, cap_feat_dim=32,
             n_layers=2, n_heads=2, n_kv_heads=1, qk_norm=True, axes_dims=[8, 12, 12],
             axes_lens=[32, 64, 64]),
        (16, 16, 16), (8, 32),
    ),
}  # fmt: skip


def model_of(family: Family, seed: int) -> Any:
    """Return a ModelPatcher with random weights."""
    config = getattr(supported, family.config)({**family.unet})
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.diffusion_model.named_parameters():
            _fill(name, value, generator)
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)


def _fill(name: str, value: torch.Tensor, generator: torch.Generator) -> None:
    noise = torch.randn(value.shape, generator=generator)
    if value.ndim < 2:
        value.copy_((1 if name.endswith(("weight", "scale")) else 0) + 0.1 * noise)
    else:
        value.copy_(noise / value[0].numel() ** 0.5)


def conditioning_of(family: Family, seed: int) -> Any:
    """Return what CLIPTextEncode would return."""
    tokens, width = family.text
    generator = torch.Generator().manual_seed(seed)
    values = {**family.extra}
    if family.pooled:
        values["pooled_output"] = torch.randn((1, family.pooled), generator=generator)
    if family.mask:
        values["attention_mask"] = torch.ones((1, tokens), dtype=torch.int64)
    return [[torch.randn((1, tokens, width), generator=generator), values]]


def _family() -> Any:
    return io.Combo.Input("family", options=list(FAMILIES))


class TinyModel(io.ComfyNode):
    """In the place of a loader."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [_family(), io.Int.Input("seed", default=0)]
        return io.Schema(
            node_id="TinyModel", category="tests", inputs=inputs, outputs=[io.Model.Output()]
        )

    @classmethod
    def execute(cls, family: str, seed: int) -> io.NodeOutput:
        return io.NodeOutput(model_of(FAMILIES[family], seed))


class TinyText(io.ComfyNode):
    """In the place of a text encoder: another prompt for each seed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [_family(), io.Int.Input("seed", default=0)]
        return io.Schema(
            node_id="TinyText", category="tests", inputs=inputs, outputs=[io.Conditioning.Output()]
        )

    @classmethod
    def execute(cls, family: str, seed: int) -> io.NodeOutput:
        return io.NodeOutput(conditioning_of(FAMILIES[family], seed))


class TinyLatent(io.ComfyNode):
    """An empty video of the size that the tests use."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [_family(), io.Int.Input("batch", default=1)]
        return io.Schema(
            node_id="TinyLatent", category="tests", inputs=inputs, outputs=[io.Latent.Output()]
        )

    @classmethod
    def execute(cls, family: str, batch: int) -> io.NodeOutput:
        return io.NodeOutput({"samples": torch.zeros((batch, *FAMILIES[family].latent))})


class TinyExtension(ComfyExtension):
    """The pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [TinyModel, TinyText, TinyLatent]


async def comfy_entrypoint() -> TinyExtension:
    """Return the pack; ComfyUI calls this to find the nodes."""
    return TinyExtension()
