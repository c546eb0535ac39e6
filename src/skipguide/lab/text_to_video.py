"""The training recipe that lab-mochi and lab-opensora share.

Transformer and text encoder are trained together on latents that are encoded once. What differs
between the models (their autoencoder, their captions, their flow) is passed in as functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import nn

from skipguide.lab import latents, text, training_loop

Tensor = torch.Tensor
Encode = Callable[[Tensor], Tensor]
NUM_CLIPS = 14_336  # whose latents are kept; a clip gets a new caption whenever it is used
CAPTION_DROPOUT = 0.1


@dataclass(frozen=True)
class TrainingSetup:
    """The inputs from which the loss of a model is computed."""

    pipe: DiffusionPipeline  # of the model's own pipeline class
    pair: text.TrainingPair  # on the device
    data: dict[str, Tensor]  # the cached latents by name
    device: torch.device
    dtype: torch.dtype  # of matrix products

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which the networks run."""
        enabled = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype, enabled=enabled)

    def tokenize(self, words: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        """Return token ids and attention mask `(B, max_tokens)` of captions, on the device."""
        return tokenize(self.pipe.tokenizer, words, max_tokens, self.device)


def tokenize(
    tokenizer: Callable[..., Any], words: Sequence[str], max_tokens: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return token ids and attention mask `(B, max_tokens)` of captions."""
    tokens = tokenizer(
        list(words), padding="max_length", max_length=max_tokens, return_tensors="pt"
    ).to(device)
    return tokens.input_ids, tokens.attention_mask


def encode_clips(
    folder: Path,
    device: torch.device,
    num: int,
    load_autoencoder: Callable[[Path], Any],
    encode_rows: Callable[[Encode, slice], dict[str, Tensor]],
) -> Iterator[training_loop.Progress]:
    """Encode `num` clips once, with the autoencoder in `folder`.

    Args:
        load_autoencoder: loads it from a folder.
        encode_rows: takes a function that encodes clips `(B, 3, F, H, W)`, and which clips to
            encode; returns what to keep, by name.
    """
    training_loop.require_files(folder, "vae/config.json")
    encode = latents.make_encoder(load_autoencoder(folder / "vae").to(device), device)
    yield from latents.cache_latents(folder, num, lambda rows: encode_rows(encode, rows))


def train(
    folder: Path,
    device: torch.device,
    schedule: training_loop.Schedule,
    build: Callable[[Path], DiffusionPipeline],
    make_loss: Callable[[TrainingSetup], Callable[[int], Tensor]],
    processor: object,
    source: str = "vae",
    result: str = "pipeline",
    text_encoders: Callable[[Any], nn.Module] = lambda pipe: pipe.text_encoder,
) -> Iterator[training_loop.Progress]:
    """Train transformer and text encoder from nothing, or from the checkpoint in `folder`.

    `folder` must hold the autoencoder and the cached latents. Afterwards `folder/pipeline` is the
    pipeline in diffusers layout, in float16.

    Args:
        build: builds the pipeline to be trained from the folder `source`: an untrained one around
            the autoencoder there, or one to go on from.
        make_loss: returns the function from step number to the error to minimise.
        processor: replaces all attention processors during the training.
        source: the folder in `folder` that `build` reads.
        result: the folder in `folder` that is written. The checkpoint of a training from nothing is
            `transformer.ckpt`, that of another has the name of its result.
        text_encoders: returns what is trained beside the transformer, of several a list.
    """
    from safetensors.torch import load_file

    needed = "config.json" if result == "pipeline" else "model_index.json"
    training_loop.require_files(folder, f"{source}/{needed}", "latents.safetensors")
    pipe = build(folder / source)
    data = load_file(folder / "latents.safetensors")
    pair = text.TrainingPair(pipe.transformer, text_encoders(pipe)).to(device)
    usual = _replace_processors(pair.transformer, processor)
    compile_blocks(pair.transformer, device)
    setup = TrainingSetup(pipe, pair, data, device, training_loop.faster_dtype(device))
    error_at = make_loss(setup)

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        error = error_at(step)
        return error, {"loss": error.item()}

    name = "transformer" if result == "pipeline" else result
    yield from training_loop.fit(pair, loss, schedule, folder / f"{name}.ckpt")
    for module, its_own in usual:
        module.processor = its_own
    training_loop.save_pipeline(pipe, folder / result, pipe.transformer, pipe.vae)


def _replace_processors(transformer: nn.Module, processor: object) -> list[tuple[Any, object]]:
    """Give all attentions another processor, and return each with its own one."""
    attentions: list[Any] = [
        module for module in transformer.modules() if hasattr(module, "processor")
    ]
    usual = [(module, module.processor) for module in attentions]
    for module in attentions:
        module.processor = processor
    return usual


def compile_blocks(transformer: nn.Module, device: torch.device) -> None:
    """Compile each block where that can be: fusing many small operations doubles the speed."""
    if not training_loop.can_compile(device):
        return
    for name, blocks in transformer.named_children():
        if name.endswith("_blocks"):
            for block in blocks.children():
                block.compile()


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Compute attention as plain products, which are faster than kernels for a few tokens.

    Args:
        q: `(B, N, heads, D)`; k and v `(B, M, heads, D)`.
        mask: what may be attended to, or what is added to the scores; broadcast to
            `(B, heads, N, M)`.

    Returns:
        `(B, N, heads D)` in the dtype of `v`.
    """
    q, k, v = (x.to(v.dtype).transpose(1, 2) for x in (q, k, v))
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, -torch.inf)
    elif mask is not None:
        scores = scores + mask
    out = scores.softmax(-1).to(v.dtype) @ v
    return out.transpose(1, 2).flatten(2)
