"""Put a loaded pipeline where it runs: on a device, offloaded, compiled, the VAE in its dtype."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from skipguide.method.protocols import Pipeline
from skipguide.models.memory import is_out_of_memory
from skipguide.models.parsing import DENOISERS
from skipguide.models.settings import ModelSettings

_TILES_ONLY = ("AutoencoderKLAllegro",)
_CPU = torch.device("cpu")


def place(pipe: Pipeline, settings: ModelSettings, device: str) -> None:
    """Bring a pipeline, loaded in the main memory, to its device as the settings ask for.

    Raises:
        ValueError: for what this pipeline cannot do.
    """
    hide_float16_warning()
    if settings.vae_dtype is not None:
        _cast_for_vae(pipe, getattr(torch, settings.vae_dtype))
    if needs_tiles(pipe):
        pipe.vae.enable_tiling()
    if settings.offload is None:
        pipe.to(device)
    else:
        try:
            _offload(pipe, settings.offload, torch.device(device))
        except (RuntimeError, AttributeError, TypeError) as error:
            explain_sequential(error, pipe, settings)
            raise
    if settings.compile:
        _compile(pipe)


def hide_float16_warning() -> None:
    """Keep off stderr that float16 does not run on a CPU, which it does with this torch.

    diffusers says so whenever a pipeline is moved, also after each video of an offloaded one.
    """
    logging.getLogger("diffusers.pipelines.pipeline_utils").addFilter(_is_not_of_float16)


def _is_not_of_float16(record: logging.LogRecord) -> bool:
    return "cannot run with `cpu` device" not in record.getMessage()


def execution_device(pipe: Pipeline) -> torch.device:
    """Return the device on which a pipeline computes; its weights may lie elsewhere."""
    found = getattr(pipe, "_execution_device", pipe.device)
    return _CPU if found.type == "cpu" else found  # "cpu:0" after offloading


def denoisers(pipe: Pipeline) -> dict[str, nn.Module]:
    """Return the denoisers of a pipeline by the names of their components; Wan 2.2 has two."""
    found = {name: getattr(pipe, name, None) for name in DENOISERS}
    return {name: module for name, module in found.items() if isinstance(module, nn.Module)}


def needs_tiles(pipe: Pipeline) -> bool:
    """Return whether the VAE of a pipeline cannot decode in one piece."""
    return type(getattr(pipe, "vae", None)).__name__ in _TILES_ONLY


# --- offloading -----------------------------------------------------------------------------------


def _offload(pipe: Pipeline, offload: str, device: torch.device) -> None:
    how, _, blocks = offload.partition(":")
    if how == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif how == "sequential" and device.type == "cpu":
        _offload_within_memory(pipe, device)
    elif how == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        by_block = {"offload_type": "block_level", "num_blocks_per_group": int(blocks or 1)}
        pipe.enable_group_offload(
            onload_device=device,
            offload_device=_CPU,
            use_stream=device.type == "cuda",
            **(by_block if blocks else {"offload_type": "leaf_level"}),
        )


def _offload_within_memory(pipe: Pipeline, device: torch.device) -> None:
    """Put the hooks of sequential offloading on a pipeline that runs on the CPU.

    diffusers would name the device "cpu:0", and accelerate then takes weights for tensors.
    """
    import accelerate

    for module in pipe.components.values():
        if isinstance(module, nn.Module):
            buffers = len(module._parameters) > 0  # as diffusers decides it
            accelerate.cpu_offload(module, device, offload_buffers=buffers)


def check_offload(settings: ModelSettings, quantize: str | None, device: str) -> None:
    """Check that weights can be moved as they are quantized, before any is read.

    accelerate moves them one by one (sequential) as plain numbers. quanto's then lack what belongs
    to them, on any device; so do those of bitsandbytes on a CPU.

    Args:
        quantize: with its library.

    Raises:
        ValueError: if they cannot.
    """
    library = (quantize or "").partition(":")[2]
    fails = ("quanto", "bitsandbytes") if device == "cpu" else ("quanto",)
    if settings.offload == "sequential" and library in fails:
        raise sequential_error("a model", quantize)


def sequential_error(model: str, quantize: str | None) -> ValueError:
    """Return the error of weights that cannot be moved one by one.

    Args:
        model: what has them.
        quantize: with its library.
    """
    if quantize is None:
        return ValueError(
            f"offload must be model or group for {model}, which reads weights outside of the layers"
            " that hold them, but got sequential. Take --offload group."
        )
    kind, _, library = quantize.partition(":")
    by = f" by {library}" if library else ""
    other = "" if kind == "nf4" or library == "torchao" else f", or --quantize {kind}:torchao"
    return ValueError(
        f"offload must be model or group for {model} in {kind}{by}, whose weights cannot"
        f" be moved one by one, but got sequential. Take --offload group{other}."
    )


def explain_sequential(error: Exception, pipe: Pipeline, settings: ModelSettings) -> None:
    """Raise a ValueError for an error that comes of moving weights one by one; else do nothing.

    Args:
        error: of accelerate, or of a layer whose weights are not where it looks for them.
        settings: with which the pipeline was loaded.
    """
    if settings.offload != "sequential" or is_out_of_memory(error):
        return
    if settings.quantize or "meta" in str(error):
        raise sequential_error(type(pipe).__name__, settings.quantize) from error


def offload_notes(pipe: Pipeline, offload: str | None) -> Iterator[str]:
    """Yield a note for groups of more blocks than a denoiser has, which are the whole model."""
    how, _, blocks = (offload or "").partition(":")
    most = max(map(_count_blocks, denoisers(pipe).values()), default=0)
    if how == "group" and blocks and 0 < most < int(blocks):
        yield (
            f"--offload group:{blocks} keeps all blocks of the denoiser on the device at once, for"
            f" it has {most}. Take fewer blocks to save memory, or --offload model."
        )


def _count_blocks(denoiser: nn.Module) -> int:
    """Return the length of the longest list of blocks, which is what diffusers makes groups of."""
    lists = [part for part in denoiser.children() if isinstance(part, nn.ModuleList)]
    return max(map(len, lists), default=0)


# --- the VAE's own dtype --------------------------------------------------------------------------


def _cast_for_vae(pipe: Pipeline, dtype: torch.dtype) -> None:
    """Let the parts of a VAE that has another dtype than the rest cast what they get.

    Few pipelines cast what they hand to it. What it encodes comes back in the dtype of the rest,
    which is that of the latents.
    """
    vae = getattr(pipe, "vae", None)
    if not isinstance(vae, nn.Module):
        raise ValueError(
            f"vae_dtype needs a model with a VAE, but {type(pipe).__name__} has none. Leave out"
            " --vae-dtype."
        )
    for part in vae.children():
        part.register_forward_pre_hook(_cast_inputs(dtype), with_kwargs=True)
    last = [getattr(vae, name, None) for name in ("quant_conv", "encoder")]
    last_of_encoding = next((part for part in last if isinstance(part, nn.Module)), None)
    if last_of_encoding is not None:
        of_rest = next(iter(denoisers(pipe).values())).dtype
        last_of_encoding.register_forward_hook(lambda *call: _cast(call[-1], of_rest))


def _cast(value: Any, dtype: Any) -> Any:
    is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.to(dtype) if is_float else value


def _cast_inputs(dtype: torch.dtype) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        cast = {name: _cast(value, dtype) for name, value in kwargs.items()}
        return tuple(_cast(value, dtype) for value in args), cast

    return hook


# --- compilation ----------------------------------------------------------------------------------


def _compile(pipe: Pipeline) -> None:
    """Compile the blocks of the denoisers, which are alike; a UNet as a whole, whose are not."""
    for denoiser in denoisers(pipe).values():
        if getattr(denoiser, "_repeated_blocks", None):
            denoiser.compile_repeated_blocks()  # type: ignore[operator]
        else:
            denoiser.compile()
