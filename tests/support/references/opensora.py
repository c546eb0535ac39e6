"""Open-Sora v1.2.0's own code, run on small models with drawn weights: what ours must compute.

    python tests/support/references/opensora.py UPSTREAM OUT

reads the sources of https://github.com/hpcaitech/Open-Sora at the tag v1.2.0 from the folder
UPSTREAM and writes `opensora.safetensors` (tensors) and `opensora.json` (configs, and the keys and
shapes of the state dicts) to the folder OUT. It needs torch, diffusers, transformers, einops and
rotary_embedding_torch==0.5.3; opensora_stubs.py stands in for everything else that upstream
imports. All of it runs on the CPU in float32. Weights are drawn from a seed by `drawn`, so neither
they nor the models are stored: `transformer_weights()` and `autoencoder_weights()` return them
under upstream's keys, and `write_checkpoints()` writes both models as Open-Sora publishes them.

The tensors, by name (B rows, C latent channels, F frames, f latent frames):

`transformer.CASE.*`: the inputs of STDiT3 under the names of OpenSoraTransformer3DModel.forward,
and its output `sample` (B, 2 C, f, h, w). CASE is `wide` (texts of different lengths),
`wide-frames` (the same, with a frame mask), `odd` (sides that the patches do not divide, one text)
and `image` (one frame, no text mask).

`vae.CASE.*`: `video` (B, 3, F, H, W), its `latents` (B, C, f, h, w), normalized as upstream's
encode returns them, and `decoded` (B, 3, F, H, W) from these latents. CASE is `long` (two whole
chunks of 17 frames and 6 more), `short` (two rows of 5 frames) and `image` (one frame): modes of
both posteriors. `sampled` (17 frames): both posteriors sampled from torch's CPU generator with the
seed SEED, first the 2-D ones, four frames at a time, then the temporal one.

`scheduler.HEIGHTxWIDTHxFRAMES`: the 30 timesteps (N,) for a video of that size.

`sample.CASE.*`: a run of RFLOW.sample with 5 steps and CFG 7: `latents` (B, C, f, h, w), the noise
that it starts from; `prompt_embeds` (B, L, D) and `prompt_attention_mask` (B, L), which is the mask
of the null caption too; `fps`, `height`, `width` and `num_frames` (B,); and what comes out,
`output` (B, C, f, h, w). CASE is `text` or `frames`. The latter has `frame_mask` (B, f) from 0 (a
given frame) to 1 (a new one) and `noise` (5, B, C, f, h, w): what upstream draws with randn_like in
each step, recorded."""

from __future__ import annotations

import contextlib
import json
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file, save_file

Tensor = torch.Tensor

HERE = Path(__file__).parent
SEED = 20240617  # of the VAE's samples; any number would do
TRANSFORMER: dict[str, Any] = dict(
    depth=2,
    hidden_size=64,
    num_heads=4,
    caption_channels=24,
    model_max_length=12,
    class_dropout_prob=0.1,
)
SPATIAL_VAE: dict[str, Any] = dict(  # of diffusers' AutoencoderKL
    block_out_channels=(8, 8, 16, 16),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=1,
    latent_channels=4,
    norm_num_groups=4,
    sample_size=32,
)
TEMPORAL_VAE = dict(
    filters=8,
    num_res_blocks=1,
    channel_multipliers=(1, 2, 2, 4),
    temporal_downsample=(False, True, True),
    num_groups=4,
)
VAE: dict[str, Any] = dict(
    vae_2d=dict(type="VideoAutoencoderKL", micro_batch_size=4),
    vae_temporal=dict(type="VAE_Temporal", **TEMPORAL_VAE),
    shift=(-0.10, 0.34, 0.27, 0.98),
    scale=(3.85, 2.32, 2.33, 3.06),
    micro_frame_size=17,
)
SIZES = [
    (240, 426, 51),
    (480, 854, 102),
    (720, 1280, 17),
    (512, 512, 1),
    (360, 360, 34),
    (144, 256, 408),
]
KEPT = {"rope.freqs", "scale", "shift"}  # these mean something: they are not drawn


