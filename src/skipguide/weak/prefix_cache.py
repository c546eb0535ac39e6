"""What the conditional pass keeps so that weak passes can start at their first skipped layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from skipguide.families.blocks import LayerSite, _find_modules
from skipguide.families.schema import Family
from skipguide.weak import patching


class PrefixCache:
    """What the strong pass keeps for the weak ones, of one denoiser: the state at certain places,
    and what is replayed.

    Args:
        firsts: where weak passes leave the strong one, as positions in the chain.
    """

    def __init__(
        self, family: Family, denoiser: nn.Module, sites: Sequence[LayerSite], firsts: set[int]
    ):
        stacked = [] if family.unet else sorted(firsts)
        self.recorded_inputs = {
            k: patching.RecordInput(sites[k].block, sites[k].stack.streams) for k in stacked
        }
        always = [
            (parent, name) for parent, name, _ in _find_modules(denoiser, family.cached_modules)
        ]
        needed = {k: [*always, *sites[k].preceding_modules] for k in firsts}
        caches = {
            entry: patching.CacheOutput(patching.get_child(*entry))
            for entries in needed.values()
            for entry in entries
        }
        self.cached_outputs = {
            k: [(*entry, caches[entry]) for entry in entries] for k, entries in needed.items()
        }
        self._sites = sites

    def patches(self, firsts: set[int]) -> list[patching.Patch]:
        """What stands where in a strong pass after which weak ones start at `firsts`."""
        recorded = [
            (*self._sites[k].entry, self.recorded_inputs[k])
            for k in firsts
            if k in self.recorded_inputs
        ]
        return [*recorded, *dict.fromkeys(swap for k in firsts for swap in self.cached_outputs[k])]

    def has_state_for(self, first_skipped: int) -> bool:
        """Whether the strong pass left what a weak pass needs that starts at `first`."""
        if first_skipped in self.recorded_inputs:
            return self.recorded_inputs[first_skipped].state is not None
        return all(memory.outputs for _, _, memory in self.cached_outputs[first_skipped])

    def clear(self) -> None:
        """Free what was kept."""
        for recording in self.recorded_inputs.values():
            recording.__dict__["state"] = None
        for remembered in self.cached_outputs.values():
            for _, _, memory in remembered:
                memory.outputs.clear()
