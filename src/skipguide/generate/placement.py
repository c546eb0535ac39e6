"""Put a loaded pipeline where it runs: on a device, offloaded, compiled, the VAE in its dtype."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from skipguide.generate.model_settings import ModelSettings
from skipguide.method.protocols import Pipeline

_CPU = torch.device("cpu")
_DENOISERS = ("transformer", "transformer_2", "unet")


def place(pipe: Pipeline, settings: ModelSettings, device: str) -> None:
    """Bring a pipeline, loaded in the main memory, to its device as the settings ask for.

    Raises:
        ValueError: for what this pipeline cannot do.
    """
    if settings.vae_dtype is not None:
        _set_vae_dtype(pipe, getattr(torch, settings.vae_dtype))
    if settings.offload is None:
        pipe.to(device)
    else:
        _offload(pipe, settings.offload, torch.device(device))
    if settings.compile:
        _compile(pipe)


def execution_device(pipe: Pipeline) -> torch.device:
    """Return the device on which a pipeline computes; its weights may lie elsewhere."""
    return getattr(pipe, "_execution_device", pipe.device)


def denoisers(pipe: Pipeline) -> dict[str, nn.Module]:
    """Return the denoisers of a pipeline by the names of their components; Wan 2.2 has two."""
    found = {name: getattr(pipe, name, None) for name in _DENOISERS}
    return {name: module for name, module in found.items() if isinstance(module, nn.Module)}


# --- offloading -----------------------------------------------------------------------------------


def _offload(pipe: Pipeline, offload: str, device: torch.device) -> None:
    how, _, blocks = offload.partition(":")
    if how == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif how == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        level = {"offload_type": "block_level", "num_blocks_per_group": int(blocks)}
        pipe.enable_group_offload(
            onload_device=device,
            offload_device=_CPU,
            use_stream=device.type == "cuda",
            **(level if blocks else {"offload_type": "leaf_level"}),
        )


# --- the VAE's own dtype --------------------------------------------------------------------------


def _set_vae_dtype(pipe: Pipeline, dtype: torch.dtype) -> None:
    """Put the VAE into another dtype than the rest.

    Few pipelines cast what they hand to it, so that its parts cast what they get.
    """
    vae = getattr(pipe, "vae", None)
    if not isinstance(vae, nn.Module):
        raise ValueError(
            f"vae_dtype needs a model with a VAE, but {type(pipe).__name__} has none. Leave out"
            " --vae-dtype."
        )
    vae.to(dtype)
    for part in vae.children():
        part.register_forward_pre_hook(_cast_inputs(dtype), with_kwargs=True)


def _cast_inputs(dtype: torch.dtype) -> Any:
    def cast(value: Any) -> Any:
        is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.to(dtype) if is_float else value

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return tuple(map(cast, args)), {name: cast(value) for name, value in kwargs.items()}

    return hook


# --- compilation ----------------------------------------------------------------------------------


def _compile(pipe: Pipeline) -> None:
    """Compile the blocks of the denoisers, which are alike; a UNet as a whole, whose are not."""
    for denoiser in denoisers(pipe).values():
        if getattr(denoiser, "_repeated_blocks", None):
            denoiser.compile_repeated_blocks()  # type: ignore[operator]
        else:
            denoiser.compile()
