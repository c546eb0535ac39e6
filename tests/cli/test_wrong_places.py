"""What is said where --config, a model, a LoRA or a video is not what stands at its place."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from skipguide.cli.moved import check_places
from skipguide.cli.options import read_config
from skipguide.files import video
from skipguide.generate.settings import validate_settings
from skipguide.models import loading, lora

INDEX = {"_class_name": "WanPipeline", "transformer": ["diffusers", "WanTransformer3DModel"]}
CONFIG = {"_class_name": "WanTransformer3DModel", "num_layers": 2, "qk_norm": None}


@pytest.fixture
def wan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose JSON files are those of a model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wan/transformer").mkdir(parents=True)
    (tmp_path / "wan/model_index.json").write_text(json.dumps(INDEX))
    (tmp_path / "wan/transformer/config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone/config.json").write_text('{"architectures": ["T5EncoderModel"]}')
    (tmp_path / "w.safetensors").write_bytes(b"")
    return Path("wan")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("/no/such/wan", "and there is no such file or folder. Check the name."),
        ("wan/transformer",
         "a folder without a model_index.json. Name the folder of the model: wan."),
        ("alone", "a folder without a model_index.json. Check the name."),
        ("wan/transformer/config.json",
         "a file that describes a component. Name the folder of the model: wan."),
        ("wan/model_index.json",
         "a file that describes a model. Name the folder of the model: wan."),
        ("alone/config.json",
         "a file that describes a component. Name the folder of the whole model."),
        ("w.safetensors", "a file of weights. Name it with --model."),
    ],
)  # fmt: skip
def test_config_says_that_it_takes_a_folder_too(wan: Path, given: str, said: str) -> None:
    with pytest.raises(ValueError, match="but got") as caught:
        read_config([given])
    assert str(caught.value) == (
        "--config must be a YAML file of settings, or the base model of a single file (a folder"
        f" with a model_index.json or a hub id), but got {given}, {said}"
    )
    assert read_config(["wan"]) == {"base_model": "wan"}


def test_settings_in_json_are_still_read(wan: Path) -> None:
    Path("s.json").write_text('{"steps": 3}')
    assert read_config(["s.json"]) == {"steps": 3}


def test_many_unknown_settings_are_one_sentence() -> None:
    given: dict[str, Any] = {"prompt": "x", "stepz": 3, "quux_norm": 1} | dict.fromkeys("abcdef", 1)
    with pytest.raises(ValueError, match="but got") as caught:
        validate_settings(given)
    assert str(caught.value).count("negative_prompt") == 1
    assert str(caught.value).endswith(
        "but got 'stepz', 'quux_norm', 'a', 'b', 'c' and 3 more. Did you mean 'steps' for 'stepz'?"
    )


@pytest.mark.parametrize(
    ("model", "weights"), [("wan-moved", {"sha256": "1"}), ("my/wan", {"sha256": "1"})]
)
def test_a_recorded_folder_that_has_moved(wan: Path, model: str, weights: dict[str, str]) -> None:
    settings = validate_settings({"prompt": "x", "model": model})
    with pytest.raises(ValueError, match=r"no such folder.* say where it is with --model"):
        check_places(settings, weights)
    check_places(validate_settings({"prompt": "x", "model": "wan"}), weights)
    check_places(validate_settings({"prompt": "x", "model": "my/wan"}), {"revision": "ab"})


def test_the_record_in_the_place_of_its_video(wan: Path) -> None:
    for name, advice in (
        ("a.mp4.json", "It is the record of the video a.mp4. It is not there: put both into one"),
        ("b.mp4.json", "It is the record of the video b.mp4. Name that."),
        ("c.json", "Name a video."),
    ):
        Path(name).write_text("{}")
        Path("b.mp4").write_bytes(b"")
        with pytest.raises(ValueError, match=f"is a JSON file. {advice}"):
            video.read_record(Path(name))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("transformer_3=/loras/fox.safetensors",
         "the component of a lora must be one of transformer, transformer_2, unet, but got"
         " 'transformer_3' for /loras/fox.safetensors. Did you mean 'transformer_2'?"),
        ("a..b/c--d/fox.safetensors",
         "lora must be a file, but got 'a..b/c--d/fox.safetensors', and there is no such file"),
        ("a--b/c", "but got 'a--b/c', and there is no such file. Check the name."),
    ],
)  # fmt: skip
def test_what_cannot_be_a_name_on_the_hub_is_not_looked_for_there(
    wan: Path, path: str, said: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        lora.find_lora_file(path)
    with pytest.raises(ValueError, match="no such folder"):
        loading.local_folder("a--b/c")
