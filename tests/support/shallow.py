"""The benchmark's workloads with few blocks, for tests."""

from __future__ import annotations

import dataclasses
from typing import Any

from skipguide.bench.workloads import Workload


def shallow(work: Workload) -> Workload:
    """The same family with few blocks; a UNet with one layer per block, narrower, on small
    pictures."""
    if "block_out_channels" in work.config:
        layer = "up:2" if work.layer != "up:0" else work.layer
        config = {**work.config, "layers_per_block": 1, "block_out_channels": (64,) * 4}
        return dataclasses.replace(
            work, config=config, layer=layer, inputs=lambda batch: cropped(work.inputs(batch))
        )
    depths = {"num_layers": 4, "num_single_layers": 4, "num_visual_blocks": 4}
    config: dict[str, Any] = {name: depths.get(name, value) for name, value in work.config.items()}
    if "vace_layers" in config or (
        config.get("num_layers") == 4 and "control_hidden_states" in work.inputs(1)
    ):
        config["vace_layers"] = [0, 2]
    if "face_encoder_hidden_dim" in config:
        config["inject_face_latents_blocks"] = 2
    stack = work.layer.split(":")[0] + ":2" if isinstance(work.layer, str) else 2
    return dataclasses.replace(work, config=config, layer=stack)


def cropped(inputs: dict[str, Any]) -> dict[str, Any]:
    pictures = {
        name: inputs[name][..., :8, :8] for name in ("sample", "image_latents") if name in inputs
    }
    return {**inputs, **pictures}
