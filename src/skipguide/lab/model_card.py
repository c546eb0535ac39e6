"""Put a trained lab model into the package: weights, scores, and a model card.

The card is written from the measurements.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from skipguide.files import packaged
from skipguide.lab import (
    autoencoder,
    judge,
    mochi,
    open_captions,
    open_judge,
    open_world,
    opensora,
    score_svd,
    score_text,
    sd3,
    stills,
    svd,
    text_to_video,
    training_loop,
    world,
)
from skipguide.method.protocols import PlainData

# its name, its class, its file in the pipeline, what a step trains on
Part = tuple[str, str, str, str]


def _mochi_parts(kind: autoencoder.AutoencoderSpec, recipe: mochi.Recipe) -> dict[str, Part]:
    return {
        "autoencoder": (
            "autoencoder", "AutoencoderKLMochi", "vae/diffusion_pytorch_model",
            f"{kind.crops} crops of {autoencoder.CROP} px a step, then whole frames",
        ),
        "transformer": (
            "transformer", "MochiTransformer3DModel", "transformer/diffusion_pytorch_model",
            f"{recipe.batch_size} clips a step",
        ),
        "transformer, too": (
            "text encoder", "T5EncoderModel", "text_encoder/model",
            f"{recipe.batch_size} captions a step"
        ),
    }  # fmt: skip


@dataclass(frozen=True)
class PackedJudge:
    """The judge that comes with a model: its file in the training, its class and batches."""

    file: str
    packed: str  # its folder in the package
    kind: str
    batch: int


JUDGES = {
    "mochi": PackedJudge("judge.safetensors", "judge", "Judge", judge.BATCH_SIZE),
    "mochi-2": PackedJudge(
        "open-judge.safetensors", "open-judge", "OpenJudge", open_judge.BATCH_SIZE
    ),
}
# model -> stage that trains the part -> part; a stage with a comma trains several parts
PARTS: dict[str, dict[str, Part]] = {
    "mochi": _mochi_parts(autoencoder.MOCHI, mochi.CLOSED),
    "mochi-2": _mochi_parts(autoencoder.OPEN_MOCHI, mochi.OPEN),
    "svd": {
        "autoencoder": (
            "autoencoder", "AutoencoderKLTemporalDecoder", "vae/diffusion_pytorch_model",
            f"{autoencoder.SVD.crops} crops of {autoencoder.CROP} px and"
            f" {autoencoder.SVD.crop_frames} frames a step, then whole clips",
        ),
        "image encoder": (
            "image encoder", "CLIPVisionModelWithProjection", "image_encoder/model",
            f"{2 * svd.READER_BATCH} frames a step",
        ),
        "unet": (
            "UNet", "UNetSpatioTemporalConditionModel", "unet/diffusion_pytorch_model",
            f"{svd.BATCH_SIZE} clips a step"
        ),
    },
    "opensora": {
        "autoencoder": (
            "autoencoder", "AutoencoderKLOpenSora", "vae/diffusion_pytorch_model",
            f"{autoencoder.OPENSORA.crops} crops of {autoencoder.CROP} px and"
            f" {autoencoder.OPENSORA.crop_frames} frames a step, then whole clips",
        ),
        "transformer": (
            "transformer", "OpenSoraTransformer3DModel", "transformer/diffusion_pytorch_model",
            f"{opensora.BATCH_SIZE} clips a step",
        ),
        "transformer, too": (
            "text encoder", "T5EncoderModel", "text_encoder/model",
            f"{opensora.BATCH_SIZE} captions a step"
        ),
    },
    "sd3": {
        "autoencoder": (
            "autoencoder", "AutoencoderKL", "vae/diffusion_pytorch_model",
            f"{sd3.AUTOENCODER.crops} crops of {autoencoder.CROP} px a step, then whole pictures",
        ),
        "transformer": (
            "transformer", "SD3Transformer2DModel", "transformer/diffusion_pytorch_model",
            f"{sd3.BATCH_SIZE} pictures a step",
        ),
        "transformer, too": (
            "two text encoders, each", "CLIPTextModelWithProjection", "text_encoder/model",
            f"{sd3.BATCH_SIZE} captions a step"
        ),
    },
}  # fmt: skip


def pack(model: str, folder: Path, machine: str, docs: Path | None) -> list[Path]:
    """Copy a finished training into the package and write its card, also into `docs` if given.

    Args:
        model: a key of PARTS; with some of them comes a judge (JUDGES).
        folder: of the training; needs pipeline, history.jsonl and scores.json (`lab score --out`),
            and the file of the judge.
        machine: kind of machine that trained it, for the card.

    Raises:
        ValueError: if a part is missing.
    """
    name, reader = f"lab-{model}", JUDGES.get(model)
    training_loop.require_files(
        folder,
        "pipeline/model_index.json",
        *([reader.file] if reader else []),
        "history.jsonl",
        "scores.json",
    )
    # The card comes first, because it fails if the scores belong to another model.
    text = build_card(model, folder, machine)
    target = packaged.WEIGHTS / name
    with training_loop.atomic_path(target.with_name(f"{name}.new")) as part:
        shutil.copytree(folder / "pipeline", part)
        _strip_local_paths(part)
        shutil.copyfile(folder / "scores.json", part / "scores.json")
        (part / "README.md").write_text(text, encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    target.with_name(f"{name}.new").rename(target)
    made = [target]
    if reader:
        made.append(packaged.WEIGHTS / reader.packed)
        made[-1].mkdir(parents=True, exist_ok=True)
        with training_loop.atomic_path(made[-1] / "judge.safetensors") as part:
            shutil.copyfile(folder / reader.file, part)
    # safetensors makes its files readable by the owner only.
    for path in packaged.WEIGHTS.rglob("*.safetensors"):
        path.chmod(0o644)
    if docs:
        docs.mkdir(parents=True, exist_ok=True)
        made.append(docs / f"{name}.md")
        made[-1].write_text(text, encoding="utf-8")
    return made


def build_card(model: str, folder: Path, machine: str) -> str:
    """Return the model card, from the training log and the scores."""
    scores: PlainData = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    history = [
        json.loads(line)
        for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    template = (
        resources.files("skipguide.lab").joinpath(f"card-{model}.md").read_text(encoding="utf-8")
    )
    common = dict(
        size=world.FRAME_SIZE,
        colours=", ".join(world.COLOURS),
        shapes=" or ".join(world.SHAPES),
        motions=", ".join(world.MOTIONS),
        parts=_parts_table(model, folder, history),
        machine=machine,
        count=scores["clips"],
        steps=scores["steps"],
        command=scores["command"],
        curve=_training_curve(history),
    )
    fields = _svd_fields(scores) if model == "svd" else _text_fields(model, scores)
    return template.format(**{**common, **fields})


def _svd_fields(scores: PlainData) -> dict[str, object]:
    slowest, fastest = svd.FPS
    return dict(
        frames=svd.FRAMES, dropout=svd.IMAGE_DROPOUT, clips=svd.NUM_CLIPS, slowest=slowest,
        fastest=fastest, unit=svd.BUCKETS_PER_UNIT, usual=svd.USUAL_FPS,
        restart=svd.SCHEDULE.restarts[0], table=score_svd.format_table(scores),
    )  # fmt: skip


# The fields of the cards of the text-to-video models, beside those that are measured.
_TEXT_FIELDS: dict[str, dict[str, object]] = {
    "mochi": dict(frames=world.NUM_FRAMES, clips=mochi.CLOSED.num_clips),
    "mochi-2": dict(
        frames=world.NUM_FRAMES, clips=mochi.OPEN.num_clips, most=open_world.MOST_OBJECTS,
        shapes=" or ".join(open_world.SHAPES), textures=", ".join(open_world.TEXTURES),
        slots=", ".join(open_world.SLOTS), nothing=open_captions.NOTHING_NAMED,
        backgrounds=", ".join(open_world.BACKGROUNDS), cameras=", ".join(open_world.CAMERAS),
        snapshots=" and ".join(map(str, mochi.OPEN.schedule.snapshots)),
    ),
    "opensora": dict(
        frames=opensora.FRAMES, clips=text_to_video.NUM_CLIPS, empty=opensora.EMPTY_SHARE,
        given=opensora.GIVEN_SHARE, channels=autoencoder.OPENSORA_CONFIG["latent_channels"],
        scored=opensora.SCORED_SHARE, aesthetic=opensora.AESTHETIC_SCORE,
        pairs=opensora.TRANSFORMER["num_layers"],
    ),
    "sd3": dict(
        pictures=sd3.NUM_STILLS, most=open_world.MOST_OBJECTS, t5=sd3.T5_TOKENS,
        shapes=" or ".join(open_world.SHAPES), textures=", ".join(open_world.TEXTURES),
        slots=", ".join(stills.SLOTS), nothing=open_captions.NOTHING_NAMED,
        backgrounds=", ".join(open_world.BACKGROUNDS), tokens=sd3.MAX_TOKENS,
        blocks=sd3.TRANSFORMER["num_layers"],
    ),
}  # fmt: skip


def _text_fields(model: str, scores: PlainData) -> dict[str, object]:
    read = scores["judge_accuracy_reconstructed"]
    return dict(
        table=score_text.format_table(scores, model),
        ceiling=", ".join(f"{name} {value:.3f}" for name, value in read.items()),
        fps=world.FPS,
        dropout=text_to_video.CAPTION_DROPOUT,
        **_TEXT_FIELDS[model],
    )


def _strip_local_paths(pipeline: Path) -> None:
    """Remove from the configs the local folder that a part was loaded from."""
    for path in pipeline.glob("*/config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _parts_table(model: str, folder: Path, history: list[PlainData]) -> str:
    from safetensors import safe_open

    def parameters(path: Path) -> str:
        count = 0
        for shard in path.parent.glob(f"{path.name}*.safetensors"):
            with safe_open(shard, framework="pt") as file:
                count += sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118 (not a dictionary)
        return f"{count / 1e6:.2f}M"

    last = {row["stage"]: row for row in history}

    def trained(stage: str) -> str:
        return f"{last[stage]['step']} steps, {last[stage]['seconds'] / 60:.0f} min"

    rows = []
    for stage, (name, kind, file, on) in PARTS[model].items():
        together, _, too = stage.partition(", ")
        time = f"with the {PARTS[model][together][0]}" if too else trained(stage)
        size = parameters(folder / "pipeline" / file)
        rows.append(f"| {name} | {kind} | {size} | {time} | {on} |")
    if reader := JUDGES.get(model):
        size = parameters(folder / reader.file.removesuffix(".safetensors"))
        rows.append(
            f"| judge | {reader.kind} | {size} | {trained('judge')} | {reader.batch} clips a step |"
        )
    return "\n".join(rows)


def _training_curve(history: list[PlainData]) -> str:
    lines = [
        "| stage | step | minutes | measured (mean over the steps before) |",
        "|---|---:|---:|---|",
    ]
    for stage in ("autoencoder", "decoder", "judge", "transformer", "image encoder", "unet"):
        rows = [row for row in history if row["stage"] == stage]
        for row in rows[:: max(len(rows) // 8, 1)][:-1] + rows[-1:]:
            values = {
                name: value
                for name, value in row.items()
                if name not in ("stage", "step", "seconds")
            }
            measured = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
            lines.append(f"| {stage} | {row['step']} | {row['seconds'] / 60:.1f} | {measured} |")
    return "\n".join(lines)
