"""Put a trained lab model into the package: weights, scores, and a model card written from the measurements."""

from __future__ import annotations

import json
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

from skipguide.lab import autoencoder, fit, judge, mochi, models, score, world


def pack(folder: Path, machine: str, docs: Path | None) -> list[Path]:
    """Copy a finished training into the package and write its card, there and into `docs` where that is given.

    Args:
        folder: of the training; needs pipeline, judge.safetensors, history.jsonl and scores.json (`lab score --out`).
        machine: class of machine that trained it, for the card.

    Raises:
        ValueError: if a part is missing.
    """
    fit.require(folder, "pipeline/model_index.json", "judge.safetensors", "history.jsonl", "scores.json")
    target, reader = models.WEIGHTS / "lab-mochi", models.WEIGHTS / "judge"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder / "pipeline", target)
    reader.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "judge.safetensors", reader / "judge.safetensors")
    shutil.copyfile(folder / "scores.json", target / "scores.json")
    for path in models.WEIGHTS.rglob("*.safetensors"):  # safetensors writes them for the owner alone
        path.chmod(0o644)
    cards = [target / "README.md", *([docs / "lab-mochi.md"] if docs else [])]
    for path in cards:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(card(folder, machine), encoding="utf-8")
    return [target, reader, *cards]


def card(folder: Path, machine: str) -> str:
    """The model card, from the training log and the scores."""
    scores: dict[str, Any] = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    template = resources.files("skipguide.lab").joinpath("card.md").read_text(encoding="utf-8")
    return template.format(
        frames=world.NUM_FRAMES,
        size=world.FRAME_SIZE,
        fps=world.FPS,
        colours=", ".join(world.COLOURS),
        shapes=" or ".join(world.SHAPES),
        motions=", ".join(world.MOTIONS),
        parts=_parts(folder, history),
        machine=machine,
        dropout=mochi.CAPTION_DROPOUT,
        clips=mochi.NUM_CLIPS,
        count=scores["clips"],
        steps=scores["steps"],
        command=scores["command"],
        table=score.table(scores),
        curve=_curve(history),
        ceiling=", ".join(f"{name} {value:.3f}" for name, value in scores["judge_accuracy_reconstructed"].items()),
    )


def _parts(folder: Path, history: list[dict[str, Any]]) -> str:
    from safetensors import safe_open

    def parameters(path: Path) -> str:
        with safe_open(path, framework="pt") as file:
            count = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118 (not a dictionary)
        return f"{count / 1e6:.2f}M"

    last = {row["stage"]: row for row in history}

    def trained(stage: str) -> str:
        return f"{last[stage]['step']} steps, {last[stage]['seconds'] / 60:.0f} min"

    files = {
        "autoencoder": ("vae/diffusion_pytorch_model", "AutoencoderKLMochi", trained("autoencoder")),
        "transformer": ("transformer/diffusion_pytorch_model", "MochiTransformer3DModel", trained("transformer")),
        "text encoder": ("text_encoder/model", "T5EncoderModel", "with the transformer"),
    }
    on = {
        "autoencoder": f"{autoencoder.BATCH_SIZE} crops of {autoencoder.CROP} px a step, then whole frames",
        "transformer": f"{mochi.BATCH_SIZE} clips a step",
        "text encoder": f"{mochi.BATCH_SIZE} captions a step",
    }
    rows = [
        f"| {part} | {kind} | {parameters(folder / 'pipeline' / f'{file}.safetensors')} | {time} | {on[part]} |"
        for part, (file, kind, time) in files.items()
    ]
    reader = parameters(folder / "judge.safetensors")
    return "\n".join([*rows, f"| judge | Judge | {reader} | {trained('judge')} | {judge.BATCH_SIZE} clips a step |"])


def _curve(history: list[dict[str, Any]]) -> str:
    lines = ["| stage | step | minutes | measured (mean over the steps before) |", "|---|---:|---:|---|"]
    for stage in ("autoencoder", "judge", "transformer"):
        rows = [row for row in history if row["stage"] == stage]
        for row in rows[:: max(len(rows) // 8, 1)][:-1] + rows[-1:]:
            values = {name: value for name, value in row.items() if name not in ("stage", "step", "seconds")}
            measured = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
            lines.append(f"| {stage} | {row['step']} | {row['seconds'] / 60:.1f} | {measured} |")
    return "\n".join(lines)
