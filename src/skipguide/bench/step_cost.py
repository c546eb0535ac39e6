"""What a guided step costs beside plain CFG, measured in one run: everyone's way, and with the shared prefix."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from skipguide.bench.workloads import WORKLOADS, Workload, model_class
from skipguide.families import blocks as family_blocks
from skipguide.families import rows
from skipguide.families.schema import Family
from skipguide.method.terms import STG
from skipguide.pipeline import guide
from skipguide.weak import flops, patching, prefix_cache, weak_pass

Tensor = torch.Tensor
G = 4.5


class Step:
    """One step of a family's first pipeline: enough of a pipeline for guide(), and nothing else.

    Args:
        prompts: how many; a pipeline that batches CFG runs twice as many rows.
    """

    def __init__(self, family: str, work: Workload, prompts: int, device: torch.device, dtype: torch.dtype):
        self.row = next(row for row in rows.FAMILIES if row.name == family)
        self.name, self.calls = next(iter(self.row.pipelines.items()))
        self.prompts, self.dtype = prompts, dtype
        self.terms = [STG([work.layer], **more) for more in work.terms]
        torch.manual_seed(0)
        with torch.device(device):
            model = model_class(self.row)(**work.config).eval()
            self.cond, self.uncond = (_in_dtype(work.inputs(prompts), dtype) for _ in range(2))
        nn.Module.to(model, dtype)  # past diffusers' own, which warns of what is lost in a lower precision
        _stir(model)
        self.model = model
        self.uncond = {**self.cond, "encoder_hidden_states": self.uncond["encoder_hidden_states"]}
        self.both = _joined(self.row, self.uncond, self.cond)
        self.pipe = _bare_pipeline(self)
        self.places = family_blocks.chain(self.row, model)
        self.skipped = [family_blocks.resolve(self.row, self.places, term) for term in self.terms]
        self.weak = [self._weak_pass(term, skipped) for term, skipped in zip(self.terms, self.skipped, strict=True)]

    def _weak_pass(self, term: STG, skipped: Sequence[int]) -> weak_pass.WeakPass:
        weak = weak_pass.WeakPass(self.row, self.model, self.places, skipped, term.skip, None)
        weak.inputs = flops.without_numbers(self.cond)
        return weak

    def predict(self, inputs: dict[str, Any]) -> tuple[Tensor, ...]:
        """The outputs of the denoiser in float32, video first."""
        return tuple(sample.float() for sample in guide._samples(self.model(**inputs))[: len(self.row.outputs)])

    # The ways to make the step. Each returns the guided prediction of the video, with g = 4.5 and s of the workload.

    def cfg(self) -> Tensor:
        """As the pipeline does it: called through it, so that guide() sees it run."""
        return self.pipe()

    def strong(self) -> tuple[Tensor, Tensor]:
        """(c, u) of the video."""
        if self.calls.how == "batched":
            u, c = self.predict(self.both)[0].chunk(2)
            return c, u
        return self.predict(self.cond)[0], self.predict(self.uncond)[0]

    def combined(self) -> Tensor:
        c, u = self.strong()
        return u + G * (c - u)

    def full(self) -> Tensor:
        """One more forward pass for each term, with the layer skipped: what everybody else does."""
        c, u = self.strong()
        weak = zip(self.terms, self.weak_in_full(), strict=True)
        return u + G * (c - u) + sum(term.scales(1)[0] * (c - p) for term, p in weak)

    def guided(self) -> Tensor:
        """guide() as users run it, attaching and removing included."""
        with guide.guide(self.pipe, self.terms):
            return self.cfg()

    def attached(self) -> Tensor:
        """guide() with nothing to do."""
        with guide.guide(self.pipe, [dataclasses.replace(term, scale=0.0) for term in self.terms]):
            return self.cfg()

    def weak_in_full(self) -> list[Tensor]:
        """The prediction of each weak pass, run from the first layer to the last."""
        found = []
        for weak in self.weak:
            with patching.swapped(weak.full):
                found.append(self.predict(self.cond)[0])
        return found

    def block_times(self, device: torch.device) -> tuple[float, dict[int, float]]:
        """Seconds of a cond pass, and of each block in it."""
        with _timing([place.block for place in self.places], device) as seconds:
            whole = _timed(lambda: self.predict(self.cond), device)
        return whole, seconds

    def floor(self, times: list[tuple[float, dict[int, float]]]) -> float:
        """1 + the share of the shared weak passes in a step of CFG: by the time of their blocks in the cond pass.

        Counting blocks would do where all are alike; those of HunyuanVideo's two stacks are not. A UNet is no stack of
        blocks, and there floating point operations are counted.
        """
        if self.row.unet:
            return 1 + sum(weak.cost(shared=True) for weak in self.weak) / 2
        skipped = [weak.skipped if weak.skip == "residual" else () for weak in self.weak]
        left = sum(
            min(seconds[k] for _, seconds in times)
            for weak, without in zip(self.weak, skipped, strict=True)
            for k in range(weak.first, len(self.places))
            if k not in without
        )
        return 1 + left / (2 * min(whole for whole, _ in times))


def _joined(row: Family, uncond: dict[str, Any], cond: dict[str, Any]) -> dict[str, Any]:
    """The inputs of one call on [uncond, cond]."""
    joined = {name: torch.cat([uncond[name], cond[name]]) for name in row.batched if torch.is_tensor(cond.get(name))}
    return {**cond, **joined}


def _in_dtype(inputs: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {
        name: value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in inputs.items()
    }


def _bare_pipeline(step: Step) -> Any:
    """Looks like the family's pipeline to guide(): its class name, its denoiser, a call that is one step."""

    def __call__(self: Any) -> Tensor:
        self.scheduler.timesteps = torch.zeros(1)  # a new run
        return step.combined()

    calls, model = step.calls, step.model
    guider = type(
        "ClassifierFreeGuidance", (), dict(num_conditions=2, guidance_scale=G, use_original_formulation=False)
    )
    attributes: dict[str, Any] = {
        **dict.fromkeys(calls.scale, G),
        **dict.fromkeys((*calls.extra, *filter(None, (calls.varies, calls.never))), False),
        **dict.fromkeys(calls.rescale, 0.0),
        "scheduler": type("Scheduler", (), {"begin_index": 0, "timesteps": torch.zeros(1)})(),
        "num_timesteps": 1,
        "guider": guider(),
        **dict.fromkeys(step.row.denoisers),
        step.row.denoisers[0]: model,
        "__call__": __call__,
    }
    return type(step.name, (), {calls.cfg: True, **attributes})()


