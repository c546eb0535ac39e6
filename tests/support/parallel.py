"""Runs of tiny pipelines in several processes, by diffusers' context parallelism over gloo.

`divided()` runs cases in one of several processes, each of which has its own copy of the pipeline,
and `whole()` the same cases in one. Nothing of torch or diffusers is replaced in the processes but
two things that a CPU lacks: a count of accelerators, by which `enable_parallelism` divides, and for
ring attention a kernel that returns its logsumexp."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib
import importlib.util
import logging
import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from diffusers.guiders.classifier_free_guidance import ClassifierFreeGuidance
from diffusers.models._modeling_parallel import (
    ContextParallelConfig,
    ContextParallelInput,
    ContextParallelOutput,
)
from torch.distributed.device_mesh import init_device_mesh

from skipguide import (
    SLG,
    STG,
    Bin,
    Interval,
    Random,
    Restart,
    Schedule,
    enable_context_parallel,
    guide,
)  # fmt: skip
from skipguide.families.token_shares import TOKEN_SHARES
from skipguide.guider import SkipGuidance
from skipguide.models.context_parallel import to_plan
from skipguide.weak import context_parallel
from support import oracle
from support.tiny.base import Tiny

Tensor = torch.Tensor
Case = Callable[[Tiny], contextlib.AbstractContextManager[Any]]
Plan = Callable[[Any], Any]

EXAMPLE = Path(__file__).parents[2] / "examples/one_video_many_gpus.py"
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([
    "torch.distributed", "diffusers.pipelines.wan.pipeline_wan", "diffusers.guiders", "skipguide",
])  # fmt: skip


# --- cases ----------------------------------------------------------------------------------------


def by_guide(*terms: Any, **options: Any) -> Case:
    return lambda small: guide(small.pipe, *terms, **options)


def by_guider(**options: Any) -> Case:
    @contextlib.contextmanager
    def case(small: Tiny) -> Iterator[None]:
        small.pipe.update_components(guider=SkipGuidance(guidance_scale=4.5, **options))
        yield
        small.pipe.update_components(guider=ClassifierFreeGuidance(guidance_scale=4.5))

    return case


def autoguidance(small: Tiny) -> Any:
    """The weak model is whole in each process."""
    weak = build(Division("wan", "WanPipeline")).pipe.transformer
    with torch.no_grad():
        for parameter in weak.parameters():
            parameter.mul_(0.9)
    return guide(small.pipe, STG(weak=weak))


# Of blocks 0 to 3: a hook that splits may sit on the first one, and one that gathers follows the
# last one.
CASES: dict[str, Case] = {
    "unguided": lambda _: contextlib.nullcontext(),
    "residual 0": by_guide(STG([0])),
    "residual 1": by_guide(STG([1])),
    "residual 3": by_guide(STG([3])),
    "residual all": by_guide(STG([0, 1, 2, 3])),
    "residual 0, whole pass": by_guide(STG([0]), share_prefix=False),
    "attention 0": by_guide(STG([0], skip="attention")),
    "attention 1": by_guide(STG([1], skip="attention")),
    "soft": by_guide(STG([0, 1], skip="soft")),
    "blur": by_guide(STG([0, 1], skip="blur", strength=0.7)),
    "frames": by_guide(STG([0, 1], skip="frames")),
    "shuffle 0": by_guide(STG([0], skip="shuffle")),
    "shuffle 1": by_guide(STG([1], skip="shuffle", seed=7)),
    "shuffle 0 and 2, whole pass": by_guide(STG([0, 2], skip="shuffle"), share_prefix=False),
    "slg 0": by_guide(SLG([0])),
    "slg shuffle 0": by_guide(SLG([0], skip="shuffle")),
    "random": by_guide(STG(Random(0.25), seed=3)),
    "random shuffle": by_guide(STG(Random(0.5), skip="shuffle")),
    "two terms": by_guide(
        STG([0]), STG([2], 0.5, "shuffle"), rescale=0.7, orthogonalize=True, rescale_space="data"
    ),
    "without u": by_guide(STG([1]), cfg=Interval((0.0, 0.5))),
    "schedule": by_guide(Schedule([Bin((0, 2), [0], 1.0, "shuffle", rescale=0.5)])),
    "every second": by_guide(STG([0], every=2)),
    "restart": by_guide(STG([0]), restart=Restart((0.3, 0.95))),
    "autoguidance": autoguidance,
}
KEY_CASES = (
    "unguided", "residual 0", "residual 1", "attention 0", "shuffle 0", "shuffle 1", "slg shuffle 0"
)  # fmt: skip
GUIDER_CASES: dict[str, Case] = {
    "unguided": lambda _: contextlib.nullcontext(),
    "guider 0": by_guider(layers=[0]),
    "guider shuffle": by_guider(layers=[0, 2], skip="shuffle"),
    "guider slg": by_guider(layers=[1], skip="attention", terms=[SLG([0])]),
}


# --- ways to divide -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Division:
    """A tiny pipeline, and how several processes divide its tokens.

    Args:
        module: the file of tests/support/tiny that builds it, or "modular".
        pipeline: its name.
        degrees: of a ContextParallelConfig.
        call: what to change in the call.
        plan: makes the plan of a denoiser; None is the one that diffusers has for it, or we have.
        cases: by their names.
        refused: those of them that are refused in several processes, and a part of the words.
    """

    module: str
    pipeline: str
    degrees: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"ulysses_degree": 2})
    call: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    plan: Plan | None = None
    cases: tuple[str, ...] = KEY_CASES
    refused: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def world(self) -> int:
        return self.degrees.get("ulysses_degree", 1) * self.degrees.get("ring_degree", 1)


def blocks_that_are_there(model: Any) -> Any:
    """diffusers' plan for Helios, which names 40 blocks; this one has 4."""
    return {
        name: entry
        for name, entry in model._cp_plan.items()
        if "*" in name or int(name.split(".")[1]) < len(model.blocks)
    }


