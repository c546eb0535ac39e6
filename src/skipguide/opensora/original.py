"""Read the published checkpoints of Open-Sora 1.2 into the diffusers models of this package.

Layouts: hpcai-tech/OpenSora-STDiT-v3 (the transformer) and hpcai-tech/OpenSora-VAE-v1.2 (both parts
of the VAE), each a folder with `config.json` and the weights in `model.safetensors` or
`pytorch_model.bin`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from skipguide.files import checkpoints
from skipguide.opensora.autoencoder import AutoencoderKLOpenSora
from skipguide.opensora.transformer import OpenSoraTransformer3DModel

Tensor = torch.Tensor
Network = TypeVar("Network", bound=nn.Module)

TRANSFORMER_KEYS: checkpoints.RenameRules = (
    (r"^x_embedder\.proj\.", "patch_embed."),
    (r"^t_embedder\.mlp\.0\.", "time_embed.timestep_embedder.linear_1."),
    (r"^t_embedder\.mlp\.2\.", "time_embed.timestep_embedder.linear_2."),
    (r"^fps_embedder\.mlp\.0\.", "time_embed.fps_embedder.linear_1."),
    (r"^fps_embedder\.mlp\.2\.", "time_embed.fps_embedder.linear_2."),
    (r"^t_block\.1\.", "time_embed.linear."),
    (r"^y_embedder\.y_proj\.fc1\.", "caption_projection.linear_1."),
    (r"^y_embedder\.y_proj\.fc2\.", "caption_projection.linear_2."),
    (r"^y_embedder\.y_embedding$", "null_caption"),
    (r"^final_layer\.scale_shift_table$", "scale_shift_table"),
    (r"^final_layer\.linear\.", "proj_out."),
    (r"\.attn\.q_norm\.", ".attn1.norm_q."),
    (r"\.attn\.k_norm\.", ".attn1.norm_k."),
    (r"\.attn\.proj\.", ".attn1.to_out.0."),
    (r"\.cross_attn\.q_linear\.", ".attn2.to_q."),
    (r"\.cross_attn\.proj\.", ".attn2.to_out.0."),
    (r"\.mlp\.fc1\.", ".ff.net.0.proj."),
    (r"\.mlp\.fc2\.", ".ff.net.2."),
)
FUSED = {  # matrices stacked in this order
    ".attn.qkv.": (".attn1.to_q.", ".attn1.to_k.", ".attn1.to_v."),
    ".cross_attn.kv_linear.": (".attn2.to_k.", ".attn2.to_v."),
}
AUTOENCODER_KEYS: checkpoints.RenameRules = (
    (r"^spatial_vae\.module\.", "spatial_vae."),
    (r"^(temporal_vae\..*)\.conv\.(weight|bias)$", r"\1.\2"),
    (r"^(temporal_vae\..*)\.block_res_blocks\.(\d+)\.", r"\1.levels.\2.resnets."),
    (r"^(temporal_vae\..*)\.res_blocks\.", r"\1.middle.resnets."),
    (r"^(temporal_vae\..*)\.conv3\.", r"\1.conv_shortcut."),
    (
        r"^temporal_vae\.encoder\.conv_blocks\.(\d+)\.",
        r"temporal_vae.encoder.levels.\1.downsampler.",
    ),
    (r"^temporal_vae\.decoder\.conv_blocks\.(\d+)\.", r"temporal_vae.decoder.levels.\1.upsampler."),
    (r"^temporal_vae\.(encoder|decoder)\.norm1\.", r"temporal_vae.\1.norm_out."),
    (r"^temporal_vae\.encoder\.conv2\.", "temporal_vae.encoder.conv_out."),
    (r"^temporal_vae\.decoder\.conv1\.", "temporal_vae.decoder.conv_in."),
)

TRANSFORMER_CONFIG = {  # our name -> upstream's (STDiT3Config)
    "patch_size": "patch_size",
    "in_channels": "in_channels",
    "num_layers": "depth",
    "num_attention_heads": "num_heads",
    "mlp_ratio": "mlp_ratio",
    "caption_channels": "caption_channels",
    "model_max_length": "model_max_length",
    "qk_norm": "qk_norm",
    "input_sq_size": "input_sq_size",
}
UNSUPPORTED = {  # upstream's values that these models have no counterpart for, and why
    ("skip_y_embedder", True): "texts are always embedded by the model",
    ("pred_sigma", False): "the output has two halves, of which the first is the velocity",
}
TEMPORAL_CONFIG = {  # our name -> upstream's (VAE_Temporal)
    "temporal_layers_per_block": "num_res_blocks",
    "temporal_downsample": "temporal_downsample",
    "temporal_norm_num_groups": "num_groups",
}


def transformer_state_dict(original: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of STDiT3 to those of OpenSoraTransformer3DModel.

    A key that no rule matches keeps its name.

    Raises:
        ValueError: If the frequencies of the temporal rotation, which upstream stores and this
            model computes, differ.
    """
    kept: dict[str, Tensor] = {}
    parts: dict[str, Tensor] = {}
    for key, value in original.items():
        if key == "rope.freqs":
            _check_rotation(value)
            continue
        fused = next((name for name in FUSED if name in key), None)
        if fused is None:
            kept[key] = value
        else:
            names = [key.replace(fused, part) for part in FUSED[fused]]
            # Each part owns its memory, because safetensors does not save views of one tensor.
            parts.update(
                (name, part.clone())
                for name, part in zip(names, value.chunk(len(names)), strict=True)
            )
    return {**checkpoints.rename_keys(kept, TRANSFORMER_KEYS), **parts}


