"""What only UNets have: halves of layers, outputs that are given again, a scale per frame, FreeU
and its relatives."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from skipguide import SLG, STG, Bin, Schedule, guide
from support import oracle
from support.tiny import builders, tiny
from support.tiny.base import Tiny
from support.written import (
    HALVED,
    UNETS,
    addresses,
    assert_equal,
    by_hand,
    ends_of,
    modules_of,
    paths_of,
    trace_of,
)

# one of each family; the layers of the first one are two transformer blocks deep
KINDS = [
    "StableVideoDiffusionPipeline deep",
    "AnimateDiffPipeline",
    "TextToVideoSDPipeline",
    "I2VGenXLPipeline",
]
SVD, ANIMATEDIFF = "StableVideoDiffusionPipeline", "AnimateDiffPipeline"


def fresh(name: str) -> Tiny:
    """Not the shared one: for what changes the model."""
    return builders()[name](torch.float32)


def halves_of(small: Tiny) -> Iterator[tuple[str, str]]:
    """Both axes of each part's first, a middle and its last layer, where it has them."""
    for part in addresses(small).values():
        for layer in ends_of(part):
            for axis in ("spatial", "temporal"):
                if paths_of(small, [layer], "residual", axis):
                    yield layer, axis


# --- halves ---------------------------------------------------------------------------------------


@pytest.mark.diagonal
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("skip", ["residual", pytest.param("attention", marks=pytest.mark.long)])
def test_each_half_equals_separate_full_passes(name: str, skip: str) -> None:
    small = tiny(name)
    plain, heard = oracle.run(small, **small.short), {}
    for layer, axis in halves_of(small):
        term = STG([layer], 1.3, skip, axis, stop=0.5)  # the first of two steps
        with guide(small.pipe, term):
            ours = oracle.run(small, **small.short)
        assert_equal(small, ours, by_hand(small, [term], heard=heard), plain)
        with guide(small.pipe, term, share_prefix=False):
            assert torch.equal(oracle.run(small, **small.short), ours)


@pytest.mark.diagonal
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("skip", ["residual", "attention"])
def test_two_halves_with_a_scale_each_are_the_sum(name: str, skip: str) -> None:
    """Eq. 20 at one layer, and the halves named together are what the layer is without an axis."""
    small = tiny(name)
    layer = next(
        layer for layer in addresses(small)["up"] if paths_of(small, [layer], skip, "spatial")
    )
    terms = [
        STG([layer], 2.0, skip, "spatial"),
        STG([layer], 0.5, skip, "temporal"),
        STG(["mid:0"], 0.7, skip),
    ]
    plain = oracle.run(small, **small.short)
    for written in (terms, terms[::-1]):
        with guide(small.pipe, *written, rescale=0.7):
            ours = oracle.run(small, **small.short)
        assert_equal(small, ours, by_hand(small, written, 0.7), plain)


@pytest.mark.parametrize("name", KINDS)
def test_slg_of_one_half(name: str) -> None:
    small = tiny(name)
    for skip, axis in (("residual", "temporal"), ("attention", "spatial")):
        paths = paths_of(small, ["mid:0"], skip, axis)
        theirs = oracle.by_hand(small, [], ["attn1", "attn2"], slg=oracle.Term(paths, skip, []))
        plain = oracle.run(small, **small.short)
        with guide(small.pipe, SLG(["mid:0"], skip, axis)) as handle:
            assert_equal(small, oracle.run(small, **small.short), theirs, plain)
            assert 1 < handle.passes_per_step < 2


# --- the shared prefix ----------------------------------------------------------------------------

COUNTED = re.compile(
    r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.\w+\.\d+(\.(temporal_)?transformer_blocks\.\d+)?"
    r"|transformer_in|image_latents_temporal_encoder"
)


def rows_of(small: Tiny) -> dict[str, int]:
    """Rows that each module in the blocks is evaluated on in a run without CFG, in the order of
    their first calls."""
    rows: dict[str, int] = {}
    hooks = []
    for path, module in oracle.models(small)[0].named_modules():
        if COUNTED.fullmatch(path):

            def note(_: Any, args: Any, kwargs: Any, path: str = path) -> None:
                rows[path] = rows.get(path, 0) + len(
                    next(v for v in (*args, *kwargs.values()) if torch.is_tensor(v))
                )

            hooks.append(module.register_forward_pre_hook(note, with_kwargs=True))
    oracle.run(small, **small.short, **small.off)
    for hook in hooks:
        hook.remove()
    return rows


