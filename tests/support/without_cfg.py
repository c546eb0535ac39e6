"""Models that run without CFG, as their checkpoints do: distilled ones, with the schedulers, the
noise levels and the few steps that are published for them; and STG on them by hand."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from diffusers.pipelines.helios.pipeline_helios_pyramid import HeliosPyramidPipeline
from diffusers.pipelines.ltx2.utils import DISTILLED_SIGMA_VALUES
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.schedulers.scheduling_flow_match_lcm import FlowMatchLCMScheduler
from diffusers.schedulers.scheduling_helios_dmd import HeliosDMDScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from diffusers.schedulers.scheduling_tcd import TCDScheduler

from support import oracle
from support.tiny import builders, without_cfg
from support.tiny.base import Tiny
from support.tiny.helios import PYRAMID, helios
from support.tiny.wan import scheduler as unipc

LTX_TIMESTEPS = [1000, 993, 987, 981, 975, 909, 725, 0.03]  # of the distilled LTX-Video
BETAS: Any = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="linear")


@dataclasses.dataclass(frozen=True)
class Case:
    """A model without CFG.

    Args:
        make: its tiny pipeline.
        call: what is changed in its call.
        steps: of a run, as guide() counts them; of the pipeline's stages or chunks each is a run.
        scheduler: in the place of the pipeline's.
        runs: how many runs one call is.
    """

    make: Callable[[], Tiny]
    call: dict[str, Any]
    steps: int
    scheduler: Callable[[], Any] | None = None
    runs: int = 1

    def build(self) -> Tiny:
        """Build the pipeline anew; its call has no CFG."""
        small = self.make()
        if self.scheduler is not None:
            small.pipe.scheduler = self.scheduler()
        return dataclasses.replace(small, call={**small.call, **small.off, **self.call})


def _of(name: str, steps: int, scheduler: Any = None, **call: Any) -> Case:
    call = {"num_inference_steps": steps, **call}
    return Case(lambda: builders()[name](torch.float32), call, steps, scheduler)


def _h3(name: str, steps: int) -> Case:
    """The last of the noise levels that are asked for is the end of the run."""
    make = functools.partial(without_cfg()[name], torch.float32)
    return Case(make, dict(num_inference_steps=steps + 1), steps)


def _sprint(name: str, steps: int) -> Case:
    """Its scheduler has a noise level of its own for two steps alone."""
    other = {} if steps == 2 else dict(intermediate_timesteps=None)
    make = functools.partial(without_cfg()[name], torch.float32)
    return Case(make, dict(num_inference_steps=steps, **other), steps)


def _image(name: str) -> Case:
    """An image model that is guidance-distilled; strength leaves out the first step."""

    make = functools.partial(without_cfg()[name], torch.float32)
    steps = 4 if name.endswith(("Img2ImgPipeline", "InpaintPipeline", "FillPipeline")) else 3
    return Case(make, dict(num_inference_steps=steps), 3)


def _helios(steps: int) -> Case:
    def make() -> Tiny:
        small = helios(HeliosPyramidPipeline, dict(gamma=0.33), PYRAMID, is_distilled=True)
        small.pipe.scheduler = HeliosDMDScheduler(gamma=0.33)
        return small

    stages = dict(pyramid_num_inference_steps_list=[steps] * 3)
    return Case(make, stages, steps, runs=3)


def _guider_off(steps: int) -> Case:
    """HunyuanVideo 1.5, CFG-distilled: its guider is disabled."""

    def make() -> Tiny:
        small = builders()["HunyuanVideo15Pipeline"](torch.float32)
        small.pipe.guider.disable()
        return small

    return Case(make, dict(num_inference_steps=steps), steps)


def _flow(**config: Any) -> Callable[[], Any]:
    return lambda: FlowMatchEulerDiscreteScheduler(**config)


CASES: dict[str, Case] = {
    # LTXPipeline takes no timesteps: it hands over noise levels of its own beside them
    "LTX distilled": _of("LTXPipeline", 4, _flow()),
    "LTX distilled, its own timesteps": _of(
        "LTXConditionPipeline", 8, _flow(), timesteps=LTX_TIMESTEPS, conditions=None
    ),
    "LTX distilled, image": _of("LTXConditionPipeline", 8, _flow(), timesteps=LTX_TIMESTEPS),
    "LTX distilled, stochastic": _of("LTXPipeline", 8, _flow(stochastic_sampling=True)),
    "LTX-2 distilled": _of("LTX2Pipeline", 8, _flow(), sigmas=DISTILLED_SIGMA_VALUES),
    "Wan, LightX2V": _of("WanPipeline", 4, lambda: unipc(5)),
    "Wan, CausVid": _of("WanPipeline", 6, _flow(shift=8.0)),
    "Wan, LCM": _of("WanPipeline", 4, lambda: FlowMatchLCMScheduler(shift=5.0)),
    "Wan 2.2, LightX2V": _of("WanPipeline 2.2", 4, lambda: unipc(5), guidance_scale_2=None),
    "Wan VACE, FusionX": _of("WanVACEPipeline", 8, _flow(shift=2.0)),
    "ChronoEdit, distilled": _of("ChronoEditPipeline", 8, _flow(shift=2.0)),
    "HunyuanVideo": _of("HunyuanVideoPipeline", 6, _flow(shift=17.0), guidance_scale=6.0),
    "FramePack": dataclasses.replace(
        _of("HunyuanVideoFramepackPipeline", 4, guidance_scale=10.0), runs=2
    ),
    "HunyuanVideo 1.5, distilled": _guider_off(8),
    "Kandinsky 6, distilled": _of("Kandinsky6TI2VAPipeline", 4),
    "AnyFlow": _of("AnyFlowPipeline", 4),
    "Helios, distilled": _helios(2),
    "MiniMax-H3": _h3("MiniMaxH3ModularPipeline", 4),
    "MiniMax-H3, keyframe": _h3("MiniMaxH3ModularPipeline keyframe", 6),
    "MiniMax-H3, reference": _h3("MiniMaxH3ModularPipeline reference", 4),
    "SANA-Sprint": _sprint("SanaSprintPipeline", 4),
    "SANA-Sprint, two steps": _sprint("SanaSprintPipeline", 2),
    "SANA-Sprint, image": _sprint("SanaSprintImg2ImgPipeline", 2),
    "Flux, distilled": _of("FluxPipeline", 4),
    **{name: _image(name) for name in without_cfg() if name.startswith("Flux")},
    "AnimateDiff, LCM": _of("AnimateDiffPipeline", 4, lambda: LCMScheduler(**BETAS)),
    "AnimateDiff, TCD": _of("AnimateDiffPipeline", 4, lambda: TCDScheduler(**BETAS)),
}


def run(small: Tiny, **changes: Any) -> torch.Tensor:
    """Run it; what a scheduler draws without the call's generator is the same in each run."""
    torch.manual_seed(1)
    return oracle.run(small, **changes)


