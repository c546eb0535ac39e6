"""RAFT: optical flow by repeated lookups in all-pairs correlation (Teed and Deng, ECCV 2020).

This is the full model, with the checkpoint `raft-things.pth` (FlyingThings), with which VBench
measures motion.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from skipguide.files import checkpoints
from skipguide.metrics.networks.flow import LEVELS, Correlation, Encoder, correlation, grid

Tensor = torch.Tensor

RADIUS = 4
HIDDEN = CONTEXT = 128
# The norm of a shortcut; the checkpoint also has it as downsample.1.
RULES = ((r"\.norm3\.", None),)


class MotionEncoder(nn.Module):
    """Encodes correlation and flow as 128 channels, of which the last two are the flow itself."""

    def __init__(self) -> None:
        super().__init__()
        self.convc1 = nn.Conv2d(LEVELS * (2 * RADIUS + 1) ** 2, 256, 1)
        self.convc2 = nn.Conv2d(256, 192, 3, padding=1)
        self.convf1 = nn.Conv2d(2, 128, 7, padding=3)
        self.convf2 = nn.Conv2d(128, 64, 3, padding=1)
        self.conv = nn.Conv2d(192 + 64, 126, 3, padding=1)

    def forward(self, flow: Tensor, found: Tensor) -> Tensor:
        found = F.relu(self.convc2(F.relu(self.convc1(found))))
        moved = F.relu(self.convf2(F.relu(self.convf1(flow))))
        return torch.cat([F.relu(self.conv(torch.cat([found, moved], 1))), flow], 1)


class SeparableGRU(nn.Module):
    """A gated recurrent unit whose convolutions go along rows, then along columns."""

    def __init__(self) -> None:
        super().__init__()
        for number, kernel in enumerate([(1, 5), (5, 1)], 1):
            padding = (kernel[0] // 2, kernel[1] // 2)
            for gate in "zrq":
                channels = HIDDEN + CONTEXT + 128
                self.add_module(
                    f"conv{gate}{number}", nn.Conv2d(channels, HIDDEN, kernel, padding=padding)
                )

    def forward(self, hidden: Tensor, x: Tensor) -> Tensor:
        for number in (1, 2):
            update, reset, new = (self.get_submodule(f"conv{gate}{number}") for gate in "zrq")
            both = torch.cat([hidden, x], 1)
            z, r = torch.sigmoid(update(both)), torch.sigmoid(reset(both))
            q = torch.tanh(new(torch.cat([r * hidden, x], 1)))
            hidden = (1 - z) * hidden + z * q
        return hidden


class FlowHead(nn.Module):
    """Two convolutions from the hidden state to a change of the flow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(HIDDEN, 256, 3, padding=1)
        self.conv2 = nn.Conv2d(256, 2, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.conv2(F.relu(self.conv1(hidden)))


class UpdateBlock(nn.Module):
    """One iteration: update the hidden state, and read the change of the flow from it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = MotionEncoder()
        self.gru = SeparableGRU()
        self.flow_head = FlowHead()
        self.mask = nn.Sequential(
            nn.Conv2d(HIDDEN, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 9 * 8 * 8, 1)
        )

    def forward(
        self, hidden: Tensor, context: Tensor, found: Tensor, flow: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the next hidden state, and what to add to the flow."""
        hidden = self.gru(hidden, torch.cat([context, self.encoder(flow, found)], 1))
        return hidden, self.flow_head(hidden)


class RAFT(nn.Module):
    """The network that estimates the flow from one frame to another."""

    def __init__(self) -> None:
        super().__init__()
        widths = (64, 96, 128)
        self.fnet = Encoder(widths, 256, nn.InstanceNorm2d)
        self.cnet = Encoder(widths, HIDDEN + CONTEXT, nn.BatchNorm2d)
        self.update_block = UpdateBlock()

    @torch.no_grad()
    def forward(self, first: Tensor, second: Tensor, iterations: int = 20) -> Tensor:
        """Return the flow `(B, 2, H, W)` in pixels, x first, of frames `(B, 3, H, W)` in [0, 255].

        Sides must be multiples of 8.
        """
        first, second = (2 * (frame / 255.0) - 1.0 for frame in (first, second))
        before, after = self.fnet(torch.cat([first, second])).chunk(2)
        matches = Correlation(correlation(before, after), RADIUS)
        hidden, context = self.cnet(first).split([HIDDEN, CONTEXT], 1)
        hidden, context = torch.tanh(hidden), torch.relu(context)
        start = grid(before)
        positions = start.expand(len(first), -1, -1, -1)
        for _ in range(iterations):
            hidden, change = self.update_block(
                hidden, context, matches.lookup(positions), positions - start
            )
            positions = positions + change
        return self._upsample_flow(positions - start, 0.25 * self.update_block.mask(hidden))

    @staticmethod
    def _upsample_flow(flow: Tensor, mask: Tensor) -> Tensor:
        """Scale the flow by 8: each pixel is a convex combination of nine coarse ones."""
        batch, _, height, width = flow.shape
        weights = mask.reshape(batch, 1, 9, 8, 8, height, width).softmax(2)
        around = F.unfold(8 * flow, 3, padding=1).reshape(batch, 2, 9, 1, 1, height, width)
        return (
            (weights * around)
            .sum(2)
            .permute(0, 1, 4, 2, 5, 3)
            .reshape(batch, 2, 8 * height, 8 * width)
        )


def load(path: Path) -> RAFT:
    """Load RAFT with the weights of `raft-things.pth`, or another checkpoint of the full model.

    Raises:
        ValueError: If the file holds something else.
    """
    return checkpoints.build_with_weights(
        RAFT, checkpoints.rename_keys(checkpoints.read(path), RULES), path
    )
