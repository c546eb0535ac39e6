"""What is special in the rows of more_image_rows.py: PAG of diffusers, long skips, a batch in the
second dimension, guiders that a call chooses, CFG that ends early or keeps the length of c."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch

from skipguide import STG, guide
from skipguide.families.lookup import family_of
from skipguide.pipeline import compat
from support import oracle
from support.matrix import OWN_TESTS
from support.tiny import builders, tiny
from support.tiny.base import Tiny
from support.tiny.glm_image import EDITS
from support.written import addresses, assert_equal, by_hand

# --- shapes of attention --------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(len(OWN_TESTS)))
def test_identity_of_attentions_of_a_shape_of_their_own(number: int) -> None:
    """In the last block of each stack; not by name, which would put it into the matrix."""
    small = tiny(OWN_TESTS[number])
    plain, heard = oracle.run(small, **small.short), {}
    for layer in (layers[-1] for layers in addresses(small).values()):
        term = STG([layer], 1.3, "attention")
        with guide(small.pipe, term):
            ours = oracle.run(small, **small.short)
        assert_equal(small, ours, by_hand(small, [term], heard=heard), plain)


# --- PAG of diffusers -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class PAGCase:
    """A tiny pipeline with PAG of diffusers, and the layers that are perturbed there and here."""

    pipeline: str
    theirs: str
    ours: tuple[int, ...]


PAG = [
    PAGCase("SanaPAGPipeline", "transformer_blocks.2", (2,)),
    PAGCase("PixArtSigmaPAGPipeline", "blocks.(1|3)", (1, 3)),
    PAGCase("HunyuanDiTPAGPipeline", "blocks.3", (3,)),  # behind a long skip
]


# HunyuanDiT's crashes without CFG, for it makes three parts of its sizes all the same.
OPTIONS: list[tuple[int, dict[str, Any]]] = [
    (0, {}), (1, {}), (2, {}), (2, dict(guidance_rescale=0.7)), (0, dict(guidance_scale=1.0)),
    (1, dict(guidance_scale=1.0)),
]  # fmt: skip


@pytest.mark.parametrize(("number", "options"), OPTIONS)
def test_pag_of_diffusers_is_an_attention_skip(
    number: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its formula is u + g (c - u) + s (c - p), where pag_scale is s; without CFG c + s (c - p)."""
    case = PAG[number]
    small = tiny(case.pipeline)
    monkeypatch.setattr(small.pipe, "pag_applied_layers", [case.theirs])
    plain = oracle.run(small, **options)
    theirs = oracle.run(small, **options, pag_scale=3.0)
    with guide(small.pipe, STG(list(case.ours), 3.0, "attention")):
        ours = oracle.run(small, **options)
    assert_equal(small, ours, theirs, plain)