# --- what the tests use ---------------------------------------------------------------------------


def tensors() -> dict[str, Tensor]:
    """All reference tensors by name."""
    return load_file(HERE / "opensora.safetensors")


def case(name: str) -> dict[str, Tensor]:
    """The tensors of one case by the last part of their names: `case("vae.long")["video"]`."""
    return {
        key.removeprefix(f"{name}."): value
        for key, value in tensors().items()
        if key.startswith(f"{name}.")
    }


def write_checkpoints(folder: Path) -> None:
    """Both models as Open-Sora publishes them: `transformer` and `vae` in `folder`, weights and
    config.json each."""
    weights = {"transformer": transformer_weights(), "vae": autoencoder_weights()}
    for name, state_dict in weights.items():
        (folder / name).mkdir()
        save_file(state_dict, folder / name / "model.safetensors")
        (folder / name / "config.json").write_text(json.dumps(_about()[name]["config"]))


def spatial_config() -> dict[str, Any]:
    """What the VAE's config.json does not tell: the sizes of its 2-D part, as AutoencoderKLOpenSora
    calls them."""
    return {
        name: SPATIAL_VAE[name]
        for name in ("block_out_channels", "layers_per_block", "norm_num_groups", "sample_size")
    }


def transformer_weights() -> dict[str, Tensor]:
    """The state dict of upstream's STDiT3."""
    head = TRANSFORMER["hidden_size"] // TRANSFORMER["num_heads"]
    return drawn(_about()["transformer"]["shapes"], seed=1) | {
        "rope.freqs": 10000.0 ** -(torch.arange(0, head, 2) / head)
    }


def autoencoder_weights() -> dict[str, Tensor]:
    """The state dict of upstream's VideoAutoencoderPipeline."""
    scalings = {
        name: torch.tensor(VAE[name]).reshape(1, -1, 1, 1, 1) for name in ("shift", "scale")
    }
    return drawn(_about()["vae"]["shapes"], seed=2) | scalings


def _about() -> dict[str, Any]:
    return json.loads((HERE / "opensora.json").read_text())


# --- drawing --------------------------------------------------------------------------------------


def drawn(shapes: Mapping[str, Sequence[int]], seed: int) -> dict[str, Tensor]:
    """A state dict in which every weight matters, those that upstream initialises to zero
    included."""
    generator = torch.Generator().manual_seed(seed)
    return {key: _weight(key, shapes[key], generator) for key in sorted(shapes) if key not in KEPT}


