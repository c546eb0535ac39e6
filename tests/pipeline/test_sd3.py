"""Stable Diffusion 3's own skip guidance (`skip_guidance_layers`): ours is equal to it, is added to
it with a word about it, or replaces it. And PAG for it."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import pytest
import torch

from skipguide import STG, guide
from support import oracle
from support.tiny import tiny
from support.tiny.base import Tiny
from support.tiny.sd3 import row
from support.written import assert_equal

NAME = "StableDiffusion3Pipeline"
OWN: dict[str, Any] = dict(
    skip_guidance_layers=[1, 2], skip_layer_guidance_scale=1.3, skip_layer_guidance_start=0.01,
    skip_layer_guidance_stop=0.7,
)  # fmt: skip
TERM = STG([1, 2], 1.3, start=0.01, stop=0.7)


@pytest.fixture
def small() -> Tiny:
    return tiny(NAME)


def test_equals_diffusers_own_skip_guidance(small: Tiny) -> None:
    """In a window, with several layers; on the first step theirs never is."""
    plain, theirs = oracle.run(small), oracle.run(small, **OWN)
    with guide(small.pipe, TERM) as handle:
        ours = oracle.run(small)
    assert_equal(small, ours, theirs, plain)
    # of 3 steps the two after the first; theirs run block 0 and 3 again, ours block 3
    assert handle.passes_per_step == pytest.approx(2 + 2 / 3 * 1 / 4)


def test_price_of_stabilitys_setting() -> None:
    """Layers 7, 8, 9 of 24: 2.58 of 3 passes at a guided step."""
    deep = row(type(tiny(NAME).pipe), {}, num_layers=24)(torch.float32)
    with guide(deep.pipe, STG([7, 8, 9], 2.8)) as handle:
        oracle.run(deep, **deep.short)
    assert handle.passes_per_step == pytest.approx(2 + 14 / 24)


def test_beside_their_own_it_is_added_and_that_is_said(
    small: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    """The same push twice is one of twice the scale, at steps without ours as well."""
    with caplog.at_level(logging.WARNING, "skipguide"), guide(small.pipe, TERM) as handle:
        both = oracle.run(small, **OWN)
    said = [record.message for record in caplog.records]
    assert len(said) == 1
    assert "guidance of its own on (skip_layer_guidance_scale=1.3)" in said[0]
    twice = oracle.run(small, **{**OWN, "skip_layer_guidance_scale": 2.6})
    assert_equal(small, both, twice, oracle.run(small, **OWN))
    assert handle.passes_per_step == pytest.approx(2 + 2 / 3 * 5 / 4)
    with guide(small.pipe, STG([1, 2], 1.3, start=0.5, stop=0.7)):
        late = oracle.run(small, **OWN)
    assert not torch.equal(late, both)
    with guide(small.pipe, STG([3], 0.7, stop=0.3)):  # none of ours where theirs is
        apart = oracle.run(small, **OWN)
    assert not torch.equal(apart, oracle.run(small, **OWN))


@pytest.mark.parametrize("phi", [0.0, 0.7])
def test_replaced_it_leaves_no_trace(
    small: Tiny, caplog: pytest.LogCaptureFixture, phi: float
) -> None:
    term = STG([3], 0.9)
    with guide(small.pipe, term, rescale=phi):
        ours = oracle.run(small)
    with (
        caplog.at_level(logging.WARNING, "skipguide"),
        guide(small.pipe, term, rescale=phi, replace_own=True) as handle,
    ):
        assert torch.equal(oracle.run(small, **OWN), ours)
        assert handle.passes_per_step == 2  # layer 3 is the last: nothing is computed again
        assert torch.equal(oracle.run(small), ours)
    assert caplog.records == []
    theirs = oracle.run(small, **OWN)
    assert not torch.equal(theirs, ours)


def test_off_it_is_not_spoken_of(small: Tiny, caplog: pytest.LogCaptureFixture) -> None:
    """Its scale is 2.8 by default, which means nothing without layers."""
    with caplog.at_level(logging.WARNING, "skipguide"), guide(small.pipe, TERM):
        oracle.run(small)
        oracle.run(small, **OWN, **small.off)  # without CFG there is none
    assert caplog.records == []


def test_the_preset_replaces_it(caplog: pytest.LogCaptureFixture) -> None:
    """At a scale of 2.8 from 1 % to 20 % of a run, once: diffusers' own with the same setting."""
    deep = row(type(tiny(NAME).pipe), {}, num_layers=24)(torch.float32)
    steps, own = dict(num_inference_steps=12), dict(skip_guidance_layers=[7, 8, 9])
    plain, theirs = oracle.run(deep, **steps), oracle.run(deep, **steps, **own)
    with caplog.at_level(logging.WARNING, "skipguide"), guide(deep.pipe, STG.preset(deep.pipe)):
        assert_equal(deep, oracle.run(deep, **steps), theirs, plain)
        assert_equal(deep, oracle.run(deep, **steps, **own), theirs, plain)
    assert caplog.records == []


def test_the_preset_serves_pipelines_without_any() -> None:
    small = tiny("StableDiffusion3Img2ImgPipeline")
    term = dataclasses.replace(TERM, preset_options={"replace_own": True})
    with guide(small.pipe, term) as handle:
        oracle.run(small)
    assert handle.passes_per_step > 2
    with pytest.raises(ValueError, match=r"replace_own is for pipelines with guidance of their"):
        guide(small.pipe, TERM, replace_own=True)


@pytest.mark.parametrize("cfg", [True, False], ids=["cfg", "no cfg"])
def test_pag_is_a_skip_of_tokens(cfg: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of SD3: diffusers' processors leave out norms and the second attention that SD3.5 has."""
    name = "StableDiffusion3PAGPipeline"
    plain_blocks = dict(dual_attention_layers=(), qk_norm=None)
    small = row(type(tiny(name).pipe), dict(pag_scale=0.0), **plain_blocks)(torch.float32)
    monkeypatch.setattr(small.pipe, "pag_applied_layers", ["blocks.(1|2)"])
    options = {**small.short, **({} if cfg else small.off)}
    plain, theirs = oracle.run(small, **options), oracle.run(small, **options, pag_scale=3.0)
    with guide(small.pipe, STG([1, 2], 3.0, "tokens")):
        assert_equal(small, oracle.run(small, **options), theirs, plain)
    with guide(small.pipe, STG([1, 2], 3.0, "attention")):  # which takes the text from the image
        assert (oracle.run(small, **options) - theirs).abs().max() > 1e-3
