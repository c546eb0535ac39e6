"""Nodes for the tests: narrow models of ComfyUI's own classes with random weights, and prompts."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import Any

import comfy.model_management  # pyright: ignore[reportMissingImports]
import comfy.model_patcher  # pyright: ignore[reportMissingImports]
import comfy.ops  # pyright: ignore[reportMissingImports]
import comfy.samplers  # pyright: ignore[reportMissingImports]
import comfy.supported_models as supported  # pyright: ignore[reportMissingImports]
import torch
from comfy_api.latest import ComfyExtension, io  # pyright: ignore[reportMissingImports]

from .others import NODES


@dataclass(frozen=True)
class Family:
    """What a tiny model is made of.

    Args:
        config: the class in comfy.supported_models.
        unet: its unet_config.
        latent: `(C, F, H, W)`, or `(C, H, W)` for images.
        sound: the latent of the sound, where the model makes one beside the video.
        text: tokens and their width.
        extra: what a conditioning has beside its tokens.
    """

    config: str
    unet: dict[str, Any]
    latent: tuple[int, ...]
    text: tuple[int, int]
    pooled: int = 0
    mask: bool = False
    sound: tuple[int, ...] = ()
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
_LTX_2 = dict(
    image_model="ltxav", num_layers=12, attention_head_dim=64, num_attention_heads=2,
    cross_attention_dim=128, caption_channels=32, audio_attention_head_dim=32,
    audio_num_attention_heads=2, audio_cross_attention_dim=64, connector_num_layers=1,
    connector_num_attention_heads=1, connector_attention_head_dim=32,
)  # fmt: skip
_LTX_2_REST: dict[str, Any] = dict(mask=True, sound=(8, 6, 16), extra={"frame_rate": 25})
_LUMINA = dict(
    image_model="lumina2", patch_size=2, in_channels=16, dim=64, cap_feat_dim=32, n_layers=8,
    n_heads=2, n_kv_heads=1, qk_norm=True, axes_dims=[8, 12, 12], axes_lens=[32, 64, 64],
)  # fmt: skip
_SD3 = dict(
    in_channels=16, depth=4, patch_size=2, input_size=None, pos_embed_max_size=32,
    num_patches=1024, pos_embed_scaling_factor=None, adm_in_channels=24,
    context_embedder_config={
        "target": "torch.nn.Linear", "params": {"in_features": 32, "out_features": 256}
    },
)  # fmt: skip
_HUNYUAN: dict[str, Any] = {
    **_FLUX, "image_model": "hunyuan_video", "in_channels": 16, "out_channels": 16,
    "patch_size": [1, 2, 2], "guidance_embed": False, "byt5": False, "meanflow": False,
}  # fmt: skip
# Parameters that some versions of ComfyUI must have, and others do not know.
_LATER = {
    "txt_ids_dims": [], "ops_bias": True, "use_cond_type_embedding": False, "vision_in_dim": None,
    "meanflow_sum": False,
}  # fmt: skip

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
    "lumina": Family("Lumina2", _LUMINA, (16, 16, 16), (8, 32), mask=True),
    "zimage": Family(
        "ZImage",
        {**_LUMINA, "dim": 256, "n_heads": 8, "n_kv_heads": 8, "z_image_modulation": True,
         "time_scale": 1000.0, "pad_tokens_multiple": 4},
        (16, 16, 16), (8, 32),
    ),
    "ltx2": Family("LTXAV", _LTX_2, _LTX_LATENT, (8, 64), **_LTX_2_REST),
    "ltx2_48": Family("LTXAV", {**_LTX_2, "num_layers": 48}, _LTX_LATENT, (8, 64), **_LTX_2_REST),
    "ltx2.3": Family(
        "LTXAV", {**_LTX_2, "num_layers": 48, "apply_gated_attention": True,
                  "cross_attention_adaln": True}, _LTX_LATENT, (8, 64), **_LTX_2_REST,
    ),
    "sd3": Family("SD3", _SD3, (16, 16, 16), (8, 32), pooled=24),
    "sd3.5": Family(
        "SD3", {**_SD3, "qk_norm": "rms", "x_block_self_attn": True,
                "x_block_self_attn_layers": [0, 1]}, (16, 16, 16), (8, 32), pooled=24,
    ),
    "omnigen2": Family(
        "Omnigen2",
        dict(image_model="omnigen2", patch_size=2, in_channels=16, hidden_size=64, num_layers=8,
             num_refiner_layers=1, num_attention_heads=2, num_kv_heads=1, multiple_of=32,
             axes_dim_rope=(8, 12, 12), text_feat_dim=32),
        (16, 16, 16), (8, 32), mask=True,
    ),
    "kandinsky5": Family(
        "Kandinsky5",
        dict(image_model="kandinsky5", in_text_dim=32, in_text_dim2=24, time_dim=32, model_dim=128,
             ff_dim=256, visual_embed_dim=132, num_text_blocks=1, num_visual_blocks=8),
        _WAN_LATENT, (8, 32), pooled=24,
    ),
    "hunyuan1.5": Family(
        "HunyuanVideo15",
        {**_HUNYUAN, "depth": 8, "depth_single_blocks": 0, "vec_in_dim": None,
         "in_channels": 65, "out_channels": 32, "patch_size": [1, 1, 1]},
        (32, 3, 8, 8), (8, 32), pooled=24,
    ),
    "hunyuan_image": Family(
        "HunyuanImage21",
        {**_HUNYUAN, "depth": 20, "depth_single_blocks": 2, "vec_in_dim": None,
         "in_channels": 64, "out_channels": 64, "patch_size": [1, 1], "axes_dim": [32, 32]},
        (64, 8, 8), (8, 32),
    ),
    "scail": Family("WAN21_SCAIL", {**_WAN, "model_type": "scail", "in_dim": 20, "num_layers": 8},
                    _WAN_LATENT, (8, 32)),
    "wan_causal": Family("WAN21_CausalAR_T2V", {**_WAN, "causal_ar": True, "num_layers": 8},
                         _WAN_LATENT, (8, 32)),
    "wan_dancer": Family(
        "WAN22_WanDancer",
        {**_WAN, "model_type": "wandancer", "in_dim": 36, "num_layers": 8, "music_dim": 32,
         "music_heads": 2, "music_latent_dim": 32, "audio_inject_layers": [0, 4]},
        _WAN_LATENT, (8, 32),
    ),
    "animate2": Family("WAN_Animate2", {**_WAN, "model_type": "animate2", "in_dim": 36,
                                        "num_layers": 8}, _WAN_LATENT, (8, 32)),
    "anima": Family(
        "Anima",
        {**_COSMOS, "image_model": "anima", "pos_emb_learnable": True, "min_fps": 1,
         "max_fps": 30, "extra_per_block_abs_pos_emb": False,
         "rope_enable_fps_modulation": False},
        (16, 1, 16, 16), (8, 32),
    ),
    "chroma": Family(
        "Chroma",
        {**_FLUX, "image_model": "chroma", "in_channels": 64, "out_channels": 64,
         "patch_size": 2, "guidance_embed": False, "in_dim": 64, "out_dim": 128, "hidden_dim": 32,
         "n_layers": 2},
        (16, 16, 16), (8, 32), pooled=24,
    ),
    "radiance": Family(
        "ChromaRadiance",
        {**_FLUX, "image_model": "chroma_radiance", "in_channels": 3,
         "out_channels": 3, "patch_size": 16, "guidance_embed": False, "in_dim": 64,
         "out_dim": 128, "hidden_dim": 32, "n_layers": 2, "nerf_hidden_size": 16,
         "nerf_mlp_ratio": 2, "nerf_depth": 1, "nerf_max_freqs": 8, "nerf_tile_size": 0,
         "nerf_final_head_type": "conv", "nerf_embedder_dtype": torch.float32, "use_x0": False,
         "use_sequential_txt_ids": False},
        (3, 64, 64), (8, 32), pooled=24,
    ),
    "flux2": Family(
        "Flux2",
        {**_FLUX, "image_model": "flux2", "in_channels": 128, "out_channels": 128,
         "patch_size": 1, "guidance_embed": False, "global_modulation": True, "vec_in_dim": None,
         "mlp_silu_act": True, "qkv_bias": False, "ops_bias": False,
         "axes_dim": [16, 16, 16, 16], "txt_ids_dims": [3]},
        (128, 8, 8), (8, 32),
    ),
    "minimax": Family(
        "MiniMaxH3",
        dict(image_model="minimax_h3", hidden_size=64, num_layers=8, token_refiner_num_layers=1,
             num_attention_heads=2, attention_head_dim=32, ffn_hidden_size=96, text_dim=32,
             timestep_input_dim=32, time_embed_hidden_size=32, time_embed_dim=32,
             rope_inv_freq_len=4),
        (24, 2, 8, 8), (8, 32), sound=(32, 2, 6),
    ),
    "cogvideox": Family(
        "CogVideoX_T2V",
        dict(image_model="cogvideox", num_attention_heads=2, attention_head_dim=64, num_layers=8,
             in_channels=16, out_channels=16, time_embed_dim=32, text_embed_dim=32,
             use_rotary_positional_embeddings=True),
        _WAN_LATENT, (8, 32),
    ),
    "aura": Family(
        "AuraFlow",
        dict(cond_seq_dim=32, n_double_layers=2, n_layers=6, n_heads=2, in_channels=4,
             out_channels=4, patch_size=2, dim=128, max_seq=1024),
        (4, 16, 16), (8, 32),
    ),
    "pixart": Family(  # a model without a row
        "PixArtAlpha",
        dict(image_model="pixart_alpha", num_heads=2, hidden_size=128, depth=2,
             micro_condition=False, model_max_length=8, input_size=16, pe_interpolation=1.0,
             patch_size=2, caption_channels=32),
        (4, 16, 16), (8, 32),
    ),
}  # fmt: skip


def model_of(family: Family, seed: int) -> Any:
    """Return a ModelPatcher with random weights."""
    if not hasattr(supported, family.config):
        raise RuntimeError(f"this ComfyUI has no {family.config}")
    config = getattr(supported, family.config)(_parameters(family.unet))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.diffusion_model.named_parameters():
            _fill(name, value, generator)
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)


def _parameters(unet: dict[str, Any]) -> dict[str, Any]:
    """Return a unet_config with what this version of ComfyUI asks of a model of Flux's code."""
    kinds = {"flux": "flux.model.FluxParams", "flux2": "flux.model.FluxParams",
             "hunyuan_video": "hunyuan_video.model.HunyuanVideoParams",
             "chroma": "chroma.model.ChromaParams",
             "chroma_radiance": "chroma_radiance.model.ChromaRadianceParams"}  # fmt: skip
    where, _, name = kinds.get(unet.get("image_model", ""), "").rpartition(".")
    if not name:
        return {**unet}
    known = {entry.name for entry in fields(getattr(import_module(f"comfy.ldm.{where}"), name))}
    wanted = {**_LATER, **unet}
    return {key: wanted[key] for key in wanted if key in known or key == "image_model"}


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
    """In the place of a loader. Seeds 1000 apart are the same weights in another object."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [_family(), io.Int.Input("seed", default=0)]
        return io.Schema(
            node_id="TinyModel", category="tests", inputs=inputs, outputs=[io.Model.Output()]
        )

    @classmethod
    def execute(cls, family: str, seed: int) -> io.NodeOutput:
        return io.NodeOutput(model_of(FAMILIES[family], seed % 1000))


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
        made = FAMILIES[family]
        video, sound = (torch.zeros((batch, *shape)) for shape in (made.latent, made.sound))
        if not made.sound:
            return io.NodeOutput({"samples": video})
        try:
            from comfy.nested_tensor import NestedTensor  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise RuntimeError("this ComfyUI has no latents of video and sound") from None
        return io.NodeOutput({"samples": NestedTensor((video, sound))})


class TinyPacked(io.ComfyNode):
    """Puts a video and its sound into one tensor, which SaveLatent can write."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TinyPacked", category="tests", inputs=[io.Latent.Input("samples")],
            outputs=[io.Latent.Output()],
        )  # fmt: skip

    @classmethod
    def execute(cls, samples: Any) -> io.NodeOutput:
        value = samples["samples"]
        parts = value.unbind() if getattr(value, "is_nested", False) else [value]
        return io.NodeOutput({"samples": torch.cat([part.flatten(1) for part in parts], 1)})


