"""Drawn weights of the metrics' networks, saved as their authors publish them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from support.references import vbench_inputs as reference

Tensor = torch.Tensor

FOLDERS = ("clip_b32", "clip_l14")  # of transformers


def checkpoint(network: str) -> dict[str, Tensor]:
    """The weights under their published keys."""
    return {key: torch.from_numpy(value) for key, value in reference.weights(network).items()}


def saved(network: str, folder: Path) -> tuple[Path, ...]:
    """The paths that the network's load takes."""
    path = folder / network
    if network == "c3d":
        arrays: dict[str, Any] = reference.weights(network)
        np.savez(folder / "c3d.npz", **arrays)
        np.savez(folder / "mean2.npz", mean=reference.mean_clip())
        return folder / "c3d.npz", folder / "mean2.npz"
    if network in FOLDERS:
        path.mkdir()
        texts = {"text_model.final_layer_norm.bias": torch.zeros(8), "logit_scale": torch.ones(())}
        save_file(checkpoint(network) | texts, path / "model.safetensors")
    elif network == "amt":
        _save_as_a_training_run_did(checkpoint(network), path)
    else:
        torch.save(checkpoint(network), path)
    return (path,)


def _save_as_a_training_run_did(weights: dict[str, Tensor], path: Path) -> None:
    """With an optimizer whose learning rate is a number of numpy, and under the name that it had
    before numpy 2."""
    torch.save({"epoch": 300, "state_dict": weights, "optim": {"lr": np.float64(2e-5)}}, path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            old = (
                content.replace(b"numpy._core.", b"numpy.core.")
                if name.endswith("data.pkl")
                else content
            )
            archive.writestr(name, old)
