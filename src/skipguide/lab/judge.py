"""The judge: a small network that reads shape, colour and motion of a clip.

It is trained on procedural clips only. In a clip with two objects it reads the one that moves. Its
penultimate features are the lab's Frechet features.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from skipguide.files import packaged
from skipguide.lab import training_loop, world

Tensor = torch.Tensor
HEADS = {"shape": world.SHAPES, "colour": tuple(world.COLOURS), "motion": world.MOTIONS}
SCHEDULE = training_loop.Schedule(steps=600, learning_rate=4e-3, decay=0.5)
BATCH_SIZE = 32


class Judge(nn.Module):
    """Convolutions on every second frame, then over time, then three heads on 128 features."""

    features = 128

    def __init__(self) -> None:
        super().__init__()
        self.space = nn.Sequential(*_conv2d(3, 32, 5), *_conv2d(32, 64, 3), *_conv2d(64, 96, 3))
        self.time = nn.Sequential(*_conv3d(96, 128), *_conv3d(128, 128))
        self.embed = nn.Sequential(nn.Linear(4 * 4 * 3 * 32 + 96, self.features), nn.SiLU())
        self.narrow = nn.Conv3d(128, 32, 1)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(self.features, len(words)) for name, words in HEADS.items()}
        )

    def forward(self, frames: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return logits of each head `(B, words)` and features `(B, 128)`.

        Clips are `(B, 3, 19, 64, 64)` in [-1, 1].
        """
        frames = frames[:, :, ::2]
        batch, _, num_frames = frames.shape[:3]
        maps = self.space(frames.transpose(1, 2).flatten(0, 1)).unflatten(0, (batch, num_frames))
        appearance = maps.amax((1, 3, 4))  # (B, 96): what is there, wherever it is
        path = self.narrow(self.time(maps.transpose(1, 2))).flatten(1)
        features = self.embed(torch.cat([path, appearance], 1))
        return {name: head(features) for name, head in self.heads.items()}, features


def _conv2d(inputs: int, outputs: int, kernel: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride=2, padding=kernel // 2)
    return conv, nn.GroupNorm(8, outputs), nn.SiLU()


def _conv3d(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv3d(
        inputs,
        outputs,
        3,
        stride=(2, 2 if inputs == 96 else 1, 2 if inputs == 96 else 1),
        padding=1,
    )
    return conv, nn.GroupNorm(8, outputs), nn.SiLU()


def train(
    folder: Path, device: torch.device, schedule: training_loop.Schedule = SCHEDULE
) -> Iterator[training_loop.Progress]:
    """Train from nothing, or from the checkpoint in `folder`; writes `folder/judge.safetensors`."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    judge = Judge().to(device)
    dtype = training_loop.faster_dtype(device)

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        scenes = world.sample_scenes(BATCH_SIZE, seed=step + 5 * 10**6, split="all")
        frames = augment(world.render(scenes), torch.Generator().manual_seed(step)).to(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits, _ = judge(frames)
        losses, metrics = [], {}
        for name in HEADS:
            truth = getattr(scenes, name).to(device)
            losses.append(F.cross_entropy(logits[name].float(), truth, label_smoothing=0.02))
            metrics[name] = (logits[name].argmax(1) == truth).float().mean().item()
        return torch.stack(losses).sum(), metrics

    yield from training_loop.fit(judge, loss, schedule, folder / "judge.ckpt")
    with training_loop.atomic_path(folder / "judge.safetensors") as part:
        save_file(judge.state_dict(), part)


def augment(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, add noise, fade and shift clips a little; a third of them stays clean.

    This keeps the judge sensible on imperfect videos.
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(len(frames), *shape, generator=generator).reshape(-1, 1, 1, 1, 1)

    small = F.interpolate(frames, scale_factor=(1, 0.5, 0.5), mode="area")
    blurred = F.interpolate(small, size=frames.shape[2:], mode="trilinear", align_corners=False)
    spoiled = torch.lerp(frames, blurred, uniform())
    spoiled = spoiled * (0.75 + 0.35 * uniform()) + 0.2 * (uniform() - 0.5)
    noise = torch.randn(frames.shape, generator=generator)
    coarse = F.interpolate(
        torch.randn(*frames.shape[:2], 5, 16, 16, generator=generator),
        size=frames.shape[2:],
        mode="nearest",
    )
    spoiled = spoiled + 0.15 * uniform() * noise + 0.12 * uniform() * coarse
    shift = torch.randint(-4, 5, (2,), generator=generator).tolist()
    spoiled = F.pad(spoiled, (4, 4, 4, 4, 0, 0), mode="replicate")
    spoiled = spoiled[
        ...,
        4 + shift[0] : spoiled.shape[-2] - 4 + shift[0],
        4 + shift[1] : spoiled.shape[-1] - 4 + shift[1],
    ]
    return torch.where(uniform() < 1 / 3, frames, spoiled).clamp(-1, 1)


@torch.no_grad()
def accuracy(
    judge: Judge, split: str = "all", num: int = 2048, seed: int = 9 * 10**6
) -> dict[str, float]:
    """Return the share of unseen real clips that each head reads right."""
    right = dict.fromkeys(HEADS, 0)
    scenes = world.sample_scenes(num, seed, split)
    for start in range(0, num, 64):
        chunk = scenes[slice(start, start + 64)]
        logits, _ = judge(world.render(chunk).to(next(judge.parameters()).device))
        for name in HEADS:
            right[name] += int((logits[name].argmax(1).cpu() == getattr(chunk, name)).sum())
    return {name: count / num for name, count in right.items()}


@functools.cache
def load_judge() -> Judge:
    """Load the packaged judge, on the CPU, in evaluation mode."""
    from safetensors.torch import load_file

    judge = Judge()
    judge.load_state_dict(load_file(packaged.packaged_path("judge") / "judge.safetensors"))
    return judge.eval()


def frechet(a: Tensor, b: Tensor) -> float:
    """Return the Frechet distance between two sets of features `(N, D)`, in float64.

    It is 0 for equal moments, otherwise positive.
    """
    a, b = a.double(), b.double()
    mean = (a.mean(0) - b.mean(0)).square().sum()
    x, y = ((f - f.mean(0)) / (len(f) - 1) ** 0.5 for f in (a, b))
    cross = torch.linalg.svdvals(x @ y.T).sum()  # tr sqrt(S_a S_b), without forming the covariances
    return float(mean + x.square().sum() + y.square().sum() - 2 * cross)
