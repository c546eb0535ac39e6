"""How many floating point operations a model takes: counted in a pass without numbers, on torch's
meta device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils import flop_counter
from torch.utils.flop_counter import FlopCounterMode

# Attention off the GPU and off the meta device, which torch's counter does not know (2.13).
_UNCOUNTED_ATTENTION_OPS = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_attention_math_for_mps",
)


def build_meta_model(model: Any) -> nn.Module:
    """The same architecture on the meta device, from the config of a diffusers model."""
    with torch.device("meta"):
        empty = type(model).from_config(model.config)
    # Not every parameter minds the context. Past diffusers' own to(), which warns of what is lost
    # in a lower precision.
    return nn.Module.to(empty, "meta", model.dtype).eval()


def to_meta_tensors(value: Any) -> Any:
    """Tensors in nested dictionaries, lists and tuples as their shape and dtype alone."""
    if torch.is_tensor(value):
        return torch.empty_like(value, device="meta")
    if isinstance(value, Mapping):
        return {name: to_meta_tensors(item) for name, item in value.items()}
    return type(value)(map(to_meta_tensors, value)) if isinstance(value, (list, tuple)) else value


def count_flops(model: nn.Module, inputs: Mapping[str, Any]) -> int:
    """Floating point operations of a forward pass: products and convolutions, attention
    included."""
    return count_flops_by_module(model, inputs)[""]


def count_flops_by_module(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, int]:
    """The same per module, by its path in the model; that of the model itself is ""."""
    attention = {
        getattr(torch.ops.aten, name): _attention_flops
        for name in _UNCOUNTED_ATTENTION_OPS
        if hasattr(torch.ops.aten, name)
    }
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=attention) as counter:
        model(**inputs)
    counted = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    root = type(model).__name__
    inside = {
        name.removeprefix(f"{root}."): ops
        for name, ops in counted.items()
        if name.startswith(f"{root}.")
    }
    return {**inside, "": counted.get("Global", 0)}


def _attention_flops(
    query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any
) -> int:
    """The two products of an attention, on shapes."""
    return flop_counter.sdpa_flop_count(query, key, value)
