"""LoRAs do what diffusers' own loading of them does, with guidance and without, or are refused."""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from safetensors.torch import load_file, save_file

from skipguide import STG, guide
from skipguide.generate import notes, run
from skipguide.generate.resolve import resolve_settings
from skipguide.generate.settings import validate_settings
from skipguide.models import loading, lora, telling
from skipguide.models.settings import ModelSettings
from support.loras import KOHYA_TAGS, comfy_names, kohya_names, make_lora
from support.saved import saved
from support.small_wan import save_wan

# peft's, of two LoRAs on one model, which is what they are for
pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
CALL = {"height": 32, "width": 32, "num_frames": 5}


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_wan(tmp_path_factory.mktemp("models") / "wan")


@pytest.fixture(scope="module")
def style(wan: Path) -> Path:
    words = {"modelspec.trigger_phrase": "sks star, red"}
    return make_lora(WanPipeline.from_pretrained(wan), wan.parent / "style.safetensors", 0, words)


@pytest.fixture(scope="module")
def subject(wan: Path) -> Path:
    file = wan.parent / "subject.safetensors"
    return make_lora(WanPipeline.from_pretrained(wan), file, 1, KOHYA_TAGS)


def load(model: Path, *loras: Any) -> Any:
    return loading.load(ModelSettings(model=str(model), device="cpu", lora=loras))  # type: ignore[arg-type]


def refusal(model: Path, *loras: Any) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its words are what is tested
        load(model, *loras)
    return str(caught.value)


def output(transformer: Any) -> torch.Tensor:
    torch.manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(1, 4, 2, 4, 4),
        "timestep": torch.tensor([500]),
        "encoder_hidden_states": torch.randn(1, 12, 16),
    }
    with torch.no_grad():
        return transformer(**inputs, return_dict=False)[0]


# --- the result -----------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [{"stg_scale": 0.0}, {"layers": [1, 2], "stg_scale": 1.5}])
def test_the_frames_are_those_of_diffusers(
    wan: Path, style: Path, subject: Path, guidance: dict[str, Any]
) -> None:
    """By hand with diffusers and guide(), which shares the prefix of the blocks here as well."""
    given = {**CALL, **guidance, "steps": 2, "prompt": "a star", "model": str(wan), "seed": 3}
    settings = validate_settings({**given, "lora": [f"{style}:0.7", str(subject)], "device": "cpu"})
    pipe = loading.load(settings)
    complete = resolve_settings(settings, pipe)
    found = run.generate(pipe, complete).frames
    theirs: Any = WanPipeline.from_pretrained(wan)
    theirs.load_lora_weights(str(style), adapter_name="style")
    theirs.load_lora_weights(str(subject), adapter_name="subject")
    theirs.set_adapters(["style", "subject"], [0.7, 1.0])
    generator = torch.Generator().manual_seed(3)
    call = {**CALL, "num_inference_steps": 2, "output_type": "np", "generator": generator}
    guided = "layers" in guidance
    with (
        guide(theirs, STG([1, 2], 1.5), share_prefix=False) if guided else contextlib.nullcontext()
    ):
        video = theirs("a star", **call).frames[0]
    # Sums of a batch of other rows may round otherwise.
    assert np.abs(found.astype(int) - (video * 255).round().astype(int)).max() <= guided
    assert torch.equal(output(pipe.transformer), output(theirs.transformer))
    words = [entry.trigger_words for entry in complete.lora or ()]
    assert words == [("sks star", "red"), ("ohwx", "a cat")]
    assert [entry.scale for entry in complete.lora or ()] == [0.7, 1.0]


def test_names_of_other_trainers(wan: Path, style: Path, tmp_path: Path) -> None:
    expected = output(load(wan, str(style)).transformer)
    assert not torch.equal(expected, output(load(wan).transformer))
    for number, rename in enumerate((comfy_names, kohya_names)):
        folder = tmp_path / str(number)
        folder.mkdir()
        save_file(rename(style), folder / "other.safetensors")
        assert torch.equal(output(load(wan, str(folder)).transformer), expected)


