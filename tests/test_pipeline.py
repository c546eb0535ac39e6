"""guide() as users meet it: on and off without a trace, however a pipeline is called, and every error message."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers.pipelines.mochi.pipeline_mochi import linear_quadratic_schedule

import oracle
from conftest import TINY_CALL, tiny_mochi
from skipguide import SLG, STG, Bin, Schedule, guide, presets
from skipguide.families import FAMILIES
from tiny import tiny

TERM = STG(layers=[2], scale=1.0)
PROMPTS = ["a red star", "the blue square moving left"]


def call(pipe: Any, prompt: Any = PROMPTS, seed: int = 0, **kwargs: Any) -> torch.Tensor:
    return pipe(prompt, generator=torch.Generator().manual_seed(seed), **{**TINY_CALL, **kwargs}).frames


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
        found += [(key, len(value)) for key, value in vars(module).items() if "hook" in key and isinstance(value, dict)]
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
            pipe, STG(layers=[2], scale=0.0), STG(layers=[1], skip="attention", scale=0.0), rescale=0.7
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
        hook = raise_in_block(pipe, 3, call_number, error)  # block 3 runs in the strong and in the weak pass
        with pytest.raises(type(error)), guide(pipe, TERM, share_prefix=share_prefix):
            call(pipe)
        hook.remove()


def test_removal_frees_the_state_of_a_step_that_raised(pipe: Any) -> None:
    with guide(pipe, TERM) as handle:
        hook = raise_in_block(pipe, 3, 0, RuntimeError())  # after block 2 was recorded
        with pytest.raises(RuntimeError):
            call(pipe)
        hook.remove()
        assert handle._recorder.states != {}
    assert handle._recorder.states == {}


def test_denoiser_called_without_its_pipeline(pipe: Any) -> None:
    inputs = (torch.zeros(2, 12, 1, 4, 4), torch.zeros(2, 3, 32), torch.zeros(2), torch.ones(2, 3))
    message = "must be called by the MochiPipeline that guide\\(\\) got"
    with guide(pipe, TERM):
        call(pipe)
        with pytest.raises(RuntimeError, match=message):
            pipe.transformer(*inputs)
        with pytest.raises(RuntimeError, match=message):
            call(type(pipe)(**pipe.components))  # its own guidance_scale and step would be read from the wrong place


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


# --- ways to call -----------------------------------------------------------------------------------------------------


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
            pipe, None, prompt_embeds=text, prompt_attention_mask=mask, negative_prompt_embeds=negative,
            negative_prompt_attention_mask=negative_mask,
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
    """The push must not be rounded to the model's precision: g would magnify the rounding of two shifted rows."""
    pipe = tiny_mochi(dtype)
    returned = []
    hook = pipe.transformer.register_forward_hook(lambda *a: returned.append(a[-1][0]))
    with guide(pipe, TERM, share_prefix=share_prefix):
        ours = latents_after_first_step(pipe)
    hook.remove()
    strong, weak = returned[0].float(), returned[1].float()  # the hook came first: it sees what the model returned
    u, c = strong.chunk(2)
    expected = u + 4.5 * (c - u) + (c - weak)
    assert ours.dtype == dtype
    latents = pipe.prepare_latents(2, 12, 32, 32, 7, dtype, torch.device("cpu"), torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours, (latents.float() + first_step_size() * expected).to(dtype))


@pytest.mark.parametrize("skip", ["residual", "attention"])
def test_weights_that_accelerate_offloads(pipe: Any, skip: str) -> None:
    """The hooks that fetch weights sit on the real modules: what is skipped is not fetched, what runs is."""
    import accelerate

    term = STG(layers=[2], skip=skip)
    with guide(pipe, term):
        expected = call(pipe)
    offloaded = tiny_mochi()
    accelerate.cpu_offload(offloaded.transformer, execution_device=torch.device("cpu"))
    assert next(offloaded.transformer.parameters()).device.type == "meta"
    with guide(offloaded, term):
        assert torch.equal(call(offloaded), expected)


