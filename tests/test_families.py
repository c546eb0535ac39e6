"""Oracle tests of the rows of families.py; a row without one fails. The oracles share no code with what they check:

a residual skip is a model from which the block was deleted, an attention skip is the model's own attention with a dense
identity mask, and the guided run is a sampling loop written out with one full forward pass per prediction.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.mochi.pipeline_mochi import MochiPipeline, linear_quadratic_schedule

from conftest import BUILDERS, TINY_CALL
from skipguide import STG, guide
from skipguide.families import FAMILIES, family_of

PROMPTS = ["a red star", "the blue square moving left"]
Predict = Callable[..., torch.Tensor]


def call(pipe: Any, prompt: Any = PROMPTS, seed: int = 0, **kwargs: Any) -> torch.Tensor:
    return pipe(prompt, generator=torch.Generator().manual_seed(seed), **{**TINY_CALL, **kwargs}).frames


def latents_after_first_step(pipe: Any, prompt: Any = PROMPTS, **kwargs: Any) -> torch.Tensor:
    """Of a run of two: MochiPipeline divides by zero in a run of one step."""
    kept = []
    call(
        pipe,
        prompt,
        num_inference_steps=2,
        callback_on_step_end=lambda *a: kept.append(a[-1]["latents"]) or {},
        **kwargs,
    )
    return kept[0]


def first_step_size() -> float:
    sigmas = linear_quadratic_schedule(2, 0.025)
    return sigmas[0] - sigmas[1]


def without_blocks(transformer: torch.nn.Module, layers: list[int]) -> torch.nn.Module:
    """The weak model of Eq. 15: the blocks are not there."""
    weak = copy.deepcopy(transformer)
    for layer in sorted(layers, reverse=True):
        del weak.get_submodule("transformer_blocks")[layer]  # type: ignore[operator]
    return weak


def with_identity_maps(transformer: torch.nn.Module, layers: list[int]) -> torch.nn.Module:
    """The weak model of Eq. 17: softmax attention as it is, under a mask that leaves each token only itself."""
    weak = copy.deepcopy(transformer)
    usual = torch.nn.functional.scaled_dot_product_attention

    def masked(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        identity = torch.eye(query.shape[-2], key.shape[-2], dtype=torch.bool)
        return usual(query, key, value, attn_mask=identity, **kwargs)

    def on(*_: Any) -> None:
        torch.nn.functional.scaled_dot_product_attention = masked

    def off(*_: Any) -> None:
        torch.nn.functional.scaled_dot_product_attention = usual

    for layer in layers:
        attention = weak.get_submodule(f"transformer_blocks.{layer}.attn1")
        attention.register_forward_pre_hook(on)
        attention.register_forward_hook(off, always_call=True)
    return weak


WEAKEN = {"residual": without_blocks, "attention": with_identity_maps}


def sample_by_hand(pipe: Any, terms: list[STG], g: float, phi: float = 0.0, steps: int = 4) -> torch.Tensor:
    """MochiPipeline's loop with separate full passes: one for c, one for u, one per weak model."""
    c_text, c_mask, u_text, u_mask = pipe.encode_prompt(PROMPTS, max_sequence_length=16)
    latents = pipe.prepare_latents(
        len(PROMPTS), 12, 32, 32, 7, torch.float32, torch.device("cpu"), torch.Generator().manual_seed(0)
    )
    weak = [WEAKEN[term.skip](pipe.transformer, [int(layer) for layer in term.layers]) for term in terms]
    scheduler = copy.deepcopy(pipe.scheduler)
    scheduler.set_timesteps(sigmas=np.array(linear_quadratic_schedule(steps, 0.025)))
    with torch.no_grad():
        for i, t in enumerate(scheduler.timesteps):
            time = t.expand(len(PROMPTS))
            c = pipe.transformer(latents, c_text, time, c_mask, return_dict=False)[0]
            D = c
            if g > 1:
                u = pipe.transformer(latents, u_text, time, u_mask, return_dict=False)[0]
                D = u + g * (c - u)
            active = [(m, s) for m, s in zip(weak, terms, strict=True) if s.start <= i / steps < s.stop]
            for model, term in active:
                D = D + term.scale * (c - model(latents, c_text, time, c_mask, return_dict=False)[0])
            if active and phi:
                for b in range(len(D)):
                    D[b] *= phi * float(np.std(c[b].numpy(), ddof=1) / np.std(D[b].numpy(), ddof=1)) + 1 - phi
            latents = scheduler.step(D, t, latents, return_dict=False)[0]
    return latents


# How each family's pipeline samples, written out; a new row adds its own.
LOOPS = {"mochi": sample_by_hand}


@pytest.mark.parametrize("skip", ["residual", "attention"])
@pytest.mark.parametrize("g", [1.0, 4.5])
@pytest.mark.parametrize("layers", [[0], [2], [3], [1, 3]])
def test_equals_separate_full_passes(pipe: Any, skip: str, g: float, layers: list[int]) -> None:
    term = STG(layers=layers, scale=1.3, skip=skip)
    with guide(pipe, term):
        ours = call(pipe, guidance_scale=g)
    torch.testing.assert_close(ours, sample_by_hand(pipe, [term], g), atol=2e-4, rtol=2e-4)
    assert (ours - call(pipe, guidance_scale=g)).abs().max() > 1e-2, "the guidance had no effect"


