"""guide() as users meet it: on and off without a trace, however a pipeline is called, and every
error message."""

from __future__ import annotations

import contextlib
import copy
import gc
import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.mochi.pipeline_mochi import linear_quadratic_schedule
from diffusers.schedulers.scheduling_heun_discrete import HeunDiscreteScheduler

from skipguide import SLG, STG, Bin, Schedule, guide
from skipguide.families import presets
from skipguide.families.rows import FAMILIES
from support import oracle
from support.tiny import builders, tiny
from support.tiny.base import Tiny
from support.tiny_mochi import TINY_CALL, tiny_mochi
from support.written import is_unet

TERM = STG(layers=[2], scale=1.0)
PROMPTS = ["a red star", "the blue square moving left"]


def call(pipe: Any, prompt: Any = PROMPTS, seed: int = 0, **kwargs: Any) -> torch.Tensor:
    return pipe(
        prompt, generator=torch.Generator().manual_seed(seed), **{**TINY_CALL, **kwargs}
    ).frames


def latents_after_first_step(pipe: Any, prompt: Any = PROMPTS, **kwargs: Any) -> torch.Tensor:
    """Of a run of two: MochiPipeline divides by zero in a run of one step."""
    kept: list[torch.Tensor] = []
    note = lambda *a: kept.append(a[-1]["latents"]) or {}  # noqa: E731
    call(pipe, prompt, num_inference_steps=2, callback_on_step_end=note, **kwargs)
    return kept[0]


def first_step_size() -> float:
    sigmas = linear_quadratic_schedule(2, 0.025)
    return sigmas[0] - sigmas[1]


def trace_of(pipe: Any) -> list[Any]:
    """Everything that guidance could leave behind: modules, their attributes, their hooks."""
    found: list[Any] = [sorted(vars(pipe))]
    for name, module in pipe.transformer.named_modules():
        found.append((name, id(module), sorted(vars(module)), module.forward.__func__))
        found += [
            (key, len(value))
            for key, value in vars(module).items()
            if "hook" in key and isinstance(value, dict)
        ]
    return found


@contextlib.contextmanager
def untouched(pipe: Any) -> Iterator[None]:
    """Fails unless the pipe is afterwards what it was, bit for bit."""
    plain = call(pipe)  # first: the pipeline keeps the options of its last call as attributes
    before = trace_of(pipe)
    yield
    assert trace_of(pipe) == before
    assert torch.equal(call(pipe), plain)


def test_bit_equal_before_during_scale_zero_and_after(pipe: Any) -> None:
    with untouched(pipe):
        plain = call(pipe)
        with guide(
            pipe,
            STG(layers=[2], scale=0.0),
            STG(layers=[1], skip="attention", scale=0.0),
            rescale=0.7,
        ) as handle:
            assert torch.equal(call(pipe), plain)
            assert handle.passes_per_step == 2.0
        with guide(pipe, TERM):
            assert not torch.equal(call(pipe), plain)


def test_remove_works_without_with_and_twice(pipe: Any) -> None:
    with untouched(pipe):
        handle = guide(pipe, TERM)
        call(pipe)
        handle.remove()
        handle.remove()


def states_of(handle: Any) -> list[Any]:
    """What is kept for weak passes, in every branch."""
    strong = [branch.prefix_cache for branch in handle._guided_denoisers.values()]
    kept = [recording.state for kept in strong for recording in kept.recorded_inputs.values()]
    return [state for state in kept if state is not None]


def raise_in_block(pipe: Any, layer: int, call_number: int, error: BaseException) -> Any:
    calls = iter(range(10**6))

    def fail(*_: Any) -> None:
        if next(calls) == call_number:
            raise error

    return pipe.transformer.transformer_blocks[layer].register_forward_hook(fail)


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
@pytest.mark.parametrize("call_number", [0, 1, 3], ids=["strong", "weak", "later"])
def test_leaves_no_trace_after_an_exception_in_a_step(
    pipe: Any, share_prefix: bool, error: BaseException, call_number: int
) -> None:
    with untouched(pipe):
        hook = raise_in_block(
            pipe, 3, call_number, error
        )  # block 3 runs in the strong and in the weak pass
        with pytest.raises(type(error)), guide(pipe, TERM, share_prefix=share_prefix):
            call(pipe)
        hook.remove()


def test_removal_frees_the_state_of_a_step_that_raised(pipe: Any) -> None:
    with guide(pipe, TERM) as handle:
        hook = raise_in_block(pipe, 3, 0, RuntimeError())  # after block 2 was recorded
        with pytest.raises(RuntimeError):
            call(pipe)
        hook.remove()
        assert states_of(handle) == []  # at once: the forward hook is called after errors too
    assert states_of(handle) == []


