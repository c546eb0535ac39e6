"""Quantized weights are those that diffusers makes, from a folder and from a file, or the words say
what is missing. torchao and bitsandbytes are run by `make test-quantize`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from diffusers.quantizers.pipe_quant_config import PipelineQuantizationConfig

from skipguide.generate import preflight, run
from skipguide.generate.resolve import resolve_settings
from skipguide.generate.settings import validate_settings
from skipguide.models import loaded, loading, placement, quantize
from skipguide.models.settings import ModelSettings
from support.loras import make_lora
from support.original import write_wan_file
from support.saved import saved
from support.small_wan import save_wan, without_weights

LIBRARIES = [
    library for library in ("quanto", "torchao", "bitsandbytes") if quantize.is_installed(library)
]
KINDS = [
    f"{kind}:{library}"
    for kind, libraries in quantize.LIBRARIES.items()
    for library in libraries
    if library in LIBRARIES
]
CASES = [*KINDS[:1], *(pytest.param(kind, marks=pytest.mark.long) for kind in KINDS[1:])]
# diffusers' own, of libraries
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_wan(tmp_path_factory.mktemp("models") / "wan")


def load(model: Path, dtype: str, **given: Any) -> Any:
    return loading.load(ModelSettings(model=str(model), device="cpu", dtype=dtype, **given))  # type: ignore[arg-type]


def output(transformer: Any) -> torch.Tensor:
    torch.manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(1, 4, 2, 4, 4, dtype=transformer.dtype),
        "timestep": torch.tensor([500]),
        "encoder_hidden_states": torch.randn(1, 12, 16, dtype=transformer.dtype),
    }
    with torch.no_grad():
        return transformer(**inputs, return_dict=False)[0].float()


def plain_weights(transformer: Any) -> dict[str, torch.Tensor]:
    """All weights, of the quantized ones what they stand for, or what is stored."""
    return {
        name: weight.data if type(weight.data) is torch.Tensor else weight.dequantize()
        for name, weight in transformer.named_parameters()
    }


def coarseness(wanted: str) -> float:
    return 0.4 if wanted.startswith("nf4") else 0.2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("wanted", CASES)
def test_quantized_as_by_diffusers(wan: Path, tmp_path: Path, wanted: str, dtype: str) -> None:
    pipe = load(wan, dtype, quantize=wanted)
    found = output(pipe.transformer)
    full = output(load(wan, dtype).transformer)
    assert 0 < (found - full).abs().max() < coarseness(wanted) * full.abs().max()
    assert loaded.recall(pipe)["quantize"] == wanted
    if not wanted.endswith(":bitsandbytes"):  # with which diffusers quantizes on GPUs only
        config = quantize.build_config(wanted, getattr(torch, dtype))
        theirs = WanPipeline.from_pretrained(
            wan, dtype=getattr(torch, dtype),
            quantization_config=PipelineQuantizationConfig(quant_mapping={"transformer": config}),
        )  # fmt: skip
        assert torch.equal(found, output(theirs.transformer))
    file = write_wan_file(wan, tmp_path / "wan.safetensors")
    base = without_weights(wan, tmp_path / "base", "transformer")
    single = load(file, dtype, quantize=wanted, base_model=str(base))
    own, theirs = plain_weights(pipe.transformer), plain_weights(single.transformer)
    assert [name for name in own if not torch.equal(own[name], theirs[name])] == []
    # Kernels sum in another order where the weights lie otherwise in the memory.
    atol = 1e-4 if dtype == "float32" else 0.03
    torch.testing.assert_close(output(single.transformer), found, atol=atol, rtol=0)


@pytest.mark.parametrize("wanted", CASES)
def test_a_lora_on_quantized_weights(wan: Path, tmp_path: Path, wanted: str) -> None:
    file = make_lora(WanPipeline.from_pretrained(wan), tmp_path / "style.safetensors")
    plain, full = load(wan, "float32", quantize=wanted), load(wan, "float32", lora=str(file))
    found = output(load(wan, "float32", quantize=wanted, lora=str(file)).transformer)
    expected = output(full.transformer)
    assert (found - expected).abs().max() < coarseness(wanted) * expected.abs().max()
    assert (found - output(plain.transformer)).abs().max() > 0.05 * expected.abs().max()


def test_the_first_library_that_is_there(wan: Path) -> None:
    for kind in ("int8", "fp8"):
        chosen = quantize.choose_library(kind, "cpu")
        expected = next(name for name in quantize.LIBRARIES[kind] if name in LIBRARIES)
        assert chosen == f"{kind}:{expected}"
    assert loaded.recall(load(wan, "float32", quantize="int8"))["quantize"].startswith("int8:")


def test_without_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "is_installed", lambda library: False)
    for wanted, words in {
        "int8": "quantize=int8 needs torchao or quanto or bitsandbytes, but none is installed."
        " Install the first with: pip install torchao",
        "nf4": "quantize=nf4 needs bitsandbytes, but it is not installed. Install it with: pip"
        " install bitsandbytes",
        "int8:torchao": "quantize=int8 needs torchao, but it is not installed. Install it with: pip"
        " install torchao",
    }.items():
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - its words are what is tested
            quantize.choose_library(wanted, "cpu")
        assert str(caught.value) == words


def test_a_library_that_does_not_work_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no kernel for this device.\nmore")

    monkeypatch.setattr(quantize, "_quantized", fail)
    monkeypatch.setattr(quantize, "is_installed", lambda library: library == "quanto")
    with pytest.raises(
        ValueError,
        match=r"^quantize=int8 needs .* that works on cpu, but quanto 0\S+ says: no kernel for this"
        r" device\. Leave out --quantize or install another with: pip install torchao$",
    ):
        quantize.choose_library("int8", "cpu")


def test_a_kind_that_a_library_does_not_make() -> None:
    with pytest.raises(ValueError, match=r"must be by bitsandbytes, .*Write nf4:bitsandbytes\.$"):
        quantize.choose_library("nf4:quanto", "cpu")


def test_a_file_that_is_quantized_already(tmp_path: Path, wan: Path) -> None:
    (tmp_path / "x.gguf").touch()
    said = r"^quantize is for weights that are not quantized yet, but got 'int8' for .*x\.gguf\."
    with pytest.raises(ValueError, match=said):
        load(tmp_path / "x.gguf", "float32", base_model=str(wan), quantize="int8")
    with pytest.raises(ValueError, match=said):
        load(wan, "float32", component=f"transformer={tmp_path / 'x.gguf'}", quantize="int8")


OFFLOADS = [None, "model", "sequential", "group", "group:2"]
TOGETHER = [
    pytest.param(wanted, offload, dtype, marks=[] if is_quick else pytest.mark.long)
    for wanted in KINDS
    for offload in OFFLOADS
    for dtype in ("float32", "bfloat16", "float16")
    for is_quick in [wanted == "fp8:quanto" and dtype == "bfloat16" and offload != "group:2"]
]


@pytest.mark.parametrize(("wanted", "offload", "dtype"), TOGETHER)
def test_quantized_and_offloaded(wan: Path, wanted: str, offload: str | None, dtype: str) -> None:
    """Settings that go together make a video; others are refused before a weight is read."""
    given = {
        "prompt": "x", "model": str(wan), "device": "cpu", "dtype": dtype, "quantize": wanted,
        "offload": offload, "height": 32, "width": 32, "num_frames": 5, "steps": 2, "layers": 1,
        "stg_scale": 1.0,
    }  # fmt: skip
    settings = validate_settings({k: v for k, v in given.items() if v is not None})
    if offload == "sequential" and not wanted.endswith(":torchao"):
        kind, _, library = wanted.partition(":")
        words = f"^offload must be model or group for a model in {kind} by {library}, whose"
        with pytest.raises(ValueError, match=words):
            preflight.check(settings)
        with pytest.raises(ValueError, match=words):
            loading.load(settings)
        return
    preflight.check(settings)
    pipe = loading.load(settings)
    assert run.generate(pipe, resolve_settings(settings, pipe)).frames.std() > 0


def test_weights_that_fail_on_another_device(wan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate fails so on a GPU, where it is not known beforehand what goes."""
    pipe = load(wan, "float32")

    def fail(*_: Any) -> None:
        raise TypeError("missing 6 required positional arguments")

    monkeypatch.setattr(placement, "_offload", fail)
    given = ModelSettings.model_validate({"offload": "sequential", "quantize": "nf4"})
    with pytest.raises(ValueError, match=r"^offload must be .* for WanPipeline in nf4, whose"):
        placement.place(pipe, given, "cpu")
    with pytest.raises(TypeError):
        placement.place(pipe, ModelSettings(offload="sequential"), "cpu")


