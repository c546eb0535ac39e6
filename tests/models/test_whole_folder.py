"""A folder that is not whole is refused in words, before a weight is read; a whole one is not."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from skipguide.models import loading, parts, whole_folder
from support.original import WEIGHTS
from support.small_wan import save_wan


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_wan(tmp_path_factory.mktemp("models") / "wan")


def said_of(folder: Path, variant: str | None = None) -> str:
    """Return the refusal of a folder: loading would say the same of what a check by names finds."""
    components = parts.read_components(folder / "model_index.json")
    try:
        whole_folder.check_folder(folder, components, (), variant)
    except ValueError as error:
        return str(error)
    return "whole"


def shard(component: Path) -> None:
    """Split the weights of a component into two files with their list."""
    weights = load_file(component / WEIGHTS)
    names = sorted(weights)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, own in halves.items():
        save_file({name: weights[name] for name in own}, component / file)
    listed = {name: file for file, own in halves.items() for name in own}
    (component / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": listed}))
    (component / WEIGHTS).unlink()


def test_what_is_missing_damaged_or_of_another_model_is_said(wan: Path, tmp_path: Path) -> None:
    again = "Copy or download the model again."
    model = tmp_path / "wan"

    def damaged() -> Path:
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(wan, model)
        return model / "transformer"

    part = damaged()
    assert said_of(model) == "whole"
    (part / WEIGHTS).unlink()
    no_file = f"transformer must have its weights, but {part} has no .safetensors file. {again}"
    assert said_of(model) == no_file
    with pytest.raises(ValueError, match="transformer must have its weights"):
        loading.load_pipeline(str(model), "float32", "cpu")
    part = damaged()
    (part / WEIGHTS).rename(part / "diffusion_pytorch_model.fp16.safetensors")
    assert said_of(model).endswith(
        "has only diffusion_pytorch_model.fp16.safetensors. Take --variant fp16."
    )
    assert said_of(model, "fp16") == "whole"
    part = damaged()
    (part / WEIGHTS).write_bytes((part / WEIGHTS).read_bytes()[:5000])
    assert "must be a whole safetensors file, but cannot be read" in said_of(model)
    part = damaged()
    (part / "config.json").write_text('{"num_layers": 2,')
    assert f"{part / 'config.json'} must be JSON, but is not: Expecting" in said_of(model)
    (part / "config.json").unlink()
    assert "transformer must have its config.json, but there is no" in said_of(model)
    part = damaged()
    shutil.rmtree(model / "vae")
    assert said_of(model) == f"{model} must have the folder vae/, but has none. {again}"
    part = damaged()
    (model / "text_encoder/model.safetensors").unlink()
    assert "text_encoder must have its weights, but " in said_of(model)
    part = damaged()
    weights = load_file(part / WEIGHTS)
    save_file({**weights, "proj_out.bias": torch.zeros(3)}, part / WEIGHTS)
    assert "must fit" in said_of(model)
    assert re.search(r"proj_out\.bias must be \d+, but is 3", said_of(model))
    del weights["proj_out.bias"]
    save_file(weights, part / WEIGHTS)
    assert "proj_out.bias is missing" in said_of(model)


def test_shards_are_looked_for_one_by_one(wan: Path, tmp_path: Path) -> None:
    model = tmp_path / "wan"
    shutil.copytree(wan, model)
    shard(model / "transformer")
    assert said_of(model) == "whole"
    (model / "transformer/b.safetensors").unlink()
    assert "must have all 2 files that" in said_of(model)
    assert "but 1 is missing: b.safetensors. Copy" in said_of(model)