def test_pag_layers_of_diffusers_match_by_the_beginning_of_a_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its default "blocks.1" is layer 1 and layers 10 to 19 too, which its presets here therefore
    name."""
    small = builders()["PixArtSigmaPAGPipeline"](torch.float32)
    small = dataclasses.replace(small, call={**small.call, **small.short})
    blocks = small.pipe.transformer.transformer_blocks
    for _ in range(2):  # 12 layers
        blocks.extend(copy.deepcopy(list(blocks)[:4]))
    assert small.pipe.pag_applied_layers == ["blocks.1"]
    plain, theirs = oracle.run(small), oracle.run(small, pag_scale=1.0)
    with guide(small.pipe, STG([1, 10, 11], 1.0, "attention")):
        ours = oracle.run(small)
    assert_equal(small, ours, theirs, plain)


def test_pag_itself_is_refused_with_the_argument_that_switches_it_off() -> None:
    small = tiny("SanaPAGPipeline")
    with (
        guide(small.pipe, STG([1])),
        pytest.raises(ValueError, match=r"do_perturbed_attention_guidance=True .* pag_scale=0"),
    ):
        oracle.run(small, pag_scale=3.0)


# --- HunyuanDiT: long skips -----------------------------------------------------------------------


@pytest.mark.parametrize("skip", ["residual", "attention", "shuffle"])
@pytest.mark.parametrize("exact", [True, False])
def test_blocks_behind_long_skips_see_what_the_first_ones_returned(skip: str, exact: bool) -> None:
    """The weak pass begins between a block of the first half and the one connected to it."""
    small = tiny("HunyuanDiTPipeline")
    terms, runs, found = [STG([2], 1.3, skip), STG([3], 0.4)], [], []
    blocks = small.pipe.transformer.blocks
    for share in (True, False):
        count = [0] * len(blocks)

        def note(n: int, count: list[int] = count) -> Any:
            def add(*_: Any) -> None:
                count[n] += 1

            return add

        hooks = [block.register_forward_pre_hook(note(n)) for n, block in enumerate(blocks)]
        with guide(small.pipe, *terms, share_prefix=share, exact=exact):
            found.append(oracle.run(small, **small.short))
        for hook in hooks:
            hook.remove()
        runs.append(count)
    if exact:
        assert torch.equal(*found)
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)
    assert runs[0][:2] < runs[1][:2]


def test_its_variance_takes_no_part_in_rescaling() -> None:
    """The pipeline drops it before CFG; its number of channels is in no config."""
    small = tiny("HunyuanDiTPipeline")
    assert family_of(small.pipe).learned_variance
    assert compat.predicts_variance(small.pipe)
    assert not compat.predicts_variance(tiny("SanaPipeline").pipe)


# --- HiDream: the batch is the second dimension ---------------------------------------------------


def test_a_batch_in_the_second_dimension_may_stay_one() -> None:
    """exact=False: c and u in one call, and both weak passes in one."""
    small = tiny("HiDreamImagePipeline")
    terms = [STG(["single:1"], 1.3), STG(["single:1"], 0.4, "attention")]
    plain = oracle.run(small)
    with guide(small.pipe, *terms):
        exact = oracle.run(small)
    with guide(small.pipe, *terms, exact=False):
        joint = oracle.run(small)
    assert_equal(small, joint, exact, plain)


def test_shuffle_leaves_the_text_of_one_stream_in_its_place() -> None:
    """In single blocks, whose stream holds both: with another seed the text is what it was."""
    small = tiny("AuraFlowPipeline")
    transformer, seen = small.pipe.transformer, []

    def note(_: Any, args: Any, kwargs: Any) -> None:
        seen.append(kwargs["hidden_states"].clone())

    hook = transformer.single_transformer_blocks[1].register_forward_pre_hook(
        note, with_kwargs=True
    )
    with guide(small.pipe, STG(["single:1"], skip="shuffle", seed=3)):
        oracle.run(small, **small.short)
    hook.remove()
    text = 16  # 8 of the prompt behind 8 registers
    strong, weak = seen[0], seen[1]
    assert torch.equal(strong[:, :text], weak[:, :text])
    assert not torch.equal(strong, weak)
    assert torch.equal(strong.sum(1), weak.sum(1)) or torch.allclose(
        strong.sum(1), weak.sum(1), atol=1e-5
    )


# --- GLM-Image: calls before the loop ------------------------------------------------------------


def test_calls_before_the_loop_are_no_steps() -> None:
    """Images to edit go through the denoiser once, which keeps their keys and values: those calls
    are as they were, and the weak pass sees what they kept. By hand, without CFG."""
    small = EDITS(torch.float32)
    options = {**small.short, **small.off}
    weak = oracle.weakened(small.pipe.transformer, ["transformer_blocks.1"], "residual", [])
    modes: list[str] = []

    def push(_: Any, args: Any, kwargs: Any, output: Any) -> Any:
        modes.append(kwargs["kv_caches"][0].mode)
        if modes[-1] == "write":
            return None
        (p,) = weak(*args, **kwargs)
        return (output[0] + 1.3 * (output[0] - p),)

    plain = oracle.run(small, **options)
    hook = small.pipe.transformer.register_forward_hook(push, with_kwargs=True)
    with torch.no_grad():
        theirs = oracle.run(small, **options)
    hook.remove()
    assert modes == ["write", "write", "read", "read"]
    with guide(small.pipe, STG([1], 1.3)) as handle:
        ours = oracle.run(small, **options)
        assert torch.equal(oracle.run(small, **options), ours)
    assert (handle.passes.steps, handle.passes.unweakened) == (2, 2)
    assert_equal(small, ours, theirs, plain)


# --- predictions with the other sign --------------------------------------------------------------


def test_the_space_of_the_data_knows_the_sign_of_predictions() -> None:
    """HiDream's pipeline negates: x_0 = x + s F. D is rescaled there by hand, in one step."""
    small = tiny("HiDreamImagePipeline")
    options: dict[str, Any] = dict(num_inference_steps=1)
    step, _ = oracle.calls_of_step(small, 0, [], options)
    term = STG(["single:1"], 2.0)
    weak = oracle.weakened(step.calls[0].model, ["single_stream_blocks.1"], "residual", [])
    (D,) = oracle.guided(step, [(weak, [2.0])], [4.5], 0.0, variance=False)
    x, (c,) = step.cond["hidden_states"].double(), step.c
    sigma = float(small.pipe.scheduler.sigmas[0])
    data, guided = x + sigma * c.double(), x + sigma * D.double()
    data_std, guided_std = (value.std((1, 2, 3), keepdim=True) for value in (data, guided))
    rescaled = guided * (0.3 + 0.7 * data_std / guided_std)
    theirs = ((rescaled - x) / sigma).float()
    with oracle.playing(small, [[torch.cat([theirs, theirs])]]):
        expected = oracle.run(small, **options)
    plain = oracle.run(small, **options)
    with guide(small.pipe, term, rescale=0.7, rescale_space="data"):
        ours = oracle.run(small, **options)
    assert_equal(small, ours, expected, plain)


# --- HunyuanImage: the guider of a call -----------------------------------------------------------


def hunyuan_image(quoted: bool, **guiders: Any) -> Tiny:
    from support.tiny import hunyuan_image as module

    return module.hunyuan_image(quoted, guiders)