def test_denoiser_called_without_its_pipeline(pipe: Any) -> None:
    inputs = (torch.zeros(2, 12, 1, 4, 4), torch.zeros(2, 3, 32), torch.zeros(2), torch.ones(2, 3))
    message = "must be called by the MochiPipeline that guide\\(\\) got"
    with guide(pipe, TERM):
        call(pipe)
        with pytest.raises(RuntimeError, match=message):
            pipe.transformer(*inputs)
        with pytest.raises(RuntimeError, match=message):
            call(
                type(pipe)(**pipe.components)
            )  # its own guidance_scale and step would be read from the wrong place


def test_works_again_after_an_exception_under_the_same_handle(pipe: Any) -> None:
    with guide(pipe, TERM):
        expected = call(pipe)
        hook = raise_in_block(pipe, 3, 1, RuntimeError())
        with pytest.raises(RuntimeError):
            call(pipe)
        hook.remove()
        assert torch.equal(call(pipe), expected)


def test_interrupted_pipe(pipe: Any) -> None:
    def interrupt(pipe: Any, step: int, *_: Any) -> dict[str, Any]:
        pipe._interrupt = step == 1
        return {}

    with untouched(pipe), guide(pipe, TERM) as handle:
        call(pipe, callback_on_step_end=interrupt)
        assert handle.passes.steps == 2
        call(pipe)
        assert handle.passes.steps == 4


def test_handle_can_be_collected(pipe: Any) -> None:
    import weakref

    handle = guide(pipe, TERM)
    call(pipe)
    handle.remove()
    alive = weakref.ref(handle)
    del handle
    gc.collect()
    assert alive() is None


# --- ways to call ---------------------------------------------------------------------------------


def test_prompts_of_a_batch_do_not_touch_each_other(pipe: Any) -> None:
    prompts = ["a red star", *PROMPTS]
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6, 7)]
    with guide(pipe, TERM, STG(layers=[1], skip="attention"), rescale=0.7):
        batch = pipe(prompts, generator=generators, **TINY_CALL).frames
        alone = call(pipe, prompts[1:2], seed=6)
    torch.testing.assert_close(batch[1:2], alone, atol=1e-4, rtol=1e-4)


def test_several_videos_per_prompt(pipe: Any) -> None:
    with guide(pipe, TERM):
        videos = call(pipe, "a red star", num_videos_per_prompt=2)
        pair = call(pipe, ["a red star", "a red star"])
    assert torch.equal(videos, pair)


def test_prompt_embeds_given_directly(pipe: Any) -> None:
    with torch.no_grad():
        text, mask, negative, negative_mask = pipe.encode_prompt(PROMPTS, max_sequence_length=16)
    with guide(pipe, TERM):
        expected = call(pipe)
        ours = call(
            pipe, None, prompt_embeds=text, prompt_attention_mask=mask,
            negative_prompt_embeds=negative, negative_prompt_attention_mask=negative_mask,
        )  # fmt: skip
    assert torch.equal(ours, expected)