def autoencoder_state_dict(original: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of VideoAutoencoderPipeline to those of AutoencoderKLOpenSora.

    `shift` and `scale` are left out: they are `latents_mean` and `latents_std` of the config.
    """
    return checkpoints.rename_keys(
        {k: v for k, v in original.items() if k not in ("shift", "scale")}, AUTOENCODER_KEYS
    )


def load_transformer(folder: str | Path) -> OpenSoraTransformer3DModel:
    """Load the transformer from a folder like hpcai-tech/OpenSora-STDiT-v3, in its weights' dtype.

    Without a `config.json` it is built with that checkpoint's sizes.

    Raises:
        FileNotFoundError: If there are no weights.
        ValueError: If the config is of a model that upstream could run and this one cannot, or the
            weights do not fit.
    """
    weights = transformer_state_dict(checkpoints.read(Path(folder)))
    return _build_model(OpenSoraTransformer3DModel, _transformer_config(_config(folder)), weights)


def load_autoencoder(folder: str | Path, **config: Any) -> AutoencoderKLOpenSora:
    """Load the VAE from a folder like hpcai-tech/OpenSora-VAE-v1.2, in its weights' dtype.

    Args:
        config: Values of AutoencoderKLOpenSora's config; `config.json` does not hold those of the
            2-D part, which are SDXL's by default.

    Raises:
        FileNotFoundError: If there are no weights.
        ValueError: If the config is of another kind of VAE, or the weights do not fit.
    """
    original = checkpoints.read(Path(folder))
    found = _autoencoder_config(_config(folder)) | _normalization(original) | config
    return _build_model(AutoencoderKLOpenSora, found, autoencoder_state_dict(original))


def _config(path: str | Path) -> dict[str, Any]:
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    file = folder / "config.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def _transformer_config(original: Mapping[str, Any]) -> dict[str, Any]:
    """Convert an STDiT3Config to ours; absent values keep upstream's defaults, which are ours."""
    for (name, value), reason in UNSUPPORTED.items():
        if original.get(name, not value) == value:
            raise ValueError(f"config.json has {name}={value}, which is not supported: {reason}.")
    config = {ours: original[name] for ours, name in TRANSFORMER_CONFIG.items() if name in original}
    config["out_channels"] = 2 * config.get("in_channels", 4)
    if "hidden_size" in original:
        config["attention_head_dim"] = original["hidden_size"] // config.get(
            "num_attention_heads", 16
        )
    return config


def _autoencoder_config(original: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a VideoAutoencoderPipelineConfig; the sizes of VAE_Temporal_SD are our defaults."""
    spatial, temporal = original.get("vae_2d") or {}, original.get("vae_temporal") or {}
    for part, kind in (
        (spatial, ["VideoAutoencoderKL"]),
        (temporal, ["VAE_Temporal_SD", "VAE_Temporal"]),
    ):
        if part.get("type", kind[0]) not in kind:
            raise ValueError(
                f"config.json must be of a VAE with a {' or '.join(kind)}, but has a"
                f" {part['type']}."
            )
    config = {ours: temporal[name] for ours, name in TEMPORAL_CONFIG.items() if name in temporal}
    if "filters" in temporal:
        widths = temporal.get("channel_multipliers", (1, 2, 2, 4))
        config["temporal_block_out_channels"] = tuple(
            temporal["filters"] * width for width in widths
        )
    sizes = {
        "micro_frame_size": original.get("micro_frame_size"),
        "micro_batch_size": spatial.get("micro_batch_size"),
    }
    return config | {name: value for name, value in sizes.items() if value is not None}


def _normalization(original: Mapping[str, Tensor]) -> dict[str, tuple[float, ...]]:
    """Return the config values that upstream keeps among the weights, to 6 digits as in float32."""
    names = {"latents_mean": "shift", "latents_std": "scale"}
    missing = [name for name in names.values() if name not in original]
    if missing:
        raise ValueError(
            "the weights of a VAE must hold shift and scale, but lack"
            f" {checkpoints.list_keys(missing)}. Use the original checkpoint."
        )
    return {
        ours: tuple(float(f"{x:.6g}") for x in original[name].flatten())
        for ours, name in names.items()
    }


def _check_rotation(freqs: Tensor) -> None:
    expected = 10000.0 ** -(torch.arange(len(freqs)) / len(freqs))
    if not torch.allclose(freqs.float(), expected, rtol=2**-8):  # as far as bfloat16 tells
        raise ValueError(
            "rope.freqs must be 10000 ** -(i / n), as this model computes them, but they are"
            f" {[round(x, 6) for x in freqs.tolist()]}. Use a checkpoint of Open-Sora 1.2."
        )


def _build_model(
    kind: Callable[..., Network], config: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> Network:
    """Build a model of a class with weights that must match it exactly."""
    with torch.device("meta"):
        model = kind(**config)
    wrong = checkpoints.describe_mismatch(model.state_dict(), weights)
    if wrong:
        raise ValueError(
            f"the weights must fit {type(model).__name__}, but do not: {wrong} (known keys under"
            " our names). Check that this is the right checkpoint, with its config.json beside it."
        )
    model.load_state_dict(weights, assign=True)
    return model.eval()