def within(path: str, others: list[str]) -> bool:
    return any(path == other or path.startswith(f"{other}.") for other in others)


def evaluated_again(order: list[str], skipped: list[str], skip: str) -> list[str]:
    """What a weak pass has to compute: what holds the first skipped module, and what comes after
    it."""
    first = min(order.index(path) for path in skipped)
    after = [path for n, path in enumerate(order) if n >= first or within(order[first], [path])]
    return [path for path in after if skip == "attention" or not within(path, skipped)]


@pytest.mark.parametrize("name", HALVED)
def test_modules_before_the_first_skipped_one_do_not_run_again(name: str) -> None:
    small = tiny(name)
    plain = rows_of(small)
    order = list(plain)
    up, mid = addresses(small)["up"], addresses(small)["mid"][0]
    both = next(layer for layer in up if paths_of(small, [layer], "residual", "spatial"))
    written = [
        ([both], None),
        ([both], "spatial"),
        ([both], "temporal"),
        ([mid], None),
        ([mid, up[-1]], "temporal"),
    ]
    for layers, axis in written if name in KINDS else written[2:3]:
        for skip in ("residual", "attention"):
            again = evaluated_again(order, paths_of(small, layers, skip, axis), skip)
            with guide(small.pipe, STG(layers, skip=skip, axis=axis)):
                assert rows_of(small) == {
                    path: n * (2 if path in again else 1) for path, n in plain.items()
                }
    with guide(small.pipe, STG([both], axis="temporal"), share_prefix=False):
        left_out = paths_of(small, [both], "residual", "temporal")
        assert rows_of(small) == {
            path: n * (1 if within(path, left_out) else 2) for path, n in plain.items()
        }


@pytest.mark.long
@pytest.mark.parametrize("name", KINDS)
def test_passes_are_counted_in_operations(name: str) -> None:
    """More is left out the later the first skipped layer comes, and shared is cheaper than full."""
    small = tiny(name)
    found = []
    for layer, shared in (("down:0", False), ("down:0", True), ("up:1", True)):
        with guide(
            small.pipe, STG([layer], stop=0.4), share_prefix=shared
        ) as handle:  # one step of two
            oracle.run(small, **small.short)
        found.append(handle.passes.weak)
        assert (handle.passes.steps, handle.passes.unweakened) == (2, 4)
        assert handle.passes_per_step == 2 + found[-1] / 2
    assert 1 > found[0] > found[1] > found[2] > 0


# --- without a trace ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("skip", ["residual", "attention"])
def test_an_exception_in_any_pass_leaves_no_stand_in_and_no_tensors(name: str, skip: str) -> None:
    small = tiny(name)
    terms = [STG(["mid:0"], 0.7, skip, "temporal"), STG(["up:0"], 0.5, skip), SLG(["up:1"])]
    before, real = trace_of(small), modules_of(small)
    last = oracle.models(small)[0].up_blocks[-1].resnets[-1]
    with guide(small.pipe, *terms) as handle:
        expected = oracle.run(small, **small.short)
        for call in range(4):  # strong, weak, weak, uncond
            calls = iter(range(10**6))

            def fail(*_: Any, calls: Any = calls, call: int = call) -> None:
                if next(calls) == call:
                    raise RuntimeError("out of memory")

            hook = last.register_forward_hook(fail)
            with pytest.raises(RuntimeError, match="out of memory"):
                oracle.run(small, **small.short)
            hook.remove()
            assert modules_of(small) == real
            assert kept_by(handle) == []
        assert torch.equal(oracle.run(small, **small.short), expected)
        assert kept_by(handle) == []
    assert trace_of(small) == before


def kept_by(handle: Any) -> list[Any]:
    """What is kept for weak passes."""
    strong = [branch.prefix_cache for branch in handle._guided_denoisers.values()]
    memories = [
        memory
        for kept in strong
        for entries in kept.cached_outputs.values()
        for *_, memory in entries
    ]
    return [output for memory in memories for output in memory.outputs]


# --- Stable Video Diffusion -----------------------------------------------------------------------

CONDITIONS: dict[str, Any] = dict(fps=5, motion_bucket_id=50, noise_aug_strength=0.1)


