"""NAG: against the denoiser on a batch of prompt and negative prompt, for every family that has it.

The steps are played by hand (support/oracle.py), with predictions that nothing of skipguide made.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from skipguide import NAG, SLG, STG, guide
from skipguide.families import lookup
from skipguide.families.rows import FAMILIES
from skipguide.guider import SkipGuidance
from skipguide.method.cfg_rules import APG
from support import nag as by_hand
from support import oracle
from support.cached import configs
from support.saved import whole
from support.tiny import builders, tiny
from support.tiny.base import Tiny
from support.tiny_mochi import TINY_CALL, tiny_mochi

Tensor = torch.Tensor
TERM = NAG(scale=4.0, tau=1.5, alpha=0.5)
NUMBERS = (4.0, 1.5, 0.5)
REFUSED = {"LTX2Pipeline gated": "modulate", "HeliosPyramidPipeline zero": "is_cfg_zero_star"}
HAVE_NAG = [
    name
    for family in FAMILIES
    for name in builders()
    if family.negative is not None and name.split()[0] in family.pipelines and name not in REFUSED
]
# Without CFG they drop the embeddings that they are given, and the tiny ones have no encoder.
DROP_EMBEDDINGS = (
    "SanaVideo", "SanaImage", "SanaPipeline", "SanaControl", "SanaPAG", "PixArt", "Allegro",
    "AnyFlow",
)  # fmt: skip


def negative_inputs(small: Tiny) -> dict[str, Any]:
    """The inputs that the negative prompt has, from the calls of a run with CFG."""
    step, _ = oracle.calls_of_step(small, 0, [], {**small.short})
    assert step.uncond is not None
    row = lookup.family_of(small.pipe).negative
    assert row is not None
    return {name: step.uncond[name] for name in row.inputs if name in step.uncond}


def under_nag(model: Any, negative: Any, chosen: str, **inputs: Any) -> Any:
    return by_hand.predict(model, inputs, negative, NUMBERS, chosen)


def played(
    small: Tiny,
    weak: Any = None,
    scale: float = 0.0,
    until: float = 1.0,
    chosen: str = "",
    **options: Any,
) -> Tensor:
    """The latents of a run under NAG, with a push away from a weak pass under NAG."""
    negative, options = negative_inputs(small), {**small.short, **options}
    returned: list[list[Tensor]] = []
    i, steps = 0, 1
    while i < steps:
        step, steps = oracle.calls_of_step(small, i, returned, options)
        model = step.calls[0].model
        if i / steps < until:
            step = dataclasses.replace(
                step, c=list(by_hand.predict(model, step.cond, negative, NUMBERS, chosen))
            )

        passes: list[Any] = []
        if weak is not None:
            predict = functools.partial(under_nag, weak(model), negative, chosen)
            passes.append((predict, [scale, scale]))
        g = oracle.scales_of(small, model, options)
        D = oracle.guided(step, passes, g, 0.0, small.variance)
        returned += [[torch.cat([d, d]) for d in D] if step.batched else D] * len(step.calls)
        i += 1
    with oracle.playing(small, returned):
        return oracle.run(small, **options)


def assert_follows(ours: Tensor, theirs: Tensor, plain: Tensor, atol: float) -> None:
    """Ours is what was played, and that is something else than the run without NAG."""
    moved = (theirs - plain).abs().max()
    assert moved > 1e-3
    assert (ours - theirs).abs().max() <= max(atol, 1e-4 * float(moved))


@pytest.mark.diagonal
@pytest.mark.parametrize("cfg", [True, False], ids=["cfg", "no cfg"])
@pytest.mark.parametrize("name", HAVE_NAG)
def test_a_run_follows_the_denoiser_on_both_texts(name: str, cfg: bool) -> None:
    small = tiny(name)
    if name.startswith(DROP_EMBEDDINGS) and not cfg:
        pytest.skip("there is no negative prompt left in the call")
    options = {} if cfg else small.off
    chosen = r"^blocks\." if name == "WanVACEPipeline" else ""  # hints are the prompt's
    with guide(small.pipe, TERM):
        ours = oracle.run(small, **{**small.short, **options})
    plain = oracle.run(small, **{**small.short, **options})
    assert_follows(ours, played(small, chosen=chosen, **options), plain, small.atol)


JOINT = ["MochiPipeline", "HunyuanVideoPipeline", "CogVideoXPipeline"]
CROSS = ["WanPipeline", "LTXPipeline", "WanImageToVideoPipeline"]


@pytest.mark.parametrize("skip", ["residual", "attention"])
@pytest.mark.parametrize("name", [*JOINT, *CROSS])
def test_weak_passes_are_under_nag_too(name: str, skip: str) -> None:
    small = tiny(name)
    family = lookup.family_of(small.pipe)
    stack = next(iter(family.stacks.values()))
    copies: dict[int, Any] = {}

    def weak(model: Any) -> Any:
        if id(model) not in copies:
            layers = [f"{stack.path}.1"]
            copies[id(model)] = oracle.weakened(model, layers, skip, list(stack.attention))
        return copies[id(model)]

    with guide(small.pipe, [STG([1], 1.5, skip), TERM]):
        ours = oracle.run(small, **small.short)
    plain = oracle.run(small, **small.short)
    assert_follows(ours, played(small, weak, 1.5), plain, 4 * small.atol)


@pytest.mark.parametrize("name", [*JOINT, *CROSS])
def test_a_shared_prefix_gives_what_full_passes_give(name: str) -> None:
    small = tiny(name)
    second = "single:1" if name.startswith("Hunyuan") else 2
    terms = [STG([1], 1.0), STG([second], 0.5, "attention"), TERM]
    with guide(small.pipe, terms) as handle:
        shared = oracle.run(small, **small.short)
        costs = handle.passes.per_step
    with guide(small.pipe, terms, share_prefix=False) as handle:
        full = oracle.run(small, **small.short)
        assert handle.passes.per_step > costs
    assert torch.equal(shared, full)


@pytest.mark.parametrize("name", [*JOINT, *CROSS])
def test_the_prompt_as_its_own_negative_changes_nothing(name: str) -> None:
    small = tiny(name)
    same = {
        f"negative_{key}": small.call[key] for key in small.call if f"negative_{key}" in small.call
    }
    options = {**small.short, **small.off, **same}
    plain = oracle.run(small, **options)
    with guide(small.pipe, NAG(scale=9.0, tau=1.0, alpha=1.0)):
        assert torch.equal(oracle.run(small, **options), plain)


@pytest.mark.parametrize("off", [NAG(scale=1.0), NAG(alpha=0.0)])
def test_off_is_the_unguided_pipeline(off: NAG) -> None:
    small = tiny("WanPipeline")
    plain = oracle.run(small, **small.short)
    with guide(small.pipe, off) as handle:
        assert torch.equal(oracle.run(small, **small.short), plain)
        assert handle.passes.per_step == 2.0


@pytest.mark.parametrize("name", ["WanPipeline", "HunyuanVideoPipeline"])
def test_a_window_ends_it(name: str) -> None:
    small = tiny(name)
    options = {**small.off, "num_inference_steps": 4}
    with guide(small.pipe, dataclasses.replace(TERM, stop=0.5)):
        ours = oracle.run(small, **options)
    plain = oracle.run(small, **options)
    assert_follows(ours, played(small, until=0.5, **options), plain, small.atol)


@pytest.mark.parametrize(
    ("name", "layers", "chosen"),
    [
        ("WanPipeline", [1, 2], r"blocks\.[12]\."),
        ("HunyuanVideoPipeline", [1, "single:1"], r"^(single_)?transformer_blocks\.1\."),
    ],
)
def test_layers_are_where_it_acts(name: str, layers: list[Any], chosen: str) -> None:
    small = tiny(name)
    with guide(small.pipe, dataclasses.replace(TERM, layers=layers)):
        ours = oracle.run(small, **{**small.short, **small.off})
    plain = oracle.run(small, **{**small.short, **small.off})
    theirs = played(small, chosen=chosen, **small.off)
    assert_follows(ours, theirs, plain, small.atol)


def test_what_it_costs_is_counted_where_blocks_run_twice() -> None:
    """Two dual and three single blocks run once more; those after the last layer of NAG do not."""
    small = tiny("HunyuanVideoPipeline")
    with guide(small.pipe, TERM) as handle:
        oracle.run(small, **{**small.short, **small.off})
        assert handle.passes.per_step == pytest.approx(2.0)
    with guide(small.pipe, dataclasses.replace(TERM, layers=[1])) as handle:
        oracle.run(small, **{**small.short, **small.off})
        assert handle.passes.per_step == pytest.approx(1 + 2 / 5)
    small = tiny("WanPipeline")
    with guide(small.pipe, TERM) as handle:
        oracle.run(small, **{**small.short, **small.off})
        assert handle.passes.per_step == 1.0


def test_a_batch_is_its_rows() -> None:
    """Each video has its own negative prompt, whatever else is in the batch."""
    small = tiny("WanPipeline")
    options = {**small.short, **small.off, "latents": torch.randn(2, 4, 2, 4, 4)}
    rows = ("prompt_embeds", "negative_prompt_embeds", "latents")
    with guide(small.pipe, [TERM, STG([1], 1.0)]):
        both = oracle.run(small, **options).chunk(2)
        given = {**small.call, **options}
        for i in range(2):
            one = {name: given[name][i : i + 1] for name in rows}
            alone = oracle.run(small, **{**options, **one})
            assert torch.allclose(alone, both[i].flatten(), atol=1e-5)


def test_several_videos_of_a_prompt_share_its_negative_prompt() -> None:
    small = tiny("HunyuanVideoPipeline")
    once = {
        name: value[:1]
        for name, value in small.call.items()
        if name.startswith("negative_") and torch.is_tensor(value)
    }
    repeated = {name: value.repeat_interleave(2, 0) for name, value in once.items()}
    options = {**small.short, **small.off}
    with guide(small.pipe, TERM):
        assert torch.equal(
            oracle.run(small, **{**options, **once}), oracle.run(small, **{**options, **repeated})
        )


@pytest.mark.parametrize("name", [*JOINT, *CROSS])
def test_half_precision(name: str) -> None:
    """In bfloat16 it moves a run in the direction in which it does in float32."""
    small, exact = tiny(name, torch.bfloat16), tiny(name)
    found = []
    for one in (exact, small):
        options = {**one.short, **one.off}
        plain = oracle.run(one, **options).float()
        with guide(one.pipe, TERM):
            found.append(oracle.run(one, **options).float() - plain)
    cosine = torch.nn.functional.cosine_similarity(*found, dim=0)
    assert all(torch.isfinite(move).all() for move in found)
    assert cosine > 0.8


def test_with_rules_and_slg() -> None:
    """c is that of NAG for all that stands behind it; u is left alone, also by SLG."""
    small = tiny("WanPipeline")
    with guide(small.pipe, TERM):
        only = oracle.run(small, **small.short)
    with guide(small.pipe, [TERM, SLG([1])], cfg=APG()):
        both = oracle.run(small, **small.short)
    assert torch.isfinite(both).all()
    assert not torch.equal(both, only)


def test_budget_and_reuse_run() -> None:
    small = tiny("WanPipeline")
    options = {"num_inference_steps": 4}
    with guide(small.pipe, [TERM, STG([1], 1.0)], budget=2.0) as handle:
        assert torch.isfinite(oracle.run(small, **options)).all()
        assert handle.passes.per_step <= 2.0
    with guide(small.pipe, [TERM, STG([1], 1.0, every=2)]) as handle:
        assert torch.isfinite(oracle.run(small, **options)).all()
        assert sum(handle.passes.weak_runs.values()) == 2


def test_exact_false_is_the_same_under_nag() -> None:
    small = tiny("LTXPipeline")
    terms = [TERM, STG([1], 1.0), STG([1, 2], 0.5)]
    with guide(small.pipe, terms):
        exact = oracle.run(small, **small.short)
    with guide(small.pipe, terms, exact=False):
        assert torch.equal(oracle.run(small, **small.short), exact)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "family",
    [row for row in FAMILIES if row.negative is None],
    ids=lambda row: row.name,  # not str: it would hold the addresses of functions
)
def test_families_without_it_say_why(family: Any) -> None:
    assert family.no_nag
    name = next((name for name in builders() if name.split()[0] in family.pipelines), None)
    if name is None:
        pytest.skip("no tiny pipeline")
    small = tiny(name)
    with pytest.raises(ValueError, match=re.escape(family.no_nag)):
        guide(small.pipe, TERM)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scale": 0.5}, r"scale must be a finite number >= 1 \(1 is off\), but got 0.5"),
        ({"scale": float("nan")}, "scale must be"),
        ({"tau": 0.9}, r"tau must be a finite number >= 1"),
        ({"alpha": 1.1}, "alpha must be a number from 0 to 1"),
        ({"layers": []}, "NAG needs at least one layer, but"),
        ({"layers": 3}, "layers must be a list"),
        ({"start": 0.5, "stop": 0.5}, "selects no step"),
    ],
)
def test_wrong_numbers_are_told_at_once(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NAG(**wrong)


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_a_pipeline_makes_impossible(name: str) -> None:
    small = tiny(name)
    with pytest.raises(ValueError, match=REFUSED[name]), guide(small.pipe, [TERM, STG([1])]):
        oracle.run(small, **small.short)


def test_what_does_not_go_together() -> None:
    small = tiny("WanPipeline")
    with pytest.raises(ValueError, match="takes one NAG"):
        guide(small.pipe, TERM, TERM)
    with pytest.raises(ValueError, match="another model as weak="):
        guide(small.pipe, TERM, STG(weak=small.pipe.transformer))
    with pytest.raises(ValueError, match="layers of this WanTransformer3DModel must be from 0 to"):
        guide(small.pipe, NAG(layers=[99]))


def test_without_embeddings_and_text_encoder() -> None:
    small = tiny("WanPipeline")
    call = {key: value for key, value in small.call.items() if not key.startswith("negative")}
    with (
        guide(small.pipe, TERM),
        pytest.raises(ValueError, match=r"no text encoder .* Pass negative_prompt_embeds"),
    ):
        small.pipe(**{**call, **small.off, **small.short})


# --- the negative prompt of a call ----------------------------------------------------------------


@pytest.fixture(scope="module")
def mochi() -> Any:
    return tiny_mochi()


def mochi_run(pipe: Any, prompt: Any, **changes: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return pipe(
        prompt, generator=generator, **{**TINY_CALL, "num_inference_steps": 2, **changes}
    ).frames


def test_a_negative_prompt_in_words_is_what_its_embeddings_are(mochi: Any) -> None:
    """Without CFG the pipeline does not encode it; the reference is its own encode_prompt."""
    prompts, negative = ["a red star", "the blue square"], ["moving left", "spinning"]
    with torch.no_grad():
        _, _, embeds, mask = mochi.encode_prompt(prompts, negative, max_sequence_length=16)
    with guide(mochi, TERM):
        words = mochi_run(mochi, prompts, negative_prompt=negative, guidance_scale=1.0)
        given = mochi_run(
            mochi, prompts, negative_prompt_embeds=embeds, negative_prompt_attention_mask=mask,
            guidance_scale=1.0,
        )  # fmt: skip
        others = mochi_run(mochi, prompts, negative_prompt=["a", "a"], guidance_scale=1.0)
    assert torch.equal(words, given)
    assert not torch.equal(words, others)


def test_no_negative_prompt_is_the_empty_one(mochi: Any) -> None:
    with guide(mochi, TERM):
        none = mochi_run(mochi, "a red star", guidance_scale=1.0)
        empty = mochi_run(mochi, "a red star", negative_prompt="", guidance_scale=1.0)
    assert torch.equal(none, empty)
    assert not torch.equal(none, mochi_run(mochi, "a red star", guidance_scale=1.0))


def test_one_text_for_several_prompts_and_videos(mochi: Any) -> None:
    """Each prompt has its two videos, one after the other, all with the same negative prompt."""
    prompts = ["a red star", "the blue square"]
    latents = torch.randn(4, 12, 2, 4, 4)
    options: Any = {"guidance_scale": 1.0, "latents": latents}
    with guide(mochi, TERM):
        both = mochi_run(
            mochi, prompts, negative_prompt="spinning", num_videos_per_prompt=2, **options
        )
        for i in range(2):
            rows = slice(2 * i, 2 * i + 2)
            alone = mochi_run(
                mochi, [prompts[i]] * 2, negative_prompt=["spinning"] * 2, guidance_scale=1.0,
                latents=latents[rows],
            )  # fmt: skip
            assert torch.allclose(both[rows], alone, atol=1e-5)


def test_each_run_has_its_own_negative_prompt(mochi: Any) -> None:
    with guide(mochi, TERM):
        runs = [
            mochi_run(mochi, "a red star", negative_prompt=text, guidance_scale=g)
            for g in (1.0, 4.5)
            for text in ("spinning", "moving left", "spinning")
        ]
    for first, second, third in (runs[:3], runs[3:]):
        assert torch.equal(first, third)
        assert not torch.equal(first, second)


@pytest.mark.parametrize("name", ["WanPipeline", "LTXPipeline", "AllegroPipeline", "LTX2Pipeline"])
def test_pipelines_encode_it_themselves(name: str) -> None:
    """In words without CFG, and as the pipeline makes it with CFG, where it is at hand."""
    small, pipe = tiny(name), whole(name)
    call = {
        key: value
        for key, value in small.call.items()
        if "prompt" not in key and key not in ("guidance_scale",)
    }
    texts = {"prompt": ["a red star", "a dog"], "negative_prompt": ["spinning", "a cat"]}
    heard = []
    for options in ({"guidance_scale": 1.0}, {"guidance_scale": 3.0}):
        with guide(pipe, TERM) as handle, negative_inputs_of(handle) as found:
            pipe(
                **{**call, **small.short, **texts, **options},
                generator=torch.Generator().manual_seed(0),
            )
        heard.append(found)
    assert heard[0]
    assert heard[0].keys() == heard[1].keys()
    for key in heard[0]:
        torch.testing.assert_close(heard[0][key], heard[1][key])


@contextlib.contextmanager
def negative_inputs_of(handle: Any) -> Iterator[dict[str, Any]]:
    """Note what the denoiser is called with for the negative text, in the first call of ours."""
    names, found = handle.family.negative.inputs, dict[str, Any]()
    (denoiser,) = handle._guided_denoisers

    def note(_: Any, args: Any, kwargs: Any) -> None:
        if handle._in_own_pass and not found:
            found.update({name: kwargs[name] for name in names if name in kwargs})

    hook = denoiser.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield found
    finally:
        hook.remove()


# --- caches across steps --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["WanPipeline", "LTXPipeline"])
def test_a_cache_that_never_hits_changes_nothing(name: str) -> None:
    from diffusers.hooks.first_block_cache import FirstBlockCacheConfig

    small = builders()[name](torch.float32)
    with guide(small.pipe, [TERM, STG([1], 1.0)]):
        plain = oracle.run(small, **small.short)
    small.pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    with guide(small.pipe, [TERM, STG([1], 1.0)]):
        assert torch.equal(oracle.run(small, **small.short), plain)


def test_a_cache_begins_anew_where_a_window_ends() -> None:
    """All steps but the first are hits; that after the window would be one with NAG in it."""
    from diffusers.hooks.first_block_cache import FirstBlockCacheConfig

    small = builders()["WanPipeline"](torch.float32)
    options = {**small.off, "num_inference_steps": 4}
    small.pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    runs: list[int] = []
    small.pipe.transformer.blocks[2].attn1.register_forward_hook(lambda *_: runs.append(1))
    with guide(small.pipe, dataclasses.replace(TERM, stop=0.5)):
        oracle.run(small, **options)
    assert len(runs) == 2


@pytest.mark.parametrize(
    ("name", "cache"), [("WanPipeline", "taylor"), ("MochiPipeline", "first block")]
)
def test_caches_of_what_runs_twice_are_refused(name: str, cache: str) -> None:
    from diffusers.hooks.taylorseer_cache import TaylorSeerCacheConfig

    small = builders()[name](torch.float32)
    config = configs().get(cache) or TaylorSeerCacheConfig(
        cache_identifiers=[r"blocks\.\d+\.attn2"], taylor_factors_dtype=torch.float32
    )
    small.pipe.transformer.enable_cache(config)
    with pytest.raises(
        ValueError, match=r"NAG calls some modules .* twice in a pass.*disable_cache"
    ):
        guide(small.pipe, TERM)


# --- what has no negative prompt at hand ----------------------------------------------------------


def test_guiders_and_processes_refuse_it() -> None:
    with pytest.raises(ValueError, match=r"NAG needs the negative prompt .*Use guide\(pipe, NAG"):
        SkipGuidance(terms=[STG([1]), TERM])
    with pytest.raises(ValueError, match="parallel= divides passes"):
        guide(tiny("WanPipeline").pipe, TERM, parallel=object())


def test_group_offloading_of_several_blocks_is_refused_in_joint_attention() -> None:
    """A group's last block would take the weights away before it is called again."""
    for name, blocks, fits in (
        ("WanPipeline", 2, True),
        ("MochiPipeline", 1, True),
        ("MochiPipeline", 2, False),
    ):
        small = builders()[name](torch.float32)
        with guide(small.pipe, TERM):
            plain = oracle.run(small, **small.short)
        small.pipe.transformer.enable_group_offload(
            onload_device=torch.device("cpu"), offload_type="block_level",
            num_blocks_per_group=blocks,
        )  # fmt: skip
        with guide(small.pipe, [TERM]):
            if fits:
                assert torch.equal(oracle.run(small, **small.short), plain)
                continue
            with pytest.raises(ValueError, match="num_blocks_per_group=1"):
                oracle.run(small, **small.short)


# --- compiled blocks ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "WanPipeline",
        *(
            pytest.param(f"{name}Pipeline", marks=pytest.mark.long)
            for name in ("Mochi", "HunyuanVideo")
        ),
    ],
)
def test_blocks_that_were_compiled_before_see_it(name: str) -> None:
    """Graphs are made without it first; those must not be used where it is on."""
    small = builders()[name](torch.float32)
    terms = [dataclasses.replace(TERM, stop=0.6), STG([1], 1.0)]
    options = {"num_inference_steps": 3}
    with guide(small.pipe, terms):
        eager = oracle.run(small, **options)
    family = lookup.family_of(small.pipe)
    for stack in family.stacks.values():
        for block in small.pipe.transformer.get_submodule(stack.path):
            block.compile(backend="eager")
    plain = oracle.run(small, **options)
    with guide(small.pipe, terms):
        compiled = oracle.run(small, **options)
    assert torch.allclose(compiled, eager, atol=1e-5)
    assert not torch.allclose(plain, eager, atol=1e-3)
