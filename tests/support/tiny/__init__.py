"""Tiny pipelines of every family, by the name of their class (a second word tells variants of one
class apart)."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import Any

import torch

from support.tiny.base import Builder, Tiny


def builders() -> dict[str, Builder]:
    """All of them; the order is that of the modules' names."""
    return _collect("PIPELINES")


def without_cfg() -> dict[str, Builder]:
    """Those that never have CFG, which most tests need."""
    return _collect("WITHOUT_CFG")


def _collect(name: str) -> dict[str, Builder]:
    found: dict[str, Builder] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        found |= getattr(importlib.import_module(f"support.tiny.{module}"), name, {})
    return found


@functools.cache
def tiny(name: str, dtype: torch.dtype = torch.float32) -> Tiny:
    """One pipeline, built once per process; a test that leaves something on it fails the tests
    after it."""
    built = builders()[name](dtype)
    if dtype != torch.float32:
        built.call.update({key: in_dtype(value, dtype) for key, value in built.call.items()})
    return built


def in_dtype(value: Any, dtype: torch.dtype) -> Any:
    """Floating tensors in another precision, lists of them too."""
    if isinstance(value, list):
        return [in_dtype(item, dtype) for item in value]
    return value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value