def test_conditions_of_svd_are_untouched() -> None:
    small = tiny(SVD)
    plain = oracle.run(small, **small.short, **CONDITIONS, output_type="pt", decode_chunk_size=2)
    with guide(small.pipe, STG(["up:0"], 0.0), rescale=0.7):
        scaled = oracle.run(
            small, **small.short, **CONDITIONS, output_type="pt", decode_chunk_size=2
        )
        assert torch.equal(scaled, plain)
    with guide(small.pipe, STG(["up:0"], 1.0)), oracle.listening(small) as calls:
        guided = oracle.run(
            small, **small.short, **CONDITIONS, output_type="pt", decode_chunk_size=2
        )
    assert not torch.equal(guided, plain)
    assert len(calls) == 6  # cond, weak and uncond of two steps
    ids = torch.tensor([[4, 50, 0.1]]).expand(2, -1)
    assert all(torch.equal(call.kwargs["added_time_ids"], ids) for call in calls)


def test_chunks_of_frames_in_which_svd_decodes() -> None:
    small = tiny(SVD)
    with guide(small.pipe, STG(["up:0"], 1.0)):
        call = lambda **o: (  # noqa: E731
            small.pipe(**{**small.call, **small.short, **o}, generator=seed(0)).frames
        )
        latents = call()
        frames = {size: call(output_type="pt", decode_chunk_size=size) for size in (1, 2, 3)}
    for size, ours in frames.items():
        with torch.no_grad():
            decoded = small.pipe.decode_latents(latents, 3, size)
        assert torch.equal(
            ours, small.pipe.video_processor.postprocess_video(decoded, output_type="pt")
        )
    assert not torch.equal(frames[1], frames[3])  # the decoder mixes the frames of a chunk


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


@pytest.mark.long
def test_scale_per_frame_of_svd() -> None:
    """A first frame whose scale is 1 is c there, pushed; the scale is that of the frame with
    rescale as well."""
    small = tiny(SVD)
    options: dict[str, Any] = dict(min_guidance_scale=1.3, max_guidance_scale=6.1)
    terms = [STG(["up:1"], 1.3), STG(["mid:0"], 0.6, "attention", "temporal")]
    plain = oracle.run(small, **small.short, **options)
    for phi in (0.0, 0.4):
        with guide(small.pipe, *terms, rescale=phi):
            ours = oracle.run(small, **small.short, **options)
        assert_equal(small, ours, by_hand(small, terms, phi, **options), plain)


def test_schedule_of_svd_by_its_sigmas() -> None:
    """From 700 down; in a bin with a scale of its own every frame has that one."""
    small = tiny(SVD)
    plain = oracle.run(small)
    sigmas = small.pipe.scheduler.sigmas.tolist()
    assert sigmas[0] == pytest.approx(700)
    with guide(small.pipe, STG(["up:1"], stop=0.3)):
        expected = oracle.run(small)
    with guide(small.pipe, Schedule([Bin((2 * sigmas[1], 701.0), ["up:1"], 1.0)])) as handle:
        ours = oracle.run(small)
        assert sum(handle.passes.weak_runs.values()) == 1
    assert torch.equal(ours, expected)
    assert not torch.equal(ours, plain)
    with guide(small.pipe, STG(["up:1"], 1.3), rescale=0.4):
        expected = oracle.run(small, min_guidance_scale=2.5, max_guidance_scale=2.5)
    with guide(
        small.pipe, Schedule([Bin((0.0, 701.0), ["up:1"], 1.3, guidance_scale=2.5, rescale=0.4)])
    ):
        torch.testing.assert_close(
            oracle.run(small), expected, atol=5e-4, rtol=1e-4
        )  # latents of sigma 700
    message = "hold at none of this run, whose sigmas go from 700 to"
    with (
        guide(small.pipe, Schedule([Bin((701.0, 900.0), ["up:1"], 1.0)])),
        pytest.raises(ValueError, match=message),
    ):
        oracle.run(small)


# --- AnimateDiff in company -----------------------------------------------------------------------


def assert_guided_as_by_hand(small: Tiny, terms: list[STG]) -> None:
    """Shared is full, to the bit, and both are the oracle."""
    plain = oracle.run(small, **small.short)
    with guide(small.pipe, *terms):
        ours = oracle.run(small, **small.short)
    with guide(small.pipe, *terms, share_prefix=False):
        assert torch.equal(oracle.run(small, **small.short), ours)
    assert_equal(small, ours, by_hand(small, terms), plain)
    assert torch.equal(oracle.run(small, **small.short), plain)


TERMS = [STG(["up:2"], 1.3, axis="temporal"), STG(["mid:0"], 0.7, "attention"), STG(["up:0"], 0.4)]