def test_two_denoisers(style: Path, subject: Path, tmp_path: Path) -> None:
    """A LoRA is for both, unless its setting or the name of its file says for which."""
    wan = save_wan(tmp_path / "wan22", "WanPipeline 2.2")
    low = tmp_path / "x_low_noise.safetensors"
    low.write_bytes(subject.read_bytes())
    pipe = load(wan, f"{style}:0.5", f"transformer={subject}", str(low))
    theirs = WanPipeline.from_pretrained(wan)
    theirs.load_lora_weights(str(style), adapter_name="a")
    theirs.load_lora_weights(str(style), adapter_name="a", load_into_transformer_2=True)
    theirs.load_lora_weights(str(subject), adapter_name="b")
    theirs.load_lora_weights(str(subject), adapter_name="c", load_into_transformer_2=True)
    theirs.set_adapters(["a", "b", "c"], [0.5, 1.0, 1.0])
    assert torch.equal(output(pipe.transformer), output(theirs.transformer))
    assert torch.equal(output(pipe.transformer_2), output(theirs.transformer_2))
    assert not torch.equal(output(pipe.transformer), output(pipe.transformer_2))


# --- what is known of a file ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({}, None),
        ({"trigger_words": " sks ,, red star"}, ("sks", "red star")),
        ({"modelspec.trigger_phrase": "a", "trigger_words": "b"}, ("a",)),
        (KOHYA_TAGS, ("ohwx", "a cat")),
        ({"ss_tag_frequency": "{"}, None),
        ({"ss_tag_frequency": "{}"}, None),
        ({"ss_tag_frequency": '{"a": [1]}'}, None),
    ],
)
def test_trigger_words(metadata: dict[str, str], words: tuple[str, ...] | None) -> None:
    assert lora.read_trigger_words(metadata) == words


