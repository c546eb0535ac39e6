"""Measure the map of a model's layers on trajectories of its own, inside of ComfyUI."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management  # pyright: ignore[reportMissingImports]
import comfy.model_sampling  # pyright: ignore[reportMissingImports]
import comfy.sample  # pyright: ignore[reportMissingImports]
import comfy.samplers  # pyright: ignore[reportMissingImports]
import comfy.utils  # pyright: ignore[reportMissingImports]
import torch

from ._skipguide.tuning.scan.layer_map import LayerMap
from ._skipguide.tuning.scan.levels import nearest_steps
from ._skipguide.tuning.scan.record import ScanOptions, ScanRecord, ScanState
from .blocks import Change
from .caches import refuse_cache
from .models import BlockChain
from .passes import model_pass, origin_of, outputs_of
from .scan import StateScan, cells_of
from .step import chain_of, requests_of

Tensor = torch.Tensor
_SHARE_OF_FREE = 1 / 3  # of the free memory, that recorded states may take


@dataclass(frozen=True)
class Sampling:
    """The settings by which a trajectory is sampled, as KSampler has them."""

    positive: Any
    negative: Any
    latent: dict[str, Any]
    cfg: float
    steps: int
    sampler: str
    scheduler: str


def measure(
    model: Any, how: Sampling, levels: Sequence[float], seeds: Sequence[int], layers: str,
    skips: Sequence[str],
) -> LayerMap:  # fmt: skip
    """Return the map of a model (a ModelPatcher); of several seeds the ranks have intervals.

    Raises:
        ValueError: for a model whose blocks are not known or that is guided already, layers that it
            does not have, or levels that are none.
    """
    if requests_of(model):
        raise ValueError(
            "the map must be that of the model itself, but skip guidance is on this one. Connect"
            " the model before these nodes."
        )
    _ = ScanOptions(levels=tuple(levels))  # which refuses what is no level
    refuse_cache(model.model_options)
    chain = chain_of(model)
    cells = cells_of(chain, layers, skips)
    progress = comfy.utils.ProgressBar(len(seeds) * len(levels))
    records = [
        _scan(model, chain, how, levels, seed, StateScan(chain, cells, _limit()), progress)
        for seed in seeds
    ]
    return LayerMap.build(records)


def _limit() -> float:
    device = comfy.model_management.get_torch_device()
    return comfy.model_management.get_free_memory(device) * _SHARE_OF_FREE


def _scan(
    model: Any, chain: BlockChain, how: Sampling, levels: Sequence[float], seed: int,
    scan: StateScan, progress: Any,
) -> ScanRecord:  # fmt: skip
    """Sample one trajectory as far as the last state, and measure its states on the way."""
    sampling = model.get_model_object("model_sampling")
    device = comfy.model_management.get_torch_device()
    sampler = comfy.samplers.KSampler(
        model, how.steps, device, how.sampler, how.scheduler, 1.0, model.model_options
    )
    sigmas = sampler.sigmas
    shares = [_noise_share(sampling, float(sigma)) for sigma in sigmas[:-1]]
    found = nearest_steps(shares, levels)
    wanted = {float(sigmas[step]): (level, step, share) for level, step, share in found}
    clone = model.clone()
    clone.set_model_sampler_post_cfg_function(
        _watch(scan, chain, wanted, len(shares), lambda: progress.update(1))
    )
    latent = comfy.sample.fix_empty_latent_channels(model, how.latent["samples"])
    noise = comfy.sample.prepare_noise(latent, seed, how.latent.get("batch_index"))
    last = max(step for _, step, _ in found)
    comfy.sample.sample_custom(
        clone, noise, how.cfg, comfy.samplers.sampler_object(how.sampler), sigmas[: last + 2],
        how.positive, how.negative, latent, noise_mask=how.latent.get("noise_mask"),
        disable_pbar=True, seed=seed,
    )  # fmt: skip
    return scan.record()


def _watch(
    scan: StateScan,
    chain: BlockChain,
    wanted: dict[float, tuple[float, int, float]],
    num_steps: int,
    done: Callable[[], None],
) -> Callable[[dict[str, Any]], Tensor]:
    """Return a function behind CFG that measures the wanted states and changes nothing."""

    def look(args: dict[str, Any]) -> Tensor:
        sigma = float(args["sigma"].flatten()[0])
        near = next((one for one in wanted if math.isclose(one, sigma, rel_tol=1e-6)), None)
        if near is None:
            return args["denoised"]
        level, step, share = wanted.pop(near)  # some samplers look at a level twice
        u = args.get("uncond_denoised") if args.get("uncond") is not None else None
        state = ScanState(step, num_steps, level, share, "diffusion_model", u is not None)

        def run(
            changes: Callable[[Sequence[Any]], dict[int, Change]], identities: Sequence[int]
        ) -> list[Tensor]:
            return outputs_of(args, model_pass(args, changes, identities))

        us = None if u is None else outputs_of(args, u)
        scan.add(state, run, outputs_of(args, origin_of(args)), us)
        done()
        return args["denoised"]

    return look


def _noise_share(sampling: Any, sigma: float) -> float:
    """Return the share of noise in x_t at a noise level."""
    if isinstance(sampling, comfy.model_sampling.CONST):  # flow matching
        return sigma
    flow = getattr(comfy.model_sampling, "COSMOS_RFLOW", None)
    if flow is not None and isinstance(sampling, flow):
        return sigma / (1 + sigma)
    return sigma / math.sqrt(1 + sigma * sigma)
