"""Scores of the lab models that make videos and pictures of prompts.

Measured are its reconstruction, what the judge reads in generated clips, and their Frechet
distance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.pipelines.mochi.pipeline_mochi import MochiPipeline
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import (
    StableDiffusion3Pipeline,
)
from torch import nn

from skipguide import STG, guide
from skipguide.files import packaged
from skipguide.lab import autoencoder, judge, open_judge, readers, sd3, training_loop, world, worlds
from skipguide.method.protocols import PlainData
from skipguide.method.terms import explicit_layers
from skipguide.opensora import OpenSoraPipeline
from skipguide.pipeline.warnings import ignore_cpu_autocast_warning

Tensor = torch.Tensor
STEPS = 28
BATCH = 32
SEED = 7 * 10**6


@dataclass(frozen=True)
class Reading:
    """The words that a judge reads in clips.

    Args:
        words: `(N,)` by head.
        features: `(N, 128)`.
        constant: `(N,)`, whether every frame has the same shape; None from a judge that does not
            read single frames.
    """

    words: dict[str, Tensor]
    features: Tensor
    constant: Tensor | None = None


@dataclass(frozen=True)
class Shares:
    """The shares of clips that are right which the scores of a world have.

    Args:
        together: the name of the share in which all words that the prompt names are right.
        more: scenes, that of each clip, what was read -> further shares.
        splits: of the clips on which the reconstruction is measured, and how they are called.
        headings: of the columns of the table, by the names in a row of the scores.
    """

    together: str
    more: Callable[[Any, Tensor, Reading], dict[str, float | None]]
    splits: Mapping[str, str]
    headings: Mapping[str, str]


def _share_of_held_out(
    scenes: world.Scenes, right: Tensor, reading: Reading
) -> dict[str, float | None]:
    held_out = world.is_held_out(scenes.shape, scenes.colour, scenes.motion)
    return {"all_three_heldout": _share(right[held_out])}


def _share_of_constant(scenes: Any, right: Tensor, reading: Reading) -> dict[str, float | None]:
    return {} if reading.constant is None else {"constant": _share(reading.constant)}


def _share(right: Tensor) -> float | None:
    """Return the share of clips that are right, None of no clips."""
    return round(right.float().mean().item(), 4) if len(right) else None


CLOSED_SHARES = Shares(
    "all_three",
    _share_of_held_out,
    {"train": "", "heldout": "held out "},
    {name: name for name in worlds.CLOSED.slots}
    | {"all_three": "all three", "all_three_heldout": "held out"},
)
OPEN_SHARES = Shares(
    "all_named",
    _share_of_constant,
    {"unseen": ""},
    {name: name for name in worlds.OPEN.slots}
    | {"all_named": "all named", "constant": "constant shape"},
)
STILL_SHARES = Shares(
    "all_named",
    lambda *_: {},
    {"unseen": ""},
    {name: name for name in worlds.STILLS.slots} | {"all_named": "all named"},
)


@dataclass(frozen=True)
class ScoredModel:
    """The facts in which the lab models differ."""

    pipeline: type[DiffusionPipeline]
    kind: autoencoder.AutoencoderSpec
    call: PlainData  # arguments of a call, beside the prompts, CFG's scale and the noise
    judge_file: str = ""  # of a training; without one the packaged judge is used
    world: worlds.World = field(default=worlds.CLOSED, repr=False)
    shares: Shares = field(default=CLOSED_SHARES, repr=False)


MODELS = {
    "mochi": ScoredModel(
        MochiPipeline, autoencoder.MOCHI, dict(max_sequence_length=32), "judge.safetensors"
    ),
    "mochi-2": ScoredModel(
        MochiPipeline, autoencoder.OPEN_MOCHI, dict(max_sequence_length=32),
        "open-judge.safetensors", worlds.OPEN, OPEN_SHARES,
    ),
    "opensora": ScoredModel(
        OpenSoraPipeline, autoencoder.OPENSORA,
        dict(max_sequence_length=32, fps=world.FPS, aesthetic_score=None, clean_caption=False),
    ),
    "sd3": ScoredModel(
        StableDiffusion3Pipeline, sd3.AUTOENCODER, {}, world=worlds.STILLS, shares=STILL_SHARES,
    ),
}  # fmt: skip


def score(
    folder: Path | None, clips: int, guidance_scales: Sequence[float], terms: Sequence[STG],
    note: Callable[[str], None], model: str = "mochi",
) -> PlainData:  # fmt: skip
    """Measure the packaged model, or the one in a training folder.

    Every setting generates the same `clips` prompts from the same noise. Prompts name one object,
    are phrased at random and come from all combinations, including held-out ones. In the open world
    there are several kinds of prompts, by what they name, and rows of each.

    Args:
        terms: each is used alone, with the last CFG scale; all have one scale and skip.
    """
    row, kind, known = MODELS[model], MODELS[model].kind, MODELS[model].world
    pipe, reader = load_pipeline(model, folder)
    for term in terms:
        guide(pipe, term).remove()  # fails early if a layer does not exist
    note("reconstruction and the judge on real clips")
    found: PlainData = {
        "command": _format_command(model, clips, guidance_scales, terms),
        "clips": clips,
        "steps": STEPS,
        "psnr_db": {
            split: round(autoencoder.psnr(pipe.vae, kind, split), 2) for split in row.shares.splits
        },
        "judge_accuracy": _judge_accuracy(row, reader),
        "judge_accuracy_reconstructed": _score_reconstruction(row, pipe, reader),
        "generated": [],
    }
    scenes, others = (known.draw_prompted(clips, seed) for seed in (SEED, SEED + 1))
    same, real = (
        read_clips(reader, known.render(drawn, kind.frames)).features for drawn in (scenes, others)
    )
    found["frechet_real"] = round(judge.frechet(same, real), 2)
    settings = [(g, None) for g in guidance_scales] + [
        (guidance_scales[-1], term) for term in terms
    ]
    for prompts in known.prompts:
        for g, term in settings:
            scored = _score_setting(
                model, pipe, reader, Prompts(scenes, prompts, row), real, g, term
            )
            note(str(scored))
            found["generated"].append(scored)
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


def load_pipeline(model: str, folder: Path | None) -> tuple[DiffusionPipeline, nn.Module]:
    """Return a lab model's pipeline and the judge of its world, from a training folder if given."""
    row = MODELS[model]
    if folder:
        brought = [row.judge_file] if row.judge_file else []
        training_loop.require_files(folder, "pipeline/model_index.json", *brought)
    pipe = row.pipeline.from_pretrained(
        folder / "pipeline" if folder else packaged.packaged_path(f"lab-{model}")
    )
    pipe.set_progress_bar_config(disable=True)
    own = folder / row.judge_file if folder and row.judge_file else None
    return pipe, readers.load_weights(own) if own else row.world.reader.load()


