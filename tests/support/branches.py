"""Runs of tiny pipelines under guide(..., parallel=group), against the same in one process.

A case names a pipeline, how it is called and how it is guided. `divided()` runs cases in one of
several processes (support/parallel.py starts them), `alone()` in one."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import functools
import importlib
import itertools
import os
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from diffusers.models._modeling_parallel import ContextParallelConfig
from torch.distributed.device_mesh import init_device_mesh

from skipguide import (
    APG,
    SLG,
    STG,
    TAG,
    Bin,
    CFGZero,
    Interval,
    Modality,
    Random,
    Restart,
    Schedule,
    WithoutLoRA,
    enable_context_parallel,
    guide,
)  # fmt: skip
from skipguide.pipeline.branch_group import BranchError
from support import oracle
from support.tiny import in_dtype
from support.tiny.base import Tiny

Tensor = torch.Tensor
MODULES = {
    "MochiPipeline": "mochi", "LTX2Pipeline": "ltx2", "StableVideoDiffusionPipeline": "svd",
    "StableVideoDiffusionPipeline deep": "svd", "TextToVideoSDPipeline": "unet3d",
    "HunyuanVideo15Pipeline": "hunyuan15", "CosmosTextToWorldPipeline": "cosmos",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """A guided call of a tiny pipeline.

    Args:
        pipeline: its name in tests/support/tiny.
        terms, options: of guide().
        call: what to change in the call; "off" is a call without CFG.
        weak: a second model is the weak one, in the place of layers.
        lora: the pipeline has a LoRA.
    """

    pipeline: str
    terms: Sequence[Any] = ()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    call: Any = dataclasses.field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    weak: bool = False
    lora: bool = False


MOCHI, WAN, LTX2 = "MochiPipeline", "WanPipeline", "LTX2Pipeline"
SVD = "StableVideoDiffusionPipeline"
UP = {"layers": ["up:0"], "skip": "attention"}
TWO = (STG([1]), STG([2], 0.5, skip="attention"))
KEY_CASES = {
    "Mochi": Case(MOCHI, [STG([2])]),
    "Mochi, without CFG": Case(MOCHI, [STG([2])], call="off"),
    "Wan": Case(WAN, [STG([1])]),
    "Wan, window": Case(WAN, [STG([1], start=0.5)]),
    "Wan, without CFG": Case(WAN, [STG([1])], call="off"),
    "Wan, heads and a mask": Case(
        WAN, [STG(["1@1"], skip="attention", mask=torch.linspace(0, 1, 8).reshape(1, 1, 8))]
    ),
    "Wan, without its LoRA": Case(WAN, [STG(weak=WithoutLoRA()), STG([2], 0.5)], lora=True),
    "LTX-2": Case(LTX2, [STG([1])]),
    "SVD": Case(SVD, [STG(**UP, axis="spatial", scale=2.0), STG(**UP, axis="temporal", scale=0.5)]),
}
MORE_CASES = {
    "Mochi, two terms": Case(
        MOCHI, TWO, {"rescale": 0.7, "orthogonalize": True, "rescale_space": "data"}
    ),
    "Mochi, first block": Case(MOCHI, [STG([0])]),
    "Mochi, whole pass": Case(MOCHI, [STG([2])], {"share_prefix": False}),
    "Mochi, SLG": Case(MOCHI, [SLG([1])]),
    "Mochi, SLG and STG": Case(MOCHI, [SLG([1]), STG([2])]),
    "Mochi, every second": Case(MOCHI, [STG([2], every=2)]),
    "Mochi, restart": Case(MOCHI, [STG([2])], {"restart": Restart((0.3, 0.95))}),
    "Mochi, APG": Case(MOCHI, [STG([2])], {"cfg": APG(momentum=-0.5)}),
    "Mochi, CFG-Zero": Case(MOCHI, [STG([2])], {"cfg": CFGZero(zero_steps=1)}),
    "Mochi, interval": Case(MOCHI, [STG([2])], {"cfg": Interval((0.0, 0.5))}),
    "Mochi, random": Case(MOCHI, [STG(Random(0.5), seed=3)]),
    "Mochi, shuffle": Case(MOCHI, [STG([1], skip="shuffle")]),
    "Mochi, schedule": Case(
        MOCHI, [Schedule([Bin((0, 2), [1], 1.0, rescale=0.5, guidance_scale=3.0)])]
    ),
    "Mochi, bfloat16": Case(MOCHI, [STG([2])], dtype=torch.bfloat16),
    "Mochi, a weak model": Case(MOCHI, weak=True),
    "Wan, a weak model": Case(WAN, weak=True),
    "Wan, two terms": Case(WAN, TWO, {"rescale": 0.7}),
    "Wan, SLG": Case(WAN, [SLG([1])]),
    "Wan, every second": Case(WAN, [STG([1], every=2)]),
    "Wan, half of the steps": Case(WAN, [STG([1], every=0.5)]),
    "Wan, where it changes": Case(WAN, [STG([1], every="auto")]),
    "Wan, restart": Case(WAN, [STG([1])], {"restart": Restart((0.3, 0.95))}),
    "Wan, TAG": Case(WAN, [STG([1])], {"cfg": TAG(1.2, align=0.5)}),
    "Wan, APG": Case(WAN, [STG([1])], {"cfg": APG(momentum=-0.5)}),
    "Wan, CFG-Zero": Case(WAN, [STG([1])], {"cfg": CFGZero(zero_steps=1)}),
    "Wan, interval": Case(WAN, [STG([1])], {"cfg": Interval((0.0, 0.5))}),
    "Wan, bfloat16 and window": Case(WAN, [STG([1], stop=0.5)], dtype=torch.bfloat16),
    "Wan 2.2": Case("WanPipeline 2.2", [STG([1])]),
    "Wan VACE": Case("WanVACEPipeline", [STG([2])]),
    "LTX-2, two terms": Case(LTX2, TWO, {"rescale": 0.7}),
    "LTX-2, published": Case(
        LTX2, [STG([1], skip="attention"), Modality(3.0)],
        {"rescale": 0.7, "rescale_space": "data", "audio_rescale": 1.0},
    ),
    "LTX-2, own guidance": Case(
        LTX2, [STG([1], audio_scale=0.5)],
        call={"stg_scale": 1.0, "spatio_temporal_guidance_blocks": [1]},
    ),
    "SVD, residual": Case(SVD, [STG(["up:0"])]),
    "SVD deep": Case(
        "StableVideoDiffusionPipeline deep", [STG(**UP, axis="temporal"), STG(["mid:0"])]
    ),
    "ModelScope": Case("TextToVideoSDPipeline", [STG(["up:0"])]),
    "HunyuanVideo 1.5": Case("HunyuanVideo15Pipeline", [STG([1])]),
    "Cosmos": Case("CosmosTextToWorldPipeline", [STG([1])]),
}  # fmt: skip
CASES = KEY_CASES | MORE_CASES


@functools.cache
def build(pipeline: str, dtype: torch.dtype) -> Tiny:
    """One of its own: to import the builders of all families takes seconds."""
    module = importlib.import_module(f"support.tiny.{MODULES.get(pipeline, 'wan')}")
    small = module.PIPELINES[pipeline](dtype)
    call = {name: in_dtype(value, dtype) for name, value in small.call.items()}
    return dataclasses.replace(small, call=call)


@functools.cache
def with_lora(pipeline: str) -> Tiny:
    """A pipeline of its own whose transformer has a LoRA."""
    from peft import LoraConfig, inject_adapter_in_model

    module = importlib.import_module(f"support.tiny.{MODULES.get(pipeline, 'wan')}")
    small = module.PIPELINES[pipeline](torch.float32)
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules=["to_q", "to_v"], init_lora_weights=False)
    inject_adapter_in_model(config, small.pipe.transformer)
    return small


@functools.cache
def weak_model(pipeline: str) -> Any:
    """The model of a pipeline with smaller weights."""
    weak = copy.deepcopy(build(pipeline, torch.float32).pipe.transformer)
    with torch.no_grad():
        for parameter in weak.parameters():
            parameter.mul_(0.9)
    return weak


def latents(case: Case, parallel: Any = None) -> Tensor:
    """The latents of a case, in one of several processes or in one."""
    small = with_lora(case.pipeline) if case.lora else build(case.pipeline, case.dtype)
    options = {"parallel": parallel} if parallel is not None else {}
    changes = small.off if case.call == "off" else case.call
    terms = [STG(weak=weak_model(case.pipeline))] if case.weak else case.terms
    with guide(small.pipe, *terms, **case.options, **options):
        return oracle.run(small, **changes)


def alone(names: Sequence[str]) -> dict[str, Tensor]:
    return {name: latents(CASES[name]) for name in names}


def divided(_: int, names: Sequence[str]) -> dict[str, Any]:
    """The latents of each case in one of several processes, or the words of what is refused."""
    found: dict[str, Any] = {}
    for name in names:
        try:
            found[name] = latents(CASES[name], dist.group.WORLD)
        except ValueError as error:
            found[name] = str(error)
    return found


# --- what goes wrong ------------------------------------------------------------------------------


def refused(rank: int) -> dict[str, str]:
    """What each of two processes is told of calls that do not fit together, one after another."""
    small, term = build(MOCHI, torch.float32), STG([2])
    seed, steps = torch.Generator().manual_seed(rank), {"num_inference_steps": 2 + rank}
    wide = {"height": 32 + 32 * rank}

    def told(**changes: Any) -> str:
        try:
            with guide(small.pipe, term, parallel=dist.group.WORLD):
                oracle.run(small, **changes)
        except (ValueError, BranchError) as error:
            return f"{type(error).__name__}: {error}"
        return "nothing"

    return {"noise": told(generator=seed), "size": told(**wide), "steps": told(**steps)}


def ends(rank: int, how: str) -> str:
    """What the processes of a run are told when process 1 fails in the middle, or is killed."""
    small = build(WAN, torch.float32)

    def at_the_end_of_a_step(_: Any, i: int, *__: Any) -> dict[str, Any]:
        if i == 1 and rank == 1:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("no memory left")
        return {}

    try:
        with guide(small.pipe, STG([1]), parallel=dist.group.WORLD):
            oracle.run(small, callback_on_step_end=at_the_end_of_a_step)
    except RuntimeError as error:
        if rank == 1:
            time.sleep(20)  # it lives on, and the others must not wait for its end
        return str(error)
    return "nothing"


# --- what runs at the same time -------------------------------------------------------------------


def overlapping(rank: int) -> float:
    """Process 0 waits in its last block until process 2 is in its weak pass; passes per step."""
    small, store = build(MOCHI, torch.float32), dist.distributed_c10d._get_default_store()
    steps = itertools.count()

    def wait(*_: Any) -> None:
        if rank == 0:
            store.wait([f"begun {next(steps)}"], datetime.timedelta(seconds=30))
        if rank == 2:
            store.set(f"begun {next(steps)}", "")

    hook = small.pipe.transformer.transformer_blocks[-1].register_forward_pre_hook(wait)
    with guide(small.pipe, STG([1]), parallel=dist.group.WORLD) as handle:
        oracle.run(small)
        passes = handle.passes_per_step
    hook.remove()
    return passes


# --- with context parallelism in each branch ------------------------------------------------------


def on_a_mesh(_: int, cases: Sequence[str]) -> dict[str, Tensor]:
    """Latents in 2 branches, each of which divides its tokens among 2 processes."""
    mesh = init_device_mesh("cpu", (2, 1, 2), mesh_dim_names=("branch", "ring", "ulysses"))
    torch.accelerator.device_count = lambda: 1
    config = ContextParallelConfig(ulysses_degree=2, mesh=mesh["ring", "ulysses"])
    for pipeline in {CASES[name].pipeline for name in cases}:
        enable_context_parallel(build(pipeline, torch.float32).pipe, config)
    return {name: latents(CASES[name], mesh["branch"]) for name in cases}
