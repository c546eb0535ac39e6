"""Guide the attention of a denoiser by a negative prompt (NAG), in its conditional and weak passes.

The video attends to the prompt and to the negative prompt, and what it gets of the prompt is pushed
away from the other before the attention's projection W_o (`formula.normalized_attention_push`).

Cross-attention gets the text from its block: a proxy in its place calls it once with the negative
text, which ends at W_o, and once with the prompt. In joint attention the text is a stream that each
block changes, so a proxy for the block runs it first with the negative text's own stream, for what
the video attends to in it and for the stream behind it; the video is the prompt's in both.

What the blocks get of the negative text is found by a call of the denoiser in which no block runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence

import torch
from torch import nn

from skipguide.families import blocks
from skipguide.families.blocks import LayerSite
from skipguide.families.schema import Family, TextAttention
from skipguide.method import formula
from skipguide.method.protocols import Inputs
from skipguide.method.terms import NAG
from skipguide.weak import context_parallel, patching
from skipguide.weak.negative_attention import CrossAttention, JointBlock, RecordArguments

Tensor = torch.Tensor


class NegativeText:
    """The negative text inside of one denoiser.

    Args:
        family: the row of the model.
        denoiser: the model, without proxies.
        sites: its chain.
        term: what the user wrote.

    Raises:
        ValueError: for a model in which NAG is not offered, or a layer that it has not.
    """

    def __init__(self, family: Family, denoiser: nn.Module, sites: Sequence[LayerSite], term: NAG):
        check_offered(family, denoiser)
        self.family, self.term, self._sites = family, term, sites
        self.is_on = False
        self.stream: Tensor | None = None  # the text where it is a stream, as the next block has it
        self._inputs: Inputs | None = None  # of a block, for the negative text
        self._entered: dict[int, Tensor] = {}  # the stream before the blocks where passes resume
        self._resume_positions: Collection[int] = ()
        self._blocks_run = 0
        chosen = _chosen_positions(family, sites, term)
        self._recorder = RecordArguments(sites[0].block, sites[0].stack, self._names_of_inputs())
        self.block_patches: list[patching.Patch] = []
        self.attention_patches: list[patching.Patch] = []
        for k in range(max(chosen) + 1):
            self._add_proxies(k, sites[k], k in chosen)

    def _add_proxies(self, k: int, site: LayerSite, is_guided: bool) -> None:
        for text in site.stack.text:
            if text.stream:
                proxy = JointBlock(site, self, k, is_guided)
                self.block_patches.append((*site.entry, proxy))
            elif is_guided:
                owner, _, name = text.path.rpartition(".")
                parent = site.text_block.get_submodule(owner)
                real = patching.get_child(parent, name)
                proxy = CrossAttention(real, self, site.text_block, text)
                self.attention_patches.append((parent, name, proxy))

    def _names_of_inputs(self) -> list[str]:
        texts = [text for stack in self.family.stacks.values() for text in stack.text]
        found = [name for text in texts for name in (*text.inputs.values(), text.stream) if name]
        return list(dict.fromkeys(found))

    @property
    def is_joint(self) -> bool:
        """True where the text is a stream of the blocks."""
        return bool(self.block_patches)

    @property
    def called_twice(self) -> list[nn.Module]:
        """The modules that run for both texts."""
        patches = [*self.block_patches, *self.attention_patches]
        return [proxy.real for _, _, proxy in patches if isinstance(proxy, patching.ModuleProxy)]

    # --- the text ---------------------------------------------------------------------------------

    @property
    def is_known(self) -> bool:
        """True if the blocks' inputs need not be found (again)."""
        return self._inputs is not None and not self._changes_with_time

    @property
    def _changes_with_time(self) -> bool:
        return self.family.negative is not None and self.family.negative.every_step

    def forget(self) -> None:
        """Forget the text, as when a run begins."""
        self._inputs = None
        self.end_step()

    @contextlib.contextmanager
    def recording(self) -> Iterator[list[patching.Patch]]:
        """Find the inputs of the blocks in a call of the denoiser with the negative text.

        Yields the patches of that call, in which no block runs."""
        first = self._sites[0].entry  # of a UNet it has several blocks, and a site for each
        others = [site for site in self._sites if site.entry != first]
        yield [
            (*first, self._recorder),
            *((*site.entry, patching.Bypass(site.block, site.stack)) for site in others),
        ]
        self._inputs = self._recorder.take()

    # --- passes -----------------------------------------------------------------------------------

    def begin_step(self, resume_positions: Collection[int] = ()) -> None:
        """Begin a step with NAG, at its conditional pass.

        Args:
            resume_positions: where weak passes of the step may start.
        """
        self._resume_positions, self._entered = resume_positions, {}
        self.begin_pass()

    def begin_pass(self, first: int = 0) -> None:
        """Begin a conditional or a weak pass of a step with NAG.

        Args:
            first: the position at which it starts.
        """
        assert self._inputs is not None
        self.is_on = True
        if self.is_joint:
            self.stream = self._entered.get(first, self._initial_stream)

    @property
    def _initial_stream(self) -> Tensor:
        assert self._inputs is not None
        stream = next(iter(self._sites[0].stack.text)).stream
        return self._inputs[stream]

    def end_step(self) -> None:
        """End the passes of a step with NAG; those of u, and other steps, are left alone."""
        self.is_on, self.stream, self._entered = False, None, {}

    def enter_block(self, k: int) -> None:
        """Keep the stream before a block where a weak pass may start, and count the block."""
        self._blocks_run += 1
        if k in self._resume_positions and k not in self._entered:
            assert self.stream is not None
            self._entered[k] = self.stream

    def take_cost(self) -> float:
        """Return what blocks computed for the negative text since the last time, in passes."""
        count, self._blocks_run = self._blocks_run, 0
        return count / len(self._sites)

    # --- what proxies ask -------------------------------------------------------------------------

    def arguments(self, text: TextAttention) -> Inputs:
        """Return the inputs of a cross-attention for the negative text, by name."""
        assert self._inputs is not None
        return {own: self._inputs[name] for own, name in text.inputs.items()}

    def block_arguments(self, text: TextAttention) -> Inputs:
        """Return the inputs of a block with joint attention for the negative text, by name."""
        assert self._inputs is not None
        own = {name: self._inputs[name] for name in text.inputs.values()}
        return {text.stream: self.stream, **own}

    def push(self, Z: Tensor, Z_negative: Tensor) -> Tensor:
        """Return what is added to an attention's output."""
        term = self.term
        return formula.normalized_attention_push(Z, Z_negative, term.scale, term.tau, term.alpha)


