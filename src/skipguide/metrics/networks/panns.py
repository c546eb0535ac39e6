"""PANNs' CNN14 at 16 kHz as features of sounds (Kong et al., arXiv:1912.10211).

As in frechet-audio-distance: one vector of a whole sound, after the layer before the classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from skipguide.files import checkpoints

Tensor = torch.Tensor

RATE = 16000
WINDOW, HOP, BANDS = 512, 160, 64  # of the mel spectrogram
QUIETEST = 1e-10  # power
BLOCKS, SHORTEST = 6, RATE // 2  # samples; the blocks halve the 100 frames of a second five times
RULES = (
    (r"^(spectrogram_extractor\.|fc_audioset\.)", None),
    (r"^logmel_extractor\.melW$", "filters"),
)


class ConvBlock(nn.Module):
    """Two convolutions with batch norms, and a mean over squares."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `(B, C, T, F)`."""
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class CNN14(nn.Module):
    """CNN14 up to its embedding."""

    filters: Tensor

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        """Build the network; published are channels 64 to 2048 and a width of 2048."""
        super().__init__()
        self.register_buffer("filters", torch.zeros(WINDOW // 2 + 1, BANDS))
        self.bn0 = nn.BatchNorm2d(BANDS)
        for place, (a, b) in enumerate(zip((1, *channels), channels, strict=False), 1):
            self.add_module(f"conv_block{place}", ConvBlock(a, b))
        self.fc1 = nn.Linear(channels[-1], width)

    @torch.no_grad()
    def forward(self, samples: Tensor) -> Tensor:
        """Return embeddings `(B, D)` of sounds `(B, T)`."""
        x = self.bn0(self._log_mel(samples).transpose(1, 2)[..., None]).permute(0, 3, 2, 1)
        for place in range(1, BLOCKS + 1):
            x = self.get_submodule(f"conv_block{place}")(x)
            x = F.avg_pool2d(x, 2) if place < BLOCKS else x
        x = x.mean(3)
        return F.relu(self.fc1(x.amax(2) + x.mean(2)))

    def _log_mel(self, samples: Tensor) -> Tensor:
        window = torch.hann_window(WINDOW, device=samples.device)
        spectrum = torch.stft(samples, WINDOW, HOP, window=window, pad_mode="reflect",
                              return_complex=True)  # fmt: skip
        power = spectrum.real.square() + spectrum.imag.square()
        return 10 * (power.transpose(1, 2) @ self.filters).clamp_min(QUIETEST).log10()


def load(path: Path) -> CNN14:
    """Load the authors' checkpoint of CNN14 at 16 kHz.

    Raises:
        ValueError: if the file holds another network.
    """
    weights = checkpoints.rename_keys(checkpoints.read(path), RULES)
    return checkpoints.build_with_weights(lambda: _build(weights, path), weights, path)


def _build(weights: Mapping[str, Tensor], path: Path) -> CNN14:
    names = [f"conv_block{place}.conv1.weight" for place in range(1, BLOCKS + 1)]
    if not {*names, "fc1.weight"} <= set(weights):
        raise ValueError(
            f"{path} must hold CNN14 as its authors keep it, but has other weights. Use"
            " Cnn14_16k_mAP=0.438.pth."
        )
    return CNN14(tuple(len(weights[name]) for name in names), len(weights["fc1.weight"]))


def features(model: nn.Module, samples: Tensor) -> Tensor:
    """Return features `(1, D)` of a sound `(T,)` float32 at 16 kHz; D is 2048.

    What is shorter than half a second is filled up with silence.
    """
    padded = F.pad(samples, (0, max(0, SHORTEST - len(samples))))
    return model(padded[None].to(next(model.parameters()).device))
