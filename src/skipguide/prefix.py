"""Prefix sharing: record the state that enters the first skipped layer in the strong pass, and start weak passes there.

The strong conditional pass and a weak pass are the same computation up to the first skipped layer k, so the weak pass
costs the blocks after k only: (L - k - 1) / L of a forward for a residual skip, (L - k) / L for an attention skip.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from skipguide import skips

Tensor = torch.Tensor


@dataclasses.dataclass(frozen=True)
class WeakPass:
    """One weakened model: which positions of a stack are skipped and how. Positions are sorted and not empty."""

    blocks: nn.ModuleList
    streams: tuple[str, ...]
    positions: tuple[int, ...]
    attention: str = ""  # the attention to make an identity; "" for a residual skip
    values: Callable[..., Any] | None = None  # that attention with the identity map

    @property
    def first(self) -> int:
        """The layer at which this pass leaves the strong one."""
        return self.positions[0]

    def swaps(self, state: Sequence[Tensor] | None) -> list[skips.Swap]:
        """What stands in for what during this pass.

        Args:
            state: the recorded streams at the first skipped layer, or None to run the whole pass.
        """
        found: list[skips.Swap] = []
        if state is not None:
            found += [(self.blocks, str(i), self._skipped(i, None)) for i in range(self.first)]
        for i in self.positions:
            here = state if i == self.first else None
            if self.values is None:
                found.append((self.blocks, str(i), self._skipped(i, here)))
                continue
            block = self.blocks[i]
            attention = block.get_submodule(self.attention)
            parent = block.get_submodule(self.attention.rpartition(".")[0])
            found.append((parent, self.attention.rpartition(".")[2], skips.IdentityAttention(attention, self.values)))
            if here is not None:
                found.append((self.blocks, str(i), skips.ResumedBlock(block, self.streams, here)))
        return found

    def _skipped(self, i: int, state: Sequence[Tensor] | None) -> nn.Module:
        return skips.SkippedBlock(self.blocks[i], self.streams, state)

    def cost(self, shared: bool) -> float:
        """Blocks that this pass evaluates, as a fraction of a forward; an attention skip counts as a whole block."""
        skipped = len(self.positions) if self.values is None else 0
        return (len(self.blocks) - (self.first if shared else 0) - skipped) / len(self.blocks)


class Recorder:
    """Keeps the cond rows of the streams that enter given blocks, while it is open; else it costs one comparison.

    The rows are copied: the strong pass is free to work in place, and the uncond rows can be freed.
    """

    def __init__(self) -> None:
        self.states: dict[nn.Module, tuple[Tensor, ...]] = {}
        self._wanted: set[nn.Module] = set()
        self._rows: Callable[[Tensor], Tensor] = lambda tensor: tensor

    def open(self, blocks: set[nn.Module], rows: Callable[[Tensor], Tensor]) -> None:
        """Record the inputs of `blocks` in the pass that follows; `rows` picks the cond rows of a batch."""
        self.states, self._wanted, self._rows = {}, blocks, rows

    def close(self) -> None:
        """Forget what was recorded and record no more."""
        self.states, self._wanted = {}, set()

    def hook(self, streams: tuple[str, ...]) -> Callable[..., None]:
        """A forward pre-hook (with kwargs) for a block whose state is in `streams`."""

        def record(block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            if block in self._wanted:
                self._wanted = self._wanted - {block}  # the strong pass alone: the weak ones come through here again
                inputs = skips.stream_values(streams, args, kwargs)
                self.states[block] = tuple(self._rows(stream).clone() for stream in inputs)

        return record
