"""What a guided step costs beside plain CFG, measured in one run: everyone's way, and with the shared prefix."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from skipguide import families, pipeline, prefix, skips
from skipguide.terms import STG

Tensor = torch.Tensor


@dataclasses.dataclass(frozen=True)
class Workload:
    """One denoising step of a family: its real class, its real depth, a chosen width, random weights."""

    family: str
    config: dict[str, Any]  # of the denoiser
    latents: tuple[int, ...]  # (C, F, H, W)
    tokens: int  # of text
    layer: int


# Widths that a CPU does in a second or two; the depth and the skipped layer are those of the public checkpoint.
WORKLOADS = {
    "mochi": Workload(
        family="mochi",
        config=dict(
            patch_size=2, num_attention_heads=4, attention_head_dim=64, num_layers=48, pooled_projection_dim=128,
            in_channels=12, text_embed_dim=256, time_embed_dim=256,
        ),
        latents=(12, 4, 12, 16),
        tokens=64,
        layer=34,
    )
}  # fmt: skip
FULL_SIZE = {"mochi": dict(config={}, latents=(12, 15, 60, 106), tokens=256)}


class Step:
    """One step of a pipeline that runs CFG as one batch: enough of a pipeline for guide(), and nothing else."""

    def __init__(self, work: Workload, prompts: int, device: torch.device, dtype: torch.dtype):
        import diffusers

        row = next(row for row in families.FAMILIES if row.name == work.family)
        torch.manual_seed(0)
        with torch.device(device):
            model = getattr(diffusers, row.denoiser_class)(**work.config).to(dtype).eval()
            self.latents = torch.randn(prompts, *work.latents, dtype=dtype)
            text = torch.randn(2 * prompts, work.tokens, model.config.text_embed_dim, dtype=dtype)
            mask = torch.ones(2 * prompts, work.tokens, dtype=torch.bool)
            time_ = torch.full((2 * prompts,), 500.0, dtype=dtype)
        _stir(model)
        self.layer, self.model = work.layer, model
        self.stack = next(iter(row.stacks.values()))
        self.inputs: dict[str, Tensor] = {
            "hidden_states": torch.cat([self.latents] * 2),
            "encoder_hidden_states": text,
            "timestep": time_,
            "encoder_attention_mask": mask,
        }
        self.pipe = _bare_pipeline(row, model)

    def rows(self, *picked: int) -> dict[str, Tensor]:
        """The denoiser's inputs for some of [uncond, cond] (of all prompts), in the order given."""
        halves = {name: value.chunk(2) for name, value in self.inputs.items()}
        return {name: torch.cat([half[i] for i in picked]) for name, half in halves.items()}

    def predict(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.model(**inputs, return_dict=False)[0]

    # The ways to make the step. Each returns the guided prediction D with g = 4.5 and s = 1.

    def cfg(self) -> Tensor:
        u, c = self.predict(self.inputs).float().chunk(2)
        return u + 4.5 * (c - u)

    def batched(self) -> Tensor:
        """A third sample in the batch, whose rows the skipped block computes and throws away: what forks do."""
        block = self.model.get_submodule(self.stack.path)[self.layer]  # type: ignore[index]

        def restore(_: nn.Module, args: Any, kwargs: Any, output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            inputs = skips.stream_values(self.stack.streams, args, kwargs)
            keep = 2 * len(self.latents)
            return tuple(torch.cat([o[:keep], i[keep:]]) for o, i in zip(output, inputs, strict=True))

        hook = block.register_forward_hook(restore, with_kwargs=True)
        try:
            u, c, p = self.predict(self.rows(0, 1, 1)).float().chunk(3)
        finally:
            hook.remove()
        return u + 4.5 * (c - u) + (c - p)

    def full(self) -> Tensor:
        """A third forward pass with the block skipped: the other thing that forks do."""
        u, c = self.predict(self.inputs).float().chunk(2)
        return u + 4.5 * (c - u) + (c - self.weak_in_full().float())

    def guided(self, scale: float) -> Tensor:
        """guide() as users run it, attaching and removing included."""
        with pipeline.guide(self.pipe, STG(layers=[self.layer], scale=scale)):
            return self.cfg()

    def weak_in_full(self) -> Tensor:
        blocks = self.model.get_submodule(self.stack.path)
        assert isinstance(blocks, nn.ModuleList)
        weak = prefix.WeakPass(blocks, self.stack.streams, (self.layer,))
        with skips.swapped(weak.swaps(None)):
            return self.predict(self.rows(1))


def _bare_pipeline(row: families.Family, model: nn.Module) -> Any:
    """Looks like the family's pipeline to guide(): its class name, its denoiser, one step of one."""
    scheduler = type("Scheduler", (), {"begin_index": 0, "step_index": 0})()
    attributes = {
        "scheduler": scheduler,
        "num_timesteps": 1,
        "current_timestep": 0,
        "guidance_scale": 4.5,
        "do_classifier_free_guidance": True,
    }
    return type(row.pipelines[0], (), {**attributes, row.denoiser: model})()


@torch.no_grad()
def _stir(model: nn.Module) -> None:
    """Move parameters that start at zero (gates, rotary frequencies), so that every block counts."""
    for parameter in model.parameters():
        if parameter.ndim > 2 or parameter.count_nonzero() == 0:
            parameter.add_(0.02 * torch.randn_like(parameter))


def run(
    family: str, *, prompts: int, width: int | None, repeats: int, full_size: bool, device: str, dtype: str
) -> Iterator[tuple[str, Any]]:
    """Measure; yields ("progress", text) and at the end ("result", dictionary).

    Raises:
        ValueError: for a family without a workload, or a width that is not a positive multiple of 64.
    """
    work = _workload(family, width, full_size)
    place, precision = torch.device(device), getattr(torch, dtype)
    yield "progress", f"building {work.family} with {work.config.get('num_layers', 48)} blocks"
    with torch.inference_mode():
        step = Step(work, prompts, place, precision)

        def shared() -> Tensor:
            return step.guided(1.0)

        def attached() -> Tensor:
            return step.guided(0.0)

        ways = {"cfg": step.cfg, "attached": attached, "batched": step.batched, "full": step.full, "shared": shared}
        for name, way in ways.items():
            yield "progress", f"warming up: {name}"
            way()
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for repeat in range(repeats):
            for name, way in ways.items():  # alternating, so that a slow moment of the machine hits all of them
                seconds[name].append(_timed(way, place))
            yield "progress", f"round {repeat + 1} of {repeats}"
        yield "result", _result(step, work, seconds, place, shared)


def _workload(family: str, width: int | None, full_size: bool) -> Workload:
    if family not in WORKLOADS:
        raise ValueError(f"--family must be one of {', '.join(WORKLOADS)}, but got {family!r}. Choose one of them.")
    work = WORKLOADS[family]
    if full_size:
        return dataclasses.replace(work, **FULL_SIZE[family])
    if width is None:
        return work
    if width < 64 or width % 64:
        raise ValueError(f"--width must be a positive multiple of 64, but got {width}. Pass 256, for example.")
    return dataclasses.replace(work, config={**work.config, "num_attention_heads": width // 64})


def _timed(way: Callable[[], Tensor], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        way()
        return time.perf_counter() - start
    start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start_event.record()
    way()
    end_event.record()
    torch.cuda.synchronize()
    return start_event.elapsed_time(end_event) / 1000


def _result(
    step: Step, work: Workload, seconds: dict[str, list[float]], device: torch.device, shared: Any
) -> dict[str, Any]:
    cfg = statistics.median(seconds["cfg"])
    ratio = {
        name: statistics.median(t / c for t, c in zip(times, seconds["cfg"], strict=True))
        for name, times in seconds.items()
    }
    blocks = len(step.model.get_submodule(step.stack.path))  # type: ignore[arg-type]
    hidden = _hidden_bytes(step)
    ours, theirs = _weak_output(shared, step), step.weak_in_full()
    return {
        "family": work.family,
        "prompts": len(step.latents),
        "blocks": blocks,
        "layer": work.layer,
        "parameters": sum(p.numel() for p in step.model.parameters()),
        "repeats": len(seconds["cfg"]),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "dtype": str(step.latents.dtype).removeprefix("torch."),
        "cfg_s": cfg,
        "attached_ratio": ratio["attached"],
        "stg_batched_ratio": ratio["batched"],
        "stg_full_ratio": ratio["full"],
        "stg_shared_ratio": ratio["shared"],
        "floor_ratio": 1 + (blocks - work.layer - 1) / (2 * blocks),
        "bit_equal": torch.equal(ours, theirs),
        "largest_difference": (ours - theirs).abs().max().item(),
        "extra_bytes": _peak(shared, device) - _peak(step.cfg, device),
        "hidden_bytes": hidden,
    }


def _weak_output(shared: Callable[[], Tensor], step: Step) -> Tensor:
    """What the denoiser returned in the weak pass that guide() made."""
    outputs: list[Tensor] = []
    hook = step.model.register_forward_hook(lambda *args: outputs.append(args[-1][0]))  # before guide()'s: unguided
    shared()
    hook.remove()
    return outputs[1]


def _hidden_bytes(step: Step) -> int:
    """Size of the cond rows of the state between two blocks, all streams."""
    sizes = []
    block = step.model.get_submodule(step.stack.path)[0]  # type: ignore[index]
    record = lambda _, args, kwargs: sizes.extend(  # noqa: E731
        s.numel() // 2 * s.element_size() for s in skips.stream_values(step.stack.streams, args, kwargs)
    )
    hook = block.register_forward_pre_hook(record, with_kwargs=True)
    step.cfg()
    hook.remove()
    return sum(sizes)


def _peak(way: Callable[[], Tensor], device: torch.device) -> int:
    """Most bytes of tensors alive at once during the step, over what was alive before it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        way()
    recorded: Any = profile.profiler  # its events have no public name
    events = [e for e in recorded.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in events))
