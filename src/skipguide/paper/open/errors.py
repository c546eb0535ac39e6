"""Figure 2 where it matters: what a push does to the errors on the model's own trajectories.

A model that is not trained to its end samples; at some steps its prediction c is compared with c*,
that of the same model after all of its training, at the same x_t. So e = c - c* is what more
training mends, without the noise that no model can predict. A push by s d (d = c - p of a layer, of
an earlier state of the training, or c - u) lessens the squared error by -2 s <e, d> - s^2 |d|^2,
and mends most at s = -<e, d> / |d|^2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from skipguide.families import lookup
from skipguide.lab import training_loop
from skipguide.method.protocols import PlainData
from skipguide.method.terms import STG, explicit_layers
from skipguide.paper import experiments, models
from skipguide.paper.figure2 import UNCOND, Alignment, compare
from skipguide.paper.open import prompts
from skipguide.paper.open.clips import Generator
from skipguide.paper.rows import Row
from skipguide.pipeline.denoiser import GuidedDenoiser
from skipguide.tuning.scan import levels
from skipguide.weak import patching

Tensor = torch.Tensor
NOISE_SHARES = (0.95, 0.8, 0.6, 0.3)
CLIPS = 128
EARLIER = ("earlier", "state")  # in place of a skip and its layer: Autoguidance's direction


def path(docs: Path) -> Path:
    """Return where the numbers are."""
    return docs / "open" / "errors.csv"


def measure(
    model: Generator, better: Generator, worse: Generator, clips: int = CLIPS
) -> Iterator[tuple[training_loop.Progress, Alignment]]:
    """Measure the first prompts of a kind, a chunk at a time; yields all there is so far.

    Args:
        model: samples without guidance; its layers are skipped.
        better: the same after more training.
        worse: the same after less.
    """
    depth = len(model.pipe.transformer.transformer_blocks)
    terms = [STG((layer,), 1.0, skip) for skip in experiments.SKIPS for layer in range(depth)]
    cells = [(term.skip, str(explicit_layers(term)[0])) for term in terms]
    found: list[Tensor] = []
    for start in range(0, clips, models.CHUNK):
        numbers = range(start, start + models.CHUNK)
        shares, values = _measure_chunk(model, better, worse, terms, numbers)
        found.append(values)
        done = training_loop.Progress(start + models.CHUNK, clips, {}, 0.0)
        yield done, Alignment((*cells, EARLIER, UNCOND), shares, torch.cat(found, 2))


@torch.no_grad()
def _measure_chunk(
    model: Generator, better: Generator, worse: Generator, terms: list[STG], numbers: Sequence[int]
) -> tuple[tuple[float, ...], Tensor]:
    """Return the shares of noise, and (directions, levels, clips, COLUMNS)."""
    family = lookup.family_of(model.pipe)
    branch = GuidedDenoiser(family, model.pipe.transformer, terms, share_prefix=False)
    words = prompts.pool(model.kind).subset(numbers).captions
    found, states = [], _states(model, numbers)
    for _, inputs in states:
        c, weak = branch.denoiser(**inputs)[0], []
        for weakened in branch.weak_passes:
            with patching.patched(weakened.patches()):
                weak.append(branch.denoiser(**inputs)[0])
        weak.append(_predict(worse.pipe, inputs, words))
        weak.append(_predict(model.pipe, inputs, [""] * len(words)))
        target = _predict(better.pipe, inputs, words)
        found.append(torch.stack([compare(c, p, target) for p in weak]))
    return tuple(share for share, _ in states), torch.stack(found, 1).cpu()


def _states(model: Generator, numbers: Sequence[int]) -> list[tuple[float, PlainData]]:
    """Return what the pipeline gives its denoiser at some shares of noise, without guidance."""
    calls: list[PlainData] = []

    def listen(module: Any, args: tuple[Any, ...], kwargs: PlainData) -> None:
        calls.append({**kwargs, "hidden_states": kwargs["hidden_states"].clone()})

    hook = model.pipe.transformer.register_forward_pre_hook(listen, with_kwargs=True)
    try:
        model.clips(Row(), numbers)
    finally:
        hook.remove()
    shares = [1 - float(call["timestep"].flatten()[0]) / 1000 for call in calls]
    return [(share, calls[step]) for _, step, share in levels.nearest_steps(shares, NOISE_SHARES)]


def _predict(pipe: Any, inputs: PlainData, words: list[str]) -> Tensor:
    """Return the prediction of a model, with its own text encoder, for the state of another."""
    embeds, mask, _, _ = pipe.encode_prompt(
        words, do_classifier_free_guidance=False,
        max_sequence_length=inputs["encoder_hidden_states"].shape[1],
    )  # fmt: skip
    given = {**inputs, "encoder_hidden_states": embeds, "encoder_attention_mask": mask}
    return pipe.transformer(**given)[0]
