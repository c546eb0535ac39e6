"""Other people's features of pictures, on drawn weights: what ours must compute.

    python tests/support/references/pictures_upstream.py OUT

needs torch, torchvision and pytorch-fid (its `inception.py`), and writes `pictures.json` to the
folder OUT: of InceptionV3 the shapes of its weights, some features and their mean and deviation.
Weights and pictures are drawn from seeds by the functions here, so they are not stored; the tests
call the same functions."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

Tensor = torch.Tensor

STEP = 97  # of the features, every so many are kept
SIZE = (120, 200)  # height and width of the picture


def inception_state(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Weights of InceptionV3, drawn such that no layer's output dies out or grows."""
    generator = torch.Generator().manual_seed(5)
    return {key: _drawn(key, shapes[key], generator) for key in sorted(shapes)}


def _drawn(key: str, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    values = torch.randn(tuple(shape), generator=generator)
    if key.endswith("running_var"):
        return 1 + 0.1 * values.abs()
    if key.endswith("bn.weight"):
        return 1 + 0.1 * values
    return values * (math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0.1)


def picture() -> Tensor:
    """(3, H, W) uint8, smooth in space."""
    generator = torch.Generator().manual_seed(7)
    coarse = torch.randint(0, 256, (1, 3, 12, 20), generator=generator).float()
    return torch.nn.functional.interpolate(coarse, SIZE, mode="bilinear").round().byte()[0]


def main(out: Path) -> None:
    """Write pictures.json."""
    from pytorch_fid import inception  # pyright: ignore[reportMissingImports]

    shapes: dict[str, list[int]] = {}

    def instead(*_: object, **__: object) -> dict[str, Tensor]:
        """Return drawn weights in the place of a download."""
        drawn = inception_state(shapes)
        counters = {key: torch.tensor(0) for key in theirs if key.endswith("num_batches_tracked")}
        return {**drawn, **counters}

    network = inception._inception_v3(num_classes=1008, aux_logits=False, weights=None)
    theirs = network.state_dict()
    shapes |= {k: list(v.shape) for k, v in theirs.items() if not k.endswith("batches_tracked")}
    inception.load_state_dict_from_url = instead
    model = inception.InceptionV3().eval()
    with torch.no_grad():
        features = model(picture()[None].float() / 255)[0][0, :, 0, 0]
    found = {
        "shapes": shapes,
        "mean": features.mean().item(),
        "std": features.std().item(),
        "features": features[::STEP].tolist(),
    }
    text = json.dumps({"inception": found}, separators=(",", ":"))
    (out / "pictures.json").write_text(text.replace("],", "],\n") + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
