"""AMT-S: interpolate the frame midway between two (Li et al., CVPR 2023).

Flows that all-pairs correlation refines lead from the middle to both frames. This has only what
VBench's motion smoothness needs: the time is 1/2 and frames keep their size. The code is ours,
after the paper and the layout of the weights, `amt-s.pth`, which are CC BY-NC 4.0: not for
commercial use.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from skipguide.files import checkpoints
from skipguide.metrics.networks.flow import (
    LEVELS,
    Correlation,
    Encoder,
    correlation,
    grid,
    resize,
    sample_bilinear,
)

Tensor = torch.Tensor

RADIUS = 3
CHANNELS = (20, 32, 44, 56)  # of the feature pyramid, at 1/2, 1/4, 1/8 and 1/16 of the size
SIDE = 20  # channels of a residual block that its inner convolutions change
FLOWS = 3  # pairs of flows that the last decoder returns
TIME = 0.5  # of the middle frame; the given frames are at 0 and 1
RULES = ((r"\.convblock\.", "."),)


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.PReLU(outputs))


class ResidualBlock(nn.Module):
    """Five convolutions beside a shortcut (IFRNet, 2022).

    The second and the fourth see only the last SIDE channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = _conv(channels, channels), _conv(SIDE, SIDE)
        self.conv3, self.conv4 = _conv(channels, channels), _conv(SIDE, SIDE)
        self.conv5 = nn.Conv2d(channels, channels, 3, padding=1)
        self.prelu = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self._convolve_side(self.conv2, self.conv1(x))
        y = self._convolve_side(self.conv4, self.conv3(y))
        return self.prelu(x + self.conv5(y))

    @staticmethod
    def _convolve_side(conv: nn.Module, x: Tensor) -> Tensor:
        return torch.cat([x[:, :-SIDE], conv(x[:, -SIDE:])], 1)


def _decoder(inputs: int, width: int, outputs: int) -> nn.Sequential:
    """Build a decoder, which doubles the size; it returns flows and features for the next one."""
    return nn.Sequential(
        _conv(inputs, width),
        ResidualBlock(width),
        nn.ConvTranspose2d(width, outputs, 4, stride=2, padding=1),
    )


def _head(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, 76, 3, padding=1), nn.LeakyReLU(0.1), nn.Conv2d(76, outputs, 3, padding=1)
    )


class UpdateBlock(nn.Module):
    """Corrects flows and features by the correlation at the positions that the flows lead to.

    It works at an eighth of the frames' size.
    """

    def __init__(self, channels: int, factor: int) -> None:
        """Take features of `channels` channels, of `factor` times the correlation's size."""
        super().__init__()
        self.factor = factor
        self.convc1 = nn.Conv2d(2 * LEVELS * (2 * RADIUS + 1) ** 2, 64, 1)
        self.convf1 = nn.Conv2d(4, 40, 7, padding=3)
        self.convf2 = nn.Conv2d(40, 20, 3, padding=1)
        self.conv = nn.Conv2d(64 + 20, 68, 3, padding=1)
        self.gru = _head(68 + 4 + channels, 76)
        self.feat_head = _head(76, channels)
        self.flow_head = _head(76, 4)

    def forward(
        self, features: Tensor, flow: Tensor, matches: Sequence[Correlation]
    ) -> tuple[Tensor, Tensor]:
        """Return features and both flows `(B, 4, h, w)`, corrected."""
        small_flow = resize(flow, 1 / self.factor) / self.factor
        found = self._look_up_correlation(small_flow, matches)
        moved = _leaky_relu(self.convf2(_leaky_relu(self.convf1(small_flow))))
        both = _leaky_relu(self.conv(torch.cat([_leaky_relu(self.convc1(found)), moved], 1)))
        hidden = self.gru(torch.cat([both, small_flow, resize(features, 1 / self.factor)], 1))
        features = features + resize(self.feat_head(hidden), self.factor)
        return features, flow + self.factor * resize(self.flow_head(hidden), self.factor)

    @staticmethod
    def _look_up_correlation(flow: Tensor, matches: Sequence[Correlation]) -> Tensor:
        """Look the correlation up where the flows lead; motion is assumed to be linear.

        A flow from the middle, stretched, leads from one frame to the other.
        """
        to_first, to_second = flow.chunk(2, 1)
        stretched = (to_second / TIME, to_first / (1 - TIME))
        here = grid(flow)
        return torch.cat(
            [match.lookup(here + way) for match, way in zip(matches, stretched, strict=True)], 1
        )


