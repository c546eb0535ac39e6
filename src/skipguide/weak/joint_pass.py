"""Run the weak passes of several terms that start in the same layer as one batch.

The batch has the conditional rows once for each term. Where a term weakens a module, a proxy runs
both the module and what the term makes of it, and takes from each the rows of its terms. What is
computed for the rows of others is thrown away, so that a batch is made only where that is little.
The results are those of passes of their own but for rounding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from skipguide.families.blocks import LayerSite
from skipguide.families.schema import Entry, Family
from skipguide.method.protocols import Inputs, ReadOnlyInputs
from skipguide.weak import patching
from skipguide.weak.weak_pass import WeakPass, check_prefix, prefix_patches

# The kinds whose work on the rows of other terms is cheap: a copy, or a projection to values.
JOINABLE_SKIPS = ("residual", "attention")
# Blocks that may be run in vain, as a share of the blocks that the terms run apart.
LARGEST_WASTE = 0.25


class TakeRows(patching.ModuleProxy):
    """The real module and what terms make of it, each for the rows of its terms.

    Args:
        real: the module.
        alternatives: for each term in the batch what stands in the place of the module; None is
            the module itself.
    """

    def __init__(self, real: nn.Module, alternatives: Sequence[nn.Module | None]):
        super().__init__(real, alternatives=tuple(alternatives))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        modules = [self.real if one is None else one for one in self.alternatives]
        outputs = {id(module): module(*args, **kwargs) for module in modules}
        return _take_rows([outputs[id(module)] for module in modules])


def _take_rows(outputs: Sequence[Any]) -> Any:
    """Return row block j of output j, for tensors and tuples of tensors."""
    first = outputs[0]
    if all(output is first for output in outputs):
        return first
    if isinstance(first, (tuple, list)):
        return type(first)(_take_rows(parts) for parts in zip(*outputs, strict=True))
    if not torch.is_tensor(first):
        return first
    return torch.cat([output.chunk(len(outputs))[j] for j, output in enumerate(outputs)])


class JointPass:
    """The weak passes of several terms in one batch.

    Args:
        members: the pass of each term, of one denoiser, in the order of their rows.
    """

    def __init__(self, members: Sequence[WeakPass]):
        self.members, self.denoiser = tuple(members), members[0].denoiser
        self.prefix_cache, self._sites = members[0].prefix_cache, members[0].sites
        self.first_skipped = min(weak.first_skipped for weak in members)
        self._patches = self._weaken_members()
        if self.prefix_cache is not None:
            self._patches |= self._start_at_prefix()

    def patches(self) -> list[patching.Patch]:
        """Return the patches of this pass; it starts from the prefix cache where there is one.

        Raises:
            RuntimeError: if the conditional pass left nothing there.
        """
        if self.prefix_cache is not None:
            check_prefix(self.prefix_cache, self._sites, self.first_skipped)
        return [(*entry, proxy) for entry, proxy in self._patches.items()]

    def repeat_inputs(self, inputs: ReadOnlyInputs) -> Inputs:
        """Return the inputs of the denoiser for all terms, from those of the conditional rows."""
        family, copies = self.members[0].family, len(self.members)
        dims, listed = family.batch_dims, family.listed_inputs
        return {
            name: value
            if name not in dims
            else [*value] * copies
            if name in listed
            else patching.repeat_rows(copies, value, dims[name])
            for name, value in inputs.items()
        }

    def split_outputs(self, outputs: Sequence[torch.Tensor]) -> list[tuple[torch.Tensor, ...]]:
        """Return the predictions of each term, from those of the batch."""
        parts = [output.chunk(len(self.members)) for output in outputs]
        return list(zip(*parts, strict=True))

    def _weaken_members(self) -> dict[Entry, nn.Module]:
        # One proxy for each kind of skip, however many terms skip the module in that way.
        made: dict[tuple[Entry, str], nn.Module] = {}
        chosen: dict[Entry, list[nn.Module | None]] = {}
        for j, weak in enumerate(self.members):
            for parent, name, proxy in weak.full_patches:
                row = chosen.setdefault((parent, name), [None] * len(self.members))
                row[j] = made.setdefault(((parent, name), weak.skip), proxy)
        return {entry: TakeRows(patching.get_child(*entry), row) for entry, row in chosen.items()}

    def _start_at_prefix(self) -> dict[Entry, nn.Module]:
        assert self.prefix_cache is not None
        first, copies = self.first_skipped, len(self.members)
        before = prefix_patches(self.members[0], self.prefix_cache, first, copies)
        found = {(parent, name): proxy for parent, name, proxy in before}
        recording = self.prefix_cache.recorded_inputs.get(first)
        if recording is not None:
            site = self._sites[first]
            inner = self._patches.get(site.entry, site.block)
            found[site.entry] = patching.ResumeFrom(inner, site.stack.streams, recording, copies)
        return found


def join_terms(family: Family, weak_passes: Mapping[int, WeakPass]) -> list[list[int]]:
    """Return the terms that run together, as lists of their numbers, in the order of the terms.

    Args:
        family: the row of the denoiser, which has to know the inputs that are batches.
        weak_passes: those that are to be run, by the numbers of their terms.
    """
    by_layer: dict[object, list[int]] = {}
    for j, weak in weak_passes.items():
        alike = weak.skip in JOINABLE_SKIPS and not weak.options.heads
        joinable = bool(family.batched_inputs) and alike
        by_layer.setdefault(_first_layer(family, weak) if joinable else (j,), []).append(j)
    return [
        batch
        for terms in by_layer.values()
        for batch in _split_wasteful(terms, [weak_passes[j] for j in terms])
    ]


def _first_layer(family: Family, weak: WeakPass) -> object:
    """Return the layer in which a pass starts; both axes of one are the same layer."""
    site: LayerSite = weak.sites[weak.first_skipped]
    return site.index if family.interleaved else site.address


def _split_wasteful(terms: list[int], weak_passes: Sequence[WeakPass]) -> Iterator[list[int]]:
    """Yield the terms in one list, or one by one where the batch would compute much in vain."""
    first, total = min(weak.first_skipped for weak in weak_passes), len(weak_passes[0].sites)
    skipped = [set(weak.skipped if weak.skip == "residual" else ()) for weak in weak_passes]
    apart = sum(
        total - weak.first_skipped - len(without)
        for weak, without in zip(weak_passes, skipped, strict=True)
    )
    together = len(terms) * (total - first - len(set.intersection(*skipped)))
    if together <= (1 + LARGEST_WASTE) * apart:
        yield terms
    else:
        yield from ([j] for j in terms)
