"""What Open-Sora v1.2.0 imports and small models on the CPU do not need, in a few lines each."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

Tensor = torch.Tensor


class _Registry:
    """In place of mmengine's: a class or a function by its name."""

    def __init__(self, *_: Any, **__: Any):
        self.entries: dict[str, Any] = {}

    def register_module(self, name: str | None = None) -> Any:
        return lambda entry: self.entries.setdefault(name or entry.__name__, entry)

    def build(self, settings: dict[str, Any]) -> Any:
        return self.entries[settings.pop("type")](**settings)


class _BlockDiagonalMask:
    """In place of xformers': how many queries and keys belong together."""

    def __init__(self, queries: list[int], keys: list[int]):
        self.queries, self.keys = queries, keys

    @classmethod
    def from_seqlens(cls, queries: list[int], keys: list[int]) -> _BlockDiagonalMask:
        return cls(queries, keys)


def _packed_attention(
    q: Tensor, k: Tensor, v: Tensor, p: float, attn_bias: _BlockDiagonalMask
) -> Tensor:
    """(1, N, heads, channels), one text after the other along N."""
    parts = zip(
        q.split(attn_bias.queries, 1),
        k.split(attn_bias.keys, 1),
        v.split(attn_bias.keys, 1),
        strict=True,
    )
    mixed = [
        F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in part), dropout_p=p)
        for part in parts
    ]
    return torch.cat([x.transpose(1, 2) for x in mixed], dim=1)


class _Mlp(torch.nn.Module):
    """In place of timm's, with the same keys."""

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        act_layer: Any,
        out_features: Any = None,
        drop: Any = 0,
    ):
        super().__init__()
        self.fc1 = torch.nn.Linear(in_features, hidden_features)
        self.act = act_layer if isinstance(act_layer, torch.nn.Module) else act_layer()
        self.fc2 = torch.nn.Linear(hidden_features, out_features or in_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


def _module(name: str, **contents: Any) -> None:
    """A module of that name for the import statement to find."""
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__dict__.update(contents)
    parent, _, last = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], last, sys.modules[name])


def open_upstream(folder: Path) -> None:
    """Make `import opensora...` find upstream's files, without the imports in its `__init__.py`
    files."""
    for name in (
        "diffusers.models.autoencoders",
        "diffusers.models.attention",
        "transformers.modeling_utils",
    ):
        importlib.import_module(name)  # they look for timm and xformers: before those are replaced
    for package in (
        "",
        ".acceleration",
        ".models",
        ".models.layers",
        ".models.stdit",
        ".models.vae",
        ".utils",
    ):
        _module(
            f"opensora{package}",
            __path__=[str(folder / "opensora" / package[1:].replace(".", "/"))],
        )
    for package in (".schedulers", ".schedulers.iddpm"):
        _module(
            f"opensora{package}",
            __path__=[str(folder / "opensora" / package[1:].replace(".", "/"))],
        )
    _module("opensora.utils.ckpt_utils", load_checkpoint=None)
    _module("mmengine", __path__=[])
    _module("mmengine.registry", Registry=_Registry)
    _module("timm", __path__=[])
    _module("timm.models", __path__=[])
    _module("timm.models.layers", DropPath=None)
    _module("timm.models.vision_transformer", Mlp=_Mlp)
    fmha = types.SimpleNamespace(BlockDiagonalMask=_BlockDiagonalMask)
    _module("xformers", __path__=[])
    _module("xformers.ops", fmha=fmha, memory_efficient_attention=_packed_attention)
