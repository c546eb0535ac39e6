"""How good a lab model is: reconstruction, the judge's reading of generated clips, and their Frechet distance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from skipguide import STG, guide
from skipguide.lab import autoencoder, fit, judge, models, world
from skipguide.quirks import quiet_autocast

Tensor = torch.Tensor
STEPS = 28
BATCH = 32
SEED = 7 * 10**6


def score(
    folder: Path | None, clips: int, guidance_scales: Sequence[float], layers: Sequence[int], stg_scale: float,
    note: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """Measure the packaged model, or the one in a training folder.

    Every setting generates the same `clips` prompts from the same noise; prompts name one object, are phrased at random
    and come from all combinations, held-out ones included.
    """
    pipe, reader = _load(folder)
    note("reconstruction and the judge on real clips")
    found: dict[str, Any] = {
        "command": _command(clips, guidance_scales, layers, stg_scale),
        "clips": clips,
        "steps": STEPS,
        "psnr_db": {
            split: round(autoencoder.psnr(pipe.vae, autoencoder.MOCHI, split), 2) for split in ("train", "heldout")
        },
        "judge_accuracy": judge.accuracy(reader),
        "judge_accuracy_reconstructed": _reconstructed(pipe, reader),
        "generated": [],
    }
    scenes = world.sample_scenes(clips, SEED, "all", second_share=0.0)
    real = read(reader, world.render(world.sample_scenes(clips, SEED + 1, "all", second_share=0.0)))[1]
    found["frechet_real"] = round(judge.frechet(read(reader, world.render(scenes))[1], real), 2)
    settings = [(g, ()) for g in guidance_scales] + [(guidance_scales[-1], (layer,)) for layer in layers]
    for g, skipped in settings:
        row = _generated(pipe, reader, scenes, real, g, skipped, stg_scale)
        note(str(row))
        found["generated"].append(row)
    return found


def _command(clips: int, guidance_scales: Sequence[float], layers: Sequence[int], stg_scale: float) -> str:
    """What measures the same on the packaged model."""
    scales = "".join(f" --guidance-scale {g:g}" for g in guidance_scales)
    skipped = "".join(f" --layers {layer}" for layer in layers) + (f" --stg-scale {stg_scale:g}" if layers else "")
    return f"skipguide lab score mochi --clips {clips}{scales}{skipped}"


def _load(folder: Path | None) -> tuple[Any, judge.Judge]:
    from diffusers.pipelines.mochi.pipeline_mochi import MochiPipeline
    from safetensors.torch import load_file

    if folder:
        fit.require(folder, "pipeline/model_index.json", "judge.safetensors")
    pipe = MochiPipeline.from_pretrained(folder / "pipeline" if folder else models.path("lab-mochi"))
    pipe.set_progress_bar_config(disable=True)
    reader = judge.Judge()
    reader.load_state_dict(load_file((folder or models.path("judge")) / "judge.safetensors"))
    return pipe, reader.eval()


@torch.no_grad()
def read(reader: judge.Judge, frames: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    parts = [reader(chunk) for chunk in frames.split(64)]
    words = {name: torch.cat([logits[name].argmax(1) for logits, _ in parts]) for name in judge.HEADS}
    return words, torch.cat([features for _, features in parts])


def _share(words: dict[str, Tensor], scenes: world.Scenes) -> dict[str, float]:
    return {name: round((words[name] == getattr(scenes, name)).float().mean().item(), 4) for name in judge.HEADS}


@torch.no_grad()
def _reconstructed(pipe: Any, reader: judge.Judge, num: int = 256) -> dict[str, float]:
    """What the judge reads after the autoencoder: the ceiling for generated clips."""
    scenes = world.sample_scenes(num, SEED + 2, "all")
    chunks = world.render(scenes).split(16)
    return _share(
        read(reader, torch.cat([pipe.vae.decode(pipe.vae.encode(c).latent_dist.mean).sample for c in chunks]))[0],
        scenes,
    )


def _generated(
    pipe: Any,
    reader: judge.Judge,
    scenes: world.Scenes,
    real: Tensor,
    g: float,
    layers: tuple[int, ...],
    stg_scale: float,
) -> dict[str, Any]:
    prompts, videos = world.captions(scenes, SEED), []
    handle = guide(pipe, STG(layers=layers, scale=stg_scale)) if layers else None
    try:
        for start in range(0, len(prompts), BATCH):
            videos.append(generate(pipe, prompts[start : start + BATCH], g, SEED + start))
    finally:
        if handle:
            handle.remove()
    words, features = read(reader, torch.cat(videos))
    held_out = world.is_held_out(scenes.shape, scenes.colour, scenes.motion)
    right = torch.stack([words[name] == getattr(scenes, name) for name in judge.HEADS]).all(0)
    row = {
        "guidance_scale": g,
        "layers": list(layers),
        "stg_scale": stg_scale if layers else 0.0,
        **_share(words, scenes),
    }
    row["all_three"] = round(right.float().mean().item(), 4)
    row["all_three_heldout"] = round(right[held_out].float().mean().item(), 4) if held_out.any() else None
    return {**row, "frechet": round(judge.frechet(features, real), 2)}


def generate(pipe: Any, prompts: list[str], g: float, seed: int) -> Tensor:
    """`(B, 3, F, H, W)` in [-1, 1]: one batch through the pipeline, noise drawn from `seed`."""
    with quiet_autocast():
        frames = pipe(
            prompts, height=world.FRAME_SIZE, width=world.FRAME_SIZE, num_frames=world.NUM_FRAMES,
            num_inference_steps=STEPS, guidance_scale=g, max_sequence_length=32, output_type="pt",
            generator=torch.Generator().manual_seed(seed),
        ).frames  # fmt: skip
    return frames.transpose(1, 2) * 2 - 1


def table(scores: dict[str, Any]) -> str:
    """The scores for people, as Markdown."""
    lines = [
        f"- reconstruction: {scores['psnr_db']['train']} dB, held out {scores['psnr_db']['heldout']} dB",
        "- judge on real clips: "
        + ", ".join(f"{name} {value:.3f}" for name, value in scores["judge_accuracy"].items()),
        f"- {scores['clips']} clips per row, {scores['steps']} steps; Frechet of real clips {scores['frechet_real']}",
        "",
        "| CFG | STG layer, scale | shape | colour | motion | all three | held out | Frechet |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for r in scores["generated"]:
        stg = f"{r['layers'][0]}, {r['stg_scale']:g}" if r["layers"] else "-"
        values = [r[name] for name in (*judge.HEADS, "all_three", "all_three_heldout")]
        shares = " | ".join("-" if value is None else f"{value:.3f}" for value in values)
        lines.append(f"| {r['guidance_scale']:g} | {stg} | {shares} | {r['frechet']:.1f} |")
    return "\n".join(lines)