class TinyByHand(io.ComfyNode):
    """Pushes away from a weak pass that is made by hand, and shares no code with the pack.

    The block's forward returns what it is given; or, in the modules of its self-attention, torch's
    own attention returns the values.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Model.Input("model"), io.String.Input("block"), io.String.Input("attention")]
        return io.Schema(
            node_id="TinyByHand", category="tests", inputs=inputs, outputs=[io.Model.Output()]
        )

    @classmethod
    def execute(cls, model: Any, block: str, attention: str) -> io.NodeOutput:
        denoiser = model.get_model_object("diffusion_model")
        whole = denoiser.get_submodule(block)
        paths = attention.split(",") if attention else []
        parts = [whole.get_submodule("" if path == "all" else path) for path in paths]

        def behind_cfg(args: dict[str, Any]) -> torch.Tensor:
            with ExitStack() as undo:
                if not parts:
                    _replace(whole, "forward", _first_arguments, undo)
                for part in parts:
                    _replace(part, "forward", _with_values(part.forward), undo)
                weak = comfy.samplers.calc_cond_batch(
                    args["model"], [args["cond"]], args["input"], args["sigma"],
                    args["model_options"],
                )[0]  # fmt: skip
            return args["denoised"] + (args["cond_denoised"] - weak)

        clone = model.clone()
        clone.set_model_sampler_post_cfg_function(behind_cfg)
        return io.NodeOutput(clone)


def _replace(owner: Any, name: str, value: Any, undo: ExitStack) -> None:
    before = getattr(owner, name)
    setattr(owner, name, value)
    undo.callback(setattr, owner, name, before)


def _first_arguments(*args: Any, **kwargs: Any) -> Any:
    if "encoder_hidden_states" in kwargs:  # CogVideoX
        return kwargs["hidden_states"], kwargs["encoder_hidden_states"]
    return kwargs["x"] if "x" in kwargs else args[0]


def _with_values(forward: Any) -> Any:
    def attend(q: torch.Tensor, _k: torch.Tensor, v: torch.Tensor, *_: Any, **__: Any) -> Any:
        return v.repeat_interleave(q.shape[1] // v.shape[1], 1)

    def run(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as undo:
            for owner in (torch.nn.functional, comfy.ops):
                if hasattr(owner, "scaled_dot_product_attention"):
                    _replace(owner, "scaled_dot_product_attention", attend, undo)
            return forward(*args, **kwargs)

    return run


class TinyExtension(ComfyExtension):
    """The pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [TinyModel, TinyText, TinyLatent, TinyPacked, TinyByHand, *NODES]


async def comfy_entrypoint() -> TinyExtension:
    """Return the pack; ComfyUI calls this to find the nodes."""
    return TinyExtension()