@pytest.mark.parametrize("g", [1.0, 4.5])
@pytest.mark.parametrize("phi", [0.0, 0.7, 1.0])
def test_several_terms_windows_and_rescale(pipe: Any, g: float, phi: float) -> None:
    terms = [
        STG(layers=[2], scale=0.8, stop=0.5),
        STG(layers=[1, 3], scale=1.5, skip="attention", start=0.25, stop=0.75),
        STG(layers=[2, 3], scale=0.4, start=0.5),
    ]
    with guide(pipe, *terms, rescale=phi):
        ours = call(pipe, guidance_scale=g)
    torch.testing.assert_close(ours, sample_by_hand(pipe, terms, g, phi), atol=5e-4, rtol=5e-4)


def test_plain_loop_by_hand_equals_diffusers(pipe: Any) -> None:
    """The oracle itself against diffusers' own CFG."""
    torch.testing.assert_close(call(pipe), sample_by_hand(pipe, [], 4.5), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("skip", ["residual", "attention"])
@pytest.mark.parametrize("layers", [[0], [2], [1, 3], [0, 1, 2, 3]])
@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_shared_prefix_is_bit_equal_to_full_weak_passes(
    pipe: Any, skip: str, layers: list[int], rescale: float
) -> None:
    term = STG(layers=layers, skip=skip)
    with guide(pipe, term, rescale=rescale):
        shared = call(pipe)
    with guide(pipe, term, rescale=rescale, share_prefix=False):
        full = call(pipe)
    assert torch.equal(shared, full)


@pytest.mark.parametrize("skip", ["residual", "attention"])
def test_shared_prefix_with_one_prompt(pipe: Any, skip: str) -> None:
    """Equal up to the rounding of products with one row: a batch of one and of two take different kernels."""
    with guide(pipe, STG(layers=[2], skip=skip)):
        shared = call(pipe, "a red star")
    with guide(pipe, STG(layers=[2], skip=skip), share_prefix=False):
        full = call(pipe, "a red star")
    torch.testing.assert_close(shared, full, atol=1e-5, rtol=1e-5)


def test_every_row_has_its_oracles() -> None:
    assert {row.name for row in FAMILIES} == set(BUILDERS) == set(LOOPS)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda row: row.name)
def test_row_names_things_that_exist(family: Any) -> None:
    import diffusers

    assert all(hasattr(diffusers, name) for name in family.pipelines)
    model = getattr(diffusers, family.denoiser_class)(**family.smallest)
    import inspect

    parameters = inspect.signature(model.forward).parameters
    assert set(family.batched) <= set(parameters)
    for stack in family.stacks.values():
        blocks = model.get_submodule(stack.path)
        inputs = list(inspect.signature(blocks[0].forward).parameters)
        assert tuple(inputs[: len(stack.streams)]) == stack.streams
        if stack.attention:
            assert blocks[0].get_submodule(stack.attention) is not None
        default = inspect.signature(type(model).__init__).parameters["num_layers"].default
        assert stack.depth == default


def test_identity_attention_follows_the_packing_of_padded_prompts(pipe: Any) -> None:
    """Mochi moves real text tokens to the front; with padding on the left that shows."""
    text, mask, _, _ = pipe.encode_prompt(PROMPTS, do_classifier_free_guidance=False, max_sequence_length=16)
    options: dict[str, Any] = dict(
        prompt=None, prompt_embeds=text.flip(1), prompt_attention_mask=mask.flip(1), guidance_scale=1.0
    )
    with guide(pipe, STG(layers=[1], skip="attention", scale=1.0)):
        first = latents_after_first_step(pipe, **options)
    weak = with_identity_maps(pipe.transformer, [1])
    latents = pipe.prepare_latents(
        2, 12, 32, 32, 7, torch.float32, torch.device("cpu"), torch.Generator().manual_seed(0)
    )
    time = torch.zeros(2)
    with torch.no_grad():
        c = pipe.transformer(latents, text.flip(1), time, mask.flip(1), return_dict=False)[0]
        p = weak(latents, text.flip(1), time, mask.flip(1), return_dict=False)[0]
    torch.testing.assert_close(first, latents + first_step_size() * (c + (c - p)), atol=1e-5, rtol=1e-5)


def test_subclass_of_a_known_pipeline(pipe: Any) -> None:
    derived = type("MyMochiPipeline", (MochiPipeline,), {})(**pipe.components)
    assert family_of(derived).name == "mochi"


def test_compiled_wrapper_is_refused_with_the_way_out(pipe: Any) -> None:
    other = MochiPipeline(**pipe.components)
    vars(other)["transformer"] = torch.compile(pipe.transformer, backend="eager")
    with pytest.raises(
        ValueError, match=r"got the wrapper of torch.compile\(\). Compile in place: pipe.transformer.comp"
    ):
        family_of(other)


class StrangePipeline:
    transformer = torch.nn.Linear(1, 1)


def test_unknown_pipeline_names_the_nearest_and_the_file() -> None:
    with pytest.raises(ValueError, match=r"got StrangePipeline. Nearest known: .*MochiPipeline.*add a row to FAMILIES"):
        family_of(StrangePipeline())


def test_unknown_denoiser_is_named(pipe: Any) -> None:
    other = MochiPipeline(**{**pipe.components, "transformer": None})
    with pytest.raises(ValueError, match=r"needs a MochiTransformer3DModel as its .transformer, but got NoneType"):
        family_of(other)
