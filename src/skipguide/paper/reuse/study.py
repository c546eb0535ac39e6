"""Measure ways of guidance beside each other, on lab-mochi and lab-opensora.

Every row makes the same clips from the same noise. Per batch one file is kept, so that a run that
is stopped goes on where it was."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from skipguide import guide
from skipguide.lab import judge, score_text, training_loop
from skipguide.paper.reuse import rows
from skipguide.paper.reuse.rows import ROWS, Row
from skipguide.stats import jackknife
from skipguide.stats.estimate import Estimate

Tensor = torch.Tensor
BATCH = 16
SEED = 9 * 10**6
SHORT = 128  # clips of the rows that are not on all of them


@dataclass(frozen=True)
class Study:
    """One model's study.

    Args:
        folder: where the batches go; one for each model.
        model: a key of `rows.MODELS`: "mochi" or "opensora".
        clips: of the main rows, a multiple of `BATCH`; the others have at most `SHORT`.
        rows: the ways. Clips are compared with those of the first one, and how far they are away is
            told in the distance of the second one.

    Raises:
        ValueError: for a number of clips that cannot be.
    """

    folder: Path
    model: str = "mochi"
    clips: int = 1024
    rows: tuple[Row, ...] = ROWS

    def __post_init__(self) -> None:
        least = jackknife.MIN_GROUPS
        if self.clips % BATCH or self.clips < max(BATCH, least):
            raise ValueError(
                f"clips must be a multiple of {BATCH}, but got {self.clips}. Take"
                f" {max(BATCH, round(self.clips / BATCH) * BATCH)}."
            )

    def path(self, row: Row, batch: int) -> Path:
        """Return the file of a batch."""
        name = "".join(c if c.isalnum() else "-" for c in row.name.lower())
        return self.folder / self.model / f"{name}-{batch:03d}.safetensors"

    def batches(self, row: Row) -> range:
        """Return the numbers of a row's batches."""
        clips = self.clips if row.is_main else min(self.clips, SHORT)
        return range(-(-clips // BATCH))

    def tasks(self) -> list[tuple[int, Row]]:
        """Return (batch, row) for all that is not there, the main rows of a batch first."""
        return [
            (batch, row)
            for batch in self.batches(self.rows[0])
            for row in self.rows
            if batch in self.batches(row) and not self.path(row, batch).is_file()
        ]


# --- making ---------------------------------------------------------------------------------------


def make(study: Study) -> Iterator[training_loop.Progress]:
    """Make and measure every batch that is missing; the first row's clips of a batch come first."""
    tasks, started = study.tasks(), time.monotonic()
    if not tasks:
        return
    pipe, reader = score_text.load_pipeline(study.model, None)
    exact: dict[int, Clips] = {}
    anchor = study.rows[0]
    for done, (batch, row) in enumerate(tasks, 1):
        if batch not in exact:
            exact = {batch: _generate(study, pipe, anchor, batch)}
        made = exact[batch] if row is anchor else _generate(study, pipe, row, batch)
        found = _measure(study, reader, batch, made, exact[batch])
        study.path(row, batch).parent.mkdir(parents=True, exist_ok=True)
        with training_loop.atomic_path(study.path(row, batch)) as part:
            save_file(found, part)
        yield training_loop.Progress(done, len(tasks), {}, time.monotonic() - started)


@dataclass(frozen=True)
class Clips:
    """Clips `(B, 3, F, H, W)` in [-1, 1], and the forward passes of one of them."""

    frames: Tensor
    passes: float


def _prompts(study: Study, batch: int) -> score_text.Prompts:
    row = score_text.MODELS[study.model]
    kind = next(iter(row.world.prompts))
    return score_text.Prompts(row.world.draw_prompted(BATCH, SEED + batch), kind, row)


def _generate(study: Study, pipe: Any, row: Row, batch: int) -> Clips:
    kind = rows.MODELS[study.model]
    texts = [caption.text for caption in _prompts(study, batch).captions]
    terms, steps = row.terms(kind["layers"], kind["scale"]), round(row.steps * score_text.STEPS)
    guidance = guide(pipe, *terms, **row.options) if terms or row.options else None
    with guidance or contextlib.nullcontext():
        frames = score_text.generate(
            pipe, texts, kind["guidance_scale"] if row.cfg else 1.0, SEED + batch, study.model,
            steps,
        )  # fmt: skip
    if guidance is None:
        return Clips(frames, (2.0 if row.cfg else 1.0) * steps)
    return Clips(frames, guidance.passes_per_step * guidance.passes.steps)  # restarts add steps


def _measure(
    study: Study, reader: nn.Module, batch: int, made: Clips, exact: Clips
) -> dict[str, Tensor]:
    reading = score_text.read_clips(reader, made.frames)
    error = (made.frames - exact.frames).square().flatten(1).mean(1)
    right = _prompts(study, batch).all_right(reading)
    return {
        "features": reading.features.float().contiguous(),
        "error": error.float(),
        "right": right.float(),
        "passes": torch.tensor([made.passes]),
    }


# --- reading --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RowResult:
    """The numbers of a row, with 95 % intervals.

    Args:
        passes: forward passes of a step of the usual 28.
        away: the root mean square distance of its clips from those of the first row, as a part of
            the distance of the second row's.
        psnr_db: against the first row's clips; inf for them.
        right: share of clips in which the judge reads all that the prompt says.
        right_change: that less the first row's, on the same prompts and noise.
        frechet: distance of the judge's features to those of real clips.
        frechet_change: that less the first row's.
    """

    name: str
    clips: int
    passes: float
    away: Estimate
    psnr_db: float
    right: Estimate
    right_change: Estimate
    frechet: Estimate
    frechet_change: Estimate


def results(study: Study) -> Iterator[RowResult]:
    """Yield the numbers of each row.

    Raises:
        ValueError: if a batch is missing.
    """
    if left := len(study.tasks()):
        raise ValueError(
            f"the numbers need all batches, but {left} are missing in {study.folder}. Run the"
            " command again; it goes on where it was."
        )
    row = score_text.MODELS[study.model]
    real = score_text.read_clips(
        row.world.reader.load(), row.world.render(row.world.draw(1024, SEED - 1), row.kind.frames)
    ).features
    for one in study.rows:
        yield _result(study, one, real)


def _load(study: Study, row: Row, batches: Sequence[int]) -> dict[str, Tensor]:
    parts = [load_file(study.path(row, batch)) for batch in batches]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _result(study: Study, row: Row, real: Tensor) -> RowResult:
    batches = list(study.batches(row))
    mine, exact, plain = (_load(study, known, batches) for known in (row, *study.rows[:2]))
    labels = list(range(len(mine["right"])))

    def estimate(statistic: Any) -> Estimate:
        return jackknife.estimate(statistic, labels)

    def away(kept: Tensor) -> float:
        return float((mine["error"][kept].mean() / plain["error"][kept].mean()).sqrt())

    def frechet(found: dict[str, Tensor], kept: Tensor) -> float:
        return judge.frechet(found["features"][kept], real)

    error = float(mine["error"].mean())
    return RowResult(
        row.name,
        len(labels),
        float(mine["passes"].mean()) / score_text.STEPS,
        estimate(away),
        -10 * math.log10(error / 4) if error else math.inf,
        estimate(lambda kept: float(mine["right"][kept].mean())),
        estimate(lambda kept: float((mine["right"] - exact["right"])[kept].mean())),
        estimate(lambda kept: frechet(mine, kept)),
        estimate(lambda kept: frechet(mine, kept) - frechet(exact, kept)),
    )
