"""Open-Sora v1.2.0's scripts/inference.py on the small models of opensora.py: given frames, loops,
decoded videos.

    python tests/support/references/opensora_pipeline.py UPSTREAM OUT

reads UPSTREAM as opensora.py does and writes `opensora_pipeline.safetensors` to the folder OUT.
References are encoded as the modes of the VAE's distributions. Videos are 37 x 28 pixels (no
multiples of 8), 34 frames, 5 steps, CFG 7.

`inputs` are drawn from a seed (B rows, C latent channels, F frames, f latent frames):

`text`, `mask`: embeddings (2, L, D) of two prompts and their masks (2, L). `image` (3, 1, 37, 28)
and `clip` (3, 17, 37, 28) in [-1, 1]: references. `noise` (2, 2, C, f, h, w): what the first and
the second loop start from. `edit-noise` (5, 2, C, f, h, w): what upstream draws with randn_like in
each step.

The tensors in the file are what comes out: `CASE.latents` (B, C, f, h, w) of the last loop, and
`loops.video` (B, 3, F, 32, 24). CASE is `text` (nothing is given), `first` (the image comes first
in row 0, row 1 has none), `edit` (mask strategies EDIT, with references clip and image) and `loops`
(two loops of row 0, of which the first begins with the image)."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file, save_file

Tensor = torch.Tensor

HERE = Path(__file__).parent
HEIGHT, WIDTH, FRAMES = 37, 28, 34
EDIT = ["0,0,0,0,5,0.6;0,1,0,-1,1", "0,1,0,0,2,0.8;0,0,-5,5,3"]


def tensors() -> dict[str, Tensor]:
    """What upstream makes, by name."""
    return load_file(HERE / "opensora_pipeline.safetensors")


def inputs() -> dict[str, Tensor]:
    """What all cases begin with."""
    generator = torch.Generator().manual_seed(3)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    mask = torch.arange(12) < torch.tensor([[7], [10]])
    clip = randn(3, 18, HEIGHT, WIDTH).clamp(-2, 2) / 2
    latents = (2, 4, 10, HEIGHT // 8, WIDTH // 8)
    return {
        "text": randn(2, 12, 24), "mask": mask, "image": clip[:, :1], "clip": clip[:, 1:],
        "noise": randn(2, *latents), "edit-noise": randn(5, *latents),
    }  # fmt: skip


def run(
    models: Any,
    given: dict[str, Tensor],
    rows: int,
    refs: Any,
    strategies: list[str],
    loops: int = 1,
) -> Any:
    """scripts/inference.py from the encoded references on: latents of the last loop, and the
    video."""
    from opensora.schedulers.rf import RFLOW  # pyright: ignore[reportMissingImports]
    from opensora.utils import inference_utils as utils  # pyright: ignore[reportMissingImports]

    transformer, vae = models
    size = utils.prepare_multi_resolution_info(
        "STDiT2", rows, (HEIGHT, WIDTH), FRAMES, 24, "cpu", torch.float32
    )
    null = transformer.y_embedder.y_embedding
    texts = types.SimpleNamespace(
        encode=lambda _: dict(y=given["text"][:rows, None], mask=given["mask"][:rows].long()),
        null=lambda rows: null.repeat(rows, 1, 1)[:, None],
    )
    clips, samples = [], None
    for loop in range(loops):
        if loop > 0:
            refs, strategies = utils.append_generated(
                vae, clips[-1], refs, strategies, loop, 5, 0.0
            )
        z = given["noise"][loop][:rows].clone()
        masks = utils.apply_mask_strategy(z, refs, strategies, loop, align=5)
        sampler = RFLOW(num_sampling_steps=5, use_timestep_transform=True, cfg_scale=7.0)
        with mock.patch.object(
            torch, "randn_like", side_effect=[noise[:rows] for noise in given["edit-noise"]]
        ):
            samples = sampler.sample(
                transformer, texts, z, [""] * rows, "cpu", size, mask=masks, progress=False
            )
        clips.append(vae.decode(samples, num_frames=FRAMES))
    shared = utils.dframe_to_frame(5)
    return samples, torch.cat(
        [clip if i == 0 else clip[:, :, shared:] for i, clip in enumerate(clips)], dim=2
    )


def main(upstream: Path, out: Path) -> None:
    import opensora_stubs

    # opensora.py beside this script; after open_upstream the name is upstream's
    import opensora

    small: Any = opensora

    opensora_stubs.open_upstream(upstream)
    opensora_stubs._module("opensora.datasets", IMG_FPS=120, __path__=[])
    opensora_stubs._module("opensora.datasets.utils", read_from_path=None)
    models = small.build_transformer(), small.build_autoencoder()
    for model, weights in zip(
        models, (small.transformer_weights(), small.autoencoder_weights()), strict=True
    ):
        model.load_state_dict(weights)
    given = inputs()
    with torch.no_grad(), small._modes():
        image, clip = (models[1].encode(given[name][None])[0] for name in ("image", "clip"))
        found = {
            "text": run(models, given, 2, [[], []], ["", ""]),
            "first": run(models, given, 2, [[image], []], ["0", ""]),
            "edit": run(models, given, 2, [[clip, image], [clip, image]], list(EDIT)),
            "loops": run(models, given, 1, [[image]], ["0"], loops=2),
        }
    tensors = {f"{name}.latents": latents for name, (latents, _) in found.items()} | {
        "loops.video": found["loops"][1]
    }
    save_file(
        {key: value.contiguous().clone() for key, value in tensors.items()},
        out / "opensora_pipeline.safetensors",
    )
    (out / "opensora_pipeline.safetensors").chmod(0o644)
    for key, value in tensors.items():
        print(f"{key:20s} {tuple(value.shape)!s:24s} |x| <= {value.float().abs().max().item():.3g}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
