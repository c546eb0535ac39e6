"""Which cases run in `make test`, and which only in `make test-matrix`.

A test that takes every tiny pipeline has some 80 cases. About a dozen of them, one for each way of
calling the denoiser and one for each shape of attention, find almost every mistake, so these are
the default; a case that names any other pipeline gets the marker `matrix`. The two selections
together are all cases, and every test function has at least one case in the default one."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

REPRESENTATIVES = (
    "MochiPipeline",  # batched; text and video packed into one sequence
    "LTX2Pipeline",  # batched, with video and audio as its outputs and a rescale of its own
    "CogVideoXPipeline",  # batched, with a scale that changes by itself; text before the video
    "LattePipeline",  # batched; blocks of space and of time in turn, a learned variance
    "SanaVideoPipeline",  # batched; linear attention
    "SanaWMPipeline",  # batched; attention for which no identity map is defined
    "WanPipeline",  # separate; plain self-attention
    "WanPipeline 2.2",  # separate, in two transformers with a scale each
    "HunyuanVideoPipeline",  # separate, beside embedded guidance; dual and single blocks
    "CosmosTextToWorldPipeline",  # separate, with c + g (c - u) for a formula
    "Kandinsky6TI2VAPipeline",  # separate, with video and audio as its outputs
    "HunyuanVideo15Pipeline",  # by a guider
    "StableVideoDiffusionPipeline",  # a UNet with a scale for each frame
    "AnimateDiffPipeline",  # a UNet with motion modules
)
NAME_OF_PIPELINE = re.compile(r"\w+Pipeline( [\w.]+)?")


def mark_matrix(items: Iterable[pytest.Item]) -> None:
    """Give the marker `matrix` to the cases that name a pipeline outside of REPRESENTATIVES.

    A function whose cases all name such pipelines keeps its first one in the default selection.
    """
    cases: dict[str, list[tuple[pytest.Item, bool]]] = defaultdict(list)
    for item in items:
        others = set(pipelines_of(item)) - set(REPRESENTATIVES)
        cases[item.nodeid.split("[")[0]].append((item, bool(others)))
    for found in cases.values():
        first = 1 if all(outside for _, outside in found) else 0
        for item, outside in found[first:]:
            if outside:
                item.add_marker(pytest.mark.matrix)


def pipelines_of(item: Any) -> Iterator[str]:
    """The tiny pipelines that the parameters of a test name."""
    call = getattr(item, "callspec", None)
    names = [
        value
        for value in (call.params.values() if call else ())
        if isinstance(value, str) and NAME_OF_PIPELINE.fullmatch(value)
    ]
    if names:
        from support.tiny import builders  # late, for it imports all of diffusers' pipelines

        yield from (name for name in names if name in builders())
