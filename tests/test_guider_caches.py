"""SkipGuidance beside caches across steps, against copies of the denoiser with a cache each
(support/cached.py)."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from diffusers.guiders.classifier_free_guidance import ClassifierFreeGuidance

from skipguide import SLG, STG
from skipguide.guider import SkipGuidance
from support import oracle
from support.cached import STEPS, Copies, Copy, Push, by_copies, configs
from support.modular import MODULAR
from support.tiny import builders
from support.tiny.base import Tiny

G = 4.5
# MotifVideo sets contexts and LTX's Modular pipeline too; Wan's sets none.
PIPELINES = ["MotifVideoPipeline", "modular LTX", "modular Wan"]
CACHES = ["first block", "mag", "taylor seer", "pyramid"]


@functools.cache
def build(name: str) -> Tiny:
    return MODULAR[name]() if name in MODULAR else builders()[name](torch.float32)


def run(small: Tiny, guider: Any) -> torch.Tensor:
    if name_of(small) == "MotifVideoPipeline":
        small.pipe.register_modules(guider=guider)
    else:
        small.pipe.update_components(guider=guider)
    with torch.no_grad():
        return oracle.run(small, num_inference_steps=STEPS)


def name_of(small: Tiny) -> str:
    return type(small.pipe).__name__


def config_of(small: Tiny, cache: str) -> Any:
    """The first block of the tiny MotifVideo changes by more than that of the others."""
    config = copy.deepcopy(configs()[cache])
    if cache == "first block" and name_of(small) == "MotifVideoPipeline":
        config.threshold = 0.8
    return config


def by_hand(small: Tiny, copies: Copies) -> torch.Tensor:
    with by_copies(small, copies):
        return run(small, ClassifierFreeGuidance(guidance_scale=G))


def cached(small: Tiny, cache: str, *terms: Any, **options: Any) -> torch.Tensor:
    model = small.pipe.transformer
    model.enable_cache(config_of(small, cache))
    try:
        return run(small, SkipGuidance(terms=terms, guidance_scale=G, **options))
    finally:
        model.disable_cache()


def passes_of(small: Tiny, cache: str, *pushes: Push, **more: Any) -> Copies:
    model, config = small.pipe.transformer, config_of(small, cache)
    return Copies(Copy(model, config, "cond"), Copy(model, config, "uncond"), pushes, **more)


@pytest.mark.diagonal
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("name", PIPELINES)
def test_each_batch_is_that_of_a_copy_with_a_cache_of_its_own(name: str, cache: str) -> None:
    """Two terms, of which one begins late, and again with SLG that ends."""
    small = build(name)
    model, config = small.pipe.transformer, config_of(small, cache)
    third = "single:0" if name == "MotifVideoPipeline" else 2  # which has two blocks before it
    pushes = [
        Push(Copy(model, config, "weak 0", skipped=[2]), 1.0),
        Push(Copy(model, config, "weak 1", skipped=[1]), 0.5, range(4, STEPS)),
    ]
    theirs = by_hand(small, passes_of(small, cache, *pushes))
    terms = [STG([third]), STG([1], 0.5, start=0.4)]
    ours = cached(small, cache, *terms)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
    assert torch.equal(cached(small, cache, *terms), ours)  # no states of the run before
    assert torch.equal(cached(small, cache, *terms, share_prefix=False), ours)
    uncached = run(small, SkipGuidance(terms=terms, guidance_scale=G))
    assert (uncached - ours).abs().max() > 1e-3, "the cache changed nothing"

    weak = Copy(model, config, "uncond weakened", skipped=[1])
    theirs = by_hand(small, passes_of(small, cache, weak_uncond=weak, uncond_steps=range(2, 7)))
    ours = cached(small, cache, SLG([1], start=0.2, stop=0.7))
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
