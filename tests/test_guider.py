"""SkipGuidance in pipelines with a guider and in Modular pipelines, against oracle.py and
diffusers' own CFG."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.guiders.classifier_free_guidance import ClassifierFreeGuidance
from diffusers.hooks.faster_cache import FasterCacheConfig
from diffusers.modular_pipelines.modular_pipeline_utils import ComponentSpec
from torch import nn

from skipguide import STG, Random, guide
from skipguide.families.lookup import family_of_denoiser
from skipguide.guider import SkipGuidance
from skipguide.weak.patching import ModuleProxy
from support import foreign, oracle
from support.modular import LATENTS, MODULAR, Modular
from support.tiny import builders
from support.tiny.base import Tiny

G = 4.5
N = 3  # steps of a run


GUIDED = [
    "HunyuanVideo15Pipeline", "HunyuanVideo15ImageToVideoPipeline", "MotifVideoPipeline",
    "MotifVideoImage2VideoPipeline", *MODULAR,
]  # fmt: skip


@functools.cache
def build(name: str) -> Tiny:
    return MODULAR[name]() if name in MODULAR else builders()[name](torch.float32)


@pytest.fixture(params=GUIDED)
def small(request: pytest.FixtureRequest) -> Tiny:
    return build(request.param)


@pytest.fixture
def wan() -> Tiny:
    return build("modular Wan")


def use(small: Tiny, guider: Any) -> Any:
    """Put a guider into a pipeline as a user does; in both places of Wan 2.2."""
    if not isinstance(small.pipe, Modular):
        small.pipe.register_modules(guider=guider)
        return guider
    small.pipe.update_components(guider=guider)
    if hasattr(small.pipe, "guider_2"):
        small.pipe.update_components(guider_2=guider.new())
    return guider


def run(small: Tiny, guider: Any, **options: Any) -> torch.Tensor:
    use(small, guider)
    return oracle.run(small, **options)


def plain(small: Tiny, **config: Any) -> torch.Tensor:
    return run(small, ClassifierFreeGuidance(**{"guidance_scale": G, **config}))


def path_of(small: Tiny, layer: Any) -> str:
    """Where a layer, written as an int or "stack:int", is."""
    stacks = family_of_denoiser(small.pipe.transformer).stacks
    name, index = layer.split(":") if isinstance(layer, str) else (next(iter(stacks)), layer)
    return f"{stacks[name].path}.{index}"


def attentions(small: Tiny) -> list[str]:
    return (
        ["attn1"]
        if hasattr(small.pipe.transformer.get_submodule(path_of(small, 0)), "attn1")
        else ["attn"]
    )


def layers_of(term: STG) -> list[Any]:
    """Those that are named."""
    assert not isinstance(term.layers, Random)
    return list(term.layers)


def by_hand(small: Tiny, terms: list[STG], g: float = G, phi: float = 0.0) -> torch.Tensor:
    """The formula with separate full passes, in a pipeline with diffusers' own guider."""
    use(small, ClassifierFreeGuidance(guidance_scale=g))
    written = [
        oracle.Term(
            [path_of(small, layer) for layer in layers_of(term)],
            term.skip,
            term.scales(1),
            term.start,
            term.stop,
        )
        for term in terms
    ]
    return oracle.by_hand(small, written, attentions(small), phi, num_inference_steps=N)


def assert_equal(ours: torch.Tensor, theirs: torch.Tensor, unguided: torch.Tensor) -> None:
    """Equal up to float32's rounding, in a run that the guidance changed much more than that."""
    assert (ours - unguided).abs().max() > 1e-3, "the guidance had no effect"
    torch.testing.assert_close(
        ours, theirs, atol=2e-5 * max(1, float(unguided.abs().max())), rtol=1e-4
    )


# --- the formula ----------------------------------------------------------------------------------


