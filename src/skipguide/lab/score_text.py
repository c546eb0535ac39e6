"""Scores of the text-to-video lab models.

Measured are its reconstruction, what the judge reads in generated clips, and their Frechet
distance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.pipelines.mochi.pipeline_mochi import MochiPipeline
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from skipguide import STG, guide
from skipguide.files import packaged
from skipguide.lab import autoencoder, judge, training_loop, world
from skipguide.method.protocols import PlainData
from skipguide.method.terms import explicit_layers
from skipguide.opensora import OpenSoraPipeline
from skipguide.pipeline.warnings import ignore_cpu_autocast_warning

Tensor = torch.Tensor
STEPS = 28
BATCH = 32
SEED = 7 * 10**6


@dataclass(frozen=True)
class ScoredModel:
    """The facts in which the lab models differ."""

    pipeline: type[DiffusionPipeline]
    kind: autoencoder.AutoencoderSpec
    call: PlainData  # arguments of a call, beside the prompts, CFG's scale and the noise
    brings_judge: bool = False  # if not, the packaged judge is used


MODELS = {
    "mochi": ScoredModel(MochiPipeline, autoencoder.MOCHI, dict(max_sequence_length=32),
        brings_judge=True),
    "opensora": ScoredModel(
        OpenSoraPipeline, autoencoder.OPENSORA,
        dict(max_sequence_length=32, fps=world.FPS, aesthetic_score=None, clean_caption=False),
    ),
}  # fmt: skip


def score(
    folder: Path | None, clips: int, guidance_scales: Sequence[float], terms: Sequence[STG],
    note: Callable[[str], None], model: str = "mochi",
) -> PlainData:  # fmt: skip
    """Measure the packaged model, or the one in a training folder.

    Every setting generates the same `clips` prompts from the same noise. Prompts name one object,
    are phrased at random and come from all combinations, including held-out ones.

    Args:
        terms: each is used alone, with the last CFG scale; all have one scale and skip.
    """
    kind = MODELS[model].kind
    pipe, reader = _load_pipeline(model, folder)
    for term in terms:
        guide(pipe, term).remove()  # fails early if a layer does not exist
    note("reconstruction and the judge on real clips")
    found: PlainData = {
        "command": _format_command(model, clips, guidance_scales, terms),
        "clips": clips,
        "steps": STEPS,
        "psnr_db": {
            split: round(autoencoder.psnr(pipe.vae, kind, split), 2)
            for split in ("train", "heldout")
        },
        "judge_accuracy": _judge_accuracy(reader, kind.frames),
        "judge_accuracy_reconstructed": _score_reconstruction(pipe, reader, kind),
        "generated": [],
    }
    scenes = world.sample_scenes(clips, SEED, "all", second_share=0.0)
    others = world.sample_scenes(clips, SEED + 1, "all", second_share=0.0)
    real = judge_clips(reader, world.render(others, kind.frames))[1]
    found["frechet_real"] = round(
        judge.frechet(judge_clips(reader, world.render(scenes, kind.frames))[1], real), 2
    )
    settings = [(g, None) for g in guidance_scales] + [
        (guidance_scales[-1], term) for term in terms
    ]
    for g, term in settings:
        row = _score_setting(model, pipe, reader, scenes, real, g, term)
        note(str(row))
        found["generated"].append(row)
    return found


def _format_command(
    model: str, clips: int, guidance_scales: Sequence[float], terms: Sequence[STG]
) -> str:
    """Return the command that measures the same on the packaged model."""
    scales = "".join(f" --guidance-scale {g:g}" for g in guidance_scales)
    skipped = "".join(f" --layers {_join_layers(explicit_layers(term))}" for term in terms)
    skipped += f" --stg-scale {terms[0].scale:g} --skip {terms[0].skip}" if terms else ""
    return f"skipguide lab score {model} --clips {clips}{scales}{skipped}"


def _join_layers(layers: Sequence[int | str]) -> str:
    return ",".join(map(str, layers))


def _load_pipeline(model: str, folder: Path | None) -> tuple[DiffusionPipeline, judge.Judge]:
    from safetensors.torch import load_file

    row = MODELS[model]
    if folder:
        training_loop.require_files(
            folder, "pipeline/model_index.json", *["judge.safetensors"] * row.brings_judge
        )
    pipe = row.pipeline.from_pretrained(
        folder / "pipeline" if folder else packaged.packaged_path(f"lab-{model}")
    )
    pipe.set_progress_bar_config(disable=True)
    reader = judge.Judge()
    place = folder if folder and row.brings_judge else packaged.packaged_path("judge")
    reader.load_state_dict(load_file(place / "judge.safetensors"))
    return pipe, reader.eval()


@torch.no_grad()
def judge_clips(reader: judge.Judge, frames: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Return words and features of clips `(B, 3, F, H, W)`.

    The judge expects 19 frames, so some frames of shorter clips are repeated.
    """
    if frames.shape[2] != world.NUM_FRAMES:
        frames = F.interpolate(frames, (world.NUM_FRAMES, *frames.shape[3:]), mode="nearest")
    parts = [reader(chunk) for chunk in frames.split(64)]
    words = {
        name: torch.cat([logits[name].argmax(1) for logits, _ in parts]) for name in judge.HEADS
    }
    return words, torch.cat([features for _, features in parts])


