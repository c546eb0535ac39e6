"""The judge of the open world: a small network that reads whatever is in a clip, named or not.

It is trained on procedural clips only. Beside what captions can name it reads what they never name
(textures, outlines, camera), so that its penultimate features, those of the Frechet distance, know
of it. A head of its own reads the shape in every frame: it tells whether a shape holds its form.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from skipguide.files import packaged
from skipguide.lab import judge, open_world, training_loop

Tensor = torch.Tensor
NOTHING = "nothing"  # the shape and the colour of a second object that is not there
NAMED_HEADS: dict[str, tuple[str, ...]] = {
    **open_world.WORDS,
    "second_shape": (*open_world.SHAPES, NOTHING),
    "second_colour": (*open_world.COLOURS, NOTHING),
}
UNNAMED_HEADS: dict[str, tuple[str, ...]] = {
    "count": ("one", "two", "three"),
    "texture": open_world.TEXTURES,
    "outlined": ("no", "yes"),
    "camera": open_world.CAMERAS,
}
HEADS = {**NAMED_HEADS, **UNNAMED_HEADS}
SCHEDULE = training_loop.Schedule(steps=1400, learning_rate=4e-3, decay=0.6, ema=0.995)
BATCH_SIZE = 32
FRAME_STEP = 2  # every second frame is looked at
LEAST_CERTAINTY = 0.5  # of the shape in a frame that counts


class OpenJudge(nn.Module):
    """Convolutions on every second frame, then over time, then heads on 128 features."""

    features = 128

    def __init__(self) -> None:
        super().__init__()
        self.space = nn.Sequential(*_conv2d(3, 40, 5, 2), *_conv2d(40, 80, 3, 2))
        self.maps = nn.Sequential(*_conv2d(80, 128, 3, 2), *_conv2d(128, 128, 3, 1))
        self.frame = nn.Sequential(
            *_conv2d(128, 64, 3, 2), nn.Flatten(), nn.Linear(64 * 16, 128), nn.SiLU()
        )
        self.frame_shape = nn.Linear(128, len(open_world.SHAPES))
        self.time = nn.Sequential(*_conv3d(128, 128, 2), *_conv3d(128, 128, 1))
        self.narrow = nn.Conv3d(128, 32, 1)
        width = 4 * 4 * 3 * 32 + 2 * 128 + 80
        self.embed = nn.Sequential(nn.Linear(width, self.features), nn.SiLU())
        self.heads = nn.ModuleDict(
            {name: nn.Linear(self.features, len(words)) for name, words in HEADS.items()}
        )

    def forward(self, frames: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Read clips `(B, 3, 19, 64, 64)` in [-1, 1].

        Returns:
            The logits of each head `(B, words)`, the features `(B, 128)`, and the logits of the
            shape in every second frame `(B, 10, shapes)`.
        """
        frames = frames[:, :, ::FRAME_STEP]
        size = frames.shape[0], frames.shape[2]
        fine = self.space(frames.transpose(1, 2).flatten(0, 1))
        maps = self.maps(fine)
        seen = self.frame(maps).unflatten(0, size)  # (B, 10, 128)
        maps = maps.unflatten(0, size)
        path = self.narrow(self.time(maps.transpose(1, 2))).flatten(1)
        texture = fine.amax((2, 3)).unflatten(0, size).mean(1)
        appearance = maps.amax((1, 3, 4))  # what is there, wherever it is
        features = self.embed(torch.cat([path, appearance, seen.mean(1), texture], 1))
        logits = {name: head(features) for name, head in self.heads.items()}
        return logits, features, self.frame_shape(seen)


def _conv2d(inputs: int, outputs: int, kernel: int, stride: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2)
    return conv, nn.GroupNorm(8, outputs), nn.SiLU()


