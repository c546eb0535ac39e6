"""Keep what the conditional pass computes, so that weak passes can start at their first skipped
layer."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from torch import nn

from skipguide.families.blocks import LayerSite, find_modules
from skipguide.families.schema import Entry, Family
from skipguide.weak import patching


class PrefixCache:
    """The state that the conditional pass of one denoiser keeps for its weak passes.

    In a stack it keeps the streams that enter the first skipped block; in a UNet, and in a stack
    with long skip connections, the outputs of everything that runs before it. The outputs of a
    family's `cached_modules` are kept in both.

    Args:
        family: the row of the model.
        denoiser: the model.
        sites: its chain, from families.blocks.layer_sites().
        firsts: the first skipped positions of all weak passes.
        limit: on what one conditional pass keeps. A pass then leaves states for some of the
            positions that it was asked for, and always for the first of them; `has_state_for`
            tells for which.
    """

    def __init__(
        self,
        family: Family,
        denoiser: nn.Module,
        sites: Sequence[LayerSite],
        firsts: Collection[int],
        limit: patching.ByteLimit | None = None,
    ):
        stacked = [] if family.unet or family.long_skips else sorted(firsts)
        self._rows = patching.KeptRows()
        self.recorded_inputs = {
            k: patching.RecordInput(sites[k].block, sites[k].stack.streams, self._rows, limit)
            for k in stacked
        }
        always = [
            (parent, name) for parent, name, _ in find_modules(denoiser, family.cached_modules)
        ]
        needed: dict[int, list[Entry]] = {k: [*always, *sites[k].preceding_modules] for k in firsts}
        caches = {
            entry: patching.CacheOutput(patching.get_child(*entry), self._rows, limit)
            for entries in needed.values()
            for entry in entries
        }
        self.cached_outputs = {
            k: [(*entry, caches[entry]) for entry in entries] for k, entries in needed.items()
        }
        self._sites, self._limit = sites, limit

    def patches(self, firsts: Collection[int], in_batch: bool = False) -> list[patching.Patch]:
        """Return the patches of a conditional pass after which weak passes start at `firsts`.

        Args:
            in_batch: the pass is the second half of a batch [uncond, cond], and its rows alone are
                kept.
        """
        self._rows.in_batch = in_batch
        if self._limit is not None:
            self._limit.begin(self._proxies_for(min(firsts)))
        recorded = [
            (*self._sites[k].entry, self.recorded_inputs[k])
            for k in firsts
            if k in self.recorded_inputs
        ]
        return [
            *recorded,
            *dict.fromkeys(patch for k in firsts for patch in self.cached_outputs[k]),
        ]

    def _proxies_for(self, first: int) -> Iterator[nn.Module]:
        if first in self.recorded_inputs:
            yield self.recorded_inputs[first]
        yield from (cache for _, _, cache in self.cached_outputs[first])

    def has_state_for(self, first_skipped: int) -> bool:
        """Return whether the conditional pass left what a weak pass needs to start there."""
        if first_skipped in self.recorded_inputs:
            return self.recorded_inputs[first_skipped].state is not None
        return all(cache.outputs for _, _, cache in self.cached_outputs[first_skipped])

    def proxies_before(self, first_skipped: int) -> list[nn.Module]:
        """Return the proxies that keep what a weak pass needs to start there."""
        return list(self._proxies_for(first_skipped))

    def all_proxies(self) -> list[nn.Module]:
        """Return all proxies once, in the same order in every process that has the model."""
        found = (proxy for k in sorted(self.cached_outputs) for proxy in self._proxies_for(k))
        return list(dict.fromkeys(found))

    def clear(self) -> None:
        """Free what was kept."""
        for recording in self.recorded_inputs.values():
            recording.__dict__["state"] = None
        for cached in self.cached_outputs.values():
            for _, _, cache in cached:
                cache.outputs.clear()