def test_memory_that_runs_out_is_no_matter_of_offloading(wan: Path) -> None:
    """Weights of torchao can be moved one by one."""
    pipe = load(wan, "float32")
    given = {"prompt": "x", "offload": "sequential", "quantize": "int8:torchao", "layers": 1}
    settings = validate_settings({**given, "height": 32, "width": 32, "num_frames": 5, "steps": 1})
    small = {"model": str(wan), "device": "cpu", "dtype": "float32"}
    complete = resolve_settings(settings.model_copy(update=small), pipe)

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    pipe.transformer.register_forward_pre_hook(fail)
    with pytest.raises(ValueError, match=r"^memory must be enough for a video of 32 x 32 x 5, but"):
        run.generate(pipe, complete)


def test_the_words_for_nf4() -> None:
    said = str(placement.sequential_error("WanPipeline", "nf4:bitsandbytes"))
    assert said == (
        "offload must be model or group for WanPipeline in nf4 by bitsandbytes, whose weights"
        " cannot be moved one by one, but got sequential. Take --offload group."
    )


@pytest.mark.skipif(importlib.util.find_spec("optimum") is None, reason="needs quanto")
def test_layers_are_checked_before_weights_are_read(tmp_path: Path) -> None:
    """The weights are not even there."""
    whole = saved("WanPipeline", tmp_path)
    folder = without_weights(whole, tmp_path / "bare", "vae")
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    given = {"prompt": "x", "model": str(folder), "device": "cpu", "dtype": "bfloat16",
             "quantize": "int8:quanto", "layers": 1}  # fmt: skip
    with pytest.raises(ValueError, match=r"multiples of 16 .* has 24\."):
        preflight.check(validate_settings(given))


@pytest.mark.skipif(importlib.util.find_spec("optimum") is None, reason="needs quanto")
def test_layers_on_which_torch_would_end_the_process() -> None:
    """quanto's int8 in bfloat16 on a CPU is a segmentation fault with 24 inputs."""
    model = torch.nn.Sequential(torch.nn.Linear(24, 8, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match=r"multiples of 16 .* but 0 has 24\. Take --dtype float32"):
        quantize.check_layers(model, "int8:quanto", "cpu", torch.bfloat16)
    quantize.check_layers(model, "int8:quanto", "cuda", torch.bfloat16)
    quantize.check_layers(model, "int8:quanto", "cpu", torch.float32)
