"""LoRAs made with peft, saved by diffusers or under the names that other trainers give."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import load_file, save_file

LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]


def make_lora(
    pipe: Any,
    folder: Path,
    seed: int = 0,
    metadata: Mapping[str, str] | None = None,
    name: str = "style.safetensors",
) -> Path:
    """Write a LoRA of rank 4 for the attention of the transformer of a pipeline.

    The pipeline is left with it, and should not be used again.
    """
    torch.manual_seed(seed)
    config = LoraConfig(r=4, lora_alpha=4, target_modules=LAYERS, init_lora_weights=False)
    inject_adapter_in_model(config, pipe.transformer)
    layers = get_peft_model_state_dict(pipe.transformer)
    type(pipe).save_lora_weights(folder, transformer_lora_layers=layers, weight_name=name)
    if metadata:
        save_file(load_file(folder / name), folder / name, dict(metadata))
    return folder / name