@torch.no_grad()
def read_clips(reader: nn.Module, frames: Tensor) -> Reading:
    """Let a judge read clips `(B, 3, F, H, W)`.

    It expects 19 frames, so some frames of shorter clips are repeated.
    """
    if frames.shape[2] != world.NUM_FRAMES:
        frames = F.interpolate(frames, (world.NUM_FRAMES, *frames.shape[3:]), mode="nearest")
    logits, features, *by_frame = zip(*(reader(chunk) for chunk in frames.split(64)), strict=True)
    words = {name: torch.cat([part[name].argmax(1) for part in logits]) for name in logits[0]}
    constant = [open_judge.is_constant(torch.cat(shapes)) for shapes in by_frame]
    return Reading(words, torch.cat(features), *constant)


def _share_right(row: ScoredModel, reading: Reading, scenes: Any) -> dict[str, float | None]:
    """Return the share of clips that each head reads right."""
    truth = row.world.truth(scenes)
    shares = {name: _share(reading.words[name] == right) for name, right in truth.items()}
    constant = {} if reading.constant is None else {"constant": _share(reading.constant)}
    return {**shares, **constant}


def _judge_accuracy(
    row: ScoredModel, reader: nn.Module, num: int = 512
) -> Mapping[str, float | None]:
    """Return the share of real clips, as long as the model's, that the judge reads right."""
    if row.kind.frames == world.NUM_FRAMES:
        return row.world.accuracy(reader)
    scenes = row.world.draw(num, SEED + 3)
    return _share_right(row, read_clips(reader, row.world.render(scenes, row.kind.frames)), scenes)


def _score_reconstruction(
    row: ScoredModel, pipe: DiffusionPipeline, reader: nn.Module, num: int = 256
) -> dict[str, float | None]:
    """Return what the judge reads after the autoencoder: the upper limit for generated clips."""
    scenes = row.world.draw(num, SEED + 2)
    frames = row.world.render(scenes, row.kind.frames)
    made = autoencoder.reconstruct(pipe.vae, row.kind, frames)
    return _share_right(row, read_clips(reader, made), scenes)


