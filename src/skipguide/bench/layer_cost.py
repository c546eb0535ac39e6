"""List the layers of a denoiser: their addresses, their shares of a forward pass, and the cost of a
weak pass that skips one.

Costs are floating point operations, counted in two passes: of the model as it is, and with the
identity map in every self-attention. A weak pass need not be run: what it leaves out is what the
modules take that proxies replace in it."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from skipguide.families import blocks, lookup
from skipguide.families import rows as family_rows
from skipguide.families.examples import denoiser_class, example_of
from skipguide.families.protocols import as_denoiser
from skipguide.families.schema import Family
from skipguide.files import packaged
from skipguide.files.text import first_line
from skipguide.generate import run
from skipguide.generate.resolve import call_parameters, requires_image, resolve_settings
from skipguide.generate.settings import GenerationSettings, validate_settings
from skipguide.method.protocols import Pipeline, ReadOnlyInputs
from skipguide.models import loading
from skipguide.pipeline.warnings import ignore_cpu_autocast_warning
from skipguide.weak import flops, patching, weak_pass
from skipguide.weak import prefix_cache as prefix_cache_module
from skipguide.weak.step_context import StepContext

Inputs = ReadOnlyInputs
Candidate = Callable[[], tuple[nn.Module, Inputs]]  # a model and its inputs, to count a pass of
COUNTED_SKIPS = ("residual", "attention")  # the paper's own; others cost as much as one of them
SIZE_SETTINGS = ("height", "width", "num_frames")


def measure_layers(model: str, **sizes: int | None) -> dict[str, Any]:
    """List the layers of a model, and count what they take.

    Args:
        model: the name of a family or a lab model, a folder in diffusers layout, or a hub id. A
            family stands for its public checkpoint if it is a UNet, and for the narrow denoiser of
            its example if not.
        sizes: height, width, num_frames, where they are not the model's defaults; not for a family.

    Returns:
        What `skipguide layers --json` prints.

    Raises:
        ValueError: for an unknown model, one that guide() refuses, or sizes that it refuses.
    """
    given = {name: value for name, value in sizes.items() if value is not None}
    if model in (family.name for family in family_rows.FAMILIES):
        if given:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ValueError(
                f"{flags} cannot be set for a family, whose size is fixed, but the model is"
                f" {model!r}. Name a checkpoint instead."
            )
        return measure_family(model)
    _check_name(model)
    return measure_pipeline(loading.load_pipeline(model), model, given)


def _check_name(model: str) -> None:
    if "/" in model or model in packaged.NAMES or Path(model).exists():
        return  # load_pipeline() reports anything else that is wrong with it
    known = [*packaged.NAMES, *(family.name for family in family_rows.FAMILIES)]
    nearest = ", ".join(difflib.get_close_matches(model, known, n=3, cutoff=0.0))
    raise ValueError(
        "MODEL must be a lab model, a family, a folder with a model_index.json, or a hub id, but"
        f" got {model!r}. Nearest known: {nearest}."
    )


# --- a family: no weights -------------------------------------------------------------------------


def measure_family(name: str) -> dict[str, Any]:
    """List the layers of a family's class: of the public checkpoint where the example offers its
    size and the family has a UNet, of the example's narrow denoiser otherwise.

    Raises:
        ValueError: for an unknown family.
    """
    example = example_of(name)
    family = next(family for family in family_rows.FAMILIES if family.name == name)
    full = family.unet is not None and example.full is not None
    size = (
        f"the size of {family.checkpoint}"
        if full
        else "as narrow as in the bench, so that shares are not those of a checkpoint"
    )
    work = example.workload("full" if full else "narrow")

    def built(device: str) -> tuple[nn.Module, Inputs]:
        with torch.device(device):
            model = denoiser_class(family)(**work.config).eval()
            return nn.Module.to(model, device), work.inputs(1)

    found = _count_layers(family, [lambda: built("meta"), lambda: built("cpu")])
    title = {"model": name, "family": name, "denoiser": family.model, "size": size, "same": []}
    return {**title, **found}


# --- a pipeline -----------------------------------------------------------------------------------


def measure_pipeline(pipe: Pipeline, model: str, sizes: Mapping[str, int]) -> dict[str, Any]:
    """List the layers of a pipeline's denoiser, as a call with the model's defaults runs it.

    Raises:
        ValueError: for a pipeline that guide() refuses, or sizes that it refuses.
    """
    family = lookup.family_of(pipe)
    settings = default_settings(pipe, model, sizes)
    try:
        called, inputs = capture_denoiser_call(pipe, settings, lookup.denoisers_of(pipe, family))
        found = _count_layers(
            family,
            [
                lambda: (flops.build_meta_model(called), flops.to_meta_tensors(inputs)),
                lambda: (called, inputs),
            ],
        )
    except RuntimeError as error:
        asked = " x ".join(str(getattr(settings, name)) for name in SIZE_SETTINGS)
        raise ValueError(
            f"height x width x frames must be a size that {model} can run, but {asked} failed"
            f" ({first_line(error)}). Choose another size with --height, --width or --num-frames."
        ) from error
    size = (
        f"{settings.width or 'its own'} x {settings.height or 'its own'},"
        f" {settings.num_frames or 'its own'} frames"
    )
    title = {"model": model, "family": family.name, "denoiser": type(called).__name__, "size": size}
    return {**title, "same": _denoisers_with_same_layers(pipe, family), **found}


def default_settings(pipe: Pipeline, model: str, sizes: Mapping[str, int]) -> GenerationSettings:
    """Return the model's own settings without guidance, with an image if it needs one."""
    given = {"prompt": "a video"} if "prompt" in call_parameters(pipe) else {}
    given |= {"image": "grey.png"} if requires_image(pipe) else {}
    return resolve_settings(
        validate_settings({**given, "model": model, "stg_scale": 0.0, **sizes}), pipe
    )


