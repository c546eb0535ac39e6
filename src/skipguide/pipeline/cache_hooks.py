"""The hooks of diffusers' caches across steps: what is known of each, and proxies within them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import nn

from skipguide.families.schema import Family
from skipguide.weak import patching

StateTest = Callable[[Any], bool]


@dataclasses.dataclass(frozen=True)
class CacheKind:
    """One of diffusers' caches.

    Args:
        title: its name, for errors.
        block_hooks: the classes of the hooks on blocks of which the first one decides whether the
            others run; () where each module decides for itself.
        was_hit: whether the blocks were left out in the pass that ended, by the state after it.
        was_predicted: the same for one module that decides for itself.
        runs_first_block: whether the first block runs where the others are left out.
        counter: the attribute of a state that counts the calls of a run.
        lossless: no pass differs from one without the cache.
        one_state: its hooks have one state each, and know of no contexts.
        refusal: why it does not go together with guidance.
    """

    title: str
    block_hooks: tuple[str, ...] = ()
    was_hit: StateTest | None = None
    was_predicted: StateTest | None = None
    runs_first_block: bool = False
    counter: str = ""
    lossless: bool = False
    one_state: bool = False
    refusal: str = ""

    @property
    def leader(self) -> bool:
        """True where the first block decides for all."""
        return bool(self.block_hooks)


FIRST_BLOCK = CacheKind(
    "FirstBlockCache", ("FBCHeadBlockHook", "FBCBlockHook"),
    was_hit=lambda state: not state.should_compute, runs_first_block=True,
)  # fmt: skip
MAG = CacheKind(
    "MagCache", ("MagCacheHeadHook", "MagCacheBlockHook"),
    was_hit=lambda state: not state.should_compute, counter="step_index",
)  # fmt: skip
SEA = CacheKind(
    "SeaCache", ("SeaCacheLeaderBlockHook", "SeaCacheBlockHook"),
    was_hit=lambda state: state.consecutive_cached > 0,
)  # fmt: skip
TAYLOR_SEER = CacheKind(
    "TaylorSeer", was_predicted=lambda state: state.last_update_step != state.current_step
)
TEXT_KV = CacheKind("TextKVCache", lossless=True)
FASTER = CacheKind(
    "FasterCache",
    refusal="it keeps one state per module whatever pass it is called for, and computes u of a"
    " batch from c by itself, where guidance runs the halves of the batch apart",
)
PYRAMID = CacheKind(
    "Pyramid Attention Broadcast", was_predicted=lambda state: state.was_reused, one_state=True
)
_SWITCH_OFF = ".disable_cache(), or HookRegistry's remove_hook() after apply_*()"
# By the classes of the hooks that say of themselves that they keep a state.
CACHE_HOOKS = {
    "FBCHeadBlockHook": FIRST_BLOCK,
    "MagCacheHeadHook": MAG,
    "SeaCacheRootHook": SEA,
    "TaylorSeerCacheHook": TAYLOR_SEER,
    "TextKVCacheTransformerHook": TEXT_KV,
    "TextKVCacheBlockHook": TEXT_KV,
    "FasterCacheDenoiserHook": FASTER,
    "FasterCacheBlockHook": FASTER,
    "PyramidAttentionBroadcastHook": PYRAMID,
}


def stateful_hooks(module: nn.Module) -> list[tuple[str, Any]]:
    """Return diffusers' hooks on a module that say of themselves that they keep a state."""
    hooks = getattr(vars(module).get("_diffusers_hook"), "hooks", {})
    return [(name, hook) for name, hook in hooks.items() if getattr(hook, "_is_stateful", False)]


def state_managers(hook: Any) -> list[Any]:
    """Return diffusers' StateManagers of a hook, which keep states by the name of a context."""
    return [value for value in vars(hook).values() if hasattr(value, "set_context")]


def cache_kind(name: str, hook: Any, family: Family) -> CacheKind:
    """Return the row of the cache that a stateful hook belongs to.

    Args:
        name: of the hook, for errors.
        hook: one of `stateful_hooks`.
        family: the row of the model.

    Raises:
        ValueError: for a cache that does not go together with guidance.
    """
    kind = CACHE_HOOKS.get(type(hook).__name__)
    if kind is not None and not kind.refusal:
        return kind
    if kind is not None:
        raise ValueError(
            f"{kind.title} does not go together with guidance: {kind.refusal}. Switch it off"
            f" ({_SWITCH_OFF}), or take FirstBlockCache, MagCache, SeaCache, TaylorSeer or Pyramid"
            " Attention Broadcast."
        )
    raise ValueError(
        f"guide() needs a {family.model} whose caches it knows, but there is {name}, a hook that"
        " keeps a state across calls. A weak pass would read and overwrite what it keeps for the"
        f" conditional one. Switch it off: {_SWITCH_OFF}."
    )


class ForwardInsideHook(patching.ModuleProxy):
    """The forward of a block that the hook of a cache calls where it computes.

    Args:
        real: the block.
        forward_function: what the hook calls.
    """

    def __init__(self, real: nn.Module, forward_function: Callable[..., Any]):
        super().__init__(real, forward_function=forward_function)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward_function(*args, **kwargs)


class InsideHook(patching.ModuleProxy):
    """A block with its hook of a cache, inside of which a proxy takes the place of the block.

    So the hook decides whether the proxy is called, and keeps what comes out of it.

    Args:
        proxy: one for the block.
        hook: that of the cache on the block.
    """

    def __init__(self, proxy: patching.ModuleProxy, hook: Any):
        super().__init__(proxy.real, proxy=proxy, hook=hook)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        reference, original = self.hook.fn_ref, self.hook.fn_ref.original_forward
        reference.original_forward = self.proxy
        self.proxy.__dict__["real"] = ForwardInsideHook(self.real, original)
        try:
            return self.real(*args, **kwargs)
        finally:
            reference.original_forward = original
            self.proxy.__dict__["real"] = self.real
