"""LAION's CLAP as features of sounds, and how well they fit a text (Wu et al., arXiv:2211.06687).

Through transformers. Features are those of fadtk: windows of 10 s every second, the last ones
filled up with silence.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

Tensor = torch.Tensor

RATE = 48000
WINDOW, HOP = 10 * RATE, RATE  # samples
BATCH = 8  # windows that the network gets at a time; no result depends on it


class Clap(nn.Module):
    """The network with what prepares its sounds and its texts.

    Args:
        model: a ClapModel without fusion.
        folder: has the configuration of the preparation, and the tokenizer.
    """

    def __init__(self, model: nn.Module, folder: Path) -> None:
        from transformers import ClapFeatureExtractor

        super().__init__()
        self.model, self.folder = model, folder
        self.prepare = ClapFeatureExtractor.from_pretrained(folder, local_files_only=True)

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, which features do not need."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder, local_files_only=True)

    @property
    def device(self) -> torch.device:
        """Return the device that the network is on."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    def embed(self, windows: list[np.ndarray]) -> Tensor:
        """Return embeddings `(W, D)` of length 1 of windows of at most 10 s; shorter ones are
        repeated until they fill it."""
        given = self.prepare(
            windows, sampling_rate=RATE, return_tensors="pt", truncation="rand_trunc",
            padding="repeatpad",
        )  # fmt: skip
        model: Any = self.model
        mel = given["input_features"].float().to(self.device)
        return model.get_audio_features(input_features=mel).pooler_output

    @torch.no_grad()
    def embed_text(self, text: str) -> Tensor:
        """Return the embedding `(D,)` of length 1 of a text."""
        model: Any = self.model
        given = self.tokenizer([text], return_tensors="pt", truncation=True).to(self.device)
        kept = {name: given[name] for name in ("input_ids", "attention_mask")}
        return model.get_text_features(**kept).pooler_output[0]


def load(path: Path) -> Clap:
    """Load a transformers folder such as laion/clap-htsat-unfused.

    Raises:
        ValueError: if it holds something else, or a model with fusion, which draws at random what
            it hears.
    """
    from transformers import ClapModel

    try:
        loaded: Any = ClapModel.from_pretrained(
            path, local_files_only=True, output_loading_info=True
        )
        model, report = loaded
        if report["missing_keys"]:
            raise ValueError(f"it lacks {len(report['missing_keys'])} of its tensors")
        if model.config.audio_config.enable_fusion:
            raise ValueError("it is one with fusion, which hears parts that are drawn")
        return Clap(model.eval().requires_grad_(False), path)
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"weights must be a CLAP folder without fusion, but {path} does not fit ({error}). Use"
            " all files of laion/clap-htsat-unfused."
        ) from error


def features(model: nn.Module, samples: Tensor) -> Tensor:
    """Return features `(W, D)` of the windows of a sound `(T,)` float32 at 48 kHz; D is 512."""
    assert isinstance(model, Clap)
    heard = _quantized(samples)
    windows = [heard[start : start + WINDOW] for start in range(0, len(heard), HOP)]
    windows = [np.pad(one, (0, WINDOW - len(one))) for one in windows]
    parts = [model.embed(windows[i : i + BATCH]) for i in range(0, len(windows), BATCH)]
    return torch.cat(parts)


def text_score(model: nn.Module, samples: Tensor, text: str) -> float:
    """Return the cosine of the embeddings of a sound and a text, -1 to 1.

    LAION's own preparation: what is shorter than 10 s is repeated. Of what is longer the first 10 s
    are taken, where LAION's code takes 10 s at random.
    """
    assert isinstance(model, Clap)
    heard = model.embed([_quantized(samples)[:WINDOW]])[0]
    return float(heard.double() @ model.embed_text(text).double())


def _quantized(samples: Tensor) -> np.ndarray:
    """Round to 16 bits, as LAION's code and fadtk do before the network."""
    whole = (samples.clamp(-1, 1) * 32767).to(torch.int16)
    return (whole.float() / 32767).numpy()
