"""--cache: diffusers' caches across steps for one video, with and without guidance."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.hooks.first_block_cache import FirstBlockCacheConfig
from diffusers.hooks.taylorseer_cache import TaylorSeerCacheConfig

from skipguide import STG, guide
from skipguide.generate import describe, record, run
from skipguide.generate.resolve import resolve_settings
from skipguide.generate.settings import GenerationSettings, validate_settings
from support.tiny import tiny

CALL = {"height": 32, "width": 32, "num_frames": 7, "max_sequence_length": 16, "prompt": "a star"}
STEPS = 8
CONFIGS = {
    "first-block=0.3": FirstBlockCacheConfig(threshold=0.3),
    "taylor-seer=2": TaylorSeerCacheConfig(
        cache_interval=2,
        cache_identifiers=[r"transformer_blocks\.\d+\.(attn1|ff)"],
        taylor_factors_dtype=torch.float32,
    ),
}


def settings_for(pipe: Any, **given: Any) -> GenerationSettings:
    return resolve_settings(validate_settings({**CALL, "steps": STEPS, "layers": 2, **given}), pipe)


def by_hand(pipe: Any, cache: str, *terms: STG) -> tuple[np.ndarray, float]:
    """Frames and passes per step of the pipeline with a cache that was switched on by hand."""
    pipe.transformer.enable_cache(CONFIGS[cache])
    with warnings.catch_warnings():  # diffusers' own, which generate() keeps from the user
        warnings.filterwarnings("ignore", message="In CPU autocast")
        with guide(pipe, *terms) as handle:
            video = pipe(
                generator=torch.Generator().manual_seed(0), num_inference_steps=STEPS,
                output_type="np", **CALL,
            ).frames[0]  # fmt: skip
    pipe.transformer.disable_cache()
    return (video * 255).round().astype(np.uint8), handle.passes_per_step


@pytest.mark.parametrize("scale", [1.0, 0.0])
@pytest.mark.parametrize("cache", CONFIGS)
def test_the_frames_are_those_of_diffusers_cache(pipe: Any, cache: str, scale: float) -> None:
    expected, passes = by_hand(pipe, cache, STG([2], scale))
    settings = settings_for(pipe, stg_scale=scale, cache=cache)
    result = run.generate(pipe, settings)
    assert np.array_equal(result.frames, expected)
    assert result.passes_per_step == passes
    without = run.generate(pipe, settings_for(pipe, stg_scale=scale))
    assert not pipe.transformer.is_cache_enabled
    assert result.passes_per_step < without.passes_per_step
    made = record.build_record(settings, result, {})
    assert made["settings"]["cache"] == cache
    assert describe.describe_method(settings).endswith(f", cache {cache}")


def test_what_is_left_out_is_written_into_the_settings() -> None:
    for given, complete in (
        ("first-block", "first-block=0.05"),
        ("first-block=.10", "first-block=0.1"),
        ("taylor-seer", "taylor-seer=4"),
    ):
        assert validate_settings({**CALL, "cache": given}).cache == complete
    assert validate_settings(CALL).cache is None


@pytest.mark.parametrize(
    "cache", ["mag", "first-block=-1", "first-block=nan", "taylor-seer=2.5", "taylor-seer=x"]
)
def test_other_words_are_refused(cache: str) -> None:
    with pytest.raises(
        ValueError, match=re.escape(f"or taylor-seer=STEPS >= 1, but got '{cache}'")
    ):
        validate_settings({**CALL, "cache": cache})


def test_a_model_without_such_a_cache_is_named() -> None:
    from skipguide.generate.step_cache import cache_steps

    small = tiny("AllegroPipeline")
    with (
        pytest.raises(ValueError, match=r"'first-block=0\.05' does not work on its Allegro"),
        cache_steps(small.pipe, "first-block=0.05"),
    ):
        pass
    hooks = [m for m in small.pipe.transformer.modules() if hasattr(m, "_diffusers_hook")]
    assert not any(module._diffusers_hook.hooks for module in hooks)
