"""Measure what a guided step costs beside plain CFG: with full weak passes, and with the shared
prefix.

The denoiser is a family's example (`families/examples`): its real class at its real depth, narrow,
with random weights. All ways of making the step alternate within one run."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from skipguide.bench import memory, peers, recipe, rounds
from skipguide.families import blocks as family_blocks
from skipguide.families import rows
from skipguide.families.examples import Workload, denoiser_class, example_of
from skipguide.families.schema import Family
from skipguide.method import formula
from skipguide.method.protocols import Inputs
from skipguide.method.terms import STG
from skipguide.pipeline import combine, guide
from skipguide.weak import flops, patching, weak_pass
from skipguide.weak import prefix_cache as prefix_cache_module

Tensor = torch.Tensor
GUIDANCE_SCALE = 4.5


class BenchmarkStep:
    """One denoising step of a family's first pipeline: as much of a pipeline as guide() needs.

    Args:
        family: the name of its row.
        work: the denoiser, its inputs, and the layer to skip.
        prompts: how many; a pipeline with batched CFG runs twice as many rows.
        device: where the step runs.
        dtype: of the weights and of the inputs.
        build: makes the denoiser, on the device and in the dtype; None draws its weights as its
            class does.
    """

    def __init__(
        self, family: str, work: Workload, prompts: int, device: torch.device, dtype: torch.dtype,
        build: Callable[[Family, Mapping[str, Any]], nn.Module] | None = None,
    ):  # fmt: skip
        self.family = next(row for row in rows.FAMILIES if row.name == family)
        self.name, self.calls = next(iter(self.family.pipelines.items()))
        self.prompts, self.dtype = prompts, dtype
        self.terms = [STG([work.layer], **more) for more in work.terms]
        torch.manual_seed(0)
        build = build or _build_with_own_weights(device, dtype)
        model = build(self.family, work.config)
        with torch.device(device):
            self.cond, self.uncond = (_cast_floats(work.inputs(prompts), dtype) for _ in range(2))
        self.model = model
        text = peers.text_input(self.cond)
        self.uncond = {**self.cond, text: self.uncond[text]}
        halves = (self.cond, self.uncond) if self.calls.cond_first else (self.uncond, self.cond)
        self.batched_inputs = _join_batches(self.family, *halves)
        self.pipe = _build_bare_pipeline(self)
        self.sites = family_blocks.layer_sites(self.family, model)
        self.skipped_positions = [
            family_blocks.resolve_layers(self.family, self.sites, term) for term in self.terms
        ]
        self.weak_passes = [
            self._make_weak_pass(term, skipped)
            for term, skipped in zip(self.terms, self.skipped_positions, strict=True)
        ]

    def _make_weak_pass(self, term: STG, skipped: Sequence[int]) -> weak_pass.WeakPass:
        weak = weak_pass.WeakPass(self.family, self.model, self.sites, skipped, term.skip, None)
        weak.inputs = flops.to_meta_tensors(self.cond)
        return weak

    def predict(self, inputs: Inputs) -> tuple[Tensor, ...]:
        """Return the outputs of the denoiser in float32, the video first."""
        return tuple(
            sample.float()
            for sample in combine.output_samples(self.model(**inputs))[: len(self.family.outputs)]
        )

    # The ways of making the step. Each returns the guided prediction of the video, with g = 4.5 and
    # the scales of the workload.

    def run_cfg(self) -> Tensor:
        """Make the step through the pipeline: without STG, unless guide() is attached to it."""
        return self.pipe()

    def predict_cond_and_uncond(self) -> tuple[Tensor, Tensor | None]:
        """Return (c, u) of the video; no u for a model that never has CFG."""
        if self.calls.cfg_mode == "none":
            return self.predict(self.cond)[0], None
        if self.calls.cfg_mode == "batched":
            halves = self.predict(self.batched_inputs)[0].chunk(2)
            c, u = halves if self.calls.cond_first else halves[::-1]
            return c, u
        return self.predict(self.cond)[0], self.predict(self.uncond)[0]

    def predict_cfg(self) -> Tensor:
        """Return D of plain CFG, or c where there is none."""
        return formula.combine(*self.predict_cond_and_uncond(), GUIDANCE_SCALE)

    def run_full(self) -> Tensor:
        """Make the step with a full extra pass for each term, as other implementations do."""
        c, u = self.predict_cond_and_uncond()
        scales = [term.scales(1)[0] for term in self.terms]
        push = formula.skip_guidance(c, self.run_full_weak_passes(), scales)
        return formula.combine(c, u, GUIDANCE_SCALE, push)

    def run_guided(self) -> Tensor:
        """Make the step with guide() as users call it; attaching and removing it is included."""
        with guide.guide(self.pipe, self.terms):
            return self.run_cfg()

    def run_in_one_batch(self) -> Tensor:
        """Make the step with guide() and exact=False: the pipeline's own batch, and joint weak
        passes."""
        with guide.guide(self.pipe, self.terms, exact=False):
            return self.run_cfg()

    def run_attached(self) -> Tensor:
        """Make the step with guide() attached and every scale 0."""
        with guide.guide(self.pipe, [dataclasses.replace(term, scale=0.0) for term in self.terms]):
            return self.run_cfg()

    def ways(self) -> tuple[dict[str, Callable[[], Tensor]], str]:
        """Return all ways of making the step by their names, and why SkipLayerGuidance is not
        among them, where it is not."""
        others, missing = peers.peer_ways(self, GUIDANCE_SCALE)
        batched = {"batch": self.run_in_one_batch} if self.calls.cfg_mode == "batched" else {}
        own = {
            "cfg": self.run_cfg, "attached": self.run_attached, "full": self.run_full,
            "shared": self.run_guided,
        }  # fmt: skip
        return {**own, **batched, **others}, missing

    def time_step_of_run(self, name: str, device: torch.device, steps: int) -> float:
        """Measure the last step of a run of some; guide() is attached before it.

        At the third step of a run nothing is looked at that is looked at when a run begins.

        Args:
            name: of a way; those that are not ours know no runs, and are measured alone.
            device: where the step runs.
            steps: how many the run has.
        """
        exact = {"shared": True, "batch": False}
        if name not in exact:
            return rounds.measure_time(self.ways()[0][name], device)
        seconds: list[float] = []
        with guide.guide(self.pipe, self.terms, exact=exact[name]):
            self.pipe(steps, lambda predict: seconds.append(rounds.measure_time(predict, device)))
        return seconds[0]

    def run_full_weak_passes(self) -> list[Tensor]:
        """Return the prediction of each weak pass, run from the first layer to the last."""
        found = []
        for weak in self.weak_passes:
            with patching.patched(weak.full_patches):
                found.append(self.predict(self.cond)[0])
        return found

    def time_blocks(self, device: torch.device) -> tuple[float, dict[int, float]]:
        """Measure the seconds of a conditional pass, and of each block in it by its position."""
        with _time_blocks([site.block for site in self.sites], device) as seconds:
            whole = rounds.measure_time(lambda: self.predict(self.cond), device)
        return whole, seconds

    @property
    def plain_passes(self) -> int:
        """Return the passes of a step without STG: c, and u where there is CFG."""
        return 1 if self.calls.cfg_mode == "none" else 2

    def floor_ratio(self, times: list[tuple[float, dict[int, float]]]) -> float:
        """Return the lowest time that a step with shared weak passes can take, over a step of CFG.

        It is 1 + the share of the blocks that the weak passes run, by the time that these blocks
        take in the conditional pass. Counting them would do where all are alike, but those of
        HunyuanVideo's two stacks are not. The layers of a UNet are no stack of blocks; there
        floating point operations are counted.

        Args:
            times: the results of time_blocks(), one for each round; the best ones count."""
        if self.family.unet:
            return 1 + sum(weak.cost(shared=True) for weak in self.weak_passes) / self.plain_passes
        skipped = [weak.skipped if weak.skip == "residual" else () for weak in self.weak_passes]
        left = sum(
            min(seconds[k] for _, seconds in times)
            for weak, without in zip(self.weak_passes, skipped, strict=True)
            for k in range(weak.first_skipped, len(self.sites))
            if k not in without
        )
        return 1 + left / (self.plain_passes * min(whole for whole, _ in times))


def _build_with_own_weights(
    device: torch.device, dtype: torch.dtype
) -> Callable[[Family, Mapping[str, Any]], nn.Module]:
    """Return what builds a denoiser with the weights that its class draws."""

    def build(family: Family, config: Mapping[str, Any]) -> nn.Module:
        with torch.device(device):
            model = denoiser_class(family)(**config).eval()
        # nn.Module's own to(): that of diffusers warns of modules meant to stay in float32.
        nn.Module.to(model, dtype)
        _perturb_zero_parameters(model)
        return model

    return build


def _join_batches(row: Family, first: Inputs, second: Inputs) -> Inputs:
    """Return the inputs of one call on a batch of both."""
    joined: Inputs = {
        name: _join(first[name], second[name], dim)
        for name, dim in row.batch_dims.items()
        if name in first
    }
    listed = {name: [*first[name], *second[name]] for name in row.listed_inputs}
    return {**first, **joined, **listed}


def _join(first: Any, second: Any, dim: int) -> Any:
    if isinstance(first, dict):  # SDXL's pooled text, and the numbers about its image
        return {name: _join(first[name], second[name], dim) for name in first}
    return torch.cat([first, second], dim) if torch.is_tensor(first) else first


def _cast_floats(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    return {name: _cast(value, dtype) for name, value in inputs.items()}


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, dict):
        return _cast_floats(value, dtype)
    if isinstance(value, list):
        return [_cast(item, dtype) for item in value]
    return value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value


def _build_bare_pipeline(step: BenchmarkStep) -> Any:
    """Build an object that guide() takes for the family's pipeline, whose call is one step.

    It has the name of the pipeline's class, its denoiser, and what the row says guide() reads."""

    def __call__(
        self: Any, steps: int = 1, last: Callable[[Callable[[], Tensor]], Any] = lambda f: f()
    ) -> Any:
        self.scheduler.timesteps = torch.zeros(1)  # a new tensor tells guide() that a run begins
        self.num_timesteps = steps
        for _ in range(steps - 1):
            step.predict_cfg()
        return last(step.predict_cfg)

    calls, model = step.calls, step.model
    guider = type(
        "ClassifierFreeGuidance",
        (),
        dict(num_conditions=2, guidance_scale=GUIDANCE_SCALE, use_original_formulation=False),
    )
    attributes: Inputs = {
        **dict.fromkeys(calls.scale_names, GUIDANCE_SCALE),
        **dict.fromkeys(
            (
                *calls.extra_guidance_flags,
                *filter(
                    None, (calls.dynamic_scale_flag, calls.unsupported_flag, calls.keeps_length)
                ),
            ),
            False,
        ),
        **dict.fromkeys(calls.rescale_names, 0.0),
        **dict(calls.own_guidance),
        "scheduler": type("Scheduler", (), {"begin_index": 0, "timesteps": torch.zeros(1)})(),
        "num_timesteps": 1,
        "guider": guider(),
        **dict.fromkeys(step.family.denoisers),
        step.family.denoisers[0]: model,
        "__call__": __call__,
    }
    return type(step.name, (), {calls.cfg_flag: True, **attributes})()


