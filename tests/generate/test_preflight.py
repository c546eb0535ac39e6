"""Wrong settings are told of before any weight is read, in the words of the model itself:
the oracle is the pipeline with its weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from PIL import Image
from safetensors.torch import save_file

from skipguide import STG, guide
from skipguide.families.lookup import family_of
from skipguide.generate import preflight, run
from skipguide.generate.resolve import requires_image, resolve_settings
from skipguide.generate.settings import GenerationSettings, validate_settings
from skipguide.models import loading
from skipguide.models.skeleton import build_skeleton
from support.configured import save_configs, without_weights
from support.loras import make_lora
from support.saved import saved
from support.small_wan import save_wan
from support.tiny import tiny
from support.tiny.base import Tiny
from support.written import GUIDED

# The class of ConsisID cannot be imported without OpenCV.
BUILT = [name for name in GUIDED if name != "ConsisIDPipeline"]
SIZE = {"height": 32, "width": 32, "num_frames": 5, "steps": 4}


def settings_for(small: Tiny, model: Path, **given: Any) -> GenerationSettings:
    taken = run.call_parameters(small.pipe)
    own = {name: small.call[name] for name in ("height", "width", "num_frames")
           if name in small.call and name in taken}  # fmt: skip
    own |= {"prompt": "a star"} if "prompt" in taken else {}
    own |= {"image": "x.png"} if requires_image(small.pipe) else {}
    own |= {"steps": 4} if "num_inference_steps" in taken else {}
    return validate_settings({**own, "model": str(model), "device": "cpu", **given})


def refusal(function: Any, *arguments: Any) -> str | None:
    """What the function raises as the user's error, in words; None if it takes the settings."""
    try:
        function(*arguments)
    except ValueError as error:
        return str(error)
    return None


def message_of(function: Any, *arguments: Any) -> str:
    found = refusal(function, *arguments)
    assert found is not None
    return found


@pytest.fixture(autouse=True)
def _all_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a Cosmos or a Kandinsky that only its skeleton is needed of."""
    monkeypatch.setattr(loading, "check_packages", lambda *_: None)


@pytest.mark.parametrize("name", BUILT)
def test_layers_are_refused_as_by_the_pipeline_with_weights(name: str, tmp_path: Path) -> None:
    small = tiny(name)
    unet = family_of(small.pipe).unet is not None
    layer: Any = "up:99" if unet else 99
    given = settings_for(small, save_configs(small.pipe, tmp_path), layers=layer, stg_scale=1.0)
    with_weights = message_of(guide, small.pipe, STG(layers=[layer], scale=1.0))
    assert message_of(preflight.check, given, Image.new("RGB", (64, 64))) == with_weights


@pytest.mark.parametrize("name", BUILT)
def test_what_the_model_takes_is_not_refused(name: str, tmp_path: Path) -> None:
    """But for what the call of the whole pipeline refuses before its first use of a part."""
    small = tiny(name)
    layer: Any = "up:0" if family_of(small.pipe).unet is not None else 1
    folder = save_configs(small.pipe, tmp_path)
    given = settings_for(small, folder, layers=layer, stg_scale=1.0, stop=0.5)
    image = Image.new("RGB", (64, 64)) if given.image else None
    refused = refusal(preflight.check, given, image)
    if refused is not None:
        complete = resolve_settings(given, small.pipe)
        assert refusal(run.generate, small.pipe, complete, None, image) == refused
    assert preflight.find_skeleton(given) is not None


@pytest.fixture(scope="module")
def mochi(tiny_mochi_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return without_weights(tiny_mochi_dir, tmp_path_factory.mktemp("models") / "mochi")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layers": 9}, "must be from 0 to 3 (4 blocks), but got 9"),
        ({}, "none is known for a MochiPipeline of 4 blocks"),
        ({"layers": 1, "height": 34}, "multiples of 8 for MochiPipeline, but got 34"),
        ({"layers": 1, "steps": 1}, "steps must be enough for the schedule of MochiPipeline"),
        ({"layers": 1, "start": 0.3, "stop": 0.4}, "start"),
        ({"term": [{"layers": [1], "scale": [1, 0.5]}]}, "scale"),
        ({"layers": 1, "spatial_scale": 1.0}, "axis"),
        ({"layers": 1, "image": "x.png"}, "image must be left out"),
        ({"layers": 1, "motion_bucket_id": 3}, "motion_bucket_id must be left out"),
        ({"layers": 1, "cfg_rule": "cfg-zero zero_steps=4"}, "zero_steps must leave steps to do"),
        ({"layers": 1, "budget": 1.3}, "a budget must allow at least 1.38 passes a step"),
        ({"layers": 1, "scheduler": "DDIM"}, "scheduler must be one for flow matching"),
        ({"layers": 1, "attention": "native"}, "attention needs a model whose attention"),
        ({"layers": 1, "device": "cuda:99"}, "device must be one that torch has here"),
    ],
)
def test_a_folder_without_weights_says_what_is_wrong(
    mochi: Path, given: dict[str, Any], message: str
) -> None:
    settings = {"prompt": "x", "model": str(mochi), "device": "cpu", **SIZE, **given}
    assert message in message_of(preflight.check, validate_settings(settings))


def test_the_same_words_as_with_the_weights(mochi: Path, tiny_mochi_dir: Path) -> None:
    pipe = loading.load_pipeline(str(tiny_mochi_dir), device="cpu")
    for given in ({"height": 34}, {"steps": 1}, {"start": 0.3, "stop": 0.4}):
        wanted = validate_settings(
            {"prompt": "x", "model": str(mochi), "device": "cpu", "layers": 1, **SIZE, **given}
        )
        complete = resolve_settings(wanted, pipe)
        assert message_of(preflight.check, wanted) == message_of(run.generate, pipe, complete)


def test_an_image_that_is_needed_is_missed(tmp_path: Path) -> None:
    whole = saved("LTXImageToVideoPipeline", tmp_path)
    given = {"prompt": "x", "model": str(whole), "layers": 1, "device": "cpu"}
    found = message_of(preflight.check, validate_settings(given))
    assert found.startswith("image must be given for a LTXImageToVideoPipeline, but got nothing")


def test_of_a_model_on_the_hub_only_configurations_are_fetched_first(
    tiny_mochi_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot(model: str, revision: str | None, allow_patterns: list[str]) -> str:
        for pattern in allow_patterns:
            for path in tiny_mochi_dir.glob(pattern):
                target = tmp_path / path.relative_to(tiny_mochi_dir)
                target.parent.mkdir(exist_ok=True)
                shutil.copy(path, target)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    wanted = {"prompt": "x", "model": "me/tiny", "layers": 9, **SIZE}
    assert "(4 blocks), but got 9" in message_of(preflight.check, validate_settings(wanted))
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_model_without_a_skeleton_is_checked_when_it_is_loaded(
    mochi: Path, tmp_path: Path
) -> None:
    """Its transformer's configuration is of a later version, which loading reports."""
    folder = Path(shutil.copytree(mochi, tmp_path / "later"))
    (folder / "transformer" / "config.json").write_text("{")
    given = validate_settings({"prompt": "x", "model": str(folder), "layers": 9, "device": "cpu"})
    assert preflight.find_skeleton(given) is None
    preflight.check(given)


