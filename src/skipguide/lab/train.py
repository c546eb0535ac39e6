"""Train a lab model from nothing, stage by stage; every stage resumes where it was stopped."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from skipguide.lab import (
    autoencoder,
    decoder,
    few_steps,
    judge,
    mochi,
    open_judge,
    opensora,
    sd3,
    svd,
    training_loop,
)

LOG_EVERY = 50  # steps


@dataclass(frozen=True)
class Stage:
    """One part of the training: a generator of progress, and the file or folder that it leaves."""

    name: str
    run: Callable[..., Iterator[training_loop.Progress]]  # takes the folder and the device
    result: str


STAGES = {
    "mochi": (
        Stage("autoencoder", functools.partial(autoencoder.train, kind=autoencoder.MOCHI), "vae"),
        Stage("latents", mochi.encode_clips, "latents.safetensors"),
        Stage("judge", judge.train, "judge.safetensors"),
        Stage("transformer", mochi.train, "pipeline"),
    ),
    "mochi-2": (
        Stage(
            "autoencoder", functools.partial(autoencoder.train, kind=autoencoder.OPEN_MOCHI), "vae"
        ),
        Stage("judge", open_judge.train, "open-judge.safetensors"),
        Stage(
            "latents",
            functools.partial(mochi.encode_clips, recipe=mochi.OPEN),
            "latents.safetensors",
        ),
        Stage("decoder", decoder.train, "decoder"),
        Stage("transformer", functools.partial(mochi.train, recipe=mochi.OPEN), "pipeline"),
        Stage("few steps", few_steps.train, "few-steps"),
    ),
    "svd": (
        Stage("autoencoder", functools.partial(autoencoder.train, kind=autoencoder.SVD), "vae"),
        Stage("image encoder", svd.train_image_encoder, "image_encoder"),
        Stage("latents", svd.encode_clips, "latents.safetensors"),
        Stage("unet", svd.train, "pipeline"),
    ),
    "opensora": (
        Stage(
            "autoencoder", functools.partial(autoencoder.train, kind=autoencoder.OPENSORA), "vae"
        ),
        Stage("latents", opensora.encode_clips, "latents.safetensors"),
        Stage("transformer", opensora.train, "pipeline"),
    ),
    "sd3": (
        Stage("autoencoder", functools.partial(autoencoder.train, kind=sd3.AUTOENCODER), "vae"),
        Stage("latents", sd3.encode_stills, "latents.safetensors"),
        Stage("transformer", sd3.train, "pipeline"),
    ),
}


def train(
    model: str, folder: Path, device: torch.device, only: str | None = None
) -> Iterator[tuple[str, training_loop.Progress]]:
    """Run the unfinished stages of a lab model, and yield (stage, progress) after every step.

    `folder/history.jsonl` gets a line per 50 steps and stage: step, seconds, mean of each metric.

    Raises:
        ValueError: for a stage that does not exist.
    """
    names = [stage.name for stage in STAGES[model]]
    if only is not None and only not in names:
        raise ValueError(
            f"a stage must be one of {', '.join(names)}, but got {only!r}. Choose one of them."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for stage in STAGES[model]:
        if (folder / stage.result).exists() or only not in (None, stage.name):
            continue
        for progress in _log_progress(stage, folder, device):
            yield stage.name, progress


def _log_progress(
    stage: Stage, folder: Path, device: torch.device
) -> Iterator[training_loop.Progress]:
    path, kept, started = folder / "history.jsonl", [], time.monotonic()
    rows = (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if path.exists()
        else []
    )
    for progress in stage.run(folder, device):
        yield progress
        kept.append(progress.metrics)
        if progress.step % LOG_EVERY and progress.step != progress.steps:
            continue
        mean = {
            name: sum(metrics[name] for metrics in kept) / len(kept) for name in progress.metrics
        }
        seconds = round(progress.seconds or time.monotonic() - started, 1)
        # A resumed run repeats some steps.
        rows = [row for row in rows if row["stage"] != stage.name or row["step"] < progress.step]
        rows.append({"stage": stage.name, "step": progress.step, "seconds": seconds, **mean})
        with training_loop.atomic_path(path) as part:
            part.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        kept = []
