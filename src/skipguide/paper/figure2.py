"""What noised real clips say of Figure 2, where the paper draws aligned errors: nothing of samples.

The error e = c - target of a prediction is known there. STG moves c by s (c - p), and CFG along
c - u; for small s the squared error changes by 2 s <e, c - p>. But that product has a mean of 0 for
every layer of a model that is trained to its end: to first order c - p is what scaling the layer's
residual changes, a direction of the weights that training has used up. And a target holds noise
that nobody can predict, and so does e: it has a mean product of 0 with every function of the input,
and brings cosines nearer to 0 than the systematic error alone would have them. So these numbers are
a check of that reasoning, and their lengths show which layers do nothing; whether errors are
aligned on the model's own trajectories they cannot say (docs/decisions/091).

All of this is in the space of the prediction, which differs from that of the clean clip by a factor
for each clip that no cosine sees.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from skipguide.families import lookup
from skipguide.lab import autoencoder, svd, training_loop
from skipguide.lab import latents as latent_cache
from skipguide.method.protocols import PlainData
from skipguide.method.terms import STG
from skipguide.paper import experiments, models
from skipguide.paper.models import ClipGenerator, PipelineCall
from skipguide.paper.records import RecordFolder
from skipguide.paper.rows import Row
from skipguide.pipeline.denoiser import GuidedDenoiser
from skipguide.pipeline.warnings import ignore_cpu_autocast_warning
from skipguide.weak import patching

Tensor = torch.Tensor
COLUMNS = ("cosine", "product", "push", "error", "both")
UNCOND = ("uncond", "")  # in place of a skip and its layer: the direction of CFG
CLIPS = 256
FEWER_CLIPS = {"lab-svd": 96}  # 8 minutes of a core for 32 of them
# of the noise; the clips are the same as elsewhere
SEED = models.OTHER_SEED + models.POOL


@dataclass(frozen=True)
class NoisingScheme:
    """The way in which the training of a model adds noise to latents.

    Args:
        encode: pipe, frames `(B, 3, F, H, W)` -> latents as the model knows them.
        add_noise: latents, noise, level -> what the model sees, its timestep `(B,)`, and its
            target.
        levels: from little noise to much: shares of noise, or sigmas.
    """

    encode: Callable[[Any, Tensor], Tensor]
    add_noise: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor, Tensor]]
    levels: tuple[float, ...]


def _encode_latents(pipe: Any, frames: Tensor) -> Tensor:
    device = pipe.vae.device
    # Not in what a stopwatch says is faster: a measurement is the same each time.
    encode = latent_cache.make_encoder(pipe.vae, device, torch.float32)
    return encode(frames).float().to(device)


def _encode_svd(pipe: Any, frames: Tensor) -> Tensor:
    posterior = autoencoder.encode_svd(pipe.vae, frames.to(pipe.vae.device))
    return posterior.mean.unflatten(0, (-1, svd.FRAMES)) * pipe.vae.config.scaling_factor


def _noise_mochi(latents: Tensor, noise: Tensor, level: float) -> tuple[Tensor, Tensor, Tensor]:
    t = latents.new_full((len(latents),), 1000 * (1 - level))
    return torch.lerp(latents, noise, level), t, latents - noise


def _noise_opensora(latents: Tensor, noise: Tensor, level: float) -> tuple[Tensor, Tensor, Tensor]:
    t = latents.new_full((len(latents),), 1000 * level)
    return torch.lerp(latents, noise, level), t, latents - noise


def _noise_svd(latents: Tensor, noise: Tensor, level: float) -> tuple[Tensor, Tensor, Tensor]:
    return svd.noise_latents(latents, noise, latents.new_full((len(latents),), level))[1:]


_NOISE_SHARES = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97)
NOISING_SCHEMES = {
    "lab-mochi": NoisingScheme(_encode_latents, _noise_mochi, _NOISE_SHARES),
    "lab-svd": NoisingScheme(_encode_svd, _noise_svd, (0.05, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0, 50.0)),
    "lab-opensora": NoisingScheme(_encode_latents, _noise_opensora, _NOISE_SHARES),
}


@dataclass(frozen=True)
class Alignment:
    """The measurements of Figure 2.

    Args:
        directions: (skip, layer), the last being CFG's.
        levels: of noise.
        values: (directions, levels, clips, COLUMNS), float64: the cosine of e and d = c - p; <e,
            d>; |d|^2; |e|^2; the cosine of the errors of c and of p.
    """

    directions: tuple[tuple[str, str], ...]
    levels: tuple[float, ...]
    values: Tensor

    def column(self, name: str) -> Tensor:
        """Return one of COLUMNS: (directions, levels, clips)."""
        return self.values[..., COLUMNS.index(name)]


def clips_of(model: str) -> int:
    """Return how many clips of a model are measured."""
    return FEWER_CLIPS.get(model, CLIPS)


def is_measured(place: RecordFolder, clips: int) -> bool:
    """Tell whether so many clips have been measured."""
    return all(_chunk_path(place, start).exists() for start in range(0, clips, models.CHUNK))


def _chunk_path(place: RecordFolder, start: int) -> Path:
    return place.folder / "figure-2" / f"{start // models.CHUNK:04d}.safetensors"


def load(place: RecordFolder, clips: int) -> Alignment | None:
    """Load the measurements of so many clips; None if there are none."""
    from safetensors import safe_open

    found, metadata = [], {}
    for start in range(0, clips, models.CHUNK):
        if _chunk_path(place, start).exists():
            with safe_open(_chunk_path(place, start), framework="pt") as file:
                metadata = {name: json.loads(value) for name, value in file.metadata().items()}
                found.append(file.get_tensor("values"))
    if not found:
        return None
    return Alignment(
        tuple(map(tuple, metadata["directions"])), tuple(metadata["levels"]), torch.cat(found, 2)
    )


def measure(
    place: RecordFolder, generator: ClipGenerator, clips: int
) -> Iterator[training_loop.Progress]:
    """Measure the real clips of the first prompts, except those that are done.

    Every layer is measured with both skips, at every level.

    Args:
        clips: a multiple of CHUNK.
    """
    from safetensors.torch import save_file

    model = generator.model.name
    directions = [
        (skip, str(layer))
        for skip in experiments.SKIPS
        for layer in experiments.STUDIES[model].layers
    ]
    metadata = {
        "directions": json.dumps([*directions, UNCOND]),
        "levels": json.dumps(NOISING_SCHEMES[model].levels),
    }
    for start in range(0, clips, models.CHUNK):
        path = _chunk_path(place, start)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with training_loop.atomic_path(path) as part:
                save_file(
                    {"values": _measure_chunk(generator, range(start, start + models.CHUNK))},
                    part,
                    metadata,
                )
        yield training_loop.Progress(start + models.CHUNK, clips, {}, 0.0)


@torch.no_grad()
def _measure_chunk(generator: ClipGenerator, numbers: Sequence[int]) -> Tensor:
    """Measure some clips: (directions, levels, clips, COLUMNS)."""
    pipe, study = generator.pipe, experiments.STUDIES[generator.model.name]
    family = lookup.family_of(pipe)
    terms = [STG((layer,), 1.0, skip) for skip in experiments.SKIPS for layer in study.layers]
    branch = GuidedDenoiser(family, getattr(pipe, family.denoisers[0]), terms, share_prefix=False)
    guided = Row(study.guidance_scale)  # with CFG the pipeline passes both halves
    found = [_measure_call(generator, branch, call) for call in generator.calls(guided, numbers)]
    return torch.cat(found, 2).cpu()


def _measure_call(generator: ClipGenerator, branch: GuidedDenoiser, call: PipelineCall) -> Tensor:
    """Measure clips that are generated together, as `_measure_chunk`."""
    way = NOISING_SCHEMES[generator.model.name]
    latents = way.encode(
        generator.pipe, generator.pool.subset(call.numbers).render_real(generator.model.kind.frames)
    )
    noise = torch.randn(
        latents.shape, generator=torch.Generator().manual_seed(SEED + call.numbers[0])
    ).to(latents)
    halves = _capture_inputs(generator, branch, call)
    levels = []
    for level in way.levels:
        x, t, target = way.add_noise(latents, noise, level)
        cond, uncond = ({**half, **_noisy_inputs(half, x, t)} for half in halves)
        c, u = (_predict(branch, inputs, target) for inputs in (cond, uncond))
        weak = []
        for weakened in branch.weak_passes:
            with patching.patched(weakened.patches()):
                weak.append(_predict(branch, cond, target))
        levels.append(torch.stack([compare(c, p, target) for p in (*weak, u)]))
    return torch.stack(levels, 1)


class _StopEarly(Exception):
    """Raised when the pipeline has called its denoiser for the first time."""


def _capture_inputs(
    generator: ClipGenerator, branch: GuidedDenoiser, call: PipelineCall
) -> tuple[PlainData, PlainData]:
    """Return the inputs that the pipeline gives its denoiser in its first step: cond, uncond."""
    calls: list[PlainData] = []

    def listen(_: Any, args: tuple[Any, ...], kwargs: PlainData) -> None:
        calls.append(branch.bind_inputs(args, kwargs))
        raise _StopEarly

    hook = branch.denoiser.register_forward_pre_hook(listen, with_kwargs=True)
    try:
        generator.run_call(call)
    except _StopEarly:
        pass
    finally:
        hook.remove()
    dims = branch.family.batch_dims
    cond, uncond = (
        patching.select_rows(half, calls[0], dims) for half in (patching.COND, patching.UNCOND)
    )
    return cond, uncond


def _noisy_inputs(half: PlainData, x: Tensor, t: Tensor) -> dict[str, Tensor]:
    """Return the inputs that depend on the noise: sample (with SVD's first frame) and time."""
    name, channel = ("sample", 2) if "sample" in half else ("hidden_states", 1)
    behind = half[name].shape[channel] - x.shape[channel]
    return {
        name: torch.cat([x, half[name].narrow(channel, x.shape[channel], behind)], channel),
        "timestep": t,
    }


def _predict(branch: GuidedDenoiser, inputs: PlainData, target: Tensor) -> Tensor:
    """Return the prediction without the variance that Open-Sora appends to it."""
    with ignore_cpu_autocast_warning():
        found = branch.denoiser(**inputs)[0]
    return found if branch.family.unet else found.narrow(1, 0, target.shape[1])


def compare(c: Tensor, p: Tensor, target: Tensor) -> Tensor:
    """Compare predictions with their target: (B, COLUMNS)."""
    e, d, weak = ((a - b).flatten(1).double() for a, b in ((c, target), (c, p), (p, target)))
    product, push, error = (e * d).sum(1), d.square().sum(1), e.square().sum(1)
    both = (e * weak).sum(1) / (error * weak.square().sum(1)).sqrt()
    return torch.stack(
        [product / (error * push).sqrt().clamp_min(1e-300), product, push, error, both], 1
    )