def check_offered(family: Family, denoiser: nn.Module) -> None:
    """Check that NAG is known to be right in a model.

    Raises:
        ValueError: if it is not.
    """
    if family.negative is None:
        raise ValueError(f"NAG is not offered for {family.name}: {family.no_nag}.")
    config = getattr(denoiser, "config", {})
    if config.get("cross_attn_mod") or config.get("audio_cross_attn_mod"):
        raise ValueError(
            f"NAG needs a text that all blocks get alike, but those of this {family.model} modulate"
            " it by the timestep (LTX-2.3 and later). Use STG, or LTX-2."
        )
    if context_parallel.parallel_config(denoiser) is not None:
        raise ValueError(
            "NAG needs attention in one process, but this model is under context parallelism. Run"
            " it in one process, or leave NAG out."
        )


def _chosen_positions(family: Family, sites: Sequence[LayerSite], term: NAG) -> set[int]:
    with_text = {k for k, site in enumerate(sites) if site.stack.text}
    if term.layers is None:
        return with_text
    found = {k for layer in term.layers for k in blocks.find_positions(family, sites, layer)}
    chosen = found & with_text
    if not chosen:
        raise ValueError(
            f"NAG acts where the video attends to the text, but no layer of {term.layers!r} does."
            " Leave layers out for all that do."
        )
    return chosen