@pytest.mark.diagonal
@pytest.mark.parametrize(
    "config",
    [
        {}, {"guidance_scale": 1.0}, {"enabled": False}, {"use_original_formulation": True},
        {"use_original_formulation": True, "guidance_scale": 0.0}, {"start": 0.3, "stop": 0.9},
        {"stop": 0.4},
    ],
)  # fmt: skip
def test_with_scale_0_it_is_diffusers_own_cfg_to_the_last_bit(
    small: Tiny, config: dict[str, Any]
) -> None:
    expected = plain(small, **config)
    windows = {f"cfg_{key}": config[key] for key in ("start", "stop") if key in config}
    config = {
        "guidance_scale": G,
        **{k: v for k, v in config.items() if k not in ("start", "stop")},
        **windows,
    }
    assert torch.equal(run(small, SkipGuidance(layers=[1], scale=0.0, **config)), expected)


def test_rescale_is_of_the_pushed_steps_alone(small: Tiny) -> None:
    """As with guide(): where no term is on, the step is the unguided pipeline's."""
    expected = plain(small)
    assert torch.equal(
        run(small, SkipGuidance([1], scale=0.0, guidance_scale=G, rescale=0.7)), expected
    )
    ours = run(small, SkipGuidance([1], guidance_scale=G, stop=0.1, rescale=0.7))
    assert_equal(ours, by_hand(small, [STG([1], stop=0.1)], phi=0.7), expected)


@pytest.mark.diagonal
@pytest.mark.parametrize("g", [G, 1.0])
@pytest.mark.parametrize("skip", ["residual", "attention"])
def test_equals_separate_full_passes_with_cfg_and_without(small: Tiny, skip: str, g: float) -> None:
    ours = run(small, SkipGuidance(layers=[0, 1], scale=1.3, skip=skip, guidance_scale=g))
    assert_equal(ours, by_hand(small, [STG([0, 1], 1.3, skip)], g), plain(small, guidance_scale=g))


@pytest.mark.diagonal
@pytest.mark.parametrize("phi", [0.0, 0.7])
@pytest.mark.parametrize("g", [G, 1.0])
def test_several_terms_windows_and_rescale(small: Tiny, g: float, phi: float) -> None:
    last = list(family_of_denoiser(small.pipe.transformer).stacks)[-1]
    terms = [
        STG([1], 1.2, "attention"),
        STG([f"{last}:1", f"{last}:2"], 0.8, stop=0.5),
        STG([0, f"{last}:1"], 0.3, start=0.5),
    ]
    more = [dict(layers=layers_of(t), scale=t.scale, start=t.start, stop=t.stop) for t in terms[1:]]
    ours = run(
        small, SkipGuidance([1], 1.2, "attention", terms=more, guidance_scale=g, rescale=phi)
    )
    assert_equal(ours, by_hand(small, terms, g, phi), plain(small, guidance_scale=g))


