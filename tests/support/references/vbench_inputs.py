"""What VBench's own code, and that of the networks which it uses, computes on drawn weights and
drawn videos.

`vbench.json` has numbers and the keys and shapes of every published checkpoint,
`vbench.safetensors` has tensors; vbench_upstream.py and c3d_upstream.py made them. Weights and
videos are drawn from seeds by numpy's PCG64 and by arithmetic that is exact everywhere, so neither
is stored. This file needs numpy only: chainer's environment reads it.

Numbers, by `METRIC.CASE` with the cases of VIDEOS, are in the units of VBench's result (dynamic
degree as 0 or 1); `motions.CASE` are what DynamicDegree compares with its threshold, one for each
pair of frames. `decisions` are pairs of what DynamicDegree and the static filter say of each of
FLOWS, in the place of whose network is one that gives a flow of the same length everywhere.
Tensors:

`raft.flow (2, H / 8, W / 8)`: every eighth value of the flow between the first frames of `large`,
padded. `amt.middle (3, H / 4, W / 4)`: every fourth value of the frame between them, padded to
multiples of 16. `musiq.scores (F,)`, `dino.features (F, 128)` and `clip_b32.features (F, 48)` of
`wide`, resized as VBench does. `i3d.features (B, 400)` of `clips`. `c3d.probabilities (B, 101)` of
`clips` are among the numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

RECORD = Path(__file__).with_name("vbench.json")
Arrays = dict[str, np.ndarray]

VIDEOS: dict[
    str, tuple[tuple[int, int, int], float | None, int, int]
] = {  # (F, H, W), fps, pixels a frame, seed
    "small": ((3, 44, 60), 8.0, 2, 0),
    "wide": ((3, 90, 600), 8.0, 5, 1),
    "square": ((2, 224, 224), 8.0, 3, 2),
    "large": ((5, 132, 157), 8.0, 4, 3),
    "fast": ((7, 132, 157), 24.0, 4, 4),
    "slow": ((4, 132, 157), None, 1, 5),
}
FLOWS = [(2 + i % 19, 128 + 2 * i, 176) for i in range(57)]  # (F, H, W)
CLIPS = (16, 36, 52), 6  # (F, H, W), seed
SEEDS = {
    "raft": 1,
    "amt": 2,
    "musiq": 3,
    "dino": 4,
    "clip_b32": 5,
    "clip_l14": 6,
    "laion_head": 7,
    "i3d": 8,
    "c3d": 9,
}
TOKENS = (
    "cls",
    "class_embedding",
    "pos",
    "scale_emb",
)  # within the keys of what is added to tokens
GAINS = {"i3d": 2.0, "c3d": 2.0, "raft": 2.0}  # variance of an output for one of the inputs; else 1
# for flows near the threshold of dynamic degree, and for colours and probabilities that are not 0
# and 1
SMALL = {
    "module.update_block.flow_head.conv2.weight": 0.0086,
    "module.update_block.flow_head.conv2.bias": 0.0086,
    "decoder1.convblock.2.weight": 0.2,
    "comb_block.2.weight": 0.2,
    "fc8/W": 0.02,
}


def video(name: str) -> np.ndarray:
    """Frames `(F, 3, H, W)` uint8: coarse noise that moves to the right and down, under fine noise
    of each frame."""
    size, _, speed, seed = VIDEOS[name]
    return moving(size, speed, seed)


def clips() -> np.ndarray:
    """Two clips `(2, 16, 3, H, W)` uint8, of which the second is the first from the end."""
    size, seed = CLIPS
    forward = moving(size, 1, seed)
    return np.stack([forward, forward[::-1]])


def moving(size: tuple[int, int, int], speed: int, seed: int) -> np.ndarray:
    frames, height, width = size
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 200, (3, -(-height // 8), -(-width // 8)), dtype=np.uint8)
    still = blocks.repeat(8, 1).repeat(8, 2)[:, :height, :width]
    noise = generator.integers(0, 56, (frames, 3, height, width), dtype=np.uint8)
    return np.stack([np.roll(still, (speed * i, speed * i), (1, 2)) for i in range(frames)]) + noise


def lengths(flow: tuple[int, int, int]) -> list[float]:
    """Of the flows between neighbouring frames, and of the first to the last and back, in
    pixels."""
    frames, height, width = flow
    generator = np.random.default_rng(height)
    near = generator.random(frames - 1) * (1.2, 1.5, 3)[height % 3]
    ends = generator.random(2) * frames / 3
    unit = 3 * min(height, width) / 256
    return [unit * float(length) for length in (*near, *ends)]


def mean_clip() -> np.ndarray:
    """In the place of TGAN's mean2.npz, and as flat as it is there."""
    return np.random.default_rng(10).integers(80, 120, (1, 3 * 16 * 128 * 171)).astype(np.float32)


def weights(network: str) -> Arrays:
    """A checkpoint under its published keys, in which every weight matters."""
    return drawn(recorded()["keys"][network], network)


def drawn(shapes: dict[str, list[int]], network: str) -> Arrays:
    generator = np.random.default_rng(SEEDS[network])
    return {key: _weight(key, tuple(shapes[key]), network, generator) for key in sorted(shapes)}


def _weight(
    key: str, shape: tuple[int, ...], network: str, generator: np.random.Generator
) -> np.ndarray:
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if ".norm3." in key:  # RAFT's checkpoint has these twice
        return np.zeros(shape, np.float32)
    noise = np.float32(SMALL.get(key, 1)) * (2 * generator.random(shape, dtype=np.float32) - 1)
    if any(token in key for token in TOKENS):
        return noise
    if len(shape) < 2:
        return np.float32(0.2) * noise + np.float32(
            key.endswith(("weight", "running_var"))
        )  # norms are near 1
    fan_in = noise[0].size
    return noise * np.float32((3 * GAINS.get(network, 1.0) / fan_in) ** 0.5)


def recorded() -> dict[str, Any]:
    return json.loads(RECORD.read_text())


def record(keys: dict[str, Any], values: dict[str, Any]) -> None:
    """Add to what is recorded, with a line for each list."""
    known = recorded() if RECORD.is_file() else {"values": {}, "keys": {}}
    result = {"values": known["values"] | values, "keys": known["keys"] | keys}
    text = re.sub(
        r"\[[^][]*\]", lambda found: " ".join(found[0].split()), json.dumps(result, indent=1)
    )
    RECORD.write_text(text + "\n")