def test_a_changed_configuration_is_seen(mochi: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(mochi, tmp_path / "changed"))
    given = validate_settings({"prompt": "x", "model": str(folder), **SIZE, "layers": 3})
    preflight.check(given)
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_layers": 2}))
    assert "(2 blocks), but got 3" in message_of(preflight.check, given)


def test_nothing_stays_on_a_skeleton(mochi: Path) -> None:
    given = validate_settings({"prompt": "x", "model": str(mochi), **SIZE, "layers": 1,
                               "restart": "0.4:0.6", "device": "cpu"})  # fmt: skip
    for _ in range(2):
        preflight.check(given)
    denoiser = preflight.find_skeleton(given).transformer
    assert not denoiser._forward_pre_hooks
    assert not denoiser._forward_hooks


def test_a_skeleton_takes_no_memory(mochi: Path) -> None:
    pipe = build_skeleton(mochi)
    assert {parameter.device.type for parameter in pipe.transformer.parameters()} == {"meta"}


# --- parts from elsewhere -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_wan(tmp_path_factory.mktemp("wan") / "whole")


def of_wan(model: Path, **given: Any) -> GenerationSettings:
    return validate_settings(
        {"prompt": "x", "model": str(model), "device": "cpu", "layers": 1, **SIZE, **given}
    )


def test_a_lora_for_another_model_is_refused(wan: Path, tmp_path: Path) -> None:
    bare = without_weights(wan, tmp_path / "bare")
    fitting = make_lora(WanPipeline.from_pretrained(wan), tmp_path / "fits.safetensors", 0, {})
    preflight.check(of_wan(bare, lora=[str(fitting)]))
    other = {"transformer.blocks.0.attn1.to_q.lora_A.weight": torch.zeros(2, 8),
             "transformer.blocks.0.attn1.to_q.lora_B.weight": torch.zeros(8, 2)}  # fmt: skip
    save_file(other, tmp_path / "other.safetensors")
    given = of_wan(bare, lora=[str(tmp_path / "other.safetensors")])
    with_weights = message_of(loading.load, of_wan(wan, lora=given.lora))
    assert message_of(preflight.check, given) == with_weights
    assert "numbers, and the LoRA is for" in with_weights


def test_a_component_of_another_folder_counts(wan: Path, tmp_path: Path) -> None:
    deep = without_weights(wan, tmp_path / "deep")
    path = deep / "transformer" / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "num_layers": content["num_layers"] + 2}))
    last = content["num_layers"] + 1
    assert "blocks), but got" in message_of(preflight.check, of_wan(wan, layers=last))
    preflight.check(of_wan(wan, layers=last, component=[f"transformer={deep / 'transformer'}"]))


def test_a_term_of_a_lora_is_checked_by_its_name(wan: Path, tmp_path: Path) -> None:
    """A skeleton has no LoRAs; those that the settings load have names."""
    bare = without_weights(wan, tmp_path / "bare")
    fitting = make_lora(WanPipeline.from_pretrained(wan), tmp_path / "fits.safetensors", 0, {})
    for weak in ("without-lora", "lora_1:0.3"):
        given = {"term": f"weak={weak} scale=0.5"}
        preflight.check(of_wan(bare, layers=None, lora=[str(fitting)], **given))
    with pytest.raises(
        ValueError, match=r"needs the LoRA 'lora_2', but .* are called lora_1\. Load"
    ):
        preflight.check(of_wan(bare, layers=None, lora=[str(fitting)], term="weak=lora_2:0.3"))
    with pytest.raises(ValueError, match=r"weak=WithoutLoRA\(\) needs a LoRA, but none is loaded"):
        preflight.check(of_wan(bare, layers=None, term="weak=without-lora"))
