"""Figure 2 where it matters: what a push does to the errors on the model's own trajectories.

A model that is not trained to its end samples; at some steps its prediction c is compared with c*,
that of the same model after all of its training, at the same x_t. So e = c - c* is what more
training mends, without the noise that no model can predict. A push by s d (d = c - p of a layer, of
an earlier state of the training, or c - u) lessens the squared error by -2 s <e, d> - s^2 |d|^2,
and mends most at s = -<e, d> / |d|^2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from skipguide.families import lookup
from skipguide.lab import training_loop
from skipguide.method.protocols import PlainData
from skipguide.method.terms import STG
from skipguide.paper import models
from skipguide.paper.open import prompts
from skipguide.paper.open.clips import Generator
from skipguide.paper.rows import Row
from skipguide.pipeline.denoiser import GuidedDenoiser
from skipguide.stats import intervals
from skipguide.stats.estimate import Estimate
from skipguide.tuning.scan import levels
from skipguide.weak import patching

Tensor = torch.Tensor
COLUMNS = ("product", "push", "error")  # <e, d>, |d|^2 and |e|^2
SKIPS = ("residual", "attention")
NOISE_SHARES = (0.95, 0.8, 0.6, 0.3)
CLIPS = 128
EARLIER, UNCOND = "an earlier state", "CFG"


@dataclass(frozen=True)
class Errors:
    """What was measured: `values` is (directions, levels, clips, COLUMNS), float64."""

    directions: tuple[str, ...]
    values: Tensor

    def cosine(self, direction: str) -> Estimate:
        """Return the mean cosine of e and d over clips; below 0, a small push lessens the error."""
        found = self.values[self.directions.index(direction)]
        product, push, error = found.unbind(-1)
        return intervals.mean((product / (push * error).sqrt()).mean(0))

    def mended(self, direction: str) -> float:
        """Return the share of the squared error that one scale for all mends, 0 if none does."""
        found = self.values[self.directions.index(direction)]
        product, push, error = found.sum((0, 1)).tolist()
        return max(-product, 0.0) ** 2 / (push * error)

    def scale(self, direction: str) -> float:
        """Return the scale that mends most; below 0, no push away from p mends anything."""
        found = self.values[self.directions.index(direction)]
        product, push, _ = found.sum((0, 1)).tolist()
        return -product / push


def measure(
    model: Generator, better: Generator, worse: Generator, clips: int = CLIPS
) -> Iterator[tuple[training_loop.Progress, Errors]]:
    """Measure the first prompts of a kind, a chunk at a time; yields all there is so far.

    Args:
        model: samples without guidance; its layers are skipped.
        better: the same after more training.
        worse: the same after less.
    """
    found: list[Tensor] = []
    terms = [STG((layer,), 1.0, skip) for skip in SKIPS for layer in range(_depth(model))]
    names = (*(f"{term.skip} {term.layers[0]}" for term in terms), EARLIER, UNCOND)  # type: ignore[index]
    for start in range(0, clips, models.CHUNK):
        numbers = range(start, start + models.CHUNK)
        found.append(_measure_chunk(model, better, worse, terms, numbers))
        done = training_loop.Progress(start + models.CHUNK, clips, {}, 0.0)
        yield done, Errors(names, torch.cat(found, 2))


def _depth(model: Generator) -> int:
    return len(model.pipe.transformer.transformer_blocks)


@torch.no_grad()
def _measure_chunk(
    model: Generator, better: Generator, worse: Generator, terms: list[STG], numbers: Sequence[int]
) -> Tensor:
    family = lookup.family_of(model.pipe)
    branch = GuidedDenoiser(family, model.pipe.transformer, terms, share_prefix=False)
    words = prompts.pool(model.kind).subset(numbers).captions
    found = []
    for inputs in _states(model, numbers):
        c = branch.denoiser(**inputs)[0]
        weak = []
        for weakened in branch.weak_passes:
            with patching.patched(weakened.patches()):
                weak.append(branch.denoiser(**inputs)[0])
        weak.append(_predict(worse.pipe, inputs, words))
        weak.append(_predict(model.pipe, inputs, [""] * len(words)))
        error = (c - _predict(better.pipe, inputs, words)).double().flatten(1)
        found.append(torch.stack([_compare(error, (c - p).double().flatten(1)) for p in weak]))
    return torch.stack(found, 1).cpu()


def _compare(error: Tensor, push: Tensor) -> Tensor:
    """Return COLUMNS of each clip, `(N, 3)`."""
    return torch.stack([(error * push).sum(1), push.square().sum(1), error.square().sum(1)], 1)


def _states(model: Generator, numbers: Sequence[int]) -> list[PlainData]:
    """Return what the pipeline gives its denoiser at the noise levels, without guidance."""
    calls: list[PlainData] = []

    def listen(module: Any, args: tuple[Any, ...], kwargs: PlainData) -> None:
        assert not args
        calls.append({**kwargs, "hidden_states": kwargs["hidden_states"].clone()})

    hook = model.pipe.transformer.register_forward_pre_hook(listen, with_kwargs=True)
    try:
        model.clips(Row(), numbers)
    finally:
        hook.remove()
    shares = [1 - float(call["timestep"].flatten()[0]) / 1000 for call in calls]
    return [calls[step] for _, step, _ in levels.nearest_steps(shares, NOISE_SHARES)]


def _predict(pipe: Any, inputs: PlainData, words: list[str]) -> Tensor:
    """Return the prediction of a model, with its own text encoder, for the state of another."""
    embeds, mask, _, _ = pipe.encode_prompt(
        words, do_classifier_free_guidance=False,
        max_sequence_length=inputs["encoder_hidden_states"].shape[1],
    )  # fmt: skip
    given = {**inputs, "encoder_hidden_states": embeds, "encoder_attention_mask": mask}
    return pipe.transformer(**given)[0]
