"""What a tiny pipeline of a family is: real diffusers classes, small random weights, a call that
takes a second."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from skipguide.families import rows
from skipguide.families.examples import denoiser_class, example_of


@dataclasses.dataclass(frozen=True)
class Tiny:
    """A whole pipeline and how to run it."""

    pipe: Any
    call: dict[str, Any]  # pipe(**call, generator=...): CFG on, two prompts, latents out
    off: dict[str, Any]  # what to change in the call for a run without CFG
    g: str = "guidance_scale"  # the argument of the call that is the CFG scale
    cond: str = "encoder_hidden_states"  # the denoiser's input in which cond and uncond differ
    denoisers: tuple[str, ...] = ("transformer",)
    g_plus: float = 0.0  # 1 where the pipeline's formula is c + g (c - u)
    short: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {"num_inference_steps": 2}
    )  # a run of 2 steps
    atol: float = 2e-5  # what float32 may leave in latents up to 1
    windows: bool = (
        True  # False where one call is several runs (chunks, stages), each with a window of its own
    )
    attentions: tuple[str, ...] = ()  # self-attentions whose names do not tell that they are
    tokens: int = 0  # of the latents, where the denoiser predicts more
    keeps_length: bool = False  # the result of CFG gets the length of c, per token
    variance: bool = False  # the second half of the denoiser's channels is a learned variance
    other: dict[str, Any] = dataclasses.field(
        default_factory=dict
    )  # other prompts, if the call takes no negative ones


Builder = Callable[[torch.dtype], Tiny]


def config(family: str, **changes: Any) -> dict[str, Any]:
    """The arguments of a family's small denoiser: those of its example, with changes."""
    return {**example_of(family).config("small"), **changes}


def denoiser(family: str, **changes: Any) -> Any:
    """A family's small denoiser, with the random weights that its class starts with."""
    row = next(row for row in rows.FAMILIES if row.name == family)
    return denoiser_class(row)(**config(family, **changes))


def matter(module: Any) -> Any:
    """Weights large enough that every block changes the output visibly; zero-initialised gates
    included."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3 / max(parameter.shape[-1], 1) ** 0.5)
    return module.eval()


def quiet(pipe: Any, dtype: torch.dtype) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe if dtype == torch.float32 else pipe.to(dtype)