class AMTS(nn.Module):
    """The network that interpolates the frame midway between two."""

    def __init__(self) -> None:
        super().__init__()
        c1, c2, c3, c4 = CHANNELS
        self.feat_encoder = Encoder((32, 64, 96), 84, nn.InstanceNorm2d, bottleneck=True)
        self.encoder = nn.ModuleDict()
        for number, (inputs, outputs) in enumerate(zip((3, *CHANNELS), CHANNELS, strict=False), 1):
            self.encoder[f"pyramid{number}"] = nn.Sequential(
                _conv(inputs, outputs, 2), _conv(outputs, outputs)
            )
        self.decoder4 = _decoder(2 * c4 + 1, 2 * c4, 4 + c3)
        self.decoder3 = _decoder(3 * c3 + 4, 3 * c3, 4 + c2)
        self.decoder2 = _decoder(3 * c2 + 4, 3 * c2, 4 + c1)
        self.decoder1 = _decoder(3 * c1 + 4, 3 * c1, 8 * FLOWS)
        self.update4, self.update3, self.update2 = (
            UpdateBlock(c3, 1),
            UpdateBlock(c2, 2),
            UpdateBlock(c1, 4),
        )
        self.comb_block = nn.Sequential(
            nn.Conv2d(3 * FLOWS, 6 * FLOWS, 3, padding=1),
            nn.PReLU(6 * FLOWS),
            nn.Conv2d(6 * FLOWS, 3, 3, padding=1),
        )

    @torch.no_grad()
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the frame between two frames `(B, 3, H, W)` in [0, 1], sides multiples of 16."""
        mean = torch.cat([first, second], 2).mean((1, 2, 3), keepdim=True)
        first, second = first - mean, second - mean
        matches = self._correlate(first, second)
        *pairs, last = zip(self._pyramid(first), self._pyramid(second), strict=True)

        middle = torch.full_like(last[0][:, :1], TIME)
        flow, features = self.decoder4(torch.cat([*last, middle], 1)).tensor_split([4], 1)
        features, flow = self.update4(features, flow, matches)
        for decoder, update, pair in (
            (self.decoder3, self.update3, pairs[2]),
            (self.decoder2, self.update2, pairs[1]),
        ):
            change, features = decoder(_decoder_input(features, pair, flow)).tensor_split([4], 1)
            features, flow = update(features, change + 2 * resize(flow, 2), matches)
        return self._combine(
            self.decoder1(_decoder_input(features, pairs[0], flow)), flow, (first, second), mean
        )

    def _correlate(self, first: Tensor, second: Tensor) -> tuple[Correlation, Correlation]:
        """Correlate the first frame with the second, and the second with the first."""
        before, after = self.feat_encoder(torch.cat([first, second])).chunk(2)
        volume = correlation(before, after)
        return Correlation(volume, RADIUS), Correlation(volume.permute(0, 3, 4, 1, 2), RADIUS)

    def _pyramid(self, frame: Tensor) -> list[Tensor]:
        levels = [frame]
        for level in self.encoder.values():
            levels.append(level(levels[-1]))
        return levels[1:]

    def _combine(
        self, decoded: Tensor, flow: Tensor, frames: tuple[Tensor, Tensor], mean: Tensor
    ) -> Tensor:
        """Average several candidate frames, and add the correction of a small network.

        Each candidate has its own flows, mask and residual.
        """
        n = FLOWS
        changes, masks, residuals = decoded.split([4 * n, n, 3 * n], 1)
        ways = [2 * resize(way, 2) for way in flow.chunk(2, 1)]
        candidates = []
        for i in range(n):
            pieces = (changes[:, 2 * i : 2 * i + 2], changes[:, 2 * (n + i) : 2 * (n + i) + 2])
            warped = [
                _warp(frame, way + piece)
                for frame, way, piece in zip(frames, ways, pieces, strict=True)
            ]
            mask = torch.sigmoid(masks[:, i : i + 1])
            mixed = mask * warped[0] + (1 - mask) * warped[1]
            candidates.append(mixed + mean + residuals[:, 3 * i : 3 * i + 3])
        return (torch.stack(candidates).mean(0) + self.comb_block(torch.cat(candidates, 1))).clamp(
            0, 1
        )


def _leaky_relu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.1)


def _warp(image: Tensor, flow: Tensor) -> Tensor:
    """Sample an image `(B, C, H, W)` where the flow `(B, 2, H, W)` leads from each pixel.

    Outside, the border is repeated.
    """
    return sample_bilinear(image, (grid(image) + flow).permute(0, 2, 3, 1), padding="border")


def _decoder_input(features: Tensor, pair: tuple[Tensor, Tensor], flow: Tensor) -> Tensor:
    """Concatenate a decoder's features, both frames' features where the flows lead, and flows."""
    warped = [_warp(level, way) for level, way in zip(pair, flow.chunk(2, 1), strict=True)]
    return torch.cat([features, *warped, flow], 1)


def load(path: Path) -> AMTS:
    """Load AMT-S with the weights of `amt-s.pth` (CC BY-NC 4.0).

    Raises:
        ValueError: If the file holds something else.
    """
    return checkpoints.build_with_weights(
        AMTS, checkpoints.rename_keys(checkpoints.read(path), RULES), path
    )