Combine = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]


@contextlib.contextmanager
def by_hand(small: Tiny, layers: Sequence[str], combine: Combine, skip: str = "residual",
            attentions: Sequence[str] = ()) -> Iterator[list[int]]:  # fmt: skip
    """Give the pipeline D, made of two full passes of each call: of the model, and of a copy of it
    without some layers. Its own scheduler goes on with it.

    Args:
        combine: D of c, p and the number of the call.
        layers: paths of blocks.
        attentions: for an attention skip, as for `oracle.weakened`.

    Yields:
        A list that gets an entry for each call.
    """
    copies = {
        model: oracle.weakened(model, layers, skip, attentions) for model in oracle.models(small)
    }
    for weak in copies.values():  # those of another by_hand() around this one
        weak._forward_hooks.clear()
    calls: list[int] = []

    def guide(model: Any, args: Any, kwargs: Any, output: Any) -> Any:
        with torch.no_grad():
            weak = oracle.samples(copies[model](*args, **kwargs))
        found = [
            combine(c, p, len(calls)) for c, p in zip(oracle.samples(output), weak, strict=True)
        ]
        calls.append(len(calls))
        if torch.is_tensor(output):
            return found[0]
        if isinstance(output, tuple):
            return (*found, *output[len(found) :])
        return type(output)(**dict(zip(output, found, strict=False)))

    hooks = [m.register_forward_hook(guide, with_kwargs=True) for m in copies]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
