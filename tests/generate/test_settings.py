"""The schema of a generation: what it takes, what it refuses and in which words, and how None is
filled in."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import pytest

from skipguide.families import presets
from skipguide.families.presets import Preset
from skipguide.generate.flags import GuidanceFlags
from skipguide.generate.resolve import resolve_settings
from skipguide.generate.settings import GenerationSettings, uses_guidance, validate_settings
from skipguide.method import request
from skipguide.method.request import GuidanceRequest
from skipguide.method.terms import STG
from skipguide.models.settings import ModelSettings
from support.tiny import tiny


@pytest.mark.parametrize(
    ("given", "layers"),
    [
        (8, (8,)), ("8", (8,)), ("8,9", (8, 9)), (" 8, 9 ", (8, 9)), ("single:7", ("single:7",)),
        ("single:7,2", ("single:7", 2)), ([8, "up:0"], (8, "up:0")), ("7-9", (7, 8, 9)),
        ("single:3-5", ("single:3", "single:4", "single:5")), (["9,10", "1-2"], (9, 10, 1, 2)),
    ],
)  # fmt: skip
def test_layers(given: Any, layers: Any) -> None:
    """The one parser is behind flags, terms, and the data of a request alike."""
    assert validate_settings({"prompt": "p", "layers": given}).guidance.layers == layers
    assert validate_settings({"prompt": "p", "slg_layers": given}).guidance.slg_layers == layers
    block = validate_settings({"prompt": "p", "guidance": {"terms": [{"layers": given}]}})
    assert block.request.terms[0].layers == list(layers)
    if isinstance(given, str) and " " not in given:
        (term,) = validate_settings({"prompt": "p", "term": f"layers={given}"}).guidance.term
        assert request.read_term(term).layers == list(layers)


@pytest.mark.parametrize(
    ("given", "fps"),
    [
        (24, Fraction(24)),
        ("24", Fraction(24)),
        (12.5, Fraction(25, 2)),
        (23.976, Fraction(2997, 125)),
        ("24000/1001", Fraction(24000, 1001)),
        (None, None),
    ],
)
def test_fps_is_exact(given: Any, fps: Fraction | None) -> None:
    assert validate_settings({"prompt": "p", "fps": given}).fps == fps


def test_json_round_trip() -> None:
    settings = validate_settings(
        {
            "prompt": "狐",
            "layers": "single:7,2",
            "fps": "24000/1001",
            "stg_scale": 1,
            "start": 0.1,
            "device": "cuda:1",
        }
    )
    assert validate_settings(json.loads(json.dumps(settings.model_dump(mode="json")))) == settings


BAD = [
    ("prompt", 3), ("negative_prompt", 1), ("image", ""), ("image", 1), ("model", ""),
    ("model", None), ("layers", "8;9"), ("layers", "x"), ("layers", "-1"), ("layers", ""),
    ("layers", "8,"), ("layers", "9-7"), ("layers", "7-"), ("layers", "8@"), ("layers", "8@a"),
    ("mask", 3), ("mask", ["a.png"]), ("slg_layers", "x"), ("term", 3), ("term", ""),
    ("layers", "a:b:1"), ("layers", True), ("layers", 1.5), ("layers", [[8]]),
    ("stg_scale", -1.0), ("stg_scale", float("nan")), ("stg_scale", float("inf")),
    ("stg_scale", "1"), ("stg_scale", True), ("spatial_scale", -1.0), ("spatial_scale", "2"),
    ("temporal_scale", -0.5), ("temporal_scale", float("inf")), ("orthogonalize", 1),
    ("orthogonalize", "yes"), ("skip", "Residual"), ("skip", 1), ("start", -0.1), ("start", 1.1),
    ("stop", float("nan")), ("stop", 2.0), ("rescale", 1.01), ("rescale", -1.0),
    ("guidance_scale", -1.0), ("guidance_scale", float("inf")), ("min_guidance_scale", -1.0),
    ("min_guidance_scale", "1"), ("motion_bucket_id", -1), ("motion_bucket_id", 127.0),
    ("image_fit", "squash"), ("image_fit", 1), ("cache", "mag"),
    ("picture_format", "jpg"), ("picture_format", 3),
    ("preset", "tune.toml"), ("preset", 3),
    ("noise_aug_strength", -0.1), ("noise_aug_strength", "a"), ("decode_chunk_size", 0),
    ("decode_chunk_size", 1.5), ("steps", 0), ("steps", -3), ("steps", 2.5), ("steps", "many"),
    ("steps", True), ("seed", -1), ("seed", 2**63), ("seed", 1.0), ("seed", None), ("height", 33),
    ("height", 0), ("height", -2), ("width", 31), ("width", 64.0), ("num_frames", 0), ("fps", 0),
    ("fps", -1), ("fps", 1001), ("fps", "fast"), ("fps", "1/0"), ("fps", float("nan")),
    ("fps", float("inf")), ("fps", True), ("fps", [1]), ("max_sequence_length", 0),
    ("dtype", "float64"), ("dtype", "half"), ("device", "gpu"), ("device", "cuda:x"),
    ("device", ""), ("base_model", ""), ("component", "transformer"), ("component", ["a=b", "a=c"]),
    ("variant", ""), ("variant", "a/b"), ("vae_dtype", "half"), ("lora", ""), ("lora", 3),
    ("quantize", "int4"), ("quantize", "int8:other"), ("offload", "group:0"), ("offload", True),
    ("attention", ""), ("compile", "yes"), ("vae_tiling", 1), ("scheduler", "UniPC:flow_shift"),
    ("scheduler", 3), ("flow_shift", 0.0), ("flow_shift", float("inf")),
    ("random_share", 0.0), ("random_share", 1.0), ("random_share", "0.1"),
    ("strength", 0.0), ("strength", float("inf")), ("normalize", 1), ("every", 0), ("every", 1.5),
    ("budget", 1), ("budget", "two"),
    ("schedule", 3), ("rescale_space", "pixels"), ("cfg_rule", ""), ("cfg_rule", 3),
    ("cfg_rule", "apg eta=1 eta=2"), ("cfg_rule", "apg eta="), ("restart", ""), ("restart", 0.4),
    ("exact", 1), ("exact", "no"), ("nag", ""), ("nag", True), ("nag", "5 tau="),
    ("exact", 1), ("exact", "no"), ("modality_scale", 0.5), ("modality_scale", "3"),
    ("audio_rescale", 1.5), ("audio_rescale", "a"), ("skip_step", -1), ("skip_step", 1.5),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD)
def test_refused_with_requirement_value_and_advice(name: str, value: Any) -> None:
    message = rf"^{name} must be [^\n]*, but got {re.escape(repr(value))}\. Set it with [^\n]*\Z"
    with pytest.raises(ValueError, match=message):
        validate_settings({"prompt": "p", name: value})


def test_every_setting_has_a_bad_value_in_the_list() -> None:
    fields = {*GenerationSettings.model_fields, *GuidanceFlags.model_fields} - {"guidance"}
    assert {name for name, _ in BAD} == fields


def test_neither_prompt_nor_image() -> None:
    with pytest.raises(
        ValueError, match=r"^a prompt, an image or both are needed, but got neither\. Set them"
    ):
        validate_settings({})
    assert validate_settings({"image": "a.png"}).prompt is None


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("stg_scal", "Did you mean 'stg_scale'?"),
        ("guidanc_scale", "Did you mean 'guidance_scale'?"),
        ("zzz", "Remove it."),
    ],
)
def test_unknown_setting(name: str, advice: str) -> None:
    known = r"^a setting must be one of model, .*, prompt, negative_prompt, .*, guidance, .*, "
    with pytest.raises(ValueError, match=known + re.escape(f"but got {name!r}. {advice}")):
        validate_settings({"prompt": "p", name: 1.0})


def test_window_must_not_be_empty() -> None:
    with pytest.raises(
        ValueError,
        match=r"^stop must be larger than start .* but got start=0\.5, stop=0\.5\. Widen",
    ):
        validate_settings({"prompt": "p", "start": 0.5, "stop": 0.5})


def test_no_layers_only_where_stg_is_off() -> None:
    off = validate_settings({"prompt": "p", "layers": [], "stg_scale": 0.0})
    assert off.guidance.layers == ()
    with pytest.raises(
        ValueError, match=r"^layers must name at least one layer, but got none\. Name one"
    ):
        validate_settings({"prompt": "p", "layers": [], "stg_scale": 1.0})


@pytest.mark.parametrize(
    "given", [{"stg_scale": 0.0}, {"stg_scale": 0.0, "spatial_scale": 0.0}, {"temporal_scale": 0.0}]
)
def test_off_is_a_given_scale_and_none_above_0(given: dict[str, Any]) -> None:
    assert not uses_guidance(validate_settings({"prompt": "p", "layers": [], **given}))
    assert uses_guidance(validate_settings({"prompt": "p", **given, "spatial_scale": 1.0}))
    assert uses_guidance(validate_settings({"prompt": "p"}))


@pytest.mark.parametrize(
    ("given", "came"),
    [
        ({"spatial_scale": 2.0}, "2 and 0"),
        ({"stg_scale": 1.0, "temporal_scale": 0.5}, r"0 and 0\.5"),
    ],
)
def test_orthogonalize_needs_both_axes(given: dict[str, Any], came: str) -> None:
    message = (
        rf"^orthogonalize needs a spatial_scale and a temporal_scale above 0, but got {came}\. Set"
        r" both, or"
    )
    with pytest.raises(ValueError, match=message):
        validate_settings({"prompt": "p", "orthogonalize": True, **given})
    both = validate_settings({"prompt": "p", "orthogonalize": True})
    assert both.guidance.orthogonalize  # the preset may have both
    off = validate_settings({"prompt": "p", "orthogonalize": False, **given})
    assert not off.guidance.orthogonalize


def test_cfg_cannot_begin_above_1_and_be_off() -> None:
    message = (
        r"^min_guidance_scale above 1 needs a guidance_scale above 1, .* but got 2 and 1\. Raise"
        r" one or lower"
    )
    with pytest.raises(ValueError, match=message):
        validate_settings({"image": "a.png", "min_guidance_scale": 2.0, "guidance_scale": 1.0})
    assert (
        validate_settings(
            {"image": "a.png", "min_guidance_scale": 4.0, "guidance_scale": 2.0}
        ).guidance_scale
        == 2
    )


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ValueError, match=r"^steps must .* height must "):
        validate_settings({"prompt": "p", "height": 3, "steps": 0})


# --- resolve --------------------------------------------------------------------------------------

PRESET = Preset(
    "tiny", ("MochiPipeline",), 4, layers=(2, 3), scale=1.5, skip="attention", source="here",
    start=0.1, stop=0.9, rescale=0.7,
    defaults={"height": 32, "fps": 12, "num_inference_steps": 5, "max_sequence_length": 16},
)  # fmt: skip


# As diffusers does it, unless a user asks for something else.
OF_MODELS = {*ModelSettings.model_fields} - {"model", "dtype", "device"}
OF_IMAGES = {
    "image",
    "min_guidance_scale",
    "motion_bucket_id",
    "noise_aug_strength",
    "decode_chunk_size",
    "image_fit",
    "cache",
}
OF_FILES = {"preset", "picture_format"}  # complete settings say all of it themselves


def test_none_is_filled_from_the_preset_then_from_the_pipeline(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presets, "preset_for", lambda _: PRESET)
    settings = resolve_settings(validate_settings({"prompt": "p"}), pipe)
    assert {name for name, value in settings if value is None} == OF_IMAGES | OF_MODELS | OF_FILES
    term = STG([2, 3], 1.5, "attention", start=0.1, stop=0.9)
    assert settings.request == GuidanceRequest((term,), rescale=0.7)
    assert (settings.height, settings.fps, settings.steps, settings.max_sequence_length) == (
        32,
        12,
        5,
        16,
    )
    assert (settings.width, settings.num_frames, settings.guidance_scale) == (
        848,
        19,
        4.5,
    )  # MochiPipeline's own
    assert (settings.dtype, settings.device) == ("float32", "cpu")


def test_what_is_given_stays(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "preset_for", lambda _: PRESET)
    given = {
        "layers": (1,),
        "stg_scale": 0.0,
        "start": 0.0,
        "rescale": 0.0,
        "fps": 30,
        "steps": 9,
        "width": 64,
    }
    settings = resolve_settings(validate_settings({"prompt": "p", **given}), pipe)
    assert (settings.fps, settings.steps, settings.width) == (30, 9, 64)
    assert settings.request == GuidanceRequest()
    assert resolve_settings(settings, pipe) == settings
    on = resolve_settings(validate_settings({"prompt": "p", **given, "stg_scale": 2.0}), pipe)
    # Layers and a scale of one's own have neither the window nor the normalization of the preset.
    assert on.request == GuidanceRequest((STG([1], 2.0, "attention"),))
    of_layers = {**given, "stg_scale": None, "rescale": None}
    kept = resolve_settings(validate_settings({"prompt": "p", **of_layers}), pipe).request
    assert kept.terms == (STG([1], PRESET.scale, "attention", stop=0.9),)


def test_without_a_preset_the_defaults_of_stg(pipe: Any) -> None:
    settings = resolve_settings(validate_settings({"prompt": "p", "layers": 2}), pipe)
    assert settings.request == GuidanceRequest((STG([2], 1.0),))
    assert settings.fps == 30  # Mochi's own


def test_without_a_preset_layers_are_needed(pipe: Any) -> None:
    with pytest.raises(
        ValueError, match=r"none is known for a MochiPipeline of 4 blocks .* --layers"
    ):
        resolve_settings(validate_settings({"prompt": "p"}), pipe)
    off = resolve_settings(validate_settings({"prompt": "p", "stg_scale": 0.0}), pipe)
    assert off.request.is_plain


def test_a_size_without_default_is_asked_for(pipe: Any) -> None:
    class Sizeless:
        dtype, device = pipe.dtype, pipe.device

        def __call__(
            self, prompt: str, height: int, width: int | None = None, num_frames: int = 5
        ) -> None: ...

    sizeless: Any = Sizeless()

    with pytest.raises(
        ValueError,
        match=r"^height must be given for a Sizeless, .* but got nothing\. Set it with --height",
    ):
        resolve_settings(validate_settings({"prompt": "p", "stg_scale": 0.0}), sizeless)
    found = resolve_settings(
        validate_settings({"prompt": "p", "stg_scale": 0.0, "height": 64}), sizeless
    )
    assert (found.width, found.steps, found.fps) == (
        None,
        None,
        24,
    )  # it finds out by itself; it takes none; the usual
    with pytest.raises(
        ValueError,
        match=r"^steps must be left out for a Sizeless, which does not take it, but got 4\.",
    ):
        resolve_settings(
            validate_settings({"prompt": "p", "stg_scale": 0.0, "height": 64, "steps": 4}),
            sizeless,
        )


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("CogVideoXPipeline", dict(fps=8)),
        ("WanPipeline", dict(fps=16, guidance_scale=5.0)),
        ("LTXPipeline", dict(fps=25)),  # the call's own frame_rate, which it is told
        ("SanaVideoPipeline", dict(fps=16, num_frames=81)),
        (
            "HunyuanVideo15Pipeline",
            dict(fps=24, guidance_scale=4.5, height=None, num_frames=121),
        ),  # of its guider
        ("MotifVideoPipeline", dict(fps=24, height=736)),
        ("AllegroPipeline", dict(fps=15)),
    ],
)
def test_what_models_of_each_kind_say_of_themselves(name: str, found: dict[str, Any]) -> None:
    settings = resolve_settings(validate_settings({"prompt": "p", "layers": 1}), tiny(name).pipe)
    assert {key: getattr(settings, key) for key in found} == found


# --- the three scales -----------------------------------------------------------------------------


def scales_of(settings: GenerationSettings) -> dict[str | None, Any]:
    """By axis."""
    return {term.axis: term.scale for term in settings.request.terms if isinstance(term, STG)}


SPACE_AND_TIME = ({"axis": "spatial", "scale": 2.0}, {"axis": "temporal", "scale": 0.5})


def preset_with(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    """A preset of another shape."""
    monkeypatch.setattr(presets, "preset_for", lambda _: dataclasses.replace(PRESET, **fields))


@pytest.mark.parametrize(
    ("given", "scales"),
    [
        ({}, {"spatial": 2.0, "temporal": 0.5}),
        ({"stg_scale": 0.0}, {}),
        ({"stg_scale": 1.0}, {None: 1.0}),
        ({"spatial_scale": 3.0}, {"spatial": 3.0}),
        ({"temporal_scale": 1.0, "stg_scale": 2.0}, {None: 2.0, "temporal": 1.0}),
    ],
)
def test_scales_of_a_preset_with_two_terms(
    pipe: Any, monkeypatch: pytest.MonkeyPatch, given: dict[str, float],
    scales: dict[str | None, float],
) -> None:  # fmt: skip
    preset_with(monkeypatch, scale=0.0, terms=SPACE_AND_TIME)
    settings = resolve_settings(validate_settings({"prompt": "p", **given}), pipe)
    assert scales_of(settings) == scales
    assert resolve_settings(settings, pipe) == settings


def test_scale_of_a_preset_with_one_axis(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    preset_with(monkeypatch, axis="temporal", scale=0.5)
    settings = resolve_settings(validate_settings({"prompt": "p"}), pipe)
    assert scales_of(settings) == {"temporal": 0.5}


def test_orthogonalize_beside_a_preset_of_one_term(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presets, "preset_for", lambda _: PRESET)
    with pytest.raises(
        ValueError,
        match=r"^orthogonalize needs a spatial_scale and a .* but got 0 and 0\. Set both",
    ):
        resolve_settings(validate_settings({"prompt": "p", "orthogonalize": True}), pipe)
    preset_with(monkeypatch, scale=0.0, terms=SPACE_AND_TIME)
    assert resolve_settings(
        validate_settings({"prompt": "p", "orthogonalize": True}), pipe
    ).request.orthogonalize


# --- pipelines that start from an image -----------------------------------------------------------


@pytest.fixture
def svd() -> Any:
    return tiny("StableVideoDiffusionPipeline").pipe


def test_svd_is_filled_from_its_call_and_its_unet(svd: Any) -> None:
    settings = resolve_settings(
        validate_settings({"image": "folder/of mine/x.png", "stg_scale": 0.0}), svd
    )
    assert (settings.height, settings.width, settings.num_frames, settings.steps) == (
        576,
        1024,
        3,
        25,
    )
    assert (settings.min_guidance_scale, settings.guidance_scale) == (1.0, 3.0)
    assert (settings.fps, settings.motion_bucket_id, settings.noise_aug_strength) == (7, 127, 0.02)
    assert {name for name, value in settings if value is None} - OF_MODELS - OF_FILES == {
        "prompt", "negative_prompt", "image_fit", "cache", "decode_chunk_size",
        "max_sequence_length",
    }  # fmt: skip
    assert settings.image == "x.png"  # no folder of the machine
    assert resolve_settings(settings, svd) == settings


def test_svd_takes_the_defaults_of_a_preset(svd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = {
        "guidance_scale": 2.5,
        "num_inference_steps": 8,
        "decode_chunk_size": 2,
        "max_sequence_length": 9,
        "fps": 5,
    }
    preset_with(monkeypatch, defaults=defaults, terms=SPACE_AND_TIME)
    settings = resolve_settings(validate_settings({"image": "x.png"}), svd)
    assert (settings.guidance_scale, settings.steps, settings.decode_chunk_size, settings.fps) == (
        2.5,
        8,
        2,
        5,
    )
    assert settings.max_sequence_length is None  # SVD has no text


def test_sizes_of_a_unet(pipe: Any) -> None:
    class AnimateDiff:
        dtype, device, vae_scale_factor = pipe.dtype, pipe.device, 8
        unet = SimpleNamespace(config={"sample_size": 64, "num_frames": 16})

        def __call__(
            self,
            prompt: str,
            height: None = None,
            width: None = None,
            num_frames: None = None,
            guidance_scale: float = 7.5,
            num_inference_steps: int = 50,
        ) -> None: ...

    animatediff: Any = AnimateDiff()
    settings = resolve_settings(validate_settings({"prompt": "p", "stg_scale": 0.0}), animatediff)
    assert (settings.height, settings.width, settings.num_frames) == (512, 512, 16)


def test_latte_calls_its_frames_otherwise() -> None:
    settings = resolve_settings(
        validate_settings({"prompt": "p", "stg_scale": 0.0}), tiny("LattePipeline").pipe
    )
    assert (settings.num_frames, settings.decode_chunk_size) == (16, 14)


OTHERS = {
    "StableVideoDiffusionPipeline": {
        "prompt": "p",
        "negative_prompt": "",
        "max_sequence_length": 8,
    },
    "MochiPipeline": {
        "image": "x.png",
        "min_guidance_scale": 1.0,
        "motion_bucket_id": 9,
        "noise_aug_strength": 0.0,
        "decode_chunk_size": 2,
    },
}


@pytest.mark.parametrize(
    ("model", "name"), [(model, name) for model, given in OTHERS.items() for name in given]
)
def test_a_setting_that_the_pipeline_does_not_take(model: str, name: str) -> None:
    start = {"prompt": "p"} if model == "MochiPipeline" else {"image": "x.png"}
    value, option = (
        OTHERS[model][name],
        ("PROMPT" if name == "prompt" else f"--{name.replace('_', '-')}"),
    )
    message = (
        f"{name} must be left out for a {model}, which does not take it, but got {value!r}. Leave"
        f" out {option}, or"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)} choose another --model"):
        resolve_settings(
            validate_settings({**start, "stg_scale": 0.0, name: value}), tiny(model).pipe
        )


@pytest.mark.parametrize("family", ["LTX", "Wan", "CogVideoX"])
def test_image_and_prompt_are_both_needed(family: str) -> None:
    model = f"{family}ImageToVideoPipeline"
    for name, given, option in (
        ("image", {"prompt": "p"}, "--image"),
        ("prompt", {"image": "x.png"}, "PROMPT"),
    ):
        message = rf"^{name} must be given for a {model}, but got nothing\. Set it with {option}\."
        with pytest.raises(ValueError, match=message):
            resolve_settings(validate_settings({**given, "stg_scale": 0.0}), tiny(model).pipe)


def test_svd_without_its_image(svd: Any) -> None:
    """A prompt alone is refused by its name; what would be left without it asks for the image."""
    settings = validate_settings({"image": "x.png", "stg_scale": 0.0}).model_copy(
        update={"image": None}
    )
    with pytest.raises(
        ValueError,
        match=r"^image must be given for a StableVideoDiffusionPipeline, .* with --image\.",
    ):
        resolve_settings(settings, svd)


def test_an_image_where_it_may_be_left_out() -> None:
    pipe = tiny("HeliosPipeline").pipe
    assert (
        resolve_settings(validate_settings({"prompt": "p", "stg_scale": 0.0}), pipe).image is None
    )
    assert (
        resolve_settings(
            validate_settings({"prompt": "p", "image": "x.png", "stg_scale": 0.0}), pipe
        ).image
        == "x.png"
    )


def test_open_sora_keeps_its_null_caption() -> None:
    """An empty negative prompt is another thing there."""
    pipe, plain = (
        tiny("OpenSoraPipeline").pipe,
        {
            "prompt": "p",
            "height": 48,
            "width": 32,
            "stg_scale": 0,
        },
    )
    assert resolve_settings(validate_settings(plain), pipe).negative_prompt is None
    assert (
        resolve_settings(validate_settings({**plain, "negative_prompt": ""}), pipe).negative_prompt
        == ""
    )
    assert (
        resolve_settings(
            validate_settings({"prompt": "p", "stg_scale": 0}), tiny("MochiPipeline").pipe
        ).negative_prompt
        == ""
    )


@pytest.mark.parametrize("name", ["prompt", "negative_prompt"])
def test_a_prompt_of_other_bytes_is_refused(name: str) -> None:
    """As from a terminal in another encoding; the tokenizer would fail on it, after loading."""
    given = {"model": "m", "prompt": "a star", name: os.fsdecode(b"caf\xe9")}
    with pytest.raises(ValueError, match=r"a prompt must be text in UTF-8, but 'caf.*udce9' has"):
        validate_settings(given)


@pytest.mark.parametrize("name", ["image", "model"])
def test_a_name_of_other_bytes_is_refused(name: str) -> None:
    given = {"model": "m", "prompt": "a star", name: os.fsdecode(b"caf\xe9.png")}
    with pytest.raises(ValueError, match=rf"{name} must be .* in UTF-8, but 'caf.*' has other"):
        validate_settings(given)
