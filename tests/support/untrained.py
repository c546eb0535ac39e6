"""The judges of the lab without training, for what does not need one that reads right."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from skipguide.lab import readers


def save_judges(folder: Path) -> Path:
    """Write both, named as in the package: the folder takes the place of packaged.WEIGHTS."""
    for reader in readers.READERS.values():
        torch.manual_seed(0)
        (folder / reader.name).mkdir(parents=True)
        state = {name: value.half() for name, value in reader.build().state_dict().items()}
        save_file(state, folder / reader.name / "judge.safetensors")
    return folder
