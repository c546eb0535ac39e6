"""Caches across steps of diffusers under guidance: a context for each pass, and what passes share.

A cache of diffusers keeps its states by the name of a context, which pipelines set around the calls
of their denoiser. Under guidance each pass has a context of its own: c, u, each weak pass, and u
weakened by SLG. So the states in a context are those of one model on its own way through the run,
as if a copy of the denoiser with a cache of its own computed that pass.

- The halves of a batch have a context each, and are apart at every step of a run that is guided.
- States of a context that was not used in the step before are dropped: they are those of an older
  step. So are all of them where a run begins, or goes back to more noise.
- Where the first block decides for all (`CacheKind.leader`), its hook decides in a weak pass too.
  If it computes, and the cond pass did, the blocks up to the first skipped one are shared as
  without a cache. If the cond pass was a hit, no block of it ran, and the weak pass is on its own.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from torch import nn

from skipguide.families.blocks import LayerSite
from skipguide.families.schema import Entry, Family
from skipguide.weak import patching

COND, UNCOND = "cond", "uncond"
UNREAD = "unread"  # the context of a call whose result nobody reads
REPEAT = "repeat"  # that of a cond pass that is run once more to be looked at
StateTest = Callable[[Any], bool]
_NO_STATE = object()


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
        refusal: why it does not go together with guidance.
    """

    title: str
    block_hooks: tuple[str, ...] = ()
    was_hit: StateTest | None = None
    was_predicted: StateTest | None = None
    runs_first_block: bool = False
    counter: str = ""
    lossless: bool = False
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
    refusal="It keeps one state per module whatever pass it is called for, and computes u of a"
    " batch from c by itself, where guidance runs the halves of the batch apart",
)
PYRAMID = CacheKind(
    "Pyramid Attention Broadcast",
    refusal="It keeps one state per attention whatever pass it is called for, so that a weak pass"
    " would get attention of the conditional one, and leave its own behind",
)
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
    reason = (
        f"{kind.refusal}. Switch it off, or use FirstBlockCache, MagCache, SeaCache or TaylorSeer:"
        if kind is not None
        else "A weak pass would read and overwrite what it kept for the conditional one, and start"
        " from a state that is not that of its layer. Switch it off:"
    )
    raise ValueError(
        f"guide() needs a {family.model} without a cache across steps that it does not know, but"
        f" {name} is on. {reason} .disable_cache(), or HookRegistry's remove_hook() after"
        " apply_*()."
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


class StepCaches:
    """The cache on one denoiser, if there is one: its contexts in a run, and what it left out.

    Args:
        family: the row of the model.
        denoiser: the model, without proxies.
        sites: its chain.
    """

    def __init__(self, family: Family, denoiser: nn.Module, sites: Sequence[LayerSite]):
        self.family, self.denoiser, self.sites = family, denoiser, sites
        self.kind: CacheKind | None = None
        self._managers: list[Any] = []  # diffusers' StateManagers, which hold the states
        self._module_shares: list[tuple[Any, float]] = []  # (manager, share of the parameters)
        self._block_hooks: dict[nn.Module, Any] = {}  # of a leader and those that follow it
        self._inside: dict[patching.ModuleProxy, InsideHook] = {}
        self._first_block: patching.CacheOutput | None = None
        self._step = -1
        self._first_position: int | None = None  # of the run at which the states count from 0
        self._count = 0  # calls in a context before this step, were it used from the beginning
        self._used: dict[str, int] = {}  # the last step in which a context was used
        self._begun: dict[str, int] = {}  # the step in which its states began

    @property
    def is_on(self) -> bool:
        """True where the denoiser has a cache."""
        return self.kind is not None

    @property
    def has_leader(self) -> bool:
        """True where the first block decides for all."""
        return self.kind is not None and self.kind.leader

    def find(self) -> None:
        """Look for the cache: it may have been switched on or off.

        Raises:
            ValueError: for one that does not go together with guidance, or for several.
        """
        known, managers, kinds = self._managers, dict[int, Any](), list[CacheKind]()
        self._module_shares = []
        total = 0
        for module in self.denoiser.modules():
            for name, hook in stateful_hooks(module):
                kinds.append(cache_kind(name, hook, self.family))
                own = [value for value in vars(hook).values() if hasattr(value, "set_context")]
                managers.update((id(manager), manager) for manager in own)
                if kinds[-1].was_predicted is not None:
                    total = total or _count_parameters(self.denoiser)
                    self._module_shares += [(m, _count_parameters(module) / total) for m in own]
        if len({kind.title for kind in kinds}) > 1:
            raise ValueError(
                f"guide() needs a {self.family.model} with one cache across steps, but"
                f" {' and '.join(sorted({kind.title for kind in kinds}))} are on. Switch one off."
            )
        self.kind = kinds[0] if kinds else None
        self._managers = list(managers.values())
        if [id(manager) for manager in known] != list(managers):
            self._find_block_hooks()
            self._used, self._begun = {}, {}

    def _find_block_hooks(self) -> None:
        self._inside, self._block_hooks, self._first_block = {}, {}, None
        if self.kind is None or not self.kind.leader:
            return
        for site in self.sites:
            hooks = getattr(vars(site.block).get("_diffusers_hook"), "hooks", {}).values()
            found = [hook for hook in hooks if type(hook).__name__ in self.kind.block_hooks]
            self._block_hooks.update((site.block, hook) for hook in found)
        first, last = (self._block_hooks.get(self.sites[k].block) for k in (0, -1))
        if type(first).__name__ != self.kind.block_hooks[0] or not getattr(last, "is_tail", False):
            raise ValueError(
                f"{self.kind.title} on a {self.family.model} must decide at the first block of all"
                f' and end at the last one, "{self.sites[0].address}" and'
                f' "{self.sites[-1].address}", but its hooks are elsewhere. Use another cache.'
            )
        self._first_block = patching.CacheOutput(self.sites[0].block)

    def require_off(self, what: str) -> None:
        """Reject a cache where passes are no steps of a run.

        Raises:
            ValueError: if one is on.
        """
        self.find()
        if self.kind is not None:
            raise ValueError(
                f"{what} needs a {self.family.model} without a cache across steps, but"
                f" {self.kind.title} is on. Switch it off: .disable_cache()."
            )

    # --- a run and its steps ----------------------------------------------------------------------

    def forget(self, keep: Sequence[str] = ()) -> None:
        """Drop the states of all contexts but these: they belong to another run or noise level."""
        for name in self._names() - set(keep):
            self._drop(name)

    def begin_run(self, joins: bool = False) -> None:
        """Begin a run.

        Args:
            joins: the run was under way without guidance, and the states are of its last step.
        """
        self._first_position, self._step = None, -1
        if not joins:
            self.forget()
        self._used = dict.fromkeys(self._names(), -1)  # begin_step() tells of what step
        self._begun = dict.fromkeys(self._names(), -1)

    def begin_step(self, step: int, position: int) -> None:
        """Begin a step: states that are older than the step before are dropped.

        Args:
            step: its index in the run, restarts included.
            position: its index in the run without restarts.
        """
        if self.kind is None or step == self._step:
            return
        if self._first_position is None:
            self._used = dict.fromkeys(self._used, step - 1)
            self._first_position = position - self._calls_counted()
        self._step, self._count = step, position - self._first_position
        for name in self._names():
            if self._used.get(name, -2) < step - 1:
                self._drop(name)

    def _names(self) -> set[str]:
        return {name for manager in self._managers for name in manager._state_cache}

    def _drop(self, name: str) -> None:
        for manager in self._managers:
            manager._state_cache.pop(name, None)
        self._used.pop(name, None)
        self._begun.pop(name, None)

    def _calls_counted(self) -> int:
        """Return how many calls the states of a run that was joined have counted."""
        if self.kind is None or not self.kind.counter:
            return 0
        states = self._managers[0]._state_cache.values()
        return max((getattr(state, self.kind.counter) for state in states), default=0)

    def _state(self, name: str) -> Any:
        """Return the state that all blocks share in a context, if there is one."""
        return self._managers[0]._state_cache.get(name, _NO_STATE)

    # --- contexts ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def context(self, name: str, like: Any = None) -> Iterator[None]:
        """Run a pass in a context; what the pipeline says of the step is kept.

        Args:
            name: of the context; "" keeps the pipeline's.
            like: a context that says it, where the pipeline sets none on this denoiser.
        """
        before = [(manager, manager._context) for manager in self._managers]
        ours = [(manager, self._make_context(name, known or like)) for manager, known in before]
        for manager, context in ours:
            manager.set_context(context)
        for entered in {context.name for _, context in ours}:
            self._begin_context(entered)
        try:
            yield
        finally:
            for (manager, known), (_, context) in zip(before, ours, strict=True):
                if manager._context is context:  # after a Ctrl-C the pipeline has cleared it
                    manager.set_context(known)

    def _make_context(self, name: str, known: Any) -> Any:
        if known is not None:
            return dataclasses.replace(known, name=name or known.name)
        module = importlib.import_module(type(self._managers[0]).__module__)
        return module.CacheContext(name=name or "inference")

    @property
    def pipeline_context(self) -> Any:
        """The context that is set now; None without one."""
        return next((manager._context for manager in self._managers), None)

    def _begin_context(self, name: str) -> None:
        self._used[name] = self._step
        self._begun.setdefault(name, self._step)
        if self.kind is not None and self.kind.counter and self._state(name) is _NO_STATE:
            setattr(self._managers[0].get_state(), self.kind.counter, self._count)

    def copy_states(self, source: str, target: str) -> None:
        """Let a context have the states that another one has now."""
        for manager in self._managers:
            manager._state_cache.pop(target, None)
            if source in manager._state_cache:
                manager._state_cache[target] = _copy_state(manager._state_cache[source])

    # --- passes -----------------------------------------------------------------------------------

    def was_hit(self, name: str) -> bool:
        """Return whether the blocks were left out in the last pass in a context."""
        if self.kind is None or self.kind.was_hit is None:
            return False
        state = self._state(name)
        return state is not _NO_STATE and self.kind.was_hit(state)

    def may_share(self, name: str, first_skipped: int) -> bool:
        """Return whether a weak pass may start from the state that enters its first skipped block.

        Where modules decide for themselves, they did the same in both passes if both contexts
        began in the same step, and were used since. Where the first block decides, the state is
        there if the cond pass computed.

        Args:
            name: the context of the weak pass, which is yet to begin.
            first_skipped: the position of the block.
        """
        if self.kind is None or self.kind.lossless:
            return True
        if not self.kind.leader:
            return 0 <= self._begun.get(COND, -1) == self._begun.get(name, self._step)
        # what is injected between blocks is added to the result of a hit too
        return first_skipped > 0 and not self.family.injected_modules and not self.was_hit(COND)

    def recording_patches(self) -> list[patching.Patch]:
        """Return the patch that keeps what the first block returns in the conditional pass."""
        if self._first_block is None:
            return []
        return [(*self.sites[0].entry, self._put_inside(self._first_block))]

    def weak_patches(
        self, patches: Sequence[patching.Patch], skipped: Sequence[int], shared: bool
    ) -> list[patching.Patch]:
        """Return the patches of a weak pass such that the hooks of the cache keep deciding.

        Args:
            patches: those of the pass without a cache.
            skipped: the positions that it skips.
            shared: whether it starts from a recorded state.
        """
        if not self.has_leader:
            return list(patches)
        first = self.sites[0].entry
        resumed = self.sites[skipped[0]].entry if shared else None
        found = [patch for patch in patches if patch[:2] != first]
        found = self._inside_hooks(found, {self.sites[-1].entry, resumed})
        kept = self._first_block
        if kept is not None and self._keeps_first_block(skipped):
            found.append((*first, self._put_inside(patching.ReplayOutput(kept.real, kept))))
        return found

    def uncond_patches(self, patches: Sequence[patching.Patch]) -> list[patching.Patch]:
        """Return the patches of a weakened pass of u such that the hooks keep what comes out."""
        return self._inside_hooks(patches, {self.sites[-1].entry} if self.has_leader else ())

    def _inside_hooks(
        self, patches: Sequence[patching.Patch], entries: Collection[Entry | None]
    ) -> list[patching.Patch]:
        return [
            (parent, name, self._put_inside(proxy) if (parent, name) in entries else proxy)
            for parent, name, proxy in patches
        ]

    def _put_inside(self, proxy: nn.Module) -> InsideHook:
        assert isinstance(proxy, patching.ModuleProxy)
        if isinstance(proxy, patching.ReplayOutput):  # made for each pass
            return InsideHook(proxy, self._block_hooks[proxy.real])
        if proxy not in self._inside:
            self._inside[proxy] = InsideHook(proxy, self._block_hooks[proxy.real])
        return self._inside[proxy]

    def check_skipped(self, skipped: Sequence[int], skip: str) -> None:
        """Check that a weak pass leaves the first block to the cache where that one decides.

        Raises:
            ValueError: for one that skips it, or shuffles what enters it.
        """
        if self.kind is not None and self.has_leader and 0 in skipped and skip in _WHOLE_BLOCK:
            raise ValueError(
                f"{self.kind.title} decides at the first block whether the others run, but"
                f' skip="{skip}" of layers={[self.sites[0].index]} takes it out. Skip another'
                ' layer, write skip="attention", or switch the cache off: .disable_cache().'
            )

    def clear(self) -> None:
        """Free what was kept of the conditional pass."""
        if self._first_block is not None:
            self._first_block.outputs.clear()

    # --- what it cost -----------------------------------------------------------------------------

    def cost(self, name: str, computed: float) -> float:
        """Return what the last pass in a context computed, as a fraction of a forward pass.

        Blocks are counted. Where modules decide for themselves, they count by their parameters.

        Args:
            name: of the context.
            computed: the fraction if nothing was left out.
        """
        if self.kind is None:
            return computed
        if self.was_hit(name):
            return self._block if self.kind.runs_first_block else 0.0
        if self.kind.was_predicted is None:
            return computed
        states = [(m._state_cache.get(name), share) for m, share in self._module_shares]
        left_out = sum(share for state, share in states if state and self.kind.was_predicted(state))
        return max(0.0, computed - left_out)

    def weak_cost(self, name: str, computed: float, skipped: Sequence[int], shared: bool) -> float:
        """Return the same for a weak pass, in which the first block may not have to run.

        Args:
            name: of the context.
            computed: the fraction if nothing was left out.
            skipped, shared: as for `weak_patches`.
        """
        if not self._keeps_first_block(skipped):
            return self.cost(name, computed)
        if self.was_hit(name):
            return 0.0
        return computed if shared else computed - self._block

    def _keeps_first_block(self, skipped: Sequence[int]) -> bool:
        """Return whether a weak pass gets what the first block returned in the cond pass."""
        return (
            self._first_block is not None and bool(self._first_block.outputs) and 0 not in skipped
        )

    @property
    def _block(self) -> float:
        return 1 / len(self.sites)


_WHOLE_BLOCK = ("residual", "shuffle")


def _copy_state(state: Any) -> Any:
    """Copy a state; its tensors are replaced and never changed, but lists and dictionaries are."""
    made = copy.copy(state)
    for name, value in vars(state).items():
        if isinstance(value, (list, dict)):
            setattr(made, name, copy.copy(value))
    return made


def _count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
