"""What a result says beside its frames: the preset, and the peak of memory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import tomllib
import torch

from skipguide.cli.result_lines import format_model
from skipguide.families import presets
from skipguide.generate import notes
from skipguide.generate.preset_used import describe_preset_used, find_preset_used
from skipguide.generate.resolve import resolve_settings
from skipguide.generate.settings import validate_settings
from skipguide.models import loading, memory

CPU = torch.device("cpu")
ROWS = tomllib.loads(Path(presets.__file__).with_name("presets.toml").read_text())["preset"]
LAB_MOCHI = next(row for row in ROWS if row["name"] == "lab-mochi")


@pytest.fixture(scope="module")
def lab_mochi() -> Any:
    return loading.load_pipeline("lab-mochi", device="cpu")


@pytest.mark.parametrize(
    ("given", "used", "words"),
    [
        ({}, "guidance", f"preset lab-mochi ({LAB_MOCHI['source']})"),
        ({"stg_scale": 7.0}, "layers", f"layers of preset lab-mochi ({LAB_MOCHI['source']})"),
        ({"layers": 8}, "nothing", "no preset: you gave the layers (lab-mochi has 6)"),
        ({"skip": "attention"}, "nothing", "no preset: you gave the layers (lab-mochi has 6)"),
        ({"layers": 6}, "guidance", f"preset lab-mochi ({LAB_MOCHI['source']})"),
        ({"stg_scale": 0}, "nothing", "no layer is skipped"),
    ],
)
def test_the_origin_of_the_layers(
    lab_mochi: Any, given: dict[str, Any], used: str, words: str
) -> None:
    complete = resolve_settings(validate_settings({"prompt": "a star", **given}), lab_mochi)
    found = find_preset_used(complete, lab_mochi)
    assert found is not None
    assert (found["name"], found["source"]) == (LAB_MOCHI["name"], LAB_MOCHI["source"])
    assert found["used"] == used
    assert describe_preset_used(found, bool(complete.request.terms)) == words


def test_a_model_without_a_preset(pipe: Any) -> None:
    given = {"prompt": "x", "layers": 1, "height": 32, "width": 32, "model": "mine"}
    assert find_preset_used(resolve_settings(validate_settings(given), pipe), pipe) is None
    assert describe_preset_used(None, True) == "no preset for this model: you gave the layers"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_of_the_process_is_that_of_the_system() -> None:
    block = torch.ones(64_000_000)  # 256 MB
    resident = psutil.Process().memory_info().rss
    del block
    found = memory.measure_peak(CPU)
    assert found["peak_memory_of"] == "process"
    assert found["peak_memory_bytes"] > 0.99 * resident  # the kernel counts in batches
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines()
                  if line.startswith("VmHWM"))  # fmt: skip
    peak = int(status["VmHWM"].split()[0]) * 1024
    assert found["peak_memory_bytes"] == pytest.approx(peak, rel=0.01)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_peak_of_a_gpu_is_of_one_video() -> None:
    device = torch.device("cuda:0")
    large = torch.ones(64_000_000, device=device)
    del large
    memory.reset_peak(device)
    small = torch.ones(1_000_000, device=device)
    found = memory.measure_peak(device)
    assert small.nbytes <= found["peak_memory_bytes"] < 200_000_000
    assert found["peak_memory_of"] == "cuda:0"


@pytest.mark.parametrize(
    ("count", "words"),
    [(812_300_000, "812 MB"), (999_000_000, "999 MB"), (13_449_000_000, "13.4 GB"), (0, "0 MB")],
)
def test_bytes_in_words(count: int, words: str) -> None:
    assert memory.format_bytes(count) == words


def test_a_model_in_words() -> None:
    given = {
        "prompt": "x", "model": "wan", "lora": ["folder/a.safetensors:0.5", "b.safetensors"],
        "dtype": "bfloat16", "device": "cuda:1", "quantize": "int8", "offload": "model",
        "scheduler": "UniPCMultistep:flow_shift=3", "flow_shift": 5.0, "compile": True,
        "vae_dtype": "float32", "vae_tiling": True,
    }  # fmt: skip
    assert format_model(validate_settings(given)) == (
        "wan with a.safetensors:0.5 and b.safetensors:1, bfloat16 on cuda:1, VAE in float32 in"
        " tiles, quantize int8, offload model, scheduler UniPCMultistep:flow_shift=3, flow shift 5,"
        " compiled"
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"vae_dtype": "bfloat16"}, "VAE in bfloat16"),
        ({"vae_tiling": True}, "VAE in tiles"),
        ({"vae_tiling": False}, "VAE in one piece"),
    ],
)
def test_the_vae_in_words(given: dict[str, Any], words: str) -> None:
    common = {"prompt": "x", "dtype": "float32", "device": "cpu"}
    found = format_model(validate_settings({**common, **given}))
    assert found == f"lab-mochi, float32 on cpu, {words}"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"dtype": "float16"}, "float16 overflowed. Use --dtype bfloat16 or float32"),
        ({"dtype": "float32"}, "Take smaller scales, or other weights"),
        (
            {"dtype": "float32", "lora": "a/fox.safetensors:1e30"},
            "Take smaller scales, a smaller SCALE of fox.safetensors, or other weights",
        ),
    ],
)
def test_frames_that_are_not_finite(given: dict[str, Any], words: str) -> None:
    said = notes.describe_overflow(validate_settings({"prompt": "x", **given}))
    assert words in said
    assert ("--dtype float32" in said, "or float32" in said) == (False, "float16" in words)
