"""Bugs of other implementations that could have a twin here (read or run in their code); each test
names its bug."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from skipguide import SLG, STG, guide
from support import oracle
from support.tiny import tiny
from support.tiny.base import Tiny


def guided(small: Tiny, *terms: Any, rescale: float = 0.0, **options: Any) -> torch.Tensor:
    with guide(small.pipe, *terms, rescale=rescale):
        return oracle.run(small, **{**small.short, **options})


def plain(small: Tiny, **options: Any) -> torch.Tensor:
    return oracle.run(small, **{**small.short, **options})


def calls_of(small: Tiny, *terms: Any, **options: Any) -> list[dict[str, Any]]:
    """The inputs of every call of the denoiser, weak passes included."""
    calls: list[dict[str, Any]] = []

    def note(model: Any, args: Any, kwargs: dict[str, Any]) -> None:
        calls.append(kwargs)

    with guide(small.pipe, *terms):
        hook = small.pipe.transformer.register_forward_pre_hook(note, with_kwargs=True)
        try:
            oracle.run(small, **{**small.short, **options})
        finally:
            hook.remove()
    return calls


# --- diffusers' guiders ---------------------------------------------------------------------------


def test_a_list_of_layers_works() -> None:
    """diffusers SkipLayerGuidance([7, 8, 9]) passes an int where a list is asked for, and
    crashes."""
    small = tiny("WanPipeline")
    assert not torch.equal(guided(small, STG([0, 1, 2])), plain(small))


@pytest.mark.parametrize(
    "name",
    ["LTXPipeline", "MochiPipeline", "WanPipeline", "CogVideoXPipeline", "HunyuanVideoPipeline"],
)
def test_attention_skip_works_on_the_five_families_where_it_crashes_there(name: str) -> None:
    """diffusers' attention skip and PAG fail on them: `no attribute is_cross_attention`, processors
    not registered."""
    small = tiny(name)
    assert not torch.equal(guided(small, STG([1], skip="attention")), plain(small))


@pytest.mark.parametrize("name", ["WanPipeline", "LTXPipeline", "HunyuanVideoPipeline"])
def test_without_cfg_the_weak_pass_is_weak_and_the_formula_the_same(name: str) -> None:
    """diffusers SkipLayerGuidance without CFG runs an unskipped second pass with the negative
    prompt."""
    small = tiny(name)
    path = {"WanPipeline": "blocks.1"}.get(name, "transformer_blocks.1")
    theirs = oracle.by_hand(small, [oracle.Term([path], "residual", [1.0, 1.0])], [], **small.off)
    torch.testing.assert_close(guided(small, STG([1]), **small.off), theirs, atol=2e-5, rtol=1e-4)


def test_a_bare_number_is_always_a_layer_of_the_first_stack() -> None:
    """diffusers' fqn="auto" takes HunyuanVideo's double or single blocks at random, by the hash of
    a set."""
    small = tiny("HunyuanVideoPipeline")
    assert torch.equal(guided(small, STG([1])), guided(small, STG(["dual:1"])))
    assert not torch.equal(guided(small, STG([1])), guided(small, STG(["single:1"])))


def test_a_window_that_selects_no_step_is_an_error() -> None:
    """diffusers' default window, 0.01 to 0.2 with strict bounds, guides 0 of 4 or 8 steps without a
    word."""
    with pytest.raises(ValueError, match="selects none of the 2 of this run"):
        guided(tiny("WanPipeline"), STG([1], start=0.01, stop=0.2))


def test_the_first_step_is_guided() -> None:
    """The same strict bounds leave out step 0 whatever the window."""
    small = tiny("WanPipeline")
    assert not torch.equal(guided(small, STG([1], stop=0.5)), plain(small))


@pytest.mark.parametrize("layers", [[1, 99], [-1], [42]])
def test_a_layer_that_is_not_there_is_an_error_also_among_others(layers: list[int]) -> None:
    """diffusers accepts [1, 99] of 4 blocks. Of 28, LTX-Video's distilled configs name block 42;
    docs say 0 to 41."""
    with pytest.raises(ValueError, match="must be from 0 to 3"):
        guide(tiny("LTXPipeline").pipe, STG(layers))


def test_every_layer_has_an_effect_of_its_own() -> None:
    """SEG in diffusers never applies; FastVideo ignores all but its configured one; LTX-Video's
    `residual` is void."""
    small = tiny("LTX2Pipeline")
    found = [
        plain(small),
        *(
            guided(small, STG([layer], skip=skip))
            for layer in range(4)
            for skip in ("residual", "attention")
        ),
    ]
    distances = torch.stack([torch.stack([(a - b).abs().max() for a in found]) for b in found])
    assert (distances + torch.eye(len(found))).min() > 1e-3


# --- pipelines of the paper's authors and of the community ----------------------------------------


@pytest.mark.parametrize(
    "name", ["MochiPipeline", "LTXPipeline", "WanPipeline", "HunyuanVideoPipeline"]
)
def test_a_plain_run_after_a_guided_one_is_plain(name: str) -> None:
    """STGuidance leaves the patched block behind: every later CFG run skips it, in both rows."""
    small = tiny(name)
    before = plain(small)
    guided(small, STG([1]))
    assert torch.equal(plain(small), before)


@pytest.mark.parametrize("name", ["MochiPipeline", "LTXPipeline", "CogVideoXPipeline"])
def test_cond_rows_are_not_weakened_with_two_prompts(name: str) -> None:
    """Community pipelines hard-code [2:] and weaken cond with two prompts; LTX-Video's mask is
    strided wrong."""
    small = tiny(name)
    options = {k: v[:1] for k, v in small.call.items() if torch.is_tensor(v) and len(v) == 2}
    latents = small.pipe(
        **small.call,
        generator=[torch.Generator().manual_seed(s) for s in (0, 1)],
        return_dict=False,
    )
    with guide(small.pipe, STG([1]), rescale=0.7):
        both = small.pipe(
            **small.call,
            generator=[torch.Generator().manual_seed(s) for s in (0, 1)],
            return_dict=False,
        )[0]
        alone = small.pipe(
            **{**small.call, **options},
            generator=torch.Generator().manual_seed(0),
            return_dict=False,
        )[0]
    torch.testing.assert_close(both[:1], alone, atol=1e-4, rtol=1e-4)
    assert not torch.equal(both, latents[0])


@pytest.mark.parametrize("name", ["WanPipeline", "HunyuanVideoPipeline", "LTXPipeline"])
def test_the_weak_pass_has_the_positive_prompt(name: str) -> None:
    """STGuidance's Wan and musubi give it the negative one, which is another formula."""
    small = tiny(name)
    embeds = [call["encoder_hidden_states"] for call in calls_of(small, STG([1]))]
    for step in range(2):
        c, weak, u = embeds[3 * step : 3 * step + 3]
        assert torch.equal(weak, c)
        assert not torch.equal(weak, u)


