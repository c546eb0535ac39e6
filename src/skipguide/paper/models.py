"""The three lab models: their prompts, how they generate clips, and where their weights are."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from skipguide import STG, Interval, guide
from skipguide.files import packaged
from skipguide.lab import autoencoder, score_svd, score_text, svd, world
from skipguide.method.protocols import PlainData
from skipguide.models import fingerprint, loading
from skipguide.paper.rows import Row
from skipguide.pipeline.warnings import ignore_cpu_autocast_warning

Tensor = torch.Tensor
POOL = 2048  # prompts; they do not depend on how many of them are used
CHUNK = 32  # prompts that are generated, recorded and resumed together
DTYPES = ("bfloat16", "float32")
DTYPE = "bfloat16"  # as in the paper; on CPUs that support it, clips take half the time
SEED = 11 * 10**6
STEPS = score_text.STEPS // 2  # lab-mochi's numbers are the same with half (docs/decisions/049)
NUM_REAL = POOL  # clips that sets are compared with; they cost next to nothing
OTHER_SEED = SEED + POOL  # their seed


@dataclass(frozen=True)
class LabModel:
    """The facts in which the models differ."""

    name: str
    kind: autoencoder.AutoencoderSpec
    steps: int  # of sampling: as few as do not change the numbers of plain CFG
    words: tuple[str, ...]  # what a prompt says about the object: of shape, colour, motion
    call: PlainData | None  # arguments of its pipeline; None if it starts from an image


def _text_model(name: str, row: score_text.ScoredModel) -> LabModel:
    call = dict(num_frames=row.kind.frames, **row.call)
    return LabModel(name, row.kind, STEPS, ("shape", "colour", "motion"), call)


MODELS = {
    "lab-mochi": _text_model("lab-mochi", score_text.MODELS["mochi"]),
    "lab-svd": LabModel("lab-svd", autoencoder.SVD, 10, score_svd.CHECKED_WORDS, None),
    "lab-opensora": _text_model("lab-opensora", score_text.MODELS["opensora"]),
}


def find_weights(name: str, given: Path | None = None) -> Path | None:
    """Return the folder of a model in diffusers' layout: the given or the packaged one, else None.

    Raises:
        ValueError: for an unknown model, or a folder that is not a pipeline.
    """
    if name not in MODELS:
        raise ValueError(
            f"a model must be one of {', '.join(MODELS)}, but got {name!r}. Choose one of them."
        )
    if given is not None:
        return loading.local_folder(str(given))
    return packaged.packaged_path(name) if name in packaged.NAMES else None


def check_chunks(name: str, value: int, most: int) -> None:
    """Check that a number of clips can be made in whole chunks.

    Raises:
        ValueError: if it cannot, with the nearest that can.
    """
    if value % CHUNK or not 0 < value <= most:
        raise ValueError(
            f"{name} must be a multiple of {CHUNK} up to {most}, but got {value}."
            f" Use {min(max(-(-value // CHUNK), 1) * CHUNK, most)}."
        )


@functools.cache
def weights_version(folder: Path) -> str:
    """Return eight digits that depend on the weights, to keep clips of two trainings apart."""
    return fingerprint.hash_weights(folder)[:8]


# --- prompts --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pool:
    """The scenes of the prompts.

    `spans` is the part of its path that an object covers; None is all of it.
    """

    scenes: world.Scenes
    spans: Tensor | None
    captions: list[str]

    def subset(self, numbers: Sequence[int]) -> Pool:
        """Keep the prompts with some numbers."""
        which = torch.tensor(numbers)
        spans = None if self.spans is None else self.spans[which]
        return Pool(self.scenes[which], spans, [self.captions[n] for n in numbers])

    def render_real(self, frames: int) -> Tensor:
        """Render the real clips, `(B, 3, F, H, W)` in [-1, 1]."""
        return world.render(self.scenes, frames, span=self.spans)

    def motion_amounts(self, frames: int) -> Tensor:
        """Return the amount of motion in the real clips, `(B,)`."""
        return world.amount_of_motion(world.masks(self.scenes, frames, self.spans))


@functools.cache
def pool(name: str, seed: int = SEED) -> Pool:
    """Return the prompts of a model: single objects, all combinations, including held-out ones."""
    scenes = world.sample_scenes(POOL, seed, "all", second_share=0.0)
    spans = world.draw_spans(POOL, seed) if MODELS[name].kind.spans else None
    return Pool(scenes, spans, world.captions(scenes, seed))


# --- clips ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PipelineCall:
    """The arguments of one call of a pipeline."""

    numbers: Sequence[int]  # of the prompts
    first: list[Any]  # prompts, or first frames
    options: PlainData


class ClipGenerator:
    """A pipeline on its device, which generates the clips of rows."""

    def __init__(
        self, name: str, folder: Path, device: str, steps: int | None = None, dtype: str = DTYPE
    ):
        self.model, self.pool = MODELS[name], pool(name)
        self.pipe = loading.load_pipeline(str(folder), dtype, device)
        self.steps = steps or self.model.steps
        self._passes: dict[str, Callable[[], float]] = {}

    def check(self, row: Row) -> None:
        """Check that the model has the layers that a row skips.

        Raises:
            ValueError: if it does not.
        """
        with guide_row(self.pipe, row):
            pass

    def clips(self, row: Row, numbers: Sequence[int]) -> Tensor:
        """Return the clips of some prompts, in whole chunks, `(B, 3, F, H, W)` in [-1, 1].

        The noise of a clip depends only on its number and is drawn on the CPU, so that rows and
        devices share it.
        """
        frames = self.model.kind.frames
        if row.source == "reference":
            return pool(self.model.name, OTHER_SEED).subset(numbers).render_real(frames)
        if row.source != "guided":
            real = self.pool.subset(numbers).render_real(frames)
            if row.source == "real":
                return real
            return autoencoder.reconstruct(self.pipe.vae, self.model.kind, real)
        made: dict[int, Tensor] = {}
        with guide_row(self.pipe, row) as handle:
            for call in self.calls(row, numbers):
                made.update(zip(call.numbers, self.run_call(call), strict=True))
        plain = 1.0 + (row.guidance_scale > 1)
        self._passes.setdefault(
            row.name, functools.cache(lambda: handle.passes_per_step if handle else plain)
        )
        return torch.stack([made[n] for n in numbers])

    def passes(self, row: Row) -> float:
        """Return forward passes per step and clip of a row after its clips; nan for real ones.

        Call it once, after the clips: for a UNet passes are measured, which takes a while.
        """
        return self._passes[row.name]() if row.name in self._passes else float("nan")

    def calls(self, row: Row, numbers: Sequence[int]) -> Iterator[PipelineCall]:
        """Yield the calls of the pipeline for some prompts: one, or one for each motion bucket."""
        if self.model.call is not None:
            options = dict(guidance_scale=row.guidance_scale, **self.model.call)
            yield PipelineCall(numbers, self.pool.subset(numbers).captions, options)
            return
        from diffusers.image_processor import VaeImageProcessor

        for together, bucket in group_by_bucket(self.pool, numbers):
            first = self.pool.subset(together).render_real(2)[:, :, 0]
            images = VaeImageProcessor.numpy_to_pil(((first + 1) / 2).permute(0, 2, 3, 1).numpy())
            options = dict(
                num_frames=svd.FRAMES, fps=svd.USUAL_FPS, max_guidance_scale=row.guidance_scale
            )
            yield PipelineCall(together, images, dict(**options, motion_bucket_id=bucket))

    def run_call(self, call: PipelineCall) -> Tensor:
        """Generate `(B, 3, F, H, W)` in [-1, 1], with whatever guidance is on the pipeline."""
        noise = [torch.Generator().manual_seed(SEED + n) for n in call.numbers]
        size = dict.fromkeys(("height", "width"), world.FRAME_SIZE)
        with ignore_cpu_autocast_warning():
            made = self.pipe(
                call.first,
                **size,
                num_inference_steps=self.steps,
                generator=noise,
                output_type="pt",
                **call.options,
            )
        return made.frames.float().transpose(1, 2) * 2 - 1


@contextlib.contextmanager
def guide_row(pipe: Any, row: Row, weak: Any = None) -> Iterator[Any]:
    """Guide a pipeline as a row says; yields the handle, or None where the row has CFG at most.

    Args:
        weak: the denoiser of the row's checkpoint.
    """
    terms = row.terms
    if row.checkpoint is not None:
        terms = (*terms, STG(weak=weak, scale=row.checkpoint[1]))
    rule = None if row.window is None else Interval(row.window)
    if not terms and rule is None:
        yield None
        return
    options: PlainData = dict(rescale=row.rescale, orthogonalize=row.orthogonalize, cfg=rule)
    with guide(pipe, *terms, share_prefix=row.share_prefix, **options) as handle:
        yield handle


def group_by_bucket(prompts: Pool, numbers: Sequence[int]) -> Iterator[tuple[list[int], int]]:
    """Yield the clips that share a motion bucket, and the bucket.

    Each chunk is sorted by motion and divided into batches.
    """
    for start in range(0, len(numbers), CHUNK):
        chunk = numbers[start : start + CHUNK]
        found = svd.motion_bucket(
            prompts.subset(chunk).motion_amounts(svd.FRAMES), torch.tensor(float(svd.USUAL_FPS))
        )
        for part in found.argsort().split(score_svd.BATCH):
            yield [chunk[i] for i in part.tolist()], round(found[part].mean().item())
