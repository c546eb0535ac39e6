"""Files of weights as their authors publish them: other names than diffusers', one file, GGUF."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

WEIGHTS = "diffusion_pytorch_model.safetensors"

# Of Wan's transformer: diffusers' names -> those of its authors.
_WAN = [
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    (".attn1.", ".self_attn."), (".attn2.", ".cross_attn."),
    (".to_out.0.", ".o."), (".to_q.", ".q."), (".to_k.", ".k."), (".to_v.", ".v."),
    (".ffn.net.0.proj.", ".ffn.0."), (".ffn.net.2.", ".ffn.2."),
    (".norm2.", ".norm_other."), (".norm3.", ".norm2."), (".norm_other.", ".norm3."),
    (".scale_shift_table", ".modulation"), ("proj_out.", "head.head."),
]  # fmt: skip

_LTX = [
    ("proj_in.", "patchify_proj."), ("time_embed.", "adaln_single."),
    ("norm_q", "q_norm"), ("norm_k", "k_norm"),
]  # fmt: skip
# The blocks of a VAE of two levels, counted as in one of four.
_LTX_VAE = [
    ("decoder.up_blocks.1.", "decoder.up_blocks.3."),
    ("decoder.up_blocks.0.", "decoder.up_blocks.1."),
    ("decoder.mid_block.", "decoder.up_blocks.0."),
    ("encoder.down_blocks.1.", "encoder.down_blocks.3."),
    ("encoder.mid_block.", "encoder.down_blocks.9."),
    ("resnets", "res_blocks"),
    ("latents_mean", "per_channel_statistics.mean-of-means"),
    ("latents_std", "per_channel_statistics.std-of-means"),
]


def wan_names(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of Wan's transformer under the names of its authors."""
    found = {}
    for name, weight in weights.items():
        for theirs, own in _WAN:
            name = name.replace(theirs, own)  # noqa: PLW2901
        found["head.modulation" if name == "scale_shift_table" else name] = weight
    return found


def ltx_names(
    transformer: Mapping[str, torch.Tensor], vae: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The weights of a small LTX in one file, under the names of its authors."""
    found = {}
    for name, weight in transformer.items():
        for theirs, own in _LTX:
            name = name.replace(theirs, own)  # noqa: PLW2901
        found["model.diffusion_model." + name] = weight
    for name, weight in vae.items():
        for theirs, own in _LTX_VAE:
            name = name.replace(theirs, own)  # noqa: PLW2901
        found["vae." + name] = weight
    return found


def component_weights(folder: Path, component: str) -> dict[str, torch.Tensor]:
    """The weights of a component of a saved pipeline."""
    return load_file(folder / component / WEIGHTS)


def write_wan_file(
    folder: Path, file: Path, prefix: str = "", component: str = "transformer"
) -> Path:
    """Write the transformer of a saved Wan as its authors do; ComfyUI has a prefix before names."""
    weights = wan_names(component_weights(folder, component))
    save_file({prefix + name: weight for name, weight in weights.items()}, file)
    return file


def write_gguf(weights: Mapping[str, torch.Tensor], file: Path) -> Path:
    """Write weights as city96's tool does: matrices in Q8_0, all else in float32."""
    import gguf

    writer = gguf.GGUFWriter(file, "wan")
    for name, weight in weights.items():
        data = weight.float().numpy()
        kind = gguf.GGMLQuantizationType.F32
        if data.ndim == 2 and data.shape[1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            data = gguf.quants.quantize(data, kind)
        writer.add_tensor(name, np.ascontiguousarray(data), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
