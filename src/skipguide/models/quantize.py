"""Quantize the denoisers when they are loaded, by the first library that is there and works.

diffusers quantizes what it reads from a folder, weight by weight. What it reads from a single file
it does not (quanto fails, torchao is passed over), nor anything with bitsandbytes on a CPU; there
the layers are exchanged one by one once the file is mapped, which keeps no second copy either."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import torch

from skipguide.files.text import first_line
from skipguide.models import packages, telling

# What can make each kind, the first choice first: diffusers will drop quanto, and bitsandbytes
# needs a GPU.
LIBRARIES = {
    "int8": ("torchao", "quanto", "bitsandbytes"),
    "fp8": ("torchao", "quanto"),
    "nf4": ("bitsandbytes",),
}
_MODULES = {"torchao": "torchao", "quanto": "optimum.quanto", "bitsandbytes": "bitsandbytes"}
_PACKAGES = {"torchao": "torchao", "quanto": "optimum-quanto", "bitsandbytes": "bitsandbytes"}


def choose_library(quantize: str, device: str) -> str:
    """Return a quantization with its library, as in "int8:quanto".

    Args:
        quantize: as `ModelSettings.quantize`, with or without a library.
        device: on which it must work; a layer is quantized there to see that.

    Raises:
        ValueError: if no library that can is installed, or works on the device.
    """
    kind, _, named = quantize.partition(":")
    if named and named not in LIBRARIES[kind]:
        raise ValueError(
            f"quantize={kind} must be by {' or '.join(LIBRARIES[kind])}, but got {quantize!r}:"
            f" {named} does not make {kind}. Write {kind}:{LIBRARIES[kind][0]}."
        )
    failures = {}
    for library in (named,) if named else LIBRARIES[kind]:
        if not is_installed(library):
            continue
        try:
            with quiet():
                _try_on_a_layer(kind, library, device)
        # The libraries fail in many ways where their kernels do not fit torch or the device.
        except Exception as error:
            failures[library] = first_line(error)
        else:
            return f"{kind}:{library}"
    raise ValueError(_describe_failure(quantize, device, failures))


def _describe_failure(quantize: str, device: str, failures: dict[str, str]) -> str:
    kind, _, named = quantize.partition(":")
    libraries = (named,) if named else LIBRARIES[kind]
    names = [_PACKAGES[library] for library in libraries if library not in failures]
    needs = f"quantize={kind} needs {' or '.join(libraries)}"
    # One command that can be copied, of the library that comes first.
    which = "it" if len(libraries) == 1 else "the first"
    if not failures:
        none = "it is not" if len(libraries) == 1 else "none is"
        return f"{needs}, but {none} installed. Install {which} with: pip install {names[0]}"
    reasons = "; ".join(
        f"{library} {version(_PACKAGES[library])} says: {reason}"
        for library, reason in failures.items()
    )
    advice = f" or install another with: pip install {names[0]}" if names else ""
    return f"{needs} that works on {device}, but {reasons}. Leave out --quantize{advice}"


def is_installed(library: str) -> bool:
    """Return whether a library is there, be it usable or not."""
    return packages.is_installed(_MODULES[library])


def _try_on_a_layer(kind: str, library: str, device: str) -> None:
    """Quantize one small layer and call it."""
    layer = torch.nn.Linear(64, 64, bias=False, dtype=torch.bfloat16).to(device)
    x = torch.ones(16, 64, dtype=torch.bfloat16, device=device)
    with torch.no_grad():
        found = _quantized(layer, kind, library, torch.bfloat16).to(device)(x)
    if not bool(torch.isfinite(found).all()):
        raise ValueError("a layer that is quantized has no finite results")


def build_config(quantize: str, dtype: torch.dtype) -> Any:
    """Return what diffusers takes as the quantization_config of a component.

    Args:
        quantize: with its library, as `choose_library` returns it.
        dtype: in which a layer computes.
    """
    from diffusers.quantizers import quantization_config as configs

    kind, _, library = quantize.partition(":")
    if library == "quanto":
        return configs.QuantoConfig(weights_dtype="int8" if kind == "int8" else "float8")
    if library == "torchao":
        return configs.TorchAoConfig(_torchao_config(kind))
    if kind == "int8":
        return configs.BitsAndBytesConfig(load_in_8bit=True)
    return configs.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )


def is_done_by_diffusers(quantize: str, device: str) -> bool:
    """Return whether diffusers can quantize what it reads from a folder."""
    return not (quantize.endswith(":bitsandbytes") and torch.device(device).type == "cpu")


def quantize_layers(model: torch.nn.Module, quantize: str, dtype: torch.dtype) -> None:
    """Exchange the linear layers of a model for quantized ones, as diffusers does.

    Layers that the class of the model keeps in float32 stay as they are (with quanto those inside
    of them do not, as in diffusers).

    Args:
        quantize: with its library.
        dtype: in which a layer computes.
    """
    kind, _, library = quantize.partition(":")
    kept = set(getattr(model, "_keep_in_fp32_modules", None) or ())

    def is_chosen(module: torch.nn.Module, name: str) -> bool:
        path = name.split(".")[-1:] if library == "quanto" else name.split(".")
        return isinstance(module, torch.nn.Linear) and not kept.intersection(path)

    chosen = {name: layer for name, layer in model.named_modules() if is_chosen(layer, name)}
    with torch.no_grad(), quiet():
        for name, layer in chosen.items():
            place, _, last = name.rpartition(".")
            setattr(model.get_submodule(place), last, _quantized(layer, kind, library, dtype))


def check_layers(model: torch.nn.Module, quantize: str, device: str, dtype: torch.dtype) -> None:
    """Check what would end the process: torch's kernel for quanto's int8 in bfloat16 on a CPU
    fails with a segmentation fault where a layer's inputs are no multiple of 16.

    Raises:
        ValueError: for a model with such a layer.
    """
    fails = quantize == "int8:quanto" and device == "cpu" and dtype == torch.bfloat16
    odd = [
        (name, layer.in_features)
        for name, layer in model.named_modules()
        if fails and isinstance(layer, torch.nn.Linear) and layer.in_features % 16
    ]
    if odd:
        raise ValueError(
            "quantize=int8 by quanto needs layers with inputs in multiples of 16 in bfloat16 on a"
            f" CPU, but {odd[0][0]} has {odd[0][1]}. Take --dtype float32, or int8:torchao."
        )


def _quantized(
    layer: torch.nn.Module, kind: str, library: str, dtype: torch.dtype
) -> torch.nn.Module:
    if library == "bitsandbytes":
        return _bitsandbytes_layer(layer, kind, dtype)
    if library == "torchao":
        from torchao.quantization import quantize_  # type: ignore[import-not-found]

        quantize_(layer, _torchao_config(kind))
        return layer
    from optimum import quanto  # type: ignore[import-untyped]

    layer.weight.data = layer.weight.data.to(dtype)  # type: ignore[union-attr]
    around = torch.nn.Sequential(layer)
    quanto.quantize(around, weights=quanto.qint8 if kind == "int8" else quanto.qfloat8)
    quanto.freeze(around)
    return around[0]


def _bitsandbytes_layer(layer: Any, kind: str, dtype: torch.dtype) -> torch.nn.Module:
    """Return a layer of bitsandbytes; its weight is quantized when it is moved to a device."""
    from bitsandbytes import nn  # type: ignore[import-not-found]

    size, has_bias = (layer.in_features, layer.out_features), layer.bias is not None
    weight = layer.weight.data
    if kind == "nf4":
        made = nn.Linear4bit(*size, has_bias, dtype, quant_type="nf4", device="meta")
        made.weight = nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
    else:
        made = nn.Linear8bitLt(*size, has_bias, has_fp16_weights=False, device="meta")
        made.weight = nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    made.bias = layer.bias
    return made


def _torchao_config(kind: str) -> Any:
    from torchao import quantization  # type: ignore[import-not-found]

    return (
        quantization.Int8WeightOnlyConfig()
        if kind == "int8"
        else quantization.Float8WeightOnlyConfig()
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep off stderr that diffusers will drop quanto one day, and what libraries say of it."""
    with (
        telling.only_from(logging.ERROR, "diffusers.quantizers"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