def test_returns_an_output_class_when_asked(pipe: Any) -> None:
    calls: list[dict[str, Any]] = []
    hook = pipe.transformer.register_forward_pre_hook(lambda m, a, k: calls.append(k), with_kwargs=True)
    with guide(pipe, TERM), torch.no_grad():
        call(pipe)
        pipe.scheduler._step_index, pipe._current_timestep = 0, 0
        as_tuple = pipe.transformer(**calls[0])[0]
        as_output = pipe.transformer(**{**calls[0], "return_dict": True})
    hook.remove()
    pipe._current_timestep = None
    assert torch.equal(as_output.sample, as_tuple)


# --- what it costs ----------------------------------------------------------------------------------------------------


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
    plain = {"to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_out", "to_add_out"}
    with guide(pipe, STG(layers=[2], skip="attention")):
        call(pipe, num_inference_steps=2)
    for hook in hooks:
        hook.remove()
    counts = {name: ran.count(name) for name in plain}
    assert counts == {name: 4 if name in ("to_v", "add_v_proj", "to_out", "to_add_out") else 2 for name in plain}


def test_records_nothing_between_steps(pipe: Any) -> None:
    with guide(pipe, TERM) as handle:
        call(pipe)
        assert handle._recorder.states == {}


# --- refusals ---------------------------------------------------------------------------------------------------------


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
    (dict(layers=[1], skip="values"), r"skip must be one of residual, attention, but got 'values'"),
    (dict(layers=[1], axis="time"), r'axis must be "spatial", "temporal" or None, but got \'time\''),
    (dict(layers=[1], start=-0.1), r"start must be a number from 0 to 1 .* but got -0.1"),
    (dict(layers=[1], stop=1.1), r"stop must be a number from 0 to 1 .* but got 1.1"),
    (dict(layers=[1], start=0.5, stop=0.5), r"start=0.5, stop=0.5 selects no step.*Make stop larger"),
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
    ([STG(layers=["single:1"])], {}, r"stack must be one that mochi has \(blocks\), but got single"),
    (
        [STG(layers=[1], axis="spatial")],
        {},
        r"axis must be one that mochi has \(none, its attention is joint .* got 'spatial'",
    ),
    ([], {}, r"needs one or more STG terms, but got none"),
    ([[TERM]], {}, r"needs one or more STG terms, but got list"),
    ([TERM], dict(rescale=1.5), r"rescale must be a number from 0 \(off\) to 1, but got 1.5"),
    ([TERM], dict(rescale=float("nan")), r"rescale must be a number from 0 \(off\) to 1, but got nan"),
    ([STG(layers=[1, "blocks:1"])], {}, r"each layer may be named once, but 1 is named repeatedly"),
]


@pytest.mark.parametrize(("terms", "options", "message"), BAD_GUIDES)
def test_bad_guides_leave_the_pipe_alone(pipe: Any, terms: Any, options: Any, message: str) -> None:
    with untouched(pipe), pytest.raises(ValueError, match=message):
        guide(pipe, *terms, **options)


def test_family_without_attention_skip_says_so(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    row = FAMILIES[0]
    stack = dataclasses.replace(row.stacks["blocks"], attention="", values=None)
    monkeypatch.setattr("skipguide.families.FAMILIES", (dataclasses.replace(row, stacks={"blocks": stack}),))
    with pytest.raises(ValueError, match=r"skip must be one that mochi has \(residual\), but got 'attention'"):
        guide(pipe, STG(layers=[1], skip="attention"))


def test_window_that_selects_no_step_of_this_run(pipe: Any) -> None:
    with guide(pipe, STG(layers=[1], start=0.01, stop=0.2)):
        with pytest.raises(ValueError, match=r"start=0.01, stop=0.2 must select a step, but selects none of the 4"):
            call(pipe)
        assert torch.isfinite(call(pipe, num_inference_steps=10)).all()
    with guide(pipe, STG(layers=[1], start=0.01, stop=0.2, scale=0)):
        call(pipe)  # off is off


# --- presets ----------------------------------------------------------------------------------------------------------


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
        ValueError, match=r"none is known for a MochiPipeline of 4 blocks .*genmo/mochi-1-preview \(48 blocks\)"
    ):
        STG.preset(pipe)


def test_import_is_light() -> None:
    import subprocess
    import sys

    code = "import sys, skipguide; print(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