class _DenoiserCalled(Exception):
    """Ends a run at the first call of a denoiser."""


def capture_denoiser_call(
    pipe: Pipeline, settings: GenerationSettings, denoisers: Sequence[nn.Module]
) -> tuple[nn.Module, dict[str, Any]]:  # fmt: skip
    """Return the denoiser that a run calls first, and its inputs. The run ends there."""
    from PIL import Image

    caught: list[tuple[nn.Module, dict[str, Any]]] = []

    def catch(denoiser: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caught.append(
            (denoiser, patching.bind_inputs(inspect.signature(denoiser.forward), args, kwargs))
        )
        raise _DenoiserCalled

    hooks = [
        denoiser.register_forward_pre_hook(catch, with_kwargs=True, prepend=True)
        for denoiser in denoisers
    ]
    try:
        run.generate(
            pipe, settings, image=Image.new("RGB", (64, 64), "grey") if settings.image else None
        )
    except _DenoiserCalled:
        return caught[0]
    finally:
        for hook in hooks:
            hook.remove()
    raise ValueError(
        f"a run of {type(pipe).__name__} was expected to call its denoiser, but did not. Please"
        " report this as a bug."
    )


def _denoisers_with_same_layers(pipe: Pipeline, family: Family) -> list[str]:
    """Return the names of a pipeline's two denoisers if their layers have the same addresses."""
    held = {
        name: denoiser
        for name in family.denoisers
        if (denoiser := getattr(pipe, name, None)) is not None
    }
    addresses = [
        [site.address for site in blocks.layer_sites(family, denoiser)]
        for denoiser in held.values()
    ]
    return list(held) if len(held) > 1 and all(found == addresses[0] for found in addresses) else []


# --- counting -------------------------------------------------------------------------------------


def _count_layers(family: Family, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """Count with the first candidate that runs: on the meta device, or else in a real pass.

    A model that looks at numbers (Mochi at its mask) fails on the meta device, which has none.
    """
    *trials, last = candidates
    for build in trials:
        try:
            return {**_build_rows(family, *build()), "counted": "without weights"}
        except Exception:  # the lack of numbers can surface as any error
            continue
    return {**_build_rows(family, *last()), "counted": "in a real pass"}


class PassOperations:
    """The floating point operations of a forward pass of a denoiser, and of its weak passes.

    Args:
        family: the row of the denoiser.
        denoiser: the model, on the meta device or with its weights.
        inputs: of a call, on the same device.
    """

    def __init__(self, family: Family, denoiser: nn.Module, inputs: Inputs):
        self.family, self.denoiser = family, denoiser
        self.sites = blocks.layer_sites(family, denoiser)
        with ignore_cpu_autocast_warning(), torch.no_grad():
            self._plain = flops.count_flops_by_module(denoiser, inputs)
            with patching.patched(list(_identity_patches(self.sites))):
                self._identity = flops.count_flops_by_module(denoiser, inputs)
        self._paths = {id(module): path for path, module in denoiser.named_modules()}
        self._step_context = StepContext(family.latent_layout, as_denoiser(denoiser).config)

    @property
    def total(self) -> int:
        """The operations of a forward pass."""
        return self._plain[""]

    def share(self, where: Sequence[int]) -> float:
        """Return the share of a forward pass that layers take, by their positions."""
        taken = {
            entry: self._count(self._plain, patching.get_child(*entry))
            for k in where
            for entry in blocks.modules_to_bypass(self.sites, k, where)
        }
        return sum(taken.values()) / self.total

    def cost(self, where: Sequence[int], skip: str) -> float | None:
        """Return what a weak pass computes that starts at its first skipped layer.

        Returns:
            A part of a forward pass; None where a layer has no self-attention to skip.
        """
        if skip == "attention" and not all(self.sites[k].stack.attention for k in where):
            return None
        cache = prefix_cache_module.PrefixCache(self.family, self.denoiser, self.sites, {where[0]})
        options = weak_pass.WeakOptions(self._step_context)
        weak = weak_pass.WeakPass(
            self.family, self.denoiser, self.sites, where, skip, cache, options
        )
        return 1 - sum(self._left_out(proxy) for _, _, proxy in weak.shared_patches) / self.total

    def _count(self, counted: Mapping[str, int], module: nn.Module) -> int:
        return counted.get(self._paths[id(module)], 0)  # without operations it is not in it

    def _left_out(self, proxy: nn.Module) -> int:
        real = proxy.__dict__["real"]
        if isinstance(proxy, patching.IdentityAttention):
            return self._count(self._plain, real) - self._count(self._identity, real)
        replaced = (patching.Bypass, patching.ReplayOutput, patching.ZeroOutput)
        return self._count(self._plain, real) if isinstance(proxy, replaced) else 0


def count_weak_passes(
    family: Family,
    denoiser: nn.Module,
    inputs: Inputs,
    weakened: Sequence[tuple[Sequence[int], str]],
) -> list[float]:
    """Return the cost of weak passes that share their prefix, as parts of a forward pass.

    They are counted without weights, or in a real pass of the denoiser where that cannot run.

    Args:
        inputs: of a call of the denoiser.
        weakened: for each pass the positions of its layers, sorted, and the kind of skip.
    """

    def costs(model: nn.Module, given: Inputs) -> list[float]:
        passes = PassOperations(family, model, given)
        found = [passes.cost(where, skip) for where, skip in weakened]
        return [math.nan if cost is None else cost for cost in found]

    try:
        return costs(flops.build_meta_model(denoiser), flops.to_meta_tensors(inputs))
    except Exception:  # the lack of numbers can surface as any error
        return costs(denoiser, inputs)


def _build_rows(family: Family, denoiser: nn.Module, inputs: Inputs) -> dict[str, Any]:
    """Count the layers in the order in which they run, and the share of everything else."""
    passes = PassOperations(family, denoiser, inputs)
    sites = passes.sites

    def row(where: Sequence[int]) -> dict[str, Any]:
        costs = {skip: passes.cost(where, skip) for skip in COUNTED_SKIPS}
        return {"share": passes.share(where), **costs}

    rows = []
    for address in dict.fromkeys(site.address for site in sites):
        where = [k for k, site in enumerate(sites) if site.address == address]
        axes = [sites[k].axis or "joint" for k in where]
        halves = (
            {axis: row([k]) for axis, k in zip(axes, where, strict=True)} if len(where) > 1 else {}
        )
        rows.append({"layer": address, "axes": axes, **row(where), "halves": halves})
    rest = 1 - sum(found["share"] for found in rows)
    return {"flops": passes.total, "layers": rows, "rest": rest}


def _identity_patches(sites: Sequence[blocks.LayerSite]) -> list[patching.Patch]:
    """Return the patches that put the identity map into every self-attention."""
    return [
        (*entry, patching.IdentityAttention(patching.get_child(*entry), values))
        for site in sites
        for entry, values in site.attentions()
    ]
