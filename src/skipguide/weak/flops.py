"""Count the floating point operations of a model, in a pass on torch's meta device, which computes
no numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils import flop_counter
from torch.utils.flop_counter import FlopCounterMode

from skipguide.families.protocols import Inputs

# Attention on a CPU and on Apple's GPUs, which the counter of torch 2.13 does not know.
_UNCOUNTED_ATTENTION_OPS = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_attention_math_for_mps",
)


def build_meta_model(model: Any) -> nn.Module:
    """Build the architecture of a diffusers model on the meta device, from its config."""
    with torch.device("meta"):
        empty = type(model).from_config(model.config)
    # Some parameters ignore the context above. nn.Module's own to(): that of diffusers warns of
    # modules meant to stay in float32.
    return nn.Module.to(empty, "meta", model.dtype).eval()


def to_meta_tensors(value: Any) -> Any:
    """Replace tensors in nested dictionaries, lists and tuples by their shapes and dtypes."""
    if torch.is_tensor(value):
        return torch.empty_like(value, device="meta")
    if isinstance(value, Mapping):
        return {name: to_meta_tensors(item) for name, item in value.items()}
    return type(value)(map(to_meta_tensors, value)) if isinstance(value, (list, tuple)) else value


def count_flops(model: nn.Module, inputs: Inputs) -> int:
    """Count the operations of a forward pass: products, convolutions and attention."""
    return count_flops_by_module(model, inputs)[""]


def counting() -> FlopCounterMode:
    """Return torch's counter of the operations in a `with` block, attention on a CPU included."""
    attention = {
        getattr(torch.ops.aten, name): _attention_flops
        for name in _UNCOUNTED_ATTENTION_OPS
        if hasattr(torch.ops.aten, name)
    }
    return FlopCounterMode(display=False, custom_mapping=attention)


def count_flops_by_module(model: nn.Module, inputs: Inputs) -> dict[str, int]:
    """Count the operations of each module in a forward pass, by its path; the model's own is ""."""
    with torch.no_grad(), counting() as counter:
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
    query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object
) -> int:
    """Count the two products of an attention, from the shapes of its inputs."""
    return flop_counter.sdpa_flop_count(query, key, value)