def both_streams(model: Any) -> Any:
    """A plan of a user's own, for a model of two streams that diffusers has none for."""
    tokens = ContextParallelInput(split_dim=1, expected_dims=3)
    angles = ContextParallelInput(split_dim=0, expected_dims=2, split_output=True)
    return {
        "transformer_blocks.0": {"hidden_states": tokens, "encoder_hidden_states": tokens},
        "rope": {0: angles, 1: angles},
        "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
    }


def ours_alone(model: Any) -> Any:
    """Our plan of a model, whose attentions stay as they are."""
    return to_plan(TOKEN_SHARES[type(model).__name__])


def around_each_block(model: Any) -> Any:
    """A plan that splits before each block and gathers after it."""
    tokens = ContextParallelInput(split_dim=1, expected_dims=3)
    angles = ContextParallelInput(split_dim=1, expected_dims=4, split_output=True)
    gathered = ContextParallelOutput(gather_dim=1, expected_dims=3)
    return {
        "rope": {0: angles, 1: angles},
        "blocks.*": {"hidden_states": tokens},
        **{f"blocks.{i}": gathered for i in range(len(model.blocks))},
    }


def short_prompts(tokens: int) -> dict[str, Tensor]:
    """Masks of two prompts of three tokens, and of none and all: what is padding is then in the
    shares of several processes, and of the text of some nothing is left."""
    lengths = {"prompt_attention_mask": (3, 3), "negative_prompt_attention_mask": (1, tokens)}
    return {
        name: torch.arange(tokens) < torch.tensor(counts)[:, None]
        for name, counts in lengths.items()
    }


FULL_MASKS = {
    name: torch.ones(2, 8, dtype=torch.bool)
    for name in ("prompt_attention_mask", "negative_prompt_attention_mask")
}  # diffusers' ring attention uses the first share's mask for all of them


# --- runs -----------------------------------------------------------------------------------------


def build(division: Division) -> Tiny:
    """One that nobody shares: it is divided for good."""
    if division.module == "modular":
        return importlib.import_module("support.modular").MODULAR[division.pipeline]()
    tiny = importlib.import_module(f"support.tiny.{division.module}")  # all of them take seconds
    return tiny.PIPELINES[division.pipeline](torch.float32)


