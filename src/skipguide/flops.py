"""How many floating point operations a model takes: counted in a pass without numbers, on torch's meta device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def without_weights(model: Any) -> nn.Module:
    """The same architecture on the meta device, from the config of a diffusers model."""
    with torch.device("meta"):
        return type(model).from_config(model.config).to("meta")  # not every parameter minds the context


def without_numbers(value: Any) -> Any:
    """Tensors in nested dictionaries, lists and tuples as their shape and dtype alone."""
    if torch.is_tensor(value):
        return torch.empty_like(value, device="meta")
    if isinstance(value, Mapping):
        return {name: without_numbers(item) for name, item in value.items()}
    return type(value)(map(without_numbers, value)) if isinstance(value, (list, tuple)) else value


def count(model: nn.Module, inputs: Mapping[str, Any]) -> int:
    """Floating point operations of a forward pass: products and convolutions, attention included."""
    return sum(sum(ops.values()) for name, ops in by_module(model, inputs).items() if name == "Global")


def by_module(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, dict[Any, int]]:
    """The same per module, by the name of the model's class and the path in it, and "Global" for all of it."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**inputs)
    return counter.get_flop_counts()
