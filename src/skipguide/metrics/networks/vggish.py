"""VGGish as features of sounds (Hershey et al., ICASSP 2017), which the Frechet audio distance was
defined on.

As in frechet-audio-distance and fadtk: 16 kHz, windows of 0.96 s one after the other, no PCA, and
the last layer without its ReLU.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from skipguide.files import checkpoints

Tensor = torch.Tensor

RATE = 16000
LENGTH, HOP, POINTS = 400, 160, 512  # samples of a window, of a step, of a Fourier transform
BANDS, LOWEST, HIGHEST, OFFSET = 64, 125.0, 7500.0, 0.01  # of the mel spectrogram
FRAMES = 96  # of an example
SHORTEST = RATE  # samples; what is shorter is filled up with silence, as in fadtk
POOLED = (0, 1, 3, 5)  # the convolutions before a pooling
RULES = ((r"^(pproc\.|embeddings\.5)", None),)  # the PCA, which is not used


class VGGish(nn.Module):
    """Convolutions over patches of a mel spectrogram, and three layers after them."""

    def __init__(self, channels: tuple[int, ...], widths: tuple[int, ...]) -> None:
        """Build the network; published are channels up to 512 and widths (4096, 4096, 128)."""
        super().__init__()
        features: list[nn.Module] = []
        for place, (inputs, outputs) in enumerate(zip((1, *channels), channels, strict=False)):
            features += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
            features += [nn.MaxPool2d(2)] if place in POOLED else []
        inputs = (channels[-1] * FRAMES * BANDS // 256, *widths[:-1])
        layers = [nn.Linear(a, b) for a, b in zip(inputs, widths, strict=True)]
        parts = [part for layer in layers for part in (layer, nn.ReLU())][:-1]
        self.features, self.embeddings = nn.Sequential(*features), nn.Sequential(*parts)

    @torch.no_grad()
    def forward(self, examples: Tensor) -> Tensor:
        """Return features `(W, D)` of log mel spectrograms `(W, 96, 64)`."""
        # Time, band, channel: the order of the original in TensorFlow.
        return self.embeddings(self.features(examples[:, None]).permute(0, 2, 3, 1).flatten(1))


def load(path: Path) -> VGGish:
    """Load the weights that harritaylor/torchvggish has converted.

    Raises:
        ValueError: if the file holds another network.
    """
    weights = checkpoints.rename_keys(checkpoints.read(path), RULES)
    return checkpoints.build_with_weights(lambda: _build(weights, path), weights, path)


def _build(weights: Mapping[str, Tensor], path: Path) -> VGGish:
    found = []
    for part in ("features", "embeddings"):
        keys = [key for key in weights if re.fullmatch(rf"{part}\.\d+\.weight", key)]
        found.append([len(weights[key]) for key in sorted(keys, key=_place)])
    if list(map(len, found)) != [6, 3]:
        raise ValueError(
            f"{path} must hold VGGish as torchvggish keeps it, but has other weights. Use"
            " vggish-10086976.pth."
        )
    return VGGish(tuple(found[0]), tuple(found[1]))


def _place(key: str) -> int:
    return int(key.split(".")[1])


def features(model: nn.Module, samples: Tensor) -> Tensor:
    """Return features `(W, 128)` of the windows of a sound `(T,)` float32 at 16 kHz."""
    device = next(model.parameters()).device
    return model(examples(samples).to(device))


def examples(samples: Tensor) -> Tensor:
    """Return the log mel spectrograms `(W, 96, 64)` of windows of 0.96 s; a rest is left out."""
    padded = F.pad(samples.double(), (0, max(0, SHORTEST - len(samples))))
    frames = padded.unfold(0, LENGTH, HOP) * torch.hann_window(LENGTH, dtype=torch.float64)
    mel = torch.fft.rfft(frames, POINTS).abs() @ _filters()
    count = len(mel) // FRAMES
    return (mel + OFFSET).log()[: count * FRAMES].view(count, FRAMES, BANDS).float()


@functools.cache
def _filters() -> Tensor:
    """Return HTK's mel filters `(257, 64)`, whose slopes are straight on the mel scale."""

    def mel(hertz: Tensor) -> Tensor:
        return 1127 * torch.log1p(hertz / 700)

    edges = mel(torch.tensor([LOWEST, HIGHEST], dtype=torch.float64))
    band = torch.linspace(float(edges[0]), float(edges[1]), BANDS + 2, dtype=torch.float64)
    place = mel(torch.linspace(0, RATE / 2, POINTS // 2 + 1, dtype=torch.float64))[:, None]
    rising = (place - band[:-2]) / (band[1:-1] - band[:-2])
    falling = (band[2:] - place) / (band[2:] - band[1:-1])
    found = torch.minimum(rising, falling).clamp_min(0)
    found[0] = 0
    return found
