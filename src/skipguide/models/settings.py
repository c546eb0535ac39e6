"""The settings that say which weights are loaded and how a model runs on the machine.

They are part of `GenerationSettings`. Videos that agree in `load_key` are made by one loaded
pipeline; the scheduler, the attention backend and VAE tiling are put on it for each video."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from skipguide.method.protocols import PlainData
from skipguide.models import parsing
from skipguide.models.fields import describe_field as _field

DTYPES = "float32, bfloat16 or float16"
Dtype = Literal["float32", "bfloat16", "float16"]


class Lora(BaseModel):
    """One LoRA: its file, its strength, and what is known of the file once it was loaded."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    path: str = Field(min_length=1)
    scale: float = 1.0
    component: str | None = None  # the denoiser that it is for; None is every one
    sha256: str | None = None
    trigger_words: Annotated[
        tuple[str, ...] | None, BeforeValidator(lambda value: value and tuple(value))
    ] = None


def _plain_lora(lora: Lora) -> PlainData:
    return lora.model_dump(mode="json", exclude_none=True)


Loras = Annotated[
    tuple[Annotated[Lora, PlainSerializer(_plain_lora)], ...] | None,
    BeforeValidator(parsing.parse_loras),
]
Components = Annotated[tuple[str, ...] | None, BeforeValidator(parsing.parse_components)]
Scheduler = Annotated[Any, BeforeValidator(parsing.parse_scheduler)]
Offload = Annotated[Any, BeforeValidator(parsing.parse_offload)]
Quantize = Annotated[Any, BeforeValidator(parsing.parse_quantize)]

# What is put on a loaded pipeline for one video and taken off again.
PER_VIDEO = ("scheduler", "flow_shift", "attention", "vae_tiling")


class ModelSettings(BaseModel):
    """A model, as it is loaded and placed. None means: as diffusers does it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    model: str = _field(
        "lab-mochi, lab-svd, lab-opensora, a folder, a file or a hub id",
        "lab-mochi, lab-svd, lab-opensora, a local folder in diffusers layout, a hub id, or a"
        " .safetensors or .gguf file with --base-model for the rest.",
        "lab-mochi", min_length=1,
    )  # fmt: skip
    base_model: str | None = _field(
        "a folder in diffusers layout or a hub id",
        "Folder or hub id that has what a single file does not: text encoder, VAE, scheduler."
        " --config takes it too.",
        min_length=1,
    )
    component: Components = _field(
        "NAME=PATH, each NAME once, as in transformer_2=low-noise.gguf",
        "Take one component from elsewhere: NAME=PATH of a .safetensors or .gguf file or a folder,"
        " once per component.",
    )
    variant: str | None = _field(
        "a word such as fp16",
        "The files of a model that are loaded, as in fp16.",
        pattern=r"^[A-Za-z0-9_-]+$",
    )
    dtype: Dtype | None = _field('"float32", "bfloat16" or "float16"', f"{DTYPES}.")
    vae_dtype: Dtype | None = _field(
        '"float32", "bfloat16" or "float16"',
        "Of the VAE, which some models need in float32 while the rest is in bfloat16.",
    )
    lora: Loras = _field(
        "PATH or PATH:SCALE, or a list of these",
        "LoRA that is added to the weights, as PATH or PATH:SCALE, once per LoRA: a file, a folder"
        " or a hub id. transformer_2=PATH:SCALE is for one of two denoisers.",
    )
    quantize: Quantize = _field(
        "int8, fp8 or nf4, or one of these with its library as in int8:torchao",
        "Quantize the denoiser's weights when they are loaded: int8, fp8 or nf4, by quanto, torchao"
        " or bitsandbytes, whichever is there (int8:torchao names one).",
    )
    device: str | None = _field(
        '"cpu", "cuda", "cuda:1", "mps" or the like',
        "cpu, cuda, cuda:1, mps.",
        pattern=r"^(cpu|mps|(cuda|xpu)(:[0-9]+)?)$",
    )
    offload: Offload = _field(
        '"model", "sequential", "group" or group:N with N blocks',
        "Keep weights in the main memory: whole models, sequential (least memory, slowest), or"
        " group:N of N blocks at a time (group: one layer); with streams on CUDA.",
    )
    attention: str | None = _field(
        "the name of an attention backend of diffusers, as in native, flash or sage",
        "Attention backend of diffusers: native, flash, _flash_3, sage, xformers, ...",
        min_length=1,
    )
    compile: bool | None = _field("true or false", "Compile the blocks of the denoiser.")
    vae_tiling: bool | None = _field(
        "true or false", "Decode in tiles, for large videos on little memory."
    )
    scheduler: Scheduler = _field(
        "the name of a scheduler of diffusers, or a name and options, each once with its value, as"
        " in UniPCMultistep:flow_shift=3",
        "Another scheduler: NAME or NAME:OPTION=VALUE,..., as in UniPCMultistep:flow_shift=3.",
    )
    flow_shift: float | None = _field(
        "a finite number above 0",
        "Shift of the noise levels of flow-matching models (Wan: 3 for 480p, 5 for 720p).",
        gt=0,
    )

    def load_key(self) -> tuple[Any, ...]:
        """Return what two videos must agree in to be made by one loaded pipeline."""
        return tuple(
            (name, getattr(self, name)) for name in ModelSettings.model_fields
            if name not in PER_VIDEO
        )  # fmt: skip

    def model_settings(self) -> ModelSettings:
        """Return the settings of the model alone."""
        values = {name: getattr(self, name) for name in ModelSettings.model_fields}
        return ModelSettings.model_construct(**values)
