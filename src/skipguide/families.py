"""One row of data per model family: where its blocks are, what flows through them, how its pipelines call CFG.

To support another model, add a row to `FAMILIES` (and, for a new shape of attention, a function to `skips.py`);
`tests/test_families.py` then asks for its oracle.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from skipguide import skips

SKIPS = ("residual", "attention")


@dataclass(frozen=True)
class Stack:
    """A ModuleList of blocks that run one after the other."""

    path: str  # where it is on the denoiser
    streams: tuple[
        str, ...
    ]  # the block's inputs that carry state, first in its signature, in the order it returns them
    depth: int  # in the public checkpoint
    attention: str = ""  # the block's self-attention; "" where attention skip is not offered
    values: Callable[..., Any] | None = None  # that attention with the identity map


@dataclass(frozen=True)
class Family:
    """What guide() has to know about a model; all behaviour is shared."""

    name: str
    pipelines: tuple[str, ...]  # diffusers pipeline classes
    denoiser: str  # attribute of the pipeline
    denoiser_class: str
    stacks: Mapping[str, Stack]  # the first one is meant when a layer is a bare int
    batched: tuple[str, ...]  # inputs of the denoiser whose first dimension is the batch (uncond rows first with CFG)
    float32_cfg: bool  # the pipeline casts predictions to float32 before it combines them
    checkpoint: str  # the public checkpoint that `depth` speaks of
    smallest: Mapping[str, Any]  # a config of the denoiser that is tiny but complete, for tests
    axes: tuple[str, ...] = ()


FAMILIES = (
    Family(
        name="mochi",
        pipelines=("MochiPipeline",),
        denoiser="transformer",
        denoiser_class="MochiTransformer3DModel",
        stacks={
            "blocks": Stack(
                path="transformer_blocks",
                streams=("hidden_states", "encoder_hidden_states"),
                depth=48,
                attention="attn1",
                values=skips.joint_values,
            )
        },
        batched=("hidden_states", "encoder_hidden_states", "timestep", "encoder_attention_mask"),
        float32_cfg=True,
        checkpoint="genmo/mochi-1-preview",
        smallest=dict(
            patch_size=2, num_attention_heads=2, attention_head_dim=8, num_layers=4, pooled_projection_dim=16,
            in_channels=12, text_embed_dim=32, time_embed_dim=16, max_sequence_length=16,
        ),
    ),
)  # fmt: skip


def family_of(pipe: Any) -> Family:
    """The row for a pipeline, by the name of its class or of one that it derives from.

    Raises:
        ValueError: if no row names the pipeline's class, or the pipeline holds a denoiser that the row does not know.
    """
    name, names = type(pipe).__name__, {cls.__name__ for cls in type(pipe).__mro__}
    family = next((row for row in FAMILIES if names & set(row.pipelines)), None)
    if family is None:
        known = sorted(p for row in FAMILIES for p in row.pipelines)
        raise ValueError(
            f"guide() needs a pipeline that has a row in skipguide/families.py, but got {name}. "
            f"Nearest known: {_nearest(name, known)}. To support it, add a row to FAMILIES there."
        )
    denoiser = type(getattr(pipe, family.denoiser, None)).__name__
    if denoiser == "OptimizedModule":
        raise ValueError(
            f"{name} needs its {family.denoiser_class} itself as .{family.denoiser}, but got the wrapper of "
            f"torch.compile(). Compile in place: pipe.{family.denoiser}.compile_repeated_blocks()."
        )
    if denoiser != family.denoiser_class:
        raise ValueError(
            f"{name} needs a {family.denoiser_class} as its .{family.denoiser}, but got {denoiser}. "
            f"Nearest known: {_nearest(denoiser, [row.denoiser_class for row in FAMILIES])}. "
            "For another denoiser, add a row to FAMILIES in skipguide/families.py."
        )
    return family


def _nearest(name: str, known: list[str]) -> str:
    return ", ".join(difflib.get_close_matches(name, known, n=3, cutoff=0.0))