@contextlib.contextmanager
def _timing(blocks: list[nn.Module], device: torch.device) -> Iterator[dict[int, float]]:
    """Seconds that each block takes."""
    seconds: dict[int, float] = {}

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def begin(k: int) -> Callable[..., None]:
        return lambda *_: seconds.__setitem__(k, -now())

    def end(k: int) -> Callable[..., None]:
        return lambda *_: seconds.__setitem__(k, seconds[k] + now())

    hooks = [
        hook
        for k, block in enumerate(blocks)
        for hook in (block.register_forward_pre_hook(begin(k)), block.register_forward_hook(end(k)))
    ]
    try:
        yield seconds
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _stir(model: nn.Module) -> None:
    """Move parameters that start at zero (gates, rotary frequencies), so that every block counts."""
    for parameter in model.parameters():
        if parameter.ndim > 2 or parameter.count_nonzero() == 0:
            parameter.add_(0.02 * torch.randn_like(parameter))


def run(
    family: str, *, prompts: int, width: int | None, repeats: int, full_size: bool, device: str, dtype: str,
    memory: bool = True,
) -> Iterator[tuple[str, Any]]:  # fmt: skip
    """Measure; yields ("progress", text) and at the end ("result", dictionary).

    Raises:
        ValueError: for a family without a workload, or a width that is not a positive multiple of 64.
    """
    work = _workload(family, width, full_size)
    place, precision = torch.device(device), getattr(torch, dtype)
    yield "progress", f"{family}: building"
    with torch.inference_mode():
        step = Step(family, work, prompts, place, precision)

        ways = {"cfg": step.cfg, "attached": step.attached, "full": step.full, "shared": step.guided}
        for way in ways.values():
            way()
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        times = [] if step.row.unet else [step.block_times(place)]  # the first one warms up
        for repeat in range(repeats):
            for name, way in ways.items():  # alternating, so that a slow moment of the machine hits all of them
                seconds[name].append(_timed(way, place))
            if not step.row.unet:
                times.append(step.block_times(place))
            yield "progress", f"{family}: round {repeat + 1} of {repeats}"
        result = _result(step, seconds, step.floor(times[1:]), place)
        if memory:  # on a CPU by torch's profiler, which takes longer than all the rounds
            yield "progress", f"{family}: memory"
            result["extra_bytes"] = _peak(step.guided, place) - _peak(step.full, place)
        yield "result", result


