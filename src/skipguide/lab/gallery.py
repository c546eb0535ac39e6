"""All methods of guidance side by side on lab-mochi."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.mochi.pipeline_mochi import MochiPipeline
from numpy.typing import NDArray

from skipguide import APG, SLG, STG, TCFG, CFGZero, Interval, Random, Restart, guide
from skipguide.lab import score_text
from skipguide.method.protocols import PlainData

Tensor = torch.Tensor
LAYERS = (5,)  # as in the preset of lab-mochi
SCALE = 4.0  # of the push, in tenths of the length of c: the same for all, and clearly visible
GUIDANCE_SCALE = 4.5
SEED = 6 * 10**6


@dataclass(frozen=True)
class GuidedClips:
    """Clips of one method, `(B, 3, F, H, W)` in [-1, 1], and what they cost."""

    frames: Tensor
    passes_per_step: float
    steps: int = score_text.STEPS

    @property
    def cost(self) -> str:
        """The cost in words."""
        return (
            f"{self.passes_per_step:.2f} passes a step, {self.passes_per_step * self.steps:.0f}"
            " in all"
        )

    def to_uint8(self, i: int = 0) -> NDArray[np.uint8]:
        """Return one of the clips as files hold them, `(F, H, W, 3)` uint8."""
        return (
            ((self.frames[i].permute(1, 2, 3, 0) + 1) * 127.5).round().clamp(0, 255).byte().numpy()
        )


def generate_clips(
    pipe: MochiPipeline, prompts: Sequence[str], seed: int, *terms: STG | SLG, **options: Any
) -> GuidedClips:
    """Generate one clip for each prompt, from the noise of `seed`.

    They are guided by the `terms` and `options` of guide(), or by CFG alone if there are none.
    """
    if not terms and not options:
        return GuidedClips(score_text.generate(pipe, list(prompts), GUIDANCE_SCALE, seed), 2.0)
    with guide(pipe, *terms, **options) as handle:
        frames = score_text.generate(pipe, list(prompts), GUIDANCE_SCALE, seed)
    return GuidedClips(frames, handle.passes_per_step, handle.passes.steps)


# --- all of them beside each other ----------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """One row of the figure."""

    name: str
    weak: PlainData | None = None  # arguments of STG; None if there is no weak model
    options: PlainData = field(default_factory=dict)  # of guide()
    bits: int = 0  # of the rounded denoiser that is its weak model; 0: not rounded


METHODS = (
    Method("CFG"),
    Method("STG-R", dict(layers=LAYERS)),
    Method("STG-A", dict(layers=LAYERS, skip="attention")),
    Method("SoftPAG, half", dict(layers=LAYERS, skip="soft")),
    Method("SEG, mean query", dict(layers=LAYERS, skip="blur")),
    Method("frames cut apart", dict(layers=LAYERS, skip="frames")),
    Method("TPG, tokens shuffled", dict(layers=LAYERS, skip="shuffle")),
    Method("S2, random blocks", dict(layers=Random(0.1))),
    Method("Autoguidance, weights of 4 bits", {}, bits=4),
    Method("APG", options=dict(cfg=APG())),
    Method("CFG-Zero*", options=dict(cfg=CFGZero())),
    Method("TCFG", options=dict(cfg=TCFG())),
    Method("CFG from 0.1 to 0.9 of the run", options=dict(cfg=Interval((0.1, 0.9)))),
    Method("STG-R, rescale 0.7", dict(layers=LAYERS), dict(rescale=0.7)),
    Method(
        "STG-R, 0.4 to 0.6 of the run again",
        dict(layers=LAYERS),
        dict(restart=Restart(window=(0.4, 0.6))),
    ),
)


def compare_methods(
    pipe: MochiPipeline, prompt: str, seed: int = SEED
) -> Iterator[tuple[str, GuidedClips]]:
    """Yield (caption, clip) of each method, from the same noise.

    SLG comes last; the length of its push cannot be chosen.
    """
    for method in METHODS:
        made = generate_clips(pipe, [prompt], seed, *_build_terms(pipe, method), **method.options)
        yield f"{method.name}: {made.cost}", made
    made = generate_clips(pipe, [prompt], seed, SLG(LAYERS))
    yield f"SLG (its own length): {made.cost}", made


def _build_terms(pipe: MochiPipeline, method: Method) -> list[STG]:
    if method.weak is None:
        return []
    other: PlainData = (
        dict(weak=quantize_weights(pipe.transformer, method.bits)) if method.bits else {}
    )
    return [STG(**method.weak, **other, scale=SCALE, normalize=True)]


@torch.no_grad()
def quantize_weights(model: torch.nn.Module, bits: int) -> torch.nn.Module:
    """Return a copy with weight matrices rounded to `bits` bits, with a scale per row."""
    weak, top = copy.deepcopy(model), 2 ** (bits - 1) - 1
    for p in weak.parameters():
        if p.ndim > 1:
            step = p.abs().amax(dim=tuple(range(1, p.ndim)), keepdim=True).clamp_min(1e-12) / top
            p.copy_((p / step).round() * step)
    return weak
