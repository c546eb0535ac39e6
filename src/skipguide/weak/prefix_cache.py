"""What the conditional pass keeps so that weak passes can start at their first skipped layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from skipguide.families.blocks import Place, _named
from skipguide.families.schema import Family
from skipguide.weak import patching


class Strong:
    """What the strong pass keeps for the weak ones, of one denoiser: the state at certain places, and what is replayed.

    Args:
        firsts: where weak passes leave the strong one, as positions in the chain.
    """

    def __init__(self, family: Family, denoiser: nn.Module, places: Sequence[Place], firsts: set[int]):
        stacked = [] if family.unet else sorted(firsts)
        self.recordings = {k: patching.Recording(places[k].block, places[k].stack.streams) for k in stacked}
        always = [(parent, name) for parent, name, _ in _named(denoiser, family.replayed)]
        needed = {k: [*always, *places[k].before] for k in firsts}
        memories = {
            entry: patching.Remembering(patching.child(*entry)) for entries in needed.values() for entry in entries
        }
        self.remembered = {k: [(*entry, memories[entry]) for entry in entries] for k, entries in needed.items()}
        self._places = places

    def swaps(self, firsts: set[int]) -> list[patching.Swap]:
        """What stands where in a strong pass after which weak ones start at `firsts`."""
        recorded = [(*self._places[k].entry, self.recordings[k]) for k in firsts if k in self.recordings]
        return [*recorded, *dict.fromkeys(swap for k in firsts for swap in self.remembered[k])]

    def has_left(self, first: int) -> bool:
        """Whether the strong pass left what a weak pass needs that starts at `first`."""
        if first in self.recordings:
            return self.recordings[first].state is not None
        return all(memory.outputs for _, _, memory in self.remembered[first])

    def forget(self) -> None:
        """Free what was kept."""
        for recording in self.recordings.values():
            recording.__dict__["state"] = None
        for remembered in self.remembered.values():
            for _, _, memory in remembered:
                memory.outputs.clear()