def whole(division: Division, small: Tiny | None = None) -> dict[str, Any]:
    """The latents of each case; in one of several processes also the words of what is refused."""
    small, found = small or build(division), {}
    cases = GUIDER_CASES if division.module == "modular" else CASES
    for name in division.cases:
        try:
            with cases[name](small):
                found[name] = oracle.run(small, **{**small.short, **division.call})
        except ValueError as error:
            if not dist.is_initialized():
                raise
            found[name] = str(error)
    return found


@contextlib.contextmanager
def processes(world: int, folder: Path, job: Callable[..., Any], *args: Any) -> Iterator[list[Any]]:
    """What job(rank, *args) returns in each of several processes that know of each other.

    The list is filled at the end of the block, before which they run.

    Args:
        world: how many.
        folder: an empty one, in which they meet.
        job: a function of a module that they can import.
    """
    found: list[Any] = []
    children = start(world, folder, job, *args)
    try:
        yield found
        for child in children:
            child.join(240)
    finally:
        for child in children:
            child.kill()
    failed = [path.read_text() for path in sorted(folder.glob("*.txt"))]
    assert not failed, "\n".join(failed)
    found += [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


def start(world: int, folder: Path, job: Callable[..., Any], *args: Any) -> list[Any]:
    """Start the processes of processes(), which write RANK.pt, or RANK.txt with an error."""
    children: list[Any] = [
        PROCESSES.Process(target=_work, args=(rank, world, folder, job, args), daemon=True)
        for rank in range(world)
    ]
    for child in children:
        child.start()
    return children


def _work(rank: int, world: int, folder: Path, job: Callable[..., Any], args: Any) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # enable_parallelism says that it is experimental
    try:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world,
            timeout=datetime.timedelta(seconds=60),
        )  # fmt: skip
        torch.save(job(rank, *args), folder / f"{rank}.pt")
        dist.destroy_process_group()
    except BaseException:
        (folder / f"{rank}.txt").write_text(traceback.format_exc())


def divided(_: int, division: Division) -> dict[str, Any]:
    """What whole() finds in one of several processes that divide the tokens."""
    small = build(division)
    divide(small, division)
    return whole(division, small)


def divided_while_guided(_: int, division: Division, case: str) -> Tensor:
    """The latents of a case where parallelism is switched on after guidance."""
    small = build(division)
    with CASES[case](small):
        divide(small, division)
        return oracle.run(small, **small.short)


def by_example(_: int, division: Division) -> Tensor:
    """What the functions of the example make."""
    spec = importlib.util.spec_from_file_location("example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    torch.accelerator.device_count = lambda: 1
    small = build(division)
    example.divide(small.pipe)
    return example.make_video(small.pipe, STG([0]), 0, **{**small.call, **small.short})


def divide(small: Tiny, division: Division) -> None:
    from diffusers.models import attention_dispatch

    torch.accelerator.device_count = lambda: 1
    if "ring_degree" in division.degrees:
        attention_dispatch._native_attention_forward_op = _attention_with_logsumexp
    config = ContextParallelConfig(**division.degrees)
    if division.plan is None and division.module != "modular":
        enable_context_parallel(small.pipe, config)
        return
    for model in oracle.models(small):
        plan = division.plan(model) if division.plan else None
        model.enable_parallelism(config=config, cp_plan=plan)


def permuted_shares(rank: int, sizes: Sequence[int], order: Tensor, x: Tensor) -> Tensor:
    """permute_shares() of the share that a process has of `x`, where shares differ in size."""
    mesh = init_device_mesh("cpu", (len(sizes),))
    config = SimpleNamespace(_flattened_mesh=mesh, ulysses_anything=True, ring_anything=False)
    mine = x.split(list(sizes), dim=1)[rank]
    return context_parallel.permute_shares(mine, lambda n: order[:n], config)


def _attention_with_logsumexp(
    _: Any, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
    enable_gqa: bool = False, return_lse: bool = False, **__: Any,
) -> Any:  # fmt: skip
    """What diffusers' native attention does, which returns no logsumexp, by torch's CPU kernel."""
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    output, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )
    return (output.transpose(1, 2), logsumexp.transpose(1, 2)) if return_lse else output
