"""TGAN's own C3D in chainer, with TGAN's preparation of clips: see vbench_inputs.py.

    python tests/support/references/c3d_upstream.py UPSTREAM

reads the folder tgan (pfnet-research/tgan at 09aa105) in UPSTREAM and adds `c3d.probabilities` to
vbench.json. It needs an environment of its own: chainer==7.8.1, numpy<1.24 and
opencv-python-headless==4.8.1.78, without torch."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import vbench_inputs as reference


def prepared(clips: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """evaluation/calc_inception.py from `x * 128 + 128` on: BGR without the mean, `(B, 3, 16, 112,
    112)`."""
    import cv2  # pyright: ignore[reportMissingImports]

    count, frames = clips.shape[:2]
    images = clips.transpose(0, 1, 3, 4, 2).reshape(-1, *clips.shape[3:], 3).astype(np.float32)
    x = np.stack(
        [cv2.resize(image, (128, 128), interpolation=cv2.INTER_CUBIC) for image in images]
    ).astype(float)
    x = x.transpose(3, 0, 1, 2).reshape(3, count, frames, 128, 128)
    x = x[::-1] - mean.reshape((3, 1, 16, 128, 171))[:, :, :, :, 21 : 21 + 128]
    return x[:, :, :, 8 : 8 + 112, 8 : 8 + 112].astype("f").transpose(1, 0, 2, 3, 4)


def main(upstream: Path) -> None:
    sys.path.insert(0, str(upstream / "tgan/evaluation"))
    import c3d_ft  # pyright: ignore[reportMissingImports]
    import chainer  # pyright: ignore[reportMissingImports]

    network = c3d_ft.C3DVersion1(pretrained_model=None)
    shapes = {name.lstrip("/"): list(value.shape) for name, value in network.namedparams()}
    for name, value in reference.drawn(shapes, "c3d").items():
        dict(network.namedparams())["/" + name].array[...] = value
    with chainer.using_config("train", False), chainer.no_backprop_mode():
        clips = prepared(reference.clips(), reference.mean_clip())
        found = network(chainer.Variable(clips), layers=["prob"])["prob"].array
    reference.record({"c3d": shapes}, {"c3d.probabilities": found.tolist()})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