def test_cfg_outside_its_window_leaves_the_same_push_on_c(
    wan: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step's predictions and D by hand, from the inputs of the denoiser: bit-equal weak
    passes, D by numpy."""
    guider = SkipGuidance([1], 1.3, guidance_scale=G, cfg_start=0.4, cfg_stop=0.7, rescale=0.5)
    model, steps = copy.deepcopy(wan.pipe.transformer), []
    weak = oracle.weakened(model, [path_of(wan, 1)], "residual", attentions(wan))
    combine = guider.forward
    monkeypatch.setattr(
        guider,
        "forward",
        lambda **preds: steps.append((preds, combine(**preds)[0])) or combine(**preds),
    )
    with oracle.listening(wan) as calls:
        run(wan, guider)
    heard = iter(calls)
    assert [list(preds) for preds, _ in steps] == [
        ["pred_cond", "pred_weak"], ["pred_cond", "pred_uncond", "pred_weak"],
        ["pred_cond", "pred_weak"],
    ]  # fmt: skip  # int(0.4 * 3) <= i < int(0.7 * 3)
    for preds, D in steps:
        inputs = {name: next(heard).kwargs for name in preds}
        with torch.no_grad():
            hand = {
                name: oracle.samples((weak if "weak" in name else model)(**inputs[name]))[0]
                for name in preds
            }
        assert all(torch.equal(preds[name], hand[name]) for name in preds)
        c, p = hand["pred_cond"].double().numpy(), hand["pred_weak"].double().numpy()
        u = hand["pred_uncond"].double().numpy() if "pred_uncond" in hand else c
        expected = u + G * (c - u) + 1.3 * (c - p)
        ratios = [
            np.std(cond, ddof=1) / np.std(row, ddof=1)
            for cond, row in zip(c, expected, strict=True)
        ]
        expected *= 0.5 * np.reshape(ratios, (-1, 1, 1, 1, 1)) + 0.5
        torch.testing.assert_close(D.double(), torch.from_numpy(expected), atol=1e-5, rtol=1e-4)


def test_original_formulation_is_one_more_in_g(small: Tiny) -> None:
    ours = run(small, SkipGuidance([1], guidance_scale=G - 1, use_original_formulation=True))
    assert_equal(ours, run(small, SkipGuidance([1], guidance_scale=G)), plain(small))


def test_the_prompts_of_a_batch_do_not_touch_each_other(wan: Tiny) -> None:
    both = run(wan, SkipGuidance([1], guidance_scale=G, rescale=0.7)).reshape(LATENTS.shape)
    for i in (0, 1):
        rows = {k: v[i : i + 1] for k, v in wan.call.items() if torch.is_tensor(v)}
        torch.testing.assert_close(
            oracle.run(wan, **rows).reshape(LATENTS[:1].shape), both[i : i + 1]
        )


# --- the shared prefix ----------------------------------------------------------------------------


@pytest.mark.parametrize("skip", ["residual", "attention"])
def test_shared_prefix_is_the_default_and_bit_equal_to_full_passes(small: Tiny, skip: str) -> None:
    last = list(family_of_denoiser(small.pipe.transformer).stacks)[-1]
    config: Any = dict(
        layers=[f"{last}:1", f"{last}:2"], skip=skip, terms=[STG([f"{last}:2"], 0.7)], rescale=0.7
    )
    shared, full = SkipGuidance(**config), SkipGuidance(**config, share_prefix=False)
    assert shared.share_prefix
    assert torch.equal(run(small, shared), run(small, full))


@pytest.mark.parametrize("g", [G, 1.0])
def test_blocks_before_the_first_skipped_one_do_not_run_again(small: Tiny, g: float) -> None:
    strong = (2 if g == G else 1) * N
    last, stack = list(family_of_denoiser(small.pipe.transformer).stacks.items())[-1]
    for share, skip in itertools.product([True, False], ["residual", "attention"]):
        ran = evaluations(
            small, SkipGuidance([f"{last}:1"], skip=skip, guidance_scale=g, share_prefix=share)
        )
        k, skipped = list(ran).index(f"{stack.path}.1"), skip == "residual"
        weak = [0 if (share and i < k) or (skipped and i == k) else N for i in range(len(ran))]
        assert list(ran.values()) == [strong + count for count in weak]


def evaluations(small: Tiny, guider: Any, **options: Any) -> dict[str, int]:
    """How often each block runs, by path; of both transformers together."""
    ran: dict[str, int] = {}

    def count(path: str) -> Any:
        def note(*_: Any) -> None:
            ran[path] += 1

        return note

    hooks = []
    for model in oracle.models(small):
        for stack in family_of_denoiser(model).stacks.values():
            for i, block in enumerate(model.get_submodule(stack.path)):  # type: ignore[arg-type]
                ran[f"{stack.path}.{i}"] = 0
                hooks.append(block.register_forward_pre_hook(count(f"{stack.path}.{i}")))
    run(small, guider, **options)
    for hook in hooks:
        hook.remove()
    return ran


# --- what is wrong with diffusers' own guiders ----------------------------------------------------


def test_unlike_skip_layer_guidance_several_layers_do_not_crash(small: Tiny) -> None:
    """SkipLayerGuidance([7, 8, 9]) raises; each of ours counts: leaving one out is another
    video."""
    found = [run(small, SkipGuidance(layers, guidance_scale=G)) for layers in ([0, 1], [0], [1])]
    assert all((a - b).abs().max() > 1e-3 for a, b in itertools.combinations(found, 2))


def test_unlike_skip_layer_guidance_the_weak_pass_skips_without_cfg_too(wan: Tiny) -> None:
    """There its second batch is taken for uncond, and its scale means something else."""
    ran = evaluations(wan, SkipGuidance([3], 2.0, guidance_scale=1.0, share_prefix=False))
    assert ran["blocks.3"] == N
    assert ran["blocks.2"] == 2 * N


def test_unlike_smoothed_energy_guidance_every_batch_is_counted() -> None:
    guider = SkipGuidance([1], terms=[STG([0])])
    model = build("modular Wan").pipe.transformer
    guider.set_state(0, N, None)
    names = [
        getattr(batch, guider._identifier_key)
        for batch in guider.prepare_inputs({"x": (LATENTS, LATENTS)})
    ]
    assert names == ["pred_cond", "pred_uncond", "pred_weak", "pred_weak_1"]
    for name in names[:2]:
        guider.prepare_models(model)
        assert guider.is_conditional == (name != "pred_uncond")
        guider.cleanup_models(model)
    assert guider.get_state()["count_prepared"] == 2


def test_unlike_auto_a_number_is_always_a_layer_of_the_first_stack() -> None:
    motif = build("MotifVideoPipeline")
    expected = run(motif, SkipGuidance(["dual:1"], guidance_scale=G))
    assert torch.equal(run(motif, SkipGuidance([1], guidance_scale=G)), expected)
    assert not torch.equal(run(motif, SkipGuidance(["single:1"], guidance_scale=G)), expected)


@pytest.mark.parametrize("steps", [4, 8])
def test_unlike_skip_layer_guidance_a_window_without_a_step_is_an_error(
    wan: Tiny, steps: int
) -> None:
    """Its default, 0.01 to 0.2, selects none of 4 or 8 steps there (`<` at both ends); 1 of 8
    here."""
    guider = SkipGuidance([1], guidance_scale=G, start=0.01, stop=0.2)
    if steps == 8:
        assert evaluations(wan, guider, num_inference_steps=8)["blocks.3"] == 2 * 8 + 1
        return
    with pytest.raises(
        ValueError,
        match=r"start=0.01, stop=0.2 must select a step, but selects none of the 4 of this run",
    ):
        run(wan, guider, num_inference_steps=4)


@pytest.mark.parametrize("layers", [[1, 99], [99], [-1, 1]])
def test_unlike_skip_layer_guidance_no_index_is_ignored(small: Tiny, layers: list[int]) -> None:
    start = 0.5  # known at the first step, not in the middle of a run
    with (
        oracle.listening(small) as calls,
        pytest.raises(ValueError, match=r"must be .* but got (99|-1)"),
    ):
        run(small, SkipGuidance(layers, start=start))
    assert not calls


def test_unlike_skip_layer_guidance_the_first_step_is_guided(wan: Tiny) -> None:
    for guider in (
        SkipGuidance([0], guidance_scale=G),
        SkipGuidance([0], guidance_scale=G, stop=0.01),
    ):
        guided = N if guider.stop == 1 else 1
        assert evaluations(wan, guider)["blocks.3"] == 2 * N + guided


def test_the_number_of_texts_does_not_depend_on_the_step() -> None:
    """HunyuanVideo 1.5 reads it before a run, Motif before each step: an earlier step's answer is
    the wrong one."""
    for name, config in itertools.product(
        ["HunyuanVideo15Pipeline", "MotifVideoPipeline"], [{"stop": 0.5}, {"start": 0.5}]
    ):
        small = build(name)
        windows: Any = {f"cfg_{key}": value for key, value in config.items()}
        guider = SkipGuidance([1], guidance_scale=G, **windows)
        assert guider.num_conditions == 2
        first = run(small, guider)
        assert guider.num_conditions == 2
        assert torch.equal(oracle.run(small), first)
        assert torch.equal(run(small, guider.new()), first)


@pytest.mark.parametrize("name", ["HunyuanVideo15Pipeline", "MotifVideoPipeline"])
@pytest.mark.parametrize("config", [{"guidance_scale": 1.0}, {"enabled": False}, {"cfg_stop": 0.0}])
def test_without_cfg_no_negative_prompt_is_asked_for(name: str, config: dict[str, Any]) -> None:
    small = build(name)
    guider = SkipGuidance([1], **config)
    assert guider.num_conditions == 1
    expected = run(small, guider)
    none = {key: None for key in small.call if key.startswith("negative_")}
    assert torch.equal(oracle.run(small, **none), expected)


# --- the model afterwards -------------------------------------------------------------------------


def contents(small: Tiny) -> list[Any]:
    """Every module with what it holds (named_modules() shows the real ones behind stand-ins) and
    its hooks."""
    modules = [module for model in oracle.models(small) for module in model.modules()]
    return [
        (m, *m._modules.values(), *m._forward_hooks.values(), *m._forward_pre_hooks.values())
        for m in modules
    ]


def standing_in(small: Tiny) -> list[str]:
    """Where a module is not what it passes itself off for."""
    parents = [
        (path, parent) for model in oracle.models(small) for path, parent in model.named_modules()
    ]
    return [
        f"{path}.{name}"
        for path, parent in parents
        for name, m in parent._modules.items()
        if isinstance(m, ModuleProxy)
    ]


def test_the_model_is_what_it_was(small: Tiny) -> None:
    before, expected = contents(small), plain(small)
    run(small, SkipGuidance([1], terms=[STG([0], skip="attention")], guidance_scale=G))
    assert contents(small) == before
    assert torch.equal(plain(small), expected)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("call", [1, 2, 3])  # cond, uncond, weak
def test_an_exception_inside_the_denoiser_leaves_no_stand_in_for_the_next_plain_run(
    wan: Tiny, error: type[BaseException], call: int
) -> None:
    """Pipelines do not clean up then; diffusers' own hooks stay on."""
    before, expected, guided = (
        contents(wan),
        plain(wan),
        run(wan, SkipGuidance([1], guidance_scale=G)),
    )
    guider, calls = SkipGuidance([1], guidance_scale=G), itertools.count(1)

    def fail(*_: Any) -> None:
        if next(calls) == call:
            raise error("no memory")

    for then, bits in ((guider, guided), (ClassifierFreeGuidance(guidance_scale=G), expected)):
        calls = itertools.count(1)
        hook = wan.pipe.transformer.blocks[3].register_forward_hook(fail)
        with pytest.raises(error, match="no memory"):
            run(wan, guider)
        hook.remove()
        if (
            error is RuntimeError
        ):  # of a KeyboardInterrupt no hook is told; what sees it is the next call
            assert not standing_in(wan)
        assert torch.equal(run(wan, then), bits)
        assert contents(wan) == before


def test_several_calls_in_one_batch_are_refused_and_a_step_beyond_the_last_one() -> None:
    guider, model = SkipGuidance([1]), build("modular Wan").pipe.transformer
    inputs = dict(
        hidden_states=LATENTS, timestep=torch.ones(2), encoder_hidden_states=torch.ones(2, 12, 16)
    )
    with pytest.raises(ValueError, match=r"step i of N must be from 0 to N - 1, but got 3 of 3"):
        guider.set_state(N, N, None)
    guider.set_state(0, N, None)
    guider.prepare_models(model)
    with torch.no_grad():
        first, second = model(**inputs).sample, model(**inputs).sample
    assert torch.equal(first, second)
    with pytest.raises(RuntimeError, match="needs one call of the denoiser between prepare_models"):
        guider.cleanup_models(model)
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    for _ in range(2):
        guider.prepare_models(model)
        guider.cleanup_models(model)
    with pytest.raises(
        RuntimeError,
        match=r"this step has 3 batches .* but prepare_models\(\) was called 4 times in it",
    ):
        guider.prepare_models(model)


def test_a_weak_pass_that_is_the_conditional_one_is_refused() -> None:
    small = MODULAR["modular Wan"]()
    with torch.no_grad():
        small.pipe.transformer.blocks[1].attn1.to_out[0].weight.zero_()
    with pytest.raises(ValueError, match=r"but that of layers=\[1\], skip='attention' is the same"):
        run(small, SkipGuidance([1], skip="attention"))
    run(small, SkipGuidance([1]))


@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")  # diffusers' own
def test_a_run_of_one_step_without_a_noise_level_is_refused() -> None:
    ltx = build("modular LTX")
    with pytest.raises(ValueError, match=r"^steps must be enough .* of 1 step. Take 2 or more."):
        run(ltx, SkipGuidance([1]), num_inference_steps=1)


def test_modules_that_were_replaced_between_runs_are_seen() -> None:
    small = MODULAR["modular Wan"]()
    guider = SkipGuidance([1], skip="attention", guidance_scale=G)
    run(small, guider)
    torch.manual_seed(1)
    blocks = small.pipe.transformer.blocks
    blocks[0], blocks[1] = blocks[1], copy.deepcopy(blocks[0])
    assert torch.equal(oracle.run(small), run(small, guider.new()))


def test_copies_of_a_pipeline_have_guiders_of_their_own() -> None:
    small = build("HunyuanVideo15Pipeline")
    expected = run(small, SkipGuidance([1], guidance_scale=G))
    other = copy.copy(small.pipe.guider), copy.deepcopy(small.pipe.guider)
    assert not any(len(guider._guided_denoisers) for guider in other)
    assert all(torch.equal(run(small, guider), expected) for guider in other)


# --- its configuration ----------------------------------------------------------------------------

CONFIGS: list[dict[str, Any]] = [
    dict(layers=[34], guidance_scale=5.0),
    dict(
        layers=("dual:1", 2),
        scale=2.0,
        skip="attention",
        axis="spatial",
        start=0.1,
        stop=0.5,
        rescale=0.7,
    ),
    dict(
        terms=[
            {"layers": [1]},
            {"layers": range(2), "scale": 0.5, "skip": "attention"},
            STG([3], 0.1),
        ]
    ),
    dict(
        layers=[1],
        share_prefix=False,
        use_original_formulation=True,
        cfg_start=0.1,
        cfg_stop=0.9,
        enabled=False,
    ),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_save_and_load(config: dict[str, Any], tmp_path: Path) -> None:
    guider = SkipGuidance(**config)
    guider.save_pretrained(tmp_path)
    assert (
        json.loads((tmp_path / "guider_config.json").read_text())["_class_name"] == "SkipGuidance"
    )
    assert {"layers", "terms", "cfg_stop"} <= set(guider.config)
    loaded = [
        SkipGuidance.from_pretrained(tmp_path), SkipGuidance.from_config(guider.config),
        guider.new(), ComponentSpec.from_component("guider", guider).create(),
    ]  # fmt: skip
    for other in loaded:
        assert other.terms == guider.terms
        names = (
            set(guider.config)
            - {"terms"}
            - {name for name in guider.config if name.startswith("_")}
        )
        assert {name: other.config[name] for name in names} == {
            name: guider.config[name] for name in names
        }
        assert other._enabled == guider._enabled


def test_positional_arguments_are_kept_by_from_config() -> None:
    """diffusers takes them for defaults there: ClassifierFreeGuidance(3.5).new() has a scale of
    7.5."""
    guider = SkipGuidance([34], 2.0, "attention")
    same: Any = guider.new()
    other: Any = guider.new(scale=0.5)
    assert same.terms == guider.terms == (STG([34], 2.0, "attention"),)
    assert other.terms == (STG([34], 0.5, "attention"),)


def test_a_pipeline_that_was_saved_with_it_loads_with_it(tmp_path: Path) -> None:
    small = build("HunyuanVideo15Pipeline")
    expected = run(small, SkipGuidance([1], guidance_scale=G))
    small.pipe.save_pretrained(tmp_path)
    absent: Any = {name: None for name, part in small.pipe.components.items() if part is None}
    pipe = type(small.pipe).from_pretrained(tmp_path, **absent)
    pipe.set_progress_bar_config(disable=True)
    assert isinstance(pipe.guider, SkipGuidance)
    loaded = oracle.run(dataclasses.replace(small, pipe=pipe))
    # not to the last bit: the plain pipeline is not either, for its weights lie elsewhere in memory
    torch.testing.assert_close(loaded, expected, atol=1e-5, rtol=1e-5)


def test_scales_can_be_set_later_and_the_rest_says_how(wan: Tiny) -> None:
    guider = SkipGuidance([1], guidance_scale=2.0)
    guider.guidance_scale, guider.rescale = G, 0.7
    assert torch.equal(run(wan, guider), run(wan, SkipGuidance([1], guidance_scale=G, rescale=0.7)))
    with pytest.raises(ValueError, match="rescale must be a number from 0"):
        guider.rescale = 7
    for name in ("layers", "scale", "stop", "terms", "share_prefix", "cfg_start"):
        with pytest.raises(
            AttributeError, match=rf"{name} of a SkipGuidance is fixed.* Use .new\({name}="
        ):
            setattr(guider, name, 1)


def test_a_preset_comes_with_its_rescale() -> None:
    preset = dataclasses.replace(STG([1], 2.0), preset_rescale=0.7)
    guider: Any = SkipGuidance(terms=preset)
    assert (guider.terms, guider.rescale, guider.new().rescale) == ((preset,), 0.7, 0.7)
    assert SkipGuidance(terms=[preset], rescale=0.0).rescale == 0
    assert SkipGuidance([1]).rescale == 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "SkipGuidance needs layers to skip, but got none"),
        (dict(layers=[]), "needs at least one layer to skip"),
        (dict(layers=7), r"layers must be a list of layers, but got 7. Write layers=\[7\]"),
        (dict(layers=[1], start=0.5, stop=0.5), "selects no step"),
        (dict(layers=[1], skip="identity"), "skip must be one of residual, attention"),
        (dict(layers=[1], rescale=1.5), "rescale must be a number from 0"),
        (dict(layers=[1], cfg_start=1.5), "Expected `start` to be between 0.0 and 1.0"),
        (dict(terms=[dict(scale=1.0)]), "a term must name its layers"),
        (dict(terms=[dict(layers=[1], sigma=1.0)]), "a term has the parts layers"),
        (dict(terms=[[1]]), "a term must have layers and a scale"),
        (dict(terms=[dict(layers=[1])], scale=2.0), "scale needs layers to belong to"),
    ],
)
def test_bad_arguments_are_refused_at_once(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SkipGuidance(**config)


# --- in company -----------------------------------------------------------------------------------


def test_a_cache_that_is_not_known_is_refused_also_when_it_comes_later() -> None:
    """Those that are: tests/test_guider_caches.py."""
    small = MODULAR["modular LTX"]()
    expected = run(small, SkipGuidance([1], guidance_scale=G))
    config = FasterCacheConfig(current_timestep_callback=lambda: 500)
    small.pipe.transformer.enable_cache(config)
    with pytest.raises(ValueError, match="FasterCache does not go together"):
        oracle.run(small)
    small.pipe.transformer.disable_cache()
    assert torch.equal(oracle.run(small), expected)


@pytest.mark.parametrize("kind", foreign.CACHES)
def test_foreign_caches_are_refused_by_what_they_do_also_when_they_come_later(kind: str) -> None:
    small = MODULAR["modular Wan"]()
    model = small.pipe.transformer
    guider = SkipGuidance([1], terms=[STG([2], 0.5, "attention")], guidance_scale=G)
    expected = run(small, guider)
    off = foreign.CACHES[kind](model)
    words = (
        "runs its own forward|its own blocks|must run once|the same prediction|the same in each"
        "|must differ from the conditional one, but .* A cache that returns what it kept"
    )
    with pytest.raises(ValueError, match=words):
        oracle.run(small)
    off()
    assert torch.equal(oracle.run(small), expected)


@pytest.mark.parametrize("kind", [kind for kind in foreign.NO_CACHES if "compiled" not in kind])
def test_what_is_no_cache_is_not_refused(kind: str) -> None:
    small = MODULAR["modular Wan"]()
    guider = SkipGuidance([1], terms=[STG([2], 0.5, "attention")], guidance_scale=G)
    expected = run(small, guider)
    off = foreign.NO_CACHES[kind](small.pipe.transformer)
    assert torch.equal(oracle.run(small), expected)
    off()
    assert torch.equal(oracle.run(small), expected)


def test_a_denoiser_is_known_by_its_class_or_one_that_it_derives_from(wan: Tiny) -> None:
    class Mine(type(wan.pipe.transformer)):  # type: ignore[misc]
        pass

    assert (
        family_of_denoiser(Mine(num_layers=1, num_attention_heads=1, attention_head_dim=12)).name
        == "wan"
    )
    with pytest.raises(
        ValueError, match=r"needs a denoiser that it knows, but got Linear\. Nearest known: "
    ):
        family_of_denoiser(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="Compile in place"):
        family_of_denoiser(torch.compile(wan.pipe.transformer, backend="eager"))  # type: ignore[arg-type]


def test_guide_sends_users_here() -> None:
    small = build("MotifVideoPipeline")
    guider = use(small, SkipGuidance([1]))
    with (
        guide(small.pipe, STG([1])),
        pytest.raises(ValueError, match="a SkipGuidance, which runs weak passes already"),
    ):
        oracle.run(small)
    # the hook of guide() raised before the denoiser began: nobody cleaned up, and plain runs go on
    assert torch.equal(plain(small), plain(small))
    assert not guider._hooks


@pytest.mark.parametrize(
    ("name", "compiled"),
    [
        pytest.param("modular Wan", "whole", marks=pytest.mark.long),
        ("HunyuanVideo15Pipeline", "repeated"),
    ],
)
def test_compiled_models_are_not_compiled_again(name: str, compiled: str) -> None:
    """The eager backend: what is traced and when, without waiting for C++."""
    from torch._dynamo.utils import counters

    small = MODULAR[name]() if name in MODULAR else builders()[name](torch.float32)
    guider = SkipGuidance([1], terms=[STG([2], 0.5, "attention", stop=0.5)], guidance_scale=G)
    unguided, expected = plain(small), run(small, guider)
    torch._dynamo.reset()
    counters.clear()
    model = small.pipe.transformer
    (
        model.compile(backend="eager")
        if compiled == "whole"
        else model.compile_repeated_blocks(backend="eager")
    )
    torch.testing.assert_close(plain(small), unguided)
    torch.testing.assert_close(run(small, guider), expected)
    made = counters["frames"]["total"]
    assert made > 0
    for _ in range(2):
        torch.testing.assert_close(run(small, guider), expected)
    torch.testing.assert_close(plain(small), unguided)
    assert counters["frames"]["total"] == made
    torch._dynamo.reset()


def test_orthogonalize_takes_from_the_second_term_what_the_first_has() -> None:
    """Eq. 21, by numpy, per sample."""
    generator = torch.Generator().manual_seed(0)
    c, u, p_s, p_t = (torch.randn(2, 3, 4, 5, 6, generator=generator) for _ in range(4))
    guider = SkipGuidance(
        [1], 2.0, terms=[dict(layers=[2], scale=0.5)], guidance_scale=G, orthogonalize=True
    )
    ours = guider.forward(c, u, **dict(zip(guider._weak_terms(), (p_s, p_t), strict=True))).pred
    for i in range(2):
        D_s, D_t = ((c[i] - p[i]).double().numpy() for p in (p_s, p_t))
        D_t = D_t - (D_t * D_s).sum() / (D_s * D_s).sum() * D_s
        expected = (
            u[i].double().numpy() + G * (c[i] - u[i]).double().numpy() + 2.0 * D_s + 0.5 * D_t
        )
        torch.testing.assert_close(
            ours[i].double(), torch.from_numpy(expected), atol=1e-5, rtol=1e-5
        )
