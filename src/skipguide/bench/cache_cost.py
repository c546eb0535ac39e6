"""Measure caches across steps beside guidance on lab-mochi: what is computed, how long it takes,
and how far the video moves from the one without a cache."""

from __future__ import annotations

import ast
import contextlib
import copy
import dataclasses
import io
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffusers.hooks.first_block_cache import FirstBlockCacheConfig
from diffusers.hooks.mag_cache import MagCacheConfig
from diffusers.hooks.taylorseer_cache import TaylorSeerCacheConfig

from skipguide.generate.resolve import resolve_settings
from skipguide.generate.settings import GenerationSettings, validate_settings
from skipguide.method.protocols import PlainData
from skipguide.models import loading
from skipguide.pipeline.guide import guide
from skipguide.pipeline.warnings import ignore_cpu_autocast_warning
from skipguide.weak import flops

Tensor = torch.Tensor
MODEL = "lab-mochi"
PROMPTS = (
    "a small red star orbiting over a blue background",
    "a white cross growing on a green background",
)
SEED = 7
# What TaylorSeer predicts: the two parts of a block that take nearly all of its time.
PREDICTED = [r"transformer_blocks\.\d+\.(attn1|ff)"]


@dataclasses.dataclass(frozen=True)
class CacheRow:
    """One cache in one setting, and whether c and u are guided besides by CFG."""

    cache: str
    config: Any  # of diffusers; None is no cache
    stg: bool = True
    share_prefix: bool = True


class CacheBench:
    """lab-mochi with the guidance of its preset, and the videos of a few prompts.

    Args:
        steps: denoising steps; None is what the model's preset has.
    """

    def __init__(self, steps: int | None = None):
        self.pipe = loading.load_pipeline(MODEL, "float32", "cpu")
        given = {"model": MODEL, "prompt": PROMPTS[0], "steps": steps}
        self.settings = resolve_settings(
            validate_settings({k: v for k, v in given.items() if v is not None}), self.pipe
        )
        self.pipe.transformer.requires_grad_(False)  # torch's counter looks for graphs otherwise
        text = self.pipe.encode_prompt(list(PROMPTS), negative_prompt=[""] * len(PROMPTS))
        own = ("prompt_embeds", "prompt_attention_mask")
        self._text = dict(zip((*own, *(f"negative_{name}" for name in own)), text, strict=True))
        self._uncached: dict[bool, Tensor] = {}  # latents by whether STG is on
        self._plain_flops = 0

    @property
    def steps(self) -> int:
        """The steps of a run."""
        assert self.settings.steps is not None
        return self.settings.steps

    def denoise(self, row: CacheRow) -> tuple[Tensor, float]:
        """Run the loop once; return latents `(B, C, F, H, W)` and passes a step, by blocks."""
        made: GenerationSettings = self.settings
        request, options = made.request, contextlib.nullcontext()
        if row.stg:
            options = guide(
                self.pipe, request.terms, rescale=request.rescale, share_prefix=row.share_prefix
            )
        with ignore_cpu_autocast_warning(), options as handle:
            latents = self.pipe(
                **self._text, height=made.height, width=made.width, num_frames=made.num_frames,
                num_inference_steps=made.steps, guidance_scale=made.guidance_scale,
                output_type="latent", generator=torch.Generator().manual_seed(SEED),
            ).frames  # fmt: skip
        return latents, float("nan") if handle is None else handle.passes_per_step

    @contextlib.contextmanager
    def cached(self, config: Any) -> Iterator[None]:
        """Switch a cache on for a `with` block."""
        model = self.pipe.transformer
        if config is not None:
            model.enable_cache(copy.deepcopy(config))
        try:
            yield
        finally:
            if config is not None:
                model.disable_cache()

    def calibrate(self) -> list[float]:
        """Return the ratios that MagCache needs, which diffusers prints at the end of a run."""
        config = MagCacheConfig(num_inference_steps=self.steps, calibrate=True)
        printed = io.StringIO()
        with self.cached(config), contextlib.redirect_stdout(printed):
            self.denoise(CacheRow("", None, stg=False))
        lines = printed.getvalue().splitlines()
        line = next(line for line in lines if line.startswith("[") and line.endswith("]"))
        return ast.literal_eval(line)

    def measure(self, row: CacheRow) -> PlainData:
        """Return the passes by their operations and by blocks, and the distance, of one row."""
        with self.cached(row.config), flops.counting() as counter:
            latents, passes = self.denoise(row)
        operations = counter.get_total_flops()
        if row.config is None and not row.stg:
            self._plain_flops = operations
        uncached = self._uncached.setdefault(row.stg, latents)
        distance = float((latents - uncached).norm() / uncached.norm())
        return {
            "cache": row.cache,
            "stg": row.stg,
            "share_prefix": row.share_prefix,
            "passes": 2 * operations / self._plain_flops,
            "passes_by_blocks": None if passes != passes else passes,
            "distance": distance,
        }

    def seconds(self, row: CacheRow) -> float:
        """Return the processor's seconds in one run of the loop, for all prompts."""
        with self.cached(row.config):
            start = time.process_time()  # what other processes take is not in it
            self.denoise(row)
            return time.process_time() - start