def _share_right(words: dict[str, Tensor], scenes: world.Scenes) -> dict[str, float]:
    return {
        name: round((words[name] == getattr(scenes, name)).float().mean().item(), 4)
        for name in judge.HEADS
    }


def _judge_accuracy(reader: judge.Judge, frames: int, num: int = 512) -> dict[str, float]:
    """Return the share of real clips of `frames` frames that the judge reads right."""
    if frames == world.NUM_FRAMES:
        return judge.accuracy(reader)
    scenes = world.sample_scenes(num, SEED + 3, "all")
    return _share_right(judge_clips(reader, world.render(scenes, frames))[0], scenes)


@torch.no_grad()
def _score_reconstruction(
    pipe: DiffusionPipeline, reader: judge.Judge, kind: autoencoder.AutoencoderSpec, num: int = 256
) -> dict[str, float]:
    """Return what the judge reads after the autoencoder: the upper limit for generated clips."""
    scenes = world.sample_scenes(num, SEED + 2, "all")
    chunks = world.render(scenes, kind.frames).split(16)
    made = [kind.decode(pipe.vae, kind.encode(pipe.vae, c).mean, kind.frames) for c in chunks]
    return _share_right(judge_clips(reader, torch.cat(made))[0], scenes)


def _score_setting(
    model: str,
    pipe: DiffusionPipeline,
    reader: judge.Judge,
    scenes: world.Scenes,
    real: Tensor,
    g: float,
    term: STG | None,
) -> PlainData:
    prompts, videos = world.captions(scenes, SEED), []
    handle = guide(pipe, term) if term else None
    try:
        for start in range(0, len(prompts), BATCH):
            videos.append(generate(pipe, prompts[start : start + BATCH], g, SEED + start, model))
    finally:
        if handle:
            handle.remove()
    words, features = judge_clips(reader, torch.cat(videos))
    held_out = world.is_held_out(scenes.shape, scenes.colour, scenes.motion)
    right = torch.stack([words[name] == getattr(scenes, name) for name in judge.HEADS]).all(0)
    row = {
        "guidance_scale": g,
        "layers": explicit_layers(term) if term else [],
        "stg_scale": term.scale if term else 0.0,
        "skip": term.skip if term else None,
        **_share_right(words, scenes),
    }
    row["all_three"] = round(right.float().mean().item(), 4)
    row["all_three_heldout"] = (
        round(right[held_out].float().mean().item(), 4) if held_out.any() else None
    )
    return {**row, "frechet": round(judge.frechet(features, real), 2)}


def generate(pipe: Any, prompts: list[str], g: float, seed: int, model: str = "mochi") -> Tensor:
    """Generate one batch `(B, 3, F, H, W)` in [-1, 1], with noise drawn from `seed`."""
    row = MODELS[model]
    with ignore_cpu_autocast_warning():
        frames = pipe(
            prompts, height=world.FRAME_SIZE, width=world.FRAME_SIZE, num_frames=row.kind.frames,
            num_inference_steps=STEPS, guidance_scale=g, output_type="pt",
            generator=torch.Generator().manual_seed(seed), **row.call,
        ).frames  # fmt: skip
    return frames.transpose(1, 2) * 2 - 1


def format_table(scores: PlainData) -> str:
    """Format the scores as Markdown."""
    lines = [
        (
            f"- reconstruction: {scores['psnr_db']['train']} dB, held out"
            f" {scores['psnr_db']['heldout']} dB"
        ),
        "- judge on real clips: "
        + ", ".join(f"{name} {value:.3f}" for name, value in scores["judge_accuracy"].items()),
        (
            f"- {scores['clips']} clips per row, {scores['steps']} steps; Frechet of real clips"
            f" {scores['frechet_real']}"
        ),
        "",
        "| CFG | STG layer, scale | shape | colour | motion | all three | held out | Frechet |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for r in scores["generated"]:
        kind = " attention" if r.get("skip") == "attention" else ""
        stg = f"{_join_layers(r['layers'])}{kind}, {r['stg_scale']:g}" if r["layers"] else "-"
        values = [r[name] for name in (*judge.HEADS, "all_three", "all_three_heldout")]
        shares = " | ".join("-" if value is None else f"{value:.3f}" for value in values)
        lines.append(f"| {r['guidance_scale']:g} | {stg} | {shares} | {r['frechet']:.1f} |")
    return "\n".join(lines)
