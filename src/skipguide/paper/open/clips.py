"""Make the clips of a row, and read what is in them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from skipguide.lab import autoencoder, mochi, open_judge, open_world, score_text, world
from skipguide.metrics import pixels
from skipguide.paper import models
from skipguide.paper.measurements import Reading
from skipguide.paper.open import prompts
from skipguide.paper.rows import Row
from skipguide.pipeline.warnings import ignore_cpu_autocast_warning

Tensor = torch.Tensor
STEPS = models.STEPS
VALUES = ("motion", "constant", "sharpness")
_READ = 64  # clips at a time


class Generator:
    """Makes clips for the prompts of a kind.

    Args:
        pipe: lab-mochi-2, on its device.
        folder: that it was loaded from, where the earlier states of its training lie.
        kind: of prompts.
        steps: of sampling.
    """

    def __init__(self, pipe: Any, folder: Path, kind: str, steps: int = STEPS):
        self.pipe, self.folder, self.kind, self.steps = pipe, folder, kind, steps
        self._passes: dict[str, Callable[[], float]] = {}

    def clips(self, row: Row, numbers: Sequence[int]) -> Tensor:
        """Return the clips of some prompts, `(B, 3, F, H, W)` in [-1, 1].

        The noise of a clip depends on its number alone and is drawn on the CPU, so that rows, kinds
        of prompts and devices share it.
        """
        seed = prompts.OTHER_SEED if row.source == "reference" else prompts.SEED
        asked = prompts.pool(self.kind, seed).subset(numbers)
        if row.source != "guided":
            real = open_world.render(asked.scenes)
            if row.source != "autoencoder":
                return real
            return autoencoder.reconstruct(self.pipe.vae, autoencoder.OPEN_MOCHI, real)
        weak = self._weak_model(row.checkpoint[0]) if row.checkpoint else None
        with models.guide_row(self.pipe, row, weak) as handle:
            made = self._generate(asked.captions, row, numbers)
        plain = 1.0 + (row.guidance_scale > 1)
        self._passes.setdefault(
            row.name, functools.cache(lambda: handle.passes_per_step if handle else plain)
        )
        return made

    def passes(self, row: Row) -> float:
        """Return forward passes per step and clip of a row after its clips; nan for real ones."""
        return self._passes[row.name]() if row.name in self._passes else float("nan")

    def _generate(self, captions: list[str], row: Row, numbers: Sequence[int]) -> Tensor:
        noise = [torch.Generator().manual_seed(prompts.SEED + number) for number in numbers]
        size = dict.fromkeys(("height", "width"), world.FRAME_SIZE)
        with ignore_cpu_autocast_warning():
            made = self.pipe(
                captions, **size, num_frames=world.NUM_FRAMES, generator=noise, output_type="pt",
                num_inference_steps=row.steps or self.steps, guidance_scale=row.guidance_scale,
                **score_text.MODELS["mochi"].call,
            )  # fmt: skip
        return made.frames.float().transpose(1, 2) * 2 - 1

    def _weak_model(self, step: int) -> Any:
        """Return the transformer of an earlier state of the training."""
        return load_earlier(self.pipe, self.folder, step).transformer


@functools.lru_cache(maxsize=4)
def load_earlier(pipe: Any, folder: Path, step: int) -> Any:
    """Return the pipeline as it was after some steps of its training; loaded once."""
    return mochi.load_snapshot(folder, step, pipe)


@torch.no_grad()
def read(network: open_judge.OpenJudge, frames: Tensor) -> Reading:
    """Read clips `(N, 3, F, H, W)` in [-1, 1].

    The logits are those of all heads of the judge, one after the other; the values are VALUES.
    """
    logits, features, constant = [], [], []
    for part in frames.split(_READ):
        found, vectors, by_frame = network(part)
        logits.append(torch.cat([found[name] for name in open_judge.HEADS], 1))
        features.append(vectors)
        constant.append(open_judge.is_constant(by_frame).float())
    shown = ((frames + 1) * 127.5).round().clamp(0, 255).byte().transpose(1, 2).cpu()
    by_pixels = [(pixels.motion(clip, world.FPS), pixels.sharpness(clip)) for clip in shown]
    motion, sharpness = torch.tensor(by_pixels).unbind(1)
    values = torch.stack([motion, torch.cat(constant).cpu(), sharpness], 1)
    return Reading(torch.cat(features).cpu(), torch.cat(logits).cpu(), values)
