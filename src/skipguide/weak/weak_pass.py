"""One weakened model, and its pass that starts at the first skipped layer.

The conditional pass and a weak pass are the same computation up to the first skipped layer k, so
the weak pass costs the blocks after k only: (L - k - 1) / L of a forward pass for a residual skip,
(L - k) / L for an attention skip. In a stack, the state that enters block k is recorded in the
conditional pass, and the blocks before it compute nothing in the weak one. In a UNet, skip
connections run past layer k: there the outputs of all modules before it are kept and replayed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

from torch import nn

from skipguide.families import schema
from skipguide.families.blocks import (
    LayerSite,
    count_heads,
    find_modules,
    layer_sites,
    modules_to_bypass,
)
from skipguide.families.protocols import Inputs, as_denoiser
from skipguide.families.schema import Family, ValueProjection
from skipguide.method import perturbations
from skipguide.weak import attention, flops, patching, shuffle
from skipguide.weak.prefix_cache import PrefixCache
from skipguide.weak.step_context import StepContext


def stack_cost(blocks: int, first: int, skipped: int) -> float:
    """Return what a weak pass through a stack computes, as a fraction of a forward pass.

    Args:
        blocks: of the whole stack.
        first: the block at which it starts.
        skipped: how many whole blocks it skips; an attention skip counts as a whole block.
    """
    return (blocks - first - skipped) / blocks


@dataclasses.dataclass(frozen=True)
class WeakOptions:
    """The options of a weak pass beside its layers and its kind of skip.

    Args:
        step_context: what it knows of the step; None serves the paper's own kinds, "residual" and
            "attention", which need nothing of it.
        strength, seed: of the term.
        heads: by position, those that are changed in layers that are not changed as a whole.
    """

    step_context: StepContext | None = None
    strength: float | None = None
    seed: int = 0
    heads: Mapping[int, Sequence[int]] = dataclasses.field(default_factory=dict)


class WeakPass:
    """One weakened model: which layers of a denoiser are weakened, and how.

    Args:
        family: the row of the model.
        denoiser: the model.
        sites: its chain, from families.blocks.layer_sites().
        skipped: positions in the chain, sorted, at least one.
        skip: one of perturbations.PERTURBATIONS, or perturbations.ISOLATION.
        prefix_cache: what the conditional pass keeps to start from; None for a pass that is always
            run in full.
        options: what some kinds of skip need besides.
    """

    def __init__(
        self, family: Family, denoiser: nn.Module, sites: Sequence[LayerSite],
        skipped: Sequence[int], skip: str, prefix_cache: PrefixCache | None,
        options: WeakOptions = WeakOptions(),
    ):  # fmt: skip
        self.family, self.denoiser, self.options = family, denoiser, options
        self.sites, self.skipped = sites, tuple(skipped)
        self.skip, self.prefix_cache = skip, prefix_cache
        self._make_patches()
        # Inputs of the denoiser on the meta device, with which the costs of a UNet are measured.
        self.inputs: Inputs = {}
        self._measured_costs: dict[bool, float] = {}

    def _make_patches(self) -> None:
        cache = self.prefix_cache
        self.full_patches = _deduplicate_patches(
            patch for k in self.skipped for patch in self._weaken_site(k, None)
        )
        self.shared_patches = (
            [] if cache is None else _deduplicate_patches(self._prefix_patches(cache))
        )

    @property
    def first_skipped(self) -> int:
        """The position at which this pass leaves the conditional one."""
        return self.skipped[0]

    def patches(self) -> list[patching.Patch]:
        """Return the patches of this pass; it starts from the prefix cache where there is one.

        Raises:
            RuntimeError: if the conditional pass left nothing there, because the first skipped
                layer did not run in it.
        """
        if self.prefix_cache is None:
            return self.full_patches
        check_prefix(self.prefix_cache, self.sites, self.first_skipped)
        return self.shared_patches

    def _weaken_site(self, k: int, source: patching.RecordInput | None) -> Iterator[patching.Patch]:
        site = self.sites[k]
        if self.skip == "residual":
            for entry in modules_to_bypass(self.sites, k, self.skipped):
                yield (
                    *entry,
                    patching.Bypass(patching.get_child(*entry), site.stack, source),
                )
        elif self.skip == "shuffle":
            yield from self._shuffle_patches(site, source)
        else:
            for entry, proxy in self._weaken_modules(k):
                yield *entry, proxy
            if source is not None:
                yield *site.entry, patching.ResumeFrom(site.block, site.stack.streams, source)

    def _weaken_modules(self, k: int) -> Iterator[tuple[schema.Entry, nn.Module]]:
        """Yield what takes the place of modules in a block that itself runs."""
        site = self.sites[k]
        if self.skip == perturbations.ISOLATION:
            for entry in site.isolating_modules():
                yield entry, patching.ZeroOutput(patching.get_child(*entry))
            return
        for entry, values in site.attentions():
            yield entry, self._make_attention_proxy(k, entry, values)

    def _make_attention_proxy(
        self, k: int, entry: schema.Entry, values: ValueProjection
    ) -> patching.ModuleProxy:
        real, site, heads = patching.get_child(*entry), self.sites[k], self.options.heads.get(k)
        if heads is not None and len(heads) == count_heads(real):
            heads = None  # all of them are the whole layer
        if self.skip == "attention" and heads is None:
            return patching.IdentityAttention(real, values)
        view = self._attention_view(site, audio=entry in site.audio_attentions())
        strength = perturbations.resolve_strength(self.skip, self.options.strength)
        return attention.InterceptedAttention(real, self.skip, view, strength, heads)

    def _shuffle_patches(
        self, site: LayerSite, source: patching.RecordInput | None
    ) -> Iterator[patching.Patch]:
        view = self._attention_view(site)
        for n, entry in enumerate(
            [site.entry] if site.axis_layers is None else site.inner_blocks()
        ):
            name = f"{site.address} {site.axis} {n}"
            yield *entry, shuffle.ShuffleTokens(
                patching.get_child(*entry), site.stack, source, view, site.token_layout,
                self.options.seed, name, restore_order=site.axis_layers is None,
            )  # fmt: skip

    def _attention_view(self, site: LayerSite, audio: bool = False) -> attention.AttentionView:
        assert self.options.step_context is not None
        return attention.AttentionView(
            self.options.step_context, site.axis, self.family.text_position, audio
        )

    def _prefix_patches(self, prefix_cache: PrefixCache) -> Iterator[patching.Patch]:
        recording = prefix_cache.recorded_inputs.get(self.first_skipped)
        yield from self._weaken_site(self.first_skipped, recording)
        for k in self.skipped[1:]:
            yield from self._weaken_site(k, None)
        yield from prefix_patches(self, prefix_cache, self.first_skipped)

    def cost(self, shared: bool) -> float:
        """Return what this pass computes, as a fraction of a forward pass.

        In a stack blocks are counted, and an attention skip counts as a whole block. The layers of
        a UNet differ in size: there floating point operations are counted, on a copy without
        weights; or layers, where such a copy cannot run.

        Args:
            shared: whether the pass starts from the prefix cache.
        """
        total, first = len(self.sites), self.first_skipped if shared else 0
        if self.family.unet is None:
            skipped = len(self.skipped) if self.skip == "residual" else 0
            return stack_cost(total, first, skipped)
        if shared not in self._measured_costs:
            try:
                cost = self._measure_cost(shared)
            except Exception:  # a model that its config does not rebuild, as with FreeNoise
                cost = 1 - first / total
            self._measured_costs[shared] = cost
        return self._measured_costs[shared]

    def set_input_spec(self, inputs: Inputs) -> None:
        """Set what a call of the denoiser looks like, on the meta device.

        If it differs from the last one, costs are measured anew."""
        if repr(inputs) != repr(self.inputs):
            self.inputs, self._measured_costs = inputs, {}

    def _measure_cost(self, shared: bool) -> float:
        model, firsts = flops.build_meta_model(self.denoiser), {self.first_skipped}
        sites = layer_sites(self.family, model)
        cache = PrefixCache(self.family, model, sites, firsts) if shared else None
        step_context = StepContext(self.family.latent_layout, as_denoiser(self.denoiser).config)
        step_context.observe_inputs(self.inputs)
        options = dataclasses.replace(self.options, step_context=step_context)
        weak = WeakPass(self.family, model, sites, self.skipped, self.skip, cache, options)
        with patching.patched(cache.patches(firsts) if cache else []):
            whole = flops.count_flops(model, self.inputs)
        with patching.patched(weak.patches()):
            return flops.count_flops(model, self.inputs) / whole


def check_prefix(prefix_cache: PrefixCache, sites: Sequence[LayerSite], first: int) -> None:
    """Check that the conditional pass left what a weak pass starts from.

    Raises:
        RuntimeError: if it did not, because the layer did not run in it.
    """
    if not prefix_cache.has_state_for(first):
        raise RuntimeError(
            f'layer "{sites[first].address}" must run in the conditional pass for a weak pass to'
            " start there, but it did not (because of a cache, or of an option that switches it"
            " off). Remove that, or pass share_prefix=False."
        )


def prefix_patches(
    weak: WeakPass, prefix_cache: PrefixCache, first: int, copies: int = 1
) -> Iterator[patching.Patch]:
    """Yield the patches by which nothing before a position is computed again.

    Args:
        weak: a pass over the denoiser.
        prefix_cache: what the conditional pass kept.
        first: the position.
        copies: how often the rows of the conditional pass are in the batch.
    """
    if first in prefix_cache.recorded_inputs:
        for site in weak.sites[:first]:
            yield *site.entry, patching.Bypass(site.block, site.stack)
    for parent, name, memory in prefix_cache.cached_outputs[first]:
        yield parent, name, patching.ReplayOutput(memory.real, memory, copies)
    yield from _unread_injections(weak, first)


def _unread_injections(weak: WeakPass, first: int) -> Iterator[patching.Patch]:
    """Switch off modules that run between blocks before a position.

    Module i runs after every interval-th block and adds to a state that nobody reads."""
    config = as_denoiser(weak.denoiser).config
    for path, interval in weak.family.injected_modules:
        for parent, name, real in find_modules(weak.denoiser, (path,)):
            if int(name) * config[interval] < first:
                yield parent, name, patching.ZeroOutput(real)


def _deduplicate_patches(patches: Iterable[patching.Patch]) -> list[patching.Patch]:
    """Keep one proxy for each module: both halves of a layer of SVD name the same one."""
    return [
        (*entry, proxy) for entry, proxy in {(p, name): proxy for p, name, proxy in patches}.items()
    ]
