"""What Flux and Qwen-Image have beside other families: embeddings of an image (Redux), tokens of
other pictures that the pipelines cut off, a result of CFG that gets the length of c."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import pytest
import torch
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from diffusers.pipelines.flux.pipeline_flux_prior_redux import FluxPriorReduxPipeline
from PIL import Image

from skipguide import STG, CFGZero, guide
from skipguide.pipeline import guided_calls
from support import oracle
from support.tiny import tiny
from support.tiny.flux import row
from support.tiny.hunyuan import siglip
from support.written import assert_equal, by_hand

EMBEDS = ("prompt_embeds", "pooled_prompt_embeds")


def embed_a_picture() -> dict[str, torch.Tensor]:
    """What FluxPriorReduxPipeline makes of one: 512 tokens of no text, and 4 of the picture."""
    torch.manual_seed(0)
    encoder = ReduxImageEncoder(redux_dim=8, txt_in_features=1)
    encoder.redux_up, encoder.redux_down = torch.nn.Linear(8, 16), torch.nn.Linear(16, 4096)
    prior: Any = FluxPriorReduxPipeline(image_embedder=encoder.eval(), **siglip())
    return dict(prior(Image.linear_gradient("L").convert("RGB")))


def test_redux_hands_its_embeddings_to_a_guided_pipeline() -> None:
    found = embed_a_picture()
    assert [tuple(found[name].shape) for name in EMBEDS] == [(1, 516, 4096), (1, 768)]
    small = row("FluxPipeline", {}, joint_attention_dim=4096, pooled_projection_dim=768)(
        torch.float32
    )
    off = {name: None for name in small.call if name.startswith("negative_")}
    small = dataclasses.replace(small, call={**small.call, **found, **off, "true_cfg_scale": 1.0})
    term = STG(["single:1"], 1.3)
    plain = oracle.run(small, **small.short)
    with guide(small.pipe, term) as handle:
        ours = oracle.run(small, **small.short)
    assert_equal(small, ours, by_hand(small, [term]), plain)
    assert handle.passes_per_step == pytest.approx(1 + 1 / 5)


def test_tokens_that_the_pipeline_cuts_off_take_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deviations of a rescaling are those of the image's own tokens."""
    small = tiny("FluxKontextPipeline")
    seen: list[int] = []
    real = guided_calls.GuidedCalls._extract_predictions

    def note(self: guided_calls.GuidedCalls, output: object) -> tuple[torch.Tensor, ...]:
        found = real(self, output)
        seen.append(found[0].shape[1])
        return found

    monkeypatch.setattr(guided_calls.GuidedCalls, "_extract_predictions", note)
    with guide(small.pipe, STG(["single:1"], 1.3), rescale=0.7), oracle.listening(small) as heard:
        oracle.run(small, **small.short)
    assert set(seen) == {16}
    assert {call.kwargs["hidden_states"].shape[1] for call in heard} == {32}


def test_a_rescaling_that_changes_nothing_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    small = tiny("QwenImagePipeline")
    with guide(small.pipe, STG([1], 1.3)):
        expected = oracle.run(small)
    with (
        caplog.at_level(logging.WARNING, "skipguide"),
        guide(small.pipe, STG([1], 1.3), rescale=0.7),
    ):
        ours = oracle.run(small)
        oracle.run(small, **small.off)
    said = [record.getMessage() for record in caplog.records if record.name == "skipguide"]
    assert len(said) == 1
    assert "rescale changes nothing in a step with CFG of a QwenImagePipeline" in said[0]
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_what_needs_d_as_it_is_is_refused() -> None:
    small = tiny("QwenImagePipeline")
    refused: list[tuple[dict[str, Any], str]] = [
        ({"cfg": CFGZero(zero_steps=1)}, "CFGZero"), ({"skip_step": 1}, "skip_step"),
    ]  # fmt: skip
    for options, name in refused:
        with (
            guide(small.pipe, STG([1], 1.3), **options),
            pytest.raises(ValueError, match=rf"{name}.* gives the result of CFG the length of c"),
        ):
            oracle.run(small)