@pytest.mark.parametrize("name", [ANIMATEDIFF, "TextToVideoSDPipeline"])
def test_free_u(name: str) -> None:
    """It writes into what the blocks before returned."""
    small = fresh(name)
    terms = (
        TERMS
        if name == ANIMATEDIFF
        else [STG(["up:1"], 1.3, axis="temporal"), STG(["mid:0"], 0.7, "attention")]
    )
    before = oracle.run(small, **small.short)
    small.pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
    assert not torch.equal(oracle.run(small, **small.short), before)
    assert_guided_as_by_hand(small, terms)


@pytest.mark.long
def test_free_init_has_a_window_in_each_of_its_runs() -> None:
    small = fresh(ANIMATEDIFF)
    small.pipe.enable_free_init(num_iters=2)
    with guide(small.pipe, STG(["up:2"], stop=0.6)) as handle, oracle.listening(small) as calls:
        oracle.run(small)
        assert handle.passes.steps == 3
    assert len(calls) == 2 * (3 + 3 + 1)  # cond, weak, uncond in the first two of three steps
    assert_guided_as_by_hand(small, TERMS)


def with_words(small: Tiny) -> Tiny:
    """FreeNoise wants words per frame instead of embeddings."""

    def encode(
        prompt: list[str], negative_prompt: list[str] | None = None, **_: Any
    ) -> tuple[Any, Any]:
        def embeds(words: list[str]) -> torch.Tensor:
            return torch.cat(
                [torch.randn(1, 7, 16, generator=seed(sum(map(ord, word)))) for word in words]
            )

        return embeds(prompt), embeds(negative_prompt) if negative_prompt else None

    small.pipe.encode_prompt = encode
    call = {name: value for name, value in small.call.items() if not name.endswith("embeds")}
    call.update(num_frames=4, negative_prompt="none", prompt={0: "star", 3: "house"})
    return dataclasses.replace(small, call=call, other=dict(prompt={0: "moon", 3: "sea"}))


def test_free_noise() -> None:
    """Its motion blocks run over overlapping windows of frames, and its text differs from frame to
    frame."""
    small = fresh(ANIMATEDIFF)
    small.pipe.enable_free_noise(context_length=2, context_stride=1)
    assert type(
        small.pipe.unet.up_blocks[0].motion_modules[0].transformer_blocks[0]
    ).__name__.startswith("FreeNoise")
    assert_guided_as_by_hand(with_words(small), TERMS)


def test_modules_that_are_exchanged_after_guide_are_found_at_the_next_run() -> None:
    """FreeNoise puts other blocks into the motion modules: switched on before or after guide() is
    the same."""

    def guided(early: bool) -> torch.Tensor:
        small = fresh(ANIMATEDIFF)
        free_noise = functools.partial(
            small.pipe.enable_free_noise, context_length=2, context_stride=1
        )
        if early:
            free_noise()
        with guide(small.pipe, STG(["up:2"], 1.3, "attention", "temporal")):
            if not early:
                free_noise()
            return oracle.run(with_words(small), **small.short)

    assert torch.equal(guided(early=False), guided(early=True))


def test_split_inference_of_free_noise_is_refused_with_the_reason_also_when_it_comes_later() -> (
    None
):
    small = fresh(ANIMATEDIFF)
    message = (
        "whose layers are called once per pass, but FreeNoise's split inference is on. Switch"
        " it off"
    )
    with guide(small.pipe, STG(["up:2"])):
        small.pipe.enable_free_noise_split_inference(spatial_split_size=2, temporal_split_size=2)
        with pytest.raises(ValueError, match=message):
            oracle.run(small, **small.short)
    with pytest.raises(ValueError, match=message):
        guide(small.pipe, STG(["up:2"]))


@pytest.mark.long
def test_ip_adapter() -> None:
    """Pictures beside the text: an input in a dictionary, which the UNet's own projection makes
    tokens of."""
    small = fresh(ANIMATEDIFF)
    unet, adapter = small.pipe.unet, {}
    torch.manual_seed(1)
    places = [name for name in unet.attn_processors if "attn2" in name and "motion" not in name]
    for n, place in enumerate(places):
        width = unet.get_submodule(place.removesuffix(".processor")).to_k.out_features
        adapter.update(
            {f"{2 * n + 1}.to_{part}_ip.weight": torch.randn(width, 16) for part in "kv"}
        )
    projection = {
        "proj.weight": torch.randn(4 * 16, 16), "proj.bias": torch.zeros(4 * 16),
        "norm.weight": torch.ones(16), "norm.bias": torch.zeros(16),
    }  # fmt: skip
    unet._load_ip_adapter_weights(
        [{"image_proj": projection, "ip_adapter": adapter}], low_cpu_mem_usage=False
    )
    pictures = dict(ip_adapter_image_embeds=[torch.randn(2, 1, 16)])
    small = dataclasses.replace(small, call={**small.call, **pictures})
    assert_guided_as_by_hand(small, TERMS)
    with guide(small.pipe, *TERMS) as handle:
        oracle.run(small, **small.short)
        assert 2 < handle.passes_per_step < 5


