"""The model folder of docs/serving.md, which guides itself, as a server loads it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.mochi.pipeline_mochi import MochiPipeline
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from skipguide import STG, guide

CALL = dict(
    prompt="a red star", height=32, width=32, num_frames=7, num_inference_steps=3,
    max_sequence_length=16, output_type="latent",
)  # fmt: skip


def code_of_the_page() -> str:
    """Return pipeline.py as docs/serving.md has it, for Mochi instead of Wan."""
    page = Path(__file__).parents[2] / "docs" / "serving.md"
    (code,) = re.findall(r"```python\n# pipeline.py;.*?\n(.*?)```", page.read_text(), re.DOTALL)
    return code.replace("WanPipeline", "MochiPipeline").replace("STG([9]", "STG([2]")


@pytest.fixture
def folder(tmp_path: Path, tiny_mochi_dir: Path) -> Path:
    shutil.copytree(tiny_mochi_dir, tmp_path / "guided")
    index = tmp_path / "guided" / "model_index.json"
    named = {**json.loads(index.read_text()), "_class_name": "GuidedPipeline"}
    index.write_text(json.dumps(named))
    (tmp_path / "guided" / "pipeline.py").write_text(code_of_the_page())
    return tmp_path / "guided"


def latents(pipe: Any) -> torch.Tensor:
    return pipe(**CALL, generator=torch.Generator().manual_seed(0)).frames


def test_a_server_that_loads_the_folder_makes_guided_videos(
    folder: Path, tiny_mochi_dir: Path
) -> None:
    # The error after which SGLang loads again, as below.
    with pytest.raises(AttributeError, match="has no attribute GuidedPipeline"):
        DiffusionPipeline.from_pretrained(folder)
    served = DiffusionPipeline.from_pretrained(
        str(folder), custom_pipeline=str(folder), trust_remote_code=True
    ).to("cpu")
    with torch.inference_mode():  # as vLLM-Omni calls
        first, second = latents(served), latents(served)
    own = MochiPipeline.from_pretrained(tiny_mochi_dir)
    plain = latents(own)
    with guide(own, STG([2], 1.0)):
        expected = latents(own)
    assert torch.equal(first, expected)
    assert torch.equal(second, expected)
    assert not torch.equal(plain, expected)
