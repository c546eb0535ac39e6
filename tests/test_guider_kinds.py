"""Everything that guide() takes, in SkipGuidance; guide() beside guiders with their own formula.

The oracle of the first part is guide() on the same pipeline with diffusers' own CFG: guide() itself
is held to separate full passes elsewhere. The oracle of the second part is diffusers' own
`forward`, with the push of a separate full pass of a weakened copy of the model.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from diffusers.guiders.adaptive_projected_guidance import AdaptiveProjectedGuidance
from diffusers.guiders.classifier_free_guidance import ClassifierFreeGuidance
from diffusers.guiders.classifier_free_zero_star_guidance import ClassifierFreeZeroStarGuidance
from diffusers.guiders.guider_utils import GuiderOutput
from diffusers.guiders.ltx2_guidance import LTX2Guidance
from diffusers.guiders.perturbed_attention_guidance import PerturbedAttentionGuidance
from diffusers.guiders.tangential_classifier_free_guidance import TangentialClassifierFreeGuidance
from diffusers.modular_pipelines.ltx2.modular_blocks_ltx2 import LTX2CoreDenoiseStep

from skipguide import (
    APG,
    C2FG,
    MAMBOG,
    SLG,
    STG,
    TAG,
    TCFG,
    APGMix,
    Bin,
    CFGReuse,
    CFGZero,
    Interval,
    Modality,
    Random,
    Restart,
    Schedule,
    guide,
)
from skipguide.guider import SkipGuidance
from support import oracle
from support.tiny import builders
from support.tiny.base import Tiny

Tensor = torch.Tensor
G = 4.5
PREDICTIONS = ("pred_cond", "pred_uncond", "pred_weak")
NAMES = ["HunyuanVideo15Pipeline", "MotifVideoPipeline"]
SCHEDULE = Schedule([
    Bin((0.8, 1.1), [0], 1.5, guidance_scale=3.0),
    Bin((0.3, 0.8), [1], 0.7, "attention", rescale=0.5),
])  # fmt: skip


@functools.cache
def build(name: str) -> Tiny:
    return builders()[name](torch.float32)


def run(small: Tiny, guider: Any, **options: Any) -> Tensor:
    small.pipe.register_modules(guider=guider)
    return oracle.run(small, **options)


def assert_same(ours: Tensor, theirs: Tensor, plain: Tensor) -> None:
    assert (theirs - plain).abs().max() > 1e-3, "the guidance had no effect"
    limit = max(1, float(plain.abs().max()))
    torch.testing.assert_close(ours, theirs, atol=5e-5 * limit, rtol=1e-4)


def weak_model(small: Tiny) -> Any:
    model = copy.deepcopy(small.pipe.transformer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.95)
    return model


REQUESTS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "soft": ([STG([1], 1.3, "soft", strength=0.7)], {}),
    "blur": ([STG([1], 1.3, "blur", strength=0.8)], {}),
    "frames": ([STG([1], 1.3, "frames")], {}),
    "shuffle": ([STG([1], 1.3, "shuffle", seed=3)], {}),
    "random": ([STG(Random(0.4), 1.3, seed=2)], {}),
    "every": ([STG([1], 1.3, every=2)], {}),
    "share": ([STG([1], 1.3, every=0.5)], {}),
    "auto": ([STG([1], 1.3, every="auto")], {}),
    "cfg reuse": ([STG([1], 0.8)], {"cfg": CFGReuse(2)}),
    "cfg reuse alone": ([], {"cfg": CFGReuse(gate=0.5)}),
    "budget": ([STG([1], 0.8)], {"budget": 1.8}),
    "scales": ([STG([1], [0.0, 1.0, 0.5])], {}),
    "normalize": ([STG([1], 1.3, normalize=True)], {}),
    "slg": ([SLG([1])], {}),
    "slg and stg": ([SLG([0], stop=0.5), STG([1], 0.7, start=0.3)], {"rescale": 0.6}),
    "schedule": ([SCHEDULE], {}),
    "apg": ([STG([1], 0.8)], {"cfg": APG(0.3, -0.5, 2.0, "prediction")}),
    "apg in data": ([STG([1], 0.8)], {"cfg": APG(0.3, -0.5, 2.0)}),
    "cfg-zero": ([STG([1], 0.8)], {"cfg": CFGZero(1)}),
    "tcfg alone": ([], {"cfg": TCFG()}),
    "tag": ([STG([1], 0.8)], {"cfg": TAG(1.2, align=0.5), "rescale": 0.4}),
    "c2fg": ([STG([1], 0.8)], {"cfg": C2FG(0.7)}),
    "mambo-g": ([STG([1], 0.8)], {"cfg": MAMBOG(2.0)}),
    "apg-mix": ([STG([1], 0.8)], {"cfg": APGMix(4.0, 0.5)}),
    "interval": ([STG([1], 0.8)], {"cfg": Interval((0.3, 0.9))}),
    "rescale in data": ([STG([1], 0.8)], {"rescale": 0.7, "rescale_space": "data"}),
}  # fmt: skip


# The rules and the forms of reuse are those of guide(), and one of each kind tells.
KEY_REQUESTS = (
    "soft", "frames", "random", "share", "cfg reuse", "budget", "slg and stg", "schedule",
    "apg in data", "tag", "interval", "rescale in data",
)  # fmt: skip


@pytest.mark.parametrize(
    "request_name",
    [
        pytest.param(name, marks=[] if name in KEY_REQUESTS else [pytest.mark.matrix])
        for name in REQUESTS
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_the_guider_takes_what_guide_takes(name: str, request_name: str) -> None:
    small = build(name)
    if name == "MotifVideoPipeline" and request_name == "random":
        pytest.skip(
            "two dual blocks and three single ones: one of the latter is all there is to draw"
        )
    terms, options = REQUESTS[request_name]
    plain = run(small, ClassifierFreeGuidance(G))
    with guide(small.pipe, *terms, **options):
        theirs = oracle.run(small)
    guider = SkipGuidance(terms=terms, guidance_scale=G, **options)
    assert_same(run(small, guider), theirs, plain)
    assert torch.equal(oracle.run(small), run(small, guider.new()))
    assert torch.equal(run(small, ClassifierFreeGuidance(G)), plain)


def test_a_weak_model_of_its_own() -> None:
    small = build("HunyuanVideo15Pipeline")
    term = STG(weak=weak_model(small), scale=0.8)
    plain = run(small, ClassifierFreeGuidance(G))
    with guide(small.pipe, term):
        theirs = oracle.run(small)
    guider: Any = SkipGuidance(terms=term, guidance_scale=G)
    assert_same(run(small, guider), theirs, plain)
    assert guider.new().terms[0].weak is term.weak
    with pytest.raises(ValueError, match="a term of this one has a weak model"):
        guider.save_config("nowhere")
    assert torch.equal(run(small, ClassifierFreeGuidance(G)), plain)


@pytest.mark.parametrize(
    "request_name",
    ["tag", "slg and stg", "schedule", "random", "cfg-zero", "auto", "cfg reuse", "budget"],
)
def test_all_of_it_is_configuration(request_name: str) -> None:
    terms, options = REQUESTS[request_name]
    guider: Any = SkipGuidance(terms=terms, guidance_scale=G, **options)
    other: Any = SkipGuidance.from_config(guider.config)
    assert (other.terms, other._schedule, other.cfg) == (guider.terms, guider._schedule, guider.cfg)


def test_what_a_guider_cannot_know_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match=r"restart lengthens the list of timesteps"):
        SkipGuidance([1], restart=Restart(window=(0.3, 0.6)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"cfg must be one of apg, apg-mix, c2fg, cfg-zero"):
        SkipGuidance([1], cfg={"name": "apq"})
    small = build("HunyuanVideo15Pipeline")
    with pytest.raises(ValueError, match="SLG needs CFG"):
        run(small, SkipGuidance(terms=SLG([1]), guidance_scale=1.0))
    guider = SkipGuidance(terms=SCHEDULE, guidance_scale=G)
    with pytest.raises(ValueError, match="SkipGuidance was called outside of one"):
        guider.set_state(0, 3, None)


# --- guide() beside guiders with a formula of their own -------------------------------------------

GUIDERS = {
    "APG": lambda: AdaptiveProjectedGuidance(G, -0.5, 2.0, eta=0.3),
    "CFG-Zero*": lambda: ClassifierFreeZeroStarGuidance(G, zero_init_steps=0),
    "TCFG": lambda: TangentialClassifierFreeGuidance(G),
    "rescaled CFG": lambda: ClassifierFreeGuidance(G, guidance_rescale=0.5),
    "APG without CFG": lambda: AdaptiveProjectedGuidance(1.0),
}


class Pushed:
    """Adds s (c - p) to what a guider's own forward returns; p is a full pass of its own."""

    def __init__(self, small: Tiny, guider: Any, scale: float):
        path = "transformer_blocks.1"
        self.weak = oracle.weakened(small.pipe.transformer, [path], "residual", [])
        self.scale, self.kwargs = scale, None
        self.real, guider.forward = guider.forward, self.forward

    def hear(self, model: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self.kwargs = kwargs if self.kwargs is None else self.kwargs  # those of cond come first

    def forward(self, pred_cond: Tensor, *args: Any, **kwargs: Any) -> Any:
        output = self.real(pred_cond, *args, **kwargs)
        assert self.kwargs is not None
        p, self.kwargs = self.weak(**self.kwargs)[0], None
        pred = output[0] + self.scale * (pred_cond - p)
        return GuiderOutput(pred=pred, pred_cond=pred_cond, pred_uncond=None)  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", GUIDERS)
@pytest.mark.parametrize("name", NAMES)
def test_a_guider_with_a_formula_of_its_own_gets_the_push_added(name: str, kind: str) -> None:
    small = build(name)
    plain = run(small, GUIDERS[kind]())
    by_hand = GUIDERS[kind]()
    pushed = Pushed(small, by_hand, 0.7)
    hook = small.pipe.transformer.register_forward_pre_hook(pushed.hear, with_kwargs=True)
    theirs = run(small, by_hand)
    hook.remove()
    guider = GUIDERS[kind]()
    small.pipe.register_modules(guider=guider)
    with guide(small.pipe, STG([1], 0.7)) as handle:
        ours = oracle.run(small)
        assert handle.passes.weak_runs.total() == 3
    assert_same(ours, theirs, plain)
    assert "forward" not in vars(guider)
    assert torch.equal(run(small, GUIDERS[kind]()), plain)


def test_two_formulas_and_two_weak_passes_are_refused() -> None:
    small = build("MotifVideoPipeline")
    small.pipe.register_modules(guider=AdaptiveProjectedGuidance(G))
    with (
        guide(small.pipe, STG([1]), cfg=TCFG()),
        pytest.raises(ValueError, match="a AdaptiveProjectedGuidance, has a formula of its own"),
    ):
        oracle.run(small)
    small.pipe.register_modules(
        guider=PerturbedAttentionGuidance(G, 1.0, perturbed_guidance_layers=1)
    )
    with (
        guide(small.pipe, STG([1])),
        pytest.raises(ValueError, match="which also runs pred_cond_skip"),
    ):
        oracle.run(small)


# --- LTX-2's Modular pipelines, with a guider for the video and one for the audio -----------------


ONE = SkipGuidance([1])


@functools.cache
def modular_ltx2(perturbed: bool = False) -> tuple[Any, dict[str, Any], Any]:
    """The denoising steps of LTX-2 with the components of its tiny pipeline, and what they take.

    Args:
        perturbed: diffusers' own STG works.
    """
    config = dict(perturbed_attn=perturbed)
    small = builders()["LTX2Pipeline"](torch.float32, config=config)  # type: ignore[call-arg]
    steps = LTX2CoreDenoiseStep()
    with oracle.listening(small) as heard:
        oracle.run(small)
    inputs, pipe = heard[0].kwargs, steps.init_pipeline()
    names: Any = list(pipe._component_specs)
    held = {name: getattr(small.pipe, name, None) for name in names}
    pipe.update_components(**{name: part for name, part in held.items() if part is not None})
    pipe.set_progress_bar_config(disable=True)
    steps.sub_blocks["denoise"].set_progress_bar_config(disable=True)
    video, audio = inputs["encoder_hidden_states"], inputs["audio_encoder_hidden_states"]
    mask = torch.ones(video.shape[:2], dtype=torch.long)
    call: dict[str, Any] = dict(
        batch_size=2, dtype=torch.float32, height=32, width=32, num_frames=5, num_inference_steps=3
    )
    for prefix, rows in (("negative_", slice(0, 2)), ("", slice(2, 4))):
        call[f"{prefix}connector_prompt_embeds"] = video[rows]
        call[f"{prefix}connector_audio_prompt_embeds"] = audio[rows]
        call[f"{prefix}connector_attention_mask"] = mask[rows]
    return pipe, call, small


def run_ltx2(guider: Any, audio_guider: Any, perturbed: bool = False) -> tuple[Tensor, Tensor]:
    pipe, call, _ = modular_ltx2(perturbed)
    pipe.update_components(guider=guider, audio_guider=audio_guider)
    generator = torch.Generator().manual_seed(0)
    found = pipe(**call, generator=generator, output=["latents", "audio_latents"])
    return found["latents"], found["audio_latents"]


def test_ltx2_without_a_push_is_its_own_cfg() -> None:
    theirs = run_ltx2(LTX2Guidance(G), LTX2Guidance(3.0))
    ours = run_ltx2(SkipGuidance([1], 0.0, guidance_scale=G), LTX2Guidance(3.0))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_ltx2_weak_passes_are_full_passes_of_a_weakened_copy() -> None:
    _, _, small = modular_ltx2()
    weak = oracle.weakened(small.pipe.transformer, ["transformer_blocks.1"], "residual", [])
    guiders = [SkipGuidance([1], scale, guidance_scale=G) for scale in (0.7, 0.4)]
    plain = run_ltx2(LTX2Guidance(G), LTX2Guidance(G))
    combined: list[tuple[Tensor, ...]] = []
    for guider in guiders:
        real = guider.forward

        def forward(real: Any = real, **found: Tensor) -> Any:
            output = real(**found)
            combined.append((output[0], *(found[name] for name in PREDICTIONS)))
            return output

        guider.forward = forward  # type: ignore[method-assign]
    with oracle.listening(small) as heard:
        ours = run_ltx2(guiders[0], guiders[1])
    assert all((a - b).abs().max() > 1e-2 for a, b in zip(ours, plain, strict=True))
    for cond, _, skipped in zip(heard[::3], heard[1::3], heard[2::3], strict=True):
        for p, full in zip(skipped.output, weak(**cond.kwargs), strict=True):
            torch.testing.assert_close(p, full, atol=1e-5, rtol=1e-4)
    for n, (D, c, u, p) in enumerate(combined):
        torch.testing.assert_close(D, u + G * (c - u) + (0.4 if n % 2 else 0.7) * (c - p))


def recipe(scale: float, modality: float, g: float, phi: float, **how: Any) -> SkipGuidance:
    terms = [STG([1], scale, skip="attention", **how), Modality(modality, **how)]
    return SkipGuidance(terms=terms, guidance_scale=g, rescale=phi)


@pytest.mark.parametrize(
    ("video", "audio"),
    [
        ((1.0, 3.0, 3.0, 0.7), (1.0, 3.0, 7.0, 0.7)),  # (STG, modality, CFG, rescaling), published
        ((1.0, 3.0, 3.0, 0.45), (0.0, 2.0, 7.0, 1.0)),
        ((0.0, 1.0, 3.0, 0.0), (1.3, 3.0, 1.0, 0.0)),  # all but CFG is the sound's alone
        ((1.0, 1.0, 1.0, 0.3), (1.0, 3.0, 5.0, 0.0)),  # u and the modalities are
    ],
)
def test_ltx2_own_guiders(video: tuple[float, ...], audio: tuple[float, ...]) -> None:
    """Both SkipGuidance against both of diffusers' LTX2Guidance, which run every pass in full."""

    def theirs(scale: float, modality: float, g: float, phi: float) -> LTX2Guidance:
        return LTX2Guidance(g, scale, modality, phi, [1])

    wanted = run_ltx2(theirs(*video), theirs(*audio), perturbed=True)
    plain = run_ltx2(LTX2Guidance(video[2]), LTX2Guidance(audio[2]), perturbed=True)
    found = run_ltx2(recipe(*video), recipe(*audio), perturbed=True)
    for ours, own, without in zip(found, wanted, plain, strict=True):
        assert (own - without).abs().max() > 1e-2
        assert (ours - own).abs().max() <= 1e-5 * own.abs().max()


def test_ltx2_modality_of_diffusers_own_audio_guider() -> None:
    """Its pass is one of the pipeline's own, beside those of a SkipGuidance for the video."""
    audio = LTX2Guidance(3.0, 0.0, 2.0)
    wanted = run_ltx2(LTX2Guidance(3.0, 1.0, 1.0, 0.0, [1]), audio, perturbed=True)
    term = STG([1], 1.0, skip="attention")
    found = run_ltx2(SkipGuidance(terms=term, guidance_scale=3.0), audio, perturbed=True)
    for ours, own in zip(found, wanted, strict=True):
        assert (ours - own).abs().max() <= 1e-5 * own.abs().max()


def test_ltx2_every_second_step() -> None:
    """Both guiders use earlier differences at the same steps, and no pass is run for nothing."""
    _, _, small = modular_ltx2(True)
    guiders = [recipe(1.0, 3.0, g, 0.0, every=2) for g in (3.0, 7.0)]
    with oracle.listening(small) as heard:
        run_ltx2(guiders[0], guiders[1], perturbed=True)
    assert len(heard) == 4 + 2 + 4  # of three steps


@pytest.mark.parametrize(
    ("guider", "audio_guider", "message"),
    [
        (SkipGuidance([1]), SkipGuidance([0]), "the two skip different layers"),
        (
            ONE,
            ONE,
            r"one and the same SkipGuidance\. Give it another one: audio_guider=guider\.new",
        ),
        (SkipGuidance([1]), LTX2Guidance(G, 1.0), "Put a SkipGuidance of the same terms there"),
        (
            SkipGuidance(terms=STG([1], every="auto")),
            SkipGuidance(terms=STG([1], every="auto")),
            'a budget or every="auto" is decided by each of them for itself',
        ),
        (SkipGuidance([1], budget=2.0), SkipGuidance([1], budget=2.0), "must come to the same"),
        (LTX2Guidance(G), SkipGuidance([0]), "the two skip different layers"),
        (
            SkipGuidance([1], rescale=0.5, rescale_space="data"),
            LTX2Guidance(G),
            "hands its guiders estimates of the clean video",
        ),
    ],
)
def test_what_ltx2_cannot_have_is_refused(guider: Any, audio_guider: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_ltx2(guider, audio_guider)
