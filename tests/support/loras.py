"""LoRAs made with peft, as diffusers saves them and under the names that other trainers give."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import load_file, save_file

LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]
# Of Wan's layers: diffusers' names -> those of its authors.
_WAN = [
    ("attn1", "self_attn"), ("attn2", "cross_attn"), ("to_out.0", "o"),
    ("to_q", "q"), ("to_k", "k"), ("to_v", "v"),
    ("ffn.net.0.proj", "ffn.0"), ("ffn.net.2", "ffn.2"),
]  # fmt: skip
KOHYA_TAGS = {"ss_tag_frequency": json.dumps({"10_cat": {"ohwx": 20, "a cat": 19, "sky": 3}})}


def make_lora(
    pipe: Any, file: Path, seed: int = 0, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write a LoRA of rank 4 for the transformer of a pipeline, which is left with it."""
    torch.manual_seed(seed)
    config = LoraConfig(r=4, lora_alpha=4, target_modules=LAYERS, init_lora_weights=False)
    inject_adapter_in_model(config, pipe.transformer)
    layers = get_peft_model_state_dict(pipe.transformer)
    type(pipe).save_lora_weights(file.parent, transformer_lora_layers=layers, weight_name=file.name)
    if metadata:
        save_file(load_file(file), file, dict(metadata))
    return file


def comfy_names(lora: Path) -> dict[str, torch.Tensor]:
    """The weights of a LoRA for Wan under the names of ComfyUI."""
    found = {}
    for name, weight in load_file(lora).items():
        name = name.replace("transformer.", "diffusion_model.")  # noqa: PLW2901
        for theirs, own in _WAN:
            name = name.replace(theirs, own)  # noqa: PLW2901
        found[name] = weight
    return found


def kohya_names(lora: Path) -> dict[str, torch.Tensor]:
    """The same under the names of kohya's scripts, with the alpha of each layer."""
    found = {}
    for name, weight in comfy_names(lora).items():
        layer, _, side = name.removeprefix("diffusion_model.").partition(".lora_")
        start = "lora_unet_" + layer.replace(".", "_")
        found[f"{start}.lora_{'down' if side[0] == 'A' else 'up'}.weight"] = weight
        found[f"{start}.alpha"] = torch.tensor(4.0)
    return found
