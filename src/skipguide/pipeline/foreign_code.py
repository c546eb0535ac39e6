"""Recognise code of others on a denoiser: a replaced forward, foreign blocks, hooks, processors.

A cache across steps keeps what a block or a model returned, and returns it again at a later call. A
weak pass in between would get it too, and leave its own behind for the conditional pass. Such
caches are known by what they do and not by their names:

- they put another function in the place of the forward of the model or of its blocks, or other
  modules in the place of the blocks: `check_forwards` refuses that before anything runs;
- code of others that need not be a cache, such as a hook that takes notes, is only found here
  (`find_unverified_code`). state_watch.py then looks at what it does.

What accelerate, diffusers, peft and torch put on a model (offloading, casting, adapters,
compilation, parallelism) runs the forward that the class has, and is none of it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from skipguide.families.blocks import LayerSite
from skipguide.families.schema import Entry, Family
from skipguide.pipeline import compat
from skipguide.weak import patching

# Their hooks, wrappers and modules call what they stand for once, and keep nothing of a pass; those
# that do (diffusers' caches) say so, and compat.check_stateful_hooks() refuses what cache_hooks.py
# does not know.
TRUSTED_PACKAGES = {
    "accelerate", "bitsandbytes", "diffusers", "optimum", "peft", "skipguide", "torch", "torchao",
    "transformers",
}  # fmt: skip


def check_forwards(denoiser: nn.Module, family: Family, sites: Sequence[LayerSite]) -> bool:
    """Reject a cache across steps, and what replaces the forward of a model or of its blocks.

    Args:
        denoiser: the model, without proxies of ours.
        family: its row.
        sites: its chain, from families.blocks.layer_sites().

    Returns:
        Whether there is a cache that is not rejected.

    Raises:
        ValueError: for any of these.
    """
    has_cache = compat.check_stateful_hooks(denoiser, family)
    for module, name in _modules_with_blocks(denoiser, family, sites):
        if (found := _replacement(module)) is not None:
            raise ValueError(
                f"guide() needs a {family.model} that runs its own forward, but that of {name} was"
                f" replaced by {describe(found)}. A cache that keeps results between calls would"
                " mix those of weak passes with the others. Take it off again; a wrapper that calls"
                " the forward it replaced at every call may stay if functools.wraps marks it."
            )
    for site in sites:
        block = _real_module(site.block)
        if not _is_block(block, family):
            raise ValueError(
                f'guide() needs a {family.model} with its own blocks, but "{site.address}" is a'
                f" {type(block).__name__} of {type(block).__module__}, which may keep results"
                " between calls, or run other blocks. Put the model's own blocks back."
            )
    return has_cache


def check_caller(denoiser: nn.Module, held: Sequence[nn.Module], owner: str) -> None:
    """Reject a module of others that a pipeline calls in the place of its denoiser.

    Args:
        denoiser: the guided model, which is called.
        held: the denoisers that the pipeline has now.
        owner: the name of the pipeline's class.

    Raises:
        ValueError: if the pipeline has none but such modules, one of which called the model.
    """
    inner = [getattr(module, "_orig_mod", module) for module in held]
    if not any(module is denoiser or _is_trusted(type(module)) for module in inner):
        raise ValueError(
            f"guide() needs a {owner} that calls its {type(denoiser).__name__} itself, but after"
            f" guide() a {describe(type(inner[0]))} came in its place, which may leave calls out as"
            " a cache does. Put the model back, and call guide() again."
        )


def find_unverified_code(denoiser: nn.Module) -> str:
    """Return in words the first code of others on a model of which only its deeds can tell.

    It is "" where all code is the model's own or that of TRUSTED_PACKAGES.
    """
    for name, module in denoiser.named_modules():
        for found in _foreign_code(module):
            return f"{describe(found)} on {name or type(module).__name__}"
    return ""


def _modules_with_blocks(
    denoiser: nn.Module, family: Family, sites: Sequence[LayerSite]
) -> Iterator[tuple[nn.Module, str]]:
    """Yield the model, its blocks and what is in between in a UNet, each with what to call it."""
    yield denoiser, "the model"
    for stack in family.stacks.values():
        if family.unet is not None:
            part = denoiser.get_submodule(stack.path)
            parts = part if isinstance(part, nn.ModuleList) else [part]
            yield from ((module, f"{stack.path}.{i}") for i, module in enumerate(parts))
    yield from ((_real_module(site.block), f'"{site.address}"') for site in sites)


def _real_module(module: nn.Module) -> nn.Module:
    """Return the block behind a proxy of ours (SkipGuidance's), or behind torch.compile's."""
    while isinstance(module, patching.ModuleProxy):
        module = module.real
    return getattr(module, "_orig_mod", module)


def _replacement(module: nn.Module) -> Any:
    """Return what runs in the place of the forward that the class of a module was written with.

    Wrappers that name what they wrap (`__wrapped__`: hooks of accelerate and diffusers, compiled
    functions, functools.wraps) are looked through. None if it is the class's own.
    """
    if type(module).__call__ is not nn.Module.__call__:
        return type(module).__call__
    own = _unwrap(type(module).forward)
    if (found := vars(module).get("forward")) is not None:
        written = [_unwrap(cls.forward) for cls in type(module).__mro__ if hasattr(cls, "forward")]
        if _unwrap(found) not in written:
            return _unwrap(found)
    owner = next(cls for cls in type(module).__mro__ if "forward" in vars(cls))
    return own if _is_trusted(owner) and not _is_trusted(own) else None


def _unwrap(function: Any) -> Any:
    """Return the innermost function of wrappers, partial functions and bound methods."""
    while True:
        inner = getattr(function, "__wrapped__", None)
        if inner is None and isinstance(function, functools.partial):
            inner = function.func
        if inner is None:
            inner = getattr(function, "__func__", None)
        if inner is None:
            return function
        function = inner


def find_hooks(denoiser: nn.Module) -> list[tuple[dict[int, Any], int]]:
    """Return torch's hooks of others on a model, each as the dictionary that has it and its key."""
    hooks: list[tuple[dict[int, Any], int]] = [
        (held, key)
        for module in denoiser.modules()
        for held in (module._forward_pre_hooks, module._forward_hooks)
        for key in held
    ]
    return [(held, key) for held, key in hooks if not _is_trusted(held[key])]


def find_projections(block: nn.Module) -> list[Entry]:
    """Return what the attentions in a block consist of whose processors are code of others."""
    attentions = [
        module
        for module in block.modules()
        if any(not _is_trusted(code) for code in _processor(module))
    ]
    lists = [
        child
        for module in attentions
        for child in module.children()
        if isinstance(child, (nn.ModuleList, nn.Sequential))
    ]
    return [
        (parent, name)
        for parent in (*attentions, *lists)
        for name, child in parent._modules.items()
        if child is not None and name != "processor" and child not in lists
    ]


def _foreign_code(module: nn.Module) -> Iterator[Any]:
    """Yield what is on a module that TRUSTED_PACKAGES did not put there, but for torch's hooks.

    Of a processor that derives from one of diffusers the projections are watched instead.
    """
    owner = next(cls for cls in type(module).__mro__ if "forward" in vars(cls))
    registry = vars(module).get("_diffusers_hook")
    found = [
        owner,
        _replacement(module),
        *_wrappers(vars(module).get("forward")),
        *_wrappers(type(module).forward),
        *(type(hook) for hook in getattr(registry, "hooks", {}).values()),
    ]
    yield from (code for code in found if code is not None and not _is_trusted(code))
    for code in _processor(module):
        bases = code.__mro__[:-1] if inspect.isclass(code) else [code]
        if not any(_is_trusted(base) and base is not nn.Module for base in bases):
            yield code


def _wrappers(function: Any) -> Iterator[Any]:
    """Yield the functions that stand around the forward of a module, from the outermost one."""
    while function is not None:
        if isinstance(function, functools.partial):
            yield function.func
        elif not inspect.ismethod(function):
            yield function
        function = getattr(function, "__wrapped__", None)


def _processor(module: nn.Module) -> Iterator[Any]:
    """Yield the class of an attention's processor, or its function if that was replaced."""
    processor = vars(module).get("processor") or module._modules.get("processor")
    if processor is not None:
        yield type(processor) if not inspect.isfunction(processor) else processor
        call = _unwrap(type(processor).__call__)
        if inspect.isfunction(call) and _is_trusted(type(processor)):
            yield call


def _is_trusted(code: Any) -> bool:
    return _package(_module_of(code)) in TRUSTED_PACKAGES


def _is_block(block: nn.Module, family: Family) -> bool:
    """Return whether a block is one of the model's package, or wrapped for parallel training."""
    package = _package(family.package)
    names = [cls.__module__ for cls in type(block).__mro__]
    return any(_package(name) == package or name.startswith("torch.distributed.") for name in names)


def _module_of(code: Any) -> str:
    """Return the module in which a function or a class was written, whatever it calls itself."""
    code = code.func if isinstance(code, functools.partial) else code
    code = getattr(code, "__func__", code)
    names = getattr(code, "__globals__", None)
    if names is not None:
        return str(names.get("__name__", ""))
    owner = code if inspect.isclass(code) else type(code)
    return str(getattr(owner, "__module__", ""))


def _package(module: str) -> str:
    return module.partition(".")[0]


def describe(code: Any) -> str:
    """Return the name of a function or a class, and the module in which it was written."""
    name = getattr(code, "__qualname__", None) or type(code).__qualname__
    return f"{name} of {_module_of(code) or 'an unknown module'}"