@pytest.mark.long
def test_a_lora_on_the_hub(
    wan: Path, style: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is a folder here: what is asked of it is what is tested."""
    files = {"b.safetensors": style, "a.safetensors": style}
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda repository: list(files))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda _, name: str(files[name]))
    expected = output(load(wan, str(style)).transformer)
    assert torch.equal(output(load(wan, "maker/loras/b.safetensors:1.0").transformer), expected)
    assert "has 2: b.safetensors, a.safetensors. Name one, as in maker/loras/b.safe" in refusal(
        wan, "maker/loras"
    )
    del files["a.safetensors"]
    assert torch.equal(output(load(wan, "maker/loras:1.0").transformer), expected)


# --- words ----------------------------------------------------------------------------------------


def test_a_lora_of_another_model(wan: Path, style: Path, tmp_path: Path) -> None:
    mochi = saved("MochiPipeline", tmp_path)
    said = refusal(mochi, str(style))
    assert said.startswith("lora must be made for the model, but none of the ")
    assert "it has blocks.0.attn1.to_k, " in said
    assert "and the model transformer_blocks.0.attn1.to_q, " in said
    weights = load_file(style)
    wide = {
        name: torch.zeros(4, 48) if "lora_A" in name and weight.shape[1] == 32 else weight
        for name, weight in weights.items()
    }
    save_file(wide, tmp_path / "wide.safetensors")
    said = refusal(wan, str(tmp_path / "wide.safetensors"))
    assert "of WanPipeline takes 32 numbers, and the LoRA is for 48. Take" in said
    svd = saved("StableVideoDiffusionPipeline", tmp_path)
    assert "diffusers has none for StableVideoDiffusionPipeline" in refusal(svd, str(style))
    assert "must be transformer with WanPipeline, but got 'transformer_2'" in refusal(
        wan, f"transformer_2={style}"
    )


def test_a_lora_that_fits_in_part_is_told_of(
    wan: Path, style: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    telling.tell.cache_clear()
    more = {name.replace("blocks.3.", "blocks.7."): w for name, w in load_file(style).items()}
    save_file(more, tmp_path / "part.safetensors")
    pipe = load(wan, str(tmp_path / "part.safetensors"))
    assert "the LoRA part.safetensors fits in part: 30 of its 40 layers" in caplog.text
    fewer = {name: w for name, w in load_file(style).items() if "blocks.3." not in name}
    save_file(fewer, tmp_path / "fewer.safetensors")
    expected = output(load(wan, str(tmp_path / "fewer.safetensors")).transformer)
    assert torch.equal(output(pipe.transformer), expected)


def test_files_that_are_no_loras(wan: Path, style: Path, tmp_path: Path) -> None:
    assert "it has no layer at all" in refusal(wan, str(wan / "transformer"))
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(style.read_bytes()[:-9])
    assert "must be a whole safetensors file" in refusal(wan, str(cut))
    assert f"but {wan} has none. Check the name." in refusal(wan, str(wan))
    assert "there is no such file" in refusal(wan, "nowhere")
    kohya = {name: w for name, w in kohya_names(style).items() if "ffn_0" not in name}
    save_file(kohya, tmp_path / "kohya.safetensors")
    said = refusal(wan, str(tmp_path / "kohya.safetensors"))
    assert "one that diffusers can read" in said
    assert "it has no 'blocks_0_ffn_0.lora_down.weight'. Take" in said


@pytest.mark.parametrize("number", ["inf", "nan"])
def test_a_lora_that_is_not_finite(wan: Path, style: Path, tmp_path: Path, number: str) -> None:
    weights = load_file(style)
    first = sorted(weights)[0]
    weights[first][0, 0] = float(number)
    save_file(weights, tmp_path / "bad.safetensors")
    said = refusal(wan, str(tmp_path / "bad.safetensors"))
    assert said.startswith("lora must hold finite numbers, but ")
    assert f"bad.safetensors has inf or nan in 1 of its {len(weights)} weights ({first})" in said


@pytest.mark.parametrize("scale", ["abc", "nan", "inf", "", "0,5"])
def test_a_scale_that_is_no_number(wan: Path, style: Path, scale: str) -> None:
    for place in (str(style), "maker/loras", str(style.parent)):
        said = refusal(wan, f"{place}:{scale}")
        assert said.startswith(f"the scale of a lora must be a finite number, but got {scale!r}")
        assert f"Write {place}:0.8" in said


@pytest.mark.long
def test_a_colon_in_a_name(wan: Path, style: Path, tmp_path: Path) -> None:
    """It is no scale."""
    folder = tmp_path / "my:lora"
    folder.mkdir()
    (folder / "my:style 1.safetensors").write_bytes(style.read_bytes())
    load(wan, str(folder / "my:style 1.safetensors"))
    load(wan, f"{folder}:0.5")
    named = tmp_path / "lo ra:2"  # what is there is meant
    named.mkdir()
    (named / "x.safetensors").write_bytes(style.read_bytes())
    for written in (str(named), f"{named}:0.5"):
        (found,) = ModelSettings(lora=written).lora or ()  # type: ignore[arg-type]
        assert (found.path, found.scale) == (str(named), 0.5 if written.endswith(":0.5") else 1)
    load(wan, str(named))


def test_loras_that_are_given_twice_or_with_no_scale(style: Path, subject: Path) -> None:
    def said(*loras: str) -> list[str]:
        return list(notes.lora_notes(validate_settings({"prompt": "x", "lora": list(loras)})))

    assert said(f"{style}:0.5", f"{subject}:0.5") == []
    assert said(f"{style}:0.5", f"{style}:0.25") == [
        f"the LoRA {style.name} is given 2 times, and the scales add up to 0.75. Give it once."
    ]
    assert said(f"{style}:0") == [
        f"the LoRA {style.name} has no effect: its scale is 0. Leave it out."
    ]
    words = {"path": "a", "trigger_words": ["sks"]}
    twice = validate_settings({"prompt": "x", "lora": [words, words]})
    assert str(notes.trigger_note(twice)).count("sks") == 1
    silent = validate_settings({"prompt": "x", "lora": [{**words, "scale": 0.0}]})
    assert notes.trigger_note(silent) is None


def test_without_peft(wan: Path, style: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "peft" else find(name)
    )
    assert refusal(wan, str(style)).endswith("Install it with: pip install peft")