def _workload(family: str, width: int | None, full_size: bool) -> Workload:
    if family not in WORKLOADS:
        raise ValueError(f"--family must be one of {', '.join(WORKLOADS)}, but got {family!r}. Choose one of them.")
    work = WORKLOADS[family]
    if full_size:
        if work.full_size is None:
            known = ", ".join(name for name, other in WORKLOADS.items() if other.full_size)
            raise ValueError(f"--full-size is there for {known}, but not for {family}. Leave it out.")
        return dataclasses.replace(work, config=work.full_size[0], inputs=work.full_size[1])
    if width is None:
        return work
    if not isinstance(work.config.get("num_attention_heads"), int):
        raise ValueError(
            f"--width is for denoisers of one width that is a number of heads, not for {family}. Leave it out."
        )
    if width < 64 or width % 64:
        raise ValueError(f"--width must be a positive multiple of 64, but got {width}. Pass 256, for example.")
    return dataclasses.replace(work, config={**work.config, "num_attention_heads": width // 64})


def _timed(way: Callable[[], object], device: torch.device) -> float:
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


def _result(step: Step, seconds: dict[str, list[float]], floor: float, device: torch.device) -> dict[str, Any]:
    best = {name: min(times) for name, times in seconds.items()}  # what disturbs a round only ever makes it slower
    ratio = {name: time / best["cfg"] for name, time in best.items()}
    pairs = list(zip(_weak_outputs(step), step.weak_in_full(), strict=True))
    return {
        "family": step.row.name,
        "pipeline": step.name,
        "cfg": step.calls.how,
        "prompts": step.prompts,
        "blocks": len({place.address for place in step.places}),
        "layer": step.places[step.weak[0].first].address,
        "terms": [{"skip": term.skip, "axis": term.axis, "scale": term.scale} for term in step.terms],
        "parameters": sum(p.numel() for p in step.model.parameters()),
        "repeats": len(seconds["cfg"]),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "dtype": str(step.dtype).removeprefix("torch."),
        "cfg_s": best["cfg"],
        "attached_ratio": ratio["attached"],
        "stg_full_ratio": ratio["full"],
        "stg_shared_ratio": ratio["shared"],
        "floor_ratio": floor,
        "floor_by": "FLOPs" if step.row.unet else "time",
        "passes": 2 + sum(weak.cost(shared=True) for weak in step.weak),
        "passes_full": 2 + sum(weak.cost(shared=False) for weak in step.weak),
        "bit_equal": all(torch.equal(ours, theirs) for ours, theirs in pairs),
        "largest_difference": max((ours - theirs).abs().max().item() for ours, theirs in pairs),
        "hidden_bytes": _hidden_bytes(step),
    }


def _weak_outputs(step: Step) -> list[Tensor]:
    """What the denoiser returned in the weak passes that guide() made: its calls right after cond, the first one."""
    outputs: list[Tensor] = []
    hook = step.model.register_forward_hook(lambda *args: outputs.append(guide._samples(args[-1])[0].float()))
    step.guided()
    hook.remove()
    return outputs[1 : 1 + len(step.terms)]


def _hidden_bytes(step: Step) -> int:
    """Size of what the cond pass leaves for the weak ones: the streams between two blocks; of a UNet, all outputs.

    What is replayed instead of run beside the blocks of a stack (VACE's hints) is not in it.
    """
    firsts = {weak.first for weak in step.weak}
    strong = prefix_cache.Strong(step.row, step.model, step.places, firsts)
    with patching.swapped(strong.swaps(firsts)):
        step.predict(step.cond)
    kept: list[Any] = [recording.state for recording in strong.recordings.values()]
    if step.row.unet:
        kept = [memory.outputs for k in firsts for _, _, memory in strong.remembered[k]]
    tensors = {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in _tensors(kept)}
    return sum(tensors.values())


def _tensors(value: Any) -> Iterator[Tensor]:
    """Those in nested lists and tuples."""
    if torch.is_tensor(value):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


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
