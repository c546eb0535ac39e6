"""Scores of lab-svd: whether it keeps object and first frame, and motion follows the bucket.

The rows are those of the paper's Table 4: CFG, with spatial guidance, with spatial and temporal
guidance, and STG-R.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (
    StableVideoDiffusionPipeline,
)

from skipguide import STG, guide
from skipguide.files import packaged
from skipguide.lab import autoencoder, judge, svd, training_loop, world
from skipguide.lab import score_text as scoring
from skipguide.method.protocols import PlainData

Tensor = torch.Tensor
STEPS = 25
BATCH = 8  # clips, which share a bucket, because the pipeline takes only one
SEED = 8 * 10**6
CHECKED_WORDS = ("shape", "colour")  # not the motion, because a first frame allows several


def score(
    folder: Path | None, clips: int, layers: Sequence[str], spatial: float, temporal: float,
    residual: float, rescale: float, note: Callable[[str], None],
) -> PlainData:  # fmt: skip
    """Measure the packaged model, or the one in a training folder.

    Every setting gets the same `clips` first frames of single objects, including held-out
    combinations, from the same noise. The motion bucket of a clip is that of the real clip behind
    its first frame (the mean over a batch).
    """
    if clips <= 2 * BATCH:
        raise ValueError(
            f"clips must be more than {2 * BATCH}, to compare buckets, but got {clips}. Try 64."
        )
    pipe = _load_pipeline(folder)
    rows = score_settings(layers, spatial, temporal, residual, rescale)
    for _, terms, _ in rows[1:]:
        guide(pipe, *terms).remove()  # fails early if a layer does not exist
    note("reconstruction and the judge on real clips")
    real = RealClips(clips)
    found: PlainData = {
        "command": _format_command(clips, layers, spatial, temporal, residual, rescale),
        "clips": clips,
        "steps": STEPS,
        "guidance_scale": svd.GUIDANCE_SCALE,
        "psnr_db": {
            s: round(autoencoder.psnr(pipe.vae, autoencoder.SVD, s), 2)
            for s in ("train", "heldout")
        },
        "real": measure_clips(real, real.frames),
        "reconstructed": measure_clips(real, _reconstruct(pipe, real.frames)),
        "generated": [],
    }
    for name, terms, phi in rows:
        row = {"setting": name, **_score_setting(pipe, real, real.buckets, terms, phi)}
        note(str(row))
        found["generated"].append(row)
    # A first frame reveals some of the motion of its clip. Here the slowest clip gets the highest
    # bucket, so that only the bucket can tell the motion.
    turned = torch.cat(real.buckets.split(BATCH)[::-1])[: len(real.buckets)]
    found["buckets_turned"] = _score_setting(pipe, real, turned, [], 0.0)
    note(str(found["buckets_turned"]))
    return found


def score_settings(
    layers: Sequence[str], spatial: float, temporal: float, residual: float, rescale: float
) -> list[tuple[str, list[STG], float]]:
    """Return the rows (name, terms, rescale). A scale of 0 leaves its row out."""
    in_space, in_time = (
        STG(layers, scale, "attention", axis=axis)
        for axis, scale in (("spatial", spatial), ("temporal", temporal))
    )
    rows = [
        ("CFG", [], 0.0),
        (f"+ spatial {spatial:g}", [in_space], rescale),
        (f"+ spatial {spatial:g} + temporal {temporal:g}", [in_space, in_time], rescale),
        (f"+ STG-R {residual:g}", [STG(layers, residual)], rescale),
    ]
    return [row for row in rows if all(term.scale for term in row[1])]


class RealClips:
    """Clips with known scenes, sorted by their motion buckets at the usual fps."""

    def __init__(self, num: int):
        scenes = world.sample_scenes(num, SEED, "all", second_share=0.0)
        spans = world.draw_spans(num, SEED)
        amount = world.amount_of_motion(world.masks(scenes, svd.FRAMES, spans))
        order = amount.argsort()
        self.scenes, self.frames = (
            scenes[order],
            world.render(scenes[order], svd.FRAMES, span=spans[order]),
        )
        buckets = svd.motion_bucket(amount[order], torch.tensor(float(svd.USUAL_FPS))).split(BATCH)
        self.buckets = torch.cat([part.mean().round().expand(len(part)) for part in buckets])
        self.features = _judge_clips(self.frames)[1]


def _format_command(
    clips: int,
    layers: Sequence[str],
    spatial: float,
    temporal: float,
    residual: float,
    rescale: float,
) -> str:
    named = "".join(f" --layers {layer}" for layer in layers)
    scales = f" --spatial-scale {spatial:g} --temporal-scale {temporal:g} --stg-scale {residual:g}"
    return f"skipguide lab score svd --clips {clips}{named}{scales} --rescale {rescale:g}"


def _load_pipeline(folder: Path | None) -> StableVideoDiffusionPipeline:
    if folder:
        training_loop.require_files(folder, "pipeline/model_index.json")
    path = folder / "pipeline" if folder else packaged.packaged_path("lab-svd")
    pipe = StableVideoDiffusionPipeline.from_pretrained(path)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def _reconstruct(pipe: StableVideoDiffusionPipeline, frames: Tensor) -> Tensor:
    """Encode and decode clips: the upper limit for the quality of generated ones."""
    chunks = frames.split(BATCH)
    return torch.cat(
        [
            autoencoder.decode_svd(pipe.vae, autoencoder.encode_svd(pipe.vae, c).mean, c.shape[2])
            for c in chunks
        ]
    )


def _score_setting(
    pipe: StableVideoDiffusionPipeline,
    real: RealClips,
    buckets: Tensor,
    terms: Sequence[STG],
    phi: float,
) -> PlainData:
    handle = guide(pipe, *terms, rescale=phi) if terms else None
    try:
        chunks = zip(real.frames[:, :, 0].split(BATCH), buckets.split(BATCH), strict=True)
        videos = [
            generate(pipe, first, int(bucket[0]), SEED + i)
            for i, (first, bucket) in enumerate(chunks)
        ]
    finally:
        if handle:
            handle.remove()
    passes = handle.passes_per_step if handle else 2.0
    return {"passes_per_step": round(passes, 3), **measure_clips(real, torch.cat(videos), buckets)}


def generate(pipe: Any, first: Tensor, bucket: int, seed: int) -> Tensor:
    """Animate first frames `(B, 3, H, W)` as `(B, 3, F, H, W)`, both in [-1, 1], in one batch.

    Noise is drawn from `seed`.
    """
    from diffusers.image_processor import VaeImageProcessor

    frames = pipe(
        VaeImageProcessor.numpy_to_pil(((first + 1) / 2).permute(0, 2, 3, 1).numpy()),
        height=world.FRAME_SIZE, width=world.FRAME_SIZE, num_frames=svd.FRAMES,
        num_inference_steps=STEPS, fps=svd.USUAL_FPS, motion_bucket_id=bucket,
        max_guidance_scale=svd.GUIDANCE_SCALE, output_type="pt",
        generator=torch.Generator().manual_seed(seed),
    ).frames  # fmt: skip
    return frames.transpose(1, 2) * 2 - 1


@torch.no_grad()
def measure_clips(
    real: RealClips, frames: Tensor, buckets: Tensor | None = None
) -> dict[str, float]:
    """Return the numbers of the card for one set of clips.

    `shape`, `colour`: share of clips in which the judge reads the object of the first frame.
    `first_frame_db`: mean PSNR of the first frame against the given one. `motion`: Spearman
    correlation of bucket and amount of motion. `frechet`: distance of the judge's features from
    those of the real clips.
    """
    words, features = _judge_clips(frames)
    kept = {
        name: (words[name] == getattr(real.scenes, name)).float().mean().item()
        for name in CHECKED_WORDS
    }
    error = (frames[:, :, 0] - real.frames[:, :, 0]).square().mean((1, 2, 3)).clamp_min(1e-10)
    amount = world.amount_of_motion(world.segment_objects(real.scenes, frames))
    found = {
        **kept,
        "both": (
            torch.stack([words[n] == getattr(real.scenes, n) for n in CHECKED_WORDS])
            .all(0)
            .float()
            .mean()
            .item()
        ),
        "first_frame_db": (-10 * torch.log10(error / 4)).mean().item(),
        "motion": spearman(real.buckets if buckets is None else buckets, amount),
        "amount_of_motion": amount.mean().item(),
        "frechet": judge.frechet(features, real.features),
    }
    return {name: round(value, 4) for name, value in found.items()}


def _judge_clips(frames: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Judge clips of fewer than 19 frames, which the judge expects, by repeating some frames."""
    stretched = F.interpolate(frames, (world.NUM_FRAMES, *frames.shape[3:]), mode="nearest")
    reading = scoring.read_clips(judge.load_judge(), stretched)
    return reading.words, reading.features