@contextlib.contextmanager
def _time_blocks(blocks: list[nn.Module], device: torch.device) -> Iterator[dict[int, float]]:
    """Measure the seconds that each block takes in the passes run inside this context."""
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
def _perturb_zero_parameters(model: nn.Module) -> None:
    """Move parameters away from zero where they start there, as gates do, so that every block
    changes the output."""
    for parameter in model.parameters():
        if parameter.ndim > 2 or parameter.count_nonzero() == 0:
            parameter.add_(0.02 * torch.randn_like(parameter))


def run(
    family: str, *, prompts: int, width: int | None, repeats: int, full_size: bool, device: str,
    dtype: str, peaks: bool = True,
) -> Iterator[tuple[str, Any]]:  # fmt: skip
    """Measure a family's step; yield ("progress", text) on the way and ("result", dict) at the end.

    Args:
        family: the name of its row.
        prompts: how many prompts are in the batch.
        width: channels of the denoiser, a positive multiple of 64; None leaves the example's 256.
        repeats: rounds, each of which runs every way once.
        full_size: take the public checkpoint's size instead of the narrow one.
        device: "cpu", "cuda", or another that torch knows.
        dtype: the name of torch's, as "bfloat16".
        peaks: measure the peak memory too, which takes about as long as two rounds on a CPU.

    Raises:
        ValueError: for an unknown family, a size that it does not have, or a width that is not a
            positive multiple of 64.
    """
    work = select_workload(family, width, full_size)
    target_device, precision = torch.device(device), getattr(torch, dtype)
    yield "progress", f"{family}: building"
    with torch.inference_mode():
        step = BenchmarkStep(family, work, prompts, target_device, precision)

        ways, missing = step.ways()
        own_recipe = recipe.recipe_ways(step, GUIDANCE_SCALE)
        for way in (*ways.values(), *own_recipe.values()):
            way()
        recipe_seconds: list[dict[str, float]] = []
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        # The first one warms up.
        times = [] if step.family.unet else [step.time_blocks(target_device)]
        for repeat in range(repeats):
            # The ways alternate, so that a slow moment of the machine hits all of them.
            for name, way in ways.items():
                seconds[name].append(rounds.measure_time(way, target_device))
            recipe_seconds.append(recipe.measure_round(own_recipe, target_device))
            if not step.family.unet:
                times.append(step.time_blocks(target_device))
            yield "progress", f"{family}: round {repeat + 1} of {repeats}"
        result = _build_result(step, seconds, step.floor_ratio(times[1:]), target_device)
        result["no_slg_guider"] = missing
        if own_recipe:
            result["recipe"] = recipe.summarize(step, own_recipe, recipe_seconds)
        for name, distance in _measure_distances(step, ways).items():
            result["ways"][name]["distance"] = distance
        for name, way in ways.items() if peaks else ():
            yield "progress", f"{family}: memory, {name}"
            result["ways"][name]["peak_bytes"] = memory.measure_peak(way, target_device)
        yield "result", result