def test_the_guider_for_quoted_text_is_the_one_that_is_asked() -> None:
    """Text in quotes has a guider of its own, here with another scale."""
    from diffusers.guiders.classifier_free_guidance import ClassifierFreeGuidance

    usual, other = (
        ClassifierFreeGuidance(guidance_scale=3.5),
        ClassifierFreeGuidance(guidance_scale=6.0),
    )
    both = hunyuan_image(True, guider=usual, ocr_guider=other)
    alone = hunyuan_image(True, guider=other)
    for rescale in (0.0, 0.7):
        found = []
        for small in (both, alone):
            with guide(small.pipe, STG(["dual:1"]), rescale=rescale):
                found.append(oracle.run(small))
        assert torch.equal(*found)


def test_a_distilled_one_has_no_guider_and_no_cfg() -> None:
    small = hunyuan_image(False)
    plain = oracle.run(small, **small.short)
    term = STG(["single:1"], 1.3)
    with guide(small.pipe, term) as handle:
        ours = oracle.run(small, **small.short)
    assert handle.passes.unweakened == 2
    # by hand, step by step: c + s (c - p)
    hand = [oracle.Term(["single_transformer_blocks.1"], "residual", [1.3])]
    played: list[list[torch.Tensor]] = []
    for i in range(2):
        with oracle.listening(small) as heard, oracle.playing(small, played):
            oracle.run(small, **small.short)
        call = heard[i]
        weak = oracle.weakened(call.model, hand[0].layers, "residual", [])
        with torch.no_grad():
            (p,), (c,) = oracle.samples(weak(**call.kwargs)), oracle.samples(call.output)
        played.append([c + 1.3 * (c - p)])
    with oracle.playing(small, played):
        assert_equal(small, ours, oracle.run(small, **small.short), plain)


def test_its_own_mixture_of_cfg_and_apg_gets_the_push_added() -> None:
    """A constant shift does not pass through it: the push is added to what it makes of u and c."""
    from diffusers.guiders.adaptive_projected_guidance_mix import AdaptiveProjectedMixGuidance

    guider = AdaptiveProjectedMixGuidance(
        guidance_scale=3.5, adaptive_projected_guidance_start_step=1
    )
    small = hunyuan_image(False, guider=guider)
    plain = oracle.run(small, **small.short)
    with guide(small.pipe, STG(["dual:1"], 1.3)) as handle:
        ours = oracle.run(small, **small.short)
    assert (ours - plain).abs().max() > 1e-3
    assert handle.passes.unweakened == 4
    assert torch.equal(oracle.run(small, **small.short), plain)


# --- Lumina 2: CFG that ends early, or keeps the length of c --------------------------------------


def test_after_the_truncation_there_is_no_cfg() -> None:
    """cfg_trunc_ratio=0.5: the second of two steps calls for c alone."""
    small = tiny("Lumina2Pipeline")
    options = {**small.short, "cfg_trunc_ratio": 0.5}
    plain = oracle.run(small, **options)
    played, weak = [], None
    for i in range(2):
        with oracle.listening(small) as heard, oracle.playing(small, played):
            oracle.run(small, **options)
        calls = heard[:2] if i == 0 else heard[2:]
        assert len(calls) == 2 - i
        weak = weak or oracle.weakened(calls[0].model, ["layers.2"], "residual", [])
        uncond = calls[1] if i == 0 else None
        outputs = [oracle.samples(call.output) for call in calls]
        step = oracle.Step(
            calls, calls[0].kwargs, uncond and uncond.kwargs, outputs[0],
            outputs[1] if uncond else None, False,
        )  # fmt: skip
        D = oracle.guided(step, [(weak, [1.3])], [4.5], 0.0, variance=False)
        played += [D] * len(calls)
    with oracle.playing(small, played):
        theirs = oracle.run(small, **options)
    with guide(small.pipe, STG([2], 1.3)) as handle:
        ours = oracle.run(small, **options)
    assert_equal(small, ours, theirs, plain)
    assert handle.passes.unweakened == 3


def test_what_is_guided_gets_the_length_of_c() -> None:
    """cfg_normalization=True, its default: the pipeline's own last word on D, row by row."""
    small = tiny("Lumina2Pipeline")
    options = {**small.short, "cfg_normalization": True}
    plain, played = oracle.run(small, **options), []
    weak = None
    for i in range(2):
        step, _ = oracle.calls_of_step(small, i, played, options)
        weak = weak or oracle.weakened(step.calls[0].model, ["layers.2"], "residual", [])
        (D,) = oracle.guided(step, [(weak, [1.3])], [4.5], 0.0, variance=False)
        (c,) = step.c
        D = D * (c.norm(dim=-1, keepdim=True) / D.norm(dim=-1, keepdim=True))
        played += [[D], [D]]
    with oracle.playing(small, played):
        theirs = oracle.run(small, **options)
    with guide(small.pipe, STG([2], 1.3)):
        ours = oracle.run(small, **options)
    assert_equal(small, ours, theirs, plain)
