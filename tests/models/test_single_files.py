"""A model from a single file and other components is what diffusers makes of them, or is refused
in words before a weight is read."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.pipelines.ltx.pipeline_ltx import LTXPipeline
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from diffusers.quantizers.quantization_config import GGUFQuantizationConfig
from safetensors.torch import load_file, save_file

from skipguide.generate import run
from skipguide.generate.resolve import resolve_settings
from skipguide.generate.settings import validate_settings
from skipguide.models import loading
from skipguide.models.settings import ModelSettings
from support.original import (
    WEIGHTS,
    component_weights,
    ltx_names,
    wan_names,
    write_gguf,
    write_wan_file,
)
from support.saved import saved
from support.small_wan import differing, save_wan, without_weights


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_wan(tmp_path_factory.mktemp("models") / "wan")


@pytest.fixture(scope="module")
def base(wan: Path) -> Path:
    """The same without the weights of the transformer, which must come from elsewhere."""
    return without_weights(wan, wan.parent / "base", "transformer")


@pytest.fixture(scope="module")
def file(wan: Path) -> Path:
    return write_wan_file(wan, wan.parent / "wan.safetensors")


@pytest.fixture(scope="module")
def gguf_file(wan: Path) -> Path:
    return write_gguf(
        wan_names(component_weights(wan, "transformer")), wan.parent / "wan-Q8_0.gguf"
    )


def load(model: Path | str, **given: Any) -> Any:
    return loading.load(ModelSettings(model=str(model), device="cpu", **given))


def fingerprint(model: Path | str, **given: Any) -> dict[str, str]:
    settings = ModelSettings(model=str(model), device="cpu", **given)
    return loading.weights_fingerprint(settings, loading.load(settings))


def refusal(model: Path | str, **given: Any) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its words are what is tested
        load(model, **given)
    return str(caught.value)


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_file_of_the_authors_is_the_folder_bit_for_bit(
    wan: Path, base: Path, tmp_path: Path, prefix: str, dtype: str
) -> None:
    single = write_wan_file(wan, tmp_path / "wan.safetensors", prefix)
    pipe = load(single, base_model=str(base), dtype=dtype)
    whole = WanPipeline.from_pretrained(wan, dtype=getattr(torch, dtype))
    assert differing(pipe.transformer, whole.transformer) == []
    assert pipe.transformer.dtype == getattr(torch, dtype)
    if dtype == "float32":
        theirs = WanTransformer3DModel.from_single_file(
            str(single), config=str(base), subfolder="transformer", dtype=torch.float32
        )
        assert differing(pipe.transformer, theirs) == []


def test_a_file_under_diffusers_own_names(wan: Path, base: Path) -> None:
    pipe = load(wan / "transformer" / WEIGHTS, base_model=str(base))
    assert differing(pipe.transformer, load(wan).transformer) == []


def test_gguf_is_what_diffusers_makes_of_it(wan: Path, base: Path, gguf_file: Path) -> None:
    pipe = load(gguf_file, base_model=str(base))
    config = GGUFQuantizationConfig(compute_dtype=torch.float32)
    theirs = WanTransformer3DModel.from_single_file(
        str(gguf_file), config=str(base), subfolder="transformer", quantization_config=config
    )
    assert differing(pipe.transformer, theirs) == []
    assert type(pipe.transformer.blocks[0].attn1.to_q).__name__ == "GGUFLinear"
    full = load(wan).transformer.blocks[0].attn1.to_q
    x = torch.randn(4, 32)
    quantized = pipe.transformer.blocks[0].attn1.to_q(x)
    assert 0 < (quantized - full(x)).abs().max() < 0.02 * full(x).abs().max()


def test_a_video_from_a_file_is_that_of_the_folder(wan: Path, base: Path, file: Path) -> None:
    frames = []
    for given in ({"model": str(wan)}, {"model": str(file), "base_model": str(base)}):
        asked = {"prompt": "a star", "height": 32, "width": 32, "num_frames": 5, "steps": 2}
        settings = validate_settings({**asked, "layers": 1, "device": "cpu", **given})
        pipe = loading.load(settings)
        complete = resolve_settings(settings, pipe)
        frames.append(run.generate(pipe, complete).frames)
    assert (frames[0] == frames[1]).all()


def test_ltx_has_its_vae_in_the_same_file(tmp_path: Path) -> None:
    ltx = saved("LTXPipeline", tmp_path)
    weights = ltx_names(component_weights(ltx, "transformer"), component_weights(ltx, "vae"))
    save_file(weights, tmp_path / "ltx.safetensors")
    whole = load(ltx)
    rest = without_weights(ltx, tmp_path / "rest", "transformer", "vae")
    pipe = load(tmp_path / "ltx.safetensors", base_model=str(rest))
    assert differing(pipe.transformer, whole.transformer) == []
    assert differing(pipe.vae, whole.vae) == []
    theirs = LTXPipeline.from_single_file(
        str(tmp_path / "ltx.safetensors"), config=str(ltx), dtype=torch.float32,
        text_encoder=whole.text_encoder,
    )  # fmt: skip
    assert differing(pipe.vae, theirs.vae) == []
    settings = ModelSettings(model=str(tmp_path / "ltx.safetensors"), base_model=str(rest))
    assert set(loading.weights_fingerprint(settings, pipe)) == {"sha256", "transformer", "vae"}


@pytest.mark.long
def test_a_model_that_diffusers_reads_under_its_own_names_only(tmp_path: Path) -> None:
    svd = saved("StableVideoDiffusionPipeline", tmp_path)
    whole = load(svd)
    rest = without_weights(svd, tmp_path / "rest", "unet")
    single = shutil.move(svd / "unet" / WEIGHTS, tmp_path / "svd.safetensors")
    assert differing(load(single, base_model=str(rest)).unet, whole.unet) == []
    renamed = {f"model.{name}": weight for name, weight in load_file(single).items()}
    save_file(renamed, tmp_path / "other.safetensors")
    said = refusal(tmp_path / "other.safetensors", base_model=str(rest))
    assert "diffusers reads UNetSpatioTemporalConditionModel under its own names only" in said


# --- components -----------------------------------------------------------------------------------


def test_two_denoisers_and_a_vae_from_files(tmp_path: Path) -> None:
    wan = save_wan(tmp_path / "wan", "WanPipeline 2.2")
    whole = load(wan)
    rest = without_weights(wan, tmp_path / "rest", "transformer", "transformer_2", "vae")
    high = write_wan_file(wan, tmp_path / "wan2.2_high_noise.safetensors")
    low = write_wan_file(wan, tmp_path / "wan2.2_low_noise.safetensors", "", "transformer_2")
    vae = f"vae={wan / 'vae'}"
    assert differing(whole.transformer, whole.transformer_2)
    for model, others in (
        (high, [f"transformer_2={low}", vae]),
        (low, [f"transformer={high}", vae]),
    ):
        pipe = load(model, base_model=str(rest), component=others)
        assert differing(pipe.transformer, whole.transformer) == []
        assert differing(pipe.transformer_2, whole.transformer_2) == []
        assert differing(pipe.vae, whole.vae) == []
    both = [f"transformer={high}", f"transformer_2={low}", vae]
    assert differing(load(rest, component=both).transformer_2, whole.transformer_2) == []
    said = refusal(high, base_model=str(rest), component=both)
    assert said.startswith("model must be the denoiser of")
    assert "Leave one of them out" in said


def test_a_text_encoder_from_a_folder_and_from_a_file(wan: Path, tmp_path: Path) -> None:
    other = shutil.copytree(wan, tmp_path / "other")
    weights = load_file(other / "text_encoder" / "model.safetensors")
    doubled = {name: weight * 2 for name, weight in weights.items()}
    save_file(doubled, other / "text_encoder" / "model.safetensors", {"format": "pt"})
    for place in ("text_encoder/model.safetensors", "."):
        pipe = load(wan, component=f"text_encoder={other / place}")
        assert differing(pipe.text_encoder, load(other).text_encoder) == []
        assert differing(pipe.text_encoder, load(wan).text_encoder)


def test_files_from_elsewhere_are_hashed_meanwhile(wan: Path, tmp_path: Path) -> None:
    """Also those of a component in a whole model, and none where there is no such folder."""
    other = shutil.copytree(wan, tmp_path / "other")

    def files(place: Path) -> set[Path]:
        asked = ModelSettings(model=str(wan), component=(f"text_encoder={place}",))
        return {file for file in loading._files_to_hash(asked) if not file.is_relative_to(wan)}

    expected = set((other / "text_encoder").iterdir())
    assert files(other) == files(other / "text_encoder") == expected
    assert files(tmp_path) == set()


# --- the fingerprint ------------------------------------------------------------------------------


def test_the_fingerprint_covers_base_file_and_components(
    wan: Path, base: Path, file: Path, gguf_file: Path, tmp_path: Path
) -> None:
    plain = fingerprint(wan)
    of_file = fingerprint(file, base_model=str(base))
    assert set(plain) == {"sha256"}
    assert set(of_file) == {"sha256", "transformer"}
    # Weights in the base that are not loaded are no part of it, and the place of a file is none.
    moved = shutil.copy(file, tmp_path / "moved.safetensors")
    assert fingerprint(moved, base_model=str(wan)) == of_file
    of_gguf = fingerprint(gguf_file, base_model=str(base))
    assert of_gguf["sha256"] == of_file["sha256"]
    assert of_gguf["transformer"] != of_file["transformer"]
    vae = shutil.copytree(wan / "vae", tmp_path / "vae")
    with_vae = fingerprint(file, base_model=str(base), component=f"vae={vae}")
    assert set(with_vae) == {"sha256", "transformer", "vae"}
    save_file({name: -w for name, w in load_file(vae / WEIGHTS).items()}, vae / WEIGHTS)
    other = fingerprint(file, base_model=str(base), component=f"vae={vae}")
    assert {name for name in with_vae if with_vae[name] != other[name]} == {"vae"}


# --- variants -------------------------------------------------------------------------------------


def test_a_variant_is_loaded_where_it_is(wan: Path, tmp_path: Path) -> None:
    model = shutil.copytree(wan, tmp_path / "wan")
    weights = {name: -weight for name, weight in component_weights(wan, "transformer").items()}
    save_file(weights, model / "transformer" / WEIGHTS.replace(".safe", ".fp16.safe"))
    pipe, plain = load(model, variant="fp16"), load(wan)
    own = pipe.transformer.proj_out.weight
    assert torch.equal(own, -plain.transformer.proj_out.weight)
    assert differing(pipe.vae, plain.vae) == []
    said = refusal(model, variant="bf16")
    assert "variant must be one that" in said
    assert "got 'bf16', and it has only fp16. Take --variant fp16" in said
    assert "it has none: its files have no such word. Leave out" in refusal(wan, variant="fp16")


# --- words ----------------------------------------------------------------------------------------


def test_a_file_without_its_base(wan: Path, file: Path) -> None:
    assert refusal(file).startswith("a single file needs base_model for the rest, but got ")
    assert "Leave out --base-model, or name the file" in refusal(wan, base_model=str(wan))
    assert "there is no such file. Check the name." in refusal(
        wan / "no.safetensors", base_model=str(wan)
    )
    assert "can run code when it is read" in refusal(wan / "no.ckpt", base_model=str(wan))


def test_a_file_of_another_model(wan: Path, base: Path, file: Path, tmp_path: Path) -> None:
    larger = json.loads((base / "transformer/config.json").read_text("utf-8"))
    other = shutil.copytree(base, tmp_path / "larger")
    larger["attention_head_dim"] = 24
    (other / "transformer/config.json").write_text(json.dumps(larger), "utf-8")
    said = refusal(file, base_model=str(other))
    assert re.search(r"must be 1 x 2 x 48, but is 1 x 2 x 32; \d+ more are other shapes", said)
    assert "Name the model that the file was made for with --base-model." in said
    mochi = saved("MochiPipeline", tmp_path)
    assert "the MochiTransformer3DModel in" in refusal(file, base_model=str(mochi))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda weights: weights.pop("head.head.bias"), "does not fit: proj_out.bias is missing."),
        (
            lambda weights: weights.update({"extra.weight": torch.zeros(1)}),
            "does not fit: extra.weight has no place.",
        ),
        (
            lambda weights: weights.update({"scaled_fp8": torch.zeros(1)}),
            "is quantized in a way that diffusers does not read (scaled_fp8)",
        ),
    ],
)
def test_weights_that_lack_or_are_too_many(
    base: Path, file: Path, tmp_path: Path, change: Any, words: str
) -> None:
    """diffusers leaves the first without a value, and drops the others with a remark."""
    weights = load_file(file)
    change(weights)
    save_file(weights, tmp_path / "odd.safetensors")
    assert words in refusal(tmp_path / "odd.safetensors", base_model=str(base))


@pytest.mark.parametrize("left", [0.02, 0.99])
@pytest.mark.parametrize("kind", ["safetensors", "gguf"])
def test_a_file_that_is_cut_off(
    base: Path, file: Path, gguf_file: Path, tmp_path: Path, kind: str, left: float
) -> None:
    content = (file if kind == "safetensors" else gguf_file).read_bytes()
    cut = tmp_path / f"cut.{kind}"
    cut.write_bytes(content[: int(len(content) * left)])
    said = refusal(cut, base_model=str(base))
    assert "must be a whole" in said
    assert f"({int(len(content) * left):,} bytes); copy or download it again." in said


def test_components_that_cannot_be(wan: Path, file: Path, tmp_path: Path) -> None:
    said = refusal(wan, component=f"vea={file}")
    assert "component must be one of scheduler, " in said
    assert said.endswith("Did you mean 'vae'?")
    assert "vae must have the weights of the AutoencoderKLWan" in refusal(
        wan, component=f"vae={file}"
    )
    mochi = saved("MochiPipeline", tmp_path)
    assert "must be a AutoencoderKLWan, but" in refusal(wan, component=f"vae={mochi}")
    assert "Name the folder of the component" in refusal(wan, component=f"vae={tmp_path}")


def test_gguf_without_its_package(
    base: Path, gguf_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "gguf" else find(name)
    )
    assert "Install it with: pip install 'gguf>=0.10'" in refusal(gguf_file, base_model=str(base))


# --- the hub --------------------------------------------------------------------------------------


def test_a_base_on_the_hub_is_fetched_without_the_weights_that_the_file_has(
    wan: Path, base: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is a folder here: what is asked of it is what is tested."""
    asked: list[str] = []

    def download(repository: str, name: str, revision: str | None = None) -> str:
        asked.append(f"{repository}/{name}")
        return str(file if name == "split/wan.safetensors" else base / name)

    def download_pipeline(cls: Any, model: str, **given: Any) -> str:
        asked.append(f"{model} without {sorted({'transformer', 'vae'} & set(given))}")
        return str(base)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(WanPipeline, "download", classmethod(download_pipeline))
    pipe = load("maker/files/split/wan.safetensors", base_model="maker/wan-diffusers")
    assert differing(pipe.transformer, load(wan).transformer) == []
    assert asked == [
        "maker/files/split/wan.safetensors", "maker/wan-diffusers/model_index.json",
        "maker/wan-diffusers/transformer/config.json",
        "maker/wan-diffusers without ['transformer']",
    ]  # fmt: skip