class Prompts:
    """The prompts of one kind, of one scene each.

    Args:
        kind: a key of the prompts of the model's world.
    """

    def __init__(self, scenes: Any, kind: str, row: ScoredModel) -> None:
        self.scenes, self.kind, self.row = scenes, kind, row
        self.captions = row.world.caption(scenes, SEED, row.world.prompts[kind])

    def all_right(self, reading: Reading) -> Tensor:
        """Return of each clip whether all that its prompt names is read right: `(N,)`."""
        right, named = self._right(reading)
        return torch.stack([right[slot] | ~named[slot] for slot in right]).all(0)

    def _right(self, reading: Reading) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return by slot which clips are read right, and which prompts name it."""
        truth, right, named = self.row.world.truth(self.scenes), {}, {}
        for slot, heads in self.row.world.slots.items():
            right[slot] = torch.stack([reading.words[head] == truth[head] for head in heads]).all(0)
            named[slot] = torch.tensor([slot in caption.named for caption in self.captions])
        return right, named

    def shares(self, reading: Reading) -> dict[str, float | None]:
        """Return the shares of clips that are right, of those whose prompt names the word."""
        right, named = self._right(reading)
        together = torch.stack([right[slot] | ~named[slot] for slot in right]).all(0)
        names_any = torch.stack(list(named.values())).any(0)
        return {
            **{slot: _share(right[slot][named[slot]]) for slot in right},
            self.row.shares.together: _share(together[names_any]),
            **self.row.shares.more(self.scenes, together, reading),
        }


def _score_setting(
    model: str,
    pipe: DiffusionPipeline,
    reader: nn.Module,
    prompts: Prompts,
    real: Tensor,
    g: float,
    term: STG | None,
) -> PlainData:
    texts, videos = [caption.text for caption in prompts.captions], []
    handle = guide(pipe, term) if term else None
    try:
        for start in range(0, len(texts), BATCH):
            videos.append(generate(pipe, texts[start : start + BATCH], g, SEED + start, model))
    finally:
        if handle:
            handle.remove()
    reading = read_clips(reader, torch.cat(videos))
    several = len(prompts.row.world.prompts) > 1
    return {
        **({"prompts": prompts.kind} if several else {}),
        "guidance_scale": g,
        "layers": explicit_layers(term) if term else [],
        "stg_scale": term.scale if term else 0.0,
        "skip": term.skip if term else None,
        **prompts.shares(reading),
        "frechet": round(judge.frechet(reading.features, real), 2),
    }


def generate(
    pipe: Any, prompts: list[str], g: float, seed: int, model: str = "mochi", steps: int = STEPS
) -> Tensor:
    """Generate one batch `(B, 3, F, H, W)` in [-1, 1], with noise drawn from `seed`.

    A picture is a clip of one frame.
    """
    row = MODELS[model]
    is_still = row.kind.frames == 1
    length: PlainData = {} if is_still else {"num_frames": row.kind.frames}
    with ignore_cpu_autocast_warning():
        made = pipe(
            prompts, height=world.FRAME_SIZE, width=world.FRAME_SIZE, num_inference_steps=steps,
            guidance_scale=g, output_type="pt", generator=torch.Generator().manual_seed(seed),
            **length, **row.call,
        )  # fmt: skip
    frames = made.images[:, :, None] if is_still else made.frames.transpose(1, 2)
    return frames * 2 - 1


def format_table(scores: PlainData, model: str = "mochi") -> str:
    """Format the scores of a model as Markdown."""
    shares = MODELS[model].shares
    reconstruction = [
        f"{name}{scores['psnr_db'][split]} dB" for split, name in shares.splits.items()
    ]
    several = len(MODELS[model].world.prompts) > 1
    first = ["prompts"] * several
    headings = [*first, "CFG", "STG layer, scale", *shares.headings.values(), "Frechet"]
    lines = [
        "- reconstruction: " + ", ".join(reconstruction),
        "- judge on real clips: "
        + ", ".join(f"{name} {value:.3f}" for name, value in scores["judge_accuracy"].items()),
        (
            f"- {scores['clips']} clips per row, {scores['steps']} steps; Frechet of real clips"
            f" {scores['frechet_real']}"
        ),
        "",
        f"| {' | '.join(headings)} |",
        "|---" * several + "|---:|---|" + "---:|" * (len(shares.headings) + 1),
    ]
    for r in scores["generated"]:
        kind = " attention" if r.get("skip") == "attention" else ""
        stg = f"{_join_layers(r['layers'])}{kind}, {r['stg_scale']:g}" if r["layers"] else "-"
        values = ["-" if r[name] is None else f"{r[name]:.3f}" for name in shares.headings]
        cells = [*(r[name] for name in first), f"{r['guidance_scale']:g}", stg, *values]
        lines.append(f"| {' | '.join(cells)} | {r['frechet']:.1f} |")
    return "\n".join(lines)
