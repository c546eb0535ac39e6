"""What other nodes put on a model, as far as a guided step must know of it.

Nodes are known by what they do to a model, and not by their names: the next one has another.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from ._skipguide.weak.patching import get_child, patched
from .models import BlockChain

Options = Mapping[str, Any]
_OURS = ("skipguide", "torch.compile", "torch_compile")  # keys of wrappers that are no culprits


def sees_the_batch(model_options: Options, object_patches: Iterable[str]) -> bool:
    """Return whether code of other nodes is in the attention of the blocks.

    Such code may look at all rows of a batch: NAG takes those of the negative prompt to shape those
    of the positive one, Enhance-A-Video a mean over all. Then each pass must have the batch that it
    has without guidance.

    Args:
        object_patches: names of what nodes put in the place of parts of the model.
    """
    options = model_options.get("transformer_options", {})
    lists = options.get("patches", {})
    replaced = options.get("patches_replace", {})
    return (
        any(name.startswith("attn") and lists[name] for name in lists)
        or any(name.startswith("attn") and replaced[name] for name in replaced)
        or any("attn" in name and name.endswith(".forward") for name in object_patches)
    )


def changes_whole_passes(model_options: Options) -> bool:
    """Return whether code of another node is around the calls of the model, as that of caches."""
    return "model_function_wrapper" in model_options


def suspects(model_options: Options) -> str:
    """Return the names of the nodes' packs whose code is around a call, for an error."""
    found = []
    if "model_function_wrapper" in model_options:
        found.append(_pack_of(model_options["model_function_wrapper"]))
    for kind in model_options.get("transformer_options", {}).get("wrappers", {}).values():
        found += [str(key) for key in kind if key is not None and not str(key).startswith(_OURS)]
    return ", ".join(dict.fromkeys(found))


def _pack_of(function: Any) -> str:
    """Return the folder below custom_nodes that a function comes from, or its module."""
    module = getattr(function, "__module__", type(function).__module__)
    named = re.search(r"custom_nodes[/\\._x]+([^/\\.]+)", module)
    return named[1] if named else module


# --- compiled models ------------------------------------------------------------------------------


def is_compiled(module: nn.Module | None) -> bool:
    """Return whether a module is one that torch.compile has wrapped."""
    return hasattr(module, "_orig_mod")


@contextlib.contextmanager
def uncompiled(model: nn.Module, chain: BlockChain, positions: Iterable[int]) -> Iterator[bool]:
    """Take what torch.compile has wrapped out of a call, where its code could not see the change.

    A model that is compiled as a whole is run as it was written: its code has been made for one
    set of transformer_options, and core's TorchCompileModel does not look whether they change. Of
    blocks that are compiled one by one only those of `positions` are: compiled code does not see
    the hooks on the modules in it.

    Args:
        model: a BaseModel of ComfyUI, whose child diffusion_model is called.
        chain: the blocks of the model.
        positions: of the blocks on whose parts hooks are.

    Yields:
        Whether the model is compiled as a whole.
    """
    entries = [(model, "diffusion_model"), *(chain.sites[position].entry for position in positions)]
    wrapped = [(holder, name, get_child(holder, name)) for holder, name in entries]
    plain = [
        (holder, name, child._modules["_orig_mod"])
        for holder, name, child in wrapped
        if is_compiled(child)
    ]
    with patched(plain):  # pyright: ignore[reportArgumentType]
        yield is_compiled(wrapped[0][2])
