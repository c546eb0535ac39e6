"""skipguide convert: write checkpoints that diffusers cannot load in its layout."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from skipguide.cli import console
from skipguide.cli.options import Json, parse_folder
from skipguide.files import folders

convert = typer.Typer(
    help="Write published checkpoints in diffusers' layout.", no_args_is_help=True
)

DTYPES = ("float32", "bfloat16", "float16")
WEIGHTS = ("*.safetensors", "*.bin")


@convert.callback()
def _convert() -> None:
    """Write published checkpoints in diffusers' layout."""
    # Without a callback, typer would drop the name of the only command.


@convert.command()
def opensora(
    transformer: Annotated[Path, typer.Option(help="A download of hpcai-tech/OpenSora-STDiT-v3.")],
    vae: Annotated[Path, typer.Option(help="A download of hpcai-tech/OpenSora-VAE-v1.2.")],
    text_encoder: Annotated[Path, typer.Option(help="A download of DeepFloyd/t5-v1_1-xxl.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="The folder to write.", parser=parse_folder, metavar="PATH"
        ),
    ],
    dtype: Annotated[
        str, typer.Option(help="Of the weights: float32, bfloat16, float16.")
    ] = "float32",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a pipeline that exists.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Convert Open-Sora 1.2 from the folders that it is published in."""
    _check_inputs(transformer, vae, text_encoder, dtype)
    _check_out(out, overwrite)
    import torch

    from skipguide.lab.training_loop import atomic_path
    from skipguide.opensora import OpenSoraPipeline

    pipe = OpenSoraPipeline.from_original(
        transformer, vae, text_encoder, torch_dtype=getattr(torch, dtype)
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as part:
        pipe.save_pretrained(part)
        if out.exists():
            shutil.rmtree(out)
    load = f"OpenSoraPipeline.from_pretrained({str(out)!r})"
    console.print_result(
        f"{out}: OpenSoraPipeline in {dtype}; load it with {load}",
        {"out": str(out), "dtype": dtype},
        as_json,
    )


def _check_inputs(transformer: Path, vae: Path, text_encoder: Path, dtype: str) -> None:
    """Check that everything is there, before gigabytes are read."""
    if dtype not in DTYPES:
        raise ValueError(
            f"--dtype must be one of {', '.join(DTYPES)}, but got {dtype!r}. Pass float32."
        )
    parts = {"--transformer": transformer, "--vae": vae, "--text-encoder": text_encoder}
    for option, folder in parts.items():
        if not (folder / "config.json").is_file():
            raise ValueError(
                f"{option} must be a downloaded model, but {folder} has no config.json. Check the"
                " name."
            )
        if not any(path for pattern in WEIGHTS for path in folder.glob(pattern)):
            raise ValueError(
                f"{option} must be a downloaded model, but {folder} has no {' or '.join(WEIGHTS)}."
                " Download its weights."
            )
    if not any((text_encoder / name).is_file() for name in ("spiece.model", "tokenizer.json")):
        raise ValueError(
            f"--text-encoder must also hold its tokenizer, but {text_encoder} has no spiece.model"
            " or tokenizer.json. Download all files."
        )


def _check_out(out: Path, overwrite: bool) -> None:
    if out.exists():
        if not overwrite:
            raise ValueError(
                f"--out must be a new folder, but {out} exists. Pass --overwrite or another name."
            )
        if not (out / "model_index.json").is_file():
            raise ValueError(
                f"--overwrite replaces pipelines only, but {out} has no model_index.json. Choose"
                " another folder."
            )
    if obstacle := folders.find_obstacle(out.absolute().parent):
        raise ValueError(f"--out must lie in a writable folder, but {obstacle}. Choose another.")