def select_workload(family: str, width: int | None, full_size: bool) -> Workload:
    """Return the denoiser of a family and its inputs in one of its sizes.

    Raises:
        ValueError: as `run`.
    """
    names = [row.name for row in rows.FAMILIES]
    if family not in names:
        raise ValueError(
            f"--family must be one of {', '.join(names)}, but got {family!r}. Choose one of them."
        )
    if full_size:
        return _full_workload(family)
    work = example_of(family).workload()
    if width is None:
        return work
    if not isinstance(work.config.get("num_attention_heads"), int):
        raise ValueError(
            "--width is for denoisers whose width is a number of heads of 64 channels, and that of"
            f" {family} is not. Leave it out."
        )
    if width < 64 or width % 64:
        raise ValueError(
            f"--width must be a positive multiple of 64, but got {width}. Pass 256, for example."
        )
    return dataclasses.replace(work, config={**work.config, "num_attention_heads": width // 64})


def _full_workload(family: str) -> Workload:
    if example_of(family).full is None:
        names = [row.name for row in rows.FAMILIES if example_of(row.name).full is not None]
        raise ValueError(
            f"--full-size is offered for {', '.join(names)}, but not for {family}. Leave it out."
        )
    return example_of(family).workload("full")


def _build_result(
    step: BenchmarkStep, seconds: dict[str, list[float]], floor: float, device: torch.device
) -> Inputs:
    return {
        "family": step.family.name,
        "pipeline": step.name,
        "cfg": step.calls.cfg_mode,
        "prompts": step.prompts,
        "blocks": len({site.address for site in step.sites}),
        "layer": step.sites[step.weak_passes[0].first_skipped].address,
        "terms": [
            {"skip": term.skip, "axis": term.axis, "scale": term.scale} for term in step.terms
        ],
        "parameters": sum(p.numel() for p in step.model.parameters()),
        "repeats": len(seconds["cfg"]),
        "interval_level": rounds.interval_level(len(seconds["cfg"])),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "dtype": str(step.dtype).removeprefix("torch."),
        "cfg_s": min(seconds["cfg"]),
        "ways": rounds.compare_ways(seconds, to="cfg"),
        "floor_ratio": floor,
        "floor_by": "FLOPs" if step.family.unet else "time",
        "passes": step.plain_passes + sum(weak.cost(shared=True) for weak in step.weak_passes),
        "passes_full": step.plain_passes
        + sum(weak.cost(shared=False) for weak in step.weak_passes),
        **measure_agreement(step),
        "hidden_bytes": _count_cached_bytes(step),
    }


def measure_agreement(step: BenchmarkStep) -> Inputs:
    """Hold the weak outputs of guide() against those of full passes: `bit_equal`, and the largest
    difference."""
    pairs = list(zip(_capture_weak_outputs(step), step.run_full_weak_passes(), strict=True))
    return {
        "bit_equal": all(torch.equal(ours, theirs) for ours, theirs in pairs),
        "largest_difference": max((ours - theirs).abs().max().item() for ours, theirs in pairs),
    }


def _measure_distances(
    step: BenchmarkStep, ways: Mapping[str, Callable[[], Tensor]]
) -> dict[str, float]:
    """Return how far D of each way is from that of guide(), relative to the push in it.

    Those that push in another way, or not at all, are left out."""
    exact = step.run_guided()
    scales = [term.scales(1)[0] for term in step.terms]
    c = step.predict(step.cond)[0]
    push = formula.skip_guidance(c, step.run_full_weak_passes(), scales).norm()
    return {
        name: ((way() - exact).norm() / push).item()
        for name, way in ways.items()
        if name in ("full", "shared", "batch", "slg_guider")
    }


def _capture_weak_outputs(step: BenchmarkStep) -> list[Tensor]:
    """Return the outputs of the weak passes that guide() makes in a step.

    It makes them right after the conditional pass, which is the first call of the denoiser."""
    outputs: list[Tensor] = []
    hook = step.model.register_forward_hook(
        lambda *args: outputs.append(combine.output_samples(args[-1])[0].float())
    )
    step.run_guided()
    hook.remove()
    return outputs[1 : 1 + len(step.terms)]


def _count_cached_bytes(step: BenchmarkStep) -> int:
    """Count the bytes that the conditional pass keeps for the weak ones.

    These are the streams between two blocks, and in a UNet the outputs of all modules before the
    skipped layer. Outputs replayed beside the blocks of a stack (VACE's hints) are not counted.
    """
    firsts = {weak.first_skipped for weak in step.weak_passes}
    prefix_cache = prefix_cache_module.PrefixCache(step.family, step.model, step.sites, firsts)
    with patching.patched(prefix_cache.patches(firsts)):
        step.predict(step.cond)
    kept: list[Any] = [recording.state for recording in prefix_cache.recorded_inputs.values()]
    if step.family.unet:
        kept = [memory.outputs for k in firsts for _, _, memory in prefix_cache.cached_outputs[k]]
    return memory.count_bytes(kept)
