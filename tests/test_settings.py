"""The schema of a generation: what it takes, what it refuses and in which words, and how None is filled in."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from typing import Any

import pytest

from skipguide import presets
from skipguide.presets import Preset
from skipguide.settings import Generation, checked, resolve


@pytest.mark.parametrize(
    ("given", "layers"),
    [
        (8, (8,)), ("8", (8,)), ("8,9", (8, 9)), (" 8, 9 ", (8, 9)), ("single:7", ("single:7",)),
        ("single:7,2", ("single:7", 2)), ([8, "up:0"], (8, "up:0")), (None, None),
    ],
)  # fmt: skip
def test_layers(given: Any, layers: Any) -> None:
    assert checked({"prompt": "p", "layers": given}).layers == layers


@pytest.mark.parametrize(
    ("given", "fps"),
    [
        (24, Fraction(24)), ("24", Fraction(24)), (12.5, Fraction(25, 2)), (23.976, Fraction(2997, 125)),
        ("24000/1001", Fraction(24000, 1001)), (None, None),
    ],
)  # fmt: skip
def test_fps_is_exact(given: Any, fps: Fraction | None) -> None:
    assert checked({"prompt": "p", "fps": given}).fps == fps


def test_json_round_trip() -> None:
    settings = checked(
        {"prompt": "狐", "layers": "single:7,2", "fps": "24000/1001", "stg_scale": 1, "start": 0.1, "device": "cuda:1"}
    )
    assert checked(json.loads(json.dumps(settings.model_dump(mode="json")))) == settings


BAD = [
    ("prompt", 3), ("prompt", None), ("negative_prompt", 1), ("model", ""), ("model", None), ("layers", "8;9"),
    ("layers", "x"), ("layers", "-1"), ("layers", ""), ("layers", "8,"), ("layers", "a:b:1"), ("layers", True),
    ("layers", 1.5), ("layers", [[8]]), ("stg_scale", -1.0), ("stg_scale", float("nan")), ("stg_scale", float("inf")),
    ("stg_scale", "1"), ("stg_scale", True), ("skip", "Residual"), ("skip", 1), ("start", -0.1), ("start", 1.1),
    ("stop", float("nan")), ("stop", 2.0), ("rescale", 1.01), ("rescale", -1.0), ("guidance_scale", -1.0),
    ("guidance_scale", float("inf")), ("steps", 0), ("steps", -3), ("steps", 2.5), ("steps", "many"), ("steps", True),
    ("seed", -1), ("seed", 2**63), ("seed", 1.0), ("seed", None), ("height", 33), ("height", 0), ("height", -2),
    ("width", 31), ("width", 64.0), ("num_frames", 0), ("fps", 0), ("fps", -1), ("fps", 1001), ("fps", "fast"),
    ("fps", "1/0"), ("fps", float("nan")), ("fps", float("inf")), ("fps", True), ("fps", [1]),
    ("max_sequence_length", 0), ("dtype", "float64"), ("dtype", "half"), ("device", "gpu"), ("device", "cuda:x"),
    ("device", ""),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD)
def test_refused_with_requirement_value_and_advice(name: str, value: Any) -> None:
    message = rf"^{name} must be [^\n]*, but got {re.escape(repr(value))}\. Set it with [^\n]*\Z"
    with pytest.raises(ValueError, match=message):
        checked({"prompt": "p", name: value})


def test_every_setting_has_a_bad_value_in_the_list() -> None:
    assert {name for name, _ in BAD} == set(Generation.model_fields)


def test_missing_prompt() -> None:
    with pytest.raises(ValueError, match=r"^prompt must be a text, but got nothing\. Set it with PROMPT, or as prompt"):
        checked({})


@pytest.mark.parametrize(
    ("name", "advice"),
    [("stg_scal", "Did you mean 'stg_scale'?"), ("guidance", "Did you mean 'guidance_scale'?"), ("zzz", "Remove it.")],
)
def test_unknown_setting(name: str, advice: str) -> None:
    known = "^a setting must be one of prompt, negative_prompt, model, layers, .*, "
    with pytest.raises(ValueError, match=known + re.escape(f"but got {name!r}. {advice}")):
        checked({"prompt": "p", name: 1.0})


def test_window_must_not_be_empty() -> None:
    with pytest.raises(ValueError, match=r"^stop must be larger than start .* but got start=0\.5, stop=0\.5\. Widen"):
        checked({"prompt": "p", "start": 0.5, "stop": 0.5})


def test_no_layers_only_where_stg_is_off() -> None:
    assert checked({"prompt": "p", "layers": [], "stg_scale": 0.0}).layers == ()
    with pytest.raises(ValueError, match=r"^layers must name at least one layer, but got none\. Name one"):
        checked({"prompt": "p", "layers": [], "stg_scale": 1.0})


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ValueError, match=r"^steps must .* height must "):
        checked({"prompt": "p", "height": 3, "steps": 0})


# --- resolve ----------------------------------------------------------------------------------------------------------

PRESET = Preset(
    "tiny", ("MochiPipeline",), 4, layers=(2, 3), scale=1.5, skip="attention", source="here", start=0.1, stop=0.9,
    rescale=0.7, defaults={"height": 32, "fps": 12, "num_inference_steps": 5, "max_sequence_length": 16},
)  # fmt: skip


def test_none_is_filled_from_the_preset_then_from_the_pipeline(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "preset_for", lambda _: PRESET)
    settings = resolve(checked({"prompt": "p"}), pipe)
    assert None not in settings.model_dump().values()
    assert (settings.layers, settings.stg_scale, settings.skip) == ((2, 3), 1.5, "attention")
    assert (settings.start, settings.stop, settings.rescale) == (0.1, 0.9, 0.7)
    assert (settings.height, settings.fps, settings.steps, settings.max_sequence_length) == (32, 12, 5, 16)
    assert (settings.width, settings.num_frames, settings.guidance_scale) == (848, 19, 4.5)  # MochiPipeline's own
    assert (settings.dtype, settings.device) == ("float32", "cpu")


def test_what_is_given_stays(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "preset_for", lambda _: PRESET)
    given = {"layers": (1,), "stg_scale": 0.0, "start": 0.0, "rescale": 0.0, "fps": 30, "steps": 9, "width": 64}
    settings = resolve(checked({"prompt": "p", **given}), pipe)
    assert {name: getattr(settings, name) for name in given} == given
    assert resolve(settings, pipe) == settings


def test_without_a_preset_the_defaults_of_stg(pipe: Any) -> None:
    settings = resolve(checked({"prompt": "p", "layers": 2}), pipe)
    assert (settings.stg_scale, settings.skip, settings.start, settings.stop) == (1.0, "residual", 0.0, 1.0)
    assert (settings.rescale, settings.fps) == (0.0, 24)


def test_without_a_preset_layers_are_needed(pipe: Any) -> None:
    with pytest.raises(ValueError, match=r"none is known for a MochiPipeline of 4 blocks .* --layers"):
        resolve(checked({"prompt": "p"}), pipe)
    assert resolve(checked({"prompt": "p", "stg_scale": 0.0}), pipe).layers == ()


def test_a_size_without_default_is_asked_for(pipe: Any) -> None:
    class Sizeless:
        dtype, device = pipe.dtype, pipe.device

        def __call__(self, prompt: str) -> None: ...

    with pytest.raises(
        ValueError, match=r"^height must be given for a Sizeless, .* but got nothing\. Set it with --height"
    ):
        resolve(checked({"prompt": "p", "stg_scale": 0.0}), Sizeless())
