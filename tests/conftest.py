"""A tiny MochiPipeline with its text encoder, for the tests that need no other family; tests/tiny
has all of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

torch.set_num_threads(1)


def tiny_mochi(dtype: torch.dtype = torch.float32) -> Any:
    """A whole MochiPipeline, 4 blocks wide 16, whose weights are large enough that every block
    matters."""
    from transformers.models.t5.configuration_t5 import T5Config
    from transformers.models.t5.modeling_t5 import T5EncoderModel
    from transformers.models.t5.tokenization_t5 import T5Tokenizer

    from tiny.base import quiet
    from tiny.mochi import mochi

    bare = mochi().pipe
    words = ["a", "red", "star", "blue", "square", "moving", "on", "the", "left", "spinning"]
    vocab = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -2.0),
        *((f"▁{word}", -1.0) for word in words),
    ]
    text = T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
    encoder, tokenizer = T5EncoderModel(text).eval(), T5Tokenizer(vocab=vocab, extra_ids=0)
    pipe = type(bare)(**{**bare.components, "text_encoder": encoder, "tokenizer": tokenizer})
    return quiet(pipe, dtype)


TINY_CALL = dict(
    height=32,
    width=32,
    num_frames=7,
    num_inference_steps=4,
    max_sequence_length=16,
    output_type="latent",
)


@pytest.fixture(scope="session")
def _tiny_mochi() -> Any:
    return tiny_mochi()


@pytest.fixture
def pipe(_tiny_mochi: Any) -> Any:
    """The tiny pipeline; a test that leaves guidance on it fails the tests after it, so none is
    repaired here."""
    return _tiny_mochi


@pytest.fixture(scope="session")
def tiny_mochi_dir(tmp_path_factory: pytest.TempPathFactory, _tiny_mochi: Any) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-mochi"
    _tiny_mochi.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def lab_mochi_dir() -> Path:
    from skipguide.files import packaged

    return packaged.packaged_path("lab-mochi")


@pytest.fixture(scope="session")
def opensora_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small models of Open-Sora as it publishes its own: transformer/ and vae/."""
    from references import opensora

    folder = tmp_path_factory.mktemp("opensora")
    opensora.write_checkpoints(folder)
    return folder


@pytest.fixture(scope="module")
def painted_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose videos are painted, to be read and voted on."""
    from painted import painted

    return painted(tmp_path_factory.mktemp("runs") / "first")


@pytest.fixture
def painted_copy(painted_run: Path, tmp_path: Path) -> Path:
    """The run, to be changed."""
    return Path(shutil.copytree(painted_run, tmp_path / "first"))
