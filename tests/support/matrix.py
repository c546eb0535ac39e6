"""Which cases run in `make test`, and which only in `make test-matrix`.

A test that takes every tiny pipeline has some 80 cases. About a dozen of them, one for each way of
calling the denoiser and one for each shape of attention, find almost every mistake, so these are
the default; a case that names any other pipeline gets the marker `matrix`. Of a test that is marked
`diagonal` the default has a diagonal of the table that its parameters span: each value of each
parameter, but not each combination. The two selections together are all cases, and every test
function has at least one case in the default one."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
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
    "ZImagePipeline",  # images: batched, cond first, in lists, with c + g (c - u) for a formula
    "FluxFillPipeline",  # images, without CFG; dual and single blocks, text first out of both
    "StableDiffusion3Pipeline",  # images: batched; text first out of a block, two attentions in it
    "AnimateDiffPipeline",  # batched; a UNet (that of Stable Video Diffusion takes twice the time)
)
# The slowest of the tiny pipelines, which a test may leave to `make test-long`.
LARGE = ("AnimateDiffPipeline", "StableVideoDiffusionPipeline", "HunyuanVideo15Pipeline")
# Those whose attention has a shape of its own, which tests/families/test_more_images.py looks at.
OWN_TESTS = (
    "AuraFlowPipeline", "HiDreamImagePipeline", "Lumina2Pipeline", "Krea2Pipeline",
)  # fmt: skip
# The denoising loops of diffusers' Modular pipelines, which tests/test_guider.py builds.
MODULAR = ("modular Wan", "modular Wan 2.2", "modular LTX", "modular LTX2")
NAME_OF_PIPELINE = re.compile(r"\w+Pipeline( [\w.]+)?")


def mark_matrix(items: Iterable[pytest.Item]) -> None:
    """Give the marker `matrix` to the cases outside of the default selection."""
    functions: dict[str, list[Any]] = defaultdict(list)
    for item in items:
        functions[item.nodeid.split("[")[0]].append(item)
    for cases in functions.values():
        default = [case for case in cases if not names_another_pipeline(case)] or cases[:1]
        if cases[0].get_closest_marker("diagonal"):
            default = diagonal(default)
        kept = set(map(id, default))
        for case in cases:
            if id(case) not in kept:
                case.add_marker(pytest.mark.matrix)


def names_another_pipeline(item: Any) -> bool:
    """Whether a parameter of a test is a pipeline that stands for no others."""
    return not set(pipelines_of(item)) <= {*REPRESENTATIVES, *MODULAR}


def pipelines_of(item: Any) -> Iterator[str]:
    """The pipelines that the parameters of a test name."""
    call = getattr(item, "callspec", None)
    for value in call.params.values() if call else ():
        if isinstance(value, str) and value.startswith("modular "):
            yield value
        elif isinstance(value, str) and NAME_OF_PIPELINE.fullmatch(value):
            from support import tiny  # late, for it imports all of diffusers' pipelines

            yield from {value} & {*tiny.builders(), *tiny.without_cfg()}


def diagonal(cases: Sequence[Any]) -> list[Any]:
    """Cases in which each value of each parameter occurs, as few as the longest parameter has
    values: its t-th value with the t-th of the others, which begin again at their ends."""
    rows = [{name: repr(value) for name, value in c.callspec.params.items()} for c in cases]
    values = {name: list(dict.fromkeys(row[name] for row in rows)) for name in rows[0]}
    wanted = [
        {name: found[t % len(found)] for name, found in values.items()}
        for t in range(max(map(len, values.values())))
    ]
    return [case for case, row in zip(cases, rows, strict=True) if row in wanted]