def _weight(key: str, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    noise = torch.randn(tuple(shape), generator=generator)
    if key.endswith("y_embedding"):
        return noise
    if len(shape) < 2 or "scale_shift_table" in key:
        return 0.2 * noise + float(len(shape) == 1 and key.endswith("weight"))  # norms are near 1
    return noise / noise[0].numel() ** 0.5


def _randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _numbers(rows: int, **values: float) -> dict[str, Tensor]:
    return {name: torch.full((rows,), float(value)) for name, value in values.items()}


def _text(lengths: Sequence[int], seed: int) -> tuple[Tensor, Tensor]:
    """Embeddings (B, 12, 24) and the mask (B, 12) of texts of these lengths."""
    longest = TRANSFORMER["model_max_length"]
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    return _randn(len(lengths), longest, TRANSFORMER["caption_channels"], seed=seed), mask.long()


# --- building upstream's models -------------------------------------------------------------------


def build_transformer() -> Any:
    """Upstream's STDiT3 with drawn weights."""
    from opensora.models.stdit.stdit3 import (  # type: ignore[import-not-found]
        STDiT3,
        STDiT3Config,
    )  # pyright: ignore[reportMissingImports]

    return STDiT3(STDiT3Config(**TRANSFORMER)).eval()


def build_autoencoder() -> Any:
    """Upstream's VideoAutoencoderPipeline with drawn weights and a small 2-D part in place of the
    published one."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from opensora.models.vae import vae, vae_temporal  # pyright: ignore[reportMissingImports]

    assert vae_temporal.VAE_Temporal  # imported, for it registers itself
    small = types.SimpleNamespace(from_pretrained=lambda *_, **__: AutoencoderKL(**SPATIAL_VAE))
    with mock.patch.object(vae, "AutoencoderKL", small):
        return vae.VideoAutoencoderPipeline(vae.VideoAutoencoderPipelineConfig(**VAE)).eval()


# --- running it -----------------------------------------------------------------------------------


def run_transformer(model: Any) -> dict[str, Tensor]:
    text, text_mask = _text([12, 5], seed=10)
    odd_text, odd_mask = _text([3], seed=11)
    wide = dict(hidden_states=_randn(2, 4, 5, 6, 10, seed=12), timestep=torch.tensor([750.3, 20.5]))
    wide |= dict(encoder_hidden_states=text, encoder_attention_mask=text_mask)
    wide |= _numbers(2, fps=24, height=48, width=80)
    frames = torch.tensor([[0, 1, 1, 1, 1], [1, 0, 0, 1, 0]]).bool()
    odd = dict(hidden_states=_randn(1, 4, 3, 7, 9, seed=13), timestep=torch.tensor([500.0]))
    odd |= dict(encoder_hidden_states=odd_text, encoder_attention_mask=odd_mask)
    odd |= _numbers(1, fps=8, height=250, width=350)
    image = dict(hidden_states=_randn(2, 4, 1, 8, 8, seed=14), timestep=torch.tensor([999.0, 1.0]))
    image |= dict(encoder_hidden_states=text) | _numbers(2, fps=120, height=64, width=64)
    cases = {
        "wide": wide,
        "wide-frames": {**wide, "frame_mask": frames},
        "odd": odd,
        "image": image,
    }
    results = {}
    for name, inputs in cases.items():
        results |= {f"transformer.{name}.{key}": value for key, value in inputs.items()}
        results[f"transformer.{name}.sample"] = _forward(model, **inputs)
    return results


def _forward(model: Any, **inputs: Tensor) -> Tensor:
    """Upstream's forward under our names; it wants the text as (B, 1, L, D)."""
    x, t, y = (inputs.pop(name) for name in ("hidden_states", "timestep", "encoder_hidden_states"))
    mask, x_mask = inputs.pop("encoder_attention_mask", None), inputs.pop("frame_mask", None)
    return model(x, t, y[:, None], mask=mask, x_mask=x_mask, **inputs)


def run_autoencoder(model: Any) -> dict[str, Tensor]:
    videos = {"long": (1, 3, 40, 16, 16), "short": (2, 3, 5, 16, 24), "image": (1, 3, 1, 32, 16)}
    results = {}
    for seed, (name, shape) in enumerate(videos.items()):
        video = _randn(*shape, seed=20 + seed).clamp(-2, 2) / 2
        with _modes():
            latents = model.encode(video)
        decoded = model.decode(latents, num_frames=video.shape[2])
        results |= {
            f"vae.{name}.video": video,
            f"vae.{name}.latents": latents,
            f"vae.{name}.decoded": decoded,
        }
    video = _randn(1, 3, 17, 16, 16, seed=30).clamp(-2, 2) / 2
    torch.manual_seed(SEED)
    return results | {"vae.sampled.video": video, "vae.sampled.latents": model.encode(video)}


@contextlib.contextmanager
def _modes() -> Iterator[None]:
    """Upstream's encode samples both posteriors; here they give their modes instead."""
    from diffusers.models.autoencoders import vae as spatial
    from opensora.models.vae import utils as temporal  # pyright: ignore[reportMissingImports]

    classes = (spatial.DiagonalGaussianDistribution, temporal.DiagonalGaussianDistribution)
    with contextlib.ExitStack() as stack:
        for posterior in classes:
            stack.enter_context(mock.patch.object(posterior, "sample", posterior.mode))
        yield


class _Texts:
    """In place of T5: embeddings that are there already."""

    def __init__(self, null_caption: Tensor, embeds: Tensor, mask: Tensor):
        self.null_caption, self.embeds, self.mask = null_caption, embeds, mask

    def encode(self, _: Any) -> dict[str, Tensor]:
        return dict(y=self.embeds[:, None], mask=self.mask)

    def null(self, rows: int) -> Tensor:
        return self.null_caption.repeat(rows, 1, 1)[:, None]


def run_scheduler() -> dict[str, Tensor]:
    """The timesteps, as a model is asked for them."""
    results, texts = {}, _Texts(torch.zeros(12, 24), *_text([1], seed=0))
    for height, width, frames in SIZES:
        seen: list[Tensor] = []

        def model(z: Tensor, t: Tensor, seen: list[Tensor] = seen, **_: Any) -> Tensor:
            seen.append(t[0])
            return torch.cat([z, z], dim=1)

        size = _numbers(1, height=height, width=width, num_frames=frames)
        _rflow(30).sample(
            model, texts, torch.zeros(1, 4, 1, 1, 1), [""], "cpu", size, progress=False
        )
        results[f"scheduler.{height}x{width}x{frames}"] = torch.stack(seen)
    return results


def run_sampling(model: Any) -> dict[str, Tensor]:
    embeds, mask = _text([7, 10], seed=40)
    # Of this size, for at others (64 x 48) float32 lifts upstream's first timestep above 1000; then
    # no frame moves.
    size = _numbers(2, fps=24, height=64, width=40, num_frames=17)
    shared = dict(
        latents=_randn(2, 4, 5, 8, 5, seed=41),
        prompt_embeds=embeds,
        prompt_attention_mask=mask,
        **size,
    )
    frame_mask = torch.tensor([[0.0, 1.0, 1.0, 1.0, 1.0], [0.0, 0.6, 1.0, 1.0, 0.8]])
    noise = _randn(5, 2, 4, 5, 8, 5, seed=42)
    texts = _Texts(model.y_embedder.y_embedding, embeds, mask)
    run = dict(device="cpu", additional_args=size, guidance_scale=7.0, progress=False)
    text = _rflow(5).sample(model, texts, shared["latents"], ["", ""], **run)
    with mock.patch.object(torch, "randn_like", side_effect=list(noise)):
        frames = _rflow(5).sample(model, texts, shared["latents"], ["", ""], mask=frame_mask, **run)
    cases = {
        "text": dict(output=text),
        "frames": dict(output=frames, frame_mask=frame_mask, noise=noise),
    }
    return {
        f"sample.{name}.{key}": x
        for name, more in cases.items()
        for key, x in {**shared, **more}.items()
    }


def _rflow(steps: int) -> Any:
    from opensora.schedulers.rf import RFLOW  # pyright: ignore[reportMissingImports]

    return RFLOW(num_sampling_steps=steps, use_timestep_transform=True)


def main(upstream: Path, out: Path) -> None:
    from opensora_stubs import open_upstream  # beside this script

    open_upstream(upstream)
    transformer, autoencoder = build_transformer(), build_autoencoder()
    models = {"transformer": (transformer, TRANSFORMER), "vae": (autoencoder, VAE)}
    about = {}
    for seed, (name, (model, config)) in enumerate(models.items(), start=1):
        shapes = {key: list(value.shape) for key, value in sorted(model.state_dict().items())}
        about[name] = {"config": config, "shapes": shapes}
        missing = model.load_state_dict(drawn(shapes, seed), strict=False).missing_keys
        assert set(missing) <= KEPT, missing
    (out / "opensora.json").write_text(json.dumps(about) + "\n")
    with torch.no_grad():
        found = (
            run_transformer(transformer)
            | run_autoencoder(autoencoder)
            | run_scheduler()
            | run_sampling(transformer)
        )
    save_file(
        {key: value.contiguous().clone() for key, value in found.items()},
        out / "opensora.safetensors",
    )
    for key, value in found.items():
        print(f"{key:45s} {tuple(value.shape)!s:24s} |x| <= {value.float().abs().max().item():.3g}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