def _conv3d(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv3d(inputs, outputs, 3, stride=(2, stride, stride), padding=1)
    return conv, nn.GroupNorm(8, outputs), nn.SiLU()


def truth(scenes: open_world.OpenScenes) -> dict[str, Tensor]:
    """Return the right answer `(B,)` of each head."""
    alone = scenes.count == 1
    return {
        "shape": scenes.shape[:, 0],
        "colour": scenes.colour[:, 0],
        "size": scenes.size,
        "motion": scenes.motion,
        "background_kind": scenes.background,
        "background_colour": scenes.background_colour,
        "second_shape": torch.where(alone, len(open_world.SHAPES), scenes.shape[:, 1]),
        "second_colour": torch.where(alone, len(open_world.COLOURS), scenes.colour[:, 1]),
        "count": scenes.count - 1,
        "texture": scenes.texture[:, 0],
        "outlined": scenes.outlined[:, 0].long(),
        "camera": scenes.camera,
    }


def train(
    folder: Path, device: torch.device, schedule: training_loop.Schedule = SCHEDULE
) -> Iterator[training_loop.Progress]:
    """Train from nothing, or from the checkpoint in `folder`.

    It writes `folder/open-judge.safetensors`, in float16.
    """
    from safetensors.torch import save_file

    torch.manual_seed(0)
    network = OpenJudge().to(device)
    dtype = training_loop.faster_dtype(device)

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        scenes = open_world.sample_scenes(BATCH_SIZE, seed=step + 5 * 10**6)
        generator = torch.Generator().manual_seed(step)
        frames = judge.augment(open_world.render(scenes), generator).to(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits, _, by_frame = network(frames)
        right = {name: values.to(device) for name, values in truth(scenes).items()}
        losses = {
            name: F.cross_entropy(logits[name].float(), right[name], label_smoothing=0.02)
            for name in HEADS
        }
        shapes = right["shape"].repeat_interleave(by_frame.shape[1])
        losses["frame"] = F.cross_entropy(by_frame.float().flatten(0, 1), shapes)
        metrics = {name: _share(logits[name], right[name]) for name in HEADS}
        return torch.stack(list(losses.values())).sum(), metrics

    yield from training_loop.fit(network, loss, schedule, folder / "open-judge.ckpt")
    with training_loop.atomic_path(folder / "open-judge.safetensors") as part:
        save_file({name: value.half() for name, value in network.state_dict().items()}, part)


def _share(logits: Tensor, right: Tensor) -> float:
    return (logits.argmax(1) == right).float().mean().item()


@torch.no_grad()
def accuracy(network: OpenJudge, num: int = 2048, seed: int = 9 * 10**6) -> dict[str, float]:
    """Return the share of unseen real clips that each head reads right.

    "constant" is the share of clips whose shape is read the same in every frame.
    """
    found = dict.fromkeys((*HEADS, "constant"), 0.0)
    scenes = open_world.sample_scenes(num, seed)
    for start in range(0, num, 64):
        chunk = scenes[slice(start, start + 64)]
        logits, _, by_frame = network(open_world.render(chunk))
        for name, right in truth(chunk).items():
            found[name] += _share(logits[name], right) * len(chunk) / num
        found["constant"] += is_constant(by_frame).float().mean().item() * len(chunk) / num
    return found


def is_constant(by_frame: Tensor) -> Tensor:
    """Tell `(B,)` in which clips every frame that is read with certainty has the same shape.

    Args:
        by_frame: logits of the shape in each frame, `(B, F, shapes)`.
    """
    chances, shape = by_frame.softmax(-1).max(-1)
    certain = chances >= LEAST_CERTAINTY
    first = shape.gather(1, certain.int().argmax(1, keepdim=True))
    return ((shape == first) | ~certain).all(1)


@functools.cache
def load() -> OpenJudge:
    """Load the packaged judge of the open world, on the CPU, in evaluation mode."""
    from safetensors.torch import load_file

    network = OpenJudge()
    network.load_state_dict(load_file(packaged.packaged_path("open-judge") / "judge.safetensors"))
    return network.eval()