def spearman(a: Tensor, b: Tensor) -> float:
    """Return the rank correlation of two `(N,)`; equal values share the mean of their ranks."""
    ranks = torch.stack([_ranks(a), _ranks(b)])
    return torch.corrcoef(ranks)[0, 1].item()


def _ranks(values: Tensor) -> Tensor:
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[inverse]


def format_table(scores: PlainData) -> str:
    """Format the scores as Markdown."""
    lines = [
        (
            f"- reconstruction: {scores['psnr_db']['train']} dB, held out"
            f" {scores['psnr_db']['heldout']} dB"
        ),
        (
            f"- {scores['clips']} clips per row, {scores['steps']} steps, CFG from 1 in the first"
            f" frame to {scores['guidance_scale']:g} in the last"
        ),
        "",
        (
            "| clips | passes | shape kept | colour kept | both | first frame, dB | motion and"
            " bucket | Frechet |"
        ),
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    rows = [("real", scores["real"]), ("autoencoder alone", scores["reconstructed"])]
    rows += [(row["setting"], row) for row in scores["generated"]]
    for name, r in [*rows, ("CFG, buckets turned around", scores["buckets_turned"])]:
        passes = f"{r['passes_per_step']:.2f}" if "passes_per_step" in r else "-"
        first = "-" if name == "real" else f"{r['first_frame_db']:.1f}"
        lines.append(
            f"| {name} | {passes} | {r['shape']:.3f} | {r['colour']:.3f} | {r['both']:.3f} |"
            f" {first} | {r['motion']:.3f} | {r['frechet']:.1f} |"
        )
    return "\n".join(lines)