def test_callback_sees_every_step_and_the_guided_latents(pipe: Any) -> None:
    seen = []

    def note(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append((step, tensors["latents"].clone()))
        return {}

    with guide(pipe, TERM):
        last = call(pipe, callback_on_step_end=note)
    assert [step for step, _ in seen] == [0, 1, 2, 3]
    assert torch.equal(seen[-1][1], last)


def test_decoded_output(pipe: Any) -> None:
    with guide(pipe, TERM):
        frames = call(pipe, "a red star", output_type="np")
    assert frames.shape == (1, 7, 32, 32, 3)


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_guided_in_float32(dtype: torch.dtype, share_prefix: bool) -> None:
    """The push must not be rounded to the model's precision: g would magnify the rounding of two
    shifted rows."""
    pipe = tiny_mochi(dtype)
    returned = []
    hook = pipe.transformer.register_forward_hook(lambda *a: returned.append(a[-1][0]))
    with guide(pipe, TERM, share_prefix=share_prefix):
        ours = latents_after_first_step(pipe)
    hook.remove()
    c, weak, u = (
        output.float() for output in returned[:3]
    )  # the hook came first: it sees what the model returned
    expected = u + 4.5 * (c - u) + (c - weak)
    assert ours.dtype == dtype
    latents = pipe.prepare_latents(
        2, 12, 32, 32, 7, dtype, torch.device("cpu"), torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(ours, (latents.float() + first_step_size() * expected).to(dtype))


@pytest.mark.parametrize("skip", ["residual", "attention"])
def test_weights_that_accelerate_offloads(pipe: Any, skip: str) -> None:
    """The hooks that fetch weights sit on the real modules: what is skipped is not fetched, what
    runs is."""
    import accelerate

    term = STG(layers=[2], skip=skip)
    with guide(pipe, term):
        expected = call(pipe)
    offloaded = tiny_mochi()
    accelerate.cpu_offload(offloaded.transformer, execution_device=torch.device("cpu"))
    assert next(offloaded.transformer.parameters()).device.type == "meta"
    with guide(offloaded, term):
        assert torch.equal(call(offloaded), expected)


# --- what it costs --------------------------------------------------------------------------------


def count_blocks(pipe: Any, *terms: STG, **options: Any) -> tuple[list[int], float]:
    """Rows that each block was evaluated on in a 4-step run, and what the handle says per step."""
    rows = [0] * len(pipe.transformer.transformer_blocks)
    hooks = []
    for i, block in enumerate(pipe.transformer.transformer_blocks):

        def note(_: Any, args: Any, kwargs: Any, i: int = i) -> None:
            rows[i] += len(kwargs["hidden_states"])

        hooks.append(block.register_forward_pre_hook(note, with_kwargs=True))
    with guide(pipe, *terms, **options) as handle:
        call(pipe, "a red star")
    for hook in hooks:
        hook.remove()
    return rows, handle.passes_per_step


def test_blocks_that_run(pipe: Any) -> None:
    # 4 steps: 2 rows of CFG in each, and one row of the weak pass after the skipped block
    assert count_blocks(pipe, TERM) == ([8, 8, 8, 12], 2.25)
    assert count_blocks(pipe, TERM, share_prefix=False) == ([12, 12, 8, 12], 2.75)
    assert count_blocks(pipe, STG(layers=[2], skip="attention")) == ([8, 8, 12, 12], 2.5)
    assert count_blocks(pipe, STG(layers=[2], stop=0.5)) == ([8, 8, 8, 10], 2.125)
    assert count_blocks(pipe, STG(layers=[1, 3]), STG(layers=[2])) == ([8, 8, 12, 12], 2.5)
    assert count_blocks(pipe, STG(layers=[3])) == ([8, 8, 8, 8], 2.0)


def test_attention_skip_computes_no_queries_keys_or_scores(pipe: Any) -> None:
    ran = []
    attention = pipe.transformer.transformer_blocks[2].attn1
    hooks = [
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, module in attention.named_children()
        if isinstance(module, torch.nn.Linear)
    ]
    hooks.append(attention.to_out[0].register_forward_hook(lambda *_: ran.append("to_out")))
    plain = {
        "to_q",
        "to_k",
        "to_v",
        "add_q_proj",
        "add_k_proj",
        "add_v_proj",
        "to_out",
        "to_add_out",
    }
    with guide(pipe, STG(layers=[2], skip="attention")):
        call(pipe, num_inference_steps=2)
    for hook in hooks:
        hook.remove()
    counts = {name: ran.count(name) for name in plain}
    # two steps of cond, uncond and weak
    assert counts == {
        name: 6 if name in ("to_v", "add_v_proj", "to_out", "to_add_out") else 4 for name in plain
    }


def test_records_nothing_between_steps(pipe: Any) -> None:
    with guide(pipe, TERM) as handle:
        call(pipe)
        assert states_of(handle) == []
        step = handle._step
        assert step is not None
        assert step.c == step.returned == step.push == ()
        assert step.inputs == {}


# --- refusals -------------------------------------------------------------------------------------


def test_second_guide_is_refused_on_the_pipe_and_on_one_that_shares_its_denoiser(pipe: Any) -> None:
    with guide(pipe, TERM):
        with pytest.raises(RuntimeError, match=r"guided already. Call .remove\(\) on that handle"):
            guide(pipe, TERM)
        with pytest.raises(RuntimeError, match="guided already"):
            guide(type(pipe)(**pipe.components), TERM)
    guide(pipe, TERM).remove()


BAD_TERMS = [
    (dict(layers=[]), r"needs at least one layer .* got an empty list. Name one"),
    (dict(layers=34), r"must be a list of layers, but got 34. Write layers=\[34\]"),
    (dict(layers={3, 1}), r"must be a list of layers, but got \{1, 3\}. Write layers=\[1, 3\]"),
    (dict(layers=[1.5]), r'must be an int or "stack:int", but got 1.5'),
    (dict(layers=[True]), r'must be an int or "stack:int", but got True'),
    (dict(layers=["7-9"]), r'must be an int or "stack:int", but got \'7-9\''),
    (dict(layers=["blocks:-1"]), r'must be an int or "stack:int"'),
    (dict(layers=[1, 1]), r"each layer may be named once, but got 1 repeatedly"),
    (dict(layers=[1], scale=-0.1), r"scale must be a finite number >= 0 .* but got -0.1"),
    (dict(layers=[1], scale=float("nan")), r"scale must be a finite number >= 0 .* but got nan"),
    (dict(layers=[1], scale=float("inf")), r"scale must be a finite number >= 0 .* but got inf"),
    (dict(layers=[1], scale="1"), r"scale must be a finite number >= 0 .* but got '1'"),
    (
        dict(layers=[1], skip="values"),
        r"skip must be one of residual, attention, .*but got 'values'",
    ),
    (
        dict(layers=[1], axis="time"),
        r'axis must be "spatial", "temporal" or None, but got \'time\'',
    ),
    (dict(layers=[1], start=-0.1), r"start must be a number from 0 to 1 .* but got -0.1"),
    (dict(layers=[1], stop=1.1), r"stop must be a number from 0 to 1 .* but got 1.1"),
    (
        dict(layers=[1], start=0.5, stop=0.5),
        r"start=0.5, stop=0.5 selects no step.*Make stop larger",
    ),
]


@pytest.mark.parametrize(("options", "message"), BAD_TERMS)
def test_bad_terms(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        STG(**options)


BAD_GUIDES = [
    ([STG(layers=[4])], {}, r"must be from 0 to 3 \(4 blocks\), but got 4. Layers count from 0"),
    ([STG(layers=[1, 99])], {}, r"must be from 0 to 3 \(4 blocks\), but got 99"),
    ([STG(layers=[-1])], {}, r"must be from 0 to 3 \(4 blocks\), but got -1"),
    ([STG(layers=["blocks:9"])], {}, r"must be from 0 to 3 \(4 blocks\), but got 9"),
    (
        [STG(layers=["single:1"])],
        {},
        r"stack must be one that mochi has \(blocks\), but got single",
    ),
    (
        [STG(layers=[1], axis="spatial")],
        {},
        r"axis must be one that mochi has \(none, its attention is joint .* got 'spatial'",
    ),
    ([], {}, r"needs one or more STG or SLG terms, or one Schedule, but got none"),
    (
        [[TERM, [TERM]]],
        {},
        r"needs one or more STG or SLG terms, or one Schedule, but got STG, list",
    ),
    (
        [TERM],
        dict(orthogonalize=True),
        r"True needs two STG terms or more, but got True with 1 term\. Leave it out",
    ),
    (
        [TERM, SLG([1])],
        dict(orthogonalize=True),
        r"needs two STG terms or more, but got True with 2 terms",
    ),
    (
        [TERM, STG([1])],
        dict(orthogonalize="false"),
        r"orthogonalize must be True or False, .* but got 'false'",
    ),
    ([[]], {}, r"needs one or more STG or SLG terms, or one Schedule, but got none"),
    (
        [TERM],
        dict(rescale=1.5),
        r"rescale must be a number from 0 to 1 \(0 is off, .*\), but got 1.5",
    ),
    (
        [Schedule([Bin((0, 2), [1], 1.0)])],
        dict(rescale=0.5),
        r"rescale=0\.5 cannot be combined with a Schedule\. Set rescale on each Bin",
    ),
    (
        [TERM],
        dict(rescale=float("nan")),
        r"rescale must be a number from 0 to 1 \(0 is off, .*\), but got nan",
    ),
    ([STG(layers=[1, "blocks:1"])], {}, r"each layer may be named once, but 1 is named repeatedly"),
]


@pytest.mark.parametrize(("terms", "options", "message"), BAD_GUIDES)
def test_bad_guides_leave_the_pipe_alone(pipe: Any, terms: Any, options: Any, message: str) -> None:
    with untouched(pipe), pytest.raises(ValueError, match=message):
        guide(pipe, *terms, **options)


def test_family_without_attention_skip_says_so(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    row = FAMILIES[0]
    stack = dataclasses.replace(row.stacks["blocks"], attention={})
    monkeypatch.setattr(
        "skipguide.families.lookup.FAMILIES", (dataclasses.replace(row, stacks={"blocks": stack}),)
    )
    with pytest.raises(
        ValueError, match=r"skip must be one that mochi has \(residual.*\), but got 'attention'"
    ):
        guide(pipe, STG(layers=[1], skip="attention"))


def test_window_that_selects_no_step_of_this_run(pipe: Any) -> None:
    with guide(pipe, STG(layers=[1], start=0.01, stop=0.2)):
        with pytest.raises(
            ValueError, match=r"start=0.01, stop=0.2 must select a step, but selects none of the 4"
        ):
            call(pipe)
        assert torch.isfinite(call(pipe, num_inference_steps=10)).all()
    with guide(pipe, STG(layers=[1], start=0.01, stop=0.2, scale=0)):
        call(pipe)  # off is off


# --- presets --------------------------------------------------------------------------------------


def test_preset_of_the_published_depth() -> None:
    from diffusers.models.transformers.transformer_mochi import MochiTransformer3DModel
    from diffusers.pipelines.mochi.pipeline_mochi import MochiPipeline

    with torch.device("meta"):
        transformer = MochiTransformer3DModel()
    pipe = MochiPipeline(None, None, None, None, transformer)  # type: ignore[arg-type]
    assert STG.preset(pipe) == STG(layers=[34], scale=1.0, skip="residual")
    row = presets.preset_for(pipe)
    assert "STGuidance" in row.source
    assert row.defaults["guidance_scale"] == 4.5


def test_no_preset_for_another_depth(pipe: Any) -> None:
    with pytest.raises(
        ValueError,
        match=(
            r"none is known for a MochiPipeline of 4 blocks .*genmo/mochi-1-preview \(48 blocks\)"
        ),
    ):
        STG.preset(pipe)


def test_import_is_light() -> None:
    import subprocess
    import sys

    code = (
        "import sys, skipguide; print(sorted({'torch', 'diffusers', 'transformers'} &"
        " set(sys.modules)))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )


# --- several things at once -----------------------------------------------------------------------


def test_rescale_acts_on_guided_steps_alone(pipe: Any) -> None:
    """A scale of 0 is off, and so is a step outside the window: neither is rescaled."""
    plain = latents_after_first_step(pipe)
    with guide(pipe, STG([2], start=0.5), rescale=0.7):
        assert torch.equal(latents_after_first_step(pipe), plain)
    with guide(pipe, STG([2], stop=0.5), rescale=0.7):
        assert not torch.equal(latents_after_first_step(pipe), plain)


@pytest.mark.parametrize("g", [np.float64(4.5), np.float32(4.5), torch.tensor(4.5)])
@pytest.mark.parametrize("name", ["MochiPipeline", "WanPipeline"])
def test_guidance_scales_that_are_no_python_floats(name: str, g: Any) -> None:
    small = tiny(name)
    with guide(small.pipe, STG([1]), rescale=0.3) as handle:
        expected = oracle.run(small)
        assert handle.passes.unweakened == 6
        torch.testing.assert_close(
            oracle.run(small, guidance_scale=g), expected, atol=1e-5, rtol=1e-5
        )
        assert handle.passes.unweakened == 6


def test_second_scale_of_exactly_one_with_rescale() -> None:
    """Wan 2.2 runs CFG when the first scale says so; with g = 1 the pipeline arrives at c' whatever
    u' is."""
    small = tiny("WanPipeline 2.2")
    options: dict[str, Any] = dict(guidance_scale=4.5, guidance_scale_2=1.0)
    with guide(small.pipe, STG([1]), rescale=0.7):
        ours = oracle.run(small, **small.short, **options)
    theirs = oracle.by_hand(
        small, [oracle.Term(["blocks.1"], "residual", [1.0])], ["attn1"], 0.7, **options
    )
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["LTXPipeline", "LTXImageToVideoPipeline", "EasyAnimatePipeline"])
def test_the_pipelines_own_rescale_refers_to_c_as_it_does_without_guidance(name: str) -> None:
    """Its guidance_rescale=0.7 then is the same as ours of 0.7: both are Lin et al. 2023 in the
    prediction's space."""
    small = tiny(name)
    with guide(small.pipe, STG([1], 1.3)):
        ours = oracle.run(small, **small.short, guidance_rescale=0.7)
    theirs = oracle.by_hand(
        small,
        [oracle.Term(["transformer_blocks.1"], "residual", [1.3])],
        ["attn1"],
        0.7,
        guidance_rescale=0.0,
    )
    torch.testing.assert_close(ours, theirs, atol=5e-5, rtol=1e-4)


def test_video_in_segments_that_share_their_timesteps_is_guided_to_its_end() -> None:
    """SkyReels V2 makes a long video in segments without setting its timesteps anew."""
    small = tiny("SkyReelsV2DiffusionForcingPipeline")
    long = dict(num_frames=13, base_num_frames=9, overlap_history=5)
    with guide(small.pipe, STG([1], stop=0.4)) as handle:
        oracle.run(small, **long)
    steps = handle.passes.steps
    assert steps == 6
    assert handle.passes.weak == pytest.approx(
        2 * 2 * 0.5
    )  # i/3 < 0.4: steps 0 and 1 of each segment, half a pass each


def test_cfg_that_a_callback_switches_off_ends_slg_and_not_the_run(pipe: Any) -> None:
    def off(pipe: Any, step: int, *_: Any) -> dict[str, Any]:
        pipe._guidance_scale = 1.0
        return {}

    small = tiny("WanPipeline")
    with guide(small.pipe, SLG([1]), STG([2])) as handle:
        oracle.run(small, callback_on_step_end=off)
    assert handle.passes_per_step == pytest.approx(
        (2 - 0.25 + 1 + 1 + handle.passes.weak) / handle.passes.steps
    )


def test_guide_in_the_middle_of_a_run_knows_the_step() -> None:
    small = tiny("WanPipeline")
    handles: list[Any] = []

    def begin(pipe: Any, step: int, *_: Any) -> dict[str, Any]:
        if step == 0:
            handles.append(guide(pipe, STG([1], start=0.6)))
        return {}

    oracle.run(small, callback_on_step_end=begin)
    handles[0].remove()
    assert handles[0].passes.steps == 2
    assert handles[0].passes.weak == pytest.approx(0.5)  # step 2 of 0, 1, 2


def begun_after_the_first_step(small: Tiny, term: STG) -> torch.Tensor:
    """The latents of a run whose guide() is called at the end of its first step.

    A callback calls it where the pipeline takes one.
    """
    handles: list[Any] = []

    def begin(*_: Any) -> dict[str, Any]:
        if not handles:
            handles.append(guide(small.pipe, term))
        return {}

    scheduler, options = small.pipe.scheduler, {}
    if "callback_on_step_end" in inspect.signature(type(small.pipe).__call__).parameters:
        options = {"callback_on_step_end": begin}
    else:
        real = scheduler.step
        scheduler.step = lambda *args, **kwargs: (real(*args, **kwargs), begin())[0]
    try:
        return oracle.run(small, num_inference_steps=4, **options)
    finally:
        vars(scheduler).pop("step", None)
        handles[0].remove()


# of HeliosPyramid each stage is a run of one step; guide() refuses the other
NOT_BEGUN_LATE = ("HeliosPyramid", "LTXI2VLong")


@pytest.mark.parametrize(
    "name", [name for name in builders() if not name.startswith(NOT_BEGUN_LATE)]
)
def test_guide_in_the_middle_of_any_run_counts_windows_from_its_beginning(name: str) -> None:
    """Bit-equal to a guide() that was there from the start, whose window lies behind step 0."""
    small = tiny(name)
    layer = "up:0" if is_unet(small) else 1
    term = STG([layer], start=0.25, stop=0.5)
    with guide(small.pipe, term):
        expected = oracle.run(small, num_inference_steps=4)
    assert torch.equal(begun_after_the_first_step(small, term), expected)
    assert not torch.equal(expected, oracle.run(small, num_inference_steps=4))


def test_guide_in_the_middle_of_a_run_whose_timesteps_come_twice() -> None:
    """Heun's method calls the denoiser twice in a step: 7 calls, of which 1 and 2 are of one
    timestep."""
    small = builders()["LattePipeline"](torch.float32)
    small.pipe.scheduler = HeunDiscreteScheduler()
    term = STG([1], start=1 / 7, stop=2 / 7)
    with guide(small.pipe, term) as handle:
        expected = oracle.run(small, num_inference_steps=4)
    assert (handle.passes.steps, sum(handle.passes.weak_runs.values())) == (7, 1)
    assert torch.equal(begun_after_the_first_step(small, term), expected)


LTX = [
    "LTXPipeline", "LTXImageToVideoPipeline", "LTX2Pipeline", "LTX2ImageToVideoPipeline",
    "LTX2ConditionPipeline", "LTX2InContextPipeline", "LTX2HDRPipeline",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")  # diffusers' own
@pytest.mark.parametrize("name", LTX)
def test_a_run_of_one_step_without_a_noise_level_is_refused_before_it_begins(name: str) -> None:
    small = tiny(name)
    message = f"^steps must be enough for the schedule of {name}, .* of 1 step. Take 2 or more."
    with guide(small.pipe, STG([1])), oracle.listening(small) as calls:
        with pytest.raises(ValueError, match=message):
            oracle.run(small, num_inference_steps=1)
        assert not calls


SAME = r"^a weak pass must differ from the conditional one, but that of {}.* is the same but for"


@pytest.mark.parametrize("skip", ["attention", "soft", "blur"])
@pytest.mark.parametrize("name", ["LattePipeline", "AnimateDiffPipeline", "OpenSoraPipeline"])
def test_attention_along_the_time_of_one_frame_is_refused(name: str, skip: str) -> None:
    """One token attends to itself whatever its map is, so that p is c and pushes nothing."""
    small = tiny(name)
    layer = "up:0" if is_unet(small) else 1
    frames = "video_length" if "video_length" in small.call else "num_frames"
    with guide(small.pipe, STG([layer], 1.3, skip, "temporal")):
        with pytest.raises(
            ValueError, match=SAME.format(rf"layers=\['?{layer}'?\], skip='{skip}'")
        ):
            oracle.run(small, **small.short, **{frames: 1})
        oracle.run(small, **small.short)
    with guide(small.pipe, STG([layer], skip="residual", axis="temporal")):
        oracle.run(small, **small.short, **{frames: 1})


def test_shuffling_what_knows_no_positions_is_refused() -> None:
    """Latte adds the positions of its frames before its first layer: the tokens come back."""
    small = tiny("LattePipeline")
    with (
        guide(small.pipe, STG([1], skip="shuffle", axis="temporal")),
        pytest.raises(
            ValueError, match=SAME.format(r"layers=\[1\], skip='shuffle', axis='temp.*'")
        ),
    ):
        oracle.run(small, **small.short)


def test_a_layer_without_a_say_and_a_weak_model_that_is_the_same_are_refused() -> None:
    small = builders()["WanPipeline"](torch.float32)
    block = small.pipe.transformer.blocks[1]
    with torch.no_grad():
        block.attn1.to_out[0].weight.zero_()
    weak = copy.deepcopy(small.pipe.transformer)
    attention, model = STG([1], skip="attention"), STG(weak=weak)
    for term, words in ((attention, r"layers=\[1\]"), (model, "weak=WanTransformer3DModel")):
        with (
            guide(small.pipe, STG([2]), term),
            pytest.raises(ValueError, match=SAME.format(words)),
        ):
            oracle.run(small, **small.short)
    with guide(small.pipe, STG([1], skip="residual")):
        oracle.run(small, **small.short)


def test_a_model_of_two_outputs_may_make_one() -> None:
    small = builders()["Kandinsky6TI2VAPipeline image"](torch.float32)
    with guide(small.pipe, STG([1])):
        ours = oracle.run(small, **small.short)
    assert not torch.equal(ours, oracle.run(small, **small.short))


def test_only_outputs_that_are_pushed_must_differ() -> None:
    """Of Kandinsky 6 with the audio's attention alone skipped, say: here a weak pass of which the
    video alone is another one."""
    small = builders()["LTX2Pipeline"](torch.float32)
    weak = copy.deepcopy(small.pipe.transformer)
    with torch.no_grad():
        weak.proj_out.weight.mul_(0.9)
    with guide(small.pipe, STG(weak=weak, scale=1.0)):
        oracle.run(small, **small.short)
    with (
        guide(small.pipe, STG(weak=weak, scale=0.0, audio_scale=1.0)),
        pytest.raises(ValueError, match=SAME.format("weak=LTX2VideoTransformer3DModel")),
    ):
        oracle.run(small, **small.short)


def test_copy_of_a_guided_denoiser_runs_unguided(pipe: Any) -> None:
    import copy

    calls: list[dict[str, Any]] = []
    hook = pipe.transformer.register_forward_pre_hook(
        lambda m, a, k: calls.append(k), with_kwargs=True
    )
    call(pipe)
    hook.remove()
    with guide(pipe, TERM), torch.no_grad():
        copied = copy.deepcopy(pipe.transformer)
        expected = copied(**calls[0])[0]
    assert torch.equal(pipe.transformer(**calls[0])[0], expected)


def test_model_looks_whole_after_ctrl_c(pipe: Any) -> None:
    """torch calls no hook after a KeyboardInterrupt: the stand-ins are still there, and must not
    hide any weights."""
    names = set(pipe.transformer.state_dict())
    handle = guide(pipe, TERM)
    hook = raise_in_block(pipe, 3, 0, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        call(pipe)
    hook.remove()
    assert set(pipe.transformer.state_dict()) == names
    assert {name for name, _ in pipe.transformer.named_parameters()} <= names
    expected = call(pipe)
    handle.remove()
    with guide(pipe, TERM):
        assert torch.equal(call(pipe), expected)


def test_a_handle_is_entered_once() -> None:
    """A second with-block of it would be plain CFG without a word."""
    small = tiny("MochiPipeline")
    handle = guide(small.pipe, STG([1]))
    with handle:
        pass
    with (
        pytest.raises(
            RuntimeError,
            match=r"this guidance was taken off its MochiPipeline.* Call guide\(\) again",
        ),
        handle,
    ):
        oracle.run(small)


def test_a_denoiser_that_is_exchanged_after_guide_is_told(caplog: pytest.LogCaptureFixture) -> None:
    small = builders()["MochiPipeline"](torch.float32)
    with guide(small.pipe, STG([1])):
        small.pipe.transformer = copy.copy(small.pipe.transformer)
    assert (
        "got another denoiser (MochiTransformer3DModel) after guide(), which was not guided"
        in caplog.text
    )


def test_wan_with_its_second_transformer_alone() -> None:
    """As diffusers runs the expert for little noise by itself; it is the first one of a pipeline
    that has one."""
    small, alone = tiny("WanPipeline"), builders()["WanPipeline"](torch.float32)
    with guide(small.pipe, STG([1])):
        expected = oracle.run(small)
    alone.pipe.register_modules(transformer=None, transformer_2=alone.pipe.transformer)
    alone.pipe.register_to_config(boundary_ratio=1.0)
    with guide(alone.pipe, STG([1])):
        assert torch.equal(oracle.run(alone), expected)
    alone.pipe.register_modules(transformer_2=None)
    with pytest.raises(
        ValueError,
        match=r"WanPipeline needs a WanTransformer3DModel as its .transformer, but got None",
    ):
        guide(alone.pipe, STG([1]))


# --- schedules ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["LTXPipeline", "WanPipeline", "HunyuanVideoPipeline"])
def test_schedule_of_one_bin_is_stg_with_another_guidance_scale(name: str) -> None:
    """The bin's g and phi take the place of the pipeline's, for batched and for separate CFG."""
    small = tiny(name)
    layer = "dual:1" if name == "HunyuanVideoPipeline" else 1
    whole = (0.0, 2.0)
    with guide(small.pipe, STG([layer], 1.3), rescale=0.4):
        expected = oracle.run(small, **{small.g: 6.0})
    with guide(small.pipe, Schedule([Bin(whole, [layer], 1.3, guidance_scale=6.0, rescale=0.4)])):
        torch.testing.assert_close(oracle.run(small), expected, atol=5e-5, rtol=1e-4)
    with guide(
        small.pipe, Schedule([Bin(whole, guidance_scale=6.0)])
    ):  # no skipping, only another g
        plain = oracle.run(small)
    torch.testing.assert_close(plain, oracle.run(small, **{small.g: 6.0}), atol=5e-5, rtol=1e-4)


def test_schedule_holds_where_its_sigmas_are() -> None:
    small = tiny("WanPipeline")
    plain = oracle.run(small)
    sigmas = small.pipe.scheduler.sigmas.tolist()
    bound = (sigmas[0] + sigmas[1]) / 2
    with guide(small.pipe, STG([1], stop=0.1)):
        expected = oracle.run(small)
    with guide(small.pipe, Schedule([Bin((bound, 2.0), [1], 1.0)])) as handle:
        ours = oracle.run(small)
    assert torch.equal(ours, expected)
    assert not torch.equal(ours, plain)
    assert handle.passes.weak == pytest.approx(0.5)


def test_schedule_where_the_sigmas_go_up() -> None:
    """Mochi's scheduler counts noise from 0 to 1: the bin of high sigma is the first part of the
    run all the same."""
    small = tiny("MochiPipeline")
    options = dict(num_inference_steps=4)
    oracle.run(small, **options)
    noise = (1 - small.pipe.scheduler.sigmas[:-1]).tolist()
    assert noise == sorted(noise, reverse=True)
    assert noise[0] == 1
    bound = (noise[1] + noise[2]) / 2
    with guide(small.pipe, STG([1], stop=0.5)), oracle.listening(small) as calls:
        expected = oracle.run(small, **options)
    with guide(small.pipe, Schedule([Bin((bound, 1.1), [1], 1.0), Bin((0.0, bound), [2], 0.0)])):
        assert torch.equal(oracle.run(small, **options), expected)
    assert len(calls) == 2 * 3 + 2  # cond, weak and uncond; then both together


def test_schedule_of_frames_with_levels_of_their_own() -> None:
    small = tiny("SkyReelsV2DiffusionForcingPipeline async")
    schedule = Schedule([Bin((0.0, 2.0), [1], 1.0)])
    with (
        guide(small.pipe, schedule),
        pytest.raises(ValueError, match=r"a Schedule needs a noise level for each step"),
    ):
        oracle.run(small)
    with guide(small.pipe, schedule):
        oracle.run(small, ar_step=0)


def test_schedule_of_a_run_that_begins_later() -> None:
    """Video to video leaves out the first timesteps: the bins are about sigmas, not about step
    numbers."""
    small = tiny("WanVideoToVideoPipeline")
    oracle.run(small)
    sigmas = (
        small.pipe.scheduler.sigmas.tolist()
    )  # 4 of the schedule and a 0; the first one is left out
    nowhere = Schedule([Bin((sigmas[0] - 1e-3, 2.0), [1], 1.0), Bin((0.0, 0.1), [1], 1.0)])
    message = "hold at some step, but its bins hold at none of this run"
    with guide(small.pipe, nowhere), pytest.raises(ValueError, match=message):
        oracle.run(small)
    with guide(
        small.pipe, Schedule([Bin((sigmas[1] - 1e-3, sigmas[0] - 1e-3), [1], 1.0)])
    ) as handle:
        oracle.run(small)
    assert handle.passes.weak == pytest.approx(0.5)


def test_schedule_that_cannot_be() -> None:
    small = tiny("WanPipeline")
    scaled = Schedule([Bin((0.0, 2.0), [1], 1.0, guidance_scale=6.0)])
    message = r"guidance scales of its own, and so needs CFG, but this run has none\. Set g"
    with guide(small.pipe, scaled), pytest.raises(ValueError, match=message):
        oracle.run(small, **small.off)
    latte = tiny("LattePipeline")
    message = "a Schedule needs a scheduler with sigmas, but this pipeline has DDIMScheduler"
    with (
        guide(latte.pipe, Schedule([Bin((0.0, 2.0), [1], 1.0)])),
        pytest.raises(ValueError, match=message),
    ):
        oracle.run(latte)
    with pytest.raises(ValueError, match="must not overlap"):
        Schedule([Bin((0.0, 0.6), [1], 1.0), Bin((0.5, 1.0), [2], 1.0)])
    with pytest.raises(ValueError, match=r"pair \(low, high\) of numbers with low < high"):
        Bin((1.0, 0.5), [1], 1.0)
    with pytest.raises(ValueError, match="one Schedule"):
        guide(small.pipe, Schedule([Bin((0.0, 1.0), [1], 1.0)]), STG([1]))


def test_audio_scale_is_for_models_with_audio_and_zero_is_off() -> None:
    small = tiny("LTX2Pipeline")
    result = lambda **o: small.pipe(  # noqa: E731
        **{**small.call, **o}, generator=torch.Generator().manual_seed(0)
    )
    plain = result(num_inference_steps=2)
    with guide(small.pipe, STG([1], 1.0, stop=0.5, audio_scale=0.0)):
        ours = result(num_inference_steps=2)
    assert not torch.equal(ours[0], plain[0])
    with guide(small.pipe, STG([1], 0.0, audio_scale=0.0)) as handle:
        assert torch.equal(result(num_inference_steps=2)[0], plain[0])
        assert handle.passes.weak == 0
    with pytest.raises(
        ValueError, match=r"audio_scale is for models that make sound, but wan makes none"
    ):
        guide(tiny("WanPipeline").pipe, STG([1], audio_scale=0.5))
