"""The cells of a model, and all their weak passes at one state from one conditional pass."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from skipguide.families import blocks
from skipguide.families.blocks import LayerSite
from skipguide.families.protocols import as_denoiser
from skipguide.families.schema import Family
from skipguide.method import parsing, perturbations
from skipguide.method.protocols import Inputs
from skipguide.method.terms import STG
from skipguide.pipeline import compat
from skipguide.pipeline.denoiser import GuidedDenoiser
from skipguide.tuning.scan.record import Cell, ScanOptions
from skipguide.weak import attention, patching
from skipguide.weak.prefix_cache import PrefixCache
from skipguide.weak.step_context import StepContext
from skipguide.weak.weak_pass import WeakOptions, WeakPass

Tensor = torch.Tensor
Patches = Sequence[patching.Patch]
Run = Callable[[Patches], tuple[Tensor, ...]]  # a pass of the denoiser under patches


# --- which cells ----------------------------------------------------------------------------------


def find_cells(
    family: Family, sites: Sequence[LayerSite], options: ScanOptions
) -> dict[Cell, tuple[int, ...]]:
    """Return the cells of a denoiser in the order in which they run, each with its positions.

    Of cells that weaken the same in the same way, such as both axes of a layer that has one, there
    is the first.

    Raises:
        ValueError: for a layer, skip or axis that the family has not.
    """
    skips = options.skips or _usual_skips(family)
    axes = (None, *family.axes) if options.axes is None else options.axes
    given = None if options.layers is None else parsing.parse_layers(options.layers)
    layers = _all_layers(family, sites) if given is None else given
    asked = given is not None and options.axes is not None  # each cell of them must be there
    found: dict[tuple[tuple[int, ...], str], Cell] = {}
    for layer in layers:
        for skip in skips:
            for axis in axes:
                term = STG(layers=[layer], skip=skip, axis=axis)
                if asked or _has_axis(family, sites, layer, axis):
                    where = tuple(blocks.resolve_layers(family, sites, term))
                    found.setdefault((where, skip), Cell(_address(family, layer), skip, axis))
    cells = {cell: where for (where, _), cell in found.items()}
    at, _ = places(family, sites, list(cells.values()))
    order = sorted(zip(at, cells, strict=True), key=lambda pair: pair[0])  # stable: skip, axis
    return {cell: cells[cell] for _, cell in order}


def _usual_skips(family: Family) -> tuple[str, ...]:
    there = perturbations.available_skips(family.traits)
    return tuple(skip for skip in ("residual", "attention") if skip in there)


def _all_layers(family: Family, sites: Sequence[LayerSite]) -> list[int | str]:
    if family.interleaved:
        return list(dict.fromkeys(site.index for site in sites))
    return list(dict.fromkeys(site.address for site in sites))


def _has_axis(
    family: Family, sites: Sequence[LayerSite], layer: int | str, axis: str | None
) -> bool:
    mine = [site.axis for site in sites if layer in (site.index, site.address)]
    return axis is None or not family.axes or axis in mine


def _address(family: Family, layer: int | str) -> str:
    """Return a layer as a user writes it, with its stack where the number alone means one block."""
    if isinstance(layer, str) or family.interleaved:
        return str(layer)
    return f"{next(iter(family.stacks))}:{layer}"


def places(
    family: Family, sites: Sequence[LayerSite], positions: Sequence[Sequence[int]]
) -> tuple[list[float], int]:
    """Return the place of each cell's layer among those that run one after the other, and their
    number."""
    names = [site.index if family.interleaved else site.address for site in sites]
    order = {name: n for n, name in enumerate(dict.fromkeys(names))}
    return [float(order[names[where[0]]]) for where in positions], len(order)


# --- their passes ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class PassTimes:
    """The passes of one state.

    Args:
        strong_passes: conditional passes that were run.
        seconds_strong, seconds_weak: what they took; weak ones with all that is measured of them.
    """

    strong_passes: int
    seconds_strong: float
    seconds_weak: float


class WeakCells:
    """The weak passes of all cells of one denoiser.

    Args:
        guided: the denoiser under a guidance without terms.
        options: which cells.

    Raises:
        ValueError: for a layer, skip or axis that the family has not, or a cache across steps.
    """

    def __init__(self, guided: GuidedDenoiser, options: ScanOptions):
        self.guided, family, sites = guided, guided.family, guided.sites
        guided.caches.require_off("a scan of layers")
        self.positions = find_cells(family, sites, options)
        if not self.positions:
            raise ValueError(
                f"a scan needs a layer to weaken, but this {family.model} has none along these"
                " axes. Leave axes out."
            )
        changed = {
            k
            for cell, where in self.positions.items()
            for k in where
            if cell.skip in attention.ATTENTION_EDITS
        }
        compat.check_attention_backends(sites, changed)
        self.step_context = StepContext(family.latent_layout, as_denoiser(guided.denoiser).config)
        self.limit = patching.ByteLimit(float("inf"))
        firsts = {where[0] for where in self.positions.values()}
        self.prefix_cache = PrefixCache(family, guided.denoiser, sites, firsts, self.limit)
        weak_options = WeakOptions(self.step_context)
        self.passes = [
            WeakPass(
                family, guided.denoiser, sites, where, cell.skip, self.prefix_cache, weak_options
            )
            for cell, where in self.positions.items()
        ]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells, in the order in which they run."""
        return tuple(self.positions)

    def begin_state(self, step: int, inputs: Inputs, max_bytes: float) -> None:
        """Begin a state: step of the run, inputs of the conditional pass, bytes to keep."""
        self.step_context.begin_step(step)
        self.step_context.observe_inputs(inputs)
        self.limit.size = max_bytes

    def run(
        self,
        run: Run,
        on_strong: Callable[[tuple[Tensor, ...]], None],
        on_weak: Callable[[int, tuple[Tensor, ...]], None],
    ) -> PassTimes:
        """Run a conditional pass and all weak ones from it.

        Where the states of all first layers are more than may be kept, this goes on in groups of
        layers, with the conditional pass once more for each.

        Args:
            run: a pass of the denoiser on the inputs of the state.
            on_strong: gets the conditional predictions, once.
            on_weak: gets the number of a cell and its weak predictions.
        """
        clock = _Clock(next(self.guided.denoiser.parameters()).device)
        left, count = sorted({weak.first_skipped for weak in self.passes}), 0
        with _uncompiled(self.guided.denoiser):
            while left:
                cs = run(self.guided.watch.patches(self.prefix_cache.patches(left)))
                clock.lap("strong")
                if count == 0:
                    on_strong(cs)
                count += 1
                ready = [k for k in left if k == left[0] or self.prefix_cache.has_state_for(k)]
                for cell, weak in enumerate(self.passes):
                    if weak.first_skipped in ready:
                        patches = self.guided.watch.patches(weak.patches(), weak.first_skipped + 1)
                        on_weak(cell, run(patches))
                self.prefix_cache.clear()
                clock.lap("weak")
                left = [k for k in left if k not in ready]
        return PassTimes(count, clock.seconds["strong"], clock.seconds["weak"])


def seconds_now(device: torch.device) -> float:
    """Return seconds of a clock, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


class _Clock:
    """Adds up seconds by name."""

    def __init__(self, device: torch.device):
        self.seconds, self._device = {"strong": 0.0, "weak": 0.0}, device
        self._last = seconds_now(device)

    def lap(self, name: str) -> None:
        now = seconds_now(self._device)
        self.seconds[name] += now - self._last
        self._last = now


@contextlib.contextmanager
def _uncompiled(denoiser: nn.Module) -> Iterator[None]:
    """Run a model that is compiled as a whole without that: each weak pass would be compiled anew.

    Compiled blocks stay, for they are the same in all passes.
    """
    if getattr(denoiser, "_compiled_call_impl", None) is None:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