def cache_configs(steps: int, ratios: Sequence[float]) -> dict[str, Any]:
    """Return the caches that are measured, by what the table calls them.

    Args:
        steps: of a run.
        ratios: of MagCache, measured on the model.
    """

    def mag(threshold: float) -> MagCacheConfig:
        return MagCacheConfig(
            threshold=threshold, num_inference_steps=steps, mag_ratios=list(ratios)
        )

    def taylor(interval: int, **more: Any) -> TaylorSeerCacheConfig:
        return TaylorSeerCacheConfig(
            cache_interval=interval, taylor_factors_dtype=torch.float32, **more
        )

    return {
        "none": None,
        "FirstBlockCache 0.1": FirstBlockCacheConfig(threshold=0.1),
        "FirstBlockCache 0.2": FirstBlockCacheConfig(threshold=0.2),
        "MagCache 0.06": mag(0.06),
        "MagCache 0.24": mag(0.24),
        "TaylorSeer 4": taylor(4, cache_identifiers=PREDICTED),
        "TaylorSeer 4, lite": taylor(4, use_lite_mode=True),
    }


def run(repeats: int, steps: int | None = None) -> Iterator[tuple[str, Any]]:
    """Measure all rows; yield ("progress", text) on the way and ("result", dict) at the end.

    Args:
        repeats: rounds, each of which times every row once; the best one counts.
        steps: denoising steps; None is what the preset of the model has.
    """
    with torch.inference_mode():
        yield "progress", f"{MODEL}: loading, and calibrating MagCache"
        bench = CacheBench(steps)
        configs = cache_configs(bench.steps, bench.calibrate())
        rows = [
            CacheRow(name, config, stg) for stg in (False, True) for name, config in configs.items()
        ]
        some = [name for name in configs if name in ("none", "FirstBlockCache 0.1")]
        rows += [CacheRow(name, configs[name], share_prefix=False) for name in some]
        results = []
        for row in rows:
            results.append(bench.measure(row))
            yield "progress", f"{row.cache}, {'CFG + STG' if row.stg else 'CFG'}: measured"
        seconds = [float("inf")] * len(rows)
        for repeat in range(repeats):
            for i, row in enumerate(rows):
                seconds[i] = min(seconds[i], bench.seconds(row))
            yield "progress", f"round {repeat + 1} of {repeats}"
    for result, best in zip(results, seconds, strict=True):
        result["seconds"] = best
    request = bench.settings.request.to_dict()
    yield "result", {
        "model": MODEL, "steps": bench.steps, "prompts": len(PROMPTS), "repeats": repeats,
        "threads": torch.get_num_threads(), "guidance": request, "rows": results,
    }  # fmt: skip


def format_table(result: PlainData) -> str:
    """Format the result of `run` as Markdown."""
    lines = [
        "| guidance | cache | passes a step | CPU seconds | / without a cache | distance |",
        "|---|---|--:|--:|--:|--:|",
    ]
    base: dict[tuple[bool, bool], float] = {}
    for row in result["rows"]:
        key = (row["stg"], row["share_prefix"])
        base.setdefault(key, row["seconds"])
        full = "" if row["share_prefix"] else ", full weak passes"
        lines.append(
            f"| CFG{' + STG' if row['stg'] else ''}{full} | {row['cache']} | {row['passes']:.2f} |"
            f" {row['seconds']:.2f} | {row['seconds'] / base[key]:.2f} | {row['distance']:.4f} |"
        )
    what = (
        f"{result['model']}, {result['prompts']} prompts, {result['steps']} steps, cpu with"
        f" {result['threads']} threads, best of {result['repeats']} rounds"
    )
    return "\n".join([what, "", *lines])
