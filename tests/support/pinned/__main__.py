"""Write the pinned latents again: `python -m support.pinned` in tests/."""

from __future__ import annotations

import torch
from safetensors.torch import save_file

from support.pinned import LATENTS, PIPELINES, compute

torch.set_num_threads(1)
found = {
    f"{name}/{title}": latents.contiguous()
    for name in PIPELINES
    for title, latents in compute(name).items()
}
save_file(found, LATENTS)
