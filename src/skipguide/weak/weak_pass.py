"""Prefix sharing: keep what the strong pass computed before the first skipped layer, and start weak
passes there.

The strong conditional pass and a weak pass are the same computation up to the first skipped layer
k, so the weak pass costs the blocks after k only: (L - k - 1) / L of a forward for a residual skip,
(L - k) / L for an attention skip. In a stack, the state that enters block k is recorded, and the
blocks before it compute nothing. In a UNet, skip connections run past layer k: there the outputs of
all that ran before it are kept, and given again in the weak pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import nn

from skipguide.families import schema
from skipguide.families.blocks import LayerSite, _find_modules, layer_sites, modules_to_bypass
from skipguide.families.schema import Family, ValueProjection
from skipguide.method import perturbations
from skipguide.weak import attention, flops, patching, shuffle
from skipguide.weak import step_context as step_context_module
from skipguide.weak.prefix_cache import PrefixCache


@dataclasses.dataclass(frozen=True)
class WeakOptions:
    """What a weak pass takes beside the layers and the kind of skip."""

    step_context: step_context_module.StepContext | None = None  # None for kinds of the paper alone
    strength: float | None = None
    seed: int = 0


class WeakPass:
    """One weakened model: which places of the chain are skipped and how.

    Args:
        skipped: positions in the chain, sorted, not empty. skip: one of `kinds.KINDS`. strong:
        where the strong pass keeps the state to start from; None for a pass that is always run in
        full. how: what kinds that are not the paper's own need to know.
    """

    def __init__(
        self, family: Family, denoiser: nn.Module, sites: Sequence[LayerSite],
        skipped: Sequence[int], skip: str, prefix_cache: PrefixCache | None,
        options: WeakOptions = WeakOptions(),
    ):  # fmt: skip
        self.family, self.denoiser, self.options = family, denoiser, options
        self.sites, self.skipped, self.skip, self.prefix_cache = (
            sites,
            tuple(skipped),
            skip,
            prefix_cache,
        )
        self.full_patches = _deduplicate_patches(
            swap for k in skipped for swap in self._weaken_site(k, None)
        )
        self.shared_patches = (
            [] if prefix_cache is None else _deduplicate_patches(self._prefix_patches(prefix_cache))
        )
        self.inputs: dict[
            str, Any
        ] = {}  # of the denoiser, on the meta device; a UNet's costs are measured with them
        self._measured_costs: dict[bool, float] = {}

    @property
    def first_skipped(self) -> int:
        """The place at which this pass leaves the strong one."""
        return self.skipped[0]

    def patches(self) -> list[patching.Patch]:
        """What stands where in this pass: from the state that the strong pass left, where there is
        one to share.

        Raises:
            RuntimeError: if the strong pass left nothing, because the first skipped layer did not
                run in it.
        """
        if self.prefix_cache is None:
            return self.full_patches
        if not self.prefix_cache.has_state_for(self.first_skipped):
            raise RuntimeError(
                f'layer "{self.sites[self.first_skipped].address}" must run in the conditional pass'
                " for a weak pass to start there, but it did not (a cache, or an option that"
                " switches it off). Remove that, or pass share_prefix=False."
            )
        return self.shared_patches

    def _weaken_site(self, k: int, source: patching.RecordInput | None) -> Iterator[patching.Patch]:
        site = self.sites[k]
        if self.skip == "residual":
            for entry in modules_to_bypass(self.sites, k, self.skipped):
                yield (
                    *entry,
                    patching.Bypass(patching.get_child(*entry), site.stack.streams, source),
                )
        elif self.skip == "shuffle":
            yield from self._shuffle_patches(site, source)
        else:
            for entry, values in site.attentions():
                yield *entry, self._make_attention_proxy(site, entry, values)
            if source is not None:
                yield *site.entry, patching.ResumeFrom(site.block, site.stack.streams, source)

    def _make_attention_proxy(
        self, site: LayerSite, entry: schema.Entry, values: ValueProjection
    ) -> patching.ModuleProxy:
        real = patching.get_child(*entry)
        if self.skip == "attention":
            return patching.IdentityAttention(real, values)
        seen = self._attention_view(site, audio=entry in site.audio_attentions())
        return attention.InterceptedAttention(
            real, self.skip, seen, perturbations.resolve_strength(self.skip, self.options.strength)
        )

    def _shuffle_patches(
        self, site: LayerSite, source: patching.RecordInput | None
    ) -> Iterator[patching.Patch]:
        seen = self._attention_view(site)
        for n, entry in enumerate(
            [site.entry] if site.axis_layers is None else site.inner_blocks()
        ):
            name = f"{site.address} {site.axis} {n}"
            yield *entry, shuffle.ShuffleTokens(
                patching.get_child(*entry), site.stack.streams, source, seen, site.token_layout,
                self.options.seed, name, restore_order=site.axis_layers is None,
            )  # fmt: skip

    def _attention_view(self, site: LayerSite, audio: bool = False) -> attention.AttentionView:
        assert self.options.step_context is not None
        return attention.AttentionView(
            self.options.step_context, site.axis, self.family.text_position, audio
        )

    def _prefix_patches(self, prefix_cache: PrefixCache) -> Iterator[patching.Patch]:
        recording = prefix_cache.recorded_inputs.get(self.first_skipped)
        if recording is not None:
            for site in self.sites[: self.first_skipped]:
                yield *site.entry, patching.Bypass(site.block, site.stack.streams)
        yield from self._weaken_site(self.first_skipped, recording)
        for k in self.skipped[1:]:
            yield from self._weaken_site(k, None)
        for parent, name, memory in prefix_cache.cached_outputs[self.first_skipped]:
            yield parent, name, patching.ReplayOutput(memory.real, memory)
        for (
            path,
            interval,
        ) in (
            self.family.injected_modules
        ):  # run after every interval-th block; those before are not read
            for parent, name, real in _find_modules(self.denoiser, (path,)):
                if int(name) * _config_value(self.denoiser, interval) < self.first_skipped:
                    yield parent, name, patching.ZeroOutput(real)

    def cost(self, shared: bool) -> float:
        """What this pass computes, as a fraction of a forward pass.

        In a stack blocks are counted, and an attention skip counts as a whole block. The blocks of
        a UNet differ in size: there floating point operations are, in a pass without numbers over a
        copy without weights; where that cannot be run, layers are counted."""
        if self.family.unet is None:
            skipped = len(self.skipped) if self.skip == "residual" else 0
            return (len(self.sites) - (self.first_skipped if shared else 0) - skipped) / len(
                self.sites
            )
        if shared not in self._measured_costs:
            try:
                self._measured_costs[shared] = self._measure_cost(shared)
            except Exception:  # a model that its config does not rebuild, as with FreeNoise: this is only for people
                self._measured_costs[shared] = 1 - (self.first_skipped if shared else 0) / len(
                    self.sites
                )
        return self._measured_costs[shared]

    def set_input_spec(self, inputs: dict[str, Any]) -> None:
        """What a call of the denoiser looks like, on the meta device; of other sizes other costs
        are measured."""
        if repr(inputs) != repr(self.inputs):
            self.inputs, self._measured_costs = inputs, {}

    def _measure_cost(self, shared: bool) -> float:
        model = flops.build_meta_model(self.denoiser)
        places = layer_sites(self.family, model)
        strong = PrefixCache(self.family, model, places, {self.first_skipped}) if shared else None
        step_context = step_context_module.StepContext(
            self.family.latent_layout, self.denoiser.config
        )  # type: ignore[arg-type]
        step_context.observe_inputs(self.inputs)
        how = dataclasses.replace(self.options, step_context=step_context)
        weak = WeakPass(self.family, model, places, self.skipped, self.skip, strong, how)
        with patching.patched(strong.patches({self.first_skipped}) if strong else []):
            whole = flops.count_flops(model, self.inputs)
        with patching.patched(weak.patches()):
            return flops.count_flops(model, self.inputs) / whole


def _deduplicate_patches(patches: Iterable[patching.Patch]) -> list[patching.Patch]:
    """One stand-in for each module: both halves of a layer of SVD name the one that holds them."""
    return [
        (*entry, proxy) for entry, proxy in {(p, name): proxy for p, name, proxy in patches}.items()
    ]


def _config_value(denoiser: Any, name: str) -> int:
    return denoiser.config[name]
