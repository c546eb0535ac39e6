"""Which judge reads the clips of which lab model, and what it reads in one of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from skipguide.files import packaged
from skipguide.lab import judge, open_judge, world
from skipguide.method.protocols import Pipeline

Tensor = torch.Tensor


@dataclass(frozen=True)
class Reader:
    """A judge as a reader of clips.

    Args:
        name: of the folder of its packaged weights, and of the extractor of its features.
        build: returns it untrained; called, it returns logits by head and features, and more.
        load: returns the packaged one, on the CPU, in evaluation mode.
        heads: the words that each of its heads tells apart.
        named: the heads that read what a caption can name.
    """

    name: str
    build: Callable[[], nn.Module]
    load: Callable[[], nn.Module]
    heads: Mapping[str, tuple[str, ...]]
    named: tuple[str, ...]

    def read(self, frames: NDArray[np.uint8]) -> dict[str, str]:
        """Return the words of one clip that a caption could name; arguments are `logits`'."""
        found = self.logits(frames)
        return {name: self.heads[name][int(found[name].argmax())] for name in self.named}

    @torch.no_grad()
    def logits(self, frames: NDArray[np.uint8]) -> dict[str, Tensor]:
        """Return the logits `(1, words)` of each head for one clip.

        Args:
            frames: `(F, H, W, 3)` uint8 array; sizes other than 64x64 are resized, lengths other
                than 19 resampled in time.
        """
        clip = torch.as_tensor(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        wanted = (world.NUM_FRAMES, world.FRAME_SIZE, world.FRAME_SIZE)
        if clip.shape[2:] != wanted:
            clip = F.interpolate(clip, size=wanted, mode="trilinear", align_corners=False)
        return self.load()(clip)[0]


CLOSED = Reader("judge", judge.Judge, judge.load_judge, judge.HEADS, tuple(judge.HEADS))
OPEN = Reader(
    "open-judge", open_judge.OpenJudge, open_judge.load, open_judge.HEADS,
    tuple(open_judge.NAMED_HEADS),
)  # fmt: skip
READERS = {reader.name: reader for reader in (CLOSED, OPEN)}
OF_MODEL = {
    "lab-mochi": CLOSED, "lab-svd": CLOSED, "lab-opensora": CLOSED, "lab-mochi-2": OPEN,
    "lab-sd3": OPEN,
}  # fmt: skip


def reader_of(pipe: Pipeline) -> Reader | None:
    """Return the reader of the clips that a pipeline makes, None if it is of no lab model.

    It is of one if its denoiser has the configuration of a packaged one: so are the models that
    somebody trained by the same recipes.
    """
    return next((OF_MODEL[name] for name in packaged.NAMES if _is_built_like(pipe, name)), None)


def _is_built_like(pipe: Pipeline, name: str) -> bool:
    try:
        folder = packaged.packaged_path(name)
    except FileNotFoundError:  # installed without the weights
        return False
    for part in ("transformer", "unet"):
        path, model = folder / part / "config.json", getattr(pipe, part, None)
        if model is not None and path.is_file():
            wanted = json.loads(path.read_text(encoding="utf-8"))
            own = json.loads(json.dumps(dict(model.config)))
            own["_class_name"] = type(model).__name__
            names = [name for name in wanted if name == "_class_name" or name[0] != "_"]
            return all(own.get(name) == wanted[name] for name in names)
    return False


def load_weights(path: Path) -> nn.Module:
    """Load the judge whose weights are in a file, in evaluation mode; its heads say which it is.

    Raises:
        ValueError: for the weights of another network.
    """
    from safetensors.torch import load_file

    weights = load_file(path)
    heads = {name.split(".")[1] for name in weights if name.startswith("heads.")}
    reader = next((one for one in READERS.values() if heads == set(one.heads)), None)
    if reader is None:
        raise ValueError(
            f"the weights of a judge must have the heads of {' or '.join(READERS)}, but those in"
            f" {path} have {', '.join(sorted(heads)) or 'none'}. Take a file that `skipguide lab"
            " train` wrote."
        )
    network = reader.build()
    network.load_state_dict(weights)
    return network.eval()