def test_a_window_is_of_steps_and_not_of_blocks() -> None:
    """STGuidance's HunyuanVideo shadows its step counter by the loop over blocks."""
    small = tiny("HunyuanVideoPipeline")
    with guide(small.pipe, STG(["single:2"], start=0.5)) as handle:
        oracle.run(small, num_inference_steps=4)
    assert handle.passes.weak == pytest.approx(0)  # the last block: nothing is left after it
    with guide(small.pipe, STG(["single:1"], start=0.5)) as handle:
        oracle.run(small, num_inference_steps=4)
    assert handle.passes.weak == pytest.approx(2 * 1 / 5)


def test_hunyuan_can_be_rescaled() -> None:
    """STGuidance's HunyuanVideo with do_rescaling: NameError noise_pred_text."""
    small = tiny("HunyuanVideoPipeline")
    assert not torch.equal(guided(small, STG([1]), rescale=0.7), guided(small, STG([1])))


# --- others ---------------------------------------------------------------------------------------


def test_guidance_that_starts_later_does_start() -> None:
    """kijai's HunyuanVideoWrapper: start_percent > 0 switches STG off for good, and doubles the
    batch."""
    small = tiny("HunyuanVideoPipeline")
    with guide(small.pipe, STG([1], start=0.5)) as handle:
        ours = oracle.run(small, **small.short)
    assert not torch.equal(ours, plain(small))
    assert handle.passes.weak == pytest.approx(
        3 / 5
    )  # one of two steps; 5 blocks, 3 after the second


def test_a_scale_of_one_runs_no_cfg_and_no_guidance_that_was_not_asked_for() -> None:
    """diffusers' LTX-2: guidance_scale=1 silently runs CFG, STG and modality guidance (#14649)."""
    small = tiny("LTX2Pipeline")
    assert len(calls_of(small, STG([1], scale=0.0), **small.off)) == 2
    assert len(calls_of(small, STG([1]), **small.off)) == 4


@pytest.mark.parametrize("prompts", [1, 2])
def test_slg_leaves_cond_alone_in_a_batch_of_any_size(prompts: int) -> None:
    """KJNodes: a joint batch of any size but 2 skips cond too. docs.comfy.org says negative, the
    code does cond."""
    small = tiny("LTXPipeline")
    options = {k: v[:prompts] for k, v in small.call.items() if torch.is_tensor(v) and len(v) == 2}
    outputs: list[torch.Tensor] = []
    hook = small.pipe.transformer.register_forward_hook(lambda *args: outputs.append(args[-1][0]))
    plain(small, **options)
    with guide(small.pipe, SLG([1])):
        oracle.run(small, **{**small.short, **options})
    hook.remove()
    u, c = outputs[0].chunk(2)  # the plain run: one call a step
    ours_c, ours_u = outputs[2], outputs[3]
    torch.testing.assert_close(ours_c, c, atol=1e-5, rtol=1e-5)
    assert (ours_u - u).abs().max() > 1e-2


def test_a_skipped_block_keeps_its_vace_hint() -> None:
    """Wan2GP: the stream loses its VACE hints in the skipped block."""
    small = tiny("WanVACEPipeline")
    kept = [guided(small, STG([0])), guided(small, STG([0]), conditioning_scale=0.0)]
    model = small.pipe.transformer
    assert 0 in model.config.vace_layers
    theirs = oracle.by_hand(small, [oracle.Term(["blocks.0"], "residual", [1.0])], [])
    torch.testing.assert_close(kept[0], theirs, atol=2e-5, rtol=1e-4)
    assert not torch.equal(kept[0], kept[1])


@pytest.mark.parametrize("layer", ["7-9", "-1", "9,10", "single:-1", "single"])
def test_layers_are_not_guessed_from_text(layer: str) -> None:
    """ComfyUI's SLG reads "7-9" as 7 and 9, and "-1" as 1."""
    with pytest.raises(ValueError, match='a layer must be an int or "stack:int"'):
        STG([layer])


def test_attention_is_found_by_name_and_not_by_counting_calls() -> None:
    """ComfyUI-LTXVideo counts attention calls, which other patches shift (PR 501): here more calls
    change nothing."""
    small = tiny("LTXPipeline")
    expected = guided(small, STG([2], skip="attention"))
    first = small.pipe.transformer.transformer_blocks[0].attn1
    hook = first.register_forward_hook(
        lambda module, args, output: (module.processor(module, output), output)[1]
    )
    assert torch.equal(guided(small, STG([2], skip="attention")), expected)
    hook.remove()