def test_perturbed_attention_guidance_is_refused() -> None:
    small = fresh("AnimateDiffPAGPipeline")
    message = "do_perturbed_attention_guidance=True is another formula"
    with guide(small.pipe, STG(["up:0"])), pytest.raises(ValueError, match=message):
        oracle.run(small, pag_scale=3.0)


def test_the_pipelines_own_rescale_of_animatediff_sdxl() -> None:
    small = tiny("AnimateDiffSDXLPipeline")
    term = STG(["up:1"], 1.3)
    with guide(small.pipe, term):
        ours = oracle.run(small, **small.short, guidance_rescale=0.7)
    assert_equal(small, ours, by_hand(small, [term], 0.7), oracle.run(small, **small.short))


# --- refusals -------------------------------------------------------------------------------------

REFUSALS: list[tuple[str, STG, str]] = [
    (
        SVD,
        STG([3]),
        r'must be written with its part \(down, mid or up\), but got 3\. Write layers=\["up:3"\]',
    ),
    (SVD, STG(["up:99"]), r"must be from 0 to 3 \(4 up\), but got 99\. Layers count from 0"),
    (SVD, STG(["mid:1"]), r"must be from 0 to 0 \(1 mid\), but got 1"),
    (SVD, STG(["blocks:0"]), r"stack must be one that svd has \(down, mid, up\), but got blocks"),
    (SVD, STG(["up:1", "up:01"]), r"each layer may be named once, but up:1 is named repeatedly"),
    (
        ANIMATEDIFF,
        STG(["up:0"], axis="spatial"),
        "but 'up:0' of this UNetMotionModel is temporal only",
    ),
    (
        ANIMATEDIFF,
        STG(["up:3", "up:0"], skip="attention", axis="spatial"),
        "must have spatial attention, but 'up:0'",
    ),
    (
        SVD,
        STG(["up:1"], audio_scale=1.0),
        "audio_scale is for models that make sound, but svd makes none",
    ),
    (
        "MochiPipeline",
        STG([1], axis="temporal"),
        r"axis must be one that mochi has \(none, its attention is joint",
    ),
    (
        "LattePipeline",
        STG(["spatial:1"], axis="temporal"),
        r"must be in a temporal stack, but 'spatial:1' is not",
    ),
]


@pytest.mark.parametrize(("name", "term", "message"), REFUSALS)
def test_refusals_leave_the_pipe_alone(name: str, term: STG, message: str) -> None:
    small = tiny(name)
    before = trace_of(small)
    with pytest.raises(ValueError, match=message):
        guide(small.pipe, term)
    assert trace_of(small) == before
    guide(small.pipe, STG(["mid:0"] if name in UNETS else [0])).remove()


# --- what a pass costs ----------------------------------------------------------------------------


@pytest.mark.long
def test_costs_are_those_of_the_last_run() -> None:
    """A larger picture shifts the work towards the layers of its size: one handle says what a new
    one says."""
    small = fresh(SVD)
    larger = dict(height=32, width=32)
    with guide(small.pipe, STG(["up:0"])) as handle:
        oracle.run(small, **small.short)
        first = handle.passes_per_step
        oracle.run(small, **small.short, **larger)
        second = handle.passes_per_step
    with guide(small.pipe, STG(["up:0"])) as handle:
        oracle.run(small, **small.short, **larger)
        assert handle.passes_per_step == second != first


def test_layers_are_counted_where_operations_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that its config does not rebuild; up:0 is the fourth of seven layers, after three on
    the way."""

    def fail(*_: Any) -> Any:
        raise RuntimeError("no such model")

    small = fresh(SVD)
    monkeypatch.setattr("skipguide.weak.flops.build_meta_model", fail)
    with guide(small.pipe, STG(["up:0"])) as handle:
        oracle.run(small, **small.short)
        weak: Any = handle._guided_denoisers[small.pipe.unet].weak_passes[0]
        layers = len({place.address for place in weak.sites})
        assert handle.passes_per_step == pytest.approx(2 + 4 / layers)
