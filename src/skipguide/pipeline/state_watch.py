"""Watch the guided passes of a denoiser for what a cache does: skip blocks, or remember a call.

In each conditional and each weak pass every block that is not skipped must run once, and so must
the projections of an attention whose processor is code of others. That takes a proxy in front of
each, and no look at the device.

At the 1st, 2nd, 4th, 8th, ... guided step of a run the conditional pass is run once more behind the
weak ones where code of others is on the model (foreign_code.py), of torch's hooks one that changed
something in this step: without a state it gives the same prediction.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from skipguide.families.blocks import LayerSite
from skipguide.families.schema import Entry, Family
from skipguide.method import formula
from skipguide.pipeline import foreign_code
from skipguide.weak import patching

Tensor = torch.Tensor
# What may be left of c - c' in half precision, where kernels add in an order of their own.
SAME_PREDICTION = 1e-3


class CountedModule(patching.ModuleProxy):
    """The real module; `calls` has one entry for each call of it.

    A list and no number: torch.compile makes another graph for each number that it reads.
    """

    def __init__(self, real: nn.Module):
        super().__init__(real, calls=[])

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(None)
        return self.real(*args, **kwargs)


class HookWatch:
    """Stands in front of torch's hooks of others for a step, and notes which change something.

    A hook that returns nothing only looks on.
    """

    def __init__(self) -> None:
        # By where they are: hooks that returned something, and those that returned nothing.
        self.changing: dict[tuple[int, int], Any] = {}
        self.looking_on: dict[tuple[int, int], Any] = {}
        self._held: list[tuple[dict[int, Any], int, Any]] = []  # what was where, to put it back

    def attach(self, denoiser: nn.Module) -> None:
        """Put this in front of the hooks that are on a model now."""
        self.detach()
        self.changing, self.looking_on = {}, {}
        for held, key in foreign_code.find_hooks(denoiser):
            self._held.append((held, key, held[key]))
            held[key] = functools.partial(self._call, (id(held), key), held[key])

    def _call(self, place: tuple[int, int], hook: Any, *args: Any) -> Any:
        result = hook(*args)
        (self.looking_on if result is None else self.changing)[place] = hook
        return result

    @property
    def undecided(self) -> list[Any]:
        """The hooks that changed something at one call of this step, and nothing at another."""
        return [hook for place, hook in self.changing.items() if place in self.looking_on]

    def detach(self) -> None:
        """Put the hooks back, but for those that were removed meanwhile."""
        for held, key, hook in self._held:
            if key in held:
                held[key] = hook
        self._held = []


class StateWatch:
    """The watch over one denoiser.

    Args:
        family: the row of the model.
        denoiser: the model, without proxies.
        sites: its chain.

    Raises:
        ValueError: for a cache, or a replaced forward or block, that is there already.
    """

    def __init__(self, family: Family, denoiser: nn.Module, sites: Sequence[LayerSite]):
        self.family, self.denoiser, self.sites = family, denoiser, sites
        self.check_forwards()
        self._blocks = {site.entry: CountedModule(site.block) for site in sites}
        self._projections: dict[Entry, dict[Entry, CountedModule]] = {}  # by block
        self._expected: list[tuple[str, CountedModule]] = []  # in the pass under way
        self._projected: list[CountedModule] = []  # in the pass under way
        self._usual_calls: dict[CountedModule, int] = {}  # of projections, in this run's first pass
        self._unverified, self._guided_steps = "", 0
        self._hooks = HookWatch()

    # --- a run and its steps ----------------------------------------------------------------------

    def begin_run(self) -> None:
        """Look for code of others, and count the guided steps anew."""
        self._unverified = foreign_code.find_unverified_code(self.denoiser)
        self._projections = {
            site.entry: {
                entry: CountedModule(patching.get_child(*entry))
                for entry in foreign_code.find_projections(site.block)
            }
            for site in self.sites
        }
        self._usual_calls, self._guided_steps = {}, 0

    def begin_step(self) -> None:
        """Begin a guided step: something may have been switched on since the last one.

        Raises:
            ValueError: for a cache, or a replaced forward or block.
        """
        self.check_forwards()
        self._guided_steps += 1
        if self.is_probed and getattr(self.denoiser, "_compiled_call_impl", None) is None:
            self._hooks.attach(self.denoiser)

    def end_step(self) -> None:
        """End a guided step, also one that raised."""
        self._hooks.detach()
        self._stop_counting()

    def check_forwards(self) -> None:
        """Reject what needs no pass to be recognised; see `foreign_code.check_forwards`.

        `has_cache` then says whether there is a cache that goes together with guidance.
        """
        self.has_cache = foreign_code.check_forwards(self.denoiser, self.family, self.sites)

    @property
    def is_probed(self) -> bool:
        """True at the 1st, 2nd, 4th, 8th, ... guided step of a run."""
        n = self._guided_steps
        return n > 0 and n & (n - 1) == 0

    # --- the blocks of a pass ---------------------------------------------------------------------

    def patches(self, others: Sequence[patching.Patch], first: int = 0) -> list[patching.Patch]:
        """Return the patches of a pass with those that count calls, and begin to count.

        Args:
            others: the patches of the pass, whose modules are not counted.
            first: the position from which on blocks run in it.
        """
        self._stop_counting()
        taken: set[Entry] = {(parent, name) for parent, name, _ in others}
        begins = {site.entry for site in self.sites[:first]}
        running = {site.entry: site.address for site in self.sites[first:]}
        running = {e: name for e, name in running.items() if e not in taken and e not in begins}
        self._expected = [(name, self._blocks[entry]) for entry, name in running.items()]
        inner = {
            entry: counted
            for block in running
            for entry, counted in self._projections.get(block, {}).items()
            if entry not in taken  # by a projection without its LoRA
        }
        self._projected = list(inner.values())
        own = [(*entry, self._blocks[entry]) for entry in running]
        return [*others, *own, *((*entry, counted) for entry, counted in inner.items())]

    def _stop_counting(self) -> tuple[dict[str, int], dict[CountedModule, int]]:
        """Return how often blocks and projections ran, and count no more."""
        blocks = {name: len(counted.calls) for name, counted in self._expected}
        projections = {counted: len(counted.calls) for counted in self._projected}
        for counted in (*(counted for _, counted in self._expected), *self._projected):
            counted.calls.clear()
        self._expected, self._projected = [], []
        return blocks, projections

    def check_calls(self) -> None:
        """Check that each block of the pass that ended ran once, and stop counting.

        Raises:
            ValueError: for a block that did not, or ran several times, an attention that left out
                what it computed in the first pass of the run, or a hook that changed some calls of
                this step only.
        """
        blocks, projections = self._stop_counting()
        wrong = next((name for name, count in blocks.items() if count != 1), None)
        if wrong is not None:
            raise ValueError(
                f"each block of this {self.family.model} must run once in a pass, but"
                f' "{wrong}" ran {blocks[wrong]} times in one of guide(). A cache that keeps'
                " results between calls leaves blocks out, and the weak pass would get what it kept"
                f" of the others{self._suspect()}. Switch it off."
            )
        if undecided := self._hooks.undecided:
            raise ValueError(
                f"a hook on a {self.family.model} must do the same in each pass of a step, but"
                f" {foreign_code.describe(undecided[0])} changed one call and not another. A cache"
                " that keeps results between calls would mix those of weak passes with the others."
                " Switch it off."
            )
        for counted, count in projections.items():
            if self._usual_calls.setdefault(counted, count) != count:
                raise ValueError(
                    f"an attention of this {self.family.model} must compute the same in each pass,"
                    " but one whose processor is not of diffusers left something out. A cache that"
                    " keeps results between calls would mix those of weak passes with the others."
                    " Switch it off."
                )

    # --- a second call ----------------------------------------------------------------------------

    @property
    def repeat_is_due(self) -> bool:
        """True where the conditional pass of this step is to be run once more."""
        return self.is_probed and bool(self._unverified or self._hooks.changing)

    def check_repeat(self, c: Sequence[Tensor], again: Sequence[Tensor]) -> None:
        """Check that a conditional pass behind the weak ones gives the same predictions.

        Raises:
            ValueError: for other ones.
        """
        pairs = list(zip(c, again, strict=True))
        if all(
            torch.equal(own, other) or formula.equal_but_for_rounding(own, other, SAME_PREDICTION)
            for own, other in pairs
        ):
            return
        raise ValueError(
            f"a {self.family.model} must give the same prediction for the same inputs, but behind"
            f" a weak pass it gives another one{self._suspect()}. Something keeps a state between"
            " calls, such as a cache, which a weak pass changes. Switch it off."
        )

    def _suspect(self) -> str:
        hooks = [foreign_code.describe(hook) for hook in self._hooks.changing.values()]
        found = self._unverified or "".join(hooks[:1])
        return f" (there is {found})" if found else ""
