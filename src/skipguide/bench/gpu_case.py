"""Measure one model in all modes: the process that `skipguide bench --gpu` starts for each case.

What was measured is written after each mode, so that a crash or a time limit loses one mode only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from skipguide.bench import gpu_cases, memory, rounds
from skipguide.bench.gpu_cases import GpuCase, GpuOptions, Mode
from skipguide.bench.step_cost import BenchmarkStep, measure_agreement
from skipguide.families.examples import denoiser_class
from skipguide.families.schema import Family
from skipguide.files.atomic import atomic_replace

Result = dict[str, Any]
Ways = Mapping[str, Callable[[], torch.Tensor]]
MAX_ROUNDS = 7


def run_case(case: GpuCase, options: GpuOptions, seconds: float) -> Iterator[Result]:
    """Measure a model in all modes; yield what is known after each of them.

    Args:
        case: the model.
        options: of the script.
        seconds: what is left for it; modes for which there is no time are left out.
    """
    deadline = time.monotonic() + seconds
    device = torch.device(options.device)
    found: Result = {"title": case.title, "modes": {}}
    with torch.inference_mode():
        began = time.monotonic()
        model: nn.Module | None = None
        for mode in gpu_cases.MODES:
            if mode.needs_cuda and device.type != "cuda":
                found["modes"][mode.name] = {"status": "needs CUDA"}
                continue
            step = _make_step(case, mode, options, model)
            if model is None:
                found |= _describe_model(step, time.monotonic() - began)
            model = step.model
            left = min(deadline - time.monotonic(), mode.share * seconds)
            found["modes"][mode.name] = _measure_mode(step, mode, left, device)
            yield found
    yield found


def _describe_model(step: BenchmarkStep, seconds: float) -> Result:
    parameters = list(step.model.parameters())
    return {
        "parameters": sum(p.numel() for p in parameters),
        "weights_bytes": sum(p.numel() * p.element_size() for p in parameters),
        "cfg": step.calls.cfg_mode,
        "layer": step.sites[step.weak_passes[0].first_skipped].address,
        "blocks": len(step.sites),
        "build_s": seconds,
    }


# --- the model ------------------------------------------------------------------------------------


def _make_step(
    case: GpuCase, mode: Mode, options: GpuOptions, model: nn.Module | None
) -> BenchmarkStep:
    """Return the step of a case at the size of a mode, with the model of the modes before it."""
    device = torch.device(options.device)

    def build(family: Family, config: Mapping[str, Any]) -> nn.Module:
        return model if model is not None else random_model(family, config, device, torch.bfloat16)

    work = case.workload(mode.size, options.small)
    return BenchmarkStep(case.family, work, 1, device, torch.bfloat16, build)


def random_model(
    family: Family, config: Mapping[str, Any], device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """Build a denoiser whose weights are drawn on the device; none are in the memory of the CPU.

    Matrices keep the size of what they multiply, gains are 1 and offsets 0. Buffers, such as tables
    of angles, are the real ones.
    """
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        model = denoiser_class(family)(**config).eval()
    generator = torch.Generator(device).manual_seed(0)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                value = torch.empty(parameter.shape, device=device, dtype=dtype)
                _draw(value, name, generator)
                module._parameters[name] = nn.Parameter(value, requires_grad=False)
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(device)
    return model


def _draw(value: torch.Tensor, name: str, generator: torch.Generator) -> None:
    if value.ndim < 2:
        value.fill_(1.0 if name == "weight" else 0.0)
    else:
        value.normal_(0.0, (value.numel() / len(value)) ** -0.5, generator=generator)


# --- a mode ---------------------------------------------------------------------------------------


def _measure_mode(step: BenchmarkStep, mode: Mode, seconds: float, device: torch.device) -> Result:
    """Return the result of a mode, or why there is none."""
    if seconds <= 0:
        return {"status": "no time left"}
    try:
        with SETUPS[mode.setup](step, device) as said:
            return {"status": "done", **said, **_measure_ways(step, mode, seconds, device)}
    except Exception as error:  # out of memory, or a way that does not work here
        lines = str(error).strip().splitlines() or [""]
        return {"status": "failed", "error": f"{type(error).__name__}: {lines[0]}"}
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _measure_ways(step: BenchmarkStep, mode: Mode, seconds: float, device: torch.device) -> Result:
    deadline = time.monotonic() + seconds
    every, missing = step.ways()
    ways = {name: way for name, way in every.items() if mode.ways is None or name in mode.ways}
    began = time.monotonic()
    agreement, peaks = measure_agreement(step), _measure_peaks(ways, device)  # these warm up
    if mode.setup == "plain":  # hooks that take the time would break up compiled blocks
        times = [step.time_blocks(device) for _ in range(2)]
        agreement["floor_ratio"] = step.floor_ratio(times)
    warm_up = time.monotonic() - began
    taken: dict[str, list[float]] = {name: [] for name in ways}
    while len(taken["cfg"]) < MAX_ROUNDS:
        began = time.monotonic()
        for name in ways:
            taken[name].append(step.time_step_of_run(name, device, mode.steps))
        if 2 * time.monotonic() - began > deadline:  # the next one would not fit
            break
    count = len(taken["cfg"])
    return {
        "rounds": count, "interval_level": rounds.interval_level(count), "warm_up_s": warm_up,
        "passes": 2 + sum(weak.cost(shared=True) for weak in step.weak_passes),
        "passes_full": 2 + sum(weak.cost(shared=False) for weak in step.weak_passes),
        "ways": {
            name: {**way, "peak_bytes": peaks[name]}
            for name, way in rounds.compare_ways(taken, to="cfg").items()
        },
        "no_slg_guider": missing, **agreement,
    }  # fmt: skip


def _measure_peaks(ways: Ways, device: torch.device) -> dict[str, int]:
    return {name: memory.measure_peak(way, device) for name, way in ways.items()}


# --- ways of running a model ----------------------------------------------------------------------


@contextlib.contextmanager
def _plain(step: BenchmarkStep, device: torch.device) -> Iterator[Result]:
    yield {}


@contextlib.contextmanager
def _compiled(step: BenchmarkStep, device: torch.device) -> Iterator[Result]:
    """Compile each block; on a CPU by a compiler that makes no code, to test the path."""
    cuda = device.type == "cuda"
    with _compiled_blocks(step, {"backend": "inductor" if cuda else "eager"}) as said:
        yield said


@contextlib.contextmanager
def _cuda_graphs(step: BenchmarkStep, device: torch.device) -> Iterator[Result]:
    with _compiled_blocks(step, {"mode": "reduce-overhead"}) as said:
        yield said


@contextlib.contextmanager
def _compiled_blocks(step: BenchmarkStep, options: Result) -> Iterator[Result]:
    torch._dynamo.reset()
    blocks = [site.block for site in step.sites]
    for block in blocks:
        block.compile(**options)
    try:
        yield {"compiled": options}
    finally:
        for block in blocks:
            block._compiled_call_impl = None
        torch._dynamo.reset()


@contextlib.contextmanager
def _offload(step: BenchmarkStep, device: torch.device) -> Iterator[Result]:
    """Offload blocks to the CPU; the stream fetches the next one meanwhile. It stays so."""
    model: Any = step.model
    model.enable_group_offload(
        onload_device=device, offload_device=torch.device("cpu"), offload_type="block_level",
        num_blocks_per_group=1, use_stream=True,
    )  # fmt: skip
    yield {}


SETUPS = {
    "plain": _plain, "compiled": _compiled, "cuda_graphs": _cuda_graphs, "offload": _offload,
}  # fmt: skip


def run_child() -> None:
    """Run the case of the arguments: its family, the file to write, the seconds, the options."""
    family, out, seconds, content = sys.argv[1:]
    case = next(case for case in gpu_cases.CASES if case.family == family)
    options = GpuOptions(**{**json.loads(content), "cases": (family,)})
    for found in run_case(case, options, float(seconds)):
        write_json(Path(out), found)


def write_json(path: Path, content: Result) -> None:
    """Write a file of JSON, or leave what was there."""
    with atomic_replace(path) as (part,):
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def options_text(options: GpuOptions) -> str:
    """Return the options as an argument of a child."""
    return json.dumps(dataclasses.asdict(options))


if __name__ == "__main__":
    run_child()
