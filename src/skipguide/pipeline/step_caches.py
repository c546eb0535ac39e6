"""A cache across steps of diffusers under guidance: what its passes may share, and what they cost.

Each pass has a context of its own (cache_contexts.py). Where the first block decides for all
(`CacheKind.leader`), its hook decides in a weak pass too. If it computes, and the cond pass did,
the blocks up to the first skipped one are shared as without a cache. If the cond pass was a hit, no
block of it ran, and the weak pass is on its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from torch import nn

from skipguide.families.blocks import LayerSite
from skipguide.families.schema import Entry, Family
from skipguide.pipeline.cache_contexts import COND, NO_STATE, CacheContexts
from skipguide.pipeline.cache_hooks import (
    InsideHook,
    cache_kind,
    state_managers,
    stateful_hooks,
)
from skipguide.pipeline.pass_states import give_states_to_passes, take_states_from_passes
from skipguide.weak import patching
from skipguide.weak.autoguidance import count_parameters

_WHOLE_BLOCK = ("residual", "shuffle")  # skips that a proxy for the block itself makes


class StepCaches(CacheContexts):
    """The cache on one denoiser, if there is one: its contexts in a run, and what it left out.

    Args:
        family: the row of the model.
        denoiser: the model, without proxies.
        sites: its chain.
    """

    def __init__(self, family: Family, denoiser: nn.Module, sites: Sequence[LayerSite]):
        super().__init__()
        self.family, self.denoiser, self.sites = family, denoiser, sites
        self._module_shares: list[tuple[Any, float]] = []  # (manager, share of the parameters)
        self._block_hooks: dict[nn.Module, Any] = {}  # of a leader and those that follow it
        self._inside: dict[patching.ModuleProxy, InsideHook] = {}
        self._first_block: patching.CacheOutput | None = None

    @property
    def has_leader(self) -> bool:
        """True where the first block decides for all."""
        return self.kind is not None and self.kind.leader

    def find(self) -> None:
        """Look for the cache: it may have been switched on or off.

        Raises:
            ValueError: for one that does not go together with guidance, or for several.
        """
        found = [
            (module, hook, cache_kind(name, hook, self.family))
            for module in self.denoiser.modules()
            for name, hook in stateful_hooks(module)
        ]
        titles = sorted({kind.title for _, _, kind in found})
        if len(titles) > 1:
            raise ValueError(
                f"guide() needs a {self.family.model} with one cache across steps, but"
                f" {' and '.join(titles)} are on. Switch one off."
            )
        for _, hook, kind in found:
            if kind.one_state:
                give_states_to_passes(hook)
        held = [(module, state_managers(hook)) for module, hook, _ in found]
        if self.manage(found[0][2] if found else None, [m for _, own in held for m in own]):
            self._find_block_hooks()
            self._find_shares(held)

    def release(self) -> None:
        """Put back what the hooks of the cache had for a state."""
        for module in self.denoiser.modules():
            for _, hook in stateful_hooks(module):
                take_states_from_passes(hook)

    def _find_shares(self, held: Sequence[tuple[nn.Module, Sequence[Any]]]) -> None:
        self._module_shares = []
        if self.kind is not None and self.kind.was_predicted is not None:
            total = count_parameters(self.denoiser)
            self._module_shares = [
                (manager, count_parameters(module) / total)
                for module, own in held
                for manager in own
            ]

    def _find_block_hooks(self) -> None:
        self._inside, self._block_hooks, self._first_block = {}, {}, None
        if self.kind is None or not self.kind.leader:
            return
        if self.family.interleaved:
            raise ValueError(
                f"{self.kind.title} adds what the last block of all returned to what enters the"
                f" first one, but in a {self.family.model} their tokens lie in another order, for"
                " blocks of space and of time run in turn. Use TaylorSeer, or .disable_cache()."
            )
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
        self._first_block = patching.CacheOutput(self.sites[0].block, patching.KeptRows())

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

    # --- passes -----------------------------------------------------------------------------------

    def was_hit(self, name: str) -> bool:
        """Return whether the blocks were left out in the last pass in a context."""
        if self.kind is None or self.kind.was_hit is None:
            return False
        state = self.state(name)
        return state is not NO_STATE and self.kind.was_hit(state)

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

    def check_called_twice(self, modules: Iterable[nn.Module]) -> None:
        """Check that NAG calls no module twice in a pass of which the cache would keep one state.

        Args:
            modules: what it calls twice.

        Raises:
            ValueError: if it does.
        """
        called = [inner for module in modules for inner in module.modules()]
        if self.kind is not None and any(any(stateful_hooks(inner)) for inner in called):
            raise ValueError(
                f"NAG calls some modules of a {self.family.model} twice in a pass, of which"
                f" {self.kind.title} would keep one state. Use a cache that has no part in the"
                " attention to the text, or switch it off: .disable_cache()."
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
