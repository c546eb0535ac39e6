"""Caches across steps on the command line: "first-block=0.1", "taylor-seer=4"."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

from skipguide.method.protocols import Pipeline

# Name -> (its number where none is said, the least that it may be). MagCache needs ratios that were
# measured on the model, and SeaCache a pipeline that tells of its step: they are for Python.
CACHES = {"first-block": (0.05, 0.0), "taylor-seer": (4.0, 1.0)}


def parse_cache(value: Any) -> str | None:
    """Return a cache as "name=number", complete; None is none.

    Raises:
        ValueError: for anything else.
    """
    if value is None:
        return None
    name, _, number = str(value).partition("=")
    usual, least = CACHES.get(name, (math.nan, math.inf))
    found = float(number) if number else usual
    if not (math.isfinite(found) and found >= least):
        raise ValueError("no such cache")
    if name == "taylor-seer" and found != int(found):
        raise ValueError("no whole number of steps")
    return f"{name}={found:g}"


@contextlib.contextmanager
def cache_steps(pipe: Pipeline, cache: str | None) -> Iterator[None]:
    """Switch a cache on for a `with` block, on each denoiser of a pipeline.

    Args:
        pipe: the pipeline.
        cache: as parse_cache() returns it.

    Raises:
        ValueError: for a model on which diffusers' cache does not work.
    """
    if cache is None:
        yield
        return
    from skipguide.models import placement

    switched: list[Any] = []
    try:
        for denoiser in placement.denoisers(pipe).values():
            _switch_on(denoiser, cache, type(pipe).__name__)
            switched.append(denoiser)
        yield
    finally:
        for denoiser in switched:
            denoiser.disable_cache()


def _switch_on(denoiser: Any, cache: str, owner: str) -> None:
    config = _make_config(denoiser, cache)
    try:
        denoiser.enable_cache(config)
    except (AttributeError, ValueError, IndexError) as error:
        raise ValueError(
            f"cache must be one that diffusers has for a {owner}, but {cache!r} does not work on"
            f" its {type(denoiser).__name__}: {error}. Leave out --cache."
        ) from error


def _make_config(denoiser: Any, cache: str) -> Any:
    name, _, number = cache.partition("=")
    if name == "first-block":
        from diffusers.hooks.first_block_cache import FirstBlockCacheConfig

        return FirstBlockCacheConfig(threshold=float(number))
    from diffusers.hooks.taylorseer_cache import TaylorSeerCacheConfig

    return TaylorSeerCacheConfig(
        cache_interval=int(number),
        cache_identifiers=_attentions_of_blocks(denoiser),
        taylor_factors_dtype=denoiser.dtype,
    )


def _attentions_of_blocks(denoiser: Any) -> list[str]:
    """Return the paths of a denoiser's self-attentions and feed-forward parts, as patterns."""
    from skipguide.families import lookup

    stacks = lookup.family_of_denoiser(denoiser).stacks.values()
    parts = "|".join(sorted({path for stack in stacks for path in stack.attention}))
    return [rf"{stack.path}\.\d+\.({parts}|ff|ffn)" for stack in stacks]
